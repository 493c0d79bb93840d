/* What the tests of quantizers learned by gradient share: gradients against finite differences of
 * the smooth part, where rounding is frozen: each method's test says what its value is when the
 * outcome of rounding stays that of the point. */
#ifndef QNET_TESTS_UNIT_QUANTIZER_TEST_H
#define QNET_TESTS_UNIT_QUANTIZER_TEST_H

#include "passes/quantizer.h"
#include "passes/quantizers/scaled_set.h"
#include "tests/unit/interp_test.h"

#define assert_near(a, b, eps) assert_true(fabs((double)(a) - (double)(b)) <= (double)(eps))

enum { TEST_MAX_PARAM = 160 };

static inline qnet_quantizer_site test_site(const qnet_quantizer *q, qnet_role role, int bits,
                                            float *param) {
  qnet_quantizer_site s = {.quantizer = q,
                           .name = "l",
                           .role = role,
                           .bits = bits,
                           .channels = 1,
                           .grid = 127,
                           .fan = 9,
                           .elements = 1,
                           .decay = q->decay,
                           .param = param};
  q->init(&s);
  return s;
}

/* The decision table as training has it. */
typedef struct test_table {
  int n;
  float threshold[QNET_MAX_LEVELS], level[QNET_MAX_LEVELS];
  uint8_t perm[QNET_MAX_LEVELS];
} test_table;

static inline void test_make_table(const qnet_quantizer_site *s, test_table *t) {
  float level[QNET_MAX_LEVELS];
  t->n = s->quantizer->levels(s, level);
  qnet_quantizer_sort(level, t->n, t->threshold, t->level, t->perm);
  if (s->quantizer->thresholds != NULL) s->quantizer->thresholds(s, 0, t->threshold);
}

static inline int test_rank(const test_table *t, float x) {
  int rank = 0;
  while (rank < t->n - 1 && x > t->threshold[rank])
    rank++;
  return rank;
}

static inline float test_quantize(const qnet_quantizer_site *s, float x) {
  test_table t;
  test_make_table(s, &t);
  return t.level[test_rank(&t, x)];
}

/* dQ/dx at x, and the sums of dy = 1 at x alone: one cell is not zero. */
typedef struct test_sums {
  int n;
  double dx, dy[QNET_MAX_CELLS], dyx[QNET_MAX_CELLS];
} test_sums;

static inline void test_point(const qnet_quantizer_site *s, float x, test_sums *out) {
  float bound[QNET_MAX_CELLS], slope[QNET_MAX_CELLS], tilt[QNET_MAX_CELLS];
  memset(out, 0, sizeof *out);
  out->n = s->quantizer->cell_count(s);
  assert_true(out->n >= 2 && out->n <= QNET_MAX_CELLS);
  s->quantizer->cells(s, bound, slope, tilt);
  int cell = 0;
  while (cell < out->n - 1 && x > bound[cell])
    cell++;
  out->dx = (double)slope[cell] + (double)tilt[cell] * (double)x;
  out->dy[cell] = 1;
  out->dyx[cell] = (double)x;
}

#endif
