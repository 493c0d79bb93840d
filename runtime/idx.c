/* Reading IDX. zlib's gzread passes plain files through, so that one path serves both. The header's
 * claim is checked against what the file could hold before memory is taken for it. */
#include "runtime/idx.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* Deflate packs at most 1032 bytes into one. */
enum { MAX_RATIO = 1032, IDX_UBYTE = 8 };

typedef struct stream {
  gzFile gz;
  const char *path;
  uint64_t file_bytes;
  qnet_diag *diag;
} stream;

static qnet_status stream_open(stream *s) {
  /* O_NONBLOCK: a pipe under this name must not hang us; it is refused below. */
  const int fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) != 0) {
    qnet_error_in(s->diag, s->path, "cannot open: %s", strerror(errno));
    if (fd >= 0) close(fd);
    return QNET_IO;
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return qnet_error_in(s->diag, s->path, "is not a regular file");
  }
  s->file_bytes = (uint64_t)info.st_size;
  s->gz = gzdopen(fd, "rb");
  if (s->gz) return QNET_OK;
  close(fd);
  return qnet_out_of_memory(s->diag);
}

/* gzread has returned less than asked for: the file is damaged, or ends early. */
static qnet_status stream_error(const stream *s) {
  int code;
  const char *text = gzerror(s->gz, &code);
  if (code == Z_MEM_ERROR) return qnet_out_of_memory(s->diag);
  if (code == Z_ERRNO) {
    qnet_error_in(s->diag, s->path, "cannot read: %s", strerror(errno));
    return QNET_IO;
  }
  if (code == Z_DATA_ERROR)
    return qnet_error_in(s->diag, s->path, "the gzip data is damaged (%s); fetch it again", text);
  return qnet_error_in(s->diag, s->path, "the file ends too early; fetch it again");
}

static qnet_status stream_read(const stream *s, uint8_t *data, size_t size) {
  while (size) {
    const unsigned part = size < (1u << 30) ? (unsigned)size : 1u << 30;
    const int got = gzread(s->gz, data, part);
    if (got <= 0) return stream_error(s);
    data += got;
    size -= (size_t)got;
  }
  return QNET_OK;
}

/* At the end of the content; zlib checks the gzip sum when it meets the end. */
static qnet_status stream_finish(const stream *s) {
  uint8_t extra;
  const int got = gzread(s->gz, &extra, 1);
  if (got > 0)
    return qnet_error_in(s->diag, s->path, "there is more data than its header announces");
  int code;
  gzerror(s->gz, &code);
  return got < 0 || (code != Z_OK && code != Z_STREAM_END) ? stream_error(s) : QNET_OK;
}

static uint32_t big_endian(const uint8_t *b) {
  return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static qnet_status read_header(const stream *s, int rank, qnet_idx *out) {
  uint8_t magic[4], number[4];
  QNET_TRY(stream_read(s, magic, sizeof magic));
  if (magic[0] || magic[1] || magic[2] != IDX_UBYTE || magic[3] != rank)
    return qnet_error_in(s->diag, s->path,
                         "not an IDX file of unsigned bytes with %d dimension%s (begins with "
                         "%02x %02x %02x %02x)",
                         rank, rank == 1 ? "" : "s", magic[0], magic[1], magic[2], magic[3]);
  uint64_t bytes = 1;
  for (int i = 0; i < QNET_IDX_MAX_RANK; i++) {
    out->dim[i] = 1;
    if (i >= rank) continue;
    QNET_TRY(stream_read(s, number, sizeof number));
    out->dim[i] = big_endian(number);
    if (out->dim[i] == 0) return qnet_error_in(s->diag, s->path, "dimension %d is 0", i);
    if (__builtin_mul_overflow(bytes, (uint64_t)out->dim[i], &bytes)) bytes = UINT64_MAX;
  }
  if (bytes / MAX_RATIO > s->file_bytes || bytes > SIZE_MAX / 2)
    return qnet_error_in(s->diag, s->path,
                         "its header announces %" PRIu64 " bytes, the file cannot hold so many",
                         bytes);
  out->bytes = (size_t)bytes;
  return QNET_OK;
}

static qnet_status read_content(const stream *s, const qnet_allocator *a, int rank, qnet_idx *out) {
  QNET_TRY(read_header(s, rank, out));
  out->data = qnet_alloc(a, out->bytes);
  if (!out->data) return qnet_out_of_memory(s->diag);
  qnet_status status = stream_read(s, out->data, out->bytes);
  if (status == QNET_OK) status = stream_finish(s);
  if (status == QNET_OK) return QNET_OK;
  qnet_free(a, out->data, out->bytes);
  out->data = NULL;
  return status;
}

qnet_status qnet_idx_read(const qnet_allocator *a, const char *path, int rank, qnet_idx *out,
                          qnet_diag *d) {
  *out = (qnet_idx){.data = NULL};
  stream s = {.path = path, .diag = d};
  QNET_TRY(stream_open(&s));
  const qnet_status status = read_content(&s, a, rank, out);
  gzclose_r(s.gz);
  return status;
}
