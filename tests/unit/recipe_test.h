/* Whole trainings as the command line runs them, on small sets of waves: what the tests of recipes
 * share. */
#ifndef QNET_TESTS_UNIT_RECIPE_TEST_H
#define QNET_TESTS_UNIT_RECIPE_TEST_H

#include "driver/session.h"
#include "runtime/safetensors.h"
#include "tests/unit/temporary_directory.h"
#include "tests/unit/training_test.h"

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
static inline void test_write_split(const char *set, const char *split, int count, uint64_t seed,
                                    bool labelled) {
  static uint8_t images[TEST_TRAIN_IMAGES * TEST_PIXELS];
  static int32_t labels[TEST_TRAIN_IMAGES];
  char name[64], shape[32];
  test_batch(&seed, count, images, labels);
  snprintf(name, sizeof name, "%s/x_%s.npy", set, split);
  snprintf(shape, sizeof shape, "(%d, 8, 8)", count);
  test_write_npy(name, "|u1", shape, images, (size_t)count * TEST_PIXELS);
  if (!labelled) return;
  snprintf(name, sizeof name, "%s/y_%s.npy", set, split);
  snprintf(shape, sizeof shape, "(%d,)", count);
  test_write_npy(name, "<i4", shape, labels, (size_t)count * sizeof *labels);
}

static inline void test_write_set(const char *set, uint64_t seed, bool labelled) {
  char command[700];
  snprintf(command, sizeof command, "mkdir -p '%s'", in_directory(set));
  assert_int_equal(system(command), 0);
  test_write_split(set, "train", TEST_TRAIN_IMAGES, seed, labelled);
  test_write_split(set, "test", TEST_TEST_IMAGES, seed + 1, labelled);
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

/* `qnetc train net.qnet --data=SET -o OUT.safetensors OPTIONS...`, where options are separated by
 * spaces and @ stands for the test's directory. What is reported goes to *reports (to be freed). */
static inline qnet_status test_train_with(const qnet_allocator *a, const char *set, const char *out,
                                          const char *options, char **reports) {
  static char words[4096];
  char *argv[TEST_MAX_ARGUMENTS + 1], *to = words;
  int argc = 0;
  to += snprintf(words, 2000,
                 "qnetc train %s/net.qnet --data=%s/%s -o %s/%s.safetensors --threads=1 ",
                 directory, directory, set, directory, out);
  for (const char *c = options; *c != '\0'; c++)
    to += *c == '@' ? sprintf(to, "%s", directory) : sprintf(to, "%c", *c);
  for (char *w = strtok(words, " "); w != NULL && argc < TEST_MAX_ARGUMENTS; w = strtok(NULL, " "))
    argv[argc++] = w;
  argv[argc] = NULL;
  qnet_session s = {.allocator = a, .diag = qnet_diag_create(qnet_allocator_system())};
  qnet_status status = qnet_options_parse(argc, argv, &s.options, s.diag);
  if (status == QNET_OK) status = qnet_verb_train(&s);
  size_t size = 0;
  FILE *f = open_memstream(reports, &size);
  assert_non_null(f);
  qnet_diag_print(s.diag, f, false);
  fclose(f);
  qnet_diag_destroy(s.diag);
  return status;
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

#endif
