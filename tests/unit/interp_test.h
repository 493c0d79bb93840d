/* What the tests of the interpreters share: blobs, random numbers, and running a module's text. */
#ifndef QNET_TESTS_UNIT_INTERP_TEST_H
#define QNET_TESTS_UNIT_INTERP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ir/interp.h"
#include "ir/ops.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

/* xorshift64*: the same numbers everywhere. */
static inline uint64_t test_random(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1du;
}

static inline int64_t test_range(uint64_t *state, int64_t lo, int64_t hi) {
  return lo + (int64_t)((test_random(state) >> 32) % (uint64_t)(hi - lo + 1));
}

/* In -1..1. */
static inline float test_float(uint64_t *state) {
  return (float)(int32_t)(test_random(state) >> 32) / 2147483648.0f;
}

static inline qnet_blob *test_blob(qnet_dtype dtype, int64_t count, const void *data) {
  qnet_blob *b = qnet_blob_create(qnet_allocator_system(), dtype, 1, &count);
  assert_non_null(b);
  if (data != NULL) memcpy(b->data, data, b->bytes);
  return b;
}

static inline qnet_blob *test_random_floats(uint64_t *state, int64_t count) {
  qnet_blob *b = test_blob(QNET_F32, count, NULL);
  for (int64_t i = 0; i < count; i++)
    ((float *)b->data)[i] = test_float(state);
  return b;
}

static inline void test_release(qnet_blob **blob, int count) {
  for (int i = 0; i < count; i++)
    qnet_blob_release(blob[i]);
}

/* Parses and verifies; reports are printed when that fails. */
static inline qnet_module *test_parse(const char *text, qnet_diag *d) {
  qnet_module *m = NULL;
  qnet_status status =
      qnet_module_parse(qnet_allocator_system(), "test", text, strlen(text), &m, d);
  if (status == QNET_OK) status = qnet_module_verify(m, d);
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  assert_int_equal(status, QNET_OK);
  return m;
}

/* The function of a text: @step when training operations are tested, else @eval. */
static inline const char *test_function(const char *text) {
  return strstr(text, "@step(") != NULL ? "step" : "eval";
}

/* Runs the function of a text. */
static inline qnet_status test_try(const char *text, qnet_blob *const *args, int arg_count,
                                   qnet_blob **results, int result_count, qnet_diag *d) {
  qnet_module *m = test_parse(text, d);
  qnet_interp *in = NULL;
  qnet_status status = qnet_interp_create(m, test_function(text), &in, d);
  if (status == QNET_OK) {
    status = qnet_interp_run(in, args, arg_count, results, result_count, d);
    qnet_interp_destroy(in);
  }
  qnet_module_destroy(m);
  return status;
}

/* The same, and it must succeed. */
static inline void test_run(const char *text, qnet_blob *const *args, int arg_count,
                            qnet_blob **results, int result_count) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  const qnet_status status = test_try(text, args, arg_count, results, result_count, d);
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  assert_int_equal(status, QNET_OK);
  qnet_diag_destroy(d);
}

/* It must fail, and say so with this text in the report. */
static inline void test_fails(const char *text, qnet_blob *const *args, int arg_count,
                              qnet_blob **results, int result_count, const char *message) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  assert_int_equal(test_try(text, args, arg_count, results, result_count, d), QNET_ERROR);
  char *report = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&report, &size);
  qnet_diag_print(d, out, false);
  fclose(out);
  if (strstr(report, message) == NULL) print_error("%s", report);
  assert_non_null(strstr(report, message));
  free(report);
  qnet_diag_destroy(d);
}

/* Creates and runs the function with the n-th allocation failing, for every n: never a crash, never
 * a leak, and in the end success. */
static inline void test_out_of_memory(const char *text, qnet_blob *const *args, int arg_count,
                                      int result_count) {
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, 0, 0);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = NULL;
  assert_int_equal(qnet_module_parse(&f.base, "test", text, strlen(text), &m, d), QNET_OK);
  const size_t live = f.live_bytes;
  qnet_status status = QNET_NO_MEMORY;
  for (uint64_t n = 1; status != QNET_OK; n++) {
    assert_true(n < 10000);
    f.count = 0;
    f.fail_at = n;
    f.failed = 0;
    qnet_interp *in = NULL;
    qnet_blob *results[4] = {NULL};
    status = qnet_interp_create(m, test_function(text), &in, d);
    if (status == QNET_OK) status = qnet_interp_run(in, args, arg_count, results, result_count, d);
    assert_true(status == QNET_OK || status == QNET_NO_MEMORY);
    test_release(results, result_count);
    qnet_interp_destroy(in);
    assert_int_equal(f.live_bytes, live);
  }
  f.fail_at = 0;
  qnet_module_destroy(m);
  assert_int_equal(f.live_bytes, 0);
  qnet_diag_destroy(d);
}

#endif
