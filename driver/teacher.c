/* The teacher runs as a fast plan of @eval, with the running statistics of its batch_norms. */
#include "driver/teacher.h"
#include "codegen/plan.h"
#include "driver/weights.h"
#include "passes/pass.h"

#include <string.h>

struct qnet_teacher {
  const qnet_allocator *allocator;
  qnet_program program;
  qnet_plan *plan;
};

static qnet_status load(qnet_session *s, qnet_module *m) {
  const char *path = s->options.distill;
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, s->allocator);
  qnet_status status = qnet_tensor_file_read(&f, path, s->diag);
  if (status == QNET_OK) status = qnet_weights_load(m, &f, path, s->diag);
  qnet_tensor_file_free(&f);
  return status;
}

static qnet_status prepare(qnet_session *s, int batch, qnet_teacher *t) {
  QNET_TRY(qnet_session_program(s, &t->program));
  QNET_TRY(load(s, t->program.module));
  char pipeline[32];
  snprintf(pipeline, sizeof pipeline, "batch{n=%d}", batch);
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(t->program.module, pipeline, &options, NULL, s->diag));
  return qnet_plan_create(t->program.module, "eval", QNET_PLAN_FAST, &t->plan, s->diag);
}

qnet_status qnet_teacher_create(qnet_session *s, int batch, qnet_teacher **out) {
  *out = NULL;
  if (!s->options.distill) return QNET_OK;
  qnet_teacher *t = qnet_alloc(s->allocator, sizeof *t);
  if (!t) return qnet_out_of_memory(s->diag);
  t->allocator = s->allocator;
  const qnet_status status = prepare(s, batch, t);
  if (status == QNET_OK)
    *out = t;
  else
    qnet_teacher_destroy(t);
  return status;
}

void qnet_teacher_destroy(qnet_teacher *t) {
  if (!t) return;
  if (t->plan) qnet_plan_destroy(t->plan);
  qnet_module_destroy(t->program.module);
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

uint64_t qnet_teacher_hash(const qnet_teacher *t) {
  return qnet_state_hash(t->program.module);
}
