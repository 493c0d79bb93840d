/* Data sets of labelled images (u8, H,W,C). Small ones lie wholly in memory, large ones are decoded
 * item by item; whoever trains or evaluates asks for batches and sees no difference. */
#ifndef QNET_RUNTIME_DATASET_H
#define QNET_RUNTIME_DATASET_H

#include "ir/blob.h"
#include "support/diag.h"
#include <stdint.h>

/* One image as the set stores it. */
typedef struct qnet_item {
  int64_t height, width;
  const uint8_t *pixels; /* height * width * the set's channels */
  qnet_blob *decoded;    /* what holds the pixels; NULL: the set does */
} qnet_item;

typedef struct qnet_dataset qnet_dataset;
struct qnet_dataset {
  const qnet_allocator *allocator; /* also used by `load`, from whatever thread calls it */
  int64_t count, classes;
  int64_t height, width, channels; /* of the images in a batch */
  int32_t *labels;                 /* count; each < classes */
  /* Image `index`, to be released with qnet_item_release. Changes nothing in the set, so that
   * several threads may load. */
  qnet_status (*load)(const qnet_dataset *s, int64_t index, qnet_item *out, qnet_diag *d);
  void (*close)(qnet_dataset *s); /* frees labels and content; NULL: both are borrowed */
  void *content;
};

typedef enum { QNET_SPLIT_TRAIN, QNET_SPLIT_TEST } qnet_split;

typedef struct qnet_dataset_request {
  const char *name;
  qnet_split split;
  /* What the network takes. Sets whose images have one size keep their own; the caller compares. */
  int64_t height, width, channels;
  bool unlabelled; /* labels are not looked at: all become 0, of one class */
} qnet_dataset_request;

/* request->name: one of the known sets, looked for in $QNET_DATA/NAME, the system's place and the
 * cache (${XDG_CACHE_HOME:-~/.cache}/qnetc/NAME), or a directory, whose files tell what it is.
 * An unknown name is diagnosed with the known ones and how to get the data. */
qnet_status qnet_dataset_load(const qnet_allocator *a, const qnet_dataset_request *request,
                              qnet_dataset *out, qnet_diag *d);
/* A set on arrays of the caller, who keeps them: images of count*height*width*channels bytes. The
 * sizes are those of `shape`; its other fields are not looked at. */
qnet_dataset qnet_dataset_view(const qnet_dataset *shape, const uint8_t *images, int32_t *labels);
void qnet_dataset_free(qnet_dataset *s);
void qnet_item_release(qnet_item *item);

/* What happens to one image of a batch. The random numbers depend on (seed, epoch, index of the
 * image) alone (Random123). */
typedef struct qnet_augment {
  int crop_pad; /* zero pixels around the image, then a random part; 0: none */
  bool flip;    /* mirrors half of the images */
  /* A random part of at least this share of the area, brought to the batch's size; 0: none. */
  double smallest_area;
  /* Each factor is drawn from [1 - x, 1 + x], at least 0; 0: none. */
  double brightness, contrast, saturation;
} qnet_augment;

/* One batch. Images of another size than the batch's lose 1/16 at each border, more on the longer
 * side, unless a random part is taken. Image index[i] goes to images + i * height * width *
 * channels, its label to labels[i]. augment may be NULL. */
qnet_status qnet_dataset_batch(const qnet_dataset *s, const uint32_t *index, size_t count,
                               const qnet_augment *augment, uint64_t seed, uint64_t epoch,
                               uint8_t *images, int32_t *labels, qnet_diag *d);
/* A permutation of 0..count-1 that depends on (seed, epoch) alone. */
void qnet_dataset_shuffle(uint32_t *index, size_t count, uint64_t seed, uint64_t epoch);

#endif
