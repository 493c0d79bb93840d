/* What every verb carries: options, allocator, diagnostics. */
#ifndef QNET_DRIVER_SESSION_H
#define QNET_DRIVER_SESSION_H

#include "driver/options.h"
#include "frontend/frontend.h"

typedef struct qnet_session {
  const qnet_allocator *allocator;
  qnet_diag *diag;
  qnet_options options;
  /* Shows the reports so far: a verb that takes long calls it before it begins. NULL: they wait for
   * the verb's end. */
  void (*show)(qnet_diag *d);
} qnet_session;

/* The verbs: exit codes follow from the status. */
qnet_status qnet_verb_compile(qnet_session *s);
qnet_status qnet_verb_train(qnet_session *s);
qnet_status qnet_verb_eval(qnet_session *s);
qnet_status qnet_verb_run(qnet_session *s);
qnet_status qnet_verb_opt(qnet_session *s);
qnet_status qnet_verb_pack(qnet_session *s);

/* Reads and parses the input .qnet, with the -D parameters. The caller destroys out->module. */
qnet_status qnet_session_program(qnet_session *s, qnet_program *out);
/* The same of another .qnet ("-": standard input), with the parameters that it gives itself. */
qnet_status qnet_session_other_program(qnet_session *s, const char *path, qnet_program *out);

/* Calls session->show where there is one. */
void qnet_session_show(const qnet_session *s);

/* "x.qnet" and ".qnet" -> true. */
bool qnet_has_suffix(const char *path, const char *suffix);

#endif
