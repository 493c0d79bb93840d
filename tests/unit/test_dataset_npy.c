/* Sets of .npy arrays: every type of label, shapes, truncations, what does not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dataset_test.h"
#include "temporary_directory.h"

enum { COUNT = 3, HEIGHT = 2, WIDTH = 3, CHANNELS = 2, BYTES = COUNT * HEIGHT * WIDTH * CHANNELS };

static void write_array(const char *name, const char *type, const char *shape, const void *data,
                        size_t size) {
  char header[200];
  const int length =
      snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n",
               type, shape);
  FILE *file = fopen(in_directory(name), "wb");
  assert_non_null(file);
  fwrite("\x93NUMPY\1\0", 1, 8, file);
  fputc(length, file);
  fputc(0, file);
  fwrite(header, 1, (size_t)length, file);
  fwrite(data, 1, size, file);
  fclose(file);
}

static void write_images(const char *name, const char *shape) {
  uint8_t images[BYTES];
  for (int i = 0; i < BYTES; i++)
    images[i] = (uint8_t)(i * 5);
  write_array(name, "|u1", shape, images, sizeof images);
}

static void write_set(void) {
  write_images("x_train.npy", "(3, 2, 3, 2)");
  write_array("y_train.npy", "<i8", "(3,)", (int64_t[]){2, 0, 1}, 24);
  write_array("y_test.npy", "|u1", "(2,)", "\1\4", 2);
}

static void loads_arrays(void **state) {
  (void)state;
  write_set();
  qnet_dataset set;
  assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL), QNET_OK);
  assert_true(set.count == COUNT && set.height == HEIGHT && set.width == WIDTH);
  assert_int_equal(set.channels, CHANNELS);
  assert_int_equal(set.classes, 5); /* of both splits */
  assert_true(set.labels[0] == 2 && set.labels[1] == 0 && set.labels[2] == 1);
  qnet_item item;
  assert_int_equal(set.load(&set, 1, &item, NULL), QNET_OK);
  for (int i = 0; i < BYTES / COUNT; i++)
    assert_int_equal(item.pixels[i], (BYTES / COUNT + i) * 5);
  qnet_item_release(&item);
  qnet_dataset_free(&set);
}

static void labels_of_every_type(void **state) {
  (void)state;
  static const struct {
    const char *type;
    size_t bytes;
  } types[] = {{"|u1", 1}, {"|i1", 1}, {"<u2", 2}, {"<i2", 2},
               {"<u4", 4}, {"<i4", 4}, {"<u8", 8}, {"<i8", 8}};
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
    uint8_t labels[24] = {0};
    for (size_t k = 0; k < 3; k++)
      labels[k * types[i].bytes] = (uint8_t)(100 + k);
    write_images("x_train.npy", "(3, 4, 3)");
    write_array("y_train.npy", types[i].type, "(3, 1)", labels, 3 * types[i].bytes);
    qnet_dataset set;
    assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL), QNET_OK);
    assert_int_equal(set.channels, 1);
    assert_int_equal(set.classes, 103);
    assert_int_equal(set.labels[2], 102);
    qnet_dataset_free(&set);
    memset(labels, 255, sizeof labels); /* negative, or too large but for one byte */
    write_array("y_train.npy", types[i].type, "(3,)", labels, 3 * types[i].bytes);
    const bool fits = types[i].type[1] == 'u' && types[i].bytes <= 2;
    assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL),
                     fits ? QNET_OK : QNET_ERROR);
    qnet_dataset_free(&set);
  }
}

static void refuses_what_does_not_fit(void **state) {
  (void)state;
  write_set();
  expect_refusal(directory, QNET_SPLIT_TEST, "x_test.npy: error: cannot open");
  write_images("x_train.npy", "(3, 2, 3, 3)");
  expect_refusal(directory, QNET_SPLIT_TRAIN, "its shape needs 54 elements, the file has 36");
  write_images("x_train.npy", "(36,)");
  expect_refusal(directory, QNET_SPLIT_TRAIN, "is no array of images");
  write_images("x_train.npy", "(2, 3, 6)");
  expect_refusal(directory, QNET_SPLIT_TRAIN, "holds 3 labels for 2 images");
  write_array("x_train.npy", "<f4", "(3, 1, 1, 1)", "abcdefghijkl", 12);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "elements of type '<f4' are not supported");
  write_array("x_train.npy", "<i4", "(3, 1, 1, 1)", "abcdefghijkl", 12);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "images must be bytes 0..255, not '<i4'");
  write_array("x_train.npy", "|u1", "(0, 1, 1)", "", 0);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "is no array of images");
  write_images("x_train.npy", "(3, 2, 3, 2)");
  write_array("y_train.npy", "|i1", "(3,)", "\0\377\0", 3);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "label 1 is -1, labels are 0..65535");
  write_array("y_train.npy", "|u1", "(1, 3)", "\0\1\2", 3);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "is no list of labels");
  assert_int_equal(unlink(in_directory("y_train.npy")), 0);
  expect_refusal(
      directory, QNET_SPLIT_TRAIN,
      "y_train.npy: error: there is no such file; images without labels can only train, with");
}

static void refuses_every_truncation(void **state) {
  (void)state;
  static const char *const names[] = {"x_train.npy", "y_train.npy", "y_test.npy"};
  for (int i = 0; i < 3; i++) {
    write_set();
    FILE *file = fopen(in_directory(names[i]), "r+b");
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    for (long length = ftell(file); length-- > 0;) {
      qnet_dataset set;
      assert_int_equal(ftruncate(fileno(file), length), 0);
      assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL), QNET_ERROR);
    }
    fclose(file);
  }
}

static void lack_of_memory(void **state) {
  (void)state;
  write_set();
  check_lack_of_memory(directory);
}

#define IN_EMPTY_DIRECTORY(test) cmocka_unit_test_setup(test, clear_directory)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_EMPTY_DIRECTORY(loads_arrays),
      IN_EMPTY_DIRECTORY(labels_of_every_type),
      IN_EMPTY_DIRECTORY(refuses_what_does_not_fit),
      IN_EMPTY_DIRECTORY(refuses_every_truncation),
      IN_EMPTY_DIRECTORY(lack_of_memory),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
