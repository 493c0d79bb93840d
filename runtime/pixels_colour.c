/* Brightness, contrast and saturation: each blends the image with black, with its mean grey, or
 * with its own grey version; a factor beyond one moves away from it. */
#include "runtime/pixels.h"

static uint8_t blend(uint8_t x, int32_t grey, int32_t factor) {
  const int64_t sum = (int64_t)x * factor + (int64_t)grey * (QNET_COLOUR_ONE - factor);
  const int64_t rounded = (sum + QNET_COLOUR_ONE / 2) >> 16;
  return (uint8_t)(rounded < 0 ? 0 : rounded > 255 ? 255 : rounded);
}

static void blend_all(uint8_t *data, int64_t samples, int32_t grey, int32_t factor) {
  for (int64_t i = 0; i < samples; i++)
    data[i] = blend(data[i], grey, factor);
}

static int32_t mean_grey(const uint8_t *data, int64_t count, int64_t channels) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; i++)
    sum += channels == 3 ? qnet_pixels_luma(data + 3 * i) : data[i];
  return (int32_t)((2 * sum + count) / (2 * count));
}

static void saturate(uint8_t *data, int64_t count, int32_t factor) {
  for (int64_t i = 0; i < count; i++) {
    uint8_t *pixel = data + 3 * i;
    const uint8_t grey = qnet_pixels_luma(pixel);
    blend_all(pixel, 3, grey, factor);
  }
}

void qnet_pixels_colour(uint8_t *data, int64_t count, int64_t channels, const qnet_colour *c) {
  static const char orders[QNET_COLOUR_ORDERS][3] = {"bcs", "bsc", "cbs", "csb", "sbc", "scb"};
  const bool has_grey = channels == 1 || channels == 3;
  for (int i = 0; i < 3; i++) {
    const char what = orders[c->order][i];
    if (what == 'b' && c->brightness != QNET_COLOUR_ONE)
      blend_all(data, count * channels, 0, c->brightness);
    if (what == 'c' && c->contrast != QNET_COLOUR_ONE && has_grey)
      blend_all(data, count * channels, mean_grey(data, count, channels), c->contrast);
    if (what == 's' && c->saturation != QNET_COLOUR_ONE && channels == 3)
      saturate(data, count, c->saturation);
  }
}
