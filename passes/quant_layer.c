/* Quantized layers: tables and codes, exact accumulator ranges, plane forms. */
#include "passes/quant_layer.h"
#include "ir/ops.h"
#include "passes/rewrite.h"

static const qnet_table *table_of(const qnet_module *m, const qnet_type *type) {
  const qnet_symbol *s = type->table ? qnet_symbol_find(m, type->table) : NULL;
  return s && s->kind == QNET_SYMBOL_TABLE ? s->table : NULL;
}

static bool has_padding(const qnet_op *op) {
  const qnet_attr *pad = qnet_op_attr(op, "pad");
  for (int i = 0; pad && i < pad->count; i++)
    if (pad->ints[i] > 0) return true;
  return false;
}

static qnet_status check_codes(const qnet_quant_layer *l, qnet_diag *d) {
  for (int64_t i = 0; i < l->outputs * l->taps; i++)
    if (l->codes[i] >= l->weight->codes)
      return qnet_error(d, l->op->loc,
                        "layer '%s': weight code %d at element %lld is beyond the %d levels of "
                        "its table; the weights file is damaged",
                        l->name, l->codes[i], (long long)i, l->weight->codes);
  return QNET_OK;
}

qnet_status qnet_quant_layer_read(const qnet_module *m, qnet_op *op, qnet_arena *arena,
                                  qnet_quant_layer *out, qnet_diag *d) {
  const qnet_value *weight = op->operand[1];
  const qnet_symbol *codes = qnet_value_symbol(m, weight);
  if (!codes)
    return qnet_error(d, op->loc, "the weights of this layer are not a constant; run 'freeze'");
  *out = (qnet_quant_layer){.op = op,
                            .name = qnet_layer_name(arena, codes->name),
                            .activation = table_of(m, op->operand[0]->type),
                            .weight = table_of(m, weight->type),
                            .outputs = weight->type->dim[0],
                            .padded = has_padding(op)};
  if (!out->name) return qnet_out_of_memory(d);
  if (!codes->blob)
    return qnet_error(d, op->loc, "layer '%s': @%s has no content; load the weights", out->name,
                      codes->name);
  if (!out->activation || !out->weight || out->activation->channels != 1 ||
      (out->weight->channels != 1 && out->weight->channels != out->outputs))
    return qnet_error(d, op->loc,
                      "layer '%s': a level table is missing or does not fit: the input needs one "
                      "of 1 channel, the weights one of 1 or %lld",
                      out->name, (long long)out->outputs);
  out->codes = codes->blob->data;
  out->taps = out->outputs > 0 ? qnet_type_elements(weight->type) / out->outputs : 0;
  return check_codes(out, d);
}

/* ---- ranges ---------------------------------------------------------------------------------- */

/* The least and greatest level that a tap can read. */
static qnet_range activation_range(const qnet_quant_layer *l) {
  const qnet_table *t = l->activation;
  const int first = t->perm ? t->perm[0] : 0;
  qnet_range r = {t->level[first], t->level[first]};
  for (int rank = 0; rank < t->codes; rank++) {
    const int64_t level = t->level[t->perm ? t->perm[rank] : rank];
    if (level < r.lo) r.lo = level;
    if (level > r.hi) r.hi = level;
  }
  if (l->padded && r.lo > 0) r.lo = 0;
  if (l->padded && r.hi < 0) r.hi = 0;
  return r;
}

static const int32_t *weight_levels(const qnet_quant_layer *l, int64_t output) {
  return l->weight->level + (l->weight->channels == 1 ? 0 : output * l->weight->codes);
}

qnet_range qnet_quant_layer_range(const qnet_quant_layer *l, int64_t output) {
  const qnet_range a = activation_range(l);
  const int32_t *level = weight_levels(l, output);
  qnet_range sum = {0, 0};
  for (int64_t i = 0; i < l->taps; i++) {
    const int64_t w = level[l->codes[output * l->taps + i]];
    sum.lo += w * (w >= 0 ? a.lo : a.hi);
    sum.hi += w * (w >= 0 ? a.hi : a.lo);
  }
  return sum;
}

int64_t qnet_quant_layer_bound(const qnet_quant_layer *l) {
  int64_t bound = 0;
  for (int64_t o = 0; o < l->outputs; o++) {
    const qnet_range r = qnet_quant_layer_range(l, o);
    if (r.hi > bound) bound = r.hi;
    if (-r.lo > bound) bound = -r.lo;
  }
  return bound;
}

/* ---- planes ---------------------------------------------------------------------------------- */

bool qnet_quant_layer_has_planes(const qnet_quant_layer *l) {
  return l->activation->bits <= QNET_PLANES_MAX_BITS && l->weight->bits <= QNET_PLANES_MAX_BITS &&
         l->activation->perm != NULL;
}

bool qnet_quant_layer_planes(const qnet_quant_layer *l, qnet_arena *arena, qnet_layer_planes *out) {
  const qnet_table *a = l->activation, *w = l->weight;
  const int64_t bound = qnet_quant_layer_bound(l);
  int max_shift = 0;
  while (max_shift < QNET_PLANES_MAX_BITS && bound << (max_shift + 1) < INT32_MAX)
    max_shift++;
  qnet_planes_of_activation(a->level, a->perm, a->codes, &out->activation);
  return qnet_planes_of_weight(arena, w->level, w->codes, w->channels, max_shift, &out->weight);
}

int64_t qnet_quant_layer_patch_bound(const qnet_quant_layer *l, const qnet_layer_planes *p) {
  int64_t bound = 0;
  for (int j = 0; j < p->activation.count; j++) {
    const int64_t coef = p->activation.coef[j];
    bound += (coef < 0 ? -coef : coef) * l->taps;
  }
  return bound;
}
