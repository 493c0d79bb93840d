/* batch_norm in training: first the statistics (or the two sums of the gradient) over all
 * positions, by ranges that are combined in order; then one pass over the elements. */
#include "codegen/plan_internal.h"
#include "support/simd.h"
#include <math.h>

/* ---- mean and variance ------------------------------------------------------------------------*/

/* Mean and sum of squared deviations of a range, in two passes over what is in the cache. */
QNET_SIMD_BODY void range_stats_body(const float *x, int64_t rows, int64_t channels, float *mean,
                                     float *square) {
  for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++)
      mean[c] += x[r * channels + c];
  }
  const float scale = 1 / (float)rows;
  for (int64_t c = 0; c < channels; c++)
    mean[c] *= scale;
  for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      const float e = x[r * channels + c] - mean[c];
      square[c] += e * e;
    }
  }
}
QNET_SIMD_DISPATCH(range_stats,
                   (const float *x, int64_t rows, int64_t channels, float *mean, float *square),
                   (x, rows, channels, mean, square))

static qnet_status prepare_pairs(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)p, (void)d;
  s->partial_bytes = (size_t)s->width * 2 * sizeof(float);
  return QNET_OK;
}

static void stats_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  float *mean = r->partial;
  range_stats(r->in[0], r->count, s->width, mean, mean + s->width);
}

/* Rows of range i. */
static int64_t range_rows(const qnet_plan_step *s, int64_t grain, int64_t i) {
  const int64_t rest = s->rows - i * grain;
  return rest < grain ? rest : grain;
}

static int64_t grain_of(const qnet_plan_step *s) {
  return ((const qnet_plan_group *)s->state)->grain;
}

static int64_t ranges_of(const qnet_plan_step *s) {
  return ((const qnet_plan_group *)s->state)->ranges;
}

static void finish_stats(const qnet_plan_step *s) {
  float *out_mean = (float *)s->out[0]->data, *out_var = (float *)s->out[1]->data;
  const int64_t grain = grain_of(s);
  for (int64_t c = 0; c < s->width; c++) {
    double n = 0, mean = 0, square = 0;
    for (int64_t i = 0; i < ranges_of(s); i++) {
      const float *partial = (const float *)(s->partial + s->partial_bytes * (size_t)i);
      const double m = (double)range_rows(s, grain, i), delta = (double)partial[c] - mean;
      mean += delta * m / (n + m);
      square += (double)partial[s->width + c] + delta * delta * n * m / (n + m);
      n += m;
    }
    out_mean[c] = (float)mean;
    out_var[c] = (float)(square / n);
  }
}

static qnet_status prepare_sums(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  s->state = &p->group[s->group];
  return prepare_pairs(p, s, d);
}

const qnet_plan_kernel qnet_plan_norm_stats = {
    .prepare = prepare_sums, .rows = stats_rows, .finish = finish_stats, .row_in = 1};

/* ---- y ----------------------------------------------------------------------------------------*/

/* state: float[4][channels], the factors of one pass. */
static qnet_status prepare_factors(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  s->state = qnet_plan_alloc(p, (size_t)s->width * 4 * sizeof(float));
  return s->state != NULL ? QNET_OK : qnet_out_of_memory(d);
}

static void begin_apply(const qnet_plan_step *s) {
  const float *gamma = (const float *)s->in[1]->data, *beta = (const float *)s->in[2]->data;
  const float *mean = (const float *)s->in[3]->data, *var = (const float *)s->in[4]->data;
  const double eps = qnet_op_float(s->op, "eps", 1e-5);
  float *a = s->state;
  for (int64_t c = 0; c < s->width; c++) {
    a[c] = (float)((double)gamma[c] / sqrt((double)var[c] + eps));
    a[s->width + c] = mean[c];
    a[2 * s->width + c] = beta[c];
  }
}

QNET_SIMD_BODY void normalise_body(const float *x, const float *factor, int64_t rows,
                                   int64_t channels, float *y) {
  const float *a = factor, *mean = a + channels, *beta = mean + channels;
  for (int64_t r = 0; r < rows; r++, x += channels, y += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++)
      y[c] = (x[c] - mean[c]) * a[c] + beta[c];
  }
}
QNET_SIMD_DISPATCH(normalise,
                   (const float *x, const float *factor, int64_t rows, int64_t channels, float *y),
                   (x, factor, rows, channels, y))

static void apply_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  normalise(r->in[0], s->state, r->count, s->width, r->out[0]);
}

const qnet_plan_kernel qnet_plan_norm_apply = {.prepare = prepare_factors,
                                               .begin = begin_apply,
                                               .rows = apply_rows,
                                               .row_in = 1,
                                               .row_out = 1,
                                               .overwrites = 1};

/* ---- gradient: operands x, dy, gamma, mean, var -----------------------------------------------*/

QNET_SIMD_BODY void range_grad_body(const float *x, const float *dy, const float *mean,
                                    int64_t rows, int64_t channels, float *sum, float *product) {
  for (int64_t r = 0; r < rows; r++, x += channels, dy += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      sum[c] += dy[c];
      product[c] += dy[c] * (x[c] - mean[c]);
    }
  }
}
QNET_SIMD_DISPATCH(range_grad,
                   (const float *x, const float *dy, const float *mean, int64_t rows,
                    int64_t channels, float *sum, float *product),
                   (x, dy, mean, rows, channels, sum, product))

static void grad_sum_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  float *sum = r->partial;
  range_grad(r->in[0], r->in[1], r->in[3], r->count, s->width, sum, sum + s->width);
}

static void finish_grad_sums(const qnet_plan_step *s) {
  const float *var = (const float *)s->in[4]->data;
  float *dgamma = (float *)s->out[0]->data, *dbeta = (float *)s->out[1]->data;
  const double eps = qnet_op_float(s->op, "eps", 1e-5);
  for (int64_t c = 0; c < s->width; c++) {
    double sum = 0, product = 0;
    for (int64_t i = 0; i < ranges_of(s); i++) {
      const float *partial = (const float *)(s->partial + s->partial_bytes * (size_t)i);
      sum += (double)partial[c];
      product += (double)partial[s->width + c];
    }
    dgamma[c] = (float)(product / sqrt((double)var[c] + eps));
    dbeta[c] = (float)sum;
  }
}

const qnet_plan_kernel qnet_plan_norm_grad_sums = {
    .prepare = prepare_sums, .rows = grad_sum_rows, .finish = finish_grad_sums, .row_in = 3};

/* dx = k (dy - dbeta / n - xhat dgamma / n), k = gamma / sqrt(var + eps). */
static void begin_grad(const qnet_plan_step *s) {
  const float *gamma = (const float *)s->in[2]->data, *mean = (const float *)s->in[3]->data;
  const float *var = (const float *)s->in[4]->data;
  const float *dgamma = (const float *)s->in[5]->data, *dbeta = (const float *)s->in[6]->data;
  const double eps = qnet_op_float(s->op, "eps", 1e-5), n = (double)s->rows;
  float *k = s->state, *slope = k + s->width, *center = slope + s->width,
        *shift = center + s->width;
  for (int64_t c = 0; c < s->width; c++) {
    const double r = 1 / sqrt((double)var[c] + eps), scale = (double)gamma[c] * r;
    k[c] = (float)scale;
    slope[c] = (float)(-scale * r * (double)dgamma[c] / n);
    center[c] = mean[c];
    shift[c] = (float)(-scale * (double)dbeta[c] / n);
  }
}

QNET_SIMD_BODY void grad_body(const float *x, const float *dy, const float *factor, int64_t rows,
                              int64_t channels, float *dx) {
  const float *k = factor, *slope = k + channels, *center = slope + channels,
              *shift = center + channels;
  for (int64_t r = 0; r < rows; r++, x += channels, dy += channels, dx += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++)
      dx[c] = k[c] * dy[c] + (slope[c] * (x[c] - center[c]) + shift[c]);
  }
}
QNET_SIMD_DISPATCH(grad,
                   (const float *x, const float *dy, const float *factor, int64_t rows,
                    int64_t channels, float *dx),
                   (x, dy, factor, rows, channels, dx))

static void grad_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  grad(r->in[0], r->in[1], s->state, r->count, s->width, r->out[0]);
}

const qnet_plan_kernel qnet_plan_norm_grad_apply = {.prepare = prepare_factors,
                                                    .begin = begin_grad,
                                                    .rows = grad_rows,
                                                    .row_in = 3,
                                                    .row_out = 1,
                                                    .overwrites = 3};
