/* Arrays as numpy saves them: x_train.npy of u8 [N,H,W,C] or [N,H,W], y_train.npy of integers, and
 * the same for the test split. */
#include "runtime/dataset_internal.h"
#include "runtime/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_HEADER = 4096, MAX_LABEL = 65535 };

typedef struct array {
  const qnet_dataset_source *source;
  const char *path;
  int fd;
  qnet_npy header;
} array;

static qnet_status system_error(const array *a, const char *what) {
  qnet_error_in(a->source->diag, a->path, "%s: %s", what, strerror(errno));
  return QNET_IO;
}

/* As many of the bytes at `offset` as there are. */
static qnet_status read_part(const array *a, uint8_t *to, size_t size, size_t offset, size_t *got) {
  for (*got = 0; *got < size;) {
    const ssize_t n = pread(a->fd, to + *got, size - *got, (off_t)(offset + *got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error(a, "cannot read");
    if (n == 0) break;
    *got += (size_t)n;
  }
  return QNET_OK;
}

static qnet_status read_content(const array *a, void *to, size_t size) {
  size_t got;
  QNET_TRY(read_part(a, to, size, a->header.offset, &got));
  if (got == size) return QNET_OK;
  return qnet_error_in(a->source->diag, a->path, "the file became shorter");
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Bytes of an element; 0: neither an integer nor a type of numpy's whose byte order is ours. */
static size_t integer_bytes(const qnet_npy *h) {
  const char order = h->descr[0], kind = h->descr[1], digit = h->descr[2];
  if ((kind != 'u' && kind != 'i') || h->descr[3]) return 0;
  if (digit == '1') return order == '|' || order == '<' || order == '>';
  if (order != '<' || (digit != '2' && digit != '4' && digit != '8')) return 0;
  return (size_t)(digit - '0');
}

static qnet_status read_header(array *a) {
  uint8_t head[MAX_HEADER];
  struct stat info;
  size_t got;
  if (fstat(a->fd, &info) != 0) return system_error(a, "cannot read");
  if (!S_ISREG(info.st_mode))
    return qnet_error_in(a->source->diag, a->path, "is not a regular file");
  QNET_TRY(read_part(a, head, sizeof head, 0, &got));
  QNET_TRY(qnet_npy_parse(a->path, head, got, &a->header, a->source->diag));
  const size_t bytes = integer_bytes(&a->header);
  if (!bytes)
    return qnet_error_in(a->source->diag, a->path,
                         "elements of type '%s' are not supported; save x.astype('uint8'), "
                         "y.astype('int64')",
                         a->header.descr);
  if (a->header.fortran)
    return qnet_error_in(a->source->diag, a->path,
                         "the array is in Fortran order; save numpy.ascontiguousarray(x)");
  const uint64_t has = ((uint64_t)info.st_size - a->header.offset) / bytes;
  if (a->header.elements != has || ((uint64_t)info.st_size - a->header.offset) % bytes)
    return qnet_error_in(a->source->diag, a->path,
                         "its shape needs %" PRIu64 " elements, the file has %" PRIu64,
                         a->header.elements, has);
  return QNET_OK;
}

/* Opens X_SPLIT.npy; a->fd is -1 without a diagnostic when it is not there and `may_lack`. */
static qnet_status open_array(array *a, const qnet_dataset_source *s, char what, qnet_split split,
                              bool may_lack) {
  *a = (array){.source = s, .fd = -1};
  a->path = qnet_arena_printf(s->scratch, "%s/%c_%s.npy", s->directory, what,
                              split == QNET_SPLIT_TRAIN ? "train" : "test");
  if (!a->path) return qnet_out_of_memory(s->diag);
  a->fd = open(a->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (a->fd < 0 && errno == ENOENT && may_lack) return QNET_OK;
  if (a->fd < 0 && errno == ENOENT && what == 'y')
    return qnet_error_in(s->diag, a->path, "there is no such file" QNET_DATASET_LABELS_HINT);
  if (a->fd < 0) return system_error(a, "cannot open");
  const qnet_status status = read_header(a);
  if (status != QNET_OK) close(a->fd);
  return status;
}

/* ---- labels -------------------------------------------------------------------------------- */

static int64_t element(const uint8_t *data, size_t bytes, bool is_signed) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; i++)
    value |= (uint64_t)data[i] << 8 * i;
  const uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
  return (int64_t)(is_signed && bytes < 8 ? (value ^ sign) - sign : value);
}

static qnet_status convert_labels(const array *a, const uint8_t *data, int32_t *labels) {
  const size_t bytes = integer_bytes(&a->header);
  for (uint64_t i = 0; i < a->header.elements; i++) {
    const int64_t value = element(data + i * bytes, bytes, a->header.descr[1] == 'i');
    if (value < 0 || value > MAX_LABEL)
      return qnet_error_in(a->source->diag, a->path,
                           "label %" PRIu64 " is %" PRId64 ", labels are 0..%d", i, value,
                           MAX_LABEL);
    labels[i] = (int32_t)value;
  }
  return QNET_OK;
}

static qnet_status read_labels(const array *a, int32_t *labels) {
  const qnet_npy *const h = &a->header;
  const size_t size = (size_t)h->elements * integer_bytes(h);
  uint8_t *data = qnet_alloc(a->source->allocator, size);
  if (!data) return qnet_out_of_memory(a->source->diag);
  qnet_status status = read_content(a, data, size);
  if (status == QNET_OK) status = convert_labels(a, data, labels);
  qnet_free(a->source->allocator, data, size);
  return status;
}

/* The labels of an array whose length must be `count` (0: any). */
static qnet_status take_labels(const array *a, int64_t count, qnet_dataset *out) {
  const qnet_npy *const h = &a->header;
  if (h->rank < 1 || h->elements != (uint64_t)h->dim[0] || h->elements == 0 ||
      h->elements > INT32_MAX)
    return qnet_error_in(a->source->diag, a->path, "is no list of labels: its shape must be (N,)");
  if (count && h->dim[0] != count)
    return qnet_error_in(a->source->diag, a->path, "holds %lld labels for %lld images",
                         (long long)h->dim[0], (long long)count);
  out->count = h->dim[0];
  out->labels = qnet_alloc_array(out->allocator, (size_t)out->count, sizeof *out->labels);
  if (!out->labels) return qnet_out_of_memory(a->source->diag);
  return read_labels(a, out->labels);
}

/* The number of classes is that of both splits: a label may be missing in one. */
static qnet_status classes_of_other_split(const qnet_dataset_source *s, int64_t *classes) {
  const qnet_split split = s->request->split;
  const qnet_split other = split == QNET_SPLIT_TRAIN ? QNET_SPLIT_TEST : QNET_SPLIT_TRAIN;
  qnet_dataset labels = {.allocator = s->allocator};
  array a;
  *classes = 1;
  QNET_TRY(open_array(&a, s, 'y', other, true));
  if (a.fd < 0) return QNET_OK;
  const qnet_status status = take_labels(&a, 0, &labels);
  close(a.fd);
  for (int64_t i = 0; status == QNET_OK && i < labels.count; i++)
    if (labels.labels[i] >= *classes) *classes = labels.labels[i] + 1;
  qnet_free(s->allocator, labels.labels, (size_t)labels.count * sizeof *labels.labels);
  return status;
}

/* ---- the set ------------------------------------------------------------------------------- */

static qnet_status take_images(const array *a, qnet_dataset *out) {
  const qnet_npy *const h = &a->header;
  if (h->descr[1] != 'u' || integer_bytes(h) != 1)
    return qnet_error_in(a->source->diag, a->path,
                         "images must be bytes 0..255, not '%s'; save x.astype('uint8')", h->descr);
  if (h->rank < 3 || h->rank > 4 || h->elements == 0 || h->dim[0] > INT32_MAX)
    return qnet_error_in(a->source->diag, a->path,
                         "is no array of images: its shape must be (N, H, W, C) or (N, H, W)");
  uint8_t *images = qnet_alloc(out->allocator, (size_t)h->elements);
  if (!images) return qnet_out_of_memory(a->source->diag);
  out->count = h->dim[0];
  out->height = h->dim[1];
  out->width = h->dim[2];
  out->channels = h->rank == 4 ? h->dim[3] : 1;
  qnet_dataset_adopt(out, images);
  return read_content(a, images, (size_t)h->elements);
}

static qnet_status read_npy(const qnet_dataset_source *s, qnet_dataset *out) {
  int64_t classes = 1;
  array a;
  QNET_TRY(open_array(&a, s, 'x', s->request->split, false));
  qnet_status status = take_images(&a, out);
  close(a.fd);
  QNET_TRY(status);
  if (s->request->unlabelled) return QNET_OK;
  QNET_TRY(open_array(&a, s, 'y', s->request->split, false));
  status = take_labels(&a, out->count, out);
  close(a.fd);
  QNET_TRY(status);
  if (!s->classes) QNET_TRY(classes_of_other_split(s, &classes));
  return qnet_dataset_check_labels(s, a.path, classes, out);
}

const qnet_dataset_format qnet_format_npy = {
    .what = "numpy arrays: {x,y}_{train,test}.npy, x of uint8 and shape (N, H, W, C)",
    .marker = {"x_train.npy", "x_test.npy"},
    .read = read_npy};
