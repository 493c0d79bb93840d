/* The reference kernels of quant: integer sums against direct ones, thresholds, pools. */
#include "interp_test.h"

#include "support/strbuf.h"

static const uint64_t seed = 42;

/* table @NAME { bits, channels, scale = 1, levels = random }; the levels also go to `level`. */
static void print_table(qnet_strbuf *b, const char *name, int bits, int channels, int32_t *level,
                        uint64_t *random) {
  const int codes = 1 << bits;
  qnet_strbuf_printf(b, "table @%s { bits = %d, channels = %d, scale = [", name, bits, channels);
  for (int c = 0; c < channels; c++)
    qnet_strbuf_printf(b, "%s1.0", c > 0 ? ", " : "");
  qnet_strbuf_puts(b, "], levels = [");
  for (int i = 0; i < channels * codes; i++) {
    level[i] = (int32_t)test_range(random, -127, 127);
    qnet_strbuf_printf(b, "%s%d", i > 0 ? ", " : "", level[i]);
  }
  qnet_strbuf_puts(b, "] }\n");
}

static qnet_blob *random_codes(uint64_t *random, int64_t count, int bits) {
  qnet_blob *b = test_blob(QNET_CODE, count, NULL);
  for (int64_t i = 0; i < count; i++)
    ((uint8_t *)b->data)[i] = (uint8_t)test_range(random, 0, (1 << bits) - 1);
  return b;
}

enum { H = 6, W = 5, C = 19, O = 7, KH = 3, KW = 2, OH = 3, OW = 7 };

/* Stride 2x1, padding 1, 2, 0, 1, dilation 1x1. */
static int32_t direct_sum(const uint8_t *x, const uint8_t *w, const int32_t *lx, const int32_t *lw,
                          int weight_codes, int oh, int ow, int o) {
  int32_t sum = 0;
  for (int kh = 0; kh < KH; kh++)
    for (int kw = 0; kw < KW; kw++) {
      const int ih = oh * 2 - 1 + kh, iw = ow - 2 + kw;
      if (ih < 0 || ih >= H || iw < 0 || iw >= W) continue;
      for (int c = 0; c < C; c++)
        sum += lx[x[(ih * W + iw) * C + c]] *
               lw[o * weight_codes + w[((o * KH + kh) * KW + kw) * C + c]];
    }
  return sum;
}

static void conv2d_is_the_exact_sum(void **state) {
  (void)state;
  uint64_t random = seed;
  for (int bits = 1; bits <= 8; bits++) {
    int32_t lx[256], lw[O * 256];
    qnet_strbuf text;
    qnet_strbuf_init(&text, qnet_allocator_system());
    qnet_strbuf_puts(&text, "module @t quant {\n");
    print_table(&text, "a", bits, 1, lx, &random);
    print_table(&text, "w", bits, O, lw, &random);
    qnet_strbuf_printf(&text,
                       "func @eval(%%x: tensor<1x6x5x19xq%d:@a>, %%w: tensor<7x3x2x19xq%d:@w>) {\n"
                       "%%0 = quant.conv2d(%%x, %%w) {stride = [2, 1], pad = [1, 2, 0, 1]} : "
                       "tensor<1x3x7x7xi32>\n yield %%0 } }",
                       bits, bits);
    qnet_blob *args[] = {random_codes(&random, H * W * C, bits),
                         random_codes(&random, O * KH * KW * C, bits)};
    qnet_blob *y = NULL;
    test_run(qnet_strbuf_text(&text), args, 2, &y, 1);
    const int32_t *got = y->data;
    for (int i = 0; i < OH * OW * O; i++)
      assert_int_equal(got[i], direct_sum(args[0]->data, args[1]->data, lx, lw, 1 << bits,
                                          i / O / OW, i / O % OW, i % O));
    test_release(args, 2);
    qnet_blob_release(y);
    qnet_strbuf_free(&text);
  }
}

static void dense_sums_many_taps(void **state) {
  (void)state;
  enum { TAPS = 70000 };
  qnet_blob *args[] = {test_blob(QNET_CODE, TAPS, NULL), test_blob(QNET_CODE, 2 * TAPS, NULL)};
  memset((uint8_t *)args[1]->data + TAPS, 1, TAPS);
  qnet_blob *y = NULL;
  test_run("module @t quant {\n table @a { bits = 1, scale = [1.0], levels = [127, 0] }\n"
           "table @w { bits = 1, scale = [1.0], levels = [127, -127] }\n"
           "func @eval(%x: tensor<1x70000xq1:@a>, %w: tensor<2x70000xq1:@w>) {\n"
           "%0 = quant.dense(%x, %w) : tensor<1x2xi32>\n yield %0 } }",
           args, 2, &y, 1);
  assert_int_equal(((int32_t *)y->data)[0], 16129 * TAPS);
  assert_int_equal(((int32_t *)y->data)[1], -16129 * TAPS);
  test_release(args, 2);
  qnet_blob_release(y);
}

static void affine_rounds_the_accumulator_first(void **state) {
  (void)state;
  const int32_t acc[] = {16777217, -3, 5, 100};
  qnet_blob *args[] = {test_blob(QNET_I32, 4, acc),
                       test_blob(QNET_F32, 4, (float[]){0.1f, 2, -3, 4})};
  qnet_blob *out[2] = {NULL};
  test_run("module @t quant {\n const @a : tensor<2xf32> = [0.1, -0.5]\n"
           "const @b : tensor<2xf32> = [0.3, 2.0]\n"
           "func @eval(%x: tensor<1x1x2x2xi32>, %y: tensor<1x1x2x2xf32>) {\n"
           "%a = read @a : tensor<2xf32>\n %b = read @b : tensor<2xf32>\n"
           "%0 = quant.affine(%x, %a, %b) : tensor<1x1x2x2xf32>\n"
           "%1 = quant.affine(%y, %a, %b) : tensor<1x1x2x2xf32>\n yield %0, %1 } }",
           args, 2, out, 2);
  const float *y = out[0]->data, *z = out[1]->data;
  assert_true(y[0] == fmaf(16777216.0f, 0.1f, 0.3f) && y[1] == 3.5f);
  assert_true(y[2] == fmaf(5.0f, 0.1f, 0.3f) && y[3] == -48.0f);
  assert_true(z[0] == fmaf(0.1f, 0.1f, 0.3f) && z[1] == 1.0f);
  test_release(args, 2);
  test_release(out, 2);
}

static void values_by_thresholds(void **state) {
  (void)state;
  const float x[] = {-1, 0.25f, 0.26f, 9};
  qnet_blob *arg = test_blob(QNET_F32, 4, x), *out = NULL;
  test_run("module @t quant {\n table @a { bits = 2, scale = [0.1], levels = [0, 2, -1, 3], "
           "thresholds = [-2.0, 0.25, 1.25], perm = [2, 0, 1, 3] }\n"
           "func @eval(%x: tensor<1x4xf32>) {\n"
           "%0 = quant.round(%x) {table = @a} : tensor<1x4xf32>\n yield %0 } }",
           &arg, 1, &out, 1);
  const float *y = out->data;
  assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0.1f * 2 && y[3] == 0.1f * 3);
  qnet_blob_release(arg);
  qnet_blob_release(out);
}

static void codes_by_thresholds(void **state) {
  (void)state;
  const float x[] = {-1, 0.25f, 0.26f, 9};
  const int32_t acc[] = {-5, -5, 10, 9, 11, -11}; /* channels: plain, flipped */
  qnet_blob *args[] = {test_blob(QNET_F32, 4, x), test_blob(QNET_I32, 6, acc)};
  qnet_blob *out[2] = {NULL};
  test_run("module @t quant {\n table @a { bits = 2, scale = [0.5], levels = [0, 2, 1, 3], "
           "thresholds = [0.25, 0.75, 1.25], perm = [0, 2, 1, 3] }\n"
           "const @t : tensor<2x3xi32> = [-5, 10, 11, -11, -10, 10]\n"
           "const @f : tensor<2xi32> = [0, -1]\n"
           "func @eval(%x: tensor<1x4xf32>, %y: tensor<1x3x1x2xi32>) {\n"
           "%0 = quant.quantize(%x) {table = @a} : tensor<1x4xq2:@a>\n"
           "%t = read @t : tensor<2x3xi32>\n %f = read @f : tensor<2xi32>\n"
           "%1 = quant.threshold(%y, %t, %f) {table = @a} : tensor<1x3x1x2xq2:@a>\n"
           "yield %0, %1 } }",
           args, 2, out, 2);
  assert_memory_equal(out[0]->data, ((uint8_t[]){0, 0, 2, 3}), 4);
  /* flipped: ~-5 = 4 passes 2, ~9 = -10 passes 2, ~-11 = 10 passes all */
  assert_memory_equal(out[1]->data, ((uint8_t[]){2, 1, 1, 1, 3, 3}), 6);
  test_release(args, 2);
  test_release(out, 2);
}

static void max_pool_of_flipped_channels_is_a_minimum(void **state) {
  (void)state;
  const int32_t x[] = {1, 1, -7, -7, 5, 5, 2, 2};
  qnet_blob *in = test_blob(QNET_I32, 8, x), *y = NULL;
  test_run("module @t quant {\n const @f : tensor<2xi32> = [0, -1]\n"
           "func @eval(%x: tensor<1x2x2x2xi32>) {\n %f = read @f : tensor<2xi32>\n"
           "%0 = quant.max_pool2d(%x, %f) {kernel = [2, 2], stride = [1, 1], pad = [0, 1, 0, 0]} "
           ": tensor<1x1x2x2xi32>\n yield %0 } }",
           &in, 1, &y, 1);
  assert_memory_equal(y->data, ((int32_t[]){5, 1, 5, -7}), 16);
  qnet_blob_release(in);
  qnet_blob_release(y);
}

static void no_leak_when_memory_ends(void **state) {
  (void)state;
  qnet_blob *x = test_blob(QNET_F32, 32, NULL);
  test_out_of_memory(
      "module @t quant {\n table @a { bits = 1, scale = [0.5], levels = [0, 1], thresholds = "
      "[0.25], perm = [0, 1] }\n table @w { bits = 1, scale = [1.0], levels = [-1, 1] }\n"
      "const @w.codes : tensor<3x1x1x2xq1:@w> = [0, 1, 1, 1, 0, 0]\n"
      "const @a.a : tensor<3xf32> = splat(1.0)\n"
      "func @eval(%x: tensor<1x4x4x2xf32>) {\n %w = read @w.codes : tensor<3x1x1x2xq1:@w>\n"
      "%a = read @a.a : tensor<3xf32>\n"
      "%0 = quant.quantize(%x) {table = @a} : tensor<1x4x4x2xq1:@a>\n"
      "%1 = quant.conv2d(%0, %w) {stride = [1, 1], pad = [0, 0, 0, 0]} : tensor<1x4x4x3xi32>\n"
      "%2 = quant.affine(%1, %a, %a) : tensor<1x4x4x3xf32>\n yield %2 } }",
      &x, 1, 1);
  qnet_blob_release(x);
}

int main(void) {
  printf("seed %llu\n", (unsigned long long)seed);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(conv2d_is_the_exact_sum),
      cmocka_unit_test(dense_sums_many_taps),
      cmocka_unit_test(affine_rounds_the_accumulator_first),
      cmocka_unit_test(codes_by_thresholds),
      cmocka_unit_test(values_by_thresholds),
      cmocka_unit_test(max_pool_of_flipped_channels_is_a_minimum),
      cmocka_unit_test(no_leak_when_memory_ends),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
