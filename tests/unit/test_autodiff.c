/* The gradients of @step against finite differences of its own loss, run by the interpreter; and
 * what autodiff, batch and fold-batch-norm make of a module. */
#include "passes/quantizer_state.h"
#include "tests/unit/training_test.h"

enum { BATCH = 4, SEED = 5, MAX_ELEMENTS = 1024 };

typedef struct bench {
  qnet_diag *d;
  qnet_module *m;
  qnet_interp *step;
  qnet_blob *args[3];
} bench;

/* Learning rate and momentum are 0: a step leaves the weights, and its velocities are the
 * gradients.
 */
static void setup(bench *b, const char *pipeline) {
  b->d = qnet_diag_create(qnet_allocator_system());
  b->m = test_prepare(test_network, pipeline, SEED, b->d);
  assert_int_equal(qnet_interp_create(b->m, "step", &b->step, b->d), QNET_OK);
  uint8_t image[BATCH * TEST_PIXELS];
  int32_t label[BATCH];
  const float lr = 0;
  uint64_t seed = SEED;
  test_batch(&seed, BATCH, image, label);
  b->args[0] = test_blob(QNET_U8, BATCH * TEST_PIXELS, image);
  b->args[1] = test_blob(QNET_I32, BATCH, label);
  b->args[2] = test_blob(QNET_F32, 1, &lr);
}

static void teardown(bench *b) {
  test_release(b->args, 3);
  qnet_interp_destroy(b->step);
  qnet_module_destroy(b->m);
  qnet_diag_destroy(b->d);
}

static float *content(const bench *b, const char *name) {
  const qnet_symbol *s = qnet_symbol_find(b->m, name);
  assert_non_null(s);
  return s->blob->data;
}

static double loss_of(bench *b) {
  qnet_blob *results[2] = {NULL};
  const qnet_status status = qnet_interp_run(b->step, b->args, 3, results, 2, b->d);
  if (status != QNET_OK) qnet_diag_print(b->d, stderr, false);
  assert_int_equal(status, QNET_OK);
  const double loss = (double)*(float *)results[0]->data;
  test_release(results, 2);
  return loss;
}

/* Copies the gradient that the last step found; returns its length. */
static int64_t gradient_of(const bench *b, const char *name, float *out) {
  char velocity[64];
  snprintf(velocity, sizeof velocity, "%s.momentum", name);
  const int64_t n = qnet_type_elements(qnet_symbol_find(b->m, name)->type);
  assert_true(n <= MAX_ELEMENTS);
  memcpy(out, content(b, velocity), (size_t)n * sizeof *out);
  return n;
}

/* The loss along the gradient, plus noise, of one parameter: its slope must be the gradient's. */
static void check_parameter(bench *b, const char *name) {
  float gradient[MAX_ELEMENTS], direction[MAX_ELEMENTS], old[MAX_ELEMENTS];
  (void)loss_of(b);
  const int64_t n = gradient_of(b, name, gradient);
  memcpy(old, content(b, name), (size_t)n * sizeof *old);
  uint64_t seed = SEED + (uint64_t)n;
  double expected = 0, norm = 0;
  for (int64_t i = 0; i < n; i++) {
    direction[i] = gradient[i] + 0.05f * test_float(&seed);
    norm += (double)direction[i] * (double)direction[i];
    expected += (double)gradient[i] * (double)direction[i];
  }
  /* Small enough that few relus and maxima change sides, large enough for an f32 loss. */
  const double h = 4e-4 / sqrt(norm);
  double loss[2];
  for (int side = 0; side < 2; side++) {
    for (int64_t i = 0; i < n; i++)
      content(b, name)[i] = old[i] + (float)((side ? h : -h) * (double)direction[i]);
    loss[side] = loss_of(b);
  }
  memcpy(content(b, name), old, (size_t)n * sizeof *old);
  const double slope = (loss[1] - loss[0]) / (2 * h);
  const bool good = fabs(slope - expected) <= 0.03 * fabs(expected);
  if (!good) print_error("%s: slope %g, gradient %g\n", name, slope, expected);
  assert_true(good);
}

static void check_parameters(const char *pipeline, const char *const *name, int names) {
  bench b;
  setup(&b, pipeline);
  for (int i = 0; i < names; i++)
    check_parameter(&b, name[i]);
  teardown(&b);
}

static void test_gradients(void **state) {
  (void)state;
  static const char *const all[] = {"conv1.weight",  "bn1.weight",  "bn1.bias",      "conv2.weight",
                                    "bn2.weight",    "bn2.bias",    "conv3.weight",  "conv3.bias",
                                    "dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias"};
  check_parameters("batch{n=4},autodiff{momentum=0,weight_decay=0}", all, COUNT(all));
  check_parameters("batch{n=4},autodiff{momentum=0,weight_decay=0,smoothing=0.2}", all, 3);
}

/* What a quantizer does not touch still has exact gradients: parameters behind the last one. */
static void test_gradients_behind_quantizers(void **state) {
  (void)state;
  static const char *const names[] = {"dense2.weight", "dense2.bias", "dense1.bias"};
  check_parameters("batch{n=4},insert-quantizers{weights=2,activations=2},"
                   "autodiff{momentum=0,weight_decay=0}",
                   names, COUNT(names));
}

/* Eight bits are nearly the identity: straight through is nearly the gradient. */
static void test_straight_through(void **state) {
  (void)state;
  static const char *const names[] = {"conv2.weight", "conv3.weight", "dense1.weight"};
  bench f32, eight;
  setup(&f32, "batch{n=4},autodiff{momentum=0,weight_decay=0}");
  setup(&eight, "batch{n=4},insert-quantizers{quantizer=uniform,weights=8,activations=8,first=-1,"
                "last=-1},autodiff{momentum=0,weight_decay=0}");
  qnet_quantizer_sites sites;
  assert_int_equal(qnet_quantizer_sites_collect(eight.m, eight.m->allocator, &sites, eight.d),
                   QNET_OK);
  assert_int_equal(qnet_quantizer_sites_refresh(&sites, false, eight.d), QNET_OK);
  for (int i = 0; i < 30; i++) { /* the scales of activations find their range */
    (void)loss_of(&eight);
    assert_int_equal(qnet_quantizer_sites_update(&sites, false, eight.d), QNET_OK);
  }
  (void)loss_of(&f32);
  for (int i = 0; i < COUNT(names); i++) {
    float x[MAX_ELEMENTS], y[MAX_ELEMENTS];
    const int64_t n = gradient_of(&f32, names[i], x);
    assert_int_equal(gradient_of(&eight, names[i], y), n);
    double xx = 0, yy = 0, xy = 0;
    for (int64_t k = 0; k < n; k++) {
      xx += (double)x[k] * (double)x[k];
      yy += (double)y[k] * (double)y[k];
      xy += (double)x[k] * (double)y[k];
    }
    print_message("%s: cosine %g\n", names[i], xy / sqrt(xx * yy));
    assert_true(xy / sqrt(xx * yy) > 0.98);
  }
  qnet_quantizer_sites_free(&sites);
  teardown(&f32);
  teardown(&eight);
}

/* running <- 0.9 running + 0.1 batch, once a step. */
static void test_batch_norm_statistics(void **state) {
  (void)state;
  bench b;
  setup(&b, "batch{n=4},autodiff");
  float value[3];
  for (int i = 0; i < 3; i++) {
    value[i] = content(&b, "bn1.running_mean")[0];
    (void)loss_of(&b);
  }
  /* The batch is the same, so the distance to its mean shrinks by 0.9. */
  assert_true(fabsf(0.9f * (value[1] - value[0]) - (value[2] - value[1])) < 1e-5f);
  assert_true(value[1] != value[0]);
  teardown(&b);
}

/* learn=statistics: running <- batch, whatever it was, and nothing else changes. */
static void test_batch_statistics(void **state) {
  (void)state;
  bench average, once;
  setup(&average, "batch{n=4},autodiff");
  setup(&once, "batch{n=4},autodiff{learn=statistics}");
  const float old = content(&average, "bn2.running_var")[1];
  (void)loss_of(&average);
  const float moved = content(&average, "bn2.running_var")[1];
  for (int i = 0; i < 2; i++) {
    (void)loss_of(&once);
    assert_true(fabsf(old + 0.1f * (content(&once, "bn2.running_var")[1] - old) - moved) < 1e-5f);
  }
  assert_true(moved != old);
  assert_memory_equal(content(&once, "conv1.weight"), content(&average, "conv1.weight"), 72 * 4);
  teardown(&average);
  teardown(&once);
}

static int count_ops(const qnet_module *m, const char *function, int opcode) {
  int count = 0;
  for (const qnet_op *op = qnet_symbol_find(m, function)->body->first; op != NULL; op = op->next)
    count += op->opcode == opcode;
  return count;
}

/* batch after autodiff: types and the unbiased variance follow. */
static void test_batch_of_step(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *a = test_prepare(test_network, "batch{n=7},autodiff", SEED, d);
  qnet_module *b = test_prepare(test_network, "batch{n=3},autodiff,batch{n=7}", SEED, d);
  qnet_strbuf x, y;
  qnet_strbuf_init(&x, qnet_allocator_system());
  qnet_strbuf_init(&y, qnet_allocator_system());
  qnet_module_print(a, QNET_PRINT_ELIDE, &x);
  qnet_module_print(b, QNET_PRINT_ELIDE, &y);
  assert_string_equal(qnet_strbuf_text(&x), qnet_strbuf_text(&y));
  qnet_strbuf_free(&x);
  qnet_strbuf_free(&y);
  qnet_module_destroy(a);
  qnet_module_destroy(b);
  qnet_diag_destroy(d);
}

static void test_fold_batch_norm(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *a = test_prepare(test_network, "batch{n=4}", SEED, d);
  qnet_module *b = test_prepare(test_network, "batch{n=4},fold-batch-norm", SEED, d);
  assert_int_equal(count_ops(b, "eval", QNET_OP_BATCH_NORM), 0);
  uint64_t seed = SEED;
  uint8_t image[BATCH * TEST_PIXELS];
  int32_t label[BATCH];
  test_batch(&seed, BATCH, image, label);
  qnet_blob *arg = test_blob(QNET_U8, BATCH * TEST_PIXELS, image), *result[2] = {NULL};
  const qnet_module *both[] = {a, b};
  for (int i = 0; i < 2; i++) {
    qnet_interp *in = NULL;
    assert_int_equal(qnet_interp_create(both[i], "eval", &in, d), QNET_OK);
    assert_int_equal(qnet_interp_run(in, &arg, 1, &result[i], 1, d), QNET_OK);
    qnet_interp_destroy(in);
  }
  const float *x = result[0]->data, *y = result[1]->data;
  for (int i = 0; i < BATCH * TEST_CLASSES; i++)
    assert_true(fabs((double)x[i] - (double)y[i]) < 1e-4);
  test_release(&arg, 1);
  test_release(result, 2);
  qnet_module_destroy(a);
  qnet_module_destroy(b);
  qnet_diag_destroy(d);
}

/* The n-th allocation of a pipeline fails, for every n: no crash, no leak, a clean status. */
static void fail_each_allocation(const char *pipeline) {
  qnet_status status = QNET_NO_MEMORY;
  uint64_t n = 0;
  while (status != QNET_OK) {
    qnet_failing_allocator f;
    qnet_failing_allocator_init(&f, 0, 0);
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    qnet_module *m = NULL;
    assert_int_equal(qnet_module_parse(&f.base, "test", test_network, strlen(test_network), &m, d),
                     QNET_OK);
    f.count = 0;
    f.fail_at = ++n;
    const qnet_pipeline_options options = {0};
    status = qnet_pipeline_run(m, pipeline, &options, NULL, d);
    if (status != QNET_OK && status != QNET_NO_MEMORY) {
      qnet_diag_print(d, stdout, false);
      fail_msg("%s, allocation %llu: status %d", pipeline, (unsigned long long)n, (int)status);
    }
    f.fail_at = 0;
    qnet_module_destroy(m);
    assert_int_equal(f.live_bytes, 0);
    qnet_diag_destroy(d);
  }
  assert_true(n > 3);
}

static void test_passes_out_of_memory(void **state) {
  (void)state;
  static const char *const quantizers[] = {"lqnets",
                                           "lsq",
                                           "qil",
                                           "lcq",
                                           "dq",
                                           "apot",
                                           "lsq,activation_quantizer=pact",
                                           "ternary,activation_quantizer=dorefa"};
  for (size_t i = 0; i < sizeof quantizers / sizeof *quantizers; i++) {
    char pipeline[200];
    snprintf(pipeline, sizeof pipeline,
             "batch{n=2},insert-quantizers{quantizer=%s,last=8},autodiff", quantizers[i]);
    fail_each_allocation(pipeline);
  }
  fail_each_allocation("expose-features,batch{n=2}");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gradients),        cmocka_unit_test(test_gradients_behind_quantizers),
      cmocka_unit_test(test_straight_through), cmocka_unit_test(test_batch_norm_statistics),
      cmocka_unit_test(test_batch_statistics), cmocka_unit_test(test_batch_of_step),
      cmocka_unit_test(test_fold_batch_norm),  cmocka_unit_test(test_passes_out_of_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
