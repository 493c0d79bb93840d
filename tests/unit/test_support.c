/* support/: arenas, text buffers, diagnostics as text, nearest words, files, parallel ranges. */
#include "support/alloc.h"
#include "support/diag.h"
#include "support/file.h"
#include "support/parallel.h"
#include "support/progress.h"
#include "support/strbuf.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void arena_aligns_and_zeroes(void **state) {
  (void)state;
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, 0, 0);
  qnet_arena arena;
  qnet_arena_init(&arena, &f.base);
  for (size_t i = 0; i < 2000; i++) {
    const size_t align = (size_t)1 << (i % 13), size = i * 37 % 9000;
    char *p = qnet_arena_alloc_aligned(&arena, size, align);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % (align < 16 ? 16 : align), 0);
    for (size_t k = 0; k < size; k++)
      assert_int_equal(p[k], 0);
    memset(p, 0xff, size);
  }
  assert_string_equal(qnet_arena_printf(&arena, "%d-%s", 7, "x"), "7-x");
  assert_string_equal(qnet_arena_strndup(&arena, "hello", 3), "hel");
  assert_null(qnet_arena_alloc(&arena, SIZE_MAX - 8));
  assert_null(qnet_arena_array(&arena, SIZE_MAX / 2, 4));
  assert_null(qnet_arena_alloc_aligned(&arena, 8, 3));
  qnet_arena_clear(&arena);
  assert_int_equal(f.live_bytes, 0);
}

static void arena_survives_failure(void **state) {
  (void)state;
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, 2, 0);
  qnet_arena arena;
  qnet_arena_init(&arena, &f.base);
  int failures = 0;
  for (int i = 0; i < 100; i++)
    failures += qnet_arena_alloc(&arena, 1000) == NULL;
  assert_int_equal(failures, 1);
  assert_true(f.failed);
  qnet_arena_clear(&arena);
  assert_int_equal(f.live_bytes, 0);
}

static void strbuf_grows_and_sticks(void **state) {
  (void)state;
  qnet_strbuf b;
  qnet_strbuf_init(&b, qnet_allocator_system());
  assert_string_equal(qnet_strbuf_text(&b), "");
  for (int i = 0; i < 1000; i++)
    qnet_strbuf_printf(&b, "%d,", i);
  qnet_strbuf_puts(&b, "end");
  assert_int_equal(b.length, strlen(b.data));
  assert_string_equal(b.data + b.length - 7, "999,end");
  qnet_strbuf_free(&b);

  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, 3, 1);
  qnet_strbuf_init(&b, &f.base);
  for (int i = 0; i < 1000; i++)
    qnet_strbuf_printf(&b, "%0100d", i);
  assert_true(b.failed);
  assert_int_equal(strlen(qnet_strbuf_text(&b)), b.length);
  qnet_strbuf_free(&b);
  assert_int_equal(f.live_bytes, 0);
}

/* What the engine prints, into a static buffer. */
static const char *printed(qnet_diag *d) {
  static char text[4096];
  FILE *out = fmemopen(text, sizeof text, "w");
  qnet_diag_print(d, out, false);
  qnet_diag_print_summary(d, out);
  fclose(out);
  return text;
}

static void diagnostics_look_like_clangs(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  const char source[] = "net x {\n\ty = conv(64, strde = 2)\n  caf\xc3\xa9 + z\n}";
  const uint32_t b = qnet_diag_add_buffer(d, "a.qnet", source, strlen(source));
  const uint32_t at = (uint32_t)(strstr(source, "strde") - source);
  assert_int_equal(qnet_error(d, (qnet_loc){b, at, at + 5}, "no parameter '%s'", "strde"),
                   QNET_ERROR);
  qnet_fixit(d, "stride");
  qnet_note(d, (qnet_loc){b, 4, 5}, "in net 'x'");
  const uint32_t z = (uint32_t)(strstr(source, "z\n") - source);
  qnet_warning(d, (qnet_loc){b, z, z + 3}, "runs over the line's end");
  qnet_error_in(d, "w.safetensors", "broken");
  qnet_note(d, QNET_NO_LOC, "write it again");
  assert_string_equal(printed(d), "a.qnet:2:15: error: no parameter 'strde'\n"
                                  "        y = conv(64, strde = 2)\n"
                                  "                     ^~~~~\n"
                                  "                     stride\n"
                                  "a.qnet:1:5: note: in net 'x'\n"
                                  "net x {\n"
                                  "    ^\n"
                                  "a.qnet:3:11: warning: runs over the line's end\n"
                                  "  caf\xc3\xa9 + z\n"
                                  "         ^\n"
                                  "w.safetensors: error: broken\n"
                                  "w.safetensors: note: write it again\n"
                                  "1 warning and 2 errors generated.\n");
  qnet_error(d, (qnet_loc){b, (uint32_t)strlen(source), 99}, "end of file");
  assert_string_equal(printed(d), "a.qnet:4:2: error: end of file\n}\n ^\n"
                                  "1 warning and 3 errors generated.\n");
  qnet_diag_destroy(d);
}

static void long_lines_show_a_window(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  char source[3000];
  memset(source, 'a', sizeof source);
  memcpy(source + 1500, "X\033Y", 3);
  const uint32_t b = qnet_diag_add_buffer(d, "long", source, sizeof source);
  qnet_error(d, (qnet_loc){b, 1500, 1503}, "here");
  const char *text = printed(d);
  const char *line = strchr(text, '\n') + 1, *caret = strchr(text, '^');
  assert_true(strlen(text) < 500);
  const char *x = strstr(line, "X?Y");
  assert_non_null(x);
  assert_int_equal(x - line, caret - (strchr(line, '\n') + 1));
  qnet_diag_destroy(d);
}

static void error_limit_counts_on(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_diag_set_limit(d, 2);
  for (int i = 0; i < 5; i++) {
    qnet_error(d, QNET_NO_LOC, "e%d", i);
    qnet_note(d, QNET_NO_LOC, "n%d", i);
    qnet_fixit(d, "never shown without a line");
  }
  assert_string_equal(printed(d), "error: e0\nnote: n0\nerror: e1\nnote: n1\n"
                                  "note: 3 more errors are not shown\n5 errors generated.\n");
  assert_int_equal(qnet_out_of_memory(d), QNET_NO_MEMORY);
  assert_int_equal(qnet_out_of_memory(d), QNET_NO_MEMORY);
  assert_string_equal(printed(d), "error: out of memory\n6 errors generated.\n");
  qnet_diag_destroy(d);
  assert_int_equal(qnet_error(NULL, QNET_NO_LOC, "x"), QNET_ERROR);
  assert_int_equal(qnet_error_in(NULL, "s", "x"), QNET_ERROR);
  qnet_fixit(NULL, "x");
  assert_int_equal(qnet_out_of_memory(NULL), QNET_NO_MEMORY);
  assert_int_equal(qnet_diag_error_count(NULL), 0);
}

static void diagnostics_survive_lack_of_memory(void **state) {
  (void)state;
  for (uint64_t n = 1; n < 12; n++) {
    qnet_failing_allocator f;
    qnet_failing_allocator_init(&f, n, 1);
    qnet_diag *d = qnet_diag_create(&f.base);
    const uint32_t b = qnet_diag_add_buffer(d, "n", "text\n", 5);
    assert_int_equal(qnet_error(d, (qnet_loc){b, 0, 1}, "%9000d", 1), QNET_ERROR);
    qnet_fixit(d, "x");
    if (d) assert_int_equal(qnet_diag_error_count(d), 1);
    qnet_diag_destroy(d);
    assert_int_equal(f.live_bytes, 0);
  }
}

static void nearest_word(void **state) {
  (void)state;
  const char *const words[] = {"stride", "pad", "dilation", "groups"};
  assert_string_equal(qnet_nearest("strde", words, 4), "stride");
  assert_string_equal(qnet_nearest("Stride", words, 4), "stride");
  assert_string_equal(qnet_nearest("gruops", words, 4), "groups");
  assert_string_equal(qnet_nearest("padd", words, 4), "pad");
  assert_null(qnet_nearest("kernel", words, 4));
  assert_null(qnet_nearest("x", words, 4));
  assert_null(qnet_nearest("", words, 4));
}

static char directory[] = "/tmp/qnet-support-XXXXXX";

static const char *in_directory(const char *name) {
  static char path[256];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return path;
}

static int make_directory(void **state) {
  (void)state;
  return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
  (void)state;
  char command[300];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  return system(command);
}

static int entries(void) {
  char command[300];
  snprintf(command, sizeof command, "ls -A '%s' | wc -l", directory);
  FILE *pipe = popen(command, "r");
  int count = -1;
  if (fscanf(pipe, "%d", &count) != 1) count = -1;
  pclose(pipe);
  return count;
}

static void files_are_replaced_whole(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  const char *path = in_directory("a");
  char *data;
  size_t size;
  assert_int_equal(qnet_file_write(a, path, "one", 3, NULL), QNET_OK);
  assert_int_equal(chmod(path, 0640), 0);
  assert_int_equal(qnet_file_write(a, path, "second", 6, NULL), QNET_OK);
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(info.st_mode & 0777, 0640);
  qnet_file_writer *w;
  assert_int_equal(qnet_file_writer_open(a, path, &w, NULL), QNET_OK);
  assert_int_equal(qnet_file_writer_write(w, "third", 5), QNET_OK);
  qnet_file_writer_abort(w);
  assert_int_equal(qnet_file_read(a, path, 100, &data, &size, NULL), QNET_OK);
  assert_int_equal(size, 6);
  assert_string_equal(data, "second");
  qnet_free(a, data, size + 1);
  assert_int_equal(qnet_file_read(a, path, 5, &data, &size, NULL), QNET_ERROR);
  assert_int_equal(entries(), 1);
  assert_int_equal(unlink(path), 0);
}

static void assert_content(const char *path, const char *expected) {
  char *data;
  size_t size;
  assert_int_equal(qnet_file_read(qnet_allocator_system(), path, 100, &data, &size, NULL), QNET_OK);
  assert_string_equal(data, expected);
  qnet_free(qnet_allocator_system(), data, size + 1);
}

/* The replaced file stays under another name; what a killed writer left is removed, what a living
 * one has is not. */
static void files_keep_their_predecessor(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  char folder[] = "/tmp/qnet-keep-XXXXXX", path[40], previous[80], dead[80], alive[80];
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/file", folder);
  snprintf(previous, sizeof previous, "%s.prev", path);
  for (int i = 0; i < 3; i++) {
    qnet_file_writer *w;
    assert_int_equal(qnet_file_writer_open(a, path, &w, NULL), QNET_OK);
    qnet_file_writer_keep(w, previous);
    assert_int_equal(qnet_file_writer_write(w, i == 0 ? "a" : i == 1 ? "b" : "c", 1), QNET_OK);
    assert_int_equal(qnet_file_writer_commit(w), QNET_OK);
    if (i == 0) assert_int_equal(access(previous, F_OK), -1);
  }
  assert_content(path, "c");
  assert_content(previous, "b");
  snprintf(dead, sizeof dead, "%s.tmp-99999999-0", path);
  snprintf(alive, sizeof alive, "%s.tmp-%ld-0", path, (long)getpid());
  assert_int_equal(qnet_file_write(a, dead, "x", 1, NULL), QNET_OK);
  assert_int_equal(qnet_file_write(a, alive, "x", 1, NULL), QNET_OK);
  qnet_file_remove_stale(path);
  assert_int_equal(access(dead, F_OK), -1);
  assert_int_equal(unlink(alive), 0);
  assert_int_equal(unlink(path) | unlink(previous) | rmdir(folder), 0);
}

static void file_errors_are_reported(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  char *data;
  size_t size;
  assert_int_equal(qnet_file_read(a, in_directory("no"), 100, &data, &size, NULL), QNET_IO);
  assert_int_equal(qnet_file_read(a, directory, 100, &data, &size, NULL), QNET_ERROR);
  assert_int_equal(qnet_file_read(a, "/dev/zero", 5000, &data, &size, NULL), QNET_ERROR);
  assert_int_equal(qnet_file_write(a, in_directory("no/such"), "x", 1, NULL), QNET_IO);
  assert_int_equal(qnet_file_write(a, directory, "x", 1, NULL), QNET_ERROR);
  assert_int_equal(qnet_file_write(a, "/dev/full", "x", 1, NULL), QNET_IO);
  assert_int_equal(qnet_file_write(a, "/dev/null", "x", 1, NULL), QNET_OK);
  struct stat info;
  assert_int_equal(stat("/dev/null", &info), 0);
  assert_true(S_ISCHR(info.st_mode));
  assert_int_equal(entries(), 0);
}

static void links_stay_and_pipes_are_read(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  char *data, link_path[256], command[600];
  size_t size;
  snprintf(link_path, sizeof link_path, "%s/link", directory);
  assert_int_equal(qnet_file_write(a, in_directory("file"), "old", 3, NULL), QNET_OK);
  assert_int_equal(symlink("file", link_path), 0);
  assert_int_equal(qnet_file_write(a, link_path, "new", 3, NULL), QNET_OK);
  struct stat info;
  assert_int_equal(lstat(link_path, &info), 0);
  assert_true(S_ISLNK(info.st_mode));
  assert_int_equal(qnet_file_read(a, in_directory("file"), 9, &data, &size, NULL), QNET_OK);
  assert_string_equal(data, "new");
  qnet_free(a, data, size + 1);

  const char *fifo = in_directory("fifo");
  assert_int_equal(mkfifo(fifo, 0600), 0);
  snprintf(command, sizeof command, "(head -c 100000 /dev/zero; echo x) > '%s' &", fifo);
  assert_int_equal(system(command), 0);
  assert_int_equal(qnet_file_read(a, fifo, 1 << 20, &data, &size, NULL), QNET_OK);
  assert_int_equal(size, 100002);
  assert_string_equal(data + 100000, "x\n");
  qnet_free(a, data, size + 1);
}

static void files_survive_lack_of_memory(void **state) {
  (void)state;
  for (uint64_t n = 1; n < 12; n++) {
    qnet_failing_allocator f;
    qnet_failing_allocator_init(&f, n, 0);
    char *data = NULL;
    size_t size = 0;
    const qnet_status wrote = qnet_file_write(&f.base, in_directory("m"), "abc", 3, NULL);
    assert_int_equal(wrote, f.failed ? QNET_NO_MEMORY : QNET_OK);
    const qnet_status got = qnet_file_read(&f.base, in_directory("file"), 9, &data, &size, NULL);
    if (got == QNET_OK) qnet_free(&f.base, data, size + 1);
    assert_int_equal(f.live_bytes, 0);
  }
}

static void mark_range(void *ctx, size_t begin, size_t end) {
  size_t *lengths = ctx;
  for (size_t i = begin; i < end; i++)
    lengths[i] += end - begin;
}

static void parallel_ranges_are_fixed(void **state) {
  (void)state;
  for (int threads = 1; threads <= 3; threads++) {
    qnet_parallel_set_threads(threads);
    size_t lengths[101] = {0};
    qnet_parallel_for(101, 10, mark_range, lengths);
    for (size_t i = 0; i < 101; i++)
      assert_int_equal(lengths[i], i < 100 ? 10 : 1);
    qnet_parallel_for(0, 10, mark_range, NULL);
  }
  qnet_parallel_set_threads(0);
  assert_true(qnet_parallel_threads() >= 1);
}

static void progress_is_silent_off_terminals(void **state) {
  (void)state;
  char text[64] = "";
  FILE *out = fmemopen(text, sizeof text, "w");
  qnet_progress p;
  qnet_progress_begin(&p, out, "images", 10);
  qnet_progress_update(&p, 5, "x");
  qnet_progress_end(&p);
  fclose(out);
  assert_string_equal(text, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(arena_aligns_and_zeroes),
      cmocka_unit_test(arena_survives_failure),
      cmocka_unit_test(strbuf_grows_and_sticks),
      cmocka_unit_test(diagnostics_look_like_clangs),
      cmocka_unit_test(long_lines_show_a_window),
      cmocka_unit_test(error_limit_counts_on),
      cmocka_unit_test(diagnostics_survive_lack_of_memory),
      cmocka_unit_test(nearest_word),
      cmocka_unit_test(files_are_replaced_whole),
      cmocka_unit_test(files_keep_their_predecessor),
      cmocka_unit_test(file_errors_are_reported),
      cmocka_unit_test(links_stay_and_pipes_are_read),
      cmocka_unit_test(files_survive_lack_of_memory),
      cmocka_unit_test(parallel_ranges_are_fixed),
      cmocka_unit_test(progress_is_silent_off_terminals),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
