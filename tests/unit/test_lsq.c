/* The quantizer "lsq": its integers, the gradient of the step, its fit. */
#include "tests/unit/quantizer_test.h"

static void test_integers(void **state) {
  (void)state;
  static const struct {
    qnet_role role;
    int bits, low, high;
  } cases[] = {
      {QNET_ROLE_WEIGHT, 2, -2, 1},     {QNET_ROLE_WEIGHT, 4, -8, 7},
      {QNET_ROLE_WEIGHT, 8, -127, 127}, {QNET_ROLE_ACTIVATION, 1, 0, 1},
      {QNET_ROLE_ACTIVATION, 3, 0, 7},  {QNET_ROLE_ACTIVATION, 8, 0, 127},
  };
  for (int i = 0; i < COUNT(cases); i++) {
    float param[TEST_MAX_PARAM], scale;
    int32_t level[QNET_MAX_LEVELS];
    qnet_quantizer_site s = test_site(&qnet_quantizer_lsq, cases[i].role, cases[i].bits, param);
    param[0] = 0.25f;
    const int n = qnet_quantizer_lsq.freeze(&s, &scale, level);
    assert_int_equal(n, cases[i].high - cases[i].low + 1);
    assert_int_equal(level[0], cases[i].low);
    assert_int_equal(level[n - 1], cases[i].high);
    assert_true(scale == 0.25f);
  }
}

/* Three bits of activations, step 0.5: the integer of 1.3 / 0.5 is 3. */
static void test_values(void **state) {
  (void)state;
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = test_site(&qnet_quantizer_lsq, QNET_ROLE_ACTIVATION, 3, param);
  param[0] = 0.5f;
  assert_near(test_quantize(&s, 1.3f), 1.5, 0);
  assert_near(test_quantize(&s, -1), 0, 0);
  assert_near(test_quantize(&s, 0.25f), 0, 0); /* a tie goes low */
  assert_near(test_quantize(&s, 100), 3.5, 0);
}

/* With rounding frozen, Q = s (x / s + r - x0 / s0) inside the range and s times its end outside.
 */
static void check_gradients(int bits) {
  static const float points[] = {-2.3f, -0.71f, -0.2f, 0.09f, 0.34f, 0.9f, 5};
  for (int role = 0; role < 2; role++)
    for (int i = 0; i < COUNT(points); i++) {
      float param[TEST_MAX_PARAM];
      const double x = (double)points[i], s0 = 0.3, half = 1 << (bits - 1);
      const double low = role == QNET_ROLE_WEIGHT ? -half : 0;
      const double high = role == QNET_ROLE_WEIGHT ? half - 1 : 2 * half - 1;
      qnet_quantizer_site s = test_site(&qnet_quantizer_lsq, (qnet_role)role, bits, param);
      param[0] = (float)s0;
      const double offset = round(x / s0) - x / s0;
      double difference[2];
      for (int side = 0; side < 2; side++) {
        const double step = s0 + (side ? 1e-4 : -1e-4);
        const double v = x / s0 < low ? low : x / s0 > high ? high : x / step + offset;
        difference[side] = step * v;
      }
      test_sums sums;
      test_point(&s, points[i], &sums);
      assert_near(qnet_scaled_set_gradient(&s, sums.dy, sums.dyx),
                  (difference[1] - difference[0]) / 2e-4, 1e-5);
      assert_near(sums.dx, x / s0 >= low && x / s0 <= high, 0);
    }
}

static void test_gradients(void **state) {
  (void)state;
  for (int bits = 2; bits <= 4; bits++)
    check_gradients(bits);
}

/* One step of learning: the gradient over sqrt(N Q), and never more than a tenth. */
static void test_step(void **state) {
  (void)state;
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = test_site(&qnet_quantizer_lsq, QNET_ROLE_ACTIVATION, 2, param);
  param[0] = 1;
  s.elements = 12;
  test_sums sums;
  test_point(&s, 9, &sums);
  qnet_quantizer_lsq.learn(&s, sums.dy, sums.dyx, 0.01);
  assert_near(param[0], 1 - 0.01 * 3 / sqrt(12 * 3), 1e-7);
  qnet_quantizer_lsq.learn(&s, sums.dy, sums.dyx, 1e6);
  assert_near(param[0], 0.9 * (1 - 0.01 * 3 / 6), 1e-6);
  sums.dy[0] = NAN;
  sums.dy[sums.n - 1] = NAN;
  qnet_quantizer_lsq.learn(&s, sums.dy, sums.dyx, 0.01);
  float scale;
  int32_t level[QNET_MAX_LEVELS];
  assert_int_equal(qnet_quantizer_lsq.freeze(&s, &scale, level), 0);
}

static void test_fit(void **state) {
  (void)state;
  float x[64], param[TEST_MAX_PARAM];
  for (int i = 0; i < COUNT(x); i++)
    x[i] = 0.7f * (float)(i % 4); /* on the grid of step 0.7 */
  qnet_quantizer_site s = test_site(&qnet_quantizer_lsq, QNET_ROLE_ACTIVATION, 2, param);
  qnet_quantizer_lsq.fit(&s, x, COUNT(x));
  assert_near(param[0], 0.7, 1e-6);
  for (int i = 0; i < COUNT(x); i++)
    x[i] = 0;
  qnet_quantizer_lsq.fit(&s, x, COUNT(x)); /* nothing to fit to: the step stays */
  assert_near(param[0], 0.7, 1e-6);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_integers),  cmocka_unit_test(test_values),
      cmocka_unit_test(test_gradients), cmocka_unit_test(test_step),
      cmocka_unit_test(test_fit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
