/* Blobs: dense arrays with a reference count. Weights behind symbols, and the values that the
 * interpreters compute, are blobs. Row-major; tensors of images are N,H,W,C. */
#ifndef QNET_IR_BLOB_H
#define QNET_IR_BLOB_H

#include "support/alloc.h"
#include <stdbool.h>
#include <stdint.h>

typedef enum {
  QNET_F32,
  QNET_F64,
  QNET_I1,
  QNET_I8,
  QNET_U8,
  QNET_I16,
  QNET_I32,
  QNET_I64,
  QNET_U64, /* words of bit planes */
  QNET_CODE /* a code of a level table; one byte in memory */
} qnet_dtype;

const char *qnet_dtype_name(qnet_dtype dtype); /* "f32", ..., "q" */
int qnet_dtype_bytes(qnet_dtype dtype);

enum { QNET_BLOB_MAX_RANK = 6 };

typedef struct qnet_blob {
  const qnet_allocator *allocator;
  qnet_dtype dtype;
  int rank;
  int64_t dim[QNET_BLOB_MAX_RANK];
  size_t bytes;
  void *data; /* aligned to 64, zeroed at creation */
  int refs;
} qnet_blob;

/* NULL when out of memory or when the size overflows. One reference is the caller's. */
qnet_blob *qnet_blob_create(const qnet_allocator *a, qnet_dtype dtype, int rank,
                            const int64_t *dim);
qnet_blob *qnet_blob_retain(qnet_blob *b); /* NULL is fine */
void qnet_blob_release(qnet_blob *b);      /* NULL is fine */
int64_t qnet_blob_elements(const qnet_blob *b);
/* Same dtype, dims and bytes. */
bool qnet_blob_equal(const qnet_blob *a, const qnet_blob *b);

#endif
