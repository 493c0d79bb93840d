/* Targets: one description each (codegen/targets/), and the machine that a triple, CPU and feature
 * string amount to. */
#ifndef QNET_CODEGEN_TARGET_H
#define QNET_CODEGEN_TARGET_H

#include "ir/machine.h"
#include "support/diag.h"

/* One architecture. `refine` reads what the chosen CPU has out of code that LLVM makes for it, so
 * that every --mcpu and --mattr works without a table of CPUs. */
typedef struct qnet_target qnet_target;

/* A resolved choice. Strings are owned by the struct (qnet_target_choice_free). */
typedef struct qnet_target_choice {
  const qnet_target *target;
  char *triple, *cpu, *features;
  bool host; /* the machine we run on */
  qnet_machine machine;
} qnet_target_choice;

/* name: x86_64, aarch64, riscv64, native, or a triple. cpu, features: NULL or "" for the default
 * (native: the host's). Unknown names are diagnosed with the nearest known one. */
qnet_status qnet_target_choose(const char *name, const char *cpu, const char *features,
                               qnet_target_choice *out, qnet_diag *d);
void qnet_target_choice_free(qnet_target_choice *c);
/* One line a target, for --target=help. */
void qnet_target_list(FILE *out);

#endif
