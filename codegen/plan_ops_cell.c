/* What quantizers learn from beyond counts by code.
 *
 * nn.cell_grad: the gradient of a quantizer that learns by gradient. cell = #{k : x > bound_k},
 * dx = dy (slope + tilt x), and the sums of dy and of dy x by cell, from which every parameter's
 * gradient follows.
 *
 * Few cells: all elements of a range against a few bounds at once (lanes.h). Many cells, or slopes
 * that change inside a cell: each element's cell is searched. Ranges are added up in f64 and in
 * order.
 *
 * nn.channel_stats: counts and sums of x by channel and code. */
#include "codegen/lanes.h"
#include "codegen/plan_fuse.h"
#include "support/simd.h"
#include <math.h>
#include <string.h>

enum { FEW = QNET_LANE_RANKS, MAX_CELLS = 512 /* a power of two */ };

/* One table; sum[n] and sum_x[n] are added to. */
typedef struct cell_table {
  int64_t n;
  const float *bound, *slope, *tilt;
  double *sum, *sum_x;
} cell_table;

/* ---- few cells --------------------------------------------------------------------------------*/

QNET_SIMD_BODY void multiply_body(const float *dy, const float *slope, int64_t n, float *dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    dx[i] = dy[i] * slope[i];
}
QNET_SIMD_DISPATCH(multiply, (const float *dy, const float *slope, int64_t n, float *dx),
                   (dy, slope, n, dx))

static bool is_level(const cell_table *t) {
  for (int64_t k = 0; k < t->n; k++)
    if (t->tilt[k] != 0) return false;
  return true;
}

/* The same function of x by fewer cells: neighbours of equal slope become one. */
static qnet_lane_table merge_slopes(const cell_table *t, float *bound, float *slope) {
  int n = 1;
  slope[0] = t->slope[0];
  for (int64_t k = 1; k < t->n; k++) {
    if (t->slope[k] == slope[n - 1]) continue;
    bound[n - 1] = t->bound[k - 1];
    slope[n++] = t->slope[k];
  }
  return (qnet_lane_table){n, bound, slope};
}

static void few_cells(const cell_table *t, const float *x, const float *dy, int64_t n, float *dx) {
  float bound[FEW], slope[FEW], factor[QNET_PLAN_RANGE];
  const qnet_lane_table cells = {(int)t->n, t->bound, NULL};
  const qnet_lane_table slopes = merge_slopes(t, bound, slope);
  qnet_lanes_weigh(&cells, x, dy, n, t->sum, t->sum_x);
  for (int64_t at = 0; at < n; at += QNET_PLAN_RANGE) {
    const int64_t part = n - at < QNET_PLAN_RANGE ? n - at : QNET_PLAN_RANGE;
    qnet_lanes_pick(&slopes, x + at, part, factor);
    multiply(dy + at, factor, part, dx + at);
  }
}

/* ---- many cells -------------------------------------------------------------------------------*/

/* Cells by halving steps without branches: bounds beyond the last are +inf up to 2^k - 1. */
typedef struct search {
  int first_step;
  float bound[MAX_CELLS];
} search;

static void begin_search(const cell_table *t, search *s) {
  int size = 1;
  while (size < t->n)
    size *= 2;
  s->first_step = size / 2;
  for (int64_t k = 0; k < size - 1; k++)
    s->bound[k] = k < t->n - 1 ? t->bound[k] : INFINITY;
}

static int find_cell(const search *s, float x) {
  int cell = 0;
  for (int step = s->first_step; step > 0; step /= 2)
    cell += (x > s->bound[cell + step - 1]) * step;
  return cell;
}

static void many_cells(const cell_table *t, const float *x, const float *dy, int64_t n, float *dx) {
  search s;
  begin_search(t, &s);
  for (int64_t i = 0; i < n; i++) {
    const int k = find_cell(&s, x[i]);
    t->sum[k] += (double)dy[i];
    t->sum_x[k] += (double)dy[i] * (double)x[i];
    dx[i] = dy[i] * (t->slope[k] + t->tilt[k] * x[i]);
  }
}

/* dx may be dy. */
static void cell_gradients(const cell_table *t, const float *x, const float *dy, int64_t n,
                           float *dx) {
  if (t->n <= FEW && is_level(t))
    few_cells(t, x, dy, n, dx);
  else
    many_cells(t, x, dy, n, dx);
}

/* ---- one table for all rows -------------------------------------------------------------------*/

static qnet_status check_cells(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)p;
  if (s->in[2]->type->dim[1] <= MAX_CELLS) return QNET_OK;
  return qnet_error(d, s->op->loc, "a quantizer's gradient has at most %d cells", MAX_CELLS);
}

static qnet_status prepare_one_table(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  QNET_TRY(check_cells(p, s, d));
  s->state = &p->group[s->group];
  s->partial_bytes = s->out[1]->bytes + s->out[2]->bytes;
  return QNET_OK;
}

static int cell_count(const qnet_plan_step *s) {
  return (int)s->in[2]->type->dim[1];
}

/* Sums in the lanes of lanes.h: of dy above each bound, the first of which is -inf, then those of
 * dy x; or both by cell. */
static qnet_plan_bins cell_bins(const qnet_plan_step *s) {
  const int n = cell_count(s);
  if (qnet_plan_looks_up(n, s->width)) return (qnet_plan_bins){.rows = n};
  return (qnet_plan_bins){.rows = 2 * n, .in_registers = true};
}

/* Adds to the range's sums of dy and of dy x. */
static void add_cell(const qnet_plan_step *s, const qnet_plan_rows *r, int cell, double dy,
                     double dy_x) {
  ((double *)r->partial)[cell] += dy;
  ((double *)((char *)r->partial + s->out[1]->bytes))[cell] += dy_x;
}

static void collect_by_cell(const qnet_plan_step *s, const qnet_lane_pair *bins,
                            const qnet_plan_rows *r) {
  double sum[2];
  for (int k = 0; k < cell_count(s); k++) {
    qnet_lanes_add_pairs(bins + k * QNET_LANES, sum);
    add_cell(s, r, k, sum[0], sum[1]);
  }
}

static void collect_above(const qnet_plan_step *s, const float *bins, const qnet_plan_rows *r) {
  const int n = cell_count(s);
  double next[2] = {0};
  for (int k = n - 1; k >= 0; k--) {
    const double dy = qnet_lanes_add(bins + k * QNET_LANES),
                 dy_x = qnet_lanes_add(bins + (n + k) * QNET_LANES);
    add_cell(s, r, k, dy - next[0], dy_x - next[1]);
    next[0] = dy;
    next[1] = dy_x;
  }
}

static void collect_cells(const qnet_plan_step *s, const float *bins, const qnet_plan_rows *r) {
  if (cell_bins(s).in_registers)
    collect_above(s, bins, r);
  else
    collect_by_cell(s, (const qnet_lane_pair *)bins, r);
}

static void bin_cells(const qnet_plan_step *s, const cell_table *t, const qnet_plan_rows *r) {
  qnet_lane_pair bins[MAX_CELLS * QNET_LANES];
  memset(bins, 0, (size_t)(t->n * QNET_LANES) * sizeof *bins);
  const float *x = r->in[0], *dy = r->in[4];
  float *dx = r->out[0];
  const bool level = is_level(t);
  search cells;
  begin_search(t, &cells);
  for (int64_t i = 0; i < r->count * s->width; i++) {
    const int k = find_cell(&cells, x[i]);
    float *const pair = bins[k * QNET_LANES + i % QNET_LANES];
    pair[0] += dy[i];
    pair[1] += dy[i] * x[i];
    dx[i] = dy[i] * (level ? t->slope[k] : t->slope[k] + t->tilt[k] * x[i]);
  }
  collect_by_cell(s, (const qnet_lane_pair *)bins, r);
}

static void one_table_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const cell_table t = {.n = cell_count(s),
                        .bound = r->in[1],
                        .slope = r->in[2],
                        .tilt = r->in[3],
                        .sum = r->partial,
                        .sum_x = (double *)((char *)r->partial + s->out[1]->bytes)};
  if (cell_bins(s).in_registers)
    cell_gradients(&t, r->in[0], r->in[4], r->count * s->width, r->out[0]);
  else
    bin_cells(s, &t, r);
}

static void finish_one_table(const qnet_plan_step *s) {
  const qnet_plan_group *g = s->state;
  double *const sums[] = {(double *)s->out[1]->data, (double *)s->out[2]->data};
  const int64_t n = s->in[2]->type->dim[1];
  memset(sums[0], 0, s->out[1]->bytes);
  memset(sums[1], 0, s->out[2]->bytes);
  for (int64_t i = 0; i < g->ranges; i++) {
    const double *partial = (const double *)(s->partial + s->partial_bytes * (size_t)i);
    for (int64_t k = 0; k < 2 * n; k++)
      sums[k / n][k % n] += partial[k];
  }
}

/* As code, cells have no tilt: only weights learn with one, and those have no neighbours. */
static bool is_level_now(const qnet_plan_step *s) {
  return is_level(&(cell_table){.n = cell_count(s), .tilt = (const float *)s->in[3]->data});
}

static void emit_sums_above(qnet_fuse *f, int n, qnet_value *x, qnet_value *dy) {
  qnet_value *product = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, dy, x);
  qnet_value *zero = qnet_fuse_number(f, 0), *slope = qnet_fuse_element(f, 2, 0);
  qnet_value *all = qnet_fuse_number(f, -__builtin_inf());
  for (int k = 0; k < n; k++) {
    qnet_value *bound = k == 0 ? all : qnet_fuse_element(f, 1, k - 1);
    if (k > 0) slope = qnet_fuse_choose(f, x, bound, qnet_fuse_element(f, 2, k), slope);
    qnet_fuse_bin(f, k, qnet_fuse_choose(f, x, bound, dy, zero));
    qnet_fuse_bin(f, n + k, qnet_fuse_choose(f, x, bound, product, zero));
  }
  qnet_fuse_out(f, 0, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, dy, slope));
}

static void emit_lookups(qnet_fuse *f, qnet_value *x, qnet_value *dy) {
  qnet_value *cell = qnet_fuse_rank(f, x, 1);
  qnet_fuse_bin_at(f, cell, dy, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, dy, x));
  qnet_value *slope = qnet_fuse_lookup(f, 2, cell);
  qnet_fuse_out(f, 0, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, dy, slope));
}

static void emit_cell_grad(qnet_fuse *f, const qnet_plan_step *s) {
  qnet_value *x = qnet_fuse_in(f, 0), *dy = qnet_fuse_in(f, 4);
  if (cell_bins(s).in_registers)
    emit_sums_above(f, cell_count(s), x, dy);
  else
    emit_lookups(f, x, dy);
}

const qnet_plan_kernel qnet_plan_cell_grad = {.prepare = prepare_one_table,
                                              .rows = one_table_rows,
                                              .emit = emit_cell_grad,
                                              .bins = cell_bins,
                                              .collect = collect_cells,
                                              .ready = is_level_now,
                                              .finish = finish_one_table,
                                              .row_in = 17,
                                              .row_out = 1,
                                              .overwrites = 16};

/* ---- a table for each row: filters of a weight ------------------------------------------------*/

static void filter_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const int64_t n = s->in[2]->type->dim[1];
  memset(r->out[1], 0, (size_t)(r->count * n) * sizeof(double));
  memset(r->out[2], 0, (size_t)(r->count * n) * sizeof(double));
  for (int64_t i = 0; i < r->count; i++) {
    const cell_table t = {.n = n,
                          .bound = (const float *)r->in[1] + i * (n - 1),
                          .slope = (const float *)r->in[2] + i * n,
                          .tilt = (const float *)r->in[3] + i * n,
                          .sum = (double *)r->out[1] + i * n,
                          .sum_x = (double *)r->out[2] + i * n};
    cell_gradients(&t, (const float *)r->in[0] + i * s->width,
                   (const float *)r->in[4] + i * s->width, s->width,
                   (float *)r->out[0] + i * s->width);
  }
}

const qnet_plan_kernel qnet_plan_cell_grad_filters = {
    .prepare = check_cells, .rows = filter_rows, .row_in = 31, .row_out = 7};

/* ---- statistics by channel: operands x, code; results count, sum ------------------------------*/

static void channel_stats_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  double *sum = (double *)((char *)r->partial + s->out[0]->bytes);
  qnet_lanes_channel_sums(r->in[0], r->in[1], r->count, s->width, s->out[0]->type->dim[1],
                          r->partial, sum);
}

/* Sums and counts by code, for each channel. Those of few codes in registers, sums first; else a
 * row more than there are codes, for bytes that are none: nothing is known of them. */
static qnet_plan_bins channel_bins(const qnet_plan_step *s) {
  const int64_t codes = s->out[0]->type->dim[1];
  const bool few = codes <= QNET_FUSE_CODES;
  return (qnet_plan_bins){
      .rows = few ? 2 * codes : codes + 1, .by_channel = true, .in_registers = few};
}

static void collect_channels(const qnet_plan_step *s, const float *bins, const qnet_plan_rows *r) {
  const int64_t codes = s->out[0]->type->dim[1], plane = codes * s->width;
  const bool few = channel_bins(s).in_registers;
  int64_t *count = r->partial;
  double *sum = (double *)((char *)r->partial + s->out[0]->bytes);
  for (int64_t i = 0; i < plane; i++) {
    const int64_t to = i % s->width * codes + i / s->width;
    sum[to] += (double)bins[few ? i : 2 * i];
    count[to] += (int64_t)bins[few ? plane + i : 2 * i + 1];
  }
}

static void emit_channel_stats(qnet_fuse *f, const qnet_plan_step *s) {
  const int codes = (int)s->out[0]->type->dim[1];
  qnet_value *x = qnet_fuse_in(f, 0), *code = qnet_fuse_in(f, 1), *one = qnet_fuse_number(f, 1);
  if (!channel_bins(s).in_registers) {
    qnet_fuse_bin_at(f, qnet_fuse_at_most(f, code, codes), x, one);
    return;
  }
  for (int k = 0; k < codes; k++) {
    qnet_fuse_bin(f, k, qnet_fuse_where(f, code, k, x));
    qnet_fuse_bin(f, codes + k, qnet_fuse_where(f, code, k, one));
  }
}

static qnet_status prepare_channel_stats(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)d;
  s->state = &p->group[s->group];
  s->partial_bytes = s->out[0]->bytes + s->out[1]->bytes;
  return QNET_OK;
}

static void finish_channel_stats(const qnet_plan_step *s) {
  qnet_plan_finish_counts(s, s->out[0], s->out[1]);
}

const qnet_plan_kernel qnet_plan_channel_stats = {.prepare = prepare_channel_stats,
                                                  .rows = channel_stats_rows,
                                                  .emit = emit_channel_stats,
                                                  .bins = channel_bins,
                                                  .collect = collect_channels,
                                                  .finish = finish_channel_stats,
                                                  .row_in = 3};
