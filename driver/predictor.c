/* One network behind any engine. Each thread has a worker: an interpreter or an arena of its own.
 */
#include "driver/predictor.h"
#include "codegen/codegen.h"
#include "codegen/plan.h"
#include "ir/interp.h"
#include "passes/pass.h"
#include "support/parallel.h"
#include <string.h>

enum { PLAN_BATCH = 50, MAX_WORKERS = 64, MAX_ARGS = 3 };

typedef struct worker {
  qnet_interp *interp;      /* interpreters */
  qnet_blob *arg[MAX_ARGS]; /* input; at loop and jit also output and arena */
  qnet_status status;       /* of the last range */
} worker;

struct qnet_predictor {
  const qnet_allocator *allocator;
  qnet_engine_kind kind;
  qnet_module *module;
  const qnet_type *input; /* at batch 1 */
  int64_t classes;
  qnet_plan *plan;
  qnet_jit *jit;
  worker worker[MAX_WORKERS];
  int worker_count, arg_count;
  /* of the call in progress */
  const uint8_t *inputs;
  float *logits;
  size_t grain;
};

qnet_status qnet_engine_kind_parse(const char *name, qnet_engine_kind *out, qnet_diag *d) {
  static const char *const names[] = {"nn", "quant", "bits", "loop", "jit"};
  *out = QNET_ENGINE_JIT;
  if (!name) return QNET_OK;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp(name, names[i]) == 0) {
      *out = (qnet_engine_kind)i;
      return QNET_OK;
    }
  return qnet_error_in(d, "qnetc", "unknown engine '%s'; engines are nn, quant, bits, loop, jit",
                       name);
}

int32_t qnet_argmax(const float *logits, int64_t classes) {
  int32_t best = 0;
  for (int32_t i = 1; i < classes; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

/* target: NULL for the nn engine, which knows no machine. */
static qnet_status lower(qnet_predictor *p, const qnet_target_choice *target, qnet_diag *d) {
  static const qnet_level levels[] = {QNET_LEVEL_NN, QNET_LEVEL_QUANT, QNET_LEVEL_BITS,
                                      QNET_LEVEL_LOOP, QNET_LEVEL_LOOP};
  const qnet_pipeline_options options = {0};
  if (p->kind != QNET_ENGINE_NN)
    return qnet_pipeline_run(p->module, qnet_pipeline_to(levels[p->kind]), &options,
                             &target->machine, d);
  char batch[32];
  snprintf(batch, sizeof batch, "batch{n=%d}", PLAN_BATCH);
  QNET_TRY(qnet_pipeline_run(p->module, batch, &options, NULL, d));
  return qnet_pipeline_run(p->module, qnet_pipeline_to_frozen(), &options, NULL, d);
}

static qnet_status make_blob(qnet_predictor *p, const qnet_type *t, qnet_blob **out, qnet_diag *d) {
  *out = qnet_blob_create(p->allocator, t->dtype, t->rank, t->dim);
  return *out ? QNET_OK : qnet_out_of_memory(d);
}

static qnet_status make_worker(qnet_predictor *p, worker *w, qnet_diag *d) {
  const qnet_region *body = qnet_symbol_find(p->module, "eval")->body;
  for (int i = 0; i < p->arg_count; i++)
    QNET_TRY(make_blob(p, body->arg[i].type, &w->arg[i], d));
  if (p->kind == QNET_ENGINE_JIT) return QNET_OK;
  return qnet_interp_create(p->module, "eval", &w->interp, d);
}

static qnet_status prepare(qnet_predictor *p, const qnet_target_choice *target, qnet_diag *d) {
  QNET_TRY(lower(p, target, d));
  if (p->kind == QNET_ENGINE_NN)
    return qnet_plan_create(p->module, "eval", QNET_PLAN_EXACT, &p->plan, d);
  if (p->kind == QNET_ENGINE_JIT) QNET_TRY(qnet_jit_create(p->module, target, &p->jit, d));
  p->arg_count = qnet_symbol_find(p->module, "eval")->body->arg_count;
  if (p->arg_count > MAX_ARGS) return QNET_INTERNAL;
  const int threads = qnet_parallel_threads();
  p->worker_count = threads < MAX_WORKERS ? threads : MAX_WORKERS;
  for (int i = 0; i < p->worker_count; i++)
    QNET_TRY(make_worker(p, &p->worker[i], d));
  return QNET_OK;
}

static qnet_status read_signature(qnet_predictor *p, const qnet_module *nn, qnet_diag *d) {
  p->module = qnet_module_clone(nn);
  if (!p->module) return qnet_out_of_memory(d);
  const qnet_symbol *eval = qnet_symbol_find(p->module, "eval");
  if (!eval || eval->kind != QNET_SYMBOL_FUNC || eval->body->arg_count != 1)
    return qnet_error_in(d, p->module->name, "no function @eval of one input");
  p->input = eval->body->arg[0].type;
  p->classes = qnet_type_elements(eval->body->last->operand[0]->type);
  return QNET_OK;
}

static qnet_status create(qnet_predictor *p, const qnet_module *nn,
                          const qnet_target_choice *target, qnet_diag *d) {
  QNET_TRY(read_signature(p, nn, d));
  if (p->kind == QNET_ENGINE_NN) return prepare(p, NULL, d); /* asks no child about the host */
  if (target) return prepare(p, target, d);
  qnet_target_choice host;
  QNET_TRY(qnet_target_choose("native", NULL, NULL, &host, d));
  const qnet_status status = prepare(p, &host, d);
  qnet_target_choice_free(&host);
  return status;
}

qnet_status qnet_predictor_create(const qnet_allocator *a, const qnet_module *nn,
                                  qnet_engine_kind kind, const qnet_target_choice *target,
                                  qnet_predictor **out, qnet_diag *d) {
  *out = NULL;
  qnet_predictor *p = qnet_alloc(a, sizeof *p);
  if (!p) return qnet_out_of_memory(d);
  p->allocator = a;
  p->kind = kind;
  const qnet_status status = create(p, nn, target, d);
  if (status == QNET_OK)
    *out = p;
  else
    qnet_predictor_destroy(p);
  return status;
}

void qnet_predictor_destroy(qnet_predictor *p) {
  if (!p) return;
  for (int i = 0; i < p->worker_count; i++) {
    if (p->worker[i].interp) qnet_interp_destroy(p->worker[i].interp);
    for (int k = 0; k < MAX_ARGS; k++)
      qnet_blob_release(p->worker[i].arg[k]);
  }
  if (p->plan) qnet_plan_destroy(p->plan);
  if (p->jit) qnet_jit_destroy(p->jit);
  qnet_module_destroy(p->module);
  qnet_free(p->allocator, p, sizeof *p);
}

int64_t qnet_predictor_classes(const qnet_predictor *p) {
  return p->classes;
}

const qnet_type *qnet_predictor_input(const qnet_predictor *p) {
  return p->input;
}

static size_t input_bytes(const qnet_predictor *p) {
  return (size_t)(qnet_type_elements(p->input) * qnet_type_bytes(p->input));
}

/* Interpreters of tensors return a blob; at loop and jit the output is an argument. */
static qnet_status run_one(qnet_predictor *p, worker *w, const uint8_t *input, float *logits,
                           qnet_diag *d) {
  const size_t bytes = (size_t)p->classes * sizeof(float);
  memcpy(w->arg[0]->data, input, input_bytes(p));
  if (p->kind == QNET_ENGINE_JIT || p->kind == QNET_ENGINE_LOOP) {
    if (p->kind == QNET_ENGINE_LOOP)
      QNET_TRY(qnet_interp_run(w->interp, w->arg, p->arg_count, NULL, 0, d));
    else {
      void *args[MAX_ARGS];
      for (int i = 0; i < p->arg_count; i++)
        args[i] = w->arg[i]->data;
      QNET_TRY(qnet_jit_call(p->jit, args, p->arg_count));
    }
    memcpy(logits, w->arg[1]->data, bytes);
    return QNET_OK;
  }
  qnet_blob *result = NULL;
  QNET_TRY(qnet_interp_run(w->interp, w->arg, p->arg_count, &result, 1, d));
  memcpy(logits, result->data, bytes);
  qnet_blob_release(result);
  return QNET_OK;
}

static void run_range(void *ctx, size_t begin, size_t end) {
  qnet_predictor *p = ctx;
  worker *w = &p->worker[begin / p->grain];
  w->status = QNET_OK;
  for (size_t i = begin; i < end && w->status == QNET_OK; i++)
    w->status =
        run_one(p, w, p->inputs + i * input_bytes(p), p->logits + i * (size_t)p->classes, NULL);
}

static qnet_status run_workers(qnet_predictor *p, const void *inputs, int64_t count, float *logits,
                               qnet_diag *d) {
  p->inputs = inputs;
  p->logits = logits;
  p->grain = ((size_t)count + (size_t)p->worker_count - 1) / (size_t)p->worker_count;
  for (int i = 0; i < p->worker_count; i++)
    p->worker[i].status = QNET_OK;
  qnet_parallel_for((size_t)count, p->grain, run_range, p);
  for (int i = 0; i < p->worker_count; i++)
    if (p->worker[i].status == QNET_NO_MEMORY)
      return qnet_out_of_memory(d);
    else if (p->worker[i].status != QNET_OK)
      return qnet_error_in(d, p->module->name, "the engine failed on an input");
  return QNET_OK;
}

/* The plan has a fixed batch: the last one is filled up with zeros. */
static qnet_status run_plan(qnet_predictor *p, const uint8_t *inputs, int64_t count, float *logits,
                            qnet_diag *d) {
  const size_t bytes = input_bytes(p), classes = (size_t)p->classes;
  qnet_blob *in = qnet_plan_argument(p->plan, 0);
  const qnet_blob *out = qnet_plan_result(p->plan, 0);
  for (int64_t i = 0; i < count; i += PLAN_BATCH) {
    const size_t n = (size_t)(count - i < PLAN_BATCH ? count - i : PLAN_BATCH);
    memset(in->data, 0, in->bytes);
    memcpy(in->data, inputs + (size_t)i * bytes, n * bytes);
    QNET_TRY(qnet_plan_run(p->plan, d));
    memcpy(logits + (size_t)i * classes, out->data, n * classes * sizeof(float));
  }
  return QNET_OK;
}

qnet_status qnet_predictor_logits(qnet_predictor *p, const void *inputs, int64_t count,
                                  float *logits, qnet_diag *d) {
  if (count <= 0) return QNET_OK;
  if (p->kind == QNET_ENGINE_NN) return run_plan(p, inputs, count, logits, d);
  return run_workers(p, inputs, count, logits, d);
}
