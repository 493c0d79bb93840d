/* Reference kernels of the nn level's forward operations: what docs/numbers.md says, one plain loop
 * an operation. Products that the page calls fma are fmaf; every sum runs in the page's order. */
#include "ir/interp_internal.h"

#include <math.h>
#include <string.h>

typedef struct floats {
  const float *in[5];
  float *out;
  int64_t count, channels;
} floats;

/* Creates result 0 (f32) and looks up the f32 data of the operands. */
static qnet_status begin(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                         qnet_blob **out, floats *f) {
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  *f = (floats){.out = out[0]->data,
                .count = qnet_type_elements(op->result[0].type),
                .channels = qnet_interp_nhwc(op->result[0].type).c};
  for (int i = 0; i < op->operand_count && i < 5; i++)
    f->in[i] = in[i]->data;
  return QNET_OK;
}

/* ---- elementwise ---------------------------------------------------------------------------- */

static qnet_status normalize(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                             qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  const qnet_attr *mean = qnet_op_attr(op, "mean"), *std = qnet_op_attr(op, "std");
  const bool bytes = op->operand[0]->type->dtype != QNET_F32;
  const uint8_t *pixel = in[0]->data;
  for (int64_t c = 0; c < f.channels; c++) {
    const double deviation = std->floats[c];
    const float a = (float)(1.0 / (bytes ? 255.0 * deviation : deviation));
    const float b = (float)(-mean->floats[c] / deviation);
    for (int64_t i = c; i < f.count; i += f.channels)
      f.out[i] = fmaf(bytes ? (float)pixel[i] : f.in[0][i], a, b);
  }
  return QNET_OK;
}

static qnet_status relu(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                        qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  for (int64_t i = 0; i < f.count; i++)
    f.out[i] = f.in[0][i] > 0.0f ? f.in[0][i] : 0.0f;
  return QNET_OK;
}

static qnet_status add(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                       qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  for (int64_t i = 0; i < f.count; i++)
    f.out[i] = f.in[0][i] + f.in[1][i];
  return QNET_OK;
}

static qnet_status batch_norm(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                              qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  const float *gamma = f.in[1], *beta = f.in[2], *mean = f.in[3], *var = f.in[4];
  const double eps = qnet_op_float(op, "eps", 1e-5);
  for (int64_t c = 0; c < f.channels; c++) {
    const double g = (double)gamma[c] / sqrt((double)var[c] + eps);
    const float a = (float)g;
    const float b = (float)((double)beta[c] + (0.0 - (double)mean[c]) * g);
    for (int64_t i = c; i < f.count; i += f.channels)
      f.out[i] = fmaf(f.in[0][i], a, b);
  }
  return QNET_OK;
}

/* ---- convolution and dense ------------------------------------------------------------------ */

/* acc[o] = fma(x[k], w[k][o], acc[o]) in ascending k: vectors run over outputs, so the order of
 * each output is the definition's. */
QNET_SIMD_BODY void accumulate_body(const float *restrict x, const float *restrict w, int64_t taps,
                                    int64_t outputs, float *restrict acc) {
  for (int64_t k = 0; k < taps; k++)
    for (int64_t o = 0; o < outputs; o++)
      acc[o] = fmaf(x[k], w[k * outputs + o], acc[o]);
}
QNET_SIMD_DISPATCH(accumulate,
                   (const float *restrict x, const float *restrict w, int64_t taps, int64_t outputs,
                    float *restrict acc),
                   (x, w, taps, outputs, acc))

/* w[O][K] as w[K][O]; NULL when out of memory. */
static float *transpose(qnet_arena *scratch, const float *w, int64_t outputs, int64_t taps) {
  float *t = qnet_arena_array(scratch, (size_t)(outputs * taps), sizeof(float));
  if (t == NULL) return NULL;
  for (int64_t k = 0; k < taps; k++)
    for (int64_t o = 0; o < outputs; o++)
      t[k * outputs + o] = w[o * taps + k];
  return t;
}

/* Adds the bias last. acc has been zeroed (+0). */
static void outputs_of(const float *x, const float *w, const float *bias, int64_t taps,
                       int64_t outputs, float *acc) {
  accumulate(x, w, taps, outputs, acc);
  if (bias == NULL) return;
  for (int64_t o = 0; o < outputs; o++)
    acc[o] += bias[o];
}

static void conv2d_positions(const qnet_sliding *s, const float *x, const float *w,
                             const float *bias, int64_t outputs, float *patch, float *y) {
  const int64_t taps = s->k.kernel_h * s->k.kernel_w * s->x.c;
  for (int64_t n = 0; n < s->x.n; n++)
    for (int64_t oh = 0; oh < s->oh; oh++)
      for (int64_t ow = 0; ow < s->ow; ow++, y += outputs) {
        qnet_interp_patch(s, x, sizeof *x, n, oh, ow, patch);
        outputs_of(patch, w, bias, taps, outputs, y);
      }
}

static qnet_status conv2d(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                          qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  const qnet_sliding s = qnet_interp_sliding(op, op->operand[0]->type);
  const int64_t taps = s.k.kernel_h * s.k.kernel_w * s.x.c;
  qnet_arena scratch;
  qnet_arena_init(&scratch, m->allocator);
  const float *w = transpose(&scratch, f.in[1], f.channels, taps);
  float *patch = qnet_arena_array(&scratch, (size_t)taps, sizeof(float));
  const bool ready = w != NULL && patch != NULL;
  if (ready) conv2d_positions(&s, f.in[0], w, f.in[2], f.channels, patch, f.out);
  qnet_arena_clear(&scratch);
  return ready ? QNET_OK : QNET_NO_MEMORY;
}

static qnet_status dense(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                         qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  const qnet_nhwc x = qnet_interp_nhwc(op->operand[0]->type);
  qnet_arena scratch;
  qnet_arena_init(&scratch, m->allocator);
  const float *w = transpose(&scratch, f.in[1], f.channels, x.c);
  if (w != NULL)
    for (int64_t n = 0; n < x.n; n++)
      outputs_of(f.in[0] + n * x.c, w, f.in[2], x.c, f.channels, f.out + n * f.channels);
  qnet_arena_clear(&scratch);
  return w != NULL ? QNET_OK : QNET_NO_MEMORY;
}

/* ---- pools ---------------------------------------------------------------------------------- */

/* One channel's window: visits the real positions in ascending (h, w). */
static float window_max(const qnet_sliding *s, const float *image, qnet_taps th, qnet_taps tw) {
  float max = -INFINITY;
  for (int64_t kh = th.begin; kh < th.end; kh++)
    for (int64_t kw = tw.begin; kw < tw.end; kw++) {
      const float x =
          image[((th.first + kh * s->k.dilation_h) * s->x.w + tw.first + kw * s->k.dilation_w) *
                s->x.c];
      if (x > max) max = x;
    }
  return max;
}

static float window_average(const qnet_sliding *s, const float *image, qnet_taps th, qnet_taps tw) {
  float sum = 0.0f;
  for (int64_t kh = th.begin; kh < th.end; kh++)
    for (int64_t kw = tw.begin; kw < tw.end; kw++)
      sum += image[((th.first + kh * s->k.dilation_h) * s->x.w + tw.first + kw * s->k.dilation_w) *
                   s->x.c];
  const int64_t positions = (th.end - th.begin) * (tw.end - tw.begin);
  return sum * (float)(1.0 / (double)positions);
}

typedef float (*window_fn)(const qnet_sliding *, const float *, qnet_taps, qnet_taps);

static void pool_positions(const qnet_sliding *s, const float *x, window_fn window, float *y) {
  for (int64_t n = 0; n < s->x.n; n++)
    for (int64_t oh = 0; oh < s->oh; oh++)
      for (int64_t ow = 0; ow < s->ow; ow++) {
        const qnet_taps th = qnet_interp_taps_h(s, oh), tw = qnet_interp_taps_w(s, ow);
        for (int64_t c = 0; c < s->x.c; c++)
          *y++ = window(s, x + n * s->x.h * s->x.w * s->x.c + c, th, tw);
      }
}

static qnet_status pool2d(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                          qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  const qnet_sliding s = qnet_interp_sliding(op, op->operand[0]->type);
  const bool max = op->opcode == QNET_OP_MAX_POOL2D;
  pool_positions(&s, f.in[0], max ? window_max : window_average, f.out);
  return QNET_OK;
}

static qnet_status global_avg_pool(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                   qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  const qnet_nhwc x = qnet_interp_nhwc(op->operand[0]->type);
  const float scale = (float)(1.0 / (double)(x.h * x.w));
  for (int64_t n = 0; n < x.n; n++)
    for (int64_t c = 0; c < x.c; c++) {
      float sum = 0.0f;
      for (int64_t p = 0; p < x.h * x.w; p++)
        sum += f.in[0][(n * x.h * x.w + p) * x.c + c];
      f.out[n * x.c + c] = sum * scale;
    }
  return QNET_OK;
}

/* ---- slice, pad ------------------------------------------------------------------------------ */

/* Position in `large` of element (n, h, w, c) of the small tensor. */
static int64_t lattice_at(const qnet_lattice *l, qnet_nhwc large, int64_t n, const int64_t at[3]) {
  const int64_t h = l->begin[0] + l->stride[0] * at[0], w = l->begin[1] + l->stride[1] * at[1];
  return ((n * large.h + h) * large.w + w) * large.c + l->begin[2] + l->stride[2] * at[2];
}

static qnet_status slice_or_pad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  const bool pads = op->opcode == QNET_OP_PAD;
  const qnet_nhwc x = qnet_interp_nhwc(op->operand[0]->type),
                  y = qnet_interp_nhwc(op->result[0].type);
  const qnet_nhwc small = pads ? x : y, large = pads ? y : x;
  const qnet_lattice l = qnet_op_lattice(op);
  if (pads) memset(f.out, 0, (size_t)f.count * sizeof *f.out);
  int64_t i = 0;
  for (int64_t n = 0; n < small.n; n++)
    for (int64_t h = 0; h < small.h; h++)
      for (int64_t w = 0; w < small.w; w++)
        for (int64_t c = 0; c < small.c; c++, i++) {
          const int64_t at = lattice_at(&l, large, n, (const int64_t[]){h, w, c});
          if (pads)
            f.out[at] = f.in[0][i];
          else
            f.out[i] = f.in[0][at];
        }
  return QNET_OK;
}

/* ---- flatten, quantize ---------------------------------------------------------------------- */

static qnet_status flatten(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                           qnet_blob **out) {
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const qnet_nhwc x = qnet_interp_nhwc(op->operand[0]->type);
  const size_t element = (size_t)qnet_dtype_bytes(in[0]->dtype);
  const char *from = in[0]->data;
  char *to = out[0]->data;
  const int64_t positions = x.h * x.w;
  for (int64_t n = 0; n < x.n; n++)
    for (int64_t c = 0; c < x.c; c++)
      for (int64_t p = 0; p < positions; p++, to += element)
        memcpy(to, from + (size_t)((n * positions + p) * x.c + c) * element, element);
  return QNET_OK;
}

static qnet_status quantize(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                            qnet_blob **out) {
  floats f;
  QNET_TRY(begin(m, op, in, out, &f));
  out[1] = qnet_interp_result(m, op, 1);
  if (out[1] == NULL) return QNET_NO_MEMORY;
  const qnet_type *levels = op->operand[2]->type;
  const int64_t channels = levels->dim[0], n = levels->dim[1];
  if (channels < 1 || f.count % channels != 0) return QNET_ERROR;
  const uint8_t *perm = in[3]->data;
  uint8_t *code = out[1]->data;
  const int64_t run = f.count / channels; /* axis 0: a table for each x[o, ...] */
  for (int64_t c = 0; c < channels; c++)
    for (int64_t i = c * run; i < (c + 1) * run; i++) {
      const int rank = qnet_interp_rank(f.in[0][i], f.in[1] + c * (n - 1), (int)(n - 1));
      f.out[i] = f.in[2][c * n + rank];
      code[i] = perm[c * n + rank];
    }
  return QNET_OK;
}

static const qnet_interp_kernel kernels[QNET_OP_COUNT] = {
    [QNET_OP_NORMALIZE] = normalize, [QNET_OP_CONV2D] = conv2d,
    [QNET_OP_DENSE] = dense,         [QNET_OP_BATCH_NORM] = batch_norm,
    [QNET_OP_RELU] = relu,           [QNET_OP_MAX_POOL2D] = pool2d,
    [QNET_OP_AVG_POOL2D] = pool2d,   [QNET_OP_GLOBAL_AVG_POOL] = global_avg_pool,
    [QNET_OP_FLATTEN] = flatten,     [QNET_OP_ADD] = add,
    [QNET_OP_QUANTIZE] = quantize,   [QNET_OP_SLICE] = slice_or_pad,
    [QNET_OP_PAD] = slice_or_pad,
};

qnet_interp_kernel qnet_interp_nn_kernel(int opcode) {
  return opcode >= 0 && opcode < QNET_OP_COUNT ? kernels[opcode] : NULL;
}
