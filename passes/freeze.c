/* From learned quantizers to integers (nn -> quant).
 *
 * A conv2d or dense whose input and weight are quantized becomes quant.conv2d or quant.dense on
 * codes (the input's from a quant.quantize, the weight's the stored const @SITE.codes) and a
 * quant.affine that holds scales, bias and a batch_norm that alone uses the result. f32 layers keep
 * their kernel; their bias and batch_norm become a quant.affine too, as does every batch_norm that
 * is left. The factors are computed in f64 and rounded once (docs/numbers.md, "Layers").
 *
 * Where only one of the two is quantized the layer stays f32: the codes of its weight are decoded
 * to a const @SITE.values, its input goes through a quant.round.
 *
 * A quantizer after a flatten moves before it: both commute, and codes that keep their N,H,W,C
 * shape can be bit planes later. Equal quantizers of one tensor become one.
 *
 * Training ends here: functions but @eval go, state symbols become constants.
 *
 * Needs tables and codes for every quantizer in the network, and loaded parameters. Gives integer
 * layers; breaks quantizers (none is left). */
#include "ir/ops.h"
#include "passes/passes.h"
#include "passes/rewrite.h"
#include <math.h>
#include <string.h>

/* A quant.quantize or quant.round that was made already. */
typedef struct frozen_input {
  int opcode;
  const qnet_value *x;
  const qnet_table *table;
  qnet_value *result;
  struct frozen_input *next;
} frozen_input;

typedef struct freezer {
  qnet_module *module;
  qnet_arena scratch;
  qnet_diag *diag;
  frozen_input *inputs;
} freezer;

/* One layer: a conv2d or dense with what follows it, or a batch_norm alone. */
typedef struct layer {
  const char *name;
  qnet_op *op;         /* conv2d, dense, or NULL */
  qnet_op *batch_norm; /* or NULL */
  qnet_value *bias;    /* or NULL */
  int64_t channels;
  const qnet_table *input, *weight; /* of an integer layer; else NULL */
} layer;

/* ---- parameters ------------------------------------------------------------------------------ */

/* The content of a parameter of the layer, checked to be loaded, of that size and finite. */
static qnet_status read_parameter(freezer *f, const layer *l, qnet_loc loc, const qnet_value *v,
                                  int64_t count, const float **out) {
  const qnet_symbol *s = qnet_value_symbol(f->module, v);
  if (!s)
    return qnet_error(f->diag, loc, "layer '%s': a parameter is computed, not read from a symbol",
                      l->name);
  if (!s->blob)
    return qnet_error(f->diag, loc, "layer '%s': tensor '%s' has no content; load the weights",
                      l->name, s->name);
  if (s->blob->dtype != QNET_F32 || qnet_blob_elements(s->blob) != count)
    return qnet_error(f->diag, loc, "layer '%s': tensor '%s' has %lld elements, not %lld of f32",
                      l->name, s->name, (long long)qnet_blob_elements(s->blob), (long long)count);
  *out = s->blob->data;
  for (int64_t i = 0; i < count; i++)
    if (!isfinite((*out)[i]))
      return qnet_error(f->diag, loc,
                        "layer '%s': element %lld of tensor '%s' is %g; the training diverged, "
                        "train again with a lower learning rate",
                        l->name, (long long)i, s->name, (double)(*out)[i]);
  return QNET_OK;
}

/* "gamma * rsqrt(var + eps)" and the like, by channel; NULL where absent. */
typedef struct parameters {
  const float *bias, *gamma, *beta, *mean, *var;
  double eps;
} parameters;

static qnet_status read_parameters(freezer *f, const layer *l, parameters *p) {
  *p = (parameters){0};
  const int64_t n = l->channels;
  if (l->bias) QNET_TRY(read_parameter(f, l, l->op->loc, l->bias, n, &p->bias));
  const qnet_op *bn = l->batch_norm;
  if (!bn) return QNET_OK;
  p->eps = qnet_op_float(bn, "eps", 0);
  QNET_TRY(read_parameter(f, l, bn->loc, bn->operand[1], n, &p->gamma));
  QNET_TRY(read_parameter(f, l, bn->loc, bn->operand[2], n, &p->beta));
  QNET_TRY(read_parameter(f, l, bn->loc, bn->operand[3], n, &p->mean));
  return read_parameter(f, l, bn->loc, bn->operand[4], n, &p->var);
}

/* A and B of one channel, in f64, each rounded once. */
static void fold_channel(const layer *l, const parameters *p, int64_t c, float *a, float *b) {
  const double g = p->gamma ? (double)p->gamma[c] / sqrt((double)p->var[c] + p->eps) : 1.0;
  const double beta = p->beta ? (double)p->beta[c] : 0.0;
  const double mean = p->mean ? (double)p->mean[c] : 0.0;
  const double bias = p->bias ? (double)p->bias[c] : 0.0;
  double scale = 1.0;
  if (l->weight) {
    const double sw = (double)l->weight->scale[l->weight->channels == 1 ? 0 : c];
    scale = sw * (double)l->input->scale[0];
  }
  *a = (float)(scale * g);
  *b = (float)(beta + (bias - mean) * g);
}

static qnet_status fold_parameters(freezer *f, const layer *l, float *a, float *b) {
  parameters p;
  QNET_TRY(read_parameters(f, l, &p));
  for (int64_t c = 0; c < l->channels; c++) {
    fold_channel(l, &p, c, &a[c], &b[c]);
    if (!isfinite(a[c]) || !isfinite(b[c]))
      return qnet_error(f->diag, (l->batch_norm ? l->batch_norm : l->op)->loc,
                        "layer '%s': the affine step of channel %lld is not finite (%g, %g): its "
                        "%s is too small or its scale too large for f32",
                        l->name, (long long)c, (double)a[c], (double)b[c],
                        l->batch_norm ? "variance" : "range");
  }
  return QNET_OK;
}

/* x -> quant.affine(x, @LAYER.a, @LAYER.b) */
static qnet_status build_affine(freezer *f, qnet_builder *b, const layer *l, qnet_value *x,
                                qnet_value **y) {
  const qnet_type *type = qnet_type_tensor(f->module, QNET_F32, 1, &l->channels);
  const char *name_a = qnet_arena_printf(&f->scratch, "%s.a", l->name);
  const char *name_b = qnet_arena_printf(&f->scratch, "%s.b", l->name);
  qnet_value *operand[3] = {x};
  void *content_a, *content_b;
  QNET_TRY(qnet_build_const(b, f->diag, name_a, type, &operand[1], &content_a));
  QNET_TRY(qnet_build_const(b, f->diag, name_b, type, &operand[2], &content_b));
  QNET_TRY(fold_parameters(f, l, content_a, content_b));
  const qnet_type *result = qnet_type_tensor(f->module, QNET_F32, x->type->rank, x->type->dim);
  *y = qnet_build1(b, QNET_OP_QUANT_AFFINE, operand, 3, result);
  return *y ? QNET_OK : qnet_out_of_memory(f->diag);
}

/* ---- quantizers ------------------------------------------------------------------------------ */

static qnet_op *quantizer_of(const qnet_value *v) {
  return v->def && v->def->opcode == QNET_OP_QUANTIZE && v->index == 0 ? v->def : NULL;
}

static qnet_status find_table(freezer *f, const layer *l, const qnet_op *quantizer,
                              const qnet_symbol **out) {
  const char *site = qnet_op_string(quantizer, "site");
  *out = site ? qnet_symbol_find(f->module, site) : NULL;
  if (*out && (*out)->kind == QNET_SYMBOL_TABLE) return QNET_OK;
  return qnet_error(f->diag, quantizer->loc,
                    "layer '%s': there is no level table @%s; train the quantizer or load weights "
                    "that have it",
                    l->name, site ? site : "?");
}

static bool equal_tables(const qnet_table *a, const qnet_table *b) {
  if (a == b) return true;
  if (a->codes != b->codes || a->channels != b->channels || a->bits != b->bits) return false;
  if (!a->threshold || !b->threshold) return false;
  const size_t n = (size_t)a->codes, channels = (size_t)a->channels;
  return memcmp(a->threshold, b->threshold, channels * (n - 1) * sizeof(float)) == 0 &&
         memcmp(a->perm, b->perm, n) == 0 &&
         memcmp(a->level, b->level, channels * n * sizeof(int32_t)) == 0 &&
         memcmp(a->scale, b->scale, channels * sizeof(float)) == 0;
}

static qnet_builder builder_after_value(qnet_module *m, qnet_value *v) {
  if (v->def) return qnet_builder_after(m, v->def);
  qnet_builder b = qnet_builder_at_end(m, v->region);
  b.before = v->region->first;
  return b;
}

/* The codes of x by the table, or its values (quant.round), made once right after x. */
static qnet_status build_input(freezer *f, int opcode, qnet_value *x, const qnet_symbol *table,
                               qnet_loc loc, qnet_value **out) {
  for (const frozen_input *in = f->inputs; in; in = in->next) {
    *out = in->result;
    if (in->opcode == opcode && in->x == x && equal_tables(in->table, table->table)) return QNET_OK;
  }
  qnet_builder b = builder_after_value(f->module, x);
  b.loc = loc;
  const qnet_type *type = opcode == QNET_OP_QUANT_ROUND
                              ? x->type
                              : qnet_type_codes(f->module, table->table->bits, table->name,
                                                x->type->rank, x->type->dim);
  *out = qnet_build1(&b, opcode, &x, 1, type);
  frozen_input *in = qnet_arena_alloc(&f->scratch, sizeof *in);
  if (!*out || !in) return qnet_out_of_memory(f->diag);
  qnet_op_set_symbol(f->module, (*out)->def, "table", table->name);
  *in = (frozen_input){opcode, x, table->table, *out, f->inputs};
  f->inputs = in;
  return QNET_OK;
}

/* The type of a flattened value whose elements are those of v. */
static const qnet_type *flattened_type(freezer *f, const qnet_value *v, const qnet_type *flat) {
  if (v->type->dtype != QNET_CODE) return flat;
  return qnet_type_codes(f->module, v->type->bits, v->type->table, flat->rank, flat->dim);
}

static qnet_status freeze_input(freezer *f, const layer *l, qnet_builder *b, int opcode,
                                const qnet_op *quantizer, qnet_value **out) {
  const qnet_symbol *table;
  QNET_TRY(find_table(f, l, quantizer, &table));
  if (!table->table->threshold || table->table->channels != 1)
    return qnet_error(f->diag, quantizer->loc,
                      "layer '%s': table @%s has no thresholds for one channel, as an input needs",
                      l->name, table->name);
  qnet_value *x = quantizer->operand[0];
  qnet_op *flatten = x->def && x->def->opcode == QNET_OP_FLATTEN ? x->def : NULL;
  if (flatten) x = flatten->operand[0];
  QNET_TRY(build_input(f, opcode, x, table, quantizer->loc, out));
  if (!flatten) return QNET_OK;
  const qnet_type *type = flattened_type(f, *out, flatten->result[0].type);
  *out = qnet_build1(b, QNET_OP_FLATTEN, out, 1, type);
  return *out ? QNET_OK : qnet_out_of_memory(f->diag);
}

static bool same_shape(const qnet_type *a, const qnet_type *b) {
  return a->rank == b->rank && memcmp(a->dim, b->dim, (size_t)a->rank * sizeof a->dim[0]) == 0;
}

/* The table of a weight and its stored codes, checked to fit the layer. */
static qnet_status find_codes(freezer *f, const layer *l, const qnet_op *quantizer,
                              const qnet_symbol **table_out, const qnet_symbol **codes) {
  const qnet_symbol *table;
  QNET_TRY(find_table(f, l, quantizer, &table));
  const int channels = table->table->channels;
  const char *name = qnet_arena_printf(&f->scratch, "%s.codes", table->name);
  if (!name) return qnet_out_of_memory(f->diag);
  const qnet_symbol *s = qnet_symbol_find(f->module, name);
  if (!s || s->kind != QNET_SYMBOL_CONST || s->type->dtype != QNET_CODE ||
      !same_shape(s->type, l->op->operand[1]->type) || !s->type->table ||
      strcmp(s->type->table, table->name) != 0)
    return qnet_error(f->diag, quantizer->loc,
                      "layer '%s': there are no weight codes @%s of table @%s in the shape of the "
                      "weights; load weights that have them",
                      l->name, name, table->name);
  if (channels != 1 && channels != l->channels)
    return qnet_error(f->diag, quantizer->loc, "layer '%s': table @%s has %d channels, not %lld",
                      l->name, table->name, channels, (long long)l->channels);
  *table_out = table;
  *codes = s;
  return QNET_OK;
}

static qnet_status freeze_weight(freezer *f, layer *l, qnet_builder *b, const qnet_op *quantizer,
                                 qnet_value **out) {
  const qnet_symbol *table, *codes;
  QNET_TRY(find_codes(f, l, quantizer, &table, &codes));
  l->weight = table->table;
  *out = qnet_build_read(b, codes);
  return *out ? QNET_OK : qnet_out_of_memory(f->diag);
}

/* value = scale * level[code], filter by filter. */
static qnet_status decode_values(freezer *f, const layer *l, const qnet_table *t,
                                 const qnet_blob *codes, float *value) {
  const uint8_t *code = codes->data;
  const int64_t taps = qnet_blob_elements(codes) / l->channels;
  for (int64_t i = 0; i < l->channels * taps; i++) {
    const int64_t c = t->channels == 1 ? 0 : i / taps;
    if (code[i] >= t->codes)
      return qnet_error(f->diag, l->op->loc,
                        "layer '%s': weight code %d at element %lld is beyond the %d levels of "
                        "its table; the weights file is damaged",
                        l->name, code[i], (long long)i, t->codes);
    value[i] = t->scale[c] * (float)t->level[c * t->codes + code[i]];
  }
  return QNET_OK;
}

/* The weight of a layer whose input is f32: the values of its codes. */
static qnet_status decode_weight(freezer *f, const layer *l, qnet_builder *b,
                                 const qnet_op *quantizer, qnet_value **out) {
  const qnet_symbol *table, *codes;
  QNET_TRY(find_codes(f, l, quantizer, &table, &codes));
  if (!codes->blob)
    return qnet_error(f->diag, l->op->loc, "layer '%s': @%s has no content; load the weights",
                      l->name, codes->name);
  const char *name = qnet_arena_printf(&f->scratch, "%s.values", table->name);
  const qnet_type *type = l->op->operand[1]->type;
  void *content;
  QNET_TRY(qnet_build_const(b, f->diag, name, type, out, &content));
  return decode_values(f, l, table->table, codes->blob, content);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static const char *name_of(freezer *f, const qnet_value *parameter) {
  const qnet_op *quantizer = quantizer_of(parameter);
  const qnet_symbol *s =
      qnet_value_symbol(f->module, quantizer ? quantizer->operand[0] : parameter);
  return qnet_layer_name(&f->scratch, s ? s->name : "layer");
}

static qnet_status freeze_quantized(freezer *f, layer *l, const qnet_op *input,
                                    const qnet_op *weight) {
  qnet_builder b = qnet_builder_before(f->module, l->op);
  b.loc = l->op->loc;
  qnet_value *operand[2], *y;
  QNET_TRY(freeze_input(f, l, &b, QNET_OP_QUANT_QUANTIZE, input, &operand[0]));
  l->input = qnet_symbol_find(f->module, operand[0]->type->table)->table;
  QNET_TRY(freeze_weight(f, l, &b, weight, &operand[1]));
  const qnet_type *shape = l->op->result[0].type;
  const qnet_type *type = qnet_type_tensor(f->module, QNET_I32, shape->rank, shape->dim);
  const int opcode = l->op->opcode == QNET_OP_DENSE ? QNET_OP_QUANT_DENSE : QNET_OP_QUANT_CONV2D;
  qnet_value *acc = qnet_build1(&b, opcode, operand, 2, type);
  if (!acc) return qnet_out_of_memory(f->diag);
  qnet_op_copy_window(f->module, acc->def, l->op);
  QNET_TRY(build_affine(f, &b, l, acc, &y));
  qnet_value_replace(f->module, &(l->batch_norm ? l->batch_norm : l->op)->result[0], y);
  return QNET_OK;
}

/* Why a layer with one quantized side is f32, for the remark of its lowering. */
static void keep_bits(freezer *f, qnet_op *op, const qnet_op *input, const qnet_op *weight) {
  const int64_t bits[] = {weight ? qnet_op_int(weight, "bits", 0) : QNET_F32_BITS,
                          input ? qnet_op_int(input, "bits", 0) : QNET_F32_BITS};
  if (input || weight) qnet_op_set_ints(f->module, op, "bits", bits, 2);
}

/* A layer of which at most one operand is quantized. */
static qnet_status freeze_f32(freezer *f, layer *l, const qnet_op *input, const qnet_op *weight) {
  qnet_value *operand[] = {l->op->operand[0], l->op->operand[1]};
  const qnet_type *type = operand[1]->type;
  const float *checked;
  qnet_builder b = qnet_builder_before(f->module, l->op);
  b.loc = l->op->loc;
  if (input) QNET_TRY(freeze_input(f, l, &b, QNET_OP_QUANT_ROUND, input, &operand[0]));
  if (weight)
    QNET_TRY(decode_weight(f, l, &b, weight, &operand[1]));
  else if (qnet_value_symbol(f->module, operand[1]))
    QNET_TRY(read_parameter(f, l, l->op->loc, operand[1], qnet_type_elements(type), &checked));
  if (!l->bias && !l->batch_norm && !input && !weight) return QNET_OK;
  qnet_value *y, *x = qnet_build1(&b, l->op->opcode, operand, 2, l->op->result[0].type);
  if (!x) return qnet_out_of_memory(f->diag);
  qnet_op_copy_window(f->module, x->def, l->op);
  keep_bits(f, x->def, input, weight);
  y = x;
  if (l->bias || l->batch_norm) QNET_TRY(build_affine(f, &b, l, x, &y));
  qnet_value_replace(f->module, &(l->batch_norm ? l->batch_norm : l->op)->result[0], y);
  return QNET_OK;
}

static qnet_status freeze_layer(freezer *f, qnet_op *op) {
  const qnet_type *y = op->result[0].type;
  layer l = {.op = op, .name = name_of(f, op->operand[1]), .channels = y->dim[y->rank - 1]};
  if (!l.name) return qnet_out_of_memory(f->diag);
  if (op->operand_count > 2) l.bias = op->operand[2];
  qnet_op *user = qnet_value_single_user(&op->result[0]);
  if (user && user->opcode == QNET_OP_BATCH_NORM && user->operand[0] == &op->result[0])
    l.batch_norm = user;
  const qnet_op *input = quantizer_of(op->operand[0]), *weight = quantizer_of(op->operand[1]);
  return input && weight ? freeze_quantized(f, &l, input, weight)
                         : freeze_f32(f, &l, input, weight);
}

static qnet_status freeze_batch_norm(freezer *f, qnet_op *op) {
  const qnet_type *y = op->result[0].type;
  const layer l = {
      .name = name_of(f, op->operand[1]), .batch_norm = op, .channels = y->dim[y->rank - 1]};
  if (!l.name) return qnet_out_of_memory(f->diag);
  qnet_builder b = qnet_builder_before(f->module, op);
  b.loc = op->loc;
  qnet_value *result;
  QNET_TRY(build_affine(f, &b, &l, op->operand[0], &result));
  qnet_value_replace(f->module, &op->result[0], result);
  return QNET_OK;
}

/* ---- the function ---------------------------------------------------------------------------- */

static qnet_status stray_quantizer(freezer *f, const qnet_op *op) {
  const qnet_value *y = op->result[0].uses ? &op->result[0] : &op->result[1];
  return qnet_error(f->diag, op->loc,
                    "the quantizer '%s' feeds '%s'; only conv2d and dense compute on codes",
                    qnet_op_string(op, "site"), qnet_op_def_of(y->uses->op->opcode)->name);
}

/* Freezes what the operation is; the replaced operations stay, unused, until the sweep. */
static qnet_status freeze_op(freezer *f, qnet_op *op) {
  switch (op->opcode) {
  case QNET_OP_CONV2D:
  case QNET_OP_DENSE: return op->result[0].uses ? freeze_layer(f, op) : QNET_OK;
  case QNET_OP_BATCH_NORM: return op->result[0].uses ? freeze_batch_norm(f, op) : QNET_OK;
  default: return QNET_OK;
  }
}

static qnet_status freeze_function(freezer *f, qnet_region *body) {
  bool wrong = false;
  for (qnet_op *op = body->first; op; op = op->next) {
    const qnet_status status = freeze_op(f, op);
    if (status != QNET_OK && status != QNET_ERROR) return status;
    wrong |= status == QNET_ERROR;
  }
  if (wrong) return QNET_ERROR;
  qnet_module_sweep(f->module);
  for (const qnet_op *op = body->first; op; op = op->next)
    if (op->opcode == QNET_OP_QUANTIZE) QNET_TRY(stray_quantizer(f, op));
  return QNET_OK;
}

static void drop_training(qnet_module *m, const qnet_symbol *eval) {
  for (qnet_symbol *s = m->first_symbol, *next; s; s = next) {
    next = s->next;
    if (s->kind == QNET_SYMBOL_FUNC && s != eval) qnet_symbol_remove(m, s);
  }
}

static void end_states(qnet_module *m) {
  for (qnet_symbol *s = m->first_symbol; s; s = s->next)
    if (s->kind == QNET_SYMBOL_STATE) s->kind = QNET_SYMBOL_CONST;
}

qnet_status qnet_pass_freeze(qnet_module *m, const qnet_pass_context *c) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (!eval || !eval->body) return qnet_error_in(c->diag, m->name, "there is no function @eval");
  freezer f = {.module = m, .diag = c->diag};
  qnet_arena_init(&f.scratch, c->allocator);
  drop_training(m, eval);
  const qnet_status status = freeze_function(&f, eval->body);
  qnet_arena_clear(&f.scratch);
  if (status != QNET_OK) return status;
  end_states(m);
  m->level = QNET_LEVEL_QUANT;
  return QNET_OK;
}
