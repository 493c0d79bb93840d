/* Asking LLVM, in a child process, what a triple, CPU and feature string amount to. Internal to
 * codegen/. */
#ifndef QNET_CODEGEN_TARGET_PROBE_H
#define QNET_CODEGEN_TARGET_PROBE_H

#include "codegen/targets/target_desc.h"

/* Fills c->machine from the code that LLVM makes of the target's probe functions; diagnoses CPUs
 * and features that LLVM does not know, and whatever else it refuses. */
qnet_status qnet_target_probe(qnet_target_choice *c, qnet_diag *d);

#endif
