/* What the tests of training share: small networks as text, random weights and data, pipelines. */
#ifndef QNET_TESTS_UNIT_TRAINING_TEST_H
#define QNET_TESTS_UNIT_TRAINING_TEST_H

#include "codegen/plan.h"
#include "passes/pass.h"
#include "tests/unit/interp_test.h"

/* Every operation that has a gradient: strides, a residual sum, three pools, flatten, biases. */
static const char test_network[] =
    "module @net nn {\n"
    "  state @conv1.weight : tensor<8x3x3x1xf32> = elided\n"
    "  state @bn1.weight : tensor<8xf32> = elided\n"
    "  state @bn1.bias : tensor<8xf32> = elided\n"
    "  state @bn1.running_mean : tensor<8xf32> = elided\n"
    "  state @bn1.running_var : tensor<8xf32> = elided\n"
    "  state @conv2.weight : tensor<8x3x3x8xf32> = elided\n"
    "  state @bn2.weight : tensor<8xf32> = elided\n"
    "  state @bn2.bias : tensor<8xf32> = elided\n"
    "  state @bn2.running_mean : tensor<8xf32> = elided\n"
    "  state @bn2.running_var : tensor<8xf32> = elided\n"
    "  state @conv3.weight : tensor<12x3x3x8xf32> = elided\n"
    "  state @conv3.bias : tensor<12xf32> = elided\n"
    "  state @dense1.weight : tensor<10x48xf32> = elided\n"
    "  state @dense1.bias : tensor<10xf32> = elided\n"
    "  state @dense2.weight : tensor<3x10xf32> = elided\n"
    "  state @dense2.bias : tensor<3xf32> = elided\n"
    "  func @eval(%image: tensor<1x8x8x1xu8>) {\n"
    "    %0 = nn.normalize(%image) {mean = [0.5], std = [0.25]} : tensor<1x8x8x1xf32>\n"
    "    %1 = read @conv1.weight : tensor<8x3x3x1xf32>\n"
    "    %2 = nn.conv2d(%0, %1) {stride = [1, 1], pad = [1, 1, 1, 1]} : tensor<1x8x8x8xf32>\n"
    "    %3 = read @bn1.weight : tensor<8xf32>\n"
    "    %4 = read @bn1.bias : tensor<8xf32>\n"
    "    %5 = read @bn1.running_mean : tensor<8xf32>\n"
    "    %6 = read @bn1.running_var : tensor<8xf32>\n"
    "    %7 = nn.batch_norm(%2, %3, %4, %5, %6) {eps = 0.001} : tensor<1x8x8x8xf32>\n"
    "    %8 = nn.relu(%7) : tensor<1x8x8x8xf32>\n"
    "    %9 = nn.max_pool2d(%8) {kernel = [3, 3], stride = [2, 2], pad = [1, 1, 1, 1]} : "
    "tensor<1x4x4x8xf32>\n"
    "    %10 = read @conv2.weight : tensor<8x3x3x8xf32>\n"
    "    %11 = nn.conv2d(%9, %10) {stride = [1, 1], pad = [1, 1, 1, 1]} : tensor<1x4x4x8xf32>\n"
    "    %12 = read @bn2.weight : tensor<8xf32>\n"
    "    %13 = read @bn2.bias : tensor<8xf32>\n"
    "    %14 = read @bn2.running_mean : tensor<8xf32>\n"
    "    %15 = read @bn2.running_var : tensor<8xf32>\n"
    "    %16 = nn.batch_norm(%11, %12, %13, %14, %15) {eps = 0.001} : tensor<1x4x4x8xf32>\n"
    "    %17 = nn.add(%16, %9) : tensor<1x4x4x8xf32>\n"
    "    %18 = nn.relu(%17) : tensor<1x4x4x8xf32>\n"
    "    %19 = read @conv3.weight : tensor<12x3x3x8xf32>\n"
    "    %20 = read @conv3.bias : tensor<12xf32>\n"
    "    %21 = nn.conv2d(%18, %19, %20) {stride = [1, 1], pad = [1, 1, 1, 1]} : "
    "tensor<1x4x4x12xf32>\n"
    "    %22 = nn.relu(%21) : tensor<1x4x4x12xf32>\n"
    "    %23 = nn.avg_pool2d(%22) {kernel = [2, 2], stride = [2, 2], pad = [0, 0, 0, 0]} : "
    "tensor<1x2x2x12xf32>\n"
    "    %24 = nn.flatten(%23) : tensor<1x48xf32>\n"
    "    %25 = read @dense1.weight : tensor<10x48xf32>\n"
    "    %26 = read @dense1.bias : tensor<10xf32>\n"
    "    %27 = nn.dense(%24, %25, %26) : tensor<1x10xf32>\n"
    "    %28 = nn.relu(%27) : tensor<1x10xf32>\n"
    "    %29 = read @dense2.weight : tensor<3x10xf32>\n"
    "    %30 = read @dense2.bias : tensor<3xf32>\n"
    "    %31 = nn.dense(%28, %29, %30) : tensor<1x3xf32>\n"
    "    yield %31\n"
    "  }\n"
    "}\n";

enum { TEST_PIXELS = 64, TEST_CLASSES = 3 };

static inline bool test_ends_with(const char *text, const char *end) {
  const size_t a = strlen(text), b = strlen(end);
  return a >= b && strcmp(text + a - b, end) == 0;
}

/* Random weights of a useful size; batch_norm starts near the identity. */
static inline void test_randomise(qnet_module *m, uint64_t seed) {
  for (qnet_symbol *s = m->first_symbol; s != NULL; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE || s->blob != NULL) continue;
    const qnet_type *t = s->type;
    qnet_blob *b = qnet_blob_create(m->allocator, t->dtype, t->rank, t->dim);
    assert_non_null(b);
    const int64_t n = qnet_type_elements(t);
    const float spread = t->rank > 1 ? sqrtf(6.0f / (float)(n / t->dim[0])) : 0.2f;
    const bool around_one =
        t->rank == 1 && (test_ends_with(s->name, ".weight") || test_ends_with(s->name, "_var"));
    for (int64_t i = 0; i < n; i++)
      ((float *)b->data)[i] = spread * test_float(&seed) + (around_one ? 1.0f : 0.0f);
    qnet_symbol_set_blob(s, b);
    qnet_blob_release(b);
  }
}

static inline void test_passes(qnet_module *m, const char *pipeline, qnet_diag *d) {
  const qnet_pipeline_options options = {.verify_each = true};
  const qnet_status status = qnet_pipeline_run(m, pipeline, &options, NULL, d);
  if (status != QNET_OK) qnet_diag_print(d, stderr, false);
  assert_int_equal(status, QNET_OK);
}

/* The network with random weights after a pipeline. */
static inline qnet_module *test_prepare(const char *text, const char *pipeline, uint64_t seed,
                                        qnet_diag *d) {
  qnet_module *m = test_parse(text, d);
  test_randomise(m, seed);
  test_passes(m, pipeline, d);
  return m;
}

/* Three classes that a small network can tell apart: horizontal, vertical and diagonal waves in
 * noise. */
static inline void test_batch(uint64_t *seed, int64_t count, uint8_t *image, int32_t *label) {
  for (int64_t n = 0; n < count; n++) {
    label[n] = (int32_t)test_range(seed, 0, TEST_CLASSES - 1);
    const int phase = (int)test_range(seed, 0, 3);
    for (int i = 0; i < TEST_PIXELS; i++) {
      const int h = i / 8, w = i % 8;
      const int along = label[n] == 0 ? h : label[n] == 1 ? w : h + w;
      const int64_t bright = (along + phase) % 4 < 2 ? 170 : 80;
      image[n * TEST_PIXELS + i] = (uint8_t)(bright + test_range(seed, -50, 50));
    }
  }
}

/* A batch, the rate, and random numbers for what distillation brings. */
static inline void test_step_arguments(qnet_plan *p, uint64_t *seed, float lr) {
  const qnet_blob *image = qnet_plan_argument(p, 0);
  test_batch(seed, image->dim[0], image->data, qnet_plan_argument(p, 1)->data);
  *(float *)qnet_plan_argument(p, 2)->data = lr;
  for (int i = 3; qnet_plan_argument(p, i) != NULL; i++)
    for (int64_t k = 0; k < qnet_blob_elements(qnet_plan_argument(p, i)); k++)
      ((float *)qnet_plan_argument(p, i)->data)[k] = test_float(seed);
}

#endif
