/* What the writer and the reader of weights files share. */
#ifndef QNET_RUNTIME_SAFETENSORS_INTERNAL_H
#define QNET_RUNTIME_SAFETENSORS_INTERNAL_H

#include "runtime/safetensors.h"

#define QNET_SAFETENSORS_METADATA "__metadata__"

/* Names in the file and our types. The first row of a name counts when reading, the first row of a
 * type when writing; ends with a NULL name. */
typedef struct qnet_safetensors_dtype {
  const char *name;
  qnet_dtype dtype;
} qnet_safetensors_dtype;
extern const qnet_safetensors_dtype qnet_safetensors_dtypes[];

/* Room for so many entries; false when out of memory. */
bool qnet_tensor_file_reserve(qnet_tensor_file *f, size_t capacity);
/* A copy to be freed with its strlen + 1; NULL when out of memory. */
char *qnet_tensor_file_copy_text(const qnet_allocator *a, const char *text);

#endif
