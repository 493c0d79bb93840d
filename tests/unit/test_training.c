/* Small networks learn: f32 and two bits by LQ-Nets, in the real phase and on the integer grid; the
 * frozen network predicts what the training forward computes. */
#include "codegen/plan.h"
#include "passes/quantizer_state.h"
#include "tests/unit/training_test.h"

enum { BATCH = 32, STEPS = 100, TESTED = 320, SEED = 3 };

typedef struct run {
  qnet_diag *d;
  qnet_module *eval, *step; /* share their blobs */
  qnet_plan *plan;
  qnet_quantizer_sites sites;
} run;

static void start(run *r, const char *quantizers) {
  r->d = qnet_diag_create(qnet_allocator_system());
  r->eval = test_prepare(test_network, quantizers, SEED, r->d);
  r->step = qnet_module_clone(r->eval);
  test_passes(r->step, "batch{n=32},autodiff{weight_decay=0.0001}", r->d);
  assert_int_equal(qnet_quantizer_sites_collect(r->step, r->step->allocator, &r->sites, r->d),
                   QNET_OK);
  assert_int_equal(qnet_quantizer_sites_refresh(&r->sites, false, r->d), QNET_OK);
  assert_int_equal(qnet_plan_create(r->step, "step", QNET_PLAN_FAST, &r->plan, r->d), QNET_OK);
}

static void finish(run *r) {
  qnet_plan_destroy(r->plan);
  qnet_quantizer_sites_free(&r->sites);
  qnet_module_destroy(r->step);
  qnet_module_destroy(r->eval);
  qnet_diag_destroy(r->d);
}

static void train(run *r, int from, int steps, bool frozen, uint64_t *seed) {
  if (frozen) assert_int_equal(qnet_quantizer_sites_refresh(&r->sites, true, r->d), QNET_OK);
  for (int i = from; i < from + steps; i++) {
    test_batch(seed, BATCH, qnet_plan_argument(r->plan, 0)->data,
               qnet_plan_argument(r->plan, 1)->data);
    *(float *)qnet_plan_argument(r->plan, 2)->data = i < STEPS / 2 ? 0.05f : 0.01f;
    assert_int_equal(qnet_plan_run(r->plan, r->d), QNET_OK);
    assert_true(isfinite(*(float *)qnet_plan_result(r->plan, 0)->data));
    r->sites.lr = (double)*(float *)qnet_plan_argument(r->plan, 2)->data;
    assert_int_equal(qnet_quantizer_sites_update(&r->sites, frozen, r->d), QNET_OK);
  }
}

/* Correct predictions of a plan on fresh images. */
static int evaluate(const qnet_module *m, qnet_diag *d) {
  qnet_plan *p = NULL;
  assert_int_equal(qnet_plan_create(m, "eval", QNET_PLAN_EXACT, &p, d), QNET_OK);
  uint64_t seed = SEED + 1000;
  int correct = 0;
  for (int done = 0; done < TESTED; done += BATCH) {
    int32_t label[BATCH];
    test_batch(&seed, BATCH, qnet_plan_argument(p, 0)->data, label);
    assert_int_equal(qnet_plan_run(p, d), QNET_OK);
    const float *logit = qnet_plan_result(p, 0)->data;
    for (int n = 0; n < BATCH; n++, logit += TEST_CLASSES) {
      int best = 0;
      for (int k = 1; k < TEST_CLASSES; k++)
        if (logit[k] > logit[best]) best = k;
      correct += best == label[n];
    }
  }
  qnet_plan_destroy(p);
  return correct;
}

static int evaluate_frozen(run *r) {
  qnet_module *m = qnet_module_clone(r->eval);
  assert_int_equal(qnet_quantizer_freeze_all(m, m->allocator, r->d), QNET_OK);
  test_passes(m, "batch{n=32},freeze", r->d);
  const int correct = evaluate(m, r->d);
  qnet_module_destroy(m);
  return correct;
}

static void test_learns_f32(void **state) {
  (void)state;
  run r;
  uint64_t seed = SEED;
  start(&r, "");
  train(&r, 0, STEPS, false, &seed);
  test_passes(r.eval, "batch{n=32}", r.d);
  const int correct = evaluate(r.eval, r.d);
  print_message("f32: %d of %d\n", correct, TESTED);
  assert_true(correct * 100 > 95 * TESTED);
  finish(&r);
}

static void test_learns_two_bits(void **state) {
  (void)state;
  static const char *const policies[] = {
      "insert-quantizers{weights=2,activations=2,first=0,last=0}",
      "insert-quantizers{weights=2,activations=2,grid=15,first=8,last=8}",
  };
  for (int i = 0; i < COUNT(policies); i++) {
    run r;
    uint64_t seed = SEED;
    start(&r, policies[i]);
    train(&r, 0, 3 * STEPS / 4, false, &seed);
    train(&r, 3 * STEPS / 4, STEPS / 4, true, &seed);
    const int correct = evaluate_frozen(&r);
    print_message("%s: %d of %d\n", policies[i], correct, TESTED);
    assert_true(correct * 100 > 95 * TESTED);
    finish(&r);
  }
}

/* The same seed gives the same weights. */
static void test_repeatable(void **state) {
  (void)state;
  run r[2];
  for (int i = 0; i < 2; i++) {
    uint64_t seed = SEED;
    start(&r[i], "insert-quantizers{weights=2,activations=2}");
    train(&r[i], 0, 10, false, &seed);
  }
  for (const qnet_symbol *s = r[0].step->first_symbol; s != NULL; s = s->next)
    if (s->kind == QNET_SYMBOL_STATE)
      assert_true(qnet_blob_equal(s->blob, qnet_symbol_find(r[1].step, s->name)->blob));
  for (int i = 0; i < 2; i++)
    finish(&r[i]);
}

/* A site that diverged is reported with its name. */
static void test_not_finite(void **state) {
  (void)state;
  run r;
  start(&r, "insert-quantizers{weights=2,activations=2}");
  ((float *)qnet_symbol_find(r.step, "conv2.input_quantizer.param")->blob->data)[0] = NAN;
  assert_int_equal(qnet_quantizer_sites_refresh(&r.sites, false, r.d), QNET_ERROR);
  assert_int_equal(qnet_quantizer_sites_refresh(&r.sites, true, r.d), QNET_ERROR);
  finish(&r);
}

/* A loss that is not finite leaves the weights alone, and the layer that brought it is named. */
static void test_lost_loss(void **state) {
  (void)state;
  run r;
  start(&r, "");
  uint64_t seed = SEED;
  test_batch(&seed, BATCH, qnet_plan_argument(r.plan, 0)->data,
             qnet_plan_argument(r.plan, 1)->data);
  *(float *)qnet_plan_argument(r.plan, 2)->data = 0.1f;
  float *bias = qnet_symbol_find(r.step, "dense2.bias")->blob->data;
  float *weight = qnet_symbol_find(r.step, "dense1.weight")->blob->data;
  bias[1] = 3e38f;
  for (size_t i = 0; i < 480; i++)
    weight[i] = 3e38f;
  qnet_blob *before = qnet_symbol_find(r.step, "conv1.weight")->blob;
  float kept[72];
  memcpy(kept, before->data, sizeof kept);
  assert_int_equal(qnet_plan_run(r.plan, r.d), QNET_OK);
  const float lost = *(float *)qnet_plan_result(r.plan, 0)->data;
  assert_true(isinf(lost) || isnan(lost));
  assert_memory_equal(before->data, kept, sizeof kept);
  qnet_error_in(r.d, "train", "lost");
  assert_int_equal(qnet_plan_explain_loss(r.plan, r.d), QNET_OK);
  assert_memory_equal(before->data, kept, sizeof kept);
  char text[512] = "";
  FILE *out = fmemopen(text, sizeof text, "w");
  qnet_diag_print(r.d, out, false);
  fclose(out);
  assert_non_null(strstr(text, "came from layer 'dense1' (nn.dense)"));
  finish(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_learns_f32), cmocka_unit_test(test_learns_two_bits),
      cmocka_unit_test(test_repeatable), cmocka_unit_test(test_not_finite),
      cmocka_unit_test(test_lost_loss),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
