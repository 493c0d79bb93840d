/* Fused multiply-add. Targets without the instruction call a function of the object that rounds
 * exactly once (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008):
 *
 *   p = a * b             exact in f64, 24 + 24 bits fit 53
 *   s = p + c, e          Knuth's sum: s rounded, e its exact error
 *   s rounded to odd      when e is not 0 and s's last bit is 0, one step toward e
 *   (f32)s                53 >= 24 + 2 bits, so the second rounding is the only one that shows,
 *                         subnormal results included
 *
 * Infinities and NaNs make e a NaN, which counts as 0. */
#include "codegen/emit_llvm.h"

#include <stdio.h>

typedef struct wide {
  LLVMBuilderRef b;
  LLVMTypeRef f32, f64, i64; /* scalars, or vectors of equal lanes */
} wide;

static LLVMValueRef sum_error(const wide *w, LLVMValueRef p, LLVMValueRef c, LLVMValueRef s) {
  LLVMValueRef c_part = LLVMBuildFSub(w->b, s, p, "");
  LLVMValueRef p_part = LLVMBuildFSub(w->b, s, c_part, "");
  LLVMValueRef c_lost = LLVMBuildFSub(w->b, c, c_part, "");
  LLVMValueRef p_lost = LLVMBuildFSub(w->b, p, p_part, "");
  return LLVMBuildFAdd(w->b, p_lost, c_lost, "error");
}

static LLVMValueRef round_to_odd(const wide *w, LLVMValueRef s, LLVMValueRef e) {
  LLVMValueRef zero = LLVMConstNull(w->f64), one = qnet_emit_int(w->i64, 1);
  LLVMValueRef bits = LLVMBuildBitCast(w->b, s, w->i64, "");
  LLVMValueRef last = LLVMBuildAnd(w->b, bits, one, "");
  LLVMValueRef even = LLVMBuildICmp(w->b, LLVMIntEQ, last, LLVMConstNull(w->i64), "");
  LLVMValueRef inexact = LLVMBuildFCmp(w->b, LLVMRealONE, e, zero, "");
  LLVMValueRef up = LLVMBuildFCmp(w->b, LLVMRealOGT, e, zero, "");
  LLVMValueRef positive = LLVMBuildFCmp(w->b, LLVMRealOGT, s, zero, "");
  LLVMValueRef inward = LLVMBuildXor(w->b, up, positive, "");
  LLVMValueRef step =
      LLVMBuildSelect(w->b, inward, LLVMConstAllOnes(w->i64), one, ""); /* of the magnitude */
  LLVMValueRef move = LLVMBuildAnd(w->b, even, inexact, "");
  LLVMValueRef delta = LLVMBuildSelect(w->b, move, step, LLVMConstNull(w->i64), "");
  return LLVMBuildBitCast(w->b, LLVMBuildAdd(w->b, bits, delta, ""), w->f64, "odd");
}

static void build_helper(qnet_emitter *e, LLVMValueRef function, LLVMTypeRef type) {
  LLVMBasicBlockRef block = LLVMAppendBasicBlockInContext(e->context, function, "entry");
  const wide w = {
      .b = LLVMCreateBuilderInContext(e->context),
      .f32 = type,
      .f64 = qnet_emit_type_like(LLVMDoubleTypeInContext(e->context), type),
      .i64 = qnet_emit_type_like(e->i64, type),
  };
  LLVMPositionBuilderAtEnd(w.b, block);
  LLVMValueRef in[3];
  for (unsigned i = 0; i < 3; i++) {
    in[i] = LLVMBuildFPExt(w.b, LLVMGetParam(function, i), w.f64, "");
  }
  LLVMValueRef p = LLVMBuildFMul(w.b, in[0], in[1], "product");
  LLVMValueRef s = LLVMBuildFAdd(w.b, p, in[2], "sum");
  LLVMValueRef odd = round_to_odd(&w, s, sum_error(&w, p, in[2], s));
  LLVMBuildRet(w.b, LLVMBuildFPTrunc(w.b, odd, w.f32, ""));
  LLVMDisposeBuilder(w.b);
}

static LLVMValueRef helper(qnet_emitter *e, LLVMTypeRef type, LLVMTypeRef function_type) {
  const bool vector = LLVMGetTypeKind(type) == LLVMVectorTypeKind;
  char name[32];
  snprintf(name, sizeof name, "fma.exact.%u", vector ? LLVMGetVectorSize(type) : 1);
  LLVMValueRef function = LLVMGetNamedFunction(e->llvm, name);
  if (function != NULL) return function;
  function = qnet_emit_function(e, name, function_type, LLVMInternalLinkage);
  build_helper(e, function, type);
  return function;
}

LLVMValueRef qnet_emit_fma(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef args[3];
  for (int i = 0; i < 3; i++) {
    args[i] = qnet_emit_operand(e, op, i);
    if (args[i] == NULL) return NULL;
  }
  LLVMTypeRef type = LLVMTypeOf(args[0]);
  if (e->options->target->machine.fma) {
    return qnet_emit_intrinsic(e, "llvm.fma", &type, 1, args, 3);
  }
  LLVMTypeRef params[] = {type, type, type};
  LLVMTypeRef function_type = LLVMFunctionType(type, params, 3, false);
  LLVMValueRef function = helper(e, type, function_type);
  return LLVMBuildCall2(e->builder, function_type, function, args, 3, "");
}
