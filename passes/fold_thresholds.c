/* Integer thresholds (quant -> quant).
 *
 * An integer sum that goes through affine steps, relu and max pools, each used once, into a
 * quantizer of at most 16 codes becomes
 *
 *     acc -> [quant.max_pool2d] -> quant.threshold
 *
 * with thresholds found on the f32 expression itself over the proven range of the sum (chain.h), so
 * that no code changes. A max pool becomes a pool of the sums: a minimum in channels where the
 * steps before it fall. A sum that is used elsewhere too (a residual stream) stays as it is.
 *
 * Needs integer layers; gives thresholds; breaks nothing. */
#include "ir/ops.h"
#include "passes/chain.h"
#include "passes/passes.h"
#include "passes/quant_layer.h"
#include "passes/rewrite.h"

enum { MAX_CODES = 16 };

typedef struct folder {
  qnet_module *module;
  qnet_arena scratch;
  qnet_diag *diag;
} folder;

/* ---- matching -------------------------------------------------------------------------------- */

static bool is_step(const qnet_op *op) {
  return op->opcode == QNET_OP_QUANT_AFFINE || op->opcode == QNET_OP_RELU ||
         op->opcode == QNET_OP_MAX_POOL2D;
}

/* Follows single uses from the sum through steps; the quantizer at the end, or NULL. */
static qnet_op *find_quantizer(const qnet_op *layer, int *steps) {
  *steps = 0;
  const qnet_value *v = &layer->result[0];
  qnet_op *user = qnet_value_single_user(v);
  for (; user && is_step(user) && user->operand[0] == v; user = qnet_value_single_user(v)) {
    v = &user->result[0];
    (*steps)++;
  }
  return user && user->opcode == QNET_OP_QUANT_QUANTIZE ? user : NULL;
}

static const float *constant_floats(const qnet_module *m, const qnet_value *v, int64_t count) {
  const qnet_symbol *s = qnet_value_symbol(m, v);
  if (!s || s->kind != QNET_SYMBOL_CONST || !s->blob || s->blob->dtype != QNET_F32) return NULL;
  return qnet_blob_elements(s->blob) == count ? s->blob->data : NULL;
}

/* False when an affine step's factors are not constants at hand. */
static bool read_step(const folder *f, qnet_op *op, int64_t channels, qnet_chain_step *out) {
  *out = (qnet_chain_step){.op = op};
  switch (op->opcode) {
  case QNET_OP_RELU: out->kind = QNET_CHAIN_RELU; return true;
  case QNET_OP_MAX_POOL2D: out->kind = QNET_CHAIN_MAX_POOL; return true;
  default: break;
  }
  out->kind = QNET_CHAIN_AFFINE;
  out->a = constant_floats(f->module, op->operand[1], channels);
  out->b = constant_floats(f->module, op->operand[2], channels);
  return out->a && out->b;
}

static qnet_status read_chain(folder *f, const qnet_quant_layer *l, const qnet_table *table,
                              int count, qnet_chain *out, bool *foldable) {
  *foldable = true;
  qnet_chain_step *step = qnet_arena_array(&f->scratch, (size_t)count + 1, sizeof *step);
  if (!step) return qnet_out_of_memory(f->diag);
  const qnet_value *v = &l->op->result[0];
  for (int i = 0; i < count && *foldable; i++) {
    qnet_op *op = qnet_value_single_user(v);
    *foldable = read_step(f, op, l->outputs, &step[i]);
    v = &op->result[0];
  }
  *out = (qnet_chain){
      .step = step, .count = count, .threshold = table->threshold, .thresholds = table->codes - 1};
  return QNET_OK;
}

/* ---- thresholds ------------------------------------------------------------------------------ */

/* *t: [outputs][thresholds], or NULL when a channel cannot be folded. */
static qnet_status find_thresholds(folder *f, const qnet_quant_layer *l, const qnet_chain *chain,
                                   int32_t **t) {
  *t = qnet_arena_array(&f->scratch, (size_t)(l->outputs * chain->thresholds), sizeof **t);
  if (!*t) return qnet_out_of_memory(f->diag);
  for (int64_t o = 0; o < l->outputs; o++) {
    const qnet_range r = qnet_quant_layer_range(l, o);
    if (r.lo <= -INT32_MAX || r.hi >= INT32_MAX)
      return qnet_error(f->diag, l->op->loc,
                        "layer '%s': the sum of output %lld ranges over %lld..%lld, beyond int32",
                        l->name, (long long)o, (long long)r.lo, (long long)r.hi);
    if (!qnet_chain_thresholds(chain, o, (int32_t)r.lo, (int32_t)r.hi,
                               *t + o * chain->thresholds)) {
      *t = NULL;
      return QNET_OK;
    }
  }
  return QNET_OK;
}

/* ---- rewriting ------------------------------------------------------------------------------- */

static qnet_status build_flip(folder *f, qnet_builder *b, const qnet_quant_layer *l,
                              const qnet_chain *chain, int steps, const char *suffix,
                              qnet_value **flip) {
  const qnet_type *type = qnet_type_tensor(f->module, QNET_I32, 1, &l->outputs);
  const char *name = qnet_arena_printf(&f->scratch, "%s.%s", l->name, suffix);
  void *content;
  QNET_TRY(qnet_build_const(b, f->diag, name, type, flip, &content));
  int32_t *value = content;
  for (int64_t o = 0; o < l->outputs; o++)
    value[o] = qnet_chain_flip(chain, steps, o);
  return QNET_OK;
}

static qnet_status build_pool(folder *f, qnet_builder *b, const qnet_quant_layer *l,
                              const qnet_chain *chain, int index, qnet_value **acc) {
  const qnet_op *pool = chain->step[index].op;
  const qnet_type *shape = pool->result[0].type;
  qnet_value *flip;
  QNET_TRY(build_flip(f, b, l, chain, index, "pool_flip", &flip));
  const qnet_type *type = qnet_type_tensor(f->module, QNET_I32, shape->rank, shape->dim);
  *acc = qnet_build1(b, QNET_OP_QUANT_MAX_POOL2D, (qnet_value *[]){*acc, flip}, 2, type);
  if (!*acc) return qnet_out_of_memory(f->diag);
  qnet_op_copy_window(f->module, (*acc)->def, pool);
  return QNET_OK;
}

static qnet_status build_threshold(folder *f, qnet_builder *b, const qnet_quant_layer *l,
                                   const qnet_chain *chain, const int32_t *t, qnet_op *quantizer,
                                   qnet_value *acc) {
  qnet_module *m = f->module;
  const int64_t dim[] = {l->outputs, chain->thresholds};
  const char *name = qnet_arena_printf(&f->scratch, "%s.threshold", l->name);
  qnet_value *operand[3] = {acc};
  void *content;
  QNET_TRY(qnet_build_const(b, f->diag, name, qnet_type_tensor(m, QNET_I32, 2, dim), &operand[1],
                            &content));
  for (int64_t i = 0; i < dim[0] * dim[1]; i++)
    ((int32_t *)content)[i] = t[i];
  QNET_TRY(build_flip(f, b, l, chain, chain->count, "flip", &operand[2]));
  qnet_value *codes =
      qnet_build1(b, QNET_OP_QUANT_THRESHOLD, operand, 3, quantizer->result[0].type);
  if (!codes) return qnet_out_of_memory(f->diag);
  qnet_op_set_symbol(m, codes->def, "table", qnet_op_string(quantizer, "table"));
  qnet_value_replace(m, &quantizer->result[0], codes);
  return QNET_OK;
}

static qnet_status rewrite(folder *f, const qnet_quant_layer *l, const qnet_chain *chain,
                           const int32_t *t, qnet_op *quantizer) {
  qnet_builder b = qnet_builder_before(f->module, quantizer);
  b.loc = quantizer->loc;
  qnet_value *acc = &l->op->result[0];
  for (int i = 0; i < chain->count; i++)
    if (chain->step[i].kind == QNET_CHAIN_MAX_POOL) QNET_TRY(build_pool(f, &b, l, chain, i, &acc));
  return build_threshold(f, &b, l, chain, t, quantizer, acc);
}

static qnet_status fold_layer(folder *f, qnet_op *op) {
  int steps;
  qnet_op *quantizer = find_quantizer(op, &steps);
  if (!quantizer) return QNET_OK;
  const qnet_symbol *table = qnet_op_symbol(f->module, quantizer, "table");
  if (!table || !table->table || !table->table->threshold) return QNET_OK;
  if (table->table->codes > MAX_CODES) return QNET_OK;
  qnet_quant_layer layer;
  QNET_TRY(qnet_quant_layer_read(f->module, op, &f->scratch, &layer, f->diag));
  qnet_chain chain;
  bool foldable = false;
  QNET_TRY(read_chain(f, &layer, table->table, steps, &chain, &foldable));
  if (!foldable) return QNET_OK;
  int32_t *t;
  QNET_TRY(find_thresholds(f, &layer, &chain, &t));
  return t ? rewrite(f, &layer, &chain, t, quantizer) : QNET_OK;
}

static qnet_status fold_function(folder *f, qnet_region *body) {
  bool wrong = false;
  for (qnet_op *op = body->first; op; op = op->next) {
    if (op->opcode != QNET_OP_QUANT_CONV2D && op->opcode != QNET_OP_QUANT_DENSE) continue;
    const qnet_status status = fold_layer(f, op);
    if (status != QNET_OK && status != QNET_ERROR) return status;
    wrong |= status == QNET_ERROR;
  }
  return wrong ? QNET_ERROR : QNET_OK;
}

qnet_status qnet_pass_fold_thresholds(qnet_module *m, const qnet_pass_context *c) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (!eval || !eval->body) return QNET_OK;
  folder f = {.module = m, .diag = c->diag};
  qnet_arena_init(&f.scratch, c->allocator);
  const qnet_status status = fold_function(&f, eval->body);
  qnet_arena_clear(&f.scratch);
  if (status == QNET_OK) qnet_module_sweep(m);
  return status;
}
