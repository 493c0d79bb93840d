/* Mutation fuzzing without any knowledge of grammars: seeds from the tree are changed byte by byte,
 * line by line and word by word, and whatever comes out must be refused with a diagnostic or work.
 * A target is one function on one input. docs: tests/fuzz/fuzz.c. */
#ifndef QNET_TESTS_FUZZ_FUZZ_H
#define QNET_TESTS_FUZZ_FUZZ_H

#include "runtime/safetensors.h"
#include "support/diag.h"
#include "support/strbuf.h"

/* What a target gets besides its input. */
typedef struct fuzz_case {
  const qnet_allocator *allocator; /* counts what is live and refuses more than a bound */
  qnet_diag *diag;
  const char *path; /* a scratch file that the target may write */
  uint64_t random;  /* for choices of the target's own */
  volatile uint64_t *accepted;
} fuzz_case;

/* Ends the case as a failure of the program under test. */
void fuzz_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Whatever fails must have said why, and must not blame itself. */
void fuzz_check(const fuzz_case *c, qnet_status status, const char *what);
/* The input is well-formed. A run in which none is tests only the front door, and fails. */
void fuzz_accept(const fuzz_case *c);
/* Writes the input to c->path. */
void fuzz_write(const fuzz_case *c, const char *data, size_t size);

/* Changes bytes, elements, shapes and metadata, a few of them. */
void fuzz_edit_tensors(qnet_tensor_file *f, uint64_t random);

typedef struct fuzz_target {
  const char *name;
  void (*run)(const fuzz_case *c, const char *data, size_t size);
  const char *const *seeds; /* glob patterns below the source directory; NULL-terminated */
  const char *const *words; /* dictionary; NULL-terminated */
  int share;                /* of the cases of a run, in percent */
  /* Makes seed i in addition to the files; NULL, or false behind the last. */
  bool (*make_seed)(int i, qnet_strbuf *out);
} fuzz_target;

extern const fuzz_target fuzz_target_qnet, fuzz_target_qir, fuzz_target_weights, fuzz_target_image,
    fuzz_target_idx, fuzz_target_options, fuzz_target_passes, fuzz_target_packed,
    fuzz_target_checkpoint, fuzz_target_metrics;

#endif
