/* Arithmetic on scalars and vectors: one function an operation or family, and the table that leads
 * from an operation to its function. No fast-math flag is ever set. */
#include "codegen/emit_llvm.h"

#include "ir/ops.h"

#include <string.h>

/* ---- operations of two operands -------------------------------------------------------------- */

static LLVMValueRef binary(qnet_emitter *e, const qnet_op *op, LLVMOpcode opcode) {
  LLVMValueRef a = qnet_emit_operand(e, op, 0), b = qnet_emit_operand(e, op, 1);
  if (a == NULL || b == NULL) return NULL;
  return LLVMBuildBinOp(e->builder, opcode, a, b, "");
}

#define BINARY(name, opcode)                                                                       \
  static LLVMValueRef emit_##name(qnet_emitter *e, const qnet_op *op) {                            \
    return binary(e, op, opcode);                                                                  \
  }
BINARY(add, LLVMAdd)
BINARY(sub, LLVMSub)
BINARY(mul, LLVMMul)
BINARY(and, LLVMAnd)
BINARY(or, LLVMOr)
BINARY(xor, LLVMXor)
BINARY(shl, LLVMShl)
BINARY(lshr, LLVMLShr)
BINARY(ashr, LLVMAShr)
BINARY(fadd, LLVMFAdd)
BINARY(fsub, LLVMFSub)
BINARY(fmul, LLVMFMul)
#undef BINARY

static LLVMValueRef extremum(qnet_emitter *e, const qnet_op *op, const char *intrinsic) {
  LLVMValueRef args[2] = {qnet_emit_operand(e, op, 0), qnet_emit_operand(e, op, 1)};
  if (args[0] == NULL || args[1] == NULL) return NULL;
  LLVMTypeRef type = LLVMTypeOf(args[0]);
  return qnet_emit_intrinsic(e, intrinsic, &type, 1, args, 2);
}

static LLVMValueRef emit_smax(qnet_emitter *e, const qnet_op *op) {
  return extremum(e, op, "llvm.smax");
}

static LLVMValueRef emit_smin(qnet_emitter *e, const qnet_op *op) {
  return extremum(e, op, "llvm.smin");
}

/* ---- comparisons ----------------------------------------------------------------------------- */

typedef struct predicate {
  const char *name;
  int code;
} predicate;

static const predicate int_predicates[] = {
    {"eq", LLVMIntEQ},   {"ne", LLVMIntNE},   {"slt", LLVMIntSLT},
    {"sle", LLVMIntSLE}, {"sgt", LLVMIntSGT}, {"sge", LLVMIntSGE},
};
static const predicate float_predicates[] = {
    {"ogt", LLVMRealOGT}, {"oge", LLVMRealOGE}, {"olt", LLVMRealOLT},
    {"ole", LLVMRealOLE}, {"oeq", LLVMRealOEQ},
};

static int find_predicate(const predicate *table, size_t count, const char *name) {
  for (size_t i = 0; name != NULL && i < count; i++) {
    if (strcmp(table[i].name, name) == 0) return table[i].code;
  }
  return -1;
}

static LLVMValueRef emit_cmp(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef a = qnet_emit_operand(e, op, 0), b = qnet_emit_operand(e, op, 1);
  if (a == NULL || b == NULL) return NULL;
  const int code = find_predicate(int_predicates, sizeof int_predicates / sizeof *int_predicates,
                                  qnet_op_string(op, "pred"));
  if (code < 0) return qnet_emit_fail(e, op, "has an unknown predicate");
  return LLVMBuildICmp(e->builder, (LLVMIntPredicate)code, a, b, "");
}

static LLVMValueRef emit_fcmp(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef a = qnet_emit_operand(e, op, 0), b = qnet_emit_operand(e, op, 1);
  if (a == NULL || b == NULL) return NULL;
  const int code =
      find_predicate(float_predicates, sizeof float_predicates / sizeof *float_predicates,
                     qnet_op_string(op, "pred"));
  if (code < 0) return qnet_emit_fail(e, op, "has an unknown predicate");
  return LLVMBuildFCmp(e->builder, (LLVMRealPredicate)code, a, b, "");
}

static LLVMValueRef emit_select(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef c = qnet_emit_operand(e, op, 0), a = qnet_emit_operand(e, op, 1),
               b = qnet_emit_operand(e, op, 2);
  if (c == NULL || a == NULL || b == NULL) return NULL;
  return LLVMBuildSelect(e->builder, c, a, b, "");
}

/* ---- constants, conversions, lanes ----------------------------------------------------------- */

static LLVMValueRef emit_const(qnet_emitter *e, const qnet_op *op) {
  LLVMTypeRef type = qnet_emit_type(e, op->result[0].type);
  const qnet_dtype dtype = op->result[0].type->dtype;
  if (dtype == QNET_F32 || dtype == QNET_F64) {
    return LLVMConstReal(type, qnet_op_float(op, "float", 0.0));
  }
  return LLVMConstInt(type, (uint64_t)qnet_op_int(op, "int", 0), true);
}

static LLVMValueRef emit_splat(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef x = qnet_emit_operand(e, op, 0);
  return x != NULL ? qnet_emit_splat(e, x, (unsigned)op->result[0].type->dim[0]) : NULL;
}

static LLVMValueRef emit_cast(qnet_emitter *e, const qnet_op *op) {
  static const predicate kinds[] = {
      {"sext", LLVMSExt},     {"zext", LLVMZExt},       {"trunc", LLVMTrunc},
      {"sitofp", LLVMSIToFP}, {"bitcast", LLVMBitCast},
  };
  LLVMValueRef x = qnet_emit_operand(e, op, 0);
  if (x == NULL) return NULL;
  const int code = find_predicate(kinds, sizeof kinds / sizeof *kinds, qnet_op_string(op, "kind"));
  if (code < 0) return qnet_emit_fail(e, op, "has an unknown kind");
  return LLVMBuildCast(e->builder, (LLVMOpcode)code, x, qnet_emit_type(e, op->result[0].type), "");
}

static LLVMValueRef emit_bitmask(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef x = qnet_emit_operand(e, op, 0);
  if (x == NULL) return NULL;
  const unsigned lanes = (unsigned)qnet_type_elements(op->operand[0]->type);
  LLVMTypeRef bits = LLVMIntTypeInContext(e->context, lanes);
  LLVMTypeRef type = qnet_emit_type(e, op->result[0].type);
  return LLVMBuildZExtOrBitCast(e->builder, LLVMBuildBitCast(e->builder, x, bits, ""), type, "");
}

static LLVMValueRef emit_extract(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef x = qnet_emit_operand(e, op, 0);
  if (x == NULL) return NULL;
  LLVMValueRef lane = qnet_emit_i64(e, qnet_op_int(op, "lane", 0));
  return LLVMBuildExtractElement(e->builder, x, lane, "");
}

/* ---- the table ------------------------------------------------------------------------------- */

qnet_emit_fn qnet_emit_find(int opcode) {
  static const qnet_emit_fn table[QNET_OP_COUNT] = {
      [QNET_OP_READ] = qnet_emit_read,
      [QNET_OP_LOOP_VIEW] = qnet_emit_view,
      [QNET_OP_LOOP_ZERO] = qnet_emit_zero,
      [QNET_OP_LOOP_CONST] = emit_const,
      [QNET_OP_LOOP_SPLAT] = emit_splat,
      [QNET_OP_LOOP_LOAD] = qnet_emit_load,
      [QNET_OP_LOOP_STORE] = qnet_emit_store,
      [QNET_OP_LOOP_GATHER] = qnet_emit_gather,
      [QNET_OP_LOOP_SCATTER_ADD] = qnet_emit_scatter_add,
      [QNET_OP_LOOP_ADD] = emit_add,
      [QNET_OP_LOOP_SUB] = emit_sub,
      [QNET_OP_LOOP_MUL] = emit_mul,
      [QNET_OP_LOOP_AND] = emit_and,
      [QNET_OP_LOOP_OR] = emit_or,
      [QNET_OP_LOOP_XOR] = emit_xor,
      [QNET_OP_LOOP_SHL] = emit_shl,
      [QNET_OP_LOOP_LSHR] = emit_lshr,
      [QNET_OP_LOOP_ASHR] = emit_ashr,
      [QNET_OP_LOOP_SMAX] = emit_smax,
      [QNET_OP_LOOP_SMIN] = emit_smin,
      [QNET_OP_LOOP_POPCNT] = qnet_emit_popcnt,
      [QNET_OP_LOOP_FADD] = emit_fadd,
      [QNET_OP_LOOP_FSUB] = emit_fsub,
      [QNET_OP_LOOP_FMUL] = emit_fmul,
      [QNET_OP_LOOP_FMA] = qnet_emit_fma,
      [QNET_OP_LOOP_CMP] = emit_cmp,
      [QNET_OP_LOOP_FCMP] = emit_fcmp,
      [QNET_OP_LOOP_SELECT] = emit_select,
      [QNET_OP_LOOP_CAST] = emit_cast,
      [QNET_OP_LOOP_BITMASK] = emit_bitmask,
      [QNET_OP_LOOP_POP_ACC] = qnet_emit_pop_acc,
      [QNET_OP_LOOP_WIDEN_SUM] = qnet_emit_widen_sum,
      [QNET_OP_LOOP_EXTRACT] = emit_extract,
  };
  return opcode >= 0 && opcode < QNET_OP_COUNT ? table[opcode] : NULL;
}
