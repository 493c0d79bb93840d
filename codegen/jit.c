/* Run at once: the same object that would be written to a file, loaded by ORC's LLJIT. Constants
 * are addresses of the module's blobs, so that weights are neither copied nor compiled. Entries are
 * called through libffi, because @eval may have any number of arguments. */
#include "codegen/child.h"
#include "codegen/compile.h"

#include <ffi.h>
#include <llvm-c/LLJIT.h>
#include <llvm-c/Orc.h>
#include <llvm-c/TargetMachine.h>
#include <string.h>

static const char entry_name[] = "qnet_eval";

struct qnet_jit {
  const qnet_allocator *allocator;
  LLVMOrcLLJITRef lljit;
  void (*run)(void), (*run_mt)(void);
  int arg_count; /* of @eval */
  size_t arena_bytes;
  ffi_type **types; /* arg_count + 2 pointers */
  ffi_cif cif, cif_mt;
};

static qnet_status failed(qnet_diag *d, LLVMErrorRef error) {
  char *text = LLVMGetErrorMessage(error);
  qnet_error_in(d, "JIT", "internal error: %s", text);
  LLVMDisposeErrorMessage(text);
  return QNET_INTERNAL;
}

/* ---- creation -------------------------------------------------------------------------------- */

static qnet_status prepare_calls(qnet_jit *jit, const qnet_symbol *eval, qnet_diag *d) {
  const int n = eval->body->arg_count;
  jit->arg_count = n;
  if (qnet_emit_has_arena(eval)) {
    jit->arena_bytes = (size_t)qnet_type_elements(eval->body->arg[n - 1].type);
  }
  jit->types = qnet_alloc_array(jit->allocator, (size_t)n + 2, sizeof(ffi_type *));
  if (jit->types == NULL) return qnet_out_of_memory(d);
  for (int i = 0; i < n + 2; i++)
    jit->types[i] = &ffi_type_pointer;
  const bool ok = ffi_prep_cif(&jit->cif, FFI_DEFAULT_ABI, (unsigned)n, &ffi_type_sint32,
                               jit->types) == FFI_OK &&
                  ffi_prep_cif(&jit->cif_mt, FFI_DEFAULT_ABI, (unsigned)n + 2, &ffi_type_sint32,
                               jit->types) == FFI_OK;
  if (ok) return QNET_OK;
  qnet_error_in(d, "JIT", "internal error: libffi refuses a call of %d arguments", n);
  return QNET_INTERNAL;
}

/* memset is the only thing that code may want from the process. */
static LLVMErrorRef offer_process_symbols(LLVMOrcLLJITRef lljit) {
  LLVMOrcDefinitionGeneratorRef generator = NULL;
  LLVMErrorRef error = LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess(
      &generator, LLVMOrcLLJITGetGlobalPrefix(lljit), NULL, NULL);
  if (error == NULL) LLVMOrcJITDylibAddGenerator(LLVMOrcLLJITGetMainJITDylib(lljit), generator);
  return error;
}

static LLVMErrorRef look_up(LLVMOrcLLJITRef lljit, const char *name, void (**function)(void)) {
  LLVMOrcExecutorAddress address = 0;
  LLVMErrorRef error = LLVMOrcLLJITLookup(lljit, &address, name);
  if (error == NULL) *function = (void (*)(void))(uintptr_t)address;
  return error;
}

static qnet_status load(qnet_jit *jit, const qnet_strbuf *object, qnet_diag *d) {
  LLVMErrorRef error = LLVMOrcCreateLLJIT(&jit->lljit, NULL);
  if (error != NULL) return failed(d, error);
  error = offer_process_symbols(jit->lljit);
  if (error != NULL) return failed(d, error);
  LLVMMemoryBufferRef buffer =
      LLVMCreateMemoryBufferWithMemoryRangeCopy(object->data, object->length, entry_name);
  error = LLVMOrcLLJITAddObjectFile(jit->lljit, LLVMOrcLLJITGetMainJITDylib(jit->lljit), buffer);
  return error != NULL ? failed(d, error) : QNET_OK;
}

static qnet_status find_entries(qnet_jit *jit, qnet_diag *d) {
  LLVMErrorRef error = look_up(jit->lljit, "qnet_eval_run", &jit->run);
  if (error == NULL) error = look_up(jit->lljit, "qnet_eval_run_mt", &jit->run_mt);
  return error != NULL ? failed(d, error) : QNET_OK;
}

static qnet_status build(qnet_jit *jit, const qnet_module *m, const qnet_target_choice *target,
                         qnet_diag *d) {
  const qnet_emit_options options = {.name = entry_name, .target = target, .in_place = true};
  qnet_strbuf object;
  qnet_strbuf_init(&object, m->allocator);
  qnet_status status = qnet_codegen_compile(m, &options, QNET_EMIT_OBJECT, &object, d);
  if (status == QNET_OK) status = prepare_calls(jit, qnet_symbol_find(m, "eval"), d);
  if (status == QNET_OK) status = load(jit, &object, d);
  if (status == QNET_OK) status = find_entries(jit, d);
  qnet_strbuf_free(&object);
  return status;
}

/* ---- trial: does this machine have the instructions that --mcpu and --mattr promised? ----------
 */

enum { MAX_ARGS = 64 };

typedef struct trial {
  const qnet_jit *jit;
  qnet_blob *buffer[MAX_ARGS];
  void *args[MAX_ARGS];
  int count;
} trial;

static int run_trial(void *ctx, int out_fd) {
  (void)out_fd;
  const trial *t = ctx;
  return qnet_jit_call(t->jit, t->args, t->count) != QNET_OK;
}

static qnet_status make_trial_buffers(trial *t, const qnet_module *m, qnet_diag *d) {
  const qnet_region *body = qnet_symbol_find(m, "eval")->body;
  if (body->arg_count > MAX_ARGS) return QNET_INTERNAL;
  for (; t->count < body->arg_count; t->count++) {
    const qnet_type *type = body->arg[t->count].type;
    qnet_blob *b = qnet_blob_create(m->allocator, type->dtype, type->rank, type->dim);
    if (b == NULL) return qnet_out_of_memory(d);
    t->buffer[t->count] = b;
    t->args[t->count] = b->data;
  }
  return QNET_OK;
}

/* Runs the code once on zeros in a child: an instruction that this machine lacks ends only that. */
static qnet_status try_out(const qnet_jit *jit, const qnet_module *m,
                           const qnet_target_choice *target, qnet_diag *d) {
  trial t = {.jit = jit};
  qnet_status status = make_trial_buffers(&t, m, d);
  if (status == QNET_OK) {
    qnet_child_result result;
    status = qnet_child_run(m->allocator, run_trial, &t, &result, d);
    if (status == QNET_OK && result.exit_code != 0)
      status = qnet_error_in(d, target->cpu,
                             "this machine cannot run code for this CPU (signal %d); use "
                             "--target=native, or write an object with -o",
                             result.signal);
    qnet_child_result_free(&result);
  }
  for (int i = 0; i < t.count; i++)
    qnet_blob_release(t.buffer[i]);
  return status;
}

static bool same_architecture(const char *triple) {
  char *ours = LLVMGetDefaultTargetTriple();
  const size_t n = strcspn(ours, "-");
  const bool same = strncmp(ours, triple, n) == 0 && triple[n] == '-';
  LLVMDisposeMessage(ours);
  return same;
}

qnet_status qnet_jit_create(const qnet_module *m, const qnet_target_choice *target, qnet_jit **out,
                            qnet_diag *d) {
  *out = NULL;
  if (!same_architecture(target->triple)) {
    return qnet_error_in(d, target->triple,
                         "code for this target cannot run here; use "
                         "--target=native, or write an object with -o");
  }
  qnet_jit *jit = qnet_alloc(m->allocator, sizeof *jit);
  if (jit == NULL) return qnet_out_of_memory(d);
  jit->allocator = m->allocator;
  qnet_status status = build(jit, m, target, d);
  if (status == QNET_OK) status = try_out(jit, m, target, d);
  if (status != QNET_OK) {
    qnet_jit_destroy(jit);
    return status;
  }
  *out = jit;
  return QNET_OK;
}

qnet_status qnet_jit_create_functions(const qnet_module *m, const qnet_target_choice *host,
                                      qnet_jit **out, qnet_diag *d) {
  *out = NULL;
  qnet_jit *jit = qnet_alloc(m->allocator, sizeof *jit);
  if (jit == NULL) return qnet_out_of_memory(d);
  jit->allocator = m->allocator;
  const qnet_emit_options options = {
      .name = "loops", .target = host, .in_place = true, .functions = true};
  qnet_strbuf object;
  qnet_strbuf_init(&object, m->allocator);
  qnet_status status = qnet_codegen_compile(m, &options, QNET_EMIT_OBJECT, &object, d);
  if (status == QNET_OK) status = load(jit, &object, d);
  qnet_strbuf_free(&object);
  if (status == QNET_OK)
    *out = jit;
  else
    qnet_jit_destroy(jit);
  return status;
}

qnet_loop_function qnet_jit_function(const qnet_jit *jit, const char *name, qnet_diag *d) {
  void (*function)(void) = NULL;
  LLVMErrorRef error = look_up(jit->lljit, name, &function);
  if (error != NULL) failed(d, error);
  return (qnet_loop_function)function;
}

void qnet_jit_destroy(qnet_jit *jit) {
  if (jit == NULL) return;
  if (jit->lljit != NULL) LLVMConsumeError(LLVMOrcDisposeLLJIT(jit->lljit));
  if (jit->types != NULL) {
    qnet_free(jit->allocator, jit->types, ((size_t)jit->arg_count + 2) * sizeof(ffi_type *));
  }
  qnet_free(jit->allocator, jit, sizeof *jit);
}

size_t qnet_jit_arena_bytes(const qnet_jit *jit) {
  return jit->arena_bytes;
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* libffi takes pointers to the arguments; it does not write to them. */
static qnet_status call(const ffi_cif *cif, void (*function)(void), void *const *args, int count) {
  void *value[MAX_ARGS + 2], *address[MAX_ARGS + 2];
  for (int i = 0; i < count; i++) {
    value[i] = args[i];
    address[i] = &value[i];
  }
  ffi_cif copy = *cif;
  ffi_arg result = 0;
  ffi_call(&copy, function, &result, address);
  return (int32_t)result == 0 ? QNET_OK : QNET_ERROR;
}

qnet_status qnet_jit_call(const qnet_jit *jit, void *const *args, int arg_count) {
  if (arg_count != jit->arg_count || arg_count > MAX_ARGS) return QNET_INTERNAL;
  return call(&jit->cif, jit->run, args, arg_count);
}

qnet_status qnet_jit_call_mt(const qnet_jit *jit, void *const *args, int arg_count,
                             qnet_parallel_for_function parallel_for, void *ctx) {
  if (arg_count != jit->arg_count || arg_count > MAX_ARGS) return QNET_INTERNAL;
  void *all[MAX_ARGS + 2];
  if (arg_count > 0) memcpy(all, args, (size_t)arg_count * sizeof *all);
  memcpy(&all[arg_count], &parallel_for, sizeof parallel_for);
  all[arg_count + 1] = ctx;
  return call(&jit->cif_mt, jit->run_mt, all, arg_count + 2);
}
