/* Directories of image files: order of classes and files, sizes, the parts taken, every truncation
 * of a file, wrong files, empty classes, lack of memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>

#include <jpeglib.h>
#include <png.h>

#include <cmocka.h>

#include "dataset_test.h"
#include "runtime/loader.h"
#include "temporary_directory.h"

enum { SIDE = 8, BYTES = SIDE * SIDE * 3 };

static void make(const char *name) {
  assert_int_equal(mkdir(in_directory(name), 0755), 0);
}

static void write_text(const char *name, const char *text) {
  FILE *file = fopen(in_directory(name), "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

/* Grey of the given value with a ramp to the right. */
static void write_png(const char *name, int height, int width, int value) {
  uint8_t pixels[64 * 64];
  for (int i = 0; i < height * width; i++)
    pixels[i] = (uint8_t)(value + i % width);
  png_image image = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)width,
                     .height = (png_uint_32)height,
                     .format = PNG_FORMAT_GRAY};
  assert_true(png_image_write_to_file(&image, in_directory(name), 0, pixels, 0, NULL));
}

static void write_jpeg(const char *name, int height, int width, int value) {
  struct jpeg_compress_struct jpeg;
  struct jpeg_error_mgr errors;
  FILE *file = fopen(in_directory(name), "wb");
  uint8_t row[64 * 3];
  memset(row, value, sizeof row);
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  jpeg_stdio_dest(&jpeg, file);
  jpeg.image_width = (JDIMENSION)width;
  jpeg.image_height = (JDIMENSION)height;
  jpeg.input_components = 3;
  jpeg.in_color_space = JCS_RGB;
  jpeg_set_defaults(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  for (int y = 0; y < height; y++)
    jpeg_write_scanlines(&jpeg, (JSAMPROW[]){row}, 1);
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  fclose(file);
}

/* Two classes, of two images and one; val/ has one image of each. */
static void write_set(void) {
  make("train");
  make("train/b");
  make("train/a");
  make("val");
  make("val/b");
  make("val/a");
  write_jpeg("train/b/z.JPEG", 20, 30, 200);
  write_png("train/a/2.png", SIDE, SIDE, 20);
  write_png("train/a/10.png", 9, 40, 60);
  write_text("train/a/.hidden", "");
  write_png("val/a/1.png", SIDE, SIDE, 100);
  write_jpeg("val/b/1.jpg", SIDE, SIDE, 150);
}

static void loads_in_order(void **state) {
  (void)state;
  static const int64_t heights[] = {9, SIDE, 20}, widths[] = {40, SIDE, 30};
  static const int32_t labels[] = {0, 0, 1};
  write_set();
  qnet_dataset set;
  assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL), QNET_OK);
  assert_int_equal(set.count, 3);
  assert_int_equal(set.classes, 2);
  assert_true(set.height == SIDE && set.width == SIDE && set.channels == 3);
  for (int i = 0; i < 3; i++) {
    qnet_item item;
    assert_int_equal(set.load(&set, i, &item, NULL), QNET_OK);
    assert_int_equal(set.labels[i], labels[i]);
    assert_int_equal(item.height, heights[i]);
    assert_int_equal(item.width, widths[i]);
    qnet_item_release(&item);
  }
  qnet_dataset_free(&set);
  assert_int_equal(load_set(directory, QNET_SPLIT_TEST, &set, NULL), QNET_OK);
  assert_int_equal(set.count, 2);
  qnet_dataset_free(&set);
}

/* The first batch, with the given augmentation. */
static void first_batch(const qnet_augment *augment, uint64_t epoch, uint8_t *images) {
  static const uint32_t index[] = {0, 1, 2};
  int32_t labels[3];
  qnet_dataset set;
  assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL), QNET_OK);
  assert_int_equal(qnet_dataset_batch(&set, index, 3, augment, 1, epoch, images, labels, NULL),
                   QNET_OK);
  qnet_dataset_free(&set);
}

static void takes_the_centre(void **state) {
  (void)state;
  uint8_t images[3 * BYTES];
  write_set();
  first_batch(NULL, 0, images);
  /* 9 x 40: the part is 7.875 pixels wide, from 16.0625: column x is at 16.0625 + x * 0.984 + 0.492
   * - 0.5, and the ramp gives that value on 60. */
  for (int i = 0; i < SIDE * SIDE; i++)
    for (int c = 0; c < 3; c++) {
      const double at = 60 + 16.0625 + (i % SIDE + 0.5) * 7.875 / 8 - 0.5;
      assert_in_range(images[i * 3 + c], (int)(at - 0.51), (int)(at + 0.51) + 1);
    }
  for (int i = 0; i < BYTES; i++) /* has the size: as it is */
    assert_int_equal(images[BYTES + i], 20 + i / 3 % SIDE);
  for (int i = 0; i < BYTES; i++)
    assert_in_range(images[2 * BYTES + i], 199, 201);
}

static void parts_depend_on_the_epoch_alone(void **state) {
  (void)state;
  const qnet_augment augment = {.smallest_area = 0.08, .flip = true, .brightness = 0.4};
  uint8_t first[3 * BYTES], again[3 * BYTES], other[3 * BYTES];
  write_set();
  first_batch(&augment, 4, first);
  first_batch(&augment, 4, again);
  first_batch(&augment, 5, other);
  assert_memory_equal(first, again, sizeof first);
  assert_memory_not_equal(first, other, sizeof first);
}

/* All batches of an epoch from the loader's thread; the sum of their bytes, -1 after an error. */
static long load_epoch(qnet_diag *d) {
  qnet_dataset set;
  if (load_set(directory, QNET_SPLIT_TRAIN, &set, d) != QNET_OK) return -1;
  const qnet_loader_plan plan = {.set = &set, .count = set.count, .batch = 2};
  qnet_loader *loader;
  qnet_batch batch;
  long sum = 0;
  assert_int_equal(qnet_loader_open(&plan, &loader, d), QNET_OK);
  do {
    if (qnet_loader_next(loader, &batch, d) != QNET_OK) sum = -1;
    for (int64_t i = 0; sum >= 0 && i < batch.count * BYTES; i++)
      sum += batch.images[i];
  } while (sum >= 0 && batch.count);
  qnet_loader_close(loader);
  qnet_dataset_free(&set);
  return sum;
}

static void refuses_every_truncation(void **state) {
  (void)state;
  write_set();
  assert_true(load_epoch(NULL) > 0);
  struct stat info;
  assert_int_equal(stat(in_directory("train/b/z.JPEG"), &info), 0);
  for (off_t length = info.st_size; length-- > 0;) {
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    assert_int_equal(truncate(in_directory("train/b/z.JPEG"), length), 0);
    assert_int_equal(load_epoch(d), -1);
    assert_int_equal(qnet_diag_error_count(d), 1);
    assert_true(reports_contain(d, "train/b/z.JPEG: error: "));
    qnet_diag_destroy(d);
  }
}

static void files_of_other_kinds(void **state) {
  (void)state;
  write_set();
  write_text("train/a/notes.txt", "x");
  make("train/a/more.png");
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  assert_true(load_epoch(d) > 0);
  assert_true(reports_contain(d, "2 of its entries, such as '"));
  write_text("train/b/a.jpg", "this is no image");
  assert_int_equal(load_epoch(d), -1);
  assert_true(reports_contain(d, "train/b/a.jpg: error: neither PNG, JPEG"));
  write_text("train/b/a.jpg", "\x93NUMPY\1");
  assert_int_equal(load_epoch(d), -1);
  assert_int_equal(unlink(in_directory("train/b/a.jpg")), 0);
  assert_int_equal(symlink("nowhere", in_directory("train/b/a.jpg")), 0);
  assert_true(load_epoch(d) > 0);
  qnet_diag_destroy(d);
}

static void refuses_what_does_not_fit(void **state) {
  (void)state;
  make("train");
  expect_refusal(directory, QNET_SPLIT_TRAIN, "train/ holds no directories, one for each class");
  expect_refusal(directory, QNET_SPLIT_TEST, "holds no directory val/");
  make("train/a");
  expect_refusal(directory, QNET_SPLIT_TRAIN, "train/a: error: holds no JPEG or PNG files");
  write_png("train/a/1.png", SIDE, SIDE, 0);
  make("test");
  expect_refusal(directory, QNET_SPLIT_TEST, "test: error: holds 0 images");
  make("test/b");
  expect_refusal(directory, QNET_SPLIT_TEST, "test/b is no class: train/ has no such directory");
  const qnet_dataset_request request = {
      .name = directory, .split = QNET_SPLIT_TRAIN, .height = SIDE, .width = SIDE, .channels = 2};
  qnet_dataset set;
  assert_int_equal(qnet_dataset_load(qnet_allocator_system(), &request, &set, NULL), QNET_ERROR);
}

static void a_test_split_may_stand_alone_or_lack_a_class(void **state) {
  (void)state;
  make("val");
  make("val/q");
  write_png("val/q/1.png", SIDE, SIDE, 0);
  qnet_dataset set;
  assert_int_equal(load_set(directory, QNET_SPLIT_TEST, &set, NULL), QNET_OK);
  assert_int_equal(set.classes, 1);
  qnet_dataset_free(&set);
  make("train");
  make("train/p");
  make("train/q");
  assert_int_equal(load_set(directory, QNET_SPLIT_TEST, &set, NULL), QNET_OK);
  assert_int_equal(set.classes, 2);
  assert_int_equal(set.labels[0], 1);
  qnet_dataset_free(&set);
}

static void lack_of_memory(void **state) {
  (void)state;
  write_set();
  check_lack_of_memory(directory);
  const qnet_augment augment = {.smallest_area = 0.08, .flip = true};
  qnet_failing_allocator m;
  uint64_t n = 0;
  do {
    static const uint32_t index[] = {2, 0};
    uint8_t images[2 * BYTES];
    int32_t labels[2];
    qnet_dataset set;
    qnet_failing_allocator_init(&m, 0, 0);
    const qnet_dataset_request request = request_for(directory, QNET_SPLIT_TRAIN);
    assert_int_equal(qnet_dataset_load(&m.base, &request, &set, NULL), QNET_OK);
    m.fail_at = m.count + ++n;
    const qnet_status status =
        qnet_dataset_batch(&set, index, 2, &augment, 1, 1, images, labels, NULL);
    assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
    qnet_dataset_free(&set);
    assert_int_equal(m.live_bytes, 0);
  } while (m.failed);
  assert_true(n > 5);
}

#define IN_EMPTY_DIRECTORY(test) cmocka_unit_test_setup(test, clear_directory)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_EMPTY_DIRECTORY(loads_in_order),
      IN_EMPTY_DIRECTORY(takes_the_centre),
      IN_EMPTY_DIRECTORY(parts_depend_on_the_epoch_alone),
      IN_EMPTY_DIRECTORY(refuses_every_truncation),
      IN_EMPTY_DIRECTORY(files_of_other_kinds),
      IN_EMPTY_DIRECTORY(refuses_what_does_not_fit),
      IN_EMPTY_DIRECTORY(a_test_split_may_stand_alone_or_lack_a_class),
      IN_EMPTY_DIRECTORY(lack_of_memory),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
