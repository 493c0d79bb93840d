/* expose-features: @eval yields its features (layer_order.h) behind its logits, for a network of
 * the same source to follow (autodiff{features=W}). For level nn without quantizers. */
#include "ir/ops.h"
#include "passes/layer_order.h"
#include "passes/passes.h"

static qnet_status expose(qnet_module *m, qnet_region *body, qnet_arena *scratch) {
  qnet_op *yield = body->last;
  const int outputs = yield->operand_count, most = outputs + qnet_layer_count(body);
  qnet_value **yielded = qnet_arena_array(scratch, (size_t)most, sizeof *yielded);
  if (yielded == NULL) return QNET_NO_MEMORY;
  for (int i = 0; i < outputs; i++)
    yielded[i] = yield->operand[i];
  const int features = qnet_layer_features(body, yielded + outputs);
  qnet_builder b = qnet_builder_before(m, yield);
  b.loc = yield->loc;
  qnet_build_yield(&b, yielded, outputs + features);
  qnet_op_erase(yield);
  return m->failed ? QNET_NO_MEMORY : QNET_OK;
}

qnet_status qnet_pass_expose_features(qnet_module *m, const qnet_pass_context *c) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC || eval->body->last == NULL)
    return qnet_error(c->diag, QNET_NO_LOC, "expose-features: the module has no function @eval");
  qnet_arena scratch;
  qnet_arena_init(&scratch, c->allocator);
  const qnet_status status = expose(m, eval->body, &scratch);
  qnet_arena_clear(&scratch);
  return status == QNET_OK ? QNET_OK : qnet_out_of_memory(c->diag);
}
