/* MNIST's layout: four IDX files, plain or packed. */
#include "runtime/dataset_internal.h"
#include "runtime/idx.h"

#include <unistd.h>

static const char *prefix_of(qnet_split split) {
  return split == QNET_SPLIT_TRAIN ? "train" : "t10k";
}

/* The path of a file of the set, plain or packed; NULL without a diagnostic when there is none. */
static qnet_status find_file(const qnet_dataset_source *s, qnet_split split, const char *what,
                             const char **path) {
  for (int packed = 0; packed < 2; packed++) {
    *path = qnet_arena_printf(s->scratch, "%s/%s-%s-ubyte%s", s->directory, prefix_of(split), what,
                              packed ? ".gz" : "");
    if (!*path) return qnet_out_of_memory(s->diag);
    if (access(*path, F_OK) == 0) return QNET_OK;
  }
  *path = NULL;
  return QNET_OK;
}

static qnet_status need_file(const qnet_dataset_source *s, const char *what, const char *hint,
                             const char **path) {
  const qnet_split split = s->request->split;
  QNET_TRY(find_file(s, split, what, path));
  if (*path) return QNET_OK;
  return qnet_error_in(s->diag, s->directory, "holds no %s-%s-ubyte or %s-%s-ubyte.gz%s",
                       prefix_of(split), what, prefix_of(split), what, hint);
}

/* The number of classes of a directory is that of both its splits: a label may be missing in one.
 */
static qnet_status classes_of_other_split(const qnet_dataset_source *s, int64_t *classes) {
  const qnet_split split = s->request->split;
  const qnet_split other = split == QNET_SPLIT_TRAIN ? QNET_SPLIT_TEST : QNET_SPLIT_TRAIN;
  const char *path;
  *classes = 1;
  if (s->classes) return QNET_OK;
  QNET_TRY(find_file(s, other, "labels-idx1", &path));
  if (!path) return QNET_OK;
  qnet_idx labels;
  QNET_TRY(qnet_idx_read(s->allocator, path, 1, &labels, s->diag));
  for (size_t i = 0; i < labels.bytes; i++)
    if (labels.data[i] >= *classes) *classes = labels.data[i] + 1;
  qnet_free(s->allocator, labels.data, labels.bytes);
  return QNET_OK;
}

static qnet_status take_labels(const qnet_dataset_source *s, const char *path,
                               const qnet_idx *labels, qnet_dataset *out) {
  if ((int64_t)labels->bytes != out->count)
    return qnet_error_in(s->diag, path, "holds %zu labels for %lld images", labels->bytes,
                         (long long)out->count);
  out->labels = qnet_alloc_array(s->allocator, labels->bytes, sizeof *out->labels);
  if (!out->labels) return qnet_out_of_memory(s->diag);
  for (size_t i = 0; i < labels->bytes; i++)
    out->labels[i] = labels->data[i];
  return QNET_OK;
}

static qnet_status read_labels(const qnet_dataset_source *s, qnet_dataset *out) {
  const char *path;
  int64_t classes;
  QNET_TRY(need_file(s, "labels-idx1", QNET_DATASET_LABELS_HINT, &path));
  qnet_idx labels;
  QNET_TRY(qnet_idx_read(s->allocator, path, 1, &labels, s->diag));
  const qnet_status status = take_labels(s, path, &labels, out);
  qnet_free(s->allocator, labels.data, labels.bytes);
  QNET_TRY(status);
  QNET_TRY(classes_of_other_split(s, &classes));
  return qnet_dataset_check_labels(s, path, classes, out);
}

static qnet_status read_images(const qnet_dataset_source *s, qnet_dataset *out) {
  const char *path;
  QNET_TRY(need_file(s, "images-idx3", "", &path));
  qnet_idx images;
  QNET_TRY(qnet_idx_read(s->allocator, path, 3, &images, s->diag));
  out->count = images.dim[0];
  out->height = images.dim[1];
  out->width = images.dim[2];
  out->channels = 1;
  qnet_dataset_adopt(out, images.data);
  return QNET_OK;
}

static qnet_status read_idx(const qnet_dataset_source *s, qnet_dataset *out) {
  QNET_TRY(read_images(s, out));
  return s->request->unlabelled ? QNET_OK : read_labels(s, out);
}

const qnet_dataset_format qnet_format_idx = {
    .what = "IDX: {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",
    .marker = {"train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte",
               "t10k-images-idx3-ubyte.gz"},
    .read = read_idx};
