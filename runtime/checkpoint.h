/* Checkpoints: all that the rest of a training run depends on, in one weights file.
 *
 * The engine adds its tensors; the loop its position, the sums of the epoch in progress (exact, as
 * hexadecimal floats), the metrics written so far and the fields that a continued run must share.
 * Random numbers are functions of (seed, epoch, image), so the position is their whole state. A
 * checksum over everything finds damage that a well-formed file can hide. */
#ifndef QNET_RUNTIME_CHECKPOINT_H
#define QNET_RUNTIME_CHECKPOINT_H

#include "runtime/train.h"
#include "support/strbuf.h"

/* Where a run is. */
typedef struct qnet_run_position {
  int64_t epoch;        /* whole epochs done */
  int64_t step;         /* steps done of the next one */
  int64_t correct;      /* their sum */
  double loss;          /* their sum */
  int64_t best_epoch;   /* from 1; 0: none yet */
  int64_t best_correct; /* of the test set */
  int64_t last_correct; /* of the test set, after the last whole epoch */
  double last_loss;     /* mean of the last whole epoch */
} qnet_run_position;

/* Writes options->checkpoint; the one before it stays as options->previous_checkpoint. */
qnet_status qnet_checkpoint_write(const qnet_engine *engine, const qnet_train_options *options,
                                  const qnet_run_position *at, const qnet_strbuf *metrics,
                                  qnet_diag *d);

/* Reads the newest checkpoint into engine, *at and metrics. A damaged one is passed over with a
 * warning for its predecessor; when no good one is left that is an error. *found is false, and
 * nothing changed, when there is none at all. One that belongs to another run is an error that says
 * what differs. */
qnet_status qnet_checkpoint_read(const qnet_engine *engine, const qnet_train_options *options,
                                 qnet_run_position *at, qnet_strbuf *metrics, bool *found,
                                 qnet_diag *d);

#endif
