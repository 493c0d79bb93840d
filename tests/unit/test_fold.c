/* Integer thresholds decide as the f32 expression does, for every accumulator of a range. */
#include "passes/chain.h"
#include "tests/unit/random_net.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static const uint64_t SEED = 20240608;
enum { THRESHOLDS = 15, MAX_STEPS = 4 };

static double unit(uint64_t *rng) {
  return (double)(qnet_random_next(rng) >> 11) * 0x1p-53;
}

static float signed_power(uint64_t *rng, int lo, int hi) {
  const double exponent = lo + (hi - lo) * unit(rng);
  return (float)(exp2(exponent) * (qnet_random_next(rng) & 1 ? 1 : -1));
}

/* Ordinary slopes mostly; also zero, tiny (subnormal) and huge ones. */
static float random_slope(uint64_t *rng) {
  switch (qnet_random_next(rng) % 8) {
  case 0: return (qnet_random_next(rng) & 1) ? 0.0f : -0.0f;
  case 1: return signed_power(rng, -149, -120);
  case 2: return signed_power(rng, 90, 127);
  default: return signed_power(rng, -14, -4);
  }
}

static float random_offset(uint64_t *rng) {
  switch (qnet_random_next(rng) % 8) {
  case 0: return 0.0f;
  case 1: return signed_power(rng, -149, -100);
  case 2: return signed_power(rng, 40, 127);
  default: return signed_power(rng, -4, 3);
  }
}

typedef struct random_chain {
  qnet_chain chain;
  qnet_chain_step step[MAX_STEPS];
  float a[MAX_STEPS], b[MAX_STEPS], threshold[THRESHOLDS];
} random_chain;

static void make_chain(uint64_t *rng, random_chain *r) {
  const int count = 1 + (int)(qnet_random_next(rng) % MAX_STEPS);
  for (int i = 0; i < count; i++) {
    r->a[i] = random_slope(rng);
    r->b[i] = random_offset(rng);
    const bool affine = i == 0 || qnet_random_next(rng) % 4 == 0;
    r->step[i] = (qnet_chain_step){
        .kind = affine ? QNET_CHAIN_AFFINE : QNET_CHAIN_RELU, .a = &r->a[i], .b = &r->b[i]};
  }
  r->chain = (qnet_chain){.step = r->step, .count = count, .threshold = r->threshold};
  r->chain.thresholds = 1 + (int)(qnet_random_next(rng) % THRESHOLDS);
}

/* Thresholds that are values of the chain itself make ties. */
static void make_thresholds(uint64_t *rng, random_chain *r, int32_t lo, int32_t hi) {
  for (int k = 0; k < r->chain.thresholds; k++) {
    const int32_t acc = (int32_t)(lo + unit(rng) * ((double)hi - lo));
    float t = qnet_random_next(rng) & 1 ? qnet_chain_value(&r->chain, 0, acc) : random_offset(rng);
    if (!isfinite(t)) t = 1.0f;
    int at = k;
    for (; at > 0 && r->threshold[at - 1] > t; at--)
      r->threshold[at] = r->threshold[at - 1];
    r->threshold[at] = t;
  }
}

static int f32_rank(const qnet_chain *c, int32_t acc) {
  const float x = qnet_chain_value(c, 0, acc);
  int rank = 0;
  for (int k = 0; k < c->thresholds; k++)
    rank += x > c->threshold[k];
  return rank;
}

static int integer_rank(const qnet_chain *c, const int32_t *t, int32_t flip, int32_t acc) {
  int rank = 0;
  for (int k = 0; k < c->thresholds; k++)
    rank += (acc ^ flip) >= t[k];
  return rank;
}

static void test_every_accumulator(void **state) {
  (void)state;
  uint64_t rng = SEED;
  int folded = 0;
  for (int i = 0; i < 3000; i++) {
    random_chain r;
    make_chain(&rng, &r);
    const int32_t lo = -(int32_t)(qnet_random_next(&rng) % 600);
    const int32_t hi = lo + (int32_t)(qnet_random_next(&rng) % 1200);
    make_thresholds(&rng, &r, lo, hi);
    int32_t t[THRESHOLDS];
    if (!qnet_chain_thresholds(&r.chain, 0, lo, hi, t)) continue;
    folded++;
    const int32_t flip = qnet_chain_flip(&r.chain, r.chain.count, 0);
    for (int32_t acc = lo; acc <= hi; acc++)
      assert_int_equal(f32_rank(&r.chain, acc), integer_rank(&r.chain, t, flip, acc));
    for (int k = 1; k < r.chain.thresholds; k++)
      assert_true(t[k - 1] <= t[k]);
  }
  assert_true(folded > 2000);
}

/* Around each border, and at both ends, of the widest range that an accumulator may have. */
static void test_borders_of_wide_ranges(void **state) {
  (void)state;
  uint64_t rng = SEED + 1;
  const int32_t lo = -INT32_MAX + 1, hi = INT32_MAX - 1;
  for (int i = 0; i < 3000; i++) {
    random_chain r;
    make_chain(&rng, &r);
    make_thresholds(&rng, &r, lo, hi);
    int32_t t[THRESHOLDS];
    if (!qnet_chain_thresholds(&r.chain, 0, lo, hi, t)) continue;
    const int32_t flip = qnet_chain_flip(&r.chain, r.chain.count, 0);
    for (int k = 0; k < r.chain.thresholds; k++)
      for (int64_t u = (int64_t)t[k] - 3; u <= (int64_t)t[k] + 3; u++) {
        const int64_t acc = flip ? ~u : u;
        if (acc < lo || acc > hi) continue;
        assert_int_equal(f32_rank(&r.chain, (int32_t)acc),
                         integer_rank(&r.chain, t, flip, (int32_t)acc));
      }
    assert_int_equal(f32_rank(&r.chain, lo), integer_rank(&r.chain, t, flip, lo));
    assert_int_equal(f32_rank(&r.chain, hi), integer_rank(&r.chain, t, flip, hi));
  }
}

static void test_sentinels_and_nan(void **state) {
  (void)state;
  float a = 0.0f, b = 2.0f, threshold[] = {1.0f, 3.0f};
  qnet_chain_step step[2] = {{.kind = QNET_CHAIN_AFFINE, .a = &a, .b = &b}};
  qnet_chain c = {.step = step, .count = 1, .threshold = threshold, .thresholds = 2};
  int32_t t[2];
  assert_true(qnet_chain_thresholds(&c, 0, -10, 10, t));
  assert_int_equal(t[0], INT32_MIN);
  assert_int_equal(t[1], INT32_MAX);

  a = -1.0f;
  assert_true(qnet_chain_thresholds(&c, 0, -10, 10, t)); /* 2 - acc > 1: acc <= 0 */
  assert_int_equal(qnet_chain_flip(&c, 1, 0), -1);
  assert_int_equal(t[0], ~0);
  assert_int_equal(t[1], ~-2);

  float huge = 3e38f, zero = 0.0f; /* infinite, then times 0 */
  step[0].a = &huge;
  step[1] = (qnet_chain_step){.kind = QNET_CHAIN_AFFINE, .a = &zero, .b = &b};
  c.count = 2;
  assert_false(qnet_chain_thresholds(&c, 0, -10, 10, t));
}

int main(void) {
  printf("seed %llu\n", (unsigned long long)SEED);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_accumulator),
      cmocka_unit_test(test_borders_of_wide_ranges),
      cmocka_unit_test(test_sentinels_and_nan),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
