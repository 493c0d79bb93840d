/* Rules of the loop operations. "Lanes" are the elements of a vector; a scalar has one. */
#include "ir/verify_internal.h"
#include <inttypes.h>
#include <string.h>

/* ---- lanes ----------------------------------------------------------------------------------- */

static bool is_lanes(const qnet_type *t) {
  return t->kind == QNET_TYPE_SCALAR || t->kind == QNET_TYPE_VECTOR;
}

static bool is_integer(const qnet_type *t) {
  return is_lanes(t) && t->dtype != QNET_F32 && t->dtype != QNET_F64 && t->dtype != QNET_CODE;
}

/* Integers to compute with: i1 knows only logic. */
static bool is_number(const qnet_type *t) {
  return is_integer(t) && t->dtype != QNET_I1;
}

static int64_t lanes(const qnet_type *t) {
  return t->kind == QNET_TYPE_VECTOR ? t->dim[0] : 1;
}

static int64_t lane_bits(const qnet_type *t) {
  return t->dtype == QNET_I1 ? 1 : 8 * qnet_type_bytes(t);
}

static qnet_type scalar(qnet_dtype dtype) {
  return (qnet_type){.kind = QNET_TYPE_SCALAR, .dtype = dtype};
}

/* t's lanes with another element type. */
static qnet_type with_dtype(const qnet_type *t, qnet_dtype dtype) {
  qnet_type like = *t;
  like.dtype = dtype;
  return like;
}

static bool wrong_operand(qnet_verifier *v, const qnet_op *op, int index, const char *want) {
  return qnet_verify_error(v, op, "operand %d must be %s, not %s", index, want,
                           qnet_verify_type_text(v, qnet_in(op, index)));
}

static bool wrong_result(qnet_verifier *v, const qnet_op *op, const char *want) {
  return qnet_verify_error(v, op, "the result must be %s, not %s", want,
                           qnet_verify_type_text(v, qnet_out(op, 0)));
}

/* All operands and the result are of operand 0's type. */
static bool expect_one_type(qnet_verifier *v, const qnet_op *op) {
  for (int i = 1; i < op->operand_count; i++)
    if (!qnet_expect_in(v, op, i, *qnet_in(op, 0))) return false;
  return qnet_expect_out(v, op, 0, *qnet_in(op, 0));
}

static bool rule_arithmetic(qnet_verifier *v, const qnet_op *op) {
  if (!is_number(qnet_in(op, 0))) return wrong_operand(v, op, 0, "integers of 8 bits or more");
  return expect_one_type(v, op);
}

static bool rule_logic(qnet_verifier *v, const qnet_op *op) {
  if (!is_integer(qnet_in(op, 0))) return wrong_operand(v, op, 0, "integers");
  return expect_one_type(v, op);
}

static bool rule_float(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *x = qnet_in(op, 0);
  if (!is_lanes(x) || x->dtype != QNET_F32) return wrong_operand(v, op, 0, "f32");
  return expect_one_type(v, op);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static bool expect_buffer(qnet_verifier *v, const qnet_op *op, int index) {
  return qnet_in(op, index)->kind == QNET_TYPE_BUFFER || wrong_operand(v, op, index, "a buffer");
}

static bool rule_alloc(qnet_verifier *v, const qnet_op *op) {
  return qnet_out(op, 0)->kind == QNET_TYPE_BUFFER || wrong_result(v, op, "a buffer");
}

static bool rule_view(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *arena = qnet_in(op, 0), *view = qnet_out(op, 0);
  if (arena->kind != QNET_TYPE_BUFFER || arena->dtype != QNET_I8 || arena->rank != 1)
    return wrong_operand(v, op, 0, "buf<Nxi8>");
  if (!rule_alloc(v, op)) return false;
  const int64_t offset = qnet_op_int(op, "offset", 0), element = qnet_type_bytes(view);
  const int64_t bytes = qnet_type_elements(view) * element;
  if (offset < 0 || bytes > arena->dim[0] || offset > arena->dim[0] - bytes)
    return qnet_verify_error(
        v, op, "%" PRId64 " bytes at offset %" PRId64 " are not in the arena of %" PRId64 " bytes",
        bytes, offset, arena->dim[0]);
  return offset % element == 0 || qnet_verify_error(v, op, "the offset splits an element");
}

static bool rule_zero(qnet_verifier *v, const qnet_op *op) {
  return expect_buffer(v, op, 0);
}

/* Operand `buffer` is one, and an index for each of its dimensions follows. */
static bool expect_indices(qnet_verifier *v, const qnet_op *op, int buffer) {
  if (!expect_buffer(v, op, buffer)) return false;
  const int rank = qnet_in(op, buffer)->rank, indices = op->operand_count - buffer - 1;
  return indices == rank ||
         qnet_verify_error(v, op, "%d indices for a buffer of %d dimensions", indices, rank);
}

/* Operands from..to-1 are i64. */
static bool expect_i64(qnet_verifier *v, const qnet_op *op, int from, int to) {
  for (int i = from; i < to; i++)
    if (!qnet_expect_in(v, op, i, scalar(QNET_I64))) return false;
  return true;
}

static bool expect_access(qnet_verifier *v, const qnet_op *op, int buffer) {
  return expect_indices(v, op, buffer) && expect_i64(v, op, buffer + 1, op->operand_count);
}

static bool rule_load(qnet_verifier *v, const qnet_op *op) {
  if (!is_lanes(qnet_out(op, 0))) return wrong_result(v, op, "a scalar or a vector");
  return expect_access(v, op, 0);
}

static bool rule_store(qnet_verifier *v, const qnet_op *op) {
  if (!is_lanes(qnet_in(op, 0))) return wrong_operand(v, op, 0, "a scalar or a vector");
  return expect_access(v, op, 1);
}

static bool rule_gather(qnet_verifier *v, const qnet_op *op) {
  const int last = op->operand_count - 1;
  if (!expect_indices(v, op, 0) || !expect_i64(v, op, 1, last)) return false;
  const qnet_type *index = qnet_in(op, last), *buffer = qnet_in(op, 0);
  if (index->kind != QNET_TYPE_VECTOR || index->dtype != QNET_I32)
    return wrong_operand(v, op, last, "lanes of i32");
  return qnet_expect_out(v, op, 0, with_dtype(index, buffer->dtype));
}

static bool rule_scatter_add(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *a = qnet_in(op, 0), *buffer = qnet_in(op, 2);
  if (a->kind != QNET_TYPE_VECTOR || a->dtype != QNET_F32)
    return wrong_operand(v, op, 0, "lanes of f32");
  if (!qnet_expect_in(v, op, 1, *a) || !expect_buffer(v, op, 2)) return false;
  if (buffer->dtype != QNET_F32 || buffer->rank != 3 || buffer->dim[2] != 2)
    return wrong_operand(v, op, 2, "buf<RxCx2xf32>");
  return qnet_expect_in(v, op, 3, with_dtype(a, QNET_I32)) && expect_i64(v, op, 4, 5);
}

/* ---- loops ----------------------------------------------------------------------------------- */

static bool expect_bounds(qnet_verifier *v, const qnet_op *op) {
  return qnet_expect_in(v, op, 0, scalar(QNET_I64)) && qnet_expect_in(v, op, 1, scalar(QNET_I64)) &&
         qnet_expect_int(v, op, "step", 1, (int64_t)1 << 31);
}

/* Region argument `index` has that type. */
static bool expect_arg(qnet_verifier *v, const qnet_op *op, int index, qnet_type want) {
  const qnet_type *is = op->region[0]->arg[index].type;
  if (qnet_type_equal(is, &want)) return true;
  return qnet_verify_error(v, op, "argument %d of the region must be %s, not %s", index,
                           qnet_verify_type_text(v, &want), qnet_verify_type_text(v, is));
}

static bool rule_parallel_for(qnet_verifier *v, const qnet_op *op) {
  if (op->parent->parent) return qnet_verify_error(v, op, "must be at the top of its function");
  if (op->region[0]->arg_count != 1)
    return qnet_verify_error(v, op, "the region has one argument, the index");
  return expect_bounds(v, op) && expect_arg(v, op, 0, scalar(QNET_I64));
}

static bool rule_for(qnet_verifier *v, const qnet_op *op) {
  const int carried = op->operand_count - 2;
  if (op->result_count != carried || op->region[0]->arg_count != carried + 1)
    return qnet_verify_error(v, op,
                             "%d initial values need as many results (%d) and, behind the index, "
                             "region arguments (%d)",
                             carried, op->result_count, op->region[0]->arg_count - 1);
  if (!expect_bounds(v, op) || !expect_arg(v, op, 0, scalar(QNET_I64))) return false;
  for (int i = 0; i < carried; i++) {
    const qnet_type *t = qnet_in(op, i + 2);
    if (!is_lanes(t)) return wrong_operand(v, op, i + 2, "a scalar or a vector");
    if (!expect_arg(v, op, i + 1, *t) || !qnet_expect_out(v, op, i, *t)) return false;
  }
  return true;
}

/* ---- making and changing lanes --------------------------------------------------------------- */

/* Signed or unsigned, the value fits that many bits. */
static bool fits(int64_t value, int64_t bits) {
  return bits >= 64 || (value >= -((int64_t)1 << (bits - 1)) && value < (int64_t)1 << bits);
}

static bool rule_const(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *t = qnet_out(op, 0);
  const qnet_attr *i = qnet_op_attr(op, "int"), *f = qnet_op_attr(op, "float");
  if (!i == !f) return qnet_verify_error(v, op, "needs one of int and float");
  if (t->kind != QNET_TYPE_SCALAR) return wrong_result(v, op, "a scalar");
  if (f) return t->dtype == QNET_F32 || t->dtype == QNET_F64 || wrong_result(v, op, "f32 or f64");
  if (!is_integer(t)) return wrong_result(v, op, "an integer");
  return fits(i->i, lane_bits(t)) ||
         qnet_verify_error(v, op, "%" PRId64 " does not fit %s", i->i, qnet_dtype_name(t->dtype));
}

static bool rule_splat(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *t = qnet_out(op, 0);
  if (t->kind != QNET_TYPE_VECTOR) return wrong_result(v, op, "a vector");
  return qnet_expect_in(v, op, 0, scalar(t->dtype));
}

static bool rule_cmp(qnet_verifier *v, const qnet_op *op) {
  static const char *const preds[] = {"eq", "ne", "slt", "sle", "sgt", "sge"};
  const qnet_type *x = qnet_in(op, 0);
  if (!is_number(x)) return wrong_operand(v, op, 0, "integers of 8 bits or more");
  return qnet_expect_word(v, op, "pred", preds, 6) && qnet_expect_in(v, op, 1, *x) &&
         qnet_expect_out(v, op, 0, with_dtype(x, QNET_I1));
}

static bool rule_fcmp(qnet_verifier *v, const qnet_op *op) {
  static const char *const preds[] = {"ogt", "oge", "olt", "ole", "oeq"};
  const qnet_type *x = qnet_in(op, 0);
  if (!is_lanes(x) || x->dtype != QNET_F32) return wrong_operand(v, op, 0, "f32");
  return qnet_expect_word(v, op, "pred", preds, 5) && qnet_expect_in(v, op, 1, *x) &&
         qnet_expect_out(v, op, 0, with_dtype(x, QNET_I1));
}

static bool rule_select(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *c = qnet_in(op, 0), *a = qnet_in(op, 1);
  if (!is_lanes(a)) return wrong_operand(v, op, 1, "a scalar or a vector");
  const bool fine =
      is_lanes(c) && c->dtype == QNET_I1 && (c->kind == QNET_TYPE_SCALAR || lanes(c) == lanes(a));
  if (!fine || (c->kind == QNET_TYPE_VECTOR && a->kind != QNET_TYPE_VECTOR))
    return wrong_operand(v, op, 0, "i1, or as many lanes of it as the values have");
  return qnet_expect_in(v, op, 2, *a) && qnet_expect_out(v, op, 0, *a);
}

static bool cast_is_sound(const char *kind, const qnet_type *from, const qnet_type *to) {
  const int64_t a = lane_bits(from), b = lane_bits(to);
  if (strcmp(kind, "bitcast") == 0) return a > 1 && b > 1 && a * lanes(from) == b * lanes(to);
  if (from->kind != to->kind || lanes(from) != lanes(to)) return false;
  if (strcmp(kind, "sitofp") == 0) return from->dtype == QNET_I32 && to->dtype == QNET_F32;
  if (!is_integer(from) || !is_integer(to)) return false;
  return strcmp(kind, "trunc") == 0 ? a > b : a < b;
}

static bool rule_cast(qnet_verifier *v, const qnet_op *op) {
  static const char *const kinds[] = {"sext", "zext", "trunc", "sitofp", "bitcast"};
  const qnet_type *from = qnet_in(op, 0), *to = qnet_out(op, 0);
  if (!is_lanes(from)) return wrong_operand(v, op, 0, "a scalar or a vector");
  if (!is_lanes(to)) return wrong_result(v, op, "a scalar or a vector");
  if (!qnet_expect_word(v, op, "kind", kinds, 5)) return false;
  const char *kind = qnet_op_string(op, "kind");
  if (cast_is_sound(kind, from, to)) return true;
  return qnet_verify_error(v, op, "%s does not lead from %s to %s", kind,
                           qnet_verify_type_text(v, from), qnet_verify_type_text(v, to));
}

static bool rule_bitmask(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *x = qnet_in(op, 0), *t = qnet_out(op, 0);
  if (!is_lanes(x) || x->dtype != QNET_I1) return wrong_operand(v, op, 0, "i1 or lanes of it");
  if (t->kind != QNET_TYPE_SCALAR || !is_number(t) || lane_bits(t) < lanes(x))
    return wrong_result(v, op, "an integer with a bit for each lane");
  return true;
}

static bool rule_pop_acc(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *acc = qnet_in(op, 0), *x = qnet_in(op, 1);
  if (!is_number(acc)) return wrong_operand(v, op, 0, "integers of 8 bits or more");
  if (!is_number(x) || lanes(acc) * lane_bits(acc) != lanes(x) * lane_bits(x))
    return wrong_operand(v, op, 1, "integers of the accumulator's total width");
  return qnet_expect_out(v, op, 0, *acc);
}

static bool rule_widen_sum(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *x = qnet_in(op, 0), *t = qnet_out(op, 0);
  if (!is_number(x) || x->kind != QNET_TYPE_VECTOR) return wrong_operand(v, op, 0, "integer lanes");
  if (!is_number(t) || lanes(t) * lane_bits(t) != lanes(x) * lane_bits(x) ||
      lane_bits(t) <= lane_bits(x))
    return wrong_result(v, op, "wider integers of the same total width");
  return true;
}

static bool rule_extract(qnet_verifier *v, const qnet_op *op) {
  const qnet_type *x = qnet_in(op, 0);
  if (x->kind != QNET_TYPE_VECTOR) return wrong_operand(v, op, 0, "a vector");
  return qnet_expect_int(v, op, "lane", 0, lanes(x) - 1) &&
         qnet_expect_out(v, op, 0, scalar(x->dtype));
}

qnet_rule qnet_rule_loop(int opcode) {
  static const qnet_rule rules[QNET_OP_COUNT] = {
      [QNET_OP_LOOP_ALLOC] = rule_alloc,
      [QNET_OP_LOOP_VIEW] = rule_view,
      [QNET_OP_LOOP_ZERO] = rule_zero,
      [QNET_OP_LOOP_PARALLEL_FOR] = rule_parallel_for,
      [QNET_OP_LOOP_FOR] = rule_for,
      [QNET_OP_LOOP_CONST] = rule_const,
      [QNET_OP_LOOP_SPLAT] = rule_splat,
      [QNET_OP_LOOP_LOAD] = rule_load,
      [QNET_OP_LOOP_STORE] = rule_store,
      [QNET_OP_LOOP_ADD] = rule_arithmetic,
      [QNET_OP_LOOP_SUB] = rule_arithmetic,
      [QNET_OP_LOOP_MUL] = rule_arithmetic,
      [QNET_OP_LOOP_AND] = rule_logic,
      [QNET_OP_LOOP_OR] = rule_logic,
      [QNET_OP_LOOP_XOR] = rule_logic,
      [QNET_OP_LOOP_SHL] = rule_arithmetic,
      [QNET_OP_LOOP_LSHR] = rule_arithmetic,
      [QNET_OP_LOOP_ASHR] = rule_arithmetic,
      [QNET_OP_LOOP_SMAX] = rule_arithmetic,
      [QNET_OP_LOOP_SMIN] = rule_arithmetic,
      [QNET_OP_LOOP_POPCNT] = rule_arithmetic,
      [QNET_OP_LOOP_FADD] = rule_float,
      [QNET_OP_LOOP_FSUB] = rule_float,
      [QNET_OP_LOOP_FMUL] = rule_float,
      [QNET_OP_LOOP_FMA] = rule_float,
      [QNET_OP_LOOP_CMP] = rule_cmp,
      [QNET_OP_LOOP_FCMP] = rule_fcmp,
      [QNET_OP_LOOP_SELECT] = rule_select,
      [QNET_OP_LOOP_CAST] = rule_cast,
      [QNET_OP_LOOP_BITMASK] = rule_bitmask,
      [QNET_OP_LOOP_POP_ACC] = rule_pop_acc,
      [QNET_OP_LOOP_WIDEN_SUM] = rule_widen_sum,
      [QNET_OP_LOOP_EXTRACT] = rule_extract,
      [QNET_OP_LOOP_GATHER] = rule_gather,
      [QNET_OP_LOOP_SCATTER_ADD] = rule_scatter_add,
  };
  return rules[opcode];
}
