/* The quantizers "lcq" and "lcq_exact": known levels, thresholds and gradients, gradients against
 * finite differences with the rounding frozen, fit and snapping. */
#include "passes/quantizers/lcq.h"
#include "tests/unit/quantizer_test.h"

enum { K = QNET_LCQ_PIECES, GROUPS = 4 };

/* Heights 0.4, 0.3, 0.2, 0.1 of four equal parts of the axis, alpha = 2, as 16 pieces. */
static qnet_quantizer_site make(const qnet_quantizer *q, qnet_role role, int bits, float *param) {
  static const float heights[GROUPS] = {0.4f, 0.3f, 0.2f, 0.1f};
  qnet_quantizer_site s = test_site(q, role, bits, param);
  param[QNET_LCQ_ALPHA] = 2;
  param[QNET_LCQ_MEAN] = 0;
  param[QNET_LCQ_DEVIATION] = 1;
  for (int k = 0; k < K; k++)
    param[QNET_LCQ_THETA + k] = logf(heights[k / (K / GROUPS)]);
  return s;
}

static void test_tables(void **state) {
  (void)state;
  static const float level[] = {0, 0.208333f, 0.472222f, 1};
  static const float threshold[] = {0.104167f, 0.333333f, 0.666667f};
  float param[TEST_MAX_PARAM];
  test_table t;
  qnet_quantizer_site s = make(&qnet_quantizer_lcq, QNET_ROLE_ACTIVATION, 2, param);
  test_make_table(&s, &t);
  assert_int_equal(t.n, 4);
  for (int k = 0; k < 4; k++)
    assert_near(t.level[k], 2 * level[k], 2e-6);
  for (int k = 0; k < 3; k++)
    assert_near(t.threshold[k], 2 * threshold[k], 2e-6);
  /* Weights of three bits have the same levels on both sides. */
  s = make(&qnet_quantizer_lcq, QNET_ROLE_WEIGHT, 3, param);
  param[QNET_LCQ_MEAN] = 0.5f;
  param[QNET_LCQ_DEVIATION] = 3;
  test_make_table(&s, &t);
  assert_int_equal(t.n, 7);
  for (int k = 0; k < 4; k++) {
    assert_near(t.level[3 + k], 6 * level[k], 6e-6);
    assert_near(t.level[3 - k], -6 * level[k], 6e-6);
  }
  assert_near(t.threshold[3], 0.5 + 6 * 0.104167, 6e-6);
  assert_near(t.threshold[2], 0.5 - 6 * 0.104167, 6e-6);
}

/* The gradient of a group's common theta is the sum over its pieces. */
static void group_sums(const qnet_lcq_gradient *g, double *sum) {
  for (int i = 0; i < GROUPS; i++) {
    sum[i] = 0;
    for (int k = 0; k < K / GROUPS; k++)
      sum[i] += g->theta[i * (K / GROUPS) + k];
  }
}

static void test_known_gradients(void **state) {
  (void)state;
  static const struct {
    float x;
    double value, dx_exact, alpha_exact, alpha, theta[GROUPS];
  } cases[] = {
      {0.7f, 0.944444, 1, 0.122222, 0.122222, {0.097778, -0.171111, 0.048889, 0.024444}},
      {1.4f, 2, 2, -0.4, 0.3, {0.28, 0.21, -0.06, -0.43}},
      {-0.22f, -0.416667, 1, -0.098333, -0.098333, {0.118, -0.059, -0.039333, -0.019667}},
  };
  for (int i = 0; i < COUNT(cases); i++)
    for (int exact = 0; exact < 2; exact++) {
      float param[TEST_MAX_PARAM];
      double theta[GROUPS];
      qnet_quantizer_site s =
          make(exact ? &qnet_quantizer_lcq_exact : &qnet_quantizer_lcq, QNET_ROLE_WEIGHT, 3, param);
      test_sums sums;
      test_point(&s, cases[i].x, &sums);
      const qnet_lcq_gradient g = qnet_lcq_gradients(&s, sums.dy, sums.dyx);
      group_sums(&g, theta);
      assert_near(test_quantize(&s, cases[i].x), cases[i].value, 2e-6);
      assert_near(sums.dx, exact ? cases[i].dx_exact : 1, 1e-5);
      assert_near(g.alpha, exact ? cases[i].alpha_exact : cases[i].alpha, 1e-5);
      for (int k = 0; k < GROUPS; k++)
        assert_near(theta[k], cases[i].theta[k], 1e-5);
    }
}

/* ---- finite differences -----------------------------------------------------------------------*/

typedef struct model {
  double alpha, mean, deviation, theta[K];
} model;

static void heights_of(const model *m, double *p) {
  double sum = 0;
  for (int k = 0; k < K; k++)
    sum += p[k] = exp(m->theta[k]);
  for (int k = 0; k < K; k++)
    p[k] /= sum;
}

static double compress(const model *m, double v) {
  double p[K], y = 0;
  heights_of(m, p);
  const int piece = v >= 1 ? K - 1 : (int)(v * K);
  for (int k = 0; k < piece; k++)
    y += p[k];
  return y + p[piece] * (v * K - piece);
}

static double expand(const model *m, double y) {
  double p[K];
  heights_of(m, p);
  int k = 0;
  for (; k < K - 1 && y >= p[k]; k++)
    y -= p[k];
  return (y / p[k] + k) / K;
}

/* The value when rounding adds `offset`. */
static double smooth(const model *m, double x, double offset) {
  const double n = (x - m->mean) / m->deviation, v = fabs(n) / m->alpha;
  const double size = v >= 1 ? 1 : expand(m, compress(m, v) + offset);
  return m->deviation * m->alpha * (n < 0 ? -size : size);
}

static void test_exact_gradients(void **state) {
  (void)state;
  uint64_t seed = 11;
  for (int trial = 0; trial < 40; trial++) {
    const bool weight = trial % 2 == 0;
    const int bits = 2 + trial / 2 % 3, top = (1 << (weight ? bits - 1 : bits)) - 1;
    float param[TEST_MAX_PARAM];
    qnet_quantizer_site s = make(&qnet_quantizer_lcq_exact,
                                 weight ? QNET_ROLE_WEIGHT : QNET_ROLE_ACTIVATION, bits, param);
    model m = {2, weight ? 0.125 : 0, weight ? 0.75 : 1, {0}};
    param[QNET_LCQ_MEAN] = (float)m.mean;
    param[QNET_LCQ_DEVIATION] = (float)m.deviation;
    for (int k = 0; k < K; k++)
      m.theta[k] = (double)(param[QNET_LCQ_THETA + k] = test_float(&seed));
    const float x = weight ? 2 * test_float(&seed) : 2.2f * fabsf(test_float(&seed));
    const double y = compress(&m, fmin(1, fabs((double)x - m.mean) / m.deviation / m.alpha));
    const double offset = round(top * y) / top - y;
    test_sums sums;
    test_point(&s, x, &sums);
    const qnet_lcq_gradient g = qnet_lcq_gradients(&s, sums.dy, sums.dyx);
    const double h = 1e-6;
    assert_near(sums.dx,
                (smooth(&m, (double)x + h, offset) - smooth(&m, (double)x - h, offset)) / 2 / h,
                1e-3);
    for (int k = -1; k < K; k++) {
      model up = m, down = m;
      *(k < 0 ? &up.alpha : &up.theta[k]) += h;
      *(k < 0 ? &down.alpha : &down.theta[k]) -= h;
      assert_near(k < 0 ? g.alpha : g.theta[k],
                  (smooth(&up, (double)x, offset) - smooth(&down, (double)x, offset)) / 2 / h,
                  1e-3);
    }
  }
}

/* ---- tables -----------------------------------------------------------------------------------*/

static void test_snapping(void **state) {
  (void)state;
  float param[TEST_MAX_PARAM], scale;
  int32_t level[QNET_MAX_LEVELS];
  qnet_quantizer_site s = make(&qnet_quantizer_lcq, QNET_ROLE_ACTIVATION, 2, param);
  static const int32_t fine[] = {0, 26, 60, 127}, coarse[] = {0, 3, 7, 15};
  assert_int_equal(qnet_quantizer_lcq.freeze(&s, &scale, level), 4);
  assert_memory_equal(level, fine, sizeof fine);
  s.grid = 15;
  assert_int_equal(qnet_quantizer_lcq.freeze(&s, &scale, level), 4);
  assert_memory_equal(level, coarse, sizeof coarse);
  assert_near(scale, 2.0 / 15, 1e-7);
  s = make(&qnet_quantizer_lcq, QNET_ROLE_WEIGHT, 2, param);
  assert_int_equal(qnet_quantizer_lcq.freeze(&s, &scale, level), 3);
  assert_true(level[0] == -1 && level[1] == 0 && level[2] == 1 && scale == 2);
  param[QNET_LCQ_THETA] = NAN;
  assert_int_equal(qnet_quantizer_lcq.freeze(&s, &scale, level), 0);
}

/* A fit starts uniform, normalised, near the best clip value. */
static void test_fit(void **state) {
  (void)state;
  uint64_t seed = 3;
  float w[600], param[TEST_MAX_PARAM];
  for (int i = 0; i < COUNT(w); i++)
    w[i] = 0.3f + 0.02f * (test_float(&seed) + test_float(&seed) + test_float(&seed));
  qnet_quantizer_site s = test_site(&qnet_quantizer_lcq, QNET_ROLE_WEIGHT, 3, param);
  qnet_quantizer_lcq.fit(&s, w, COUNT(w));
  assert_near(param[QNET_LCQ_MEAN], 0.3, 2e-3);
  assert_near(param[QNET_LCQ_DEVIATION], 0.02, 2e-3);
  assert_true(param[QNET_LCQ_ALPHA] > 1.4f && param[QNET_LCQ_ALPHA] < 2.4f);
  assert_true(param[QNET_LCQ_THETA] == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tables),
      cmocka_unit_test(test_known_gradients),
      cmocka_unit_test(test_exact_gradients),
      cmocka_unit_test(test_snapping),
      cmocka_unit_test(test_fit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
