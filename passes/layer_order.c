/* First and last layer. The depth of a value is the number of layers on the longest way to it from
 * the input; of two summands the less deep one is the shortcut. */
#include "passes/layer_order.h"
#include "ir/ops.h"

bool qnet_is_layer(const qnet_op *op) {
  return op->opcode == QNET_OP_CONV2D || op->opcode == QNET_OP_DENSE;
}

/* depth[value id] of all results, in program order. */
static void measure_depth(const qnet_region *body, int *depth) {
  for (const qnet_op *op = body->first; op != NULL; op = op->next) {
    int deepest = 0;
    for (int i = 0; i < op->operand_count; i++)
      if (depth[op->operand[i]->id] > deepest) deepest = depth[op->operand[i]->id];
    for (int i = 0; i < op->result_count; i++)
      depth[op->result[i].id] = deepest + qnet_is_layer(op);
  }
}

/* Operations of one tensor that leave a way what it is. */
static bool is_step(const qnet_op *op) {
  switch (op->opcode) {
  case QNET_OP_BATCH_NORM:
  case QNET_OP_RELU:
  case QNET_OP_MAX_POOL2D:
  case QNET_OP_AVG_POOL2D:
  case QNET_OP_SLICE:
  case QNET_OP_PAD: return true;
  default: return false;
  }
}

static bool is_pointwise(const qnet_op *op) {
  const int64_t *w = op->operand[1]->type->dim;
  return op->opcode == QNET_OP_CONV2D && w[1] == 1 && w[2] == 1;
}

/* The layer that v comes from through steps, or NULL. */
static const qnet_op *layer_before(const qnet_value *v) {
  const qnet_op *op = v->def;
  while (op != NULL && is_step(op))
    op = op->operand[0]->def;
  return op != NULL && qnet_is_layer(op) ? op : NULL;
}

static qnet_op *only_user(const qnet_value *v) {
  return v->uses != NULL && v->uses->next == NULL ? v->uses->op : NULL;
}

static bool is_projection(const qnet_op *layer, const int *depth) {
  if (!is_pointwise(layer)) return false;
  const qnet_value *v = &layer->result[0];
  const qnet_op *user = only_user(v);
  for (; user != NULL && is_step(user); user = only_user(v))
    v = &user->result[0];
  if (user == NULL || user->opcode != QNET_OP_ADD) return false;
  const qnet_value *other = user->operand[user->operand[0] == v];
  const qnet_op *beside = layer_before(other);
  if (depth[other->id] != depth[v->id]) return depth[other->id] > depth[v->id];
  return beside != NULL && !is_pointwise(beside);
}

static qnet_edge_layers find_edges(const qnet_region *body, const int *depth) {
  qnet_edge_layers of_all = {0}, proper = {0};
  for (const qnet_op *op = body->first; op != NULL; op = op->next) {
    if (!qnet_is_layer(op)) continue;
    if (of_all.first == NULL) of_all.first = op;
    of_all.last = op;
    if (is_projection(op, depth)) continue;
    if (proper.first == NULL) proper.first = op;
    proper.last = op;
  }
  return proper.first != NULL ? proper : of_all;
}

qnet_status qnet_edge_layers_find(const qnet_symbol *function, const qnet_allocator *a,
                                  qnet_edge_layers *out, qnet_diag *d) {
  const int values = qnet_function_number_values(function);
  int *depth = qnet_alloc_array(a, (size_t)values + 1, sizeof *depth);
  if (depth == NULL) return qnet_out_of_memory(d);
  for (int i = 0; i < values; i++)
    depth[i] = 0;
  measure_depth(function->body, depth);
  *out = find_edges(function->body, depth);
  qnet_free(a, depth, ((size_t)values + 1) * sizeof *depth);
  return QNET_OK;
}

/* ---- features ---------------------------------------------------------------------------------*/

int qnet_layer_count(const qnet_region *body) {
  int count = 0;
  for (const qnet_op *op = body->first; op != NULL; op = op->next)
    count += qnet_is_layer(op);
  return count;
}

static qnet_value *input_of(const qnet_op *layer) {
  qnet_value *x = layer->operand[0];
  const bool quantized = x->def != NULL && x->def->opcode == QNET_OP_QUANTIZE;
  return quantized ? x->def->operand[0] : x;
}

int qnet_layer_features(const qnet_region *body, qnet_value **out) {
  const qnet_value *input = NULL;
  int count = 0;
  for (const qnet_op *op = body->first; op != NULL; op = op->next) {
    if (!qnet_is_layer(op)) continue;
    qnet_value *x = input_of(op);
    if (input == NULL) input = x;
    bool known = x == input;
    for (int i = 0; i < count && !known; i++)
      known = out[i] == x;
    if (!known) out[count++] = x;
  }
  return count;
}
