/* Plans: creation, the run, and what belongs to their life. The steps come from plan_lower.c, their
 * grouping and memory from plan_buffers.c, kernels from plan_ops_*.c. */
#include "codegen/codegen.h"
#include "codegen/plan_internal.h"
#include "support/parallel.h"
#include <math.h>
#include <string.h>

enum { TILE_ALIGN = 64 };

/* ---- helpers of the kernels -------------------------------------------------------------------*/

qnet_plan_shape qnet_plan_shape_of(const qnet_type *type) {
  qnet_plan_shape s = {1, 1, 1, 1};
  if (type->rank > 0) s.c = type->dim[type->rank - 1];
  if (type->rank == 4)
    s = (qnet_plan_shape){type->dim[0], type->dim[1], type->dim[2], s.c};
  else if (s.c > 0)
    s.n = qnet_type_elements(type) / s.c;
  return s;
}

void *qnet_plan_alloc(qnet_plan *p, size_t bytes) {
  return qnet_arena_alloc_aligned(&p->arena, bytes, TILE_ALIGN);
}

void qnet_plan_finish_counts(const qnet_plan_step *s, const qnet_plan_value *count,
                             const qnet_plan_value *sum) {
  const qnet_plan_group *g = s->state;
  const int64_t n = qnet_type_elements(count->type);
  int64_t *counts = (int64_t *)count->data;
  double *sums = (double *)sum->data;
  memset(counts, 0, count->bytes);
  memset(sums, 0, sum->bytes);
  for (int64_t i = 0; i < g->ranges; i++) {
    const char *partial = s->partial + s->partial_bytes * (size_t)i;
    for (int64_t k = 0; k < n; k++) {
      counts[k] += ((const int64_t *)partial)[k];
      sums[k] += ((const double *)(partial + count->bytes))[k];
    }
  }
}

void qnet_plan_need_scratch(qnet_plan_step *s, size_t bytes) {
  s->scratch_bytes = bytes;
}

/* ---- creation ---------------------------------------------------------------------------------*/

static qnet_status create_blobs(qnet_plan *p, qnet_plan_value *const *value, int count,
                                qnet_blob **blob, qnet_diag *d) {
  for (int i = 0; i < count; i++) {
    const qnet_type *t = value[i]->type;
    blob[i] = qnet_blob_create(p->allocator, t->dtype, t->rank, t->dim);
    if (blob[i] == NULL) return qnet_out_of_memory(d);
    if (value[i]->place == QNET_PLACE_BLOB) value[i]->data = blob[i]->data;
  }
  return QNET_OK;
}

static qnet_status create_interface(qnet_plan *p, qnet_diag *d) {
  p->argument = qnet_arena_array(&p->arena, (size_t)p->argument_count, sizeof *p->argument);
  p->result = qnet_arena_array(&p->arena, (size_t)p->result_count, sizeof *p->result);
  if (p->argument == NULL || p->result == NULL) return qnet_out_of_memory(d);
  QNET_TRY(create_blobs(p, p->argument_value, p->argument_count, p->argument, d));
  return create_blobs(p, p->result_value, p->result_count, p->result, d);
}

static qnet_status create_partials(qnet_plan *p, qnet_diag *d) {
  for (qnet_plan_step *s = p->first; s != NULL; s = s->next) {
    if (s->partial_bytes == 0) continue;
    s->partial = qnet_plan_alloc(p, s->partial_bytes * (size_t)p->group[s->group].ranges);
    if (s->partial == NULL) return qnet_out_of_memory(d);
  }
  return QNET_OK;
}

static qnet_status create_memory(qnet_plan *p, qnet_diag *d) {
  for (const qnet_plan_step *s = p->first; s != NULL; s = s->next)
    if (s->scratch_bytes > p->scratch_bytes) p->scratch_bytes = s->scratch_bytes;
  p->slab = qnet_plan_alloc(p, p->slab_bytes);
  p->scratch = qnet_plan_alloc(p, p->scratch_bytes);
  if (p->slab == NULL || p->scratch == NULL) return qnet_out_of_memory(d);
  for (qnet_plan_value *v = p->values; v != NULL; v = v->next)
    if (v->place == QNET_PLACE_SLAB) v->data = p->slab + v->offset;
  return create_partials(p, d);
}

static qnet_status prepare_steps(qnet_plan *p, qnet_diag *d) {
  for (qnet_plan_step *s = p->first; s != NULL; s = s->next)
    if (s->kernel->prepare != NULL) QNET_TRY(s->kernel->prepare(p, s, d));
  return QNET_OK;
}

static qnet_status build(qnet_plan *p, const char *function, qnet_diag *d) {
  const qnet_symbol *f = qnet_symbol_find(p->module, function);
  if (f == NULL || f->kind != QNET_SYMBOL_FUNC)
    return qnet_error(d, QNET_NO_LOC, "the module has no function @%s", function);
  if (p->module->level > QNET_LEVEL_QUANT)
    return qnet_error(d, f->loc, "plans run levels nn and quant, not %s",
                      qnet_level_name(p->module->level));
  QNET_TRY(qnet_onednn_create(&p->arena, &p->onednn, d));
  QNET_TRY(qnet_plan_lower(p, f, d));
  QNET_TRY(qnet_plan_place(p, d));
  QNET_TRY(prepare_steps(p, d));
  if (p->mode == QNET_PLAN_FAST) QNET_TRY(qnet_plan_fuse(p, d));
  QNET_TRY(create_memory(p, d));
  return create_interface(p, d);
}

qnet_status qnet_plan_create(const qnet_module *m, const char *function, qnet_plan_mode mode,
                             qnet_plan **out, qnet_diag *d) {
  return qnet_plan_create_lanes(m, function, mode, 0, out, d);
}

qnet_status qnet_plan_create_lanes(const qnet_module *m, const char *function, qnet_plan_mode mode,
                                   int lanes, qnet_plan **out, qnet_diag *d) {
  *out = NULL;
  qnet_plan *p = qnet_alloc(m->allocator, sizeof *p);
  if (p == NULL) return qnet_out_of_memory(d);
  p->module = m;
  p->allocator = m->allocator;
  p->mode = mode;
  p->lanes = lanes;
  qnet_arena_init(&p->arena, m->allocator);
  const qnet_status status = build(p, function, d);
  if (status == QNET_OK)
    *out = p;
  else
    qnet_plan_destroy(p);
  return status;
}

void qnet_plan_destroy(qnet_plan *p) {
  if (p == NULL) return;
  for (qnet_plan_step *s = p->first; s != NULL; s = s->next)
    if (s->kernel->destroy != NULL && s->state != NULL) s->kernel->destroy(s);
  for (int i = 0; p->argument != NULL && i < p->argument_count; i++)
    qnet_blob_release(p->argument[i]);
  for (int i = 0; p->result != NULL && i < p->result_count; i++)
    qnet_blob_release(p->result[i]);
  qnet_onednn_destroy(p->onednn);
  if (p->jit != NULL) qnet_jit_destroy(p->jit);
  qnet_arena_clear(&p->arena);
  qnet_free(p->allocator, p, sizeof *p);
}

qnet_blob *qnet_plan_argument(qnet_plan *p, int index) {
  return index >= 0 && index < p->argument_count ? p->argument[index] : NULL;
}

qnet_status qnet_plan_share_argument(qnet_plan *p, int index, qnet_blob *blob, qnet_diag *d) {
  qnet_blob *own = qnet_plan_argument(p, index);
  if (own == NULL || blob->dtype != own->dtype || blob->rank != own->rank ||
      memcmp(blob->dim, own->dim, sizeof own->dim[0] * (size_t)own->rank) != 0)
    return qnet_error(d, QNET_NO_LOC, "argument %d of this plan has another type", index);
  p->argument[index] = qnet_blob_retain(blob);
  p->argument_value[index]->data = blob->data;
  qnet_blob_release(own);
  return QNET_OK;
}

qnet_blob *qnet_plan_result(qnet_plan *p, int index) {
  return index >= 0 && index < p->result_count ? p->result[index] : NULL;
}

/* ---- the run ----------------------------------------------------------------------------------*/

/* Symbols may have got other blobs since the last run. */
static qnet_status bind_symbols(const qnet_plan *p, qnet_diag *d) {
  for (qnet_plan_value *v = p->values; v != NULL; v = v->next) {
    if (v->place != QNET_PLACE_SYMBOL) continue;
    const qnet_blob *b = v->symbol->blob;
    if (b == NULL)
      return qnet_error(d, v->symbol->loc, "'@%s' has no content; load weights first",
                        v->symbol->name);
    if (b->bytes != v->bytes)
      return qnet_error(d, v->symbol->loc, "'@%s' has %zu bytes of content, but its type has %zu",
                        v->symbol->name, b->bytes, v->bytes);
    v->data = b->data;
  }
  return QNET_OK;
}

char *qnet_plan_row(const qnet_plan_value *v, const qnet_plan_step *s, const qnet_plan_range *r) {
  if (v->place == QNET_PLACE_TILE) return r->tile + v->offset;
  return v->data + v->bytes / (size_t)s->rows * (size_t)r->begin;
}

static void run_step(const qnet_plan_step *s, const qnet_plan_range *range) {
  qnet_plan_rows r = {.begin = range->begin, .count = range->count};
  for (int k = 0; k < s->in_count; k++)
    r.in[k] = qnet_plan_rows_in(s, k) ? qnet_plan_row(s->in[k], s, range) : s->in[k]->data;
  for (int k = 0; k < s->out_count; k++)
    if (s->out[k] != NULL && qnet_plan_rows_out(s, k))
      r.out[k] = qnet_plan_row(s->out[k], s, range);
  if (s->partial != NULL) {
    r.partial = s->partial + s->partial_bytes * range->number;
    memset(r.partial, 0, s->partial_bytes);
  }
  s->kernel->rows(s, &r);
}

static void run_range(void *context, size_t begin, size_t end) {
  const qnet_plan_group *g = context;
  _Alignas(TILE_ALIGN) char tile[QNET_PLAN_TILE_BYTES];
  const qnet_plan_range range = {.begin = (int64_t)begin,
                                 .count = (int64_t)(end - begin),
                                 .number = begin / (size_t)g->grain,
                                 .tile = tile};
  const qnet_plan_step *s = g->first;
  for (int i = 0; i < g->count;) {
    int steps = s->loop != NULL ? qnet_plan_run_loop(s->loop, &range) : 0;
    if (steps == 0) {
      run_step(s, &range);
      steps = 1;
    }
    i += steps;
    for (int k = 0; k < steps; k++)
      s = s->next;
  }
}

static void run_rows(qnet_plan_group *g) {
  const qnet_plan_step *s = g->first;
  for (int i = 0; i < g->count; i++, s = s->next) {
    if (s->kernel->begin != NULL) s->kernel->begin(s);
    if (s->loop != NULL) qnet_plan_begin_loop(s->loop);
  }
  qnet_parallel_for((size_t)g->rows, (size_t)g->grain, run_range, g);
  s = g->first;
  for (int i = 0; i < g->count; i++, s = s->next)
    if (s->kernel->finish != NULL) s->kernel->finish(s);
}

qnet_status qnet_plan_run_group(qnet_plan *p, int index, qnet_diag *d) {
  qnet_plan_group *g = &p->group[index];
  if (g->rows == 0) return g->first->kernel->run(p, g->first, d);
  run_rows(g);
  return QNET_OK;
}

/* A step whose loss is not finite must not reach the weights. */
static bool is_lost(const qnet_plan_step *s) {
  return s->op != NULL && s->op->opcode == QNET_OP_SOFTMAX_CROSS_ENTROPY && s->out[0] != NULL &&
         !isfinite(*(const float *)s->out[0]->data);
}

qnet_status qnet_plan_run(qnet_plan *p, qnet_diag *d) {
  QNET_TRY(bind_symbols(p, d));
  for (int i = 0; i < p->group_count; i++) {
    QNET_TRY(qnet_plan_run_group(p, i, d));
    if (is_lost(p->group[i].first)) return QNET_OK;
  }
  return QNET_OK;
}
