/* Training as the driver composes it: @step of a clone runs as a plan and changes the weights in
 * place; quantizers learn after every step; evaluation freezes a clone and runs it exactly. A stage
 * of progressive bits is another clone of the network, with quantizers of its own. */
#include "driver/trainer.h"
#include "driver/model.h"
#include "driver/predictor.h"
#include "driver/refit.h"
#include "driver/statistics.h"
#include "driver/weights.h"
#include "passes/passes.h"
#include "passes/quantizer_state.h"
#include <math.h>
#include <string.h>

/* From which the running statistics are estimated anew. */
enum { OBSERVED_BATCHES = 32 };

struct qnet_trainer {
  qnet_session *session;
  const qnet_program *base; /* the network without quantizers; its weights are those in training */
  const qnet_stages *stages;
  qnet_teacher *teacher; /* or NULL */
  int stage;             /* -1: none has begun */
  qnet_program now;      /* of the stage, with its quantizers; shares the weights with the base */
  qnet_module *step;     /* batch of the recipe, with @step; shares its blobs with `now` */
  qnet_plan_mode mode;
  qnet_plan *plan;
  qnet_quantizer_sites sites; /* of `step` */
  bool frozen;
  bool rate_is_checked;        /* in a stage before */
  qnet_statistics *statistics; /* while they are estimated anew, or NULL */
  qnet_predictor *predictor;   /* of the present weights; NULL when they have changed */
};

static void forget_predictor(qnet_trainer *t) {
  qnet_predictor_destroy(t->predictor);
  t->predictor = NULL;
}

/* ---- stages -----------------------------------------------------------------------------------*/

/* As options of autodiff. */
static void write_optimizer(const qnet_recipe *r, char *out, size_t size) {
  if (r->optimizer == QNET_OPTIMIZER_ADAM)
    snprintf(out, size, "optimizer=adam,beta1=%.17g,beta2=%.17g,eps=%.17g,decoupled=%d", r->beta1,
             r->beta2, r->eps, r->decoupled);
  else
    snprintf(out, size, "optimizer=sgd,momentum=%.17g,nesterov=%d,muon=%.17g", r->momentum,
             r->nesterov, r->muon);
}

/* The decay of quantizers as the recipe has it; a warning where its setting changes nothing. */
static void set_quantizer_rate(qnet_trainer *t) {
  const qnet_recipe *r = &t->base->recipe;
  for (int i = 0; i < t->sites.count && r->quantizer_decay >= 0; i++)
    t->sites.site[i].site.decay = r->quantizer_decay;
  if (t->sites.count == 0 || t->rate_is_checked) return;
  t->rate_is_checked = true;
  const bool changes = r->quantizer_lr != 1 || r->quantizer_decay >= 0;
  if (changes && !qnet_quantizer_sites_by_gradient(&t->sites))
    qnet_warning(t->session->diag, r->quantizer_loc,
                 "'%s' learns nothing by gradient: this setting has no effect",
                 t->now.quant.quantizer);
}

/* The step reads the teacher's outputs where they are. */
static qnet_status follow_teacher(const qnet_trainer *t, qnet_diag *d) {
  if (!t->teacher) return QNET_OK;
  for (int i = 0; qnet_plan_argument(t->plan, QNET_STEP_TEACHER + i); i++) {
    qnet_blob *output = qnet_teacher_output(t->teacher, i);
    if (!output) return qnet_error(d, QNET_NO_LOC, "the f32 network lacks features to follow");
    QNET_TRY(qnet_plan_share_argument(t->plan, QNET_STEP_TEACHER + i, output, d));
  }
  return QNET_OK;
}

static qnet_status make_step(qnet_trainer *t, qnet_diag *d) {
  const qnet_recipe *r = &t->base->recipe;
  t->step = qnet_module_clone(t->now.module);
  if (!t->step) return qnet_out_of_memory(d);
  char pipeline[512], optimizer[256];
  write_optimizer(r, optimizer, sizeof optimizer);
  snprintf(pipeline, sizeof pipeline,
           "batch{n=%d},autodiff{%s,weight_decay=%.17g,smoothing=%.17g,distill=%.17g,"
           "temperature=%.17g,features=%.17g,learn=%s}",
           r->batch, optimizer, r->weight_decay, r->label_smoothing,
           t->teacher ? r->distill_weight : 0, r->distill_temperature,
           t->teacher ? r->feature_weight : 0,
           t->session->options.train ? t->session->options.train : "all");
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(t->step, pipeline, &options, NULL, d));
  QNET_TRY(qnet_weights_init(t->step, 0, d)); /* momentum: zeros */
  QNET_TRY(qnet_quantizer_sites_collect(t->step, t->session->allocator, &t->sites, d));
  set_quantizer_rate(t);
  QNET_TRY(qnet_quantizer_sites_refresh(&t->sites, false, d));
  QNET_TRY(qnet_plan_create(t->step, "step", t->mode, &t->plan, d));
  return follow_teacher(t, d);
}

static void forget_statistics(qnet_trainer *t) {
  qnet_statistics_destroy(t->statistics);
  t->statistics = NULL;
}

/* All but the program of the stage. */
static void close_step(qnet_trainer *t) {
  forget_predictor(t);
  forget_statistics(t);
  if (t->plan) qnet_plan_destroy(t->plan);
  qnet_quantizer_sites_free(&t->sites);
  qnet_module_destroy(t->step);
  t->plan = NULL;
  t->step = NULL;
  t->frozen = false;
  t->stage = -1;
}

static void close_stage(qnet_trainer *t) {
  close_step(t);
  qnet_module_destroy(t->now.module);
  t->now.module = NULL;
}

/* Do the quantizers of a stage come to weights that were trained before? */
static bool is_fitted(const qnet_trainer *t, int stage) {
  return t->now.quant.quantizer && (stage > 0 || t->session->options.init);
}

/* The program of a stage. Weights that were trained before have quantizers fitted to them; where
 * the same quantizers were trained in the stage before, they go on from there. */
static qnet_status make_program(qnet_trainer *t, int stage, qnet_module *before, qnet_diag *d) {
  t->now = *t->base;
  t->now.quant = t->stages->stage[stage].quant;
  t->now.module = qnet_module_clone(t->base->module);
  if (!t->now.module) return qnet_out_of_memory(d);
  QNET_TRY(qnet_model_insert_quantizers(t->session, &t->now));
  if (is_fitted(t, stage)) QNET_TRY(qnet_refit(t->session, t->now.module, NULL));
  return before ? qnet_quantizer_carry(before, t->now.module, t->session->allocator, d) : QNET_OK;
}

/* The present weights with the quantizers of a stage, and the step that trains them. */
static qnet_status open_stage(qnet_trainer *t, int stage, qnet_diag *d) {
  close_step(t);
  qnet_module *before = t->now.module;
  const qnet_status status = make_program(t, stage, before, d);
  qnet_module_destroy(before);
  QNET_TRY(status);
  QNET_TRY(make_step(t, d));
  t->stage = stage;
  qnet_session_show(t->session); /* before hours, not after */
  return QNET_OK;
}

static qnet_status enter_stage(void *ctx, int stage, int64_t *batches, qnet_diag *d) {
  qnet_trainer *t = ctx;
  QNET_TRY(open_stage(t, stage, d));
  /* Images without labels may be of another kind than those that the network is for. */
  if (!is_fitted(t, stage) || t->session->options.no_labels) return QNET_OK;
  QNET_TRY(qnet_statistics_create(t->now.module, t->base->recipe.batch, &t->statistics, d));
  if (t->statistics) *batches = OBSERVED_BATCHES;
  return QNET_OK;
}

static qnet_status observe(void *ctx, const uint8_t *images, bool last, qnet_diag *d) {
  qnet_trainer *t = ctx;
  QNET_TRY(qnet_statistics_add(t->statistics, images, d));
  if (!last) return QNET_OK;
  qnet_statistics_finish(t->statistics);
  forget_statistics(t);
  return QNET_OK;
}

qnet_status qnet_trainer_create(qnet_session *s, const qnet_program *program,
                                const qnet_stages *stages, qnet_teacher *teacher,
                                qnet_trainer **out) {
  *out = qnet_alloc(s->allocator, sizeof **out);
  if (!*out) return qnet_out_of_memory(s->diag);
  **out = (qnet_trainer){.session = s,
                         .base = program,
                         .stages = stages,
                         .teacher = teacher,
                         .stage = -1,
                         .mode = QNET_PLAN_FAST};
  return QNET_OK;
}

void qnet_trainer_set_plan(qnet_trainer *t, qnet_plan_mode mode) {
  t->mode = mode;
}

void qnet_trainer_destroy(qnet_trainer *t) {
  if (!t) return;
  close_stage(t);
  qnet_free(t->session->allocator, t, sizeof *t);
}

const qnet_program *qnet_trainer_program(const qnet_trainer *t) {
  return t->stage >= 0 ? &t->now : NULL;
}

/* ---- steps ------------------------------------------------------------------------------------*/

/* The teacher's answers in place of labels. */
static void take_classes(const qnet_blob *logits, int32_t *label) {
  const int64_t classes = logits->dim[1];
  for (int64_t i = 0; i < logits->dim[0]; i++)
    label[i] = qnet_argmax((const float *)logits->data + i * classes, classes);
}

static qnet_status run_step(void *ctx, const uint8_t *images, const int32_t *labels, double lr,
                            qnet_step_result *out, qnet_diag *d) {
  qnet_trainer *t = ctx;
  forget_predictor(t);
  qnet_blob *image = qnet_plan_argument(t->plan, QNET_STEP_IMAGE),
            *label = qnet_plan_argument(t->plan, QNET_STEP_LABEL);
  memcpy(image->data, images, image->bytes);
  memcpy(label->data, labels, label->bytes);
  *(float *)qnet_plan_argument(t->plan, QNET_STEP_LR)->data = (float)lr;
  if (t->teacher) {
    const qnet_blob *logits;
    QNET_TRY(qnet_teacher_logits(t->teacher, images, &logits, d));
    if (t->session->options.no_labels) take_classes(logits, label->data);
  }
  QNET_TRY(qnet_plan_run(t->plan, d));
  out->loss = (double)*(const float *)qnet_plan_result(t->plan, 0)->data;
  out->correct = *(const int32_t *)qnet_plan_result(t->plan, 1)->data;
  if (!isfinite(out->loss)) return QNET_OK;
  t->sites.lr = lr * t->base->recipe.quantizer_lr;
  return qnet_quantizer_sites_update(&t->sites, t->frozen, d);
}

static qnet_status explain(void *ctx, qnet_diag *d) {
  return qnet_plan_explain_loss(((qnet_trainer *)ctx)->plan, d);
}

/* A relu can hide what has become of the weights before it from the loss. */
static qnet_status check_finite(const qnet_trainer *t, qnet_diag *d) {
  for (const qnet_symbol *s = t->now.module->first_symbol; s; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE || !s->blob || s->type->dtype != QNET_F32) continue;
    const float *x = s->blob->data;
    for (int64_t i = 0; i < qnet_blob_elements(s->blob); i++)
      if (!isfinite(x[i]))
        return qnet_error(d, s->loc,
                          "training diverged: '%s' has a value that is not finite; try "
                          "a lower learning rate",
                          s->name);
  }
  return QNET_OK;
}

static qnet_status enter_frozen_phase(void *ctx, qnet_diag *d) {
  qnet_trainer *t = ctx;
  t->frozen = true;
  return qnet_quantizer_sites_refresh(&t->sites, true, d);
}

/* The tables of the present parameters, made in the program's own module. */
static qnet_status freeze_tables(qnet_trainer *t, qnet_diag *d) {
  if (!t->now.quant.quantizer) return QNET_OK;
  return qnet_quantizer_freeze_all(t->now.module, t->session->allocator, d);
}

static qnet_status predict(void *ctx, const uint8_t *images, int64_t count, int32_t *classes,
                           qnet_diag *d) {
  qnet_trainer *t = ctx;
  if (!t->predictor) {
    QNET_TRY(check_finite(t, d));
    QNET_TRY(freeze_tables(t, d));
    QNET_TRY(qnet_predictor_create(t->session->allocator, t->now.module, QNET_ENGINE_NN, NULL,
                                   &t->predictor, d));
  }
  const int64_t outputs = qnet_predictor_classes(t->predictor);
  const size_t bytes = (size_t)(count * outputs) * sizeof(float);
  float *logits = qnet_alloc(t->session->allocator, bytes);
  if (!logits) return qnet_out_of_memory(d);
  const qnet_status status = qnet_predictor_logits(t->predictor, images, count, logits, d);
  for (int64_t i = 0; i < count && status == QNET_OK; i++)
    classes[i] = qnet_argmax(logits + i * outputs, outputs);
  qnet_free(t->session->allocator, logits, bytes);
  return status;
}

static qnet_status save(void *ctx, const char *path, qnet_diag *d) {
  qnet_trainer *t = ctx;
  QNET_TRY(freeze_tables(t, d));
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, t->session->allocator);
  qnet_status status = qnet_weights_store(t->now.module, &f, d);
  if (status == QNET_OK && qnet_model_describe(&t->now, &f) != QNET_OK)
    status = qnet_out_of_memory(d);
  if (status == QNET_OK) status = qnet_tensor_file_write(&f, path, d);
  qnet_tensor_file_free(&f);
  return status == QNET_OK && t->teacher ? qnet_teacher_save(t->teacher, d) : status;
}

/* ---- checkpoints: the state symbols of @step, and what is not in symbols ----------------------*/

static const char step_counts[] = "run.quantizer_steps", phase[] = "run.frozen",
                  stage_key[] = "run.stage";

static qnet_status store_counts(const qnet_trainer *t, qnet_tensor_file *f) {
  const int64_t count = t->sites.count;
  qnet_blob *b = qnet_blob_create(f->allocator, QNET_I64, 1, &count);
  if (!b) return QNET_NO_MEMORY;
  for (int i = 0; i < t->sites.count; i++)
    ((int64_t *)b->data)[i] = t->sites.site[i].site.step;
  const qnet_status status = qnet_tensor_file_set(f, step_counts, b);
  qnet_blob_release(b);
  return status;
}

static qnet_status store(void *ctx, qnet_tensor_file *f, qnet_diag *d) {
  const qnet_trainer *t = ctx;
  QNET_TRY(qnet_state_store(t->step, f, d));
  if (store_counts(t, f) != QNET_OK) return qnet_out_of_memory(d);
  char stage[16];
  snprintf(stage, sizeof stage, "%d", t->stage);
  if (qnet_tensor_file_set_meta(f, phase, t->frozen ? "1" : "0") != QNET_OK ||
      qnet_tensor_file_set_meta(f, stage_key, stage) != QNET_OK)
    return qnet_out_of_memory(d);
  return qnet_model_describe(&t->now, f) == QNET_OK ? QNET_OK : qnet_out_of_memory(d);
}

/* The stage that a checkpoint is in, or -1. */
static int stored_stage(const qnet_trainer *t, const qnet_tensor_file *f) {
  const char *text = qnet_tensor_file_meta(f, stage_key);
  if (!text || strlen(text) != 1 || text[0] < '0' || text[0] >= '0' + t->stages->count) return -1;
  return text[0] - '0';
}

/* The codes of ranks are indices: those of another quantizer's checkpoint may lie outside. */
static bool codes_fit(const qnet_quantizer_sites *s) {
  for (int i = 0; i < s->count; i++) {
    const qnet_site_state *site = &s->site[i];
    const uint8_t *perm = site->perm->blob->data;
    const int64_t all = qnet_blob_elements(site->perm->blob), n = all / site->site.channels;
    for (int64_t k = 0; k < all; k++)
      if (perm[k] >= n) return false;
  }
  return true;
}

static qnet_status restore(void *ctx, const qnet_tensor_file *f, const char *path, qnet_diag *d) {
  qnet_trainer *t = ctx;
  const qnet_blob *counts = qnet_tensor_file_find(f, step_counts);
  const char *frozen = qnet_tensor_file_meta(f, phase);
  const int stage = stored_stage(t, f);
  if (stage >= 0) QNET_TRY(open_stage(t, stage, d));
  if (stage < 0 || !frozen || !counts || counts->dtype != QNET_I64 ||
      qnet_blob_elements(counts) != t->sites.count)
    return qnet_error_in(d, path, "the checkpoint does not fit the network's quantizers");
  QNET_TRY(qnet_state_load(t->step, f, path, d));
  if (!codes_fit(&t->sites))
    return qnet_error_in(d, path, "the checkpoint has codes that its quantizers do not have");
  for (int i = 0; i < t->sites.count; i++)
    t->sites.site[i].site.step = ((const int64_t *)counts->data)[i];
  t->frozen = strcmp(frozen, "1") == 0;
  return QNET_OK;
}

qnet_engine qnet_trainer_engine(qnet_trainer *t) {
  return (qnet_engine){.ctx = t,
                       .batch = t->base->recipe.batch,
                       .enter_stage = enter_stage,
                       .observe = observe,
                       .step = run_step,
                       .explain = explain,
                       .enter_frozen_phase = enter_frozen_phase,
                       .predict = predict,
                       .save = save,
                       .store = store,
                       .restore = restore};
}
