/* The computing operations of the loop level, one handler for each operation and width. Integers
 * are computed unsigned, so that they wrap; vectors of i1 hold one byte a lane. */
#include "ir/interp_loop.h"

#include <math.h>
#include <string.h>

#define HANDLER(NAME) static const qnet_loop_instr *NAME(const qnet_loop_instr *in, qnet_diag *diag)

/* Handlers of 8, 16, 32 and 64 bits, in the order of `width_of`. */
enum { WIDTHS = 4 };
#define WIDTHS_OF(NAME)                                                                            \
  { NAME##_8, NAME##_16, NAME##_32, NAME##_64 }
#define ALL_WIDTHS(DEFINE, NAME, EXPR)                                                             \
  DEFINE(NAME, 8, EXPR) DEFINE(NAME, 16, EXPR) DEFINE(NAME, 32, EXPR) DEFINE(NAME, 64, EXPR)

/* ---- arithmetic ----------------------------------------------------------------------------- */

#define BINARY_OF(NAME, TYPE, RESULT, EXPR)                                                        \
  HANDLER(NAME) {                                                                                  \
    (void)diag;                                                                                    \
    RESULT *restrict result = in->dst;                                                             \
    const TYPE *x = in->a, *y = in->b;                                                             \
    for (int64_t i = 0; i < in->lanes; i++) {                                                      \
      const TYPE a = x[i], b = y[i];                                                               \
      result[i] = (RESULT)(EXPR);                                                                  \
    }                                                                                              \
    return in + 1;                                                                                 \
  }
#define UNSIGNED(NAME, BITS, EXPR) BINARY_OF(NAME##_##BITS, uint##BITS##_t, uint##BITS##_t, EXPR)
#define SIGNED(NAME, BITS, EXPR)   BINARY_OF(NAME##_##BITS, int##BITS##_t, int##BITS##_t, EXPR)
#define COMPARE(NAME, BITS, EXPR)  BINARY_OF(NAME##_##BITS, int##BITS##_t, uint8_t, EXPR)

ALL_WIDTHS(UNSIGNED, add, a + b)
ALL_WIDTHS(UNSIGNED, sub, a - b)
ALL_WIDTHS(UNSIGNED, mul, 1u * (a) * (b)) /* 1u: 16 bit factors would multiply as int */
ALL_WIDTHS(UNSIGNED, and, (a) & (b))
ALL_WIDTHS(UNSIGNED, or, a | b)
ALL_WIDTHS(UNSIGNED, xor, a ^ b)
ALL_WIDTHS(SIGNED, smax, a > b ? a : b)
ALL_WIDTHS(SIGNED, smin, a < b ? a : b)
ALL_WIDTHS(COMPARE, eq, a == b)
ALL_WIDTHS(COMPARE, ne, a != b)
ALL_WIDTHS(COMPARE, slt, a < b)
ALL_WIDTHS(COMPARE, sle, a <= b)
ALL_WIDTHS(COMPARE, sgt, a > b)
ALL_WIDTHS(COMPARE, sge, a >= b)

BINARY_OF(add_f32, float, float, (a) + (b))
BINARY_OF(sub_f32, float, float, (a) - (b))
BINARY_OF(mul_f32, float, float, (a) * (b))
BINARY_OF(ogt, float, uint8_t, a > b)
BINARY_OF(oge, float, uint8_t, a >= b)
BINARY_OF(olt, float, uint8_t, a < b)
BINARY_OF(ole, float, uint8_t, a <= b)
BINARY_OF(oeq, float, uint8_t, a == b)

HANDLER(fma_f32) {
  (void)diag;
  float *restrict result = in->dst;
  const float *x = in->a, *y = in->b, *z = in->c;
  for (int64_t i = 0; i < in->lanes; i++)
    result[i] = fmaf(x[i], y[i], z[i]);
  return in + 1;
}

/* Shifts by the width or more have no meaning; a lane that does so stops the run. */
static const qnet_loop_instr *shift_error(const qnet_loop_instr *in, qnet_diag *diag) {
  qnet_error(diag, in->op->loc, "'%s' by as many bits as the operand has, or more",
             qnet_op_def_of(in->op->opcode)->name);
  return NULL;
}

#define SHIFT(NAME, BITS, TYPE, EXPR)                                                              \
  HANDLER(NAME##_##BITS) {                                                                         \
    TYPE *restrict result = in->dst;                                                               \
    const TYPE *x = in->a;                                                                         \
    const uint##BITS##_t *y = in->b;                                                               \
    int bad = 0;                                                                                   \
    for (int64_t i = 0; i < in->lanes; i++) {                                                      \
      const TYPE a = x[i];                                                                         \
      const uint##BITS##_t b = y[i] & (BITS - 1);                                                  \
      bad |= y[i] >= BITS;                                                                         \
      result[i] = (TYPE)(EXPR);                                                                    \
    }                                                                                              \
    return bad ? shift_error(in, diag) : in + 1;                                                   \
  }
#define SHIFT_UNSIGNED(NAME, BITS, EXPR) SHIFT(NAME, BITS, uint##BITS##_t, EXPR)
#define SHIFT_SIGNED(NAME, BITS, EXPR)   SHIFT(NAME, BITS, int##BITS##_t, EXPR)

ALL_WIDTHS(SHIFT_UNSIGNED, shl, (uint64_t)a << b)
ALL_WIDTHS(SHIFT_UNSIGNED, lshr, a >> b)
ALL_WIDTHS(SHIFT_SIGNED, ashr, a >> b)

/* ---- counting ------------------------------------------------------------------------------- */

/* Population count by halves: plain arithmetic that compilers turn into vectors everywhere. */
#define POPULATION(BITS)                                                                           \
  static inline uint##BITS##_t population_##BITS(uint##BITS##_t v) {                               \
    typedef uint##BITS##_t word;                                                                   \
    const word two = (word)0x5555555555555555u, four = (word)0x3333333333333333u;                  \
    const word eight = (word)0x0f0f0f0f0f0f0f0fu, ones = (word)0x0101010101010101u;                \
    v = (word)(v - ((v >> 1) & two));                                                              \
    v = (word)((v & four) + ((v >> 2) & four));                                                    \
    v = (word)((v + (v >> 4)) & eight);                                                            \
    return (word)((word)(1u * v * ones) >> (BITS - 8));                                            \
  }
POPULATION(8)
POPULATION(16)
POPULATION(32)
POPULATION(64)

#define POPCNT(NAME, BITS, EXPR)                                                                   \
  HANDLER(NAME##_##BITS) {                                                                         \
    (void)diag;                                                                                    \
    uint##BITS##_t *restrict result = in->dst;                                                     \
    const uint##BITS##_t *x = in->a;                                                               \
    for (int64_t i = 0; i < in->lanes; i++)                                                        \
      result[i] = population_##BITS(x[i]);                                                         \
    return in + 1;                                                                                 \
  }
/* The bits of b in a lane of the accumulator's shape: memory order makes that a plain read. */
#define POP_ACC(NAME, BITS, EXPR) UNSIGNED(NAME, BITS, a + population_##BITS(b))
ALL_WIDTHS(POPCNT, popcnt, )
ALL_WIDTHS(POP_ACC, pop_acc, )

#define WIDEN_SUM(FROM, TO)                                                                        \
  HANDLER(widen_sum_##FROM##_##TO) {                                                               \
    (void)diag;                                                                                    \
    uint##TO##_t *restrict result = in->dst;                                                       \
    const uint##FROM##_t *x = in->a;                                                               \
    for (int64_t i = 0; i < in->lanes; i++) {                                                      \
      uint##TO##_t sum = 0;                                                                        \
      for (int64_t k = 0; k < TO / FROM; k++)                                                      \
        sum = (uint##TO##_t)(sum + x[i * (TO / FROM) + k]);                                        \
      result[i] = sum;                                                                             \
    }                                                                                              \
    return in + 1;                                                                                 \
  }
WIDEN_SUM(8, 16)
WIDEN_SUM(8, 32)
WIDEN_SUM(8, 64)
WIDEN_SUM(16, 32)
WIDEN_SUM(16, 64)
WIDEN_SUM(32, 64)

#define BITMASK(NAME, BITS, EXPR)                                                                  \
  HANDLER(NAME##_##BITS) {                                                                         \
    (void)diag;                                                                                    \
    const uint8_t *x = in->a;                                                                      \
    uint64_t mask = 0;                                                                             \
    for (int64_t i = 0; i < in->lanes; i++)                                                        \
      mask |= (uint64_t)(x[i] & 1) << i;                                                           \
    *(uint##BITS##_t *)in->dst = (uint##BITS##_t)mask;                                             \
    return in + 1;                                                                                 \
  }
ALL_WIDTHS(BITMASK, bitmask, )

/* ---- moving --------------------------------------------------------------------------------- */

#define SPLAT(NAME, BITS, EXPR)                                                                    \
  HANDLER(NAME##_##BITS) {                                                                         \
    (void)diag;                                                                                    \
    uint##BITS##_t *restrict result = in->dst;                                                     \
    const uint##BITS##_t x = *(const uint##BITS##_t *)in->a;                                       \
    for (int64_t i = 0; i < in->lanes; i++)                                                        \
      result[i] = x;                                                                               \
    return in + 1;                                                                                 \
  }
#define EXTRACT(NAME, BITS, EXPR)                                                                  \
  HANDLER(NAME##_##BITS) {                                                                         \
    (void)diag;                                                                                    \
    *(uint##BITS##_t *)in->dst = ((const uint##BITS##_t *)in->a)[in->imm];                         \
    return in + 1;                                                                                 \
  }
#define SELECT(NAME, BITS, EXPR)                                                                   \
  HANDLER(NAME##_##BITS) {                                                                         \
    (void)diag;                                                                                    \
    uint##BITS##_t *restrict result = in->dst;                                                     \
    const uint8_t *condition = in->a;                                                              \
    const uint##BITS##_t *x = in->b, *y = in->c;                                                   \
    for (int64_t i = 0; i < in->lanes; i++)                                                        \
      result[i] = condition[i] ? x[i] : y[i];                                                      \
    return in + 1;                                                                                 \
  }
ALL_WIDTHS(SPLAT, splat, )
ALL_WIDTHS(EXTRACT, extract, )
ALL_WIDTHS(SELECT, select, )

HANDLER(select_scalar) {
  (void)diag;
  memcpy(in->dst, *(const uint8_t *)in->a ? in->b : in->c, (size_t)in->imm);
  return in + 1;
}

HANDLER(copy_bits) {
  (void)diag;
  memcpy(in->dst, in->a, (size_t)in->imm);
  return in + 1;
}

/* ---- conversions ---------------------------------------------------------------------------- */

#define CONVERT(NAME, FROM, TO, EXPR)                                                              \
  HANDLER(NAME) {                                                                                  \
    (void)diag;                                                                                    \
    TO *restrict result = in->dst;                                                                 \
    const FROM *x = in->a;                                                                         \
    for (int64_t i = 0; i < in->lanes; i++) {                                                      \
      const FROM a = x[i];                                                                         \
      result[i] = (TO)(EXPR);                                                                      \
    }                                                                                              \
    return in + 1;                                                                                 \
  }
#define CONVERT_TO_ALL(FROM)                                                                       \
  CONVERT(unsigned_##FROM##_8, uint##FROM##_t, uint8_t, a)                                         \
  CONVERT(unsigned_##FROM##_16, uint##FROM##_t, uint16_t, a)                                       \
  CONVERT(unsigned_##FROM##_32, uint##FROM##_t, uint32_t, a)                                       \
  CONVERT(unsigned_##FROM##_64, uint##FROM##_t, uint64_t, a)                                       \
  CONVERT(signed_##FROM##_8, int##FROM##_t, int8_t, a)                                             \
  CONVERT(signed_##FROM##_16, int##FROM##_t, int16_t, a)                                           \
  CONVERT(signed_##FROM##_32, int##FROM##_t, int32_t, a)                                           \
  CONVERT(signed_##FROM##_64, int##FROM##_t, int64_t, a)                                           \
  CONVERT(to_bit_##FROM, uint##FROM##_t, uint8_t, a & 1)                                           \
  CONVERT(from_bit_##FROM, uint8_t, int##FROM##_t, -(a & 1))
CONVERT_TO_ALL(8)
CONVERT_TO_ALL(16)
CONVERT_TO_ALL(32)
CONVERT_TO_ALL(64)
CONVERT(sitofp, int32_t, float, a)

/* ---- choosing ------------------------------------------------------------------------------- */

/* Operations whose operands and result all have one integer type. */
static const qnet_loop_fn integer_fn[QNET_OP_COUNT][WIDTHS] = {
    [QNET_OP_LOOP_ADD] = WIDTHS_OF(add),   [QNET_OP_LOOP_SUB] = WIDTHS_OF(sub),
    [QNET_OP_LOOP_MUL] = WIDTHS_OF(mul),   [QNET_OP_LOOP_AND] = WIDTHS_OF(and),
    [QNET_OP_LOOP_OR] = WIDTHS_OF(or),     [QNET_OP_LOOP_XOR] = WIDTHS_OF(xor),
    [QNET_OP_LOOP_SHL] = WIDTHS_OF(shl),   [QNET_OP_LOOP_LSHR] = WIDTHS_OF(lshr),
    [QNET_OP_LOOP_ASHR] = WIDTHS_OF(ashr), [QNET_OP_LOOP_SMAX] = WIDTHS_OF(smax),
    [QNET_OP_LOOP_SMIN] = WIDTHS_OF(smin), [QNET_OP_LOOP_POPCNT] = WIDTHS_OF(popcnt),
};

/* Index of the handler for an element, by its bytes. */
static int width_of(const qnet_type *type) {
  switch (qnet_dtype_bytes(type->dtype)) {
  case 1: return 0;
  case 2: return 1;
  case 4: return 2;
  default: return 3;
  }
}

static bool is_float(const qnet_type *type) {
  return type->dtype == QNET_F32 || type->dtype == QNET_F64;
}

static bool same_types(const qnet_op *op) {
  for (int i = 0; i < op->operand_count; i++)
    if (op->operand[i]->type != op->result[0].type) return false;
  return true;
}

static qnet_loop_fn choose_integer(const qnet_op *op) {
  const qnet_type *type = op->result[0].type;
  const bool logic = op->opcode == QNET_OP_LOOP_AND || op->opcode == QNET_OP_LOOP_OR ||
                     op->opcode == QNET_OP_LOOP_XOR;
  if (!same_types(op) || is_float(type) || (type->dtype == QNET_I1 && !logic)) return NULL;
  return integer_fn[op->opcode][width_of(type)];
}

static qnet_loop_fn choose_float(const qnet_op *op, qnet_loop_fn fn) {
  return same_types(op) && op->result[0].type->dtype == QNET_F32 ? fn : NULL;
}

typedef struct predicate {
  const char *name;
  qnet_loop_fn fn[WIDTHS];
} predicate;

static const predicate integer_predicates[] = {
    {"eq", WIDTHS_OF(eq)},   {"ne", WIDTHS_OF(ne)},   {"slt", WIDTHS_OF(slt)},
    {"sle", WIDTHS_OF(sle)}, {"sgt", WIDTHS_OF(sgt)}, {"sge", WIDTHS_OF(sge)},
};
static const predicate float_predicates[] = {
    {"ogt", {ogt}}, {"oge", {oge}}, {"olt", {olt}}, {"ole", {ole}}, {"oeq", {oeq}},
};

static qnet_loop_fn choose_compare(const qnet_op *op) {
  const qnet_type *type = op->operand[0]->type;
  const bool floats = op->opcode == QNET_OP_LOOP_FCMP;
  const char *name = qnet_op_string(op, "pred");
  if (name == NULL || op->operand[1]->type != type || floats != (type->dtype == QNET_F32) ||
      type->dtype == QNET_F64 || op->result[0].type->dtype != QNET_I1 ||
      qnet_loop_lanes(op->result[0].type) != qnet_loop_lanes(type))
    return NULL;
  const predicate *p = floats ? float_predicates : integer_predicates;
  const size_t count =
      floats ? sizeof float_predicates / sizeof *p : sizeof integer_predicates / sizeof *p;
  for (size_t i = 0; i < count; i++)
    if (strcmp(p[i].name, name) == 0) return p[i].fn[floats ? 0 : width_of(type)];
  return NULL;
}

#define CONVERSIONS(SIGN)                                                                          \
  { WIDTHS_OF(SIGN##_8), WIDTHS_OF(SIGN##_16), WIDTHS_OF(SIGN##_32), WIDTHS_OF(SIGN##_64) }
static const qnet_loop_fn convert_unsigned[WIDTHS][WIDTHS] = CONVERSIONS(unsigned);
static const qnet_loop_fn convert_signed[WIDTHS][WIDTHS] = CONVERSIONS(signed);
static const qnet_loop_fn convert_to_bit[WIDTHS] = WIDTHS_OF(to_bit);
static const qnet_loop_fn convert_from_bit[WIDTHS] = WIDTHS_OF(from_bit);

static qnet_loop_fn choose_integer_cast(const char *kind, const qnet_type *from,
                                        const qnet_type *to) {
  const int f = width_of(from), t = width_of(to);
  const bool from_bit = from->dtype == QNET_I1, to_bit = to->dtype == QNET_I1;
  if (strcmp(kind, "trunc") == 0) {
    if (to_bit) return from_bit ? NULL : convert_to_bit[f];
    return f > t ? convert_unsigned[f][t] : NULL;
  }
  const bool widens = !to_bit && (from_bit || t > f);
  if (!widens) return NULL;
  if (strcmp(kind, "zext") == 0) return convert_unsigned[f][t];
  if (strcmp(kind, "sext") == 0) return from_bit ? convert_from_bit[t] : convert_signed[f][t];
  return NULL;
}

static qnet_loop_fn choose_cast(const qnet_op *op) {
  const qnet_type *from = op->operand[0]->type, *to = op->result[0].type;
  const char *kind = qnet_op_string(op, "kind");
  if (kind == NULL) return NULL;
  if (strcmp(kind, "bitcast") == 0) {
    const bool bits = from->dtype == QNET_I1 || to->dtype == QNET_I1;
    return !bits && qnet_loop_bytes(from) == qnet_loop_bytes(to) ? copy_bits : NULL;
  }
  if (qnet_loop_lanes(from) != qnet_loop_lanes(to) || is_float(from)) return NULL;
  if (strcmp(kind, "sitofp") == 0)
    return from->dtype == QNET_I32 && to->dtype == QNET_F32 ? sitofp : NULL;
  return is_float(to) ? NULL : choose_integer_cast(kind, from, to);
}

static qnet_loop_fn choose_select(const qnet_op *op) {
  static const qnet_loop_fn fn[WIDTHS] = WIDTHS_OF(select);
  const qnet_type *condition = op->operand[0]->type, *type = op->result[0].type;
  if (condition->dtype != QNET_I1 || op->operand[1]->type != type || op->operand[2]->type != type)
    return NULL;
  if (condition->kind == QNET_TYPE_SCALAR) return select_scalar;
  return qnet_loop_lanes(condition) == qnet_loop_lanes(type) ? fn[width_of(type)] : NULL;
}

static qnet_loop_fn choose_widen_sum(const qnet_op *op) {
  static const qnet_loop_fn fn[WIDTHS][WIDTHS] = {
      {NULL, widen_sum_8_16, widen_sum_8_32, widen_sum_8_64},
      {NULL, NULL, widen_sum_16_32, widen_sum_16_64},
      {NULL, NULL, NULL, widen_sum_32_64},
  };
  const qnet_type *from = op->operand[0]->type, *to = op->result[0].type;
  if (is_float(from) || is_float(to) || from->dtype == QNET_I1 ||
      qnet_loop_bytes(from) != qnet_loop_bytes(to))
    return NULL;
  return fn[width_of(from)][width_of(to)];
}

static qnet_loop_fn choose_pop_acc(const qnet_op *op) {
  static const qnet_loop_fn fn[WIDTHS] = WIDTHS_OF(pop_acc);
  const qnet_type *acc = op->operand[0]->type, *x = op->operand[1]->type;
  if (op->result[0].type != acc || is_float(acc) || acc->dtype == QNET_I1 || x->dtype == QNET_I1 ||
      qnet_loop_bytes(acc) != qnet_loop_bytes(x))
    return NULL;
  return fn[width_of(acc)];
}

static qnet_loop_fn choose_lanes(const qnet_op *op) {
  static const qnet_loop_fn splat_fn[WIDTHS] = WIDTHS_OF(splat);
  static const qnet_loop_fn extract_fn[WIDTHS] = WIDTHS_OF(extract);
  static const qnet_loop_fn bitmask_fn[WIDTHS] = WIDTHS_OF(bitmask);
  const qnet_type *x = op->operand[0]->type, *type = op->result[0].type;
  const int64_t lane = qnet_op_int(op, "lane", -1);
  switch (op->opcode) {
  case QNET_OP_LOOP_SPLAT:
    return x->dtype == type->dtype && x->kind == QNET_TYPE_SCALAR ? splat_fn[width_of(type)] : NULL;
  case QNET_OP_LOOP_EXTRACT:
    return x->dtype == type->dtype && type->kind == QNET_TYPE_SCALAR && lane >= 0 &&
                   lane < qnet_loop_lanes(x)
               ? extract_fn[width_of(type)]
               : NULL;
  default: /* bitmask */
    return x->dtype == QNET_I1 && !is_float(type) && type->kind == QNET_TYPE_SCALAR &&
                   qnet_loop_lanes(x) <= 8 * qnet_dtype_bytes(type->dtype)
               ? bitmask_fn[width_of(type)]
               : NULL;
  }
}

static qnet_loop_fn choose_fn(const qnet_op *op) {
  switch (op->opcode) {
  case QNET_OP_LOOP_FADD: return choose_float(op, add_f32);
  case QNET_OP_LOOP_FSUB: return choose_float(op, sub_f32);
  case QNET_OP_LOOP_FMUL: return choose_float(op, mul_f32);
  case QNET_OP_LOOP_FMA: return choose_float(op, fma_f32);
  case QNET_OP_LOOP_CMP:
  case QNET_OP_LOOP_FCMP: return choose_compare(op);
  case QNET_OP_LOOP_CAST: return choose_cast(op);
  case QNET_OP_LOOP_SELECT: return choose_select(op);
  case QNET_OP_LOOP_WIDEN_SUM: return choose_widen_sum(op);
  case QNET_OP_LOOP_POP_ACC: return choose_pop_acc(op);
  case QNET_OP_LOOP_SPLAT:
  case QNET_OP_LOOP_EXTRACT:
  case QNET_OP_LOOP_BITMASK: return choose_lanes(op);
  default: return choose_integer(op);
  }
}

void qnet_loop_choose(const qnet_op *op, qnet_loop_instr *in) {
  if (op->result_count != 1 || op->operand_count < 1) return;
  const qnet_type *type = op->result[0].type;
  in->run = choose_fn(op);
  in->lanes = qnet_loop_lanes(op->opcode == QNET_OP_LOOP_BITMASK ? op->operand[0]->type : type);
  in->imm = op->opcode == QNET_OP_LOOP_EXTRACT ? qnet_op_int(op, "lane", 0)
                                               : (int64_t)qnet_loop_bytes(type);
}
