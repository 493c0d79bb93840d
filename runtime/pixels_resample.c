/* Resampling, one axis after the other. For each output position an axis has a few weights that sum
 * to exactly 2^14; rows are resampled first, to 14 bits a sample, then columns. */
#include "runtime/pixels.h"

#include <math.h>

enum { WEIGHT_BITS = 14, ONE = 1 << WEIGHT_BITS, KEPT_BITS = 6 };

/* Output i is the sum of weight[i * taps + k] * in[first[i] + k]. */
typedef struct axis {
  int64_t taps;
  int64_t *first;
  int32_t *weight;
} axis;

/* The weights of one output position: the triangle around `centre`, cut off at the border. */
static void choose_weights(double centre, double support, int64_t size, int64_t taps,
                           int64_t *first, int32_t *weight) {
  int64_t low = (int64_t)floor(centre - support + 0.5);
  if (low > size - taps) low = size - taps;
  if (low < 0) low = 0;
  double sum = 0;
  for (int64_t k = 0; k < taps; k++)
    sum += fmax(0, 1 - fabs((double)(low + k) + 0.5 - centre) / support);
  int64_t largest = 0;
  int32_t left = ONE;
  for (int64_t k = 0; k < taps; k++) {
    const double part = fmax(0, 1 - fabs((double)(low + k) + 0.5 - centre) / support);
    weight[k] = (int32_t)floor(part / sum * ONE + 0.5);
    left -= weight[k];
    if (weight[k] > weight[largest]) largest = k;
  }
  weight[largest] += left; /* the rounding errors */
  *first = low;
}

static bool make_axis(qnet_arena *arena, double begin, double length, int64_t size, int64_t count,
                      axis *out) {
  const double step = length / (double)count;
  const double support = step > 1 ? step : 1;
  out->taps = (int64_t)ceil(2 * support) + 1;
  if (out->taps > size) out->taps = size;
  out->first = qnet_arena_array(arena, (size_t)count, sizeof *out->first);
  out->weight = qnet_arena_array(arena, (size_t)(count * out->taps), sizeof *out->weight);
  if (!out->first || !out->weight) return false;
  for (int64_t i = 0; i < count; i++)
    choose_weights(begin + ((double)i + 0.5) * step, support, size, out->taps, &out->first[i],
                   out->weight + i * out->taps);
  return true;
}

static void resample_row(const axis *a, const uint8_t *in, int64_t channels, int64_t count,
                         uint16_t *out) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < channels; c++) {
      const uint8_t *from = in + a->first[i] * channels + c;
      const int32_t *weight = a->weight + i * a->taps;
      int32_t sum = 1 << (WEIGHT_BITS - KEPT_BITS - 1);
      for (int64_t k = 0; k < a->taps; k++)
        sum += weight[k] * from[k * channels];
      *out++ = (uint16_t)(sum >> (WEIGHT_BITS - KEPT_BITS));
    }
}

/* Output row i, of `samples` samples, from rows that begin with row `base` of the image. */
static void resample_column(const axis *a, int64_t i, const uint16_t *rows, int64_t base,
                            int64_t samples, uint8_t *out) {
  const uint16_t *from = rows + (a->first[i] - base) * samples;
  const int32_t *weight = a->weight + i * a->taps;
  for (int64_t x = 0; x < samples; x++) {
    int32_t sum = 1 << (WEIGHT_BITS + KEPT_BITS - 1);
    for (int64_t k = 0; k < a->taps; k++)
      sum += weight[k] * from[k * samples + x];
    out[x] = (uint8_t)(sum >> (WEIGHT_BITS + KEPT_BITS));
  }
}

static bool resample(qnet_arena *arena, const qnet_pixels *in, qnet_box box, int64_t height,
                     int64_t width, uint8_t *out) {
  axis down, along;
  if (!make_axis(arena, box.y, box.height, in->height, height, &down) ||
      !make_axis(arena, box.x, box.width, in->width, width, &along))
    return false;
  const int64_t base = down.first[0], samples = width * in->channels;
  const int64_t rows = down.first[height - 1] + down.taps - base;
  uint16_t *const half = qnet_arena_array(arena, (size_t)(rows * samples), sizeof *half);
  if (!half) return false;
  for (int64_t y = 0; y < rows; y++)
    resample_row(&along, in->data + (base + y) * in->width * in->channels, in->channels, width,
                 half + y * samples);
  for (int64_t y = 0; y < height; y++)
    resample_column(&down, y, half, base, samples, out + y * samples);
  return true;
}

qnet_status qnet_pixels_resample(const qnet_allocator *a, const qnet_pixels *in, qnet_box box,
                                 int64_t height, int64_t width, uint8_t *out, qnet_diag *d) {
  qnet_arena arena;
  qnet_arena_init(&arena, a);
  const bool done = resample(&arena, in, box, height, width, out);
  qnet_arena_clear(&arena);
  return done ? QNET_OK : qnet_out_of_memory(d);
}
