/* The training loop. A run is a function of the options, the data and the engine: batches come from
 * a permutation and an augmentation that depend on (seed, epoch, image) alone.
 *
 * Every epoch ends with an exact evaluation, one line in the log, saved weights and metrics, and at
 * last a checkpoint. What is killed before the checkpoint is done again from the one before, and
 * writes the same bytes. */
#include "runtime/checkpoint.h"
#include "runtime/loader.h"
#include "support/file.h"
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
  int64_t stepped;          /* steps since then */
  qnet_run_position at;
  qnet_strbuf metrics; /* the lines so far */
} run;

/* The stage of an epoch of the run. */
typedef struct span {
  int index;
  int64_t first, epochs;
} span;

static span stage_at(const qnet_train_options *o, int64_t epoch) {
  span s = {0, 0, o->stages > 0 ? o->stage[0].epochs : o->epochs};
  while (s.index + 1 < o->stages && epoch >= s.first + s.epochs) {
    s.first += s.epochs;
    s.epochs = o->stage[++s.index].epochs;
  }
  return s;
}

double qnet_train_lr(const qnet_train_options *o, int64_t step, int64_t steps_per_epoch) {
  const int64_t steps = steps_per_epoch > 0 ? steps_per_epoch : 1;
  const span stage = stage_at(o, step / steps);
  const double per_epoch = (double)steps, at = (double)(step - stage.first * steps);
  const double warmup = per_epoch * o->warmup_epochs;
  if (at < warmup) return o->lr * (at + 1) / warmup;
  const double rest = per_epoch * (double)(stage.epochs > 0 ? stage.epochs : 1) - warmup;
  const double share = at - warmup < rest ? (at - warmup) / rest : 1;
  if (o->schedule == QNET_LR_COSINE) return o->lr * 0.5 * (1 + cos(M_PI * share));
  if (o->schedule == QNET_LR_LINEAR) return o->lr * (1 - share);
  double lr = o->lr;
  if (o->schedule == QNET_LR_STEP)
    for (int i = 0; i < o->steps; i++)
      if (at >= o->step_epochs[i] * per_epoch) lr *= o->step_factor;
  return lr;
}

/* ---- setting up ---------------------------------------------------------------------------- */

static qnet_status check_run(run *r) {
  const qnet_train_options *const o = r->options;
  const int64_t batch = r->engine->batch, available = r->train->count;
  if (o->epochs < 1) return qnet_error_in(r->diag, "--epochs", "must be at least 1");
  for (int64_t at = 0; at < o->epochs && o->warmup_epochs > 0;) {
    const span stage = stage_at(o, at);
    if (o->warmup_epochs >= stage.epochs)
      return qnet_error_in(r->diag, "--epochs",
                           "%d epochs of warm-up leave none of %" PRId64
                           " to train; train longer, or lower the recipe's 'warmup'",
                           o->warmup_epochs, stage.epochs);
    at = stage.first + stage.epochs;
  }
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
  qnet_strbuf_init(&r->metrics, a);
  r->order = qnet_alloc_array(a, (size_t)r->images, sizeof *r->order);
  return r->order ? QNET_OK : qnet_out_of_memory(r->diag);
}

static void free_run(run *r) {
  const qnet_allocator *a = r->train->allocator;
  qnet_strbuf_free(&r->metrics);
  qnet_free(a, r->order, (size_t)r->images * sizeof *r->order);
}

/* ---- steps ---------------------------------------------------------------------------------- */

static int64_t first_frozen(const qnet_train_options *o) {
  if (o->frozen_epochs <= 0) return o->epochs;
  const span last = stage_at(o, o->epochs - 1);
  return last.first + (o->frozen_epochs < last.epochs ? last.epochs - o->frozen_epochs : 0);
}

static qnet_status not_finite(const run *r, double loss, double lr) {
  qnet_error_in(r->diag, "train", "the loss became %g in epoch %" PRId64 ", step %" PRId64, loss,
                r->at.epoch + 1, r->at.step + 1);
  qnet_note(r->diag, QNET_NO_LOC, "the learning rate was %g: try a smaller one", lr);
  if (r->engine->explain) QNET_TRY(r->engine->explain(r->engine->ctx, r->diag));
  return QNET_ERROR;
}

static qnet_status run_step(run *r, qnet_loader *loader) {
  const qnet_train_options *const o = r->options;
  const double lr = qnet_train_lr(o, r->at.epoch * r->steps + r->at.step, r->steps);
  qnet_batch batch;
  QNET_TRY(qnet_loader_next(loader, &batch, r->diag));
  qnet_step_result result = {0, 0};
  QNET_TRY(r->engine->step(r->engine->ctx, batch.images, batch.labels, lr, &result, r->diag));
  if (!isfinite(result.loss)) return not_finite(r, result.loss, lr);
  r->at.step++;
  r->at.correct += result.correct;
  r->at.loss += result.loss;
  r->stepped++;
  return QNET_OK;
}

static double percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static void show_progress(const run *r, qnet_progress *progress) {
  if (!progress->visible) return;
  const int64_t batch = r->engine->batch;
  char extra[96];
  snprintf(extra, sizeof extra, "epoch %" PRId64 "/%d  loss %.4f  train %.2f%%", r->at.epoch + 1,
           r->options->epochs, r->at.loss / (double)r->at.step,
           percent(r->at.correct, r->at.step * batch));
  qnet_progress_update(progress, (size_t)((r->at.epoch * r->steps + r->at.step) * batch), extra);
}

/* The batches of the epoch that are left: its order, and a loader that goes through it. */
static qnet_status open_loader(const run *r, qnet_loader **loader) {
  const qnet_train_options *const o = r->options;
  const int64_t batch = r->engine->batch;
  qnet_dataset_shuffle(r->order, (size_t)r->images, o->seed, (uint64_t)r->at.epoch);
  const qnet_loader_plan plan = {.set = r->train,
                                 .order = r->order + r->at.step * batch,
                                 .count = (r->steps - r->at.step) * batch,
                                 .batch = batch,
                                 .augment = &o->augment,
                                 .seed = o->seed,
                                 .epoch = (uint64_t)r->at.epoch};
  return qnet_loader_open(&plan, loader, r->diag);
}

static qnet_status write_checkpoint(const run *r) {
  if (!r->options->checkpoint) return QNET_OK;
  return qnet_checkpoint_write(r->engine, r->options, &r->at, &r->metrics, r->diag);
}

static bool asked_to_stop(const run *r) {
  return r->options->stop && r->options->stop(r->options->stop_ctx);
}

static qnet_status stop(const run *r) {
  QNET_TRY(write_checkpoint(r));
  return QNET_STOPPED;
}

/* Between two steps of an epoch. After the last one the epoch's end does all this. */
static qnet_status after_step(const run *r) {
  const int64_t every = r->options->checkpoint_steps;
  if (r->at.step == r->steps) return QNET_OK;
  if (asked_to_stop(r)) return stop(r);
  if (every > 0 && (r->at.epoch * r->steps + r->at.step) % every == 0) return write_checkpoint(r);
  return QNET_OK;
}

/* The steps of the epoch that are left. The bar runs over the whole training, so that its time left
 * does too. */
static qnet_status run_steps(run *r) {
  const double before = qnet_seconds();
  qnet_progress progress;
  qnet_progress_begin(&progress, r->options->log, "images",
                      (size_t)(r->options->epochs * r->steps * r->engine->batch));
  progress.started = r->started;
  qnet_loader *loader;
  qnet_status status = open_loader(r, &loader);
  while (r->at.step < r->steps && status == QNET_OK) {
    status = run_step(r, loader);
    if (status == QNET_OK) show_progress(r, &progress);
    if (status == QNET_OK) status = after_step(r);
  }
  qnet_loader_close(loader);
  qnet_progress_end(&progress);
  r->stepping += qnet_seconds() - before;
  return status;
}

/* ---- epochs --------------------------------------------------------------------------------- */

static void log_epoch(const run *r, double images_per_second) {
  FILE *const log = r->options->log;
  if (!log) return;
  fprintf(log,
          "epoch %2" PRId64 "/%d  loss %.4f  train %.2f%%  test %.2f%% (%" PRId64 " of %" PRId64
          ")  %.0f images/s\n",
          r->at.epoch + 1, r->options->epochs, r->at.last_loss,
          percent(r->at.correct, r->at.step * r->engine->batch),
          percent(r->at.last_correct, r->test->count), r->at.last_correct, r->test->count,
          images_per_second);
  fflush(log);
}

static qnet_status write_metrics(const run *r) {
  if (!r->options->metrics) return QNET_OK;
  return qnet_file_write(r->train->allocator, r->options->metrics, r->metrics.data,
                         r->metrics.length, r->diag);
}

/* No times: the file is a function of the run. */
static qnet_status add_metrics(run *r) {
  const qnet_train_options *const o = r->options;
  const int64_t last_step = r->at.epoch * r->steps + r->at.step - 1;
  const span stage = stage_at(o, r->at.epoch);
  qnet_strbuf_printf(&r->metrics, "{\"epoch\": %" PRId64, r->at.epoch + 1);
  if (o->stages > 0)
    qnet_strbuf_printf(&r->metrics, ", \"stage\": %d, \"bits\": \"%s\"", stage.index + 1,
                       o->stage[stage.index].name);
  qnet_strbuf_printf(&r->metrics,
                     ", \"loss\": %.9g, \"train_correct\": %" PRId64 ", \"train_images\": %" PRId64
                     ", \"test_correct\": %" PRId64 ", \"test_images\": %" PRId64
                     ", \"lr\": %.9g, \"frozen\": %s}\n",
                     r->at.last_loss, r->at.correct, r->at.step * r->engine->batch,
                     r->at.last_correct, r->test->count, qnet_train_lr(o, last_step, r->steps),
                     r->at.epoch >= first_frozen(o) ? "true" : "false");
  if (r->metrics.failed) return qnet_out_of_memory(r->diag);
  return write_metrics(r);
}

static qnet_status save_weights(run *r) {
  const qnet_train_options *const o = r->options;
  const qnet_engine *const engine = r->engine;
  if (o->output) QNET_TRY(engine->save(engine->ctx, o->output, r->diag));
  const span stage = stage_at(o, r->at.epoch);
  if (r->at.best_epoch > stage.first && r->at.last_correct <= r->at.best_correct) return QNET_OK;
  r->at.best_epoch = r->at.epoch + 1;
  r->at.best_correct = r->at.last_correct;
  return o->best ? engine->save(engine->ctx, o->best, r->diag) : QNET_OK;
}

static qnet_status finish_epoch(run *r, double images_per_second) {
  r->at.last_loss = r->at.loss / (double)r->at.step;
  QNET_TRY(
      qnet_evaluate(r->engine, r->test, 0, NULL, &r->at.last_correct, r->options->log, r->diag));
  log_epoch(r, images_per_second);
  QNET_TRY(save_weights(r));
  QNET_TRY(add_metrics(r));
  r->at.epoch++;
  r->at.step = r->at.correct = 0;
  r->at.loss = 0;
  return write_checkpoint(r);
}

/* The first batches of the epoch, as its steps will see them. */
static qnet_status observe(const run *r, int64_t batches) {
  qnet_loader *loader;
  qnet_status status = open_loader(r, &loader);
  for (int64_t i = 0; i < batches && status == QNET_OK; i++) {
    qnet_batch batch;
    status = qnet_loader_next(loader, &batch, r->diag);
    if (status == QNET_OK)
      status = r->engine->observe(r->engine->ctx, batch.images, i + 1 == batches, r->diag);
  }
  qnet_loader_close(loader);
  return status;
}

static qnet_status enter_stage(const run *r, int stage) {
  int64_t batches = 0;
  QNET_TRY(r->engine->enter_stage(r->engine->ctx, stage, &batches, r->diag));
  return batches > 0 ? observe(r, batches < r->steps ? batches : r->steps) : QNET_OK;
}

/* Stages and phases begin with an epoch. A run that goes on from the checkpoint before it enters
 * them itself; one from a later checkpoint finds them in there. */
static qnet_status begin_epoch(const run *r) {
  const qnet_engine *const engine = r->engine;
  const qnet_train_options *const o = r->options;
  const span stage = stage_at(o, r->at.epoch);
  if (r->at.step > 0) return QNET_OK;
  if (r->at.epoch == stage.first && o->stages > 0 && o->log)
    fprintf(o->log, "stage %d of %d: %s bits\n", stage.index + 1, o->stages,
            o->stage[stage.index].name);
  if (r->at.epoch == stage.first && engine->enter_stage) QNET_TRY(enter_stage(r, stage.index));
  if (r->at.epoch == first_frozen(o)) QNET_TRY(engine->enter_frozen_phase(engine->ctx, r->diag));
  return QNET_OK;
}

static qnet_status run_epoch(run *r) {
  const qnet_engine *const engine = r->engine;
  QNET_TRY(begin_epoch(r));
  const double before = r->stepping;
  const int64_t steps = r->stepped;
  QNET_TRY(run_steps(r));
  const double seconds = r->stepping - before;
  const double images = (double)((r->stepped - steps) * engine->batch);
  return finish_epoch(r, seconds > 0 ? images / seconds : 0);
}

static qnet_status run_epochs(run *r) {
  while (r->at.epoch < r->options->epochs) {
    QNET_TRY(run_epoch(r));
    if (r->at.epoch < r->options->epochs && asked_to_stop(r)) return QNET_STOPPED;
  }
  return QNET_OK;
}

/* ---- the run -------------------------------------------------------------------------------- */

static void remove_stale(const run *r) {
  const qnet_train_options *const o = r->options;
  const char *const files[] = {o->output, o->best, o->metrics, o->checkpoint};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    if (files[i]) qnet_file_remove_stale(files[i]);
}

static qnet_status resume(run *r) {
  const qnet_train_options *const o = r->options;
  if (!o->resume || !o->checkpoint) return QNET_OK;
  bool found;
  remove_stale(r);
  QNET_TRY(qnet_checkpoint_read(r->engine, o, &r->at, &r->metrics, &found, r->diag));
  if (!found) {
    qnet_warning_in(r->diag, o->checkpoint, "there is no checkpoint; training from the start");
    return QNET_OK;
  }
  if (r->at.step >= r->steps || r->at.epoch > o->epochs)
    return qnet_error_in(r->diag, o->checkpoint, "its position is outside of this run");
  if (o->log)
    fprintf(o->log, "going on after epoch %" PRId64 ", step %" PRId64 "\n", r->at.epoch,
            r->at.step);
  return r->metrics.length > 0 ? write_metrics(r) : QNET_OK;
}

static void fill_report(const run *r, qnet_train_report *report) {
  const double images = (double)(r->stepped * r->engine->batch);
  *report = (qnet_train_report){.correct = r->at.last_correct,
                                .tested = r->test->count,
                                .best_epoch = (int)r->at.best_epoch,
                                .best_correct = r->at.best_correct,
                                .loss = r->at.last_loss,
                                .seconds = qnet_seconds() - r->started,
                                .images_per_second = r->stepping > 0 ? images / r->stepping : 0};
}

qnet_status qnet_train(const qnet_engine *engine, const qnet_train_options *options,
                       const qnet_dataset *train, const qnet_dataset *test,
                       qnet_train_report *report, qnet_diag *d) {
  *report = (qnet_train_report){0};
  run r = {.engine = engine, .options = options, .train = train, .test = test, .diag = d};
  QNET_TRY(check_run(&r));
  r.started = qnet_seconds();
  qnet_status status = allocate_run(&r);
  if (status == QNET_OK) status = resume(&r);
  if (status == QNET_OK) status = run_epochs(&r);
  if (status == QNET_OK || status == QNET_STOPPED) fill_report(&r, report);
  free_run(&r);
  return status;
}
