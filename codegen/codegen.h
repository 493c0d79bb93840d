/* The loop level to LLVM: JIT, objects, assembly, LLVM IR, shared objects, headers. */
#ifndef QNET_CODEGEN_CODEGEN_H
#define QNET_CODEGEN_CODEGEN_H

#include "codegen/target.h"
#include "ir/ir.h"
#include "support/strbuf.h"

/* ---- run at once --------------------------------------------------------------------------- */

typedef struct qnet_jit qnet_jit;
/* Compiles function @eval of a loop-level module (memory planned) for a CPU of this machine's
 * architecture and tries it in a child process, so that a CPU that this is not is diagnosed. Blobs
 * of the module are used in place: the module must outlive the JIT. */
qnet_status qnet_jit_create(const qnet_module *m, const qnet_target_choice *target, qnet_jit **out,
                            qnet_diag *d);
void qnet_jit_destroy(qnet_jit *jit);
/* Calls the entry through libffi with the signature of @eval: inputs, outputs, arena, in the order
 * of the function's arguments. Re-entrant: one arena a thread. */
qnet_status qnet_jit_call(const qnet_jit *jit, void *const *args, int arg_count);
/* The caller's thread team: runs body(arg, begin, end) on disjoint ranges that cover 0..n. */
typedef void (*qnet_parallel_for_function)(void *ctx,
                                           void (*body)(void *arg, int64_t begin, int64_t end),
                                           void *arg, int64_t n);
/* The same call with its loops spread by parallel_for. */
qnet_status qnet_jit_call_mt(const qnet_jit *jit, void *const *args, int arg_count,
                             qnet_parallel_for_function parallel_for, void *ctx);
/* The bytes and alignment (64) of the arena argument. */
size_t qnet_jit_arena_bytes(const qnet_jit *jit);

/* Compiles every function of a loop-level module as `void NAME(void *const *buffers)`, a pointer
 * for each argument, for this very machine: what host names. Parallel loops are not for them. */
qnet_status qnet_jit_create_functions(const qnet_module *m, const qnet_target_choice *host,
                                      qnet_jit **out, qnet_diag *d);
typedef void (*qnet_loop_function)(void *const *buffers);
/* NULL (and a diagnostic) when there is none of that name. Lives as long as the JIT. */
qnet_loop_function qnet_jit_function(const qnet_jit *jit, const char *name, qnet_diag *d);

/* ---- write files --------------------------------------------------------------------------- */

typedef enum {
  QNET_EMIT_OBJECT,
  QNET_EMIT_ASSEMBLY,
  QNET_EMIT_LLVM_IR,
  QNET_EMIT_BITCODE,
  QNET_EMIT_SHARED
} qnet_emit;

/* Writes `path` of that kind with the entries NAME_run and NAME_run_mt. name: a C identifier. */
qnet_status qnet_codegen_write(const qnet_module *m, const qnet_target_choice *t, qnet_emit kind,
                               const char *name, const char *path, qnet_diag *d);
/* The C99 header of such an object (DESIGN: what a deployed model is). */
qnet_status qnet_codegen_header(const qnet_module *m, const char *name, qnet_strbuf *out,
                                qnet_diag *d);
/* Bytes of constant data in the module (weights, thresholds, tables). */
size_t qnet_codegen_weight_bytes(const qnet_module *m);

#endif
