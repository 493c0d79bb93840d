/* Our popcount convolution in the setting it works in: a chain of quantized 3x3 convolutions, each
 * with its fused integer thresholds and packing. The module is written as text at the quant level
 * and takes the same way as any network from there. */
#include "bench/bench.h"
#include "codegen/codegen.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/pass.h"
#include "support/progress.h"
#include "support/strbuf.h"
#include <stdlib.h>
#include <string.h>

struct bench_ours {
  qnet_module *module;
  qnet_jit *jit;
  void *input, *arena;
  float *output;
};

typedef struct generator {
  qnet_strbuf text;
  uint64_t state;
  int weight_bits, activation_bits, channels;
} generator;

static unsigned next(generator *g) {
  g->state = g->state * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(g->state >> 33);
}

/* Additive levels with bases as LQ-Nets learns them: not powers of two, different in each filter.
 */
static int weight_level(generator *g, int code, const int *basis) {
  int level = 0;
  for (int k = 0; k < g->weight_bits; k++)
    level += (code >> k & 1) ? basis[k] : -basis[k];
  return level;
}

static void put_weight_table(generator *g) {
  qnet_strbuf *t = &g->text;
  qnet_strbuf_printf(t, "  table @w { bits = %d, channels = %d, scale = [", g->weight_bits,
                     g->channels);
  for (int o = 0; o < g->channels; o++)
    qnet_strbuf_puts(t, o ? ", 0.01" : "0.01");
  qnet_strbuf_puts(t, "], levels = [");
  for (int o = 0; o < g->channels; o++) {
    int basis[4];
    for (int k = 0; k < g->weight_bits; k++)
      basis[k] = 1 + (int)(next(g) % 31);
    for (int c = 0; c < 1 << g->weight_bits; c++)
      qnet_strbuf_printf(t, "%s%d", o || c ? ", " : "", weight_level(g, c, basis));
  }
  qnet_strbuf_puts(t, "] }\n");
}

static void put_activation_table(generator *g) {
  static const int basis[] = {11, 23, 47, 46};
  qnet_strbuf *t = &g->text;
  const int n = 1 << g->activation_bits;
  qnet_strbuf_printf(t, "  table @a { bits = %d, scale = [0.01], levels = [", g->activation_bits);
  for (int c = 0; c < n; c++) {
    int level = 0;
    for (int k = 0; k < g->activation_bits; k++)
      level += (c >> k & 1) ? basis[k] : 0;
    qnet_strbuf_printf(t, "%s%d", c ? ", " : "", level);
  }
  qnet_strbuf_puts(t, "], thresholds = [");
  for (int k = 1; k < n; k++)
    qnet_strbuf_printf(t, "%s%g", k > 1 ? ", " : "", 0.1 * k);
  qnet_strbuf_puts(t, "], perm = [");
  for (int k = 0; k < n; k++)
    qnet_strbuf_printf(t, "%s%d", k ? ", " : "", k);
  qnet_strbuf_puts(t, "] }\n");
}

static void put_constants(generator *g) {
  qnet_strbuf *t = &g->text;
  const int n = (1 << g->activation_bits) - 1, codes = g->channels * 9 * g->channels;
  qnet_strbuf_printf(t, "  const @w.codes : tensor<%dx3x3x%dxq%d:@w> = hex\"", g->channels,
                     g->channels, g->weight_bits);
  for (int i = 0; i < codes; i++)
    qnet_strbuf_printf(t, "%02x", next(g) & ((1u << g->weight_bits) - 1));
  qnet_strbuf_printf(t, "\"\n  const @t : tensor<%dx%dxi32> = [", g->channels, n);
  for (int o = 0; o < g->channels; o++)
    for (int k = 0; k < n; k++)
      qnet_strbuf_printf(t, "%s%d", o || k ? ", " : "", (int)(next(g) % 100) + 5000 * k);
  qnet_strbuf_printf(t, "]\n  const @flip : tensor<%dxi32> = splat(0)\n", g->channels);
  qnet_strbuf_printf(t, "  const @one : tensor<%dxf32> = splat(1)\n", g->channels);
}

static void put_function(generator *g, int size, int depth) {
  qnet_strbuf *t = &g->text;
  char shape[64], codes[96];
  snprintf(shape, sizeof shape, "1x%dx%dx%d", size, size, g->channels);
  snprintf(codes, sizeof codes, "tensor<%sxq%d:@a>", shape, g->activation_bits);
  qnet_strbuf_printf(t, "  func @eval(%%x: tensor<%sxf32>) {\n", shape);
  qnet_strbuf_printf(t, "    %%t = read @t : tensor<%dx%dxi32>\n", g->channels,
                     (1 << g->activation_bits) - 1);
  qnet_strbuf_printf(t, "    %%flip = read @flip : tensor<%dxi32>\n", g->channels);
  qnet_strbuf_printf(t, "    %%one = read @one : tensor<%dxf32>\n", g->channels);
  qnet_strbuf_printf(t, "    %%a0 = quant.quantize(%%x) {table = @a} : %s\n", codes);
  for (int i = 0; i < depth; i++) {
    qnet_strbuf_printf(t, "    %%w%d = read @w.codes : tensor<%dx3x3x%dxq%d:@w>\n", i, g->channels,
                       g->channels, g->weight_bits);
    qnet_strbuf_printf(t,
                       "    %%c%d = quant.conv2d(%%a%d, %%w%d) {stride = [1, 1], pad = [1, 1, 1, "
                       "1]} : tensor<%sxi32>\n",
                       i, i, i, shape);
    if (i + 1 < depth)
      qnet_strbuf_printf(t, "    %%a%d = quant.threshold(%%c%d, %%t, %%flip) {table = @a} : %s\n",
                         i + 1, i, codes);
  }
  qnet_strbuf_printf(t, "    %%y = quant.affine(%%c%d, %%one, %%one) : tensor<%sxf32>\n", depth - 1,
                     shape);
  qnet_strbuf_printf(t, "    %%p = nn.global_avg_pool(%%y) : tensor<1x%dxf32>\n    yield %%p\n",
                     g->channels);
  qnet_strbuf_puts(t, "  }\n");
}

static qnet_status make_module(bench_ours *b, generator *g, int size, int depth,
                               const qnet_target_choice *target, qnet_diag *d) {
  qnet_strbuf_puts(&g->text, "module @bench quant {\n");
  put_weight_table(g);
  put_activation_table(g);
  put_constants(g);
  put_function(g, size, depth);
  qnet_strbuf_puts(&g->text, "}\n");
  if (g->text.failed) return qnet_out_of_memory(d);
  QNET_TRY(qnet_module_parse(qnet_allocator_system(), "bench", g->text.data, g->text.length,
                             &b->module, d));
  QNET_TRY(qnet_module_verify(b->module, d));
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(b->module, "decompose,fuse-kernels,lower-to-loop,plan-memory",
                             &options, &target->machine, d));
  return qnet_jit_create(b->module, target, &b->jit, d);
}

static qnet_status setup(bench_ours *b, const bench_layer *layer, generator *g, int depth,
                         const qnet_target_choice *target, qnet_diag *d) {
  QNET_TRY(make_module(b, g, layer->size, depth, target, d));
  const size_t pixels = (size_t)layer->size * (size_t)layer->size * (size_t)layer->channels;
  b->input = aligned_alloc(64, (pixels * sizeof(float) + 63) / 64 * 64);
  b->arena = aligned_alloc(64, (qnet_jit_arena_bytes(b->jit) + 63) / 64 * 64);
  b->output = calloc((size_t)layer->channels, sizeof(float));
  if (!b->input || !b->arena || !b->output) return qnet_out_of_memory(d);
  for (size_t i = 0; i < pixels; i++)
    ((float *)b->input)[i] = 0.001f * (float)(next(g) % 500);
  return QNET_OK;
}

qnet_status bench_ours_create(const bench_layer *layer, int weight_bits, int activation_bits,
                              int depth, const qnet_target_choice *target, bench_ours **out,
                              qnet_diag *d) {
  *out = calloc(1, sizeof **out);
  if (!*out) return qnet_out_of_memory(d);
  generator g = {.state = 1,
                 .weight_bits = weight_bits,
                 .activation_bits = activation_bits,
                 .channels = layer->channels};
  qnet_strbuf_init(&g.text, qnet_allocator_system());
  const qnet_status status = setup(*out, layer, &g, depth, target, d);
  qnet_strbuf_free(&g.text);
  if (status == QNET_OK) return QNET_OK;
  bench_ours_destroy(*out);
  *out = NULL;
  return status;
}

double bench_ours_seconds(bench_ours *b) {
  void *args[3] = {b->input, b->output, b->arena};
  const double begin = qnet_seconds();
  if (qnet_jit_call(b->jit, args, 3) != QNET_OK) abort();
  return qnet_seconds() - begin;
}

void bench_ours_destroy(bench_ours *b) {
  if (!b) return;
  if (b->jit) qnet_jit_destroy(b->jit);
  qnet_module_destroy(b->module);
  free(b->input);
  free(b->arena);
  free(b->output);
  free(b);
}
