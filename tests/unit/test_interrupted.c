/* Training that memory or disk ends at any moment: a status that says so, no leak, and a run that
 * goes on from its checkpoint to the same bytes. */
#include "support/file.h"
#include "tests/unit/recipe_test.h"
#include <signal.h>
#include <sys/resource.h>

/* Two epochs of two steps, the second one on the integer grid, a checkpoint after each step. */
static const char options[] =
    "--epochs=2 --frozen-epochs=1 --limit=64 --checkpoint-steps=1 --resume";
static const char *const ends[] = {".safetensors", ".best.safetensors", ".metrics.jsonl", ".ckpt",
                                   ".ckpt.prev"};
enum { ENDS = sizeof ends / sizeof ends[0], COMPARED = 4, FAILURES = 60, EARLY = 20, EVERY = 9 };

static uint64_t allocations; /* of the whole run */

/* ---- files --------------------------------------------------------------------------------- */

static void name_file(char path[700], const char *stem, int end) {
  snprintf(path, 700, "%s/%s%s", directory, stem, ends[end]);
}

static bool read_file(const char *stem, int end, char **data, size_t *size) {
  char path[700];
  name_file(path, stem, end);
  if (access(path, F_OK) != 0) return false;
  return qnet_file_read(qnet_allocator_system(), path, 1 << 24, data, size, NULL) == QNET_OK;
}

static void expect_same(const char *stem, const char *other) {
  for (int i = 0; i < COMPARED; i++) {
    char *a, *b;
    size_t n, m;
    assert_true(read_file(stem, i, &a, &n));
    assert_true(read_file(other, i, &b, &m));
    if (n != m || memcmp(a, b, n) != 0) fail_msg("%s%s differs", stem, ends[i]);
    qnet_free(qnet_allocator_system(), a, n + 1);
    qnet_free(qnet_allocator_system(), b, m + 1);
  }
}

/* The files of a run as those of another; those that the other has not are removed. */
static void copy_run(const char *from, const char *to) {
  for (int i = 0; i < ENDS; i++) {
    char path[700], *data;
    size_t size;
    name_file(path, to, i);
    unlink(path);
    if (!read_file(from, i, &data, &size)) continue;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    qnet_free(qnet_allocator_system(), data, size + 1);
  }
}

/* What is there is whole, and a checkpoint that was there still is. */
static void expect_whole_files(const char *stem, bool had_checkpoint) {
  for (int i = 0; i < ENDS; i++) {
    char path[700];
    qnet_tensor_file f;
    name_file(path, stem, i);
    if (i == 2 || access(path, F_OK) != 0) continue;
    qnet_tensor_file_init(&f, qnet_allocator_system());
    if (qnet_tensor_file_read(&f, path, NULL) != QNET_OK) fail_msg("%s is damaged", path);
    qnet_tensor_file_free(&f);
  }
  char newest[700], previous[700];
  name_file(newest, stem, 3);
  name_file(previous, stem, 4);
  if (had_checkpoint) assert_true(access(newest, F_OK) == 0 || access(previous, F_OK) == 0);
}

static void expect_no_temporaries(void) {
  char command[800];
  snprintf(command, sizeof command, "test -z \"$(find '%s' -name '*.tmp-*')\"", directory);
  assert_int_equal(system(command), 0);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* A training whose n-th allocation (and half of the time every later one) fails. */
static bool train_failing(const char *stem, uint64_t n) {
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, n, n % 2 == 0);
  char *reports;
  const qnet_status status = test_train_with(&f.base, "set", stem, options, &reports);
  if (status != (f.failed ? QNET_NO_MEMORY : QNET_OK))
    fail_msg("allocation %llu: status %d\n%s", (unsigned long long)n, (int)status, reports);
  if (f.failed && !strstr(reports, "out of memory"))
    fail_msg("allocation %llu: nothing is said\n%s", (unsigned long long)n, reports);
  if (f.live_bytes)
    fail_msg("allocation %llu: %zu bytes leak", (unsigned long long)n, f.live_bytes);
  free(reports);
  if (!n) allocations = f.count;
  return !f.failed;
}

static int make_runs(void **state) {
  if (make_directory(state) != 0) return -1;
  test_write_set("set");
  test_write_net("quantize lqnets(weights = 2, activations = 2) except first = 8, last", "");
  assert_true(train_failing("whole", 0));
  /* A run that ended after some steps. */
  assert_false(train_failing("begun", allocations * 4 / 5 / 2 * 2));
  assert_int_equal(access(in_directory("begun.ckpt.prev"), F_OK), 0);
  return 0;
}

static void fail_each(const char *from) {
  int number = 0;
  const uint64_t stride = 1 + allocations / FAILURES;
  for (uint64_t n = 1; n <= allocations; n += n < EARLY ? 1 : stride) {
    copy_run(from, "r");
    if (train_failing("r", n)) break;
    expect_whole_files("r", strcmp(from, "nothing") != 0);
    if (number++ % EVERY) continue;
    test_must_train("set", "r", options);
    expect_same("r", "whole");
  }
  assert_true(number > EARLY);
  expect_no_temporaries();
}

static void memory_ends_a_run(void **state) {
  (void)state;
  fail_each("nothing");
}

static void memory_ends_a_resumed_run(void **state) {
  (void)state;
  fail_each("begun");
}

/* ---- disk ---------------------------------------------------------------------------------- */

static void limit_files(rlim_t bytes) {
  struct rlimit limit;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
  limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Files may have `bytes` bytes, then writes are short and fail. */
static bool train_limited(const char *stem, rlim_t bytes) {
  char *reports;
  limit_files(bytes);
  const qnet_status status = test_train("set", stem, options, &reports);
  limit_files(RLIM_INFINITY);
  if (status != QNET_OK && (!strstr(reports, stem) || !strstr(reports, "File too large")))
    fail_msg("%llu bytes: nothing is said\n%s", (unsigned long long)bytes, reports);
  free(reports);
  return status == QNET_OK;
}

static void fill_disk(const char *from) {
  int failures = 0;
  for (rlim_t bytes = 0;; bytes = bytes * 3 / 2 + 7) {
    copy_run(from, "d");
    const bool good = train_limited("d", bytes);
    expect_whole_files("d", strcmp(from, "nothing") != 0);
    if (!good) test_must_train("set", "d", options);
    expect_same("d", "whole");
    if (good) break;
    failures++;
  }
  assert_true(failures > 8);
  expect_no_temporaries();
}

static void disk_ends_a_run(void **state) {
  (void)state;
  fill_disk("nothing");
}

static void disk_ends_a_resumed_run(void **state) {
  (void)state;
  fill_disk("begun");
}

int main(void) {
  signal(SIGXFSZ, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(memory_ends_a_run),
      cmocka_unit_test(memory_ends_a_resumed_run),
      cmocka_unit_test(disk_ends_a_run),
      cmocka_unit_test(disk_ends_a_resumed_run),
  };
  return cmocka_run_group_tests(tests, make_runs, remove_directory);
}
