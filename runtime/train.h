/* The training loop: epochs, batches, learning rate, evaluation, metrics, checkpoints. It knows no
 * compiler: the engine's function pointers run the steps. */
#ifndef QNET_RUNTIME_TRAIN_H
#define QNET_RUNTIME_TRAIN_H

#include "runtime/dataset.h"
#include <stdio.h>

typedef struct qnet_step_result {
  double loss;     /* mean over the batch */
  int64_t correct; /* of the batch */
} qnet_step_result;

typedef struct qnet_engine {
  void *ctx;
  int64_t batch; /* of step */
  /* One training step on `batch` images. */
  qnet_status (*step)(void *ctx, const uint8_t *images, const int32_t *labels, double lr,
                      qnet_step_result *out, qnet_diag *d);
  /* Enters the last phase: from now on the forward uses frozen tables (docs/numbers.md). */
  qnet_status (*enter_frozen_phase)(void *ctx, qnet_diag *d);
  /* Exact evaluation: predicted class of each of `count` images. */
  qnet_status (*predict)(void *ctx, const uint8_t *images, int64_t count, int32_t *classes,
                         qnet_diag *d);
  /* Writes the weights file. */
  qnet_status (*save)(void *ctx, const char *path, qnet_diag *d);
} qnet_engine;

typedef enum { QNET_LR_COSINE, QNET_LR_STEP, QNET_LR_CONSTANT } qnet_lr_schedule;

typedef struct qnet_train_options {
  int epochs;
  int frozen_epochs; /* of these, the last ones that run on the integer grid */
  double lr;
  qnet_lr_schedule schedule;
  double step_factor;
  int step_epochs[16], steps;
  qnet_augment augment;
  uint64_t seed;
  int64_t limit;      /* use only the first so many training images; 0 = all */
  const char *output; /* weights file */
  FILE *log;          /* plain lines and, on a terminal, the progress bar */
} qnet_train_options;

typedef struct qnet_train_report {
  int64_t correct, tested; /* of the last evaluation */
  double loss;             /* mean of the last epoch */
  double seconds, images_per_second;
} qnet_train_report;

/* Learning rate at a step of an epoch (cosine falls to 0 at the very end). */
double qnet_train_lr(const qnet_train_options *o, int64_t step, int64_t steps_per_epoch);

/* Trains and saves after every epoch. A loss that is not finite stops the run with a diagnostic. */
qnet_status qnet_train(const qnet_engine *engine, const qnet_train_options *options,
                       const qnet_dataset *train, const qnet_dataset *test,
                       qnet_train_report *report, qnet_diag *d);

/* correct predictions of the first `limit` images (0 = all). classes (may be NULL) receives the
 * predictions. */
qnet_status qnet_evaluate(const qnet_engine *engine, const qnet_dataset *set, int64_t limit,
                          int32_t *classes, int64_t *correct, FILE *log, qnet_diag *d);

#endif
