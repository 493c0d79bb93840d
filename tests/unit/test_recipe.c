/* Settings of the recipe have the effect that docs/language.md says. */
#include "tests/unit/recipe_test.h"
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

static int prepare(void **state) {
  clear_directory(state);
  test_write_set("waves");
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

static int count_text(const char *reports, const char *text) {
  int count = 0;
  for (const char *at = reports; (at = strstr(at, text)) != NULL; at++)
    count++;
  return count;
}

/* What has no such parameters says so. */
static void test_rate_without_gradient(void **state) {
  (void)state;
  char *reports;
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last",
                 "quantizers = rate(lr = 0.1)  bits = progressive(3, 2)");
  assert_int_equal(test_train("waves", "out", "--epochs=1", &reports), QNET_OK);
  assert_non_null(strstr(reports, "net.qnet:11:3: warning: 'lqnets' learns nothing by gradient"));
  assert_int_equal(count_text(reports, "warning: "), 1); /* not one a stage */
  free(reports);
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last",
                 "quantizers = rate(lr = 1)");
  assert_int_equal(test_train("waves", "out", "--epochs=1", &reports), QNET_OK);
  assert_int_equal(count_text(reports, "warning: "), 0); /* nothing that would change anything */
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

/* The schedule of QIL's paper, for every method that learns levels or an interval. */
static void test_papers_schedule(void **state) {
  (void)state;
  static const char *const methods[] = {"lqnets", "qil", "lcq", "dq"};
  for (int i = 0; i < COUNT(methods); i++) {
    char quantize[100], metrics[MAX_METRICS];
    snprintf(quantize, sizeof quantize, "quantize %s(weights = 2, activations = 2) %s", methods[i],
             "except first, last");
    test_write_net(quantize, "epochs = 3, 1, 1, 1, 3  bits = progressive(32, 5, 4, 3, 2)");
    test_must_train("waves", "out", "");
    read_metrics("out", metrics);
    assert_non_null(strstr(metrics, "\"stage\": 2, \"bits\": \"5/5\""));
    const double correct = last_metric(metrics, "\"test_correct\": ");
    print_message("%s: %g of %d\n", methods[i], correct, TEST_TEST_IMAGES);
    assert_true(correct > 0.8 * TEST_TEST_IMAGES);
  }
}

/* With a rate of 0 what was fitted at the first stage's bits stays, and the range goes on to the
 * next stage; what is fitted in closed form follows the weights. */
static void test_progressive_carries(void **state) {
  (void)state;
  static const struct {
    const char *method;
    float factor; /* of the first parameter, from 3 to 2 bits: of LSQ 3 steps become 1 */
  } cases[] = {{"qil", 1}, {"lcq", 1}, {"lsq", 3}};
  for (int i = 0; i < COUNT(cases); i++) {
    char quantize[100];
    snprintf(quantize, sizeof quantize,
             "quantize %s(weights = 2, activations = 2) except first, last", cases[i].method);
    test_write_net("", "epochs = 1");
    test_must_train("waves", "f32", "");
    test_write_net(quantize, "epochs = 1  quantizers = rate(lr = 0)");
    test_must_train("waves", "three", "--init=@/f32.safetensors --bits=3");
    test_write_net(quantize, "epochs = 1  quantizers = rate(lr = 0)  bits = progressive(3, 2)");
    test_must_train("waves", "two", "--init=@/f32.safetensors");
    const float three = test_value("three", "conv2.weight_quantizer.param");
    const float two = test_value("two", "conv2.weight_quantizer.param");
    if (fabsf(two - cases[i].factor * three) > 1e-6f * two)
      fail_msg("%s: %g at 3 bits, then %g", cases[i].method, (double)three, (double)two);
  }
}

static void same_tensor(const char *a, const char *b, const char *name) {
  qnet_blob *x = test_tensor(a, name), *y = test_tensor(b, name);
  if (!qnet_blob_equal(x, y)) fail_msg("'%s' of %s is not that of %s", name, a, b);
  qnet_blob_release(x);
  qnet_blob_release(y);
}

/* A net without a `quantize` line, of which one layer names its own. */
static void write_own(const char *settings) {
  char text[600];
  snprintf(text, sizeof text,
           "net waves(classes = 3) {\n"
           "  input image: u8[1, 8, 8] normalize(mean = 0.5, std = 0.25)\n"
           "  x = image |> conv(8, 3x3, pad = 1) |> bn |> relu\n"
           "  x = x |> conv(8, 3x3, pad = 1, quantize = lsq(weights = 2, activations = 3)) |> bn\n"
           "  return x |> relu |> global_avg_pool |> dense(classes)\n"
           "}\n"
           "train { batch = 32  epochs = 1  %s }\n",
           settings);
  test_write_text("net.qnet", text);
}

/* Layers that name their own bits have these or the stage's, whichever are more. */
static void test_progressive_layers(void **state) {
  (void)state;
  char metrics[MAX_METRICS];
  write_own("bits = progressive(32, 4, 2)");
  test_must_train("waves", "out", "");
  read_metrics("out", metrics);
  assert_non_null(strstr(metrics, "\"stage\": 2, \"bits\": \"4/4\""));
  assert_non_null(strstr(metrics, "\"stage\": 3, \"bits\": \"2/2\""));
  qnet_blob *levels = test_tensor("out", "conv2.input_quantizer.table.level");
  assert_int_equal(qnet_blob_elements(levels), 8);
  qnet_blob_release(levels);
  write_own("bits = progressive(32, 4, 3)");
  test_must_fail("waves", "", "the last stage has 3 bits, but the network is to have 2", "^");
  write_own("");
  test_must_train("waves", "alone", "--init=@/out.safetensors --train=quantizers");
  same_tensor("out", "alone", "conv2.weight");
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
  test_write_net(quantize, "bits = progressive(32, 8, 2)");
  test_must_fail("waves", "", "net.qnet:11:26: error: a stage of 8 bits, but 'lqnets' has 1 to 7",
                 "bits = progressive(32, 8, 2)\n                         ^");
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

static void same_weights(const char *a, const char *b) {
  static const char *const names[] = {"conv1.weight", "conv2.weight",  "conv3.weight", "bn1.weight",
                                      "bn1.bias",     "bn2.weight",    "bn2.bias",     "bn3.weight",
                                      "bn3.bias",     "dense1.weight", "dense1.bias"};
  for (int i = 0; i < COUNT(names); i++)
    same_tensor(a, b, names[i]);
}

static bool learned(const char *name) {
  qnet_blob *x = test_tensor("one", name), *y = test_tensor("more", name);
  const bool same = qnet_blob_equal(x, y);
  qnet_blob_release(x);
  qnet_blob_release(y);
  return !same;
}

/* Trains the quantizers of f32.safetensors alone, on a set, for one epoch and for some. */
static void train_quantizers(const char *methods, const char *set, const char *options) {
  char all[300];
  snprintf(all, sizeof all,
           "--train=quantizers --init=@/f32.safetensors --quantizer=%s %s --epochs=", methods,
           options);
  strcat(all, "1");
  test_must_train(set, "one", all);
  all[strlen(all) - 1] = '3';
  test_must_train(set, "more", all);
  same_weights("f32", "one");
  same_weights("f32", "more");
  assert_true(learned("conv2.input_quantizer.param"));
}

static double correct_of(const char *out) {
  char metrics[MAX_METRICS];
  read_metrics(out, metrics);
  return last_metric(metrics, "\"test_correct\": ");
}

static void prepare_f32(void) {
  test_write_net("quantize lsq(weights = 3, activations = 3) except first, last", "");
  test_must_train("waves", "f32", "--quantizer=none --epochs=8");
  assert_true(correct_of("f32") > 0.9 * TEST_TEST_IMAGES);
}

/* Every weight stays, to the byte; intervals, steps and levels learn. */
static void test_quantizers_alone(void **state) {
  (void)state;
  static const char *const methods[] = {"lqnets", "lsq", "qil", "lcq", "dq", "apot", "dorefa/pact"};
  prepare_f32();
  for (int i = 0; i < COUNT(methods); i++) {
    train_quantizers(methods[i], "waves", "");
    print_message("%s: %g of %d\n", methods[i], correct_of("more"), TEST_TEST_IMAGES);
    assert_true(correct_of("more") > 0.8 * TEST_TEST_IMAGES);
  }
  assert_true(learned("conv3.input_quantizer.param"));
}

/* On images of another kind, without labels: the f32 network says what is right, and the running
 * statistics are not those of foreign images. */
static void test_foreign_images(void **state) {
  (void)state;
  prepare_f32();
  test_write_foreign("foreign");
  train_quantizers("qil", "foreign", "--no-labels");
  for (int i = 1; i <= 3; i++) {
    char name[32];
    snprintf(name, sizeof name, "bn%d.running_var", i);
    same_tensor("f32", "more", name);
  }
  /* `correct` is how often both say the same; what counts is the network's own task. */
  const int correct = test_correct("waves", "more", "--quantizer=qil");
  print_message("agree: %g, correct: %d of %d\n", correct_of("more"), correct, TEST_TEST_IMAGES);
  assert_true(correct_of("more") > 0.8 * TEST_TEST_IMAGES);
  assert_true(correct > 0.8 * TEST_TEST_IMAGES);
  char *reports;
  assert_int_not_equal(test_train("foreign", "failed", "--init=@/f32.safetensors", &reports),
                       QNET_OK);
  assert_non_null(strstr(reports, "y_train.npy: error: there is no such file"));
  assert_non_null(strstr(reports, "--no-labels"));
  free(reports);
}

static void test_quantizers_alone_refused(void **state) {
  (void)state;
  test_write_net("quantize lsq(weights = 2, activations = 2) except first, last", "");
  test_must_fail("waves", "--train=quantizers", "say which with --init", "error");
  test_must_fail("waves", "--train=quantizers --init=@/x --quantizer=none", "no quantizers",
                 "error");
  test_must_fail("waves", "--train=quantizers --init=@/x --quantizer=dorefa",
                 "'dorefa' has nothing to learn", "error");
  test_must_fail("waves", "--train=quantizers --init=@/x --quantizer=dorefa/pact --bits=2/32",
                 "'dorefa' has nothing to learn", "error");
  test_must_fail("waves", "--train=levels", "not 'levels'", "error");
  test_must_fail("waves", "--no-labels", "add --distill=", "error");
  test_must_fail("waves", "--map=@/names", "--map says", "add --init= or --distill=");
  test_write_net("quantize lsq(weights = 2, activations = 2) except first, last",
                 "bits = progressive(32, 2)");
  test_must_fail("waves", "--train=quantizers --init=@/x",
                 "net.qnet:11:22: error: a stage of f32 has no quantizers", "^~");
}

/* What the net's line asks for is refused at its place, what options ask for is not. */
static void test_places(void **state) {
  (void)state;
  test_write_net("quantize lsq(weights = 1)", "");
  test_must_fail("waves", "", "net.qnet:3:3: error: lsq takes 2 to 8 bits for weights, not 1",
                 "^~");
  test_must_fail("waves", "--bits=1/2", "qnetc: error: lsq takes 2 to 8 bits", "not 1");
  test_write_net("quantize weights = lsq, activations = ternary", "");
  test_must_fail("waves", "", "net.qnet:3:3: error: ternary is not for activations", "^~");
  test_write_net("quantize lsq(weights = f32, activations = f32)", "");
  test_must_fail("waves", "", "net.qnet:3:12: error: f32 weights and f32 activations", "say none");
  test_write_net("quantize lsq(weights = 2)", "");
  test_must_fail("waves", "--bits=32", "qnetc: error: 32 bits of both", "say --quantizer=none");
  test_write_net("quantize lqnets(planes = 3)", "");
  test_must_fail("waves", "", "takes no number of planes", "net.qnet:3:3: note: planes = 3");
}

/* Where nothing is quantized there is nothing to go through stages. */
static void test_stages_of_nothing(void **state) {
  (void)state;
  char *reports;
  test_write_net("", "bits = progressive(32, 2)");
  assert_int_equal(test_train("waves", "out", "--epochs=1", &reports), QNET_OK);
  assert_non_null(strstr(reports, "net.qnet:11:22: warning: no quantizers, no stages"));
  free(reports);
  assert_int_equal(test_train("waves", "out", "--epochs=1 --quantizer=none", &reports), QNET_OK);
  assert_int_equal(count_text(reports, "warning: "), 0);
  free(reports);
}

/* What the source has to be warned of is said once, and what the teacher has too. */
static void test_teacher_warnings(void **state) {
  (void)state;
  char *reports;
  test_write_net("unused = 3", "epochs = 1");
  test_must_train("waves", "plain", "");
  assert_int_equal(test_train("waves", "out", "--distill=@/plain.safetensors", &reports), QNET_OK);
  assert_int_equal(count_text(reports, "warning: "), 1);
  free(reports);
  test_must_train("waves", "two", "--quantizer=lsq");
  assert_int_equal(test_train("waves", "out", "--distill=@/two.safetensors", &reports), QNET_OK);
  assert_int_equal(count_text(reports, "warning: these weights were trained for quantizers"), 1);
  free(reports);
  test_write_net("", "epochs = 1  distill = logits(weight = 0.3)");
  assert_int_equal(test_train("waves", "out", "", &reports), QNET_OK);
  assert_non_null(strstr(reports, "net.qnet:11:15: warning: no f32 network is followed"));
  free(reports);
}

static double loss_of(const char *distill, const char *out) {
  char settings[100], metrics[MAX_METRICS];
  snprintf(settings, sizeof settings, "distill = %s", distill);
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last", settings);
  test_must_train("waves", out, "--distill=@/f32.safetensors --epochs=2");
  read_metrics(out, metrics);
  return last_metric(metrics, "\"loss\": ");
}

/* A network that starts from nothing follows the logits better with hints on the way to them. */
static void test_features(void **state) {
  (void)state;
  prepare_f32();
  const double without = loss_of("logits", "without"), with = loss_of("logits, features", "with");
  print_message("loss without features %g, with features %g\n", without, with);
  assert_true(with < without);
  loss_of("features(weight = 0)", "off");
  same_weights("without", "off");
}

/* A net of its own: two layers, this input and these classes. */
static void write_other(const char *name, const char *input, int classes) {
  char text[600];
  snprintf(text, sizeof text,
           "net other {\n"
           "  input image: %s normalize(mean = 0.5, std = 0.25)\n"
           "  x = image |> conv(12, 3x3, pad = 1, name = \"stem\") |> bn |> relu\n"
           "  return x |> global_avg_pool |> dense(%d)\n"
           "}\n"
           "train { epochs = 2  batch = 32  optimizer = sgd(lr = 0.05) }\n",
           input, classes);
  test_write_text(name, text);
}

static void test_train_other(void) {
  char *reports;
  write_other("other.qnet", "u8[1, 8, 8]", 3);
  if (test_verb("qnetc train @/other.qnet --data=@/waves -o @/other.safetensors --threads=1",
                qnet_verb_train, &reports) != QNET_OK)
    fail_msg("%s", reports);
  free(reports);
}

/* Following the mean of equal networks is following one of them, also where it is named as another
 * one; a different one pulls elsewhere, and is part of what a resumed run must share. */
static void test_teachers(void **state) {
  (void)state;
  prepare_f32();
  test_train_other();
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last", "epochs = 2");
  test_must_train("waves", "one", "--distill=@/f32.safetensors");
  test_must_train("waves", "two", "--distill=@/f32.safetensors --distill=@/f32.safetensors");
  same_weights("one", "two");
  test_must_train("waves", "named", "--distill=@/net.qnet:@/f32.safetensors");
  same_weights("one", "named");
  static const char both[] =
      "--distill=@/f32.safetensors --distill=@/other.qnet:@/other.safetensors";
  char one[MAX_METRICS], mean[MAX_METRICS];
  test_must_train("waves", "mean", both);
  read_metrics("one", one);
  read_metrics("mean", mean);
  assert_string_not_equal(one, mean);
  char *reports;
  assert_int_not_equal(
      test_train("waves", "mean", "--resume --distill=@/f32.safetensors", &reports), QNET_OK);
  assert_non_null(strstr(reports, "teacher"));
  free(reports);
}

static void same_file(const char *name, const char *other) {
  char command[1500], path[700];
  snprintf(path, sizeof path, "%s", in_directory(name));
  snprintf(command, sizeof command, "cmp -s %s %s", path, in_directory(other));
  if (system(command) != 0) fail_msg("%s and %s differ", name, other);
}

/* All files of a run. */
static void same_run(const char *run, const char *other) {
  static const char *const ends[] = {".safetensors", ".best.safetensors", ".metrics.jsonl",
                                     ".ckpt"};
  for (int i = 0; i < COUNT(ends); i++) {
    char name[64], with[64];
    snprintf(name, sizeof name, "%s%s", run, ends[i]);
    snprintf(with, sizeof with, "%s%s", other, ends[i]);
    same_file(name, with);
  }
}

/* Doubles all answers of a file; the checksum follows unless `broken`. */
static void change_answers(bool broken) {
  qnet_tensor_file f;
  test_open("answers", &f);
  qnet_blob *logits = qnet_tensor_file_find(&f, "logits");
  for (int64_t i = 0; i < qnet_blob_elements(logits); i++)
    ((float *)logits->data)[i] *= 2;
  char sum[QNET_CHECKSUM_SIZE];
  qnet_tensor_file_checksum(&f, "checksum", sum);
  if (!broken) assert_int_equal(qnet_tensor_file_set_meta(&f, "checksum", sum), QNET_OK);
  assert_int_equal(qnet_tensor_file_write(&f, in_directory("answers.safetensors"), NULL), QNET_OK);
  qnet_tensor_file_free(&f);
}

#define KEPT   "--distill-cache=@/answers.safetensors"
#define CACHED "--distill=@/f32.safetensors " KEPT

/* Answers that are kept change nothing, and are what is used: of a second method with no new ones.
 */
static void test_kept_answers(void **state) {
  (void)state;
  prepare_f32();
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last",
                 "epochs = 2  augment = crop(pad = 1), flip");
  test_must_train("waves", "a", "--distill=@/f32.safetensors");
  test_must_train("waves", "b", "--distill=@/f32.safetensors --quantizer=lsq");
  test_must_train("waves", "kept", CACHED);
  same_run("a", "kept");
  test_must_train("waves", "first", "--distill=@/f32.safetensors --distill-cache=@/first.answers");
  same_file("answers.safetensors", "first.answers");
  test_must_train("waves", "kept", CACHED " --quantizer=lsq");
  same_run("b", "kept");
  same_file("answers.safetensors", "first.answers");
  change_answers(false);
  char b[MAX_METRICS], changed[MAX_METRICS];
  test_must_train("waves", "kept", CACHED " --quantizer=lsq");
  read_metrics("b", b);
  read_metrics("kept", changed);
  assert_string_not_equal(b, changed);
}

/* Also where answers take the place of labels. */
static void test_kept_labels(void **state) {
  (void)state;
  static const char options[] =
      "--init=@/f32.safetensors --no-labels --train=quantizers --epochs=2";
  char command[200];
  prepare_f32();
  test_write_net("quantize qil(weights = 2, activations = 2) except first, last", "");
  test_must_train("waves", "a", options);
  snprintf(command, sizeof command, "%s " KEPT, options);
  for (int i = 0; i < 2; i++) {
    test_must_train("waves", "kept", command);
    same_run("a", "kept");
  }
}

/* Damage and files of something else are refused before the training, and stay as they are. */
static void test_kept_answers_refused(void **state) {
  (void)state;
  static const char not_whole[] = "not a whole file of a network's answers";
  prepare_f32();
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last", "epochs = 1");
  test_must_train("waves", "a", CACHED);
  test_must_fail("waves", "--distill=@/a.safetensors " KEPT, "answers of another network",
                 "with --distill-cache");
  test_must_fail("waves", CACHED " --threads=2", "answers of another network", "2 threads");
  test_must_train("waves", "copy", "--quantizer=none --epochs=1");
  test_must_train("waves", "same", "--quantizer=none --epochs=1");
  test_must_fail("waves", "--distill=@/f32.safetensors --distill-cache=@/copy.safetensors",
                 not_whole, "remove it");
  same_file("copy.safetensors", "same.safetensors");
  change_answers(true);
  test_must_fail("waves", CACHED, not_whole, "answers.safetensors: error");
  assert_int_equal(truncate(in_directory("answers.safetensors"), 2000), 0);
  test_must_fail("waves", CACHED, "answers.safetensors: error", "");
  test_must_fail("waves", "--distill=@/f32.safetensors --distill-cache=@/none/answers",
                 "none/answers: error:", "No such file");
  test_must_fail("waves", KEPT, "add --distill=", "error");
  test_must_fail("waves", "--distill=@/f32.safetensors --distill-cache=@/failed.safetensors",
                 "name a file of its own", "failed.safetensors");
  test_must_fail("waves", "--distill=@/f32.safetensors --distill-cache=@/failed.ckpt",
                 "name a file of its own", "failed.ckpt");
  test_must_fail("waves", "--distill=@/f32.safetensors --distill-cache=-", "name a file of its own",
                 "error");
  test_write_net("", "epochs = 1  distill = features");
  test_must_fail("waves", CACHED, "net.qnet:11:", "features are not kept");
}

/* The file of answers outgrows the disk before the checkpoint does: training goes on without. */
static void test_kept_answers_of_full_disk(void **state) {
  (void)state;
  prepare_f32();
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last", "epochs = 16");
  test_must_train("waves", "a", "--distill=@/f32.safetensors");
  struct stat checkpoint, answers;
  assert_int_equal(stat(in_directory("a.ckpt"), &checkpoint), 0);
  char *reports;
  struct rlimit limit, none;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &none), 0);
  limit = none;
  limit.rlim_cur = (rlim_t)checkpoint.st_size + 1;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const qnet_status status = test_train("waves", "kept", CACHED, &reports);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
  if (status != QNET_OK || strstr(reports, "training goes on without") == NULL)
    fail_msg("status %d\n%s", (int)status, reports);
  free(reports);
  same_run("a", "kept");
  assert_int_equal(stat(in_directory("answers.safetensors"), &answers), 0);
  assert_true(answers.st_size > 0 && answers.st_size <= checkpoint.st_size);
  test_must_train("waves", "kept", CACHED); /* what was saved is whole */
  same_run("a", "kept");
}

static void test_teachers_refused(void **state) {
  (void)state;
  static const char other[] = "--distill=@/other.qnet:@/other.safetensors";
  prepare_f32();
  test_train_other();
  test_write_net("", "epochs = 1  distill = features");
  test_must_fail("waves", other, "net.qnet:11:", "features are those of the network itself");
  test_must_fail("waves", "--distill=@/f32.safetensors --distill=@/f32.safetensors",
                 "net.qnet:11:", "features are those of the network itself");
  test_write_net("", "epochs = 1");
  test_must_fail("waves", "--distill=@/other.qnet:", "names no weights", "error");
  test_must_fail("waves", "--distill=@/missing.qnet:@/x", "missing.qnet: error:", "cannot open");
  test_must_fail("waves", "--distill=@/other.qnet:@/missing", "missing: error:", "cannot open");
  write_other("other.qnet", "u8[1, 8, 8]", 4);
  test_must_fail("waves", other, "this network has 4 classes, 'waves' has 3", "other.qnet");
  write_other("other.qnet", "u8[1, 8, 9]", 3);
  test_must_fail("waves", other, "this network has another input than 'waves'", "other.qnet");
}

/* The n-th allocation of a training fails, and for even n all behind it; returns how many there
 * were. One alone may be of what can be done without, such as facts for LLVM. */
static uint64_t train_failing(const char *set, const char *options, uint64_t n) {
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, n, n % 2 == 0);
  char *reports;
  const qnet_status status = test_train_with(&f.base, set, "memory", options, &reports);
  const bool passed_over = status == QNET_OK && n % 2 == 1;
  if (status != (f.failed ? QNET_NO_MEMORY : QNET_OK) && !passed_over)
    fail_msg("allocation %llu: status %d\n%s", (unsigned long long)n, (int)status, reports);
  free(reports);
  if (f.live_bytes)
    fail_msg("allocation %llu: %zu bytes leak", (unsigned long long)n, f.live_bytes);
  return f.count;
}

/* A run that memory ended goes on with what it kept. */
static void test_interrupted_with_answers(void **state) {
  (void)state;
  prepare_f32();
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first, last", "epochs = 3");
  test_must_train("waves", "whole", "--distill=@/f32.safetensors");
  const uint64_t count = train_failing("waves", CACHED, 0);
  assert_int_equal(unlink(in_directory("answers.safetensors")), 0);
  int begun = 0;
  for (uint64_t k = 4; k < 8; k++) {
    unlink(in_directory("memory.ckpt"));
    unlink(in_directory("memory.ckpt.prev"));
    train_failing("waves", CACHED, count * k / 8 / 2 * 2);
    begun += access(in_directory("memory.ckpt"), F_OK) == 0;
    test_must_train("waves", "memory", CACHED " --resume");
    same_run("whole", "memory");
  }
  assert_true(begun > 0);
}

/* Stages, teacher and statistics without memory at some twenty places each. */
static void test_no_memory(void **state) {
  (void)state;
  static const char *const options[] = {
      "--epochs=1 --limit=32",
      "--init=@/f32.safetensors --distill=@/f32.safetensors --epochs=1 --limit=32",
      "--init=@/f32.safetensors --no-labels --train=quantizers --epochs=1 --limit=32",
      "--distill=@/f32.safetensors --distill=@/net.qnet:@/f32.safetensors --epochs=1 --limit=32",
      CACHED " --epochs=1 --limit=32"};
  for (int i = 0; i < COUNT(options); i++) {
    test_write_net("quantize qil(weights = 2, activations = 2) except first, last",
                   i == 0   ? "bits = progressive(32, 2)"
                   : i >= 3 ? ""
                            : "distill = features");
    if (i == 0) test_must_train("waves", "f32", "--quantizer=none --epochs=1 --limit=32");
    const uint64_t count = train_failing("waves", options[i], 0);
    for (uint64_t n = 7; n <= count; n += 1 + count / 20) {
      unlink(in_directory("answers.safetensors"));
      train_failing("waves", options[i], n);
    }
  }
}

int main(void) {
  signal(SIGXFSZ, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_quantizer_rate, prepare),
      cmocka_unit_test_setup(test_rate_without_gradient, prepare),
      cmocka_unit_test_setup(test_progressive, prepare),
      cmocka_unit_test_setup(test_papers_schedule, prepare),
      cmocka_unit_test_setup(test_progressive_carries, prepare),
      cmocka_unit_test_setup(test_progressive_layers, prepare),
      cmocka_unit_test_setup(test_best_of_stage, prepare),
      cmocka_unit_test_setup(test_progressive_refused, prepare),
      cmocka_unit_test_setup(test_statistics, prepare),
      cmocka_unit_test_setup(test_quantizers_alone, prepare),
      cmocka_unit_test_setup(test_foreign_images, prepare),
      cmocka_unit_test_setup(test_quantizers_alone_refused, prepare),
      cmocka_unit_test_setup(test_places, prepare),
      cmocka_unit_test_setup(test_stages_of_nothing, prepare),
      cmocka_unit_test_setup(test_teacher_warnings, prepare),
      cmocka_unit_test_setup(test_features, prepare),
      cmocka_unit_test_setup(test_teachers, prepare),
      cmocka_unit_test_setup(test_teachers_refused, prepare),
      cmocka_unit_test_setup(test_kept_answers, prepare),
      cmocka_unit_test_setup(test_kept_labels, prepare),
      cmocka_unit_test_setup(test_kept_answers_of_full_disk, prepare),
      cmocka_unit_test_setup(test_interrupted_with_answers, prepare),
      cmocka_unit_test_setup(test_kept_answers_refused, prepare),
      cmocka_unit_test_setup(test_no_memory, prepare),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
