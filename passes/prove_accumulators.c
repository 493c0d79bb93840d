/* Proves that int32 holds every integer sum (quant -> quant).
 *
 * For each quantized layer and output the exact range of the accumulator follows from the stored
 * weight codes and the levels that the input can take. A layer that could reach 2^31 - 1 is an
 * error, so that thresholds may use INT32_MAX and INT32_MIN for "never" and "always". For layers
 * that will run on bit planes (quant_layer.h says why their sums may wrap on the way), the sum of
 * levels over a window has to fit too.
 *
 * Needs integer layers. Gives no fact and changes nothing. */
#include "ir/ops.h"
#include "passes/passes.h"
#include "passes/quant_layer.h"

static qnet_status too_large(const qnet_quant_layer *l, const char *what, int64_t bound,
                             qnet_diag *d) {
  return qnet_error(d, l->op->loc,
                    "layer '%s': the sum of %s could reach %lld in magnitude, which int32 does not "
                    "hold; use fewer input channels, fewer bits or a smaller grid",
                    l->name, what, (long long)bound);
}

static qnet_status prove_planes(const qnet_quant_layer *l, qnet_arena *scratch, qnet_diag *d) {
  qnet_layer_planes p;
  if (!qnet_quant_layer_planes(l, scratch, &p)) return qnet_out_of_memory(d);
  const int64_t bound = qnet_quant_layer_patch_bound(l, &p);
  return bound < INT32_MAX ? QNET_OK : too_large(l, "the levels in a window", bound, d);
}

static qnet_status prove_layer(const qnet_module *m, qnet_op *op, qnet_arena *scratch,
                               qnet_diag *d) {
  qnet_quant_layer layer;
  QNET_TRY(qnet_quant_layer_read(m, op, scratch, &layer, d));
  const int64_t bound = qnet_quant_layer_bound(&layer);
  if (bound >= INT32_MAX) return too_large(&layer, "products", bound, d);
  return qnet_quant_layer_has_planes(&layer) ? prove_planes(&layer, scratch, d) : QNET_OK;
}

static qnet_status prove_function(const qnet_module *m, const qnet_region *body,
                                  qnet_arena *scratch, qnet_diag *d) {
  bool wrong = false;
  for (qnet_op *op = body->first; op; op = op->next) {
    if (op->opcode != QNET_OP_QUANT_CONV2D && op->opcode != QNET_OP_QUANT_DENSE) continue;
    const qnet_status status = prove_layer(m, op, scratch, d);
    if (status == QNET_ERROR)
      wrong = true;
    else
      QNET_TRY(status);
  }
  return wrong ? QNET_ERROR : QNET_OK;
}

qnet_status qnet_pass_prove_accumulators(qnet_module *m, const qnet_pass_context *c) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (!eval || !eval->body) return QNET_OK;
  qnet_arena scratch;
  qnet_arena_init(&scratch, c->allocator);
  const qnet_status status = prove_function(m, eval->body, &scratch, c->diag);
  qnet_arena_clear(&scratch);
  return status;
}
