/* Reading the source that a verb works on. */
#include "driver/session.h"
#include "support/file.h"
#include <string.h>

enum { MAX_SOURCE = 1 << 20 };

bool qnet_has_suffix(const char *path, const char *suffix) {
  const size_t n = strlen(path), m = strlen(suffix);
  return n > m && strcmp(path + n - m, suffix) == 0;
}

void qnet_session_show(const qnet_session *s) {
  if (s->show) s->show(s->diag);
}

qnet_status qnet_session_program(qnet_session *s, qnet_program *out) {
  const qnet_options *o = &s->options;
  char *text;
  size_t size;
  QNET_TRY(qnet_file_read(s->allocator, o->input, MAX_SOURCE, &text, &size, s->diag));
  const char *name = strcmp(o->input, "-") == 0 ? "<stdin>" : o->input;
  const qnet_status status = qnet_frontend_parse(s->allocator, name, text, size, o->parameter,
                                                 o->parameter_count, out, s->diag);
  qnet_free(s->allocator, text, size + 1);
  return status;
}
