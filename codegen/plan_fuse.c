/* Which row kernels become loops, the compilation of all of a plan's loops at once (equal ones one
 * time), and their run. */
#include "codegen/plan_fuse.h"
#include "codegen/lanes.h"
#include "ir/verify.h"
#include "support/strbuf.h"
#include <inttypes.h>
#include <string.h>

enum { LEAST_LANES = 4 };

/* ---- what a loop touches ----------------------------------------------------------------------*/

/* Values in one place of the memory are one argument: arguments do not overlap. */
int qnet_plan_loop_find(const qnet_plan_loop *l, qnet_binding_kind kind,
                        const qnet_plan_value *value, const qnet_plan_step *step) {
  for (int i = 0; i < l->binding_count; i++) {
    const qnet_binding *b = &l->binding[i];
    if (b->kind != kind) continue;
    if (value != NULL ? qnet_plan_root(b->value) == qnet_plan_root(value) : b->step == step)
      return i;
  }
  return -1;
}

static void bind(qnet_plan_loop *l, qnet_binding_kind kind, const qnet_plan_value *value,
                 const qnet_plan_step *step) {
  if (qnet_plan_loop_find(l, kind, value, step) >= 0) return;
  l->binding[l->binding_count++] = (qnet_binding){kind, value, step};
}

static bool makes(const qnet_plan_loop *l, const qnet_plan_value *v) {
  const qnet_plan_step *s = l->first;
  for (int i = 0; i < l->steps; i++, s = s->next)
    for (int k = 0; k < s->out_count; k++)
      if (s->out[k] == v) return true;
  return false;
}

bool qnet_plan_loop_stores(const qnet_plan_loop *l, const qnet_plan_value *v) {
  if (v->place != QNET_PLACE_TILE) return true;
  const qnet_plan_step *s = l->first;
  for (int i = 0; i < l->steps; i++)
    s = s->next;
  for (; s != NULL && s->group == l->first->group; s = s->next)
    for (int k = 0; k < s->in_count; k++)
      if (s->in[k] == v) return true;
  return false;
}

static void bind_step(qnet_plan_loop *l, const qnet_plan_step *s) {
  for (int k = 0; k < s->in_count; k++) {
    const bool rows = qnet_plan_rows_in(s, k);
    if (!rows || !makes(l, s->in[k])) bind(l, rows ? QNET_BIND_ROWS : QNET_BIND_WHOLE, s->in[k], s);
  }
  for (int k = 0; k < s->out_count; k++)
    if (s->out[k] != NULL && qnet_plan_rows_out(s, k) && qnet_plan_loop_stores(l, s->out[k]))
      bind(l, QNET_BIND_ROWS, s->out[k], s);
  if (s->state != NULL) bind(l, QNET_BIND_STATE, NULL, s);
  if (qnet_plan_bins_of(s).rows > 0) bind(l, QNET_BIND_BINS, NULL, s);
  if (s->partial_bytes > 0) bind(l, QNET_BIND_PARTIAL, NULL, s);
}

/* ---- which steps ------------------------------------------------------------------------------*/

/* Rows of f32 or of bytes. */
static bool is_rows(const qnet_plan_step *s, const qnet_plan_value *v) {
  return (v->type->dtype == QNET_F32 || v->type->dtype == QNET_U8) &&
         qnet_type_elements(v->type) == s->rows * s->width;
}

qnet_plan_bins qnet_plan_bins_of(const qnet_plan_step *s) {
  return s->kernel->bins != NULL ? s->kernel->bins(s) : (qnet_plan_bins){0};
}

int64_t qnet_plan_bin_columns(const qnet_plan_step *s) {
  return qnet_plan_bins_of(s).by_channel ? s->width : QNET_LANES;
}

static int64_t bin_floats(const qnet_plan_step *s) {
  const qnet_plan_bins bins = qnet_plan_bins_of(s);
  return bins.rows * qnet_plan_bin_columns(s) * (bins.in_registers ? 1 : 2);
}

bool qnet_plan_looks_up(int64_t ranks, int64_t width) {
  return width % LEAST_LANES == 0 && (ranks > QNET_FUSE_RANKS || width % QNET_LANES != 0);
}

static bool can_emit(const qnet_plan_step *s) {
  if (s->kernel->emit == NULL || s->width % LEAST_LANES != 0) return false;
  for (int k = 0; k < s->in_count; k++)
    if (qnet_plan_rows_in(s, k) && !is_rows(s, s->in[k])) return false;
  for (int k = 0; k < s->out_count; k++)
    if (s->out[k] != NULL && qnet_plan_rows_out(s, k) && !is_rows(s, s->out[k])) return false;
  return true;
}

static bool carries_channels(const qnet_plan_step *s) {
  const qnet_plan_bins bins = qnet_plan_bins_of(s);
  return s->kernel->sums > 0 || (bins.by_channel && bins.in_registers);
}

static bool sums_lanes(const qnet_plan_step *s) {
  const qnet_plan_bins bins = qnet_plan_bins_of(s);
  return bins.rows > 0 && !bins.by_channel;
}

static bool any(const qnet_plan_loop *l, bool (*is)(const qnet_plan_step *s)) {
  const qnet_plan_step *s = l->first;
  for (int i = 0; i < l->steps; i++, s = s->next)
    if (is(s)) return true;
  return false;
}

static bool has_blocks(const qnet_plan_loop *l) {
  return l->first->width != (int64_t)l->vectors * l->lanes;
}

/* Channels are carried block by block, lanes are summed row by row. */
static bool orders_agree(const qnet_plan_loop *l, const qnet_plan_step *s) {
  if (!has_blocks(l)) return true;
  return !(carries_channels(s) && any(l, sums_lanes)) &&
         !(sums_lanes(s) && any(l, carries_channels));
}

int qnet_plan_bin_vectors(const qnet_plan_loop *l, const qnet_plan_step *s) {
  return qnet_plan_bins_of(s).by_channel ? l->vectors : QNET_LANES / l->lanes;
}

int qnet_plan_carried(const qnet_plan_loop *l, const qnet_plan_step *s) {
  const qnet_plan_bins bins = qnet_plan_bins_of(s);
  const int of_bins = bins.in_registers ? (int)bins.rows * qnet_plan_bin_vectors(l, s) : 0;
  return s->kernel->sums * l->vectors + of_bins;
}

static bool has_registers(const qnet_plan_loop *l, const qnet_plan_step *s, int carried) {
  const int more = qnet_plan_carried(l, s);
  return more == 0 || carried + more <= (carried == 0 ? QNET_FUSE_MOST_CARRIED : QNET_FUSE_CARRIED);
}

/* With state, bins and partial result. */
static int most_bindings(const qnet_plan_step *s) {
  return s->in_count + s->out_count + 3;
}

static bool can_extend(const qnet_plan_loop *l, const qnet_plan_step *s, int carried) {
  if (s == NULL || s->group != l->first->group || !can_emit(s)) return false;
  if (s->width != l->first->width || l->steps >= QNET_FUSE_STEPS) return false;
  if (!orders_agree(l, s) || !has_registers(l, s, carried)) return false;
  if (l->bins + bin_floats(s) > QNET_FUSE_BINS) return false;
  if (l->most_bindings + most_bindings(s) > QNET_FUSE_BUFFERS) return false;
  return !s->kernel->from_memory || !makes(l, s->in[0]);
}

static int lanes_of(int64_t width, int widest) {
  int lanes = widest;
  while (width % lanes != 0)
    lanes /= 2;
  return lanes;
}

/* A divisor of the row's vectors; of whole lane sums, if rows are such. */
static int vectors_of(int64_t width, int lanes) {
  const int64_t all = width / lanes;
  int n = all < QNET_FUSE_VECTORS ? (int)all : QNET_FUSE_VECTORS;
  while (all % n != 0 || (width % QNET_LANES == 0 && n * lanes % QNET_LANES != 0))
    n--;
  return n;
}

static void find_loop(qnet_plan_loop *l, const qnet_plan_step *first, int widest) {
  *l = (qnet_plan_loop){.first = first, .lanes = lanes_of(first->width, widest)};
  l->most_bindings = 1; /* count */
  l->vectors = vectors_of(first->width, l->lanes);
  int carried = 0;
  for (const qnet_plan_step *s = first; can_extend(l, s, carried); s = s->next) {
    l->steps++;
    l->bins += bin_floats(s);
    l->most_bindings += most_bindings(s);
    carried += qnet_plan_carried(l, s);
  }
  l->row_major = has_blocks(l) && any(l, sums_lanes);
  bind(l, QNET_BIND_COUNT, NULL, NULL);
  const qnet_plan_step *s = first;
  for (int i = 0; i < l->steps; i++, s = s->next)
    bind_step(l, s);
}

/* ---- equal loops ------------------------------------------------------------------------------*/

static void describe_values(const qnet_plan_loop *l, qnet_plan_value *const *value, int count,
                            unsigned rows, const qnet_plan_step *s, qnet_strbuf *out) {
  for (int k = 0; k < count; k++) {
    const bool whole = (rows >> k & 1) == 0;
    const int at =
        value[k] == NULL
            ? -2
            : qnet_plan_loop_find(l, whole ? QNET_BIND_WHOLE : QNET_BIND_ROWS, value[k], s);
    qnet_strbuf_printf(out, " %d", at);
    if (whole && at >= 0) qnet_strbuf_printf(out, "x%" PRId64, qnet_type_elements(value[k]->type));
  }
}

/* A value by the step of the loop that makes it, or -1. */
static int maker_of(const qnet_plan_loop *l, const qnet_plan_value *v) {
  const qnet_plan_step *s = l->first;
  for (int i = 0; i < l->steps; i++, s = s->next)
    for (int k = 0; k < s->out_count; k++)
      if (s->out[k] == v) return i * QNET_PLAN_MAX_OUT + k;
  return -1;
}

/* All that the code of a loop depends on. */
static void describe(const qnet_plan_loop *l, qnet_strbuf *out) {
  const qnet_plan_step *s = l->first;
  qnet_strbuf_printf(out, "%" PRId64, s->width);
  for (int i = 0; i < l->steps; i++, s = s->next) {
    const char *mask = qnet_op_string(s->op, "mask");
    qnet_strbuf_printf(out, "; %p %s", (const void *)s->kernel, mask != NULL ? mask : "");
    for (int k = 0; k < s->in_count; k++)
      qnet_strbuf_printf(out, " %d", maker_of(l, s->in[k]));
    describe_values(l, s->in, s->in_count, s->kernel->row_in, s, out);
    describe_values(l, s->out, s->out_count, s->kernel->row_out, s, out);
    qnet_strbuf_printf(out, " %d %d %dx%" PRId64 " %d",
                       qnet_plan_loop_find(l, QNET_BIND_STATE, NULL, s),
                       qnet_plan_loop_find(l, QNET_BIND_PARTIAL, NULL, s),
                       qnet_plan_loop_find(l, QNET_BIND_BINS, NULL, s), qnet_plan_bins_of(s).rows,
                       qnet_plan_bins_of(s).in_registers);
  }
}

/* ---- all loops of a plan ----------------------------------------------------------------------*/

typedef struct fusion {
  qnet_plan *plan;
  qnet_module *module;
  int lanes, count;
  struct known {
    char *text, *name;
    struct known *next;
  } * known;
} fusion;

/* The name of the function for the loop, which is made unless there is an equal one. */
static qnet_status name_loop(fusion *f, qnet_plan_loop *l, qnet_diag *d) {
  qnet_arena *arena = &f->plan->arena;
  qnet_strbuf text;
  qnet_strbuf_init(&text, f->plan->allocator);
  describe(l, &text);
  char *copy = qnet_arena_strdup(arena, qnet_strbuf_text(&text));
  const bool failed = text.failed || copy == NULL;
  qnet_strbuf_free(&text);
  if (failed) return qnet_out_of_memory(d);
  for (const struct known *k = f->known; k != NULL; k = k->next)
    if (strcmp(k->text, copy) == 0) {
      l->name = k->name;
      return QNET_OK;
    }
  struct known *k = qnet_arena_alloc(arena, sizeof *k);
  l->name = qnet_arena_printf(arena, "rows%d", f->count++);
  if (k == NULL || l->name == NULL) return qnet_out_of_memory(d);
  *k = (struct known){copy, l->name, f->known};
  f->known = k;
  return qnet_plan_loop_emit(l, f->module, d);
}

static qnet_status find_loops(fusion *f, qnet_diag *d) {
  for (qnet_plan_step *s = f->plan->first, *after; s != NULL; s = after) {
    after = s->next;
    if (f->plan->group[s->group].rows == 0 || !can_emit(s)) continue;
    qnet_plan_loop *l = s->loop = qnet_arena_alloc(&f->plan->arena, sizeof *l);
    if (l == NULL) return qnet_out_of_memory(d);
    find_loop(l, s, f->lanes);
    if (l->steps == 0) { /* too many bins */
      s->loop = NULL;
      continue;
    }
    l->rows = f->plan->group[s->group].grain;
    for (int i = 1; i < l->steps; i++)
      after = after->next;
    QNET_TRY(name_loop(f, l, d));
  }
  return QNET_OK;
}

static qnet_status compile(fusion *f, const qnet_target_choice *host, qnet_diag *d) {
  if (f->count == 0) return QNET_OK;
  QNET_TRY(qnet_module_verify(f->module, d));
  QNET_TRY(qnet_jit_create_functions(f->module, host, &f->plan->jit, d));
  for (qnet_plan_step *s = f->plan->first; s != NULL; s = s->next) {
    if (s->loop == NULL) continue;
    s->loop->run = qnet_jit_function(f->plan->jit, s->loop->name, d);
    if (s->loop->run == NULL) return QNET_INTERNAL;
  }
  return QNET_OK;
}

qnet_status qnet_plan_fuse(qnet_plan *p, qnet_diag *d) {
  qnet_target_choice host;
  QNET_TRY(qnet_target_choose("native", NULL, NULL, &host, d));
  fusion f = {.plan = p, .lanes = p->lanes != 0 ? p->lanes : host.machine.f32_lanes};
  if (f.lanes < LEAST_LANES) f.lanes = LEAST_LANES;
  f.module = qnet_module_create(p->allocator, "loops", QNET_LEVEL_LOOP);
  qnet_status status = f.module != NULL ? find_loops(&f, d) : qnet_out_of_memory(d);
  if (status == QNET_OK) status = compile(&f, &host, d);
  qnet_module_destroy(f.module);
  qnet_target_choice_free(&host);
  return status;
}

/* ---- the run ----------------------------------------------------------------------------------*/

static const void *address_of(const qnet_binding *b, const qnet_plan_range *r) {
  switch (b->kind) {
  case QNET_BIND_COUNT: return &r->count;
  case QNET_BIND_ROWS: return qnet_plan_row(b->value, b->step, r);
  case QNET_BIND_WHOLE: return b->value->data;
  case QNET_BIND_STATE: return b->step->state;
  default: return b->step->partial + b->step->partial_bytes * r->number;
  }
}

static void collect(const qnet_plan_loop *l, const qnet_plan_range *r, const float *bins) {
  const qnet_plan_step *s = l->first;
  for (int i = 0; i < l->steps; i++, s = s->next) {
    if (bin_floats(s) == 0) continue;
    char *partial = s->partial + s->partial_bytes * r->number;
    memset(partial, 0, s->partial_bytes);
    s->kernel->collect(s, bins, &(qnet_plan_rows){.count = r->count, .partial = partial});
    bins += bin_floats(s);
  }
}

void qnet_plan_begin_loop(qnet_plan_loop *l) {
  l->ready = true;
  const qnet_plan_step *s = l->first;
  for (int i = 0; i < l->steps; i++, s = s->next)
    l->ready = l->ready && (s->kernel->ready == NULL || s->kernel->ready(s));
}

static void run(const qnet_plan_loop *l, const qnet_plan_range *r, float *bins) {
  void *buffer[QNET_FUSE_BUFFERS];
  for (int i = 0; i < l->binding_count; i++) {
    const qnet_binding *b = &l->binding[i];
    const bool is_bins = b->kind == QNET_BIND_BINS;
    buffer[i] = is_bins ? bins : (void *)(uintptr_t)address_of(b, r);
    if (is_bins) bins += bin_floats(b->step);
  }
  l->run(buffer);
}

static void run_with_bins(const qnet_plan_loop *l, const qnet_plan_range *r) {
  _Alignas(64) float bins[QNET_FUSE_BINS];
  memset(bins, 0, (size_t)l->bins * sizeof *bins);
  run(l, r, bins);
  collect(l, r, bins);
}

int qnet_plan_run_loop(const qnet_plan_loop *l, const qnet_plan_range *r) {
  if (!l->ready) return 0;
  if (l->bins > 0)
    run_with_bins(l, r);
  else
    run(l, r, NULL);
  return l->steps;
}
