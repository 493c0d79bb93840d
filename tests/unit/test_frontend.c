/* The .qnet frontend: examples, values, several errors in one run, robustness. */
#include "frontend/frontend.h"
#include "ir/ops.h"
#include "ir/verify.h"
#include "passes/quantizer.h"
#include "support/file.h"

#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define INPUT "input image: u8[1, 8, 8] normalize(mean = [0.5], std = [0.25])\n"

static const char *const examples[] = {"fashion.qnet", "preact_resnet20.qnet", "resnet20.qnet",
                                       "tiny.qnet"};
enum { EXAMPLES = sizeof examples / sizeof *examples };

/* ---- helpers --------------------------------------------------------------------------------- */

/* The test's source file stands in tests/unit; examples are beside tests. */
static void example_path(const char *name, char *path, size_t size) {
  const char *end = strstr(__FILE__, "tests/unit/");
  const int root = end ? (int)(end - __FILE__) : 0;
  snprintf(path, size, "%.*sexamples/%s", root, __FILE__, name);
}

static char *read_example(const char *name, size_t *size) {
  char path[1024], *text = NULL;
  example_path(name, path, sizeof path);
  assert_int_equal(qnet_file_read(qnet_allocator_system(), path, 1 << 20, &text, size, NULL),
                   QNET_OK);
  return text;
}

static void free_text(char *text, size_t size) {
  qnet_free(qnet_allocator_system(), text, size + 1);
}

static qnet_status parse_text(const char *text, qnet_program *p, qnet_diag *d) {
  return qnet_frontend_parse(qnet_allocator_system(), "t.qnet", text, strlen(text), NULL, 0, p, d);
}

static void print_reports(qnet_diag *d, char *out, size_t size) {
  FILE *f = fmemopen(out, size, "w");
  assert_non_null(f);
  qnet_diag_print(d, f, false);
  fclose(f);
}

/* Parses a net of that body and checks that it fails with `errors` errors, the first of which has
 * `expected` in its text. */
static void expect_errors(const char *body, unsigned errors, const char *expected) {
  char text[4096], report[16384] = {0};
  snprintf(text, sizeof text, "net t(classes = 4) {\n" INPUT "%s}\n", body);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_program p;
  assert_int_equal(parse_text(text, &p, d), QNET_ERROR);
  assert_null(p.module);
  print_reports(d, report, sizeof report - 1);
  if (!strstr(report, expected) || qnet_diag_error_count(d) != errors)
    fail_msg("expected %u errors, one with \"%s\"; got:\n%s", errors, expected, report);
  qnet_diag_destroy(d);
}

static void expect_net(const char *body, qnet_program *p) {
  char text[4096], report[8192] = {0};
  snprintf(text, sizeof text, "net t(classes = 4) {\n" INPUT "%s}\n", body);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  const qnet_status status = parse_text(text, p, d);
  print_reports(d, report, sizeof report - 1);
  if (status != QNET_OK) fail_msg("unexpected:\n%s", report);
  assert_int_equal(qnet_module_verify(p->module, d), QNET_OK);
  qnet_diag_destroy(d);
}

static const qnet_op *find_op(const qnet_module *m, int opcode, int nth) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  assert_non_null(eval);
  for (const qnet_op *op = eval->body->first; op; op = op->next)
    if (op->opcode == opcode && nth-- == 0) return op;
  return NULL;
}

static int count_ops(const qnet_module *m, int opcode) {
  int n = 0;
  while (find_op(m, opcode, n))
    n++;
  return n;
}

static void assert_dims(const qnet_type *t, int rank, const int64_t *dim) {
  assert_int_equal(t->rank, rank);
  for (int i = 0; i < rank; i++)
    assert_int_equal(t->dim[i], dim[i]);
}
#define ASSERT_DIMS(type, ...)                                                                     \
  assert_dims((type), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                   \
              (const int64_t[]){__VA_ARGS__})

/* ---- what is right -------------------------------------------------------------------------- */

static void test_examples(void **state) {
  (void)state;
  for (int i = 0; i < EXAMPLES; i++) {
    size_t size;
    char *text = read_example(examples[i], &size);
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    qnet_program p;
    assert_int_equal(
        qnet_frontend_parse(qnet_allocator_system(), examples[i], text, size, NULL, 0, &p, d),
        QNET_OK);
    assert_int_equal(qnet_module_verify(p.module, d), QNET_OK);
    assert_int_equal(qnet_diag_warning_count(d), 0);
    qnet_module_destroy(p.module);
    qnet_diag_destroy(d);
    free_text(text, size);
  }
}

static void test_fashion(void **state) {
  (void)state;
  size_t size;
  char *text = read_example("fashion.qnet", &size);
  static const char *const parameters[] = {"classes=100", "classes=17"};
  qnet_program p;
  assert_int_equal(qnet_frontend_parse(qnet_allocator_system(), "fashion.qnet", text, size,
                                       parameters, 2, &p, NULL),
                   QNET_OK);
  assert_string_equal(p.module->name, "fashion");
  assert_int_equal(p.module->level, QNET_LEVEL_NN);
  ASSERT_DIMS(find_op(p.module, QNET_OP_CONV2D, 1)->result[0].type, 1, 14, 14, 64);
  ASSERT_DIMS(find_op(p.module, QNET_OP_DENSE, 0)->result[0].type, 1, 17);
  const qnet_symbol *w = qnet_symbol_find(p.module, "layer4.conv1.weight");
  assert_non_null(w);
  assert_int_equal(w->kind, QNET_SYMBOL_STATE);
  assert_null(w->blob);
  ASSERT_DIMS(w->type, 128, 3, 3, 64);
  assert_non_null(qnet_symbol_find(p.module, "stem.weight"));
  assert_non_null(qnet_symbol_find(p.module, "layer1.bn1.running_var"));
  assert_non_null(qnet_symbol_find(p.module, "classifier.bias"));
  assert_string_equal(p.quant.quantizer, "lqnets");
  assert_int_equal(p.quant.weight_bits, 2);
  assert_int_equal(p.quant.grid, 127);
  assert_int_equal(p.quant.first_bits, 0);
  assert_int_equal(p.quant.last_bits, 0);
  assert_true(p.recipe.flip && p.recipe.nesterov);
  assert_int_equal(p.recipe.schedule, QNET_SCHEDULE_COSINE);
  qnet_module_destroy(p.module);
  free_text(text, size);
}

static void test_resnet(void **state) {
  (void)state;
  size_t size;
  char *text = read_example("resnet20.qnet", &size);
  qnet_program p;
  assert_int_equal(qnet_frontend_parse(qnet_allocator_system(), "r", text, size, NULL, 0, &p, NULL),
                   QNET_OK);
  assert_int_equal(count_ops(p.module, QNET_OP_CONV2D), 19);
  assert_int_equal(count_ops(p.module, QNET_OP_PAD), 2);
  assert_int_equal(count_ops(p.module, QNET_OP_ADD), 9);
  ASSERT_DIMS(find_op(p.module, QNET_OP_ADD, 8)->result[0].type, 1, 8, 8, 64);
  assert_non_null(qnet_symbol_find(p.module, "basic4.conv1.weight"));
  assert_null(qnet_symbol_find(p.module, "basic4.shortcut1.conv1.weight"));
  assert_int_equal(p.recipe.schedule, QNET_SCHEDULE_COSINE);
  assert_int_equal(p.recipe.epochs, 60);
  assert_true(p.recipe.nesterov && p.recipe.weight_decay == 5e-4);
  assert_int_equal(p.recipe.crop_pad, 4);
  assert_true(p.recipe.smallest_area == 0 && p.recipe.brightness == 0);
  qnet_module_destroy(p.module);
  free_text(text, size);
}

static void test_defaults(void **state) {
  (void)state;
  qnet_program p;
  expect_net("return image |> flatten |> dense(classes)\n", &p);
  assert_null(p.quant.quantizer);
  assert_int_equal(p.recipe.epochs, 10);
  assert_int_equal(p.recipe.batch, 128);
  assert_true(p.recipe.lr == 0.1 && p.recipe.momentum == 0.9 && p.recipe.weight_decay == 1e-4);
  assert_true(p.recipe.muon == 0);
  assert_int_equal(p.recipe.steps, 0);
  assert_false(p.recipe.flip);
  qnet_module_destroy(p.module);
}

static void test_declarations(void **state) {
  (void)state;
  qnet_program p;
  expect_net(
      "quantize lcq(weights = 2, activations = 3, grid = 15, planes = 3) except last, first = 8\n"
      "train { epochs = 2 * 3  optimizer = sgd(lr = 1, weight_decay = 0, muon = 0.2)\n"
      "  schedule = constant  label_smoothing = 0.1 }\n"
      "return image |> flatten |> dense(classes)\n",
      &p);
  assert_int_equal(p.quant.weight_bits, 2);
  assert_int_equal(p.quant.activation_bits, 3);
  assert_int_equal(p.quant.grid, 15);
  assert_int_equal(p.quant.planes, 3);
  assert_int_equal(p.quant.first_bits, 8);
  assert_int_equal(p.quant.last_bits, 0);
  assert_int_equal(p.recipe.epochs, 6);
  assert_true(p.recipe.lr == 1 && p.recipe.weight_decay == 0 && p.recipe.label_smoothing == 0.1);
  assert_true(p.recipe.muon == 0.2 && !p.recipe.nesterov);
  assert_int_equal(p.recipe.schedule, QNET_SCHEDULE_CONSTANT);
  qnet_module_destroy(p.module);
}

static void test_adam_recipe(void **state) {
  (void)state;
  qnet_program p;
  expect_net("train { optimizer = adam(beta2 = 0.99, decoupled = true)  schedule = linear\n"
             "  warmup = 3  distill = logits(weight = 0.25), features\n"
             "  quantizers = rate(decay = 0.01) }\n"
             "return image |> flatten |> dense(classes)\n",
             &p);
  assert_int_equal(p.recipe.optimizer, QNET_OPTIMIZER_ADAM);
  assert_true(p.recipe.lr == 1e-3 && p.recipe.weight_decay == 0 && p.recipe.beta1 == 0.9);
  assert_true(p.recipe.beta2 == 0.99 && p.recipe.eps == 1e-8 && p.recipe.decoupled);
  assert_int_equal(p.recipe.schedule, QNET_SCHEDULE_LINEAR);
  assert_int_equal(p.recipe.warmup_epochs, 3);
  assert_true(p.recipe.quantizer_lr == 1 && p.recipe.quantizer_decay == 0.01);
  assert_true(p.recipe.distill_weight == 0.25 && p.recipe.distill_temperature == 4);
  assert_true(p.recipe.feature_weight == 1);
  qnet_module_destroy(p.module);
}

static void test_augmentations(void **state) {
  (void)state;
  qnet_program p;
  expect_net("train { augment = crop(pad = 2), flip, jitter(contrast = 0.1), resized_crop }\n"
             "return image |> flatten |> dense(classes)\n",
             &p);
  assert_int_equal(p.recipe.crop_pad, 2);
  assert_true(p.recipe.flip && p.recipe.smallest_area == 0.08);
  assert_true(p.recipe.brightness == 0.4 && p.recipe.saturation == 0.4);
  assert_true(p.recipe.contrast == 0.1);
  qnet_module_destroy(p.module);
  expect_net("train { augment = resized_crop(area = 0.25) }\n"
             "return image |> flatten |> dense(classes)\n",
             &p);
  assert_true(p.recipe.smallest_area == 0.25 && p.recipe.contrast == 0);
  qnet_module_destroy(p.module);
}

/* The frontend's list of quantizers and the passes' table agree. The one of 8 bits serves the
 * exceptions and has no name in the language. */
static void test_quantizer_names(void **state) {
  (void)state;
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  for (size_t i = 0; i < count; i++) {
    if (table[i]->bits[0].min == 8) continue;
    char body[256];
    snprintf(body, sizeof body, "quantize %s\nreturn image |> flatten |> dense(classes)\n",
             table[i]->name);
    qnet_program p;
    expect_net(body, &p);
    assert_string_equal(p.quant.quantizer, table[i]->name);
    qnet_module_destroy(p.module);
  }
}

/* A method each for weights and activations. */
static void test_two_quantizers(void **state) {
  (void)state;
  qnet_program p;
  expect_net("quantize weights = qil(bits = 3), activations = pact(2), grid = 15 except first\n"
             "return image |> flatten |> dense(classes)\n",
             &p);
  assert_string_equal(p.quant.quantizer, "qil");
  assert_string_equal(p.quant.activation_quantizer, "pact");
  assert_int_equal(p.quant.weight_bits, 3);
  assert_int_equal(p.quant.activation_bits, 2);
  assert_int_equal(p.quant.grid, 15);
  assert_int_equal(p.quant.first_bits, 0);
  qnet_module_destroy(p.module);
}

/* One side may stay f32. */
static void test_one_side(void **state) {
  (void)state;
  static const struct {
    const char *line, *quantizer;
    int weights, activations;
  } cases[] = {{"lsq(weights = 3, activations = f32) except first = f32", "lsq", 3, QNET_F32_BITS},
               {"lsq(32, 3)", "lsq", QNET_F32_BITS, 3},
               {"weights = qil(3), activations = f32", "qil", 3, QNET_F32_BITS},
               {"weights = f32, activations = pact(bits = 4)", "pact", QNET_F32_BITS, 4},
               {"weights = ternary, activations = lsq(32)", "ternary", 2, QNET_F32_BITS}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char body[256];
    snprintf(body, sizeof body, "quantize %s\nreturn image |> flatten |> dense(classes)\n",
             cases[i].line);
    qnet_program p;
    expect_net(body, &p);
    assert_string_equal(p.quant.quantizer, cases[i].quantizer);
    assert_int_equal(p.quant.weight_bits, cases[i].weights);
    assert_int_equal(p.quant.activation_bits, cases[i].activations);
    qnet_module_destroy(p.module);
  }
}

/* "METHOD W/A grid", "none", or "-" where the layer says nothing, of the nth layer. */
static void expect_own(const qnet_module *m, int opcode, int nth, const char *expected) {
  const qnet_op *op = find_op(m, opcode, nth);
  assert_non_null(op);
  const char *name = qnet_op_string(op, "quantizer");
  const qnet_attr *bits = qnet_op_attr(op, "bits");
  char text[64];
  snprintf(text, sizeof text, "%s", name ? name : "-");
  if (bits)
    snprintf(text, sizeof text, "%s %d/%d %d", name, (int)bits->ints[0], (int)bits->ints[1],
             (int)qnet_op_int(op, "grid", 0));
  assert_string_equal(text, expected);
}

/* A layer over the call of its block, that over the block's statement, innermost first. */
static void test_quantizer_precedence(void **state) {
  (void)state;
  qnet_program p;
  expect_net("quantize lqnets(weights = 2) except first\n"
             "block inner(x) { return x |> conv(2, 1x1) }\n"
             "block outer(x, q = none) {\n"
             "  y = x |> conv(2, 1x1)\n"
             "  quantize weights = qil(3), activations = lsq(4), grid = 15\n"
             "  y = y |> conv(2, 1x1) |> conv(2, 1x1, quantize = none) |> inner\n"
             "  return y |> inner(quantize = q)\n"
             "}\n"
             "x = image |> outer(q = lsq(weights = 8)) |> inner |> outer\n"
             "x = x |> conv(2, 1x1, quantize = (weights = f32, activations = pact(3)))\n"
             "return x |> flatten |> dense(classes, quantize = dorefa)\n",
             &p);
  static const char *const expected[] = {
      "-", "qil/lsq 3/4 15", "none", "qil/lsq 3/4 15", "lsq 8/2 127", "-",
      "-", "qil/lsq 3/4 15", "none", "qil/lsq 3/4 15", "none",        "pact/pact 32/3 127"};
  const int count = (int)(sizeof expected / sizeof expected[0]);
  for (int i = 0; i < count; i++)
    expect_own(p.module, QNET_OP_CONV2D, i, expected[i]);
  expect_own(p.module, QNET_OP_DENSE, 0, "dorefa 2/2 127");
  assert_string_equal(p.quant.quantizer, "lqnets");
  assert_int_equal(p.quant.first_bits, 0);
  qnet_module_destroy(p.module);
}

/* Without a line of the net only layers that say so are quantized. */
static void test_quantizer_of_one_layer(void **state) {
  (void)state;
  qnet_program p;
  expect_net(
      "q = lsq(weights = 3)\n"
      "if q == lsq(3) and q != none and q != lsq { x = image |> conv(2, 3x3, quantize = q) }\n"
      "else { x = image }\n"
      "return x |> flatten |> dense(classes)\n",
      &p);
  expect_own(p.module, QNET_OP_CONV2D, 0, "lsq 3/2 127");
  assert_string_equal(p.quant.quantizer, "none");
  qnet_module_destroy(p.module);
}

static void test_windows(void **state) {
  (void)state;
  qnet_program p;
  expect_net("a = image |> conv(3, 3x2, stride = [2, 1], pad = \"same\", bias = true)\n"
             "b = a |> conv(2, 3, pad = [1, 0, 2, 1], dilation = 2) |> avg_pool(2, stride = 1)\n"
             "return b |> flatten |> dense(classes)\n",
             &p);
  const qnet_op *a = find_op(p.module, QNET_OP_CONV2D, 0);
  ASSERT_DIMS(a->result[0].type, 1, 4, 8, 3);
  assert_int_equal(a->operand_count, 3);
  const int64_t pad[] = {0, 0, 1, 1};
  assert_memory_equal(qnet_op_attr(a, "pad")->ints, pad, sizeof pad);
  assert_null(qnet_op_attr(a, "dilation"));
  ASSERT_DIMS(find_op(p.module, QNET_OP_CONV2D, 1)->result[0].type, 1, 3, 5, 2);
  ASSERT_DIMS(find_op(p.module, QNET_OP_AVG_POOL2D, 0)->result[0].type, 1, 2, 4, 2);
  qnet_module_destroy(p.module);
}

static void test_static_language(void **state) {
  (void)state;
  qnet_program p;
  expect_net("block grow(x, n, k = 3x3) {\n"
             "  if k == 3x3 and not (n > 20 or n % 7 == 0) { y = conv(x, n, k, pad = 1) }\n"
             "  else if n >= 21 { y = conv(x, n / 2, 1) } else { y = x }\n"
             "  return y\n"
             "}\n"
             "x = image  n = 4\n"
             "repeat 3 as i { x = grow(x, n + i * 2, name = \"g\" + i)  n = n * 2 - 1 }\n"
             "return x |> grow(14) |> flatten |> dense(-(0 - classes))\n",
             &p);
  assert_non_null(qnet_symbol_find(p.module, "g0.conv1.weight")); /* n = 4 */
  ASSERT_DIMS(qnet_symbol_find(p.module, "g1.conv1.weight")->type, 9, 3, 3, 4);
  ASSERT_DIMS(qnet_symbol_find(p.module, "g2.conv1.weight")->type, 17, 3, 3, 9);
  assert_null(qnet_symbol_find(p.module, "grow1.conv1.weight")); /* 14 % 7 == 0 */
  ASSERT_DIMS(find_op(p.module, QNET_OP_DENSE, 0)->result[0].type, 1, 4);
  qnet_module_destroy(p.module);
}

static void test_slice_and_pad(void **state) {
  (void)state;
  qnet_program p;
  expect_net("x = image |> conv(6, 1x1)\n"
             "y = x |> slice(step = [1, 2, 3], begin = [2, 1, 0])\n"
             "z = y |> pad(before = [1, 0, 0], after = [1, 0, 2])\n"
             "return z |> flatten |> dense(classes)\n",
             &p);
  const qnet_op *slice = find_op(p.module, QNET_OP_SLICE, 0);
  ASSERT_DIMS(slice->result[0].type, 1, 4, 3, 4);
  const qnet_lattice l = qnet_op_lattice(slice);
  assert_memory_equal(&l, &((qnet_lattice){{1, 0, 2}, {2, 3, 1}}), sizeof l);
  ASSERT_DIMS(find_op(p.module, QNET_OP_PAD, 0)->result[0].type, 1, 4, 5, 6);
  qnet_module_destroy(p.module);
}

static void test_locations(void **state) {
  (void)state;
  qnet_program p;
  expect_net("return image |> flatten |> dense(classes)\n", &p);
  const char *text =
      "net t(classes = 4) {\n" INPUT "return image |> flatten |> dense(classes)\n}\n";
  const qnet_loc loc = find_op(p.module, QNET_OP_DENSE, 0)->loc;
  const char *call = "dense(classes)";
  assert_int_equal(loc.end - loc.begin, strlen(call));
  assert_memory_equal(text + loc.begin, call, strlen(call));
  qnet_module_destroy(p.module);
}

/* ---- what is wrong --------------------------------------------------------------------------- */

static void test_errors(void **state) {
  (void)state;
  static const struct {
    const char *body;
    unsigned errors;
    const char *text;
  } cases[] = {
      {"x = conv(image, , 3)\ny = = 2\nreturn image\n", 2, "t.qnet:3:17: error: expected"},
      {"retrun image\n", 1, "did you mean 'return'"},
      {"x = imge\ny = image |> convv(3)\nz = image |> relu(3)\nreturn image\n", 4,
       "did you mean 'image'"},
      {"return image\n", 1, "class scores [N]"},
      {"x = 9223372036854775807 + 1\nreturn image |> flatten\n", 1, "does not fit in 64 bits"},
      {"x = 99999999999999999999\nreturn image |> flatten\n", 1, "too large"},
      {"x = 1 % 0\nreturn image |> flatten\n", 1, "division by zero"},
      {"block f(x) { return f(x) }\nreturn f(image)\n", 1, "calls itself"},
      {"block f(x) { y = relu(x) }\nreturn f(image)\n", 1, "returns nothing"},
      {"repeat 3 { return image }\nreturn image |> flatten\n", 1, "'return' in a repetition"},
      {"repeat 10001 { x = 1 }\nreturn image |> flatten\n", 1, "0..10000"},
      {"x = image\nrepeat 10000 { repeat 10000 { x = relu(x) } }\nreturn x\n", 1,
       "more than 20000 operations"},
      {"x = 0\nrepeat 10000 { repeat 10000 { x = x + 1 } }\nreturn image\n", 1, "steps to build"},
      {"return image |> flatten |> dense(65537)\n", 1, "1..65536"},
      {"return image |> conv(65536, 65536)\n", 1, "does not fit into [1, 8, 8]"},
      {"return image |> conv(65536, 1x1, pad = 100)\n", 1, "too large"},
      {"x = image |> conv(65536, 1x1) |> conv(65536, 1x1)\nreturn x\n", 1, "too large"},
      {"return image |> max_pool(2, pad = 2)\n", 1, "smaller than the window"},
      {"return image |> slice(begin = [0, 8, 0]) |> flatten\n", 1, "0..7"},
      {"return image |> slice(end = [1, 9, 8]) |> flatten\n", 1, "1..8"},
      {"return image |> slice(step = 2) |> flatten\n", 1, "a list [channels, height, width]"},
      {"return image |> pad(before = [0, 70000, 0]) |> flatten\n", 1, "0..65536"},
      {"return image |> pad(after = [65536, 65536, 0]) |> flatten\n", 1, "too large"},
      {"x = conv(image, 3, 3x3)\nreturn x + image\n", 1, "'x' is [3, 6, 6], defined here"},
      {"x = conv(image, 3, 3x3, name = \"a\")\ny = conv(image, 3, 3x3, name = \"a\")\n"
       "return x + y\n",
       1, "is taken"},
      {"x = conv(image, 3, 3x3, name = \"a.b\")\nreturn x\n", 1, "'name' must be"},
      {"x = [1, [2]]\nreturn image |> flatten\n", 1, "not lists"},
      {"if image { x = 1 }\nreturn image |> flatten\n", 1, "must be true or false"},
      {"quantize lqnet\nreturn image |> flatten\n", 1, "did you mean 'lqnets'"},
      {"quantize weights = lsq(2)\nreturn image |> flatten\n", 1, "say what both become"},
      {"quantize weights = lsq(2), weights = lsq(2)\nreturn image |> flatten\n", 1, "given twice"},
      {"quantize weights = lsq(2), activations = 2\nreturn image |> flatten\n", 1,
       "takes a quantizer with its bits"},
      {"x = image |> conv(2, 1x1, quantize = 3)\nreturn x |> flatten\n", 1, "takes a quantizer"},
      {"x = image |> conv(2, 1x1, quantize = lsk)\nreturn x |> flatten\n", 1, "did you mean 'lsq'"},
      {"x = image |> relu(quantize = lsq)\nreturn x |> flatten\n", 1, "no argument 'quantize'"},
      {"x = image |> conv(2, 1x1, quantize = (weight = lsq))\nreturn x |> flatten\n", 1,
       "did you mean 'weights'"},
      {"x = image |> lsq\nreturn x |> flatten\n", 1, "unknown operation or block 'lsq'"},
      {"block b(x) { quantize lsq except first\nreturn x |> relu }\nreturn image |> b |> flatten\n",
       1, "belongs to the net's"},
      {"x = [lsq]\nreturn image |> flatten\n", 1, "not quantizers"},
      {"quantize weights = f32, activations = f32\nreturn image |> flatten\n", 1, "say none"},
      {"x = image |> conv(2, 1x1, quantize = lsq(weights = 32, activations = f32))\n"
       "return x |> flatten\n",
       1, "say none"},
      {"quantize weights = none, activations = lsq\nreturn image |> flatten\n", 1,
       "write weights = f32"},
      {"quantize lsq(weights = 9)\nreturn image |> flatten\n", 1, "1 to 8 bits, or f32, not 9"},
      {"quantize lsq(weights = 2.5)\nreturn image |> flatten\n", 1, "must be an integer"},
      {"quantize weights = lsq(2), activation = lsq(2)\nreturn image |> flatten\n", 1,
       "did you mean 'activations'"},
      {"train { epochs = 0 }\nreturn image |> flatten\n", 1, "1..100000"},
      {"train { schedule = step(at = [5, 5]) }\nreturn image |> flatten\n", 1, "ascend"},
      {"input b: f32[1, 2, 3]\nreturn image |> flatten\n", 1, "second input"},
      {"relu = 3\nreturn image |> flatten\n", 1, "built-in"},
      {"block f(x) { return x + image }\nreturn image |> f |> flatten\n", 1, "pass it as"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    expect_errors(cases[i].body, cases[i].errors, cases[i].text);
}

static void test_overrides(void **state) {
  (void)state;
  const char *text = "net t(classes = 4, k, w = 0.5) { input i: f32[1, 2, 2]\n"
                     "if w > 0.6 { x = 3 } else { x = k }\n"
                     "return i |> flatten |> dense(classes * x) }";
  static const char *const good[] = {"k=2", "w=1"}, *const bad[] = {"k=2", "clases=3"},
                           *const wrong[] = {"k=2", "classes=x"};
  const qnet_allocator *a = qnet_allocator_system();
  qnet_program p;
  assert_int_equal(qnet_frontend_parse(a, "t", text, strlen(text), good, 2, &p, NULL), QNET_OK);
  ASSERT_DIMS(find_op(p.module, QNET_OP_DENSE, 0)->result[0].type, 1, 12);
  qnet_module_destroy(p.module);
  assert_int_equal(qnet_frontend_parse(a, "t", text, strlen(text), bad, 2, &p, NULL), QNET_ERROR);
  assert_int_equal(qnet_frontend_parse(a, "t", text, strlen(text), wrong, 2, &p, NULL), QNET_ERROR);
  assert_int_equal(qnet_frontend_parse(a, "t", text, strlen(text), NULL, 0, &p, NULL), QNET_ERROR);
}

/* ---- robustness ----------------------------------------------------------------------------- */

static void parse_any(const char *text, size_t size) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_program p;
  const qnet_status status =
      qnet_frontend_parse(qnet_allocator_system(), "any", text, size, NULL, 0, &p, d);
  assert_true(status == QNET_OK || status == QNET_ERROR);
  assert_true((status == QNET_OK) == (p.module != NULL));
  assert_true((status == QNET_ERROR) == (qnet_diag_error_count(d) > 0));
  qnet_module_destroy(p.module);
  qnet_diag_destroy(d);
}

static void test_truncations(void **state) {
  (void)state;
  for (int i = 0; i < EXAMPLES; i++) {
    size_t size;
    char *text = read_example(examples[i], &size);
    for (size_t n = 0; n < size; n++)
      parse_any(text, n);
    free_text(text, size);
  }
}

static void test_byte_flips(void **state) {
  (void)state;
  uint64_t seed = 20240607;
  print_message("seed %llu\n", (unsigned long long)seed);
  for (int i = 0; i < EXAMPLES; i++) {
    size_t size;
    char *text = read_example(examples[i], &size);
    for (int k = 0; k < 1500; k++) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const size_t at = (size_t)(seed >> 33) % size;
      const char old = text[at];
      static const char palette[] = "(){}[]=,.|>x0-9\"+*/:;#\n";
      const unsigned choice = (unsigned)(seed >> 24) & 0x7f;
      text[at] = choice < sizeof palette ? palette[choice] : (char)(seed >> 16);
      parse_any(text, size);
      if (k % 4) text[at] = old; /* every fourth damage stays */
    }
    free_text(text, size);
  }
}

static void repeat_text(char *out, const char *unit, int count) {
  for (int i = 0; i < count; i++)
    out += sprintf(out, "%s", unit);
}

static void test_depth(void **state) {
  (void)state;
  static const char *const units[] = {"(", "[",          "1+", "-",    "not ",
                                      "{", "repeat 1 {", "f(", "|> f "};
  char *text = malloc(800000);
  assert_non_null(text);
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    const int length = sprintf(text, "net t { x = 1 y = ");
    repeat_text(text + length, units[i], 50000);
    parse_any(text, strlen(text));
  }
  strcpy(text, "net t { input i: f32[1,2,2] y = 1");
  repeat_text(text + strlen(text), " + 1", 50000);
  strcat(text, " return i |> flatten }");
  parse_any(text, strlen(text));
  free(text);
}

/* Parses with the fail_at-th allocation failing; returns how many there were. */
static uint64_t parse_failing(const char *text, size_t size, uint64_t fail_at, bool persistent) {
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, fail_at, persistent);
  qnet_diag *d = qnet_diag_create(&f.base);
  qnet_program p = {0};
  qnet_status status = QNET_NO_MEMORY;
  if (d) status = qnet_frontend_parse(&f.base, "example", text, size, NULL, 0, &p, d);
  assert_int_equal(status, f.failed ? QNET_NO_MEMORY : QNET_OK);
  qnet_module_destroy(p.module);
  qnet_diag_destroy(d);
  assert_int_equal(f.live_bytes, 0);
  return f.count;
}

/* Every allocation may fail, in every example: a status, no leak, no crash. */
static void test_out_of_memory(void **state) {
  (void)state;
  glob_t found;
  char pattern[600];
  example_path("*.qnet", pattern, sizeof pattern);
  assert_int_equal(glob(pattern, 0, NULL, &found), 0);
  for (size_t i = 0; i < found.gl_pathc; i++) {
    size_t size;
    char *text = read_example(strrchr(found.gl_pathv[i], '/') + 1, &size);
    const uint64_t allocations = parse_failing(text, size, 0, false);
    assert_true(allocations > 3);
    for (uint64_t n = 1; n <= allocations; n++) {
      parse_failing(text, size, n, false);
      parse_failing(text, size, n, true);
    }
    free_text(text, size);
  }
  globfree(&found);
}

/* An arena asks for memory at few places of a text: a name before them, longer each time, moves
 * that place over every expression and statement there is. */
static void test_out_of_memory_anywhere(void **state) {
  (void)state;
  static const char net[] =
      "(classes = 10) {\n"
      "  input image: u8[1, 8, 8] normalize(mean = [0.5], std = [0.25])\n"
      "  quantize weights = qil(2), activations = lsq(2) except first = 8, last\n"
      "  block b(x, n = -1, flag = not true, q = none) {\n"
      "    quantize q\n"
      "    if n + 1 * 2 % 3 / 1 - 1 <= 0 and flag or 1 == 2 { return x } else { y = x |> relu }\n"
      "    return y |> conv((2), 3x3, pad = 1,\n"
      "                     quantize = (weights = lsq(2), activations = f32)) |> bn\n"
      "  }\n"
      "  x = image |> conv(2, 1x1)\n"
      "  repeat 2 as i { x = b(x, q = pact) }\n"
      "  repeat 1 { x = x |> b(x.channels) |> relu }\n"
      "  return x |> flatten |> dense(classes)\n"
      "  train { epochs = 1 augment = crop(pad = 1), flip }\n"
      "}\n";
  enum { MAX_NAME = 8192, STEP = 16 };
  char text[MAX_NAME + sizeof net];
  for (int length = STEP; length < MAX_NAME; length += STEP) {
    snprintf(text, sizeof text, "net %0*d%s", length, 0, net);
    memset(text + strlen("net "), 'a', (size_t)length);
    const uint64_t allocations = parse_failing(text, strlen(text), 0, false);
    for (uint64_t n = 1; n <= allocations; n++)
      parse_failing(text, strlen(text), n, false);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_examples),
      cmocka_unit_test(test_fashion),
      cmocka_unit_test(test_resnet),
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_declarations),
      cmocka_unit_test(test_adam_recipe),
      cmocka_unit_test(test_augmentations),
      cmocka_unit_test(test_quantizer_names),
      cmocka_unit_test(test_two_quantizers),
      cmocka_unit_test(test_one_side),
      cmocka_unit_test(test_quantizer_precedence),
      cmocka_unit_test(test_quantizer_of_one_layer),
      cmocka_unit_test(test_windows),
      cmocka_unit_test(test_static_language),
      cmocka_unit_test(test_slice_and_pad),
      cmocka_unit_test(test_locations),
      cmocka_unit_test(test_errors),
      cmocka_unit_test(test_overrides),
      cmocka_unit_test(test_truncations),
      cmocka_unit_test(test_byte_flips),
      cmocka_unit_test(test_depth),
      cmocka_unit_test(test_out_of_memory),
      cmocka_unit_test(test_out_of_memory_anywhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
