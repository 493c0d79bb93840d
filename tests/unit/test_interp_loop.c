/* The loop interpreter: every operation at every width, loops, buffers, and what it refuses. */
#include "interp_test.h"

/* ---- computing operations ------------------------------------------------------------------- */

/* result = EXPR over %a, %b: vec<4xTYPE>, and %s, the first lane of %a. Values are cut to the width
 * of their type, so one row serves several widths. */
typedef struct op_case {
  const char *expr, *result; /* T in `result` stands for the type of the operands */
  int64_t a[4], b[4], want[4];
  int want_count;
} op_case;

static const op_case integer_cases[] = {
    {"loop.add(%a, %b)", "vec<4xT>", {1, -1, 127, -128}, {2, 3, 127, -128}, {3, 2, 254, -256}, 4},
    {"loop.sub(%a, %b)", "vec<4xT>", {1, -1, -128, 0}, {2, 3, 127, -128}, {-1, -4, -255, 128}, 4},
    {"loop.mul(%a, %b)", "vec<4xT>", {3, -7, -1, 100}, {5, 9, -1, 100}, {15, -63, 1, 10000}, 4},
    {"loop.and(%a, %b)", "vec<4xT>", {12, -1, 7, 0}, {10, 5, -8, 3}, {8, 5, 0, 0}, 4},
    {"loop.or(%a, %b)", "vec<4xT>", {12, -1, 7, 0}, {10, 5, -8, 3}, {14, -1, -1, 3}, 4},
    {"loop.xor(%a, %b)", "vec<4xT>", {12, -1, 7, 0}, {10, 5, -8, 3}, {6, -6, -1, 3}, 4},
    {"loop.shl(%a, %b)", "vec<4xT>", {1, -1, 3, 5}, {7, 1, 0, 2}, {128, -2, 3, 20}, 4},
    {"loop.lshr(%a, %b)", "vec<4xT>", {127, 64, 1, 6}, {1, 6, 1, 0}, {63, 1, 0, 6}, 4},
    {"loop.ashr(%a, %b)", "vec<4xT>", {-128, 64, -1, 6}, {1, 6, 7, 0}, {-64, 1, -1, 6}, 4},
    {"loop.smax(%a, %b)", "vec<4xT>", {-1, 5, 0, -128}, {1, -5, 0, 127}, {1, 5, 0, 127}, 4},
    {"loop.smin(%a, %b)", "vec<4xT>", {-1, 5, 0, -128}, {1, -5, 0, 127}, {-1, -5, 0, -128}, 4},
    {"loop.popcnt(%a)", "vec<4xT>", {0, 1, 127, 85}, {0}, {0, 1, 7, 4}, 4},
    {"loop.pop_acc(%a, %b)", "vec<4xT>", {0, -1, 9, 5}, {127, 3, 0, 1}, {7, 1, 9, 6}, 4},
    {"loop.splat(%s)", "vec<4xT>", {-3}, {0}, {-3, -3, -3, -3}, 4},
    {"loop.extract(%a) {lane = 2}", "T", {1, 2, -3, 4}, {0}, {-3}, 1},
    {"loop.select(%c, %a, %b)", "vec<4xT>", {1, 2, 3, 4}, {5, 6, 7, 8}, {5, 2, 7, 4}, 4},
    {"loop.cast(%a) {kind = \"bitcast\"}", "vec<4xT>", {1, -2, 3, 4}, {0}, {1, -2, 3, 4}, 4},
};

static const op_case compare_cases[] = {
    {"eq", "", {1, -1, 3, -128}, {1, 1, 2, 127}, {1, 0, 0, 0}, 4},
    {"ne", "", {1, -1, 3, -128}, {1, 1, 2, 127}, {0, 1, 1, 1}, 4},
    {"slt", "", {1, -1, 3, -128}, {1, 1, 2, 127}, {0, 1, 0, 1}, 4},
    {"sle", "", {1, -1, 3, -128}, {1, 1, 2, 127}, {1, 1, 0, 1}, 4},
    {"sgt", "", {1, -1, 3, -128}, {1, 1, 2, 127}, {0, 0, 1, 0}, 4},
    {"sge", "", {1, -1, 3, -128}, {1, 1, 2, 127}, {1, 0, 1, 0}, 4},
};

enum { SECOND = 32, CONDITIONS = 64, BYTES = 68 };

/* Writes value by value, little end first. */
static void put(uint8_t *to, const int64_t *value, int count, int width) {
  for (int i = 0; i < count; i++)
    for (int k = 0; k < width; k++)
      to[i * width + k] = (uint8_t)((uint64_t)value[i] >> (8 * k));
}

/* Runs one operation; out receives 64 bytes. */
static void run_op(const char *type, const char *expr, const char *result, const uint8_t *data,
                   uint8_t *out) {
  char text[1000];
  snprintf(text, sizeof text,
           "module @t loop { func @eval(%%in: buf<68xi8>, %%out: buf<64xi8>) {\n"
           "%%0 = loop.const() {int = 0} : i64\n %%32 = loop.const() {int = 32} : i64\n"
           "%%64 = loop.const() {int = 64} : i64\n"
           "%%a = loop.load(%%in, %%0) : vec<4x%s>\n %%b = loop.load(%%in, %%32) : vec<4x%s>\n"
           "%%s = loop.load(%%in, %%0) : %s\n %%c = loop.load(%%in, %%64) : vec<4xi1>\n"
           "%%t = loop.load(%%in, %%64) : i1\n"
           "%%r = %s : %s\n loop.store(%%r, %%out, %%0)\n yield } }",
           type, type, type, expr, result);
  qnet_blob *args[] = {test_blob(QNET_I8, BYTES, data), test_blob(QNET_I8, 64, NULL)};
  test_run(text, args, 2, NULL, 0);
  memcpy(out, args[1]->data, 64);
  test_release(args, 2);
}

static void check_op(const char *type, int width, const char *expr, const char *result,
                     int result_width, const op_case *k) {
  uint8_t data[BYTES] = {0}, got[64], want[32] = {0};
  put(data, k->a, 4, width);
  put(data + SECOND, k->b, 4, width);
  data[CONDITIONS + 1] = data[CONDITIONS + 3] = 1;
  put(want, k->want, k->want_count, result_width);
  run_op(type, expr, result, data, got);
  if (memcmp(got, want, (size_t)(k->want_count * result_width)) != 0)
    fail_msg("%s of %s is wrong", expr, type);
}

static const struct {
  const char *name;
  int width;
} integers[] = {{"i8", 1}, {"i16", 2}, {"i32", 4}, {"i64", 8}};

static void integer_operations(void **state) {
  (void)state;
  for (int t = 0; t < COUNT(integers); t++)
    for (int i = 0; i < COUNT(integer_cases); i++) {
      const op_case *k = &integer_cases[i];
      char result[32];
      const int prefix = (int)strcspn(k->result, "T");
      snprintf(result, sizeof result, "%.*s%s%s", prefix, k->result, integers[t].name,
               k->result + prefix + 1);
      check_op(integers[t].name, integers[t].width, k->expr, result, integers[t].width, k);
    }
}

static void integer_comparisons(void **state) {
  (void)state;
  for (int t = 0; t < COUNT(integers); t++)
    for (int i = 0; i < COUNT(compare_cases); i++) {
      char expr[64];
      snprintf(expr, sizeof expr, "loop.cmp(%%a, %%b) {pred = \"%s\"}", compare_cases[i].expr);
      check_op(integers[t].name, integers[t].width, expr, "vec<4xi1>", 1, &compare_cases[i]);
    }
}

static void conversions(void **state) {
  (void)state;
  const op_case widen = {NULL, NULL, {-1, 5, -128, 127}, {0}, {-1, 5, -128, 127}, 4};
  const op_case cut = {NULL, NULL, {-1, 261, 70000, 127}, {0}, {-1, 261, 70000, 127}, 4};
  for (int f = 0; f < COUNT(integers); f++)
    for (int t = 0; t < COUNT(integers); t++) {
      if (f == t) continue;
      char expr[64], result[32];
      snprintf(result, sizeof result, "vec<4x%s>", integers[t].name);
      snprintf(expr, sizeof expr, "loop.cast(%%a) {kind = \"%s\"}", t > f ? "sext" : "trunc");
      check_op(integers[f].name, integers[f].width, expr, result, integers[t].width,
               t > f ? &widen : &cut);
      if (t < f) continue;
      const int64_t top = (INT64_C(1) << (8 * integers[f].width)) - 1;
      const op_case zero = {NULL, NULL, {-1, 5, 0, 127}, {0}, {top, 5, 0, 127}, 4};
      check_op(integers[f].name, integers[f].width, "loop.cast(%a) {kind = \"zext\"}", result,
               integers[t].width, &zero);
    }
}

static void bits_of_conditions(void **state) {
  (void)state;
  const op_case rows[] = {
      {"loop.bitmask(%c)", "i8", {0}, {0}, {10}, 1},
      {"loop.bitmask(%c)", "i64", {0}, {0}, {10}, 1},
      {"loop.bitmask(%t)", "i32", {0}, {0}, {0}, 1},
      {"loop.cast(%c) {kind = \"zext\"}", "vec<4xi32>", {0}, {0}, {0, 1, 0, 1}, 4},
      {"loop.cast(%c) {kind = \"sext\"}", "vec<4xi16>", {0}, {0}, {0, -1, 0, -1}, 4},
      {"loop.cast(%a) {kind = \"trunc\"}", "vec<4xi1>", {2, 3, -1, 0}, {0}, {0, 1, 1, 0}, 4},
      {"loop.xor(%c, %c)", "vec<4xi1>", {0}, {0}, {0}, 4},
      {"loop.select(%t, %a, %b)", "vec<4xi32>", {1}, {5, 6, 7, 8}, {5, 6, 7, 8}, 4},
      {"loop.lshr(%a, %b)", "vec<4xi32>", {-1, -4}, {28, 1}, {15, 0x7ffffffe}, 4},
      {"loop.popcnt(%a)", "vec<4xi32>", {-1, 0x55555555}, {0}, {32, 16}, 4},
  };
  const int widths[] = {1, 8, 4, 4, 2, 1, 1, 4, 4, 4};
  for (int i = 0; i < COUNT(rows); i++)
    check_op("i32", 4, rows[i].expr, rows[i].result, widths[i], &rows[i]);
}

static void pop_acc_and_widen_sum(void **state) {
  (void)state;
  const char *text =
      "module @t loop { func @eval(%in: buf<4xi32>, %acc: buf<16xi8>, %out: buf<16xi8>, %w: "
      "buf<8xi16>, %q: buf<2xi64>) {\n %0 = loop.const() {int = 0} : i64\n"
      "%x = loop.load(%in, %0) : vec<4xi32>\n %a = loop.load(%acc, %0) : vec<16xi8>\n"
      "%r = loop.pop_acc(%a, %x) : vec<16xi8>\n loop.store(%r, %out, %0)\n"
      "%s = loop.widen_sum(%r) : vec<8xi16>\n loop.store(%s, %w, %0)\n"
      "%t = loop.widen_sum(%r) : vec<2xi64>\n loop.store(%t, %q, %0)\n yield } }";
  const int32_t x[] = {0x00ff0103, -1, 0, 0x40000000};
  qnet_blob *args[] = {test_blob(QNET_I32, 4, x), test_blob(QNET_I8, 16, NULL),
                       test_blob(QNET_I8, 16, NULL), test_blob(QNET_I16, 8, NULL),
                       test_blob(QNET_I64, 2, NULL)};
  memset(args[1]->data, 200, 16);
  test_run(text, args, 5, NULL, 0);
  const uint8_t counts[] = {202, 201, 208, 200, 208, 208, 208, 208,
                            200, 200, 200, 200, 200, 200, 200, 201};
  assert_memory_equal(args[2]->data, counts, 16);
  assert_memory_equal(args[3]->data, ((int16_t[]){403, 408, 416, 416, 400, 400, 400, 401}), 16);
  assert_memory_equal(args[4]->data, ((int64_t[]){1643, 1601}), 16);
  test_release(args, 5);
}

static void float_operations(void **state) {
  (void)state;
  const char *text =
      "module @t loop { func @eval(%a: buf<4xf32>, %b: buf<4xf32>, %out: buf<4x4xf32>, %c: "
      "buf<5x4xi1>, %k: buf<1xf32>) {\n"
      "%0 = loop.const() {int = 0} : i64\n %1 = loop.const() {int = 1} : i64\n"
      "%2 = loop.const() {int = 2} : i64\n %3 = loop.const() {int = 3} : i64\n"
      "%4 = loop.const() {int = 4} : i64\n"
      "%x = loop.load(%a, %0) : vec<4xf32>\n %y = loop.load(%b, %0) : vec<4xf32>\n"
      "%r0 = loop.fadd(%x, %y) : vec<4xf32>\n loop.store(%r0, %out, %0, %0)\n"
      "%r1 = loop.fmul(%x, %y) : vec<4xf32>\n loop.store(%r1, %out, %1, %0)\n"
      "%r2 = loop.fma(%x, %y, %r1) : vec<4xf32>\n loop.store(%r2, %out, %2, %0)\n"
      "%i = loop.cast(%x) {kind = \"bitcast\"} : vec<4xi32>\n"
      "%r3 = loop.cast(%i) {kind = \"sitofp\"} : vec<4xf32>\n loop.store(%r3, %out, %3, %0)\n"
      "%c0 = loop.fcmp(%x, %y) {pred = \"ogt\"} : vec<4xi1>\n loop.store(%c0, %c, %0, %0)\n"
      "%c1 = loop.fcmp(%x, %y) {pred = \"oge\"} : vec<4xi1>\n loop.store(%c1, %c, %1, %0)\n"
      "%c2 = loop.fcmp(%x, %y) {pred = \"olt\"} : vec<4xi1>\n loop.store(%c2, %c, %2, %0)\n"
      "%c3 = loop.fcmp(%x, %y) {pred = \"ole\"} : vec<4xi1>\n loop.store(%c3, %c, %3, %0)\n"
      "%c4 = loop.fcmp(%x, %y) {pred = \"oeq\"} : vec<4xi1>\n loop.store(%c4, %c, %4, %0)\n"
      "%f = loop.const() {float = 0.1} : f32\n loop.store(%f, %k, %0)\n yield } }";
  const float x[] = {0.1f, -2.0f, NAN, 3.0f}, y[] = {0.3f, -2.0f, 1.0f, 1.0f};
  qnet_blob *args[] = {test_blob(QNET_F32, 4, x), test_blob(QNET_F32, 4, y),
                       test_blob(QNET_F32, 16, NULL), test_blob(QNET_I1, 20, NULL),
                       test_blob(QNET_F32, 1, NULL)};
  test_run(text, args, 5, NULL, 0);
  const float *out = args[2]->data;
  for (int i = 0; i < 4; i++) {
    if (i == 2) continue; /* NaN */
    const float product = x[i] * y[i];
    int32_t bits;
    memcpy(&bits, &x[i], 4);
    assert_true(out[i] == x[i] + y[i] && out[4 + i] == product);
    assert_true(out[8 + i] == fmaf(x[i], y[i], product) && out[12 + i] == (float)bits);
  }
  assert_memory_equal(args[3]->data,
                      "\0\0\0\1"
                      "\0\1\0\1"
                      "\1\0\0\0"
                      "\1\1\0\0"
                      "\0\1\0\0",
                      20);
  assert_true(*(float *)args[4]->data == 0.1f);
  test_release(args, 5);
}

/* ---- loops and buffers ---------------------------------------------------------------------- */

static void nested_loops_carry_values(void **state) {
  (void)state;
  /* y = a b of 3x4 and 4x2, through a buffer of the function and a view of the arena */
  const char *text =
      "module @t loop {\n const @b : buf<4x2xi32> = [1, 2, 3, 4, 5, 6, 7, 8]\n"
      "func @eval(%a: buf<3x4xi32>, %y: buf<3x2xi32>, %arena: buf<256xi8>) {\n"
      "%0 = loop.const() {int = 0} : i64\n %3 = loop.const() {int = 3} : i64\n"
      "%b = read @b : buf<4x2xi32>\n %t = loop.view(%arena) {offset = 64} : buf<3x2xi32>\n"
      "%u = loop.alloc() : buf<3x2xi32>\n loop.zero(%u)\n"
      "loop.parallel_for(%0, %3) {step = 1} {\n ^(%i: i64):\n"
      "%z = loop.const() {int = 0} : i64\n %c2 = loop.const() {int = 2} : i64\n"
      "%c4 = loop.const() {int = 4} : i64\n"
      "loop.for(%z, %c2) {step = 1} {\n ^(%j: i64):\n"
      "%zero = loop.load(%u, %i, %j) : i32\n"
      "%sum = loop.for(%z, %c4, %zero) {step = 1} : i32 {\n ^(%k: i64, %acc: i32):\n"
      "%x = loop.load(%a, %i, %k) : i32\n %w = loop.load(%b, %k, %j) : i32\n"
      "%p = loop.mul(%x, %w) : i32\n %q = loop.add(%acc, %p) : i32\n yield %q\n }\n"
      "loop.store(%sum, %t, %i, %j)\n yield\n }\n"
      "%v = loop.load(%t, %i, %z) : vec<2xi32>\n loop.store(%v, %y, %i, %z)\n yield\n }\n"
      "yield } }";
  const int32_t a[] = {1, 0, 0, 0, 1, 1, 1, 1, 0, 0, -1, 2};
  qnet_blob *args[] = {test_blob(QNET_I32, 12, a), test_blob(QNET_I32, 6, NULL),
                       test_blob(QNET_I8, 256, NULL)};
  test_run(text, args, 3, NULL, 0);
  const int32_t want[] = {1, 2, 16, 20, 9, 10};
  assert_memory_equal(args[1]->data, want, sizeof want);
  assert_memory_equal((char *)args[2]->data + 64, want, sizeof want);
  test_release(args, 3);
}

static void carried_values_move_at_once(void **state) {
  (void)state;
  /* (x, y) -> (y, x + y) eight times; a loop that never runs hands its initial value through */
  const char *text =
      "module @t loop { func @eval(%y: buf<3xi64>) {\n"
      "%0 = loop.const() {int = 0} : i64\n %1 = loop.const() {int = 1} : i64\n"
      "%2 = loop.const() {int = 2} : i64\n %15 = loop.const() {int = 15} : i64\n"
      "%p, %q = loop.for(%0, %15, %0, %1) {step = 2} : i64, i64 {\n"
      "^(%i: i64, %a: i64, %b: i64):\n %s = loop.add(%a, %b) : i64\n yield %b, %s\n }\n"
      "%r = loop.for(%2, %2, %15) {step = 1} : i64 {\n"
      "^(%i: i64, %a: i64):\n yield %i\n }\n"
      "loop.store(%p, %y, %0)\n loop.store(%q, %y, %1)\n loop.store(%r, %y, %2)\n yield } }";
  qnet_blob *y = test_blob(QNET_I64, 3, NULL);
  test_run(text, &y, 1, NULL, 0);
  assert_memory_equal(y->data, ((int64_t[]){21, 34, 15}), 24);
  qnet_blob_release(y);
}

static void a_loop_to_the_last_integer_ends(void **state) {
  (void)state;
  const char *text =
      "module @t loop { func @eval(%y: buf<1xi64>) {\n %0 = loop.const() {int = 0} : i64\n"
      "%1 = loop.const() {int = 1} : i64\n"
      "%lo = loop.const() {int = 9223372036854775800} : i64\n"
      "%hi = loop.const() {int = 9223372036854775807} : i64\n"
      "%n = loop.for(%lo, %hi, %0) {step = 5} : i64 {\n ^(%i: i64, %a: i64):\n"
      "%b = loop.add(%a, %1) : i64\n yield %b\n }\n loop.store(%n, %y, %0)\n yield } }";
  qnet_blob *y = test_blob(QNET_I64, 1, NULL);
  test_run(text, &y, 1, NULL, 0);
  assert_int_equal(*(int64_t *)y->data, 2);
  qnet_blob_release(y);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void check_refusal(const char *body, const char *message) {
  char text[700];
  snprintf(
      text, sizeof text,
      "module @t loop {\n const @w : buf<4xi32> = \"w.safetensors#w\"\n"
      "func @eval(%%x: buf<2x3xi32>) {\n%%0 = loop.const() {int = 0} : i64\n"
      "%%1 = loop.const() {int = 1} : i64\n %%n = loop.const() {int = -1} : i64\n"
      "%%4 = loop.const() {int = 4} : i64\n%%v = loop.load(%%x, %%0, %%0) : i32\n%s\nyield } }",
      body);
  qnet_blob *x = test_blob(QNET_I32, 6, NULL);
  test_fails(text, &x, 1, NULL, 0, message);
  qnet_blob_release(x);
}

static void accesses_stay_in_bounds(void **state) {
  (void)state;
  check_refusal("%r = loop.load(%x, %4, %0) : i32",
                "test:9:1: error: 'loop.load' out of bounds: 4 bytes at index [4, 0] of "
                "buf<2x3xi32>");
  check_refusal("%r = loop.load(%x, %0, %n) : i32", "index [0, -1]");
  check_refusal("%r = loop.load(%x, %1, %0) : vec<4xi32>", "16 bytes at index [1, 0]");
  check_refusal("%r = loop.load(%x, %0, %0) : vec<8xi32>", "32 bytes at index [0, 0]");
  check_refusal("loop.store(%v, %x, %1, %4)", "'loop.store' out of bounds");
}

static void lanes_stay_in_bounds(void **state) {
  (void)state;
  const char *text =
      "module @t loop { func @eval(%x: buf<3x4x2xf32>, %i: buf<4xi32>, %y: buf<4xf32>) {\n"
      "%0 = loop.const() {int = 0} : i64\n %k = loop.load(%i, %0) : vec<4xi32>\n"
      "%r = loop.gather(%x, %0, %0, %k) : vec<4xf32>\n loop.store(%r, %y, %0)\n"
      "%s = loop.fadd(%r, %r) : vec<4xf32>\n"
      "loop.scatter_add(%r, %s, %x, %k, %0)\n yield } }";
  const int32_t row[] = {2, 0, 2, 1}, below[] = {0, 1, -1, 0}, above[] = {0, 1, 2, 24},
                no_row[] = {0, 0, 0, 3};
  const float x[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                     13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24};
  const float picked[] = {3, 1, 3, 2};
  const float sums[] = {1,  2,  4,  6,  5,  6,  7,  8,  9,  10, 11, 12,
                        13, 14, 17, 20, 20, 24, 19, 20, 24, 28, 23, 24};
  qnet_blob *args[] = {test_blob(QNET_F32, 24, x), test_blob(QNET_I32, 4, row),
                       test_blob(QNET_F32, 4, NULL)};
  test_run(text, args, 3, NULL, 0);
  assert_memory_equal(args[2]->data, picked, sizeof picked);
  assert_memory_equal(args[0]->data, sums, sizeof sums);
  memcpy(args[1]->data, below, sizeof below);
  test_fails(text, args, 3, NULL, 0, "'loop.gather' out of bounds: lane 2 has index -1");
  memcpy(args[1]->data, above, sizeof above);
  test_fails(text, args, 3, NULL, 0, "'loop.gather' out of bounds: lane 3 has index 24");
  memcpy(args[1]->data, no_row, sizeof no_row);
  test_fails(text, args, 3, NULL, 0, "'loop.scatter_add' out of bounds: lane 3 has index 3");
  test_release(args, 3);
}

static void meaningless_operations_are_refused(void **state) {
  (void)state;
  check_refusal("%s = loop.load(%x, %0, %1) : i32\n %k = loop.const() {int = 32} : i32\n"
                "%r = loop.shl(%s, %k) : i32",
                "'loop.shl' by as many bits as the operand has");
  check_refusal("%w = read @w : buf<4xi32>\n%r = loop.load(%w, %0) : i32", "'@w' has no content");
}

static void no_leak_when_memory_ends(void **state) {
  (void)state;
  qnet_blob *y = test_blob(QNET_I64, 2, NULL);
  test_out_of_memory(
      "module @t loop { func @eval(%y: buf<2xi64>) {\n %0 = loop.const() {int = 0} : i64\n"
      "%1 = loop.const() {int = 1} : i64\n %t = loop.alloc() : buf<2xi64>\n loop.zero(%t)\n"
      "%p, %q = loop.for(%0, %1, %0, %1) {step = 1} : i64, i64 {\n"
      "^(%i: i64, %a: i64, %b: i64):\n yield %b, %a\n }\n"
      "loop.store(%p, %y, %0)\n yield } }",
      &y, 1, 0);
  qnet_blob_release(y);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(integer_operations),
      cmocka_unit_test(integer_comparisons),
      cmocka_unit_test(conversions),
      cmocka_unit_test(bits_of_conditions),
      cmocka_unit_test(pop_acc_and_widen_sum),
      cmocka_unit_test(float_operations),
      cmocka_unit_test(nested_loops_carry_values),
      cmocka_unit_test(carried_values_move_at_once),
      cmocka_unit_test(a_loop_to_the_last_integer_ends),
      cmocka_unit_test(accesses_stay_in_bounds),
      cmocka_unit_test(lanes_stay_in_bounds),
      cmocka_unit_test(meaningless_operations_are_refused),
      cmocka_unit_test(no_leak_when_memory_ends),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
