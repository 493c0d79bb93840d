/* Reading weights files. Nothing in the file is believed: the header's length, every field's type,
 * every product and every range is checked before use, and the tensors must cover the data without
 * gap or overlap. */
#include "runtime/safetensors_internal.h"
#include "support/file.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const size_t max_file = (size_t)2 << 30, max_header = (size_t)100 << 20;

/* Where a tensor's data lies: bytes begin..end of the data part. */
typedef struct span {
  uint64_t begin, end;
  const char *name;
} span;

typedef struct reader {
  qnet_tensor_file *file;
  const char *path;
  qnet_diag *diag;
  const char *data; /* behind the header */
  uint64_t data_bytes;
  span *spans; /* one a tensor */
} reader;

static qnet_status bad_tensor(const reader *r, const char *name, const char *what) {
  return qnet_error_in(r->diag, r->path, "tensor '%s': %s", name, what);
}

/* ---- one tensor ---------------------------------------------------------------------------- */

static qnet_status read_dtype(const reader *r, const char *name, const json_t *info,
                              qnet_dtype *dtype) {
  const char *text = json_string_value(json_object_get(info, "dtype"));
  if (!text) return bad_tensor(r, name, "no \"dtype\" in the header");
  for (const qnet_safetensors_dtype *row = qnet_safetensors_dtypes; row->name; row++) {
    if (strcmp(row->name, text) != 0) continue;
    *dtype = row->dtype;
    return QNET_OK;
  }
  return qnet_error_in(r->diag, r->path,
                       "tensor '%s': type %s is not supported; convert the file to F32", name,
                       text);
}

static qnet_status read_shape(const reader *r, const char *name, const json_t *info, int *rank,
                              int64_t dim[QNET_BLOB_MAX_RANK], uint64_t *elements) {
  const json_t *shape = json_object_get(info, "shape");
  if (!json_is_array(shape)) return bad_tensor(r, name, "no \"shape\" in the header");
  const size_t length = json_array_size(shape);
  if (length > QNET_BLOB_MAX_RANK) return bad_tensor(r, name, "too many dimensions");
  *rank = (int)length;
  *elements = 1;
  for (size_t i = 0; i < length; i++) {
    const json_t *number = json_array_get(shape, i);
    dim[i] = json_integer_value(number);
    if (!json_is_integer(number) || dim[i] < 0)
      return bad_tensor(r, name, "a dimension is not a number >= 0");
    if (__builtin_mul_overflow(*elements, (uint64_t)dim[i], elements) || *elements > max_file)
      return bad_tensor(r, name, "the shape is too large");
  }
  return QNET_OK;
}

static qnet_status read_offsets(const reader *r, const char *name, const json_t *info, span *out) {
  const json_t *offsets = json_object_get(info, "data_offsets");
  const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
  if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
    return bad_tensor(r, name, "\"data_offsets\" in the header is not a pair of numbers");
  const json_int_t from = json_integer_value(begin), to = json_integer_value(end);
  if (from < 0 || to < from) return bad_tensor(r, name, "\"data_offsets\" is not a range");
  *out = (span){(uint64_t)from, (uint64_t)to, name};
  if (out->end > r->data_bytes)
    return qnet_error_in(r->diag, r->path,
                         "tensor '%s': its data ends at byte %" PRIu64
                         ", the file has only %" PRIu64 "; copy the file again",
                         name, out->end, r->data_bytes);
  return QNET_OK;
}

static qnet_status read_tensor(reader *r, const char *name, const json_t *info) {
  if (!json_is_object(info)) return bad_tensor(r, name, "its description is not an object");
  qnet_dtype dtype = QNET_F32;
  int rank = 0;
  int64_t dim[QNET_BLOB_MAX_RANK] = {0};
  uint64_t elements = 0;
  span where = {0, 0, name};
  QNET_TRY(read_dtype(r, name, info, &dtype));
  QNET_TRY(read_shape(r, name, info, &rank, dim, &elements));
  QNET_TRY(read_offsets(r, name, info, &where));
  const uint64_t needed = elements * (uint64_t)qnet_dtype_bytes(dtype);
  if (needed != where.end - where.begin)
    return qnet_error_in(r->diag, r->path,
                         "tensor '%s': its shape needs %" PRIu64 " bytes, \"data_offsets\" give "
                         "%" PRIu64,
                         name, needed, where.end - where.begin);
  qnet_tensor_file *const f = r->file;
  qnet_blob *blob = qnet_blob_create(f->allocator, dtype, rank, dim);
  char *copy = blob ? qnet_tensor_file_copy_text(f->allocator, name) : NULL;
  if (!copy) {
    qnet_blob_release(blob);
    return qnet_out_of_memory(r->diag);
  }
  if (needed) memcpy(blob->data, r->data + where.begin, (size_t)needed);
  r->spans[f->count] = where;
  f->entry[f->count++] = (qnet_tensor_entry){copy, blob};
  return QNET_OK;
}

/* ---- the header ---------------------------------------------------------------------------- */

static int compare_spans(const void *a, const void *b) {
  const span *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->end < y->end ? -1 : x->end > y->end;
}

static int compare_entries(const void *a, const void *b) {
  return strcmp(((const qnet_tensor_entry *)a)->name, ((const qnet_tensor_entry *)b)->name);
}

/* The tensors must cover the data exactly. */
static qnet_status check_coverage(const reader *r) {
  const size_t count = r->file->count;
  if (count) qsort(r->spans, count, sizeof *r->spans, compare_spans);
  uint64_t at = 0;
  for (size_t i = 0; i < count; i++) {
    const span *s = &r->spans[i];
    if (s->begin != at)
      return bad_tensor(r, s->name,
                        s->begin < at ? "its data overlaps another tensor's"
                                      : "there is a gap before its data");
    at = s->end;
  }
  if (at != r->data_bytes)
    return qnet_error_in(r->diag, r->path, "%" PRIu64 " bytes of data belong to no tensor",
                         r->data_bytes - at);
  return QNET_OK;
}

static int compare_pairs(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Filled and then sorted: inserting one by one would let a hostile file take quadratic time. */
static qnet_status read_metadata(const reader *r, json_t *metadata) {
  if (!json_is_object(metadata))
    return qnet_error_in(r->diag, r->path, "__metadata__ in the header is not an object");
  qnet_tensor_file *const f = r->file;
  const size_t count = json_object_size(metadata);
  if (count == 0) return QNET_OK;
  f->meta = qnet_alloc_array(f->allocator, count, 2 * sizeof *f->meta);
  if (!f->meta) return qnet_out_of_memory(r->diag);
  f->meta_count = count; /* from now on qnet_tensor_file_free sees the texts, or NULL */
  char **next = f->meta;
  const char *key;
  json_t *value;
  json_object_foreach(metadata, key, value) {
    if (!json_is_string(value))
      return qnet_error_in(r->diag, r->path, "metadata '%s' is not a string", key);
    *next++ = qnet_tensor_file_copy_text(f->allocator, key);
    *next++ = qnet_tensor_file_copy_text(f->allocator, json_string_value(value));
    if (!next[-2] || !next[-1]) return qnet_out_of_memory(r->diag);
  }
  qsort(f->meta, count, 2 * sizeof *f->meta, compare_pairs);
  return QNET_OK;
}

static qnet_status read_entries(reader *r, json_t *header) {
  const char *name;
  json_t *info;
  json_object_foreach(header, name, info) {
    if (strcmp(name, QNET_SAFETENSORS_METADATA) == 0)
      QNET_TRY(read_metadata(r, info));
    else
      QNET_TRY(read_tensor(r, name, info));
  }
  QNET_TRY(check_coverage(r));
  qnet_tensor_file *const f = r->file;
  if (f->count) qsort(f->entry, f->count, sizeof *f->entry, compare_entries);
  return QNET_OK;
}

static qnet_status read_header(reader *r, const char *text, size_t length) {
  json_error_t error;
  json_t *header = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  if (!header && json_error_code(&error) == json_error_out_of_memory)
    return qnet_out_of_memory(r->diag);
  if (!header)
    return qnet_error_in(r->diag, r->path, "the header is not valid JSON (byte %d): %s",
                         error.position, error.text);
  qnet_status status = QNET_OK;
  const size_t count = json_object_size(header);
  r->spans = qnet_alloc_array(r->file->allocator, count, sizeof *r->spans);
  if (!json_is_object(header))
    status = qnet_error_in(r->diag, r->path, "the header is not a JSON object");
  else if (!r->spans || !qnet_tensor_file_reserve(r->file, count))
    status = qnet_out_of_memory(r->diag);
  else
    status = read_entries(r, header);
  qnet_free(r->file->allocator, r->spans, count * sizeof *r->spans);
  json_decref(header);
  return status;
}

static qnet_status read_content(reader *r, const char *content, size_t size) {
  uint64_t length;
  if (size < sizeof length)
    return qnet_error_in(r->diag, r->path, "not a safetensors file: it has only %zu bytes", size);
  memcpy(&length, content, sizeof length);
  if (length > max_header || content[sizeof length] != '{')
    return qnet_error_in(r->diag, r->path,
                         "not a safetensors file: it does not begin with a header");
  if (length > size - sizeof length)
    return qnet_error_in(r->diag, r->path,
                         "the file ends within its header (%" PRIu64 " bytes); copy it again",
                         length);
  r->data = content + sizeof length + length;
  r->data_bytes = size - sizeof length - length;
  return read_header(r, content + sizeof length, (size_t)length);
}

qnet_status qnet_tensor_file_read(qnet_tensor_file *f, const char *path, qnet_diag *d) {
  qnet_tensor_file_free(f);
  char *content;
  size_t size;
  QNET_TRY(qnet_file_read(f->allocator, path, max_file, &content, &size, d));
  reader r = {.file = f, .path = path, .diag = d};
  const qnet_status status = read_content(&r, content, size);
  qnet_free(f->allocator, content, size + 1);
  if (status != QNET_OK) qnet_tensor_file_free(f);
  return status;
}
