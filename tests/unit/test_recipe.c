/* Settings of the recipe have the effect that docs/language.md says. */
#include "tests/unit/recipe_test.h"

static int prepare(void **state) {
  clear_directory(state);
  test_write_set("waves", 1, true);
  return 0;
}

/* The step of conv2's weights after an epoch with this rate. */
static float learned_step(const char *rate, const char *epochs) {
  char settings[100];
  snprintf(settings, sizeof settings, "quantizers = %s", rate);
  test_write_net("quantize lsq(weights = 2, activations = 2) except first, last", settings);
  test_must_train("waves", "out", epochs);
  return test_value("out", "conv2.weight_quantizer.param");
}

static void test_quantizer_rate(void **state) {
  (void)state;
  const float start = learned_step("rate(lr = 0)", "--epochs=1");
  assert_true(start > 0);
  assert_true(learned_step("rate(lr = 0)", "--epochs=2") == start);
  const float slow = learned_step("rate(lr = 0.1)", "--epochs=1");
  const float fast = learned_step("rate(lr = 1)", "--epochs=1");
  assert_true(slow != start && fabsf(slow - start) < fabsf(fast - start));
  assert_true(learned_step("rate(decay = 0.1)", "--epochs=1") < fast);
}

/* What has no such parameters says so. */
static void test_rate_without_gradient(void **state) {
  (void)state;
  char *reports;
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last",
                 "quantizers = rate(lr = 0.1)");
  assert_int_equal(test_train("waves", "out", "--epochs=1", &reports), QNET_OK);
  assert_non_null(strstr(reports, "net.qnet:11:3: warning: 'lqnets' learns nothing by gradient"));
  free(reports);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_quantizer_rate, prepare),
      cmocka_unit_test_setup(test_rate_without_gradient, prepare),
  };
  return cmocka_run_group_tests(tests, test_make_directory, remove_directory);
}
