/* Exact evaluation: predictions in chunks, so that the progress bar moves and the next images are
 * loaded meanwhile. */
#include "runtime/loader.h"
#include "runtime/train.h"
#include "support/progress.h"

enum { CHUNK = 256 };

static int64_t count_correct(const int32_t *classes, const qnet_batch *batch) {
  int64_t correct = 0;
  for (int64_t i = 0; i < batch->count; i++)
    correct += classes[i] == batch->labels[i];
  return correct;
}

static qnet_status evaluate_batches(const qnet_engine *engine, qnet_loader *loader,
                                    int32_t *classes, int64_t *correct, qnet_progress *progress,
                                    qnet_diag *d) {
  int32_t own[CHUNK];
  for (int64_t at = 0;;) {
    qnet_batch batch;
    int32_t *const out = classes ? classes + at : own;
    QNET_TRY(qnet_loader_next(loader, &batch, d));
    if (batch.count == 0) return QNET_OK;
    QNET_TRY(engine->predict(engine->ctx, batch.images, batch.count, out, d));
    *correct += count_correct(out, &batch);
    at += batch.count;
    qnet_progress_update(progress, (size_t)at, "evaluating");
  }
}

qnet_status qnet_evaluate(const qnet_engine *engine, const qnet_dataset *set, int64_t limit,
                          int32_t *classes, int64_t *correct, FILE *log, qnet_diag *d) {
  const int64_t count = limit > 0 && limit < set->count ? limit : set->count;
  const qnet_loader_plan plan = {.set = set, .count = count, .batch = CHUNK};
  qnet_loader *loader;
  *correct = 0;
  QNET_TRY(qnet_loader_open(&plan, &loader, d));
  qnet_progress progress;
  qnet_progress_begin(&progress, log, "images", (size_t)count);
  const qnet_status status = evaluate_batches(engine, loader, classes, correct, &progress, d);
  qnet_progress_end(&progress);
  qnet_loader_close(loader);
  return status;
}
