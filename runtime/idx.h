/* IDX files (MNIST's format): big-endian header, then bytes; plain or gzip. */
#ifndef QNET_RUNTIME_IDX_H
#define QNET_RUNTIME_IDX_H

#include "support/diag.h"
#include <stdint.h>

enum { QNET_IDX_MAX_RANK = 3 };

typedef struct qnet_idx {
  uint32_t dim[QNET_IDX_MAX_RANK]; /* 1 beyond the rank */
  size_t bytes;
  uint8_t *data; /* freed by the caller with `bytes` */
} qnet_idx;

/* Reads a file of unsigned bytes of that rank (1 or 3). Memory is bounded by the size that the file
 * could possibly unpack to. */
qnet_status qnet_idx_read(const qnet_allocator *a, const char *path, int rank, qnet_idx *out,
                          qnet_diag *d);

#endif
