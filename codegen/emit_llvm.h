/* The loop level to an LLVM module. emit_llvm.c makes functions and loops, the other emit_llvm_*.c
 * one instruction sequence an operation. Internal to codegen/. */
#ifndef QNET_CODEGEN_EMIT_LLVM_H
#define QNET_CODEGEN_EMIT_LLVM_H

#include "codegen/target.h"
#include "ir/ir.h"

#include <llvm-c/Core.h>
#include <llvm-c/TargetMachine.h>

typedef struct qnet_emit_options {
  const char *name; /* entries are NAME_run and NAME_run_mt */
  const qnet_target_choice *target;
  bool in_place;  /* constants are read where the module's blobs lie (JIT), not copied */
  bool functions; /* emit every function, see qnet_emit_llvm */
} qnet_emit_options;

/* Emits function @eval of a loop-level module whose memory is planned. Both entries take one
 * pointer for each argument of @eval; NAME_run_mt also parallel_for and its context. The module is
 * made in `context` and verified; NULL in *out on failure.
 * With `functions`: every function becomes `void NAME(void *const *buffers)`, whatever its name;
 * the array holds a pointer for each argument. Parallel loops are not for them. */
qnet_status qnet_emit_llvm(const qnet_module *m, const qnet_emit_options *options,
                           LLVMContextRef context, LLVMModuleRef *out, qnet_diag *d);

/* Is the last argument the arena (an i8 buffer behind at least two others, the way plan-memory
 * makes it)? */
bool qnet_emit_has_arena(const qnet_symbol *eval);

enum { QNET_EMIT_ALIGN = 64 }; /* of constants and of the arena */

/* ---- shared by emit_llvm_*.c ------------------------------------------------------------------
 */

/* What a buffer may overlap: its place within an argument of @eval. Indexed by value id. */
typedef struct qnet_emit_place {
  int base; /* argument, or -1 for values that are no such buffer */
  int64_t begin, end;
  LLVMValueRef scope, noalias; /* metadata, NULL until needed */
} qnet_emit_place;

typedef struct qnet_emitter {
  const qnet_module *module;
  const qnet_emit_options *options;
  qnet_diag *diag;
  qnet_status status; /* the first failure */
  qnet_arena scratch;
  const qnet_symbol *eval;
  int value_count;

  LLVMContextRef context;
  LLVMModuleRef llvm;
  LLVMBuilderRef builder;
  LLVMTypeRef i8, i64, ptr;
  qnet_emit_place *place;  /* by value id */
  LLVMValueRef no_content; /* metadata !{} */

  LLVMTypeRef body_type;   /* of outlined loop bodies */
  LLVMTypeRef record_type; /* what a body's first argument points at */
  LLVMValueRef *body;      /* outlined parallel loops, in order */
  int body_count, body_next;

  /* The function that is being made. */
  LLVMValueRef function;
  LLVMBasicBlockRef entry; /* where values of the outer level are made again; NULL in entries */
  LLVMValueRef *value;     /* by value id */
  LLVMValueRef record, parallel_for, parallel_context;
  int depth;
} qnet_emitter;

typedef LLVMValueRef (*qnet_emit_fn)(qnet_emitter *e, const qnet_op *op);

/* Records a failure at op; returns NULL. */
LLVMValueRef qnet_emit_fail(qnet_emitter *e, const qnet_op *op, const char *why);
LLVMTypeRef qnet_emit_dtype(const qnet_emitter *e, qnet_dtype dtype);
LLVMTypeRef qnet_emit_type(const qnet_emitter *e, const qnet_type *type);
/* `type` with the shape of v: a vector of as many lanes, or `type` itself. */
LLVMTypeRef qnet_emit_type_like(LLVMTypeRef type, LLVMTypeRef shape);
/* An integer in all lanes of `type`. */
LLVMValueRef qnet_emit_int(LLVMTypeRef type, uint64_t v);
LLVMValueRef qnet_emit_splat(qnet_emitter *e, LLVMValueRef scalar, unsigned lanes);
LLVMValueRef qnet_emit_i64(const qnet_emitter *e, int64_t v);
/* Operand i in the current function; NULL (and a failure) when it cannot be had there. */
LLVMValueRef qnet_emit_operand(qnet_emitter *e, const qnet_op *op, int i);
LLVMValueRef qnet_emit_value(qnet_emitter *e, const qnet_op *user, const qnet_value *v);
/* A call of an intrinsic that is overloaded on the types of `overloads`. */
LLVMValueRef qnet_emit_intrinsic(qnet_emitter *e, const char *name, LLVMTypeRef *overloads,
                                 size_t overload_count, LLVMValueRef *args, unsigned count);
/* A function with the attributes of all generated code. */
LLVMValueRef qnet_emit_function(qnet_emitter *e, const char *name, LLVMTypeRef type,
                                LLVMLinkage linkage);

/* The emitter of an operation; NULL for those that emit_llvm.c handles. */
qnet_emit_fn qnet_emit_find(int opcode);

/* emit_llvm_memory.c */
qnet_status qnet_emit_places(qnet_emitter *e);
LLVMValueRef qnet_emit_view(qnet_emitter *e, const qnet_op *op);
LLVMValueRef qnet_emit_read(qnet_emitter *e, const qnet_op *op);
LLVMValueRef qnet_emit_load(qnet_emitter *e, const qnet_op *op);
LLVMValueRef qnet_emit_store(qnet_emitter *e, const qnet_op *op);
LLVMValueRef qnet_emit_gather(qnet_emitter *e, const qnet_op *op);
LLVMValueRef qnet_emit_scatter_add(qnet_emitter *e, const qnet_op *op);
LLVMValueRef qnet_emit_zero(qnet_emitter *e, const qnet_op *op);

/* emit_llvm_count.c */
LLVMValueRef qnet_emit_popcnt(qnet_emitter *e, const qnet_op *op);
LLVMValueRef qnet_emit_pop_acc(qnet_emitter *e, const qnet_op *op);
LLVMValueRef qnet_emit_widen_sum(qnet_emitter *e, const qnet_op *op);

/* emit_llvm_fma.c: a * b + c rounded once, by an instruction or by an exact function. */
LLVMValueRef qnet_emit_fma(qnet_emitter *e, const qnet_op *op);

#endif
