/* The file is a .safetensors: batch [n], hashes, and logits [n, batch, classes] in the order in
 * which they came; as metadata who made them, and a checksum. */
#include "driver/teacher_cache.h"
#include "runtime/safetensors.h"
#include "support/file.h"

#include <string.h>
#include <unistd.h>

static const char hash_name[] = "batch", logits_name[] = "logits", maker_key[] = "teacher",
                  checksum_key[] = "checksum";
enum { FIRST_ROOM = 64 };

struct qnet_teacher_cache {
  const qnet_allocator *allocator;
  const char *path;
  char maker[96];
  int64_t batch, classes, count;
  int64_t next;             /* behind the one found last */
  qnet_blob *hash, *logits; /* of `count` and some room */
  bool changed;
};

/* ---- rows -------------------------------------------------------------------------------------*/

static int64_t room_of(const qnet_teacher_cache *c) {
  return c->hash ? c->hash->dim[0] : 0;
}

/* Copies of both with this many rows, `count` of them filled. */
static bool copy_rows(const qnet_teacher_cache *c, int64_t rows, qnet_blob **hash,
                      qnet_blob **logits) {
  const int64_t dim[] = {rows, c->batch, c->classes};
  *hash = qnet_blob_create(c->allocator, QNET_I64, 1, dim);
  *logits = qnet_blob_create(c->allocator, QNET_F32, 3, dim);
  if (!*hash || !*logits) {
    qnet_blob_release(*hash);
    qnet_blob_release(*logits);
    return false;
  }
  const size_t count = (size_t)c->count;
  if (count == 0) return true;
  memcpy((*hash)->data, c->hash->data, count * sizeof(int64_t));
  memcpy((*logits)->data, c->logits->data, count * (size_t)(c->batch * c->classes) * sizeof(float));
  return true;
}

static bool grow(qnet_teacher_cache *c) {
  qnet_blob *hash, *logits;
  if (!copy_rows(c, c->count ? 2 * c->count : FIRST_ROOM, &hash, &logits)) return false;
  qnet_blob_release(c->hash);
  qnet_blob_release(c->logits);
  c->hash = hash;
  c->logits = logits;
  return true;
}

static float *row(const qnet_teacher_cache *c, int64_t i) {
  return (float *)c->logits->data + i * c->batch * c->classes;
}

const float *qnet_teacher_cache_find(qnet_teacher_cache *c, uint64_t batch) {
  const int64_t *hash = c->hash ? c->hash->data : NULL;
  for (int64_t k = 0; k < c->count; k++) {
    const int64_t i = (c->next + k) % c->count;
    if ((uint64_t)hash[i] != batch) continue;
    c->next = i + 1;
    return row(c, i);
  }
  return NULL;
}

qnet_status qnet_teacher_cache_add(qnet_teacher_cache *c, uint64_t batch, const float *logits,
                                   qnet_diag *d) {
  if (c->count == room_of(c) && !grow(c)) return qnet_out_of_memory(d);
  ((int64_t *)c->hash->data)[c->count] = (int64_t)batch;
  memcpy(row(c, c->count), logits, (size_t)(c->batch * c->classes) * sizeof *logits);
  c->count++;
  c->changed = true;
  return QNET_OK;
}

/* ---- the file ---------------------------------------------------------------------------------*/

static bool is_whole(const qnet_tensor_file *f) {
  const qnet_blob *hash = qnet_tensor_file_find(f, hash_name);
  const qnet_blob *logits = qnet_tensor_file_find(f, logits_name);
  const char *sum = qnet_tensor_file_meta(f, checksum_key);
  char now[QNET_CHECKSUM_SIZE];
  qnet_tensor_file_checksum(f, checksum_key, now);
  return hash && logits && sum && strcmp(sum, now) == 0 && hash->dtype == QNET_I64 &&
         hash->rank == 1 && logits->dtype == QNET_F32 && logits->rank == 3 &&
         logits->dim[0] == hash->dim[0];
}

static qnet_status take(qnet_teacher_cache *c, const qnet_tensor_file *f, qnet_diag *d) {
  const char *maker = qnet_tensor_file_meta(f, maker_key);
  if (!is_whole(f) || !maker)
    return qnet_error_in(d, c->path,
                         "not a whole file of a network's answers: remove it, or name another one "
                         "with --distill-cache");
  qnet_blob *hash = qnet_tensor_file_find(f, hash_name);
  qnet_blob *logits = qnet_tensor_file_find(f, logits_name);
  if (strcmp(maker, c->maker) != 0 || logits->dim[1] != c->batch || logits->dim[2] != c->classes)
    return qnet_error_in(
        d, c->path,
        "answers of another network: %s, batches of %lld, %lld classes; here it is "
        "%s, %lld, %lld. Name another file with --distill-cache",
        maker, (long long)logits->dim[1], (long long)logits->dim[2], c->maker, (long long)c->batch,
        (long long)c->classes);
  c->count = hash->dim[0];
  c->hash = qnet_blob_retain(hash);
  c->logits = qnet_blob_retain(logits);
  return QNET_OK;
}

static qnet_status read_file(qnet_teacher_cache *c, qnet_diag *d) {
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, c->allocator);
  qnet_status status = qnet_tensor_file_read(&f, c->path, d);
  if (status == QNET_OK) status = take(c, &f, d);
  qnet_tensor_file_free(&f);
  return status;
}

/* Before hours of training, not after the first epoch: can it be saved there? */
static qnet_status check_place(const qnet_teacher_cache *c, qnet_diag *d) {
  qnet_file_writer *w;
  QNET_TRY(qnet_file_writer_open(c->allocator, c->path, &w, d));
  qnet_file_writer_abort(w);
  return QNET_OK;
}

static qnet_status fill(qnet_teacher_cache *c, qnet_diag *d) {
  qnet_file_remove_stale(c->path);
  QNET_TRY(check_place(c, d));
  return access(c->path, F_OK) == 0 ? read_file(c, d) : QNET_OK;
}

qnet_status qnet_teacher_cache_open(const qnet_allocator *a, const char *path, const char *maker,
                                    const qnet_blob *logits, qnet_teacher_cache **out,
                                    qnet_diag *d) {
  *out = NULL;
  qnet_teacher_cache *c = qnet_alloc(a, sizeof *c);
  if (!c) return qnet_out_of_memory(d);
  *c = (qnet_teacher_cache){
      .allocator = a, .path = path, .batch = logits->dim[0], .classes = logits->dim[1]};
  snprintf(c->maker, sizeof c->maker, "%s", maker);
  const qnet_status status = fill(c, d);
  if (status == QNET_OK)
    *out = c;
  else
    qnet_teacher_cache_close(c);
  return status;
}

void qnet_teacher_cache_close(qnet_teacher_cache *c) {
  if (!c) return;
  qnet_blob_release(c->hash);
  qnet_blob_release(c->logits);
  qnet_free(c->allocator, c, sizeof *c);
}

static qnet_status describe(const qnet_teacher_cache *c, qnet_blob *hash, qnet_blob *logits,
                            qnet_tensor_file *f) {
  char sum[QNET_CHECKSUM_SIZE];
  QNET_TRY(qnet_tensor_file_set(f, hash_name, hash));
  QNET_TRY(qnet_tensor_file_set(f, logits_name, logits));
  QNET_TRY(qnet_tensor_file_set_meta(f, maker_key, c->maker));
  qnet_tensor_file_checksum(f, checksum_key, sum);
  return qnet_tensor_file_set_meta(f, checksum_key, sum);
}

qnet_status qnet_teacher_cache_save(qnet_teacher_cache *c, qnet_diag *d) {
  qnet_blob *hash, *logits;
  if (!c->changed) return QNET_OK;
  if (!copy_rows(c, c->count, &hash, &logits)) return qnet_out_of_memory(d);
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, c->allocator);
  qnet_status status = describe(c, hash, logits, &f);
  status = status == QNET_OK ? qnet_tensor_file_write(&f, c->path, d) : qnet_out_of_memory(d);
  qnet_tensor_file_free(&f);
  qnet_blob_release(hash);
  qnet_blob_release(logits);
  if (status == QNET_OK) c->changed = false;
  return status;
}
