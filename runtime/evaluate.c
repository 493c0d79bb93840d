/* Exact evaluation: predictions in chunks, so that the progress bar moves. */
#include "runtime/train.h"
#include "support/progress.h"

enum { CHUNK = 256 };

static int64_t count_correct(const int32_t *classes, const uint8_t *labels, int64_t count) {
  int64_t correct = 0;
  for (int64_t i = 0; i < count; i++)
    correct += classes[i] == labels[i];
  return correct;
}

qnet_status qnet_evaluate(const qnet_engine *engine, const qnet_dataset *set, int64_t limit,
                          int32_t *classes, int64_t *correct, FILE *log, qnet_diag *d) {
  const int64_t count = limit > 0 && limit < set->count ? limit : set->count;
  const int64_t bytes = set->height * set->width * set->channels;
  int32_t own[CHUNK];
  qnet_status status = QNET_OK;
  qnet_progress progress;
  *correct = 0;
  qnet_progress_begin(&progress, log, "images", (size_t)count);
  for (int64_t at = 0; at < count && status == QNET_OK; at += CHUNK) {
    const int64_t part = count - at < CHUNK ? count - at : CHUNK;
    int32_t *out = classes ? classes + at : own;
    status = engine->predict(engine->ctx, set->images + at * bytes, part, out, d);
    if (status == QNET_OK) *correct += count_correct(out, set->labels + at, part);
    qnet_progress_update(&progress, (size_t)(at + part), "evaluating");
  }
  qnet_progress_end(&progress);
  return status;
}
