/* Resampling against a plain sum in f64, and its exact cases; colours against their definition. */
#include "runtime/pixels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { HEIGHT = 11, WIDTH = 17, CHANNELS = 3, MAX_SIDE = 24 };

static uint8_t image[HEIGHT * WIDTH * CHANNELS];

static int fill_image(void **state) {
  (void)state;
  uint32_t x = 12345;
  for (size_t i = 0; i < sizeof image; i++) {
    x = x * 1664525u + 1013904223u;
    image[i] = (uint8_t)(x >> 24);
  }
  return 0;
}

static const qnet_pixels whole = {HEIGHT, WIDTH, CHANNELS, image};

static void resample(qnet_box box, int64_t height, int64_t width, uint8_t *out) {
  assert_int_equal(
      qnet_pixels_resample(qnet_allocator_system(), &whole, box, height, width, out, NULL),
      QNET_OK);
}

/* The unnormalized weight of pixel k for output i of `count` from a line's part. */
static double weight(double begin, double length, int64_t count, int64_t i, int64_t k) {
  const double step = length / (double)count, support = step > 1 ? step : 1;
  const double distance = fabs((double)k + 0.5 - (begin + ((double)i + 0.5) * step));
  return distance < support ? 1 - distance / support : 0;
}

static double expected(qnet_box b, int64_t height, int64_t width, int64_t y, int64_t x, int c) {
  double sum = 0, weights = 0;
  for (int v = 0; v < HEIGHT; v++)
    for (int u = 0; u < WIDTH; u++) {
      const double w = weight(b.y, b.height, height, y, v) * weight(b.x, b.width, width, x, u);
      weights += w;
      sum += w * image[(v * WIDTH + u) * CHANNELS + c];
    }
  return sum / weights;
}

static void resampling_is_a_weighted_sum(void **state) {
  (void)state;
  static const qnet_box boxes[] = {
      {0, 0, HEIGHT, WIDTH}, {2, 3, 5, 7}, {0.3, 9.7, 10.5, 7.3}, {4, 4, 1, 1}};
  static const int64_t sizes[][2] = {{1, 1}, {3, 5}, {11, 17}, {24, 24}};
  for (int b = 0; b < 4; b++)
    for (int s = 0; s < 4; s++) {
      const int64_t height = sizes[s][0], width = sizes[s][1];
      uint8_t out[MAX_SIDE * MAX_SIDE * CHANNELS];
      resample(boxes[b], height, width, out);
      for (int64_t i = 0; i < height * width * CHANNELS; i++) {
        const double want = expected(boxes[b], height, width, i / CHANNELS / width,
                                     i / CHANNELS % width, (int)(i % CHANNELS));
        assert_true(fabs(out[i] - want) < 0.6);
      }
    }
}

static void exact_cases(void **state) {
  (void)state;
  uint8_t out[MAX_SIDE * MAX_SIDE * CHANNELS];
  resample((qnet_box){0, 0, HEIGHT, WIDTH}, HEIGHT, WIDTH, out);
  assert_memory_equal(out, image, sizeof image);
  resample((qnet_box){2, 3, 4, 5}, 4, 5, out); /* whole pixels: a copy */
  for (int y = 0; y < 4; y++)
    assert_memory_equal(out + y * 15, image + ((y + 2) * WIDTH + 3) * CHANNELS, 15);
  for (int value = 0; value < 256; value += 51) { /* one colour stays that colour */
    memset(image, value, sizeof image);
    resample((qnet_box){0.7, 0.2, 9, 13}, 7, 19, out);
    for (int i = 0; i < 7 * 19 * CHANNELS; i++)
      assert_int_equal(out[i], value);
  }
}

static void lack_of_memory(void **state) {
  (void)state;
  qnet_failing_allocator m;
  uint64_t n = 0;
  do {
    uint8_t out[12];
    qnet_failing_allocator_init(&m, ++n, 0);
    const qnet_box box = {0, 0, HEIGHT, WIDTH};
    const qnet_status status = qnet_pixels_resample(&m.base, &whole, box, 2, 2, out, NULL);
    assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
    assert_int_equal(m.live_bytes, 0);
  } while (m.failed);
}

/* ---- colours ------------------------------------------------------------------------------- */

static qnet_colour factors(double b, double c, double s) {
  return (qnet_colour){(int32_t)(b * QNET_COLOUR_ONE), (int32_t)(c * QNET_COLOUR_ONE),
                       (int32_t)(s * QNET_COLOUR_ONE), 0};
}

static void colours_are_blends(void **state) {
  (void)state;
  uint8_t pixels[6] = {10, 100, 200, 250, 60, 7};
  qnet_colour c = factors(1, 1, 1);
  uint8_t out[6];
  for (c.order = 0; c.order < QNET_COLOUR_ORDERS; c.order++) {
    memcpy(out, pixels, 6);
    qnet_pixels_colour(out, 2, 3, &c);
    assert_memory_equal(out, pixels, 6);
  }
  c = factors(1.5, 1, 1);
  qnet_pixels_colour(out, 2, 3, &c);
  assert_memory_equal(out, ((uint8_t[]){15, 150, 255, 255, 90, 11}), 6);
  memcpy(out, pixels, 6);
  c = factors(1, 1, 0);
  qnet_pixels_colour(out, 2, 3, &c); /* 0.299 R + 0.587 G + 0.114 B */
  assert_memory_equal(out, ((uint8_t[]){84, 84, 84, 111, 111, 111}), 6);
  memcpy(out, pixels, 6);
  c = factors(1, 0, 1);
  qnet_pixels_colour(out, 2, 3, &c); /* the mean of 84 and 111, a half upwards */
  assert_memory_equal(out, ((uint8_t[]){98, 98, 98, 98, 98, 98}), 6);
  memcpy(out, pixels, 6);
  c = factors(1, 2, 1);
  qnet_pixels_colour(out, 2, 3, &c); /* 2 x - 98 */
  assert_memory_equal(out, ((uint8_t[]){0, 102, 255, 255, 22, 0}), 6);
  uint8_t grey[2] = {100, 51};
  c = factors(0.5, 1, 0.3);
  qnet_pixels_colour(grey, 2, 1, &c);
  assert_memory_equal(grey, ((uint8_t[]){50, 26}), 2);
}

static void the_order_matters(void **state) {
  (void)state;
  uint8_t out[2][6];
  qnet_colour c = factors(1.8, 0.5, 1);
  for (int i = 0; i < 2; i++) {
    memcpy(out[i], (uint8_t[]){10, 100, 200, 250, 60, 7}, 6);
    c.order = 2 * i; /* brightness first, contrast first */
    qnet_pixels_colour(out[i], 2, 3, &c);
  }
  assert_memory_not_equal(out[0], out[1], 6);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(resampling_is_a_weighted_sum, fill_image),
      cmocka_unit_test_setup(exact_cases, fill_image),
      cmocka_unit_test(lack_of_memory),
      cmocka_unit_test(colours_are_blends),
      cmocka_unit_test(the_order_matters),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
