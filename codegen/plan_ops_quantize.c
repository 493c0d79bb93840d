/* Quantizers: rank = #{k : x > t_k}, value = level[rank], code = perm[rank], and in the same pass
 * the count and the sum of x by code, from which the quantizer learns.
 *
 * Few levels: all elements of a range against a few thresholds at once (lanes.h). Many levels: the
 * rank is searched. */
#include "codegen/lanes.h"
#include "codegen/plan_fuse.h"
#include "support/simd.h"
#include <string.h>

enum { FEW = QNET_LANE_RANKS, MAX_LEVELS = 256 };

typedef struct decision {
  int n; /* levels */
  const float *threshold, *level;
  const uint8_t *perm;
} decision;

/* ---- few levels -------------------------------------------------------------------------------*/

/* Raises to `code` what lies above the threshold. */
QNET_SIMD_BODY void raise_codes_body(const float *x, int64_t n, float threshold, uint8_t code,
                                     uint8_t *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    y[i] = x[i] > threshold ? code : y[i];
}
QNET_SIMD_DISPATCH(raise_codes,
                   (const float *x, int64_t n, float threshold, uint8_t code, uint8_t *y),
                   (x, n, threshold, code, y))

static qnet_lane_table lanes_of(const decision *t) {
  return (qnet_lane_table){t->n, t->threshold, t->level};
}

static void few_codes(const decision *t, const float *x, int64_t n, uint8_t *code) {
  memset(code, t->perm[0], (size_t)n);
  for (int k = 0; k + 1 < t->n; k++)
    raise_codes(x, n, t->threshold[k], t->perm[k + 1], code);
}

/* Adds to count and sum by code. */
static void few_values_and_stats(const decision *t, const float *x, int64_t n, float *y,
                                 int64_t *count, double *sum) {
  const qnet_lane_table lanes = lanes_of(t);
  int64_t counts[FEW] = {0};
  double sums[FEW] = {0};
  qnet_lanes_pick_and_sum(&lanes, x, n, y, counts, sums);
  for (int k = 0; k < t->n; k++) {
    count[t->perm[k]] += counts[k];
    sum[t->perm[k]] += sums[k];
  }
}

/* ---- many levels ------------------------------------------------------------------------------*/

/* Ranks per unit of x if the thresholds were equally far apart. */
static float rank_density(const decision *t) {
  const float width = t->n > 2 ? t->threshold[t->n - 2] - t->threshold[0] : 0;
  const float density = width > 0 ? (float)(t->n - 2) / width : 0;
  return density < 1e30f ? density : 0;
}

static int find_rank(const decision *t, float density, float x) {
  const float guess = (x - t->threshold[0]) * density + 1;
  const int top = t->n - 1;
  int rank = guess > 0 ? guess < (float)top ? (int)guess : top : 0;
  while (rank < top && x > t->threshold[rank])
    rank++;
  while (rank > 0 && !(x > t->threshold[rank - 1]))
    rank--;
  return rank;
}

/* The rank is guessed from equal spacing and corrected by comparison, so that any table gives the
 * defined one. y, code, count may be NULL; count only with y. */
static void many_levels(const decision *t, const float *x, int64_t n, float *y, uint8_t *code,
                        int64_t *count, double *sum) {
  const float density = rank_density(t);
  for (int64_t i = 0; i < n; i++) {
    const int rank = find_rank(t, density, x[i]);
    if (y != NULL) y[i] = t->level[rank];
    if (code != NULL) code[i] = t->perm[rank];
    if (count == NULL) continue;
    count[t->perm[rank]]++;
    sum[t->perm[rank]] += (double)x[i];
  }
}

static void quantize(const decision *t, const float *x, int64_t n, float *y, uint8_t *code,
                     int64_t *count, double *sum) {
  if (t->n > FEW) {
    many_levels(t, x, n, y, code, count, sum);
    return;
  }
  const qnet_lane_table lanes = lanes_of(t);
  if (count != NULL)
    few_values_and_stats(t, x, n, y, count, sum);
  else if (y != NULL)
    qnet_lanes_pick(&lanes, x, n, y);
  if (code != NULL) few_codes(t, x, n, code);
}

/* ---- nn.quantize: operands x, threshold, level, perm; results y, code, count, sum -------------*/

static qnet_status prepare_quantize(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)p, (void)d;
  if (s->in[2]->type->dim[1] > MAX_LEVELS)
    return qnet_error(d, s->op->loc, "a quantizer has at most %d levels", MAX_LEVELS);
  if (s->out_count > 2) s->partial_bytes = s->out[2]->bytes + s->out[3]->bytes;
  return QNET_OK;
}

static int level_count(const qnet_plan_step *s) {
  return (int)s->in[2]->type->dim[1];
}

/* Sums in the lanes of lanes.h. Those above each threshold, the first of which is -inf, then counts
 * but of the first; or the sum and the count by rank. */
static qnet_plan_bins quantize_bins(const qnet_plan_step *s) {
  const int n = level_count(s);
  if (s->out_count <= 2) return (qnet_plan_bins){0};
  if (qnet_plan_looks_up(n, s->width)) return (qnet_plan_bins){.rows = n};
  return (qnet_plan_bins){.rows = 2 * n - 1, .in_registers = true};
}

/* Adds to the range's counts and sums by code. */
static void add_rank(const qnet_plan_step *s, const qnet_plan_rows *r, int rank, int64_t counted,
                     double total) {
  const uint8_t code = ((const uint8_t *)s->in[3]->data)[rank];
  ((int64_t *)r->partial)[code] += counted;
  ((double *)((char *)r->partial + s->out[2]->bytes))[code] += total;
}

static void collect_by_rank(const qnet_plan_step *s, const qnet_lane_pair *bins,
                            const qnet_plan_rows *r) {
  double sum[2];
  for (int k = 0; k < level_count(s); k++) {
    qnet_lanes_add_pairs(bins + k * QNET_LANES, sum);
    add_rank(s, r, k, (int64_t)sum[1], sum[0]);
  }
}

static void collect_above(const qnet_plan_step *s, const float *bins, const qnet_plan_rows *r) {
  const int n = level_count(s);
  int64_t above = r->count * s->width;
  double total = qnet_lanes_add(bins);
  for (int k = 0; k < n; k++) {
    const bool last = k == n - 1;
    const double next = last ? 0 : qnet_lanes_add(bins + (k + 1) * QNET_LANES);
    const int64_t counted = last ? 0 : (int64_t)qnet_lanes_add(bins + (n + k) * QNET_LANES);
    add_rank(s, r, k, above - counted, total - next);
    above = counted;
    total = next;
  }
}

static void collect_stats(const qnet_plan_step *s, const float *bins, const qnet_plan_rows *r) {
  if (quantize_bins(s).in_registers)
    collect_above(s, bins, r);
  else
    collect_by_rank(s, (const qnet_lane_pair *)bins, r);
}

static void bin_values(const qnet_plan_step *s, const decision *t, const qnet_plan_rows *r) {
  qnet_lane_pair bins[MAX_LEVELS * QNET_LANES];
  memset(bins, 0, (size_t)(t->n * QNET_LANES) * sizeof *bins);
  const float *x = r->in[0], density = rank_density(t);
  float *y = r->out[0];
  uint8_t *code = r->out[1];
  for (int64_t i = 0; i < r->count * s->width; i++) {
    const int rank = find_rank(t, density, x[i]);
    float *const pair = bins[rank * QNET_LANES + i % QNET_LANES];
    y[i] = t->level[rank];
    if (code != NULL) code[i] = t->perm[rank];
    pair[0] += x[i];
    pair[1]++;
  }
  collect_by_rank(s, bins, r);
}

/* One table for all rows. */
static void quantize_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const decision t = {level_count(s), r->in[1], r->in[2], r->in[3]};
  const qnet_plan_bins bins = quantize_bins(s);
  if (bins.rows > 0 && !bins.in_registers) {
    bin_values(s, &t, r);
    return;
  }
  int64_t *count = r->partial;
  double *sum = count != NULL ? (double *)((char *)r->partial + s->out[2]->bytes) : NULL;
  quantize(&t, r->in[0], r->count * s->width, r->out[0], r->out[1], count, sum);
}

static void finish_quantize(const qnet_plan_step *s) {
  if (s->partial != NULL) qnet_plan_finish_counts(s, s->out[2], s->out[3]);
}

static qnet_status prepare_one_table(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  s->state = &p->group[s->group];
  return prepare_quantize(p, s, d);
}

/* Value by value. */
static void emit_choices(qnet_fuse *f, const qnet_plan_step *s, qnet_value *x) {
  const int n = level_count(s);
  qnet_value *y = qnet_fuse_element(f, 2, 0);
  qnet_value *code = s->out[1] != NULL ? qnet_fuse_element(f, 3, 0) : NULL;
  for (int k = 1; k < n; k++) {
    qnet_value *bound = qnet_fuse_element(f, 1, k - 1);
    y = qnet_fuse_choose(f, x, bound, qnet_fuse_element(f, 2, k), y);
    if (code != NULL) code = qnet_fuse_choose(f, x, bound, qnet_fuse_element(f, 3, k), code);
  }
  qnet_fuse_out(f, 0, y);
  if (code != NULL) qnet_fuse_out(f, 1, code);
}

static void emit_sums_above(qnet_fuse *f, const qnet_plan_step *s, qnet_value *x) {
  const int n = level_count(s);
  qnet_value *zero = qnet_fuse_number(f, 0), *one = qnet_fuse_number(f, 1);
  qnet_value *all = qnet_fuse_number(f, -__builtin_inf());
  for (int k = 0; k < n; k++) {
    qnet_value *bound = k == 0 ? all : qnet_fuse_element(f, 1, k - 1);
    qnet_fuse_bin(f, k, qnet_fuse_choose(f, x, bound, x, zero));
    if (k > 0) qnet_fuse_bin(f, n + k - 1, qnet_fuse_choose(f, x, bound, one, zero));
  }
}

static void emit_lookups(qnet_fuse *f, const qnet_plan_step *s, qnet_value *x, bool sums) {
  qnet_value *rank = qnet_fuse_rank(f, x, 1);
  qnet_fuse_out(f, 0, qnet_fuse_lookup(f, 2, rank));
  if (s->out[1] != NULL) qnet_fuse_out(f, 1, qnet_fuse_lookup(f, 3, rank));
  if (!sums) return;
  qnet_fuse_bin_at(f, rank, x, qnet_fuse_number(f, 1));
}

static void emit_quantize(qnet_fuse *f, const qnet_plan_step *s) {
  const qnet_plan_bins bins = quantize_bins(s);
  const bool looks_up = bins.rows > 0 && !bins.in_registers;
  qnet_value *x = qnet_fuse_in(f, 0);
  if (looks_up || level_count(s) > QNET_FUSE_CHOICES)
    emit_lookups(f, s, x, looks_up);
  else
    emit_choices(f, s, x);
  if (bins.in_registers) emit_sums_above(f, s, x);
}

const qnet_plan_kernel qnet_plan_quantize = {.prepare = prepare_one_table,
                                             .rows = quantize_rows,
                                             .emit = emit_quantize,
                                             .bins = quantize_bins,
                                             .collect = collect_stats,
                                             .finish = finish_quantize,
                                             .row_in = 1,
                                             .row_out = 3};

/* A table for each row: filters of a weight. The statistics are rows too. */
static void quantize_filters(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const int n = (int)s->in[2]->type->dim[1];
  const int64_t codes = s->out_count > 2 ? s->out[2]->type->dim[1] : 0;
  for (int64_t i = 0; i < r->count; i++) {
    const decision t = {n, (const float *)r->in[1] + i * (n - 1), (const float *)r->in[2] + i * n,
                        (const uint8_t *)r->in[3] + i * n};
    uint8_t *code = r->out[1] != NULL ? (uint8_t *)r->out[1] + i * s->width : NULL;
    int64_t *count = codes > 0 ? (int64_t *)r->out[2] + i * codes : NULL;
    double *sum = codes > 0 ? (double *)r->out[3] + i * codes : NULL;
    if (codes > 0) {
      memset(count, 0, (size_t)codes * sizeof *count);
      memset(sum, 0, (size_t)codes * sizeof *sum);
    }
    quantize(&t, (const float *)r->in[0] + i * s->width, s->width,
             (float *)r->out[0] + i * s->width, code, count, sum);
  }
}

const qnet_plan_kernel qnet_plan_quantize_filters = {
    .rows = quantize_filters, .row_in = 15, .row_out = 15};

/* ---- gradient: operands x, level, dy ----------------------------------------------------------*/

QNET_SIMD_BODY void mask_body(const float *x, const float *dy, int64_t n, float low, float high,
                              float *dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    dx[i] = x[i] > high || x[i] < low ? 0 : dy[i];
}
QNET_SIMD_DISPATCH(mask,
                   (const float *x, const float *dy, int64_t n, float low, float high, float *dx),
                   (x, dy, n, low, high, dx))

static void quantize_grad_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const float *level = r->in[1];
  const char *kind = qnet_op_string(s->op, "mask");
  const bool inside = kind != NULL && strcmp(kind, "inside") == 0;
  const bool below = inside || (kind != NULL && strcmp(kind, "below_max") == 0);
  const float low = inside ? level[0] : -__builtin_inff();
  const float high = below ? level[s->in[1]->type->dim[1] - 1] : __builtin_inff();
  mask(r->in[0], r->in[2], r->count * s->width, low, high, r->out[0]);
}

static void emit_quantize_grad(qnet_fuse *f, const qnet_plan_step *s) {
  const char *kind = qnet_op_string(s->op, "mask");
  const bool inside = kind != NULL && strcmp(kind, "inside") == 0;
  const bool below = inside || (kind != NULL && strcmp(kind, "below_max") == 0);
  qnet_value *x = qnet_fuse_in(f, 0), *dx = qnet_fuse_in(f, 2), *zero = qnet_fuse_number(f, 0);
  const int64_t top = s->in[1]->type->dim[1] - 1;
  if (below) dx = qnet_fuse_choose(f, x, qnet_fuse_element(f, 1, top), zero, dx);
  if (inside) dx = qnet_fuse_choose(f, qnet_fuse_element(f, 1, 0), x, zero, dx);
  qnet_fuse_out(f, 0, dx);
}

const qnet_plan_kernel qnet_plan_quantize_grad = {.rows = quantize_grad_rows,
                                                  .emit = emit_quantize_grad,
                                                  .row_in = 5,
                                                  .row_out = 1,
                                                  .overwrites = 5};

/* ---- quant.quantize, quant.round: x -> codes, or values, of a frozen table --------------------*/

static qnet_status prepare_codes(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  const qnet_symbol *symbol = qnet_op_symbol(p->module, s->op, "table");
  if (symbol == NULL || symbol->table == NULL || symbol->table->threshold == NULL)
    return qnet_error(d, s->op->loc, "%s names no table with thresholds",
                      qnet_op_def_of(s->op->opcode)->name);
  s->state = symbol->table;
  return QNET_OK;
}

static void code_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const qnet_table *table = s->state;
  const decision t = {table->codes, table->threshold, NULL, table->perm};
  quantize(&t, r->in[0], r->count * s->width, NULL, r->out[0], NULL, NULL);
}

const qnet_plan_kernel qnet_plan_quantize_codes = {
    .prepare = prepare_codes, .rows = code_rows, .row_in = 1, .row_out = 1};

static void round_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const qnet_table *table = s->state;
  float value[MAX_LEVELS];
  for (int rank = 0; rank < table->codes; rank++)
    value[rank] = qnet_table_value(table, rank);
  const decision t = {table->codes, table->threshold, value, table->perm};
  quantize(&t, r->in[0], r->count * s->width, r->out[0], NULL, NULL, NULL);
}

const qnet_plan_kernel qnet_plan_round = {
    .prepare = prepare_codes, .rows = round_rows, .row_in = 1, .row_out = 1};
