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

static qnet_status parse(qnet_session *s, const char *path, const char *const *parameter,
                         int parameter_count, qnet_program *out) {
  char *text;
  size_t size;
  QNET_TRY(qnet_file_read(s->allocator, path, MAX_SOURCE, &text, &size, s->diag));
  const char *name = strcmp(path, "-") == 0 ? "<stdin>" : path;
  const qnet_status status =
      qnet_frontend_parse(s->allocator, name, text, size, parameter, parameter_count, out, s->diag);
  qnet_free(s->allocator, text, size + 1);
  return status;
}

qnet_status qnet_session_program(qnet_session *s, qnet_program *out) {
  const qnet_options *o = &s->options;
  return parse(s, o->input, o->parameter, o->parameter_count, out);
}

qnet_status qnet_session_other_program(qnet_session *s, const char *path, qnet_program *out) {
  return parse(s, path, NULL, 0, out);
}
