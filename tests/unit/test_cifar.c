/* CIFAR-10 and CIFAR-100 files: labels and pixels of every record, every truncation, wrong labels,
 * where the sets are looked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "dataset_test.h"
#include "temporary_directory.h"

enum { PIXELS = 3072, MAX_RECORD = PIXELS + 2 };

static uint8_t sample(int image, int y, int x, int channel) {
  return (uint8_t)(image * 17 + y * 5 + x * 3 + channel * 101);
}

/* A file of images first..first+count-1: labels are image % classes (coarse: % 20, first). */
static void write_file(const char *name, int first, int count, int classes) {
  FILE *file = fopen(in_directory(name), "wb");
  assert_non_null(file);
  for (int n = first; n < first + count; n++) {
    if (classes == 100) fputc(n % 20, file);
    fputc(n % classes, file);
    for (int c = 0; c < 3; c++)
      for (int i = 0; i < 1024; i++)
        fputc(sample(n, i / 32, i % 32, c), file);
  }
  assert_int_equal(fclose(file), 0);
}

static void write_cifar10(int each) {
  char name[32];
  for (int i = 0; i < 5; i++) {
    snprintf(name, sizeof name, "data_batch_%d.bin", i + 1);
    write_file(name, i * each, each, 10);
  }
  write_file("test_batch.bin", 500, each + 1, 10);
}

static void check_set(const qnet_dataset *set, int first, int count, int classes) {
  assert_int_equal(set->count, count);
  assert_int_equal(set->classes, classes);
  assert_true(set->height == 32 && set->width == 32 && set->channels == 3);
  for (int n = 0; n < count; n++) {
    qnet_item item;
    assert_int_equal(set->labels[n], (first + n) % classes);
    assert_int_equal(set->load(set, n, &item, NULL), QNET_OK);
    for (int i = 0; i < PIXELS; i++)
      assert_int_equal(item.pixels[i], sample(first + n, i / 96, i / 3 % 32, i % 3));
    qnet_item_release(&item);
  }
}

static void loads_cifar10(void **state) {
  (void)state;
  qnet_dataset set;
  write_cifar10(70); /* more than one chunk */
  assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL), QNET_OK);
  check_set(&set, 0, 350, 10);
  qnet_dataset_free(&set);
  assert_int_equal(load_set(directory, QNET_SPLIT_TEST, &set, NULL), QNET_OK);
  check_set(&set, 500, 71, 10);
  qnet_dataset_free(&set);
}

static void loads_cifar100(void **state) {
  (void)state;
  qnet_dataset set;
  write_file("train.bin", 0, 120, 100);
  write_file("test.bin", 30, 3, 100);
  assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL), QNET_OK);
  check_set(&set, 0, 120, 100);
  qnet_dataset_free(&set);
  assert_int_equal(load_set(directory, QNET_SPLIT_TEST, &set, NULL), QNET_OK);
  check_set(&set, 30, 3, 100);
  qnet_dataset_free(&set);
}

/* $QNET_DATA, then the cache; a set that is not whole is used with a warning. */
static void finds_named_sets(void **state) {
  (void)state;
  static const char *const variables[] = {"QNET_DATA", "XDG_CACHE_HOME", "HOME"};
  static const char *const places[] = {"cifar100", "qnetc/cifar100", ".cache/qnetc/cifar100"};
  for (int i = 0; i < 3; i++) {
    char command[700];
    clear_directory(NULL);
    snprintf(command, sizeof command, "mkdir -p '%s'", in_directory(places[i]));
    assert_int_equal(system(command), 0);
    char name[100];
    snprintf(name, sizeof name, "%s/train.bin", places[i]);
    write_file(name, 0, 30, 100);
    for (int k = 0; k < 3; k++)
      unsetenv(variables[k]);
    assert_int_equal(setenv(variables[i], directory, 1), 0);
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    qnet_dataset set;
    assert_int_equal(load_set("cifar100", QNET_SPLIT_TRAIN, &set, d), QNET_OK);
    check_set(&set, 0, 30, 100);
    qnet_dataset_free(&set);
    assert_true(reports_contain(d, "holds 30 images where cifar100 has 50000"));
    assert_int_equal(load_set("cifar100-coarse", QNET_SPLIT_TRAIN, &set, d), QNET_OK);
    check_set(&set, 0, 30, 20);
    qnet_dataset_free(&set);
    qnet_diag_destroy(d);
    unsetenv(variables[i]);
  }
  clear_directory(NULL);
  expect_refusal("cifar10", QNET_SPLIT_TRAIN, "run scripts/get-cifar10.sh");
}

static void refuses_every_truncation(void **state) {
  (void)state;
  for (int hundred = 0; hundred < 2; hundred++) {
    clear_directory(NULL);
    write_cifar10(1);
    if (hundred) {
      clear_directory(NULL);
      write_file("train.bin", 0, 1, 100);
    }
    const char *path = in_directory(hundred ? "train.bin" : "data_batch_3.bin");
    const off_t whole = hundred ? MAX_RECORD : MAX_RECORD - 1;
    for (off_t length = whole; length-- > 0;) {
      qnet_dataset set;
      assert_int_equal(truncate(path, length), 0);
      assert_int_equal(load_set(directory, QNET_SPLIT_TRAIN, &set, NULL), QNET_ERROR);
      assert_null(set.content);
    }
    expect_refusal(directory, QNET_SPLIT_TRAIN, "has 0 bytes, which is not a number of records");
  }
}

static void refuses_what_does_not_fit(void **state) {
  (void)state;
  expect_refusal(directory, QNET_SPLIT_TRAIN, "CIFAR-10, binary: data_batch_");
  write_cifar10(2);
  write_file("data_batch_4.bin", 0, 1, 10);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "holds 1 images, the files before it 2");
  write_file("data_batch_4.bin", 10, 2, 100); /* 6148 bytes */
  expect_refusal(directory, QNET_SPLIT_TRAIN, "data_batch_4.bin: error: has 6148 bytes");
  write_file("data_batch_4.bin", 10, 2, 256);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "label 0 is 10, there are 10 classes");
  assert_int_equal(unlink(in_directory("data_batch_4.bin")), 0);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "data_batch_4.bin: error: cannot open");
  assert_int_equal(mkfifo(in_directory("data_batch_4.bin"), 0600), 0);
  expect_refusal(directory, QNET_SPLIT_TRAIN, "is not a regular file");
}

static void lack_of_memory(void **state) {
  (void)state;
  write_cifar10(2);
  check_lack_of_memory(directory);
}

#define IN_EMPTY_DIRECTORY(test) cmocka_unit_test_setup(test, clear_directory)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_EMPTY_DIRECTORY(loads_cifar10),
      IN_EMPTY_DIRECTORY(loads_cifar100),
      IN_EMPTY_DIRECTORY(finds_named_sets),
      IN_EMPTY_DIRECTORY(refuses_every_truncation),
      IN_EMPTY_DIRECTORY(refuses_what_does_not_fit),
      IN_EMPTY_DIRECTORY(lack_of_memory),
  };
  return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
