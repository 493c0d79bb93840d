/* Reference kernels of the quant level: codes, exact int32 accumulators, integer thresholds.
 *
 * Convolution and dense first decode both operands to int16 levels and then are rows of inner
 * products, which compilers turn into multiply-add instructions of pairs; the sums are exact, so
 * their order is free. */
#include "ir/interp_internal.h"

#include <math.h>

/* ---- inner products ------------------------------------------------------------------------- */

/* Levels are at most 127 in magnitude: so many products fit an int32 whatever the levels are. */
enum { SAFE_TAPS = 1 << 16 };

/* y[r] = sum over k of x[k] * w[r][k]. Chunks wrap when added, single chunks cannot overflow. */
QNET_SIMD_BODY void inner_products_body(const int16_t *restrict x, const int16_t *restrict w,
                                        int64_t taps, int64_t rows, int32_t *restrict y) {
  for (int64_t r = 0; r < rows; r++) {
    uint32_t total = 0;
    for (int64_t begin = 0; begin < taps; begin += SAFE_TAPS) {
      const int64_t end = taps - begin > SAFE_TAPS ? begin + SAFE_TAPS : taps;
      int32_t sum = 0;
      for (int64_t k = begin; k < end; k++)
        sum += (int32_t)x[k] * (int32_t)w[r * taps + k];
      total += (uint32_t)sum;
    }
    y[r] = (int32_t)total;
  }
}
QNET_SIMD_DISPATCH(inner_products,
                   (const int16_t *restrict x, const int16_t *restrict w, int64_t taps,
                    int64_t rows, int32_t *restrict y),
                   (x, w, taps, rows, y))

/* Levels of `count` codes by one channel of the table. Codes beyond the table (only a damaged blob
 * has them) read level 0. */
static void decode_row(const qnet_table *t, int64_t channel, const uint8_t *code, int64_t count,
                       int16_t *level) {
  int16_t of_code[256] = {0};
  for (int i = 0; i < t->codes && i < 256; i++)
    of_code[i] = (int16_t)t->level[channel * t->codes + i];
  for (int64_t i = 0; i < count; i++)
    level[i] = of_code[code[i]];
}

/* Levels of codes[rows][length]; row r by channel r of the table, or all by its only channel. */
static int16_t *decode(qnet_arena *scratch, const qnet_table *t, const uint8_t *code, int64_t rows,
                       int64_t length) {
  int16_t *level = qnet_arena_array(scratch, (size_t)(rows * length), sizeof level[0]);
  if (level == NULL) return NULL;
  if (t->channels == 1) {
    decode_row(t, 0, code, rows * length, level);
    return level;
  }
  for (int64_t r = 0; r < rows; r++)
    decode_row(t, r, code + r * length, length, level + r * length);
  return level;
}

/* Both operands decoded. w: one row an output. */
typedef struct decoded {
  const int16_t *x, *w;
  int16_t *patch; /* room for one row */
  int64_t rows, taps;
} decoded;

static qnet_status decode_operands(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                   qnet_arena *scratch, decoded *out) {
  const qnet_type *x = op->operand[0]->type, *w = op->operand[1]->type;
  const qnet_table *tx = qnet_interp_table_of(m, x), *tw = qnet_interp_table_of(m, w);
  out->rows = w->dim[0];
  if (tx == NULL || tw == NULL || tx->channels != 1 ||
      (tw->channels != 1 && tw->channels != out->rows))
    return QNET_ERROR;
  out->taps = qnet_type_elements(w) / out->rows;
  out->x = decode(scratch, tx, in[0]->data, 1, qnet_type_elements(x));
  out->w = decode(scratch, tw, in[1]->data, out->rows, out->taps);
  out->patch = qnet_arena_array(scratch, (size_t)out->taps, sizeof(int16_t));
  return out->x != NULL && out->w != NULL && out->patch != NULL ? QNET_OK : QNET_NO_MEMORY;
}

static void conv2d_positions(const qnet_sliding *s, const decoded *v, int32_t *y) {
  for (int64_t n = 0; n < s->x.n; n++)
    for (int64_t oh = 0; oh < s->oh; oh++)
      for (int64_t ow = 0; ow < s->ow; ow++, y += v->rows) {
        qnet_interp_patch(s, v->x, sizeof(int16_t), n, oh, ow, v->patch);
        inner_products(v->patch, v->w, v->taps, v->rows, y);
      }
}

static void dense_rows(const qnet_op *op, const decoded *v, int32_t *y) {
  const qnet_nhwc x = qnet_interp_nhwc(op->operand[0]->type);
  for (int64_t n = 0; n < x.n; n++)
    inner_products(v->x + n * v->taps, v->w, v->taps, v->rows, y + n * v->rows);
}

static qnet_status multiply(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                            qnet_blob **out) {
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  qnet_arena scratch;
  qnet_arena_init(&scratch, m->allocator);
  decoded v;
  const qnet_status status = decode_operands(m, op, in, &scratch, &v);
  if (status == QNET_OK && op->opcode == QNET_OP_QUANT_DENSE) {
    dense_rows(op, &v, out[0]->data);
  } else if (status == QNET_OK) {
    const qnet_sliding s = qnet_interp_sliding(op, op->operand[0]->type);
    conv2d_positions(&s, &v, out[0]->data);
  }
  qnet_arena_clear(&scratch);
  return status;
}

/* ---- elementwise ---------------------------------------------------------------------------- */

QNET_SIMD_BODY void affine_f32_body(const float *restrict x, const float *restrict a,
                                    const float *restrict b, int64_t rows, int64_t channels,
                                    float *restrict y) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < channels; c++)
      y[r * channels + c] = fmaf(x[r * channels + c], a[c], b[c]);
}
QNET_SIMD_DISPATCH(affine_f32,
                   (const float *restrict x, const float *restrict a, const float *restrict b,
                    int64_t rows, int64_t channels, float *restrict y),
                   (x, a, b, rows, channels, y))

QNET_SIMD_BODY void affine_i32_body(const int32_t *restrict x, const float *restrict a,
                                    const float *restrict b, int64_t rows, int64_t channels,
                                    float *restrict y) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < channels; c++)
      y[r * channels + c] = fmaf((float)x[r * channels + c], a[c], b[c]);
}
QNET_SIMD_DISPATCH(affine_i32,
                   (const int32_t *restrict x, const float *restrict a, const float *restrict b,
                    int64_t rows, int64_t channels, float *restrict y),
                   (x, a, b, rows, channels, y))

static qnet_status affine(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                          qnet_blob **out) {
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const qnet_type *type = op->operand[0]->type;
  const qnet_nhwc x = qnet_interp_nhwc(type);
  const int64_t rows = x.n * x.h * x.w;
  if (type->dtype == QNET_I32) {
    affine_i32(in[0]->data, in[1]->data, in[2]->data, rows, x.c, out[0]->data);
  } else {
    affine_f32(in[0]->data, in[1]->data, in[2]->data, rows, x.c, out[0]->data);
  }
  return QNET_OK;
}

static qnet_status quantize(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                            qnet_blob **out) {
  const qnet_table *t = qnet_interp_op_table(m, op);
  if (t == NULL || t->threshold == NULL || t->perm == NULL) return QNET_ERROR;
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const int64_t count = qnet_type_elements(op->operand[0]->type);
  const float *x = in[0]->data;
  uint8_t *code = out[0]->data;
  for (int64_t i = 0; i < count; i++)
    code[i] = t->perm[qnet_interp_rank(x[i], t->threshold, t->codes - 1)];
  return QNET_OK;
}

static qnet_status round_values(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                qnet_blob **out) {
  const qnet_table *t = qnet_interp_op_table(m, op);
  if (t == NULL || t->threshold == NULL || t->perm == NULL) return QNET_ERROR;
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const int64_t count = qnet_type_elements(op->operand[0]->type);
  const float *x = in[0]->data;
  float *y = out[0]->data;
  for (int64_t i = 0; i < count; i++)
    y[i] = qnet_table_value(t, qnet_interp_rank(x[i], t->threshold, t->codes - 1));
  return QNET_OK;
}

static qnet_status threshold(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                             qnet_blob **out) {
  const qnet_table *table = qnet_interp_op_table(m, op);
  const qnet_type *type = op->operand[0]->type;
  const int n = (int)op->operand[1]->type->dim[1]; /* thresholds a channel */
  if (table == NULL || table->perm == NULL || n >= table->codes) return QNET_ERROR;
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const int64_t count = qnet_type_elements(type), channels = qnet_interp_nhwc(type).c;
  const int32_t *x = in[0]->data, *t = in[1]->data, *flip = in[2]->data;
  uint8_t *code = out[0]->data;
  for (int64_t i = 0; i < count; i++) {
    const int64_t c = i % channels;
    code[i] = table->perm[qnet_interp_rank_i32(x[i] ^ flip[c], t + c * n, n)];
  }
  return QNET_OK;
}

/* ---- max pool of accumulators --------------------------------------------------------------- */

static int32_t window_max(const qnet_sliding *s, const int32_t *image, int32_t flip, qnet_taps th,
                          qnet_taps tw) {
  int32_t max = INT32_MIN;
  for (int64_t kh = th.begin; kh < th.end; kh++)
    for (int64_t kw = tw.begin; kw < tw.end; kw++) {
      const int64_t position =
          (th.first + kh * s->k.dilation_h) * s->x.w + tw.first + kw * s->k.dilation_w;
      const int32_t x = flip ^ image[position * s->x.c];
      if (x > max) max = x;
    }
  return flip ^ max;
}

static qnet_status max_pool2d(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                              qnet_blob **out) {
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const qnet_sliding s = qnet_interp_sliding(op, op->operand[0]->type);
  const int32_t *x = in[0]->data, *flip = in[1]->data;
  int32_t *y = out[0]->data;
  for (int64_t n = 0; n < s.x.n; n++, x += s.x.h * s.x.w * s.x.c)
    for (int64_t oh = 0; oh < s.oh; oh++)
      for (int64_t ow = 0; ow < s.ow; ow++) {
        const qnet_taps th = qnet_interp_taps_h(&s, oh), tw = qnet_interp_taps_w(&s, ow);
        for (int64_t c = 0; c < s.x.c; c++)
          *y++ = window_max(&s, x + c, flip[c], th, tw);
      }
  return QNET_OK;
}

static const qnet_interp_kernel kernels[QNET_OP_COUNT] = {
    [QNET_OP_QUANT_QUANTIZE] = quantize,   [QNET_OP_QUANT_CONV2D] = multiply,
    [QNET_OP_QUANT_DENSE] = multiply,      [QNET_OP_QUANT_AFFINE] = affine,
    [QNET_OP_QUANT_THRESHOLD] = threshold, [QNET_OP_QUANT_MAX_POOL2D] = max_pool2d,
    [QNET_OP_QUANT_ROUND] = round_values,
};

qnet_interp_kernel qnet_interp_quant_kernel(int opcode) {
  return opcode >= 0 && opcode < QNET_OP_COUNT ? kernels[opcode] : NULL;
}
