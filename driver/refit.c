/* Closed-form quantizers for weights that were not trained with them. Weights are fitted as they
 * are. For activations there are two sources of samples: images run through the f32 network, or
 * draws from what the network itself says of its activations: a batch norm's output is normal with
 * deviation gamma and mean beta, a relu cuts it, a pool takes the largest, an add sums. */
#include "driver/refit.h"
#include "codegen/plan.h"
#include "driver/data.h"
#include "ir/ops.h"
#include "passes/pass.h"
#include "passes/quantizer_state.h"
#include <Random123/philox.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
  SAMPLES = 8192,
  DRAW_BUDGET = 256,
  MAX_DEPTH = 64,
  CALIBRATION_BATCH = 64,
  CALIBRATION_BATCHES = 4
};

/* ---- draws from batch norm statistics ------------------------------------------------------ */

typedef struct drawer {
  const qnet_module *module;
  uint32_t counter, stream;
  int budget; /* operations still to visit for this draw: sums may share operands without end */
} drawer;

static double uniform(drawer *g) {
  const philox4x32_ctr_t counter = {{g->counter++, g->stream, 0, 0}};
  const philox4x32_key_t key = {{0x716e6574u, 0}};
  return ((double)philox4x32(counter, key).v[0] + 0.5) / 4294967296.0;
}

static double normal(drawer *g) {
  const double radius = sqrt(-2 * log(uniform(g)));
  return radius * cos(2 * 3.14159265358979323846 * uniform(g));
}

/* Element c of the content of a `read` operand. */
static double parameter(const drawer *g, const qnet_value *v, int64_t c) {
  if (!v->def || v->def->opcode != QNET_OP_READ) return 0;
  const qnet_symbol *s = qnet_op_symbol(g->module, v->def, "sym");
  return s && s->blob ? (double)((const float *)s->blob->data)[c] : 0;
}

static double draw(drawer *g, const qnet_value *v, int64_t c, int depth);

static double draw_normalize(drawer *g, const qnet_op *op, int64_t c) {
  const qnet_attr *mean = qnet_op_attr(op, "mean"), *std = qnet_op_attr(op, "std");
  const int64_t k = c < mean->count ? c : 0;
  return (uniform(g) - mean->floats[k]) / std->floats[k];
}

static double draw_pool(drawer *g, const qnet_op *op, int64_t c, int depth) {
  const bool largest = op->opcode == QNET_OP_MAX_POOL2D;
  double sum = 0, max = -INFINITY;
  enum { DRAWS = 4 };
  for (int i = 0; i < DRAWS; i++) {
    const double x = draw(g, op->operand[0], c, depth);
    sum += x;
    max = x > max ? x : max;
  }
  return largest ? max : sum / DRAWS;
}

static int64_t channels(const qnet_value *v) {
  return v->type->dim[v->type->rank - 1];
}

/* One value of channel c of v. */
static double draw(drawer *g, const qnet_value *v, int64_t c, int depth) {
  const qnet_op *op = v->def;
  if (!op || depth >= MAX_DEPTH || g->budget-- <= 0) return normal(g);
  switch (op->opcode) {
  case QNET_OP_NORMALIZE: return draw_normalize(g, op, c);
  case QNET_OP_BATCH_NORM:
    return parameter(g, op->operand[2], c) + parameter(g, op->operand[1], c) * normal(g);
  case QNET_OP_RELU: return fmax(0, draw(g, op->operand[0], c, depth + 1));
  case QNET_OP_ADD:
    return draw(g, op->operand[0], c, depth + 1) + draw(g, op->operand[1], c, depth + 1);
  case QNET_OP_MAX_POOL2D:
  case QNET_OP_AVG_POOL2D:
  case QNET_OP_GLOBAL_AVG_POOL: return draw_pool(g, op, c, depth + 1);
  case QNET_OP_FLATTEN: return draw(g, op->operand[0], c % channels(op->operand[0]), depth + 1);
  case QNET_OP_QUANTIZE: return draw(g, op->operand[0], c, depth + 1);
  default: return normal(g);
  }
}

static void draw_samples(const qnet_module *m, const qnet_value *v, uint32_t stream, float *x) {
  drawer g = {.module = m, .stream = stream};
  const int64_t n = channels(v);
  for (int i = 0; i < SAMPLES; i++) {
    g.budget = DRAW_BUDGET;
    x[i] = (float)draw(&g, v, i % n, 0);
  }
}

/* ---- samples of images ----------------------------------------------------------------------- */

typedef struct calibration {
  qnet_session *session;
  qnet_module *f32; /* the network without quantizers; its results: all quantizer inputs */
  qnet_plan *plan;
  qnet_dataset set;
} calibration;

/* Replaces every quantizer of a clone by its input and makes the inputs the function's results. */
static qnet_status expose_inputs(calibration *c, const qnet_module *m) {
  c->f32 = qnet_module_clone(m);
  if (!c->f32) return qnet_out_of_memory(c->session->diag);
  qnet_region *body = qnet_symbol_find(c->f32, "eval")->body;
  qnet_arena scratch;
  qnet_arena_init(&scratch, c->session->allocator);
  int total = 0, count = 0;
  for (const qnet_op *op = body->first; op; op = op->next)
    total += op->opcode == QNET_OP_QUANTIZE;
  qnet_value **inputs = qnet_arena_array(&scratch, (size_t)total, sizeof(qnet_value *));
  for (qnet_op *op = body->first; op && inputs; op = op->next) {
    if (op->opcode != QNET_OP_QUANTIZE) continue;
    qnet_value_replace(c->f32, &op->result[0], op->operand[0]);
    inputs[count++] = op->operand[0];
  }
  qnet_op_erase(body->last);
  qnet_builder b = qnet_builder_at_end(c->f32, body);
  if (inputs) qnet_build_yield(&b, inputs, total);
  qnet_arena_clear(&scratch);
  if (!inputs || c->f32->failed) return qnet_out_of_memory(c->session->diag);
  qnet_module_sweep(c->f32);
  return QNET_OK;
}

static qnet_status open_calibration(calibration *c, const qnet_module *m, const char *data) {
  qnet_diag *d = c->session->diag;
  QNET_TRY(expose_inputs(c, m));
  const qnet_type *in = qnet_symbol_find(c->f32, "eval")->body->arg[0].type;
  const long long needed = CALIBRATION_BATCH * CALIBRATION_BATCHES;
  QNET_TRY(qnet_data_load(c->session->allocator, data, QNET_SPLIT_TRAIN, in, 0, &c->set, d));
  if (c->set.count < needed)
    return qnet_error_in(d, data, "%lld training images, calibration takes %lld",
                         (long long)c->set.count, needed);
  char pipeline[32];
  snprintf(pipeline, sizeof pipeline, "batch{n=%d}", CALIBRATION_BATCH);
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(c->f32, pipeline, &options, NULL, d));
  return qnet_plan_create(c->f32, "eval", QNET_PLAN_FAST, &c->plan, d);
}

static void close_calibration(calibration *c) {
  if (c->plan) qnet_plan_destroy(c->plan);
  qnet_module_destroy(c->f32);
  qnet_dataset_free(&c->set);
}

static qnet_status load_calibration_batch(const calibration *c, int batch, uint8_t *images) {
  uint32_t index[CALIBRATION_BATCH];
  int32_t labels[CALIBRATION_BATCH];
  /* Evenly spread: a set may be sorted by class. */
  for (int i = 0; i < CALIBRATION_BATCH; i++)
    index[i] = (uint32_t)((batch * CALIBRATION_BATCH + i) * c->set.count /
                          (CALIBRATION_BATCH * CALIBRATION_BATCHES));
  return qnet_dataset_batch(&c->set, index, CALIBRATION_BATCH, NULL, 0, 0, images, labels,
                            c->session->diag);
}

/* An even part of each result of each batch goes to samples[result]. */
static qnet_status run_calibration(calibration *c, int results, float *const *samples) {
  qnet_blob *in = qnet_plan_argument(c->plan, 0);
  const int64_t part = SAMPLES / CALIBRATION_BATCHES;
  for (int b = 0; b < CALIBRATION_BATCHES; b++) {
    QNET_TRY(load_calibration_batch(c, b, in->data));
    QNET_TRY(qnet_plan_run(c->plan, c->session->diag));
    for (int r = 0; r < results; r++) {
      const qnet_blob *x = qnet_plan_result(c->plan, r);
      const int64_t n = qnet_blob_elements(x);
      for (int64_t i = 0; i < part; i++)
        samples[r][b * part + i] = ((const float *)x->data)[i * n / part];
    }
  }
  return QNET_OK;
}

/* ---- fit ------------------------------------------------------------------------------------- */

static const qnet_op *quantize_of(const qnet_module *m, const char *site) {
  const qnet_region *body = qnet_symbol_find(m, "eval")->body;
  for (const qnet_op *op = body->first; op; op = op->next)
    if (op->opcode == QNET_OP_QUANTIZE && strcmp(qnet_op_string(op, "site"), site) == 0) return op;
  return NULL;
}

static qnet_status fill_samples(qnet_session *s, qnet_module *m, const qnet_quantizer_sites *sites,
                                const char *calibrate, float *const *samples) {
  if (!calibrate) {
    for (int i = 0; i < sites->count; i++) {
      const qnet_op *op = quantize_of(m, sites->site[i].site.name);
      if (sites->site[i].site.role == QNET_ROLE_ACTIVATION)
        draw_samples(m, op->operand[0], (uint32_t)i, samples[i]);
    }
    return QNET_OK;
  }
  calibration c = {.session = s};
  qnet_status status = open_calibration(&c, m, calibrate);
  if (status == QNET_OK) status = run_calibration(&c, sites->count, samples);
  close_calibration(&c);
  return status;
}

static qnet_status fit_all(qnet_session *s, qnet_module *m, qnet_quantizer_sites *sites,
                           const char *calibrate) {
  QNET_TRY(qnet_quantizer_sites_fit_weights(sites, s->diag));
  qnet_arena scratch;
  qnet_arena_init(&scratch, s->allocator);
  float **samples = qnet_arena_array(&scratch, (size_t)sites->count, sizeof(float *));
  qnet_status status = samples ? QNET_OK : qnet_out_of_memory(s->diag);
  for (int i = 0; i < sites->count && status == QNET_OK; i++) {
    samples[i] = qnet_arena_array(&scratch, SAMPLES, sizeof(float));
    if (!samples[i]) status = qnet_out_of_memory(s->diag);
  }
  if (status == QNET_OK) status = fill_samples(s, m, sites, calibrate, samples);
  for (int i = 0; i < sites->count && status == QNET_OK; i++)
    if (sites->site[i].site.role == QNET_ROLE_ACTIVATION)
      status = qnet_quantizer_site_fit(sites, i, samples[i], SAMPLES, s->diag);
  qnet_arena_clear(&scratch);
  return status;
}

qnet_status qnet_refit(qnet_session *s, qnet_module *m, const char *calibrate) {
  qnet_quantizer_sites sites;
  QNET_TRY(qnet_quantizer_sites_collect(m, s->allocator, &sites, s->diag));
  qnet_status status = fit_all(s, m, &sites, calibrate);
  qnet_quantizer_sites_free(&sites);
  if (status != QNET_OK) return status;
  return qnet_quantizer_freeze_all(m, s->allocator, s->diag);
}
