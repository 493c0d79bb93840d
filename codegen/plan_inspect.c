/* Looks for the operation that first gave a value that is not finite. The values of a plan share
 * memory, so it runs the plan once more, group by group, and looks at what each one wrote. */
#include "codegen/plan_internal.h"
#include <math.h>
#include <string.h>

static bool is_finite(const qnet_plan_value *v) {
  if (v == NULL || v->place == QNET_PLACE_TILE || v->type->dtype != QNET_F32) return true;
  const float *x = (const float *)v->data;
  for (int64_t i = 0; i < qnet_type_elements(v->type); i++)
    if (!isfinite(x[i])) return false;
  return true;
}

/* The first step of a group that has read or written such a value, or NULL. What lives inside the
 * group only is not seen, but what it became is. */
static const qnet_plan_step *find_in(const qnet_plan_group *g) {
  const qnet_plan_step *s = g->first;
  for (int i = 0; i < g->count; i++, s = s->next) {
    for (int k = 0; k < s->in_count; k++)
      if (s->in[k]->place == QNET_PLACE_SYMBOL && !is_finite(s->in[k])) return s;
    for (int k = 0; k < s->out_count; k++)
      if (!is_finite(s->out[k])) return s;
  }
  return NULL;
}

/* The symbol that an operation takes as its weight, gamma and so on, also through a quantizer. */
static const char *parameter_of(const qnet_op *op) {
  for (int i = 1; i < op->operand_count; i++) {
    const qnet_op *source = op->operand[i]->def;
    if (source != NULL && source->opcode == QNET_OP_QUANTIZE) source = source->operand[0]->def;
    if (source != NULL && source->opcode == QNET_OP_READ) return qnet_op_string(source, "sym");
  }
  return NULL;
}

/* The nearest operation with a parameter, backwards along the first operands. */
static const char *nearest_parameter(const qnet_op *op) {
  while (op != NULL) {
    const char *name = parameter_of(op);
    if (name != NULL) return name;
    op = op->operand_count > 0 ? op->operand[0]->def : NULL;
  }
  return NULL;
}

static void name_layer(const qnet_op *op, char *out, size_t size) {
  const char *parameter = nearest_parameter(op);
  const char *dot = parameter != NULL ? strrchr(parameter, '.') : NULL;
  if (parameter == NULL)
    snprintf(out, size, "the input");
  else
    snprintf(out, size, "layer '%.*s'", (int)(dot != NULL ? dot - parameter : 400), parameter);
}

qnet_status qnet_plan_explain_loss(qnet_plan *p, qnet_diag *d) {
  const qnet_plan_step *found = NULL;
  for (int i = 0; i < p->group_count && found == NULL; i++) {
    QNET_TRY(qnet_plan_run_group(p, i, d));
    const qnet_op *op = p->group[i].first->op;
    found = find_in(&p->group[i]);
    if (op != NULL && op->opcode == QNET_OP_SOFTMAX_CROSS_ENTROPY) break;
  }
  if (found == NULL || found->op == NULL) return QNET_OK;
  char layer[512];
  name_layer(found->op, layer, sizeof layer);
  qnet_note(d, found->op->loc, "the first value that is not finite came from %s (%s)", layer,
            qnet_op_def_of(found->op->opcode)->name);
  return QNET_OK;
}
