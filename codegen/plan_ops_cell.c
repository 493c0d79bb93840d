/* What quantizers learn from beyond counts by code.
 *
 * nn.cell_grad: the gradient of a quantizer that learns by gradient. cell = #{k : x > bound_k},
 * dx = dy (slope + tilt x), and the sums of dy and of dy x by cell, from which every parameter's
 * gradient follows.
 *
 * Few cells: all elements of a range against a few bounds at once (lanes.h). Many cells, or slopes
 * that change inside a cell: each element's cell is searched. Ranges are added up in f64 and in
 * order. */
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
  for (int64_t at = 0; at < n; at += QNET_PLAN_RANGE) {
    const int64_t part = n - at < QNET_PLAN_RANGE ? n - at : QNET_PLAN_RANGE;
    qnet_lanes_weigh(&cells, x + at, dy + at, part, t->sum, t->sum_x);
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

static void one_table_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const cell_table t = {.n = s->in[2]->type->dim[1],
                        .bound = r->in[1],
                        .slope = r->in[2],
                        .tilt = r->in[3],
                        .sum = r->partial,
                        .sum_x = (double *)((char *)r->partial + s->out[1]->bytes)};
  cell_gradients(&t, r->in[0], r->in[4], r->count * s->width, r->out[0]);
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

static int cell_count(const qnet_plan_step *s) {
  return (int)s->in[2]->type->dim[1];
}

/* As code: few cells, in each of which the slope is level. */
static bool has_few_cells(const qnet_plan_step *s) {
  return cell_count(s) <= QNET_FUSE_RANKS;
}

static bool is_level_now(const qnet_plan_step *s) {
  return is_level(&(cell_table){.n = cell_count(s), .tilt = (const float *)s->in[3]->data});
}

/* Sums of dy above each bound, the first is -inf; then those of dy x. */
static int cell_lane_sums(const qnet_plan_step *s) {
  return 2 * cell_count(s);
}

static void emit_cell_grad(qnet_fuse *f, const qnet_plan_step *s) {
  const int n = cell_count(s);
  qnet_value *x = qnet_fuse_in(f, 0), *dy = qnet_fuse_in(f, 4), *zero = qnet_fuse_number(f, 0);
  qnet_value *product = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, dy, x);
  qnet_value *slope = qnet_fuse_element(f, 2, 0);
  for (int k = 0; k < n; k++) {
    qnet_value *bound =
        k == 0 ? qnet_fuse_number(f, -__builtin_inf()) : qnet_fuse_element(f, 1, k - 1);
    if (k > 0) slope = qnet_fuse_choose(f, x, bound, qnet_fuse_element(f, 2, k), slope);
    qnet_fuse_lane_sum(f, k, qnet_fuse_choose(f, x, bound, dy, zero));
    qnet_fuse_lane_sum(f, n + k, qnet_fuse_choose(f, x, bound, product, zero));
  }
  qnet_fuse_out(f, 0, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, dy, slope));
}

static void collect_cells(const qnet_plan_step *s, const float *lanes, const qnet_plan_rows *r) {
  const int n = cell_count(s);
  for (int half = 0; half < 2; half++) {
    double *sum = (double *)((char *)r->partial + (half == 0 ? 0 : s->out[1]->bytes));
    const float *of = lanes + half * n * QNET_LANES;
    for (int k = 0; k < n; k++)
      sum[k] += qnet_lanes_add(of + k * QNET_LANES) -
                (k == n - 1 ? 0 : qnet_lanes_add(of + (k + 1) * QNET_LANES));
  }
}

const qnet_plan_kernel qnet_plan_cell_grad = {.prepare = prepare_one_table,
                                              .rows = one_table_rows,
                                              .emit = emit_cell_grad,
                                              .lane_sums = cell_lane_sums,
                                              .collect = collect_cells,
                                              .can_emit = has_few_cells,
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
                                                  .finish = finish_channel_stats,
                                                  .row_in = 3};
