/* batch_norm in training: first the statistics (or the two sums of the gradient) over all
 * positions, by ranges that are combined in order; then one pass over the elements. */
#include "codegen/plan_fuse.h"
#include "support/simd.h"
#include <math.h>

/* ---- mean and variance ------------------------------------------------------------------------*/

/* Of a range: its first row, and over all rows the sums of x - first and of (x - first)^2. The
 * first row is close enough to the mean for the variance not to be lost in the difference of the
 * sums. */
enum { SUM, SQUARE, FIRST, STATS };

QNET_SIMD_BODY void range_stats_body(const float *x, int64_t rows, int64_t channels, float *stats) {
  float *sum = stats, *square = stats + channels, *first = stats + 2 * channels;
  for (int64_t c = 0; c < channels; c++)
    first[c] = x[c];
  for (int64_t r = 0; r < rows; r++, x += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      const float e = x[c] - first[c];
      sum[c] += e;
      square[c] += e * e;
    }
  }
}
QNET_SIMD_DISPATCH(range_stats, (const float *x, int64_t rows, int64_t channels, float *stats),
                   (x, rows, channels, stats))

static void stats_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  range_stats(r->in[0], r->count, s->width, r->partial);
}

static void emit_stats(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_value *first = qnet_fuse_first_row(f, 0, FIRST);
  qnet_value *e = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FSUB, qnet_fuse_in(f, 0), first);
  qnet_fuse_sum(f, SUM, e);
  qnet_fuse_sum(f, SQUARE, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, e, e));
}

/* Rows of range i. */
static int64_t range_rows(const qnet_plan_step *s, int64_t grain, int64_t i) {
  const int64_t rest = s->rows - i * grain;
  return rest < grain ? rest : grain;
}

static const qnet_plan_group *group_of(const qnet_plan_step *s) {
  return s->state;
}

static const float *partial_of(const qnet_plan_step *s, int64_t range) {
  return (const float *)(s->partial + s->partial_bytes * (size_t)range);
}

enum { BLOCK = 16 }; /* channels that are combined at once */

/* Combines the ranges for `count` <= BLOCK channels: the mean, then the squares around it. */
static void combine_stats(const qnet_plan_step *s, int64_t channel, int64_t count, float *out_mean,
                          float *out_var) {
  const qnet_plan_group *g = group_of(s);
  double mean[BLOCK] = {0}, square[BLOCK] = {0};
  for (int64_t i = 0; i < g->ranges; i++) {
    const float *sum = partial_of(s, i) + channel, *first = sum + FIRST * s->width;
    const double rows = (double)range_rows(s, g->grain, i);
    for (int64_t c = 0; c < count; c++)
      mean[c] += (double)sum[c] + rows * (double)first[c];
  }
  for (int64_t c = 0; c < count; c++)
    mean[c] /= (double)s->rows;
  for (int64_t i = 0; i < g->ranges; i++) {
    const float *sum = partial_of(s, i) + channel, *first = sum + FIRST * s->width;
    const double rows = (double)range_rows(s, g->grain, i);
    for (int64_t c = 0; c < count; c++) {
      const double shift = (double)first[c] - mean[c];
      square[c] += (double)sum[SQUARE * s->width + c] + shift * (2 * (double)sum[c] + rows * shift);
    }
  }
  for (int64_t c = 0; c < count; c++) {
    out_mean[c] = (float)mean[c];
    out_var[c] = (float)(square[c] < 0 ? 0 : square[c] / (double)s->rows);
  }
}

static void finish_stats(const qnet_plan_step *s) {
  float *mean = (float *)s->out[0]->data, *var = (float *)s->out[1]->data;
  for (int64_t c = 0; c < s->width; c += BLOCK)
    combine_stats(s, c, s->width - c < BLOCK ? s->width - c : BLOCK, mean + c, var + c);
}

static qnet_status prepare_stats(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)d;
  s->state = &p->group[s->group];
  s->partial_bytes = (size_t)s->width * STATS * sizeof(float);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_norm_stats = {.prepare = prepare_stats,
                                               .rows = stats_rows,
                                               .emit = emit_stats,
                                               .sums = FIRST,
                                               .from_memory = true,
                                               .finish = finish_stats,
                                               .row_in = 1};

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

static void emit_apply(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_value *e =
      qnet_fuse_arithmetic(f, QNET_OP_LOOP_FSUB, qnet_fuse_in(f, 0), qnet_fuse_state(f, 1));
  qnet_value *scaled = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, e, qnet_fuse_state(f, 0));
  qnet_fuse_out(f, 0, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FADD, scaled, qnet_fuse_state(f, 2)));
}

const qnet_plan_kernel qnet_plan_norm_apply = {.prepare = prepare_factors,
                                               .begin = begin_apply,
                                               .rows = apply_rows,
                                               .emit = emit_apply,
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

static void emit_grad_sums(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_value *dy = qnet_fuse_in(f, 1);
  qnet_value *e =
      qnet_fuse_arithmetic(f, QNET_OP_LOOP_FSUB, qnet_fuse_in(f, 0), qnet_fuse_channels(f, 3));
  qnet_fuse_sum(f, 0, dy);
  qnet_fuse_sum(f, 1, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, dy, e));
}

static void combine_grad_sums(const qnet_plan_step *s, int64_t channel, int64_t count,
                              float *dgamma, float *dbeta) {
  const qnet_plan_group *g = group_of(s);
  const float *var = (const float *)s->in[4]->data + channel;
  const double eps = qnet_op_float(s->op, "eps", 1e-5);
  double sum[BLOCK] = {0}, product[BLOCK] = {0};
  for (int64_t i = 0; i < g->ranges; i++) {
    const float *partial = partial_of(s, i) + channel;
    for (int64_t c = 0; c < count; c++) {
      sum[c] += (double)partial[c];
      product[c] += (double)partial[s->width + c];
    }
  }
  for (int64_t c = 0; c < count; c++) {
    dgamma[c] = (float)(product[c] / sqrt((double)var[c] + eps));
    dbeta[c] = (float)sum[c];
  }
}

static void finish_grad_sums(const qnet_plan_step *s) {
  float *dgamma = (float *)s->out[0]->data, *dbeta = (float *)s->out[1]->data;
  for (int64_t c = 0; c < s->width; c += BLOCK)
    combine_grad_sums(s, c, s->width - c < BLOCK ? s->width - c : BLOCK, dgamma + c, dbeta + c);
}

static qnet_status prepare_grad_sums(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)d;
  s->state = &p->group[s->group];
  s->partial_bytes = (size_t)s->width * 2 * sizeof(float);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_norm_grad_sums = {.prepare = prepare_grad_sums,
                                                   .rows = grad_sum_rows,
                                                   .emit = emit_grad_sums,
                                                   .sums = 2,
                                                   .finish = finish_grad_sums,
                                                   .row_in = 3};

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

static void emit_grad(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_value *e =
      qnet_fuse_arithmetic(f, QNET_OP_LOOP_FSUB, qnet_fuse_in(f, 0), qnet_fuse_state(f, 2));
  qnet_value *tilt = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, qnet_fuse_state(f, 1), e);
  qnet_value *rest = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FADD, tilt, qnet_fuse_state(f, 3));
  qnet_value *own =
      qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, qnet_fuse_state(f, 0), qnet_fuse_in(f, 1));
  qnet_fuse_out(f, 0, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FADD, own, rest));
}

const qnet_plan_kernel qnet_plan_norm_grad_apply = {.prepare = prepare_factors,
                                                    .begin = begin_grad,
                                                    .rows = grad_rows,
                                                    .emit = emit_grad,
                                                    .row_in = 3,
                                                    .row_out = 1,
                                                    .overwrites = 3};
