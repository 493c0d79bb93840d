/* The quantizer "binary": the sign times the mean of |w| of each filter; activations 0 and 1. */
#include "tests/unit/quantizer_test.h"

static void test_weights(void **state) {
  (void)state;
  static const float w[] = {-1, 2, -3, 4, 0.5f, -0.5f, 0.5f, 0.5f, 0, 0.25f};
  float param[TEST_MAX_PARAM], scale[2], level[4];
  int32_t integer[4];
  qnet_quantizer_site s = test_site(&qnet_quantizer_binary, QNET_ROLE_WEIGHT, 1, param);
  s.channels = 2;
  qnet_quantizer_binary.follow(&s, w, 5);
  assert_int_equal(qnet_quantizer_binary.freeze(&s, scale, integer), 2);
  assert_int_equal(qnet_quantizer_binary.levels(&s, level), 2);
  assert_near(scale[0], 2.1, 1e-6);
  assert_near(scale[1], 0.35, 1e-6);
  for (int k = 0; k < 4; k++) {
    assert_int_equal(integer[k], k % 2 == 0 ? -1 : 1);
    assert_near(level[k], scale[k / 2] * (float)integer[k], 0);
  }
  s.channels = 1;
  assert_near(test_quantize(&s, -0.1f), -2.1, 1e-6);
  assert_near(test_quantize(&s, 0.1f), 2.1, 1e-6);
}

/* The mean of |w| has the least squared error of all scales of the sign. */
static void test_least_error(void **state) {
  (void)state;
  uint64_t seed = 6;
  float w[50], param[TEST_MAX_PARAM];
  for (int i = 0; i < COUNT(w); i++)
    w[i] = test_float(&seed);
  qnet_quantizer_site s = test_site(&qnet_quantizer_binary, QNET_ROLE_WEIGHT, 1, param);
  qnet_quantizer_binary.fit(&s, w, COUNT(w));
  const float best = param[0];
  double error[3] = {0, 0, 0};
  for (int trial = 0; trial < 3; trial++) {
    param[0] = best * (0.95f + 0.05f * (float)trial);
    for (int i = 0; i < COUNT(w); i++)
      error[trial] += pow((double)(w[i] - test_quantize(&s, w[i])), 2);
  }
  assert_true(error[1] < error[0] && error[1] < error[2]);
}

static void test_activations(void **state) {
  (void)state;
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = test_site(&qnet_quantizer_binary, QNET_ROLE_ACTIVATION, 1, param);
  assert_near(test_quantize(&s, 0.5f), 0, 0);
  assert_near(test_quantize(&s, 0.51f), 1, 0);
  assert_near(test_quantize(&s, -3), 0, 0);
}

/* -1 and 1, whatever the sign of the data; the gradient passes between them. */
static void test_signs(void **state) {
  (void)state;
  float param[TEST_MAX_PARAM], scale;
  int32_t level[2];
  qnet_quantizer_site s = test_site(&qnet_quantizer_sign, QNET_ROLE_ACTIVATION, 1, param);
  assert_near(test_quantize(&s, 0), -1, 0);
  assert_near(test_quantize(&s, 1e-30f), 1, 0);
  assert_near(test_quantize(&s, -3), -1, 0);
  assert_int_equal(qnet_quantizer_sign.freeze(&s, &scale, level), 2);
  assert_true(scale == 1 && level[0] == -1 && level[1] == 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_weights),
      cmocka_unit_test(test_least_error),
      cmocka_unit_test(test_activations),
      cmocka_unit_test(test_signs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
