/* Time per image of a whole network, batch 1, one thread, both in this run: the f32 network through
 * oneDNN (batch norm folded, relu as post-op, weights packed before) and our native code.
 * usage: bench_net NET.qnet F32.safetensors QUANT.safetensors; prints JSON. */
#include "bench/bench.h"
#include "codegen/plan.h"
#include "driver/model.h"
#include "driver/predictor.h"
#include "passes/pass.h"
#include "support/parallel.h"
#include "support/progress.h"
#include <stdlib.h>

enum { REPEATS = 201, WARM = 20 };

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static qnet_status load(const char *net, const char *weights, const char *quantizer,
                        qnet_program *out, qnet_diag *d) {
  qnet_session s = {.allocator = qnet_allocator_system(), .diag = d};
  char *argv[] = {"qnetc",
                  "run",
                  (char *)(uintptr_t)net,
                  "no-image",
                  "--weights",
                  (char *)(uintptr_t)weights,
                  "--quantizer",
                  (char *)(uintptr_t)quantizer};
  QNET_TRY(qnet_options_parse(quantizer ? 8 : 6, argv, &s.options, d));
  return qnet_model_load(&s, out);
}

static qnet_status open_f32(const char *net, const char *weights, qnet_program *program,
                            qnet_plan **plan, qnet_diag *d) {
  QNET_TRY(load(net, weights, "none", program, d));
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(program->module, "fold-batch-norm", &options, NULL, d));
  return qnet_plan_create(program->module, "eval", QNET_PLAN_FAST, plan, d);
}

static qnet_status open_jit(const char *net, const char *weights, qnet_predictor **out,
                            qnet_diag *d) {
  qnet_program program;
  QNET_TRY(load(net, weights, NULL, &program, d));
  const qnet_status status =
      qnet_predictor_create(qnet_allocator_system(), program.module, QNET_ENGINE_JIT, NULL, out, d);
  qnet_module_destroy(program.module);
  return status;
}

static qnet_status measure(qnet_plan *plan, qnet_predictor *jit, qnet_diag *d) {
  static double f32[REPEATS], ours[REPEATS];
  const qnet_type *in = qnet_predictor_input(jit);
  uint8_t *image = qnet_alloc(qnet_allocator_system(), (size_t)qnet_type_elements(in));
  float *logits = qnet_alloc_array(qnet_allocator_system(), (size_t)qnet_predictor_classes(jit),
                                   sizeof *logits);
  if (!image || !logits) return qnet_out_of_memory(d);
  for (int64_t i = 0; i < qnet_type_elements(in); i++)
    image[i] = (uint8_t)(i * 37 % 251);
  for (int i = -WARM; i < REPEATS; i++) {
    const double begin = qnet_seconds();
    QNET_TRY(qnet_plan_run(plan, d));
    const double middle = qnet_seconds();
    QNET_TRY(qnet_predictor_logits(jit, image, 1, logits, d));
    const double end = qnet_seconds();
    f32[i < 0 ? 0 : i] = middle - begin;
    ours[i < 0 ? 0 : i] = end - middle;
  }
  qsort(f32, REPEATS, sizeof *f32, compare);
  qsort(ours, REPEATS, sizeof *ours, compare);
  printf("{\"us_f32\": %.1f, \"us_jit\": %.1f}\n", f32[REPEATS / 2] * 1e6, ours[REPEATS / 2] * 1e6);
  qnet_free(qnet_allocator_system(), image, (size_t)qnet_type_elements(in));
  qnet_free(qnet_allocator_system(), logits, (size_t)qnet_predictor_classes(jit) * sizeof *logits);
  return QNET_OK;
}

static qnet_status bench(char **argv, qnet_diag *d) {
  qnet_program f32;
  qnet_plan *plan;
  qnet_predictor *jit;
  QNET_TRY(open_f32(argv[1], argv[2], &f32, &plan, d));
  QNET_TRY(open_jit(argv[1], argv[3], &jit, d));
  const qnet_status status = measure(plan, jit, d);
  qnet_predictor_destroy(jit);
  qnet_plan_destroy(plan);
  qnet_module_destroy(f32.module);
  return status;
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: bench_net NET.qnet F32.safetensors QUANT.safetensors\n");
    return 2;
  }
  qnet_parallel_set_threads(1);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  if (!d) return 1;
  const qnet_status status = bench(argv, d);
  qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  return status == QNET_OK ? 0 : 1;
}
