/* qnetc train: trains a network and its quantizers, saves weights and frozen tables. */
#include "driver/model.h"
#include "driver/refit.h"
#include "driver/trainer.h"
#include "driver/weights.h"
#include "passes/quantizer_state.h"
#include "support/parallel.h"
#include <math.h>
#include <stdio.h>
#include <unistd.h>

typedef struct data_pair {
  qnet_dataset train, test;
} data_pair;

static qnet_status check_options(const qnet_session *s) {
  const qnet_options *o = &s->options;
  if (!o->data)
    return qnet_error_in(s->diag, "qnetc", "no data; add --data=fashion-mnist or a directory");
  if (!o->output)
    return qnet_error_in(s->diag, "qnetc", "nowhere to save; add -o WEIGHTS.safetensors");
  if (o->epochs == 0) return qnet_error_in(s->diag, "qnetc", "--epochs takes at least 1");
  return QNET_OK;
}

static qnet_status check_images(const qnet_session *s, const qnet_program *p,
                                const qnet_dataset *set) {
  const qnet_symbol *eval = qnet_symbol_find(p->module, "eval");
  const qnet_type *in = eval->body->arg[0].type;
  const int64_t outputs = qnet_type_elements(eval->body->last->operand[0]->type);
  if (in->dtype != QNET_U8)
    return qnet_error_in(s->diag, s->options.data,
                         "the network takes f32 inputs, a data set gives "
                         "bytes; declare its input as u8[...] normalize(...)");
  if (in->dim[1] != set->height || in->dim[2] != set->width || in->dim[3] != set->channels)
    return qnet_error_in(s->diag, s->options.data,
                         "images are %lldx%lldx%lld (C,H,W), the network takes %lldx%lldx%lld",
                         (long long)set->channels, (long long)set->height, (long long)set->width,
                         (long long)in->dim[3], (long long)in->dim[1], (long long)in->dim[2]);
  if (outputs >= set->classes) return QNET_OK;
  return qnet_error_in(s->diag, s->options.data, "%lld classes, but the network has %lld outputs",
                       (long long)set->classes, (long long)outputs);
}

/* --init: layers' weights from the file, quantizers fitted to them; else initial values. */
static qnet_status initial_weights(qnet_session *s, qnet_program *p, uint64_t seed) {
  if (!s->options.init) {
    QNET_TRY(qnet_weights_init(p->module, seed, s->diag));
    return qnet_model_insert_quantizers(s, p);
  }
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, s->allocator);
  qnet_status status = qnet_tensor_file_read(&f, s->options.init, s->diag);
  if (status == QNET_OK) status = qnet_weights_load(p->module, &f, s->options.init, s->diag);
  qnet_tensor_file_free(&f);
  QNET_TRY(status);
  QNET_TRY(qnet_model_insert_quantizers(s, p));
  return p->quant.quantizer ? qnet_refit(s, p->module, NULL) : QNET_OK;
}

static qnet_lr_schedule schedule_of(const qnet_recipe *r) {
  switch (r->schedule) {
  case QNET_SCHEDULE_COSINE: return QNET_LR_COSINE;
  case QNET_SCHEDULE_STEP: return QNET_LR_STEP;
  case QNET_SCHEDULE_CONSTANT: return QNET_LR_CONSTANT;
  }
  return QNET_LR_CONSTANT;
}

static qnet_train_options train_options(const qnet_session *s, const qnet_program *p) {
  const qnet_options *o = &s->options;
  const qnet_recipe *r = &p->recipe;
  qnet_train_options t = {.epochs = o->epochs != QNET_UNSET ? (int)o->epochs : r->epochs,
                          .lr = isnan(o->lr) ? r->lr : o->lr,
                          .schedule = schedule_of(r),
                          .step_factor = r->step_factor,
                          .steps = r->steps,
                          .augment = {.crop_pad = r->crop_pad, .flip = r->flip},
                          .seed = o->seed != QNET_UNSET ? (uint64_t)o->seed : 1,
                          .limit = o->limit != QNET_UNSET ? o->limit : 0,
                          .output = o->output,
                          .log = stderr};
  for (int i = 0; i < r->steps; i++)
    t.step_epochs[i] = r->step_epochs[i];
  if (p->quant.quantizer)
    t.frozen_epochs = o->frozen_epochs != QNET_UNSET ? (int)o->frozen_epochs : 1;
  if (t.frozen_epochs > t.epochs) t.frozen_epochs = t.epochs;
  return t;
}

static void print_report(const qnet_session *s, const qnet_train_report *r) {
  if (s->options.json)
    printf("{\"correct\": %lld, \"images\": %lld, \"loss\": %.6g, \"seconds\": %.1f, "
           "\"images_per_second\": %.1f}\n",
           (long long)r->correct, (long long)r->tested, r->loss, r->seconds, r->images_per_second);
  else
    printf("%s: %lld of %lld correct (%.2f %%), %.0f s\n", s->options.output, (long long)r->correct,
           (long long)r->tested, 100.0 * (double)r->correct / (double)r->tested, r->seconds);
}

static qnet_status train(qnet_session *s, qnet_program *p, const data_pair *data) {
  const qnet_train_options options = train_options(s, p);
  QNET_TRY(initial_weights(s, p, options.seed));
  qnet_trainer *t;
  QNET_TRY(qnet_trainer_create(s, p, &t));
  const qnet_engine engine = qnet_trainer_engine(t);
  qnet_train_report report = {0};
  const qnet_status status =
      qnet_train(&engine, &options, &data->train, &data->test, &report, s->diag);
  qnet_trainer_destroy(t);
  if (status == QNET_OK) print_report(s, &report);
  return status;
}

static qnet_status load_data(qnet_session *s, const qnet_program *p, data_pair *data) {
  const qnet_type *in = qnet_symbol_find(p->module, "eval")->body->arg[0].type;
  qnet_dataset_request request = {s->options.data, QNET_SPLIT_TRAIN, in->dim[1], in->dim[2],
                                  in->dim[3]};
  QNET_TRY(qnet_dataset_load(s->allocator, &request, &data->train, s->diag));
  QNET_TRY(check_images(s, p, &data->train));
  request.split = QNET_SPLIT_TEST;
  QNET_TRY(qnet_dataset_load(s->allocator, &request, &data->test, s->diag));
  return check_images(s, p, &data->test);
}

qnet_status qnet_verb_train(qnet_session *s) {
  qnet_program p;
  QNET_TRY(check_options(s));
  if (s->options.threads != QNET_UNSET) qnet_parallel_set_threads((int)s->options.threads);
  QNET_TRY(qnet_session_program(s, &p));
  data_pair data = {0};
  qnet_status status = qnet_model_quant_spec(s, &p);
  if (status == QNET_OK) status = load_data(s, &p, &data);
  if (status == QNET_OK) status = train(s, &p, &data);
  qnet_dataset_free(&data.train);
  qnet_dataset_free(&data.test);
  qnet_module_destroy(p.module);
  return status;
}
