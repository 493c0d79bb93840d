/* Rules of the quant operations: codes and their tables, accumulators. */
#include "ir/verify_internal.h"
#include <inttypes.h>

static const qnet_table *table_of(const qnet_verifier *v, const qnet_type *codes) {
  return qnet_symbol_find(v->module, codes->table)->table;
}

/* Operands 0 and 1 are codes of activations and of weights of `rank` dimensions, with the same
 * number of input channels. */
static bool expect_codes(qnet_verifier *v, const qnet_op *op, int rank) {
  if (!qnet_expect_tensor(v, op, 0, QNET_CODE, rank) ||
      !qnet_expect_tensor(v, op, 1, QNET_CODE, rank))
    return false;
  const qnet_type *x = qnet_in(op, 0), *w = qnet_in(op, 1);
  if (qnet_channels(w) != qnet_channels(x))
    return qnet_verify_error(v, op, "operand 1 has %" PRId64 " input channels instead of %" PRId64,
                             qnet_channels(w), qnet_channels(x));
  if (table_of(v, x)->channels != 1)
    return qnet_verify_error(v, op, "table @%s of the activations must have one channel", x->table);
  const int channels = table_of(v, w)->channels;
  if (channels == 1 || channels == w->dim[0]) return true;
  return qnet_verify_error(v, op, "table @%s has %d channels, the weights %" PRId64, w->table,
                           channels, w->dim[0]);
}

static bool rule_conv2d(qnet_verifier *v, const qnet_op *op) {
  if (!expect_codes(v, op, 4)) return false;
  const int64_t *x = qnet_in(op, 0)->dim, *w = qnet_in(op, 1)->dim;
  int64_t h, wd;
  return qnet_expect_window(v, op, x[1], x[2], &h, &wd) &&
         qnet_expect_out(v, op, 0, qnet_tensor4(QNET_I32, x[0], h, wd, w[0]));
}

static bool rule_dense(qnet_verifier *v, const qnet_op *op) {
  if (!expect_codes(v, op, 2)) return false;
  const int64_t *x = qnet_in(op, 0)->dim, *w = qnet_in(op, 1)->dim;
  return qnet_expect_out(v, op, 0, qnet_tensor2(QNET_I32, x[0], w[0]));
}

static bool rule_affine(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *x = qnet_in(op, 0);
  const qnet_dtype dtype = x->dtype == QNET_I32 ? QNET_I32 : QNET_F32;
  const qnet_type parameter = qnet_tensor1(QNET_F32, qnet_channels(x));
  return qnet_expect_tensor(v, op, 0, dtype, QNET_ANY_RANK) &&
         qnet_expect_in(v, op, 1, parameter) && qnet_expect_in(v, op, 2, parameter) &&
         qnet_expect_out(v, op, 0, qnet_tensor_like(x, QNET_F32));
}

/* The result: codes of the operation's table in the shape of operand 0. */
static bool expect_code_result(qnet_verifier *v, const qnet_op *op, const qnet_table *t) {
  qnet_type want = qnet_tensor_like(qnet_in(op, 0), QNET_CODE);
  want.bits = t->bits;
  want.table = qnet_op_string(op, "table");
  return qnet_expect_out(v, op, 0, want);
}

static bool rule_quantize(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, QNET_ANY_RANK)) return false;
  const qnet_table *t = qnet_expect_table(v, op);
  return t && expect_code_result(v, op, t);
}

static bool rule_round(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, QNET_ANY_RANK)) return false;
  return qnet_expect_table(v, op) &&
         qnet_expect_out(v, op, 0, qnet_tensor_like(qnet_in(op, 0), QNET_F32));
}

static bool rule_threshold(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_I32, QNET_ANY_RANK)) return false;
  const qnet_table *t = qnet_expect_table(v, op);
  if (!t) return false;
  const int64_t channels = qnet_channels(qnet_in(op, 0));
  return qnet_expect_in(v, op, 1, qnet_tensor2(QNET_I32, channels, t->codes - 1)) &&
         qnet_expect_in(v, op, 2, qnet_tensor1(QNET_I32, channels)) && expect_code_result(v, op, t);
}

static bool rule_max_pool2d(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_I32, 4)) return false;
  const int64_t *x = qnet_in(op, 0)->dim;
  int64_t h, w;
  return qnet_expect_in(v, op, 1, qnet_tensor1(QNET_I32, x[3])) &&
         qnet_expect_window(v, op, x[1], x[2], &h, &w) &&
         qnet_expect_out(v, op, 0, qnet_tensor4(QNET_I32, x[0], h, w, x[3]));
}

qnet_rule qnet_rule_quant(int opcode) {
  static const qnet_rule rules[QNET_OP_COUNT] = {
      [QNET_OP_QUANT_QUANTIZE] = rule_quantize,   [QNET_OP_QUANT_CONV2D] = rule_conv2d,
      [QNET_OP_QUANT_DENSE] = rule_dense,         [QNET_OP_QUANT_AFFINE] = rule_affine,
      [QNET_OP_QUANT_THRESHOLD] = rule_threshold, [QNET_OP_QUANT_MAX_POOL2D] = rule_max_pool2d,
      [QNET_OP_QUANT_ROUND] = rule_round,
  };
  return rules[opcode];
}
