/* Diagnostics as clang prints them: file:line:col: error: text, the source line, a caret with its
 * range, notes, fix-its ("did you mean"), a count at the end. The library collects; driver/ prints.
 *
 * Locations are (buffer, byte range): two 32-bit offsets into one registered source buffer. A
 * location that is not from a text file (a data file, a flag) has buffer 0 and only a name. */
#ifndef QNET_SUPPORT_DIAG_H
#define QNET_SUPPORT_DIAG_H

#include "support/alloc.h"
#include "support/status.h"
#include <stdbool.h>
#include <stdio.h>

typedef struct qnet_loc {
  uint32_t buffer; /* 1-based index of a registered buffer; 0 = unknown */
  uint32_t begin, end;
} qnet_loc;
#define QNET_NO_LOC ((qnet_loc){0, 0, 0})

typedef enum { QNET_DIAG_ERROR, QNET_DIAG_WARNING, QNET_DIAG_NOTE, QNET_DIAG_REMARK } qnet_severity;

typedef struct qnet_diag qnet_diag; /* the engine; opaque */

/* NULL on allocation failure. All its memory comes from `allocator`. */
qnet_diag *qnet_diag_create(const qnet_allocator *allocator);
void qnet_diag_destroy(qnet_diag *d);

/* Registers a source text (copied) under a name; returns its 1-based index, 0 when out of memory.
 */
uint32_t qnet_diag_add_buffer(qnet_diag *d, const char *name, const char *text, size_t length);
const char *qnet_diag_buffer_name(const qnet_diag *d, uint32_t buffer);
/* 1-based line and column (in bytes) of an offset. */
void qnet_diag_position(const qnet_diag *d, qnet_loc loc, uint32_t *line, uint32_t *column);

/* Reports. Always returns QNET_ERROR for errors, so that `return qnet_error(...)` reads well. More
 * than 20 errors (qnet_diag_set_limit) are counted but not kept. A note belongs to the report
 * before it. d may be NULL (nothing is recorded). */
qnet_status qnet_error(qnet_diag *d, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void qnet_warning(qnet_diag *d, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void qnet_remark(qnet_diag *d, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void qnet_note(qnet_diag *d, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* An error about a file as a whole or a flag: printed as "SUBJECT: error: text". */
qnet_status qnet_error_in(qnet_diag *d, const char *subject, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void qnet_warning_in(qnet_diag *d, const char *subject, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Replacement text for the range of the last report, shown below its caret. */
void qnet_fixit(qnet_diag *d, const char *replacement);
/* Reports lack of memory and returns QNET_NO_MEMORY; itself allocates nothing. */
qnet_status qnet_out_of_memory(qnet_diag *d);

/* Remarks are dropped unless asked for. */
void qnet_diag_enable_remarks(qnet_diag *d);
void qnet_diag_set_limit(qnet_diag *d, unsigned max_errors);
unsigned qnet_diag_error_count(const qnet_diag *d);
unsigned qnet_diag_warning_count(const qnet_diag *d);
/* Prints all reports not printed yet, then forgets them (counts stay). */
void qnet_diag_print(qnet_diag *d, FILE *out, bool colour);
/* "2 errors generated." and the like; nothing when there were none. */
void qnet_diag_print_summary(const qnet_diag *d, FILE *out);

/* The candidate nearest to `word` by edit distance, when it is near enough for "did you mean"; else
 * NULL. */
const char *qnet_nearest(const char *word, const char *const *candidates, size_t count);

#endif
