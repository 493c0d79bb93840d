/* The quantizer "ternary": threshold and scale of each filter. */
#include "tests/unit/quantizer_test.h"

static void test_filters(void **state) {
  (void)state;
  /* Means of |w| 1 and 0.5: thresholds 0.7 and 0.35; beyond them 2, 1.5 and nothing but 0.5. */
  static const float w[] = {-2, 0.25f, 1.5f, -0.25f, 0.5f, -0.5f, 0.5f, 0.5f};
  float param[TEST_MAX_PARAM], scale[2], threshold[2];
  int32_t level[6];
  qnet_quantizer_site s = test_site(&qnet_quantizer_ternary, QNET_ROLE_WEIGHT, 2, param);
  s.channels = 2;
  qnet_quantizer_ternary.follow(&s, w, 4);
  assert_int_equal(qnet_quantizer_ternary.freeze(&s, scale, level), 3);
  assert_near(scale[0], 1.75, 1e-6);
  assert_near(scale[1], 0.5, 1e-6);
  for (int k = 0; k < 6; k++)
    assert_int_equal(level[k], k % 3 - 1);
  assert_true(qnet_quantizer_ternary.thresholds(&s, 1, threshold));
  assert_near(threshold[0], -0.35, 1e-6);
  assert_near(threshold[1], 0.35, 1e-6);
  s.channels = 1;
  assert_near(test_quantize(&s, -0.71f), -1.75, 1e-6);
  assert_near(test_quantize(&s, -0.69f), 0, 0);
  assert_near(test_quantize(&s, 0.71f), 1.75, 1e-6);
}

static void test_not_finite(void **state) {
  (void)state;
  static const float w[] = {1, NAN, 2};
  float param[TEST_MAX_PARAM], scale;
  int32_t level[3];
  qnet_quantizer_site s = test_site(&qnet_quantizer_ternary, QNET_ROLE_WEIGHT, 2, param);
  qnet_quantizer_ternary.follow(&s, w, COUNT(w));
  assert_int_equal(qnet_quantizer_ternary.freeze(&s, &scale, level), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_filters),
      cmocka_unit_test(test_not_finite),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
