/* Rules of the bits operations: planes, coefficients, kernels. */
#include "ir/verify_internal.h"
#include <inttypes.h>

enum { MAX_CODES = 62 }; /* bit r of a `planes` entry stands for rank r */

/* The result of a quantizer: as many planes as `planes` has entries, in the shape of operand 0
 * (N,1,1,C for N,C); no entry names a rank that n levels do not have. */
static bool expect_plane_result(qnet_verifier *v, const qnet_op *op, int64_t n) {
  const qnet_attr *planes = qnet_op_attr(op, "planes");
  if (n > MAX_CODES) return qnet_verify_error(v, op, "more than %d levels", MAX_CODES);
  for (int i = 0; i < planes->count; i++)
    if (planes->ints[i] < 0 || planes->ints[i] >> n != 0)
      return qnet_verify_error(v, op, "planes[%d] = %" PRId64 " is not in 0..2^%" PRId64 " - 1", i,
                               planes->ints[i], n);
  const qnet_type *x = qnet_in(op, 0);
  const int64_t *d = x->dim;
  if (x->rank == 2) return qnet_expect_out(v, op, 0, qnet_planes4(planes->count, d[0], 1, 1, d[1]));
  if (x->rank == 4)
    return qnet_expect_out(v, op, 0, qnet_planes4(planes->count, d[0], d[1], d[2], d[3]));
  return qnet_verify_error(v, op, "operand 0 must have 2 or 4 dimensions");
}

static bool rule_quantize(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, QNET_ANY_RANK)) return false;
  const qnet_table *t = qnet_expect_table(v, op);
  return t && expect_plane_result(v, op, t->codes);
}

static bool rule_threshold(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_I32, QNET_ANY_RANK) ||
      !qnet_expect_tensor(v, op, 1, QNET_I32, 2))
    return false;
  const int64_t channels = qnet_channels(qnet_in(op, 0)), n = qnet_in(op, 1)->dim[1] + 1;
  return qnet_expect_in(v, op, 1, qnet_tensor2(QNET_I32, channels, n - 1)) &&
         qnet_expect_in(v, op, 2, qnet_tensor1(QNET_I32, channels)) &&
         expect_plane_result(v, op, n);
}

/* One i32 for each plane. */
static bool expect_coefficients(qnet_verifier *v, const qnet_op *op, int planes) {
  if (!qnet_expect_count(v, op, "coef", planes)) return false;
  const qnet_attr *coef = qnet_op_attr(op, "coef");
  for (int i = 0; i < planes; i++)
    if (coef->ints[i] < INT32_MIN || coef->ints[i] > INT32_MAX)
      return qnet_verify_error(v, op, "coef[%d] = %" PRId64 " does not fit i32", i, coef->ints[i]);
  return true;
}

static bool rule_patch_sum(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_planes(v, op, 0)) return false;
  const qnet_type *x = qnet_in(op, 0);
  int64_t h, w;
  return expect_coefficients(v, op, x->bits) &&
         qnet_expect_window(v, op, x->dim[1], x->dim[2], &h, &w) &&
         qnet_expect_out(v, op, 0, qnet_tensor4(QNET_I32, x->dim[0], h, w, 1));
}

static qnet_type tensor3(int64_t a, int64_t b, int64_t c) {
  qnet_type t = qnet_tensor4(QNET_I32, a, b, c, 0);
  t.rank = 3;
  return t;
}

/* Rank 4, or N,O when there is one position. */
static bool expect_conv_result(qnet_verifier *v, const qnet_op *op, int64_t n, int64_t h, int64_t w,
                               int64_t o) {
  if (h == 1 && w == 1 && qnet_out(op, 0)->rank == 2)
    return qnet_expect_out(v, op, 0, qnet_tensor2(QNET_I32, n, o));
  return qnet_expect_out(v, op, 0, qnet_tensor4(QNET_I32, n, h, w, o));
}

static bool rule_conv2d(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_planes(v, op, 0) || !qnet_expect_planes(v, op, 1)) return false;
  const qnet_type *a = qnet_in(op, 0), *w = qnet_in(op, 1);
  if (a->dim[3] != w->dim[3])
    return qnet_verify_error(v, op, "operand 1 has %" PRId64 " input channels instead of %" PRId64,
                             w->dim[3], a->dim[3]);
  int64_t h, wd;
  if (!qnet_expect_in(v, op, 2, tensor3(w->dim[0], w->bits, a->bits)) ||
      !qnet_expect_int(v, op, "shift", 0, 31) ||
      !qnet_expect_window(v, op, a->dim[1], a->dim[2], &h, &wd))
    return false;
  if (op->operand_count == 4)
    return qnet_verify_error(v, op, "patch and v come together: 3 or 5 operands, not 4");
  if (op->operand_count == 5 &&
      (!qnet_expect_in(v, op, 3, qnet_tensor4(QNET_I32, a->dim[0], h, wd, 1)) ||
       !qnet_expect_in(v, op, 4, qnet_tensor1(QNET_I32, w->dim[0]))))
    return false;
  return expect_conv_result(v, op, a->dim[0], h, wd, w->dim[0]);
}

/* Arguments mirror operands; inside, nothing but pure operations, and no kernel. */
static bool rule_kernel(qnet_verifier *v, const qnet_op *op) {
  const qnet_region *body = op->region[0];
  if (body->arg_count != op->operand_count)
    return qnet_verify_error(v, op, "%d operands, but the region has %d arguments",
                             op->operand_count, body->arg_count);
  for (int i = 0; i < body->arg_count; i++)
    if (!qnet_expect_in(v, op, i, *body->arg[i].type)) return false;
  for (const qnet_op *inner = body->first; inner; inner = inner->next) {
    const unsigned traits = qnet_op_def_of(inner->opcode)->traits;
    if (inner->opcode == QNET_OP_BITS_KERNEL || !(traits & (QNET_PURE | QNET_TERMINATOR)))
      return qnet_verify_error(v, inner, "cannot stand in a bits.kernel");
  }
  return true;
}

qnet_rule qnet_rule_bits(int opcode) {
  static const qnet_rule rules[QNET_OP_COUNT] = {
      [QNET_OP_BITS_QUANTIZE] = rule_quantize,   [QNET_OP_BITS_THRESHOLD] = rule_threshold,
      [QNET_OP_BITS_PATCH_SUM] = rule_patch_sum, [QNET_OP_BITS_CONV2D] = rule_conv2d,
      [QNET_OP_BITS_KERNEL] = rule_kernel,
  };
  return rules[opcode];
}
