/* The header of .npy files. */
#ifndef QNET_RUNTIME_NPY_H
#define QNET_RUNTIME_NPY_H

#include "ir/blob.h"
#include "support/diag.h"

#define QNET_NPY_MAGIC "\x93NUMPY"
enum { QNET_NPY_MAGIC_BYTES = 6 };

typedef struct qnet_npy {
  char descr[16]; /* "|u1", "<f4", ... */
  bool fortran;
  int rank;
  int64_t dim[QNET_BLOB_MAX_RANK];
  uint64_t elements; /* UINT64_MAX: more than that */
  size_t offset;     /* of the array in the file */
} qnet_npy;

/* data: the beginning of a file, magic included, that holds the whole header. */
qnet_status qnet_npy_parse(const char *path, const uint8_t *data, size_t size, qnet_npy *out,
                           qnet_diag *d);

#endif
