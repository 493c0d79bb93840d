/* Packed weights: every engine computes on them as on the weights that they were packed from, for
 * every method and number of bits; damaged files and other networks get a message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "driver/model.h"
#include "driver/packed.h"
#include "driver/predictor.h"
#include "driver/refit.h"
#include "driver/weights.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "passes/quantizer.h"
#include "support/file.h"
#include "tests/unit/temporary_directory.h"
#include <math.h>
#include <string.h>

enum { PIXELS = 64, CLASSES = 4, IMAGES = 3 };

/* ---- networks ------------------------------------------------------------------------------ */

typedef struct files {
  char net[600], weights[600], packed[600];
} files;

static files name_files(void) {
  files f;
  snprintf(f.net, sizeof f.net, "%s", in_directory("net.qnet"));
  snprintf(f.weights, sizeof f.weights, "%s", in_directory("w.safetensors"));
  snprintf(f.packed, sizeof f.packed, "%s", in_directory("p.safetensors"));
  return f;
}

static void write_net(const files *f, const char *quantize) {
  char text[1024];
  const int n = snprintf(text, sizeof text,
                         "net small(classes = 4) {\n"
                         "  input image: u8[1, 8, 8] normalize(mean = [0.5], std = [0.25])\n"
                         "  quantize %s\n"
                         "  x = image |> conv(4, 3x3, pad = 1) |> bn |> relu |> max_pool(2)\n"
                         "  x = relu(x + (x |> conv(4, 3x3, pad = 1) |> bn))\n"
                         "  return x |> conv(6, 1x1, stride = 2) |> bn |> relu |> global_avg_pool"
                         " |> dense(classes)\n}\n",
                         quantize);
  assert_int_equal(qnet_file_write(qnet_allocator_system(), f->net, text, (size_t)n, NULL),
                   QNET_OK);
}

static void open_session(qnet_session *s, const char *net, const char *weights) {
  *s = (qnet_session){.allocator = qnet_allocator_system(),
                      .diag = qnet_diag_create(qnet_allocator_system())};
  assert_non_null(s->diag);
  char program[] = "qnetc", verb[] = "run", given[] = "--weights=x", image[] = "x", input[] = "x";
  char *argv[] = {program, verb, input, image, given, NULL};
  assert_int_equal(qnet_options_parse(5, argv, &s->options, s->diag), QNET_OK);
  s->options.input = net;
  s->options.weights = weights;
}

static void need(const qnet_session *s, qnet_status status) {
  if (status != QNET_OK) qnet_diag_print(s->diag, stderr, false);
  assert_int_equal(status, QNET_OK);
}

/* Batch norms that shift, scale and turn round. */
static void vary_batch_norms(qnet_module *m) {
  uint32_t x = 12345;
  for (qnet_symbol *s = m->first_symbol; s; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE || s->type->rank != 1 || !s->blob) continue;
    const bool positive = strstr(s->name, "running_var") != NULL;
    for (int64_t i = 0; i < qnet_blob_elements(s->blob); i++) {
      x = x * 1664525 + 1013904223;
      const float r = (float)(x >> 8) / (float)(1 << 24);
      ((float *)s->blob->data)[i] = positive ? 0.5f + r : 2 * r - 0.7f;
    }
  }
}

/* A network as training leaves it: f32 weights, quantizer parameters, tables and codes. */
static void write_weights(const files *f) {
  qnet_session s;
  qnet_program p;
  open_session(&s, f->net, NULL);
  need(&s, qnet_session_program(&s, &p));
  need(&s, qnet_weights_init(p.module, 1, s.diag));
  vary_batch_norms(p.module);
  need(&s, qnet_model_insert_quantizers(&s, &p));
  need(&s, qnet_refit(&s, p.module, NULL));
  qnet_tensor_file w;
  qnet_tensor_file_init(&w, s.allocator);
  need(&s, qnet_weights_store(p.module, &w, s.diag));
  need(&s, qnet_tensor_file_write(&w, f->weights, s.diag));
  qnet_tensor_file_free(&w);
  qnet_module_destroy(p.module);
  qnet_diag_destroy(s.diag);
}

static void write_packed(const files *f, const char *from, const char *to) {
  qnet_session s;
  qnet_program p;
  open_session(&s, f->net, from);
  need(&s, qnet_model_load(&s, &p));
  assert_int_equal(qnet_diag_warning_count(s.diag), 0);
  qnet_tensor_file packed;
  qnet_tensor_file_init(&packed, s.allocator);
  need(&s, qnet_packed_store(p.module, &packed, s.diag));
  need(&s, qnet_tensor_file_write(&packed, to, s.diag));
  qnet_tensor_file_free(&packed);
  qnet_module_destroy(p.module);
  qnet_diag_destroy(s.diag);
}

/* ---- the same numbers ---------------------------------------------------------------------- */

/* What all targets are made of: the module behind `freeze`, with all constants. */
static void print_frozen(const files *f, const char *weights, qnet_strbuf *out) {
  qnet_session s;
  qnet_program p;
  const qnet_pipeline_options options = {0};
  open_session(&s, f->net, weights);
  need(&s, qnet_model_load(&s, &p));
  need(&s, qnet_pipeline_run(p.module, qnet_pipeline_to(QNET_LEVEL_QUANT), &options, NULL, s.diag));
  qnet_strbuf_init(out, s.allocator);
  qnet_module_print(p.module, 0, out);
  qnet_module_destroy(p.module);
  qnet_diag_destroy(s.diag);
}

static void predict(const files *f, const char *weights, qnet_engine_kind kind, float *logits) {
  qnet_session s;
  qnet_program p;
  qnet_predictor *predictor;
  open_session(&s, f->net, weights);
  need(&s, qnet_model_load(&s, &p));
  need(&s, qnet_predictor_create(s.allocator, p.module, kind, NULL, &predictor, s.diag));
  uint8_t images[IMAGES * PIXELS];
  for (int i = 0; i < IMAGES * PIXELS; i++)
    images[i] = (uint8_t)(i * i * 7 + i / 3);
  need(&s, qnet_predictor_logits(predictor, images, IMAGES, logits, s.diag));
  qnet_predictor_destroy(predictor);
  qnet_module_destroy(p.module);
  qnet_diag_destroy(s.diag);
}

static void expect_same_module(const files *f, const char *quantize) {
  qnet_strbuf a, b;
  print_frozen(f, f->weights, &a);
  print_frozen(f, f->packed, &b);
  if (strcmp(qnet_strbuf_text(&a), qnet_strbuf_text(&b)) != 0)
    fail_msg("%s: packed weights give another network", quantize);
  qnet_strbuf_free(&a);
  qnet_strbuf_free(&b);
}

static void expect_same_logits(const files *f, qnet_engine_kind kind, const char *quantize) {
  float a[IMAGES * CLASSES], b[IMAGES * CLASSES];
  predict(f, f->weights, kind, a);
  predict(f, f->packed, kind, b);
  for (int i = 0; i < IMAGES * CLASSES; i++)
    assert_true(isfinite(a[i]));
  if (memcmp(a, b, sizeof a) != 0) fail_msg("%s: engine %d gives other logits", quantize, kind);
}

static void make_both(const files *f, const char *quantize) {
  write_net(f, quantize);
  write_weights(f);
  write_packed(f, f->weights, f->packed);
}

/* The bits nearest to `bits` that the method has for the role, 0: none. */
static int bits_for(const qnet_quantizer *q, qnet_role role, int bits) {
  const qnet_bit_range r = q->bits[role];
  return bits < r.min ? r.min : bits > r.max ? r.max : bits;
}

static void every_method_and_bits(void **state) {
  (void)state;
  static const int wanted[] = {1, 2, 3, 4, 8};
  const files f = name_files();
  size_t count;
  const qnet_quantizer *const *methods = qnet_quantizer_table(&count);
  for (size_t i = 0; i < count; i++) {
    int before = 0;
    if (methods[i] == &qnet_quantizer_uniform) continue; /* that of `first = 8` (every_engine) */
    for (size_t k = 0; k < sizeof wanted / sizeof wanted[0]; k++) {
      char quantize[128];
      const qnet_quantizer *q = methods[i];
      const qnet_quantizer *w = q->bits[QNET_ROLE_WEIGHT].max ? q : &qnet_quantizer_lsq;
      const qnet_quantizer *a = q->bits[QNET_ROLE_ACTIVATION].max ? q : &qnet_quantizer_lsq;
      const int weights = bits_for(w, QNET_ROLE_WEIGHT, wanted[k]);
      const int activations = bits_for(a, QNET_ROLE_ACTIVATION, wanted[k]);
      if (weights * 16 + activations == before) continue;
      before = weights * 16 + activations;
      snprintf(quantize, sizeof quantize,
               "weights = %s(bits = %d), activations = %s(bits = %d) except first, last", w->name,
               weights, a->name, activations);
      make_both(&f, quantize);
      expect_same_module(&f, quantize);
      expect_same_logits(&f, QNET_ENGINE_NN, quantize);
    }
  }
}

/* Bits and methods that differ by layer and by role, on all engines. */
static void every_engine(void **state) {
  (void)state;
  static const char *const nets[] = {
      "lqnets(weights = 2, activations = 2) except first = 8, last = 8",
      "weights = lcq(bits = 3), activations = qil(bits = 2) except first, last",
      "weights = ternary(bits = 2), activations = dq(bits = 4) except first = 8, last",
      "lsq(weights = 8, activations = 5) except first, last = 8",
  };
  const files f = name_files();
  for (size_t i = 0; i < sizeof nets / sizeof nets[0]; i++) {
    make_both(&f, nets[i]);
    for (int kind = QNET_ENGINE_NN; kind <= QNET_ENGINE_JIT; kind++)
      expect_same_logits(&f, (qnet_engine_kind)kind, nets[i]);
  }
}

static void packing_again_changes_nothing(void **state) {
  (void)state;
  const files f = name_files();
  make_both(&f, "qil(weights = 3, activations = 2) except first = 8, last");
  char again[600];
  snprintf(again, sizeof again, "%s", in_directory("again.safetensors"));
  write_packed(&f, f.packed, again);
  char *a, *b;
  size_t n, m;
  const qnet_allocator *system = qnet_allocator_system();
  assert_int_equal(qnet_file_read(system, f.packed, 1 << 20, &a, &n, NULL), QNET_OK);
  assert_int_equal(qnet_file_read(system, again, 1 << 20, &b, &m, NULL), QNET_OK);
  assert_int_equal(n, m);
  assert_memory_equal(a, b, n);
  qnet_free(system, a, n + 1);
  qnet_free(system, b, m + 1);
}

/* ---- small --------------------------------------------------------------------------------- */

/* 268336 quantized weights of 2 bits are 67084 bytes; levels, batch norms and names are the rest.
 */
static void resnet20_is_small(void **state) {
  (void)state;
  files f = name_files();
  snprintf(f.net, sizeof f.net, "examples/resnet20.qnet");
  write_weights(&f);
  write_packed(&f, f.weights, f.packed);
  char *data;
  size_t size;
  const qnet_allocator *system = qnet_allocator_system();
  assert_int_equal(qnet_file_read(system, f.packed, 1 << 24, &data, &size, NULL), QNET_OK);
  qnet_free(system, data, size + 1);
  if (size > 125000) fail_msg("%zu bytes", size);
}

/* ---- damage -------------------------------------------------------------------------------- */

static void expect_load_error(const files *f, const char *weights, const char *text) {
  qnet_session s;
  qnet_program p;
  open_session(&s, f->net, weights);
  assert_int_equal(qnet_model_load(&s, &p), QNET_ERROR);
  char *printed = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&printed, &size);
  assert_non_null(out);
  qnet_diag_print(s.diag, out, false);
  fclose(out);
  if (!strstr(printed, text)) fail_msg("no '%s' in:\n%s", text, printed);
  if (!strstr(printed, weights)) fail_msg("no file name in:\n%s", printed);
  free(printed);
  qnet_diag_destroy(s.diag);
}

typedef struct damage {
  const char *tensor, *key, *value; /* one of tensor, key */
  int64_t element;                  /* of the tensor; -1: it gets one element less */
  uint32_t bits;                    /* the value of the element */
  const char *message;
} damage;

static void shorten(qnet_tensor_file *f, const char *name) {
  const qnet_blob *old = qnet_tensor_file_find(f, name);
  const int64_t count = qnet_blob_elements(old) - 1;
  qnet_blob *b = qnet_blob_create(f->allocator, old->dtype, 1, &count);
  assert_non_null(b);
  assert_int_equal(qnet_tensor_file_set(f, name, b), QNET_OK);
  qnet_blob_release(b);
}

static void apply(const damage *change, qnet_tensor_file *f) {
  if (change->key) {
    assert_int_equal(qnet_tensor_file_set_meta(f, change->key, change->value), QNET_OK);
    return;
  }
  const qnet_blob *b = qnet_tensor_file_find(f, change->tensor);
  assert_non_null(b);
  if (change->element < 0) {
    shorten(f, change->tensor);
    return;
  }
  const size_t bytes = b->bytes / (size_t)qnet_blob_elements(b);
  memcpy((char *)b->data + (size_t)change->element * bytes, &change->bits, bytes);
}

static void damaged_files_are_refused(void **state) {
  (void)state;
  static const damage changes[] = {
      {NULL, "qnet.packed", "2", 0, 0, "version '2'"},
      {NULL, "qnet.site.conv2.weight_quantizer", "ternary", 0, 0, "not a method and its bits"},
      {NULL, "qnet.site.conv2.weight_quantizer", "ternary 9", 0, 0, "not a method and its bits"},
      {NULL, "qnet.site.conv2.weight_quantizer", "ternary 1", 0, 0, "do not fit 1 bits"},
      {NULL, "qnet.site.conv2.weight_quantizer", "ternary 3", 0, 0, "is not u8 of 54 elements"},
      {NULL, "qnet.site.conv2.weight_quantizer", "lsq 2", 0, 0, "is packed as lsq 2"},
      {NULL, "qnet.site.conv9.weight_quantizer", "lsq 2", 0, 0, "does not quantize it"},
      {"conv2.weight_quantizer.codes", NULL, NULL, 0, 255, "a code out of range"},
      {"conv2.weight_quantizer.codes", NULL, NULL, -1, 0, "is not u8 of 36 elements"},
      {"conv2.weight_quantizer.table.scale", NULL, NULL, 1, 0x7fc00000, "is not positive"},
      {"conv2.weight_quantizer.table.scale", NULL, NULL, 3, 0, "is not positive"},
      {"conv2.weight_quantizer.table.scale", NULL, NULL, -1, 0, "do not fit 2 bits"},
      {"conv2.weight_quantizer.table.level", NULL, NULL, -1, 0, "do not fit 2 bits"},
      {"conv2.input_quantizer.table.threshold", NULL, NULL, 0, 0x7f800000, "not ascending"},
      {"conv2.input_quantizer.table.perm", NULL, NULL, 2, 4, "a code out of range"},
      {"conv2.input_quantizer.table.scale", NULL, NULL, 0, 0xffc00000, "is not positive"},
      {"conv2.input_quantizer.table.level", NULL, NULL, -1, 0, "tables of another size"},
      {"dense1.weight", NULL, NULL, 0, 0x7f800000, "element 0 of tensor 'dense1.weight' is inf"},
  };
  const files f = name_files();
  make_both(&f, "weights = ternary(bits = 2), activations = lqnets(bits = 2) except first, last");
  char bad[600];
  snprintf(bad, sizeof bad, "%s", in_directory("bad.safetensors"));
  for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
    qnet_tensor_file file;
    qnet_tensor_file_init(&file, qnet_allocator_system());
    assert_int_equal(qnet_tensor_file_read(&file, f.packed, NULL), QNET_OK);
    apply(&changes[i], &file);
    assert_int_equal(qnet_tensor_file_write(&file, bad, NULL), QNET_OK);
    qnet_tensor_file_free(&file);
    expect_load_error(&f, bad, changes[i].message);
  }
}

static void other_networks_are_refused(void **state) {
  (void)state;
  const files f = name_files();
  make_both(&f, "lqnets(weights = 2, activations = 2) except first, last");
  static const struct {
    const char *quantize, *message;
  } others[] = {
      {"lqnets(weights = 3, activations = 2) except first, last", "asks for lqnets 3"},
      {"lqnets(weights = 2, activations = 4) except first, last", "asks for lqnets 4"},
      {"qil(weights = 2, activations = 2) except first, last", "asks for qil 2"},
      {"lqnets(weights = 2, activations = 2) except last", "is packed as f32"},
      {"lqnets(weights = 2, activations = 2) except first = 8, last", "asks for uniform 8"},
  };
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
    write_net(&f, others[i].quantize);
    expect_load_error(&f, f.packed, others[i].message);
  }
  files tiny = f;
  snprintf(tiny.net, sizeof tiny.net, "examples/tiny.qnet");
  expect_load_error(&tiny, f.packed, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_method_and_bits),         cmocka_unit_test(every_engine),
      cmocka_unit_test(packing_again_changes_nothing), cmocka_unit_test(resnet20_is_small),
      cmocka_unit_test(damaged_files_are_refused),     cmocka_unit_test(other_networks_are_refused),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
