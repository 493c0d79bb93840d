/* Unit tests: the text form and the verifier. Round trips of handwritten and of random modules,
 * messages, broken texts, failing allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ir/ops.h"
#include "ir/text.h"
#include "ir/verify.h"
#include <stdlib.h>
#include <string.h>

/* ---- helpers --------------------------------------------------------------------------------- */

/* A module of each level that uses most of the grammar. */
static const char *const samples[] = {
    "module @net nn {\n"
    "  const @w : tensor<2x3x3x1xf32> = splat(0.1)\n"
    "  const @odd : tensor<2xf32> = hex\"0100c07f0000807f\"\n"
    "  const @b : tensor<2xf32> = [-0, nan]\n"
    "  const @file : tensor<2xf32> = \"a b.safetensors#x.\\\"y\\\\\\x09\"\n"
    "  const @d : tensor<3xf64> = [0.1, 1e-300, 12345678.9]\n"
    "  state @n : tensor<3xi64> = [-9223372036854775808, 0, 9223372036854775807]\n"
    "  func @eval(%image: tensor<1x8x8x1xu8>, %image.1: tensor<f32>) {\n"
    "    %0 = nn.normalize(%image) {mean = [0.1], std = [1.0]} : tensor<1x8x8x1xf32>\n"
    "    %1 = read @w : tensor<2x3x3x1xf32>\n"
    "    %2 = read @b : tensor<2xf32>\n"
    "    %y = nn.conv2d(%0, %1, %2) {stride = [1, 1], pad = [1, 1, 1, 1]} : "
    "tensor<1x8x8x2xf32>\n"
    "    yield %y, %image.1\n"
    "  }\n"
    "  func @step(%x: tensor<4x2xf32>, %g: tensor<2xf32>) {\n"
    "    %0, %1, %2 = nn.batch_norm_train(%x, %g, %g) {eps = 1e-05} : tensor<4x2xf32>, "
    "tensor<2xf32>, tensor<2xf32>\n"
    "    yield\n"
    "  }\n"
    "}\n",
    "module @net quant {\n"
    "  func @eval(%0: tensor<1x6x6x1xf32>) {\n"
    "    %1 = quant.quantize(%0) {table = @in} : tensor<1x6x6x1xq2:@in>\n"
    "    %2 = read @codes : tensor<2x3x3x1xq2:@w>\n"
    "    %3 = quant.conv2d(%1, %2) {stride = [2, 2], pad = [1, 1, 1, 1]} : tensor<1x3x3x2xi32>\n"
    "    yield %3\n"
    "  }\n"
    "  table @in { bits = 2, scale = [0.5], levels = [0, 1, 2, 3], thresholds = [0.25, 0.75, "
    "1.25], perm = [0, 2, 1, 3] }\n"
    "  table @w { bits = 2, codes = 3, channels = 2, scale = [0.5, 0.25], levels = [-1, 0, 1, -3, "
    "0, 3] }\n"
    "  const @codes : tensor<2x3x3x1xq2:@w> = splat(2)\n"
    "}\n",
    "module @net bits {\n"
    "  const @w : planes<2x1x1x3,1> = [1, 7]\n"
    "  const @coef : tensor<2x1x2xi32> = [1, 2, -1, -2]\n"
    "  table @in { bits = 2, scale = [0.5], levels = [0, 1, 2, 3], thresholds = [0.25, 0.75, "
    "1.25], perm = [0, 2, 1, 3] }\n"
    "  func @eval(%0: tensor<1x4x4x3xf32>) {\n"
    "    %1 = read @w : planes<2x1x1x3,1>\n"
    "    %2 = read @coef : tensor<2x1x2xi32>\n"
    "    %3, %4 = bits.kernel(%0, %1, %2) : planes<1x4x4x3,2>, tensor<1x4x4x2xi32> {\n"
    "      ^(%x: tensor<1x4x4x3xf32>, %5: planes<2x1x1x3,1>, %6: tensor<2x1x2xi32>):\n"
    "      %7 = bits.quantize(%x) {table = @in, planes = [10, 12]} : planes<1x4x4x3,2>\n"
    "      %8 = bits.conv2d(%7, %5, %6) {stride = [1, 1], pad = [0, 0, 0, 0]} : "
    "tensor<1x4x4x2xi32>\n"
    "      yield %7, %8\n"
    "    }\n"
    "    yield %4\n"
    "  }\n"
    "}\n",
    "module @net loop {\n"
    "  func @eval(%in: buf<4x8xi32>, %out: buf<8xi32>, %arena: buf<64xi8>) {\n"
    "    %0 = loop.const() {int = 0} : i64\n"
    "    %1 = loop.const() {int = 4} : i64\n"
    "    loop.parallel_for(%0, %1) {step = 4} {\n"
    "      ^(%p: i64):\n"
    "      %2 = loop.const() {int = 4} : i64\n"
    "      %3 = loop.const() {int = 0} : i64\n"
    "      %4 = loop.load(%in, %p, %p) : vec<8xi32>\n"
    "      %5 = loop.for(%3, %2, %4) {step = 1} : vec<8xi32> {\n"
    "        ^(%i: i64, %acc: vec<8xi32>):\n"
    "        %6 = loop.load(%in, %i, %p) : vec<8xi32>\n"
    "        %7 = loop.cmp(%6, %acc) {pred = \"sgt\"} : vec<8xi1>\n"
    "        %8 = loop.select(%7, %6, %acc) : vec<8xi32>\n"
    "        yield %8\n"
    "      }\n"
    "      loop.store(%5, %out, %p)\n"
    "      yield\n"
    "    }\n"
    "    yield\n"
    "  }\n"
    "}\n",
};
enum { SAMPLES = sizeof samples / sizeof samples[0] };

static char *print(const qnet_module *m, unsigned flags) {
  qnet_strbuf b;
  qnet_strbuf_init(&b, qnet_allocator_system());
  qnet_module_print(m, flags, &b);
  assert_false(b.failed);
  char *text = strdup(qnet_strbuf_text(&b));
  qnet_strbuf_free(&b);
  return text;
}

/* Parses and, if that works, verifies. */
static qnet_status check(const qnet_allocator *a, const char *text, size_t length,
                         qnet_module **out, qnet_diag *d) {
  qnet_status status = qnet_module_parse(a, "test.qir", text, length, out, d);
  return status == QNET_OK ? qnet_module_verify(*out, d) : status;
}

static qnet_module *parse(const char *text) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = NULL;
  if (qnet_module_parse(qnet_allocator_system(), "test.qir", text, strlen(text), &m, d) != QNET_OK)
    qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  return m;
}

static void assert_round_trip(const char *text) {
  qnet_module *m = parse(text);
  assert_non_null(m);
  char *again = print(m, 0);
  assert_string_equal(text, again);
  free(again);
  qnet_module_destroy(m);
}

/* What the diagnostics print for a text. */
static char *messages(const char *text) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = NULL;
  const qnet_status status = check(qnet_allocator_system(), text, strlen(text), &m, d);
  assert_int_equal(status, QNET_ERROR);
  char *out = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&out, &size);
  qnet_diag_print(d, f, false);
  fclose(f);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
  return out;
}

static void assert_message(const char *body, const char *wanted) {
  char text[1024];
  snprintf(text, sizeof text, "module @m nn {\n%s\n}\n", body);
  char *out = messages(text);
  if (!strstr(out, wanted)) print_error("%s\nlacks: %s\n", out, wanted);
  assert_non_null(strstr(out, wanted));
  free(out);
}

/* ---- handwritten modules --------------------------------------------------------------------- */

static void samples_round_trip(void **state) {
  (void)state;
  for (int i = 0; i < SAMPLES; i++) {
    assert_round_trip(samples[i]);
    qnet_module *m = NULL;
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    const qnet_status status =
        check(qnet_allocator_system(), samples[i], strlen(samples[i]), &m, d);
    qnet_diag_print(d, stderr, false);
    assert_int_equal(status, QNET_OK);
    qnet_diag_destroy(d);
    qnet_module *copy = qnet_module_clone(m);
    qnet_module_destroy(m);
    char *text = print(copy, 0);
    assert_string_equal(text, samples[i]);
    free(text);
    qnet_module_destroy(copy);
  }
}

static void elided_content_names_its_file(void **state) {
  (void)state;
  qnet_module *m = parse("module @m nn {\n"
                         "  const @a : tensor<16xi8> = splat(1)\n"
                         "  const @b : tensor<17xi8> = splat(1)\n"
                         "  const @c : tensor<17xi8> = splat(2)\n}\n");
  assert_non_null(m);
  qnet_symbol_find(m, "c")->origin = "f#c";
  char *text = print(m, QNET_PRINT_ELIDE);
  assert_string_equal(text, "module @m nn {\n"
                            "  const @a : tensor<16xi8> = splat(1)\n"
                            "  const @b : tensor<17xi8> = elided\n"
                            "  const @c : tensor<17xi8> = \"f#c\"\n}\n");
  free(text);
  qnet_module_destroy(m);
}

static void operations_know_their_lines(void **state) {
  (void)state;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = NULL;
  assert_int_equal(check(qnet_allocator_system(), samples[3], strlen(samples[3]), &m, d), QNET_OK);
  const qnet_op *loop = qnet_symbol_find(m, "eval")->body->first->next->next;
  uint32_t line, column;
  qnet_diag_position(d, loop->loc, &line, &column);
  assert_int_equal(line, 5);
  assert_int_equal(column, 5);
  assert_memory_equal(samples[3] + loop->loc.end - 10, "{step = 4}", 10);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
}

static void names_become_unique(void **state) {
  (void)state;
  qnet_module *m = parse("module @m nn {\n  func @f(%x: f32, %y: f32, %x.1: f32) {\n    yield\n"
                         "  }\n}\n");
  qnet_value *arg = qnet_symbol_find(m, "f")->body->arg;
  arg[1].name = "x";
  char *text = print(m, 0);
  assert_non_null(strstr(text, "(%x: f32, %x.1: f32, %x.1.1: f32)"));
  assert_round_trip(text);
  free(text);
  qnet_module_destroy(m);
}

static void messages_are_precise(void **state) {
  (void)state;
  assert_message("  const @a : tensor<3xf32> = [1, 2]",
                 "test.qir:2:30: error: the list has 2 elements, but its type 3");
  assert_message("  const @a : tensor<3xu8> = [1, 256, 2]", "256 is no value of u8");
  assert_message("  const @a : tensor<3xu8> = [1, 2.5, 2]", "2.5 is no value of u8");
  assert_message("  const @a : tensor<1xf32> = [1e39]", "1e39 is no value of f32");
  assert_message("  const @a : tensor<2xu8> = hex\"00\"", "2 hexadecimal digits");
  assert_message("  const @a : tensor<1xu8> = hex\"0g\"", "expected two hexadecimal digits");
  assert_message("  const @a : tensor<2147483649xu8> = elided", "a dimension is a number");
  assert_message("  const @a : tensor<65536x65536xu8> = elided", "more than 2147483648 elements");
  assert_message("  const @a : tensor<1x1x1x1x1x1x1xu8> = elided", "at most 6 dimensions");
  assert_message("  const @a : tensor<2xf31> = elided", "expected an element type");
  assert_message("  const @a : tensr<2xf32> = elided", "expected a type");
  assert_message("  const @a : tensor<2xf32> = \"file\"", "expected \"FILE#TENSOR\"");
  assert_message("  const @a : tensor<2xf32> = \"a", "no closing");
  assert_message("  table @t { bits = 9, scale = [1.0], levels = [1] }", "bits = 1..8");
  assert_message("  table @t { bits = 1, scale = [1.0], levels = [1] }",
                 "levels has 1 numbers instead of 2");
  assert_message("  table @t { bits = 1, scal = [1.0] }", "did you mean 'scale'?");
  assert_message("  func @f() { %0 = nn.rlu() : f32\n yield }", "did you mean 'nn.relu'?");
  assert_message("  func @f() { yield %x }", "%x is not defined here");
  assert_message("  func @f(%x: f32, %x: f32) { yield }", "%x is defined twice");
  assert_message("  func @f() { yield }\n  func @f() { yield }", "@f is defined twice");
  assert_message("  func @f() {", "but the file ends here");
  assert_message("  func @f() { ; yield }", "unexpected character");
  assert_message("  func @f() { }", "the region must end in yield");
}

/* An error in one line says nothing about its neighbours. */
static void errors_do_not_cascade(void **state) {
  (void)state;
  char *out = messages("module @m nn {\n"
                       "  func @f(%x: tensor<1xf32>) {\n"
                       "    %0 = nn.relu(%x) {a = [1, 2} : tensor<1xf32>\n"
                       "    %1 = nn.relu(%0) : tensor<1xf32>\n"
                       "    %2 = loop.fro(%0) {\n"
                       "      ^(%i: i64):\n"
                       "      yield %i\n"
                       "    }\n"
                       "    %3 = nn.add(%2, %1) : tensor<1xf32>\n"
                       "    yield %3, %x\n"
                       "  }\n"
                       "  const @a = 5\n"
                       "  const @b : tensor<1xf32> = [1]\n"
                       "}\n");
  int errors = 0;
  for (const char *p = out; (p = strstr(p, "error:")) != NULL; p++)
    errors++;
  if (errors != 3) print_error("%s", out);
  assert_int_equal(errors, 3);
  free(out);
}

static void nesting_is_bounded(void **state) {
  (void)state;
  for (int depth = 60; depth <= 5000; depth += 4940) {
    qnet_strbuf b;
    qnet_strbuf_init(&b, qnet_allocator_system());
    qnet_strbuf_puts(&b, "module @m bits {\n  func @f() {\n");
    for (int i = 0; i < depth; i++)
      qnet_strbuf_puts(&b, "bits.kernel() { ^():\n");
    for (int i = 0; i < depth; i++)
      qnet_strbuf_puts(&b, "yield }\n");
    qnet_strbuf_puts(&b, "yield\n}\n}\n");
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    qnet_module *m = NULL;
    const qnet_status status =
        qnet_module_parse(qnet_allocator_system(), "deep", b.data, b.length, &m, d);
    assert_int_equal(status, depth == 60 ? QNET_OK : QNET_ERROR);
    qnet_module_destroy(m);
    qnet_diag_destroy(d);
    qnet_strbuf_free(&b);
  }
}

/* ---- random modules -------------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t next_random(void) {
  random_state += 0x9e3779b97f4a7c15u;
  uint64_t z = random_state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static int pick(int n) {
  return (int)(next_random() % (uint64_t)n);
}

static const qnet_type *random_type(qnet_module *m, bool data) {
  int64_t dim[5];
  const int rank = pick(4) + 1;
  for (int i = 0; i < rank; i++)
    dim[i] = pick(4) + 1;
  const qnet_dtype dtype = (qnet_dtype)pick(QNET_CODE);
  switch (pick(data ? 4 : 6)) {
  case 0: return qnet_type_tensor(m, dtype, pick(rank + 1), dim);
  case 1: return qnet_type_codes(m, 2, pick(2) ? "t1" : "t2", rank, dim);
  case 2: return qnet_type_planes(m, pick(3) + 1, rank, dim);
  case 3: return qnet_type_buffer(m, dtype, rank, dim);
  case 4: return qnet_type_vector(m, dtype, dim[0]);
  default: return qnet_type_scalar(m, dtype);
  }
}

static void fill_blob(qnet_blob *b) {
  const int mode = pick(3);
  for (size_t i = 0; i < b->bytes; i++)
    ((uint8_t *)b->data)[i] = mode == 0 ? 0 : (uint8_t)(next_random() & (mode == 1 ? 1 : 255));
  if (b->dtype == QNET_F32 && mode == 1)
    for (int64_t i = 0; i < qnet_blob_elements(b); i++)
      ((float *)b->data)[i] = (float)pick(1000) / 7.0f;
  if (b->dtype == QNET_I1)
    for (size_t i = 0; i < b->bytes; i++)
      ((uint8_t *)b->data)[i] &= 1;
}

static void add_random_data(qnet_module *m) {
  for (int i = pick(5); i >= 0; i--) {
    char name[16];
    snprintf(name, sizeof name, "s%d.x-y", i);
    const qnet_type *t = random_type(m, true);
    qnet_blob *b = pick(4) ? qnet_type_new_blob(qnet_allocator_system(), t) : NULL;
    if (b) fill_blob(b);
    qnet_symbol_add_data(m, pick(2) ? QNET_SYMBOL_CONST : QNET_SYMBOL_STATE, name, t, b,
                         QNET_NO_LOC);
    qnet_blob_release(b);
  }
  const qnet_symbol *t =
      qnet_symbol_add_table(m, "t1", 2, 3 + pick(2), 1 + pick(3), pick(2), QNET_NO_LOC);
  for (int i = 0; i < t->table->channels; i++)
    t->table->scale[i] = (float)pick(99) / 9.0f;
}

static void add_random_attr(qnet_module *m, qnet_op *op, const qnet_attr_spec *spec) {
  int64_t ints[3];
  double reals[3];
  for (int i = 0; i < 3; i++) {
    ints[i] = (int64_t)next_random() >> pick(64);
    reals[i] = (double)ints[i] / 8.0;
  }
  static const char *const texts[] = {"", "a \"b\" \\ \t", "weight"};
  switch (spec->kind) {
  case QNET_ATTR_INT: qnet_op_set_int(m, op, spec->name, ints[0]); break;
  case QNET_ATTR_FLOAT: qnet_op_set_float(m, op, spec->name, reals[0]); break;
  case QNET_ATTR_STRING: qnet_op_set_string(m, op, spec->name, texts[pick(3)]); break;
  case QNET_ATTR_SYMBOL: qnet_op_set_symbol(m, op, spec->name, pick(2) ? "t1" : "s0.x-y"); break;
  case QNET_ATTR_INTS: qnet_op_set_ints(m, op, spec->name, ints, pick(4)); break;
  case QNET_ATTR_FLOATS: qnet_op_set_floats(m, op, spec->name, reals, pick(4)); break;
  }
}

enum { POOL = 64 };
typedef struct pool {
  qnet_value *value[POOL];
  int count;
} pool;

static void add_to_pool(pool *p, qnet_value *v) {
  if (p->count < POOL) p->value[p->count++] = v;
}

static void random_region(qnet_module *m, qnet_region *region, pool in, int depth);

static void random_op(qnet_module *m, qnet_region *region, pool *p, int depth) {
  qnet_builder b = qnet_builder_at_end(m, region);
  const int opcode = pick(QNET_OP_COUNT);
  const qnet_op_def *d = qnet_op_def_of(opcode);
  if (d->traits & QNET_TERMINATOR) return;
  qnet_value *in[4];
  const qnet_type *out[3];
  int n = d->operands_min + (d->operands_max == QNET_MANY ? pick(2) : 0);
  if (n > 4 || (p->count == 0 && n > 0)) return;
  for (int i = 0; i < n; i++)
    in[i] = p->value[pick(p->count)];
  const int results = d->results == QNET_MANY ? pick(3) : d->results;
  for (int i = 0; i < results; i++)
    out[i] = random_type(m, false);
  qnet_op *op = qnet_build(&b, opcode, in, n, out, results);
  qnet_attr_spec spec;
  for (const char *s = d->attrs; (s = qnet_attr_spec_next(s, &spec)) != NULL;)
    if (!spec.optional || pick(2)) add_random_attr(m, op, &spec);
  for (int r = 0; r < d->regions && depth < 3; r++) {
    const qnet_type *args[] = {random_type(m, false), random_type(m, false)};
    qnet_region *body = qnet_op_add_region(m, op, args, pick(3));
    if (body->arg_count > 0 && pick(2)) body->arg[0].name = "i";
    random_region(m, body, *p, depth + 1);
  }
  for (int i = 0; i < results; i++)
    add_to_pool(p, &op->result[i]);
}

static void random_region(qnet_module *m, qnet_region *region, pool p, int depth) {
  for (int i = 0; i < region->arg_count; i++)
    add_to_pool(&p, &region->arg[i]);
  for (int i = pick(12); i >= 0; i--)
    random_op(m, region, &p, depth);
  qnet_builder b = qnet_builder_at_end(m, region);
  qnet_build_yield(&b, p.value, p.count > 2 ? 2 : p.count);
}

static qnet_module *random_module(void) {
  qnet_module *m = qnet_module_create(qnet_allocator_system(), "r", (qnet_level)pick(4));
  add_random_data(m);
  for (int f = pick(2); f >= 0; f--) {
    const qnet_type *args[] = {random_type(m, false), random_type(m, false)};
    const qnet_symbol *s = qnet_symbol_add_func(m, f ? "eval" : "step", args, pick(3), QNET_NO_LOC);
    random_region(m, s->body, (pool){.count = 0}, 0);
  }
  assert_false(m->failed);
  return m;
}

/* Random modules are mostly wrong; they print, parse, clone and sweep, and the verifier survives.
 */
static void random_modules_round_trip(void **state) {
  (void)state;
  const uint64_t seed = 20240611;
  for (uint64_t i = 0; i < 400; i++) {
    random_state = seed + i;
    qnet_module *m = random_module();
    char *text = print(m, 0);
    qnet_module *back = parse(text), *copy = qnet_module_clone(m);
    if (!back) print_error("seed %llu:\n%s", (unsigned long long)(seed + i), text);
    assert_non_null(back);
    char *again = print(back, 0), *cloned = print(copy, 0);
    assert_string_equal(text, again);
    assert_string_equal(text, cloned);
    qnet_module_verify(m, NULL);
    qnet_module_sweep(copy);
    qnet_module_verify(copy, NULL);
    free(text);
    free(again);
    free(cloned);
    qnet_module_destroy(m);
    qnet_module_destroy(back);
    qnet_module_destroy(copy);
  }
}

/* ---- broken texts, failing allocations ------------------------------------------------------- */

/* The text is copied to a block of its exact size, so that a sanitizer sees any step beyond it. */
static void try_text(const char *text, size_t length) {
  qnet_failing_allocator f;
  qnet_failing_allocator_init(&f, 0, 0);
  char *exact = malloc(length + (length == 0));
  memcpy(exact, text, length);
  qnet_diag *d = qnet_diag_create(&f.base);
  qnet_module *m = NULL;
  const qnet_status status = check(&f.base, exact, length, &m, d);
  assert_true(status == QNET_OK || qnet_diag_error_count(d) > 0);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
  free(exact);
  assert_int_equal(f.live_bytes, 0);
}

static void truncated_texts_are_errors(void **state) {
  (void)state;
  for (int i = 0; i < SAMPLES; i++)
    for (size_t n = 0; n <= strlen(samples[i]); n++)
      try_text(samples[i], n);
}

static void flipped_bytes_never_crash(void **state) {
  (void)state;
  static const char nasty[] = "{}()[]<>:,=^@%\"\\-0x9e.\n \0/q";
  random_state = 7;
  for (int round = 0; round < 4000; round++) {
    const char *sample = samples[round % SAMPLES];
    const size_t length = strlen(sample);
    char *text = strdup(sample);
    for (int flips = pick(3); flips >= 0; flips--) {
      char *at = text + pick((int)length);
      *at = pick(3) ? nasty[pick(sizeof nasty - 1)] : (char)next_random();
    }
    try_text(text, length);
    free(text);
  }
}

/* Every allocation of parse, verify, clone, sweep and print fails once, and once with all after it.
 */
static bool run_with(qnet_failing_allocator *f, const char *text) {
  qnet_diag *d = qnet_diag_create(&f->base);
  if (!d) return false;
  qnet_module *m = NULL;
  qnet_status status = check(&f->base, text, strlen(text), &m, d);
  assert_true(status == QNET_OK || status == QNET_NO_MEMORY);
  bool complete = status == QNET_OK;
  qnet_module *copy = complete ? qnet_module_clone(m) : NULL;
  complete = complete && copy;
  if (copy) {
    qnet_module_sweep(copy);
    qnet_strbuf b;
    qnet_strbuf_init(&b, &f->base);
    qnet_module_print(copy, 0, &b);
    complete = complete && !b.failed;
    qnet_strbuf_free(&b);
  }
  qnet_module_destroy(copy);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
  return complete;
}

static void failing_allocations_leak_nothing(void **state) {
  (void)state;
  for (int i = 0; i < SAMPLES; i++) {
    for (int persistent = 0; persistent <= 1; persistent++) {
      qnet_failing_allocator f;
      uint64_t n = 1;
      do {
        qnet_failing_allocator_init(&f, n++, persistent);
        const bool complete = run_with(&f, samples[i]);
        assert_true(complete || f.failed);
        assert_int_equal(f.live_bytes, 0);
      } while (f.failed);
      assert_true(n > 10);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(samples_round_trip),
      cmocka_unit_test(elided_content_names_its_file),
      cmocka_unit_test(operations_know_their_lines),
      cmocka_unit_test(names_become_unique),
      cmocka_unit_test(messages_are_precise),
      cmocka_unit_test(errors_do_not_cascade),
      cmocka_unit_test(nesting_is_bounded),
      cmocka_unit_test(random_modules_round_trip),
      cmocka_unit_test(truncated_texts_are_errors),
      cmocka_unit_test(flipped_bytes_never_crash),
      cmocka_unit_test(failing_allocations_leak_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
