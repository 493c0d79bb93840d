/* CIFAR-10 and CIFAR-100 in their classic binary layout: records of one or two label bytes, then a
 * 32x32 image as three planes. A file holds any whole number of records; the five training files of
 * CIFAR-10 hold the same number, so that a file that was cut between two records is noticed. */
#include "runtime/dataset_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIDE = 32, PLANE = SIDE * SIDE, PIXELS = 3 * PLANE, MAX_RECORD = PIXELS + 2, CHUNK = 64 };
enum { MAX_RECORDS = 10000000 };

typedef struct layout {
  const char *train[5];
  int train_files;
  const char *test;
  int label_bytes, label_at;
  int classes;
} layout;

static const layout cifar10 = {{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                "data_batch_4.bin", "data_batch_5.bin"},
                               5,
                               "test_batch.bin",
                               1,
                               0,
                               10};
/* The first byte is one of 20 coarse classes, the second one of 100. */
static const layout cifar100 = {{"train.bin"}, 1, "test.bin", 2, 1, 100};
static const layout cifar100_coarse = {{"train.bin"}, 1, "test.bin", 2, 0, 20};

typedef struct reader {
  const qnet_dataset_source *source;
  const layout *layout;
  const char *path; /* of the file being read */
  int fd;
  int64_t count; /* its records */
} reader;

static qnet_status system_error(const reader *r, const char *what) {
  qnet_error_in(r->source->diag, r->path, "%s: %s", what, strerror(errno));
  return QNET_IO;
}

static int64_t record_bytes(const layout *l) {
  return l->label_bytes + PIXELS;
}

static qnet_status count_records(reader *r) {
  struct stat info;
  if (fstat(r->fd, &info) != 0) return system_error(r, "cannot read");
  if (!S_ISREG(info.st_mode))
    return qnet_error_in(r->source->diag, r->path, "is not a regular file");
  const int64_t bytes = record_bytes(r->layout);
  r->count = info.st_size / bytes;
  if (r->count == 0 || info.st_size % bytes || r->count > MAX_RECORDS)
    return qnet_error_in(r->source->diag, r->path,
                         "has %lld bytes, which is not a number of records of %lld bytes; fetch "
                         "it again",
                         (long long)info.st_size, (long long)bytes);
  return QNET_OK;
}

static qnet_status open_file(reader *r, const char *name) {
  r->path = qnet_dataset_path(r->source, name);
  if (!r->path) return qnet_out_of_memory(r->source->diag);
  r->fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (r->fd < 0) return system_error(r, "cannot open");
  const qnet_status status = count_records(r);
  if (status != QNET_OK) close(r->fd);
  return status;
}

static qnet_status read_exactly(const reader *r, uint8_t *to, size_t size) {
  while (size) {
    const ssize_t got = read(r->fd, to, size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(r, "cannot read");
    if (got == 0) return qnet_error_in(r->source->diag, r->path, "the file became shorter");
    to += got;
    size -= (size_t)got;
  }
  return QNET_OK;
}

static void interleave(const uint8_t *planes, uint8_t *pixels) {
  for (int i = 0; i < PLANE; i++)
    for (int c = 0; c < 3; c++)
      pixels[3 * i + c] = planes[c * PLANE + i];
}

/* The file's records become images `at` and following. */
static qnet_status read_records(const reader *r, int64_t at, qnet_dataset *out) {
  uint8_t records[CHUNK * MAX_RECORD];
  const size_t bytes = (size_t)record_bytes(r->layout);
  for (int64_t done = 0; done < r->count;) {
    const int64_t part = r->count - done < CHUNK ? r->count - done : CHUNK;
    QNET_TRY(read_exactly(r, records, (size_t)part * bytes));
    for (int64_t i = 0; i < part; i++, done++) {
      const uint8_t *record = records + (size_t)i * bytes;
      out->labels[at + done] = record[r->layout->label_at];
      interleave(record + r->layout->label_bytes, (uint8_t *)out->content + (at + done) * PIXELS);
    }
  }
  return QNET_OK;
}

/* The first of several files says how many records each must have. */
static qnet_status read_file(reader *r, const char *name, int number, int files,
                             qnet_dataset *out) {
  const int64_t usual = r->count;
  QNET_TRY(open_file(r, name));
  qnet_status status = QNET_OK;
  if (number == 0) {
    out->count = r->count * files;
    status = qnet_dataset_allocate(r->source, out);
  } else if (r->count != usual) {
    status = qnet_error_in(r->source->diag, r->path,
                           "holds %lld images, the files before it %lld; fetch it again",
                           (long long)r->count, (long long)usual);
  }
  if (status == QNET_OK) status = read_records(r, number * r->count, out);
  close(r->fd);
  return status;
}

/* Labels are checked while the path of the file is at hand: each file's own. */
static qnet_status check_labels(const reader *r, int64_t first, const qnet_dataset *out) {
  for (int64_t i = first; i < first + r->count; i++)
    if (out->labels[i] >= r->layout->classes)
      return qnet_error_in(r->source->diag, r->path, "label %lld is %d, there are %d classes",
                           (long long)(i - first), out->labels[i], r->layout->classes);
  return QNET_OK;
}

static qnet_status read_layout(const qnet_dataset_source *s, const layout *l, qnet_dataset *out) {
  reader r = {.source = s, .layout = l};
  const bool train = s->request->split == QNET_SPLIT_TRAIN;
  const int files = train ? l->train_files : 1;
  out->height = out->width = SIDE;
  out->channels = 3;
  out->classes = l->classes;
  for (int i = 0; i < files; i++) {
    QNET_TRY(read_file(&r, train ? l->train[i] : l->test, i, files, out));
    QNET_TRY(check_labels(&r, i * r.count, out));
  }
  return QNET_OK;
}

static qnet_status read_cifar10(const qnet_dataset_source *s, qnet_dataset *out) {
  return read_layout(s, &cifar10, out);
}

static qnet_status read_cifar100(const qnet_dataset_source *s, qnet_dataset *out) {
  return read_layout(s, s->classes == cifar100_coarse.classes ? &cifar100_coarse : &cifar100, out);
}

const qnet_dataset_format qnet_format_cifar10 = {
    .what = "CIFAR-10, binary: data_batch_{1,2,3,4,5}.bin, test_batch.bin",
    .marker = {"data_batch_1.bin", "test_batch.bin"},
    .read = read_cifar10};

const qnet_dataset_format qnet_format_cifar100 = {.what = "CIFAR-100, binary: train.bin, test.bin",
                                                  .marker = {"train.bin", "test.bin"},
                                                  .read = read_cifar100};
