/* The converter of sheets: what it writes is what the data set's reader reads; damaged sheets and
 * labels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <png.h>

#include <cmocka.h>

#include "dataset_test.h"
#include "scripts/cifar_sheet.h"
#include "temporary_directory.h"

enum { IMAGES = 3, WIDTH = 1024 };

static uint8_t sample(int image, int at) {
  return (uint8_t)(image * 71 + at * 7);
}

static void write_sheet(uint32_t width) {
  uint8_t pixels[IMAGES][WIDTH * 3];
  for (int n = 0; n < IMAGES; n++)
    for (int i = 0; i < WIDTH * 3; i++)
      pixels[n][i] = sample(n, i);
  png_image image = {
      .version = PNG_IMAGE_VERSION, .width = width, .height = IMAGES, .format = PNG_FORMAT_RGB};
  assert_true(png_image_write_to_file(&image, in_directory("sheet.png"), 0, pixels, 0, NULL));
}

static void write_labels(const char *text) {
  FILE *file = fopen(in_directory("labels.json"), "w");
  fputs(text, file);
  fclose(file);
}

static qnet_status convert(size_t first, const char *output, qnet_diag *d) {
  char sheet[300], labels[300], out[300];
  snprintf(sheet, sizeof sheet, "%s/sheet.png", directory);
  snprintf(labels, sizeof labels, "%s/labels.json", directory);
  snprintf(out, sizeof out, "%s/%s", directory, output);
  return qnet_cifar_sheet_convert(qnet_allocator_system(), sheet, labels, first, out, d);
}

static void converted_sheets_are_read(void **state) {
  (void)state;
  write_sheet(WIDTH);
  write_labels("[9, 9, 4, 0, 7]");
  assert_int_equal(convert(2, "test_batch.bin", NULL), QNET_OK);
  qnet_dataset set;
  assert_int_equal(load_set(directory, QNET_SPLIT_TEST, &set, NULL), QNET_OK);
  assert_int_equal(set.count, IMAGES);
  assert_true(set.labels[0] == 4 && set.labels[1] == 0 && set.labels[2] == 7);
  for (int n = 0; n < IMAGES; n++) {
    qnet_item item;
    assert_int_equal(set.load(&set, n, &item, NULL), QNET_OK);
    for (int i = 0; i < WIDTH * 3; i++)
      assert_int_equal(item.pixels[i], sample(n, i));
    qnet_item_release(&item);
  }
  qnet_dataset_free(&set);
}

static void refuses(size_t first, const char *why) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  assert_int_not_equal(convert(first, "out.bin", d), QNET_OK);
  assert_true(reports_contain(d, why));
  assert_int_not_equal(access(in_directory("out.bin"), F_OK), 0);
  qnet_diag_destroy(d);
}

static void refuses_what_does_not_fit(void **state) {
  (void)state;
  refuses(0, "labels.json: error: cannot open");
  write_labels("{}");
  refuses(0, "is no array of labels");
  write_labels("[1, 2");
  refuses(0, "labels.json: error: line 1");
  write_labels("[1, 2, 3]");
  refuses(0, "sheet.png: error: cannot open");
  write_sheet(WIDTH - 1);
  refuses(0, "is no image that is 1024 pixels wide");
  write_sheet(WIDTH);
  refuses(1, "holds 3 labels, 4 are needed");
  write_labels("[1, 10, 3]");
  refuses(0, "label 1 is no class 0..9");
  write_labels("[1, \"2\", 3]");
  refuses(0, "label 1 is no class 0..9");
}

#define IN_EMPTY_DIRECTORY(test) cmocka_unit_test_setup(test, clear_directory)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_EMPTY_DIRECTORY(converted_sheets_are_read),
      IN_EMPTY_DIRECTORY(refuses_what_does_not_fit),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
