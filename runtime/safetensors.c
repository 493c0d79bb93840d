/* Weights files: the container (entries and metadata sorted by name) and the writer. The reader is
 * in safetensors_read.c.
 *
 * The writer's bytes depend on the content alone: header and data in order of name, the header
 * padded with blanks so that the data begins at a multiple of 8. */
#include "runtime/safetensors.h"
#include "runtime/safetensors_internal.h"
#include "support/file.h"
#include "support/hash.h"
#include "support/strbuf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "blobs are written as they lie in memory");

const qnet_safetensors_dtype qnet_safetensors_dtypes[] = {
    {"F32", QNET_F32}, {"F64", QNET_F64}, {"I8", QNET_I8},   {"U8", QNET_U8},
    {"I16", QNET_I16}, {"I32", QNET_I32}, {"I64", QNET_I64}, {"U64", QNET_U64},
    {"BOOL", QNET_U8}, {"U8", QNET_CODE}, {"U8", QNET_I1},   {NULL, QNET_F32},
};

/* ---- the container ------------------------------------------------------------------------- */

void qnet_tensor_file_init(qnet_tensor_file *f, const qnet_allocator *a) {
  *f = (qnet_tensor_file){.allocator = a};
}

static void free_text(const qnet_allocator *a, char *text) {
  if (text) qnet_free(a, text, strlen(text) + 1);
}

char *qnet_tensor_file_copy_text(const qnet_allocator *a, const char *text) {
  const size_t size = strlen(text) + 1;
  char *copy = qnet_alloc(a, size);
  if (copy) memcpy(copy, text, size);
  return copy;
}

void qnet_tensor_file_free(qnet_tensor_file *f) {
  const qnet_allocator *a = f->allocator;
  for (size_t i = 0; i < f->count; i++) {
    free_text(a, f->entry[i].name);
    qnet_blob_release(f->entry[i].blob);
  }
  for (size_t i = 0; i < 2 * f->meta_count; i++)
    free_text(a, f->meta[i]);
  qnet_free(a, f->entry, f->capacity * sizeof *f->entry);
  qnet_free(a, f->meta, 2 * f->meta_count * sizeof *f->meta);
  qnet_tensor_file_init(f, a);
}

bool qnet_tensor_file_reserve(qnet_tensor_file *f, size_t capacity) {
  if (capacity <= f->capacity) return true;
  if (capacity > SIZE_MAX / sizeof *f->entry) return false;
  void *entry = f->allocator->resize(f->allocator->ctx, f->entry, f->capacity * sizeof *f->entry,
                                     capacity * sizeof *f->entry);
  if (!entry) return false;
  f->entry = entry;
  f->capacity = capacity;
  return true;
}

/* The first entry whose name is not less than `name`. */
static size_t entry_place(const qnet_tensor_file *f, const char *name, bool *found) {
  size_t low = 0, high = f->count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (strcmp(f->entry[middle].name, name) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  *found = low < f->count && strcmp(f->entry[low].name, name) == 0;
  return low;
}

qnet_blob *qnet_tensor_file_find(const qnet_tensor_file *f, const char *name) {
  bool found;
  const size_t at = entry_place(f, name, &found);
  return found ? f->entry[at].blob : NULL;
}

qnet_status qnet_tensor_file_set(qnet_tensor_file *f, const char *name, qnet_blob *blob) {
  if (strcmp(name, QNET_SAFETENSORS_METADATA) == 0) return QNET_INTERNAL;
  bool found;
  const size_t at = entry_place(f, name, &found);
  if (found) {
    qnet_blob_retain(blob); /* first: it may be the same one */
    qnet_blob_release(f->entry[at].blob);
    f->entry[at].blob = blob;
    return QNET_OK;
  }
  if (f->count == f->capacity && !qnet_tensor_file_reserve(f, f->count ? 2 * f->count : 16))
    return QNET_NO_MEMORY;
  char *copy = qnet_tensor_file_copy_text(f->allocator, name);
  if (!copy) return QNET_NO_MEMORY;
  memmove(f->entry + at + 1, f->entry + at, (f->count - at) * sizeof *f->entry);
  f->entry[at] = (qnet_tensor_entry){copy, qnet_blob_retain(blob)};
  f->count++;
  return QNET_OK;
}

static size_t meta_place(const qnet_tensor_file *f, const char *key, bool *found) {
  size_t at = 0;
  while (at < f->meta_count && strcmp(f->meta[2 * at], key) < 0)
    at++;
  *found = at < f->meta_count && strcmp(f->meta[2 * at], key) == 0;
  return at;
}

const char *qnet_tensor_file_meta(const qnet_tensor_file *f, const char *key) {
  bool found;
  const size_t at = meta_place(f, key, &found);
  return found ? f->meta[2 * at + 1] : NULL;
}

/* Makes room for a pair at place `at`; takes over the two texts. */
static bool meta_insert(qnet_tensor_file *f, size_t at, char *key, char *value) {
  const size_t pair = 2 * sizeof *f->meta;
  char **meta = f->allocator->resize(f->allocator->ctx, f->meta, f->meta_count * pair,
                                     (f->meta_count + 1) * pair);
  if (!meta) return false;
  f->meta = meta;
  memmove(meta + 2 * at + 2, meta + 2 * at, (f->meta_count - at) * pair);
  meta[2 * at] = key;
  meta[2 * at + 1] = value;
  f->meta_count++;
  return true;
}

qnet_status qnet_tensor_file_set_meta(qnet_tensor_file *f, const char *key, const char *value) {
  bool found;
  const size_t at = meta_place(f, key, &found);
  char *value_copy = qnet_tensor_file_copy_text(f->allocator, value);
  if (!value_copy) return QNET_NO_MEMORY;
  if (found) {
    free_text(f->allocator, f->meta[2 * at + 1]);
    f->meta[2 * at + 1] = value_copy;
    return QNET_OK;
  }
  char *key_copy = qnet_tensor_file_copy_text(f->allocator, key);
  if (key_copy && meta_insert(f, at, key_copy, value_copy)) return QNET_OK;
  free_text(f->allocator, key_copy);
  free_text(f->allocator, value_copy);
  return QNET_NO_MEMORY;
}

/* ---- the writer ---------------------------------------------------------------------------- */

static const char *dtype_name(qnet_dtype dtype) {
  const qnet_safetensors_dtype *row = qnet_safetensors_dtypes;
  while (row->name && row->dtype != dtype)
    row++;
  return row->name;
}

static void put_json_string(qnet_strbuf *b, const char *text) {
  qnet_strbuf_puts(b, "\"");
  for (const char *c = text; *c; c++) {
    if (*c == '"' || *c == '\\')
      qnet_strbuf_printf(b, "\\%c", *c);
    else if ((unsigned char)*c < 0x20)
      qnet_strbuf_printf(b, "\\u%04x", (unsigned)*c);
    else
      qnet_strbuf_append(b, c, 1);
  }
  qnet_strbuf_puts(b, "\"");
}

static void put_metadata(qnet_strbuf *b, const qnet_tensor_file *f) {
  qnet_strbuf_puts(b, "\"" QNET_SAFETENSORS_METADATA "\":{");
  for (size_t i = 0; i < f->meta_count; i++) {
    if (i) qnet_strbuf_puts(b, ",");
    put_json_string(b, f->meta[2 * i]);
    qnet_strbuf_puts(b, ":");
    put_json_string(b, f->meta[2 * i + 1]);
  }
  qnet_strbuf_puts(b, "}");
}

static void put_entry(qnet_strbuf *b, const qnet_tensor_entry *entry, uint64_t offset) {
  const qnet_blob *blob = entry->blob;
  put_json_string(b, entry->name);
  qnet_strbuf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(blob->dtype));
  for (int i = 0; i < blob->rank; i++)
    qnet_strbuf_printf(b, "%s%" PRId64, i ? "," : "", blob->dim[i]);
  qnet_strbuf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset,
                     offset + blob->bytes);
}

static void put_header(qnet_strbuf *b, const qnet_tensor_file *f) {
  uint64_t offset = 0;
  qnet_strbuf_puts(b, "{");
  if (f->meta_count) put_metadata(b, f);
  for (size_t i = 0; i < f->count; i++) {
    if (i || f->meta_count) qnet_strbuf_puts(b, ",");
    put_entry(b, &f->entry[i], offset);
    offset += f->entry[i].blob->bytes;
  }
  qnet_strbuf_puts(b, "}");
  while (b->length % 8 && !b->failed)
    qnet_strbuf_puts(b, " ");
}

static void write_content(qnet_file_writer *w, const qnet_strbuf *header,
                          const qnet_tensor_file *f) {
  const uint64_t length = header->length;
  qnet_file_writer_write(w, &length, sizeof length);
  qnet_file_writer_write(w, header->data, header->length);
  for (size_t i = 0; i < f->count; i++) {
    const qnet_blob *blob = f->entry[i].blob;
    qnet_file_writer_write(w, blob->data, blob->bytes);
  }
}

qnet_status qnet_tensor_file_replace(const qnet_tensor_file *f, const char *path,
                                     const char *previous, qnet_diag *d) {
  qnet_strbuf header;
  qnet_strbuf_init(&header, f->allocator);
  put_header(&header, f);
  qnet_file_writer *w = NULL;
  qnet_status status = header.failed ? qnet_out_of_memory(d) : QNET_OK;
  if (status == QNET_OK) status = qnet_file_writer_open(f->allocator, path, &w, d);
  if (status == QNET_OK) {
    if (previous) qnet_file_writer_keep(w, previous);
    write_content(w, &header, f);
    status = qnet_file_writer_commit(w);
  }
  qnet_strbuf_free(&header);
  return status;
}

qnet_status qnet_tensor_file_write(const qnet_tensor_file *f, const char *path, qnet_diag *d) {
  return qnet_tensor_file_replace(f, path, NULL, d);
}

/* ---- checksum ---------------------------------------------------------------------------------*/

void qnet_tensor_file_checksum(const qnet_tensor_file *f, const char *own_key,
                               char out[QNET_CHECKSUM_SIZE]) {
  uint64_t h = QNET_HASH_START;
  for (size_t i = 0; i < f->meta_count; i++) {
    if (strcmp(f->meta[2 * i], own_key) == 0) continue;
    h = qnet_content_hash_text(h, f->meta[2 * i]);
    h = qnet_content_hash_text(h, f->meta[2 * i + 1]);
  }
  for (size_t i = 0; i < f->count; i++) {
    const qnet_blob *b = f->entry[i].blob;
    h = qnet_content_hash_text(h, f->entry[i].name);
    h = qnet_content_hash(h, b->dim, sizeof *b->dim * (size_t)b->rank);
    h = qnet_content_hash(h, b->data, b->bytes);
  }
  snprintf(out, QNET_CHECKSUM_SIZE, "%016" PRIx64, h);
}
