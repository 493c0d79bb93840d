/* Tables of few planes: nearest, ascending, their gradient, their integers. */
#include "passes/planes.h"
#include "passes/quantizers/plane_fit.h"
#include "tests/unit/quantizer_test.h"

enum { TRIALS = 300, SEED = 4711 };

/* Ascending from 0 to about 1; some steep at an end. */
static void random_table(uint64_t *seed, int n, double *table) {
  const double power = exp(2 * (double)test_float(seed));
  table[0] = 0;
  for (int k = 1; k < n; k++)
    table[k] = table[k - 1] + 0.01 + fabs((double)test_float(seed));
  for (int k = 1; k < n; k++)
    table[k] = pow(table[k] / table[n - 1], power) + 1e-4 * k;
}

/* The coefficient of each set of bits. */
static void moebius(const double *table, int n, double *m) {
  for (int s = 0; s < n; s++) {
    m[s] = table[s];
    for (int r = 0; r < s; r++)
      if ((r & s) == r) m[s] -= m[r];
  }
}

static int nonzero(const double *m, int n) {
  int count = 0;
  for (int s = 0; s < n; s++)
    count += fabs(m[s]) > 1e-9;
  return count;
}

static double distance(const double *a, const double *b, int n) {
  double sum = 0;
  for (int k = 0; k < n; k++)
    sum += (a[k] - b[k]) * (a[k] - b[k]);
  return sum;
}

static int pick_planes(uint64_t *seed, int bits) {
  return (int)test_range(seed, bits, (1 << bits) - 1);
}

static void test_fit(void **state) {
  (void)state;
  uint64_t seed = SEED;
  int mixed = 0;
  for (int trial = 0; trial < TRIALS; trial++) {
    const int bits = 2 + trial % 3, n = 1 << bits, planes = pick_planes(&seed, bits);
    double table[QNET_FIT_MAX], fitted[QNET_FIT_MAX], m[QNET_FIT_MAX], again[QNET_FIT_MAX];
    random_table(&seed, n, table);
    qnet_plane_fit(table, n, planes, fitted);
    moebius(fitted, n, m);
    assert_true(nonzero(m, n) <= planes);
    bool ties = false;
    for (int k = 1; k < n; k++) {
      assert_true(fitted[k] >= fitted[k - 1]);
      ties = ties || fitted[k] - fitted[k - 1] < 1e-9;
    }
    if (planes == n - 1) assert_near(distance(table, fitted, n), 0, 1e-20);
    qnet_plane_fit(fitted, n, planes, again);
    assert_near(distance(fitted, again, n), 0, 1e-18);
    mixed += ties;
    /* No other table of these planes is nearer, unless this one was kept from descending. */
    for (int s = 1; s < n && !ties; s++) {
      if (fabs(m[s]) < 1e-9) continue;
      for (int k = 0; k < n; k++)
        again[k] = fitted[k] + ((s & k) == s ? 1e-3 : 0);
      assert_true(distance(table, again, n) > distance(table, fitted, n));
      for (int k = 0; k < n; k++)
        again[k] = fitted[k] - ((s & k) == s ? 1e-3 : 0);
      assert_true(distance(table, again, n) > distance(table, fitted, n));
    }
  }
  assert_true(mixed > TRIALS / 50);
}

/* Two planes for 0, 30, 68, 144: normal equations 2 a + b = 174, a + 2 b = 212. */
static void test_known_fit(void **state) {
  (void)state;
  static const double table[] = {0, 30, 68, 144};
  double fitted[4];
  qnet_plane_fit(table, 4, 2, fitted);
  assert_near(fitted[1], 136.0 / 3, 1e-9);
  assert_near(fitted[2], 250.0 / 3, 1e-9);
  assert_near(fitted[3], 386.0 / 3, 1e-9);
}

static void test_gradient(void **state) {
  (void)state;
  uint64_t seed = SEED + 1;
  for (int trial = 0; trial < TRIALS; trial++) {
    const int bits = 2 + trial % 3, n = 1 << bits, planes = pick_planes(&seed, bits);
    double table[QNET_FIT_MAX], dfitted[QNET_FIT_MAX], dtable[QNET_FIT_MAX], side[2];
    random_table(&seed, n, table);
    for (int k = 0; k < n; k++)
      dfitted[k] = (double)test_float(&seed);
    qnet_plane_fit_gradient(table, n, planes, dfitted, dtable);
    for (int i = 1; i < n; i++) {
      for (int s = 0; s < 2; s++) {
        double moved[QNET_FIT_MAX], fitted[QNET_FIT_MAX];
        memcpy(moved, table, sizeof moved);
        moved[i] += s ? 1e-7 : -1e-7;
        qnet_plane_fit(moved, n, planes, fitted);
        side[s] = 0;
        for (int k = 0; k < n; k++)
          side[s] += dfitted[k] * fitted[k];
      }
      assert_near(dtable[i], (side[1] - side[0]) / 2e-7, 1e-5);
    }
  }
}

static void test_integers(void **state) {
  (void)state;
  uint64_t seed = SEED + 2;
  for (int trial = 0; trial < TRIALS; trial++) {
    const int bits = 2 + trial % 3, n = 1 << bits, planes = pick_planes(&seed, bits);
    const int32_t grid = trial % 2 == 0 ? 127 : 15;
    double table[QNET_FIT_MAX];
    int32_t level[QNET_FIT_MAX];
    uint8_t identity[QNET_FIT_MAX];
    random_table(&seed, n, table);
    qnet_plane_fit(table, n, planes, table);
    const int32_t end = qnet_plane_fit_snap(table, n, planes, grid, level);
    assert_true(end > 0 && end == level[n - 1] && level[0] == 0);
    for (int k = 0; k < n; k++) {
      assert_true(level[k] >= 0 && level[k] <= grid);
      assert_near(level[k], end * table[k] / table[n - 1], n / 2);
      identity[k] = (uint8_t)k;
    }
    qnet_activation_planes p;
    qnet_planes_of_activation(level, identity, n, &p);
    assert_true(p.count <= planes);
  }
  static const double flat[] = {0, 0, 0, 0};
  assert_int_equal(qnet_plane_fit_snap(flat, 4, 2, 127, (int32_t[4]){0}), 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fit),
      cmocka_unit_test(test_known_fit),
      cmocka_unit_test(test_gradient),
      cmocka_unit_test(test_integers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
