/* Row kernels without state between rows: what docs/numbers.md defines element by element. They
 * serve both modes: vectorised, but each element is the one expression of the definition. */
#include "codegen/plan_fuse.h"
#include "support/simd.h"
#include <math.h>

/* ---- y = fma(x, a[c], b[c]) -------------------------------------------------------------------*/

QNET_SIMD_BODY void scale_f32_body(const float *x, const float *a, const float *b, int64_t rows,
                                   int64_t channels, float *y) {
  for (int64_t r = 0; r < rows; r++, x += channels, y += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++)
      y[c] = fmaf(x[c], a[c], b[c]);
  }
}
QNET_SIMD_DISPATCH(scale_f32,
                   (const float *x, const float *a, const float *b, int64_t rows, int64_t channels,
                    float *y),
                   (x, a, b, rows, channels, y))

QNET_SIMD_BODY void scale_i32_body(const int32_t *x, const float *a, const float *b, int64_t rows,
                                   int64_t channels, float *y) {
  for (int64_t r = 0; r < rows; r++, x += channels, y += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++)
      y[c] = fmaf((float)x[c], a[c], b[c]);
  }
}
QNET_SIMD_DISPATCH(scale_i32,
                   (const int32_t *x, const float *a, const float *b, int64_t rows,
                    int64_t channels, float *y),
                   (x, a, b, rows, channels, y))

QNET_SIMD_BODY void scale_u8_body(const uint8_t *x, const float *a, const float *b, int64_t rows,
                                  int64_t channels, float *y) {
  for (int64_t r = 0; r < rows; r++, x += channels, y += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++)
      y[c] = fmaf((float)x[c], a[c], b[c]);
  }
}
QNET_SIMD_DISPATCH(scale_u8,
                   (const uint8_t *x, const float *a, const float *b, int64_t rows,
                    int64_t channels, float *y),
                   (x, a, b, rows, channels, y))

static void scale_rows(qnet_dtype dtype, const qnet_plan_rows *r, const float *a, const float *b,
                       int64_t channels) {
  if (dtype == QNET_I32)
    scale_i32(r->in[0], a, b, r->count, channels, r->out[0]);
  else if (dtype == QNET_U8)
    scale_u8(r->in[0], a, b, r->count, channels, r->out[0]);
  else
    scale_f32(r->in[0], a, b, r->count, channels, r->out[0]);
}

static void affine_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  scale_rows(s->in[0]->type->dtype, r, r->in[1], r->in[2], s->width);
}

const qnet_plan_kernel qnet_plan_affine = {
    .rows = affine_rows, .row_in = 1, .row_out = 1, .overwrites = 1};

/* a[c], b[c] that are computed: state is float[2][channels]. */
static qnet_status prepare_factors(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  s->state = qnet_plan_alloc(p, (size_t)s->width * 2 * sizeof(float));
  return s->state != NULL ? QNET_OK : qnet_out_of_memory(d);
}

static void factor_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const float *a = s->state;
  scale_rows(s->in[0]->type->dtype, r, a, a + s->width, s->width);
}

static double channel_float(const qnet_attr *list, int64_t c) {
  return list->floats[list->count == 1 ? 0 : c];
}

static qnet_status prepare_normalize(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  QNET_TRY(prepare_factors(p, s, d));
  const qnet_attr *mean = qnet_op_attr(s->op, "mean"), *std = qnet_op_attr(s->op, "std");
  const double unit = s->in[0]->type->dtype == QNET_F32 ? 1 : 255;
  float *a = s->state, *b = a + s->width;
  for (int64_t c = 0; c < s->width; c++) {
    a[c] = (float)(1 / (unit * channel_float(std, c)));
    b[c] = (float)(-channel_float(mean, c) / channel_float(std, c));
  }
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_normalize = {
    .prepare = prepare_normalize, .rows = factor_rows, .row_in = 1, .row_out = 1, .overwrites = 1};

static void begin_batch_norm(const qnet_plan_step *s) {
  const float *gamma = (const float *)s->in[1]->data, *beta = (const float *)s->in[2]->data;
  const float *mean = (const float *)s->in[3]->data, *var = (const float *)s->in[4]->data;
  const double eps = qnet_op_float(s->op, "eps", 1e-5);
  float *a = s->state, *b = a + s->width;
  for (int64_t c = 0; c < s->width; c++) {
    const double g = (double)gamma[c] / sqrt((double)var[c] + eps);
    a[c] = (float)g;
    b[c] = (float)((double)beta[c] - (double)mean[c] * g);
  }
}

const qnet_plan_kernel qnet_plan_batch_norm = {.prepare = prepare_factors,
                                               .begin = begin_batch_norm,
                                               .rows = factor_rows,
                                               .row_in = 1,
                                               .row_out = 1,
                                               .overwrites = 1};

/* ---- relu, add --------------------------------------------------------------------------------*/

QNET_SIMD_BODY void relu_body(const float *x, int64_t n, float *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    y[i] = x[i] > 0 ? x[i] : 0;
}
QNET_SIMD_DISPATCH(relu, (const float *x, int64_t n, float *y), (x, n, y))

static void relu_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  relu(r->in[0], r->count * s->width, r->out[0]);
}

static void emit_relu(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_value *x = qnet_fuse_in(f, 0), *zero = qnet_fuse_number(f, 0);
  qnet_fuse_out(f, 0, qnet_fuse_choose(f, x, zero, x, zero));
}

const qnet_plan_kernel qnet_plan_relu = {
    .rows = relu_rows, .emit = emit_relu, .row_in = 1, .row_out = 1, .overwrites = 1};

QNET_SIMD_BODY void add_body(const float *a, const float *b, int64_t n, float *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    y[i] = a[i] + b[i];
}
QNET_SIMD_DISPATCH(add, (const float *a, const float *b, int64_t n, float *y), (a, b, n, y))

static void add_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  add(r->in[0], r->in[1], r->count * s->width, r->out[0]);
}

static void emit_add(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_value *a = qnet_fuse_in(f, 0), *b = qnet_fuse_in(f, 1);
  qnet_fuse_out(f, 0, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FADD, a, b));
}

const qnet_plan_kernel qnet_plan_add = {
    .rows = add_rows, .emit = emit_add, .row_in = 3, .row_out = 1, .overwrites = 3};

QNET_SIMD_BODY void relu_grad_body(const float *y, const float *dy, int64_t n, float *dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    dx[i] = y[i] > 0 ? dy[i] : 0;
}
QNET_SIMD_DISPATCH(relu_grad, (const float *y, const float *dy, int64_t n, float *dx),
                   (y, dy, n, dx))

static void relu_grad_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  relu_grad(r->in[0], r->in[1], r->count * s->width, r->out[0]);
}

static void emit_relu_grad(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_value *y = qnet_fuse_in(f, 0), *dy = qnet_fuse_in(f, 1), *zero = qnet_fuse_number(f, 0);
  qnet_fuse_out(f, 0, qnet_fuse_choose(f, y, zero, dy, zero));
}

const qnet_plan_kernel qnet_plan_relu_grad = {
    .rows = relu_grad_rows, .emit = emit_relu_grad, .row_in = 3, .row_out = 1, .overwrites = 3};
