/* qnetc run: classifies one image or .npy. */
#include "driver/json.h"
#include "driver/model.h"
#include "driver/predictor.h"
#include "runtime/image.h"
#include <string.h>

enum { MAX_TOP = 5 };

static qnet_status check_input(const qnet_type *want, const qnet_blob *have, const char *path,
                               qnet_diag *d) {
  const int64_t *w = want->dim + 1, *h = have->dim;
  const bool same = have->rank == 3 && h[0] == w[0] && h[1] == w[1] && h[2] == w[2];
  if (same && have->dtype == want->dtype) return QNET_OK;
  if (have->rank != 3)
    return qnet_error_in(d, path, "rank %d; the network takes [%lld, %lld, %lld] (H, W, C)",
                         have->rank, (long long)w[0], (long long)w[1], (long long)w[2]);
  return qnet_error_in(d, path,
                       "the input is %s[%lld, %lld, %lld] (H, W, C); the network takes "
                       "%s[%lld, %lld, %lld]",
                       qnet_dtype_name(have->dtype), (long long)h[0], (long long)h[1],
                       (long long)h[2], qnet_dtype_name(want->dtype), (long long)w[0],
                       (long long)w[1], (long long)w[2]);
}

/* A 2-dimensional .npy is an image of one channel. */
static void add_channel(qnet_blob *b) {
  if (b->rank != 2) return;
  b->rank = 3;
  b->dim[2] = 1;
}

static qnet_status print_json(const float *logits, int64_t classes, qnet_diag *d) {
  json_t *list = json_array();
  for (int64_t i = 0; i < classes; i++)
    if (json_array_append_new(list, qnet_json_number((double)logits[i])) != 0) {
      json_decref(list);
      return qnet_out_of_memory(d);
    }
  return qnet_json_print(
      json_pack("{s:i, s:o}", "class", (int)qnet_argmax(logits, classes), "logits", list), d);
}

static qnet_status print_top(const float *logits, int64_t classes) {
  bool shown[1024] = {false};
  const int64_t n = classes < 1024 ? classes : 1024;
  for (int rank = 0; rank < MAX_TOP && rank < n; rank++) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
      if (!shown[i] && (best < 0 || logits[i] > logits[best])) best = i;
    shown[best] = true;
    printf("%s%lld  %.6g\n", rank ? "        " : "class   ", (long long)best, (double)logits[best]);
  }
  return QNET_OK;
}

static qnet_status classify(qnet_session *s, qnet_predictor *p, const qnet_blob *input) {
  const int64_t classes = qnet_predictor_classes(p);
  float *logits = qnet_alloc_array(s->allocator, (size_t)classes, sizeof *logits);
  if (!logits) return qnet_out_of_memory(s->diag);
  qnet_status status = qnet_predictor_logits(p, input->data, 1, logits, s->diag);
  if (status == QNET_OK)
    status = s->options.json ? print_json(logits, classes, s->diag) : print_top(logits, classes);
  qnet_free(s->allocator, logits, (size_t)classes * sizeof *logits);
  return status;
}

static qnet_status run_image(qnet_session *s, qnet_predictor *p) {
  const qnet_type *want = qnet_predictor_input(p);
  const char *path = s->options.argument;
  qnet_blob *input = NULL;
  QNET_TRY(qnet_image_read(s->allocator, path, (int)want->dim[3], &input, s->diag));
  add_channel(input);
  qnet_status status = check_input(want, input, path, s->diag);
  if (status == QNET_OK) status = classify(s, p, input);
  qnet_blob_release(input);
  return status;
}

static qnet_status run_model(qnet_session *s, const qnet_target_choice *choice,
                             qnet_engine_kind kind) {
  qnet_program program;
  QNET_TRY(qnet_model_load(s, &program));
  qnet_predictor *p = NULL;
  qnet_status status =
      qnet_predictor_create(s->allocator, program.module, kind, choice, &p, s->diag);
  qnet_module_destroy(program.module);
  if (status == QNET_OK) status = run_image(s, p);
  qnet_predictor_destroy(p);
  return status;
}

qnet_status qnet_verb_run(qnet_session *s) {
  const qnet_options *o = &s->options;
  qnet_engine_kind kind;
  QNET_TRY(qnet_engine_kind_parse(o->engine, &kind, s->diag));
  qnet_target_choice choice;
  QNET_TRY(
      qnet_target_choose(o->target ? o->target : "native", o->mcpu, o->mattr, &choice, s->diag));
  const qnet_status status = run_model(s, &choice, kind);
  qnet_target_choice_free(&choice);
  return status;
}
