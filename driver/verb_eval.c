/* qnetc eval: counts correct predictions of any engine on a data set. */
#include "driver/data.h"
#include "driver/json.h"
#include "driver/model.h"
#include "driver/predictor.h"
#include "runtime/loader.h"
#include "support/file.h"
#include "support/parallel.h"
#include "support/progress.h"
#include "support/strbuf.h"
#include <stdlib.h>
#include <string.h>

typedef struct evaluation {
  qnet_session *session;
  qnet_predictor *predictor;
  qnet_dataset set;
  int64_t count, classes, correct;
  float *logits; /* [count][classes] */
  double seconds;
} evaluation;

static void count_correct(evaluation *e, const float *logits, const qnet_batch *batch) {
  for (int64_t i = 0; i < batch->count; i++)
    e->correct += qnet_argmax(logits + i * e->classes, e->classes) == batch->labels[i];
}

static qnet_status predict_batches(evaluation *e, qnet_loader *loader, qnet_progress *bar) {
  for (int64_t at = 0;;) {
    qnet_batch batch;
    float *const logits = e->logits + at * e->classes;
    QNET_TRY(qnet_loader_next(loader, &batch, e->session->diag));
    if (batch.count == 0) return QNET_OK;
    QNET_TRY(
        qnet_predictor_logits(e->predictor, batch.images, batch.count, logits, e->session->diag));
    count_correct(e, logits, &batch);
    at += batch.count;
    qnet_progress_update(bar, (size_t)at, NULL);
  }
}

static qnet_status predict_all(evaluation *e) {
  const qnet_loader_plan plan = {.set = &e->set, .count = e->count, .batch = 100};
  qnet_loader *loader;
  QNET_TRY(qnet_loader_open(&plan, &loader, e->session->diag));
  qnet_progress bar;
  qnet_progress_begin(&bar, stderr, "images", (size_t)e->count);
  const double begin = qnet_seconds();
  const qnet_status status = predict_batches(e, loader, &bar);
  qnet_progress_end(&bar);
  e->seconds = qnet_seconds() - begin;
  qnet_loader_close(loader);
  return status;
}

static qnet_status write_predictions(const evaluation *e, const char *path) {
  qnet_strbuf b;
  qnet_strbuf_init(&b, e->session->allocator);
  for (int64_t i = 0; i < e->count; i++)
    qnet_strbuf_printf(&b, "%d\n", qnet_argmax(e->logits + i * e->classes, e->classes));
  const qnet_status status =
      b.failed ? qnet_out_of_memory(e->session->diag)
               : qnet_file_write(e->session->allocator, path, b.data, b.length, e->session->diag);
  qnet_strbuf_free(&b);
  return status;
}

/* .npy version 1: magic, header length, a dict padded so that the data starts at 64 bytes. */
static qnet_status write_logits(const evaluation *e, const char *path) {
  char dict[118];
  const int n = snprintf(dict, sizeof dict,
                         "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }",
                         (long long)e->count, (long long)e->classes);
  memset(dict + n, ' ', sizeof dict - (size_t)n);
  dict[sizeof dict - 1] = '\n';
  qnet_strbuf b;
  qnet_strbuf_init(&b, e->session->allocator);
  qnet_strbuf_append(&b, "\x93NUMPY\x01\x00\x76\x00", 10);
  qnet_strbuf_append(&b, dict, sizeof dict);
  qnet_strbuf_append(&b, (const char *)e->logits,
                     (size_t)(e->count * e->classes) * sizeof *e->logits);
  const qnet_status status =
      b.failed ? qnet_out_of_memory(e->session->diag)
               : qnet_file_write(e->session->allocator, path, b.data, b.length, e->session->diag);
  qnet_strbuf_free(&b);
  return status;
}

static qnet_status print_report(const evaluation *e) {
  const qnet_options *o = &e->session->options;
  const char *engine = o->engine ? o->engine : "jit";
  if (o->json)
    return qnet_json_print(json_pack("{s:s, s:I, s:I, s:o}", "engine", engine, "correct",
                                     (json_int_t)e->correct, "images", (json_int_t)e->count,
                                     "seconds", qnet_json_number(e->seconds)),
                           e->session->diag);
  printf("%s: %lld of %lld correct (%.2f %%), %.0f images/s\n", engine, (long long)e->correct,
         (long long)e->count, 100.0 * (double)e->correct / (double)e->count,
         (double)e->count / e->seconds);
  return QNET_OK;
}

static qnet_status evaluate(evaluation *e) {
  const qnet_options *o = &e->session->options;
  qnet_diag *d = e->session->diag;
  e->classes = qnet_predictor_classes(e->predictor);
  QNET_TRY(qnet_data_load(e->session->allocator, o->data, QNET_SPLIT_TEST,
                          qnet_predictor_input(e->predictor), e->classes, &e->set, d));
  e->count = e->set.count;
  if (o->limit != QNET_UNSET && o->limit > 0 && o->limit < e->count) e->count = o->limit;
  e->logits =
      qnet_alloc_array(e->session->allocator, (size_t)(e->count * e->classes), sizeof(float));
  if (!e->logits) return qnet_out_of_memory(d);
  QNET_TRY(predict_all(e));
  if (o->predictions) QNET_TRY(write_predictions(e, o->predictions));
  if (o->logits) QNET_TRY(write_logits(e, o->logits));
  return print_report(e);
}

static qnet_status open_predictor(qnet_session *s, qnet_predictor **out) {
  const qnet_options *o = &s->options;
  qnet_engine_kind kind;
  QNET_TRY(qnet_engine_kind_parse(o->engine, &kind, s->diag));
  qnet_target_choice choice;
  QNET_TRY(
      qnet_target_choose(o->target ? o->target : "native", o->mcpu, o->mattr, &choice, s->diag));
  qnet_program program;
  qnet_status status = qnet_model_load(s, &program);
  if (status == QNET_OK) {
    status = qnet_predictor_create(s->allocator, program.module, kind, &choice, out, s->diag);
    qnet_module_destroy(program.module);
  }
  qnet_target_choice_free(&choice);
  return status;
}

qnet_status qnet_verb_eval(qnet_session *s) {
  const qnet_options *o = &s->options;
  if (o->threads != QNET_UNSET) qnet_parallel_set_threads((int)o->threads);
  evaluation e = {.session = s};
  qnet_status status = open_predictor(s, &e.predictor);
  if (status == QNET_OK) status = evaluate(&e);
  qnet_free(s->allocator, e.logits, (size_t)(e.count * e.classes) * sizeof(float));
  qnet_dataset_free(&e.set);
  qnet_predictor_destroy(e.predictor);
  return status;
}
