/* Blobs: one heap block each, header and data together, so that a release is one free. */
#include "ir/blob.h"
#include <string.h>

enum { DATA_ALIGN = 64 };

static const struct {
  const char *name;
  int bytes;
} dtypes[] = {
    [QNET_F32] = {"f32", 4}, [QNET_F64] = {"f64", 8}, [QNET_I1] = {"i1", 1},
    [QNET_I8] = {"i8", 1},   [QNET_U8] = {"u8", 1},   [QNET_I16] = {"i16", 2},
    [QNET_I32] = {"i32", 4}, [QNET_I64] = {"i64", 8}, [QNET_U64] = {"u64", 8},
    [QNET_CODE] = {"q", 1},
};

const char *qnet_dtype_name(qnet_dtype dtype) {
  return dtypes[dtype].name;
}

int qnet_dtype_bytes(qnet_dtype dtype) {
  return dtypes[dtype].bytes;
}

static bool blob_bytes(qnet_dtype dtype, int rank, const int64_t *dim, size_t *bytes) {
  if (rank < 0 || rank > QNET_BLOB_MAX_RANK) return false;
  size_t size = (size_t)qnet_dtype_bytes(dtype);
  for (int i = 0; i < rank; i++)
    if (dim[i] < 0 || __builtin_mul_overflow(size, (size_t)dim[i], &size)) return false;
  *bytes = size;
  return size <= PTRDIFF_MAX - sizeof(qnet_blob) - DATA_ALIGN;
}

static size_t block_size(size_t bytes) {
  return sizeof(qnet_blob) + DATA_ALIGN + bytes;
}

qnet_blob *qnet_blob_create(const qnet_allocator *a, qnet_dtype dtype, int rank,
                            const int64_t *dim) {
  size_t bytes;
  if (!blob_bytes(dtype, rank, dim, &bytes)) return NULL;
  qnet_blob *b = qnet_alloc(a, block_size(bytes));
  if (!b) return NULL;
  b->allocator = a;
  b->dtype = dtype;
  b->rank = rank;
  if (rank > 0) memcpy(b->dim, dim, (size_t)rank * sizeof dim[0]);
  b->bytes = bytes;
  const uintptr_t end = (uintptr_t)(b + 1);
  b->data = (char *)(b + 1) + (-end & (DATA_ALIGN - 1));
  b->refs = 1;
  return b;
}

/* Counts are atomic: interpreters on several threads share the blobs of one module. */
qnet_blob *qnet_blob_retain(qnet_blob *b) {
  if (b) __atomic_add_fetch(&b->refs, 1, __ATOMIC_RELAXED);
  return b;
}

void qnet_blob_release(qnet_blob *b) {
  if (!b || __atomic_sub_fetch(&b->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  qnet_free(b->allocator, b, block_size(b->bytes));
}

int64_t qnet_blob_elements(const qnet_blob *b) {
  return (int64_t)(b->bytes / (size_t)qnet_dtype_bytes(b->dtype));
}

bool qnet_blob_equal(const qnet_blob *a, const qnet_blob *b) {
  if (a->dtype != b->dtype || a->rank != b->rank || a->bytes != b->bytes) return false;
  for (int i = 0; i < a->rank; i++)
    if (a->dim[i] != b->dim[i]) return false;
  return memcmp(a->data, b->data, a->bytes) == 0;
}
