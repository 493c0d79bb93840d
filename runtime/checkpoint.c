/* Writing and reading checkpoints. */
#include "runtime/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECKSUM "run.checksum"
#define VERSION  "run.version"
#define METRICS  "run.metrics"

static const char version[] = "1";

/* ---- the position -----------------------------------------------------------------------------
 */

/* The members of qnet_run_position as metadata: whole numbers, and doubles to the last bit. */
static const struct member {
  const char *name;
  size_t offset;
  bool is_float;
} members[] = {
    {"run.epoch", offsetof(qnet_run_position, epoch), false},
    {"run.step", offsetof(qnet_run_position, step), false},
    {"run.correct", offsetof(qnet_run_position, correct), false},
    {"run.loss", offsetof(qnet_run_position, loss), true},
    {"run.best_epoch", offsetof(qnet_run_position, best_epoch), false},
    {"run.best_correct", offsetof(qnet_run_position, best_correct), false},
    {"run.last_correct", offsetof(qnet_run_position, last_correct), false},
    {"run.last_loss", offsetof(qnet_run_position, last_loss), true},
};
enum { MEMBERS = sizeof members / sizeof *members };

static qnet_status put_position(qnet_tensor_file *f, const qnet_run_position *at) {
  for (int i = 0; i < MEMBERS; i++) {
    const void *member = (const char *)at + members[i].offset;
    char text[64];
    if (members[i].is_float)
      snprintf(text, sizeof text, "%a", *(const double *)member);
    else
      snprintf(text, sizeof text, "%" PRId64, *(const int64_t *)member);
    QNET_TRY(qnet_tensor_file_set_meta(f, members[i].name, text));
  }
  return QNET_OK;
}

static bool get_member(const qnet_tensor_file *f, const struct member *m, void *out) {
  const char *text = qnet_tensor_file_meta(f, m->name);
  if (!text || !*text) return false;
  char *end = NULL;
  errno = 0;
  if (m->is_float) {
    *(double *)out = strtod(text, &end);
    return !*end && isfinite(*(double *)out);
  }
  *(int64_t *)out = strtoll(text, &end, 10);
  return !*end && !errno && *(int64_t *)out >= 0;
}

static bool get_position(const qnet_tensor_file *f, qnet_run_position *at) {
  for (int i = 0; i < MEMBERS; i++)
    if (!get_member(f, &members[i], (char *)at + members[i].offset)) return false;
  return true;
}

/* ---- fields -----------------------------------------------------------------------------------
 */

static void field_key(const qnet_run_field *field, char key[64]) {
  snprintf(key, 64, "same.%s", field->name);
}

static qnet_status put_fields(qnet_tensor_file *f, const qnet_train_options *o) {
  for (int i = 0; i < o->field_count; i++) {
    char key[64];
    field_key(&o->field[i], key);
    QNET_TRY(qnet_tensor_file_set_meta(f, key, o->field[i].value));
  }
  return QNET_OK;
}

static qnet_status check_fields(const qnet_tensor_file *f, const char *path,
                                const qnet_train_options *o, qnet_diag *d) {
  qnet_status status = QNET_OK;
  for (int i = 0; i < o->field_count; i++) {
    char key[64];
    field_key(&o->field[i], key);
    const char *was = qnet_tensor_file_meta(f, key);
    if (was && strcmp(was, o->field[i].value) == 0) continue;
    status = qnet_error_in(d, path, "of another run: its %s is %s, here it is %s", o->field[i].name,
                           was ? was : "not recorded", o->field[i].value);
  }
  if (status != QNET_OK)
    qnet_note(d, QNET_NO_LOC,
              "repeat the options of the interrupted run to go on with it, or leave "
              "--resume out to start anew");
  return status;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static qnet_status put_metrics(qnet_tensor_file *f, const qnet_strbuf *metrics) {
  const int64_t length = (int64_t)metrics->length;
  qnet_blob *b = qnet_blob_create(f->allocator, QNET_U8, 1, &length);
  if (!b) return QNET_NO_MEMORY;
  if (length) memcpy(b->data, metrics->data, metrics->length);
  const qnet_status status = qnet_tensor_file_set(f, METRICS, b);
  qnet_blob_release(b);
  return status;
}

static qnet_status put_run(qnet_tensor_file *f, const qnet_train_options *o,
                           const qnet_run_position *at, const qnet_strbuf *metrics) {
  QNET_TRY(qnet_tensor_file_set_meta(f, VERSION, version));
  QNET_TRY(put_fields(f, o));
  QNET_TRY(put_position(f, at));
  QNET_TRY(put_metrics(f, metrics));
  char sum[QNET_CHECKSUM_SIZE];
  qnet_tensor_file_checksum(f, CHECKSUM, sum);
  return qnet_tensor_file_set_meta(f, CHECKSUM, sum);
}

qnet_status qnet_checkpoint_write(const qnet_engine *engine, const qnet_train_options *options,
                                  const qnet_run_position *at, const qnet_strbuf *metrics,
                                  qnet_diag *d) {
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, metrics->allocator);
  qnet_status status = engine->store(engine->ctx, &f, d);
  if (status == QNET_OK && put_run(&f, options, at, metrics) != QNET_OK)
    status = qnet_out_of_memory(d);
  if (status == QNET_OK)
    status = qnet_tensor_file_replace(&f, options->checkpoint, options->previous_checkpoint, d);
  qnet_tensor_file_free(&f);
  return status;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

/* Reads a file and checks that it is a whole checkpoint. */
static qnet_status read_whole(qnet_tensor_file *f, const char *path, qnet_run_position *at,
                              qnet_diag *d) {
  QNET_TRY(qnet_tensor_file_read(f, path, d));
  const char *made = qnet_tensor_file_meta(f, VERSION), *sum = qnet_tensor_file_meta(f, CHECKSUM);
  if (!made || !sum) return qnet_error_in(d, path, "not a checkpoint of a training run");
  if (strcmp(made, version) != 0)
    return qnet_error_in(d, path, "a checkpoint of version %s; this qnetc reads version %s", made,
                         version);
  char now[QNET_CHECKSUM_SIZE];
  qnet_tensor_file_checksum(f, CHECKSUM, now);
  const qnet_blob *metrics = qnet_tensor_file_find(f, METRICS);
  if (strcmp(sum, now) != 0 || !get_position(f, at) || !metrics || metrics->dtype != QNET_U8)
    return qnet_error_in(d, path, "the checkpoint is damaged: its checksum does not fit");
  return QNET_OK;
}

/* The newest whole checkpoint; *path says which one. A damaged newest one is only a warning while
 * its predecessor is good. */
static qnet_status read_newest(qnet_tensor_file *f, const qnet_train_options *o,
                               qnet_run_position *at, const char **path, qnet_diag *d) {
  const bool older = access(o->previous_checkpoint, F_OK) == 0;
  *path = o->checkpoint;
  if (access(o->checkpoint, F_OK) == 0) {
    /* Where there is no other, the reader itself reports what is wrong. */
    const qnet_status status = read_whole(f, *path, at, older ? NULL : d);
    if (status == QNET_NO_MEMORY) return qnet_out_of_memory(d);
    if (status == QNET_OK || !older) return status;
    qnet_warning_in(d, *path, "the checkpoint is damaged or cut short; going on from %s",
                    o->previous_checkpoint);
  }
  *path = o->previous_checkpoint;
  return read_whole(f, *path, at, d);
}

static qnet_status take_run(const qnet_tensor_file *f, const char *path, const qnet_engine *engine,
                            const qnet_train_options *o, qnet_strbuf *metrics, qnet_diag *d) {
  QNET_TRY(check_fields(f, path, o, d));
  const qnet_blob *text = qnet_tensor_file_find(f, METRICS);
  qnet_strbuf_append(metrics, text->data, text->bytes);
  if (metrics->failed) return qnet_out_of_memory(d);
  return engine->restore(engine->ctx, f, path, d);
}

qnet_status qnet_checkpoint_read(const qnet_engine *engine, const qnet_train_options *options,
                                 qnet_run_position *at, qnet_strbuf *metrics, bool *found,
                                 qnet_diag *d) {
  const qnet_train_options *const o = options;
  *found = access(o->checkpoint, F_OK) == 0 || access(o->previous_checkpoint, F_OK) == 0;
  if (!*found) return QNET_OK;
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, metrics->allocator);
  const char *path = NULL;
  qnet_run_position read = {0};
  qnet_status status = read_newest(&f, o, &read, &path, d);
  if (status == QNET_OK) status = take_run(&f, path, engine, o, metrics, d);
  if (status == QNET_OK) *at = read;
  qnet_tensor_file_free(&f);
  return status;
}
