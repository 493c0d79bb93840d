/* Interned strings and types of a module: equal ones are one pointer. */
#include "ir/intern.h"
#include <string.h>

enum { FIRST_CAPACITY = 64 };

uint32_t qnet_hash_bytes(uint32_t seed, const void *data, size_t size) {
  const unsigned char *p = data;
  uint32_t h = seed;
  for (size_t i = 0; i < size; i++)
    h = (h ^ p[i]) * 0x01000193u;
  return h;
}

static bool is_crowded(size_t count, size_t capacity) {
  return (count + 1) * 4 > capacity * 3;
}

static size_t grown(size_t capacity) {
  return capacity ? capacity * 2 : FIRST_CAPACITY;
}

/* ---- strings --------------------------------------------------------------------------------- */

static qnet_string_entry *string_slot(qnet_string_entry *table, size_t capacity, const char *text,
                                      uint32_t hash) {
  size_t i = hash & (capacity - 1);
  while (table[i].text && (table[i].hash != hash || strcmp(table[i].text, text) != 0))
    i = (i + 1) & (capacity - 1);
  return &table[i];
}

static bool strings_grow(qnet_module *m) {
  struct qnet_interned *in = m->interned;
  const size_t capacity = grown(in->string_capacity);
  qnet_string_entry *table = qnet_alloc_array(m->allocator, capacity, sizeof *table);
  if (!table) return false;
  for (size_t i = 0; i < in->string_capacity; i++) {
    const qnet_string_entry *e = &in->string[i];
    if (e->text) *string_slot(table, capacity, e->text, e->hash) = *e;
  }
  qnet_free(m->allocator, in->string, in->string_capacity * sizeof *table);
  in->string = table;
  in->string_capacity = capacity;
  return true;
}

qnet_string_entry *qnet_string_lookup(const qnet_module *m, const char *text) {
  const struct qnet_interned *in = m->interned;
  if (!text || in->string_capacity == 0) return NULL;
  const uint32_t hash = qnet_hash_bytes(QNET_HASH_SEED, text, strlen(text));
  qnet_string_entry *e = string_slot(in->string, in->string_capacity, text, hash);
  return e->text ? e : NULL;
}

qnet_string_entry *qnet_string_enter(qnet_module *m, const char *text) {
  struct qnet_interned *in = m->interned;
  if (!text) return NULL;
  if (is_crowded(in->string_count, in->string_capacity) && !strings_grow(m)) {
    m->failed = true;
    return NULL;
  }
  const uint32_t hash = qnet_hash_bytes(QNET_HASH_SEED, text, strlen(text));
  qnet_string_entry *e = string_slot(in->string, in->string_capacity, text, hash);
  if (e->text) return e;
  const char *copy = qnet_arena_strdup(&m->arena, text);
  if (!copy) {
    m->failed = true;
    return NULL;
  }
  *e = (qnet_string_entry){.text = copy, .hash = hash};
  in->string_count++;
  return e;
}

const char *qnet_module_string(qnet_module *m, const char *text) {
  const qnet_string_entry *e = qnet_string_enter(m, text);
  return e ? e->text : NULL;
}

/* ---- types ----------------------------------------------------------------------------------- */

/* Unused dimensions are 0, and the table's name is interned, so that all fields count. */
static uint32_t type_hash(const qnet_type *t) {
  const int32_t head[] = {(int32_t)t->kind, (int32_t)t->dtype, t->bits, t->rank};
  uint32_t h = qnet_hash_bytes(QNET_HASH_SEED, head, sizeof head);
  h = qnet_hash_bytes(h, t->dim, sizeof t->dim);
  return qnet_hash_bytes(h, &t->table, sizeof t->table);
}

static const qnet_type **type_slot(const qnet_type **table, size_t capacity, const qnet_type *t) {
  size_t i = type_hash(t) & (capacity - 1);
  while (table[i] && !qnet_type_equal(table[i], t))
    i = (i + 1) & (capacity - 1);
  return &table[i];
}

static bool types_grow(qnet_module *m) {
  struct qnet_interned *in = m->interned;
  const size_t capacity = grown(in->type_capacity);
  const qnet_type **table = qnet_alloc_array(m->allocator, capacity, sizeof *table);
  if (!table) return false;
  for (size_t i = 0; i < in->type_capacity; i++)
    if (in->type[i]) *type_slot(table, capacity, in->type[i]) = in->type[i];
  qnet_free(m->allocator, in->type, in->type_capacity * sizeof *table);
  in->type = table;
  in->type_capacity = capacity;
  return true;
}

static const qnet_type *intern_type(qnet_module *m, const qnet_type *t) {
  struct qnet_interned *in = m->interned;
  if (is_crowded(in->type_count, in->type_capacity) && !types_grow(m)) {
    m->failed = true;
    return NULL;
  }
  const qnet_type **slot = type_slot(in->type, in->type_capacity, t);
  if (*slot) return *slot;
  qnet_type *copy = qnet_arena_alloc(&m->arena, sizeof *copy);
  if (!copy) {
    m->failed = true;
    return NULL;
  }
  *copy = *t;
  *slot = copy;
  in->type_count++;
  return copy;
}

static const qnet_type *shaped(qnet_module *m, qnet_type t, int rank, const int64_t *dim) {
  if (rank < 0 || rank > QNET_MAX_RANK) {
    m->failed = true;
    return NULL;
  }
  t.rank = rank;
  for (int i = 0; i < rank; i++)
    t.dim[i] = dim[i];
  return intern_type(m, &t);
}

const qnet_type *qnet_type_tensor(qnet_module *m, qnet_dtype dtype, int rank, const int64_t *dim) {
  return shaped(m, (qnet_type){.kind = QNET_TYPE_TENSOR, .dtype = dtype}, rank, dim);
}

const qnet_type *qnet_type_codes(qnet_module *m, int bits, const char *table, int rank,
                                 const int64_t *dim) {
  const qnet_type t = {.kind = QNET_TYPE_TENSOR,
                       .dtype = QNET_CODE,
                       .bits = bits,
                       .table = qnet_module_string(m, table)};
  return t.table ? shaped(m, t, rank, dim) : NULL;
}

const qnet_type *qnet_type_planes(qnet_module *m, int planes, int rank, const int64_t *dim) {
  const qnet_type t = {.kind = QNET_TYPE_PLANES, .dtype = QNET_U64, .bits = planes};
  return shaped(m, t, rank, dim);
}

const qnet_type *qnet_type_scalar(qnet_module *m, qnet_dtype dtype) {
  return shaped(m, (qnet_type){.kind = QNET_TYPE_SCALAR, .dtype = dtype}, 0, NULL);
}

const qnet_type *qnet_type_vector(qnet_module *m, qnet_dtype dtype, int64_t lanes) {
  return shaped(m, (qnet_type){.kind = QNET_TYPE_VECTOR, .dtype = dtype}, 1, &lanes);
}

const qnet_type *qnet_type_buffer(qnet_module *m, qnet_dtype dtype, int rank, const int64_t *dim) {
  return shaped(m, (qnet_type){.kind = QNET_TYPE_BUFFER, .dtype = dtype}, rank, dim);
}

const qnet_type *qnet_type_import(qnet_module *m, const qnet_type *type) {
  if (!type) return NULL;
  qnet_type t = *type;
  if (t.table && !(t.table = qnet_module_string(m, t.table))) return NULL;
  return intern_type(m, &t);
}

const qnet_type *qnet_type_with_batch(qnet_module *m, const qnet_type *type, int64_t batch) {
  if (!type) return NULL;
  qnet_type t = *type;
  if (t.rank > 0) t.dim[0] = batch;
  return intern_type(m, &t);
}

bool qnet_type_equal(const qnet_type *a, const qnet_type *b) {
  if (a == b) return true;
  if (!a || !b || a->kind != b->kind || a->dtype != b->dtype || a->bits != b->bits) return false;
  if (a->rank != b->rank || !a->table != !b->table) return false;
  for (int i = 0; i < a->rank; i++)
    if (a->dim[i] != b->dim[i]) return false;
  return !a->table || strcmp(a->table, b->table) == 0;
}

int64_t qnet_type_elements(const qnet_type *type) {
  int64_t n = 1;
  for (int i = 0; i < type->rank; i++)
    if (__builtin_mul_overflow(n, type->dim[i], &n)) return INT64_MAX;
  return n;
}

int64_t qnet_type_bytes(const qnet_type *type) {
  return qnet_dtype_bytes(type->dtype);
}

int qnet_type_blob_shape(const qnet_type *type, int64_t dim[QNET_BLOB_MAX_RANK]) {
  int rank = type->rank;
  for (int i = 0; i < rank; i++)
    dim[i] = type->dim[i];
  if (type->kind != QNET_TYPE_PLANES || rank == 0 || rank >= QNET_BLOB_MAX_RANK) return rank;
  const int64_t channels = dim[rank - 1];
  dim[rank - 1] = type->bits;
  dim[rank] = (channels + 63) / 64;
  return rank + 1;
}

qnet_blob *qnet_type_new_blob(const qnet_allocator *a, const qnet_type *type) {
  int64_t dim[QNET_BLOB_MAX_RANK];
  const int rank = qnet_type_blob_shape(type, dim);
  return qnet_blob_create(a, type->dtype, rank, dim);
}

void qnet_interned_free(qnet_module *m) {
  struct qnet_interned *in = m->interned;
  if (!in) return;
  qnet_free(m->allocator, in->string, in->string_capacity * sizeof *in->string);
  qnet_free(m->allocator, in->type, in->type_capacity * sizeof *in->type);
  m->interned = NULL;
}
