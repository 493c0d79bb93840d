/* The picture of a training run: what it shows, odd input, lack of memory. */
#include "runtime/plot.h"
#include "support/file.h"

#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/qnet-plot-XXXXXX";

static const char two_epochs[] =
    "{\"epoch\": 1, \"loss\": 2.5, \"train_correct\": 30, \"train_images\": 100, "
    "\"test_correct\": 5, \"test_images\": 10}\n"
    "{\"epoch\": 2, \"loss\": 1.5, \"train_correct\": 60, \"train_images\": 100, "
    "\"test_correct\": 8, \"test_images\": 10}\n";
static const float weight[] = {-1, -0.5f, 0, 0, 0.5f, 1, INFINITY, NAN};
static const float level[] = {-0.75f, -0.25f, 0.25f, 0.75f};

static qnet_plot make_plot(const char *metrics, const qnet_plot_layer *layer, int layers) {
  return (qnet_plot){"a <b> & c", metrics, strlen(metrics), layer, layers};
}

static int occurrences(const char *text, const char *part) {
  int n = 0;
  for (; (text = strstr(text, part)) != NULL; text++)
    n++;
  return n;
}

static void shows_curves_and_levels(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  const qnet_plot_layer layer[] = {{"conv1", weight, 6, level, 4}, {"conv2", weight, 6, level, 2}};
  const qnet_plot plot = make_plot(two_epochs, layer, 2);
  assert_int_equal(qnet_plot_write(a, &plot, path, NULL), QNET_OK);
  char *text;
  size_t size;
  assert_int_equal(qnet_file_read(a, path, 1 << 20, &text, &size, NULL), QNET_OK);
  assert_int_equal(strncmp(text, "<svg ", 5), 0);
  assert_string_equal(text + size - 7, "</svg>\n");
  assert_non_null(strstr(text, "a &lt;b> &amp; c"));
  assert_int_equal(occurrences(text, "<path class=\"curve"), 3);
  assert_int_equal(occurrences(text, "<path class=\"level"), 2);
  assert_non_null(strstr(text, "train 60.00%"));
  assert_non_null(strstr(text, "test 80.00%"));
  assert_int_equal(occurrences(text, "nan") + occurrences(text, "inf"), 0);
  qnet_free(a, text, size + 1);
}

static void odd_input(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  const qnet_plot_layer layer[] = {{"empty", weight, 0, level, 0}, {"odd", weight, 8, level, 4}};
  const char *const good[] = {
      "", "{\"loss\": 0}\n",
      "{\"loss\": 1, \"train_correct\": 1, \"train_images\": 0}\n{\"loss\": 1}\nunfinished"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    const qnet_plot plot = make_plot(good[i], layer, 2);
    assert_int_equal(qnet_plot_write(a, &plot, path, NULL), QNET_OK);
    char *text;
    size_t size;
    assert_int_equal(qnet_file_read(a, path, 1 << 20, &text, &size, NULL), QNET_OK);
    assert_int_equal(occurrences(text, "nan") + occurrences(text, "inf"), 0);
    qnet_free(a, text, size + 1);
  }
  const char *const bad[] = {"\n", "{\"loss\": 1}\n{\"loss\": \n", "[1]\n"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const qnet_plot plot = make_plot(bad[i], NULL, 0);
    assert_int_equal(qnet_plot_write(a, &plot, path, NULL), QNET_ERROR);
  }
}

static void lack_of_memory(void **state) {
  (void)state;
  const qnet_plot_layer layer[] = {{"conv1", weight, 6, level, 4}};
  const qnet_plot plot = make_plot(two_epochs, layer, 1);
  qnet_failing_allocator m;
  uint64_t n = 0;
  do {
    qnet_failing_allocator_init(&m, ++n, 0);
    const qnet_status status = qnet_plot_write(&m.base, &plot, path, NULL);
    assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
    assert_int_equal(m.live_bytes, 0);
  } while (m.failed);
  assert_true(n > 4);
}

static int make_file(void **state) {
  (void)state;
  const int fd = mkstemp(path);
  return fd >= 0 ? close(fd) : -1;
}

static int remove_file(void **state) {
  (void)state;
  return unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shows_curves_and_levels),
      cmocka_unit_test(odd_input),
      cmocka_unit_test(lack_of_memory),
  };
  return cmocka_run_group_tests(tests, make_file, remove_file);
}
