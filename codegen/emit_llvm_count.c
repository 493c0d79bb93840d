/* Counting: population counts, their accumulation, and the widening of narrow accumulators.
 *
 * A count is an LLVM ctpop of the accumulator's lanes followed at once by the add. LLVM makes of it
 * what each target does best: VPOPCNTD, the PSHUFB table for bytes, CNT + UADALP for 16-bit lanes
 * on AArch64, cpop. The order AND, count, add of each product is what keeps register pressure low,
 * and it is kept as the loop module has it. */
#include "codegen/emit_llvm.h"
#include "codegen/targets/target_desc.h"

static LLVMValueRef count_bits(qnet_emitter *e, LLVMValueRef x) {
  LLVMTypeRef type = LLVMTypeOf(x);
  return qnet_emit_intrinsic(e, "llvm.ctpop", &type, 1, &x, 1);
}

LLVMValueRef qnet_emit_popcnt(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef x = qnet_emit_operand(e, op, 0);
  return x != NULL ? count_bits(e, x) : NULL;
}

LLVMValueRef qnet_emit_pop_acc(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef acc = qnet_emit_operand(e, op, 0), x = qnet_emit_operand(e, op, 1);
  if (acc == NULL || x == NULL) return NULL;
  LLVMValueRef lanes = LLVMBuildBitCast(e->builder, x, LLVMTypeOf(acc), "");
  return LLVMBuildAdd(e->builder, acc, count_bits(e, lanes), "");
}

/* Sums of adjacent lanes: low and high half of each lane of twice the width. */
static LLVMValueRef pair_sums(qnet_emitter *e, LLVMValueRef x, unsigned bits, LLVMTypeRef wide) {
  LLVMBuilderRef b = e->builder;
  LLVMValueRef v = LLVMBuildBitCast(b, x, wide, "");
  LLVMValueRef low = LLVMBuildAnd(b, v, qnet_emit_int(wide, (UINT64_C(1) << bits) - 1), "");
  LLVMValueRef high = LLVMBuildLShr(b, v, qnet_emit_int(wide, bits), "");
  return LLVMBuildAdd(b, low, high, "");
}

/* The target's intrinsic for one step of widening, or NULL. */
static const char *pair_sum_intrinsic(const qnet_emitter *e, unsigned total, unsigned lanes) {
  const qnet_target_choice *t = e->options->target;
  const bool fits = (total == 64 || total == 128) && lanes > 1 && t->machine.lanes > 1;
  return fits ? t->target->pair_sum : NULL;
}

LLVMValueRef qnet_emit_widen_sum(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef x = qnet_emit_operand(e, op, 0);
  if (x == NULL) return NULL;
  const qnet_type *from = op->operand[0]->type, *to = op->result[0].type;
  const unsigned total = (unsigned)(qnet_type_elements(from) * qnet_dtype_bytes(from->dtype) * 8);
  unsigned bits = (unsigned)qnet_dtype_bytes(from->dtype) * 8;
  const unsigned end = (unsigned)qnet_dtype_bytes(to->dtype) * 8;
  for (; bits < end; bits *= 2) {
    LLVMTypeRef lane = LLVMIntTypeInContext(e->context, bits * 2);
    const unsigned lanes = total / (bits * 2);
    LLVMTypeRef wide = lanes > 1 ? LLVMVectorType(lane, lanes) : lane;
    const char *intrinsic = pair_sum_intrinsic(e, total, lanes);
    if (intrinsic != NULL) {
      LLVMTypeRef types[] = {wide, LLVMTypeOf(x)};
      x = qnet_emit_intrinsic(e, intrinsic, types, 2, &x, 1);
    } else {
      x = pair_sums(e, x, bits, wide);
    }
  }
  return LLVMBuildBitCast(e->builder, x, qnet_emit_type(e, to), "");
}
