/* From level tables to bit planes (quant -> bits).
 *
 * A layer whose tables both have at most 4 bits becomes a bits.conv2d on planes (planes.h finds
 * them for any table): its weights a const of packed planes, its coefficients a const [O][WP][AP].
 * Weight tables with a constant part need the bits.patch_sum of their input, one for all layers
 * that share input and window. The planes of codes are made where the codes were: quant.quantize
 * becomes bits.quantize and quant.threshold bits.threshold, whose masks by rank do permutation,
 * decomposition and packing at once.
 *
 * A dense layer is a convolution with one window: 1x1 on N,1,1,C planes, or, after a flatten, the
 * whole H x W of the planes before it, its weights permuted from C,H,W order.
 *
 * An activation table without a level 0 has one plane that is 1 at every real position; padding is
 * zero bits in any case, so borders need nothing else.
 *
 * Layers with a table of 5 to 8 bits stay on codes. Needs integer layers; gives planes; breaks
 * nothing. */
#include "ir/ops.h"
#include "passes/passes.h"
#include "passes/quant_layer.h"
#include "passes/rewrite.h"
#include <string.h>

/* Codes that have been given planes. */
typedef struct planed {
  const qnet_value *codes;
  qnet_value *planes;
  struct planed *next;
} planed;

typedef struct decomposer {
  qnet_module *module;
  qnet_arena scratch;
  qnet_diag *diag;
  planed *made;
} decomposer;

/* One layer being rewritten. */
typedef struct site {
  qnet_quant_layer layer;
  qnet_layer_planes form;
  qnet_value *source;         /* codes that are quantized: before a flatten, if there is one */
  const qnet_type *flattened; /* type before the flatten, or NULL */
  int64_t kernel_h, kernel_w, in;
} site;

/* ---- activations ----------------------------------------------------------------------------- */

/* N,H,W,C of planes: rank 2 becomes N,1,1,C. */
static const qnet_type *planes_type(qnet_module *m, int count, const qnet_type *t) {
  if (t->rank == 4) return qnet_type_planes(m, count, 4, t->dim);
  return qnet_type_planes(m, count, 4, (int64_t[]){t->dim[0], 1, 1, t->dim[1]});
}

static void set_masks(qnet_module *m, qnet_op *op, const qnet_activation_planes *p) {
  int64_t mask[QNET_PLANES_MAX];
  for (int j = 0; j < p->count; j++)
    mask[j] = p->mask[j];
  qnet_op_set_ints(m, op, "planes", mask, p->count);
}

/* The planes of codes that quant.quantize or quant.threshold makes, beside it. */
static qnet_status build_planes(decomposer *d, const site *s, qnet_value **planes) {
  qnet_module *m = d->module;
  for (const planed *p = d->made; p; p = p->next) {
    *planes = p->planes;
    if (p->codes == s->source) return QNET_OK;
  }
  qnet_op *maker = s->source->def;
  const bool is_threshold = maker->opcode == QNET_OP_QUANT_THRESHOLD;
  qnet_builder b = qnet_builder_after(m, maker);
  b.loc = maker->loc;
  *planes =
      qnet_build1(&b, is_threshold ? QNET_OP_BITS_THRESHOLD : QNET_OP_BITS_QUANTIZE, maker->operand,
                  maker->operand_count, planes_type(m, s->form.activation.count, s->source->type));
  planed *made = qnet_arena_alloc(&d->scratch, sizeof *made);
  if (!*planes || !made) return qnet_out_of_memory(d->diag);
  if (!is_threshold) qnet_op_set_symbol(m, (*planes)->def, "table", qnet_op_string(maker, "table"));
  set_masks(m, (*planes)->def, &s->form.activation);
  *made = (planed){.codes = s->source, .planes = *planes, .next = d->made};
  d->made = made;
  return QNET_OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* The stored code of output o at tap (h, w, c): a flattened dense layer stores C,H,W. */
static uint8_t code_at(const site *s, int64_t o, int64_t h, int64_t w, int64_t c) {
  const int64_t tap =
      s->flattened ? (c * s->kernel_h + h) * s->kernel_w + w : (h * s->kernel_w + w) * s->in + c;
  return s->layer.codes[o * s->layer.taps + tap];
}

static void pack_position(const site *s, int64_t o, int64_t h, int64_t w, uint64_t *word) {
  const int64_t words = (s->in + 63) / 64;
  for (int64_t c = 0; c < s->in; c++) {
    const uint8_t code = code_at(s, o, h, w, c);
    for (int i = 0; i < s->form.weight.count; i++)
      word[i * words + c / 64] |= (uint64_t)(s->form.weight.mask[i] >> code & 1) << (c % 64);
  }
}

static qnet_status build_weight(decomposer *d, const site *s, qnet_builder *b, qnet_value **out) {
  const int64_t dim[] = {s->layer.outputs, s->kernel_h, s->kernel_w, s->in};
  const char *name = qnet_arena_printf(&d->scratch, "%s.planes", s->layer.name);
  void *content;
  QNET_TRY(qnet_build_const(
      b, d->diag, name, qnet_type_planes(d->module, s->form.weight.count, 4, dim), out, &content));
  uint64_t *word = content;
  const int64_t step = s->form.weight.count * ((s->in + 63) / 64);
  for (int64_t o = 0; o < dim[0]; o++)
    for (int64_t h = 0; h < dim[1]; h++)
      for (int64_t w = 0; w < dim[2]; w++, word += step)
        pack_position(s, o, h, w, word);
  return QNET_OK;
}

/* coef[o][i][j] = weight coefficient i of o * activation coefficient j */
static qnet_status build_coef(decomposer *d, const site *s, qnet_builder *b, qnet_value **out) {
  const qnet_weight_planes *w = &s->form.weight;
  const qnet_activation_planes *a = &s->form.activation;
  const int64_t dim[] = {s->layer.outputs, w->count, a->count};
  const char *name = qnet_arena_printf(&d->scratch, "%s.coef", s->layer.name);
  void *content;
  QNET_TRY(qnet_build_const(b, d->diag, name, qnet_type_tensor(d->module, QNET_I32, 3, dim), out,
                            &content));
  int32_t *coef = content;
  for (int64_t o = 0; o < dim[0]; o++) {
    const int32_t *row = w->coef + (w->channels == 1 ? 0 : o) * w->count;
    for (int i = 0; i < w->count; i++)
      for (int j = 0; j < a->count; j++)
        *coef++ = row[i] * a->coef[j];
  }
  return QNET_OK;
}

static qnet_status build_constant(decomposer *d, const site *s, qnet_builder *b, qnet_value **out) {
  const qnet_weight_planes *w = &s->form.weight;
  const char *name = qnet_arena_printf(&d->scratch, "%s.v", s->layer.name);
  const qnet_type *type = qnet_type_tensor(d->module, QNET_I32, 1, &s->layer.outputs);
  void *content;
  QNET_TRY(qnet_build_const(b, d->diag, name, type, out, &content));
  for (int64_t o = 0; o < s->layer.outputs; o++)
    ((int32_t *)content)[o] = w->constant[w->channels == 1 ? 0 : o];
  return QNET_OK;
}

/* ---- windows --------------------------------------------------------------------------------- */

static void set_window(const decomposer *d, const site *s, qnet_op *op) {
  qnet_op_copy_window(d->module, op, s->layer.op);
  if (s->layer.op->opcode != QNET_OP_QUANT_DENSE) return;
  qnet_op_set_ints(d->module, op, "stride", (int64_t[]){1, 1}, 2);
  qnet_op_set_ints(d->module, op, "pad", (int64_t[]){0, 0, 0, 0}, 4);
}

static bool equal_ints(const qnet_op *a, const qnet_op *b, const char *name) {
  const qnet_attr *x = qnet_op_attr(a, name), *y = qnet_op_attr(b, name);
  if (!x || !y) return x == y;
  return x->count == y->count && memcmp(x->ints, y->ints, (size_t)x->count * sizeof(int64_t)) == 0;
}

/* An earlier patch sum of the same planes and window. */
static qnet_value *find_patch_sum(const qnet_value *planes, const qnet_op *like) {
  for (const qnet_use *use = planes->uses; use; use = use->next) {
    qnet_op *op = use->op;
    if (op->opcode == QNET_OP_BITS_PATCH_SUM && op != like && equal_ints(op, like, "kernel") &&
        equal_ints(op, like, "stride") && equal_ints(op, like, "pad") &&
        equal_ints(op, like, "dilation"))
      return &op->result[0];
  }
  return NULL;
}

/* The sum of activation levels over each window, made right after the planes so that all layers
 * that share it come later. */
static qnet_status build_patch_sum(decomposer *d, const site *s, qnet_value *planes,
                                   const qnet_type *result, qnet_value **out) {
  qnet_module *m = d->module;
  const bool is_map = result->rank == 4;
  const int64_t dim[] = {result->dim[0], is_map ? result->dim[1] : 1, is_map ? result->dim[2] : 1,
                         1};
  qnet_builder b = qnet_builder_after(m, planes->def);
  b.loc = s->layer.op->loc;
  *out = qnet_build1(&b, QNET_OP_BITS_PATCH_SUM, &planes, 1, qnet_type_tensor(m, QNET_I32, 4, dim));
  if (!*out) return qnet_out_of_memory(d->diag);
  int64_t coef[QNET_PLANES_MAX];
  for (int j = 0; j < s->form.activation.count; j++)
    coef[j] = s->form.activation.coef[j];
  qnet_op_set_ints(m, (*out)->def, "coef", coef, s->form.activation.count);
  qnet_op_set_ints(m, (*out)->def, "kernel", (int64_t[]){s->kernel_h, s->kernel_w}, 2);
  set_window(d, s, (*out)->def);
  qnet_value *earlier = find_patch_sum(planes, (*out)->def);
  if (!earlier) return QNET_OK;
  qnet_op_erase((*out)->def);
  *out = earlier;
  return QNET_OK;
}

/* ---- layers ---------------------------------------------------------------------------------- */

static bool makes_codes(const qnet_value *v) {
  return v->def &&
         (v->def->opcode == QNET_OP_QUANT_QUANTIZE || v->def->opcode == QNET_OP_QUANT_THRESHOLD);
}

/* Where the layer's codes come from, and its window. False when they cannot become planes. */
static bool find_source(site *s) {
  const qnet_op *op = s->layer.op;
  const qnet_type *weight = op->operand[1]->type;
  s->source = op->operand[0];
  const qnet_op *def = s->source->def;
  if (def && def->opcode == QNET_OP_FLATTEN) {
    s->source = def->operand[0];
    s->flattened = s->source->type;
  }
  if (!makes_codes(s->source)) return false;
  if (s->flattened && s->flattened->rank != 4) s->flattened = NULL;
  s->kernel_h = s->flattened ? s->flattened->dim[1] : weight->rank == 4 ? weight->dim[1] : 1;
  s->kernel_w = s->flattened ? s->flattened->dim[2] : weight->rank == 4 ? weight->dim[2] : 1;
  s->in = s->flattened ? s->flattened->dim[3] : weight->dim[weight->rank - 1];
  return true;
}

static qnet_status rewrite(decomposer *d, const site *s) {
  qnet_module *m = d->module;
  qnet_op *op = s->layer.op;
  const qnet_type *result = op->result[0].type;
  qnet_builder b = qnet_builder_before(m, op);
  b.loc = op->loc;
  qnet_value *operand[5];
  int operands = 3;
  QNET_TRY(build_planes(d, s, &operand[0]));
  QNET_TRY(build_weight(d, s, &b, &operand[1]));
  QNET_TRY(build_coef(d, s, &b, &operand[2]));
  if (s->form.weight.has_constant) {
    QNET_TRY(build_patch_sum(d, s, operand[0], result, &operand[3]));
    QNET_TRY(build_constant(d, s, &b, &operand[4]));
    operands = 5;
  }
  qnet_value *acc = qnet_build1(&b, QNET_OP_BITS_CONV2D, operand, operands, result);
  if (!acc) return qnet_out_of_memory(d->diag);
  set_window(d, s, acc->def);
  if (s->form.weight.shift) qnet_op_set_int(m, acc->def, "shift", s->form.weight.shift);
  qnet_value_replace(m, &op->result[0], acc);
  return QNET_OK;
}

static qnet_status decompose_layer(decomposer *d, qnet_op *op) {
  site s = {0};
  QNET_TRY(qnet_quant_layer_read(d->module, op, &d->scratch, &s.layer, d->diag));
  if (!qnet_quant_layer_has_planes(&s.layer) || !find_source(&s)) return QNET_OK;
  if (!qnet_quant_layer_planes(&s.layer, &d->scratch, &s.form)) return qnet_out_of_memory(d->diag);
  return rewrite(d, &s);
}

static qnet_status decompose_function(decomposer *d, qnet_region *body) {
  bool wrong = false;
  for (qnet_op *op = body->first; op; op = op->next) {
    if (op->opcode != QNET_OP_QUANT_CONV2D && op->opcode != QNET_OP_QUANT_DENSE) continue;
    const qnet_status status = decompose_layer(d, op);
    if (status != QNET_OK && status != QNET_ERROR) return status;
    wrong |= status == QNET_ERROR;
  }
  return wrong ? QNET_ERROR : QNET_OK;
}

qnet_status qnet_pass_decompose(qnet_module *m, const qnet_pass_context *c) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (!eval || !eval->body) return qnet_error_in(c->diag, m->name, "there is no function @eval");
  decomposer d = {.module = m, .diag = c->diag};
  qnet_arena_init(&d.scratch, c->allocator);
  const qnet_status status = decompose_function(&d, eval->body);
  qnet_arena_clear(&d.scratch);
  if (status != QNET_OK) return status;
  qnet_module_sweep(m);
  m->level = QNET_LEVEL_BITS;
  return QNET_OK;
}
