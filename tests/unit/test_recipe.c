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

enum { MAX_METRICS = 8192 };

static void read_metrics(const char *out, char text[MAX_METRICS]) {
  char path[700];
  snprintf(path, sizeof path, "%s/%s.metrics.jsonl", directory, out);
  FILE *f = fopen(path, "r");
  assert_non_null(f);
  text[fread(text, 1, MAX_METRICS - 1, f)] = '\0';
  fclose(f);
}

/* A member of the last line of metrics. */
static double last_metric(const char *metrics, const char *key) {
  const char *at = NULL;
  for (const char *next = metrics; (next = strstr(next, key)) != NULL; next++)
    at = next;
  assert_non_null(at);
  return strtod(at + strlen(key), NULL);
}

static void check_stages(const char *metrics) {
  static const char *const lines[] = {"{\"epoch\": 3, \"stage\": 1, \"bits\": \"32\"",
                                      "{\"epoch\": 4, \"stage\": 2, \"bits\": \"3/3\"",
                                      "{\"epoch\": 5, \"stage\": 3, \"bits\": \"2/2\"",
                                      "{\"epoch\": 8, \"stage\": 3, \"bits\": \"2/2\""};
  for (int i = 0; i < COUNT(lines); i++)
    if (strstr(metrics, lines[i]) == NULL) fail_msg("no '%s' in\n%s", lines[i], metrics);
  const char *frozen = strstr(metrics, "\"frozen\": true");
  assert_non_null(frozen);
  assert_null(strchr(frozen, '{')); /* the last line alone */
}

/* One run from f32 to 2 bits; what it leaves is of 2 bits and has learned. */
static void test_progressive(void **state) {
  (void)state;
  static const char *const methods[] = {"lqnets", "lsq", "qil", "lcq", "dq", "apot"};
  for (int i = 0; i < COUNT(methods); i++) {
    char quantize[100];
    snprintf(quantize, sizeof quantize, "quantize %s(weights = 2, activations = 2) %s", methods[i],
             "except first, last");
    test_write_net(quantize, "epochs = 3, 1, 4  bits = progressive(32, 3, 2)");
    test_must_train("waves", "out", "");
    char metrics[MAX_METRICS], bits[16];
    read_metrics("out", metrics);
    check_stages(metrics);
    const double correct = last_metric(metrics, "\"test_correct\": ");
    print_message("%s: %g of %d\n", methods[i], correct, TEST_TEST_IMAGES);
    assert_true(correct > 0.8 * TEST_TEST_IMAGES);
    test_meta("out", "qnet.bits", bits, sizeof bits);
    assert_string_equal(bits, "2/2");
  }
}

/* The best of a stage is not compared with that of another: f32 would win. */
static void test_best_of_stage(void **state) {
  (void)state;
  test_write_net("quantize lsq(weights = 2, activations = 2) except first, last",
                 "epochs = 4, 1  bits = progressive(32, 2)");
  test_must_train("waves", "out", "");
  char bits[16];
  test_meta("out.best", "qnet.bits", bits, sizeof bits);
  assert_string_equal(bits, "2/2");
}

static void test_progressive_refused(void **state) {
  (void)state;
  static const char quantize[] = "quantize lqnets(weights = 2, activations = 3) except first, last";
  test_write_net(quantize, "bits = progressive(32, 5, 2)");
  test_must_fail("waves", "", "net.qnet:11:26: error: a stage of 5 bits, but 'lqnets' has 1 to 4",
                 "bits = progressive(32, 5, 2)\n                         ^");
  test_write_net(quantize, "bits = progressive(32, 4, 3)");
  test_must_fail("waves", "", "net.qnet:11:29: error: the last stage has 3 bits",
                 "net.qnet:3:3: note: as 'quantize' says here");
  test_write_net(quantize, "bits = progressive(32, 3, 4)");
  test_must_fail("waves", "", "net.qnet:11:29: error: the bits of 'progressive' must descend", "^");
  test_write_net(quantize, "bits = progressive(16, 2)");
  test_must_fail("waves", "", "net.qnet:11:22: error: a stage has 1 to 8 bits, or 32", "^~");
  test_write_net(quantize, "bits = progressive(32, 2)  epochs = 1, 2, 3");
  test_must_fail("waves", "", "net.qnet:11:30: error: 3 numbers of epochs, but 'bits' has 2", "^");
  test_write_net(quantize, "epochs = 1, 2");
  test_must_fail("waves", "", "net.qnet:11:3: error: 'epochs' takes one value", "^");
}

/* Batch norm statistics behind quantizers are those of the batches that come first: with one batch
 * an epoch they are its own at once, from whatever they were. */
static void test_statistics(void **state) {
  (void)state;
  test_write_net("quantize qil(weights = 2, activations = 2) except first, last", "");
  test_must_train("waves", "f32", "--quantizer=none --epochs=1 --lr=0 --limit=32");
  test_must_train("waves", "out", "--init=@/f32.safetensors --epochs=1 --lr=0 --limit=32");
  const float mean = 10 * test_value("f32", "bn1.running_mean"); /* 0.9 * 0 + 0.1 * mean */
  const float var = 10 * test_value("f32", "bn1.running_var") - 9;
  assert_true(fabsf(mean) > 0.01f && var > 0.01f);
  assert_true(fabsf(test_value("out", "bn1.running_mean") - mean) < 1e-4f * fabsf(mean));
  assert_true(fabsf(test_value("out", "bn1.running_var") - var) < 1e-3f * var);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_quantizer_rate, prepare),
      cmocka_unit_test_setup(test_rate_without_gradient, prepare),
      cmocka_unit_test_setup(test_progressive, prepare),
      cmocka_unit_test_setup(test_best_of_stage, prepare),
      cmocka_unit_test_setup(test_progressive_refused, prepare),
      cmocka_unit_test_setup(test_statistics, prepare),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
