/* Fusion changes no bit: training steps with compiled loops and without leave the same bytes in
 * every state, whatever the quantizer, the widths, the vectors and the number of threads. */
#include "codegen/plan_fuse.h"
#include "driver/weights.h"
#include "frontend/frontend.h"
#include "passes/quantizer_state.h"
#include "support/parallel.h"
#include "tests/unit/training_test.h"

enum { STEPS = 2, SEED = 5, WIDTHS = 3 };

/* Lanes of the machines that there are; two neighbours have the 16 that sums are made for. */
static const int widths[WIDTHS] = {8, 16, 4};

/* Widths of one vector, of several, of blocks of vectors, of half a vector, of none; sums behind
 * and before batch_norm; a value that one block of rows makes and several use. */
static const char network[] =
    "net widths(classes = 3) {\n"
    "  input image: u8[1, 8, 8] normalize(mean = [0.5], std = [0.25])\n"
    "  block before(x, ch) {\n"
    "    y = x |> bn |> relu |> conv(ch, 3x3, pad = 1) |> bn |> relu |> conv(ch, 3x3, pad = 1)\n"
    "    return y + x\n"
    "  }\n"
    "  block behind(x, ch, stride = 1) {\n"
    "    y = x |> conv(ch, 3x3, stride, pad = 1) |> bn |> relu |> conv(ch, 3x3, pad = 1) |> bn\n"
    "    s = x |> conv(ch, 1x1, stride) |> bn\n"
    "    return relu(y + s)\n"
    "  }\n"
    "  block padded(x) {\n"
    "    y = x |> conv(x.channels + 8, 3x3, stride = 2, pad = 1) |> bn\n"
    "    s = x |> slice(step = [1, 2, 2]) |> pad(before = [3, 0, 0], after = [5, 0, 0])\n"
    "    return relu(y + s)\n"
    "  }\n"
    "  x = image |> conv(16, 3x3, pad = 1) |> bn |> relu\n"
    "  x = before(x, 16)\n"
    "  x = behind(padded(x), 80)\n"
    "  x = behind(x, 48, stride = 2)\n"
    "  x = behind(x, 40)\n"
    "  x = behind(x, 20)\n"
    "  x = behind(x, 6)\n"
    "  x = behind(x, 160)\n"
    "  return x |> global_avg_pool |> dense(classes)\n"
    "}\n";

typedef struct run {
  qnet_program program;
  qnet_quantizer_sites sites;
  qnet_plan *plan;
} run;

static void check(qnet_status status, qnet_diag *d) {
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  assert_int_equal(status, QNET_OK);
}

static qnet_plan *make_plan(const qnet_module *m, int lanes, qnet_diag *d) {
  const qnet_plan_mode mode = lanes > 0 ? QNET_PLAN_FAST : QNET_PLAN_UNFUSED;
  qnet_plan *p = NULL;
  check(qnet_plan_create_lanes(m, "step", mode, lanes, &p, d), d);
  return p;
}

static void start(run *r, const char *pipeline, int lanes, qnet_diag *d) {
  const qnet_allocator *a = qnet_allocator_system();
  check(qnet_frontend_parse(a, "widths.qnet", network, strlen(network), NULL, 0, &r->program, d),
        d);
  qnet_module *m = r->program.module;
  check(qnet_weights_init(m, SEED, d), d);
  test_passes(m, pipeline, d);
  check(qnet_weights_init(m, SEED, d), d);
  check(qnet_quantizer_sites_collect(m, a, &r->sites, d), d);
  check(qnet_quantizer_sites_refresh(&r->sites, false, d), d);
  r->plan = make_plan(m, lanes, d);
}

static void finish(run *r) {
  qnet_plan_destroy(r->plan);
  qnet_quantizer_sites_free(&r->sites);
  qnet_module_destroy(r->program.module);
}

static void step(run *r, uint64_t seed, qnet_diag *d) {
  test_step_arguments(r->plan, &seed, 0.05f);
  check(qnet_plan_run(r->plan, d), d);
  assert_true(isfinite(*(float *)qnet_plan_result(r->plan, 0)->data));
  r->sites.lr = 0.05;
  check(qnet_quantizer_sites_update(&r->sites, false, d), d);
}

/* Loops of a plan that join several steps. */
static int joined(const run *r) {
  int count = 0;
  for (const qnet_plan_step *s = r->plan->first; s != NULL; s = s->next)
    count += s->loop != NULL && s->loop->steps > 1;
  return count;
}

static void compare(const run *a, const run *b) {
  for (const qnet_symbol *s = a->program.module->first_symbol; s != NULL; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE) continue;
    const qnet_blob *other = qnet_symbol_find(b->program.module, s->name)->blob;
    if (memcmp(s->blob->data, other->data, other->bytes) != 0) print_error("@%s\n", s->name);
    assert_memory_equal(s->blob->data, other->data, other->bytes);
  }
}

/* Every quantizer is in a loop, and those of values behind what they quantize. */
static void expect_loops(const run *r) {
  const qnet_plan_kernel *const quantizers[] = {&qnet_plan_quantize, &qnet_plan_quantize_grad,
                                                &qnet_plan_cell_grad, &qnet_plan_channel_stats};
  int inside = 0, values = 0, behind = 0;
  for (const qnet_plan_step *s = r->plan->first; s != NULL; s = s->next, inside--) {
    if (s->loop != NULL) inside = s->loop->steps;
    for (size_t k = 0; k < sizeof quantizers / sizeof *quantizers; k++)
      if (s->kernel == quantizers[k] && s->width % 4 == 0) assert_true(inside > 0);
    values += s->kernel == &qnet_plan_quantize;
    behind += s->kernel == &qnet_plan_quantize && s->loop == NULL && inside > 0;
  }
  assert_true(values == 0 || behind > 0);
}

/* Plans of `lanes` against one without loops. */
static void compare_runs(const char *pipeline, const int *lanes, int count) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  run r[WIDTHS], plain;
  start(&plain, pipeline, 0, d);
  assert_int_equal(joined(&plain), 0);
  for (int k = 0; k < count; k++) {
    start(&r[k], pipeline, lanes[k], d);
    assert_true(joined(&r[k]) > 0);
    expect_loops(&r[k]);
  }
  for (uint64_t i = 0; i < STEPS; i++) {
    qnet_parallel_set_threads(1);
    step(&plain, SEED + i, d);
    for (int k = 0; k < count; k++) {
      qnet_parallel_set_threads(1 + (int)(i + (uint64_t)k) % 2);
      step(&r[k], SEED + i, d);
      compare(&r[k], &plain);
    }
  }
  qnet_parallel_set_threads(0);
  finish(&plain);
  for (int k = 0; k < count; k++)
    finish(&r[k]);
  qnet_diag_destroy(d);
}

static void test_f32(void **state) {
  (void)state;
  compare_runs("batch{n=9},autodiff", widths, WIDTHS);
  compare_runs("batch{n=9},autodiff{optimizer=adam,decay_norm=1}", widths, 1);
  compare_runs("batch{n=9},autodiff{muon=0.1}", widths, 1);
}

static void test_quantized(void **state) {
  (void)state;
  static const char *const names[] = {
      "lqnets,weights=2,activations=2", "lqnets,weights=3,activations=3",
      "lsq,weights=2,activations=2",    "lsq,activation_quantizer=pact,weights=2,activations=1",
      "qil,weights=2,activations=2",    "lcq,weights=2,activations=2",
      "dq,weights=2,activations=2",     "dorefa,weights=2,activations=2",
      "apot,weights=2,activations=2",   "binary,weights=1,activations=1",
      "sign,weights=1,activations=1",   "lqnets,weights=4,activations=4",
      "lqnets,weights=2,activations=7", "lsq,weights=3,activations=3",
      "lsq,weights=4,activations=4",    "lsq,weights=8,activations=8",
      "qil,weights=3,activations=5",    "lcq,weights=3,activations=3",
      "lcq,weights=4,activations=4",    "lcq_exact,weights=3,activations=6",
      "dq,weights=3,activations=3",     "dq,weights=4,activations=4",
      "dq,weights=2,activations=6",     "apot,weights=4,activations=4",
      "dorefa,weights=4,activations=8", "lsq,activation_quantizer=pact,weights=2,activations=4"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char pipeline[160];
    snprintf(pipeline, sizeof pipeline,
             "batch{n=9},insert-quantizers{quantizer=%s,first=0,last=8},autodiff", names[i]);
    compare_runs(pipeline, i % 2 == 0 ? widths : widths + 1, 2);
  }
}

static void test_features(void **state) {
  (void)state;
  compare_runs("batch{n=9},autodiff{distill=0.5,features=30}", widths, 1);
  compare_runs("batch{n=9},insert-quantizers{first=0,last=8},autodiff{distill=0.5,features=30}",
               widths, 1);
}

/* Operations alone: rows longer than a range; statistics of unequal numbers of codes at one width,
 * with bytes that are no codes. */
static const char alone[] =
    "module @t nn {\n"
    "  func @step(%x: tensor<2x9216xf32>, %dy: tensor<2x9216xf32>, %bound: tensor<1x5xf32>,\n"
    "      %slope: tensor<1x6xf32>, %tilt: tensor<1x6xf32>, %a: tensor<50x96xf32>,\n"
    "      %b: tensor<70x96xf32>, %ca: tensor<50x96xu8>, %cb: tensor<70x96xu8>) {\n"
    "    %0, %1, %2 = nn.cell_grad(%x, %bound, %slope, %tilt, %dy) {axis = -1} : "
    "tensor<2x9216xf32>, tensor<1x6xf64>, tensor<1x6xf64>\n"
    "    %3, %4 = nn.code_stats(%a, %ca) {axis = 1, bits = 2} : tensor<96x4xi64>, "
    "tensor<96x4xf64>\n"
    "    %5, %6 = nn.code_stats(%b, %cb) {axis = 1, bits = 3} : tensor<96x8xi64>, "
    "tensor<96x8xf64>\n"
    "    yield %0, %1, %2, %3, %4, %5, %6\n  }\n}\n";

static void fill_argument(qnet_plan *p, int index, uint64_t *seed) {
  qnet_blob *b = qnet_plan_argument(p, index);
  enum { BOUND = 2, TILT = 4 };
  for (int64_t i = 0; i < qnet_blob_elements(b); i++) {
    const float x = (float)test_range(seed, -1000, 1000) / 300;
    if (b->dtype == QNET_U8)
      ((uint8_t *)b->data)[i] = (uint8_t)(test_range(seed, 0, 50) == 0 ? 255 : i % 7);
    else
      ((float *)b->data)[i] = index == BOUND ? (float)i - 2 : index == TILT ? 0 : x;
  }
}

static void test_alone(void **state) {
  (void)state;
  enum { ARGUMENTS = 9, RESULTS = 7 };
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(alone, d);
  qnet_plan *plain = make_plan(m, 0, d), *p = plain;
  for (int k = -1; k < WIDTHS; k++) {
    if (k >= 0) p = make_plan(m, widths[k], d);
    uint64_t seed = SEED;
    for (int i = 0; i < ARGUMENTS; i++)
      fill_argument(p, i, &seed);
    check(qnet_plan_run(p, d), d);
    int loops = 0;
    for (const qnet_plan_step *s = p->first; s != NULL; s = s->next)
      loops += s->loop != NULL;
    assert_int_equal(loops, p == plain ? 0 : 3);
    for (int i = 0; i < RESULTS; i++)
      assert_true(qnet_blob_equal(qnet_plan_result(p, i), qnet_plan_result(plain, i)));
    if (p != plain) qnet_plan_destroy(p);
  }
  qnet_plan_destroy(plain);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_f32),
      cmocka_unit_test(test_quantized),
      cmocka_unit_test(test_features),
      cmocka_unit_test(test_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
