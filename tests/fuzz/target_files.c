/* Fuzz targets of binary files and of the command line: weights (with the tables that the driver
 * reads from them), images, IDX, options. */
#include "driver/model.h"
#include "driver/predictor.h"
#include "runtime/idx.h"
#include "runtime/image.h"
#include "runtime/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include <string.h>

enum { PIXELS = 64, MAX_CLASSES = 16, MAX_WORDS = 16 };

/* ---- weights ------------------------------------------------------------------------------- */

static void check_file(const fuzz_case *c) {
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, c->allocator);
  fuzz_check(c, qnet_tensor_file_read(&f, c->path, c->diag), "reading weights");
  qnet_tensor_file_free(&f);
}

/* The whole way from a weights file to logits. */
static void use_weights(const fuzz_case *c) {
  static const qnet_engine_kind kinds[] = {QNET_ENGINE_QUANT, QNET_ENGINE_BITS, QNET_ENGINE_LOOP};
  qnet_session s = {.allocator = c->allocator, .diag = c->diag};
  char program[] = "qnetc", verb[] = "run", net[] = "tests/fuzz/seeds/small.qnet",
       image_path[] = "x", weights[] = "--weights=x";
  char *argv[] = {program, verb, net, image_path, weights, NULL};
  fuzz_check(c, qnet_options_parse(5, argv, &s.options, c->diag), "options");
  s.options.weights = c->path;
  const int bits = 1 + (int)(c->random / 8 % 4);
  if (c->random % 8 == 0) s.options.bits = (qnet_bits){bits, c->random / 32 % 2 ? bits : 32};
  qnet_program p;
  const qnet_status status = qnet_model_load(&s, &p);
  fuzz_check(c, status, "loading weights");
  if (status != QNET_OK) return;
  qnet_predictor *predictor = NULL;
  fuzz_check(c,
             qnet_predictor_create(c->allocator, p.module, kinds[c->random / 64 % 3], NULL,
                                   &predictor, c->diag),
             "lowering");
  qnet_module_destroy(p.module);
  uint8_t image[PIXELS];
  float logits[MAX_CLASSES];
  for (int i = 0; i < PIXELS; i++)
    image[i] = (uint8_t)(c->random >> i % 57);
  if (predictor) {
    fuzz_accept(c);
    fuzz_check(c, qnet_predictor_logits(predictor, image, 1, logits, c->diag), "predicting");
  }
  qnet_predictor_destroy(predictor);
}

static void run_weights(const fuzz_case *c, const char *data, size_t size) {
  fuzz_write(c, data, size);
  check_file(c);
  use_weights(c);
}

/* Files that are well-formed, with content that may not be. */
static void run_packed(const fuzz_case *c, const char *data, size_t size) {
  qnet_tensor_file f;
  fuzz_write(c, data, size);
  qnet_tensor_file_init(&f, c->allocator);
  if (qnet_tensor_file_read(&f, c->path, NULL) != QNET_OK)
    fuzz_check(c, qnet_tensor_file_read(&f, "tests/fuzz/seeds/packed.safetensors", c->diag),
               "seed");
  fuzz_edit_tensors(&f, c->random);
  fuzz_check(c, qnet_tensor_file_write(&f, c->path, c->diag), "writing weights");
  qnet_tensor_file_free(&f);
  use_weights(c);
}

static const char *const weights_seeds[] = {"tests/fuzz/seeds/*.safetensors", NULL};
static const char *const weights_words[] = {"\"F32\"",
                                            "\"I8\"",
                                            "\"U8\"",
                                            "\"BF16\"",
                                            "\"dtype\"",
                                            "\"shape\"",
                                            "\"data_offsets\"",
                                            "\"__metadata__\"",
                                            "[",
                                            "]",
                                            "{",
                                            "}",
                                            ",",
                                            ":",
                                            "\"",
                                            "[0,0]",
                                            "[]",
                                            "null",
                                            "true",
                                            "1e5",
                                            "-1",
                                            "18446744073709551616",
                                            "\\u0000",
                                            "\xff\xff\xff\xff",
                                            "\x00\x00\x80\x7f",
                                            NULL};

const fuzz_target fuzz_target_weights = {"weights",     run_weights, weights_seeds,
                                         weights_words, 5,           NULL};

static const char *const packed_seeds[] = {"tests/fuzz/seeds/packed.safetensors", NULL};
const fuzz_target fuzz_target_packed = {"packed", run_packed, packed_seeds, weights_words, 3, NULL};

/* ---- images -------------------------------------------------------------------------------- */

static void run_image(const fuzz_case *c, const char *data, size_t size) {
  fuzz_write(c, data, size);
  qnet_blob *image = NULL;
  const qnet_status status =
      qnet_image_read(c->allocator, c->path, c->random % 2 ? 1 : 3, &image, c->diag);
  fuzz_check(c, status, "reading an image");
  if (status == QNET_OK) fuzz_accept(c);
  qnet_blob_release(image);
}

static const char *const image_seeds[] = {"tests/fuzz/seeds/image.*", NULL};
static const char *const image_words[] = {"P5",
                                          "P6",
                                          "255",
                                          "65535",
                                          "#",
                                          "\n",
                                          "IHDR",
                                          "IDAT",
                                          "PLTE",
                                          "tRNS",
                                          "IEND",
                                          "'descr'",
                                          "'|u1'",
                                          "'<f4'",
                                          "'>f4'",
                                          "'shape'",
                                          "'fortran_order'",
                                          "True",
                                          "False",
                                          "(",
                                          ")",
                                          "(0,)",
                                          "(4294967296, 4294967296)",
                                          ",",
                                          "{",
                                          "}",
                                          NULL};

const fuzz_target fuzz_target_image = {"image", run_image, image_seeds, image_words, 8, NULL};

static void run_idx(const fuzz_case *c, const char *data, size_t size) {
  fuzz_write(c, data, size);
  qnet_idx idx;
  const qnet_status status =
      qnet_idx_read(c->allocator, c->path, c->random % 2 ? 1 : 3, &idx, c->diag);
  fuzz_check(c, status, "reading IDX");
  if (status != QNET_OK) return;
  fuzz_accept(c);
  qnet_free(c->allocator, idx.data, idx.bytes);
}

static const char *const idx_seeds[] = {"tests/fuzz/seeds/*idx*", NULL};
static const char *const idx_words[] = {"\x08\x03", "\xff\xff\xff\xff", "\x1f\x8b\x08", NULL};

const fuzz_target fuzz_target_idx = {"idx", run_idx, idx_seeds, idx_words, 7, NULL};

/* ---- command line -------------------------------------------------------------------------- */

/* One word a line. */
static void run_options(const fuzz_case *c, const char *data, size_t size) {
  char line[1024], program[] = "qnetc";
  char *argv[MAX_WORDS + 1] = {program};
  int argc = 1;
  const size_t length = size < sizeof line - 1 ? size : sizeof line - 1;
  memcpy(line, data, length);
  line[length] = 0;
  for (char *word = strtok(line, "\n"); word && argc < MAX_WORDS; word = strtok(NULL, "\n"))
    argv[argc++] = word;
  argv[argc] = NULL;
  qnet_options options;
  const qnet_status status = qnet_options_parse(argc, argv, &options, c->diag);
  fuzz_check(c, status, "options");
  if (status == QNET_OK) fuzz_accept(c);
}

static const char *const options_seeds[] = {"tests/fuzz/seeds/options*", NULL};
static const char *const options_words[] = {
    "train", "eval",   "run",      "opt",        "-o", "--bits=", "--bits",
    "-D",    "-Dx=1",  "--",       "-",          "=",  "--json",  "--help",
    "--lr=", "--seed", "--epochs", "--weights=", NULL};

const fuzz_target fuzz_target_options = {"options",     run_options, options_seeds,
                                         options_words, 5,           NULL};
