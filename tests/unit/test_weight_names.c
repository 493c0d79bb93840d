/* Weights files whose layers have other names than the network's: by order and shape, by a map. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "driver/weight_names.h"
#include "driver/weights.h"
#include "frontend/frontend.h"
#include "temporary_directory.h"
#include <string.h>

enum { BODY = 11 };

static const char source[] = "net t {\n"
                             "  input image: u8[2, 4, 4] normalize(mean = 0.5, std = 0.5)\n"
                             "  x = image |> conv(3, 1x1, name = \"stem\") |> bn |> relu\n"
                             "  repeat 11 { x = x |> conv(3, 3x3, pad = 1) |> bn |> relu }\n"
                             "  return x |> flatten |> dense(5, name = \"head\")\n"
                             "}\n";

typedef struct fixture {
  qnet_diag *diag;
  qnet_program program;
  qnet_tensor_file file;
  char printed[16384];
} fixture;

static void put(qnet_tensor_file *f, const char *name, int rank, const int64_t *dim, float value) {
  qnet_blob *b = qnet_blob_create(f->allocator, QNET_F32, rank, dim);
  assert_non_null(b);
  for (int64_t i = 0; i < qnet_blob_elements(b); i++)
    ((float *)b->data)[i] = value + (float)i / 1024;
  assert_int_equal(qnet_tensor_file_set(f, name, b), QNET_OK);
  qnet_blob_release(b);
}

static void put_norm(qnet_tensor_file *f, const char *layer, float value) {
  static const char *const parts[] = {"weight", "bias", "running_mean", "running_var"};
  char name[64];
  for (int i = 0; i < 4; i++) {
    snprintf(name, sizeof name, "%s.%s", layer, parts[i]);
    put(f, name, 1, (int64_t[]){3}, value);
  }
  qnet_blob *counter = qnet_blob_create(f->allocator, QNET_I64, 0, NULL);
  snprintf(name, sizeof name, "%s.num_batches_tracked", layer);
  assert_int_equal(qnet_tensor_file_set(f, name, counter), QNET_OK);
  qnet_blob_release(counter);
}

/* The file as PyTorch's modules would name it: conv1, bn1, layers.0.conv, layers.0.norm, ..., fc.
 */
static void put_torch(qnet_tensor_file *f, int layers) {
  char name[64];
  put(f, "conv1.weight", 4, (int64_t[]){3, 2, 1, 1}, 100);
  put_norm(f, "bn1", 100);
  for (int i = 0; i < layers; i++) {
    snprintf(name, sizeof name, "layers.%d.conv.weight", i);
    put(f, name, 4, (int64_t[]){3, 3, 3, 3}, (float)i);
    snprintf(name, sizeof name, "layers.%d.norm", i);
    put_norm(f, name, (float)i);
  }
  put(f, "fc.weight", 2, (int64_t[]){5, 48}, 7);
  put(f, "fc.bias", 1, (int64_t[]){5}, 7);
}

static void open_fixture(fixture *t, const char *text) {
  t->diag = qnet_diag_create(qnet_allocator_system());
  assert_int_equal(qnet_frontend_parse(qnet_allocator_system(), "t.qnet", text, strlen(text), NULL,
                                       0, &t->program, t->diag),
                   QNET_OK);
  qnet_tensor_file_init(&t->file, qnet_allocator_system());
  memset(t->printed, 0, sizeof t->printed);
}

static void close_fixture(fixture *t) {
  qnet_tensor_file_free(&t->file);
  qnet_module_destroy(t->program.module);
  qnet_diag_destroy(t->diag);
}

/* Printing empties the diagnostics: what was printed is kept. */
static void expect_message(fixture *t, const char *text) {
  FILE *f = fmemopen(t->printed, sizeof t->printed - 1, "a");
  assert_non_null(f);
  qnet_diag_print(t->diag, f, false);
  fclose(f);
  if (!strstr(t->printed, text)) fail_msg("no '%s' in:\n%s", text, t->printed);
}

static qnet_status match(fixture *t, const char *map) {
  return qnet_weight_names_match(t->program.module, &t->file, map, "w.safetensors", true, t->diag);
}

static qnet_status load(fixture *t) {
  return qnet_weights_load(t->program.module, &t->file, "w.safetensors", t->diag);
}

static const float *content(const fixture *t, const char *name) {
  const qnet_symbol *s = qnet_symbol_find(t->program.module, name);
  assert_non_null(s);
  assert_non_null(s->blob);
  return s->blob->data;
}

/* Layer 10 comes behind layer 9; convolution weights change their layout. */
static void test_order_and_shape(void **state) {
  (void)state;
  fixture t;
  open_fixture(&t, source);
  put_torch(&t.file, BODY);
  assert_int_equal(match(&t, NULL), QNET_OK);
  expect_message(&t, "matched by order and shape");
  expect_message(&t, "note: conv11 = layers.10.conv");
  expect_message(&t, "note: bn2 = layers.0.norm");
  expect_message(&t, "note: head = fc");
  assert_int_equal(load(&t), QNET_OK);
  /* @conv1 is layers.0.conv: the file's own conv1 is of another shape. */
  for (int i = 0; i < BODY; i++) {
    char name[64];
    snprintf(name, sizeof name, "conv%d.weight", i + 1);
    const float *w = content(&t, name);
    assert_true(w[0] == (float)i);
    /* o = 0, kh = 0, kw = 1, i = 2 is element 2 * 9 + 1 of the file. */
    assert_true(w[3 + 2] == (float)i + 19.0f / 1024);
    snprintf(name, sizeof name, "bn%d.running_var", i + 2);
    assert_true(content(&t, name)[0] == (float)i);
  }
  assert_true(content(&t, "stem.weight")[0] == 100);
  assert_true(content(&t, "head.weight")[49] == 7 + 49.0f / 1024);
  close_fixture(&t);
}

/* One layer more on one side: nothing says which ones belong together. */
static void test_ambiguous(void **state) {
  (void)state;
  fixture t;
  open_fixture(&t, source);
  put_torch(&t.file, BODY + 1);
  assert_int_equal(match(&t, NULL), QNET_OK);
  assert_int_equal(load(&t), QNET_ERROR);
  expect_message(&t, "has no use for: layers.0.conv.weight");
  expect_message(&t, "tensors that the network needs are missing: ");
  assert_null(qnet_tensor_file_find(&t.file, "conv2.weight"));
  close_fixture(&t);
}

static void test_equal_names(void **state) {
  (void)state;
  fixture t;
  open_fixture(&t, "net t {\n  input image: f32[3, 4, 4]\n"
                   "  x = image |> conv(3, 1x1, name = \"b\") |> conv(3, 1x1, name = \"a\")\n"
                   "  return x |> flatten\n}\n");
  put(&t.file, "a.weight", 4, (int64_t[]){3, 3, 1, 1}, 1);
  put(&t.file, "b.weight", 4, (int64_t[]){3, 3, 1, 1}, 2);
  assert_int_equal(match(&t, NULL), QNET_OK);
  assert_int_equal(qnet_diag_warning_count(t.diag), 0);
  assert_int_equal(load(&t), QNET_OK);
  assert_true(content(&t, "a.weight")[0] == 1 && content(&t, "b.weight")[0] == 2);
  close_fixture(&t);
}

static const char *write_map(const char *text) {
  const char *path = in_directory("map");
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
  return path;
}

static const char two[] = "net t {\n  input image: f32[3, 8, 8]\n"
                          "  return image |> conv(3, 3x3) |> conv(3, 3x3) |> flatten\n}\n";

static void open_two(fixture *t) {
  open_fixture(t, two);
  put(&t->file, "a.weight", 4, (int64_t[]){3, 3, 3, 3}, 1);
  put(&t->file, "conv1.weight", 4, (int64_t[]){3, 3, 3, 3}, 2);
}

static void test_map(void **state) {
  (void)state;
  fixture t;
  open_two(&t);
  assert_int_equal(match(&t, write_map("# the other way\n\nconv2 = conv1\n  conv1=a # first")),
                   QNET_OK);
  assert_int_equal(load(&t), QNET_OK);
  assert_true(content(&t, "conv1.weight")[0] == 1 && content(&t, "conv2.weight")[0] == 2);
  assert_int_equal(qnet_diag_warning_count(t.diag), 0);
  close_fixture(&t);
}

/* What quantizers learned goes with its layer, also where codes are all that a layer has. */
static void test_quantizers(void **state) {
  (void)state;
  fixture t;
  open_fixture(&t, two);
  put(&t.file, "a.weight", 4, (int64_t[]){3, 3, 3, 3}, 1);
  put(&t.file, "a.weight_quantizer.codes", 1, (int64_t[]){21}, 1);
  put(&t.file, "packed.weight_quantizer.codes", 1, (int64_t[]){21}, 2);
  put(&t.file, "packed.input_quantizer.table.scale", 1, (int64_t[]){1}, 2);
  assert_int_equal(qnet_tensor_file_set_meta(&t.file, "qnet.site.packed.input_quantizer", "lsq 2"),
                   QNET_OK);
  assert_int_equal(match(&t, write_map("conv1 = a\nconv2 = packed\n")), QNET_OK);
  assert_non_null(qnet_tensor_file_find(&t.file, "conv1.weight_quantizer.codes"));
  assert_non_null(qnet_tensor_file_find(&t.file, "conv2.weight_quantizer.codes"));
  assert_non_null(qnet_tensor_file_find(&t.file, "conv2.input_quantizer.table.scale"));
  const char *method = qnet_tensor_file_meta(&t.file, "qnet.site.conv2.input_quantizer");
  assert_non_null(method);
  assert_string_equal(method, "lsq 2");
  assert_null(qnet_tensor_file_meta(&t.file, "qnet.site.packed.input_quantizer"));
  close_fixture(&t);
}

static void test_map_errors(void **state) {
  (void)state;
  static const struct {
    const char *map, *message;
  } cases[] = {{"conv2 a\n", "line 1: not LAYER = LAYER OF THE FILE: 'conv2 a'"},
               {"\nconv3 = a\n", "line 2: the network has no layer 'conv3'"},
               {"conv2 = b\n", "line 1: w.safetensors has no layer 'b'"},
               {"conv2 = a\nconv1 = a\n", "line 2: 'a' is 'conv2' already"},
               {"conv1 = a\n", "two tensors would become 'conv1.weight'"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    fixture t;
    open_two(&t);
    assert_int_equal(match(&t, write_map(cases[i].map)), QNET_ERROR);
    expect_message(&t, cases[i].message);
    close_fixture(&t);
  }
}

/* A part of the weights is a start; none is a mistake. */
static void test_load_some(void **state) {
  (void)state;
  fixture t;
  open_two(&t);
  qnet_module *m = t.program.module;
  assert_int_equal(qnet_weights_load_some(m, &t.file, "w.safetensors", t.diag), QNET_OK);
  expect_message(&t, "these start from initial values, the file lacks them: conv2.weight");
  expect_message(&t, "has no use for: a.weight");
  assert_int_equal(qnet_weights_init(m, 1, t.diag), QNET_OK);
  assert_true(content(&t, "conv1.weight")[0] == 2 && content(&t, "conv2.weight")[0] != 0);
  close_fixture(&t);
  open_fixture(&t, two);
  put(&t.file, "b.bias", 1, (int64_t[]){3}, 1);
  assert_int_equal(qnet_weights_load_some(t.program.module, &t.file, "w.safetensors", t.diag),
                   QNET_ERROR);
  close_fixture(&t);
}

/* Every allocation of the pairing fails once: a status, and nothing is lost. */
static void test_out_of_memory(void **state) {
  (void)state;
  qnet_status status = QNET_NO_MEMORY;
  for (uint64_t n = 1; status != QNET_OK; n++) {
    qnet_failing_allocator a;
    fixture t;
    open_fixture(&t, source);
    put_torch(&t.file, BODY);
    qnet_failing_allocator_init(&a, n, 0);
    const qnet_allocator *own = t.program.module->allocator;
    t.program.module->allocator = &a.base;
    status = match(&t, NULL);
    t.program.module->allocator = own;
    close_fixture(&t);
    assert_true(status == QNET_OK || status == QNET_NO_MEMORY);
    assert_true(status == QNET_NO_MEMORY || !a.failed);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_order_and_shape), cmocka_unit_test(test_ambiguous),
      cmocka_unit_test(test_equal_names),     cmocka_unit_test(test_map),
      cmocka_unit_test(test_map_errors),      cmocka_unit_test(test_load_some),
      cmocka_unit_test(test_quantizers),      cmocka_unit_test(test_out_of_memory),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
