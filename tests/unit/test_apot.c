/* The quantizer "apot": its sets of levels, normalised weights, gradients. */
#include "tests/unit/quantizer_test.h"

static void test_sets(void **state) {
  (void)state;
  static const int32_t two[] = {0, 1, 2, 4}, three[] = {0, 1, 2, 3, 4, 6, 8, 10};
  float param[TEST_MAX_PARAM], scale;
  int32_t level[QNET_MAX_LEVELS];
  qnet_quantizer_site s = test_site(&qnet_quantizer_apot, QNET_ROLE_ACTIVATION, 2, param);
  assert_int_equal(qnet_quantizer_apot.freeze(&s, &scale, level), 4);
  assert_memory_equal(level, two, sizeof two);
  s = test_site(&qnet_quantizer_apot, QNET_ROLE_ACTIVATION, 3, param);
  assert_int_equal(qnet_quantizer_apot.freeze(&s, &scale, level), 8);
  assert_memory_equal(level, three, sizeof three);
  /* Four bits: all sums of 32, 8, 2, 0 and 16, 4, 1, 0; the largest is 48. */
  s = test_site(&qnet_quantizer_apot, QNET_ROLE_ACTIVATION, 4, param);
  assert_int_equal(qnet_quantizer_apot.freeze(&s, &scale, level), 16);
  assert_int_equal(level[15], 48);
  int64_t sum = 0;
  for (int k = 0; k < 16; k++)
    sum += level[k];
  assert_int_equal(sum, 4 * (32 + 8 + 2) + 4 * (16 + 4 + 1));
  /* Weights: the set of one bit less, with a sign; two bits are ternary. */
  s = test_site(&qnet_quantizer_apot, QNET_ROLE_WEIGHT, 2, param);
  assert_int_equal(qnet_quantizer_apot.freeze(&s, &scale, level), 3);
  assert_true(level[0] == -1 && level[1] == 0 && level[2] == 1);
  s = test_site(&qnet_quantizer_apot, QNET_ROLE_WEIGHT, 3, param);
  assert_int_equal(qnet_quantizer_apot.freeze(&s, &scale, level), 7);
  assert_true(level[0] == -4 && level[3] == 0 && level[5] == 2);
}

/* Weights of mean 1, deviation 2: thresholds move with the mean, levels do not. */
static void test_normalised(void **state) {
  (void)state;
  static const float w[] = {-1, 3, 1 - 1.4142135f, 1 + 1.4142135f, 1 - 2.4494897f, 1 + 2.4494897f};
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = test_site(&qnet_quantizer_apot, QNET_ROLE_WEIGHT, 3, param);
  qnet_quantizer_apot.follow(&s, w, COUNT(w)); /* squares 4 4 2 2 6 6 over 5 */
  const double deviation = sqrt(24.0 / 5);
  assert_near(param[QNET_SET_MEAN], 1, 1e-6);
  assert_near(param[QNET_SET_DEVIATION], deviation, 1e-5);
  param[QNET_SET_STEP] = 0.5f; /* alpha 2 */
  for (int i = -40; i <= 40; i++) {
    static const double set[] = {-4, -2, -1, 0, 1, 2, 4};
    const double x = 0.237 * i, scaled = (x - 1) / deviation / 0.5;
    double best = 0;
    for (int k = 0; k < COUNT(set); k++)
      if (fabs(scaled - set[k]) < fabs(scaled - best)) best = set[k];
    assert_near(test_quantize(&s, (float)x), 0.5 * deviation * best, 1e-5);
  }
}

/* With the choice of level frozen: Q = s (v + L0 - v0) inside, s times the end outside. */
static void check_gradients(int bits) {
  static const double largest[] = {1, 4, 10, 48}; /* of the sets of 1 .. 4 bits */
  static const float points[] = {-9, -1.2f, 0.1f, 0.7f, 1.9f, 2.2f, 8};
  for (int role = 0; role < 2; role++)
    for (int i = 0; i < COUNT(points); i++) {
      float param[TEST_MAX_PARAM];
      test_sums sums;
      const bool weight = role == QNET_ROLE_WEIGHT;
      qnet_quantizer_site s = test_site(&qnet_quantizer_apot, (qnet_role)role, bits, param);
      const double s0 = 0.4, mean = weight ? 0.25 : 0, deviation = weight ? 1.5 : 1;
      param[QNET_SET_STEP] = (float)s0;
      param[QNET_SET_MEAN] = (float)mean;
      param[QNET_SET_DEVIATION] = (float)deviation;
      const double v0 = ((double)points[i] - mean) / deviation / s0,
                   end = largest[weight ? bits - 2 : bits - 1];
      const double value = (double)test_quantize(&s, points[i]) / deviation / s0;
      const bool low = v0<(weight ? -end : 0), high = v0> end;
      double q[2];
      for (int side = 0; side < 2; side++) {
        const double step = s0 + (side ? 1e-5 : -1e-5);
        q[side] = deviation * step *
                  (low    ? (weight ? -end : 0)
                   : high ? end
                          : v0 * s0 / step + value - v0);
      }
      test_point(&s, points[i], &sums);
      assert_near(qnet_scaled_set_gradient(&s, sums.dy, sums.dyx), (q[1] - q[0]) / 2e-5, 1e-4);
      assert_near(sums.dx, weight || (!low && !high), 0);
    }
}

static void test_gradients(void **state) {
  (void)state;
  for (int bits = 2; bits <= 4; bits++)
    check_gradients(bits);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sets),
      cmocka_unit_test(test_normalised),
      cmocka_unit_test(test_gradients),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
