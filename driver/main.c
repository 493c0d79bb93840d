/* The qnetc command. Only this file prints diagnostics and chooses the exit code. */
#include "codegen/target.h"
#include "driver/session.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_USER = 1, EXIT_USAGE = 2, EXIT_INTERNAL = 3, EXIT_STOPPED = 4 };

static int print_version(void) {
  printf("qnetc %s\nLLVM %s\n", QNET_VERSION, QNET_LLVM_VERSION);
  printf("targets:\n");
  qnet_target_list(stdout);
  return 0;
}

static bool wants_colour(void) {
  const char *no = getenv("NO_COLOR");
  return isatty(STDERR_FILENO) && !(no && *no);
}

static qnet_status run_verb(qnet_session *s) {
  switch (s->options.verb) {
  case QNET_VERB_COMPILE: return qnet_verb_compile(s);
  case QNET_VERB_TRAIN: return qnet_verb_train(s);
  case QNET_VERB_EVAL: return qnet_verb_eval(s);
  case QNET_VERB_RUN: return qnet_verb_run(s);
  case QNET_VERB_OPT: return qnet_verb_opt(s);
  case QNET_VERB_PACK: return qnet_verb_pack(s);
  }
  return QNET_INTERNAL;
}

static int exit_code(qnet_status status) {
  if (status == QNET_OK) return 0;
  if (status == QNET_STOPPED) return EXIT_STOPPED;
  return status == QNET_INTERNAL ? EXIT_INTERNAL : EXIT_USER;
}

/* A report that could not be written (a full disk, a closed pipe) must not look like success. */
static int close_stdout(int code) {
  const int broken = ferror(stdout) | fflush(stdout);
  if (!broken || code) return code;
  fprintf(stderr, "qnetc: error: cannot write to standard output\n");
  return EXIT_USER;
}

static void show(qnet_diag *d) {
  qnet_diag_print(d, stderr, wants_colour());
}

static int run(int argc, char **argv, qnet_diag *d) {
  qnet_session s = {.allocator = qnet_allocator_system(), .diag = d, .show = show};
  const qnet_status usage = qnet_options_parse(argc, argv, &s.options, d);
  if (s.options.help) {
    qnet_options_help(s.options.verb, stdout);
    return close_stdout(0);
  }
  int code = EXIT_USAGE;
  if (s.options.remarks) qnet_diag_enable_remarks(d);
  if (usage == QNET_OK) {
    const qnet_status status = run_verb(&s);
    if (status != QNET_OK && status != QNET_STOPPED && qnet_diag_error_count(d) == 0)
      qnet_error_in(d, "qnetc", "internal error (status %d); please report this", (int)status);
    code = exit_code(status);
  }
  show(d);
  qnet_diag_print_summary(d, stderr);
  return close_stdout(code);
}

int main(int argc, char **argv) {
  /* A file at its size limit and a closed pipe are failed writes, not ends of the process. */
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  if (argc == 2 && strcmp(argv[1], "--version") == 0) return close_stdout(print_version());
  if (argc == 1) {
    qnet_options_help(QNET_VERB_COMPILE, stderr);
    return EXIT_USAGE;
  }
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  if (!d) {
    fprintf(stderr, "qnetc: error: out of memory\n");
    return EXIT_USER;
  }
  const int code = run(argc, argv, d);
  qnet_diag_destroy(d);
  return code;
}
