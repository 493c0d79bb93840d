/* Target machines. Code is position independent, so that one object serves executables and shared
 * objects, and so that it can be linked anywhere. */
#include "codegen/llvm_support.h"

#include <llvm-c/Core.h>

LLVMTargetMachineRef qnet_llvm_target_machine(const qnet_target *target, const char *triple,
                                              const char *cpu, const char *features,
                                              char **message) {
  target->initialize();
  LLVMTargetRef backend = NULL;
  *message = NULL;
  if (LLVMGetTargetFromTriple(triple, &backend, message)) return NULL;
  LLVMTargetMachineOptionsRef o = LLVMCreateTargetMachineOptions();
  LLVMTargetMachineOptionsSetCPU(o, cpu);
  LLVMTargetMachineOptionsSetFeatures(o, features);
  if (target->abi[0] != '\0') LLVMTargetMachineOptionsSetABI(o, target->abi);
  LLVMTargetMachineOptionsSetCodeGenOptLevel(o, LLVMCodeGenLevelDefault);
  LLVMTargetMachineOptionsSetRelocMode(o, LLVMRelocPIC);
  LLVMTargetMachineRef machine = LLVMCreateTargetMachineWithOptions(backend, triple, o);
  LLVMDisposeTargetMachineOptions(o);
  return machine;
}

LLVMTargetMachineRef qnet_llvm_machine_of(const qnet_target_choice *t, qnet_diag *d) {
  char *message = NULL;
  LLVMTargetMachineRef machine =
      qnet_llvm_target_machine(t->target, t->triple, t->cpu, t->features, &message);
  if (machine == NULL) qnet_error_in(d, t->triple, "%s", message != NULL ? message : "no backend");
  LLVMDisposeMessage(message);
  return machine;
}

void qnet_llvm_set_target(LLVMModuleRef module, LLVMTargetMachineRef machine) {
  char *triple = LLVMGetTargetMachineTriple(machine);
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(machine);
  LLVMSetTarget(module, triple);
  LLVMSetModuleDataLayout(module, layout);
  LLVMDisposeTargetData(layout);
  LLVMDisposeMessage(triple);
}
