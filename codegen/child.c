/* The child gets two pipes: one for its product, one as its standard error. The parent reads both
 * until they close, so that neither side can block the other. */
#include "codegen/child.h"

#include <errno.h>
#include <fcntl.h>
#include <llvm-c/ErrorHandling.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

bool qnet_child_write(int fd, const void *data, size_t size) {
  const char *at = data;
  while (size > 0) {
    const ssize_t n = write(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= (size_t)n;
  }
  return true;
}

/* LLVM would call exit(), which runs the parent's exit handlers a second time. */
static void leave_at_once(const char *reason) {
  qnet_child_write(STDERR_FILENO, reason, strlen(reason));
  _exit(3);
}

static _Noreturn void run_child(int (*body)(void *, int), void *ctx, int out_fd, int err_fd) {
  const struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  if (dup2(err_fd, STDERR_FILENO) < 0) _exit(3);
  LLVMInstallFatalErrorHandler(leave_at_once);
  _exit(body(ctx, out_fd));
}

/* Reads what is there; false at the end of the stream. */
static bool drain(int fd, qnet_strbuf *into) {
  char chunk[16384];
  const ssize_t n = read(fd, chunk, sizeof chunk);
  if (n < 0) return errno == EINTR || errno == EAGAIN;
  if (n == 0) return false;
  qnet_strbuf_append(into, chunk, (size_t)n);
  return true;
}

static void collect(int out_fd, int err_fd, qnet_child_result *r) {
  struct pollfd fds[2] = {{.fd = out_fd, .events = POLLIN}, {.fd = err_fd, .events = POLLIN}};
  qnet_strbuf *const into[2] = {&r->out, &r->err};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    if (poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    for (int i = 0; i < 2; i++) {
      if (fds[i].revents != 0 && !drain(fds[i].fd, into[i])) fds[i].fd = -1;
    }
  }
}

static void await(pid_t pid, qnet_child_result *r) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno == EINTR) continue;
    r->exit_code = -1;
    return;
  }
  r->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  r->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void close_pair(const int *fd) {
  close(fd[0]);
  close(fd[1]);
}

static qnet_status refused(qnet_diag *d, const char *what) {
  qnet_error_in(d, "code generation", "cannot make a %s: %s", what, strerror(errno));
  return QNET_IO;
}

qnet_status qnet_child_run(const qnet_allocator *a, int (*body)(void *ctx, int out_fd), void *ctx,
                           qnet_child_result *result, qnet_diag *d) {
  qnet_strbuf_init(&result->out, a);
  qnet_strbuf_init(&result->err, a);
  result->exit_code = -1;
  result->signal = 0;
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0) return refused(d, "pipe");
  if (pipe2(err, O_CLOEXEC) != 0) {
    close_pair(out);
    return refused(d, "pipe");
  }
  const pid_t pid = fork();
  if (pid == 0) run_child(body, ctx, out[1], err[1]);
  close(out[1]);
  close(err[1]);
  if (pid > 0) {
    collect(out[0], err[0], result);
    await(pid, result);
  }
  close(out[0]);
  close(err[0]);
  if (pid < 0) return refused(d, "process");
  if (result->out.failed || result->err.failed) return qnet_out_of_memory(d);
  return QNET_OK;
}

void qnet_child_result_free(qnet_child_result *r) {
  qnet_strbuf_free(&r->out);
  qnet_strbuf_free(&r->err);
}
