/* The quantizers "lqnets" and "uniform": known vectors, the error of fits, decision tables, and
 * what docs/numbers.md says of frozen tables. */
#include "passes/quantizer.h"
#include "tests/unit/interp_test.h"

#define assert_near(a, b, eps) assert_true(fabs((double)(a) - (double)(b)) <= (double)(eps))

enum { MAX_PARAM = 16, SEED = 20181807 };

static qnet_quantizer_site make_site(qnet_role role, int bits, float *param) {
  return (qnet_quantizer_site){.name = "l",
                               .role = role,
                               .bits = bits,
                               .channels = 1,
                               .grid = 127,
                               .fan = 9,
                               .param = param};
}

/* Count and sum by code of x under the site's levels. */
static void take_stats(const qnet_quantizer *q, const qnet_quantizer_site *s, const float *x,
                       int64_t n, int64_t *count, double *sum) {
  float level[QNET_MAX_LEVELS], threshold[QNET_MAX_LEVELS], sorted[QNET_MAX_LEVELS];
  uint8_t perm[QNET_MAX_LEVELS];
  const int levels = q->levels(s, level);
  qnet_quantizer_sort(level, levels, threshold, sorted, perm);
  memset(count, 0, sizeof *count << s->bits);
  memset(sum, 0, sizeof *sum << s->bits);
  for (int64_t i = 0; i < n; i++) {
    int rank = 0;
    while (rank < levels - 1 && x[i] > threshold[rank])
      rank++;
    count[perm[rank]]++;
    sum[perm[rank]] += (double)x[i];
  }
}

static double squared_error(const qnet_quantizer *q, const qnet_quantizer_site *s, const float *x,
                            int64_t n) {
  float level[QNET_MAX_LEVELS];
  const int levels = q->levels(s, level);
  double error = 0;
  for (int64_t i = 0; i < n; i++) {
    double best = INFINITY;
    for (int k = 0; k < levels; k++)
      best = fmin(best, pow((double)x[i] - (double)level[k], 2));
    error += best;
  }
  return error;
}

static void test_initial_basis(void **state) {
  (void)state;
  static const float step[] = {1.349f, 0.44967f, 0.19271f, 0.08993f};
  float param[MAX_PARAM];
  qnet_quantizer_site s;
  for (int bits = 1; bits <= 4; bits++) {
    float top = 0;
    s = make_site(QNET_ROLE_ACTIVATION, bits, param);
    qnet_quantizer_lqnets.init(&s);
    for (int k = 0; k < bits; k++) {
      assert_near(param[k], step[bits - 1] * (float)(1 << k), 5e-5);
      top += param[k];
    }
    assert_near(top, 1.349, 1e-5);
  }
  s = make_site(QNET_ROLE_WEIGHT, 2, param);
  s.fan = 144;
  qnet_quantizer_lqnets.init(&s);
  for (int k = 0; k < 2; k++)
    assert_near(param[k], 0.6745 * sqrt(2.0 / 144) / 2 * (1 << k), 1e-6);
}

static float quantize(const qnet_quantizer_site *s, float x) {
  float level[QNET_MAX_LEVELS], threshold[QNET_MAX_LEVELS], sorted[QNET_MAX_LEVELS];
  uint8_t perm[QNET_MAX_LEVELS];
  const int n = qnet_quantizer_lqnets.levels(s, level);
  int rank = 0;
  qnet_quantizer_sort(level, n, threshold, sorted, perm);
  while (rank < n - 1 && x > threshold[rank])
    rank++;
  return sorted[rank];
}

/* Values by the basis as it is; 0.4 and 0, on thresholds, go to the lower level. */
static void test_values(void **state) {
  (void)state;
  static const float w[] = {-0.9f, -0.35f, -0.2f, 0.05f, 0.15f, 0.4f, 0.55f, 1.1f};
  static const float wq[] = {-0.6f, -0.2f, -0.2f, 0.2f, 0.2f, 0.2f, 0.6f, 0.6f};
  static const float x[] = {0, 0, 0.1f, 0.3f, 0.5f, 0.7f, 0.9f, 1.6f};
  static const float xq[] = {0, 0, 0, 0.4497f, 0.4497f, 0.8993f, 0.8993f, 1.349f};
  float param[MAX_PARAM] = {0.2f, 0.4f};
  qnet_quantizer_site s = make_site(QNET_ROLE_WEIGHT, 2, param);
  for (int i = 0; i < COUNT(w); i++)
    assert_near(quantize(&s, w[i]), wq[i], 1e-6);
  s = make_site(QNET_ROLE_WEIGHT, 1, param);
  assert_near(quantize(&s, 0), -0.2, 1e-6);
  s = make_site(QNET_ROLE_ACTIVATION, 2, param);
  param[0] = 0.4497f;
  param[1] = 0.8993f;
  for (int i = 0; i < COUNT(x); i++)
    assert_near(quantize(&s, x[i]), xq[i], 1e-6);
}

/* A filter at two bits with basis (0.2, 0.4). 0.4 lies on a threshold and goes to the lower level.
 */
static void test_weight_step(void **state) {
  (void)state;
  static const float x[] = {-0.9f, -0.35f, -0.2f, 0.05f, 0.15f, 0.4f, 0.55f, 1.1f};
  float param[MAX_PARAM] = {0.2f, 0.4f};
  qnet_quantizer_site s = make_site(QNET_ROLE_WEIGHT, 2, param);
  int64_t count[4];
  double sum[4];
  take_stats(&qnet_quantizer_lqnets, &s, x, COUNT(x), count, sum);
  static const int64_t expected[] = {1, 2, 3, 2}; /* ascending code is ascending level */
  for (int c = 0; c < 4; c++)
    assert_int_equal(count[c], expected[c]);
  const double before = squared_error(&qnet_quantizer_lqnets, &s, x, COUNT(x));
  assert_near(before, 0.43, 1e-5);
  qnet_quantizer_lqnets.update(&s, count, sum);
  /* The corrected average of one value is that value. */
  assert_near(param[0], 0.309998, 1e-5);
  assert_near(param[1], 0.539998, 1e-5);
  assert_near(squared_error(&qnet_quantizer_lqnets, &s, x, COUNT(x)), 0.238, 1e-4);
  assert_near(param[4], 1, 0);
  /* After very many updates it moves a tenth of the way. */
  param[0] = param[2] = 0.2f;
  param[1] = param[3] = 0.4f;
  param[4] = 1e6f;
  qnet_quantizer_lqnets.update(&s, count, sum);
  assert_near(param[0], 0.2110, 1e-5);
  assert_near(param[1], 0.4140, 1e-5);
}

static void test_activation_step(void **state) {
  (void)state;
  static const float x[] = {0, 0, 0.1f, 0.3f, 0.5f, 0.7f, 0.9f, 1.6f};
  float param[MAX_PARAM] = {0.4497f, 0.8993f};
  qnet_quantizer_site s = make_site(QNET_ROLE_ACTIVATION, 2, param);
  int64_t count[4];
  double sum[4];
  take_stats(&qnet_quantizer_lqnets, &s, x, COUNT(x), count, sum);
  qnet_quantizer_lqnets.update(&s, count, sum);
  assert_near(param[0], 0.5, 1e-4);
  assert_near(param[1], 0.9, 1e-4);
  /* The second step moves a tenth of the way, corrected for the start at zero. */
  const double first = (double)param[0];
  take_stats(&qnet_quantizer_lqnets, &s, x, COUNT(x), count, sum);
  int64_t twice[4];
  double target[4];
  memcpy(twice, count, sizeof twice);
  for (int c = 0; c < 4; c++)
    target[c] = 2 * sum[c];
  qnet_quantizer_lqnets.update(&s, twice, target);
  assert_near(param[0], (0.9 * 0.1 * first + 0.1 * 2 * first) / (1 - 0.81), 2e-3);
}

/* Planes that the batch never sets, or always together, must not blow up the basis. */
static void test_degenerate_batches(void **state) {
  (void)state;
  for (int kind = 0; kind < 3; kind++) {
    float param[MAX_PARAM] = {0.5f, 1.0f, 2.0f};
    qnet_quantizer_site s = make_site(QNET_ROLE_ACTIVATION, 3, param);
    int64_t count[8] = {0};
    double sum[8] = {0};
    if (kind == 1) count[0] = 1000; /* all zero */
    if (kind == 2) count[7] = 1000, sum[7] = 3500;
    qnet_quantizer_lqnets.update(&s, count, sum);
    for (int k = 0; k < 3; k++)
      assert_near(param[k], 0.5 * (1 << k), 1e-3);
  }
}

static void test_fit_never_worse(void **state) {
  (void)state;
  uint64_t seed = SEED;
  print_message("seed %llu\n", (unsigned long long)seed);
  for (int trial = 0; trial < 60; trial++) {
    float x[200], param[MAX_PARAM];
    const qnet_role role = trial % 2 == 0 ? QNET_ROLE_WEIGHT : QNET_ROLE_ACTIVATION;
    const int bits = 1 + trial / 2 % 4;
    const float scale = expf(4 * test_float(&seed));
    for (int i = 0; i < COUNT(x); i++) {
      x[i] = scale * (test_float(&seed) + test_float(&seed) + test_float(&seed));
      if (role == QNET_ROLE_ACTIVATION && x[i] < 0) x[i] = 0;
    }
    qnet_quantizer_site s = make_site(role, bits, param);
    qnet_quantizer_lqnets.init(&s);
    const double before = squared_error(&qnet_quantizer_lqnets, &s, x, COUNT(x));
    qnet_quantizer_lqnets.fit(&s, x, COUNT(x));
    const double after = squared_error(&qnet_quantizer_lqnets, &s, x, COUNT(x));
    assert_true(after <= before * (1 + 1e-6));
    /* A step of learning on the same data stays near: the fit is a fixed point. */
    int64_t count[16];
    double sum[16];
    take_stats(&qnet_quantizer_lqnets, &s, x, COUNT(x), count, sum);
    qnet_quantizer_lqnets.update(&s, count, sum);
    assert_true(squared_error(&qnet_quantizer_lqnets, &s, x, COUNT(x)) <= after * 1.02 + 1e-12);
  }
}

/* Step by step on the same data the error falls: v* is the best for the codes, what v becomes lies
 * between v and v*, and new codes only help. Data of all kinds, spikes among them. */
static void test_steps_never_raise_the_error(void **state) {
  (void)state;
  uint64_t seed = SEED + 2;
  for (int trial = 0; trial < 160; trial++) {
    enum { N = 300 };
    float x[N], param[MAX_PARAM] = {0};
    const qnet_role role = trial % 2 == 0 ? QNET_ROLE_WEIGHT : QNET_ROLE_ACTIVATION;
    const int bits = 1 + trial / 2 % 4;
    const float scale = expf(3 * test_float(&seed)), spike = test_float(&seed);
    for (int i = 0; i < N; i++) {
      x[i] = scale * (test_float(&seed) > 0.3f && trial % 3 == 0 ? spike : test_float(&seed));
      if (role == QNET_ROLE_ACTIVATION && x[i] < 0) x[i] = 0;
    }
    qnet_quantizer_site s = make_site(role, bits, param);
    for (int k = 0; k < bits; k++)
      param[k] = scale * fabsf(test_float(&seed));
    double before = squared_error(&qnet_quantizer_lqnets, &s, x, N);
    for (int step = 0; step < 25; step++) {
      int64_t count[16];
      double sum[16];
      take_stats(&qnet_quantizer_lqnets, &s, x, N, count, sum);
      qnet_quantizer_lqnets.update(&s, count, sum);
      const double after = squared_error(&qnet_quantizer_lqnets, &s, x, N);
      assert_true(after <= before * (1 + 1e-5) + 1e-12);
      before = after;
    }
  }
}

/* Activations pile up at a few values (a relu's zeros, a flat background): least squares alone
 * would answer with negative basis entries, which freezing has to drop. */
static void test_activation_basis_is_not_negative(void **state) {
  (void)state;
  enum { N = 600 };
  uint64_t seed = SEED;
  for (int trial = 0; trial < 60; trial++) {
    float x[N], param[MAX_PARAM];
    const float spike = 0.1f + fabsf(test_float(&seed)), far = 1 + 3 * fabsf(test_float(&seed));
    for (int i = 0; i < N; i++) {
      const double kind = fabs((double)test_float(&seed)), r = (double)test_float(&seed);
      x[i] = kind < 0.4 ? 0 : kind < 0.7 ? spike : kind < 0.9 ? far : (float)(4 * r * r);
    }
    const int bits = 2 + trial % 3;
    qnet_quantizer_site s = make_site(QNET_ROLE_ACTIVATION, bits, param);
    qnet_quantizer_lqnets.init(&s);
    qnet_quantizer_lqnets.fit(&s, x, N);
    for (int k = 0; k < bits; k++)
      assert_true(param[k] >= 0);
    int64_t count[QNET_MAX_LEVELS];
    double sum[QNET_MAX_LEVELS];
    for (int step = 0; step < 40; step++) {
      take_stats(&qnet_quantizer_lqnets, &s, x, N, count, sum);
      qnet_quantizer_lqnets.update(&s, count, sum);
    }
    for (int k = 0; k < bits; k++)
      assert_true(param[k] >= 0);
  }
}

/* One bit: the best basis is the mean of |w|. */
static void test_fit_one_bit(void **state) {
  (void)state;
  static const float x[] = {-1, 2, -3, 4, 0.5f};
  float param[MAX_PARAM] = {1};
  qnet_quantizer_site s = make_site(QNET_ROLE_WEIGHT, 1, param);
  qnet_quantizer_lqnets.fit(&s, x, COUNT(x));
  assert_near(param[0], 10.5 / 5, 1e-3);
}

static int32_t gcd(int32_t a, int32_t b) {
  return b == 0 ? a : gcd(b, a % b);
}

static void test_snapping(void **state) {
  (void)state;
  uint64_t seed = SEED + 1;
  for (int trial = 0; trial < 400; trial++) {
    float param[MAX_PARAM], scale;
    int32_t level[16];
    const qnet_role role = trial % 2 == 0 ? QNET_ROLE_WEIGHT : QNET_ROLE_ACTIVATION;
    const int bits = 1 + trial / 2 % 4;
    qnet_quantizer_site s = make_site(role, bits, param);
    s.grid = trial % 3 == 0 ? 15 : 127;
    double total = 0;
    for (int k = 0; k < bits; k++) {
      param[k] = test_float(&seed);
      total += role == QNET_ROLE_WEIGHT ? fabs((double)param[k]) : fmax((double)param[k], 0);
    }
    assert_int_equal(qnet_quantizer_lqnets.freeze(&s, &scale, level), 1 << bits);
    assert_true(scale > 0);
    const bool weight = role == QNET_ROLE_WEIGHT;
    int32_t basis[4], sum = 0, divisor = 0;
    for (int k = 0; k < bits; k++) {
      basis[k] = weight ? (level[1 << k] - level[0]) / 2 : level[1 << k];
      assert_true(basis[k] >= 0);
      sum += basis[k];
      divisor = gcd(divisor, basis[k]);
      /* Never farther than one grid step from the real basis. */
      const double real = weight ? fabs((double)param[k]) : fmax((double)param[k], 0);
      assert_true(fabs((double)scale * basis[k] - real) <= total / s.grid * 1.0001);
    }
    assert_true(sum <= s.grid && (sum == 0 || divisor == 1));
    assert_near((double)scale * sum, sum > 0 ? total : 0, 1e-5 * total);
    for (int code = 0; code < 1 << bits; code++) {
      int32_t expected = 0;
      for (int k = 0; k < bits; k++)
        expected += (code >> k & 1) != 0 ? basis[k] : weight ? -basis[k] : 0;
      assert_int_equal(level[code], expected);
    }
  }
}

static void test_snapping_vectors(void **state) {
  (void)state;
  float param[MAX_PARAM] = {1, 2}, scale;
  int32_t level[16];
  qnet_quantizer_site s = make_site(QNET_ROLE_ACTIVATION, 2, param);
  /* 1 : 2 on a grid of 127 is 42.33, 84.67: the larger remainder gets the one that is left. */
  assert_int_equal(qnet_quantizer_lqnets.freeze(&s, &scale, level), 4);
  static const int32_t expected[] = {0, 42, 85, 127};
  for (int c = 0; c < 4; c++)
    assert_int_equal(level[c], expected[c]);
  assert_near(scale, 3.0 / 127, 1e-9);
  s.grid = 15; /* 5 : 10 = 1 : 2 */
  assert_int_equal(qnet_quantizer_lqnets.freeze(&s, &scale, level), 4);
  assert_int_equal(level[3], 3);
  assert_near(scale, 1, 0);
  param[0] = -1; /* an activation basis is never negative */
  qnet_quantizer_lqnets.freeze(&s, &scale, level);
  assert_int_equal(level[1], 0);
  assert_int_equal(level[2], 1);
  param[0] = param[1] = 0;
  qnet_quantizer_lqnets.freeze(&s, &scale, level);
  assert_true(scale == 1 && level[3] == 0);
  param[0] = NAN;
  assert_int_equal(qnet_quantizer_lqnets.freeze(&s, &scale, level), 0);
}

static void test_decision_tables(void **state) {
  (void)state;
  static const float level[] = {0, 3, 1, 3};
  static const uint8_t expected[] = {0, 2, 1, 1}; /* codes 1 and 3 are equal: the lower one */
  float threshold[4], sorted[4];
  uint8_t perm[4];
  qnet_quantizer_sort(level, 4, threshold, sorted, perm);
  for (int r = 0; r < 4; r++)
    assert_int_equal(perm[r], expected[r]);
  assert_near(threshold[0], 0.5, 0);
  assert_near(threshold[1], 2, 0);
  assert_near(threshold[2], 3, 0);
  static const float negative_zero[] = {-0.0f, 1};
  qnet_quantizer_sort(negative_zero, 2, threshold, sorted, perm);
  assert_true(!signbit(sorted[0]));
  static const int32_t integers[] = {3, -1, 1, -3};
  qnet_quantizer_sort_frozen(0.1f, integers, 4, threshold, sorted, perm);
  assert_true(threshold[0] == (float)((double)0.1f * -2) && threshold[1] == 0);
  assert_true(sorted[3] == 0.1f * 3 && perm[0] == 3 && perm[3] == 0);
}

static void test_uniform(void **state) {
  (void)state;
  static const float w[] = {0.5f, -1.27f, 0.01f, 0};
  float param[MAX_PARAM], scale;
  int32_t level[QNET_MAX_LEVELS];
  qnet_quantizer_site s = make_site(QNET_ROLE_WEIGHT, 8, param);
  qnet_quantizer_uniform.fit(&s, w, COUNT(w));
  assert_int_equal(qnet_quantizer_uniform.freeze(&s, &scale, level), 255);
  assert_true(scale == (float)((double)1.27f / 127));
  assert_true(level[0] == -127 && level[127] == 0 && level[254] == 127);
  /* The scale of activations finds the range of the data, from below and from above. */
  for (int grows = 0; grows < 2; grows++) {
    s = make_site(QNET_ROLE_ACTIVATION, 8, param);
    qnet_quantizer_uniform.init(&s);
    const float top = grows ? 40.0f : 0.3f;
    float x[256];
    for (int i = 0; i < COUNT(x); i++)
      x[i] = top * (float)i / (float)(COUNT(x) - 1);
    for (int step = 0; step < 100; step++) {
      int64_t count[256];
      double sum[256];
      take_stats(&qnet_quantizer_uniform, &s, x, COUNT(x), count, sum);
      qnet_quantizer_uniform.update(&s, count, sum);
    }
    assert_int_equal(qnet_quantizer_uniform.freeze(&s, &scale, level), 128);
    assert_near(127 * scale, top, 0.03 * (double)top);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_initial_basis),
      cmocka_unit_test(test_values),
      cmocka_unit_test(test_weight_step),
      cmocka_unit_test(test_activation_step),
      cmocka_unit_test(test_degenerate_batches),
      cmocka_unit_test(test_fit_never_worse),
      cmocka_unit_test(test_steps_never_raise_the_error),
      cmocka_unit_test(test_fit_one_bit),
      cmocka_unit_test(test_activation_basis_is_not_negative),
      cmocka_unit_test(test_snapping),
      cmocka_unit_test(test_snapping_vectors),
      cmocka_unit_test(test_decision_tables),
      cmocka_unit_test(test_uniform),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
