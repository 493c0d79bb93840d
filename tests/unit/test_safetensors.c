/* Weights files: round trip, deterministic bytes, PyTorch-like headers, every malformed header,
 * every truncation and single-byte change of a small file, lack of memory. */
#include "runtime/safetensors.h"
#include "support/file.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/qnet-safetensors-XXXXXX";

static int make_file(void **state) {
  (void)state;
  const int fd = mkstemp(path);
  if (fd >= 0) close(fd);
  return fd >= 0 ? 0 : -1;
}

static int remove_file(void **state) {
  (void)state;
  return unlink(path);
}

static qnet_blob *ramp(const qnet_allocator *a, qnet_dtype dtype, int rank, const int64_t *dim) {
  qnet_blob *b = qnet_blob_create(a, dtype, rank, dim);
  if (b)
    for (size_t i = 0; i < b->bytes; i++)
      ((uint8_t *)b->data)[i] = (uint8_t)(i * 7 + 1);
  return b;
}

static qnet_status add(qnet_tensor_file *f, const char *name, qnet_dtype dtype, int rank,
                       const int64_t *dim) {
  qnet_blob *b = ramp(f->allocator, dtype, rank, dim);
  const qnet_status status = b ? qnet_tensor_file_set(f, name, b) : QNET_NO_MEMORY;
  qnet_blob_release(b);
  return status;
}

static qnet_status fill(qnet_tensor_file *f) {
  QNET_TRY(add(f, "conv1.weight", QNET_F32, 4, (int64_t[]){2, 1, 3, 3}));
  QNET_TRY(add(f, "bn1.codes", QNET_CODE, 1, (int64_t[]){5}));
  QNET_TRY(add(f, "a \"quoted\"\n", QNET_I64, 0, NULL));
  QNET_TRY(add(f, "empty", QNET_I32, 2, (int64_t[]){0, 3}));
  QNET_TRY(qnet_tensor_file_set_meta(f, "quantizer", "lqnets"));
  QNET_TRY(qnet_tensor_file_set_meta(f, "bits", "3"));
  return qnet_tensor_file_set_meta(f, "bits", "2");
}

static void round_trip(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  qnet_tensor_file f, g;
  qnet_tensor_file_init(&f, a);
  qnet_tensor_file_init(&g, a);
  assert_int_equal(fill(&f), QNET_OK);
  assert_int_equal(qnet_tensor_file_write(&f, path, NULL), QNET_OK);
  assert_int_equal(qnet_tensor_file_read(&g, path, NULL), QNET_OK);
  assert_int_equal(g.count, 4);
  for (size_t i = 0; i < f.count; i++) {
    assert_string_equal(f.entry[i].name, g.entry[i].name);
    assert_int_equal(f.entry[i].blob->bytes, g.entry[i].blob->bytes);
    assert_memory_equal(f.entry[i].blob->data, g.entry[i].blob->data, f.entry[i].blob->bytes);
  }
  assert_true(qnet_blob_equal(qnet_tensor_file_find(&f, "conv1.weight"),
                              qnet_tensor_file_find(&g, "conv1.weight")));
  assert_int_equal(qnet_tensor_file_find(&g, "bn1.codes")->dtype, QNET_U8);
  assert_null(qnet_tensor_file_find(&g, "conv2.weight"));
  assert_string_equal(qnet_tensor_file_meta(&g, "bits"), "2");
  assert_null(qnet_tensor_file_meta(&g, "bit"));
  assert_int_equal(add(&g, "empty", QNET_U8, 1, (int64_t[]){1}), QNET_OK);
  assert_int_equal(g.count, 4);
  qnet_tensor_file_free(&f);
  qnet_tensor_file_free(&g);
}

static void bytes_do_not_depend_on_order(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  char *bytes[2];
  size_t size[2];
  for (int turn = 0; turn < 2; turn++) {
    qnet_tensor_file f;
    qnet_tensor_file_init(&f, a);
    for (int i = 0; i < 40; i++) {
      char name[8];
      snprintf(name, sizeof name, "t%d", turn ? 39 - i : i);
      assert_int_equal(add(&f, name, QNET_F32, 1, (int64_t[]){3}), QNET_OK);
      assert_int_equal(qnet_tensor_file_set_meta(&f, name, "x"), QNET_OK);
    }
    assert_int_equal(qnet_tensor_file_write(&f, path, NULL), QNET_OK);
    assert_int_equal(qnet_file_read(a, path, 1 << 20, &bytes[turn], &size[turn], NULL), QNET_OK);
    qnet_tensor_file_free(&f);
  }
  assert_int_equal(size[0], size[1]);
  assert_memory_equal(bytes[0], bytes[1], size[0]);
  uint64_t header;
  memcpy(&header, bytes[0], 8);
  assert_int_equal(header % 8, 0);
  assert_int_equal(size[0], 8 + header + 40 * 12);
  qnet_free(a, bytes[0], size[0] + 1);
  qnet_free(a, bytes[1], size[1] + 1);
}

/* Writes a file of that header and so many bytes of data; returns the status of reading it. */
static qnet_status read_header(const char *header, size_t data_bytes, qnet_tensor_file *f) {
  char content[1024] = {0};
  const uint64_t length = strlen(header);
  memcpy(content, &length, 8);
  memcpy(content + 8, header, length);
  const qnet_allocator *a = qnet_allocator_system();
  assert_int_equal(qnet_file_write(a, path, content, 8 + length + data_bytes, NULL), QNET_OK);
  qnet_tensor_file_init(f, a);
  return qnet_tensor_file_read(f, path, NULL);
}

static void headers_are_checked(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t data_bytes;
    qnet_status status;
  } cases[] = {
      {"{}", 0, QNET_OK},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   ", 8, QNET_OK},
      {"{\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[4,5]},"
       "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
       5, QNET_OK},
      {"{\"__metadata__\":{\"k\":\"v\"}}", 0, QNET_OK},
      {"", 0, QNET_ERROR},
      {"[]", 0, QNET_ERROR},
      {"{} x", 0, QNET_ERROR},
      {"{}", 1, QNET_ERROR}, /* data of no tensor */
      {"{\"__metadata__\":{\"k\":1}}", 0, QNET_ERROR},
      {"{\"__metadata__\":[]}", 0, QNET_ERROR},
      {"{\"a\":3}", 0, QNET_ERROR},
      {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
       QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4294967296],"
       "\"data_offsets\":[0,8]}}",
       8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8,
       QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,9]}}", 8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 8, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
       "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
       3, QNET_ERROR},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
       "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
       0, QNET_ERROR}, /* twice the same name */
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    qnet_tensor_file f;
    const qnet_status status = read_header(cases[i].header, cases[i].data_bytes, &f);
    if (status != cases[i].status) print_error("case %zu: %s\n", i, cases[i].header);
    assert_int_equal(status, cases[i].status);
    if (status != QNET_OK) assert_int_equal(f.count + f.meta_count + f.capacity, 0);
    qnet_tensor_file_free(&f);
  }
}

static void errors_name_the_file_and_the_tensor(void **state) {
  (void)state;
  qnet_tensor_file f;
  read_header("{\"conv1.weight\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, &f);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  assert_int_equal(qnet_tensor_file_read(&f, path, d), QNET_ERROR);
  char text[512] = "", expected[512];
  FILE *out = fmemopen(text, sizeof text, "w");
  qnet_diag_print(d, out, false);
  fclose(out);
  qnet_diag_destroy(d);
  snprintf(expected, sizeof expected,
           "%s: error: tensor 'conv1.weight': type F16 is not supported; convert the file to F32\n",
           path);
  assert_string_equal(text, expected);
}

/* Every truncation and every change of one byte to some telling values: an error or a file that
 * reads well, never a crash. */
static void damaged_files_never_crash(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, a);
  assert_int_equal(fill(&f), QNET_OK);
  assert_int_equal(qnet_tensor_file_write(&f, path, NULL), QNET_OK);
  qnet_tensor_file_free(&f);
  char *bytes;
  size_t size;
  assert_int_equal(qnet_file_read(a, path, 1 << 20, &bytes, &size, NULL), QNET_OK);
  FILE *file = fopen(path, "r+b");
  for (size_t i = 0; i < size; i++) {
    static const uint8_t flips[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff};
    for (size_t k = 0; k < sizeof flips; k++) {
      assert_int_equal(pwrite(fileno(file), &(char){(char)(bytes[i] ^ flips[k])}, 1, (off_t)i), 1);
      if (qnet_tensor_file_read(&f, path, NULL) == QNET_OK) assert_true(f.count <= 5);
      qnet_tensor_file_free(&f);
    }
    assert_int_equal(pwrite(fileno(file), bytes + i, 1, (off_t)i), 1);
  }
  for (size_t length = size; length-- > 0;) {
    assert_int_equal(ftruncate(fileno(file), (off_t)length), 0);
    assert_int_equal(qnet_tensor_file_read(&f, path, NULL), QNET_ERROR);
  }
  fclose(file);
  qnet_free(a, bytes, size + 1);
}

static void lack_of_memory(void **state) {
  (void)state;
  qnet_failing_allocator m;
  uint64_t n = 0;
  do {
    qnet_failing_allocator_init(&m, ++n, 0);
    qnet_tensor_file f;
    qnet_tensor_file_init(&f, &m.base);
    qnet_status status = fill(&f);
    if (status == QNET_OK) status = qnet_tensor_file_write(&f, path, NULL);
    if (status == QNET_OK) status = qnet_tensor_file_read(&f, path, NULL);
    assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
    qnet_tensor_file_free(&f);
    assert_int_equal(m.live_bytes, 0);
  } while (m.failed);
  assert_true(n > 20);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(round_trip),
      cmocka_unit_test(bytes_do_not_depend_on_order),
      cmocka_unit_test(headers_are_checked),
      cmocka_unit_test(errors_name_the_file_and_the_tensor),
      cmocka_unit_test(damaged_files_never_crash),
      cmocka_unit_test(lack_of_memory),
  };
  return cmocka_run_group_tests(tests, make_file, remove_file);
}
