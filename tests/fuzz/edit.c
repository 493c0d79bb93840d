/* Edits that keep a weights file a weights file: what lies behind its front door gets the blows. */
#include "tests/fuzz/fuzz.h"
#include <math.h>
#include <string.h>

typedef struct editor {
  qnet_tensor_file *file;
  uint64_t random;
} editor;

static size_t below(editor *e, size_t n) { /* splitmix64 */
  uint64_t z = e->random += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return n ? (size_t)((z ^ z >> 31) % n) : 0;
}

static void flip_byte(editor *e, const qnet_blob *b) {
  if (b->bytes) ((uint8_t *)b->data)[below(e, b->bytes)] ^= (uint8_t)(1 + below(e, 255));
}

static void set_element(editor *e, const qnet_blob *b) {
  static const float floats[] = {0, -0.0f, 1, -1, 1e-45f, 3e38f, -3e38f, INFINITY, NAN};
  const int64_t values[] = {0, -1, 1, INT64_MAX, INT64_MIN, 1 << 20};
  const size_t width = (size_t)qnet_dtype_bytes(b->dtype), count = width ? b->bytes / width : 0;
  if (!count) return;
  char *to = (char *)b->data + below(e, count) * width;
  if (b->dtype == QNET_F32)
    memcpy(to, &floats[below(e, sizeof floats / sizeof floats[0])], width);
  else
    memcpy(to, &values[below(e, sizeof values / sizeof values[0])], width);
}

/* Another shape: of fewer dimensions, or one longer. */
static void reshape(editor *e, const char *name, const qnet_blob *old) {
  int64_t dim[QNET_BLOB_MAX_RANK] = {0};
  int rank = old->rank;
  memcpy(dim, old->dim, sizeof dim[0] * (size_t)rank);
  if (rank > 0 && below(e, 3) == 0)
    rank--;
  else if (rank > 0)
    dim[below(e, (size_t)rank)] += 1;
  qnet_blob *b = qnet_blob_create(e->file->allocator, old->dtype, rank, dim);
  if (!b) return;
  memcpy(b->data, old->data, b->bytes < old->bytes ? b->bytes : old->bytes);
  qnet_tensor_file_set(e->file, name, b);
  qnet_blob_release(b);
}

static void edit_metadata(editor *e) {
  static const char *const values[] = {"",          "0",   "1",          "2",   "-1",
                                       "999999999", "nan", "0x1p+1023",  "2/2", "lqnets 2",
                                       "lqnets 9",  "lsq", "uniform 256"};
  if (!e->file->meta_count) return;
  const char *key = e->file->meta[2 * below(e, e->file->meta_count)];
  char copy[256];
  snprintf(copy, sizeof copy, "%s", key);
  qnet_tensor_file_set_meta(e->file, copy, values[below(e, sizeof values / sizeof values[0])]);
}

void fuzz_edit_tensors(qnet_tensor_file *f, uint64_t random) {
  editor e = {f, random};
  size_t times = 1;
  while (times < 8 && below(&e, 2))
    times++;
  for (size_t i = 0; i < times && f->count; i++) {
    const qnet_tensor_entry *entry = &f->entry[below(&e, f->count)];
    switch (below(&e, 8)) {
    case 0: edit_metadata(&e); break;
    case 1: reshape(&e, entry->name, entry->blob); break;
    case 2:
    case 3: flip_byte(&e, entry->blob); break;
    default: set_element(&e, entry->blob);
    }
  }
}
