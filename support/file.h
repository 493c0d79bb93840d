/* Files: whole-file reading with a size limit, and the one writer: temporary file beside the
 * target, fsync, rename, fsync of the directory. A failed write leaves the old file as it was. */
#ifndef QNET_SUPPORT_FILE_H
#define QNET_SUPPORT_FILE_H

#include "support/diag.h"

/* Reads a file ("-" = standard input) of at most max_bytes into memory from `a`; *data is followed
 * by a NUL that *size does not count. The caller frees *data with size *size + 1. */
qnet_status qnet_file_read(const qnet_allocator *a, const char *path, size_t max_bytes, char **data,
                           size_t *size, qnet_diag *d);

typedef struct qnet_file_writer qnet_file_writer;
/* Opens a temporary file in the directory of `path`. */
qnet_status qnet_file_writer_open(const qnet_allocator *a, const char *path,
                                  qnet_file_writer **writer, qnet_diag *d);
qnet_status qnet_file_writer_write(qnet_file_writer *w, const void *data, size_t size);
/* Makes the content durable under its name, or removes the temporary file and reports why not.
 * The writer is gone either way. */
qnet_status qnet_file_writer_commit(qnet_file_writer *w);
/* The file that commit replaces stays under this name (of the same directory), instead of what was
 * there. At every moment one of the two is whole. For regular files; others ignore it. */
void qnet_file_writer_keep(qnet_file_writer *w, const char *previous);
void qnet_file_writer_abort(qnet_file_writer *w); /* removes the temporary file; NULL is fine */

/* Removes the temporary files that writers of `path` left behind when their process was killed. */
void qnet_file_remove_stale(const char *path);

/* All in one. "-" writes to standard output. */
qnet_status qnet_file_write(const qnet_allocator *a, const char *path, const void *data,
                            size_t size, qnet_diag *d);

#endif
