/* Reference kernels of the bits level: bit planes u64[N][H][W][P][ceil(C/64)] (ir/ops_bits.def). */
#include "ir/interp_internal.h"

/* The memory form of a planes type. */
typedef struct planes {
  qnet_nhwc shape;
  int64_t count, words; /* planes; words of one plane at one position */
} planes;

static planes planes_of(const qnet_type *type) {
  const qnet_nhwc shape = qnet_interp_nhwc(type);
  return (planes){.shape = shape, .count = type->bits, .words = (shape.c + 63) / 64};
}

/* The words of all planes at one position. */
static const uint64_t *at(const planes *p, const uint64_t *data, int64_t n, int64_t h, int64_t w) {
  const int64_t position = (n * p->shape.h + h) * p->shape.w + w;
  return data + position * p->count * p->words;
}

static int64_t popcount_and(const uint64_t *a, const uint64_t *b, int64_t words) {
  int64_t count = 0;
  for (int64_t i = 0; i < words; i++)
    count += __builtin_popcountll(a[i] & b[i]);
  return count;
}

/* ---- to planes ------------------------------------------------------------------------------ */

/* Sets channel c of a position in every plane whose bit for this rank is 1. */
static void set_rank(const planes *p, const qnet_attr *mask, int64_t c, int rank, uint64_t *word) {
  for (int64_t j = 0; j < p->count; j++) {
    const uint64_t bit = ((uint64_t)mask->ints[j] >> rank) & 1;
    word[j * p->words + c / 64] |= bit << (c % 64);
  }
}

/* Makes the result; its `planes` attribute must have one mask a plane, of at most 64 ranks. */
static qnet_status begin_planes(const qnet_module *m, const qnet_op *op, qnet_blob **out, planes *p,
                                const qnet_attr **mask, int64_t thresholds) {
  *mask = qnet_op_attr(op, "planes");
  *p = planes_of(op->result[0].type);
  if (*mask == NULL || (*mask)->count != p->count || thresholds > 63) return QNET_ERROR;
  out[0] = qnet_interp_result(m, op, 0);
  return out[0] == NULL ? QNET_NO_MEMORY : QNET_OK;
}

static qnet_status quantize(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                            qnet_blob **out) {
  const qnet_table *t = qnet_interp_op_table(m, op);
  if (t == NULL || t->threshold == NULL) return QNET_ERROR;
  planes p;
  const qnet_attr *mask;
  QNET_TRY(begin_planes(m, op, out, &p, &mask, t->codes - 1));
  const int64_t count = qnet_type_elements(op->operand[0]->type);
  const float *x = in[0]->data;
  uint64_t *word = out[0]->data;
  for (int64_t i = 0; i < count; i += p.shape.c, word += p.count * p.words)
    for (int64_t c = 0; c < p.shape.c; c++)
      set_rank(&p, mask, c, qnet_interp_rank(x[i + c], t->threshold, t->codes - 1), word);
  return QNET_OK;
}

static qnet_status threshold(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                             qnet_blob **out) {
  const int n = (int)op->operand[1]->type->dim[1];
  planes p;
  const qnet_attr *mask;
  QNET_TRY(begin_planes(m, op, out, &p, &mask, n));
  const int64_t count = qnet_type_elements(op->operand[0]->type);
  const int32_t *x = in[0]->data, *t = in[1]->data, *flip = in[2]->data;
  uint64_t *word = out[0]->data;
  for (int64_t i = 0; i < count; i += p.shape.c, word += p.count * p.words)
    for (int64_t c = 0; c < p.shape.c; c++)
      set_rank(&p, mask, c, qnet_interp_rank_i32(x[i + c] ^ flip[c], t + c * n, n), word);
  return QNET_OK;
}

/* ---- sums over windows ---------------------------------------------------------------------- */

static int64_t patch_sum_at(const planes *p, const uint64_t *word, const qnet_attr *coef) {
  int64_t sum = 0;
  for (int64_t j = 0; j < p->count; j++) {
    const uint64_t *plane = word + j * p->words;
    sum += coef->ints[j] * popcount_and(plane, plane, p->words);
  }
  return sum;
}

static int64_t patch_sum_window(const qnet_sliding *s, const planes *p, const uint64_t *data,
                                const qnet_attr *coef, int64_t n, qnet_taps th, qnet_taps tw) {
  int64_t sum = 0;
  for (int64_t kh = th.begin; kh < th.end; kh++)
    for (int64_t kw = tw.begin; kw < tw.end; kw++)
      sum += patch_sum_at(
          p, at(p, data, n, th.first + kh * s->k.dilation_h, tw.first + kw * s->k.dilation_w),
          coef);
  return sum;
}

static qnet_status patch_sum(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                             qnet_blob **out) {
  const planes p = planes_of(op->operand[0]->type);
  const qnet_attr *coef = qnet_op_attr(op, "coef");
  if (coef == NULL || coef->count != p.count) return QNET_ERROR;
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const qnet_sliding s = qnet_interp_sliding(op, op->operand[0]->type);
  int32_t *y = out[0]->data;
  for (int64_t n = 0; n < s.x.n; n++)
    for (int64_t oh = 0; oh < s.oh; oh++)
      for (int64_t ow = 0; ow < s.ow; ow++)
        *y++ = (int32_t)patch_sum_window(&s, &p, in[0]->data, coef, n, qnet_interp_taps_h(&s, oh),
                                         qnet_interp_taps_w(&s, ow));
  return QNET_OK;
}

/* A convolution's operands, decoded. */
typedef struct conv {
  qnet_sliding s;
  planes a, w;
  const uint64_t *activation, *weight;
  const int32_t *coef; /* [O][WP][AP] */
} conv;

/* sum over the window of coef[o][i][j] * popcount(w_i & a_j) */
static int64_t conv_sum(const conv *v, int64_t n, int64_t o, qnet_taps th, qnet_taps tw) {
  int64_t sum = 0;
  for (int64_t kh = th.begin; kh < th.end; kh++)
    for (int64_t kw = tw.begin; kw < tw.end; kw++) {
      const uint64_t *a = at(&v->a, v->activation, n, th.first + kh * v->s.k.dilation_h,
                             tw.first + kw * v->s.k.dilation_w);
      const uint64_t *w = at(&v->w, v->weight, o, kh, kw);
      const int32_t *coef = v->coef + o * v->w.count * v->a.count;
      for (int64_t i = 0; i < v->w.count; i++)
        for (int64_t j = 0; j < v->a.count; j++)
          sum += coef[i * v->a.count + j] *
                 popcount_and(w + i * v->w.words, a + j * v->a.words, v->a.words);
    }
  return sum;
}

static void conv2d_positions(const conv *v, const int32_t *patch, const int32_t *add, int shift,
                             int32_t *y) {
  for (int64_t n = 0; n < v->s.x.n; n++)
    for (int64_t oh = 0; oh < v->s.oh; oh++)
      for (int64_t ow = 0; ow < v->s.ow; ow++) {
        const int64_t position = (n * v->s.oh + oh) * v->s.ow + ow;
        const qnet_taps th = qnet_interp_taps_h(&v->s, oh), tw = qnet_interp_taps_w(&v->s, ow);
        for (int64_t o = 0; o < v->w.shape.n; o++) {
          int64_t sum = conv_sum(v, n, o, th, tw);
          if (patch != NULL) sum += (int64_t)add[o] * patch[position];
          *y++ = (int32_t)(sum >> shift);
        }
      }
}

static qnet_status conv2d(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                          qnet_blob **out) {
  const conv v = {.s = qnet_interp_sliding(op, op->operand[0]->type),
                  .a = planes_of(op->operand[0]->type),
                  .w = planes_of(op->operand[1]->type),
                  .activation = in[0]->data,
                  .weight = in[1]->data,
                  .coef = in[2]->data};
  const int64_t shift = qnet_op_int(op, "shift", 0);
  if (v.a.words != v.w.words || shift < 0 || shift > 31 || op->operand_count == 4)
    return QNET_ERROR;
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const bool corrected = op->operand_count == 5;
  conv2d_positions(&v, corrected ? in[3]->data : NULL, corrected ? in[4]->data : NULL, (int)shift,
                   out[0]->data);
  return QNET_OK;
}

static const qnet_interp_kernel kernels[QNET_OP_COUNT] = {
    [QNET_OP_BITS_QUANTIZE] = quantize,
    [QNET_OP_BITS_THRESHOLD] = threshold,
    [QNET_OP_BITS_PATCH_SUM] = patch_sum,
    [QNET_OP_BITS_CONV2D] = conv2d,
};

qnet_interp_kernel qnet_interp_bits_kernel(int opcode) {
  return opcode >= 0 && opcode < QNET_OP_COUNT ? kernels[opcode] : NULL;
}
