/* Arithmetic on the pixels of one image (u8, H,W,C). Whole numbers but for the choice of weights,
 * so that every machine gives the same bytes. */
#ifndef QNET_RUNTIME_PIXELS_H
#define QNET_RUNTIME_PIXELS_H

#include "support/diag.h"
#include <stdint.h>

typedef struct qnet_pixels {
  int64_t height, width, channels;
  const uint8_t *data;
} qnet_pixels;

/* A part of an image, in pixels; it need not fall on their borders. */
typedef struct qnet_box {
  double y, x, height, width;
} qnet_box;

/* The box becomes an image of height x width. Bilinear; where the image shrinks, the triangle grows
 * with the step, so that every pixel takes part. */
qnet_status qnet_pixels_resample(const qnet_allocator *a, const qnet_pixels *in, qnet_box box,
                                 int64_t height, int64_t width, uint8_t *out, qnet_diag *d);

/* Factors of 1/65536: 65536 changes nothing, 0 gives black, the mean grey, and grey pixels. */
typedef struct qnet_colour {
  int32_t brightness, contrast, saturation;
  int order; /* 0..5: one of the orders of the three */
} qnet_colour;
enum { QNET_COLOUR_ONE = 65536, QNET_COLOUR_ORDERS = 6 };
/* channels: 1 (saturation has no effect) or 3; with another number only brightness is changed. */
void qnet_pixels_colour(uint8_t *data, int64_t count, int64_t channels, const qnet_colour *c);

/* ITU-R 601 in 16-bit fixed point (the weights sum to 65536). */
static inline uint8_t qnet_pixels_luma(const uint8_t *rgb) {
  const uint32_t sum = 19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 32768u;
  return (uint8_t)(sum >> 16);
}

#endif
