/* The training loop: epochs, batches, learning rate, evaluation, metrics, checkpoints. It knows no
 * compiler: the engine's function pointers run the steps. */
#ifndef QNET_RUNTIME_TRAIN_H
#define QNET_RUNTIME_TRAIN_H

#include "runtime/dataset.h"
#include "runtime/safetensors.h"
#include <stdio.h>

typedef struct qnet_step_result {
  double loss;     /* mean over the batch */
  int64_t correct; /* of the batch */
} qnet_step_result;

typedef struct qnet_engine {
  void *ctx;
  int64_t batch; /* of step */
  /* One training step on `batch` images. A loss that is not finite leaves the weights alone. */
  qnet_status (*step)(void *ctx, const uint8_t *images, const int32_t *labels, double lr,
                      qnet_step_result *out, qnet_diag *d);
  /* After such a loss: adds a note that says where it came from. NULL: cannot tell. */
  qnet_status (*explain)(void *ctx, qnet_diag *d);
  /* Before the first step of a stage of the run, the first one included. *batches, 0 at first: so
   * many `observe` wants to see. NULL: nothing to do. */
  qnet_status (*enter_stage)(void *ctx, int stage, int64_t *batches, qnet_diag *d);
  /* One of these batches, or of the epoch's when it has fewer. */
  qnet_status (*observe)(void *ctx, const uint8_t *images, bool last, qnet_diag *d);
  /* Enters the last phase: from now on the forward uses frozen tables (docs/numbers.md). */
  qnet_status (*enter_frozen_phase)(void *ctx, qnet_diag *d);
  /* Exact evaluation: predicted class of each of `count` images. */
  qnet_status (*predict)(void *ctx, const uint8_t *images, int64_t count, int32_t *classes,
                         qnet_diag *d);
  /* Writes the weights file. */
  qnet_status (*save)(void *ctx, const char *path, qnet_diag *d);
  /* Adds all that later steps depend on to a checkpoint; changes nothing. */
  qnet_status (*store)(void *ctx, qnet_tensor_file *f, qnet_diag *d);
  /* Takes it back; `path` is for messages. */
  qnet_status (*restore)(void *ctx, const qnet_tensor_file *f, const char *path, qnet_diag *d);
} qnet_engine;

typedef enum { QNET_LR_COSINE, QNET_LR_STEP, QNET_LR_CONSTANT, QNET_LR_LINEAR } qnet_lr_schedule;

/* One property of a run that a run going on from its checkpoint must share. */
typedef struct qnet_run_field {
  const char *name; /* as messages call it: "seed" */
  char value[112];
} qnet_run_field;

enum { QNET_TRAIN_STAGES = 8 };

/* A part of a run, with the whole schedule of the learning rate for itself. */
typedef struct qnet_train_stage {
  int epochs;
  const char *name; /* for the log and the metrics: "5/5" bits */
} qnet_train_stage;

typedef struct qnet_train_options {
  int epochs; /* of all stages */
  qnet_train_stage stage[QNET_TRAIN_STAGES];
  int stages;        /* 0: the run is one stage without a name */
  int frozen_epochs; /* of the last stage, the last ones that run on the integer grid */
  double lr;
  qnet_lr_schedule schedule;
  int warmup_epochs; /* lr rises to its full value; the schedule fills the rest */
  double step_factor;
  int step_epochs[16], steps;
  qnet_augment augment;
  uint64_t seed;
  int64_t limit; /* use only the first so many training images; 0 = all */
  FILE *log;     /* plain lines and, on a terminal, the progress bar */

  /* Files; NULL = not written. */
  const char *output;              /* weights of the last epoch */
  const char *best;                /* of the epoch of a stage with most correct test images */
  const char *metrics;             /* one JSON object a line, one line an epoch */
  const char *checkpoint;          /* the newest; its predecessor is kept as */
  const char *previous_checkpoint; /* this */
  int64_t checkpoint_steps;        /* also every so many steps; 0 = after epochs only */
  bool resume;                     /* go on from the checkpoint, if there is one */
  const qnet_run_field *field;     /* what must be equal to resume */
  int field_count;
  /* Asked after every step; true ends the run with a checkpoint. NULL: never. */
  bool (*stop)(void *ctx);
  void *stop_ctx;
} qnet_train_options;

typedef struct qnet_train_report {
  int64_t correct, tested; /* of the last evaluation */
  int best_epoch;          /* from 1 */
  int64_t best_correct;
  double loss; /* mean of the last epoch */
  double seconds, images_per_second;
} qnet_train_report;

/* Learning rate at a step of the run. In each stage: warm-up, step i of w has (i + 1) / w of it;
 * cosine and linear fall from there to 0 at the very end; `step` counts its epochs from the
 * beginning. */
double qnet_train_lr(const qnet_train_options *o, int64_t step, int64_t steps_per_epoch);

/* Trains, evaluates and saves after every epoch. A loss that is not finite stops the run with a
 * diagnostic. QNET_STOPPED: options->stop ended it, and the checkpoint is written. With the same
 * options a resumed run writes the same bytes into all files as one that was never interrupted. */
qnet_status qnet_train(const qnet_engine *engine, const qnet_train_options *options,
                       const qnet_dataset *train, const qnet_dataset *test,
                       qnet_train_report *report, qnet_diag *d);

/* correct predictions of the first `limit` images (0 = all). classes (may be NULL) receives the
 * predictions. */
qnet_status qnet_evaluate(const qnet_engine *engine, const qnet_dataset *set, int64_t limit,
                          int32_t *classes, int64_t *correct, FILE *log, qnet_diag *d);

#endif
