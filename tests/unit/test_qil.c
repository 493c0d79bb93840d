/* The quantizer "qil": known values and gradients, gradients against finite differences, its fit.
 */
#include "passes/quantizers/qil.h"
#include "tests/unit/quantizer_test.h"

enum { C, D, GAMMA, OUT };

static qnet_quantizer_site make(qnet_role role, int bits, float *param, float gamma) {
  qnet_quantizer_site s = test_site(&qnet_quantizer_qil, role, bits, param);
  param[C] = 0.6f;
  param[D] = 0.4f;
  param[GAMMA] = gamma;
  param[OUT] = 1;
  return s;
}

static void test_activations(void **state) {
  (void)state;
  static const float in[] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.7f, 0.9f, 1.2f};
  static const int out[] = {0, 0, 0, 1, 1, 2, 3, 3};
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = make(QNET_ROLE_ACTIVATION, 2, param, 1);
  for (int i = 0; i < COUNT(in); i++)
    assert_near(test_quantize(&s, in[i]), out[i] / 3.0, 1e-6);
}

/* A weight at two bits, where gamma is learned: the derivatives of the power at -0.5. */
static void test_curved_weight(void **state) {
  (void)state;
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = make(QNET_ROLE_WEIGHT, 2, param, 1.5f);
  test_sums sums;
  test_point(&s, -0.5f, &sums);
  const qnet_qil_gradient g = qnet_qil_gradients(&s, sums.dy, sums.dyx);
  assert_near(sums.dx, 1.148198, 1e-3);
  assert_near(g.c, 1.148198, 1e-3);
  assert_near(g.d, -0.287050, 1e-3);
  assert_near(g.gamma, 0.225237, 1e-3);
  /* u^1.5 reaches a half at u = 0.63, x = 0.704. */
  assert_near(test_quantize(&s, 0.703f), 0, 0);
  assert_near(test_quantize(&s, -0.705f), -1, 0);
  /* Three bits: -0.229640 becomes -1/3; gamma is not learned, and starts as 1. */
  s = make(QNET_ROLE_WEIGHT, 3, param, 1.5f);
  assert_near(test_quantize(&s, -0.5f), -1 / 3.0, 1e-6);
  s = make(QNET_ROLE_WEIGHT, 3, param, 1);
  assert_near(test_quantize(&s, -0.5f), -1 / 3.0, 1e-6);
}

/* sign u^gamma: the part that is not rounding. */
static double smooth(qnet_role role, double x, const double *p) {
  const double size = role == QNET_ROLE_WEIGHT ? fabs(x) : x;
  const double u = (size - p[C] + p[D]) / (2 * p[D]);
  const double y = p[OUT] * pow(fmin(1, fmax(0, u)), p[GAMMA]);
  return role == QNET_ROLE_WEIGHT && x < 0 ? -y : y;
}

/* u = 0.375, and what rounding is given at -0.5. */
static void test_transformer(void **state) {
  (void)state;
  static const double p[] = {0.6, 0.4, 1.5, 1};
  assert_near(smooth(QNET_ROLE_WEIGHT, -0.5, p), -0.229640, 1e-6);
  assert_near(smooth(QNET_ROLE_ACTIVATION, 0.5, (const double[]){0.6, 0.4, 1, 1}), 0.375, 1e-9);
}

/* At the ends: nothing below c - d nor above c + d, for weights too, whatever the exponent; just
 * inside, the slope of an exponent below 1 is bounded, and the gradient of the exponent vanishes.
 */
static void test_ends(void **state) {
  (void)state;
  static const float gammas[] = {0.3f, 1, 3};
  for (int k = 0; k < COUNT(gammas); k++)
    for (int side = -1; side <= 1; side += 2) {
      float param[TEST_MAX_PARAM];
      test_sums sums;
      qnet_quantizer_site s = make(QNET_ROLE_WEIGHT, 2, param, gammas[k]);
      const float low = param[C] - param[D], high = param[C] + param[D], sign = (float)side;
      const float outside[] = {0, 0.5f * low, low - 1e-5f, high + 1e-5f, 10};
      for (int i = 0; i < COUNT(outside); i++) {
        test_point(&s, sign * outside[i], &sums);
        const qnet_qil_gradient g = qnet_qil_gradients(&s, sums.dy, sums.dyx);
        assert_true(sums.dx == 0 && g.c == 0 && g.d == 0 && g.gamma == 0);
      }
      test_point(&s, sign * (low + 1e-6f), &sums);
      const qnet_qil_gradient g = qnet_qil_gradients(&s, sums.dy, sums.dyx);
      const double steepest = (double)gammas[k] * pow(1e-4, (double)gammas[k] - 1) / 0.8;
      assert_true(sums.dx >= 0 && sums.dx <= 1.01 * fmax(steepest, 1 / 0.8));
      assert_near(g.gamma, sign * pow(1e-4, (double)gammas[k]) * log(1e-4), 0.05);
      /* Both ends move with c, oppositely with d. */
      assert_near(g.c, -(double)sign * sums.dx, 1e-3 * fabs(g.c) + 1e-6);
      assert_near(g.d, (double)sign * sums.dx, 1e-3 * fabs(g.d) + 1e-6);
      test_point(&s, sign * (high - 1e-6f), &sums);
      const qnet_qil_gradient top = qnet_qil_gradients(&s, sums.dy, sums.dyx);
      assert_near(sums.dx, gammas[k] / 0.8, 1e-3 * (double)gammas[k]);
      assert_near(top.c, -(double)sign * sums.dx, 1e-3);
      assert_near(top.d, -(double)sign * sums.dx, 1e-3);
      assert_near(top.gamma, 0, 1e-3);
    }
}

static double difference(qnet_role role, double x, const float *param, int index) {
  double p[4], y[2];
  for (int side = 0; side < 2; side++) {
    for (int i = 0; i < 4; i++)
      p[i] = (double)param[i];
    p[index] += side ? 1e-5 : -1e-5;
    y[side] = smooth(role, x, p);
  }
  return (y[1] - y[0]) / 2e-5;
}

static void test_gradients(void **state) {
  (void)state;
  static const float points[] = {-1.7f, -0.83f, -0.42f, -0.1f, 0.15f, 0.25f, 0.5f, 0.93f, 1.3f};
  static const float gammas[] = {0.6f, 1, 1.8f};
  for (int role = 0; role < 2; role++)
    for (int bits = 2; bits <= 4; bits++)
      for (int k = 0; k < COUNT(gammas); k++)
        for (int i = 0; i < COUNT(points); i++) {
          const bool curved = role == QNET_ROLE_WEIGHT && bits == 2;
          if (!curved && gammas[k] != 1) continue;
          float param[TEST_MAX_PARAM];
          qnet_quantizer_site s = make((qnet_role)role, bits, param, gammas[k]);
          param[OUT] = 0.7f;
          test_sums sums;
          test_point(&s, points[i], &sums);
          const qnet_qil_gradient g = qnet_qil_gradients(&s, sums.dy, sums.dyx);
          const double x = (double)points[i];
          assert_near(g.c, difference((qnet_role)role, x, param, C), 3e-3);
          assert_near(g.d, difference((qnet_role)role, x, param, D), 3e-3);
          if (curved) assert_near(g.gamma, difference((qnet_role)role, x, param, GAMMA), 3e-3);
          double p[4];
          for (int n = 0; n < 4; n++)
            p[n] = (double)param[n];
          const double slope =
              (smooth((qnet_role)role, x + 1e-5, p) - smooth((qnet_role)role, x - 1e-5, p)) / 2e-5;
          assert_near(sums.dx, slope, 3e-3);
        }
}

/* The fitted table is close to the data, and the interval stays one whatever the gradients. */
static void test_fit(void **state) {
  (void)state;
  uint64_t seed = 5;
  float x[300], param[TEST_MAX_PARAM];
  double square = 0, error = 0;
  for (int i = 0; i < COUNT(x); i++)
    x[i] = 0.05f * (test_float(&seed) + test_float(&seed) + test_float(&seed));
  qnet_quantizer_site s = test_site(&qnet_quantizer_qil, QNET_ROLE_WEIGHT, 3, param);
  qnet_quantizer_qil.fit(&s, x, COUNT(x));
  for (int i = 0; i < COUNT(x); i++) {
    square += pow((double)x[i], 2);
    error += pow((double)(x[i] - test_quantize(&s, x[i])), 2);
  }
  assert_true(error < 0.06 * square);
  double dy[QNET_MAX_CELLS] = {0}, dyx[QNET_MAX_CELLS] = {0};
  for (int i = 0; i < 500; i++) {
    const int cells = qnet_quantizer_qil.cell_count(&s);
    for (int k = 0; k < cells; k++)
      dy[k] = 20 * (double)test_float(&seed);
    qnet_quantizer_qil.learn(&s, dy, dyx, 0.1);
    assert_true(param[C] > 0 && param[D] > 0 && param[D] <= param[C]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_activations), cmocka_unit_test(test_curved_weight),
      cmocka_unit_test(test_transformer), cmocka_unit_test(test_ends),
      cmocka_unit_test(test_gradients),   cmocka_unit_test(test_fit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
