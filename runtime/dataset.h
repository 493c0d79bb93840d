/* Data sets of labelled images: u8, N,H,W,C, wholly in memory. */
#ifndef QNET_RUNTIME_DATASET_H
#define QNET_RUNTIME_DATASET_H

#include "support/diag.h"
#include <stdint.h>

typedef struct qnet_dataset {
  const qnet_allocator *allocator;
  int64_t count, height, width, channels, classes;
  uint8_t *images; /* count * height * width * channels */
  uint8_t *labels; /* count; each < classes */
} qnet_dataset;

typedef enum { QNET_SPLIT_TRAIN, QNET_SPLIT_TEST } qnet_split;

/* name: "fashion-mnist" or "mnist" (looked for in the system's place and $QNET_DATA), or a
 * directory that holds IDX files train-images-idx3-ubyte[.gz] and so on; t10k-* is the test split.
 * An unknown name is diagnosed with the known ones and the package that brings the data. */
qnet_status qnet_dataset_load(const qnet_allocator *a, const char *name, qnet_split split,
                              qnet_dataset *out, qnet_diag *d);
void qnet_dataset_free(qnet_dataset *s);

/* One batch: image i goes to out[i], cropped and flipped at random when asked. The numbers depend
 * on (seed, epoch, index of the image) alone (Random123). */
typedef struct qnet_augment {
  int crop_pad; /* 0 = none */
  bool flip;
} qnet_augment;
void qnet_dataset_batch(const qnet_dataset *s, const uint32_t *index, size_t count,
                        const qnet_augment *augment, uint64_t seed, uint64_t epoch, uint8_t *images,
                        int32_t *labels);
/* A permutation of 0..count-1 that depends on (seed, epoch) alone. */
void qnet_dataset_shuffle(uint32_t *index, size_t count, uint64_t seed, uint64_t epoch);

#endif
