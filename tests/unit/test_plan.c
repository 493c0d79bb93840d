/* Plans against the reference interpreter: training steps within a tolerance, evaluation to the
 * bit, whatever the number of threads. */
#include "codegen/plan.h"
#include "passes/quantizer_state.h"
#include "support/parallel.h"
#include "tests/unit/random_net.h"
#include "tests/unit/training_test.h"

enum { SEED = 77, MOST_ARGUMENTS = 16 };

static void run_plan(qnet_plan *p, qnet_diag *d) {
  const qnet_status status = qnet_plan_run(p, d);
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  assert_int_equal(status, QNET_OK);
}

static qnet_plan *make_plan(const qnet_module *m, const char *function, qnet_plan_mode mode,
                            qnet_diag *d) {
  qnet_plan *p = NULL;
  const qnet_status status = qnet_plan_create(m, function, mode, &p, d);
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  assert_int_equal(status, QNET_OK);
  return p;
}

/* Root mean square of the difference, over that of a. */
static double relative_difference(const qnet_blob *a, const qnet_blob *b) {
  double square = 0, size = 1e-12;
  assert_int_equal(a->bytes, b->bytes);
  for (int64_t i = 0; i < qnet_blob_elements(a); i++) {
    double x, y;
    switch (a->dtype) {
    case QNET_F32: x = (double)((float *)a->data)[i], y = (double)((float *)b->data)[i]; break;
    case QNET_F64: x = ((double *)a->data)[i], y = ((double *)b->data)[i]; break;
    case QNET_I64: x = (double)((int64_t *)a->data)[i], y = (double)((int64_t *)b->data)[i]; break;
    default: x = ((uint8_t *)a->data)[i], y = ((uint8_t *)b->data)[i];
    }
    square += (x - y) * (x - y);
    size += x * x;
  }
  return sqrt(square / size);
}

static void compare_states(const qnet_module *a, const qnet_module *b, double tolerance) {
  for (const qnet_symbol *s = a->first_symbol; s != NULL; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE) continue;
    const double difference = relative_difference(s->blob, qnet_symbol_find(b, s->name)->blob);
    if (!(difference <= tolerance)) print_error("@%s differs by %g\n", s->name, difference);
    assert_true(difference <= tolerance);
  }
}

/* With the arguments of the plan. */
static void interpret_step(qnet_interp *in, qnet_plan *p, double *loss, int32_t *correct,
                           qnet_diag *d) {
  qnet_blob *args[MOST_ARGUMENTS], *results[2] = {NULL};
  int count = 0;
  for (qnet_blob *b; (b = qnet_plan_argument(p, count)) != NULL;) {
    assert_true(count < MOST_ARGUMENTS);
    args[count++] = b;
  }
  const qnet_status status = qnet_interp_run(in, args, count, results, 2, d);
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  assert_int_equal(status, QNET_OK);
  *loss = (double)*(float *)results[0]->data;
  *correct = *(int32_t *)results[1]->data;
  test_release(results, 2);
}

static void compare_steps(const char *pipeline, int steps, double tolerance) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *a = test_prepare(test_network, pipeline, SEED, d);
  qnet_module *b = test_prepare(test_network, pipeline, SEED, d);
  qnet_interp *in = NULL;
  assert_int_equal(qnet_interp_create(a, "step", &in, d), QNET_OK);
  qnet_plan *p = make_plan(b, "step", QNET_PLAN_FAST, d);
  uint64_t seed = SEED;
  for (int i = 0; i < steps; i++) {
    int32_t correct;
    double loss;
    test_step_arguments(p, &seed, 0.05f);
    interpret_step(in, p, &loss, &correct, d);
    run_plan(p, d);
    assert_true(fabs((double)*(float *)qnet_plan_result(p, 0)->data - loss) <= tolerance * loss);
    assert_int_equal(*(int32_t *)qnet_plan_result(p, 1)->data, correct);
    compare_states(a, b, tolerance);
  }
  qnet_plan_destroy(p);
  qnet_interp_destroy(in);
  qnet_module_destroy(a);
  qnet_module_destroy(b);
  qnet_diag_destroy(d);
}

static void test_step_f32(void **state) {
  (void)state;
  compare_steps("batch{n=6},autodiff{momentum=0.9,weight_decay=0.01,smoothing=0.1}", 3, 2e-4);
  compare_steps("batch{n=6},autodiff{nesterov=1,decay_norm=1}", 2, 2e-4);
}

/* The features of the other network are random numbers; their pull is as strong as the labels'. */
static void test_step_features(void **state) {
  (void)state;
  compare_steps("batch{n=6},autodiff{distill=0.5,features=30}", 3, 5e-4);
  compare_steps("batch{n=6},insert-quantizers{weights=2,activations=2,first=0,last=8},autodiff{"
                "distill=0.5,features=30}",
                1, 2e-2);
}

static void test_step_muon(void **state) {
  (void)state;
  compare_steps("batch{n=6},autodiff{muon=0.3,weight_decay=0.01}", 3, 2e-3);
  compare_steps("batch{n=6},autodiff{muon=0.3,nesterov=1}", 2, 2e-3);
}

/* One update of a weight of this shape, all of random numbers. */
static void compare_muon(const char *shape) {
  char text[512];
  snprintf(text, sizeof text,
           "module @t nn { func @step(%%w: tensor<%s>, %%g: tensor<%s>, %%v: tensor<%s>, %%lr: "
           "tensor<f32>) {\n%%0, %%1 = nn.muon(%%w, %%g, %%v, %%lr) {momentum = 0.5, weight_decay "
           "= 0.1, scale = 0.5} : tensor<%s>, tensor<%s>\n yield %%0, %%1 } }",
           shape, shape, shape, shape, shape);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(text, d);
  qnet_plan *p = make_plan(m, "step", QNET_PLAN_FAST, d);
  qnet_interp *in = NULL;
  qnet_blob *args[4], *results[2] = {NULL};
  uint64_t seed = SEED;
  for (int i = 0; i < 4; i++) {
    args[i] = qnet_plan_argument(p, i);
    float *x = args[i]->data;
    for (int64_t k = 0; k < qnet_blob_elements(args[i]); k++)
      x[k] = test_float(&seed);
  }
  assert_int_equal(qnet_interp_create(m, "step", &in, d), QNET_OK);
  assert_int_equal(qnet_interp_run(in, args, 4, results, 2, d), QNET_OK);
  run_plan(p, d);
  for (int i = 0; i < 2; i++)
    assert_true(relative_difference(results[i], qnet_plan_result(p, i)) <= 1e-5);
  test_release(results, 2);
  qnet_interp_destroy(in);
  qnet_plan_destroy(p);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

static void test_muon_shapes(void **state) {
  (void)state;
  static const char *const shapes[] = {"12x1x1x5xf32", "5x3x1x4xf32", "7x7xf32",      "1x9xf32",
                                       "9x1x1x1xf32",  "1x1xf32",     "64x3x3x16xf32"};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    compare_muon(shapes[i]);
}

/* eps large: it keeps gradients near 0, which rounding turns around, from moving weights by lr. */
static void test_step_adam(void **state) {
  (void)state;
  compare_steps("batch{n=6},autodiff{optimizer=adam,eps=0.1,weight_decay=0.01}", 3, 5e-4);
  compare_steps("batch{n=6},autodiff{optimizer=adam,eps=0.1,weight_decay=0.1,decoupled=1}", 2,
                5e-4);
}

/* One step: a rounding that tips a code over makes later ones differ. */
static void test_step_quantized(void **state) {
  (void)state;
  compare_steps("batch{n=6},insert-quantizers{weights=2,activations=2,first=0,last=8},autodiff", 1,
                2e-2);
  compare_steps("batch{n=6},insert-quantizers{weights=1,activations=3,first=8,last=0},autodiff", 1,
                2e-2);
}

/* The other ways to learn: cells with and without tilt, statistics by channel, many levels. */
static void test_step_learned(void **state) {
  (void)state;
  static const char *const quantizers[] = {
      "lsq,weights=2,activations=2",       "qil,weights=2,activations=2",
      "qil,weights=3,activations=4",       "lcq,weights=2,activations=2",
      "lcq_exact,weights=3,activations=3", "dq,weights=2,activations=2",
      "dq,weights=3,activations=3",        "lsq,weights=5,activations=6"};
  for (size_t i = 0; i < sizeof quantizers / sizeof *quantizers; i++) {
    char pipeline[160];
    snprintf(pipeline, sizeof pipeline,
             "batch{n=6},insert-quantizers{quantizer=%s,first=8,last=8},autodiff", quantizers[i]);
    print_message("%s\n", quantizers[i]);
    compare_steps(pipeline, 1, 2e-2);
  }
}

/* ---- exact ------------------------------------------------------------------------------------*/

/* The interpreter's result and the plan's on the same images must be the same bytes. */
static void compare_exact(const qnet_module *m, int64_t batch, uint64_t seed, qnet_diag *d) {
  const qnet_type *type = qnet_symbol_find(m, "eval")->body->arg[0].type;
  assert_int_equal(type->dim[0], batch);
  qnet_blob *image = qnet_blob_create(m->allocator, type->dtype, type->rank, type->dim);
  for (size_t i = 0; i < image->bytes; i++)
    ((uint8_t *)image->data)[i] = (uint8_t)test_range(&seed, 0, 255);
  qnet_interp *in = NULL;
  qnet_blob *expected = NULL;
  assert_int_equal(qnet_interp_create(m, "eval", &in, d), QNET_OK);
  assert_int_equal(qnet_interp_run(in, &image, 1, &expected, 1, d), QNET_OK);
  qnet_plan *p = make_plan(m, "eval", QNET_PLAN_EXACT, d);
  memcpy(qnet_plan_argument(p, 0)->data, image->data, image->bytes);
  for (int threads = 1; threads <= 2; threads++) {
    qnet_parallel_set_threads(threads);
    run_plan(p, d);
    assert_memory_equal(qnet_plan_result(p, 0)->data, expected->data, expected->bytes);
  }
  qnet_parallel_set_threads(0);
  qnet_plan_destroy(p);
  qnet_interp_destroy(in);
  qnet_blob_release(expected);
  qnet_blob_release(image);
}

static void test_exact_random_networks(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  print_message("seeds %d..%d\n", SEED, SEED + 39);
  for (uint64_t seed = SEED; seed < SEED + 40; seed++) {
    qnet_module *m = qnet_random_net(seed);
    test_passes(m, "batch{n=3},freeze", d);
    compare_exact(m, 3, seed, d);
    qnet_module_destroy(m);
  }
  qnet_diag_destroy(d);
}

/* A network that stays nn: batch_norm by its running statistics, f32 layers in the defined order.
 */
static void test_exact_f32(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_prepare(test_network, "batch{n=5}", SEED, d);
  compare_exact(m, 5, SEED, d);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

/* Freezing what a training module holds gives a network that both engines agree on. */
static void test_exact_frozen_training(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_prepare(
      test_network, "insert-quantizers{weights=3,activations=2,first=8,last=8}", SEED, d);
  assert_int_equal(qnet_quantizer_freeze_all(m, m->allocator, d), QNET_OK);
  test_passes(m, "batch{n=4},freeze", d);
  compare_exact(m, 4, SEED, d);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

/* 1x1 convolution whose sums pass 2^24: 4096 channels of 127 * 127. */
static void test_exact_split_channels(void **state) {
  (void)state;
  enum { CHANNELS = 4096 };
  static const char text[] =
      "module @wide quant {\n"
      "  table @a { bits = 1, scale = [1.0], levels = [0, 127], thresholds = [0.5], perm = [0, 1] "
      "}\n"
      "  table @w { bits = 1, channels = 2, scale = [1.0, 1.0], levels = [126, 127, -127, 127] }\n"
      "  const @w.codes : tensor<2x1x1x4096xq1:@w> = splat(1)\n"
      "  func @eval(%x: tensor<1x2x2x4096xf32>) {\n"
      "    %0 = quant.quantize(%x) {table = @a} : tensor<1x2x2x4096xq1:@a>\n"
      "    %1 = read @w.codes : tensor<2x1x1x4096xq1:@w>\n"
      "    %2 = quant.conv2d(%0, %1) {stride = [1, 1], pad = [0, 0, 0, 0]} : "
      "tensor<1x2x2x2xi32>\n"
      "    yield %2\n"
      "  }\n"
      "}\n";
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(text, d);
  uint8_t *codes = qnet_symbol_find(m, "w.codes")->blob->data;
  for (int i = 0; i < CHANNELS; i++)
    codes[i] = (uint8_t)(i % 2);
  qnet_plan *p = make_plan(m, "eval", QNET_PLAN_EXACT, d);
  float *x = qnet_plan_argument(p, 0)->data;
  for (int i = 0; i < 4 * CHANNELS; i++)
    x[i] = 1;
  run_plan(p, d);
  const int32_t *y = qnet_plan_result(p, 0)->data;
  for (int i = 0; i < 4; i++) {
    assert_int_equal(y[2 * i], CHANNELS / 2 * 127 * (126 + 127)); /* odd: no f32 */
    assert_int_equal(y[2 * i + 1], CHANNELS * 127 * 127);
  }
  qnet_plan_destroy(p);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

/* Channels that lie together, and channels apart. */
static void test_exact_slice_and_pad(void **state) {
  (void)state;
  static const char text[] =
      "module @s nn {\n"
      "  func @eval(%image: tensor<3x4x5x6xu8>) {\n"
      "    %0 = nn.normalize(%image) {mean = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5], "
      "std = [0.25, 0.25, 0.25, 0.25, 0.25, 0.25]} : tensor<3x4x5x6xf32>\n"
      "    %1 = nn.slice(%0) {begin = [1, 0, 2], stride = [2, 2, 1]} : tensor<3x2x3x4xf32>\n"
      "    %2 = nn.slice(%1) {begin = [0, 1, 1], stride = [1, 1, 2]} : tensor<3x2x2x2xf32>\n"
      "    %3 = nn.pad(%2) {begin = [1, 0, 3], stride = [1, 2, 1]} : tensor<3x4x4x6xf32>\n"
      "    %4 = nn.pad(%3) {begin = [0, 1, 1], stride = [1, 1, 3]} : tensor<3x4x6x18xf32>\n"
      "    yield %4\n"
      "  }\n"
      "}\n";
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(text, d);
  compare_exact(m, 3, SEED, d);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

/* ---- symbols and memory -----------------------------------------------------------------------*/

/* Reads before and after writes, exchanged symbols, a result that is also written. */
static void test_symbols(void **state) {
  (void)state;
  static const char text[] = "module @s nn {\n"
                             "  state @a : tensor<2xf32> = [1, 2]\n"
                             "  state @b : tensor<2xf32> = [10, 20]\n"
                             "  func @step(%x: tensor<2xf32>) {\n"
                             "    %0 = read @a : tensor<2xf32>\n"
                             "    %1 = read @b : tensor<2xf32>\n"
                             "    %2 = nn.add(%0, %x) : tensor<2xf32>\n"
                             "    write @a, %1\n"
                             "    write @b, %2\n"
                             "    %3 = read @b : tensor<2xf32>\n"
                             "    %4 = nn.add(%3, %0) : tensor<2xf32>\n"
                             "    yield %4, %3, %x\n"
                             "  }\n"
                             "}\n";
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(text, d);
  qnet_plan *p = make_plan(m, "step", QNET_PLAN_FAST, d);
  float *x = qnet_plan_argument(p, 0)->data;
  x[0] = 100, x[1] = 200;
  run_plan(p, d);
  const float *a = qnet_symbol_find(m, "a")->blob->data, *b = qnet_symbol_find(m, "b")->blob->data;
  const float *y = qnet_plan_result(p, 0)->data, *z = qnet_plan_result(p, 1)->data;
  assert_true(a[0] == 10 && a[1] == 20 && b[0] == 101 && b[1] == 202);
  assert_true(y[0] == 102 && y[1] == 204 && z[0] == 101 && z[1] == 202);
  assert_true(((float *)qnet_plan_result(p, 2)->data)[1] == 200);
  qnet_plan_destroy(p);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

static void test_missing_content(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(test_network, d);
  qnet_plan *p = make_plan(m, "eval", QNET_PLAN_FAST, d);
  assert_int_equal(qnet_plan_run(p, d), QNET_ERROR);
  assert_int_equal(qnet_diag_error_count(d), 1);
  qnet_plan_destroy(p);
  p = NULL;
  assert_int_equal(qnet_plan_create(m, "nothing", QNET_PLAN_FAST, &p, d), QNET_ERROR);
  assert_null(p);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

static void test_out_of_memory_in_plan(void **state) {
  (void)state;
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, 0, 0);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = NULL;
  assert_int_equal(qnet_module_parse(&f.base, "test", test_network, strlen(test_network), &m, d),
                   QNET_OK);
  test_passes(m, "batch{n=2},autodiff", d);
  const size_t live = f.live_bytes;
  qnet_status status = QNET_NO_MEMORY;
  for (uint64_t n = 1; status != QNET_OK; n++) {
    f.count = 0;
    f.failed = 0;
    f.fail_at = n;
    qnet_plan *p = NULL;
    status = qnet_plan_create(m, "step", QNET_PLAN_FAST, &p, d);
    assert_true(status == QNET_OK || status == QNET_NO_MEMORY);
    qnet_plan_destroy(p);
    assert_int_equal(f.live_bytes, live);
  }
  f.fail_at = 0;
  qnet_module_destroy(m);
  assert_int_equal(f.live_bytes, 0);
  qnet_diag_destroy(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_step_f32),
      cmocka_unit_test(test_step_muon),
      cmocka_unit_test(test_muon_shapes),
      cmocka_unit_test(test_step_adam),
      cmocka_unit_test(test_step_features),
      cmocka_unit_test(test_step_quantized),
      cmocka_unit_test(test_step_learned),
      cmocka_unit_test(test_exact_random_networks),
      cmocka_unit_test(test_exact_f32),
      cmocka_unit_test(test_exact_frozen_training),
      cmocka_unit_test(test_exact_split_channels),
      cmocka_unit_test(test_exact_slice_and_pad),
      cmocka_unit_test(test_symbols),
      cmocka_unit_test(test_missing_content),
      cmocka_unit_test(test_out_of_memory_in_plan),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
