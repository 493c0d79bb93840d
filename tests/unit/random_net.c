/* The generator keeps every stream of values near magnitude 1, so that thresholds, signs and zeros
 * of the tables all come into play. */
#include "tests/unit/random_net.h"
#include "ir/ops.h"
#include "passes/quantizer.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct net {
  qnet_module *m;
  qnet_builder b;
  uint64_t rng;
  int layers;
  bool extreme; /* one batch_norm is to have factors at the ends of f32 */
} net;

/* Levels under construction: [channels][codes] by code. */
typedef struct levels {
  int bits, codes, channels;
  int32_t *level;
  double rms; /* over all of them */
} levels;

uint64_t qnet_random_next(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static int pick(net *g, int lo, int hi) {
  return lo + (int)(qnet_random_next(&g->rng) % (uint64_t)(hi - lo + 1));
}

static bool chance(net *g, int percent) {
  return pick(g, 0, 99) < percent;
}

static double between(net *g, double lo, double hi) {
  return lo + (hi - lo) * (double)(qnet_random_next(&g->rng) >> 11) * 0x1p-53;
}

static void *need(void *p) {
  if (!p) abort();
  return p;
}

/* A name in the module's arena. */
#define NAME(...) ((const char *)need(qnet_arena_printf(&g->m->arena, __VA_ARGS__)))

/* ---- symbols --------------------------------------------------------------------------------- */

/* A new state or const; *read is its read. Returns its zeroed content. */
static void *tensor(net *g, qnet_symbol_kind kind, const char *name, const qnet_type *type,
                    qnet_value **read) {
  qnet_blob *blob = need(qnet_blob_create(g->m->allocator, type->dtype, type->rank, type->dim));
  qnet_symbol *s = need(qnet_symbol_add_data(g->m, kind, name, type, blob, QNET_NO_LOC));
  qnet_blob_release(blob);
  if (read) *read = need(qnet_build_read(&g->b, s));
  return blob->data;
}

static float *state(net *g, const char *layer, const char *part, int rank, const int64_t *dim,
                    qnet_value **read) {
  const char *name = NAME("%s.%s", layer, part);
  return tensor(g, QNET_SYMBOL_STATE, name, qnet_type_tensor(g->m, QNET_F32, rank, dim), read);
}

/* ---- level tables ---------------------------------------------------------------------------- */

enum { ADDITIVE, UNIFORM, SYMMETRIC, ARBITRARY, KINDS };

static void weight_row(net *g, int kind, int codes, int32_t *row) {
  const int basis[4] = {pick(g, 0, 40), pick(g, 1, 40), pick(g, 1, 30), pick(g, 1, 17)};
  for (int c = 0; c < codes; c++) {
    row[c] = kind == UNIFORM ? 2 * c - (codes - 1) : 0;
    if (kind == SYMMETRIC || kind == ARBITRARY) row[c] = pick(g, -127, 127);
    if (kind == SYMMETRIC && c >= codes / 2) row[c] = -row[c - codes / 2];
    for (int k = 0; 1 << k < codes && kind == ADDITIVE; k++)
      row[c] += (c >> k & 1) ? basis[k] : -basis[k];
  }
}

static levels new_levels(net *g, int bits, int codes, int channels) {
  const size_t n = (size_t)(codes * channels);
  return (levels){bits, codes, channels, need(qnet_arena_array(&g->m->arena, n, 4)), 0};
}

static void measure(levels *l) {
  double sum = 0;
  for (int i = 0; i < l->codes * l->channels; i++)
    sum += (double)l->level[i] * l->level[i];
  l->rms = sqrt(sum / (l->codes * l->channels)) + 1e-3;
}

/* A table that tells nothing apart. */
static void make_equal(levels *l, int32_t level) {
  for (int i = 0; i < l->codes * l->channels; i++)
    l->level[i] = level;
}

static levels weight_levels(net *g, int bits, int channels) {
  const int kind = pick(g, 0, KINDS - 1);
  const bool partial = bits > 1 && bits < 8 && kind == ARBITRARY && chance(g, 30);
  levels l = new_levels(g, bits, bits == 8 ? 255 : (1 << bits) - partial, channels);
  const int zero = chance(g, 30) ? pick(g, 0, l.codes - 1) : -1;
  for (int o = 0; o < channels; o++) {
    int32_t *row = l.level + o * l.codes;
    if (bits < 8) weight_row(g, kind, l.codes, row);
    for (int c = 0; c < l.codes && bits == 8; c++)
      row[c] = c - 127;
    if (zero >= 0 && bits < 8) row[zero] = 0;
  }
  if (chance(g, 3)) make_equal(&l, pick(g, -127, 127));
  measure(&l);
  return l;
}

static levels activation_levels(net *g, int bits, bool is_signed) {
  levels l = new_levels(g, bits, bits == 8 ? (is_signed ? 255 : 128) : 1 << bits, 1);
  const int kind = pick(g, 0, KINDS - 1);
  const int basis[4] = {pick(g, 0, 40), pick(g, 1, 40), pick(g, 1, 30), pick(g, 1, 17)};
  for (int c = 0; c < l.codes; c++) {
    int32_t *v = &l.level[c];
    if (bits == 8)
      *v = is_signed ? c - 127 : c;
    else if (kind == UNIFORM)
      *v = c - (is_signed ? l.codes / 2 : 0);
    else if (kind != ADDITIVE)
      *v = pick(g, is_signed ? -127 : 0, 127);
    for (int k = 0; k < bits && bits < 8 && kind == ADDITIVE; k++)
      *v += (c >> k & 1) * basis[k];
  }
  if (kind == SYMMETRIC && bits == 1) { /* no level 0 */
    l.level[1] = pick(g, 1, 127);
    l.level[0] = -l.level[1];
  } else if (bits < 8) {
    l.level[kind == ARBITRARY ? pick(g, 0, l.codes - 1) : 0] = 0;
  }
  if (chance(g, 3)) make_equal(&l, 0);
  measure(&l);
  return l;
}

/* table @SITE; scale[channels]. */
static const qnet_table *add_table(net *g, const char *site, const levels *l, const float *scale,
                                   bool with_thresholds) {
  const qnet_symbol *symbol = need(qnet_symbol_add_table(g->m, site, l->bits, l->codes, l->channels,
                                                         with_thresholds, QNET_NO_LOC));
  const qnet_table *t = symbol->table;
  memcpy(t->level, l->level, (size_t)(l->codes * l->channels) * sizeof *t->level);
  memcpy(t->scale, scale, (size_t)l->channels * sizeof *t->scale);
  float sorted[QNET_MAX_LEVELS];
  if (with_thresholds)
    qnet_quantizer_sort_frozen(scale[0], l->level, l->codes, t->threshold, sorted, t->perm);
  return t;
}

/* x -> nn.quantize(x, SITE.threshold, SITE.level, SITE.perm) */
static qnet_value *quantize(net *g, const char *site, const char *role, const qnet_table *t,
                            qnet_value *x) {
  const bool is_weight = strcmp(role, "weight") == 0;
  const int64_t n = t->codes, thresholds[] = {t->channels, n - 1}, all[] = {t->channels, n};
  qnet_value *operand[4] = {x};
  float *threshold = state(g, site, "threshold", 2, thresholds, &operand[1]);
  float *level = state(g, site, "level", 2, all, &operand[2]);
  const char *name = NAME("%s.perm", site);
  uint8_t *perm =
      tensor(g, QNET_SYMBOL_STATE, name, qnet_type_tensor(g->m, QNET_U8, 2, all), &operand[3]);
  for (int64_t o = 0; o < t->channels; o++)
    qnet_quantizer_sort_frozen(t->scale[o], t->level + o * n, (int)n, threshold + o * (n - 1),
                               level + o * n, perm + o * n);
  const qnet_type *results[] = {x->type,
                                qnet_type_tensor(g->m, QNET_U8, x->type->rank, x->type->dim)};
  qnet_op *op = need(qnet_build(&g->b, QNET_OP_QUANTIZE, operand, 4, results, 2));
  qnet_op_set_int(g->m, op, "axis", is_weight && t->channels > 1 ? 0 : -1);
  qnet_op_set_int(g->m, op, "bits", t->bits);
  qnet_op_set_string(g->m, op, "quantizer", t->bits == 8 ? "uniform" : "lqnets");
  qnet_op_set_string(g->m, op, "site", site);
  qnet_op_set_string(g->m, op, "role", role);
  return &op->result[0];
}

/* ---- layers ---------------------------------------------------------------------------------- */

static qnet_value *elementwise(net *g, int opcode, qnet_value *a, qnet_value *b) {
  return need(qnet_build1(&g->b, opcode, (qnet_value *[]){a, b}, b ? 2 : 1, a->type));
}

/* Factors that are subnormal, 0 by underflow or huge, offsets of either sign of 0; once a network,
 * so that nothing becomes infinite. */
static void make_extreme(net *g, float *const p[4], int64_t channels) {
  g->extreme = false;
  for (int64_t c = 0; c < channels; c++) {
    p[0][c] = ldexpf(p[0][c], chance(g, 70) ? pick(g, -145, -90) : pick(g, 20, 60));
    p[2][c] = 0;
    if (chance(g, 60)) p[1][c] = chance(g, 50) ? 0.0f : -0.0f;
  }
}

static qnet_value *batch_norm(net *g, qnet_value *x) {
  const int64_t channels = x->type->dim[x->type->rank - 1];
  const char *layer = NAME("bn%d", ++g->layers);
  static const char *const part[] = {"weight", "bias", "running_mean", "running_var"};
  qnet_value *operand[5] = {x};
  float *p[4];
  for (int i = 0; i < 4; i++)
    p[i] = state(g, layer, part[i], 1, &channels, &operand[i + 1]);
  for (int64_t c = 0; c < channels; c++) {
    p[0][c] = (float)between(g, 0.3, 1.5) * (chance(g, 30) ? -1.0f : 1.0f);
    if (chance(g, 4)) p[0][c] = 0;
    p[1][c] = (float)between(g, -0.6, 0.6);
    p[2][c] = (float)between(g, -0.4, 0.4);
    p[3][c] = (float)between(g, 0.3, 1.6);
  }
  if (g->extreme) make_extreme(g, p, channels);
  qnet_value *y = need(qnet_build1(&g->b, QNET_OP_BATCH_NORM, operand, 5, x->type));
  qnet_op_set_float(g->m, y->def, "eps", 1e-5);
  return y;
}

/* A window: kernel, stride and dilation by dimension; padding before and after. */
typedef struct window {
  int64_t kernel[2], stride[2], dilation[2], before[2], after[2];
} window;

static bool fits(const window *w, const qnet_type *x, int64_t out[2]) {
  for (int k = 0; k < 2; k++) {
    const int64_t extent = w->dilation[k] * (w->kernel[k] - 1) + 1;
    const int64_t free = x->dim[1 + k] + w->before[k] + w->after[k] - extent;
    out[k] = free / w->stride[k] + 1;
    if (free < 0) return false;
  }
  return true;
}

static void set_window(net *g, qnet_op *op, const window *w) {
  const int64_t pad[] = {w->before[0], w->before[1], w->after[0], w->after[1]};
  qnet_op_set_ints(g->m, op, "stride", w->stride, 2);
  qnet_op_set_ints(g->m, op, "pad", pad, 4);
  if (w->dilation[0] > 1 || w->dilation[1] > 1)
    qnet_op_set_ints(g->m, op, "dilation", w->dilation, 2);
}

static qnet_value *pool(net *g, qnet_value *x) {
  window w = {.dilation = {1, 1}};
  const bool square = chance(g, 70);
  for (int k = 0; k < 2; k++) {
    w.kernel[k] = pick(g, square ? 2 : 1, 3);
    w.stride[k] = pick(g, 1, square ? 2 : 4);
    w.before[k] = pick(g, 0, (int)w.kernel[k] - 1);
    w.after[k] = square ? w.before[k] : pick(g, 0, (int)w.kernel[k] - 1);
  }
  int64_t dim[] = {x->type->dim[0], 0, 0, x->type->dim[3]};
  if (!fits(&w, x->type, dim + 1)) return x;
  const bool average = chance(g, 20);
  qnet_value *y = need(qnet_build1(&g->b, average ? QNET_OP_AVG_POOL2D : QNET_OP_MAX_POOL2D, &x, 1,
                                   qnet_type_tensor(g->m, QNET_F32, 4, dim)));
  qnet_op_set_ints(g->m, y->def, "kernel", w.kernel, 2);
  set_window(g, y->def, &w);
  return y;
}

static qnet_value *on_lattice(net *g, int opcode, qnet_value *x, const int64_t size[3],
                              const qnet_lattice *l) {
  const int64_t dim[] = {x->type->dim[0], size[0], size[1], size[2]};
  qnet_value *y = need(qnet_build1(&g->b, opcode, &x, 1, qnet_type_tensor(g->m, QNET_F32, 4, dim)));
  qnet_op_set_lattice(g->m, y->def, l);
  return y;
}

/* A slice of x or a pad around it, at any place and step. */
static qnet_value *movement(net *g, qnet_value *x) {
  const bool pads = chance(g, 50);
  qnet_lattice l;
  int64_t size[3];
  for (int i = 0; i < 3; i++) {
    const int64_t in = x->type->dim[i + 1];
    const int most = in > 1000 ? 0 : pads ? 2 : (int)in - 1;
    l.begin[i] = pick(g, 0, most);
    l.stride[i] = pick(g, 1, 2);
    const int64_t span = (in - 1) * l.stride[i] + 1;
    size[i] = pads ? l.begin[i] + span + pick(g, 0, most) : (in - l.begin[i] - 1) / l.stride[i] + 1;
  }
  return on_lattice(g, pads ? QNET_OP_PAD : QNET_OP_SLICE, x, size, &l);
}

/* Option A of a residual network: x by steps, and zeros for more channels; NULL: it cannot be. */
static qnet_value *option_a(net *g, qnet_value *x, const qnet_value *like) {
  const int64_t *in = x->type->dim + 1, *out = like->type->dim + 1;
  qnet_lattice steps = {{0}, {1, 1, 1}}, place = {{0, 0, 0}, {1, 1, 1}};
  for (int i = 0; i < 2; i++) {
    steps.stride[i] = out[i] > 1 ? (in[i] - 1) / (out[i] - 1) : in[i];
    if (steps.stride[i] < 1 || (in[i] - 1) / steps.stride[i] + 1 != out[i]) return NULL;
  }
  if (in[2] > out[2]) return NULL;
  place.begin[2] = pick(g, 0, (int)(out[2] - in[2]));
  const int64_t fewer[] = {out[0], out[1], in[2]};
  return on_lattice(g, QNET_OP_PAD, on_lattice(g, QNET_OP_SLICE, x, fewer, &steps), out, &place);
}

/* Quantizes operand[0]; returns the size of the values that the table makes. */
static double quantized_input(net *g, const char *layer, const levels *input,
                              qnet_value *operand[2]) {
  const float scale = (float)(between(g, 0.7, 2.0) / (input->rms * 1.5));
  const char *site = NAME("%s.input_quantizer", layer);
  operand[0] = quantize(g, site, "activation", add_table(g, site, input, &scale, true), operand[0]);
  return input->rms * (double)scale;
}

/* Weights and codes by a new table, for inputs of that size. */
static void quantized_weight(net *g, const char *layer, int bits, double input_size,
                             const qnet_type *weight, qnet_value *operand[2]) {
  const int64_t outputs = weight->dim[0], taps = qnet_type_elements(weight) / outputs;
  const levels l = weight_levels(g, bits, chance(g, 15) ? 1 : (int)outputs);
  float *scale = need(qnet_arena_array(&g->m->arena, (size_t)outputs, sizeof *scale));
  for (int64_t o = 0; o < l.channels; o++)
    scale[o] = (float)(between(g, 0.5, 1.5) / (l.rms * input_size * sqrt((double)taps)));
  const char *site = NAME("%s.weight_quantizer", layer);
  const qnet_table *t = add_table(g, site, &l, scale, false);
  float *w = state(g, layer, "weight", weight->rank, weight->dim, &operand[1]);
  const char *name = NAME("%s.codes", site);
  uint8_t *codes = tensor(g, QNET_SYMBOL_CONST, name,
                          qnet_type_codes(g->m, t->bits, site, weight->rank, weight->dim), NULL);
  for (int64_t i = 0; i < outputs * taps; i++) {
    const int64_t channel = t->channels == 1 ? 0 : i / taps;
    codes[i] = (uint8_t)pick(g, 0, t->codes - 1);
    w[i] = t->scale[channel] * (float)t->level[channel * t->codes + codes[i]];
  }
  operand[1] = quantize(g, site, "weight", t, operand[1]);
}

static void f32_weight(net *g, const char *layer, const qnet_type *weight, qnet_value *operand[2]) {
  const int64_t n = qnet_type_elements(weight);
  const double size = sqrt(3.0 * (double)weight->dim[0] / (double)n);
  float *w = state(g, layer, "weight", weight->rank, weight->dim, &operand[1]);
  for (int64_t i = 0; i < n; i++)
    w[i] = (float)between(g, -size, size);
}

/* The two operands of a layer with its tables, codes and weights: quantized both, or, at times, one
 * of them; bits 0: neither. */
static void operands(net *g, const char *layer, int bits, const levels *input,
                     const qnet_type *weight, qnet_value *operand[2]) {
  const int kind = bits == 0 ? 0 : chance(g, 12) ? pick(g, 1, 2) : 3;
  const double size = kind & 1 ? quantized_input(g, layer, input, operand) : 1;
  if (kind & 2)
    quantized_weight(g, layer, bits, size, weight, operand);
  else
    f32_weight(g, layer, weight, operand);
}

static int some_bits(net *g) {
  return chance(g, 8) ? 8 : pick(g, 1, 4);
}

/* A conv2d or dense of x; bits of the weight 0 = f32; input: levels of the input's table. */
static qnet_value *layer(net *g, int opcode, qnet_value *x, int bits, const levels *input,
                         const qnet_type *weight, const qnet_type *result) {
  const char *name = NAME("%s%d", opcode == QNET_OP_DENSE ? "dense" : "conv", ++g->layers);
  qnet_value *operand[3] = {x};
  operands(g, name, bits, input, weight, operand);
  const bool has_bias = chance(g, 40);
  const int64_t outputs = weight->dim[0];
  float *bias = has_bias ? state(g, name, "bias", 1, &outputs, &operand[2]) : NULL;
  for (int64_t o = 0; bias && o < outputs; o++)
    bias[o] = (float)between(g, -0.5, 0.5);
  return need(qnet_build1(&g->b, opcode, operand, has_bias ? 3 : 2, result));
}

typedef struct geometry {
  window w;
  int64_t outputs;
} geometry;

static geometry one_by_one(int64_t stride_h, int64_t stride_w, int64_t outputs) {
  return (geometry){{{1, 1}, {stride_h, stride_w}, {1, 1}, {0, 0}, {0, 0}}, outputs};
}

/* Any window that fits; stride may exceed the kernel, padding the image, and some windows may lie
 * in padding altogether. */
static window odd_window(net *g) {
  window w;
  for (int k = 0; k < 2; k++) {
    w.kernel[k] = pick(g, 1, chance(g, 20) ? 6 : 3);
    w.stride[k] = pick(g, 1, 4);
    w.dilation[k] = pick(g, 1, 2);
    w.before[k] = pick(g, 0, 4);
    w.after[k] = pick(g, 0, 4);
  }
  return w;
}

static window common_window(net *g) {
  const int64_t k = pick(g, 1, 3), s = pick(g, 1, 2), d = chance(g, 20) ? 2 : 1;
  const int64_t p = chance(g, 70) ? d * (k - 1) / 2 : pick(g, 0, (int)k - 1);
  return (window){{k, k}, {s, s}, {d, d}, {p, p}, {p, p}};
}

static geometry random_geometry(net *g, const qnet_type *x) {
  static const int64_t outputs[] = {1, 3, 5, 8, 16, 17, 33, 64, 66};
  int64_t out[2];
  geometry y = one_by_one(pick(g, 1, 2), pick(g, 1, 2), outputs[pick(g, 0, 8)]);
  if (x->dim[3] > 1000) { /* one place: these networks are about long sums */
    y.outputs = pick(g, 1, 5);
    return y;
  }
  const window w = chance(g, 20) ? odd_window(g) : common_window(g);
  if (fits(&w, x, out)) y.w = w;
  return y;
}

static qnet_value *conv(net *g, qnet_value *x, int bits, const levels *input, geometry y) {
  const int64_t weight[] = {y.outputs, y.w.kernel[0], y.w.kernel[1], x->type->dim[3]};
  int64_t result[] = {x->type->dim[0], 0, 0, y.outputs};
  if (!fits(&y.w, x->type, result + 1)) abort();
  qnet_value *v =
      layer(g, QNET_OP_CONV2D, x, bits, input, qnet_type_tensor(g->m, QNET_F32, 4, weight),
            qnet_type_tensor(g->m, QNET_F32, 4, result));
  set_window(g, v->def, &y.w);
  return v;
}

static qnet_value *dense(net *g, qnet_value *x, int bits, bool is_signed, int64_t outputs) {
  const int64_t weight[] = {outputs, x->type->dim[1]}, result[] = {x->type->dim[0], outputs};
  const levels input = activation_levels(g, bits ? some_bits(g) : 1, is_signed);
  return layer(g, QNET_OP_DENSE, x, bits, &input, qnet_type_tensor(g->m, QNET_F32, 2, weight),
               qnet_type_tensor(g->m, QNET_F32, 2, result));
}

/* ---- networks -------------------------------------------------------------------------------- */

/* What may stand between a layer and the next quantizer. */
static qnet_value *epilogue(net *g, qnet_value *y, bool pools) {
  if (pools && chance(g, 15)) y = pool(g, y);
  if (chance(g, 75)) y = batch_norm(g, y);
  if (pools && chance(g, 15)) y = pool(g, y);
  if (chance(g, 75)) y = elementwise(g, QNET_OP_RELU, y, NULL);
  if (pools && chance(g, 15)) y = pool(g, y);
  if (chance(g, 5)) y = elementwise(g, QNET_OP_RELU, y, NULL);
  if (chance(g, 5)) y = batch_norm(g, y);
  if (pools && chance(g, 6)) y = movement(g, y);
  return y;
}

static bool same_type(const qnet_value *a, const qnet_value *b) {
  return a->type == b->type;
}

/* conv -> ... with, at times, a shortcut around it: of x itself or of a 1x1 projection that
 * quantizes x by the same levels or by others. */
static qnet_value *block(net *g, qnet_value *x) {
  const levels input = activation_levels(g, some_bits(g), chance(g, 25));
  geometry w = random_geometry(g, x->type);
  const bool residual = chance(g, 40) && x->type->dim[3] <= 1000;
  if (residual && chance(g, 50))
    w = (geometry){{{3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}, x->type->dim[3]};
  qnet_value *y = conv(g, x, some_bits(g), &input, w);
  if (!residual) return epilogue(g, y, true);
  if (chance(g, 70)) y = batch_norm(g, y);
  qnet_value *shortcut = x;
  if (!same_type(x, y) && chance(g, 40)) {
    qnet_value *moved = option_a(g, x, y);
    if (moved) shortcut = moved;
  }
  if (!same_type(shortcut, y)) {
    const geometry projection = one_by_one(w.w.stride[0], w.w.stride[1], w.outputs);
    const levels other = chance(g, 40) ? activation_levels(g, some_bits(g), false) : input;
    shortcut = conv(g, x, some_bits(g), &other, projection);
    if (!same_type(shortcut, y)) return epilogue(g, y, true);
    if (chance(g, 50)) shortcut = batch_norm(g, shortcut);
  }
  const bool swapped = chance(g, 50);
  y = elementwise(g, QNET_OP_ADD, swapped ? shortcut : y, swapped ? y : shortcut);
  if (chance(g, 20)) return epilogue(g, y, true);
  return chance(g, 80) ? elementwise(g, QNET_OP_RELU, y, NULL) : y;
}

static qnet_value *normalize(net *g, qnet_value *image) {
  const int n = (int)image->type->dim[3];
  double *mean = need(qnet_arena_array(&g->m->arena, (size_t)n, sizeof *mean));
  double *std = need(qnet_arena_array(&g->m->arena, (size_t)n, sizeof *std));
  for (int c = 0; c < n; c++) {
    mean[c] = between(g, 0.3, 0.6);
    std[c] = between(g, 0.2, 0.4);
  }
  qnet_value *y = need(qnet_build1(&g->b, QNET_OP_NORMALIZE, &image, 1,
                                   qnet_type_tensor(g->m, QNET_F32, 4, image->type->dim)));
  qnet_op_set_floats(g->m, y->def, "mean", mean, n);
  qnet_op_set_floats(g->m, y->def, "std", std, n);
  return y;
}

/* f32, 8 bit, or like the other layers. */
static qnet_value *stem(net *g, qnet_value *x) {
  const int kind = pick(g, 0, 2);
  if (kind == 2) return x;
  const levels input = activation_levels(g, 8, true);
  return epilogue(g, conv(g, x, kind == 0 ? 0 : 8, &input, random_geometry(g, x->type)), true);
}

static qnet_value *head(net *g, qnet_value *x) {
  const int64_t n = x->type->dim[0], c = x->type->dim[3];
  const bool pooled = chance(g, 40);
  const int64_t dim[] = {n, pooled ? c : c * x->type->dim[1] * x->type->dim[2]};
  x = need(qnet_build1(&g->b, pooled ? QNET_OP_GLOBAL_AVG_POOL : QNET_OP_FLATTEN, &x, 1,
                       qnet_type_tensor(g->m, QNET_F32, 2, dim)));
  if (chance(g, 50))
    x = epilogue(g, dense(g, x, some_bits(g), chance(g, 25), pick(g, 3, 70)), false);
  return dense(g, x, chance(g, 50) ? 0 : some_bits(g), chance(g, 50), pick(g, 2, 10));
}

qnet_module *qnet_random_net(uint64_t seed) {
  net g = {.rng = seed};
  g.m = need(qnet_module_create(qnet_allocator_system(), "random", QNET_LEVEL_NN));
  const int smallest = chance(&g, 15) ? 1 : 4;
  const bool is_long = chance(&g, 1); /* sums of more than 2^16 products */
  const int64_t dim[] = {1, is_long ? 1 : pick(&g, smallest, 9),
                         is_long ? 1 : pick(&g, smallest, 9),
                         is_long ? pick(&g, 65536, 67000) : pick(&g, 1, 4)};
  g.extreme = chance(&g, 15);
  const qnet_type *image = qnet_type_tensor(g.m, QNET_U8, 4, dim);
  qnet_symbol *eval = need(qnet_symbol_add_func(g.m, "eval", &image, 1, QNET_NO_LOC));
  g.b = qnet_builder_at_end(g.m, eval->body);
  qnet_value *x = stem(&g, normalize(&g, &eval->body->arg[0]));
  for (int i = chance(&g, 5) ? 0 : pick(&g, 1, 3); i > 0; i--)
    x = block(&g, x);
  x = head(&g, x);
  qnet_build_yield(&g.b, &x, 1);
  if (g.m->failed) abort();
  return g.m;
}

qnet_blob *qnet_random_image(const qnet_module *m, uint64_t seed) {
  const qnet_symbol *eval = need(qnet_symbol_find(m, "eval"));
  const qnet_type *type = eval->body->arg[0].type;
  qnet_blob *b = need(qnet_blob_create(m->allocator, type->dtype, type->rank, type->dim));
  for (size_t i = 0; i < b->bytes; i++)
    ((uint8_t *)b->data)[i] = (uint8_t)qnet_random_next(&seed);
  return b;
}
