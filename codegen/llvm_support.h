/* The few LLVM things that both the choice of a target and code generation need. Internal to
 * codegen/. */
#ifndef QNET_CODEGEN_LLVM_SUPPORT_H
#define QNET_CODEGEN_LLVM_SUPPORT_H

#include "codegen/targets/target_desc.h"

#include <llvm-c/TargetMachine.h>

/* NULL with *message set (release with LLVMDisposeMessage) when LLVM does not know the triple. LLVM
 * may end the process when cpu or features do not fit: only in a child until they are known good.
 */
LLVMTargetMachineRef qnet_llvm_target_machine(const qnet_target *target, const char *triple,
                                              const char *cpu, const char *features,
                                              char **message);
/* The same for a choice that was made. */
LLVMTargetMachineRef qnet_llvm_machine_of(const qnet_target_choice *t, qnet_diag *d);
/* Gives a module the triple and the data layout of the machine. */
void qnet_llvm_set_target(LLVMModuleRef module, LLVMTargetMachineRef machine);

#endif
