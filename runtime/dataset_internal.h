/* The formats behind qnet_dataset_load: one file each, one row in the table of dataset.c. */
#ifndef QNET_RUNTIME_DATASET_INTERNAL_H
#define QNET_RUNTIME_DATASET_INTERNAL_H

#include "runtime/dataset.h"

/* What a reader is asked for. */
typedef struct qnet_dataset_source {
  const qnet_allocator *allocator;
  const qnet_dataset_request *request;
  const char *directory;
  int classes;         /* of a known set; 0: as the labels say */
  qnet_arena *scratch; /* for paths */
  qnet_diag *diag;
} qnet_dataset_source;

enum { QNET_DATASET_MAX_MARKERS = 5 };

typedef struct qnet_dataset_format {
  const char *what; /* for messages: the files that make such a set */
  /* A directory with any of these files is of this format. */
  const char *marker[QNET_DATASET_MAX_MARKERS];
  /* Fills *out. After a failure the caller frees what is in it. */
  qnet_status (*read)(const qnet_dataset_source *s, qnet_dataset *out);
} qnet_dataset_format;

extern const qnet_dataset_format qnet_format_idx;
extern const qnet_dataset_format qnet_format_cifar10;
extern const qnet_dataset_format qnet_format_cifar100; /* fine labels, coarse where classes is 20 */
extern const qnet_dataset_format qnet_format_npy;
extern const qnet_dataset_format qnet_format_folder;

/* What to do about labels that are missing; ends a message. */
#define QNET_DATASET_LABELS_HINT                                                                   \
  "; images without labels can only train, with --no-labels --distill=F32.safetensors"

/* DIRECTORY/NAME in the scratch arena; NULL is reported by the caller. */
char *qnet_dataset_path(const qnet_dataset_source *s, const char *name);
/* Memory for a set of out->count images and labels of out's sizes; *out loads from it and frees it.
 */
qnet_status qnet_dataset_allocate(const qnet_dataset_source *s, qnet_dataset *out);
/* Gives all images the label 0 of 1 class, in place of labels or where there are none. */
qnet_status qnet_dataset_without_labels(const qnet_dataset_source *s, qnet_dataset *out);
/* Makes *out load from and free `images`, an array of its sizes from its allocator. */
void qnet_dataset_adopt(qnet_dataset *out, uint8_t *images);
/* Sets out->classes to the known number or, where there is none, to the largest label + 1 (at least
 * `at_least`), and refuses a label beyond a known number. file: which to name. */
qnet_status qnet_dataset_check_labels(const qnet_dataset_source *s, const char *file,
                                      int64_t at_least, qnet_dataset *out);

#endif
