/* The reference kernels of bits: planes against direct sums over their bits. */
#include "interp_test.h"

static const uint64_t seed = 7;

/* Planes of [positions][planes][words]; bits behind `channels` are 0. */
static qnet_blob *random_planes(uint64_t *random, int64_t positions, int planes, int channels) {
  const int64_t words = (channels + 63) / 64, count = positions * planes * words;
  qnet_blob *b = test_blob(QNET_U64, count, NULL);
  uint64_t *word = b->data;
  for (int64_t i = 0; i < count; i++) {
    word[i] = test_random(random);
    const int used = channels - 64 * (int)(i % words);
    if (used < 64) word[i] &= (UINT64_C(1) << used) - 1;
  }
  return b;
}

static int bit_of(const qnet_blob *b, int64_t position, int planes, int channels, int plane,
                  int c) {
  const int64_t words = (channels + 63) / 64;
  const uint64_t *word = b->data;
  return (int)(word[(position * planes + plane) * words + c / 64] >> (c % 64) & 1);
}

enum { N = 2, H = 5, W = 4, C = 70, O = 3, KH = 3, KW = 2, AP = 2, WP = 3, OH = 3, OW = 5 };

static int32_t coef[O * WP * AP], v[O];

/* Stride 2x1, padding 1, 1, 1, 1. Adds up one tap's bits; patch sums weigh plane j by j + 1. */
static void window_sums(const qnet_blob *a, const qnet_blob *w, int n, int oh, int ow, int o,
                        int32_t *conv, int32_t *patch) {
  *conv = *patch = 0;
  for (int t = 0; t < KH * KW; t++) {
    const int ih = oh * 2 - 1 + t / KW, iw = ow - 1 + t % KW;
    if (ih < 0 || ih >= H || iw < 0 || iw >= W) continue;
    const int64_t position = (n * H + ih) * W + iw;
    for (int c = 0; c < C; c++)
      for (int j = 0; j < AP; j++) {
        const int bit = bit_of(a, position, AP, C, j, c);
        *patch += (j + 1) * bit;
        for (int i = 0; i < WP; i++)
          *conv += coef[(o * WP + i) * AP + j] * bit * bit_of(w, o * KH * KW + t, WP, C, i, c);
      }
  }
}

static void conv2d_and_patch_sum_are_exact(void **state) {
  (void)state;
  uint64_t random = seed;
  for (int i = 0; i < O * WP * AP; i++)
    coef[i] = 4 * (int32_t)test_range(&random, -20, 20);
  for (int i = 0; i < O; i++)
    v[i] = 4 * (int32_t)test_range(&random, -5, 5);
  qnet_blob *args[] = {random_planes(&random, N * H * W, AP, C),
                       random_planes(&random, O * KH * KW, WP, C),
                       test_blob(QNET_I32, O * WP * AP, coef), test_blob(QNET_I32, O, v)};
  qnet_blob *out[3] = {NULL};
  test_run("module @t bits { func @eval(%a: planes<2x5x4x70,2>, %w: planes<3x3x2x70,3>, %k: "
           "tensor<3x3x2xi32>, %v: tensor<3xi32>) {\n"
           "%0 = bits.conv2d(%a, %w, %k) {stride = [2, 1], pad = [1, 1, 1, 1]} : "
           "tensor<2x3x5x3xi32>\n"
           "%1 = bits.patch_sum(%a) {coef = [1, 2], kernel = [3, 2], stride = [2, 1], pad = [1, "
           "1, 1, 1]} : tensor<2x3x5x1xi32>\n"
           "%2 = bits.conv2d(%a, %w, %k, %1, %v) {stride = [2, 1], pad = [1, 1, 1, 1], shift = 2} "
           ": tensor<2x3x5x3xi32>\n yield %0, %1, %2 } }",
           args, 4, out, 3);
  for (int i = 0; i < N * OH * OW * O; i++) {
    const int o = i % O, position = i / O;
    int32_t conv, patch;
    window_sums(args[0], args[1], position / OW / OH, position / OW % OH, position % OW, o, &conv,
                &patch);
    assert_int_equal(((int32_t *)out[0]->data)[i], conv);
    assert_int_equal(((int32_t *)out[1]->data)[position], patch);
    assert_int_equal(((int32_t *)out[2]->data)[i], (conv + v[o] * patch) / 4);
  }
  test_release(args, 4);
  test_release(out, 3);
}

/* A dense layer: planes of one position, a result of rank 2. */
static void a_result_may_have_rank_2(void **state) {
  (void)state;
  uint64_t random = seed;
  const int32_t one[] = {1, 1};
  qnet_blob *args[] = {random_planes(&random, 1, 1, 130), random_planes(&random, 2, 1, 130),
                       test_blob(QNET_I32, 2, one)};
  qnet_blob *y = NULL;
  test_run("module @t bits { func @eval(%a: planes<1x1x1x130,1>, %w: planes<2x1x1x130,1>, %k: "
           "tensor<2x1x1xi32>) {\n %0 = bits.conv2d(%a, %w, %k) {stride = [1, 1], pad = [0, 0, 0, "
           "0]} : tensor<1x2xi32>\n yield %0 } }",
           args, 3, &y, 1);
  for (int o = 0; o < 2; o++) {
    int32_t sum = 0;
    for (int c = 0; c < 130; c++)
      sum += bit_of(args[0], 0, 1, 130, 0, c) & bit_of(args[1], o, 1, 130, 0, c);
    assert_int_equal(((int32_t *)y->data)[o], sum);
  }
  test_release(args, 3);
  qnet_blob_release(y);
}

/* Ranks go through the masks: plane 0 is 1 for the ranks 1 and 3, plane 1 for 2 and 3; in a fused
 * group with an argument handed through. */
static void planes_by_thresholds(void **state) {
  (void)state;
  enum { CHANNELS = 66 };
  qnet_blob *x = test_blob(QNET_F32, CHANNELS, NULL), *acc = test_blob(QNET_I32, CHANNELS, NULL);
  qnet_blob *t = test_blob(QNET_I32, CHANNELS * 3, NULL);
  qnet_blob *flip = test_blob(QNET_I32, CHANNELS, NULL);
  for (int c = 0; c < CHANNELS; c++) {
    ((float *)x->data)[c] = (float)(c % 5) * 0.25f;
    ((int32_t *)acc->data)[c] = 3 * c - 100;
    ((int32_t *)flip->data)[c] = -(c % 2);
    for (int k = 0; k < 3; k++)
      ((int32_t *)t->data)[c * 3 + k] = 40 * k - 50;
  }
  qnet_blob *args[] = {x, acc, t, flip}, *out[3] = {NULL};
  test_run("module @t bits {\n table @a { bits = 2, scale = [0.5], levels = [0, 1, 2, 3], "
           "thresholds = [0.25, 0.5, 0.75], perm = [0, 1, 2, 3] }\n"
           "func @eval(%x: tensor<1x66xf32>, %y: tensor<1x1x1x66xi32>, %t: tensor<66x3xi32>, %f: "
           "tensor<66xi32>) {\n"
           "%0, %1, %2 = bits.kernel(%x, %y, %t, %f) : planes<1x1x1x66,2>, planes<1x1x1x66,2>, "
           "tensor<1x1x1x66xi32> {\n"
           "^(%a: tensor<1x66xf32>, %b: tensor<1x1x1x66xi32>, %c: tensor<66x3xi32>, %d: "
           "tensor<66xi32>):\n"
           "%p = bits.quantize(%a) {table = @a, planes = [10, 12]} : planes<1x1x1x66,2>\n"
           "%q = bits.threshold(%b, %c, %d) {planes = [10, 12]} : planes<1x1x1x66,2>\n"
           "yield %p, %q, %b }\n yield %0, %1, %2 } }",
           args, 4, out, 3);
  for (int c = 0; c < CHANNELS; c++) {
    const int rank = c % 5 < 1 ? 0 : c % 5 - 1; /* a tie stays below */
    assert_int_equal(bit_of(out[0], 0, 2, CHANNELS, 0, c), rank & 1);
    assert_int_equal(bit_of(out[0], 0, 2, CHANNELS, 1, c), rank >> 1);
    const int32_t value = c % 2 ? ~(3 * c - 100) : 3 * c - 100;
    const int passed = (value >= -50) + (value >= -10) + (value >= 30);
    assert_int_equal(bit_of(out[1], 0, 2, CHANNELS, 0, c), passed & 1);
    assert_int_equal(bit_of(out[1], 0, 2, CHANNELS, 1, c), passed >> 1);
  }
  assert_int_equal(((uint64_t *)out[0]->data)[1] >> 2, 0); /* behind the channels */
  assert_memory_equal(out[2]->data, acc->data, acc->bytes);
  test_release(args, 4);
  test_release(out, 3);
}

int main(void) {
  printf("seed %llu\n", (unsigned long long)seed);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(conv2d_and_patch_sum_are_exact),
      cmocka_unit_test(a_result_may_have_rank_2),
      cmocka_unit_test(planes_by_thresholds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
