/* Convolutions and dense layers, and their gradients: oneDNN for training steps, the defined order
 * for evaluation, and quantized layers, whose levels are convolved as integer-valued f32.
 *
 * The latter is exact while max over filters of sum |Lw| * max |La| < 2^24: every partial sum, in
 * whatever order, is an integer that f32 holds. At or above, the input channels are split into
 * groups of which each is below, and the groups' sums are added in int32. */
#include "codegen/plan_internal.h"
#include "support/parallel.h"
#include <stdlib.h>
#include <string.h>

static qnet_layer_shape layer_shape(const qnet_op *op, const qnet_type *x, const qnet_type *y,
                                    const qnet_type *w) {
  if (w->rank == 2)
    return (qnet_layer_shape){.dense = true,
                              .n = x->dim[0],
                              .h = 1,
                              .w = 1,
                              .in = w->dim[1],
                              .oh = 1,
                              .ow = 1,
                              .out = w->dim[0],
                              .window = {1, 1, 1, 1, 0, 0, 0, 0, 1, 1}};
  qnet_window window = qnet_op_window(op);
  window.kernel_h = w->dim[1];
  window.kernel_w = w->dim[2];
  return (qnet_layer_shape){.n = x->dim[0],
                            .h = x->dim[1],
                            .w = x->dim[2],
                            .in = w->dim[3],
                            .oh = y->dim[1],
                            .ow = y->dim[2],
                            .out = w->dim[0],
                            .window = window};
}

static const void *bias_of(const qnet_plan_step *s) {
  return s->in_count > 2 ? s->in[2]->data : NULL;
}

static void destroy_primitive(qnet_plan_step *s) {
  qnet_primitive_destroy(s->state);
}

/* ---- training ---------------------------------------------------------------------------------*/

static qnet_status create_primitive(qnet_plan *p, qnet_plan_step *s, qnet_layer_pass pass,
                                    const qnet_layer_shape *shape, bool bias, qnet_diag *d) {
  qnet_primitive *primitive = NULL;
  const qnet_status status =
      qnet_primitive_create(p->onednn, &p->arena, pass, shape, bias, s->relu, &primitive, d);
  s->state = primitive;
  return status;
}

static qnet_status prepare_forward(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  const qnet_layer_shape shape =
      layer_shape(s->op, s->in[0]->type, s->out[0]->type, s->in[1]->type);
  return create_primitive(p, s, QNET_LAYER_FORWARD, &shape, s->in_count > 2, d);
}

static qnet_status prepare_grad_input(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  const qnet_layer_shape shape =
      layer_shape(s->op, s->out[0]->type, s->in[0]->type, s->in[1]->type);
  return create_primitive(p, s, QNET_LAYER_GRAD_INPUT, &shape, false, d);
}

static qnet_status prepare_grad_weight(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  const qnet_layer_shape shape =
      layer_shape(s->op, s->in[0]->type, s->in[1]->type, s->out[0]->type);
  return create_primitive(p, s, QNET_LAYER_GRAD_WEIGHT, &shape, false, d);
}

static qnet_status run_primitive(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  (void)p;
  return qnet_primitive_run(s->state, s->in[0]->data, s->in[1]->data, bias_of(s), s->out[0]->data,
                            d);
}

const qnet_plan_kernel qnet_plan_layer = {
    .prepare = prepare_forward, .run = run_primitive, .destroy = destroy_primitive};
const qnet_plan_kernel qnet_plan_layer_grad_input = {
    .prepare = prepare_grad_input, .run = run_primitive, .destroy = destroy_primitive};
const qnet_plan_kernel qnet_plan_layer_grad_weight = {
    .prepare = prepare_grad_weight, .run = run_primitive, .destroy = destroy_primitive};

/* ---- the defined order ------------------------------------------------------------------------*/

static qnet_status prepare_exact(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  qnet_layer_shape *shape = qnet_plan_alloc(p, sizeof *shape);
  if (shape == NULL) return qnet_out_of_memory(d);
  *shape = layer_shape(s->op, s->in[0]->type, s->out[0]->type, s->in[1]->type);
  qnet_plan_need_scratch(s, qnet_exact_layer_scratch(shape));
  s->state = shape;
  return QNET_OK;
}

static qnet_status run_exact(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  (void)d;
  qnet_exact_layer(s->state, (const float *)s->in[0]->data, (const float *)s->in[1]->data,
                   bias_of(s), (float *)s->out[0]->data, p->scratch);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_layer_exact = {.prepare = prepare_exact, .run = run_exact};

/* ---- quantized layers -------------------------------------------------------------------------*/

typedef struct code_layer {
  qnet_layer_shape shape;
  const qnet_table *input, *weight;
  int64_t group;                /* input channels a group; the last may have fewer */
  qnet_primitive *whole, *rest; /* of a full group, and of the last one when it has fewer */
} code_layer;

static const qnet_table *table_of(const qnet_plan *p, const qnet_type *codes) {
  const qnet_symbol *s = codes->table != NULL ? qnet_symbol_find(p->module, codes->table) : NULL;
  return s != NULL ? s->table : NULL;
}

static int64_t largest_level(const qnet_table *t) {
  int64_t largest = 0;
  for (int64_t i = 0; i < (int64_t)t->channels * t->codes; i++)
    if (llabs(t->level[i]) > largest) largest = llabs(t->level[i]);
  return largest;
}

/* The largest sum of |Lw| over a filter's taps from one group of input channels. */
static int64_t largest_sum(const code_layer *l, const uint8_t *code, int64_t group) {
  const int64_t in = l->shape.in, taps = l->shape.window.kernel_h * l->shape.window.kernel_w;
  int64_t largest = 0;
  for (int64_t o = 0; o < l->shape.out; o++) {
    const int32_t *level = l->weight->level + (l->weight->channels == 1 ? 0 : o * l->weight->codes);
    for (int64_t first = 0; first < in; first += group) {
      int64_t sum = 0;
      for (int64_t t = 0; t < taps; t++)
        for (int64_t i = first; i < in && i < first + group; i++)
          sum += llabs(level[code[(o * taps + t) * in + i]]);
      if (sum > largest) largest = sum;
    }
  }
  return largest;
}

static qnet_status choose_group(const qnet_plan_step *s, code_layer *l, qnet_diag *d) {
  static const int64_t limit = (int64_t)1 << 24;
  const qnet_symbol *codes = s->in[1]->symbol;
  if (s->in[1]->place != QNET_PLACE_SYMBOL || codes->blob == NULL)
    return qnet_error(d, s->op->loc, "the weight codes of this layer are not loaded");
  const int64_t top = largest_level(l->input);
  l->group = l->shape.in;
  while (largest_sum(l, codes->blob->data, l->group) * top >= limit) {
    if (l->group == 1)
      return qnet_error(d, s->op->loc, "one input channel of this layer alone sums beyond 2^24");
    l->group = (l->group + 1) / 2;
  }
  return QNET_OK;
}

static qnet_layer_shape group_shape(const code_layer *l, int64_t channels) {
  qnet_layer_shape s = l->shape;
  s.in = channels;
  return s;
}

static size_t aligned(size_t floats) {
  return (floats + 15) / 16 * 16;
}

/* Scratch: the group's inputs, weights and sums, as floats. */
static size_t input_floats(const code_layer *l) {
  return aligned((size_t)(l->shape.n * l->shape.h * l->shape.w * l->group));
}

static size_t weight_floats(const code_layer *l) {
  const qnet_window *k = &l->shape.window;
  return aligned((size_t)(l->shape.out * k->kernel_h * k->kernel_w * l->group));
}

static size_t output_floats(const code_layer *l) {
  return aligned((size_t)(l->shape.n * l->shape.oh * l->shape.ow * l->shape.out));
}

static qnet_status prepare_codes(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  code_layer *l = qnet_plan_alloc(p, sizeof *l);
  if (l == NULL) return qnet_out_of_memory(d);
  s->state = l;
  l->shape = layer_shape(s->op, s->in[0]->type, s->out[0]->type, s->in[1]->type);
  l->input = table_of(p, s->in[0]->type);
  l->weight = table_of(p, s->in[1]->type);
  if (l->input == NULL || l->weight == NULL)
    return qnet_error(d, s->op->loc, "the codes of this layer have no level table");
  QNET_TRY(choose_group(s, l, d));
  const int64_t rest = l->shape.in % l->group;
  qnet_layer_shape shape = group_shape(l, l->group);
  QNET_TRY(qnet_primitive_create(p->onednn, &p->arena, QNET_LAYER_FORWARD, &shape, false, false,
                                 &l->whole, d));
  shape = group_shape(l, rest);
  if (rest > 0)
    QNET_TRY(qnet_primitive_create(p->onednn, &p->arena, QNET_LAYER_FORWARD, &shape, false, false,
                                   &l->rest, d));
  qnet_plan_need_scratch(s,
                         (input_floats(l) + weight_floats(l) + output_floats(l)) * sizeof(float));
  return QNET_OK;
}

static void destroy_codes(qnet_plan_step *s) {
  const code_layer *l = s->state;
  qnet_primitive_destroy(l->whole);
  qnet_primitive_destroy(l->rest);
}

/* Levels of channels first..first + channels of every row of `in` codes. */
typedef struct decoding {
  const uint8_t *code;
  float *out;
  int64_t in, first, channels;
  const float *level;
} decoding;

static void decode_rows(void *context, size_t begin, size_t end) {
  const decoding *d = context;
  float *out = d->out + (int64_t)begin * d->channels;
  for (size_t r = begin; r < end; r++) {
    const uint8_t *code = d->code + (int64_t)r * d->in + d->first;
    for (int64_t i = 0; i < d->channels; i++)
      *out++ = d->level[code[i]];
  }
}

static void level_floats(const qnet_table *t, int64_t channel, float level[256]) {
  const int32_t *from = t->level + (t->channels == 1 ? 0 : channel) * t->codes;
  memset(level, 0, 256 * sizeof *level);
  for (int i = 0; i < t->codes; i++)
    level[i] = (float)from[i];
}

static void decode_inputs(const code_layer *l, const uint8_t *code, int64_t first, int64_t channels,
                          float *out) {
  float level[256];
  level_floats(l->input, 0, level);
  decoding d = {code, out, l->shape.in, first, channels, level};
  const int64_t rows = l->shape.n * l->shape.h * l->shape.w;
  qnet_parallel_for((size_t)rows, (size_t)(1 + 4 * QNET_PLAN_RANGE / channels), decode_rows, &d);
}

static void decode_weights(const code_layer *l, const uint8_t *code, int64_t first,
                           int64_t channels, float *out) {
  const int64_t taps = l->shape.window.kernel_h * l->shape.window.kernel_w;
  float level[256];
  for (int64_t o = 0; o < l->shape.out; o++) {
    level_floats(l->weight, o, level);
    decoding d = {code + o * taps * l->shape.in,
                  out + o * taps * channels,
                  l->shape.in,
                  first,
                  channels,
                  level};
    decode_rows(&d, 0, (size_t)taps);
  }
}

typedef struct conversion {
  const float *from;
  int32_t *to;
  bool adds;
} conversion;

static void convert_range(void *context, size_t begin, size_t end) {
  const conversion *c = context;
  const float *from = c->from;
  int32_t *to = c->to;
  if (c->adds) {
    for (size_t i = begin; i < end; i++)
      to[i] += (int32_t)from[i];
    return;
  }
  for (size_t i = begin; i < end; i++)
    to[i] = (int32_t)from[i];
}

static qnet_status run_codes(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  const code_layer *l = s->state;
  const uint8_t *x = (const uint8_t *)s->in[0]->data, *w = (const uint8_t *)s->in[1]->data;
  float *inputs = (float *)p->scratch, *weights = inputs + input_floats(l),
        *sums = weights + weight_floats(l);
  const int64_t count = qnet_type_elements(s->out[0]->type);
  for (int64_t first = 0; first < l->shape.in; first += l->group) {
    const int64_t left = l->shape.in - first, channels = left < l->group ? left : l->group;
    decode_inputs(l, x, first, channels, inputs);
    decode_weights(l, w, first, channels, weights);
    QNET_TRY(qnet_primitive_run(channels == l->group ? l->whole : l->rest, inputs, weights, NULL,
                                sums, d));
    conversion c = {sums, (int32_t *)s->out[0]->data, first > 0};
    qnet_parallel_for((size_t)count, 4 * QNET_PLAN_RANGE, convert_range, &c);
  }
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_layer_codes = {
    .prepare = prepare_codes, .run = run_codes, .destroy = destroy_codes};
