/* Loops compute what kernels compute, `==` on every logit: random networks, and convolutions whose
 * sizes reach every form of reduction, on machines of all counting forms and odd tiles. */
#include "ir/interp.h"
#include "ir/ops.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/pass.h"
#include "tests/unit/random_net.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint64_t SEED = 2000;
enum { NETWORKS = 48 };

static const qnet_machine machines[] = {
    {.name = "32x16 word", .word_bits = 32, .lanes = 16, .f32_lanes = 16, .registers = 32},
    {.name = "32x8 byte",
     .word_bits = 32,
     .lanes = 8,
     .f32_lanes = 8,
     .registers = 16,
     .count = QNET_COUNT_BYTE},
    {.name = "32x4 pair",
     .word_bits = 32,
     .lanes = 4,
     .f32_lanes = 4,
     .registers = 32,
     .count = QNET_COUNT_PAIR},
    {.name = "64x1 word", .word_bits = 64, .lanes = 1, .f32_lanes = 4, .registers = 13},
    {.name = "64x1 carry-save",
     .word_bits = 64,
     .lanes = 1,
     .f32_lanes = 1,
     .registers = 28,
     .count = QNET_COUNT_CSA8},
    {.name = "64x8 word", .word_bits = 64, .lanes = 8, .f32_lanes = 16, .registers = 32},
    {.name = "odd tiles",
     .word_bits = 32,
     .lanes = 4,
     .f32_lanes = 8,
     .registers = 16,
     .tile = {{1, 1, 5, 3}, {1, 2, 3, 3}, {2, 1, 7, 1}, {2, 2, 3, 2}, {2, 3, 1, 8}, {3, 3, 2, 2}}},
};
enum { MACHINES = sizeof machines / sizeof machines[0] };

/* ---- running --------------------------------------------------------------------------------- */

static void fail_with(qnet_diag *d, const qnet_module *m, const char *machine, uint64_t seed) {
  qnet_diag_print(d, stderr, false);
  qnet_strbuf text;
  qnet_strbuf_init(&text, qnet_allocator_system());
  qnet_module_print(m, QNET_PRINT_ELIDE, &text);
  fail_msg("seed %llu, %s:\n%s", (unsigned long long)seed, machine, qnet_strbuf_text(&text));
}

static void run_passes(qnet_module *m, const char *passes, const qnet_machine *machine,
                       uint64_t seed) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  const qnet_pipeline_options options = {.verify_each = true};
  if (qnet_pipeline_run(m, passes, &options, machine, d) != QNET_OK)
    fail_with(d, m, machine ? machine->name : passes, seed);
  qnet_diag_destroy(d);
}

/* The results of @eval at the bits level. */
static qnet_blob *evaluate(const qnet_module *m, qnet_blob *image, uint64_t seed) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_interp *in = NULL;
  qnet_blob *result = NULL;
  if (qnet_interp_create(m, "eval", &in, d) != QNET_OK ||
      qnet_interp_run(in, &image, 1, &result, 1, d) != QNET_OK)
    fail_with(d, m, "bits", seed);
  qnet_interp_destroy(in);
  qnet_diag_destroy(d);
  return result;
}

static qnet_blob *argument(const qnet_type *t, const qnet_blob *content) {
  qnet_blob *b = qnet_blob_create(qnet_allocator_system(), t->dtype, t->rank, t->dim);
  assert_non_null(b);
  memset(b->data, 0xa5, b->bytes);
  if (!content) return b;
  assert_int_equal(b->bytes, content->bytes);
  memcpy(b->data, content->data, b->bytes);
  return b;
}

/* A copy of `bits` lowered for the machine gives `expected`. */
static void check(const qnet_module *bits, const qnet_machine *machine, const qnet_blob *image,
                  const qnet_blob *expected, bool planned, uint64_t seed) {
  qnet_module *m = qnet_module_clone(bits);
  assert_non_null(m);
  run_passes(m, planned ? "lower-to-loop,plan-memory" : "lower-to-loop", machine, seed);
  const qnet_region *body = qnet_symbol_find(m, "eval")->body;
  qnet_blob *arg[3] = {argument(body->arg[0].type, image), argument(body->arg[1].type, NULL), NULL};
  if (planned) arg[2] = argument(body->arg[2].type, NULL);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_interp *in = NULL;
  if (qnet_interp_create(m, "eval", &in, d) != QNET_OK ||
      qnet_interp_run(in, arg, planned ? 3 : 2, NULL, 0, d) != QNET_OK)
    fail_with(d, m, machine->name, seed);
  assert_int_equal(arg[1]->bytes, expected->bytes);
  if (memcmp(arg[1]->data, expected->data, expected->bytes) != 0)
    fail_with(d, m, machine->name, seed);
  qnet_interp_destroy(in);
  qnet_diag_destroy(d);
  for (int i = 0; i < 3; i++)
    qnet_blob_release(arg[i]);
  qnet_module_destroy(m);
}

static void check_machines(const qnet_module *bits, qnet_blob *image, uint64_t seed) {
  qnet_blob *expected = evaluate(bits, image, seed);
  for (int k = 0; k < MACHINES; k++)
    check(bits, &machines[k], image, expected, k % 2 == 0, seed);
  qnet_blob_release(expected);
}

static void test_random_networks(void **state) {
  (void)state;
  for (uint64_t seed = SEED; seed < SEED + NETWORKS; seed++) {
    qnet_module *m = qnet_random_net(seed);
    qnet_blob *image = qnet_random_image(m, seed);
    run_passes(m, seed % 4 ? qnet_pipeline_to(QNET_LEVEL_BITS) : "freeze,decompose,fuse-kernels",
               NULL, seed);
    check_machines(m, image, seed);
    qnet_blob_release(image);
    qnet_module_destroy(m);
  }
}

/* ---- single convolutions --------------------------------------------------------------------- */

typedef struct conv {
  int64_t h, w, in, out, kernel, stride, pad, dilation;
  int weight_planes, activation_planes;
  bool patch;
} conv;

typedef struct maker {
  qnet_module *m;
  qnet_builder b;
  uint64_t rng;
} maker;

static int64_t pick(maker *k, int64_t lo, int64_t hi) {
  return lo + (int64_t)(qnet_random_next(&k->rng) % (uint64_t)(hi - lo + 1));
}

/* A constant with content of i32 in lo..hi. */
static qnet_value *integers(maker *k, const char *name, int rank, const int64_t *dim, int64_t lo,
                            int64_t hi) {
  const qnet_type *type = qnet_type_tensor(k->m, QNET_I32, rank, dim);
  qnet_blob *b = qnet_blob_create(k->m->allocator, QNET_I32, rank, dim);
  for (int64_t i = 0; i < qnet_blob_elements(b); i++)
    ((int32_t *)b->data)[i] = (int32_t)pick(k, lo, hi);
  qnet_symbol *s = qnet_symbol_add_data(k->m, QNET_SYMBOL_CONST, name, type, b, QNET_NO_LOC);
  qnet_blob_release(b);
  return qnet_build_read(&k->b, s);
}

static qnet_value *weights(maker *k, const conv *c) {
  const int64_t words = (c->in + 63) / 64;
  const int64_t dim[] = {c->out, c->kernel, c->kernel, c->in};
  const int64_t memory[] = {c->out, c->kernel, c->kernel, c->weight_planes, words};
  qnet_blob *b = qnet_blob_create(k->m->allocator, QNET_U64, 5, memory);
  const uint64_t last = c->in % 64 ? (UINT64_C(1) << (c->in % 64)) - 1 : ~UINT64_C(0);
  for (int64_t i = 0; i < qnet_blob_elements(b); i++)
    ((uint64_t *)b->data)[i] =
        qnet_random_next(&k->rng) & (i % words == words - 1 ? last : ~UINT64_C(0));
  qnet_symbol *s =
      qnet_symbol_add_data(k->m, QNET_SYMBOL_CONST, "conv.weight.planes",
                           qnet_type_planes(k->m, c->weight_planes, 4, dim), b, QNET_NO_LOC);
  qnet_blob_release(b);
  return qnet_build_read(&k->b, s);
}

static void set_window(maker *k, qnet_op *op, const conv *c) {
  qnet_op_set_ints(k->m, op, "stride", (int64_t[]){c->stride, c->stride}, 2);
  qnet_op_set_ints(k->m, op, "pad", (int64_t[]){c->pad, c->pad, c->pad, c->pad}, 4);
  qnet_op_set_ints(k->m, op, "dilation", (int64_t[]){c->dilation, c->dilation}, 2);
}

/* A table of `codes` thresholds over -1..1; any perm and levels do. */
static void add_table(maker *k, int codes) {
  const qnet_symbol *s = qnet_symbol_add_table(k->m, "input", 4, codes, 1, true, QNET_NO_LOC);
  for (int i = 0; i < codes; i++) {
    s->table->perm[i] = (uint8_t)i;
    s->table->level[i] = i;
    if (i) s->table->threshold[i - 1] = (float)(2 * i - codes) / (float)codes;
  }
  s->table->scale[0] = 1;
}

static qnet_value *add_conv(maker *k, const conv *c, qnet_value *planes) {
  const int64_t oh = (c->h + 2 * c->pad - c->dilation * (c->kernel - 1) - 1) / c->stride + 1;
  const int64_t ow = (c->w + 2 * c->pad - c->dilation * (c->kernel - 1) - 1) / c->stride + 1;
  const int64_t out[] = {1, oh, ow, c->out}, one[] = {1, oh, ow, 1};
  const int64_t coef[] = {c->out, c->weight_planes, c->activation_planes};
  qnet_value *operand[5] = {
      planes, weights(k, c),
      integers(k, "conv.coef", 3, coef, c->kernel == 2 ? 2 : -9, c->kernel == 2 ? 2 : 9)};
  if (c->patch) {
    const qnet_type *type = qnet_type_tensor(k->m, QNET_I32, 4, one);
    operand[3] = qnet_build1(&k->b, QNET_OP_BITS_PATCH_SUM, &planes, 1, type);
    const int64_t scale[] = {3, 1, 7, 2, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    qnet_op_set_ints(k->m, operand[3]->def, "coef", scale, c->activation_planes);
    qnet_op_set_ints(k->m, operand[3]->def, "kernel", (int64_t[]){c->kernel, c->kernel}, 2);
    set_window(k, operand[3]->def, c);
    operand[4] = integers(k, "conv.v", 1, &c->out, -5, 5);
  }
  qnet_value *y = qnet_build1(&k->b, QNET_OP_BITS_CONV2D, operand, c->patch ? 5 : 3,
                              qnet_type_tensor(k->m, QNET_I32, 4, out));
  set_window(k, y->def, c);
  return y;
}

/* f32 image -> planes -> conv -> affine. */
static qnet_module *make_module(const conv *c, uint64_t seed) {
  maker k = {.rng = seed};
  k.m = qnet_module_create(qnet_allocator_system(), "conv", QNET_LEVEL_BITS);
  const int64_t dim[] = {1, c->h, c->w, c->in};
  const qnet_type *image = qnet_type_tensor(k.m, QNET_F32, 4, dim);
  qnet_symbol *eval = qnet_symbol_add_func(k.m, "eval", &image, 1, QNET_NO_LOC);
  k.b = qnet_builder_at_end(k.m, eval->body);
  const int codes = c->activation_planes + 1;
  add_table(&k, codes);
  int64_t mask[15];
  for (int p = 0; p < c->activation_planes; p++)
    mask[p] = pick(&k, 0, (1 << codes) - 1);
  qnet_value *x = &eval->body->arg[0];
  qnet_value *planes = qnet_build1(&k.b, QNET_OP_BITS_QUANTIZE, &x, 1,
                                   qnet_type_planes(k.m, c->activation_planes, 4, dim));
  qnet_op_set_symbol(k.m, planes->def, "table", "input");
  qnet_op_set_ints(k.m, planes->def, "planes", mask, c->activation_planes);
  qnet_value *operand[3] = {add_conv(&k, c, planes)};
  const char *const name[] = {"", "conv.a", "conv.b"};
  for (int i = 1; i < 3; i++) {
    qnet_blob *b = qnet_blob_create(k.m->allocator, QNET_F32, 1, &c->out);
    for (int64_t o = 0; o < c->out; o++)
      ((float *)b->data)[o] = (float)pick(&k, -100, 100) / 7;
    qnet_symbol *s =
        qnet_symbol_add_data(k.m, QNET_SYMBOL_CONST, name[i],
                             qnet_type_tensor(k.m, QNET_F32, 1, &c->out), b, QNET_NO_LOC);
    qnet_blob_release(b);
    operand[i] = qnet_build_read(&k.b, s);
  }
  qnet_value *y = qnet_build1(&k.b, QNET_OP_QUANT_AFFINE, operand, 3,
                              qnet_type_tensor(k.m, QNET_F32, 4, operand[0]->type->dim));
  qnet_build_yield(&k.b, &y, 1);
  assert_false(k.m->failed);
  run_passes(k.m, "fuse-kernels", NULL, seed);
  return k.m;
}

static void test_convolutions(void **state) {
  (void)state;
  static const conv cases[] = {
      {3, 3, 1, 1, 3, 1, 1, 1, 1, 1, false},     {4, 5, 31, 70, 2, 1, 0, 1, 1, 2, true},
      {3, 9, 65, 33, 3, 2, 1, 1, 2, 2, true},    {7, 4, 5, 17, 3, 1, 2, 2, 2, 1, true},
      {3, 4, 300, 9, 3, 1, 1, 1, 1, 1, false},   {1, 1, 1100, 20, 1, 1, 0, 1, 2, 2, true},
      {2, 3, 520, 5, 3, 1, 1, 1, 2, 1, true},    {5, 5, 70, 6, 3, 1, 2, 2, 3, 3, true},
      {7, 7, 20, 4, 7, 1, 0, 1, 1, 2, true},     {2, 2, 40, 3, 2, 1, 1, 1, 15, 15, true},
      {2, 20, 96, 48, 1, 1, 0, 1, 4, 4, false},  {1, 2, 2100, 3, 1, 1, 0, 1, 1, 1, true},
      {3, 17, 64, 112, 3, 1, 1, 1, 1, 2, false}, {4, 4, 256, 8, 3, 1, 1, 1, 1, 3, false},
      {1, 1, 66000, 2, 1, 1, 0, 1, 1, 1, false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const conv *c = &cases[i];
    qnet_module *m = make_module(c, SEED + i);
    qnet_blob *image =
        qnet_blob_create(m->allocator, QNET_F32, 4, (int64_t[]){1, c->h, c->w, c->in});
    uint64_t rng = i;
    for (int64_t e = 0; e < qnet_blob_elements(image); e++)
      ((float *)image->data)[e] = (float)(qnet_random_next(&rng) % 2001) / 1000 - 1;
    check_machines(m, image, i);
    qnet_blob_release(image);
    qnet_module_destroy(m);
  }
}

/* ---- failures -------------------------------------------------------------------------------- */

/* Each allocation of the two passes fails once: an error, no leak, no crash. */
static void test_out_of_memory(void **state) {
  (void)state;
  qnet_module *m = qnet_random_net(SEED + 1);
  run_passes(m, qnet_pipeline_to(QNET_LEVEL_BITS), NULL, SEED + 1);
  qnet_strbuf text;
  qnet_strbuf_init(&text, qnet_allocator_system());
  qnet_module_print(m, 0, &text);
  qnet_module_destroy(m);
  bool done = false;
  for (uint64_t n = 1; !done; n++) {
    qnet_failing_allocator failing;
    qnet_failing_allocator_init(&failing, n, 1);
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    m = NULL;
    qnet_status status =
        qnet_module_parse(&failing.base, "random", qnet_strbuf_text(&text), text.length, &m, d);
    if (status == QNET_OK)
      status = qnet_pipeline_run(m, "lower-to-loop,plan-memory", NULL, &machines[n % MACHINES], d);
    done = !failing.failed;
    assert_int_equal(status, done ? QNET_OK : QNET_NO_MEMORY);
    qnet_module_destroy(m);
    qnet_diag_destroy(d);
    assert_int_equal(failing.live_bytes, 0);
  }
  qnet_strbuf_free(&text);
}

int main(void) {
  printf("seeds from %llu\n", (unsigned long long)SEED);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_networks),
      cmocka_unit_test(test_convolutions),
      cmocka_unit_test(test_out_of_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
