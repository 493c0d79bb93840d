/* Every quantizer learns: a tiny network trained with it, in the real phase and on the integer
 * grid, tells its classes apart, and all engines give the same logits for it, bit by bit. */
#include "codegen/plan.h"
#include "driver/predictor.h"
#include "ir/ops.h"
#include "passes/quantizer_state.h"
#include "tests/unit/training_test.h"

enum { BATCH = 32, STEPS = 100, FROZEN = 25, TESTED = 160, SEED = 3, IMAGES = 2 };

typedef struct run {
  qnet_diag *d;
  const qnet_target_choice *target;
  qnet_module *eval, *step; /* share their blobs */
  qnet_plan *plan;
  qnet_quantizer_sites sites;
} run;

static void check(qnet_status status, qnet_diag *d) {
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  assert_int_equal(status, QNET_OK);
}

/* For methods that take the sign of what is negative, too. */
static void remove_relu(qnet_module *m) {
  for (qnet_op *op = qnet_symbol_find(m, "eval")->body->first; op != NULL; op = op->next)
    if (op->opcode == QNET_OP_RELU) qnet_value_replace(m, &op->result[0], op->operand[0]);
  qnet_module_sweep(m);
}

static void start(run *r, void **state, const char *quantizers) {
  r->target = *state;
  r->d = qnet_diag_create(qnet_allocator_system());
  r->eval = test_parse(test_network, r->d);
  if (strstr(quantizers, "quantizer=sign,") != NULL) remove_relu(r->eval);
  test_randomise(r->eval, SEED);
  test_passes(r->eval, quantizers, r->d);
  r->step = qnet_module_clone(r->eval);
  test_passes(r->step, "batch{n=32},autodiff{weight_decay=0.0001}", r->d);
  check(qnet_quantizer_sites_collect(r->step, r->step->allocator, &r->sites, r->d), r->d);
  check(qnet_quantizer_sites_refresh(&r->sites, false, r->d), r->d);
  check(qnet_plan_create(r->step, "step", QNET_PLAN_FAST, &r->plan, r->d), r->d);
}

static void finish(run *r) {
  qnet_plan_destroy(r->plan);
  qnet_quantizer_sites_free(&r->sites);
  qnet_module_destroy(r->step);
  qnet_module_destroy(r->eval);
  qnet_diag_destroy(r->d);
}

static void train(run *r) {
  uint64_t seed = SEED;
  for (int i = 0; i < STEPS; i++) {
    const bool frozen = i >= STEPS - FROZEN;
    const float lr = i < STEPS / 2 ? 0.05f : i < STEPS - FROZEN / 2 ? 0.01f : 0.002f;
    if (i == STEPS - FROZEN) check(qnet_quantizer_sites_refresh(&r->sites, true, r->d), r->d);
    test_batch(&seed, BATCH, qnet_plan_argument(r->plan, 0)->data,
               qnet_plan_argument(r->plan, 1)->data);
    *(float *)qnet_plan_argument(r->plan, 2)->data = lr;
    check(qnet_plan_run(r->plan, r->d), r->d);
    assert_true(isfinite(*(float *)qnet_plan_result(r->plan, 0)->data));
    r->sites.lr = (double)lr;
    check(qnet_quantizer_sites_update(&r->sites, frozen, r->d), r->d);
  }
}

static void logits_of(const run *r, qnet_engine_kind kind, const uint8_t *images, int64_t count,
                      float *logits) {
  qnet_predictor *p = NULL;
  check(qnet_predictor_create(r->eval->allocator, r->eval, kind, r->target, &p, r->d), r->d);
  assert_int_equal(qnet_predictor_classes(p), TEST_CLASSES);
  check(qnet_predictor_logits(p, images, count, logits, r->d), r->d);
  qnet_predictor_destroy(p);
}

static int evaluate(const run *r) {
  static uint8_t images[TESTED * TEST_PIXELS];
  static float logits[TESTED * TEST_CLASSES];
  int32_t label[TESTED];
  uint64_t seed = SEED + 1000;
  test_batch(&seed, TESTED, images, label);
  logits_of(r, QNET_ENGINE_NN, images, TESTED, logits);
  int correct = 0;
  for (int n = 0; n < TESTED; n++) {
    const float *l = logits + n * TEST_CLASSES;
    int best = 0;
    for (int k = 1; k < TEST_CLASSES; k++)
      if (l[k] > l[best]) best = k;
    correct += best == label[n];
  }
  return correct;
}

static void compare_engines(const run *r) {
  static const qnet_engine_kind kinds[] = {QNET_ENGINE_QUANT, QNET_ENGINE_BITS, QNET_ENGINE_LOOP,
                                           QNET_ENGINE_JIT};
  uint8_t images[IMAGES * TEST_PIXELS];
  int32_t label[IMAGES];
  float expected[IMAGES * TEST_CLASSES], logits[IMAGES * TEST_CLASSES];
  uint64_t seed = SEED + 2000;
  test_batch(&seed, IMAGES, images, label);
  logits_of(r, QNET_ENGINE_NN, images, IMAGES, expected);
  for (int i = 0; i < COUNT(kinds); i++) {
    logits_of(r, kinds[i], images, IMAGES, logits);
    assert_memory_equal(logits, expected, sizeof logits);
  }
}

/* The rank of x among ascending thresholds; a tie goes to the lower level. */
static int rank_of(float x, const float *threshold, int n) {
  int rank = 0;
  while (rank < n - 1 && x > threshold[rank])
    rank++;
  return rank;
}

/* One channel of a site: what the step computes with against what is deployed. */
static void compare_channel(const qnet_site_state *s, const qnet_table *t, int64_t c,
                            const uint8_t *codes) {
  const float *level = (const float *)s->level->blob->data + c * t->codes;
  const float *threshold = (const float *)s->threshold->blob->data + c * (t->codes - 1);
  const uint8_t *perm = (const uint8_t *)s->perm->blob->data + c * t->codes;
  for (int r = 0; r < t->codes; r++)
    assert_true(level[r] == t->scale[c] * (float)t->level[c * t->codes + perm[r]]);
  if (t->threshold != NULL) {
    assert_memory_equal(threshold, t->threshold, (size_t)(t->codes - 1) * sizeof *threshold);
    assert_memory_equal(perm, t->perm, (size_t)t->codes);
    return;
  }
  const int64_t n = qnet_type_elements(s->weight->type) / t->channels;
  const float *w = s->weight->blob->data;
  for (int64_t i = c * n; i < (c + 1) * n; i++)
    assert_int_equal(perm[rank_of(w[i], threshold, t->codes)], codes[i]);
}

/* What the last steps computed with is the frozen table, of every site. */
static void compare_tables(const run *r) {
  for (int i = 0; i < r->sites.count; i++) {
    const qnet_site_state *s = &r->sites.site[i];
    char name[128];
    const qnet_table *t = qnet_symbol_find(r->eval, s->site.name)->table;
    snprintf(name, sizeof name, "%s.codes", s->site.name);
    const qnet_symbol *codes = s->weight != NULL ? qnet_symbol_find(r->eval, name) : NULL;
    for (int64_t c = 0; c < t->channels; c++)
      compare_channel(s, t, c, codes != NULL ? codes->blob->data : NULL);
  }
  assert_true(r->sites.count > 0);
}

static void learn(void **state, const char *weights, const char *activations, int weight_bits,
                  int activation_bits, const char *edges) {
  char pipeline[256];
  snprintf(pipeline, sizeof pipeline,
           "insert-quantizers{quantizer=%s,activation_quantizer=%s,weights=%d,activations=%d,%s}",
           weights, activations, weight_bits, activation_bits, edges);
  run r;
  start(&r, state, pipeline);
  train(&r);
  check(qnet_quantizer_freeze_all(r.eval, r.eval->allocator, r.d), r.d);
  compare_tables(&r);
  const int correct = evaluate(&r);
  print_message("%s %d / %s %d, %s: %d of %d\n", weights, weight_bits, activations, activation_bits,
                edges, correct, TESTED);
  assert_true(correct * 100 > 95 * TESTED);
  compare_engines(&r);
  finish(&r);
}

/* At 2/2 and 3/3 where the method has them, else at its smallest; the edges f32 and 8 bit. */
static void test_methods(void **state) {
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  for (size_t i = 0; i < count; i++) {
    const qnet_bit_range w = table[i]->bits[QNET_ROLE_WEIGHT];
    const qnet_bit_range a = table[i]->bits[QNET_ROLE_ACTIVATION];
    const char *const weights = w.max > 0 ? table[i]->name : "lsq";
    const char *const activations = a.max > 0 ? table[i]->name : "lsq";
    for (int bits = 2; bits <= 3; bits++) {
      const int wb = w.max == 0 ? bits : bits < w.min ? w.min : bits > w.max ? w.max : bits;
      const int ab = a.max == 0 ? bits : bits < a.min ? a.min : bits > a.max ? a.max : bits;
      learn(state, weights, activations, wb, ab, bits == 2 ? "first=0,last=0" : "first=8,last=8");
      if (wb != bits && ab != bits) break;
    }
  }
}

/* The planes of every layer of LCQ at 3 / 3 bits, held to three. */
static void test_planes(void **state) {
  learn(state, "lcq", "lcq", 3, 3, "planes=3,first=0,last=0");
}

/* The first layer too, whose input is not learned: its parameters still are. */
static void test_all_layers(void **state) {
  run r;
  start(&r, state, "insert-quantizers{quantizer=lsq,weights=8,activations=4,first=-1,last=-1}");
  const float *param = qnet_symbol_find(r.eval, "conv1.input_quantizer.param")->blob->data;
  const float before = param[0];
  train(&r);
  assert_true(param[0] != before);
  finish(&r);
}

/* The host, found out once for all runs. */
static int choose_target(void **state) {
  static qnet_target_choice target;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  const qnet_status status = qnet_target_choose("native", NULL, NULL, &target, d);
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  *state = &target;
  return status == QNET_OK ? 0 : -1;
}

static int free_target(void **state) {
  qnet_target_choice_free(*state);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_methods),
      cmocka_unit_test(test_planes),
      cmocka_unit_test(test_all_layers),
  };
  return cmocka_run_group_tests(tests, choose_target, free_target);
}
