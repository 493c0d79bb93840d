/* The kernels on lanes against plain loops: every number of ranks, every rest behind the last whole
 * block, equal bounds, numbers on the bounds, zeros of both signs, infinities. */
#include "codegen/lanes.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROOM = 200, CODES = 9 };

static uint64_t next(uint64_t *seed) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return *seed >> 33;
}

/* Quarters from -4 to 4: sums are exact in any order, and many numbers lie on bounds. */
static float quarter(uint64_t *seed) {
  return (float)(next(seed) % 33) / 4 - 4;
}

typedef struct fixture {
  qnet_lane_table table;
  float bound[QNET_LANE_RANKS], value[QNET_LANE_RANKS];
  float x[ROOM], dy[ROOM];
} fixture;

static int compare(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static void make_fixture(fixture *f, int ranks, uint64_t seed) {
  f->table = (qnet_lane_table){ranks, f->bound, f->value};
  for (int k = 0; k < ranks; k++) {
    f->bound[k] = quarter(&seed);
    f->value[k] = quarter(&seed);
  }
  qsort(f->bound, (size_t)(ranks - 1), sizeof *f->bound, compare);
  f->value[0] = -0.0f;
  for (int i = 0; i < ROOM; i++) {
    f->x[i] = quarter(&seed);
    f->dy[i] = quarter(&seed);
  }
}

static int rank_of(const qnet_lane_table *t, float x) {
  int rank = 0;
  for (int k = 0; k + 1 < t->ranks; k++)
    rank += x > t->bound[k];
  return rank;
}

static void check_values(const fixture *f, int64_t n) {
  float y[ROOM + 1], z[ROOM + 1];
  int64_t count[QNET_LANE_RANKS + 1] = {7}, expected[QNET_LANE_RANKS + 1] = {7};
  double sum[QNET_LANE_RANKS + 1] = {1.5}, expected_sum[QNET_LANE_RANKS + 1] = {1.5};
  y[n] = z[n] = 99;
  qnet_lanes_pick(&f->table, f->x, n, y);
  qnet_lanes_pick_and_sum(&f->table, f->x, n, z, count, sum);
  for (int64_t i = 0; i < n; i++) {
    const int rank = rank_of(&f->table, f->x[i]);
    assert_memory_equal(&y[i], &f->value[rank], sizeof *y);
    expected[rank]++;
    expected_sum[rank] += (double)f->x[i];
  }
  assert_memory_equal(y, z, (size_t)n * sizeof *y);
  assert_true(y[n] == 99 && z[n] == 99);
  assert_memory_equal(count, expected, sizeof count);
  for (int k = 0; k <= QNET_LANE_RANKS; k++)
    assert_true(sum[k] == expected_sum[k]);
}

static void check_weights(const fixture *f, int64_t n) {
  double sum[QNET_LANE_RANKS + 1] = {2}, sum_x[QNET_LANE_RANKS + 1] = {3};
  double expected[QNET_LANE_RANKS + 1] = {2}, expected_x[QNET_LANE_RANKS + 1] = {3};
  qnet_lanes_weigh(&f->table, f->x, f->dy, n, sum, sum_x);
  for (int64_t i = 0; i < n; i++) {
    const int rank = rank_of(&f->table, f->x[i]);
    expected[rank] += (double)f->dy[i];
    expected_x[rank] += (double)f->dy[i] * (double)f->x[i];
  }
  for (int k = 0; k <= QNET_LANE_RANKS; k++)
    assert_true(sum[k] == expected[k] && sum_x[k] == expected_x[k]);
}

static void test_tables(void **state) {
  (void)state;
  fixture f;
  for (int ranks = 1; ranks <= QNET_LANE_RANKS; ranks++) {
    make_fixture(&f, ranks, (uint64_t)ranks);
    for (int64_t n = 0; n <= 50; n++) {
      check_values(&f, n);
      check_weights(&f, n);
    }
    check_values(&f, ROOM);
    check_weights(&f, ROOM);
  }
}

/* What is no number, and infinities: the values are defined all the same. */
static void test_extremes(void **state) {
  (void)state;
  fixture f;
  make_fixture(&f, 5, 1);
  const float x[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f};
  float y[20];
  for (int i = 0; i < 20; i++)
    f.x[i] = x[i % 5];
  qnet_lanes_pick(&f.table, f.x, 20, y);
  for (int i = 0; i < 20; i++)
    assert_memory_equal(&y[i], &f.value[rank_of(&f.table, f.x[i])], sizeof *y);
  int64_t count[5] = {0}, total = 0;
  double sum[5] = {0};
  qnet_lanes_pick_and_sum(&f.table, f.x, 20, y, count, sum);
  for (int k = 0; k < 5; k++)
    total += count[k];
  assert_int_equal(total, 20);
  assert_true(count[4] == 4 && isinf(sum[4]));
}

static void check_channels(int64_t rows, int64_t channels, uint64_t seed) {
  const size_t n = (size_t)(rows * channels), m = (size_t)(channels * CODES);
  float *x = malloc((n + 1) * sizeof *x);
  uint8_t *code = malloc(n + 1);
  int64_t *count = calloc(2 * m, sizeof *count);
  double *sum = calloc(2 * m, sizeof *sum);
  assert_true(x != NULL && code != NULL && count != NULL && sum != NULL);
  count[0] = count[m] = 5;
  sum[0] = sum[m] = 2.5;
  for (size_t i = 0; i < n; i++) {
    x[i] = quarter(&seed);
    code[i] = (uint8_t)(next(&seed) % CODES);
    const size_t at = m + i % (size_t)channels * CODES + code[i];
    count[at]++;
    sum[at] += (double)x[i];
  }
  qnet_lanes_channel_sums(x, code, rows, channels, CODES, count, sum);
  assert_memory_equal(count, count + m, m * sizeof *count);
  for (size_t k = 0; k < m; k++)
    assert_true(sum[k] == sum[m + k]);
  free(x), free(code), free(count), free(sum);
}

static void test_channels(void **state) {
  (void)state;
  for (int64_t channels = 1; channels <= 33; channels++)
    check_channels(3 + 200 / channels, channels, (uint64_t)channels);
  check_channels(300, 64, 1);
  check_channels(3, 5000, 2);
  check_channels(0, 8, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tables),
      cmocka_unit_test(test_extremes),
      cmocka_unit_test(test_channels),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
