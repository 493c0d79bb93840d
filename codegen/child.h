/* Work in a child process. LLVM ends the process on many kinds of bad input (a CPU of another
 * architecture, an instruction it cannot select); in a child that is only a failed child. */
#ifndef QNET_CODEGEN_CHILD_H
#define QNET_CODEGEN_CHILD_H

#include "support/diag.h"
#include "support/strbuf.h"

typedef struct qnet_child_result {
  qnet_strbuf out; /* what the body wrote to out_fd */
  qnet_strbuf err; /* what it wrote to standard error */
  int exit_code;   /* of the body; -1 when a signal ended the child */
  int signal;      /* that signal, or 0 */
} qnet_child_result;

/* Runs body(ctx, out_fd) in a child and collects what it writes. An error only when the system
 * refuses a pipe or a process; what became of the body stands in the result. Free it always.
 * No other thread may be at work meanwhile, a loader's for instance: the child would wait for ever
 * for a lock that such a thread held when it was made. */
qnet_status qnet_child_run(const qnet_allocator *a, int (*body)(void *ctx, int out_fd), void *ctx,
                           qnet_child_result *result, qnet_diag *d);
void qnet_child_result_free(qnet_child_result *r);
/* Writes all bytes; false when the other end is gone. For bodies. */
bool qnet_child_write(int fd, const void *data, size_t size);

#endif
