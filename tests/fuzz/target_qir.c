/* Fuzz targets of the IR. qir: what parses and verifies must print, parse again to the same text,
 * go through every pass of its level and the standard pipeline with a verified module after each,
 * or be refused; and run in the interpreter when it is small. passes: texts of pipelines. */
#include "ir/interp.h"
#include "ir/ops.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/pass.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/random_net.h"
#include <string.h>

enum { MAX_ELEMENTS = 2048, MAX_VALUES = 400, MAX_WORK = 1 << 22, MAX_ARGUMENTS = 32 };

static const qnet_machine machines[] = {
    {.name = "wide",
     .word_bits = 32,
     .lanes = 16,
     .f32_lanes = 16,
     .registers = 32,
     .count = QNET_COUNT_WORD,
     .fma = true},
    {.name = "byte",
     .word_bits = 32,
     .lanes = 8,
     .f32_lanes = 8,
     .registers = 16,
     .count = QNET_COUNT_BYTE,
     .fma = true},
    {.name = "pair",
     .word_bits = 32,
     .lanes = 4,
     .f32_lanes = 4,
     .registers = 32,
     .count = QNET_COUNT_PAIR,
     .fma = true},
    {.name = "scalar",
     .word_bits = 64,
     .lanes = 1,
     .f32_lanes = 1,
     .registers = 24,
     .count = QNET_COUNT_CSA8},
};
enum { MACHINES = sizeof machines / sizeof machines[0] };

/* ---- printing ------------------------------------------------------------------------------ */

static qnet_module *parse(const fuzz_case *c, const char *data, size_t size) {
  qnet_module *m;
  fuzz_check(c, qnet_module_parse(c->allocator, "fuzz.qir", data, size, &m, c->diag), "parsing");
  return m;
}

static void check_round_trip(const fuzz_case *c, const qnet_module *m) {
  qnet_strbuf once, twice;
  qnet_strbuf_init(&once, c->allocator);
  qnet_strbuf_init(&twice, c->allocator);
  qnet_module_print(m, 0, &once);
  if (!once.failed) {
    qnet_module *again = parse(c, qnet_strbuf_text(&once), once.length);
    if (!again && qnet_diag_error_count(c->diag)) {
      qnet_diag_print(c->diag, stderr, false);
      fuzz_fail("what was printed does not parse:\n%s", qnet_strbuf_text(&once));
    }
    if (again) qnet_module_print(again, 0, &twice);
    if (again && !twice.failed && strcmp(qnet_strbuf_text(&once), qnet_strbuf_text(&twice)) != 0)
      fuzz_fail("the text changes in a round trip:\n%s", qnet_strbuf_text(&once));
    qnet_module_destroy(again);
  }
  qnet_strbuf_free(&once);
  qnet_strbuf_free(&twice);
}

/* ---- running ------------------------------------------------------------------------------- */

static int64_t work_of(const qnet_symbol *f) {
  int64_t work = 0, largest = 1;
  int values = 0;
  for (const qnet_op *op = f->body->first; op; op = qnet_op_walk(op, f->body)) {
    for (int i = 0; i < op->result_count; i++, values++) {
      const int64_t n = qnet_type_elements(op->result[i].type);
      largest = n > largest ? n : largest;
    }
    for (int i = 0; i < op->operand_count; i++) {
      const int64_t n = qnet_type_elements(op->operand[i]->type);
      largest = n > largest ? n : largest;
    }
    /* No operation does more than results x elements of an operand. */
    work += largest > MAX_ELEMENTS ? MAX_WORK : largest * largest;
    if (values > MAX_VALUES || work >= MAX_WORK) return MAX_WORK;
  }
  return work;
}

static bool constant_of(const qnet_value *v, int64_t *out) {
  if (!v->def || v->def->opcode != QNET_OP_LOOP_CONST) return false;
  *out = qnet_op_int(v->def, "int", 0);
  return true;
}

/* Are all loops of a function of the loop level short? */
static bool is_short(const qnet_region *r, int64_t times) {
  for (const qnet_op *op = r->first; op; op = op->next) {
    if (op->region_count == 0) continue;
    int64_t lo, hi;
    if (!constant_of(op->operand[0], &lo) || !constant_of(op->operand[1], &hi)) return false;
    if (lo < -1000 || hi > 1000) return false;
    const int64_t inner = times * (hi > lo ? hi - lo : 1);
    if (inner > 100000 || !is_short(op->region[0], inner)) return false;
  }
  return true;
}

static bool is_small(const qnet_module *m, const qnet_symbol *f) {
  if (f->body->arg_count > MAX_ARGUMENTS || f->body->last->operand_count > MAX_ARGUMENTS)
    return false;
  if (m->level == QNET_LEVEL_LOOP) return is_short(f->body, 1);
  return work_of(f) < MAX_WORK;
}

static void fill(qnet_blob *b, uint64_t random) {
  for (size_t i = 0; i < b->bytes; i++)
    ((uint8_t *)b->data)[i] = (uint8_t)(random >> (i * 7 % 57) ^ i * 31);
  if (b->dtype != QNET_F32) return;
  for (size_t i = 0; i < b->bytes / 4; i++)
    ((float *)b->data)[i] = (float)((int)(random >> i % 50 & 255) - 128) / 32;
}

static void call(const fuzz_case *c, qnet_interp *in, const qnet_symbol *f) {
  qnet_blob *args[MAX_ARGUMENTS] = {NULL}, *results[MAX_ARGUMENTS] = {NULL};
  const int arg_count = f->body->arg_count, result_count = f->body->last->operand_count;
  bool complete = true;
  for (int i = 0; i < arg_count; i++) {
    args[i] = qnet_interp_blob(c->allocator, f->body->arg[i].type);
    if (args[i])
      fill(args[i], c->random + (uint64_t)i);
    else
      complete = false;
  }
  if (complete)
    fuzz_check(c, qnet_interp_run(in, args, arg_count, results, result_count, c->diag), "running");
  for (int i = 0; i < arg_count; i++)
    qnet_blob_release(args[i]);
  for (int i = 0; i < result_count; i++)
    qnet_blob_release(results[i]);
}

static void interpret(const fuzz_case *c, const qnet_module *m) {
  for (const qnet_symbol *f = m->first_symbol; f; f = f->next) {
    if (f->kind != QNET_SYMBOL_FUNC || !is_small(m, f)) continue;
    qnet_interp *in;
    fuzz_check(c, qnet_interp_create(m, f->name, &in, c->diag), "preparing");
    if (in) call(c, in, f);
    qnet_interp_destroy(in);
  }
}

/* ---- passes -------------------------------------------------------------------------------- */

/* Did the pipeline run? */
static bool run_pipeline(const fuzz_case *c, const qnet_module *m, const char *text) {
  qnet_module *copy = qnet_module_clone(m);
  if (!copy) return false;
  const qnet_pipeline_options options = {.verify_each = true};
  const qnet_status status =
      qnet_pipeline_run(copy, text, &options, &machines[c->random % MACHINES], c->diag);
  fuzz_check(c, status, text);
  if (status == QNET_OK) interpret(c, copy);
  qnet_module_destroy(copy);
  return status == QNET_OK;
}

/* Every pass of the level alone, with options and without. */
static void run_passes(const fuzz_case *c, const qnet_module *m) {
  static const char *const others[] = {
      "batch{n=3}",
      "insert-quantizers{weights=2,activations=3,grid=15,first=8,last=-1}",
      "insert-quantizers{weights=4,activations=1,first=0,last=0}",
      "autodiff{momentum=0.9,weight_decay=0.0001,nesterov=1,smoothing=0.1}",
      "batch{n=2},autodiff",
  };
  size_t count;
  const qnet_pass *table = qnet_pass_table(&count);
  for (size_t i = 0; i < count; i++)
    if (table[i].from == m->level) run_pipeline(c, m, table[i].name);
  if (m->level == QNET_LEVEL_NN)
    run_pipeline(c, m, others[c->random % (sizeof others / sizeof others[0])]);
}

/* From the module's level to loop. */
static void run_standard(const fuzz_case *c, const qnet_module *m) {
  const char *text = qnet_pipeline_to(QNET_LEVEL_LOOP);
  static const char *const first[] = {"freeze", "fold-thresholds", "fuse-kernels", "plan-memory"};
  const char *from = strstr(text, first[m->level]);
  if (from) run_pipeline(c, m, from);
  if (m->level == QNET_LEVEL_QUANT) run_pipeline(c, m, strstr(text, "decompose"));
  if (m->level == QNET_LEVEL_BITS) run_pipeline(c, m, strstr(text, "lower-to-loop"));
}

static void run_qir(const fuzz_case *c, const char *data, size_t size) {
  qnet_module *m = parse(c, data, size);
  if (!m) return;
  const qnet_status status = qnet_module_verify(m, c->diag);
  fuzz_check(c, status, "verifying");
  if (status == QNET_OK) {
    fuzz_accept(c);
    check_round_trip(c, m);
    interpret(c, m);
    run_passes(c, m);
    run_standard(c, m);
  }
  qnet_module_destroy(m);
}

static const char *const qir_seeds[] = {"tests/golden/*/*.qir", NULL};
static const char *const qir_words[] = {"module",
                                        "func",
                                        "const",
                                        "state",
                                        "table",
                                        "yield",
                                        "read",
                                        "write",
                                        "tensor",
                                        "planes",
                                        "vec",
                                        "buf",
                                        "f32",
                                        "f64",
                                        "i1",
                                        "i8",
                                        "u8",
                                        "i16",
                                        "i32",
                                        "i64",
                                        "u64",
                                        "q1",
                                        "q2",
                                        "q8",
                                        "q2:@in",
                                        "nn",
                                        "quant",
                                        "bits",
                                        "loop",
                                        "splat",
                                        "hex\"",
                                        "elided",
                                        "stride",
                                        "pad",
                                        "dilation",
                                        "kernel",
                                        "coef",
                                        "shift",
                                        "axis",
                                        "offset",
                                        "@eval",
                                        "@step",
                                        "@w",
                                        "%0",
                                        "%1",
                                        "%x",
                                        "%image",
                                        "{",
                                        "}",
                                        "(",
                                        ")",
                                        "[",
                                        "]",
                                        "<",
                                        ">",
                                        ":",
                                        ",",
                                        "=",
                                        "^",
                                        "\"",
                                        "//",
                                        "\n",
                                        "nn.relu",
                                        "nn.add",
                                        "nn.conv2d",
                                        "nn.dense",
                                        "nn.flatten",
                                        "nn.max_pool2d",
                                        "nn.avg_pool2d",
                                        "nn.global_avg_pool",
                                        "nn.batch_norm",
                                        "nn.quantize",
                                        "nn.normalize",
                                        "quant.quantize",
                                        "quant.conv2d",
                                        "quant.dense",
                                        "quant.affine",
                                        "quant.threshold",
                                        "quant.max_pool2d",
                                        "bits.quantize",
                                        "bits.threshold",
                                        "bits.conv2d",
                                        "bits.patch_sum",
                                        "bits.kernel",
                                        "loop.for",
                                        "loop.load",
                                        "loop.store",
                                        "loop.gather",
                                        "loop.scatter_add",
                                        "loop.const",
                                        "loop.shl",
                                        "loop.cast",
                                        "loop.select",
                                        "tensor<1x4x4x2xf32>",
                                        "tensor<f32>",
                                        "tensor<1x1x1x1xi32>",
                                        "vec<16xi32>",
                                        "buf<64xi8>",
                                        "planes<1x4x4x65,3>",
                                        NULL};

/* Random networks at every level, those that are short enough. */
static bool make_network(int i, qnet_strbuf *out) {
  enum { NETWORKS = 24, LENGTH = 24000 };
  if (i >= NETWORKS) return false;
  qnet_module *m = qnet_random_net((uint64_t)i);
  const qnet_pipeline_options options = {0};
  const qnet_level level = (qnet_level)(i % 4);
  if (qnet_pipeline_run(m, qnet_pipeline_to(level), &options, &machines[i / 4 % MACHINES], NULL) !=
      QNET_OK)
    fuzz_fail("random network %d does not lower", i);
  qnet_module_print(m, 0, out);
  if (out->length > LENGTH) { /* without the data */
    out->length = 0;
    qnet_module_print(m, QNET_PRINT_ELIDE, out);
  }
  qnet_module_destroy(m);
  return true;
}

const fuzz_target fuzz_target_qir = {"qir", run_qir, qir_seeds, qir_words, 44, make_network};

/* ---- pipelines ----------------------------------------------------------------------------- */

static void run_texts(const fuzz_case *c, const char *data, size_t size) {
  (void)size;
  static const char module[] = "module @net nn {\n"
                               "  state @d.weight : tensor<2x3xf32> = splat(0.5)\n"
                               "  func @eval(%x: tensor<1x3xf32>) {\n"
                               "    %w = read @d.weight : tensor<2x3xf32>\n"
                               "    %y = nn.dense(%x, %w) : tensor<1x2xf32>\n"
                               "    yield %y\n"
                               "  }\n"
                               "}\n";
  qnet_module *m = parse(c, module, sizeof module - 1);
  if (m && run_pipeline(c, m, data)) fuzz_accept(c);
  qnet_module_destroy(m);
}

static const char *const texts_seeds[] = {"tests/fuzz/seeds/pipeline*", NULL};
static const char *const texts_words[] = {"batch",
                                          "insert-quantizers",
                                          "autodiff",
                                          "fold-batch-norm",
                                          "freeze",
                                          "fold-thresholds",
                                          "prove-accumulators",
                                          "decompose",
                                          "fuse-kernels",
                                          "lower-to-loop",
                                          "plan-memory",
                                          "n=",
                                          "quantizer=",
                                          "weights=",
                                          "activations=",
                                          "grid=",
                                          "first=",
                                          "last=",
                                          "lqnets",
                                          "uniform",
                                          "momentum=",
                                          "nesterov=",
                                          "{",
                                          "}",
                                          ",",
                                          "=",
                                          " ",
                                          NULL};

const fuzz_target fuzz_target_passes = {"passes", run_texts, texts_seeds, texts_words, 10, NULL};
