/* Batches in order, prepared by a thread of its own while the caller computes. What comes out is
 * the same as without the thread. */
#ifndef QNET_RUNTIME_LOADER_H
#define QNET_RUNTIME_LOADER_H

#include "runtime/dataset.h"

typedef struct qnet_loader_plan {
  const qnet_dataset *set; /* borrowed, like everything here, until the loader is closed */
  const uint32_t *order;   /* `count` indices; NULL: the first `count` images */
  int64_t count, batch;
  const qnet_augment *augment; /* or NULL */
  uint64_t seed, epoch;
} qnet_loader_plan;

typedef struct qnet_loader qnet_loader;

/* Begins to load. Until the loader is closed the set's allocator is used from a second thread. */
qnet_status qnet_loader_open(const qnet_loader_plan *plan, qnet_loader **out, qnet_diag *d);

typedef struct qnet_batch {
  const uint8_t *images;
  const int32_t *labels;
  int64_t count; /* plan.batch, fewer in the last one, 0 at the end */
} qnet_batch;

/* Waits for the next batch, which stays valid until the next call. After a failure the loader can
 * only be closed. */
qnet_status qnet_loader_next(qnet_loader *l, qnet_batch *out, qnet_diag *d);
/* Ends the thread, also in the middle; NULL is fine. */
void qnet_loader_close(qnet_loader *l);

#endif
