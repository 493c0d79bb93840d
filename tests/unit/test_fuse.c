/* Fusion changes no bit: training steps with compiled loops and without leave the same bytes in
 * every state, whatever the quantizer, the widths and the number of threads. */
#include "codegen/plan_fuse.h"
#include "driver/weights.h"
#include "frontend/frontend.h"
#include "passes/quantizer_state.h"
#include "support/parallel.h"
#include "tests/unit/training_test.h"

enum { STEPS = 3, SEED = 5 };

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
    "  x = behind(x, 20, stride = 2)\n"
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

static void start(run *r, const char *pipeline, qnet_plan_mode mode, qnet_diag *d) {
  const qnet_allocator *a = qnet_allocator_system();
  check(qnet_frontend_parse(a, "widths.qnet", network, strlen(network), NULL, 0, &r->program, d),
        d);
  qnet_module *m = r->program.module;
  check(qnet_weights_init(m, SEED, d), d);
  test_passes(m, pipeline, d);
  check(qnet_weights_init(m, SEED, d), d);
  check(qnet_quantizer_sites_collect(m, a, &r->sites, d), d);
  check(qnet_quantizer_sites_refresh(&r->sites, false, d), d);
  check(qnet_plan_create(m, "step", mode, &r->plan, d), d);
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

static void compare_runs(const char *pipeline) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  run fused, plain;
  start(&fused, pipeline, QNET_PLAN_FAST, d);
  start(&plain, pipeline, QNET_PLAN_UNFUSED, d);
  assert_true(joined(&fused) > 0);
  assert_int_equal(joined(&plain), 0);
  for (uint64_t i = 0; i < STEPS; i++) {
    qnet_parallel_set_threads(i % 2 == 0 ? 2 : 1);
    step(&fused, SEED + i, d);
    qnet_parallel_set_threads(1);
    step(&plain, SEED + i, d);
    compare(&fused, &plain);
  }
  qnet_parallel_set_threads(0);
  finish(&fused);
  finish(&plain);
  qnet_diag_destroy(d);
}

static void test_f32(void **state) {
  (void)state;
  compare_runs("batch{n=9},autodiff");
  compare_runs("batch{n=9},autodiff{optimizer=adam,decay_norm=1}");
  compare_runs("batch{n=9},autodiff{muon=0.1}");
}

static void test_quantized(void **state) {
  (void)state;
  static const char *const names[] = {
      "lqnets,weights=2,activations=2", "lqnets,weights=3,activations=3",
      "lsq,weights=2,activations=2",    "lsq,activation_quantizer=pact,weights=2,activations=1",
      "qil,weights=2,activations=2",    "lcq,weights=2,activations=2",
      "dq,weights=2,activations=2",     "dorefa,weights=2,activations=2",
      "apot,weights=2,activations=2",   "binary,weights=1,activations=1",
      "sign,weights=1,activations=1"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char pipeline[160];
    snprintf(pipeline, sizeof pipeline,
             "batch{n=9},insert-quantizers{quantizer=%s,first=0,last=8},autodiff", names[i]);
    compare_runs(pipeline);
  }
}

static void test_features(void **state) {
  (void)state;
  compare_runs("batch{n=9},autodiff{distill=0.5,features=30}");
  compare_runs("batch{n=9},insert-quantizers{first=0,last=8},autodiff{distill=0.5,features=30}");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_f32),
      cmocka_unit_test(test_quantized),
      cmocka_unit_test(test_features),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
