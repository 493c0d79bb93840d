/* Random small quantized networks give the same numbers after every pass: freeze, fold-thresholds,
 * decompose (with and without folding before it) and fuse-kernels, on the reference interpreters.
 */
#include "ir/interp.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/pass.h"
#include "tests/unit/random_net.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint64_t SEED = 1000;
enum { NETWORKS = 300, IMAGES = 2 };

static void fail_with(qnet_diag *d, const qnet_module *m, const char *what, uint64_t seed) {
  qnet_diag_print(d, stderr, false);
  qnet_strbuf text;
  qnet_strbuf_init(&text, qnet_allocator_system());
  qnet_module_print(m, QNET_PRINT_ELIDE, &text);
  fail_msg("seed %llu, %s:\n%s", (unsigned long long)seed, what, qnet_strbuf_text(&text));
}

static void run_passes(qnet_module *m, const char *passes, uint64_t seed) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  const qnet_pipeline_options options = {.verify_each = true};
  if (qnet_pipeline_run(m, passes, &options, NULL, d) != QNET_OK) fail_with(d, m, passes, seed);
  qnet_diag_destroy(d);
}

static qnet_blob *evaluate(const qnet_module *m, qnet_blob *image, uint64_t seed) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_interp *in = NULL;
  qnet_blob *result = NULL;
  if (qnet_interp_create(m, "eval", &in, d) != QNET_OK ||
      qnet_interp_run(in, &image, 1, &result, 1, d) != QNET_OK)
    fail_with(d, m, "evaluation", seed);
  qnet_interp_destroy(in);
  qnet_diag_destroy(d);
  return result;
}

/* A copy of `frozen` after more passes gives what `expected` says. */
static void check(const qnet_module *frozen, const char *passes, qnet_blob *const *image,
                  qnet_blob *const *expected, uint64_t seed) {
  qnet_module *m = qnet_module_clone(frozen);
  assert_non_null(m);
  run_passes(m, passes, seed);
  for (int i = 0; i < IMAGES; i++) {
    qnet_blob *y = evaluate(m, image[i], seed);
    if (!qnet_blob_equal(y, expected[i])) fail_with(NULL, m, passes, seed);
    qnet_blob_release(y);
  }
  qnet_module_destroy(m);
}

static void check_network(uint64_t seed) {
  qnet_module *m = qnet_random_net(seed);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  if (qnet_module_verify(m, d) != QNET_OK) fail_with(d, m, "the generated network", seed);
  qnet_diag_destroy(d);
  qnet_blob *image[IMAGES], *expected[IMAGES];
  for (uint64_t i = 0; i < IMAGES; i++)
    image[i] = qnet_random_image(m, seed ^ (i << 32));
  run_passes(m, "freeze", seed);
  for (int i = 0; i < IMAGES; i++)
    expected[i] = evaluate(m, image[i], seed);
  check(m, "fold-thresholds,prove-accumulators", image, expected, seed);
  check(m, "decompose", image, expected, seed);
  check(m, "fold-thresholds,decompose", image, expected, seed);
  check(m, "fold-thresholds,prove-accumulators,decompose,fuse-kernels", image, expected, seed);
  for (int i = 0; i < IMAGES; i++) {
    qnet_blob_release(image[i]);
    qnet_blob_release(expected[i]);
  }
  qnet_module_destroy(m);
}

static void test_all_levels_agree(void **state) {
  (void)state;
  for (uint64_t i = 0; i < NETWORKS; i++)
    check_network(SEED + i);
}

/* The random networks do reach what the passes are for. */
static void test_random_networks_cover_the_operations(void **state) {
  (void)state;
  static const char *const wanted[] = {"quant.threshold", "quant.quantize", "quant.max_pool2d",
                                       "bits.threshold",  "bits.quantize",  "bits.patch_sum",
                                       "quant.conv2d",    "quant.dense",    "nn.conv2d",
                                       "nn.dense",        "nn.add",         "nn.global_avg_pool",
                                       "nn.flatten",      "shift = ",       "dilation = "};
  bool seen[sizeof wanted / sizeof wanted[0]] = {false};
  for (uint64_t i = 0; i < 60; i++) {
    qnet_module *m = qnet_random_net(SEED + i);
    for (int level = 0; level < 2; level++) {
      run_passes(m, level ? "decompose" : "freeze,fold-thresholds", SEED + i);
      qnet_strbuf text;
      qnet_strbuf_init(&text, qnet_allocator_system());
      qnet_module_print(m, QNET_PRINT_ELIDE, &text);
      for (size_t k = 0; k < sizeof wanted / sizeof wanted[0]; k++)
        seen[k] |= strstr(qnet_strbuf_text(&text), wanted[k]) != NULL;
      qnet_strbuf_free(&text);
    }
    qnet_module_destroy(m);
  }
  for (size_t k = 0; k < sizeof wanted / sizeof wanted[0]; k++)
    if (!seen[k]) fail_msg("no network has %s", wanted[k]);
}

/* Each allocation of the pipeline fails once: an error, no leak, no crash. */
static void test_out_of_memory(void **state) {
  (void)state;
  qnet_module *m = qnet_random_net(SEED);
  qnet_strbuf text;
  qnet_strbuf_init(&text, qnet_allocator_system());
  qnet_module_print(m, 0, &text);
  qnet_module_destroy(m);
  bool done = false;
  for (uint64_t n = 1; !done; n++) {
    qnet_failing_allocator failing;
    qnet_failing_allocator_init(&failing, n, 1);
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    m = NULL;
    qnet_status status =
        qnet_module_parse(&failing.base, "random", qnet_strbuf_text(&text), text.length, &m, d);
    if (status == QNET_OK)
      status = qnet_pipeline_run(m, qnet_pipeline_to(QNET_LEVEL_BITS), NULL, NULL, d);
    done = !failing.failed;
    assert_int_equal(status, done ? QNET_OK : QNET_NO_MEMORY);
    qnet_module_destroy(m);
    qnet_diag_destroy(d);
    assert_int_equal(failing.live_bytes, 0);
  }
  qnet_strbuf_free(&text);
}

int main(void) {
  printf("seeds from %llu\n", (unsigned long long)SEED);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_levels_agree),
      cmocka_unit_test(test_random_networks_cover_the_operations),
      cmocka_unit_test(test_out_of_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
