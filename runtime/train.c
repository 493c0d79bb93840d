/* The training loop. A run is a function of the options, the data and the engine: batches come from
 * a permutation and an augmentation that depend on (seed, epoch, image) alone.
 *
 * Every epoch ends with an exact evaluation, one line in the log and a saved file, so that a run
 * that is killed leaves the weights of its last whole epoch. */
#include "runtime/train.h"
#include "runtime/loader.h"
#include "support/progress.h"

#include <inttypes.h>
#include <math.h>

typedef struct run {
  const qnet_engine *engine;
  const qnet_train_options *options;
  const qnet_dataset *train, *test;
  qnet_diag *diag;
  int64_t images, steps; /* images in use; whole batches of them */
  uint32_t *order;
  double started, stepping; /* when the run began; seconds in training steps */
} run;

/* What one epoch has summed up so far. */
typedef struct epoch_sums {
  int number; /* from 0 */
  int64_t steps, seen, correct;
  double loss;
} epoch_sums;

double qnet_train_lr(const qnet_train_options *o, int64_t step, int64_t steps_per_epoch) {
  const double per_epoch = steps_per_epoch > 0 ? (double)steps_per_epoch : 1;
  const double total = per_epoch * (o->epochs > 0 ? o->epochs : 1);
  if (o->schedule == QNET_LR_COSINE) {
    const double share = (double)step / total;
    return o->lr * 0.5 * (1 + cos(M_PI * (share < 1 ? share : 1)));
  }
  double lr = o->lr;
  if (o->schedule == QNET_LR_STEP)
    for (int i = 0; i < o->steps; i++)
      if ((double)step >= o->step_epochs[i] * per_epoch) lr *= o->step_factor;
  return lr;
}

/* ---- setting up ---------------------------------------------------------------------------- */

static qnet_status check_run(run *r) {
  const qnet_train_options *const o = r->options;
  const int64_t batch = r->engine->batch, available = r->train->count;
  if (o->epochs < 1) return qnet_error_in(r->diag, "--epochs", "must be at least 1");
  if (r->train->height != r->test->height || r->train->width != r->test->width ||
      r->train->channels != r->test->channels)
    return qnet_error_in(r->diag, "--data", "training and test images differ in size");
  r->images = o->limit > 0 && o->limit < available ? o->limit : available;
  r->steps = r->images / batch;
  if (r->steps == 0)
    return qnet_error_in(r->diag, "--data",
                         "%" PRId64 " training images are fewer than one batch of %" PRId64
                         "; use a smaller batch or more images",
                         r->images, batch);
  return QNET_OK;
}

static qnet_status allocate_run(run *r) {
  const qnet_allocator *a = r->train->allocator;
  r->order = qnet_alloc_array(a, (size_t)r->images, sizeof *r->order);
  return r->order ? QNET_OK : qnet_out_of_memory(r->diag);
}

static void free_run(run *r) {
  const qnet_allocator *a = r->train->allocator;
  qnet_free(a, r->order, (size_t)r->images * sizeof *r->order);
}

/* ---- one epoch ----------------------------------------------------------------------------- */

static qnet_status not_finite(const run *r, const epoch_sums *sums, double loss, double lr) {
  qnet_error_in(r->diag, "train", "the loss became %g in epoch %d, step %" PRId64, loss,
                sums->number + 1, sums->steps + 1);
  qnet_note(r->diag, QNET_NO_LOC, "the learning rate was %g: try a smaller one", lr);
  return QNET_ERROR;
}

static qnet_status run_step(run *r, qnet_loader *loader, epoch_sums *sums) {
  const qnet_train_options *const o = r->options;
  const double lr = qnet_train_lr(o, sums->number * r->steps + sums->steps, r->steps);
  qnet_batch batch;
  QNET_TRY(qnet_loader_next(loader, &batch, r->diag));
  qnet_step_result result = {0, 0};
  QNET_TRY(r->engine->step(r->engine->ctx, batch.images, batch.labels, lr, &result, r->diag));
  if (!isfinite(result.loss)) return not_finite(r, sums, result.loss, lr);
  sums->steps++;
  sums->seen += batch.count;
  sums->correct += result.correct;
  sums->loss += result.loss;
  return QNET_OK;
}

static double percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static void show_progress(const run *r, const epoch_sums *sums, qnet_progress *progress) {
  if (!progress->visible) return;
  char extra[96];
  snprintf(extra, sizeof extra, "epoch %d/%d  loss %.4f  train %.2f%%", sums->number + 1,
           r->options->epochs, sums->loss / (double)sums->steps,
           percent(sums->correct, sums->seen));
  qnet_progress_update(progress, (size_t)(sums->number * r->steps * r->engine->batch + sums->seen),
                       extra);
}

/* The batches of the epoch: a new order, and a loader that goes through it. */
static qnet_status open_loader(const run *r, int epoch, qnet_loader **loader) {
  const qnet_train_options *const o = r->options;
  qnet_dataset_shuffle(r->order, (size_t)r->images, o->seed, (uint64_t)epoch);
  const qnet_loader_plan plan = {.set = r->train,
                                 .order = r->order,
                                 .count = r->steps * r->engine->batch,
                                 .batch = r->engine->batch,
                                 .augment = &o->augment,
                                 .seed = o->seed,
                                 .epoch = (uint64_t)epoch};
  return qnet_loader_open(&plan, loader, r->diag);
}

/* All steps of the epoch. The bar runs over the whole training, so that its time left does too. */
static qnet_status run_steps(run *r, epoch_sums *sums) {
  const double before = qnet_seconds();
  qnet_progress progress;
  qnet_progress_begin(&progress, r->options->log, "images",
                      (size_t)(r->options->epochs * r->steps * r->engine->batch));
  progress.started = r->started;
  qnet_loader *loader;
  qnet_status status = open_loader(r, sums->number, &loader);
  while (sums->steps < r->steps && status == QNET_OK) {
    status = run_step(r, loader, sums);
    if (status == QNET_OK) show_progress(r, sums, &progress);
  }
  qnet_loader_close(loader);
  qnet_progress_end(&progress);
  r->stepping += qnet_seconds() - before;
  return status;
}

static void log_epoch(const run *r, const epoch_sums *sums, const qnet_train_report *report,
                      double seconds) {
  FILE *const log = r->options->log;
  if (!log) return;
  const double rate = seconds > 0 ? (double)sums->seen / seconds : 0;
  fprintf(log,
          "epoch %2d/%d  loss %.4f  train %.2f%%  test %.2f%% (%" PRId64 " of %" PRId64
          ")  %.0f images/s\n",
          sums->number + 1, r->options->epochs, report->loss, percent(sums->correct, sums->seen),
          percent(report->correct, report->tested), report->correct, report->tested, rate);
  fflush(log);
}

static qnet_status run_epoch(run *r, int number, qnet_train_report *report) {
  const qnet_train_options *const o = r->options;
  const qnet_engine *const engine = r->engine;
  const int first_frozen = o->frozen_epochs < o->epochs ? o->epochs - o->frozen_epochs : 0;
  if (o->frozen_epochs > 0 && number == first_frozen)
    QNET_TRY(engine->enter_frozen_phase(engine->ctx, r->diag));
  epoch_sums sums = {.number = number};
  const double before = r->stepping;
  QNET_TRY(run_steps(r, &sums));
  report->loss = sums.loss / (double)sums.steps;
  report->tested = r->test->count;
  QNET_TRY(qnet_evaluate(engine, r->test, 0, NULL, &report->correct, o->log, r->diag));
  log_epoch(r, &sums, report, r->stepping - before);
  return o->output ? engine->save(engine->ctx, o->output, r->diag) : QNET_OK;
}

static qnet_status run_epochs(run *r, qnet_train_report *report) {
  for (int number = 0; number < r->options->epochs; number++) {
    QNET_TRY(run_epoch(r, number, report));
    const double images = (double)((number + 1) * r->steps * r->engine->batch);
    report->images_per_second = r->stepping > 0 ? images / r->stepping : 0;
    report->seconds = qnet_seconds() - r->started;
  }
  return QNET_OK;
}

qnet_status qnet_train(const qnet_engine *engine, const qnet_train_options *options,
                       const qnet_dataset *train, const qnet_dataset *test,
                       qnet_train_report *report, qnet_diag *d) {
  *report = (qnet_train_report){0};
  run r = {.engine = engine, .options = options, .train = train, .test = test, .diag = d};
  QNET_TRY(check_run(&r));
  r.started = qnet_seconds();
  qnet_status status = allocate_run(&r);
  if (status == QNET_OK) status = run_epochs(&r, report);
  free_run(&r);
  return status;
}
