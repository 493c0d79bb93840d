/* The quantizer "dq": levels that learn under fixed codes, activations fitted so that every channel
 * counts alike, statistics by channel in plan and interpreter. */
#include "codegen/plan.h"
#include "tests/unit/quantizer_test.h"

/* The fitted levels of two bits: v = 0.2, 0.4 reproduce their own levels. */
static void test_start(void **state) {
  (void)state;
  static const float w[] = {-0.6f, -0.2f, 0.2f, 0.6f, -0.6f, 0.6f, 0.2f, -0.2f};
  float param[TEST_MAX_PARAM];
  qnet_quantizer_site s = test_site(&qnet_quantizer_dq, QNET_ROLE_WEIGHT, 2, param);
  qnet_quantizer_dq.fit(&s, w, COUNT(w));
  assert_near(param[0], 0.2, 1e-4);
  assert_near(param[1], 0.4, 1e-4);
  for (int i = 0; i < COUNT(w); i++)
    assert_near(test_quantize(&s, w[i]), w[i], 1e-4);
}

/* The gradient of v_k is the sum of dy e_k, checked against the change of sum dy Q. */
static void check_levels_learn(int bits) {
  static const float w[] = {-0.9f, -0.3f, 0.1f, 0.15f, 0.7f};
  static const double dy[] = {0.5, -1, 2, 0.25, -0.75};
  float param[TEST_MAX_PARAM], data[16];
  qnet_quantizer_site s = test_site(&qnet_quantizer_dq, QNET_ROLE_WEIGHT, bits, param);
  const int n = 1 << bits;
  for (int k = 0; k < n; k++)
    data[k] = 0.2f * (float)(2 * k - n + 1);
  qnet_quantizer_dq.fit(&s, data, n);
  double sum[16] = {0}, sum_x[16] = {0};
  for (int i = 0; i < COUNT(w); i++) {
    test_sums one;
    test_point(&s, w[i], &one);
    for (int k = 0; k < n; k++)
      sum[k] += dy[i] * one.dy[k];
  }
  double difference[4], start[4];
  for (int k = 0; k < bits; k++) {
    double value[2] = {0, 0};
    start[k] = (double)param[k];
    for (int side = 0; side < 2; side++) {
      param[k] = (float)(start[k] + (side ? 0.01 : -0.01));
      for (int i = 0; i < COUNT(w); i++)
        value[side] += dy[i] * (double)test_quantize(&s, w[i]);
    }
    param[k] = (float)start[k];
    difference[k] = (value[1] - value[0]) / 0.02;
  }
  qnet_quantizer_dq.learn(&s, sum, sum_x, 0.01);
  for (int k = 0; k < bits; k++)
    assert_near((double)param[k] - start[k], -0.001 * (difference[k] + 1e-4 * start[k]), 1e-6);
  /* Codes stay: what moved is the levels. */
  float top = 0;
  for (int k = 0; k < bits; k++)
    top += param[k];
  const float edge = 0.2f * (float)(n - 2);
  assert_near(test_quantize(&s, edge + 0.01f), top, 1e-6);
  assert_near(test_quantize(&s, edge - 0.01f), top - 2 * param[0], 1e-6);
}

static void test_levels_learn(void **state) {
  (void)state;
  for (int bits = 2; bits <= 4; bits++)
    check_levels_learn(bits);
}

/* The score of a weight moves by dy while the levels are as fitted, more where they have spread. */
static void test_scores(void **state) {
  (void)state;
  static const float data[] = {-0.6f, -0.2f, 0.2f, 0.6f};
  float param[TEST_MAX_PARAM];
  test_sums sums;
  qnet_quantizer_site s = test_site(&qnet_quantizer_dq, QNET_ROLE_WEIGHT, 2, param);
  qnet_quantizer_dq.fit(&s, data, COUNT(data));
  test_point(&s, 0.1f, &sums);
  assert_near(sums.dx, 1, 1e-3);
  param[0] *= 2;
  param[1] *= 2;
  test_point(&s, 0.1f, &sums);
  assert_near(sums.dx, 2, 2e-3);
}

static void fit_channels(qnet_quantizer_site *s, const float *x, int rows, int channels) {
  int64_t count[4 * 4];
  double sum[4 * 4];
  s->inputs = channels;
  for (int step = 0; step < 200; step++) {
    test_table t;
    test_make_table(s, &t);
    memset(count, 0, sizeof count);
    memset(sum, 0, sizeof sum);
    for (int i = 0; i < rows * channels; i++) {
      const int cell = i % channels * 4 + t.perm[test_rank(&t, x[i])];
      count[cell]++;
      sum[cell] += (double)x[i];
    }
    qnet_quantizer_dq.update(s, count, sum);
  }
}

/* One loud channel among quiet ones of two values: the quiet ones are met, as LQ-Nets' fit to all
 * of them at once, which is drawn to the loud one, does not. */
static void test_balance(void **state) {
  (void)state;
  enum { ROWS = 200, CHANNELS = 4 };
  float x[ROWS * CHANNELS], param[TEST_MAX_PARAM];
  uint64_t seed = 8;
  for (int i = 0; i < COUNT(x); i++)
    x[i] = i % CHANNELS == 0 ? 20 * fabsf(test_float(&seed)) : 1 + 0.1f * test_float(&seed);
  double error[2] = {0, 0};
  for (int method = 0; method < 2; method++) {
    const qnet_quantizer *q = method == 0 ? &qnet_quantizer_dq : &qnet_quantizer_lqnets;
    qnet_quantizer_site s = test_site(q, QNET_ROLE_ACTIVATION, 2, param);
    if (method == 0)
      fit_channels(&s, x, ROWS, CHANNELS);
    else
      q->fit(&s, x, COUNT(x));
    for (int i = 0; i < COUNT(x); i++)
      if (i % CHANNELS != 0) error[method] += pow((double)(x[i] - test_quantize(&s, x[i])), 2);
  }
  assert_true(error[0] < 0.5 * error[1]);
}

/* Channels alike: the weighted fit is that of all data at once. */
static void test_equal_channels(void **state) {
  (void)state;
  static const float x[] = {0, 0, 0.1f, 0.3f, 0.5f, 0.7f, 0.9f, 1.6f};
  float twice[16], param[TEST_MAX_PARAM];
  for (int i = 0; i < 16; i++)
    twice[i] = x[i / 2];
  qnet_quantizer_site s = test_site(&qnet_quantizer_dq, QNET_ROLE_ACTIVATION, 2, param);
  param[0] = 0.4497f;
  param[1] = 0.8993f;
  int64_t count[8] = {0};
  double sum[8] = {0};
  test_table t;
  test_make_table(&s, &t);
  s.inputs = 2;
  for (int i = 0; i < 16; i++) {
    const int cell = i % 2 * 4 + t.perm[test_rank(&t, twice[i])];
    count[cell]++;
    sum[cell] += (double)twice[i];
  }
  qnet_quantizer_dq.update(&s, count, sum);
  assert_near(param[0], 0.9 * 0.4497 + 0.1 * 0.5, 2e-4);
  assert_near(param[1], 0.9 * 0.8993 + 0.1 * 0.9, 2e-4);
  memset(count, 0, sizeof count); /* nothing seen, nothing learned */
  memset(sum, 0, sizeof sum);
  const float before = param[0];
  qnet_quantizer_dq.update(&s, count, sum);
  assert_true(param[0] == before);
}

/* nn.code_stats by the last dimension, plan against interpreter. */
static void test_channel_stats(void **state) {
  (void)state;
  static const char text[] =
      "module @t nn {\n"
      "  func @step(%x: tensor<3x41x7x19xf32>, %c: tensor<3x41x7x19xu8>) {\n"
      "    %0, %1 = nn.code_stats(%x, %c) {axis = 1, bits = 2} : tensor<19x4xi64>, "
      "tensor<19x4xf64>\n"
      "    yield %0, %1\n  }\n}\n";
  enum { N = 3 * 41 * 7 * 19 };
  uint64_t seed = 4;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(text, d);
  qnet_blob *in[] = {test_random_floats(&seed, N), test_blob(QNET_U8, N, NULL)};
  for (int i = 0; i < N; i++)
    ((uint8_t *)in[1]->data)[i] = (uint8_t)test_range(&seed, 0, 3);
  qnet_blob *out[2] = {NULL};
  qnet_interp *interp = NULL;
  assert_int_equal(qnet_interp_create(m, "step", &interp, d), QNET_OK);
  assert_int_equal(qnet_interp_run(interp, in, 2, out, 2, d), QNET_OK);
  int64_t count = 0;
  for (int i = 0; i < N; i += 19)
    count += ((uint8_t *)in[1]->data)[i + 5] == 3;
  assert_int_equal(((int64_t *)out[0]->data)[5 * 4 + 3], count);
  qnet_plan *p = NULL;
  assert_int_equal(qnet_plan_create(m, "step", QNET_PLAN_FAST, &p, d), QNET_OK);
  for (int i = 0; i < 2; i++)
    memcpy(qnet_plan_argument(p, i)->data, in[i]->data, in[i]->bytes);
  assert_int_equal(qnet_plan_run(p, d), QNET_OK);
  assert_memory_equal(qnet_plan_result(p, 0)->data, out[0]->data, out[0]->bytes);
  for (int i = 0; i < 19 * 4; i++)
    assert_near(((double *)qnet_plan_result(p, 1)->data)[i], ((double *)out[1]->data)[i], 1e-4);
  qnet_plan_destroy(p);
  qnet_interp_destroy(interp);
  test_release(in, 2);
  test_release(out, 2);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_start),          cmocka_unit_test(test_levels_learn),
      cmocka_unit_test(test_scores),         cmocka_unit_test(test_balance),
      cmocka_unit_test(test_equal_channels), cmocka_unit_test(test_channel_stats),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
