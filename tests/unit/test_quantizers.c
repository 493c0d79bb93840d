/* What holds of every quantizer at every width: tables, frozen levels, cells of the gradient; and
 * the operation behind the gradient, plan against interpreter. */
#include "codegen/plan.h"
#include "tests/unit/quantizer_test.h"

enum { SEED = 77, SAMPLES = 400 };

static int32_t gcd(int32_t a, int32_t b) {
  return b == 0 ? (a < 0 ? -a : a) : gcd(b, a % b);
}

static int compare_integers(const void *a, const void *b) {
  const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

static int compare_floats(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Frozen levels fit a byte, have no common divisor, and lie near the levels as learned; an
 * activation has a level 0 so that padding is one of its values. */
static void check_frozen(const qnet_quantizer_site *s) {
  float scale, level[QNET_MAX_LEVELS];
  int32_t integer[QNET_MAX_LEVELS], divisor = 0, largest = 0;
  const int n = s->quantizer->freeze(s, &scale, integer);
  assert_int_equal(n, s->quantizer->level_count(s));
  assert_int_equal(n, s->quantizer->levels(s, level));
  assert_true(n >= 2 && n <= 1 << s->bits && scale > 0);
  bool has_zero = false;
  for (int i = 0; i < n; i++) {
    divisor = gcd(divisor, integer[i]);
    largest = abs(integer[i]) > largest ? abs(integer[i]) : largest;
    has_zero = has_zero || integer[i] == 0;
  }
  assert_true(largest >= 1 && largest <= 127 && divisor == 1);
  assert_true(s->role == QNET_ROLE_WEIGHT || has_zero || s->quantizer == &qnet_quantizer_sign);
  /* By rank: the bits of negative bases are flipped. An additive basis is off by one in each. */
  qsort(integer, (size_t)n, sizeof *integer, compare_integers);
  qsort(level, (size_t)n, sizeof *level, compare_floats);
  for (int i = 0; i < n; i++)
    assert_near(scale * (float)integer[i], level[i], 1.01 * (double)scale * s->bits);
}

static void check_table(const qnet_quantizer_site *s) {
  test_table t;
  test_make_table(s, &t);
  for (int r = 0; r + 1 < t.n; r++) {
    assert_true(t.level[r] <= t.level[r + 1]);
    assert_true(r == 0 || t.threshold[r - 1] <= t.threshold[r]);
  }
}

static void check_cells(const qnet_quantizer_site *s) {
  if (s->quantizer->cells == NULL) return;
  float bound[QNET_MAX_CELLS], slope[QNET_MAX_CELLS], tilt[QNET_MAX_CELLS];
  const int n = s->quantizer->cell_count(s);
  assert_true(n >= 2 && n <= QNET_MAX_CELLS);
  s->quantizer->cells(s, bound, slope, tilt);
  for (int k = 0; k < n; k++) {
    assert_true(isfinite(slope[k]) && isfinite(tilt[k]));
    assert_true(k == 0 || k == n - 1 || bound[k - 1] <= bound[k]);
  }
}

static void check_site(qnet_quantizer_site *s, uint64_t *seed) {
  float x[SAMPLES];
  const float scale = expf(3 * test_float(seed));
  for (int i = 0; i < SAMPLES; i++) {
    x[i] = scale * (test_float(seed) + test_float(seed) + test_float(seed));
    if (s->role == QNET_ROLE_ACTIVATION && x[i] < 0) x[i] = 0;
  }
  for (int fitted = 0; fitted < 2; fitted++) {
    if (fitted) s->quantizer->fit(s, x, SAMPLES);
    if (s->role == QNET_ROLE_WEIGHT && s->quantizer->follow != NULL)
      s->quantizer->follow(s, x, SAMPLES);
    check_table(s);
    check_frozen(s);
    check_cells(s);
  }
}

static void test_properties(void **state) {
  (void)state;
  uint64_t seed = SEED;
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  for (size_t i = 0; i < count; i++)
    for (int role = 0; role < 2; role++) {
      const qnet_bit_range range = table[i]->bits[role];
      for (int bits = range.min; bits <= range.max && range.max > 0; bits++)
        for (int grid = 15; grid <= 127; grid += 112) {
          float param[TEST_MAX_PARAM] = {0};
          assert_true(table[i]->param_count(bits) <= TEST_MAX_PARAM);
          qnet_quantizer_site s = test_site(table[i], (qnet_role)role, bits, param);
          s.grid = grid;
          s.elements = SAMPLES;
          check_site(&s, &seed);
        }
    }
}

/* Wild gradients move no parameter out of what makes a table. */
static void test_learning_stays_valid(void **state) {
  (void)state;
  uint64_t seed = SEED + 1;
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  for (size_t i = 0; i < count; i++)
    for (int role = 0; role < 2; role++) {
      const int bits = table[i]->bits[role].max < 3 ? table[i]->bits[role].max : 3;
      if (table[i]->learn == NULL || bits == 0) continue;
      float param[TEST_MAX_PARAM] = {0};
      qnet_quantizer_site s = test_site(table[i], (qnet_role)role, bits, param);
      for (int step = 0; step < 200; step++) {
        double dy[QNET_MAX_CELLS], dyx[QNET_MAX_CELLS];
        for (int k = 0; k < QNET_MAX_CELLS; k++) {
          dy[k] = 50 * (double)test_float(&seed);
          dyx[k] = 50 * (double)test_float(&seed);
        }
        s.quantizer->learn(&s, dy, dyx, 0.1);
        check_table(&s);
        check_cells(&s);
      }
      check_frozen(&s);
    }
}

static void learn_at_random(qnet_quantizer_site *s, uint64_t *seed) {
  double dy[QNET_MAX_CELLS], dyx[QNET_MAX_CELLS];
  for (int step = 0; step < 20; step++) {
    for (int k = 0; k < QNET_MAX_CELLS; k++) {
      dy[k] = (double)test_float(seed);
      dyx[k] = (double)test_float(seed);
    }
    s->quantizer->learn(s, dy, dyx, 0.01);
  }
}

/* At its own bits all that decides; at fewer ones the largest value. */
static void check_carried(qnet_quantizer_site *from, int bits, uint64_t *seed) {
  float param[TEST_MAX_PARAM] = {0}, x[SAMPLES];
  qnet_quantizer_site to = test_site(from->quantizer, from->role, bits, param);
  for (int i = 0; i < SAMPLES; i++)
    x[i] = fabsf(test_float(seed));
  to.quantizer->fit(&to, x, SAMPLES);
  test_table old, new;
  test_make_table(from, &old);
  test_make_table(&to, &new);
  assert_false(new.level[new.n - 1] == old.level[old.n - 1]);
  /* Moments of the weights come from the weights. */
  if (to.quantizer->follow != NULL) to.quantizer->follow(&to, x, SAMPLES);
  to.quantizer->carry(&to, from);
  if (to.quantizer->follow != NULL) from->quantizer->follow(from, x, SAMPLES);
  test_make_table(from, &old);
  test_make_table(&to, &new);
  assert_near(new.level[new.n - 1], old.level[old.n - 1],
              1e-6 * fabs((double)old.level[old.n - 1]));
  if (bits != from->bits) return;
  assert_memory_equal(new.level, old.level, sizeof *new.level *(size_t) new.n);
  assert_memory_equal(new.threshold, old.threshold, sizeof *new.threshold *(size_t)(new.n - 1));
}

/* What was learned at more bits is where the next stage starts. */
static void test_carry(void **state) {
  (void)state;
  uint64_t seed = SEED + 2;
  size_t count;
  int carried = 0;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  for (size_t i = 0; i < count; i++)
    for (int role = 0; role < 2; role++) {
      const qnet_bit_range range = table[i]->bits[role];
      for (int bits = range.min; table[i]->carry != NULL && bits <= range.max && bits > 0; bits++) {
        float param[TEST_MAX_PARAM] = {0};
        qnet_quantizer_site s = test_site(table[i], (qnet_role)role, bits, param);
        learn_at_random(&s, &seed);
        check_carried(&s, bits, &seed);
        if (bits > range.min) check_carried(&s, bits - 1, &seed);
        carried++;
      }
    }
  assert_true(carried > 40);
}

/* ---- odd data ---------------------------------------------------------------------------------*/

enum { KINDS = 8 };

static void odd_data(int kind, uint64_t *seed, float *x) {
  for (int i = 0; i < SAMPLES; i++) {
    const float noise = test_float(seed);
    x[i] = kind == 0   ? 0
           : kind == 1 ? 0.37f
           : kind == 2 ? noise * 1e-40f
           : kind == 3 ? noise * 1e30f
           : kind == 4 ? (i == 17 ? 1e20f : noise)
           : kind == 5 ? (i == 17 ? 1 : 0)
           : kind == 6 ? (i % 2 == 0 ? 0.5f : 0.25f)
                       : -0.37f;
  }
}

/* One step from what the batch says of x under the present tables. */
static void learn_from(qnet_quantizer_site *s, const float *x, uint64_t *seed) {
  static test_sums one;
  const qnet_quantizer *q = s->quantizer;
  int64_t count[QNET_MAX_LEVELS] = {0};
  double sum[QNET_MAX_LEVELS] = {0}, dy[QNET_MAX_CELLS] = {0}, dyx[QNET_MAX_CELLS] = {0};
  test_table t;
  test_make_table(s, &t);
  for (int i = 0; i < SAMPLES; i++) {
    const int code = t.perm[test_rank(&t, x[i])];
    count[code]++;
    sum[code] += (double)x[i];
    if (q->cells == NULL) continue;
    const double g = 1e-3 * (double)test_float(seed);
    test_point(s, x[i], &one);
    for (int k = 0; k < one.n; k++) {
      dy[k] += g * one.dy[k];
      dyx[k] += g * one.dyx[k];
    }
  }
  s->inputs = 1;
  if (q->update != NULL && (q->learn == NULL || s->role == QNET_ROLE_ACTIVATION))
    q->update(s, count, sum);
  else if (q->learn != NULL)
    q->learn(s, dy, dyx, 0.1);
}

/* Levels ascend and are the integers times the scale, no value is NaN, and where the method has no
 * thresholds of its own the nearest level is taken, the lower one of two. */
static void check_exact(const qnet_quantizer_site *s, uint64_t *seed) {
  float scale, threshold[QNET_MAX_LEVELS], sorted[QNET_MAX_LEVELS];
  int32_t integer[QNET_MAX_LEVELS], divisor = 0;
  uint8_t perm[QNET_MAX_LEVELS];
  const int n = s->quantizer->freeze(s, &scale, integer);
  assert_int_equal(n, s->quantizer->level_count(s));
  assert_true(isfinite(scale) && scale > 0);
  qnet_quantizer_sort_frozen(scale, integer, n, threshold, sorted, perm);
  if (s->quantizer->thresholds != NULL) s->quantizer->thresholds(s, 0, threshold);
  for (int r = 0; r < n; r++) {
    assert_true(isfinite(sorted[r]) && sorted[r] == scale * (float)integer[perm[r]]);
    assert_true(abs(integer[r]) <= 127);
    assert_true(r == 0 || (sorted[r] >= sorted[r - 1] && isfinite(threshold[r - 1])));
    assert_true(r < 2 || threshold[r - 1] >= threshold[r - 2]);
    divisor = gcd(divisor, integer[r]);
  }
  assert_true(divisor <= 1);
  float own[QNET_MAX_LEVELS];
  if (s->quantizer->thresholds != NULL && s->quantizer->thresholds(s, 0, own)) return;
  for (int trial = 0; trial < 50; trial++) {
    const float x = 1.2f * test_float(seed) * fmaxf(fabsf(sorted[0]), sorted[n - 1]);
    int rank = 0;
    while (rank < n - 1 && x > threshold[rank])
      rank++;
    for (int r = 0; r < n; r++)
      assert_true(fabs((double)x - (double)sorted[rank]) <=
                  fabs((double)x - (double)sorted[r]) + 1e-6 * (double)scale * 127);
  }
}

static void check_odd(const qnet_quantizer *q, qnet_role role, int bits, int kind, uint64_t *seed) {
  float x[SAMPLES], param[TEST_MAX_PARAM] = {0};
  qnet_quantizer_site s = test_site(q, role, bits, param);
  s.elements = SAMPLES;
  odd_data(kind, seed, x);
  for (int i = 0; i < SAMPLES && role == QNET_ROLE_ACTIVATION; i++)
    x[i] = fmaxf(x[i], 0);
  q->fit(&s, x, SAMPLES);
  for (int step = 0; step < 4; step++) {
    if (role == QNET_ROLE_WEIGHT && q->follow != NULL) q->follow(&s, x, SAMPLES);
    check_table(&s);
    check_cells(&s);
    check_exact(&s, seed);
    learn_from(&s, x, seed);
  }
}

static void test_odd_data(void **state) {
  (void)state;
  uint64_t seed = SEED + 2;
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  for (size_t i = 0; i < count; i++)
    for (int role = 0; role < 2; role++)
      for (int bits = table[i]->bits[role].min; bits <= table[i]->bits[role].max && bits > 0;
           bits++)
        for (int kind = 0; kind < KINDS; kind++) {
          check_odd(table[i], (qnet_role)role, bits, kind, &seed);
        }
}

/* ---- nn.cell_grad -----------------------------------------------------------------------------*/

static void random_cells(qnet_module *m, const char *name, uint64_t *seed, bool ascending,
                         int64_t row) {
  qnet_symbol *s = qnet_symbol_find(m, name);
  qnet_blob *b = test_random_floats(seed, qnet_type_elements(s->type));
  float *x = b->data;
  for (int64_t i = 1; ascending && i < qnet_blob_elements(b); i++)
    x[i] = i % row == 0 ? x[i] : x[i - 1] + 0.02f + 0.02f * fabsf(x[i]);
  qnet_symbol_set_blob(s, b);
  qnet_blob_release(b);
}

static void compare_cell_grad(int64_t rows, int64_t width, int64_t channels, int64_t cells,
                              bool tilted) {
  char text[1024];
  snprintf(text, sizeof text,
           "module @t nn {\n"
           "  state @bound : tensor<%lldx%lldxf32> = elided\n"
           "  state @slope : tensor<%lldx%lldxf32> = elided\n"
           "  state @tilt : tensor<%lldx%lldxf32> = %s\n"
           "  func @step(%%x: tensor<%lldx%lldxf32>, %%dy: tensor<%lldx%lldxf32>) {\n"
           "    %%0 = read @bound : tensor<%lldx%lldxf32>\n"
           "    %%1 = read @slope : tensor<%lldx%lldxf32>\n"
           "    %%2 = read @tilt : tensor<%lldx%lldxf32>\n"
           "    %%3, %%4, %%5 = nn.cell_grad(%%x, %%0, %%1, %%2, %%dy) {axis = %d} : "
           "tensor<%lldx%lldxf32>, tensor<%lldx%lldxf64>, tensor<%lldx%lldxf64>\n"
           "    yield %%3, %%4, %%5\n  }\n}\n",
           (long long)channels, (long long)(cells - 1), (long long)channels, (long long)cells,
           (long long)channels, (long long)cells, tilted ? "elided" : "splat(0)", (long long)rows,
           (long long)width, (long long)rows, (long long)width, (long long)channels,
           (long long)(cells - 1), (long long)channels, (long long)cells, (long long)channels,
           (long long)cells, channels > 1 ? 0 : -1, (long long)rows, (long long)width,
           (long long)channels, (long long)cells, (long long)channels, (long long)cells);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(text, d);
  uint64_t seed = SEED + (uint64_t)(rows * width * cells);
  random_cells(m, "bound", &seed, true, cells - 1);
  random_cells(m, "slope", &seed, false, cells);
  if (tilted) random_cells(m, "tilt", &seed, false, cells);
  qnet_blob *in[] = {test_random_floats(&seed, rows * width),
                     test_random_floats(&seed, rows * width)};
  qnet_blob *out[3] = {NULL};
  qnet_interp *interp = NULL;
  assert_int_equal(qnet_interp_create(m, "step", &interp, d), QNET_OK);
  assert_int_equal(qnet_interp_run(interp, in, 2, out, 3, d), QNET_OK);
  qnet_plan *p = NULL;
  assert_int_equal(qnet_plan_create(m, "step", QNET_PLAN_FAST, &p, d), QNET_OK);
  for (int i = 0; i < 2; i++)
    memcpy(qnet_plan_argument(p, i)->data, in[i]->data, in[i]->bytes);
  assert_int_equal(qnet_plan_run(p, d), QNET_OK);
  for (int64_t i = 0; i < rows * width; i++)
    assert_near(((float *)qnet_plan_result(p, 0)->data)[i], ((float *)out[0]->data)[i], 1e-6);
  for (int r = 1; r < 3; r++)
    for (int64_t i = 0; i < channels * cells; i++)
      assert_near(((double *)qnet_plan_result(p, r)->data)[i], ((double *)out[r]->data)[i], 1e-3);
  qnet_plan_destroy(p);
  qnet_interp_destroy(interp);
  test_release(in, 2);
  test_release(out, 3);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

static void test_cell_grad(void **state) {
  (void)state;
  for (int tilted = 0; tilted < 2; tilted++)
    for (int cells = 2; cells < 300; cells *= 3) {
      compare_cell_grad(31, 7, 1, cells, tilted);
      compare_cell_grad(300, 67, 1, cells, tilted);
      compare_cell_grad(5, 5000, 5, cells, tilted);
    }
}

/* Two cells: a = 0.5 * 2 + 1 * -1 = 0, plus 0.25 * 4 + 0 = 1; b = 2 * 2 + 0 - 0.5 * 4 + 1 * 3. */
static void test_moment_grad(void **state) {
  (void)state;
  static const char text[] =
      "module @t nn {\n"
      "  func @step(%dx: tensor<3xf32>, %x: tensor<3xf32>, %dy: tensor<1x2xf64>, "
      "%dyx: tensor<1x2xf64>, %share: tensor<4x2xf32>) {\n"
      "    %0 = nn.moment_grad(%dx, %x, %dy, %dyx, %share) : tensor<3xf32>\n"
      "    yield %0\n  }\n}\n";
  static const float dx[] = {1, 2, 3}, x[] = {10, 0, -1};
  static const float share[] = {0.5f, 1, 0.25f, 0, 2, 0, -0.5f, 1};
  static const double dy[] = {2, -1}, dyx[] = {4, 3};
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(text, d);
  qnet_blob *in[] = {test_blob(QNET_F32, 3, dx), test_blob(QNET_F32, 3, x),
                     test_blob(QNET_F64, 2, dy), test_blob(QNET_F64, 2, dyx),
                     test_blob(QNET_F32, 8, share)};
  qnet_blob *out[1] = {NULL};
  qnet_interp *interp = NULL;
  assert_int_equal(qnet_interp_create(m, "step", &interp, d), QNET_OK);
  assert_int_equal(qnet_interp_run(interp, in, 5, out, 1, d), QNET_OK);
  static const float expected[] = {1 + 1 + 50, 2 + 1, 3 + 1 - 5};
  assert_memory_equal(out[0]->data, expected, sizeof expected);
  qnet_interp_destroy(interp);
  test_release(in, 5);
  test_release(out, 1);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_properties), cmocka_unit_test(test_learning_stays_valid),
      cmocka_unit_test(test_carry),      cmocka_unit_test(test_odd_data),
      cmocka_unit_test(test_cell_grad),  cmocka_unit_test(test_moment_grad),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
