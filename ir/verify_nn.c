/* Rules of the nn operations: shapes and element types. */
#include "ir/lexer.h"
#include "ir/verify_internal.h"
#include <inttypes.h>

/* The dimension that an operand's tensor of one dimension per channel must have. */
static bool expect_vectors(qnet_verifier *v, const qnet_op *op, int first, int64_t channels) {
  for (int i = first; i < op->operand_count; i++)
    if (!qnet_expect_in(v, op, i, qnet_tensor1(QNET_F32, channels))) return false;
  return true;
}

/* f32 in, the same type out. */
static bool rule_unary(qnet_verifier *v, const qnet_op *op) {
  return qnet_expect_tensor(v, op, 0, QNET_F32, QNET_ANY_RANK) &&
         qnet_expect_out(v, op, 0, *qnet_in(op, 0));
}

/* All operands and results are of one f32 type. */
static bool rule_same(qnet_verifier *v, const qnet_op *op) {
  if (!rule_unary(v, op)) return false;
  for (int i = 1; i < op->operand_count; i++)
    if (!qnet_expect_in(v, op, i, *qnet_in(op, 0))) return false;
  return true;
}

static bool rule_normalize(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *x = qnet_in(op, 0);
  const qnet_dtype dtype = x->dtype == QNET_U8 ? QNET_U8 : QNET_F32;
  if (!qnet_expect_tensor(v, op, 0, dtype, QNET_ANY_RANK)) return false;
  if (!qnet_expect_count(v, op, "mean", qnet_channels(x)) ||
      !qnet_expect_count(v, op, "std", qnet_channels(x)))
    return false;
  const qnet_attr *std = qnet_op_attr(op, "std");
  for (int i = 0; i < std->count; i++)
    if (!(std->floats[i] > 0)) return qnet_verify_error(v, op, "std[%d] must be positive", i);
  return qnet_expect_out(v, op, 0, qnet_tensor_like(x, QNET_F32));
}

/* ---- convolutions and dense layers ----------------------------------------------------------- */

static bool expect_inputs(qnet_verifier *v, const qnet_op *op, int index, int64_t is,
                          int64_t want) {
  if (is == want) return true;
  return qnet_verify_error(v, op, "operand %d has %" PRId64 " input channels instead of %" PRId64,
                           index, is, want);
}

static bool rule_conv2d(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, 4) || !qnet_expect_tensor(v, op, 1, QNET_F32, 4))
    return false;
  const int64_t *x = qnet_in(op, 0)->dim, *w = qnet_in(op, 1)->dim;
  int64_t h, wd;
  return expect_inputs(v, op, 1, w[3], x[3]) && expect_vectors(v, op, 2, w[0]) &&
         qnet_expect_window(v, op, x[1], x[2], &h, &wd) &&
         qnet_expect_out(v, op, 0, qnet_tensor4(QNET_F32, x[0], h, wd, w[0]));
}

/* dy, w -> dx: dy must be what the convolution of the result gives. */
static bool rule_conv2d_grad_input(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, 4) || !qnet_expect_tensor(v, op, 1, QNET_F32, 4))
    return false;
  const int64_t *dy = qnet_in(op, 0)->dim, *w = qnet_in(op, 1)->dim;
  const qnet_type *dx = qnet_out(op, 0);
  if (!qnet_is_tensor(dx, QNET_F32, 4))
    return qnet_expect_out(v, op, 0, qnet_tensor4(QNET_F32, dy[0], dy[1], dy[2], w[3]));
  int64_t h, wd;
  return qnet_expect_window(v, op, dx->dim[1], dx->dim[2], &h, &wd) &&
         qnet_expect_in(v, op, 0, qnet_tensor4(QNET_F32, dx->dim[0], h, wd, w[0])) &&
         qnet_expect_out(v, op, 0, qnet_tensor4(QNET_F32, dy[0], dx->dim[1], dx->dim[2], w[3]));
}

/* x, dy -> dw: the kernel's size is the result's. */
static bool rule_conv2d_grad_weight(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, 4) || !qnet_expect_tensor(v, op, 1, QNET_F32, 4))
    return false;
  const int64_t *x = qnet_in(op, 0)->dim, *dy = qnet_in(op, 1)->dim;
  const qnet_type *dw = qnet_out(op, 0);
  if (!qnet_is_tensor(dw, QNET_F32, 4))
    return qnet_verify_error(v, op, "the result must be a tensor of f32 with 4 dimensions");
  int64_t h, wd;
  return qnet_expect_out(v, op, 0, qnet_tensor4(QNET_F32, dy[3], dw->dim[1], dw->dim[2], x[3])) &&
         qnet_expect_window(v, op, x[1], x[2], &h, &wd) &&
         qnet_expect_in(v, op, 1, qnet_tensor4(QNET_F32, x[0], h, wd, dy[3]));
}

static bool rule_bias_grad(qnet_verifier *v, const qnet_op *op) {
  return qnet_expect_tensor(v, op, 0, QNET_F32, QNET_ANY_RANK) &&
         qnet_expect_out(v, op, 0, qnet_tensor1(QNET_F32, qnet_channels(qnet_in(op, 0))));
}

static bool expect_matrices(qnet_verifier *v, const qnet_op *op) {
  return qnet_expect_tensor(v, op, 0, QNET_F32, 2) && qnet_expect_tensor(v, op, 1, QNET_F32, 2);
}

static bool rule_dense(qnet_verifier *v, const qnet_op *op) {
  if (!expect_matrices(v, op)) return false;
  const int64_t *x = qnet_in(op, 0)->dim, *w = qnet_in(op, 1)->dim;
  return expect_inputs(v, op, 1, w[1], x[1]) && expect_vectors(v, op, 2, w[0]) &&
         qnet_expect_out(v, op, 0, qnet_tensor2(QNET_F32, x[0], w[0]));
}

static bool rule_dense_grad_input(qnet_verifier *v, const qnet_op *op) {
  if (!expect_matrices(v, op)) return false;
  const int64_t *dy = qnet_in(op, 0)->dim, *w = qnet_in(op, 1)->dim;
  return qnet_expect_in(v, op, 0, qnet_tensor2(QNET_F32, dy[0], w[0])) &&
         qnet_expect_out(v, op, 0, qnet_tensor2(QNET_F32, dy[0], w[1]));
}

static bool rule_dense_grad_weight(qnet_verifier *v, const qnet_op *op) {
  if (!expect_matrices(v, op)) return false;
  const int64_t *x = qnet_in(op, 0)->dim, *dy = qnet_in(op, 1)->dim;
  return qnet_expect_in(v, op, 1, qnet_tensor2(QNET_F32, x[0], dy[1])) &&
         qnet_expect_out(v, op, 0, qnet_tensor2(QNET_F32, dy[1], x[1]));
}

/* ---- normalization --------------------------------------------------------------------------- */

static bool expect_eps(qnet_verifier *v, const qnet_op *op) {
  const double eps = qnet_op_float(op, "eps", 0);
  return eps >= 0 || qnet_verify_error(v, op, "eps must not be negative");
}

static bool rule_batch_norm(qnet_verifier *v, const qnet_op *op) {
  return rule_unary(v, op) && expect_vectors(v, op, 1, qnet_channels(qnet_in(op, 0))) &&
         expect_eps(v, op);
}

static bool expect_vector_results(qnet_verifier *v, const qnet_op *op) {
  const qnet_type want = qnet_tensor1(QNET_F32, qnet_channels(qnet_in(op, 0)));
  return qnet_expect_out(v, op, 1, want) && qnet_expect_out(v, op, 2, want);
}

static bool rule_batch_norm_train(qnet_verifier *v, const qnet_op *op) {
  return rule_batch_norm(v, op) && expect_vector_results(v, op);
}

static bool rule_batch_norm_grad(qnet_verifier *v, const qnet_op *op) {
  return rule_unary(v, op) && qnet_expect_in(v, op, 1, *qnet_in(op, 0)) &&
         expect_vectors(v, op, 2, qnet_channels(qnet_in(op, 0))) && expect_eps(v, op) &&
         expect_vector_results(v, op);
}

/* ---- pools and reshapes ---------------------------------------------------------------------- */

static bool rule_pool(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, 4)) return false;
  const int64_t *x = qnet_in(op, 0)->dim;
  int64_t h, w;
  return qnet_expect_window(v, op, x[1], x[2], &h, &w) &&
         qnet_expect_out(v, op, 0, qnet_tensor4(QNET_F32, x[0], h, w, x[3]));
}

static bool rule_max_pool2d_grad(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, 4)) return false;
  const int64_t *x = qnet_in(op, 0)->dim;
  int64_t h, w;
  return qnet_expect_window(v, op, x[1], x[2], &h, &w) &&
         qnet_expect_in(v, op, 1, qnet_tensor4(QNET_F32, x[0], h, w, x[3])) &&
         qnet_expect_out(v, op, 0, *qnet_in(op, 0));
}

static bool expect_image_result(qnet_verifier *v, const qnet_op *op) {
  if (qnet_is_tensor(qnet_out(op, 0), QNET_F32, 4)) return true;
  return qnet_verify_error(v, op, "the result must be a tensor of f32 with 4 dimensions, not %s",
                           qnet_verify_type_text(v, qnet_out(op, 0)));
}

static bool rule_avg_pool2d_grad(qnet_verifier *v, const qnet_op *op) {
  if (!expect_image_result(v, op)) return false;
  const int64_t *x = qnet_out(op, 0)->dim;
  int64_t h, w;
  return qnet_expect_window(v, op, x[1], x[2], &h, &w) &&
         qnet_expect_in(v, op, 0, qnet_tensor4(QNET_F32, x[0], h, w, x[3]));
}

static bool rule_global_avg_pool(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, 4)) return false;
  const int64_t *x = qnet_in(op, 0)->dim;
  return qnet_expect_out(v, op, 0, qnet_tensor2(QNET_F32, x[0], x[3]));
}

static bool rule_global_avg_pool_grad(qnet_verifier *v, const qnet_op *op) {
  if (!expect_image_result(v, op)) return false;
  const int64_t *x = qnet_out(op, 0)->dim;
  return qnet_expect_in(v, op, 0, qnet_tensor2(QNET_F32, x[0], x[3]));
}

/* Are begin, begin + stride, ..., `count` places, all below size? No sum here can overflow. */
static bool leads_into(int64_t begin, int64_t stride, int64_t count, int64_t size) {
  if (begin < 0 || begin >= size || stride < 1) return false;
  return count - 1 <= (size - 1 - begin) / stride;
}

/* Every place of `small` lies in `large`. */
static bool expect_lattice(qnet_verifier *v, const qnet_op *op, const qnet_type *small,
                           const qnet_type *large) {
  if (!qnet_expect_count(v, op, "begin", 3) || !qnet_expect_count(v, op, "stride", 3)) return false;
  if (small->dim[0] != large->dim[0])
    return qnet_verify_error(v, op, "the batch is %lld on one side and %lld on the other",
                             (long long)small->dim[0], (long long)large->dim[0]);
  const qnet_lattice l = qnet_op_lattice(op);
  for (int i = 0; i < 3; i++) {
    const int64_t size = large->dim[i + 1];
    if (!leads_into(l.begin[i], l.stride[i], small->dim[i + 1], size))
      return qnet_verify_error(v, op, "begin %lld and stride %lld of %c do not lead into %lld",
                               (long long)l.begin[i], (long long)l.stride[i], "hwc"[i],
                               (long long)size);
  }
  return true;
}

static bool rule_slice(qnet_verifier *v, const qnet_op *op) {
  return qnet_expect_tensor(v, op, 0, QNET_F32, 4) && expect_image_result(v, op) &&
         expect_lattice(v, op, qnet_out(op, 0), qnet_in(op, 0));
}

static bool rule_pad(qnet_verifier *v, const qnet_op *op) {
  return qnet_expect_tensor(v, op, 0, QNET_F32, 4) && expect_image_result(v, op) &&
         expect_lattice(v, op, qnet_in(op, 0), qnet_out(op, 0));
}

/* Any element type, codes too: the result keeps it. */
static bool rule_flatten(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *x = qnet_in(op, 0);
  if (x->kind != QNET_TYPE_TENSOR || x->rank != 4)
    return qnet_verify_error(v, op, "operand 0 must be a tensor with 4 dimensions, not %s",
                             qnet_verify_type_text(v, x));
  qnet_type want = qnet_tensor2(x->dtype, x->dim[0], x->dim[1] * x->dim[2] * x->dim[3]);
  want.bits = x->bits;
  want.table = x->table;
  return qnet_expect_out(v, op, 0, want);
}

static bool rule_flatten_grad(qnet_verifier *v, const qnet_op *op) {
  if (!expect_image_result(v, op)) return false;
  const int64_t *x = qnet_out(op, 0)->dim;
  return qnet_expect_in(v, op, 0, qnet_tensor2(QNET_F32, x[0], x[1] * x[2] * x[3]));
}

/* ---- quantizers ------------------------------------------------------------------------------ */

/* Tables: axis 0 one for each x[o,...], -1 one for all. */
static bool expect_axis(qnet_verifier *v, const qnet_op *op, int64_t *channels) {
  const int64_t axis = qnet_op_int(op, "axis", -1);
  *channels = axis == 0 ? qnet_in(op, 0)->dim[0] : 1;
  if (axis == 0 || axis == -1) return true;
  return qnet_verify_error(v, op, "axis must be 0 or -1");
}

static bool rule_quantize(qnet_verifier *v, const qnet_op *op) {
  static const char *const roles[] = {"weight", "activation"};
  int64_t ch;
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, QNET_ANY_RANK) || !expect_axis(v, op, &ch) ||
      !qnet_expect_int(v, op, "bits", 1, 8) || !qnet_expect_word(v, op, "role", roles, 2) ||
      !qnet_expect_tensor(v, op, 2, QNET_F32, 2))
    return false;
  if (!qnet_is_name(qnet_op_string(op, "site")))
    return qnet_verify_error(v, op, "site \"%s\" is no name of a symbol",
                             qnet_op_string(op, "site"));
  const qnet_type *x = qnet_in(op, 0);
  const int64_t n = qnet_in(op, 2)->dim[1], codes = (int64_t)1 << qnet_op_int(op, "bits", 1);
  if (n < 2 || n > codes)
    return qnet_verify_error(v, op, "%" PRId64 " levels instead of 2..%" PRId64, n, codes);
  return qnet_expect_in(v, op, 1, qnet_tensor2(QNET_F32, ch, n - 1)) &&
         qnet_expect_in(v, op, 2, qnet_tensor2(QNET_F32, ch, n)) &&
         qnet_expect_in(v, op, 3, qnet_tensor2(QNET_U8, ch, n)) && qnet_expect_out(v, op, 0, *x) &&
         qnet_expect_out(v, op, 1, qnet_tensor_like(x, QNET_U8));
}

static bool rule_quantize_grad(qnet_verifier *v, const qnet_op *op) {
  static const char *const masks[] = {"none", "below_max", "inside"};
  int64_t ch;
  if (!rule_unary(v, op) || !expect_axis(v, op, &ch) ||
      !qnet_expect_word(v, op, "mask", masks, 3) || !qnet_expect_tensor(v, op, 1, QNET_F32, 2))
    return false;
  return qnet_expect_in(v, op, 1, qnet_tensor2(QNET_F32, ch, qnet_in(op, 1)->dim[1])) &&
         qnet_expect_in(v, op, 2, *qnet_in(op, 0));
}

static bool rule_cell_grad(qnet_verifier *v, const qnet_op *op) {
  int64_t ch;
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, QNET_ANY_RANK) || !expect_axis(v, op, &ch) ||
      !qnet_expect_tensor(v, op, 2, QNET_F32, 2))
    return false;
  const int64_t n = qnet_in(op, 2)->dim[1];
  if (n < 2) return qnet_verify_error(v, op, "a gradient has at least 2 cells");
  return qnet_expect_in(v, op, 1, qnet_tensor2(QNET_F32, ch, n - 1)) &&
         qnet_expect_in(v, op, 2, qnet_tensor2(QNET_F32, ch, n)) &&
         qnet_expect_in(v, op, 3, qnet_tensor2(QNET_F32, ch, n)) &&
         qnet_expect_in(v, op, 4, *qnet_in(op, 0)) && qnet_expect_out(v, op, 0, *qnet_in(op, 0)) &&
         qnet_expect_out(v, op, 1, qnet_tensor2(QNET_F64, ch, n)) &&
         qnet_expect_out(v, op, 2, qnet_tensor2(QNET_F64, ch, n));
}

static bool rule_moment_grad(qnet_verifier *v, const qnet_op *op) {
  if (!rule_unary(v, op) || !qnet_expect_tensor(v, op, 2, QNET_F64, 2)) return false;
  const int64_t n = qnet_in(op, 2)->dim[1];
  return qnet_expect_in(v, op, 1, *qnet_in(op, 0)) &&
         qnet_expect_in(v, op, 2, qnet_tensor2(QNET_F64, 1, n)) &&
         qnet_expect_in(v, op, 3, qnet_tensor2(QNET_F64, 1, n)) &&
         qnet_expect_in(v, op, 4, qnet_tensor2(QNET_F32, 4, n));
}

static bool rule_code_stats(qnet_verifier *v, const qnet_op *op) {
  int64_t ch;
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, QNET_ANY_RANK) ||
      !qnet_expect_int(v, op, "bits", 1, 8))
    return false;
  if (qnet_op_int(op, "axis", -1) == 1)
    ch = qnet_channels(qnet_in(op, 0));
  else if (!expect_axis(v, op, &ch))
    return false;
  const int64_t codes = (int64_t)1 << qnet_op_int(op, "bits", 1);
  return qnet_expect_in(v, op, 1, qnet_tensor_like(qnet_in(op, 0), QNET_U8)) &&
         qnet_expect_out(v, op, 0, qnet_tensor2(QNET_I64, ch, codes)) &&
         qnet_expect_out(v, op, 1, qnet_tensor2(QNET_F64, ch, codes));
}

/* ---- training -------------------------------------------------------------------------------- */

static bool rule_softmax_cross_entropy(qnet_verifier *v, const qnet_op *op) {
  if (!qnet_expect_tensor(v, op, 0, QNET_F32, 2)) return false;
  const qnet_type *logits = qnet_in(op, 0);
  if (op->operand_count > 2 && !qnet_expect_in(v, op, 2, *logits)) return false;
  return qnet_expect_in(v, op, 1, qnet_tensor1(QNET_I32, logits->dim[0])) &&
         qnet_expect_out(v, op, 0, qnet_tensor0(QNET_F32)) && qnet_expect_out(v, op, 1, *logits) &&
         qnet_expect_out(v, op, 2, qnet_tensor0(QNET_I32));
}

static bool rule_sgd(qnet_verifier *v, const qnet_op *op) {
  const qnet_type w = *qnet_in(op, 0);
  return rule_unary(v, op) && qnet_expect_in(v, op, 1, w) && qnet_expect_in(v, op, 2, w) &&
         qnet_expect_in(v, op, 3, qnet_tensor0(QNET_F32)) && qnet_expect_out(v, op, 1, w);
}

static bool rule_muon(qnet_verifier *v, const qnet_op *op) {
  if (qnet_in(op, 0)->rank < 2)
    return qnet_verify_error(v, op, "operand 0 must have two dimensions or more");
  return rule_sgd(v, op);
}

static bool rule_adam(qnet_verifier *v, const qnet_op *op) {
  const qnet_type w = *qnet_in(op, 0);
  if (!rule_unary(v, op)) return false;
  for (int i = 1; i < 4; i++)
    if (!qnet_expect_in(v, op, i, w)) return false;
  return qnet_expect_in(v, op, 4, qnet_tensor0(QNET_I64)) &&
         qnet_expect_in(v, op, 5, qnet_tensor0(QNET_F32)) && qnet_expect_out(v, op, 1, w) &&
         qnet_expect_out(v, op, 2, w) && qnet_expect_out(v, op, 3, qnet_tensor0(QNET_I64));
}

qnet_rule qnet_rule_nn(int opcode) {
  static const qnet_rule rules[QNET_OP_COUNT] = {
      [QNET_OP_NORMALIZE] = rule_normalize,
      [QNET_OP_CONV2D] = rule_conv2d,
      [QNET_OP_CONV2D_GRAD_INPUT] = rule_conv2d_grad_input,
      [QNET_OP_CONV2D_GRAD_WEIGHT] = rule_conv2d_grad_weight,
      [QNET_OP_BIAS_GRAD] = rule_bias_grad,
      [QNET_OP_DENSE] = rule_dense,
      [QNET_OP_DENSE_GRAD_INPUT] = rule_dense_grad_input,
      [QNET_OP_DENSE_GRAD_WEIGHT] = rule_dense_grad_weight,
      [QNET_OP_BATCH_NORM] = rule_batch_norm,
      [QNET_OP_BATCH_NORM_TRAIN] = rule_batch_norm_train,
      [QNET_OP_BATCH_NORM_GRAD] = rule_batch_norm_grad,
      [QNET_OP_MOVING_AVERAGE] = rule_same,
      [QNET_OP_RELU] = rule_same,
      [QNET_OP_RELU_GRAD] = rule_same,
      [QNET_OP_FEATURE_GRAD] = rule_same,
      [QNET_OP_MAX_POOL2D] = rule_pool,
      [QNET_OP_MAX_POOL2D_GRAD] = rule_max_pool2d_grad,
      [QNET_OP_AVG_POOL2D] = rule_pool,
      [QNET_OP_AVG_POOL2D_GRAD] = rule_avg_pool2d_grad,
      [QNET_OP_GLOBAL_AVG_POOL] = rule_global_avg_pool,
      [QNET_OP_GLOBAL_AVG_POOL_GRAD] = rule_global_avg_pool_grad,
      [QNET_OP_SLICE] = rule_slice,
      [QNET_OP_PAD] = rule_pad,
      [QNET_OP_FLATTEN] = rule_flatten,
      [QNET_OP_FLATTEN_GRAD] = rule_flatten_grad,
      [QNET_OP_ADD] = rule_same,
      [QNET_OP_QUANTIZE] = rule_quantize,
      [QNET_OP_QUANTIZE_GRAD] = rule_quantize_grad,
      [QNET_OP_CELL_GRAD] = rule_cell_grad,
      [QNET_OP_MOMENT_GRAD] = rule_moment_grad,
      [QNET_OP_CODE_STATS] = rule_code_stats,
      [QNET_OP_SOFTMAX_CROSS_ENTROPY] = rule_softmax_cross_entropy,
      [QNET_OP_SGD] = rule_sgd,
      [QNET_OP_MUON] = rule_muon,
      [QNET_OP_ADAM] = rule_adam,
  };
  return rules[opcode];
}
