/* Every level table of 1..4 bits is reproduced exactly by its planes, and the kinds of tables that
 * quantizers make get as few planes as they should. */
#include "passes/planes.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint64_t SEED = 20240607;

static uint64_t next(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static int between(uint64_t *state, int lo, int hi) {
  return lo + (int)(next(state) % (uint64_t)(hi - lo + 1));
}

static int plane_bit(uint32_t mask, int element) {
  return (int)(mask >> element & 1);
}

/* ---- activations ----------------------------------------------------------------------------- */

static void check_activation(const int32_t *level, const uint8_t *perm, int n) {
  qnet_activation_planes p;
  qnet_planes_of_activation(level, perm, n, &p);
  assert_in_range(p.count, 1, QNET_PLANES_MAX);
  bool has_zero = false;
  for (int r = 0; r < n; r++)
    has_zero |= level[perm[r]] == 0;
  bool vanishes = false;
  for (int r = 0; r < n; r++) {
    int32_t sum = 0;
    uint32_t any = 0;
    for (int j = 0; j < p.count; j++) {
      sum += p.coef[j] * plane_bit(p.mask[j], r);
      any |= p.mask[j] >> r & 1;
    }
    assert_int_equal(sum, level[perm[r]]);
    vanishes |= !any;
  }
  assert_true(vanishes || !has_zero);
}

/* The permutation that sorts the levels; equal levels become the lowest code. */
static void sort_by_level(const int32_t *level, int n, uint8_t *perm) {
  for (int c = 0; c < n; c++) {
    int k = c;
    for (; k > 0 && level[perm[k - 1]] > level[c]; k--)
      perm[k] = perm[k - 1];
    perm[k] = (uint8_t)c;
  }
  for (int r = 1; r < n; r++)
    if (level[perm[r]] == level[perm[r - 1]]) perm[r] = perm[r - 1];
}

static void random_activation_table(uint64_t *rng, int n, int32_t *level) {
  const int kind = between(rng, 0, 3);
  const int basis[4] = {between(rng, 0, 40), between(rng, 0, 40), between(rng, 0, 40),
                        between(rng, 0, 7)};
  for (int c = 0; c < n; c++) {
    level[c] = kind < 2 ? between(rng, kind == 0 ? 0 : -127, 127) : 0;
    for (int k = 0; k < 4 && kind >= 2; k++)
      level[c] += (c >> k & 1) * basis[k];
    if (kind == 3) level[c] -= basis[0];
  }
  if (kind == 0 || between(rng, 0, 1)) level[between(rng, 0, n - 1)] = 0;
}

static void test_random_activation_tables(void **state) {
  (void)state;
  uint64_t rng = SEED;
  for (int i = 0; i < 4000; i++) {
    const int n = between(&rng, 2, 16);
    int32_t level[16];
    uint8_t perm[16];
    random_activation_table(&rng, n, level);
    sort_by_level(level, n, perm);
    check_activation(level, perm, n);
  }
}

static int activation_count(const int32_t *level, int n) {
  uint8_t perm[16];
  sort_by_level(level, n, perm);
  check_activation(level, perm, n);
  qnet_activation_planes p;
  qnet_planes_of_activation(level, perm, n, &p);
  return p.count;
}

static void test_activation_plane_counts(void **state) {
  (void)state;
  assert_int_equal(activation_count((int32_t[]){0, 1}, 2), 1);
  assert_int_equal(activation_count((int32_t[]){-1, 1}, 2), 2); /* one is the constant */
  assert_int_equal(activation_count((int32_t[]){0, 5, 3, 8}, 4), 2);
  assert_int_equal(activation_count((int32_t[]){0, 7, 3, 10, 100, 107, 103, 110}, 8), 3);
  assert_int_equal(activation_count((int32_t[]){0, 5, 11, 24}, 4), 3); /* companding */
  assert_int_equal(activation_count((int32_t[]){-3, 0, 2, 5}, 4), 2);  /* additive about its zero */
  assert_int_equal(activation_count((int32_t[]){2, 0, 3, 1}, 4), 2);   /* uniform, any order */
  assert_int_equal(activation_count((int32_t[]){0, 0, 0, 0}, 4), 1);
  assert_int_equal(
      activation_count((int32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, 16), 4);
}

/* Sums of smaller tables, in whatever order: APoT's sets of three and four bits. */
static void test_sums_of_tables(void **state) {
  (void)state;
  static const int32_t a[] = {0, 2, 8, 32}, b[] = {0, 1, 4, 16};
  int32_t four[16];
  for (int i = 0; i < 16; i++)
    four[i] = a[i / 4] + b[i % 4];
  assert_int_equal(activation_count((int32_t[]){0, 1, 3, 4}, 4), 2);
  assert_int_equal(activation_count((int32_t[]){0, 1, 2, 4}, 4), 3);
  assert_int_equal(activation_count((int32_t[]){0, 1, 2, 3, 4, 6, 8, 10}, 8), 4);
  assert_int_equal(activation_count(four, 16), 6);
}

/* A companding table of two bits, times 144, and one of three bits, times 168 (levels 0.208333,
 * 0.472222, 1 and 0.089286, 0.178571, 0.273810, 0.392857, 0.517857, 0.696429, 1). In general there
 * are as many planes as levels above 0, but five integers have enough sums for the eight of these,
 * as they often do. */
static void test_companding_activations(void **state) {
  (void)state;
  static const int32_t two[] = {0, 30, 68, 144};
  static const uint8_t identity[] = {0, 1, 2, 3};
  qnet_activation_planes p;
  qnet_planes_of_activation(two, identity, 4, &p);
  assert_int_equal(p.count, 3);
  assert_true(p.coef[0] == 30 && p.coef[1] == 68 && p.coef[2] == 46); /* both bits and their AND */
  assert_true(p.mask[0] == 0xa && p.mask[1] == 0xc && p.mask[2] == 0x8);
  assert_int_equal(activation_count((int32_t[]){0, 15, 30, 46, 66, 87, 117, 168}, 8), 5);
}

/* ---- weights --------------------------------------------------------------------------------- */

static void weight_planes(qnet_arena *arena, const int32_t *level, int n, int channels,
                          qnet_weight_planes *p) {
  assert_true(qnet_planes_of_weight(arena, level, n, channels, 4, p));
  assert_in_range(p->count, 1, QNET_PLANES_MAX);
  bool has_constant = false;
  for (int o = 0; o < channels; o++) {
    has_constant |= p->constant[o] != 0;
    for (int c = 0; c < n; c++) {
      int32_t sum = p->constant[o];
      for (int j = 0; j < p->count; j++)
        sum += p->coef[o * p->count + j] * plane_bit(p->mask[j], c);
      assert_int_equal(sum, level[o * n + c] * (1 << p->shift));
    }
  }
  assert_int_equal(has_constant, p->has_constant);
}

enum { ARBITRARY, ADDITIVE, SIGN_SYMMETRIC, WITH_ZERO, WEIGHT_KINDS };

static void random_weight_row(uint64_t *rng, int kind, int n, int32_t *row) {
  const int basis[4] = {between(rng, 0, 31), between(rng, 0, 31), between(rng, 0, 31),
                        between(rng, 0, 31)};
  for (int c = 0; c < n; c++) {
    row[c] = kind == ADDITIVE ? 0 : between(rng, -127, 127);
    for (int k = 0; 1 << k < n && kind == ADDITIVE; k++)
      row[c] += (c >> k & 1) ? basis[k] : -basis[k];
    if (kind == SIGN_SYMMETRIC && c >= n / 2) row[c] = -row[c - n / 2];
  }
  if (kind == WITH_ZERO) row[0] = 0;
}

static void test_random_weight_tables(void **state) {
  (void)state;
  uint64_t rng = SEED + 1;
  for (int i = 0; i < 2000; i++) {
    const int kind = between(&rng, 0, WEIGHT_KINDS - 1), channels = between(&rng, 1, 5);
    const int bits = between(&rng, 1, 4);
    const bool full = kind == ADDITIVE || kind == SIGN_SYMMETRIC;
    const int n = full ? 1 << bits : between(&rng, 2, 16);
    int32_t level[5 * 16];
    for (int o = 0; o < channels; o++)
      random_weight_row(&rng, kind, n, level + o * n);
    qnet_arena arena;
    qnet_arena_init(&arena, qnet_allocator_system());
    qnet_weight_planes p;
    weight_planes(&arena, level, n, channels, &p);
    if (kind == ADDITIVE) assert_true(p.count <= bits && p.shift == 0);
    if (kind == SIGN_SYMMETRIC) assert_true(p.count <= n / 2);
    if (kind == WITH_ZERO) assert_true(p.count <= n - 1);
    qnet_arena_clear(&arena);
  }
}

static void test_ternary_weights_need_no_constant(void **state) {
  (void)state;
  qnet_arena arena;
  qnet_arena_init(&arena, qnet_allocator_system());
  qnet_weight_planes p;
  weight_planes(&arena, (int32_t[]){-1, 0, 1, -3, 0, 2}, 3, 2, &p);
  assert_int_equal(p.count, 2);
  assert_false(p.has_constant);
  weight_planes(&arena, (int32_t[]){-1, 1}, 2, 1, &p);
  assert_int_equal(p.count, 1);
  assert_true(p.has_constant);
  assert_int_equal(p.shift, 0);
  qnet_arena_clear(&arena);
}

/* Three-bit sign and magnitude: the four planes that are odd in the sign. */
static void test_companding_weights_take_half_the_planes(void **state) {
  (void)state;
  qnet_arena arena;
  qnet_arena_init(&arena, qnet_allocator_system());
  qnet_weight_planes p;
  weight_planes(&arena, (int32_t[]){-3, -10, -25, -60, 3, 10, 25, 60}, 8, 1, &p);
  assert_int_equal(p.count, 4);
  qnet_arena_clear(&arena);
}

/* Three bits, magnitudes 0, 0.3, 0.5, 1 times 10, and a sign, whose two zeros are codes. */
static void test_sign_and_magnitude(void **state) {
  (void)state;
  const int32_t level[] = {0, -3, -5, -10, 0, 3, 5, 10, 0, -9, -15, -30, 0, 9, 15, 30};
  qnet_arena arena;
  qnet_arena_init(&arena, qnet_allocator_system());
  qnet_weight_planes p;
  weight_planes(&arena, level, 8, 2, &p);
  assert_int_equal(p.count, 4);
  qnet_arena_clear(&arena);
}

/* Zero is one code of seven, yet both signs of a magnitude: 0, 3, 5, 10 and 0, 1, 2, 4 take four
 * planes, an additive magnitude three. */
static void test_companding_weights_with_zero(void **state) {
  (void)state;
  qnet_arena arena;
  qnet_arena_init(&arena, qnet_allocator_system());
  qnet_weight_planes p;
  weight_planes(&arena, (int32_t[]){-10, -5, -3, 0, 3, 5, 10}, 7, 1, &p);
  assert_int_equal(p.count, 4);
  weight_planes(&arena, (int32_t[]){-4, -2, -1, 0, 1, 2, 4}, 7, 1, &p);
  assert_int_equal(p.count, 4);
  weight_planes(&arena, (int32_t[]){-8, -5, -3, 0, 3, 5, 8}, 7, 1, &p);
  assert_int_equal(p.count, 3);
  weight_planes(&arena, (int32_t[]){-8, -5, -3, 0, 3, 5, 8, -80, -50, -30, 0, 30, 50, 80}, 7, 2,
                &p);
  assert_int_equal(p.count, 3);
  qnet_arena_clear(&arena);
}

/* -1.5, -0.4, 0.4, 1.5: two planes of 0.55 and 0.95, twice that as 0 and 1. */
static void test_additive_weights(void **state) {
  (void)state;
  qnet_arena arena;
  qnet_arena_init(&arena, qnet_allocator_system());
  qnet_weight_planes p;
  weight_planes(&arena, (int32_t[]){-4, -15, 4, 15}, 4, 1, &p);
  assert_int_equal(p.count, 2);
  assert_int_equal(p.shift, 0);
  assert_true((p.coef[0] == 11 && p.coef[1] == 19) || (p.coef[0] == 19 && p.coef[1] == 11));
  assert_int_equal(p.constant[0], -15);
  qnet_arena_clear(&arena);
}

static void check_coefficients(const qnet_weight_planes *p, const int32_t *coef, int count,
                               int32_t constant) {
  assert_int_equal(p->count, count);
  assert_int_equal(p->shift, 0);
  assert_int_equal(p->constant[0], constant);
  for (int i = 0; i < count; i++) {
    int found = 0;
    for (int k = 0; k < count; k++)
      found += p->coef[k] == coef[i];
    assert_int_equal(found, 1);
  }
}

/* Two's complement has the coefficients 1, 2, -4 and no constant; DoReFa's -7, -5 .. 7 the basis
 * 1, 2, 4, twice that as 0 and 1. */
static void test_uniform_weights(void **state) {
  (void)state;
  qnet_arena arena;
  qnet_arena_init(&arena, qnet_allocator_system());
  qnet_weight_planes p;
  weight_planes(&arena, (int32_t[]){0, 1, 2, 3, -4, -3, -2, -1}, 8, 1, &p);
  check_coefficients(&p, (int32_t[]){1, 2, -4}, 3, 0);
  weight_planes(&arena, (int32_t[]){-7, -5, -3, -1, 1, 3, 5, 7}, 8, 1, &p);
  check_coefficients(&p, (int32_t[]){2, 4, 8}, 3, -7);
  qnet_arena_clear(&arena);
}

/* What a kernel computes of codes: counts of common bits times both coefficients, and the constant
 * times the sum over the activations' planes. */
static int64_t plane_product(const qnet_weight_planes *w, const qnet_activation_planes *a,
                             const int *code, const int *rank, int n) {
  int64_t sum = 0;
  for (int j = 0; j < a->count; j++) {
    int64_t all = 0;
    for (int i = 0; i < n; i++)
      all += plane_bit(a->mask[j], rank[i]);
    sum += (int64_t)w->constant[0] * a->coef[j] * all;
    for (int k = 0; k < w->count; k++) {
      int64_t common = 0;
      for (int i = 0; i < n; i++)
        common += plane_bit(w->mask[k], code[i]) & plane_bit(a->mask[j], rank[i]);
      sum += (int64_t)w->coef[k] * a->coef[j] * common;
    }
  }
  return sum;
}

/* Weights -1.5, -0.4, 0.4, 1.5 (times 10) and the companding table of three bits (times 168). */
static void test_cross_product(void **state) {
  (void)state;
  enum { N = 200 };
  static const int32_t weight[] = {-4, -15, 4, 15};
  static const int32_t activation[] = {0, 15, 30, 46, 66, 87, 117, 168};
  static const uint8_t identity[] = {0, 1, 2, 3, 4, 5, 6, 7};
  uint64_t rng = SEED;
  int code[N], rank[N];
  int64_t expected = 0;
  for (int i = 0; i < N; i++) {
    code[i] = between(&rng, 0, 3);
    rank[i] = between(&rng, 0, 7);
    expected += (int64_t)weight[code[i]] * activation[rank[i]];
  }
  qnet_arena arena;
  qnet_arena_init(&arena, qnet_allocator_system());
  qnet_weight_planes w;
  qnet_activation_planes a;
  weight_planes(&arena, weight, 4, 1, &w);
  qnet_planes_of_activation(activation, identity, 8, &a);
  assert_true(plane_product(&w, &a, code, rank, N) == expected);
  qnet_arena_clear(&arena);
}

/* The four planes of two filters need a shift; without one, all seven. One table finds four
 * generators without a shift. */
static void test_shift_can_be_bounded(void **state) {
  (void)state;
  const int32_t level[] = {-3, -10, -26, -60, 3, 10, 26, 60, -7, -22, -51, -127, 7, 22, 51, 127};
  qnet_arena arena;
  qnet_arena_init(&arena, qnet_allocator_system());
  qnet_weight_planes p;
  weight_planes(&arena, level, 8, 2, &p);
  assert_int_equal(p.count, 4);
  assert_true(p.shift > 0);
  assert_true(qnet_planes_of_weight(&arena, level, 8, 2, 0, &p));
  assert_int_equal(p.shift, 0);
  assert_true(p.count > 4);
  weight_planes(&arena, level, 8, 1, &p);
  assert_int_equal(p.count, 4);
  assert_int_equal(p.shift, 0);
  qnet_arena_clear(&arena);
}

static void test_out_of_memory(void **state) {
  (void)state;
  const int32_t level[4] = {1, 2, 5, 9};
  bool done = false;
  for (uint64_t n = 1; !done; n++) {
    qnet_failing_allocator failing;
    qnet_failing_allocator_init(&failing, n, 1);
    qnet_arena arena;
    qnet_arena_init(&arena, &failing.base);
    qnet_weight_planes p;
    done = qnet_planes_of_weight(&arena, level, 4, 1, 4, &p);
    assert_true(done || failing.failed);
    qnet_arena_clear(&arena);
    assert_int_equal(failing.live_bytes, 0);
  }
}

int main(void) {
  printf("seed %llu\n", (unsigned long long)SEED);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_activation_tables),
      cmocka_unit_test(test_activation_plane_counts),
      cmocka_unit_test(test_sums_of_tables),
      cmocka_unit_test(test_companding_activations),
      cmocka_unit_test(test_random_weight_tables),
      cmocka_unit_test(test_ternary_weights_need_no_constant),
      cmocka_unit_test(test_companding_weights_take_half_the_planes),
      cmocka_unit_test(test_sign_and_magnitude),
      cmocka_unit_test(test_companding_weights_with_zero),
      cmocka_unit_test(test_additive_weights),
      cmocka_unit_test(test_uniform_weights),
      cmocka_unit_test(test_cross_product),
      cmocka_unit_test(test_shift_can_be_bounded),
      cmocka_unit_test(test_out_of_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
