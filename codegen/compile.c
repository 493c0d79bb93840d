/* The module is emitted here, where its errors can be diagnosed; passes and instruction selection,
 * which may end the process, run in a child that sends back the bytes.
 *
 * The passes are a fixed short list: no vectorizer and no unroller, which would undo the register
 * tiles of the loop level; no hoisting of loads out of loops, which fills the registers (the code
 * generator's own does it with an eye on them); nothing that costs compile time without changing
 * the inner loops. */
#include "codegen/compile.h"

#include "codegen/child.h"
#include "codegen/llvm_support.h"

#include <llvm-c/BitWriter.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <string.h>
#include <unistd.h>

static const char passes[] =
    "function(early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,early-cse<memssa>,"
    "instcombine<no-verify-fixpoint>,simplifycfg)";

typedef struct job {
  LLVMModuleRef module;
  LLVMTargetMachineRef machine;
  qnet_emit kind;
  bool failed; /* LLVM reported an error */
} job;

/* ---- in the child ---------------------------------------------------------------------------- */

static void say(const char *text) {
  qnet_child_write(STDERR_FILENO, text, strlen(text));
}

static void on_diagnostic(LLVMDiagnosticInfoRef info, void *ctx) {
  job *j = ctx;
  if (LLVMGetDiagInfoSeverity(info) != LLVMDSError) return;
  j->failed = true;
  char *text = LLVMGetDiagInfoDescription(info);
  say(text);
  LLVMDisposeMessage(text);
}

static bool run_passes(const job *j) {
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMErrorRef error = LLVMRunPasses(j->module, passes, j->machine, options);
  LLVMDisposePassBuilderOptions(options);
  if (error == NULL) return true;
  char *text = LLVMGetErrorMessage(error);
  say(text);
  LLVMDisposeErrorMessage(text);
  return false;
}

static LLVMMemoryBufferRef make_code(const job *j) {
  LLVMMemoryBufferRef code = NULL;
  char *text = NULL;
  const LLVMCodeGenFileType type =
      j->kind == QNET_EMIT_ASSEMBLY ? LLVMAssemblyFile : LLVMObjectFile;
  if (!LLVMTargetMachineEmitToMemoryBuffer(j->machine, j->module, type, &text, &code)) return code;
  say(text);
  return NULL;
}

static LLVMMemoryBufferRef make_product(const job *j) {
  if (j->kind == QNET_EMIT_BITCODE) return LLVMWriteBitcodeToMemoryBuffer(j->module);
  if (j->kind != QNET_EMIT_LLVM_IR) return make_code(j);
  char *text = LLVMPrintModuleToString(j->module);
  return LLVMCreateMemoryBufferWithMemoryRangeCopy(text, strlen(text), "ir");
}

/* Nothing is freed: the child ends here. */
static int compile_body(void *ctx, int fd) {
  job *j = ctx;
  LLVMContextSetDiagnosticHandler(LLVMGetModuleContext(j->module), on_diagnostic, j);
  if (!run_passes(j)) return 1;
  LLVMMemoryBufferRef product = make_product(j);
  if (product == NULL || j->failed) return 1;
  return qnet_child_write(fd, LLVMGetBufferStart(product), LLVMGetBufferSize(product)) ? 0 : 1;
}

/* ---- in the parent --------------------------------------------------------------------------- */

static qnet_status run_job(job *j, const qnet_allocator *a, const char *name, qnet_strbuf *out,
                           qnet_diag *d) {
  qnet_child_result r;
  qnet_status status = qnet_child_run(a, compile_body, j, &r, d);
  if (status == QNET_OK && r.exit_code != 0) {
    const char *said = qnet_strbuf_text(&r.err);
    qnet_error_in(d, name, "internal error: LLVM failed%s%.*s", said[0] != '\0' ? ": " : "",
                  (int)strcspn(said, "\n"), said);
    status = QNET_INTERNAL;
  }
  if (status == QNET_OK) {
    qnet_strbuf_append(out, qnet_strbuf_text(&r.out), r.out.length);
    if (out->failed) status = qnet_out_of_memory(d);
  }
  qnet_child_result_free(&r);
  return status;
}

qnet_status qnet_codegen_compile(const qnet_module *m, const qnet_emit_options *options,
                                 qnet_emit kind, qnet_strbuf *out, qnet_diag *d) {
  LLVMContextRef context = LLVMContextCreate();
  job j = {.kind = kind};
  qnet_status status = qnet_emit_llvm(m, options, context, &j.module, d);
  if (status == QNET_OK) {
    j.machine = qnet_llvm_machine_of(options->target, d);
    status = j.machine != NULL ? run_job(&j, m->allocator, options->name, out, d) : QNET_ERROR;
    if (j.machine != NULL) LLVMDisposeTargetMachine(j.machine);
    LLVMDisposeModule(j.module);
  }
  LLVMContextDispose(context);
  return status;
}
