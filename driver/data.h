/* Data sets as a network takes them. */
#ifndef QNET_DRIVER_DATA_H
#define QNET_DRIVER_DATA_H

#include "ir/ir.h"
#include "runtime/dataset.h"

/* Loads a split of the set --data or --calibrate names, whose images must fit the network's input
 * (1xHxWxC); f32 inputs, images of another shape and a network of fewer outputs than the set has
 * classes are errors. outputs 0: labels are not used, and need not be there. On failure *out is
 * empty; on success the caller frees it. */
qnet_status qnet_data_load(const qnet_allocator *a, const char *name, qnet_split split,
                           const qnet_type *input, int64_t outputs, qnet_dataset *out,
                           qnet_diag *d);

#endif
