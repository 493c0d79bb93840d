/* Training steps on command, for bench/train.py, which lets qnetc and PyTorch take turns. A step is
 * that of `qnetc train`: the loader's thread crops and flips, the plan computes, quantizers learn.
 *
 * usage: bench_train NET.qnet --data=D [--quantizer=Q] [--threads=N]
 *
 * stdin: lines "augmented N", "plain N" (the first images, as they are) or "save FILE".
 *
 * stdout: a line for each: seconds, peak memory in KiB, the loss of every step; or "saved". */
#include "driver/data.h"
#include "driver/model.h"
#include "driver/stages.h"
#include "driver/trainer.h"
#include "driver/weights.h"
#include "runtime/loader.h"
#include "support/parallel.h"
#include "support/progress.h"
#include <string.h>

enum { MAX_ARGUMENTS = 32, MAX_STEPS = 1000, MAX_LINE = 4096 };

/* As in a warm-up: no run ends in numbers that are not finite. */
static const double rate = 0.01;

typedef struct bench {
  qnet_session session;
  qnet_program program;
  qnet_stages stages;
  qnet_dataset data;
  qnet_trainer *trainer;
  qnet_engine engine;
  uint32_t *order;
  uint64_t epoch;
} bench;

/* ---- as `qnetc train` begins ------------------------------------------------------------------*/

static qnet_status parse(bench *b, int argc, char **argv, qnet_diag *d) {
  char *full[MAX_ARGUMENTS] = {"qnetc", "train", "-o", "unused.safetensors"};
  if (argc > MAX_ARGUMENTS - 4) return qnet_error_in(d, "bench_train", "too many options");
  for (int i = 1; i < argc; i++)
    full[i + 3] = argv[i];
  b->session = (qnet_session){.allocator = qnet_allocator_system(), .diag = d};
  QNET_TRY(qnet_options_parse(argc + 3, full, &b->session.options, d));
  if (b->session.options.threads != QNET_UNSET)
    qnet_parallel_set_threads((int)b->session.options.threads);
  return QNET_OK;
}

static qnet_status load_data(bench *b, qnet_diag *d) {
  const qnet_region *body = qnet_symbol_find(b->program.module, "eval")->body;
  QNET_TRY(qnet_data_load(b->session.allocator, b->session.options.data, QNET_SPLIT_TRAIN,
                          body->arg[0].type, qnet_type_elements(body->last->operand[0]->type),
                          &b->data, d));
  b->order = qnet_alloc_array(b->session.allocator, (size_t)b->data.count, sizeof *b->order);
  return b->order ? QNET_OK : qnet_out_of_memory(d);
}

/* From initial weights: nothing is fitted, and no statistics are to be observed. */
static qnet_status begin(bench *b, int argc, char **argv, qnet_diag *d) {
  QNET_TRY(parse(b, argc, argv, d));
  QNET_TRY(qnet_session_program(&b->session, &b->program));
  QNET_TRY(qnet_model_quant_spec(&b->session, &b->program));
  QNET_TRY(qnet_stages_plan(&b->session, &b->program, &b->stages));
  QNET_TRY(qnet_weights_init(b->program.module, 1, d));
  QNET_TRY(load_data(b, d));
  QNET_TRY(qnet_trainer_create(&b->session, &b->program, &b->stages, NULL, &b->trainer));
  b->engine = qnet_trainer_engine(b->trainer);
  int64_t batches = 0;
  return b->engine.enter_stage(b->engine.ctx, 0, &batches, d);
}

static void end(bench *b) {
  qnet_trainer_destroy(b->trainer);
  if (b->order) qnet_free(b->session.allocator, b->order, (size_t)b->data.count * sizeof *b->order);
  qnet_dataset_free(&b->data);
  qnet_module_destroy(b->program.module);
}

/* ---- steps ------------------------------------------------------------------------------------*/

static qnet_status run_steps(bench *b, qnet_loader *loader, int steps, double *loss, qnet_diag *d) {
  for (int i = 0; i < steps; i++) {
    qnet_batch batch;
    qnet_step_result result;
    QNET_TRY(qnet_loader_next(loader, &batch, d));
    QNET_TRY(b->engine.step(b->engine.ctx, batch.images, batch.labels, rate, &result, d));
    loss[i] = result.loss;
  }
  return QNET_OK;
}

/* Opens the loader too: its first batch is part of the time, as PyTorch's first one is. */
static qnet_status run_batches(bench *b, bool plain, int steps, double *loss, qnet_diag *d) {
  const qnet_recipe *r = &b->program.recipe;
  const qnet_augment augment = {.crop_pad = r->crop_pad, .flip = r->flip};
  const int64_t count = (int64_t)steps * b->engine.batch;
  if (count > b->data.count)
    return qnet_error_in(d, "bench_train", "%d steps need %lld images", steps, (long long)count);
  qnet_dataset_shuffle(b->order, (size_t)b->data.count, 1, ++b->epoch);
  const qnet_loader_plan plan = {.set = &b->data,
                                 .order = plain ? NULL : b->order,
                                 .count = count,
                                 .batch = b->engine.batch,
                                 .augment = plain ? NULL : &augment,
                                 .seed = 1,
                                 .epoch = b->epoch};
  qnet_loader *loader;
  QNET_TRY(qnet_loader_open(&plan, &loader, d));
  const qnet_status status = run_steps(b, loader, steps, loss, d);
  qnet_loader_close(loader);
  return status;
}

static long peak_kib(void) {
  long kib = 0;
  char line[128];
  FILE *f = fopen("/proc/self/status", "r");
  while (f && kib == 0 && fgets(line, sizeof line, f))
    if (sscanf(line, "VmHWM: %ld", &kib) != 1) kib = 0;
  if (f) fclose(f);
  return kib;
}

static qnet_status obey_steps(bench *b, const char *mode, int steps, qnet_diag *d) {
  double loss[MAX_STEPS];
  const double before = qnet_seconds();
  QNET_TRY(run_batches(b, strcmp(mode, "plain") == 0, steps, loss, d));
  printf("%.6f %ld", qnet_seconds() - before, peak_kib());
  for (int i = 0; i < steps; i++)
    printf(" %.9g", loss[i]);
  return QNET_OK;
}

static qnet_status obey(bench *b, const char *line, qnet_diag *d) {
  char mode[16], path[MAX_LINE];
  int steps;
  qnet_status status;
  if (sscanf(line, "save %s", path) == 1) {
    status = b->engine.save(b->engine.ctx, path, d);
    printf("saved");
  } else if (sscanf(line, "%15s %d", mode, &steps) == 2 && steps > 0 && steps <= MAX_STEPS) {
    status = obey_steps(b, mode, steps, d);
  } else {
    return qnet_error_in(d, "bench_train", "not a command: %s", line);
  }
  printf("\n");
  fflush(stdout);
  return status;
}

int main(int argc, char **argv) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  if (!d) return 1;
  bench b = {0};
  char line[MAX_LINE];
  qnet_status status = begin(&b, argc, argv, d);
  while (status == QNET_OK && fgets(line, sizeof line, stdin))
    status = obey(&b, line, d);
  end(&b);
  qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  return status == QNET_OK ? 0 : 1;
}
