/* The exact fused multiply-add of targets without the instruction, against the C library's fmaf:
 * random bits, and triples built to sit on and beside every rounding boundary. */
#include "codegen/codegen.h"
#include "ir/text.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 4096, ROUNDS = 48, SEED = 7 };

static uint64_t random_state = SEED;

static uint64_t next_random(void) {
  random_state += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t z = random_state;
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static float from_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static uint32_t bits_of(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

/* A float of exponent e in a window, with `bits` significant bits. */
static float random_float(int low, int high, int bits) {
  const int e = low + (int)(next_random() % (uint64_t)(high - low + 1));
  const uint64_t top = UINT64_C(1) << (bits - 1);
  const double m = (double)(top | (next_random() & (top - 1)));
  const double sign = (next_random() & 1) != 0 ? -1.0 : 1.0;
  return (float)ldexp(sign * m, e - bits + 1);
}

typedef struct triple {
  float a, b, c;
} triple;

static triple any_bits(void) {
  return (triple){from_bits((uint32_t)next_random()), from_bits((uint32_t)next_random()),
                  from_bits((uint32_t)next_random())};
}

/* The sum nearly cancels. */
static triple cancelling(void) {
  triple t = {random_float(-20, 20, 24), random_float(-20, 20, 24), 0};
  t.c = -(t.a * t.b);
  const int ulps = (int)(next_random() % 5) - 2;
  t.c = from_bits(bits_of(t.c) + (uint32_t)ulps);
  return t;
}

/* The product is half an ulp of c, or a hair from it: ties that only exact sums see. */
static triple near_tie(void) {
  triple t;
  t.c = random_float(-60, 60, 1 + (int)(next_random() % 24));
  int e;
  frexpf(t.c, &e);
  t.a = ldexpf(1.0f, 3);
  t.b = ldexpf(1.0f, e - 25 - 3);
  if ((next_random() & 1) != 0) t.b = from_bits(bits_of(t.b) + (uint32_t)(next_random() % 3) - 1);
  if ((next_random() & 1) != 0) t.b = -t.b;
  if ((next_random() & 1) != 0) t.b *= 2 * (float)(next_random() % 4) + 1;
  return t;
}

/* c is far below the product: it only decides a tie of the product itself. */
static triple sticky(void) {
  triple t = {random_float(-10, 10, 13), random_float(-10, 10, 13), 0};
  t.c = random_float(-140, -30, 24);
  return t;
}

/* Results around the smallest normal number and below. */
static triple subnormal(void) {
  triple t = {random_float(-75, -60, 24), random_float(-75, -60, 24), 0};
  t.c = from_bits((uint32_t)(next_random() & 0x80ffffff));
  return t;
}

/* Results around the largest number. */
static triple overflowing(void) {
  triple t = {random_float(60, 64, 24), random_float(60, 64, 24), FLT_MAX};
  if ((next_random() & 1) != 0)
    t.a = ldexpf(1.0f, 51), t.b = ldexpf(1.0f, 51 + (int)(next_random() % 3));
  if ((next_random() & 1) != 0) t.c = -FLT_MAX;
  return t;
}

/* Zeros, infinities, NaN, ones, extremes in all combinations. */
static triple special(void) {
  static const float v[] = {0.0f, -0.0f,   1.0f,     -1.0f,   INFINITY,  -INFINITY,
                            NAN,  FLT_MAX, -FLT_MAX, FLT_MIN, 0x1p-149f, -0x1p-149f};
  enum { COUNT = sizeof v / sizeof v[0] };
  return (triple){v[next_random() % COUNT], v[next_random() % COUNT], v[next_random() % COUNT]};
}

static triple (*const kinds[])(void) = {any_bits,  cancelling,  near_tie, sticky,
                                        subnormal, overflowing, special};

static qnet_module *make_module(int lanes) {
  char type[16], text[1024];
  snprintf(type, sizeof type, lanes == 1 ? "f32" : "vec<%dxf32>", lanes);
  snprintf(
      text, sizeof text,
      "module @t loop {\n"
      "  func @eval(%%a: buf<%dxf32>, %%b: buf<%dxf32>, %%c: buf<%dxf32>, %%o: buf<%dxf32>) {\n"
      "    %%lo = loop.const() {int = 0} : i64\n"
      "    %%hi = loop.const() {int = %d} : i64\n"
      "    loop.parallel_for(%%lo, %%hi) {step = %d} {\n"
      "      ^(%%i: i64):\n"
      "      %%x = loop.load(%%a, %%i) : %s\n"
      "      %%y = loop.load(%%b, %%i) : %s\n"
      "      %%z = loop.load(%%c, %%i) : %s\n"
      "      %%r = loop.fma(%%x, %%y, %%z) : %s\n"
      "      loop.store(%%r, %%o, %%i)\n"
      "      yield\n    }\n    yield\n  }\n}\n",
      N, N, N, N, N, lanes, type, type, type, type);
  qnet_module *m = NULL;
  assert_int_equal(qnet_module_parse(qnet_allocator_system(), "test", text, strlen(text), &m, NULL),
                   QNET_OK);
  return m;
}

static void check(const float *a, const float *b, const float *c, const float *got) {
  for (int i = 0; i < N; i++) {
    const float want = fmaf(a[i], b[i], c[i]);
    if (isnan(want) ? isnan(got[i]) : bits_of(want) == bits_of(got[i])) continue;
    fail_msg("fma(%a, %a, %a) = %a, not %a (seed %d)", (double)a[i], (double)b[i], (double)c[i],
             (double)want, (double)got[i], (int)SEED);
  }
}

static void helper_is_exact(int lanes) {
  qnet_target_choice host;
  assert_int_equal(qnet_target_choose("native", NULL, NULL, &host, NULL), QNET_OK);
  host.machine.fma = false;
  qnet_module *m = make_module(lanes);
  qnet_jit *jit = NULL;
  assert_int_equal(qnet_jit_create(m, &host, &jit, NULL), QNET_OK);
  static float a[N], b[N], c[N], o[N];
  void *args[] = {a, b, c, o};
  for (int round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < N; i++) {
      const triple t = kinds[next_random() % (sizeof kinds / sizeof kinds[0])]();
      a[i] = t.a;
      b[i] = t.b;
      c[i] = t.c;
    }
    assert_int_equal(qnet_jit_call(jit, args, 4), QNET_OK);
    check(a, b, c, o);
  }
  qnet_jit_destroy(jit);
  qnet_module_destroy(m);
  qnet_target_choice_free(&host);
}

static void scalars(void **state) {
  (void)state;
  helper_is_exact(1);
}

static void vectors(void **state) {
  (void)state;
  helper_is_exact(4);
  helper_is_exact(16);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(scalars), cmocka_unit_test(vectors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
