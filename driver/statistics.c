/* A step that learns nothing leaves the statistics of its batch in the running statistics, which
 * are added up between the steps. They are contents shared with the module itself. */
#include "driver/statistics.h"
#include "codegen/plan.h"
#include "ir/ops.h"
#include "passes/pass.h"
#include "passes/quantizer_state.h"
#include <string.h>

struct qnet_statistics {
  const qnet_allocator *allocator;
  qnet_arena arena;
  qnet_module *step;
  qnet_plan *plan;
  const qnet_symbol **symbol; /* running means and variances */
  double **sum;               /* by symbol and channel */
  int symbols;
  int64_t batches;
};

static qnet_status make_step(qnet_statistics *s, const qnet_module *m, int batch, qnet_diag *d) {
  s->step = qnet_module_clone(m);
  if (!s->step) return qnet_out_of_memory(d);
  char pipeline[64];
  snprintf(pipeline, sizeof pipeline, "batch{n=%d},autodiff{learn=statistics}", batch);
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(s->step, pipeline, &options, NULL, d));
  qnet_quantizer_sites sites;
  QNET_TRY(qnet_quantizer_sites_collect(s->step, s->allocator, &sites, d));
  const qnet_status status = qnet_quantizer_sites_refresh(&sites, false, d);
  qnet_quantizer_sites_free(&sites);
  QNET_TRY(status);
  return qnet_plan_create(s->step, "step", QNET_PLAN_FAST, &s->plan, d);
}

static int count_norms(const qnet_region *body) {
  int count = 0;
  for (const qnet_op *op = body->first; op; op = op->next)
    count += op->opcode == QNET_OP_BATCH_NORM;
  return count;
}

/* Room for the sums of one statistic; autodiff has checked that it is a state symbol. */
static bool add_symbol(qnet_statistics *s, const qnet_op *read) {
  const qnet_symbol *symbol = qnet_op_symbol(s->step, read, "sym");
  const size_t n = (size_t)qnet_type_elements(symbol->type);
  s->symbol[s->symbols] = symbol;
  s->sum[s->symbols] = qnet_arena_array(&s->arena, n, sizeof **s->sum);
  return s->sum[s->symbols++] != NULL;
}

static qnet_status collect(qnet_statistics *s, const qnet_region *body, int norms, qnet_diag *d) {
  s->symbol = qnet_arena_array(&s->arena, 2 * (size_t)norms, sizeof(qnet_symbol *));
  s->sum = qnet_arena_array(&s->arena, 2 * (size_t)norms, sizeof *s->sum);
  if (!s->symbol || !s->sum) return qnet_out_of_memory(d);
  for (const qnet_op *op = body->first; op; op = op->next) {
    if (op->opcode != QNET_OP_BATCH_NORM) continue;
    for (int i = 3; i < 5; i++)
      if (!add_symbol(s, op->operand[i]->def)) return qnet_out_of_memory(d);
  }
  return QNET_OK;
}

qnet_status qnet_statistics_create(const qnet_module *m, int batch, qnet_statistics **out,
                                   qnet_diag *d) {
  *out = NULL;
  const int norms = count_norms(qnet_symbol_find(m, "eval")->body);
  if (norms == 0) return QNET_OK;
  qnet_statistics *s = qnet_alloc(m->allocator, sizeof *s);
  if (!s) return qnet_out_of_memory(d);
  s->allocator = m->allocator;
  qnet_arena_init(&s->arena, m->allocator);
  qnet_status status = make_step(s, m, batch, d);
  if (status == QNET_OK) status = collect(s, qnet_symbol_find(s->step, "eval")->body, norms, d);
  if (status == QNET_OK)
    *out = s;
  else
    qnet_statistics_destroy(s);
  return status;
}

void qnet_statistics_destroy(qnet_statistics *s) {
  if (!s) return;
  if (s->plan) qnet_plan_destroy(s->plan);
  qnet_module_destroy(s->step);
  qnet_arena_clear(&s->arena);
  qnet_free(s->allocator, s, sizeof *s);
}

qnet_status qnet_statistics_add(qnet_statistics *s, const uint8_t *images, qnet_diag *d) {
  qnet_blob *image = qnet_plan_argument(s->plan, 0), *label = qnet_plan_argument(s->plan, 1);
  memcpy(image->data, images, image->bytes);
  memset(label->data, 0, label->bytes); /* the loss is of no interest */
  QNET_TRY(qnet_plan_run(s->plan, d));
  for (int i = 0; i < s->symbols; i++) {
    const float *x = s->symbol[i]->blob->data;
    for (int64_t c = 0; c < qnet_blob_elements(s->symbol[i]->blob); c++)
      s->sum[i][c] += (double)x[c];
  }
  s->batches++;
  return QNET_OK;
}

void qnet_statistics_finish(qnet_statistics *s) {
  for (int i = 0; i < s->symbols && s->batches > 0; i++) {
    float *x = s->symbol[i]->blob->data;
    for (int64_t c = 0; c < qnet_blob_elements(s->symbol[i]->blob); c++)
      x[c] = (float)(s->sum[i][c] / (double)s->batches);
  }
}
