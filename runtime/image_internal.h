/* The decoders behind qnet_image_read: each gets the whole file in memory and gives pixels. */
#ifndef QNET_RUNTIME_IMAGE_INTERNAL_H
#define QNET_RUNTIME_IMAGE_INTERNAL_H

#include "runtime/image.h"

/* A file in memory, and what a decoder needs to report. */
typedef struct qnet_image_source {
  const qnet_allocator *allocator;
  const char *path; /* for diagnostics */
  const uint8_t *data;
  size_t size;
  qnet_diag *diag;
} qnet_image_source;

enum { QNET_IMAGE_MAX_BYTES = 64 << 20 };

/* u8 of H,W,C with C 1 or 3, as the file has it. */
qnet_status qnet_png_decode(const qnet_image_source *s, qnet_blob **out);
qnet_status qnet_jpeg_decode(const qnet_image_source *s, qnet_blob **out);
qnet_status qnet_pnm_decode(const qnet_image_source *s, qnet_blob **out);
/* u8 or f32 of the file's own shape. */
qnet_status qnet_npy_decode(const qnet_image_source *s, qnet_blob **out);

/* A new blob for an image of that size; diagnoses what is empty or larger than the limit. */
qnet_status qnet_image_create(const qnet_image_source *s, uint64_t height, uint64_t width,
                              uint64_t channels, qnet_blob **out);

#endif
