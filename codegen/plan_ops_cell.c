/* What quantizers learn from beyond counts by code.
 *
 * nn.cell_grad: the gradient of a quantizer that learns by gradient. cell = #{k : x > bound_k},
 * dx = dy (slope + tilt x), and the sums of dy and of dy x by cell, from which every parameter's
 * gradient follows.
 *
 * Few cells: one pass a bound over a range in the cache, all elements at once; sums above each
 * bound are taken in fixed lanes, cells are differences. Many cells: each element's cell is
 * searched. Sums of a range are f32 lanes, ranges are added up in f64 and in order.
 *
 * nn.code_stats channel by channel: code by code, all channels of a row at once. */
#include "codegen/plan_internal.h"
#include "support/simd.h"
#include <string.h>

enum { FEW = 32, LANES = 16 };

/* One table; sum[n] and sum_x[n] are added to. */
typedef struct cell_table {
  int64_t n;
  const float *bound, *slope, *tilt;
  double *sum, *sum_x;
} cell_table;

/* ---- few cells --------------------------------------------------------------------------------*/

QNET_SIMD_BODY void fill_above_body(const float *x, int64_t n, float bound, float value, float *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    y[i] = x[i] > bound ? value : y[i];
}
QNET_SIMD_DISPATCH(fill_above, (const float *x, int64_t n, float bound, float value, float *y),
                   (x, n, bound, value, y))

QNET_SIMD_BODY void sums_above_body(const float *x, const float *dy, int64_t n, float bound,
                                    double *sum, double *sum_x) {
  float lane[LANES] = {0}, lane_x[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
      const float g = x[i + j] > bound ? dy[i + j] : 0;
      lane[j] += g;
      lane_x[j] += g * x[i + j];
    }
  }
  for (int j = 0; i < n; i++, j++) {
    const float g = x[i] > bound ? dy[i] : 0;
    lane[j] += g;
    lane_x[j] += g * x[i];
  }
  *sum = *sum_x = 0;
  for (int j = 0; j < LANES; j++) {
    *sum += (double)lane[j];
    *sum_x += (double)lane_x[j];
  }
}
QNET_SIMD_DISPATCH(sums_above,
                   (const float *x, const float *dy, int64_t n, float bound, double *sum,
                    double *sum_x),
                   (x, dy, n, bound, sum, sum_x))

QNET_SIMD_BODY void multiply_body(const float *dy, const float *slope, int64_t n, float *dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    dx[i] = dy[i] * slope[i];
}
QNET_SIMD_DISPATCH(multiply, (const float *dy, const float *slope, int64_t n, float *dx),
                   (dy, slope, n, dx))

static void few_sums(const cell_table *t, const float *x, const float *dy, int64_t n) {
  double above, above_x, next, next_x;
  sums_above(x, dy, n, -__builtin_inff(), &above, &above_x);
  for (int64_t k = 0; k + 1 < t->n; k++) {
    sums_above(x, dy, n, t->bound[k], &next, &next_x);
    t->sum[k] += above - next;
    t->sum_x[k] += above_x - next_x;
    above = next, above_x = next_x;
  }
  t->sum[t->n - 1] += above;
  t->sum_x[t->n - 1] += above_x;
}

static bool is_level(const cell_table *t) {
  for (int64_t k = 0; k < t->n; k++)
    if (t->tilt[k] != 0) return false;
  return true;
}

/* n <= QNET_PLAN_RANGE. Without tilt a pass is needed only where the slope changes. */
static void few_gradients(const cell_table *t, const float *x, const float *dy, int64_t n,
                          float *dx) {
  float slope[QNET_PLAN_RANGE];
  for (int64_t i = 0; i < n; i++)
    slope[i] = t->slope[0];
  for (int64_t k = 0; k + 1 < t->n; k++)
    if (t->slope[k] != t->slope[k + 1]) fill_above(x, n, t->bound[k], t->slope[k + 1], slope);
  multiply(dy, slope, n, dx);
}

/* ---- many cells -------------------------------------------------------------------------------*/

static int64_t find_cell(const cell_table *t, float x) {
  int64_t low = 0, high = t->n - 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (x > t->bound[middle])
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static void many_cells(const cell_table *t, const float *x, const float *dy, int64_t n, float *dx) {
  for (int64_t i = 0; i < n; i++) {
    const int64_t k = find_cell(t, x[i]);
    t->sum[k] += (double)dy[i];
    t->sum_x[k] += (double)dy[i] * (double)x[i];
    dx[i] = dy[i] * (t->slope[k] + t->tilt[k] * x[i]);
  }
}

/* dx may be dy. */
static void cell_gradients(const cell_table *t, const float *x, const float *dy, int64_t n,
                           float *dx) {
  if (t->n > FEW || !is_level(t)) {
    many_cells(t, x, dy, n, dx);
    return;
  }
  for (int64_t at = 0; at < n; at += QNET_PLAN_RANGE) {
    const int64_t part = n - at < QNET_PLAN_RANGE ? n - at : QNET_PLAN_RANGE;
    few_sums(t, x + at, dy + at, part);
    few_gradients(t, x + at, dy + at, part, dx + at);
  }
}

/* ---- one table for all rows -------------------------------------------------------------------*/

static qnet_status prepare_one_table(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)d;
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

const qnet_plan_kernel qnet_plan_cell_grad = {.prepare = prepare_one_table,
                                              .rows = one_table_rows,
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
    .rows = filter_rows, .row_in = 31, .row_out = 7};

/* ---- statistics by channel: operands x, code; results count, sum ------------------------------*/

/* What has the code in rows of `stride` channels, for the first `width` <= LANES of them. */
QNET_SIMD_BODY void channel_sums_body(const float *x, const uint8_t *code, int64_t rows,
                                      int64_t stride, int width, int wanted, int32_t *count,
                                      float *sum) {
  for (int64_t r = 0; r < rows; r++, x += stride, code += stride) {
#pragma omp simd
    for (int c = 0; c < width; c++) {
      const bool hit = code[c] == wanted;
      count[c] += hit;
      sum[c] += hit ? x[c] : 0;
    }
  }
}
QNET_SIMD_DISPATCH(channel_sums,
                   (const float *x, const uint8_t *code, int64_t rows, int64_t stride, int width,
                    int wanted, int32_t *count, float *sum),
                   (x, code, rows, stride, width, wanted, count, sum))

static void channel_stats_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const int64_t codes = s->out[0]->type->dim[1];
  int64_t *count = r->partial;
  double *sum = (double *)((char *)r->partial + s->out[0]->bytes);
  for (int64_t c = 0; c < s->width; c += LANES) {
    const int width = s->width - c < LANES ? (int)(s->width - c) : LANES;
    for (int k = 0; k < codes; k++) {
      int32_t counts[LANES] = {0};
      float sums[LANES] = {0};
      channel_sums((const float *)r->in[0] + c, (const uint8_t *)r->in[1] + c, r->count, s->width,
                   width, k, counts, sums);
      for (int j = 0; j < width; j++) {
        count[(c + j) * codes + k] = counts[j];
        sum[(c + j) * codes + k] = (double)sums[j];
      }
    }
  }
}

static qnet_status prepare_channel_stats(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)d;
  s->state = &p->group[s->group];
  s->partial_bytes = s->out[0]->bytes + s->out[1]->bytes;
  return QNET_OK;
}

static void finish_channel_stats(const qnet_plan_step *s) {
  const qnet_plan_group *g = s->state;
  int64_t *count = (int64_t *)s->out[0]->data;
  double *sum = (double *)s->out[1]->data;
  const int64_t n = qnet_type_elements(s->out[0]->type);
  memset(count, 0, s->out[0]->bytes);
  memset(sum, 0, s->out[1]->bytes);
  for (int64_t i = 0; i < g->ranges; i++) {
    const char *partial = s->partial + s->partial_bytes * (size_t)i;
    for (int64_t k = 0; k < n; k++) {
      count[k] += ((const int64_t *)partial)[k];
      sum[k] += ((const double *)(partial + s->out[0]->bytes))[k];
    }
  }
}

const qnet_plan_kernel qnet_plan_channel_stats = {.prepare = prepare_channel_stats,
                                                  .rows = channel_stats_rows,
                                                  .finish = finish_channel_stats,
                                                  .row_in = 3};
