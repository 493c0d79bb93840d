/* The quantizers "lcq" and "lcq_exact": known levels, thresholds and gradients, gradients against
 * finite differences with the rounding frozen, fit and snapping. */
#include "passes/planes.h"
#include "passes/quantizers/lcq.h"
#include "passes/quantizers/plane_fit.h"
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
  static const float eight[] = {0,         0.089286f, 0.178571f, 0.273810f,
                                0.392857f, 0.517857f, 0.696429f, 1};
  s = make(&qnet_quantizer_lcq, QNET_ROLE_ACTIVATION, 3, param);
  test_make_table(&s, &t);
  assert_int_equal(t.n, 8);
  for (int k = 0; k < 8; k++)
    assert_near(t.level[k], 2 * eight[k], 2e-6);
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
  int top, planes; /* of the magnitude; 0: free */
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

static double size_of(const model *m, double x) {
  return fabs(x - m->mean) / m->deviation / m->alpha;
}

/* The level that x is rounded to, and what rounding adds. */
static int level_of(const model *m, double x) {
  return (int)round(m->top * compress(m, fmin(1, size_of(m, x))));
}

static double offset_of(const model *m, double x) {
  return (double)level_of(m, x) / m->top - compress(m, fmin(1, size_of(m, x)));
}

/* What fitting to planes adds to a level. */
static double shift_of(const model *m, int level) {
  double value[QNET_FIT_MAX], fitted[QNET_FIT_MAX];
  if (m->planes == 0) return 0;
  for (int q = 0; q <= m->top; q++)
    value[q] = q < m->top ? expand(m, (double)q / m->top) : 1;
  qnet_plane_fit(value, m->top + 1, m->planes, fitted);
  return fitted[level] - value[level];
}

/* The value when x is rounded to `level` by adding `offset`. */
static double smooth(const model *m, double x, int level, double offset) {
  const double v = size_of(m, x), shift = shift_of(m, level);
  const double size = v >= 1 ? 1 : expand(m, compress(m, v) + offset);
  return m->deviation * m->alpha * (x < m->mean ? -size - shift : size + shift);
}

static qnet_quantizer_site random_site(const qnet_quantizer *q, qnet_role role, int bits,
                                       int planes, uint64_t *seed, float *param, model *m) {
  qnet_quantizer_site s = make(q, role, bits, param);
  const bool weight = role == QNET_ROLE_WEIGHT;
  s.planes = planes;
  *m = (model){.alpha = 2,
               .mean = weight ? 0.125 : 0,
               .deviation = weight ? 0.75 : 1,
               .top = (1 << (weight ? bits - 1 : bits)) - 1,
               .planes = planes > 0 && weight ? planes - 1 : planes};
  if (m->planes >= m->top) m->planes = 0;
  param[QNET_LCQ_MEAN] = (float)m->mean;
  param[QNET_LCQ_DEVIATION] = (float)m->deviation;
  for (int k = 0; k < K; k++)
    m->theta[k] = (double)(param[QNET_LCQ_THETA + k] = test_float(seed));
  return s;
}

static double parameter_slope(const model *m, int index, double x) {
  const double h = 1e-6, offset = offset_of(m, x);
  const int level = level_of(m, x);
  model up = *m, down = *m;
  *(index < 0 ? &up.alpha : &up.theta[index]) += h;
  *(index < 0 ? &down.alpha : &down.theta[index]) -= h;
  return (smooth(&up, x, level, offset) - smooth(&down, x, level, offset)) / 2 / h;
}

/* Weights and activations of 2, 3 and 4 bits, free and with planes. */
static void test_exact_gradients(void **state) {
  (void)state;
  uint64_t seed = 11;
  for (int trial = 0; trial < 180; trial++) {
    const bool weight = trial % 2 == 0;
    const int bits = 2 + trial / 2 % 3, extra = trial / 6 % 3;
    float param[TEST_MAX_PARAM];
    model m;
    qnet_quantizer_site s =
        random_site(&qnet_quantizer_lcq_exact, weight ? QNET_ROLE_WEIGHT : QNET_ROLE_ACTIVATION,
                    bits, extra == 0 ? 0 : bits + extra - 1, &seed, param, &m);
    const double x = (double)(weight ? 2 * test_float(&seed) : 2.2f * fabsf(test_float(&seed)));
    const double h = 1e-6, offset = offset_of(&m, x), v = size_of(&m, x);
    const int level = level_of(&m, x);
    test_sums sums;
    test_point(&s, (float)x, &sums);
    const qnet_lcq_gradient g = qnet_lcq_gradients(&s, sums.dy, sums.dyx);
    assert_near(sums.dx,
                (smooth(&m, x + h, level, offset) - smooth(&m, x - h, level, offset)) / 2 / h,
                1e-3);
    assert_near(test_quantize(&s, (float)x), smooth(&m, x, level, offset), 1e-5);
    assert_near(g.alpha, parameter_slope(&m, -1, x), 1e-3);
    for (int k = 0; k < K; k++)
      assert_near(g.theta[k], parameter_slope(&m, k, x), 1e-3);
    /* Slope 1: theta alike, x straight, alpha as if what x moves in its cell were v alpha. */
    s.quantizer = &qnet_quantizer_lcq;
    test_point(&s, (float)x, &sums);
    const qnet_lcq_gradient straight = qnet_lcq_gradients(&s, sums.dy, sums.dyx);
    const double sign = x < m.mean ? -1 : 1;
    assert_near(sums.dx, v < 1, 0);
    assert_near(straight.alpha,
                smooth(&m, x, level, offset) / m.alpha - (v < 1 ? sign * m.deviation * v : 0),
                1e-5);
    for (int k = 0; k < K; k++)
      assert_near(straight.theta[k], g.theta[k], 1e-12);
  }
}

/* ---- limited weight normalisation -------------------------------------------------------------*/

enum { WEIGHTS = 40 };

/* sum dy Q of all weights, rounded as before one of them was moved. */
static double layer_value(const model *before, const double *w, const double *dy, int moved,
                          double by) {
  model m = *before;
  double mean = 0, square = 0, value = 0;
  for (int i = 0; i < WEIGHTS; i++)
    mean += (w[i] + (i == moved ? by : 0)) / WEIGHTS;
  for (int i = 0; i < WEIGHTS; i++)
    square += pow(w[i] + (i == moved ? by : 0) - mean, 2);
  m.mean = mean;
  m.deviation = sqrt(square / (WEIGHTS - 1));
  for (int i = 0; i < WEIGHTS; i++)
    value += dy[i] * smooth(&m, w[i] + (i == moved ? by : 0), level_of(before, w[i]),
                            offset_of(before, w[i]));
  return value;
}

/* dx, and what reaches every weight through mean and deviation, as nn.cell_grad and nn.moment_grad
 * have it. */
static void weight_gradients(const qnet_quantizer_site *s, const double *w, const double *dy,
                             double *dx) {
  float share[4 * QNET_MAX_CELLS];
  double sum[4] = {0}, a, b;
  s->quantizer->moments(s, share);
  for (int i = 0; i < WEIGHTS; i++) {
    test_sums one;
    test_point(s, (float)w[i], &one);
    dx[i] = dy[i] * one.dx;
    for (int k = 0; k < one.n; k++)
      for (int row = 0; row < 4; row++)
        sum[row] += dy[i] * (double)share[row * one.n + k] * (row % 2 == 0 ? one.dy : one.dyx)[k];
  }
  a = sum[0] + sum[1];
  b = sum[2] + sum[3];
  for (int i = 0; i < WEIGHTS; i++)
    dx[i] += a + b * w[i];
}

static void test_gradients_through_moments(void **state) {
  (void)state;
  uint64_t seed = 17;
  for (int trial = 0; trial < 9; trial++) {
    const int bits = 2 + trial % 3;
    float param[TEST_MAX_PARAM], weight[WEIGHTS];
    double w[WEIGHTS], dy[WEIGHTS], dx[WEIGHTS];
    model m;
    qnet_quantizer_site s = random_site(&qnet_quantizer_lcq_exact, QNET_ROLE_WEIGHT, bits,
                                        trial < 6 ? 0 : bits, &seed, param, &m);
    for (int i = 0; i < WEIGHTS; i++) {
      w[i] = (double)(weight[i] = 0.3f + test_float(&seed) + test_float(&seed));
      dy[i] = (double)test_float(&seed);
    }
    s.elements = WEIGHTS;
    s.quantizer->follow(&s, weight, WEIGHTS);
    m.mean = (double)param[QNET_LCQ_MEAN];
    m.deviation = (double)param[QNET_LCQ_DEVIATION];
    m.alpha = (double)(param[QNET_LCQ_ALPHA] = 1.5f); /* some are clipped */
    weight_gradients(&s, w, dy, dx);
    for (int i = 0; i < WEIGHTS; i++) {
      const double h = 1e-6;
      assert_near(dx[i], (layer_value(&m, w, dy, i, h) - layer_value(&m, w, dy, i, -h)) / 2 / h,
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

/* Held to three planes at 3 / 3 bits, the frozen tables take no more, and stay near free ones. */
static void test_plane_counts(void **state) {
  (void)state;
  uint64_t seed = 23;
  for (int trial = 0; trial < 60; trial++) {
    float param[TEST_MAX_PARAM], scale, level[2][QNET_MAX_LEVELS];
    int32_t integer[QNET_MAX_LEVELS];
    uint8_t identity[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    model m;
    qnet_arena arena;
    qnet_arena_init(&arena, qnet_allocator_system());
    qnet_quantizer_site s =
        random_site(&qnet_quantizer_lcq, QNET_ROLE_WEIGHT, 3, 3, &seed, param, &m);
    qnet_weight_planes weight;
    assert_int_equal(s.quantizer->freeze(&s, &scale, integer), 7);
    assert_true(qnet_planes_of_weight(&arena, integer, 7, 1, 4, &weight));
    assert_true(weight.count <= 3);
    s = random_site(&qnet_quantizer_lcq, QNET_ROLE_ACTIVATION, 3, 3, &seed, param, &m);
    qnet_activation_planes activation;
    assert_int_equal(s.quantizer->freeze(&s, &scale, integer), 8);
    qnet_planes_of_activation(integer, identity, 8, &activation);
    assert_true(activation.count <= 3);
    s.quantizer->levels(&s, level[0]);
    const double distance = s.quantizer->plane_distance(&s);
    s.planes = 0;
    s.quantizer->levels(&s, level[1]);
    assert_near(s.quantizer->plane_distance(&s), 0, 0);
    double largest = 0;
    for (int k = 0; k < 8; k++)
      largest = fmax(largest, fabs((double)level[0][k] - (double)level[1][k]));
    assert_near(distance, largest / m.alpha, 1e-6);
    for (int k = 0; k < 8; k++) {
      assert_near(scale * (float)integer[k], level[0][k], 3 * (double)scale);
      assert_near(level[0][k], level[1][k], 0.25 * m.alpha);
    }
    qnet_arena_clear(&arena);
  }
}

/* Weights k times as large under gradients 1 / k as large, as a batch_norm makes them: at k^2 times
 * the rate the parameters make the same step. */
static void test_steps_by_scale(void **state) {
  (void)state;
  uint64_t seed = 31;
  float param[2][TEST_MAX_PARAM];
  double dy[QNET_MAX_CELLS], dyx[QNET_MAX_CELLS], smaller[QNET_MAX_CELLS];
  for (int k = 0; k < QNET_MAX_CELLS; k++) {
    dy[k] = 1e-3 * (double)test_float(&seed);
    dyx[k] = 1e-3 * (double)test_float(&seed);
    smaller[k] = dy[k] / 8;
  }
  for (int side = 0; side < 2; side++) {
    qnet_quantizer_site s = make(&qnet_quantizer_lcq, QNET_ROLE_WEIGHT, 3, param[side]);
    s.elements = 100;
    param[side][QNET_LCQ_DEVIATION] = side == 0 ? 0.25f : 2;
    s.quantizer->learn(&s, side == 0 ? dy : smaller, dyx, side == 0 ? 0.01 : 0.64);
  }
  assert_true(param[0][QNET_LCQ_ALPHA] != 2);
  for (int k = 0; k < QNET_LCQ_MEAN; k++)
    assert_near(param[0][k], param[1][k], 1e-6);
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
      cmocka_unit_test(test_tables),          cmocka_unit_test(test_known_gradients),
      cmocka_unit_test(test_exact_gradients), cmocka_unit_test(test_gradients_through_moments),
      cmocka_unit_test(test_steps_by_scale),  cmocka_unit_test(test_snapping),
      cmocka_unit_test(test_plane_counts),    cmocka_unit_test(test_fit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
