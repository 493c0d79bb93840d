/* The JIT against the interpreter of the loop level, bit by bit: every operation, the shapes that
 * machines use, on this machine's full feature set and on older ones that it also runs. */
#include "codegen/codegen.h"
#include "ir/interp.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "support/file.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_BUFFERS = 8, SEED = 20240611 };

/* ---- tools ----------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) {
  *state += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t z = *state;
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static qnet_module *parse(const char *text) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_module *m = NULL;
  qnet_status status =
      qnet_module_parse(qnet_allocator_system(), "test", text, strlen(text), &m, d);
  if (status == QNET_OK) status = qnet_module_verify(m, d);
  qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  if (status != QNET_OK) fail_msg("cannot use:\n%s", text);
  return m;
}

static const qnet_region *body_of(const qnet_module *m) {
  return qnet_symbol_find(m, "eval")->body;
}

/* Finite floats of many magnitudes, ties of small ones among them; other types: any bytes. */
static void fill(qnet_blob *b, uint64_t *state) {
  for (size_t i = 0; i < b->bytes; i++)
    ((uint8_t *)b->data)[i] = (uint8_t)next_random(state);
  if (b->dtype != QNET_F32) return;
  float *f = b->data;
  for (size_t i = 0; i < b->bytes / sizeof *f; i++) {
    const int64_t mantissa = (int64_t)(next_random(state) % 33) - 16;
    const int magnitude = (int)(next_random(state) % 24) - 12;
    f[i] = (float)mantissa * 0.25f;
    for (int k = magnitude; k > 0; k--)
      f[i] *= 1.37f;
    if (magnitude < -6) f[i] = 0.0f * f[i];
  }
}

static int make_buffers(const qnet_module *m, qnet_blob **buffer) {
  const qnet_region *body = body_of(m);
  assert_true(body->arg_count <= MAX_BUFFERS);
  uint64_t state = SEED;
  for (int i = 0; i < body->arg_count; i++) {
    const qnet_type *t = body->arg[i].type;
    buffer[i] = qnet_blob_create(qnet_allocator_system(), t->dtype, t->rank, t->dim);
    assert_non_null(buffer[i]);
    fill(buffer[i], &state);
  }
  return body->arg_count;
}

static void release(qnet_blob **buffer, int count) {
  for (int i = 0; i < count; i++)
    qnet_blob_release(buffer[i]);
}

static void interpret(const qnet_module *m, qnet_blob **buffer, int count) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_interp *in = NULL;
  qnet_status status = qnet_interp_create(m, "eval", &in, d);
  if (status == QNET_OK) status = qnet_interp_run(in, buffer, count, NULL, 0, d);
  qnet_diag_print(d, stderr, false);
  qnet_interp_destroy(in);
  qnet_diag_destroy(d);
  assert_int_equal(status, QNET_OK);
}

static qnet_jit *compile(const qnet_module *m, const qnet_target_choice *t) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_jit *jit = NULL;
  const qnet_status status = qnet_jit_create(m, t, &jit, d);
  qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  assert_int_equal(status, QNET_OK);
  return jit;
}

static void expect_equal(const qnet_module *m, qnet_blob **want, qnet_blob **got, int count,
                         const char *text) {
  for (int i = 0; i < count; i++) {
    if (qnet_blob_equal(want[i], got[i])) continue;
    const char *a = want[i]->data, *b = got[i]->data;
    size_t at = 0;
    while (a[at] == b[at])
      at++;
    fail_msg("argument %d of %s differs at byte %zu of %zu (seed %d):\n%s", i, m->name, at,
             want[i]->bytes, (int)SEED, text);
  }
}

/* An inner loop's ranges in a strange order, to show that iterations are independent. */
static void scattered(void *ctx, void (*body)(void *, int64_t, int64_t), void *arg, int64_t n) {
  int *calls = ctx;
  for (int64_t end = n; end > 0; end -= 3) {
    body(arg, end > 3 ? end - 3 : 0, end);
    (*calls)++;
  }
}

/* Interpreter, NAME_run and NAME_run_mt on equal data. */
static void expect_same(const char *text, const qnet_target_choice *t) {
  qnet_module *m = parse(text);
  qnet_blob *want[MAX_BUFFERS], *got[MAX_BUFFERS];
  void *args[MAX_BUFFERS];
  const int count = make_buffers(m, want);
  interpret(m, want, count);
  qnet_jit *jit = compile(m, t);
  for (int parallel = 0; parallel < 2; parallel++) {
    make_buffers(m, got);
    for (int i = 0; i < count; i++)
      args[i] = got[i]->data;
    int calls = 0;
    const qnet_status status = parallel ? qnet_jit_call_mt(jit, args, count, scattered, &calls)
                                        : qnet_jit_call(jit, args, count);
    assert_int_equal(status, QNET_OK);
    expect_equal(m, want, got, count, text);
    release(got, count);
  }
  qnet_jit_destroy(jit);
  release(want, count);
  qnet_module_destroy(m);
}

/* This machine as it is, and older ones that it contains. */
typedef struct hosts {
  qnet_target_choice choice[4];
  int count;
} hosts;

static int choose_hosts(void **state) {
  static hosts all;
  *state = &all;
  if (qnet_target_choose("native", NULL, NULL, &all.choice[all.count++], NULL) != QNET_OK)
    return -1;
#if defined(__x86_64__)
  static const char *const older[] = {"x86-64", "x86-64-v2", "haswell"};
  __builtin_cpu_init();
  const int usable = __builtin_cpu_supports("avx2") ? 3 : 2;
  for (int i = 0; i < usable; i++) {
    qnet_target_choice *c = &all.choice[all.count++];
    if (qnet_target_choose("native", older[i], NULL, c, NULL) != QNET_OK) return -1;
  }
#endif
  return 0;
}

static int free_hosts(void **state) {
  hosts *all = *state;
  for (int i = 0; i < all->count; i++)
    qnet_target_choice_free(&all->choice[i]);
  return 0;
}

static void on_all_hosts(void **state, const char *text) {
  const hosts *all = *state;
  for (int i = 0; i < all->count; i++)
    expect_same(text, &all->choice[i]);
}

/* ---- modules --------------------------------------------------------------------------------- */

/* A test body reads vectors (or scalars) %x, %y, %z of `in` and appends stores to %o. */
typedef struct writer {
  qnet_strbuf text;
  const char *in;
  int64_t lanes, stores, elements;
  char type[32]; /* of %x, %y, %z */
} writer;

static void type_text(char *out, size_t size, const char *dtype, int64_t lanes) {
  if (lanes == 1) {
    snprintf(out, size, "%s", dtype);
  } else {
    snprintf(out, size, "vec<%dx%s>", (int)lanes, dtype);
  }
}

/* Results of `out` elements, `rows` stores, in buffer %o. */
static void begin(writer *w, const char *in, int64_t lanes, const char *out, int rows) {
  *w = (writer){.in = in, .lanes = lanes, .elements = 64};
  qnet_strbuf_init(&w->text, qnet_allocator_system());
  type_text(w->type, sizeof w->type, in, lanes);
  qnet_strbuf_printf(&w->text,
                     "module @t loop {\n  func @eval(%%a: buf<64x%s>, %%b: buf<64x%s>, "
                     "%%c: buf<64x%s>, %%o: buf<%dx64x%s>) {\n"
                     "    %%lo = loop.const() {int = 0} : i64\n"
                     "    %%hi = loop.const() {int = 64} : i64\n"
                     "    loop.parallel_for(%%lo, %%hi) {step = %d} {\n      ^(%%i: i64):\n",
                     in, in, in, rows, out, (int)lanes);
  for (int k = 0; k < 3; k++) {
    qnet_strbuf_printf(&w->text, "      %%%c = loop.load(%%%c, %%i) : %s\n", "xyz"[k], "abc"[k],
                       w -> type);
  }
}

static void store(writer *w, const char *value) {
  const int k = (int)w->stores++;
  qnet_strbuf_printf(&w->text,
                     "      %%row%d = loop.const() {int = %d} : i64\n"
                     "      loop.store(%s, %%o, %%row%d, %%i)\n",
                     k, k, value, k);
}

static const char *finish(writer *w) {
  qnet_strbuf_puts(&w->text, "      yield\n    }\n    yield\n  }\n}\n");
  return qnet_strbuf_text(&w->text);
}

static void run(void **state, writer *w) {
  on_all_hosts(state, finish(w));
  qnet_strbuf_free(&w->text);
}

/* %NAME = loop.op(operands) : the input type; stored. */
static void simple(writer *w, const char *op, const char *operands) {
  const int k = (int)w->stores;
  char name[16];
  snprintf(name, sizeof name, "%%r%d", k);
  qnet_strbuf_printf(&w->text, "      %s = loop.%s(%s) : %s\n", name, op, operands, w->type);
  store(w, name);
}

static void constant_lanes(writer *w, const char *name, int v) {
  qnet_strbuf_printf(&w->text, "      %%%s_one = loop.const() {int = %d} : %s\n", name, v, w->in);
  if (w->lanes == 1) {
    qnet_strbuf_printf(&w->text, "      %%zero%s = loop.const() {int = 0} : %s\n", name, w->in);
    qnet_strbuf_printf(&w->text, "      %%%s = loop.add(%%%s_one, %%zero%s) : %s\n", name, name,
                       name, w->in);
  } else {
    qnet_strbuf_printf(&w->text, "      %%%s = loop.splat(%%%s_one) : %s\n", name, name, w->type);
  }
}

static void shifts(writer *w, int bits) {
  constant_lanes(w, "mask", bits - 1);
  qnet_strbuf_printf(&w->text, "      %%n = loop.and(%%y, %%mask) : %s\n", w->type);
  simple(w, "shl", "%x, %n");
  simple(w, "lshr", "%x, %n");
  simple(w, "ashr", "%x, %n");
}

static void comparisons(writer *w) {
  static const char *const preds[] = {"eq", "ne", "slt", "sle", "sgt", "sge"};
  char mask[32];
  type_text(mask, sizeof mask, "i1", w->lanes);
  for (int k = 0; k < 6; k++) {
    char operands[32];
    qnet_strbuf_printf(&w->text, "      %%m%d = loop.cmp(%%x, %%y) {pred = \"%s\"} : %s\n", k,
                       preds[k], mask);
    snprintf(operands, sizeof operands, "%%m%d, %%y, %%z", k);
    simple(w, "select", operands);
  }
}

static void integers_of_every_width(void **state) {
  static const struct {
    const char *dtype;
    int bits, lanes;
  } rows[] = {
      {"i8", 8, 1},    {"i16", 16, 1}, {"i32", 32, 1}, {"i64", 64, 1}, {"i8", 8, 16},
      {"i8", 8, 32},   {"i8", 8, 64},  {"i16", 16, 8}, {"i32", 32, 4}, {"i32", 32, 8},
      {"i32", 32, 16}, {"i64", 64, 2}, {"i64", 64, 8},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    static const char *const ops[] = {"add", "sub", "mul", "and", "or", "xor", "smax", "smin"};
    writer w;
    begin(&w, rows[i].dtype, rows[i].lanes, rows[i].dtype, 19);
    for (size_t k = 0; k < sizeof ops / sizeof ops[0]; k++)
      simple(&w, ops[k], "%x, %y");
    simple(&w, "popcnt", "%x");
    shifts(&w, rows[i].bits);
    comparisons(&w);
    simple(&w, "pop_acc", "%x, %y");
    run(state, &w);
  }
}

static void floats_are_rounded_once(void **state) {
  static const int lanes[] = {1, 4, 8, 16};
  for (size_t i = 0; i < sizeof lanes / sizeof lanes[0]; i++) {
    static const char *const preds[] = {"ogt", "oge", "olt", "ole", "oeq"};
    writer w;
    char mask[32];
    type_text(mask, sizeof mask, "i1", lanes[i]);
    begin(&w, "f32", lanes[i], "f32", 10);
    simple(&w, "fadd", "%x, %y");
    simple(&w, "fsub", "%x, %y");
    simple(&w, "fmul", "%x, %y");
    simple(&w, "fma", "%x, %y, %z");
    /* must not become an fma */
    qnet_strbuf_printf(&w.text, "      %%p = loop.fmul(%%x, %%y) : %s\n", w.type);
    simple(&w, "fadd", "%p, %z");
    for (int k = 0; k < 5; k++) {
      char operands[32];
      qnet_strbuf_printf(&w.text, "      %%m%d = loop.fcmp(%%x, %%y) {pred = \"%s\"} : %s\n", k,
                         preds[k], mask);
      snprintf(operands, sizeof operands, "%%m%d, %%y, %%z", k);
      simple(&w, "select", operands);
    }
    run(state, &w);
  }
}

/* One conversion of 16 elements: value text, its types. */
static void conversion(void **state, const char *op, const char *in, int in_lanes, const char *out,
                       int out_lanes) {
  char type[32];
  writer w;
  type_text(type, sizeof type, out, out_lanes);
  begin(&w, in, in_lanes, out, 1);
  qnet_strbuf_printf(&w.text, "      %%r = loop.%s : %s\n", op, type);
  store(&w, "%r");
  run(state, &w);
}

static void conversions(void **state) {
  static const struct {
    const char *op, *in;
    int in_lanes;
    const char *out;
    int out_lanes;
  } rows[] = {
      {"cast(%x) {kind = \"sext\"}", "i8", 16, "i32", 16},
      {"cast(%x) {kind = \"zext\"}", "u8", 8, "i32", 8},
      {"cast(%x) {kind = \"trunc\"}", "i32", 16, "i8", 16},
      {"cast(%x) {kind = \"trunc\"}", "i64", 1, "i32", 1},
      {"cast(%x) {kind = \"sitofp\"}", "i32", 16, "f32", 16},
      {"cast(%x) {kind = \"sitofp\"}", "i32", 1, "f32", 1},
      {"cast(%x) {kind = \"bitcast\"}", "i8", 16, "i32", 4},
      {"cast(%x) {kind = \"bitcast\"}", "i32", 1, "f32", 1},
      {"pop_acc(%y, %x)", "i64", 1, "i64", 1},
      {"widen_sum(%x)", "i8", 16, "i16", 8},
      {"widen_sum(%x)", "i8", 16, "i32", 4},
      {"widen_sum(%x)", "i8", 32, "i32", 8},
      {"widen_sum(%x)", "i8", 64, "i32", 16},
      {"widen_sum(%x)", "i16", 8, "i32", 4},
      {"widen_sum(%x)", "i8", 16, "i64", 2},
      {"widen_sum(%x)", "i16", 4, "i64", 1},
      {"extract(%x) {lane = 3}", "i32", 4, "i32", 1},
      {"extract(%x) {lane = 15}", "f32", 16, "f32", 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    conversion(state, rows[i].op, rows[i].in, rows[i].in_lanes, rows[i].out, rows[i].out_lanes);
  }
}

/* Words of 32 bits counted into accumulators of other widths, as kernels do. */
static void counting_forms(void **state) {
  static const struct {
    int words;
    const char *acc;
    int lanes;
  } rows[] = {{4, "i8", 16}, {8, "i8", 32}, {16, "i8", 64},  {4, "i16", 8},
              {4, "i32", 4}, {8, "i32", 8}, {16, "i32", 16}, {4, "i64", 2}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    writer w;
    char type[32];
    type_text(type, sizeof type, rows[i].acc, rows[i].lanes);
    begin(&w, "i32", rows[i].words, "i32", 1);
    qnet_strbuf_printf(&w.text,
                       "      %%p = loop.and(%%x, %%y) : %s\n"
                       "      %%s = loop.cast(%%z) {kind = \"bitcast\"} : %s\n"
                       "      %%q = loop.pop_acc(%%s, %%p) : %s\n"
                       "      %%r = loop.cast(%%q) {kind = \"bitcast\"} : %s\n",
                       w.type, type, type, w.type);
    store(&w, "%r");
    run(state, &w);
  }
}

static void bitmasks(void **state) {
  static const struct {
    const char *in, *op, *pred;
    int lanes;
    const char *out;
  } rows[] = {{"i32", "cmp", "sge", 16, "i32"}, {"i32", "cmp", "sge", 8, "i32"},
              {"i32", "cmp", "sgt", 4, "i8"},   {"f32", "fcmp", "ogt", 16, "i16"},
              {"f32", "fcmp", "ogt", 4, "i64"}, {"i8", "cmp", "slt", 64, "i64"},
              {"f32", "fcmp", "ogt", 1, "i64"}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    writer w;
    char mask[32];
    type_text(mask, sizeof mask, "i1", rows[i].lanes);
    begin(&w, rows[i].in, rows[i].lanes, rows[i].out, 1);
    qnet_strbuf_printf(&w.text,
                       "      %%m = loop.%s(%%x, %%y) {pred = \"%s\"} : %s\n"
                       "      %%r = loop.bitmask(%%m) : %s\n",
                       rows[i].op, rows[i].pred, mask, rows[i].out);
    store(&w, "%r");
    run(state, &w);
  }
}

/* ---- memory, loops, constants ---------------------------------------------------------------- */

static const char model[] =
    "module @t loop {\n"
    "  const @w : buf<4x8xi32> = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,\n"
    "    19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, -32]\n"
    "  func @eval(%in: buf<6x8xu8>, %out: buf<8xi32>, %arena: buf<512xi8>) {\n"
    "    %x = loop.view(%arena) {offset = 0} : buf<6x8xi32>\n"
    "    %s = loop.view(%arena) {offset = 256} : buf<8xi32>\n"
    "    %w = read @w : buf<4x8xi32>\n"
    "    loop.zero(%s)\n"
    "    %zero = loop.const() {int = 0} : i64\n"
    "    %six = loop.const() {int = 6} : i64\n"
    "    %eight = loop.const() {int = 8} : i64\n"
    "    loop.parallel_for(%zero, %six) {step = 1} {\n"
    "      ^(%h: i64):\n"
    "      %first = loop.const() {int = 0} : i64\n"
    "      %v = loop.load(%in, %h, %first) : vec<8xu8>\n"
    "      %e = loop.cast(%v) {kind = \"zext\"} : vec<8xi32>\n"
    "      loop.store(%e, %x, %h, %first)\n"
    "      yield\n"
    "    }\n"
    "    loop.parallel_for(%zero, %eight) {step = 4} {\n"
    "      ^(%c: i64):\n"
    "      %one = loop.const() {int = 1} : i64\n"
    "      %six_here = loop.const() {int = 6} : i64\n"
    "      %four = loop.const() {int = 4} : i64\n"
    "      %none = loop.const() {int = 0} : i64\n"
    "      %start = loop.load(%s, %c) : vec<4xi32>\n"
    "      %sum, %last = loop.for(%none, %six_here, %start, %start) {step = 1} : vec<4xi32>, "
    "vec<4xi32> {\n"
    "        ^(%i: i64, %acc: vec<4xi32>, %before: vec<4xi32>):\n"
    "        %a = loop.load(%x, %i, %c) : vec<4xi32>\n"
    "        %deep = loop.for(%one, %four, %acc) {step = 2} : vec<4xi32> {\n"
    "          ^(%j: i64, %inner: vec<4xi32>):\n"
    "          %b = loop.load(%w, %j, %c) : vec<4xi32>\n"
    "          %p = loop.mul(%a, %b) : vec<4xi32>\n"
    "          %n = loop.add(%inner, %p) : vec<4xi32>\n"
    "          yield %n\n"
    "        }\n"
    "        yield %deep, %acc\n"
    "      }\n"
    "      %empty = loop.for(%four, %one, %last) {step = 1} : vec<4xi32> {\n"
    "        ^(%k: i64, %never: vec<4xi32>):\n"
    "        yield %start\n"
    "      }\n"
    "      %all = loop.xor(%sum, %empty) : vec<4xi32>\n"
    "      loop.store(%all, %out, %c)\n"
    "      yield\n"
    "    }\n"
    "    yield\n"
    "  }\n"
    "}\n";

static void loops_views_and_constants(void **state) {
  on_all_hosts(state, model);
}

static void raw_accesses(void **state) {
  on_all_hosts(state, "module @t loop {\n"
                      "  func @eval(%a: buf<5x3x7xu8>, %b: buf<16xi32>, %o: buf<64xi8>) {\n"
                      "    %zero = loop.const() {int = 0} : i64\n"
                      "    %one = loop.const() {int = 1} : i64\n"
                      "    %two = loop.const() {int = 2} : i64\n"
                      "    %seven = loop.const() {int = 7} : i64\n"
                      "    %word = loop.load(%a, %two, %one, %seven) : i64\n"
                      "    loop.store(%word, %o, %one)\n"
                      "    %bytes = loop.load(%b, %two) : vec<16xi8>\n"
                      "    loop.store(%bytes, %o, %seven)\n"
                      "    %long = loop.const() {int = 24} : i64\n"
                      "    %f = loop.load(%b, %one) : f32\n"
                      "    loop.store(%f, %o, %long)\n"
                      "    yield\n  }\n}\n");
}

/* An address a lane: tables of floats and bytes, sums that meet in one row. */
static void gathers_and_scatters(void **state) {
  static const int lanes[] = {4, 8, 16};
  for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++) {
    const int n = lanes[i];
    char text[1600];
    snprintf(text, sizeof text,
             "module @t loop {\n"
             "  func @eval(%%x: buf<64xi32>, %%f: buf<3x8xf32>, %%u: buf<8xu8>,\n"
             "             %%bins: buf<8x20x2xf32>, %%o: buf<64xf32>, %%b: buf<64xu8>) {\n"
             "    %%zero = loop.const() {int = 0} : i64\n"
             "    %%two = loop.const() {int = 2} : i64\n"
             "    %%end = loop.const() {int = 64} : i64\n"
             "    %%seven = loop.const() {int = 7} : i32\n"
             "    %%mask = loop.splat(%%seven) : vec<%dxi32>\n"
             "    loop.zero(%%bins)\n"
             "    loop.for(%%zero, %%end) {step = %d} {\n"
             "      ^(%%i: i64):\n"
             "      %%raw = loop.load(%%x, %%i) : vec<%dxi32>\n"
             "      %%k = loop.and(%%raw, %%mask) : vec<%dxi32>\n"
             "      %%v = loop.gather(%%f, %%two, %%k) : vec<%dxf32>\n"
             "      loop.store(%%v, %%o, %%i)\n"
             "      %%c = loop.gather(%%u, %%k) : vec<%dxu8>\n"
             "      loop.store(%%c, %%b, %%i)\n"
             "      %%w = loop.fmul(%%v, %%v) : vec<%dxf32>\n"
             "      loop.scatter_add(%%v, %%w, %%bins, %%k, %%two)\n"
             "      loop.scatter_add(%%w, %%v, %%bins, %%mask, %%two)\n"
             "      yield\n    }\n    yield\n  }\n}\n",
             n, n, n, n, n, n, n);
    on_all_hosts(state, text);
  }
}

static void arguments_are_checked(void **state) {
  qnet_module *m = parse(model);
  qnet_jit *jit = compile(m, &((hosts *)*state)->choice[0]);
  assert_int_equal(qnet_jit_arena_bytes(jit), 512);
  assert_int_equal(qnet_codegen_weight_bytes(m), 128);
  _Alignas(64) char in[48] = {0}, out[64], arena[576];
  void *good[] = {in, out, arena}, *null[] = {in, NULL, arena}, *askew[] = {in, out, arena + 32};
  int calls = 0;
  assert_int_equal(qnet_jit_call(jit, good, 3), QNET_OK);
  assert_int_equal(qnet_jit_call(jit, null, 3), QNET_ERROR);
  assert_int_equal(qnet_jit_call(jit, askew, 3), QNET_ERROR);
  assert_int_equal(qnet_jit_call(jit, good, 2), QNET_INTERNAL);
  assert_int_equal(qnet_jit_call_mt(jit, good, 3, scattered, &calls), QNET_OK);
  assert_int_equal(calls, 2 + 1);
  assert_int_equal(qnet_jit_call_mt(jit, good, 3, NULL, NULL), QNET_ERROR);
  qnet_jit_destroy(jit);
  qnet_module_destroy(m);
}

typedef struct worker {
  const qnet_jit *jit;
  uint8_t first;
  int32_t out[8];
  qnet_status status;
} worker;

static void *work(void *ctx) {
  worker *w = ctx;
  _Alignas(64) char arena[512];
  uint8_t in[48];
  memset(in, w->first, sizeof in);
  void *args[] = {in, w->out, arena};
  for (int i = 0; i < 500 && w->status == QNET_OK; i++)
    w->status = qnet_jit_call(w->jit, args, 3);
  return NULL;
}

static void calls_are_reentrant(void **state) {
  qnet_module *m = parse(model);
  worker w[4];
  pthread_t thread[4];
  qnet_jit *jit = compile(m, &((hosts *)*state)->choice[0]);
  for (int i = 0; i < 4; i++) {
    w[i] = (worker){.jit = jit, .first = (uint8_t)(i + 1)};
    assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
  }
  for (int i = 0; i < 4; i++)
    pthread_join(thread[i], NULL);
  for (int i = 0; i < 4; i++) {
    worker alone = {.jit = jit, .first = w[i].first};
    work(&alone);
    assert_int_equal(w[i].status, QNET_OK);
    assert_memory_equal(w[i].out, alone.out, sizeof alone.out);
  }
  qnet_jit_destroy(jit);
  qnet_module_destroy(m);
}

/* ---- files ----------------------------------------------------------------------------------- */

static char *read_text(const char *path, size_t *size) {
  char *data = NULL;
  assert_int_equal(qnet_file_read(qnet_allocator_system(), path, 1 << 24, &data, size, NULL),
                   QNET_OK);
  return data;
}

static void files_of_every_kind(void **state) {
  (void)state;
  static const struct {
    qnet_emit kind;
    const char *starts, *has;
  } rows[] = {
      {QNET_EMIT_OBJECT,
       "\x7f"
       "ELF",
       NULL},
      {QNET_EMIT_ASSEMBLY, "", ".rodata.qnet"},
      {QNET_EMIT_LLVM_IR, "; ModuleID", "@tiny_run_mt"},
      {QNET_EMIT_BITCODE, "BC", NULL},
  };
  static const char *const targets[] = {"x86_64", "aarch64", "riscv64"};
  char dir[] = "/tmp/qnet-test-XXXXXX", path[64];
  assert_non_null(mkdtemp(dir));
  snprintf(path, sizeof path, "%s/out", dir);
  qnet_module *m = parse(model);
  for (size_t t = 0; t < 3; t++) {
    qnet_target_choice c;
    assert_int_equal(qnet_target_choose(targets[t], NULL, NULL, &c, NULL), QNET_OK);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
      size_t size = 0;
      assert_int_equal(qnet_codegen_write(m, &c, rows[i].kind, "tiny", path, NULL), QNET_OK);
      char *data = read_text(path, &size);
      assert_memory_equal(data, rows[i].starts, strlen(rows[i].starts));
      if (rows[i].has != NULL) assert_non_null(strstr(data, rows[i].has));
      qnet_free(qnet_allocator_system(), data, size + 1);
    }
    qnet_target_choice_free(&c);
  }
  unlink(path);
  rmdir(dir);
  qnet_module_destroy(m);
}

static void unplanned_modules_and_bad_paths_are_refused(void **state) {
  const qnet_target_choice *host = &((hosts *)*state)->choice[0];
  qnet_module *m = parse(model);
  assert_int_not_equal(
      qnet_codegen_write(m, host, QNET_EMIT_OBJECT, "tiny", "/nonexistent/out.o", NULL), QNET_OK);
  qnet_module_destroy(m);
  m = parse("module @t loop {\n  func @eval(%a: buf<4xf32>) {\n"
            "    %b = loop.alloc() : buf<4xf32>\n    yield\n  }\n}\n");
  qnet_jit *jit = NULL;
  assert_int_equal(qnet_codegen_write(m, host, QNET_EMIT_OBJECT, "t", "/tmp/never.o", NULL),
                   QNET_ERROR);
  assert_int_equal(qnet_jit_create(m, host, &jit, NULL), QNET_ERROR);
  assert_null(jit);
  qnet_module_destroy(m);
}

static void header_states_the_facts(void **state) {
  (void)state;
  static const char *const lines[] = {
      "#ifndef TINY_H",
      "extern \"C\"",
      "#define TINY_INPUT_SHAPE {6, 8}",
      "#define TINY_INPUT_DTYPE \"u8\"",
      "#define TINY_INPUT_BYTES 48\n",
      "#define TINY_OUTPUT_COUNT 8\n",
      "#define TINY_OUTPUT_BYTES 32\n",
      "#define TINY_ARENA_BYTES 512\n",
      "#define TINY_ARENA_ALIGN 64\n",
      "#define TINY_WEIGHT_BYTES 128\n",
      "#define TINY_ABI_VERSION 1\n",
      "#define TINY_MODEL_HASH 0x",
      "int tiny_run(const void *in, void *out, void *arena);",
      "int tiny_run_mt(",
  };
  qnet_module *m = parse(model);
  qnet_strbuf text;
  qnet_strbuf_init(&text, qnet_allocator_system());
  assert_int_equal(qnet_codegen_header(m, "tiny", &text, NULL), QNET_OK);
  for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
    if (strstr(text.data, lines[i]) == NULL) fail_msg("no '%s' in\n%s", lines[i], text.data);
  }
  assert_int_equal(qnet_codegen_header(m, "9lives", &text, NULL), QNET_ERROR);
  qnet_strbuf_free(&text);
  qnet_module_destroy(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(integers_of_every_width),
      cmocka_unit_test(floats_are_rounded_once),
      cmocka_unit_test(conversions),
      cmocka_unit_test(counting_forms),
      cmocka_unit_test(bitmasks),
      cmocka_unit_test(loops_views_and_constants),
      cmocka_unit_test(raw_accesses),
      cmocka_unit_test(gathers_and_scatters),
      cmocka_unit_test(arguments_are_checked),
      cmocka_unit_test(calls_are_reentrant),
      cmocka_unit_test(files_of_every_kind),
      cmocka_unit_test(unplanned_modules_and_bad_paths_are_refused),
      cmocka_unit_test(header_states_the_facts),
  };
  return cmocka_run_group_tests(tests, choose_hosts, free_hosts);
}
