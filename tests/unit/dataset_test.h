/* What the tests of data sets share: loading by name, the text of a refusal, lack of memory.
 * Include after cmocka.h. */
#ifndef QNET_TESTS_DATASET_TEST_H
#define QNET_TESTS_DATASET_TEST_H

#include "runtime/dataset.h"
#include <string.h>

/* What a network of 3x8x8 inputs asks for; only sets of images of any size look at it. */
static inline qnet_dataset_request request_for(const char *name, qnet_split split) {
  return (qnet_dataset_request){
      .name = name, .split = split, .height = 8, .width = 8, .channels = 3};
}

static inline qnet_status load_set(const char *name, qnet_split split, qnet_dataset *set,
                                   qnet_diag *d) {
  const qnet_dataset_request request = request_for(name, split);
  return qnet_dataset_load(qnet_allocator_system(), &request, set, d);
}

/* Whether the printed reports contain `text`; forgets them. */
static inline bool reports_contain(qnet_diag *d, const char *text) {
  char printed[4096] = "";
  FILE *out = fmemopen(printed, sizeof printed, "w");
  qnet_diag_print(d, out, false);
  fclose(out);
  if (!strstr(printed, text)) print_error("expected '%s' in:\n%s", text, printed);
  return strstr(printed, text) != NULL;
}

/* Loading must fail, saying `why`. */
static inline void expect_refusal(const char *name, qnet_split split, const char *why) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_dataset set;
  assert_int_not_equal(load_set(name, split, &set, d), QNET_OK);
  assert_null(set.content);
  assert_null(set.labels);
  assert_true(reports_contain(d, why));
  qnet_diag_destroy(d);
}

/* Fails every allocation of the loading in turn. */
static inline void check_lack_of_memory(const char *name) {
  const qnet_dataset_request request = request_for(name, QNET_SPLIT_TRAIN);
  qnet_failing_allocator m;
  uint64_t n = 0;
  do {
    qnet_failing_allocator_init(&m, ++n, 0);
    qnet_dataset set;
    const qnet_status status = qnet_dataset_load(&m.base, &request, &set, NULL);
    assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
    qnet_dataset_free(&set);
    assert_int_equal(m.live_bytes, 0);
  } while (m.failed);
  assert_true(n > 3);
}

#endif
