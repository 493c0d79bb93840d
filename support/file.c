/* Files. Reading goes to the end of the stream whatever it is (file, pipe, terminal) and counts the
 * bytes itself; the size that the system reports is only a first guess.
 *
 * Writing makes TARGET.tmp-PID-N beside the target and renames it on commit. What is not a regular
 * file (a device, a pipe, standard output) is written directly: replacing /dev/null by a file would
 * be a nasty surprise. A symbolic link stays one: the file that it names is replaced. */
#include "support/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static qnet_status system_error(qnet_diag *d, const char *path, const char *what) {
  qnet_error_in(d, path, "%s: %s", what, strerror(errno));
  return QNET_IO;
}

/* ---- reading ------------------------------------------------------------------------------- */

typedef struct reader {
  const qnet_allocator *allocator;
  const char *name;
  qnet_diag *diag;
  char *data;
  size_t size, capacity, max_bytes;
} reader;

static qnet_status too_large(const reader *r) {
  return qnet_error_in(r->diag, r->name, "file is larger than the limit of %zu bytes",
                       r->max_bytes);
}

static qnet_status reader_resize(reader *r, size_t capacity) {
  char *data = r->allocator->resize(r->allocator->ctx, r->data, r->capacity, capacity);
  if (!data) return qnet_out_of_memory(r->diag);
  r->data = data;
  r->capacity = capacity;
  return QNET_OK;
}

static qnet_status reader_fill(reader *r, int fd) {
  for (;;) {
    if (r->size + 1 >= r->capacity)
      QNET_TRY(reader_resize(r, r->capacity ? r->capacity * 2 : 4096));
    const ssize_t got = read(fd, r->data + r->size, r->capacity - 1 - r->size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(r->diag, r->name, "cannot read");
    if (got == 0) break;
    r->size += (size_t)got;
    if (r->size > r->max_bytes) return too_large(r);
  }
  QNET_TRY(reader_resize(r, r->size + 1));
  r->data[r->size] = 0;
  return QNET_OK;
}

static qnet_status reader_run(reader *r, int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return system_error(r->diag, r->name, "cannot read");
  if (S_ISDIR(info.st_mode))
    return qnet_error_in(r->diag, r->name, "is a directory, a file is needed");
  if (S_ISREG(info.st_mode) && info.st_size > 0) {
    if ((uint64_t)info.st_size > r->max_bytes) return too_large(r);
    /* One byte for the NUL, one to meet the end of the file without growing. */
    QNET_TRY(reader_resize(r, (size_t)info.st_size + 2));
  }
  return reader_fill(r, fd);
}

qnet_status qnet_file_read(const qnet_allocator *a, const char *path, size_t max_bytes, char **data,
                           size_t *size, qnet_diag *d) {
  *data = NULL;
  *size = 0;
  const bool standard = strcmp(path, "-") == 0;
  reader r = {.allocator = a, .name = standard ? "<stdin>" : path, .diag = d};
  r.max_bytes = max_bytes < SIZE_MAX / 4 ? max_bytes : SIZE_MAX / 4;
  const int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return system_error(d, path, "cannot open");
  const qnet_status status = reader_run(&r, fd);
  if (!standard) close(fd);
  if (status != QNET_OK) {
    qnet_free(a, r.data, r.capacity);
    return status;
  }
  *data = r.data;
  *size = r.size;
  return QNET_OK;
}

/* ---- writing ------------------------------------------------------------------------------- */

struct qnet_file_writer {
  const qnet_allocator *allocator;
  qnet_diag *diag;
  qnet_arena arena;
  const char *name;   /* as the user wrote it */
  const char *target; /* after symbolic links; NULL: written directly */
  char *temporary;    /* NULL: written directly */
  char *previous;     /* the name that the replaced file gets, or NULL */
  int fd;
  qnet_status status; /* of the first failure */
};

static qnet_status fail(qnet_file_writer *w, const char *what) {
  return w->status = system_error(w->diag, w->name, what);
}

/* Opens TARGET.tmp-PID-N with the mode that the user's umask gives. */
static qnet_status open_temporary(qnet_file_writer *w) {
  for (unsigned n = 0; n < 100; n++) {
    w->temporary = qnet_arena_printf(&w->arena, "%s.tmp-%ld-%u", w->target, (long)getpid(), n);
    if (!w->temporary) return w->status = qnet_out_of_memory(w->diag);
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd >= 0) return QNET_OK;
    if (errno != EEXIST) break;
  }
  w->temporary = NULL;
  return fail(w, "cannot create");
}

static qnet_status open_target(qnet_file_writer *w) {
  struct stat info;
  if (stat(w->name, &info) != 0) {
    if (errno != ENOENT) return fail(w, "cannot create");
    w->target = w->name;
    return open_temporary(w);
  }
  if (S_ISDIR(info.st_mode))
    return w->status = qnet_error_in(w->diag, w->name, "is a directory, a file name is needed");
  if (!S_ISREG(info.st_mode)) {
    w->fd = open(w->name, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    return w->fd >= 0 ? QNET_OK : fail(w, "cannot open for writing");
  }
  char resolved[PATH_MAX];
  if (!realpath(w->name, resolved)) return fail(w, "cannot create");
  w->target = qnet_arena_strdup(&w->arena, resolved);
  if (!w->target) return w->status = qnet_out_of_memory(w->diag);
  QNET_TRY(open_temporary(w));
  if (fchmod(w->fd, info.st_mode & 0777) != 0) return fail(w, "cannot set the mode");
  return QNET_OK;
}

qnet_status qnet_file_writer_open(const qnet_allocator *a, const char *path,
                                  qnet_file_writer **writer, qnet_diag *d) {
  *writer = NULL;
  qnet_file_writer *w = qnet_alloc(a, sizeof *w);
  if (!w) return qnet_out_of_memory(d);
  *w = (qnet_file_writer){.allocator = a, .diag = d, .fd = -1};
  qnet_arena_init(&w->arena, a);
  const bool standard = strcmp(path, "-") == 0;
  w->name = qnet_arena_strdup(&w->arena, standard ? "<stdout>" : path);
  if (!w->name)
    w->status = qnet_out_of_memory(d);
  else if (standard)
    w->fd = STDOUT_FILENO;
  else
    open_target(w);
  const qnet_status status = w->status;
  if (status == QNET_OK)
    *writer = w;
  else
    qnet_file_writer_abort(w);
  return status;
}

qnet_status qnet_file_writer_write(qnet_file_writer *w, const void *data, size_t size) {
  const char *from = data;
  while (w->status == QNET_OK && size) {
    const ssize_t wrote = write(w->fd, from, size);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return fail(w, "cannot write");
    from += wrote;
    size -= (size_t)wrote;
  }
  return w->status;
}

/* A rename is durable only when the directory is. */
static qnet_status sync_directory(qnet_file_writer *w) {
  const char *slash = strrchr(w->target, '/');
  const size_t length = slash ? (size_t)(slash - w->target) : 0;
  const char *directory = !slash ? "." : length == 0 ? "/" : NULL;
  if (!directory) directory = qnet_arena_strndup(&w->arena, w->target, length);
  if (!directory) return w->status = qnet_out_of_memory(w->diag);
  const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return QNET_OK; /* a directory that may be written but not read */
  const int failed = fsync(fd) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP;
  if (failed) fail(w, "cannot sync the directory");
  close(fd);
  return w->status;
}

static qnet_status close_file(qnet_file_writer *w) {
  const int fd = w->fd;
  w->fd = -1;
  if (fd <= STDERR_FILENO) return w->status;
  /* After EINTR Linux has closed the descriptor all the same. */
  if (close(fd) != 0 && errno != EINTR && w->status == QNET_OK) return fail(w, "cannot write");
  return w->status;
}

static void writer_destroy(qnet_file_writer *w) {
  close_file(w);
  if (w->temporary) unlink(w->temporary);
  qnet_arena_clear(&w->arena);
  qnet_free(w->allocator, w, sizeof *w);
}

void qnet_file_writer_keep(qnet_file_writer *w, const char *previous) {
  w->previous = qnet_arena_strdup(&w->arena, previous);
  if (!w->previous && w->status == QNET_OK) w->status = qnet_out_of_memory(w->diag);
}

/* The new file is whole and on the disk: nothing is lost between the two renames. */
static void replace_target(qnet_file_writer *w) {
  if (w->previous && rename(w->target, w->previous) != 0 && errno != ENOENT) {
    fail(w, "cannot keep the previous file");
    return;
  }
  if (rename(w->temporary, w->target) != 0) {
    fail(w, "cannot replace");
    return;
  }
  w->temporary = NULL;
  sync_directory(w);
}

qnet_status qnet_file_writer_commit(qnet_file_writer *w) {
  if (w->status == QNET_OK && w->temporary && fsync(w->fd) != 0) fail(w, "cannot write");
  close_file(w);
  if (w->status == QNET_OK && w->temporary) replace_target(w);
  const qnet_status status = w->status;
  writer_destroy(w);
  return status;
}

void qnet_file_writer_abort(qnet_file_writer *w) {
  if (!w) return;
  if (w->status == QNET_OK) w->status = QNET_ERROR; /* closing needs no report any more */
  writer_destroy(w);
}

qnet_status qnet_file_write(const qnet_allocator *a, const char *path, const void *data,
                            size_t size, qnet_diag *d) {
  qnet_file_writer *w;
  QNET_TRY(qnet_file_writer_open(a, path, &w, d));
  qnet_file_writer_write(w, data, size);
  return qnet_file_writer_commit(w);
}

/* ---- what killed processes left ---------------------------------------------------------------*/

/* TARGET.tmp-PID-N of a process that is no more. */
static bool is_stale(const char *path, size_t prefix) {
  char *end = NULL;
  const long pid = strtol(path + prefix, &end, 10);
  return pid > 0 && *end == '-' && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

void qnet_file_remove_stale(const char *path) {
  char target[PATH_MAX], name[PATH_MAX + 8];
  if (strlen(path) >= sizeof target) return;
  if (!realpath(path, target)) memcpy(target, path, strlen(path) + 1);
  char *slash = strrchr(target, '/');
  snprintf(name, sizeof name, "%s.tmp-", slash ? slash + 1 : target);
  if (slash) slash[1] = '\0';
  DIR *d = opendir(slash ? target : ".");
  if (!d) return;
  const size_t prefix = strlen(name);
  for (struct dirent *e; (e = readdir(d)) != NULL;)
    if (strncmp(e->d_name, name, prefix) == 0 && is_stale(e->d_name, prefix))
      unlinkat(dirfd(d), e->d_name, 0);
  closedir(d);
}
