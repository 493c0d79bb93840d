/* The quantizer "dorefa": values from its formula, the gradient through tanh. */
#include "tests/unit/quantizer_test.h"

static const float w[] = {-1.1f, -0.62f, -0.3f, -0.05f, 0.01f, 0.2f, 0.45f, 0.97f, 1.3f};

static void test_weights(void **state) {
  (void)state;
  for (int bits = 2; bits <= 4; bits++) {
    float param[TEST_MAX_PARAM];
    qnet_quantizer_site s = test_site(&qnet_quantizer_dorefa, QNET_ROLE_WEIGHT, bits, param);
    qnet_quantizer_dorefa.fit(&s, w, COUNT(w));
    assert_near(param[0], tanh(1.3), 1e-6);
    const double q = (1 << bits) - 1, constant = (double)param[1];
    for (int i = 0; i < COUNT(w); i++) {
      const double unit = tanh((double)w[i]) / (2 * tanh((double)1.3f)) + 0.5;
      assert_near(test_quantize(&s, w[i]), constant * (2 * round(q * unit) / q - 1), 1e-6);
    }
  }
}

/* The constant is that of the least squared error. */
static void test_constant(void **state) {
  (void)state;
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = test_site(&qnet_quantizer_dorefa, QNET_ROLE_WEIGHT, 3, param);
  qnet_quantizer_dorefa.fit(&s, w, COUNT(w));
  double rest = 0;
  for (int i = 0; i < COUNT(w); i++)
    rest += (double)(w[i] - test_quantize(&s, w[i])) * (double)test_quantize(&s, w[i]);
  assert_near(rest, 0, 1e-6);
}

static void test_one_bit(void **state) {
  (void)state;
  static const float x[] = {-1, 2, -3, 4, 0.5f};
  float param[TEST_MAX_PARAM];
  test_sums sums;
  qnet_quantizer_site s = test_site(&qnet_quantizer_dorefa, QNET_ROLE_WEIGHT, 1, param);
  qnet_quantizer_dorefa.follow(&s, x, COUNT(x));
  assert_near(test_quantize(&s, 0.1f), 2.1, 1e-6);
  assert_near(test_quantize(&s, -7), -2.1, 1e-6);
  test_point(&s, -7, &sums);
  assert_near(sums.dx, 1, 0);
}

static void check_gradients(int bits) {
  float param[TEST_MAX_PARAM];
  test_sums sums;
  qnet_quantizer_site s = test_site(&qnet_quantizer_dorefa, QNET_ROLE_WEIGHT, bits, param);
  qnet_quantizer_dorefa.fit(&s, w, COUNT(w));
  for (int i = 0; i < COUNT(w) - 1; i++) {
    const double x = (double)w[i], h = 1e-5;
    const double slope = (double)param[1] * (tanh(x + h) - tanh(x - h)) / (2 * h * tanh(1.3));
    test_point(&s, w[i], &sums);
    assert_near(sums.dx, slope, 1e-3);
  }
}

static void test_gradients(void **state) {
  (void)state;
  for (int bits = 2; bits <= 4; bits++)
    check_gradients(bits);
}

static void test_activations(void **state) {
  (void)state;
  static const float x[] = {-1, 0.1f, 0.2f, 0.45f, 0.6f, 0.9f, 1.5f};
  static const int out[] = {0, 0, 1, 1, 2, 3, 3}, pass[] = {0, 1, 1, 1, 1, 1, 0};
  float param[TEST_MAX_PARAM];
  test_sums sums;
  qnet_quantizer_site s = test_site(&qnet_quantizer_dorefa, QNET_ROLE_ACTIVATION, 2, param);
  for (int i = 0; i < COUNT(x); i++) {
    assert_near(test_quantize(&s, x[i]), out[i] / 3.0, 1e-6);
    test_point(&s, x[i], &sums);
    assert_near(sums.dx, pass[i], 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_weights),     cmocka_unit_test(test_constant),
      cmocka_unit_test(test_one_bit),     cmocka_unit_test(test_gradients),
      cmocka_unit_test(test_activations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
