/* Images: PNG and JPEG of every kind, PGM, PPM, .npy; every truncation and change of a byte;
 * memory. */
#include "runtime/image.h"
#include "support/file.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jpeglib.h>

enum { HEIGHT = 5, WIDTH = 7 };

static char path[] = "/tmp/qnet-image-XXXXXX";

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

/* A PNG whose pixel (y, x) has sample y * 40 + x * 5 + channel (of 255, scaled to the depth). */
static void write_png(int colour, int depth, bool interlaced) {
  FILE *file = fopen(path, "wb");
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
  png_infop info = png_create_info_struct(png);
  png_init_io(png, file);
  png_set_IHDR(png, info, WIDTH, HEIGHT, depth, colour,
               interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  png_color palette[256];
  for (int i = 0; i < 256; i++)
    palette[i] = (png_color){(uint8_t)i, (uint8_t)(i + 1), (uint8_t)(i + 2)};
  if (colour == PNG_COLOR_TYPE_PALETTE) {
    png_set_PLTE(png, info, palette, 256);
    png_set_tRNS(png, info, (uint8_t[]){0, 100}, 2, NULL);
  }
  png_write_info(png, info);
  const int channels = png_get_channels(png, info), bytes = depth == 16 ? 2 : 1;
  uint8_t rows[HEIGHT][WIDTH * 8];
  for (int i = 0; i < HEIGHT * WIDTH * channels * bytes; i++) {
    const int y = i / (WIDTH * channels * bytes), rest = i % (WIDTH * channels * bytes);
    const int x = rest / (channels * bytes), c = rest / bytes % channels;
    rows[y][rest] = (uint8_t)(y * 40 + x * 5 + c);
  }
  png_bytep pointers[HEIGHT];
  for (int y = 0; y < HEIGHT; y++)
    pointers[y] = rows[y];
  png_write_image(png, pointers);
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  fclose(file);
}

static qnet_blob *read_image(int channels) {
  qnet_blob *image;
  assert_int_equal(qnet_image_read(qnet_allocator_system(), path, channels, &image, NULL), QNET_OK);
  return image;
}

static uint8_t sample(const qnet_blob *image, int64_t y, int64_t x, int64_t c) {
  return ((const uint8_t *)image->data)[(y * image->dim[1] + x) * image->dim[2] + c];
}

static void check_samples(int colour, int depth, bool interlaced) {
  write_png(colour, depth, interlaced);
  const bool grey = colour == PNG_COLOR_TYPE_GRAY || colour == PNG_COLOR_TYPE_GRAY_ALPHA;
  for (int channels = 1; channels <= 3; channels += 2) {
    qnet_blob *image = read_image(channels);
    assert_int_equal(image->dim[0], HEIGHT);
    assert_int_equal(image->dim[1], WIDTH);
    assert_int_equal(image->dim[2], channels);
    for (int i = 0; i < HEIGHT * WIDTH * channels; i++) {
      const int y = i / channels / WIDTH, x = i / channels % WIDTH, c = i % channels;
      /* Luma of (v, v + 1, v + 2) is v + 1 to within rounding; grey is the same in all. */
      const int expected = y * 40 + x * 5 + (grey ? 0 : channels == 1 ? 1 : c);
      assert_int_equal(sample(image, y, x, c), expected);
    }
    qnet_blob_release(image);
  }
}

static void png_of_every_kind(void **state) {
  (void)state;
  static const int colours[] = {PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA, PNG_COLOR_TYPE_RGB,
                                PNG_COLOR_TYPE_RGB_ALPHA};
  for (int k = 0; k < 4; k++)
    for (int depth = 8; depth <= 16; depth += 8)
      for (int interlaced = 0; interlaced < 2; interlaced++)
        check_samples(colours[k], depth, interlaced);
  check_samples(PNG_COLOR_TYPE_PALETTE, 8, false);
}

static void png_of_few_bits(void **state) {
  (void)state;
  write_png(PNG_COLOR_TYPE_GRAY, 1, false); /* rows of one byte: 0, 40, 80, 120, 160 */
  qnet_blob *image = read_image(1);
  assert_int_equal(sample(image, 1, 1, 0), 0); /* 40 = 0010 1000 */
  assert_int_equal(sample(image, 1, 2, 0), 255);
  assert_int_equal(sample(image, 1, 4, 0), 255);
  qnet_blob_release(image);
}

/* A JPEG of about the samples of write_png; components 4: CMYK with 255 for no ink, no black. */
static void write_jpeg(int components, bool progressive) {
  struct jpeg_compress_struct jpeg;
  struct jpeg_error_mgr errors;
  FILE *file = fopen(path, "wb");
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  jpeg_stdio_dest(&jpeg, file);
  jpeg.image_width = WIDTH;
  jpeg.image_height = HEIGHT;
  jpeg.input_components = components;
  jpeg.in_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, 100, TRUE);
  for (int i = 0; i < components; i++)
    jpeg.comp_info[i].h_samp_factor = jpeg.comp_info[i].v_samp_factor = 1;
  if (progressive) jpeg_simple_progression(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  for (int y = 0; y < HEIGHT; y++) {
    uint8_t row[WIDTH * 4];
    for (int i = 0; i < WIDTH * components; i++)
      row[i] = (uint8_t)(i % components == 3 ? 255 : y * 40 + i / components * 5 + i % components);
    JSAMPROW rows = row;
    jpeg_write_scanlines(&jpeg, &rows, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  fclose(file);
}

static void jpeg_of_every_kind(void **state) {
  (void)state;
  static const int components[] = {1, 3, 4};
  for (int k = 0; k < 6; k++) {
    write_jpeg(components[k / 2], k % 2);
    for (int channels = 1; channels <= 3; channels += 2) {
      qnet_blob *image = read_image(channels);
      assert_int_equal(image->dim[0], HEIGHT);
      assert_int_equal(image->dim[1], WIDTH);
      for (int i = 0; i < HEIGHT * WIDTH * channels; i++) {
        const int y = i / channels / WIDTH, x = i / channels % WIDTH;
        assert_in_range(sample(image, y, x, i % channels) + 5, y * 40 + x * 5 + 2,
                        y * 40 + x * 5 + 11);
      }
      qnet_blob_release(image);
    }
  }
}

static void write_text(const char *header, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  fputs(header, file);
  fwrite(data, 1, size, file);
  fclose(file);
}

static qnet_status read_status(void) {
  qnet_blob *image = NULL;
  const qnet_status status = qnet_image_read(qnet_allocator_system(), path, 1, &image, NULL);
  assert_true((status == QNET_OK) == (image != NULL));
  qnet_blob_release(image);
  return status;
}

static void pgm_and_ppm(void **state) {
  (void)state;
  write_text("P5 # a comment\n3\t# and\n# more\n2 255\n", "\n bcde", 6);
  qnet_blob *image = read_image(3);
  assert_int_equal(image->dim[0], 2);
  assert_int_equal(sample(image, 0, 0, 2), '\n');
  assert_int_equal(sample(image, 1, 2, 1), 'e');
  qnet_blob_release(image);
  write_text("P6 1 1 255 ", "\xff\x00\x00", 3);
  image = read_image(1);
  assert_int_equal(sample(image, 0, 0, 0), 76); /* 0.299 * 255 */
  qnet_blob_release(image);
  static const char *const bad[] = {"P5",
                                    "P5 3 2 254\n",
                                    "P5 3 2 65535\n",
                                    "P5 0 2 255\n",
                                    "P5 -1 2 255\n",
                                    "P5 99999999 99999999 255\n",
                                    "P5 9999999999999999999999 1 255\n",
                                    "P5 3 2 255",
                                    "P4 1 1 1\n",
                                    ""};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    write_text(bad[i], "abcdef", i == 7 ? 0 : 6);
    assert_int_equal(read_status(), QNET_ERROR);
  }
}

/* A .npy file of the given version. */
static void write_npy(int version, const char *dictionary, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  const size_t length = strlen(dictionary);
  fwrite("\x93NUMPY", 1, 6, file);
  fputc(version, file);
  fputc(0, file);
  for (int i = 0; i < (version == 1 ? 2 : 4); i++)
    fputc((int)(length >> 8 * i & 255), file);
  fwrite(dictionary, 1, length, file);
  fwrite(data, 1, size, file);
  fclose(file);
}

static void npy_arrays(void **state) {
  (void)state;
  const float values[6] = {0, -1.5f, 2, 3, 4, 5e30f};
  for (int version = 1; version <= 3; version++) {
    write_npy(version, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }    \n", values,
              sizeof values);
    qnet_blob *array = read_image(1);
    assert_int_equal(array->dtype, QNET_F32);
    assert_int_equal(array->rank, 2);
    assert_int_equal(array->dim[1], 3);
    assert_memory_equal(array->data, values, sizeof values);
    qnet_blob_release(array);
  }
  write_npy(1, "{\"shape\":(3,),\"fortran_order\":False,\"descr\":\"|u1\"}", "abc", 3);
  qnet_blob *array = read_image(3);
  assert_int_equal(array->dtype, QNET_U8);
  assert_memory_equal(array->data, "abc", 3);
  qnet_blob_release(array);
}

static void npy_errors(void **state) {
  (void)state;
  static const struct {
    const char *dictionary, *why;
  } cases[] = {
      {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", "big-endian"},
      {"{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", "Fortran order"},
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", "'<f8' are not supported"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "needs 8 bytes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807,9), }", "damaged"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (90000000000000000,900000), }", "needs"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1), }", "damaged"},
      {"{'descr': '<f4', 'fortran_order': False, }", "damaged"},
      {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "damaged"},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "damaged"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", "damaged"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    write_npy(1, cases[i].dictionary, "abcd", 4);
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    qnet_blob *array;
    assert_int_equal(qnet_image_read(qnet_allocator_system(), path, 1, &array, d), QNET_ERROR);
    char text[512] = "";
    FILE *out = fmemopen(text, sizeof text, "w");
    qnet_diag_print(d, out, false);
    fclose(out);
    qnet_diag_destroy(d);
    if (!strstr(text, cases[i].why)) print_error("expected '%s' in: %s", cases[i].why, text);
    assert_non_null(strstr(text, cases[i].why));
  }
}

enum { KINDS = 7 };

static void write_sample_file(int kind) {
  if (kind >= 4) write_jpeg(kind == 5 ? 1 : kind == 6 ? 4 : 3, kind == 4);
  if (kind == 0) write_png(PNG_COLOR_TYPE_RGB_ALPHA, 8, true);
  if (kind == 1) write_png(PNG_COLOR_TYPE_PALETTE, 8, false);
  if (kind == 2) write_text("P5 3 2 255\n", "abcdef", 6);
  if (kind == 3)
    write_npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,3), }", "abcdef", 6);
}

static void truncated_files_are_refused(void **state) {
  (void)state;
  for (int kind = 0; kind < KINDS; kind++) {
    write_sample_file(kind);
    assert_int_equal(read_status(), QNET_OK);
    FILE *file = fopen(path, "r+b");
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    for (long length = ftell(file); length-- > 0;) {
      assert_int_equal(ftruncate(fileno(file), length), 0);
      assert_int_equal(read_status(), QNET_ERROR);
    }
    fclose(file);
  }
}

static void changed_files_never_crash(void **state) {
  (void)state;
  for (int kind = 0; kind < KINDS; kind++) {
    write_sample_file(kind);
    FILE *file = fopen(path, "r+b");
    uint8_t bytes[2000];
    const size_t size = fread(bytes, 1, sizeof bytes, file);
    for (size_t i = 0; i < size; i++) {
      static const uint8_t flips[] = {0x01, 0x08, 0x20, 0x80, 0xff};
      for (size_t k = 0; k < sizeof flips; k++) {
        const uint8_t changed = bytes[i] ^ flips[k];
        assert_int_equal(pwrite(fileno(file), &changed, 1, (off_t)i), 1);
        read_status();
      }
      assert_int_equal(pwrite(fileno(file), bytes + i, 1, (off_t)i), 1);
    }
    fclose(file);
  }
}

static void lack_of_memory(void **state) {
  (void)state;
  for (int kind = 0; kind < KINDS; kind++) {
    write_sample_file(kind);
    qnet_failing_allocator m;
    uint64_t n = 0;
    do {
      qnet_failing_allocator_init(&m, ++n, 0);
      qnet_blob *image;
      const qnet_status status = qnet_image_read(&m.base, path, 1, &image, NULL);
      assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
      qnet_blob_release(image);
      assert_int_equal(m.live_bytes, 0);
    } while (m.failed);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(png_of_every_kind),
      cmocka_unit_test(png_of_few_bits),
      cmocka_unit_test(jpeg_of_every_kind),
      cmocka_unit_test(pgm_and_ppm),
      cmocka_unit_test(npy_arrays),
      cmocka_unit_test(npy_errors),
      cmocka_unit_test(truncated_files_are_refused),
      cmocka_unit_test(changed_files_never_crash),
      cmocka_unit_test(lack_of_memory),
  };
  return cmocka_run_group_tests(tests, make_file, remove_file);
}
