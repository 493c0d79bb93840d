/* f32 layers to the bit. The images are copied into zero padding, so that padded taps are taps like
 * others; weights are turned so that 16 output channels lie side by side. A tile of 4 positions x
 * 16 channels keeps one accumulator each and walks the taps in the defined order. */
#include "codegen/primitives.h"
#include "support/parallel.h"
#include "support/simd.h"
#include <math.h>
#include <string.h>

enum { CHANNELS = 16, POSITIONS = 4 };

typedef struct layer {
  const qnet_layer_shape *shape;
  const float *x, *bias;
  float *padded, *turned, *y;
  int64_t n, h, w, oh, ow;    /* dense layers: one image, one row, n positions */
  int64_t padded_h, padded_w; /* of one padded image */
  int64_t blocks;             /* of 16 output channels */
} layer;

static layer make_layer(const qnet_layer_shape *s) {
  const qnet_window *k = &s->window;
  layer l = {.shape = s, .n = s->n, .h = s->h, .w = s->w, .oh = s->oh, .ow = s->ow};
  if (s->dense) {
    l.n = l.h = l.oh = 1;
    l.w = l.ow = s->n;
  }
  l.padded_h = l.h + k->pad_top + k->pad_bottom;
  l.padded_w = l.w + k->pad_left + k->pad_right;
  l.blocks = (s->out + CHANNELS - 1) / CHANNELS;
  return l;
}

static int64_t taps(const qnet_layer_shape *s) {
  return s->window.kernel_h * s->window.kernel_w * s->in;
}

static size_t padded_floats(const layer *l) {
  const size_t floats = (size_t)(l->n * l->padded_h * l->padded_w * l->shape->in);
  return (floats + CHANNELS - 1) / CHANNELS * CHANNELS;
}

size_t qnet_exact_layer_scratch(const qnet_layer_shape *s) {
  const layer l = make_layer(s);
  return (padded_floats(&l) + (size_t)(l.blocks * CHANNELS * taps(s))) * sizeof(float);
}

/* turned[block][tap][16] */
static void turn_weights(const layer *l, const float *w) {
  const int64_t count = taps(l->shape);
  memset(l->turned, 0, (size_t)(l->blocks * CHANNELS * count) * sizeof *l->turned);
  for (int64_t o = 0; o < l->shape->out; o++)
    for (int64_t t = 0; t < count; t++)
      l->turned[(o / CHANNELS * count + t) * CHANNELS + o % CHANNELS] = w[o * count + t];
}

static void pad_rows(void *context, size_t begin, size_t end) {
  const layer *l = context;
  const int64_t in = l->shape->in, top = l->shape->window.pad_top;
  for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
    const int64_t image = r / l->padded_h, h = r % l->padded_h - top;
    float *row = l->padded + r * l->padded_w * in;
    memset(row, 0, (size_t)(l->padded_w * in) * sizeof *row);
    if (h >= 0 && h < l->h)
      memcpy(row + l->shape->window.pad_left * in, l->x + (image * l->h + h) * l->w * in,
             (size_t)(l->w * in) * sizeof *row);
  }
}

/* The accumulators of `positions` output positions, `step` floats apart, for 16 channels. */
QNET_SIMD_BODY void tile_body(const qnet_layer_shape *s, const float *x, int64_t row, int64_t step,
                              const float *w, float acc[POSITIONS][CHANNELS]) {
  const qnet_window *k = &s->window;
  float sum[POSITIONS][CHANNELS] = {{0}};
  for (int64_t kh = 0; kh < k->kernel_h; kh++)
    for (int64_t kw = 0; kw < k->kernel_w; kw++) {
      const float *tap = x + kh * k->dilation_h * row + kw * k->dilation_w * s->in;
      for (int64_t i = 0; i < s->in; i++, w += CHANNELS)
        for (int p = 0; p < POSITIONS; p++) {
#pragma omp simd
          for (int c = 0; c < CHANNELS; c++)
            sum[p][c] = fmaf(tap[p * step + i], w[c], sum[p][c]);
        }
    }
  memcpy(acc, sum, sizeof sum);
}
QNET_SIMD_DISPATCH(tile,
                   (const qnet_layer_shape *s, const float *x, int64_t row, int64_t step,
                    const float *w, float acc[POSITIONS][CHANNELS]),
                   (s, x, row, step, w, acc))

static void store_tile(const layer *l, int64_t block, int64_t positions,
                       float acc[POSITIONS][CHANNELS], float *y) {
  const int64_t first = block * CHANNELS, out = l->shape->out;
  const int64_t channels = out - first < CHANNELS ? out - first : CHANNELS;
  for (int64_t p = 0; p < positions; p++)
    for (int64_t c = 0; c < channels; c++) {
      const float v = acc[p][c];
      y[p * out + first + c] = l->bias != NULL ? v + l->bias[first + c] : v;
    }
}

/* Tiles of one output row; a tile that would leave the row starts earlier, or when the row is
 * shorter than a tile reads its last position again. */
static void layer_tile(const layer *l, int64_t image, int64_t oh, int64_t ow) {
  const qnet_window *k = &l->shape->window;
  const int64_t in = l->shape->in, row = l->padded_w * in, step = k->stride_w * in;
  const int64_t first = l->ow >= POSITIONS && ow + POSITIONS > l->ow ? l->ow - POSITIONS : ow;
  const int64_t positions = l->ow < POSITIONS ? l->ow : POSITIONS;
  const float *x = l->padded + (image * l->padded_h + oh * k->stride_h) * row + first * step;
  float *y = l->y + ((image * l->oh + oh) * l->ow + first) * l->shape->out;
  float acc[POSITIONS][CHANNELS];
  for (int64_t b = 0; b < l->blocks; b++) {
    const float *w = l->turned + b * CHANNELS * taps(l->shape);
    if (positions == POSITIONS) {
      tile(l->shape, x, row, step, w, acc);
      store_tile(l, b, POSITIONS, acc, y);
      continue;
    }
    for (int64_t p = 0; p < positions; p++) {
      tile(l->shape, x + p * step, row, 0, w, acc);
      store_tile(l, b, 1, acc, y + p * l->shape->out);
    }
  }
}

static void layer_tiles(void *context, size_t begin, size_t end) {
  const layer *l = context;
  const int64_t per_row = (l->ow + POSITIONS - 1) / POSITIONS;
  for (int64_t i = (int64_t)begin; i < (int64_t)end; i++)
    layer_tile(l, i / per_row / l->oh, i / per_row % l->oh, i % per_row * POSITIONS);
}

void qnet_exact_layer(const qnet_layer_shape *s, const float *x, const float *w, const float *bias,
                      float *y, void *scratch) {
  layer l = make_layer(s);
  l.x = x;
  l.bias = bias;
  l.y = y;
  l.padded = scratch;
  l.turned = l.padded + padded_floats(&l);
  turn_weights(&l, w);
  qnet_parallel_for((size_t)(l.n * l.padded_h), 64, pad_rows, &l);
  const int64_t tiles = l.n * l.oh * ((l.ow + POSITIONS - 1) / POSITIONS);
  qnet_parallel_for((size_t)tiles, 16, layer_tiles, &l);
}
