/* What diag.c (collecting) and diag_print.c (rendering) share; for no one else. */
#ifndef QNET_SUPPORT_DIAG_INTERNAL_H
#define QNET_SUPPORT_DIAG_INTERNAL_H

#include "support/diag.h"

typedef struct qnet_diag_buffer {
  struct qnet_diag_buffer *older;
  uint32_t index; /* 1-based */
  const char *name, *text;
  const uint32_t *line_start; /* offset of each line's first byte */
  uint32_t line_count, length;
} qnet_diag_buffer;

typedef struct qnet_diag_report {
  struct qnet_diag_report *next;
  qnet_severity severity;
  qnet_loc loc;
  const char *subject; /* stands in for a location; or NULL */
  const char *text;
  const char *fixit; /* or NULL */
} qnet_diag_report;

struct qnet_diag {
  const qnet_allocator *allocator;
  qnet_arena buffers_arena, reports_arena;
  qnet_diag_buffer *last_buffer;
  uint32_t buffer_count;
  qnet_diag_report *first_report, **next_report; /* oldest first; where the next one goes */
  qnet_diag_report *last_report;                 /* NULL when the last one was not kept */
  unsigned errors, warnings, limit;
  unsigned dropped; /* errors beyond the limit since the last printing */
  bool dropping;    /* the last error was beyond the limit: so are its notes */
  bool remarks;     /* remarks are wanted */
  bool out_of_memory;
};

/* NULL when there is none of that index. */
const qnet_diag_buffer *qnet_diag_find_buffer(const qnet_diag *d, uint32_t index);
uint32_t qnet_diag_buffer_line(const qnet_diag_buffer *buffer, uint32_t offset);
void qnet_diag_forget_reports(qnet_diag *d);

#endif
