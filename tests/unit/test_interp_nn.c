/* The reference kernels of nn: values by hand or by an independent formula, gradients by central
 * differences of double-precision forward functions. */
#include "interp_test.h"

static const uint64_t seed = 20240611;

/* ---- forward -------------------------------------------------------------------------------- */

typedef struct conv_case {
  int n, h, w, c, o, kh, kw, sh, sw, pt, pl, pb, pr, dh, dw;
} conv_case;

static const conv_case conv_cases[] = {
    {1, 5, 6, 3, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {2, 7, 5, 2, 17, 3, 2, 2, 1, 0, 1, 1, 0, 1, 1},
    {1, 8, 8, 5, 33, 3, 3, 1, 2, 2, 2, 2, 2, 2, 2},
    {3, 4, 4, 70, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1},
};

static int out_h(const conv_case *k) {
  return (k->h + k->pt + k->pb - k->dh * (k->kh - 1) - 1) / k->sh + 1;
}
static int out_w(const conv_case *k) {
  return (k->w + k->pl + k->pr - k->dw * (k->kw - 1) - 1) / k->sw + 1;
}

static void window_attributes(const conv_case *k, char *out, size_t size) {
  snprintf(out, size, "{stride = [%d, %d], pad = [%d, %d, %d, %d], dilation = [%d, %d]}", k->sh,
           k->sw, k->pt, k->pl, k->pb, k->pr, k->dh, k->dw);
}

/* The index of the element that tap (kh, kw) of output (oh, ow) reads, or -1 in the padding. */
static int64_t tap_index(const conv_case *k, int n, int oh, int ow, int kh, int kw) {
  const int ih = oh * k->sh - k->pt + kh * k->dh, iw = ow * k->sw - k->pl + kw * k->dw;
  if (ih < 0 || ih >= k->h || iw < 0 || iw >= k->w) return -1;
  return ((int64_t)(n * k->h + ih) * k->w + iw) * k->c;
}

static float conv_at(const conv_case *k, const float *x, const float *w, int n, int oh, int ow,
                     int o) {
  float acc = 0.0f;
  for (int kh = 0; kh < k->kh; kh++)
    for (int kw = 0; kw < k->kw; kw++) {
      const int64_t at = tap_index(k, n, oh, ow, kh, kw);
      for (int c = 0; c < k->c; c++)
        acc = fmaf(at < 0 ? 0.0f : x[at + c], w[((o * k->kh + kh) * k->kw + kw) * k->c + c], acc);
    }
  return acc;
}

static void check_conv(const conv_case *k, uint64_t *random) {
  char window[160], text[800];
  window_attributes(k, window, sizeof window);
  snprintf(text, sizeof text,
           "module @t nn { func @eval(%%x: tensor<%dx%dx%dx%dxf32>, %%w: tensor<%dx%dx%dx%dxf32>, "
           "%%b: tensor<%dxf32>) {\n"
           "%%0 = nn.conv2d(%%x, %%w, %%b) %s : tensor<%dx%dx%dx%dxf32>\n yield %%0 } }",
           k->n, k->h, k->w, k->c, k->o, k->kh, k->kw, k->c, k->o, window, k->n, out_h(k), out_w(k),
           k->o);
  qnet_blob *args[] = {test_random_floats(random, (int64_t)k->n * k->h * k->w * k->c),
                       test_random_floats(random, (int64_t)k->o * k->kh * k->kw * k->c),
                       test_random_floats(random, k->o)};
  qnet_blob *y = NULL;
  test_run(text, args, 3, &y, 1);
  const float *got = y->data, *bias = args[2]->data;
  for (int n = 0; n < k->n; n++)
    for (int oh = 0; oh < out_h(k); oh++)
      for (int ow = 0; ow < out_w(k); ow++)
        for (int o = 0; o < k->o; o++, got++) {
          const float want = conv_at(k, args[0]->data, args[1]->data, n, oh, ow, o) + bias[o];
          assert_true(*got == want);
        }
  test_release(args, 3);
  qnet_blob_release(y);
}

static void conv2d_follows_the_definition(void **state) {
  (void)state;
  uint64_t random = seed;
  for (int i = 0; i < COUNT(conv_cases); i++)
    check_conv(&conv_cases[i], &random);
}

static void dense_follows_the_definition(void **state) {
  (void)state;
  uint64_t random = seed;
  qnet_blob *args[] = {test_random_floats(&random, 2 * 37), test_random_floats(&random, 9 * 37)};
  qnet_blob *y = NULL;
  test_run("module @t nn { func @eval(%x: tensor<2x37xf32>, %w: tensor<9x37xf32>) {\n"
           "%0 = nn.dense(%x, %w) : tensor<2x9xf32>\n yield %0 } }",
           args, 2, &y, 1);
  for (int n = 0; n < 2; n++)
    for (int o = 0; o < 9; o++) {
      float acc = 0.0f;
      for (int i = 0; i < 37; i++)
        acc = fmaf(((float *)args[0]->data)[n * 37 + i], ((float *)args[1]->data)[o * 37 + i], acc);
      assert_true(((float *)y->data)[n * 9 + o] == acc);
    }
  test_release(args, 2);
  qnet_blob_release(y);
}

static void check_floats(const qnet_blob *blob, const float *want, int count) {
  assert_int_equal(blob->bytes, (size_t)count * sizeof *want);
  for (int i = 0; i < count; i++)
    if (!(((float *)blob->data)[i] == want[i]))
      fail_msg("element %d is %.9g, not %.9g", i, (double)((float *)blob->data)[i],
               (double)want[i]);
}

static void elementwise_values(void **state) {
  (void)state;
  const uint8_t pixels[] = {0, 255, 51, 102};
  const float values[] = {-1.0f, 2.0f, 0.5f, -3.0f};
  qnet_blob *args[] = {test_blob(QNET_U8, 4, pixels), test_blob(QNET_F32, 4, values)};
  qnet_blob *out[5] = {NULL};
  test_run("module @t nn {\n const @g : tensor<2xf32> = [2.0, 3.0]\n"
           "const @b : tensor<2xf32> = [1.0, -1.0]\n const @m : tensor<2xf32> = [0.5, 0.25]\n"
           "const @v : tensor<2xf32> = [4.0, 0.25]\n"
           "func @eval(%p: tensor<1x1x2x2xu8>, %x: tensor<1x1x2x2xf32>) {\n"
           "%0 = nn.normalize(%p) {mean = [0.5, 0.0], std = [0.25, 1.0]} : tensor<1x1x2x2xf32>\n"
           "%1 = nn.normalize(%x) {mean = [1.0, 1.0], std = [0.5, 0.5]} : tensor<1x1x2x2xf32>\n"
           "%2 = nn.relu(%x) : tensor<1x1x2x2xf32>\n"
           "%3 = nn.add(%x, %2) : tensor<1x1x2x2xf32>\n"
           "%g = read @g : tensor<2xf32>\n %b = read @b : tensor<2xf32>\n"
           "%m = read @m : tensor<2xf32>\n %v = read @v : tensor<2xf32>\n"
           "%4 = nn.batch_norm(%x, %g, %b, %m, %v) {eps = 0.0} : tensor<1x1x2x2xf32>\n"
           "yield %0, %1, %2, %3, %4 } }",
           args, 2, out, 5);
  const float a = (float)(1.0 / 63.75), c = (float)(1.0 / 255.0);
  check_floats(out[0], (float[]){-2.0f, 255.0f * c, fmaf(51.0f, a, -2.0f), 102.0f * c}, 4);
  check_floats(out[1], (float[]){-4.0f, 2.0f, -1.0f, -8.0f}, 4);
  check_floats(out[2], (float[]){0.0f, 2.0f, 0.5f, 0.0f}, 4);
  check_floats(out[3], (float[]){-1.0f, 4.0f, 1.0f, -3.0f}, 4);
  check_floats(out[4], (float[]){-0.5f, 9.5f, 1.0f, -20.5f}, 4);
  test_release(args, 2);
  test_release(out, 5);
}

static void pools_and_flatten(void **state) {
  (void)state;
  const float values[] = {1,  10, -2, 20,  3, -30, /* row 0: (w, c) */
                          -4, 40, 5,  -50, 6, 60};
  qnet_blob *x = test_blob(QNET_F32, 12, values);
  qnet_blob *out[4] = {NULL};
  test_run("module @t nn { func @eval(%x: tensor<1x2x3x2xf32>) {\n"
           "%0 = nn.max_pool2d(%x) {kernel = [2, 2], stride = [1, 2], pad = [0, 0, 0, 1]} : "
           "tensor<1x1x2x2xf32>\n"
           "%1 = nn.avg_pool2d(%x) {kernel = [2, 2], stride = [1, 2], pad = [0, 0, 0, 1]} : "
           "tensor<1x1x2x2xf32>\n"
           "%2 = nn.global_avg_pool(%x) : tensor<1x2xf32>\n"
           "%3 = nn.flatten(%x) : tensor<1x12xf32>\n yield %0, %1, %2, %3 } }",
           &x, 1, out, 4);
  check_floats(out[0], (float[]){5, 40, 6, 60}, 4);
  check_floats(out[1], (float[]){0, 5, 4.5f, 15}, 4);
  const float sixth = (float)(1.0 / 6.0);
  check_floats(out[2], (float[]){9.0f * sixth, 50.0f * sixth}, 2);
  check_floats(out[3], (float[]){1, -2, 3, -4, 5, 6, 10, 20, -30, 40, -50, 60}, 12);
  qnet_blob_release(x);
  test_release(out, 4);
}

static void slice_and_pad_are_each_others_gradient(void **state) {
  (void)state;
  const float values[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  qnet_blob *x = test_blob(QNET_F32, 12, values);
  qnet_blob *out[2] = {NULL};
  test_run("module @t nn { func @eval(%x: tensor<1x2x3x2xf32>) {\n"
           "%0 = nn.slice(%x) {begin = [1, 0, 1], stride = [1, 2, 1]} : tensor<1x1x2x1xf32>\n"
           "%1 = nn.pad(%0) {begin = [1, 0, 1], stride = [1, 2, 1]} : tensor<1x2x3x2xf32>\n"
           "yield %0, %1 } }",
           &x, 1, out, 2);
  check_floats(out[0], (float[]){8, 12}, 2);
  check_floats(out[1], (float[]){0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 12}, 12);
  qnet_blob_release(x);
  test_release(out, 2);
}

static void quantize_sends_ties_down(void **state) {
  (void)state;
  const float values[] = {0.5f, 0.50001f, -1.0f, 2.0f, 0.5f, 2.0f};
  qnet_blob *x = test_blob(QNET_F32, 6, values);
  qnet_blob *out[2] = {NULL};
  test_run("module @t nn {\n const @t : tensor<2x3xf32> = [-0.5, 0.5, 1.5, 0.0, 1.0, 2.0]\n"
           "const @l : tensor<2x4xf32> = [-1.0, 0.0, 1.0, 2.0, -3.0, 0.5, 1.5, 2.5]\n"
           "const @p : tensor<2x4xu8> = [3, 2, 1, 0, 0, 2, 1, 3]\n"
           "func @eval(%x: tensor<2x1x1x3xf32>) {\n"
           "%t = read @t : tensor<2x3xf32>\n %l = read @l : tensor<2x4xf32>\n"
           "%p = read @p : tensor<2x4xu8>\n"
           "%y, %c = nn.quantize(%x, %t, %l, %p) {axis = 0, bits = 2, quantizer = \"lqnets\", site "
           "= \"a\", role = \"weight\"} : tensor<2x1x1x3xf32>, tensor<2x1x1x3xu8>\n"
           "yield %y, %c } }",
           &x, 1, out, 2);
  check_floats(out[0], (float[]){0, 1, -1, 1.5f, 0.5f, 1.5f}, 6);
  assert_memory_equal(out[1]->data, ((uint8_t[]){2, 1, 3, 1, 2, 1}), 6);
  qnet_blob_release(x);
  test_release(out, 2);
}

/* ---- state ---------------------------------------------------------------------------------- */

static void reads_and_writes_keep_their_order(void **state) {
  (void)state;
  const char *text = "module @t nn {\n state @s : tensor<2xf32> = [1.0, 2.0]\n"
                     "func @eval(%x: tensor<2xf32>) {\n"
                     "%a = read @s : tensor<2xf32>\n %b = nn.add(%a, %x) : tensor<2xf32>\n"
                     "write @s, %b\n %c = read @s : tensor<2xf32>\n write @s, %x\n"
                     "yield %a, %b, %c } }";
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = test_parse(text, d);
  qnet_interp *in = NULL;
  assert_int_equal(qnet_interp_create(m, "eval", &in, d), QNET_OK);
  qnet_blob *x = test_blob(QNET_F32, 2, (float[]){10, 20}), *out[3] = {NULL};
  assert_int_equal(qnet_interp_run(in, &x, 1, out, 3, d), QNET_OK);
  ((float *)x->data)[0] = 99; /* the state took a copy of the argument */
  check_floats(out[0], (float[]){1, 2}, 2);
  check_floats(out[1], (float[]){11, 22}, 2);
  check_floats(out[2], (float[]){11, 22}, 2);
  check_floats(qnet_symbol_find(m, "s")->blob, (float[]){10, 20}, 2);
  test_release(out, 3);
  qnet_blob_release(x);
  qnet_interp_destroy(in);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

static void failures_are_explained(void **state) {
  (void)state;
  qnet_blob *x = test_blob(QNET_F32, 2, NULL), *small = test_blob(QNET_F32, 1, NULL), *out = NULL;
  const char *text = "module @t nn {\n const @w : tensor<2xf32> = \"a.safetensors#w\"\n"
                     "func @eval(%x: tensor<2xf32>) {\n %w = read @w : tensor<2xf32>\n"
                     "%0 = nn.add(%x, %w) : tensor<2xf32>\n yield %0 } }";
  test_fails(text, &x, 1, &out, 1, "'@w' has no content");
  test_fails(text, &small, 1, &out, 1, "argument 0 of '@eval'");
  test_fails(text, &x, 1, &out, 0, "has 1 arguments and 1 results");
  qnet_blob_release(x);
  qnet_blob_release(small);
}

static void no_leak_when_memory_ends(void **state) {
  (void)state;
  uint64_t random = seed;
  qnet_blob *x = test_random_floats(&random, 32);
  test_out_of_memory(
      "module @t nn {\n const @w : tensor<3x3x3x2xf32> = splat(0.5)\n"
      "state @s : tensor<1x4x4x3xf32> = splat(0.0)\n"
      "func @step(%x: tensor<1x4x4x2xf32>) {\n %w = read @w : tensor<3x3x3x2xf32>\n"
      "%0 = nn.conv2d(%x, %w) {stride = [1, 1], pad = [1, 1, 1, 1]} : tensor<1x4x4x3xf32>\n"
      "write @s, %0\n %1 = nn.relu(%0) : tensor<1x4x4x3xf32>\n"
      "%2 = nn.global_avg_pool(%1) : tensor<1x3xf32>\n yield %2, %1 } }",
      &x, 1, 2);
  qnet_blob_release(x);
}

/* ---- gradients ------------------------------------------------------------------------------ */

/* A scalar function of x in double, the same function that the kernel differentiates. */
typedef double (*loss_fn)(const double *x, const void *context);

static void check_gradient(loss_fn loss, const void *context, const float *x, int count,
                           const float *gradient, double tolerance) {
  double *at = malloc((size_t)count * sizeof *at);
  assert_non_null(at);
  for (int i = 0; i < count; i++)
    at[i] = (double)x[i];
  const double h = 1e-5;
  for (int i = 0; i < count; i++) {
    at[i] = (double)x[i] + h;
    const double above = loss(at, context);
    at[i] = (double)x[i] - h;
    const double want = (above - loss(at, context)) / (2 * h);
    at[i] = (double)x[i];
    if (!(fabs(want - (double)gradient[i]) <= tolerance * (1.0 + fabs(want))))
      fail_msg("derivative %d is %.9g, not %.9g", i, (double)gradient[i], want);
  }
  free(at);
}

typedef struct conv_loss {
  const conv_case *k;
  const float *x, *w, *dy; /* the one that varies is NULL */
} conv_loss;

static double conv_loss_of(const double *v, const void *context) {
  const conv_loss *l = context;
  const conv_case *k = l->k;
  const float *dy = l->dy;
  double loss = 0.0;
  for (int n = 0; n < k->n; n++)
    for (int oh = 0; oh < out_h(k); oh++)
      for (int ow = 0; ow < out_w(k); ow++)
        for (int o = 0; o < k->o; o++, dy++)
          for (int t = 0; t < k->kh * k->kw; t++) {
            const int64_t at = tap_index(k, n, oh, ow, t / k->kw, t % k->kw);
            if (at < 0) continue;
            for (int c = 0; c < k->c; c++) {
              const int i = (o * k->kh * k->kw + t) * k->c + c;
              const double x = l->x ? (double)l->x[at + c] : v[at + c];
              loss += (double)*dy * x * (l->w ? (double)l->w[i] : v[i]);
            }
          }
  return loss;
}

static void conv2d_gradients(void **state) {
  (void)state;
  static const conv_case cases[] = {{2, 4, 5, 2, 3, 3, 2, 1, 2, 1, 0, 1, 1, 1, 1},
                                    {1, 6, 5, 2, 2, 2, 3, 2, 1, 1, 2, 0, 2, 2, 1}};
  uint64_t random = seed;
  for (int i = 0; i < COUNT(cases); i++) {
    const conv_case *k = &cases[i];
    char window[160], text[1200], x[64], w[64], y[64];
    window_attributes(k, window, sizeof window);
    snprintf(x, sizeof x, "tensor<%dx%dx%dx%dxf32>", k->n, k->h, k->w, k->c);
    snprintf(w, sizeof w, "tensor<%dx%dx%dx%dxf32>", k->o, k->kh, k->kw, k->c);
    snprintf(y, sizeof y, "tensor<%dx%dx%dx%dxf32>", k->n, out_h(k), out_w(k), k->o);
    snprintf(text, sizeof text,
             "module @t nn { func @step(%%x: %s, %%w: %s, %%dy: %s) {\n"
             "%%0 = nn.conv2d_grad_input(%%dy, %%w) %s : %s\n"
             "%%1 = nn.conv2d_grad_weight(%%x, %%dy) %s : %s\n"
             "%%2 = nn.bias_grad(%%dy) : tensor<%dxf32>\n yield %%0, %%1, %%2 } }",
             x, w, y, window, x, window, w, k->o);
    const int nx = k->n * k->h * k->w * k->c, nw = k->o * k->kh * k->kw * k->c;
    const int ny = k->n * out_h(k) * out_w(k) * k->o;
    qnet_blob *args[] = {test_random_floats(&random, nx), test_random_floats(&random, nw),
                         test_random_floats(&random, ny)};
    qnet_blob *out[3] = {NULL};
    test_run(text, args, 3, out, 3);
    const conv_loss of_x = {k, NULL, args[1]->data, args[2]->data};
    check_gradient(conv_loss_of, &of_x, args[0]->data, nx, out[0]->data, 1e-5);
    const conv_loss of_w = {k, args[0]->data, NULL, args[2]->data};
    check_gradient(conv_loss_of, &of_w, args[1]->data, nw, out[1]->data, 1e-5);
    double sum = 0.0;
    for (int j = 0; j < ny; j += k->o)
      sum += (double)((float *)args[2]->data)[j];
    assert_true((float)sum == ((float *)out[2]->data)[0]);
    test_release(args, 3);
    test_release(out, 3);
  }
}

enum { ROWS = 3, IN = 7, OUT = 5 };

typedef struct dense_loss {
  const float *x, *w, *dy;
} dense_loss;

static double dense_loss_of(const double *v, const void *context) {
  const dense_loss *l = context;
  double loss = 0.0;
  for (int n = 0; n < ROWS; n++)
    for (int o = 0; o < OUT; o++)
      for (int i = 0; i < IN; i++)
        loss += (double)l->dy[n * OUT + o] * (l->x ? (double)l->x[n * IN + i] : v[n * IN + i]) *
                (l->w ? (double)l->w[o * IN + i] : v[o * IN + i]);
  return loss;
}

static void dense_gradients(void **state) {
  (void)state;
  uint64_t random = seed;
  qnet_blob *args[] = {test_random_floats(&random, ROWS * IN),
                       test_random_floats(&random, OUT * IN),
                       test_random_floats(&random, ROWS * OUT)};
  qnet_blob *out[2] = {NULL};
  test_run("module @t nn { func @step(%x: tensor<3x7xf32>, %w: tensor<5x7xf32>, %dy: "
           "tensor<3x5xf32>) {\n"
           "%0 = nn.dense_grad_input(%dy, %w) : tensor<3x7xf32>\n"
           "%1 = nn.dense_grad_weight(%x, %dy) : tensor<5x7xf32>\n yield %0, %1 } }",
           args, 3, out, 2);
  const dense_loss of_x = {NULL, args[1]->data, args[2]->data};
  check_gradient(dense_loss_of, &of_x, args[0]->data, ROWS * IN, out[0]->data, 1e-5);
  const dense_loss of_w = {args[0]->data, NULL, args[2]->data};
  check_gradient(dense_loss_of, &of_w, args[1]->data, OUT * IN, out[1]->data, 1e-5);
  test_release(args, 3);
  test_release(out, 2);
}

/* Batch norm over 6 positions of 2 channels; which of x, gamma, beta varies is told by NULL. */
typedef struct norm_loss {
  const float *x, *gamma, *beta, *dy;
} norm_loss;
enum { POSITIONS = 6, CHANNELS = 2 };
static const double norm_eps = 1e-3;

static double pick(const float *fixed, const double *v, int i) {
  return fixed ? (double)fixed[i] : v[i];
}

static double norm_loss_of(const double *v, const void *context) {
  const norm_loss *l = context;
  double loss = 0.0;
  for (int c = 0; c < CHANNELS; c++) {
    double mean = 0.0, var = 0.0;
    for (int p = 0; p < POSITIONS; p++)
      mean += pick(l->x, v, p * CHANNELS + c) / POSITIONS;
    for (int p = 0; p < POSITIONS; p++)
      var += pow(pick(l->x, v, p * CHANNELS + c) - mean, 2) / POSITIONS;
    for (int p = 0; p < POSITIONS; p++) {
      const double x = (pick(l->x, v, p * CHANNELS + c) - mean) / sqrt(var + norm_eps);
      loss += (double)l->dy[p * CHANNELS + c] * (x * pick(l->gamma, v, c) + pick(l->beta, v, c));
    }
  }
  return loss;
}

static void batch_norm_gradients(void **state) {
  (void)state;
  uint64_t random = seed;
  const int n = POSITIONS * CHANNELS;
  qnet_blob *args[] = {test_random_floats(&random, n), test_random_floats(&random, CHANNELS),
                       test_random_floats(&random, CHANNELS), test_random_floats(&random, n)};
  qnet_blob *out[4] = {NULL};
  test_run("module @t nn { func @step(%x: tensor<1x2x3x2xf32>, %g: tensor<2xf32>, %b: "
           "tensor<2xf32>, %dy: tensor<1x2x3x2xf32>) {\n"
           "%y, %m, %v = nn.batch_norm_train(%x, %g, %b) {eps = 0.001} : tensor<1x2x3x2xf32>, "
           "tensor<2xf32>, tensor<2xf32>\n"
           "%0, %1, %2 = nn.batch_norm_grad(%x, %dy, %g, %m, %v) {eps = 0.001} : "
           "tensor<1x2x3x2xf32>, tensor<2xf32>, tensor<2xf32>\n yield %0, %1, %2, %y } }",
           args, 4, out, 4);
  const float *x = args[0]->data, *gamma = args[1]->data, *beta = args[2]->data;
  const float *dy = args[3]->data;
  check_gradient(norm_loss_of, &(norm_loss){NULL, gamma, beta, dy}, x, n, out[0]->data, 1e-4);
  check_gradient(norm_loss_of, &(norm_loss){x, NULL, beta, dy}, gamma, CHANNELS, out[1]->data,
                 1e-4);
  check_gradient(norm_loss_of, &(norm_loss){x, gamma, NULL, dy}, beta, CHANNELS, out[2]->data,
                 1e-4);
  double loss = 0.0;
  for (int i = 0; i < n; i++)
    loss += (double)dy[i] * (double)((float *)out[3]->data)[i];
  assert_true(fabs(loss - norm_loss_of(NULL, &(norm_loss){x, gamma, beta, dy})) < 1e-5);
  test_release(args, 4);
  test_release(out, 4);
}

/* Pools over 1x4x5x2, kernel 3x2, stride 2x1, padding 1, 0, 1, 1: outputs 2x5. */
static const conv_case pool_case = {1, 4, 5, 2, 2, 3, 2, 2, 1, 1, 0, 1, 1, 1, 1};

static double pool_loss(const double *x, const float *dy, bool max) {
  const conv_case *k = &pool_case;
  double loss = 0.0;
  for (int oh = 0; oh < out_h(k); oh++)
    for (int ow = 0; ow < out_w(k); ow++)
      for (int c = 0; c < k->c; c++, dy++) {
        double sum = 0.0, top = -INFINITY;
        int real = 0;
        for (int t = 0; t < k->kh * k->kw; t++) {
          const int64_t at = tap_index(k, 0, oh, ow, t / k->kw, t % k->kw);
          if (at < 0) continue;
          real++;
          sum += x[at + c];
          top = fmax(top, x[at + c]);
        }
        loss += (double)*dy * (max ? top : sum / real);
      }
  return loss;
}

static double max_pool_loss(const double *x, const void *dy) {
  return pool_loss(x, dy, true);
}
static double avg_pool_loss(const double *x, const void *dy) {
  return pool_loss(x, dy, false);
}
static double global_pool_loss(const double *x, const void *dy) {
  double loss = 0.0;
  for (int i = 0; i < 40; i++)
    loss += x[i] / 20 * (double)((const float *)dy)[i % 2];
  return loss;
}

static void pool_gradients(void **state) {
  (void)state;
  uint64_t random = seed;
  qnet_blob *args[] = {test_random_floats(&random, 40), test_random_floats(&random, 20),
                       test_random_floats(&random, 2)};
  qnet_blob *out[3] = {NULL};
  test_run("module @t nn { func @step(%x: tensor<1x4x5x2xf32>, %dy: tensor<1x2x5x2xf32>, %dg: "
           "tensor<1x2xf32>) {\n"
           "%0 = nn.max_pool2d_grad(%x, %dy) {kernel = [3, 2], stride = [2, 1], pad = [1, 0, 1, "
           "1]} : tensor<1x4x5x2xf32>\n"
           "%1 = nn.avg_pool2d_grad(%dy) {kernel = [3, 2], stride = [2, 1], pad = [1, 0, 1, 1]} : "
           "tensor<1x4x5x2xf32>\n"
           "%2 = nn.global_avg_pool_grad(%dg) : tensor<1x4x5x2xf32>\n yield %0, %1, %2 } }",
           args, 3, out, 3);
  check_gradient(max_pool_loss, args[1]->data, args[0]->data, 40, out[0]->data, 1e-5);
  check_gradient(avg_pool_loss, args[1]->data, args[0]->data, 40, out[1]->data, 1e-5);
  check_gradient(global_pool_loss, args[2]->data, args[0]->data, 40, out[2]->data, 1e-5);
  test_release(args, 3);
  test_release(out, 3);
}

static const int32_t labels[] = {2, 0, 3};
static const double smoothing = 0.1;

static double cross_entropy(const double *logit, const void *context) {
  (void)context;
  double loss = 0.0;
  for (int n = 0; n < 3; n++) {
    double sum = 0.0;
    for (int k = 0; k < 4; k++)
      sum += exp(logit[n * 4 + k]);
    for (int k = 0; k < 4; k++)
      loss -=
          ((k == labels[n]) * (1 - smoothing) + smoothing / 4) * (logit[n * 4 + k] - log(sum)) / 3;
  }
  return loss;
}

static void softmax_cross_entropy_and_its_gradient(void **state) {
  (void)state;
  const float logits[] = {1, 2, 2.5f, -1, 3, 3, 1, 0, 5, 0, 0, 4}; /* row 1: a tie */
  qnet_blob *args[] = {test_blob(QNET_F32, 12, logits), test_blob(QNET_I32, 3, labels)};
  qnet_blob *out[3] = {NULL};
  const char *text = "module @t nn { func @step(%x: tensor<3x4xf32>, %l: tensor<3xi32>) {\n"
                     "%0, %1, %2 = nn.softmax_cross_entropy(%x, %l) {smoothing = 0.1} : "
                     "tensor<f32>, tensor<3x4xf32>, tensor<i32>\n yield %0, %1, %2 } }";
  test_run(text, args, 2, out, 3);
  double at[12];
  for (int i = 0; i < 12; i++)
    at[i] = (double)logits[i];
  assert_true(fabs((double)*(float *)out[0]->data - cross_entropy(at, NULL)) < 1e-6);
  check_gradient(cross_entropy, NULL, logits, 12, out[1]->data, 1e-6);
  assert_int_equal(*(int32_t *)out[2]->data, 2);
  test_release(out, 3);
  ((int32_t *)args[1]->data)[1] = 4;
  test_fails(text, args, 2, out, 3, "cannot run on these operands");
  test_release(args, 2);
}

static const double teacher_share = 0.75, temperature = 2;
static const float teacher[] = {0, 1, 3, 1, 2, -1, 0, 0, 4, 4, 0, 1};

/* (1 - share) of cross entropy and share T^2 KL(teacher || logits), from the definitions. */
static double distilled(const double *logit, const void *context) {
  double loss = (1 - teacher_share) * cross_entropy(logit, context);
  for (int n = 0; n < 3; n++) {
    double own = 0, theirs = 0;
    for (int k = 0; k < 4; k++) {
      own += exp(logit[n * 4 + k] / temperature);
      theirs += exp((double)teacher[n * 4 + k] / temperature);
    }
    for (int k = 0; k < 4; k++) {
      const double p = exp(logit[n * 4 + k] / temperature) / own;
      const double q = exp((double)teacher[n * 4 + k] / temperature) / theirs;
      loss += teacher_share * temperature * temperature * q * log(q / p) / 3;
    }
  }
  return loss;
}

static void distillation_and_its_gradient(void **state) {
  (void)state;
  const float logits[] = {1, 2, 2.5f, -1, 3, 3, 1, 0, 5, 0, 0, 4};
  qnet_blob *args[] = {test_blob(QNET_F32, 12, logits), test_blob(QNET_I32, 3, labels),
                       test_blob(QNET_F32, 12, teacher)};
  qnet_blob *out[3] = {NULL};
  test_run("module @t nn { func @step(%x: tensor<3x4xf32>, %l: tensor<3xi32>, %t: "
           "tensor<3x4xf32>) {\n%0, %1, %2 = nn.softmax_cross_entropy(%x, %l, %t) {smoothing = "
           "0.1, distill = 0.75, temperature = 2.0} : tensor<f32>, tensor<3x4xf32>, "
           "tensor<i32>\n yield %0, %1, %2 } }",
           args, 3, out, 3);
  double at[12];
  for (int i = 0; i < 12; i++)
    at[i] = (double)logits[i];
  assert_true(fabs((double)*(float *)out[0]->data - distilled(at, NULL)) < 1e-6);
  check_gradient(distilled, NULL, logits, 12, out[1]->data, 1e-6);
  test_release(out, 3);
  test_release(args, 3);
}

/* 1.5 times the squared distance from the target over the target's square. */
static double distance_of_features(const double *x, const void *target) {
  double distance = 0, size = 0;
  for (int i = 0; i < 6; i++) {
    const double t = (double)((const float *)target)[i];
    distance += (x[i] - t) * (x[i] - t);
    size += t * t;
  }
  return 1.5 * distance / size;
}

static void features_and_their_gradient(void **state) {
  (void)state;
  const float x[] = {0, 1, 0.5f, -2, 3, 0}, target[] = {0, 2, 0.5f, 1, 0, 1};
  const float zeros[6] = {0};
  const char text[] = "module @t nn { func @step(%x: tensor<2x3xf32>, %t: tensor<2x3xf32>) {\n"
                      "%0 = nn.feature_grad(%x, %t) {weight = 1.5} : tensor<2x3xf32>\n"
                      "yield %0 } }";
  qnet_blob *args[] = {test_blob(QNET_F32, 6, x), test_blob(QNET_F32, 6, target)};
  qnet_blob *out[1] = {NULL};
  test_run(text, args, 2, out, 1);
  check_gradient(distance_of_features, target, x, 6, out[0]->data, 1e-6);
  test_release(out, 1);
  memcpy(args[1]->data, zeros, sizeof zeros);
  test_run(text, args, 2, out, 1);
  for (int i = 0; i < 6; i++)
    assert_true(((float *)out[0]->data)[i] == 0);
  test_release(out, 1);
  test_release(args, 2);
}

static void straight_through_gradients_and_statistics(void **state) {
  (void)state;
  const float x[] = {-2, 0.5f, 3, -0.5f}, dy[] = {1, 2, 3, 4};
  const uint8_t code[] = {1, 0, 1, 1};
  qnet_blob *args[] = {test_blob(QNET_F32, 4, x), test_blob(QNET_F32, 4, dy),
                       test_blob(QNET_U8, 4, code)};
  qnet_blob *out[6] = {NULL};
  test_run("module @t nn {\n const @l : tensor<1x2xf32> = [-1.0, 2.0]\n"
           "func @step(%x: tensor<2x2xf32>, %dy: tensor<2x2xf32>, %c: tensor<2x2xu8>) {\n"
           "%l = read @l : tensor<1x2xf32>\n"
           "%0 = nn.quantize_grad(%x, %l, %dy) {axis = -1, mask = \"none\"} : tensor<2x2xf32>\n"
           "%1 = nn.quantize_grad(%x, %l, %dy) {axis = -1, mask = \"below_max\"} : "
           "tensor<2x2xf32>\n"
           "%2 = nn.quantize_grad(%x, %l, %dy) {axis = -1, mask = \"inside\"} : tensor<2x2xf32>\n"
           "%3, %4 = nn.code_stats(%x, %c) {axis = 0, bits = 1} : tensor<2x2xi64>, "
           "tensor<2x2xf64>\n"
           "%5 = nn.relu_grad(%x, %dy) : tensor<2x2xf32>\n yield %0, %1, %2, %3, %4, %5 } }",
           args, 3, out, 6);
  check_floats(out[0], (float[]){1, 2, 3, 4}, 4);
  check_floats(out[1], (float[]){1, 2, 0, 4}, 4);
  check_floats(out[2], (float[]){0, 2, 0, 4}, 4);
  assert_memory_equal(out[3]->data, ((int64_t[]){1, 1, 0, 2}), 32);
  assert_memory_equal(out[4]->data, ((double[]){0.5, -2, 0, 2.5}), 32);
  check_floats(out[5], (float[]){0, 2, 3, 0}, 4);
  test_release(args, 3);
  test_release(out, 6);
}

static void updates(void **state) {
  (void)state;
  qnet_blob *args[] = {
      test_blob(QNET_F32, 2, (float[]){1, -2}), test_blob(QNET_F32, 2, (float[]){0.5f, 0.25f}),
      test_blob(QNET_F32, 2, (float[]){4, 8}), test_blob(QNET_F32, 1, (float[]){0.5f})};
  qnet_blob *out[6] = {NULL};
  test_run(
      "module @t nn { func @step(%w: tensor<2xf32>, %g: tensor<2xf32>, %v: tensor<2xf32>, %lr: "
      "tensor<f32>) {\n"
      "%0, %1 = nn.sgd(%w, %g, %v, %lr) {momentum = 0.5, weight_decay = 0.25} : tensor<2xf32>, "
      "tensor<2xf32>\n"
      "%2, %3 = nn.sgd(%w, %g, %v, %lr) {momentum = 0.5, weight_decay = 0.25, nesterov = 1} : "
      "tensor<2xf32>, tensor<2xf32>\n"
      "%4 = nn.moving_average(%w, %v) {momentum = 0.25, scale = 2.0} : tensor<2xf32>\n"
      "yield %0, %1, %2, %3, %4 } }",
      args, 4, out, 5);
  check_floats(out[0], (float[]){-0.375f, -3.875f}, 2);
  check_floats(out[1], (float[]){2.75f, 3.75f}, 2);
  check_floats(out[2], (float[]){-0.0625f, -2.8125f}, 2);
  check_floats(out[3], (float[]){2.75f, 3.75f}, 2);
  check_floats(out[4], (float[]){2.75f, 2.5f}, 2);
  test_release(args, 4);
  test_release(out, 5);
}

/* What five steps make of a singular value. */
static double newton_schulz(double s) {
  for (int i = 0; i < 5; i++)
    s = 3.4445 * s - 4.775 * pow(s, 3) + 2.0315 * pow(s, 5);
  return s;
}

/* Of a momentum with orthogonal rows (or columns) every singular value goes its own way. */
static void muon_orthogonalizes_the_momentum(void **state) {
  (void)state;
  qnet_blob *args[] = {test_blob(QNET_F32, 6, (float[]){1, 1, 1, 2, 2, 2}),
                       test_blob(QNET_F32, 6, (float[6]){0}),
                       test_blob(QNET_F32, 6, (float[]){0, 6, 0, 8, 0, 0}),
                       test_blob(QNET_F32, 1, (float[]){0.25f})};
  qnet_blob *out[4] = {NULL};
  test_run("module @t nn { func @step(%w: tensor<2x3xf32>, %g: tensor<2x3xf32>, %v: "
           "tensor<2x3xf32>, %lr: tensor<f32>) {\n"
           "%0, %1 = nn.muon(%w, %g, %v, %lr) {momentum = 0.5, weight_decay = 0.5, nesterov = 1, "
           "scale = 0.5} : tensor<2x3xf32>, tensor<2x3xf32>\n"
           "%2, %3 = nn.muon(%w, %g, %g, %lr) {momentum = 0.5, weight_decay = 0.0, scale = 0.5} : "
           "tensor<2x3xf32>, tensor<2x3xf32>\n"
           "yield %0, %1, %2 } }",
           args, 4, out, 3);
  const double w[6] = {1, 1, 1, 2, 2, 2};
  for (int i = 0; i < 6; i++) {
    const double direction = i == 1 ? newton_schulz(0.6) : i == 3 ? newton_schulz(0.8) : 0;
    const double want = w[i] - 0.125 * (direction + 0.5 * w[i]);
    assert_true(fabs((double)((float *)out[0]->data)[i] - want) < 1e-6);
  }
  check_floats(out[1], (float[]){0, 3, 0, 4, 0, 0}, 6);
  check_floats(out[2], (float[]){1, 1, 1, 2, 2, 2}, 6); /* no gradient, no move */
  test_release(out, 3);
  test_run("module @t nn { func @step(%w: tensor<3x1x2xf32>, %g: tensor<3x1x2xf32>, %v: "
           "tensor<3x1x2xf32>, %lr: tensor<f32>) {\n"
           "%0, %1 = nn.muon(%w, %v, %g, %lr) {momentum = 0.5, weight_decay = 0.0, scale = 0.5} : "
           "tensor<3x1x2xf32>, tensor<3x1x2xf32>\n"
           "yield %0 } }",
           args, 4, out, 1);
  for (int i = 0; i < 6; i++) {
    /* columns (0, 0, 0) and (6, 8, 0) */
    const double share = i == 1 ? 0.6 : i == 3 ? 0.8 : 0;
    const double want = w[i] - 0.125 * sqrt(1.5) * share * newton_schulz(1);
    assert_true(fabs((double)((float *)out[0]->data)[i] - want) < 1e-6);
  }
  test_release(args, 4);
  test_release(out, 1);
}

/* Two steps of two elements, worked out by hand from the definition. */
static void adam_updates(void **state) {
  (void)state;
  const int64_t steps = 1;
  qnet_blob *args[] = {test_blob(QNET_F32, 2, (float[]){1, -2}),
                       test_blob(QNET_F32, 2, (float[]){0.5f, 0}),
                       test_blob(QNET_F32, 2, (float[]){0.25f, 0.5f}),
                       test_blob(QNET_F32, 2, (float[]){0.0625f, 0.25f}),
                       test_blob(QNET_I64, 1, &steps),
                       test_blob(QNET_F32, 1, (float[]){0.125f})};
  qnet_blob *out[8] = {NULL};
  test_run("module @t nn { func @step(%w: tensor<2xf32>, %g: tensor<2xf32>, %m: tensor<2xf32>, "
           "%v: tensor<2xf32>, %t: tensor<i64>, %lr: tensor<f32>) {\n"
           "%0, %1, %2, %3 = nn.adam(%w, %g, %m, %v, %t, %lr) {beta1 = 0.5, beta2 = 0.75, eps = "
           "0.25, weight_decay = 0.0} : tensor<2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<i64>\n"
           "%4, %5, %6, %7 = nn.adam(%w, %g, %m, %v, %t, %lr) {beta1 = 0.5, beta2 = 0.75, eps = "
           "0.25, weight_decay = 0.5, decoupled = 1} : tensor<2xf32>, tensor<2xf32>, "
           "tensor<2xf32>, tensor<i64>\n yield %0, %1, %2, %3, %4, %5, %6, %7 } }",
           args, 6, out, 8);
  const double m0 = 0.375 / 0.75, v0 = (0.75 * 0.0625 + 0.0625) / 0.4375;
  const double m1 = 0.25 / 0.75, v1 = 0.75 * 0.25 / 0.4375;
  const double w0 = 1 - 0.125 * m0 / (sqrt(v0) + 0.25), w1 = -2 - 0.125 * m1 / (sqrt(v1) + 0.25);
  for (int i = 0; i < 2; i++) {
    check_floats(out[4 * i + 1], (float[]){0.375f, 0.25f}, 2);
    check_floats(out[4 * i + 2], (float[]){0.109375f, 0.1875f}, 2);
    assert_int_equal(*(int64_t *)out[4 * i + 3]->data, 2);
  }
  check_floats(out[0], (float[]){(float)w0, (float)w1}, 2);
  check_floats(out[4], (float[]){(float)(w0 - 0.0625), (float)(w1 + 0.125)}, 2);
  test_release(args, 6);
  test_release(out, 8);
}

int main(void) {
  printf("seed %llu\n", (unsigned long long)seed);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(conv2d_follows_the_definition),
      cmocka_unit_test(dense_follows_the_definition),
      cmocka_unit_test(elementwise_values),
      cmocka_unit_test(pools_and_flatten),
      cmocka_unit_test(slice_and_pad_are_each_others_gradient),
      cmocka_unit_test(quantize_sends_ties_down),
      cmocka_unit_test(reads_and_writes_keep_their_order),
      cmocka_unit_test(failures_are_explained),
      cmocka_unit_test(no_leak_when_memory_ends),
      cmocka_unit_test(conv2d_gradients),
      cmocka_unit_test(dense_gradients),
      cmocka_unit_test(batch_norm_gradients),
      cmocka_unit_test(pool_gradients),
      cmocka_unit_test(softmax_cross_entropy_and_its_gradient),
      cmocka_unit_test(distillation_and_its_gradient),
      cmocka_unit_test(features_and_their_gradient),
      cmocka_unit_test(straight_through_gradients_and_statistics),
      cmocka_unit_test(updates),
      cmocka_unit_test(muon_orthogonalizes_the_momentum),
      cmocka_unit_test(adam_updates),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
