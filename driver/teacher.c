/* The teacher runs as a fast plan of @eval, with the running statistics of its batch_norms. */
#include "driver/teacher.h"
#include "codegen/plan.h"
#include "driver/predictor.h"
#include "driver/weight_names.h"
#include "driver/weights.h"
#include "passes/pass.h"

#include <string.h>

/* One batch of a set that is labelled. */
typedef struct label_room {
  uint8_t *images;
  uint32_t *index;
  int32_t *classes;
} label_room;

struct qnet_teacher {
  const qnet_allocator *allocator;
  qnet_module *module;
  qnet_plan *plan;
};

static const char *weights_of(const qnet_options *o) {
  return o->distill || !o->no_labels ? o->distill : o->init;
}

/* Such weights are not good for anything but their codes. */
static void warn_quantized(const qnet_tensor_file *f, const char *path, qnet_diag *d) {
  const char *quantizer = qnet_tensor_file_meta(f, "qnet.quantizer");
  const char *bits = qnet_tensor_file_meta(f, "qnet.bits");
  if (quantizer && strcmp(quantizer, "none") != 0)
    qnet_warning_in(d, path,
                    "these weights were trained for quantizers (%s, %s bits), which the network "
                    "that is followed has not; name those of the f32 network",
                    quantizer, bits ? bits : "?");
}

static qnet_status load(qnet_session *s, qnet_module *m) {
  const char *const path = weights_of(&s->options), *const init = s->options.init;
  const bool listed = init && strcmp(path, init) == 0; /* by those who start from it */
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, s->allocator);
  qnet_status status = qnet_tensor_file_read(&f, path, s->diag);
  if (status == QNET_OK)
    status = qnet_weight_names_match(m, &f, s->options.map, path, !listed, s->diag);
  if (status == QNET_OK) status = qnet_weights_load(m, &f, path, s->diag);
  if (status == QNET_OK) warn_quantized(&f, path, s->diag);
  qnet_tensor_file_free(&f);
  return status;
}

static qnet_status prepare(qnet_session *s, const qnet_program *p, qnet_teacher *t) {
  t->module = qnet_module_clone(p->module);
  if (!t->module) return qnet_out_of_memory(s->diag);
  QNET_TRY(load(s, t->module));
  char pipeline[64];
  snprintf(pipeline, sizeof pipeline, "%sfold-batch-norm,batch{n=%d}",
           p->recipe.feature_weight > 0 ? "expose-features," : "", p->recipe.batch);
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(t->module, pipeline, &options, NULL, s->diag));
  return qnet_plan_create(t->module, "eval", QNET_PLAN_FAST, &t->plan, s->diag);
}

qnet_status qnet_teacher_create(qnet_session *s, const qnet_program *p, qnet_teacher **out) {
  *out = NULL;
  if (!weights_of(&s->options)) return QNET_OK;
  qnet_teacher *t = qnet_alloc(s->allocator, sizeof *t);
  if (!t) return qnet_out_of_memory(s->diag);
  t->allocator = s->allocator;
  const qnet_status status = prepare(s, p, t);
  if (status == QNET_OK)
    *out = t;
  else
    qnet_teacher_destroy(t);
  return status;
}

void qnet_teacher_destroy(qnet_teacher *t) {
  if (!t) return;
  if (t->plan) qnet_plan_destroy(t->plan);
  qnet_module_destroy(t->module);
  qnet_free(t->allocator, t, sizeof *t);
}

qnet_status qnet_teacher_logits(qnet_teacher *t, const uint8_t *images, const qnet_blob **out,
                                qnet_diag *d) {
  qnet_blob *image = qnet_plan_argument(t->plan, 0);
  memcpy(image->data, images, image->bytes);
  QNET_TRY(qnet_plan_run(t->plan, d));
  *out = qnet_plan_result(t->plan, 0);
  return QNET_OK;
}

qnet_blob *qnet_teacher_output(qnet_teacher *t, int index) {
  return qnet_plan_result(t->plan, index);
}

qnet_status qnet_teacher_classes(qnet_teacher *t, const uint8_t *images, int32_t *classes,
                                 qnet_diag *d) {
  const qnet_blob *logits;
  QNET_TRY(qnet_teacher_logits(t, images, &logits, d));
  const int64_t rows = logits->dim[0], outputs = logits->dim[1];
  for (int64_t i = 0; i < rows; i++)
    classes[i] = qnet_argmax((const float *)logits->data + i * outputs, outputs);
  return QNET_OK;
}

/* Images from `first` on, and others behind the end of the set to fill the batch. */
static qnet_status label_batch(qnet_teacher *t, qnet_dataset *set, int64_t first, int64_t batch,
                               label_room *room, qnet_diag *d) {
  for (int64_t i = 0; i < batch; i++)
    room->index[i] = (uint32_t)((first + i) % set->count);
  QNET_TRY(qnet_dataset_batch(set, room->index, (size_t)batch, NULL, 0, 0, room->images,
                              room->classes, d));
  QNET_TRY(qnet_teacher_classes(t, room->images, room->classes, d));
  for (int64_t i = 0; i < batch && first + i < set->count; i++)
    set->labels[first + i] = room->classes[i];
  return QNET_OK;
}

qnet_status qnet_teacher_label(qnet_teacher *t, qnet_dataset *set, qnet_diag *d) {
  const qnet_blob *image = qnet_plan_argument(t->plan, 0);
  const int64_t batch = image->dim[0];
  qnet_arena arena;
  qnet_arena_init(&arena, t->allocator);
  label_room room = {.images = qnet_arena_array(&arena, image->bytes, 1),
                     .index = qnet_arena_array(&arena, (size_t)batch, sizeof *room.index),
                     .classes = qnet_arena_array(&arena, (size_t)batch, sizeof *room.classes)};
  const bool good = room.images && room.index && room.classes;
  qnet_status status = good ? QNET_OK : qnet_out_of_memory(d);
  for (int64_t i = 0; i < set->count && status == QNET_OK; i += batch)
    status = label_batch(t, set, i, batch, &room, d);
  qnet_arena_clear(&arena);
  if (status == QNET_OK) set->classes = qnet_plan_result(t->plan, 0)->dim[1];
  return status;
}

uint64_t qnet_teacher_hash(const qnet_teacher *t) {
  return qnet_state_hash(t->module);
}
