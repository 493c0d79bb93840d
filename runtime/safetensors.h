/* Weights files: .safetensors (8-byte header length, JSON header, raw little-endian data).
 *
 * Names and layouts are PyTorch's: convolution weights O,I,KH,KW. The order of dimensions is
 * changed where they enter or leave a module (driver/weights.c), not here. */
#ifndef QNET_RUNTIME_SAFETENSORS_H
#define QNET_RUNTIME_SAFETENSORS_H

#include "ir/blob.h"
#include "support/diag.h"

typedef struct qnet_tensor_entry {
  char *name;
  qnet_blob *blob;
} qnet_tensor_entry;

typedef struct qnet_tensor_file {
  const qnet_allocator *allocator;
  qnet_tensor_entry *entry; /* sorted by name */
  size_t count, capacity;
  char **meta; /* key, value, key, value ... (__metadata__), sorted by key */
  size_t meta_count;
} qnet_tensor_file;

void qnet_tensor_file_init(qnet_tensor_file *f, const qnet_allocator *a);
void qnet_tensor_file_free(qnet_tensor_file *f);
/* Reads and checks all: header length, JSON, dtypes (F64 F32 I64 I32 I16 I8 U8 BOOL as u8), shapes
 * against sizes, gaps, overlaps, duplicates. Memory is bounded by the file's size. */
qnet_status qnet_tensor_file_read(qnet_tensor_file *f, const char *path, qnet_diag *d);
/* Deterministic bytes: entries and metadata in order of name. Atomic (support/file.h). */
qnet_status qnet_tensor_file_write(const qnet_tensor_file *f, const char *path, qnet_diag *d);
/* The same; the file that is replaced stays as `previous` (NULL: it does not). */
qnet_status qnet_tensor_file_replace(const qnet_tensor_file *f, const char *path,
                                     const char *previous, qnet_diag *d);

qnet_blob *qnet_tensor_file_find(const qnet_tensor_file *f,
                                 const char *name); /* borrowed or NULL */
/* Adds or replaces; takes its own reference. QNET_NO_MEMORY on failure. */
qnet_status qnet_tensor_file_set(qnet_tensor_file *f, const char *name, qnet_blob *blob);
const char *qnet_tensor_file_meta(const qnet_tensor_file *f, const char *key); /* or NULL */
qnet_status qnet_tensor_file_set_meta(qnet_tensor_file *f, const char *key, const char *value);

enum { QNET_CHECKSUM_SIZE = 17 }; /* 16 hexadecimal digits and the NUL */
/* Of all metadata but that of `own_key`, and of all tensors with their names and shapes. */
void qnet_tensor_file_checksum(const qnet_tensor_file *f, const char *own_key,
                               char out[QNET_CHECKSUM_SIZE]);

#endif
