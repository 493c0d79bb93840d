/* Whole trainings as the command line runs them, on small sets of waves: what the tests of recipes
 * share. */
#ifndef QNET_TESTS_UNIT_RECIPE_TEST_H
#define QNET_TESTS_UNIT_RECIPE_TEST_H

#include "driver/session.h"
#include "runtime/safetensors.h"
#include "tests/unit/temporary_directory.h"
#include "tests/unit/training_test.h"
#include <sys/stat.h>

enum { TEST_TRAIN_IMAGES = 256, TEST_TEST_IMAGES = 64, TEST_MAX_ARGUMENTS = 24 };

static inline void test_write_text(const char *name, const char *text) {
  FILE *f = fopen(in_directory(name), "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

static inline void test_write_npy(const char *name, const char *type, const char *shape,
                                  const void *data, size_t size) {
  FILE *f = fopen(in_directory(name), "wb");
  assert_non_null(f);
  char header[128];
  const int length =
      snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n",
               type, shape);
  fprintf(f, "\x93NUMPY\1%c%c%c%s", 0, length, 0, header);
  fwrite(data, 1, size, f);
  fclose(f);
}

/* One split of a set in the directory `set` of the test's own; labels are optional. */
static inline void test_write_split(const char *set, const char *split, int count,
                                    const uint8_t *images, const int32_t *labels) {
  char name[64], shape[32];
  snprintf(name, sizeof name, "%s/x_%s.npy", set, split);
  snprintf(shape, sizeof shape, "(%d, 8, 8)", count);
  test_write_npy(name, "|u1", shape, images, (size_t)count * TEST_PIXELS);
  if (labels == NULL) return;
  snprintf(name, sizeof name, "%s/y_%s.npy", set, split);
  snprintf(shape, sizeof shape, "(%d,)", count);
  test_write_npy(name, "<i4", shape, labels, (size_t)count * sizeof *labels);
}

/* Waves of three classes. */
static inline void test_write_set(const char *set) {
  static uint8_t images[TEST_TRAIN_IMAGES * TEST_PIXELS];
  static int32_t labels[TEST_TRAIN_IMAGES];
  uint64_t seed = 1;
  assert_int_equal(mkdir(in_directory(set), 0777), 0);
  test_batch(&seed, TEST_TRAIN_IMAGES, images, labels);
  test_write_split(set, "train", TEST_TRAIN_IMAGES, images, labels);
  test_batch(&seed, TEST_TEST_IMAGES, images, labels);
  test_write_split(set, "test", TEST_TEST_IMAGES, images, labels);
}

/* Bright rectangles on a dark ground, without labels. */
static inline void test_write_foreign(const char *set) {
  static uint8_t images[TEST_TRAIN_IMAGES * TEST_PIXELS];
  uint64_t seed = 2;
  assert_int_equal(mkdir(in_directory(set), 0777), 0);
  for (int n = 0; n < TEST_TRAIN_IMAGES; n++) {
    const int64_t top = test_range(&seed, 0, 4), left = test_range(&seed, 0, 4);
    const int64_t height = test_range(&seed, 1, 4), width = test_range(&seed, 1, 4);
    for (int i = 0; i < TEST_PIXELS; i++) {
      const bool in = i / 8 >= top && i / 8 < top + height && i % 8 >= left && i % 8 < left + width;
      images[n * TEST_PIXELS + i] = (uint8_t)((in ? 200 : 40) + test_range(&seed, -30, 30));
    }
  }
  test_write_split(set, "train", TEST_TRAIN_IMAGES, images, NULL);
  test_write_split(set, "test", TEST_TEST_IMAGES, images, NULL);
}

/* net.qnet with this `quantize` declaration (may be empty) and these settings of the recipe. */
static inline void test_write_net(const char *quantize, const char *settings) {
  char text[1200];
  snprintf(text, sizeof text,
           "net waves(classes = 3) {\n"
           "  input image: u8[1, 8, 8] normalize(mean = 0.5, std = 0.25)\n"
           "  %s\n"
           "  x = image |> conv(8, 3x3, pad = 1) |> bn |> relu\n"
           "  x = x |> conv(8, 3x3, stride = 2, pad = 1) |> bn |> relu\n"
           "  x = x |> conv(8, 3x3, pad = 1) |> bn |> relu\n"
           "  return x |> global_avg_pool |> dense(classes)\n"
           "}\n"
           "train {\n  batch = 32  optimizer = sgd(lr = 0.05)\n  %s\n}\n",
           quantize, settings);
  test_write_text("net.qnet", text);
}

/* Splits `command`, where @ stands for the test's directory, at its spaces and runs it. What is
 * reported goes to *reports (to be freed). */
static inline qnet_status test_verb_with(const qnet_allocator *a, const char *command,
                                         qnet_status (*verb)(qnet_session *), char **reports) {
  static char words[4096];
  char *argv[TEST_MAX_ARGUMENTS + 1], *to = words;
  int argc = 0;
  for (const char *c = command; *c != '\0'; c++)
    to += *c == '@' ? sprintf(to, "%s", directory) : sprintf(to, "%c", *c);
  for (char *w = strtok(words, " "); w != NULL && argc < TEST_MAX_ARGUMENTS; w = strtok(NULL, " "))
    argv[argc++] = w;
  argv[argc] = NULL;
  qnet_session s = {.allocator = a, .diag = qnet_diag_create(qnet_allocator_system())};
  qnet_status status = qnet_options_parse(argc, argv, &s.options, s.diag);
  if (status == QNET_OK) status = verb(&s);
  size_t size = 0;
  FILE *f = open_memstream(reports, &size);
  assert_non_null(f);
  qnet_diag_print(s.diag, f, false);
  fclose(f);
  qnet_diag_destroy(s.diag);
  return status;
}

static inline qnet_status test_verb(const char *command, qnet_status (*verb)(qnet_session *),
                                    char **reports) {
  return test_verb_with(qnet_allocator_system(), command, verb, reports);
}

/* `qnetc train net.qnet --data=SET -o OUT.safetensors OPTIONS`. */
static inline qnet_status test_train_with(const qnet_allocator *a, const char *set, const char *out,
                                          const char *options, char **reports) {
  char command[1000];
  snprintf(command, sizeof command,
           "qnetc train @/net.qnet --data=@/%s -o @/%s.safetensors --threads=1 %s", set, out,
           options);
  return test_verb_with(a, command, qnet_verb_train, reports);
}

static inline qnet_status test_train(const char *set, const char *out, const char *options,
                                     char **reports) {
  return test_train_with(qnet_allocator_system(), set, out, options, reports);
}

static inline void test_must_train(const char *set, const char *out, const char *options) {
  char *reports;
  const qnet_status status = test_train(set, out, options, &reports);
  if (status != QNET_OK) fail_msg("status %d\n%s", (int)status, reports);
  free(reports);
}

/* The training must end with a report that has both texts. */
static inline void test_must_fail(const char *set, const char *options, const char *text,
                                  const char *other) {
  char *reports;
  assert_int_not_equal(test_train(set, "failed", options, &reports), QNET_OK);
  if (strstr(reports, text) == NULL || strstr(reports, other) == NULL)
    fail_msg("no '%s' with '%s' in\n%s", text, other, reports);
  free(reports);
}

static inline void test_open(const char *out, qnet_tensor_file *f) {
  char path[700];
  snprintf(path, sizeof path, "%s/%s.safetensors", directory, out);
  qnet_tensor_file_init(f, qnet_allocator_system());
  assert_int_equal(qnet_tensor_file_read(f, path, NULL), QNET_OK);
}

/* A tensor of OUT.safetensors, to be released. */
static inline qnet_blob *test_tensor(const char *out, const char *name) {
  qnet_tensor_file f;
  test_open(out, &f);
  qnet_blob *b = qnet_tensor_file_find(&f, name);
  if (b == NULL) fail_msg("no tensor '%s' in %s", name, out);
  qnet_blob_retain(b);
  qnet_tensor_file_free(&f);
  return b;
}

static inline void test_meta(const char *out, const char *key, char *value, size_t size) {
  qnet_tensor_file f;
  test_open(out, &f);
  const char *text = qnet_tensor_file_meta(&f, key);
  snprintf(value, size, "%s", text != NULL ? text : "");
  qnet_tensor_file_free(&f);
}

static inline float test_value(const char *out, const char *name) {
  qnet_blob *b = test_tensor(out, name);
  const float x = *(const float *)b->data;
  qnet_blob_release(b);
  return x;
}

/* How many test images of a labelled set OUT.safetensors tells right, as deployed. */
static inline int test_correct(const char *set, const char *out, const char *options) {
  char command[1000], *reports;
  snprintf(command, sizeof command,
           "qnetc eval @/net.qnet --data=@/%s --weights=@/%s.safetensors --engine=quant "
           "--threads=1 --predictions=@/predictions %s",
           set, out, options);
  if (test_verb(command, qnet_verb_eval, &reports) != QNET_OK) fail_msg("%s", reports);
  free(reports);
  FILE *predictions = fopen(in_directory("predictions"), "r"), *labels;
  char path[100];
  snprintf(path, sizeof path, "%s/y_test.npy", set);
  labels = fopen(in_directory(path), "rb");
  assert_true(predictions != NULL && labels != NULL);
  assert_int_equal(fseek(labels, -TEST_TEST_IMAGES * (long)sizeof(int32_t), SEEK_END), 0);
  int correct = 0, predicted, count = 0;
  int32_t label;
  for (; fscanf(predictions, "%d", &predicted) == 1; count++) {
    assert_int_equal(fread(&label, sizeof label, 1, labels), 1);
    correct += predicted == label;
  }
  fclose(predictions);
  fclose(labels);
  assert_int_equal(count, TEST_TEST_IMAGES);
  return correct;
}

#endif
