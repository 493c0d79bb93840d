/* Differential test: random networks through every engine and several machines; every logit must be
 * the same bits everywhere.
 * usage: differential [COUNT [SEED]]; a failure prints the seed that shows it alone. */
#include "driver/predictor.h"
#include "ir/interp.h"
#include "passes/pass.h"
#include "support/progress.h"
#include "tests/unit/random_net.h"
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 3, MAX_CLASSES = 256 };

/* An engine, and the target whose schedule it takes. */
typedef struct contestant {
  qnet_engine_kind kind;
  const char *target, *cpu, *features;
} contestant;

static const contestant contestants[] = {
    {QNET_ENGINE_QUANT, "native", NULL, NULL},
    {QNET_ENGINE_BITS, "native", NULL, NULL},
    {QNET_ENGINE_LOOP, "x86_64", "znver4", NULL},
    {QNET_ENGINE_LOOP, "x86_64", "haswell", NULL},
    {QNET_ENGINE_LOOP, "aarch64", "cortex-a72", NULL},
    {QNET_ENGINE_LOOP, "riscv64", NULL, "+zbb"},
    {QNET_ENGINE_LOOP, "riscv64", NULL, NULL},
    {QNET_ENGINE_JIT, "native", NULL, NULL},
#if defined(__x86_64__)
    {QNET_ENGINE_JIT, "x86_64", "haswell", NULL},
    {QNET_ENGINE_JIT, "x86_64", "x86-64", NULL},
#endif
};
enum { CONTESTANTS = sizeof contestants / sizeof contestants[0] };

static bool can_run(const contestant *c) {
#if defined(__x86_64__)
  if (c->kind == QNET_ENGINE_JIT && c->cpu && strcmp(c->cpu, "haswell") == 0)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  (void)c;
  return true;
}

static uint8_t *make_images(const qnet_module *m, uint64_t seed, size_t *bytes) {
  uint8_t *all = NULL;
  for (int i = 0; i < IMAGES; i++) {
    qnet_blob *b = qnet_random_image(m, seed + (uint64_t)i);
    if (!all) all = malloc(IMAGES * b->bytes);
    if (!all) abort();
    memcpy(all + (size_t)i * b->bytes, b->data, b->bytes);
    *bytes = b->bytes;
    qnet_blob_release(b);
  }
  return all;
}

static qnet_status logits_of(const qnet_module *m, qnet_engine_kind kind,
                             const qnet_target_choice *target, const uint8_t *images, float *logits,
                             int64_t *classes, qnet_diag *d) {
  qnet_predictor *p;
  QNET_TRY(qnet_predictor_create(qnet_allocator_system(), m, kind, target, &p, d));
  *classes = qnet_predictor_classes(p);
  const qnet_status status =
      *classes > MAX_CLASSES ? QNET_INTERNAL : qnet_predictor_logits(p, images, IMAGES, logits, d);
  qnet_predictor_destroy(p);
  return status;
}

static bool same_as(const qnet_module *m, const contestant *c, const qnet_target_choice *target,
                    const uint8_t *images, const float *reference, int64_t classes, qnet_diag *d) {
  float logits[IMAGES * MAX_CLASSES];
  int64_t n = 0;
  if (logits_of(m, c->kind, target, images, logits, &n, d) != QNET_OK) return false;
  return n == classes && memcmp(logits, reference, (size_t)(IMAGES * n) * sizeof *logits) == 0;
}

static int test_network(uint64_t seed, const qnet_target_choice *targets, qnet_diag *d) {
  qnet_module *m = qnet_random_net(seed);
  size_t bytes = 0;
  uint8_t *images = make_images(m, seed, &bytes);
  float reference[IMAGES * MAX_CLASSES];
  int64_t classes = 0;
  int failures = 0;
  if (logits_of(m, QNET_ENGINE_NN, &targets[0], images, reference, &classes, d) != QNET_OK) {
    printf("FAILED seed %llu: the training evaluation\n", (unsigned long long)seed);
    failures = 1;
  }
  for (int i = 0; i < CONTESTANTS && !failures; i++) {
    const contestant *c = &contestants[i];
    if (!can_run(c) || same_as(m, c, &targets[i], images, reference, classes, d)) continue;
    static const char *const names[] = {"nn", "quant", "bits", "loop", "jit"};
    printf("FAILED seed %llu: engine %s, %s %s\n", (unsigned long long)seed, names[c->kind],
           c->target, c->cpu ? c->cpu : "");
    failures++;
  }
  qnet_diag_print(d, stdout, false);
  free(images);
  qnet_module_destroy(m);
  return failures;
}

int main(int argc, char **argv) {
  const long count = argc > 1 ? strtol(argv[1], NULL, 10) : 300;
  const char *environment = getenv("QNET_SEED");
  const char *text = argc > 2 ? argv[2] : environment ? environment : "1";
  const uint64_t seed = strtoull(text, NULL, 10);
  printf("%ld networks from seed %llu\n", count, (unsigned long long)seed);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  if (!d) return 1;
  qnet_target_choice targets[CONTESTANTS];
  for (int i = 0; i < CONTESTANTS; i++) {
    const contestant *c = &contestants[i];
    if (qnet_target_choose(c->target, c->cpu, c->features, &targets[i], d) == QNET_OK) continue;
    qnet_diag_print(d, stdout, false);
    return 1;
  }
  long failed = 0;
  for (long i = 0; i < count; i++)
    failed += test_network(seed + (uint64_t)i, targets, d) != 0;
  for (int i = 0; i < CONTESTANTS; i++)
    qnet_target_choice_free(&targets[i]);
  qnet_diag_destroy(d);
  printf("%ld passed, %ld failed, 0 skipped\n", count - failed, failed);
  return failed != 0;
}
