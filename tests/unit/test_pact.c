/* The quantizer "pact": values, the gradient of the clip value, its decay. */
#include "tests/unit/quantizer_test.h"

static void test_values(void **state) {
  (void)state;
  static const float in[] = {-1, 0.2f, 0.7f, 1.2f, 1.9f, 2.4f, 2.6f, 9};
  static const int out[] = {0, 0, 1, 1, 2, 2, 3, 3};
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = test_site(&qnet_quantizer_pact, QNET_ROLE_ACTIVATION, 2, param);
  param[0] = 1; /* alpha 3 */
  for (int i = 0; i < COUNT(in); i++)
    assert_near(test_quantize(&s, in[i]), out[i], 0);
}

/* d min(x, alpha): 1 for x below alpha, and for alpha where x is above. */
static void check_gradients(int bits) {
  static const float points[] = {-0.5f, 0.3f, 1.4f, 2.9f, 3.1f, 7};
  for (int i = 0; i < COUNT(points); i++) {
    float param[TEST_MAX_PARAM];
    test_sums sums;
    qnet_quantizer_site s = test_site(&qnet_quantizer_pact, QNET_ROLE_ACTIVATION, bits, param);
    const double top = (1 << bits) - 1;
    param[0] = (float)(3 / top);
    test_point(&s, points[i], &sums);
    const double x = (double)points[i], h = 1e-4;
    const double slope = (fmin(fmax(x + h, 0), 3) - fmin(fmax(x - h, 0), 3)) / (2 * h);
    const double clip = (fmin(fmax(x, 0), 3 + h) - fmin(fmax(x, 0), 3 - h)) / (2 * h);
    assert_near(sums.dx, slope, 1e-6);
    /* A step of lr 0.01 moves alpha = top s by 0.01 times its gradient and its decay. */
    qnet_quantizer_pact.learn(&s, sums.dy, sums.dyx, 0.01);
    assert_near(top * (double)param[0], 3 - 0.01 * (clip + 1e-4 * 3), 1e-6);
  }
}

static void test_gradients(void **state) {
  (void)state;
  for (int bits = 2; bits <= 4; bits++)
    check_gradients(bits);
}

static void test_activations_only(void **state) {
  (void)state;
  assert_int_equal(qnet_quantizer_pact.bits[QNET_ROLE_WEIGHT].max, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_values),
      cmocka_unit_test(test_gradients),
      cmocka_unit_test(test_activations_only),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
