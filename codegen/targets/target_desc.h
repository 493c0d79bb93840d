/* What a target's file tells: names, defaults, and how to read a machine out of code that LLVM
 * makes for it. A new target is one file here and one row in codegen/target.c. */
#ifndef QNET_CODEGEN_TARGETS_TARGET_DESC_H
#define QNET_CODEGEN_TARGETS_TARGET_DESC_H

#include "codegen/target.h"

/* Assembly of the target's probe functions. */
typedef struct qnet_probe {
  const char *assembly;
} qnet_probe;
/* Does the code of probe function `function` contain `text`? */
bool qnet_probe_has(const qnet_probe *p, const char *function, const char *text);

struct qnet_target {
  const char *name;           /* as in --target=; also the architecture of the triple */
  const char *const *aliases; /* other spellings of the architecture; ends with NULL */
  const char *triple;         /* default */
  const char *cpu;            /* default */
  const char *features;       /* added when the CPU is the default one; "" for none */
  const char *abi;            /* LLVM's name; "" for the only one */
  const char *doc;
  /* Sums of adjacent unsigned lanes by one instruction: an LLVM intrinsic overloaded on result and
   * operand, for vectors of 64 and 128 bits; NULL when there is none. */
  const char *pair_sum;
  void (*initialize)(void); /* registers LLVM's backend; may run more than once */
  const char *probe;        /* LLVM IR of small functions whose code `refine` looks at */
  void (*refine)(const qnet_probe *p, qnet_machine *out);
};

extern const qnet_target qnet_target_x86_64;
extern const qnet_target qnet_target_aarch64;
extern const qnet_target qnet_target_riscv64;

#endif
