/* batch{n=N}: sets the number of images that a call of @eval and @step works on.
 *
 * The leading dimension of the arguments becomes N, and with it that of every value computed from
 * them image by image. Sums over the batch (gradients of weights, statistics) keep their types.
 * A handwritten function may use an argument in a way that has no batch, as a weight say: the
 * verifier finds out, and the pass fails.
 *
 * Needs level nn or quant. Keeps all facts. Breaks nothing: a value does not depend on its batch,
 * but that the bias correction of a variance's moving average is set anew. */
#include "ir/ops.h"
#include "ir/verify.h"
#include "passes/passes.h"
#include <string.h>

/* Which results of an operation have a row per image when their operands do. */
static bool result_is_batched(const qnet_op *op, int index) {
  switch (op->opcode) {
  case QNET_OP_CONV2D_GRAD_WEIGHT:
  case QNET_OP_DENSE_GRAD_WEIGHT:
  case QNET_OP_BIAS_GRAD:
  case QNET_OP_CODE_STATS:
  case QNET_OP_MOVING_AVERAGE:
  case QNET_OP_SGD:
  case QNET_OP_MUON:
  case QNET_OP_ADAM: return false;
  case QNET_OP_BATCH_NORM_TRAIN:
  case QNET_OP_BATCH_NORM_GRAD:
  case QNET_OP_CELL_GRAD: return index == 0;
  case QNET_OP_SOFTMAX_CROSS_ENTROPY: return index == 1;
  default: return true;
  }
}

/* Positions a channel has: n of the statistics of a batch. */
static double samples(const qnet_type *type) {
  return (double)(qnet_type_elements(type) / type->dim[type->rank - 1]);
}

/* The variance of a batch is biased, its moving average is not. */
static void update_variance_scale(qnet_module *m, qnet_op *op) {
  const qnet_value *variance = op->operand[1];
  if (qnet_op_attr(op, "scale") == NULL || variance->def == NULL ||
      variance->def->opcode != QNET_OP_BATCH_NORM_TRAIN)
    return;
  const double n = samples(variance->def->operand[0]->type);
  if (n > 1) qnet_op_set_float(m, op, "scale", n / (n - 1));
}

static void set_batch(qnet_module *m, qnet_value *v, int64_t n, bool *batched) {
  if (v->type->rank == 0) return;
  v->type = qnet_type_with_batch(m, v->type, n);
  batched[v->id] = true;
}

static qnet_status batch_function(qnet_module *m, qnet_symbol *f, int64_t n,
                                  const qnet_pass_context *c) {
  const int count = qnet_function_number_values(f);
  qnet_arena scratch;
  qnet_arena_init(&scratch, c->allocator);
  bool *batched = qnet_arena_array(&scratch, (size_t)count, sizeof *batched);
  if (batched == NULL) return qnet_out_of_memory(c->diag);
  for (int i = 0; i < f->body->arg_count; i++)
    set_batch(m, &f->body->arg[i], n, batched);
  for (qnet_op *op = f->body->first; op != NULL && !m->failed; op = op->next) {
    bool any = false;
    for (int i = 0; i < op->operand_count; i++)
      any = any || batched[op->operand[i]->id];
    for (int i = 0; any && i < op->result_count; i++)
      if (result_is_batched(op, i)) set_batch(m, &op->result[i], n, batched);
    if (op->opcode == QNET_OP_MOVING_AVERAGE) update_variance_scale(m, op);
  }
  qnet_arena_clear(&scratch);
  return m->failed ? qnet_out_of_memory(c->diag) : QNET_OK;
}

qnet_status qnet_pass_batch(qnet_module *m, const qnet_pass_context *c) {
  static const char *const functions[] = {"eval", "step"};
  const int64_t n = qnet_pass_option_int(c, "n", 1);
  if (n < 1 || n > 1 << 20)
    return qnet_error(c->diag, QNET_NO_LOC, "batch: n = %lld is not in 1..1048576", (long long)n);
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    qnet_symbol *f = qnet_symbol_find(m, functions[i]);
    if (f != NULL && f->kind == QNET_SYMBOL_FUNC) QNET_TRY(batch_function(m, f, n, c));
  }
  const qnet_status status = qnet_module_verify(m, c->diag);
  if (status == QNET_ERROR)
    qnet_note(c->diag, QNET_NO_LOC, "'batch' gave every argument a leading dimension of %lld",
              (long long)n);
  return status;
}
