/* fold-batch-norm: convolution or dense + batch_norm become one layer with a bias, on new const
 * weights W g[o] and (bias - mean) g + beta, g = gamma / sqrt(var + eps), computed in f64.
 *
 * For f32 networks alone (speed baselines, export): the results are not the same to the last bit.
 * Needs level nn, weights loaded. Folded pairs have one user and no quantizer on the weight. */
#include "ir/ops.h"
#include "passes/passes.h"
#include "passes/rewrite.h"
#include <math.h>

typedef struct pair {
  qnet_op *layer, *norm;
  const qnet_symbol *weight, *bias, *gamma, *beta, *mean, *var; /* bias may be NULL */
  double eps;
} pair;

/* Is this batch_norm fed by a layer of its own with plain weights? */
static bool match(const qnet_module *m, qnet_op *norm, pair *out) {
  qnet_op *layer = norm->operand[0]->def;
  if (layer == NULL || (layer->opcode != QNET_OP_CONV2D && layer->opcode != QNET_OP_DENSE) ||
      qnet_value_single_user(&layer->result[0]) != norm)
    return false;
  *out = (pair){.layer = layer,
                .norm = norm,
                .weight = qnet_value_symbol(m, layer->operand[1]),
                .bias = layer->operand_count > 2 ? qnet_value_symbol(m, layer->operand[2]) : NULL,
                .gamma = qnet_value_symbol(m, norm->operand[1]),
                .beta = qnet_value_symbol(m, norm->operand[2]),
                .mean = qnet_value_symbol(m, norm->operand[3]),
                .var = qnet_value_symbol(m, norm->operand[4]),
                .eps = qnet_op_float(norm, "eps", 1e-5)};
  return out->weight != NULL && (layer->operand_count < 3 || out->bias != NULL) &&
         out->gamma != NULL && out->beta != NULL && out->mean != NULL && out->var != NULL;
}

static qnet_status check_loaded(const pair *p, qnet_diag *d) {
  const qnet_symbol *const all[] = {p->weight, p->gamma, p->beta, p->mean, p->var, p->bias};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i] != NULL && all[i]->blob == NULL)
      return qnet_error(d, p->layer->loc, "'@%s' has no content; load weights before folding",
                        all[i]->name);
  return QNET_OK;
}

static qnet_status fold_values(const pair *p, float *weight, float *bias, qnet_diag *d) {
  const float *w = p->weight->blob->data, *gamma = p->gamma->blob->data;
  const float *beta = p->beta->blob->data, *mean = p->mean->blob->data, *var = p->var->blob->data;
  const float *old_bias = p->bias != NULL ? p->bias->blob->data : NULL;
  const int64_t channels = p->weight->type->dim[0];
  const int64_t n = qnet_type_elements(p->weight->type) / channels;
  for (int64_t o = 0; o < channels; o++) {
    const double g = (double)gamma[o] / sqrt((double)var[o] + p->eps);
    const double b = old_bias != NULL ? (double)old_bias[o] : 0;
    bias[o] = (float)((double)beta[o] + (b - (double)mean[o]) * g);
    for (int64_t i = o * n; i < (o + 1) * n; i++)
      weight[i] = (float)((double)w[i] * g);
    if (!isfinite(g) || !isfinite(bias[o]))
      return qnet_error(d, p->norm->loc, "channel %lld of this batch_norm is not finite",
                        (long long)o);
  }
  return QNET_OK;
}

/* A new const symbol NAME.folded with the blob as content. */
static qnet_symbol *add_folded(qnet_module *m, const char *base, const qnet_type *type,
                               qnet_blob *blob, qnet_loc loc) {
  const char *name = qnet_arena_printf(&m->arena, "%s.folded", base);
  if (name == NULL) return NULL;
  return qnet_symbol_add_data(m, QNET_SYMBOL_CONST, name, type, blob, loc);
}

static qnet_status replace_pair(qnet_module *m, const pair *p, qnet_blob *w, qnet_blob *b,
                                const qnet_pass_context *c) {
  const qnet_symbol *weight = add_folded(m, p->weight->name, p->weight->type, w, p->layer->loc);
  const qnet_symbol *bias = add_folded(m, p->beta->name, p->beta->type, b, p->norm->loc);
  if (weight == NULL || bias == NULL) return qnet_out_of_memory(c->diag);
  qnet_builder at = qnet_builder_before(m, p->norm);
  at.loc = p->layer->loc;
  qnet_value *operands[] = {p->layer->operand[0], qnet_build_read(&at, weight),
                            qnet_build_read(&at, bias)};
  qnet_value *y = qnet_build1(&at, p->layer->opcode, operands, 3, p->norm->result[0].type);
  if (y == NULL) return qnet_out_of_memory(c->diag);
  qnet_op_copy_window(m, y->def, p->layer);
  qnet_value_replace(m, &p->norm->result[0], y);
  qnet_op_erase(p->norm);
  qnet_op_erase(p->layer);
  return m->failed ? qnet_out_of_memory(c->diag) : QNET_OK;
}

static qnet_status fold_pair(qnet_module *m, const pair *p, const qnet_pass_context *c) {
  QNET_TRY(check_loaded(p, c->diag));
  const qnet_type *wt = p->weight->type, *bt = p->beta->type;
  qnet_blob *w = qnet_blob_create(m->allocator, QNET_F32, wt->rank, wt->dim);
  qnet_blob *b = qnet_blob_create(m->allocator, QNET_F32, bt->rank, bt->dim);
  qnet_status status = w != NULL && b != NULL ? fold_values(p, w->data, b->data, c->diag)
                                              : qnet_out_of_memory(c->diag);
  if (status == QNET_OK) status = replace_pair(m, p, w, b, c);
  qnet_blob_release(w);
  qnet_blob_release(b);
  return status;
}

qnet_status qnet_pass_fold_batch_norm(qnet_module *m, const qnet_pass_context *c) {
  qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC)
    return qnet_error(c->diag, QNET_NO_LOC, "fold-batch-norm: the module has no function @eval");
  for (qnet_op *op = eval->body->first, *next; op != NULL; op = next) {
    next = op->next;
    pair p;
    if (op->opcode == QNET_OP_BATCH_NORM && match(m, op, &p)) QNET_TRY(fold_pair(m, &p, c));
  }
  qnet_module_sweep(m);
  return QNET_OK;
}
