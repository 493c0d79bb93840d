/* The diagnostics engine: source buffers with line tables, and the reports not printed yet.
 *
 * Reporting must not fail: when memory runs out, the report's text is lost but the counts and the
 * "out of memory" line remain. Rendering is in diag_print.c. */
#include "support/diag_internal.h"

#include <limits.h>
#include <string.h>

enum { DEFAULT_LIMIT = 20 };

qnet_diag *qnet_diag_create(const qnet_allocator *allocator) {
  qnet_diag *d = qnet_alloc(allocator, sizeof *d);
  if (!d) return NULL;
  d->allocator = allocator;
  d->limit = DEFAULT_LIMIT;
  qnet_arena_init(&d->buffers_arena, allocator);
  qnet_arena_init(&d->reports_arena, allocator);
  d->next_report = &d->first_report;
  return d;
}

void qnet_diag_destroy(qnet_diag *d) {
  if (!d) return;
  qnet_arena_clear(&d->buffers_arena);
  qnet_arena_clear(&d->reports_arena);
  qnet_free(d->allocator, d, sizeof *d);
}

/* ---- source buffers ------------------------------------------------------------------------ */

static size_t count_lines(const char *text, size_t length) {
  size_t lines = 1;
  for (size_t i = 0; i < length; i++)
    lines += text[i] == '\n';
  return lines;
}

uint32_t qnet_diag_add_buffer(qnet_diag *d, const char *name, const char *text, size_t length) {
  if (!d || length >= UINT32_MAX) return 0;
  qnet_arena *const arena = &d->buffers_arena;
  const size_t lines = count_lines(text, length);
  qnet_diag_buffer *buffer = qnet_arena_alloc(arena, sizeof *buffer);
  char *name_copy = qnet_arena_strdup(arena, name);
  char *text_copy = qnet_arena_strndup(arena, text, length);
  uint32_t *starts = qnet_arena_array(arena, lines, sizeof *starts);
  if (!buffer || !name_copy || !text_copy || !starts) return 0;
  size_t line = 1;
  for (size_t i = 0; i < length; i++)
    if (text[i] == '\n') starts[line++] = (uint32_t)i + 1;
  *buffer = (qnet_diag_buffer){d->last_buffer, ++d->buffer_count, name_copy,       text_copy,
                               starts,         (uint32_t)lines,   (uint32_t)length};
  d->last_buffer = buffer;
  return buffer->index;
}

const qnet_diag_buffer *qnet_diag_find_buffer(const qnet_diag *d, uint32_t index) {
  const qnet_diag_buffer *buffer = d && index ? d->last_buffer : NULL;
  while (buffer && buffer->index != index)
    buffer = buffer->older;
  return buffer;
}

const char *qnet_diag_buffer_name(const qnet_diag *d, uint32_t buffer) {
  const qnet_diag_buffer *found = qnet_diag_find_buffer(d, buffer);
  return found ? found->name : "";
}

/* 0-based line that holds the offset. */
uint32_t qnet_diag_buffer_line(const qnet_diag_buffer *buffer, uint32_t offset) {
  uint32_t low = 0, high = buffer->line_count;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (buffer->line_start[middle] <= offset)
      low = middle;
    else
      high = middle;
  }
  return low;
}

void qnet_diag_position(const qnet_diag *d, qnet_loc loc, uint32_t *line, uint32_t *column) {
  *line = *column = 0;
  const qnet_diag_buffer *buffer = qnet_diag_find_buffer(d, loc.buffer);
  if (!buffer) return;
  const uint32_t offset = loc.begin < buffer->length ? loc.begin : buffer->length;
  const uint32_t at = qnet_diag_buffer_line(buffer, offset);
  *line = at + 1;
  *column = offset - buffer->line_start[at] + 1;
}

/* ---- reports ------------------------------------------------------------------------------- */

static char *format_text(qnet_arena *arena, const char *format, va_list args) {
  va_list measured;
  va_copy(measured, args);
  const int length = vsnprintf(NULL, 0, format, measured);
  va_end(measured);
  if (length < 0) return NULL;
  char *text = qnet_arena_alloc(arena, (size_t)length + 1);
  if (text) vsnprintf(text, (size_t)length + 1, format, args);
  return text;
}

/* Counts the report; says whether it is to be kept. */
static bool admit(qnet_diag *d, qnet_severity severity) {
  if (severity == QNET_DIAG_NOTE) return !d->dropping;
  if (severity == QNET_DIAG_WARNING) d->warnings++;
  if (severity == QNET_DIAG_ERROR) d->errors++;
  d->dropping = severity == QNET_DIAG_ERROR && d->limit && d->errors > d->limit;
  if (d->dropping) d->dropped++;
  return !d->dropping;
}

static void report(qnet_diag *d, qnet_severity severity, const char *subject, qnet_loc loc,
                   const char *format, va_list args) {
  if (!d) return;
  const qnet_diag_report *const before = d->last_report;
  d->last_report = NULL; /* a fix-it of a report that is not kept must not go to another */
  if (!admit(d, severity)) return;
  /* A note without a place of its own speaks of the same subject. */
  if (severity == QNET_DIAG_NOTE && !subject && !loc.buffer && before) subject = before->subject;
  qnet_diag_report *r = qnet_arena_alloc(&d->reports_arena, sizeof *r);
  char *text = r ? format_text(&d->reports_arena, format, args) : NULL;
  char *subject_copy = text && subject ? qnet_arena_strdup(&d->reports_arena, subject) : NULL;
  if (!text || (subject && !subject_copy)) {
    d->out_of_memory = true;
    return;
  }
  *r = (qnet_diag_report){.severity = severity, .loc = loc, .subject = subject_copy, .text = text};
  *d->next_report = r;
  d->next_report = &r->next;
  d->last_report = r;
}

#define REPORT(severity, subject, loc)                                                             \
  do {                                                                                             \
    va_list args;                                                                                  \
    va_start(args, format);                                                                        \
    report(d, severity, subject, loc, format, args);                                               \
    va_end(args);                                                                                  \
  } while (0)

qnet_status qnet_error(qnet_diag *d, qnet_loc loc, const char *format, ...) {
  REPORT(QNET_DIAG_ERROR, NULL, loc);
  return QNET_ERROR;
}

void qnet_warning(qnet_diag *d, qnet_loc loc, const char *format, ...) {
  REPORT(QNET_DIAG_WARNING, NULL, loc);
}

void qnet_remark(qnet_diag *d, qnet_loc loc, const char *format, ...) {
  if (!d || !d->remarks) return;
  REPORT(QNET_DIAG_REMARK, NULL, loc);
}

void qnet_note(qnet_diag *d, qnet_loc loc, const char *format, ...) {
  REPORT(QNET_DIAG_NOTE, NULL, loc);
}

qnet_status qnet_error_in(qnet_diag *d, const char *subject, const char *format, ...) {
  REPORT(QNET_DIAG_ERROR, subject, QNET_NO_LOC);
  return QNET_ERROR;
}

void qnet_warning_in(qnet_diag *d, const char *subject, const char *format, ...) {
  REPORT(QNET_DIAG_WARNING, subject, QNET_NO_LOC);
}

void qnet_fixit(qnet_diag *d, const char *replacement) {
  if (!d || !d->last_report) return;
  d->last_report->fixit = qnet_arena_strdup(&d->reports_arena, replacement);
}

qnet_status qnet_out_of_memory(qnet_diag *d) {
  if (d) {
    if (!d->out_of_memory) d->errors++;
    d->out_of_memory = true;
  }
  return QNET_NO_MEMORY;
}

void qnet_diag_enable_remarks(qnet_diag *d) {
  if (d) d->remarks = true;
}

void qnet_diag_set_limit(qnet_diag *d, unsigned max_errors) {
  if (d) d->limit = max_errors;
}

unsigned qnet_diag_error_count(const qnet_diag *d) {
  return d ? d->errors : 0;
}

unsigned qnet_diag_warning_count(const qnet_diag *d) {
  return d ? d->warnings : 0;
}

void qnet_diag_forget_reports(qnet_diag *d) {
  qnet_arena_clear(&d->reports_arena);
  d->first_report = NULL;
  d->next_report = &d->first_report;
  d->last_report = NULL;
  d->dropped = 0;
  d->out_of_memory = false;
}
