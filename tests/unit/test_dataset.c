/* Data sets: IDX plain and packed, damaged in every way, lack of memory, batches, shuffling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <zlib.h>

#include <cmocka.h>

#include "dataset_test.h"
#include "temporary_directory.h"

enum { COUNT = 6, HEIGHT = 3, WIDTH = 4, PIXELS = HEIGHT * WIDTH };

static void write_bytes(const char *name, bool packed, const void *data, size_t size) {
  gzFile file = gzopen(in_directory(name), packed ? "wb" : "wbT");
  assert_non_null(file);
  if (size) assert_int_equal(gzwrite(file, data, (unsigned)size), (int)size);
  assert_int_equal(gzclose(file), Z_OK);
}

static size_t images_file(uint8_t *out) {
  const uint8_t header[16] = {0, 0, 8, 3, 0, 0, 0, COUNT, 0, 0, 0, HEIGHT, 0, 0, 0, WIDTH};
  memcpy(out, header, sizeof header);
  for (int i = 0; i < COUNT * PIXELS; i++)
    out[16 + i] = (uint8_t)(i + 1);
  return 16 + COUNT * PIXELS;
}

static size_t labels_file(uint8_t *out, uint8_t count) {
  const uint8_t header[8] = {0, 0, 8, 1, 0, 0, 0, count};
  memcpy(out, header, sizeof header);
  for (int i = 0; i < count; i++)
    out[8 + i] = (uint8_t)(i % 4);
  return 8 + (size_t)count;
}

static void write_set(bool packed) {
  uint8_t bytes[200];
  const size_t images = images_file(bytes);
  write_bytes(packed ? "train-images-idx3-ubyte.gz" : "train-images-idx3-ubyte", packed, bytes,
              images);
  const size_t labels = labels_file(bytes, COUNT);
  write_bytes(packed ? "train-labels-idx1-ubyte.gz" : "train-labels-idx1-ubyte", packed, bytes,
              labels);
}

static qnet_status load(qnet_dataset *set, qnet_diag *d) {
  return load_set(directory, QNET_SPLIT_TRAIN, set, d);
}

static void loads_plain_and_packed(void **state) {
  (void)state;
  for (int packed = 0; packed < 2; packed++) {
    clear_directory(NULL);
    write_set(packed);
    qnet_dataset set;
    assert_int_equal(load(&set, NULL), QNET_OK);
    assert_int_equal(set.count, COUNT);
    assert_int_equal(set.height, HEIGHT);
    assert_int_equal(set.width, WIDTH);
    assert_int_equal(set.channels, 1);
    assert_int_equal(set.classes, 4);
    qnet_item item;
    assert_int_equal(set.load(&set, COUNT - 1, &item, NULL), QNET_OK);
    assert_int_equal(item.height * item.width, PIXELS);
    assert_int_equal(item.pixels[PIXELS - 1], COUNT * PIXELS);
    qnet_item_release(&item);
    assert_int_equal(set.labels[5], 1);
    qnet_dataset_free(&set);
    assert_int_equal(load_set(directory, QNET_SPLIT_TEST, &set, NULL), QNET_ERROR);
  }
}

static void classes_are_those_of_both_splits(void **state) {
  (void)state;
  write_set(false);
  write_bytes("t10k-labels-idx1-ubyte", false, (uint8_t[]){0, 0, 8, 1, 0, 0, 0, 1, 6}, 9);
  qnet_dataset set;
  assert_int_equal(load(&set, NULL), QNET_OK);
  assert_int_equal(set.classes, 7);
  qnet_dataset_free(&set);
}

static void refuses_what_does_not_fit(void **state) {
  (void)state;
  uint8_t bytes[200];
  expect_refusal(directory, QNET_SPLIT_TRAIN, "holds no data set that qnetc knows");
  write_bytes("t10k-images-idx3-ubyte", false, "", 0);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "holds no train-images-idx3-ubyte");
  write_set(false);
  const size_t labels = labels_file(bytes, COUNT - 1);
  write_bytes("train-labels-idx1-ubyte", false, bytes, labels);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "holds 5 labels for 6 images");
  const size_t images = images_file(bytes);
  bytes[3] = 1;
  write_bytes("train-images-idx3-ubyte", false, bytes, images);
  expect_refusal(directory, QNET_SPLIT_TRAIN,
                 "not an IDX file of unsigned bytes with 3 dimensions");
  images_file(bytes);
  write_bytes("train-images-idx3-ubyte", false, bytes, images + 1);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "more data than its header announces");
  memset(bytes + 4, 0xff, 12);
  write_bytes("train-images-idx3-ubyte", false, bytes, images);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "cannot hold so many");
  memset(bytes + 8, 0, 4);
  write_bytes("train-images-idx3-ubyte", false, bytes, images);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "dimension 1 is 0");
}

static void refuses_every_truncation(void **state) {
  (void)state;
  for (int packed = 0; packed < 2; packed++) {
    clear_directory(NULL);
    write_set(packed);
    const char *name = packed ? "train-images-idx3-ubyte.gz" : "train-images-idx3-ubyte";
    FILE *file = fopen(in_directory(name), "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    for (long length = ftell(file); length-- > 0;) {
      qnet_dataset set;
      assert_int_equal(ftruncate(fileno(file), length), 0);
      assert_int_equal(load(&set, NULL), QNET_ERROR);
    }
    fclose(file);
  }
}

static void packed_damage_never_crashes(void **state) {
  (void)state;
  write_set(true);
  FILE *file = fopen(in_directory("train-images-idx3-ubyte.gz"), "r+b");
  uint8_t bytes[300];
  const size_t size = fread(bytes, 1, sizeof bytes, file);
  int refused = 0;
  for (size_t i = 0; i < size; i++) {
    for (int bit = 0; bit < 8; bit++) {
      const uint8_t changed = (uint8_t)(bytes[i] ^ 1 << bit);
      assert_int_equal(pwrite(fileno(file), &changed, 1, (off_t)i), 1);
      qnet_dataset set;
      refused += load(&set, NULL) != QNET_OK;
      qnet_dataset_free(&set);
    }
    assert_int_equal(pwrite(fileno(file), bytes + i, 1, (off_t)i), 1);
  }
  fclose(file);
  /* Only the unchecked fields of the gzip header (time, flags, system) may pass. */
  assert_true(refused >= (int)(size - 10) * 8);
}

static void lack_of_memory(void **state) {
  (void)state;
  write_set(true);
  write_bytes("t10k-labels-idx1-ubyte", false, (uint8_t[]){0, 0, 8, 1, 0, 0, 0, 1, 6}, 9);
  check_lack_of_memory(directory);
}

static void unknown_names_are_explained(void **state) {
  (void)state;
  expect_refusal("fashon-mnist", QNET_SPLIT_TEST, "did you mean 'fashion-mnist'?");
  expect_refusal("fashon-mnist", QNET_SPLIT_TEST, "dataset-fashion-mnist");
}

static void environment_names_the_place(void **state) {
  (void)state;
  char path[300], link_path[320];
  snprintf(path, sizeof path, "%s", directory);
  snprintf(link_path, sizeof link_path, "%s/mnist", directory);
  write_set(false);
  assert_int_equal(symlink(path, link_path), 0);
  assert_int_equal(setenv("QNET_DATA", directory, 1), 0);
  qnet_dataset set;
  assert_int_equal(load_set("mnist", QNET_SPLIT_TRAIN, &set, NULL), QNET_OK);
  assert_int_equal(set.classes, 10);
  qnet_dataset_free(&set);
  uint8_t bytes[200];
  const size_t size = labels_file(bytes, COUNT);
  bytes[size - 1] = 10;
  write_bytes("train-labels-idx1-ubyte", false, bytes, size);
  assert_int_equal(load_set("mnist", QNET_SPLIT_TRAIN, &set, NULL), QNET_ERROR);
  unsetenv("QNET_DATA");
}

/* ---- batches ------------------------------------------------------------------------------- */

static void shuffles_are_permutations(void **state) {
  (void)state;
  enum { N = 1000 };
  uint32_t first[N], again[N], other[N];
  bool seen[N] = {false};
  qnet_dataset_shuffle(first, N, 7, 3);
  qnet_dataset_shuffle(again, N, 7, 3);
  qnet_dataset_shuffle(other, N, 7, 4);
  assert_memory_equal(first, again, sizeof first);
  assert_memory_not_equal(first, other, sizeof first);
  int fixed = 0;
  for (uint32_t i = 0; i < N; i++) {
    assert_false(seen[first[i]]);
    seen[first[i]] = true;
    fixed += first[i] == i;
  }
  assert_true(fixed < 10);
  qnet_dataset_shuffle(first, 0, 1, 1);
}

/* Whether `out` is the image moved by (down, right), mirrored or not. */
static bool is_placed(const uint8_t *in, const uint8_t *out, int down, int right, bool mirrored) {
  for (int y = 0; y < HEIGHT; y++)
    for (int x = 0; x < WIDTH; x++) {
      const int from_y = y + down, from_x = (mirrored ? WIDTH - 1 - x : x) + right;
      const bool inside = from_y >= 0 && from_y < HEIGHT && from_x >= 0 && from_x < WIDTH;
      if (out[y * WIDTH + x] != (inside ? in[from_y * WIDTH + from_x] : 0)) return false;
    }
  return true;
}

static void augmentation_moves_and_mirrors(void **state) {
  (void)state;
  uint8_t image[PIXELS], out[PIXELS], again[PIXELS];
  int32_t label = 3;
  for (int i = 0; i < PIXELS; i++)
    image[i] = (uint8_t)(i + 1);
  const qnet_dataset shape = {.allocator = qnet_allocator_system(),
                              .count = 1,
                              .classes = 4,
                              .height = HEIGHT,
                              .width = WIDTH,
                              .channels = 1};
  const qnet_dataset set = qnet_dataset_view(&shape, image, &label);
  const qnet_augment augment = {.crop_pad = 1, .flip = true};
  const uint32_t index = 0;
  int32_t got;
  int count[2][3][3] = {{{0}}};
  for (uint64_t epoch = 0; epoch < 900; epoch++) {
    qnet_dataset_batch(&set, &index, 1, &augment, 5, epoch, out, &got, NULL);
    qnet_dataset_batch(&set, &index, 1, &augment, 5, epoch, again, &got, NULL);
    assert_memory_equal(out, again, sizeof out);
    assert_int_equal(got, 3);
    int matches = 0;
    for (int k = 0; k < 18; k++) {
      if (!is_placed(image, out, k / 3 % 3 - 1, k % 3 - 1, k / 9)) continue;
      count[k / 9][k / 3 % 3][k % 3]++;
      matches++;
    }
    assert_int_equal(matches, 1);
  }
  for (int k = 0; k < 18; k++) /* 50 expected */
    assert_in_range(count[k / 9][k / 3 % 3][k % 3], 20, 90);
  qnet_dataset_batch(&set, &index, 1, &(qnet_augment){.crop_pad = 0}, 5, 0, out, &got, NULL);
  assert_memory_equal(out, image, sizeof out);
}

/* An image whose two channels are 5 y and 5 x shows which part became the batch's image. */
static void random_parts_are_in_bounds(void **state) {
  (void)state;
  enum { SIDE = 48, DRAWS = 2000 };
  static uint8_t image[SIDE * SIDE * 2], out[SIDE * SIDE * 2];
  for (int i = 0; i < SIDE * SIDE; i++) {
    image[2 * i] = (uint8_t)(i / SIDE * 5);
    image[2 * i + 1] = (uint8_t)(i % SIDE * 5);
  }
  int32_t label = 0, got;
  const qnet_dataset shape = {.allocator = qnet_allocator_system(),
                              .count = 1,
                              .classes = 1,
                              .height = SIDE,
                              .width = SIDE,
                              .channels = 2};
  const qnet_dataset set = qnet_dataset_view(&shape, image, &label);
  const qnet_augment augment = {.smallest_area = 0.08};
  const uint32_t index = 0;
  double mean = 0, least = 1, most = 0;
  for (uint64_t epoch = 0; epoch < DRAWS; epoch++) {
    assert_int_equal(qnet_dataset_batch(&set, &index, 1, &augment, 3, epoch, out, &got, NULL),
                     QNET_OK);
    /* From the centre of the first pixel to that of the last one: 47/48 of the part. */
    const double height = (out[2 * SIDE * (SIDE - 1)] - out[0]) / 5.0 * 48 / 47;
    const double width = (out[2 * (SIDE - 1) + 1] - out[1]) / 5.0 * 48 / 47;
    const double area = height * width / (SIDE * SIDE), ratio = width / height;
    assert_true(ratio > 0.75 * 0.9 && ratio < 1.1 / 0.75);
    mean += area / DRAWS;
    if (area < least) least = area;
    if (area > most) most = area;
  }
  assert_true(least > 0.06 && least < 0.11);
  assert_true(most > 0.9 && most < 1.05);
  /* Uniform would be 0.54; large parts fit less often. */
  assert_true(mean > 0.42 && mean < 0.54);
}

#define IN_EMPTY_DIRECTORY(test) cmocka_unit_test_setup(test, clear_directory)

/* Images are enough where labels are not asked for; those that are there become 0. */
static void loads_without_labels(void **state) {
  (void)state;
  uint8_t bytes[200];
  qnet_dataset_request request = request_for(directory, QNET_SPLIT_TRAIN);
  request.unlabelled = true;
  write_set(false);
  for (int lacking = 0; lacking < 2; lacking++) {
    qnet_dataset set;
    if (lacking) {
      clear_directory(NULL);
      write_bytes("train-images-idx3-ubyte", false, bytes, images_file(bytes));
      expect_refusal(directory, QNET_SPLIT_TRAIN,
                     "or train-labels-idx1-ubyte.gz; images without labels");
    }
    assert_int_equal(qnet_dataset_load(qnet_allocator_system(), &request, &set, NULL), QNET_OK);
    assert_true(set.count == COUNT && set.classes == 1);
    for (int i = 0; i < COUNT; i++)
      assert_int_equal(set.labels[i], 0);
    qnet_dataset_free(&set);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(loads_without_labels, clear_directory),
      IN_EMPTY_DIRECTORY(loads_plain_and_packed),
      IN_EMPTY_DIRECTORY(classes_are_those_of_both_splits),
      IN_EMPTY_DIRECTORY(refuses_what_does_not_fit),
      IN_EMPTY_DIRECTORY(refuses_every_truncation),
      IN_EMPTY_DIRECTORY(packed_damage_never_crashes),
      IN_EMPTY_DIRECTORY(lack_of_memory),
      IN_EMPTY_DIRECTORY(unknown_names_are_explained),
      IN_EMPTY_DIRECTORY(environment_names_the_place),
      cmocka_unit_test(shuffles_are_permutations),
      cmocka_unit_test(augmentation_moves_and_mirrors),
      cmocka_unit_test(random_parts_are_in_bounds),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
