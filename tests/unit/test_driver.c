/* The driver's own functions: weights that are damaged, memory that runs out anywhere between the
 * source and the logits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "driver/model.h"
#include "driver/packed.h"
#include "driver/predictor.h"
#include "driver/weights.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIXELS = 64, CLASSES = 4 };
static char net[] = "tests/fuzz/seeds/small.qnet";
static const char trained[] = "tests/fuzz/seeds/small.safetensors",
                  packed[] = "tests/fuzz/seeds/packed.safetensors"; /* the same, packed */

/* A session as `qnetc run` has it. */
static void open_session(qnet_session *s, const qnet_allocator *a, const char *weights) {
  *s = (qnet_session){.allocator = a, .diag = qnet_diag_create(qnet_allocator_system())};
  assert_non_null(s->diag);
  char program[] = "qnetc", verb[] = "run", image[] = "x", given[] = "--weights=x";
  char *argv[] = {program, verb, net, image, given, NULL};
  assert_int_equal(qnet_options_parse(5, argv, &s->options, s->diag), QNET_OK);
  s->options.weights = weights;
}

static void expect_message(qnet_diag *d, const char *text) {
  char *printed = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&printed, &size);
  assert_non_null(f);
  qnet_diag_print(d, f, false);
  fclose(f);
  if (!strstr(printed, text)) fail_msg("no '%s' in:\n%s", text, printed);
  free(printed);
}

/* ---- damaged weights ----------------------------------------------------------------------- */

/* Sets element 0 of one tensor of a copy of the trained weights. */
static void write_damaged(const char *path, const char *name, float value) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, qnet_allocator_system());
  assert_int_equal(qnet_tensor_file_read(&f, trained, d), QNET_OK);
  qnet_blob *b = qnet_tensor_file_find(&f, name);
  assert_non_null(b);
  *(float *)b->data = value;
  assert_int_equal(qnet_tensor_file_write(&f, path, d), QNET_OK);
  qnet_tensor_file_free(&f);
  qnet_diag_destroy(d);
}

/* Also where nothing would read the value: quantized layers compute on stored codes. */
static void weights_must_be_finite(void **state) {
  (void)state;
  static const char *const names[] = {"conv1.weight", "conv2.weight", "bn1.running_var",
                                      "dense1.bias"};
  char path[64], text[96];
  snprintf(path, sizeof path, "/tmp/qnet-test-driver-%ld", (long)getpid());
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    write_damaged(path, names[i], i % 2 ? INFINITY : NAN);
    qnet_session s;
    qnet_program p;
    open_session(&s, qnet_allocator_system(), path);
    assert_int_equal(qnet_model_load(&s, &p), QNET_ERROR);
    snprintf(text, sizeof text, "element 0 of tensor '%s' is %s", names[i], i % 2 ? "inf" : "nan");
    expect_message(s.diag, text);
    qnet_diag_destroy(s.diag);
  }
  unlink(path);
}

/* ---- memory -------------------------------------------------------------------------------- */

typedef qnet_status (*action)(qnet_session *s);

static qnet_status load_model(qnet_session *s) {
  qnet_program p;
  const qnet_status status = qnet_model_load(s, &p);
  if (status == QNET_OK) qnet_module_destroy(p.module);
  return status;
}

/* Weights of other bits: quantizers are fitted. */
static qnet_status refit_model(qnet_session *s) {
  s->options.bits = (qnet_bits){3, 3};
  return load_model(s);
}

static qnet_status load_packed(qnet_session *s) {
  s->options.weights = packed;
  return load_model(s);
}

typedef qnet_status (*storer)(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d);

static qnet_status store(qnet_session *s, storer run) {
  qnet_program p;
  QNET_TRY(qnet_model_load(s, &p));
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, s->allocator);
  const qnet_status status = run(p.module, &f, s->diag);
  qnet_tensor_file_free(&f);
  qnet_module_destroy(p.module);
  return status;
}

static qnet_status store_model(qnet_session *s) {
  return store(s, qnet_weights_store);
}

static qnet_status store_packed(qnet_session *s) {
  return store(s, qnet_packed_store);
}

static qnet_status predict(qnet_session *s, qnet_engine_kind kind) {
  qnet_program p;
  QNET_TRY(qnet_model_load(s, &p));
  qnet_predictor *predictor = NULL;
  qnet_status status =
      qnet_predictor_create(s->allocator, p.module, kind, NULL, &predictor, s->diag);
  qnet_module_destroy(p.module);
  const uint8_t image[PIXELS] = {1, 2, 3};
  float logits[CLASSES];
  if (status == QNET_OK) status = qnet_predictor_logits(predictor, image, 1, logits, s->diag);
  qnet_predictor_destroy(predictor);
  return status;
}

static qnet_status predict_nn(qnet_session *s) {
  return predict(s, QNET_ENGINE_NN);
}

static qnet_status predict_quant(qnet_session *s) {
  return predict(s, QNET_ENGINE_QUANT);
}

static qnet_status predict_bits(qnet_session *s) {
  return predict(s, QNET_ENGINE_BITS);
}

static qnet_status predict_loop(qnet_session *s) {
  return predict(s, QNET_ENGINE_LOOP);
}

/* Runs with the n-th allocation failing; returns how many it took when none failed. */
static uint64_t run_failing(action run, uint64_t n) {
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, n, n % 2 == 0);
  qnet_session s;
  open_session(&s, &f.base, trained);
  const qnet_status status = run(&s);
  if (f.failed && status != QNET_NO_MEMORY)
    fail_msg("allocation %llu failed, the status is %d", (unsigned long long)n, (int)status);
  if (!f.failed) assert_int_equal(status, QNET_OK);
  if (f.failed) assert_true(qnet_diag_error_count(s.diag) > 0);
  if (f.live_bytes)
    fail_msg("allocation %llu failed, %zu bytes leak", (unsigned long long)n, f.live_bytes);
  qnet_diag_destroy(s.diag);
  return f.count;
}

/* Every early allocation, then a sample of the rest. */
static void fail_each(action run) {
  const uint64_t count = run_failing(run, 0);
  assert_true(count > 20);
  for (uint64_t n = 1; n <= count; n += n < 60 ? 1 : 1 + count / 97)
    run_failing(run, n);
}

static void no_memory_to_load(void **state) {
  (void)state;
  fail_each(load_model);
  fail_each(refit_model);
  fail_each(store_model);
  fail_each(load_packed);
  fail_each(store_packed);
}

static void no_memory_to_predict(void **state) {
  (void)state;
  fail_each(predict_nn);
  fail_each(predict_quant);
  fail_each(predict_bits);
  fail_each(predict_loop);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(weights_must_be_finite),
      cmocka_unit_test(no_memory_to_load),
      cmocka_unit_test(no_memory_to_predict),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
