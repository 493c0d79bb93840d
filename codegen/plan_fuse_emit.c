/* The loop-level code of a fused loop:
 *
 *   for blocks of channels (as many vectors as fit the registers):
 *     numbers of tables, factors of the channels   `head`, `near`
 *     for rows, carrying the sums:                 `body`
 *       for each vector of the block: every step
 *     sums to the partial results
 *
 * or row by row:
 *
 *   numbers of tables                              `head`
 *   for rows, for blocks of channels, carrying the sums:
 *     factors of the channels                      `near`
 *     for each vector of the block: every step     `body`
 *   sums to the bins */
#include "codegen/lanes.h"
#include "codegen/plan_fuse.h"
#include <string.h>

enum {
  SLOTS = 8,    /* rows of states and partial results at most */
  HALVINGS = 4, /* of a search among bounds that stand in the code */
  MEMO = 2 * QNET_FUSE_VECTORS * QNET_FUSE_STEPS * (QNET_PLAN_MAX_IN + QNET_PLAN_MAX_OUT)
};

/* A vector that exists already: of a value in the body, of a factor in the head. */
typedef struct memo {
  const qnet_plan_value *value; /* body; NULL: a factor */
  int binding;
  int64_t slot;
  int vector;
  qnet_value *is;
} memo;

struct qnet_fuse {
  const qnet_plan_loop *loop;
  qnet_module *m;
  const qnet_symbol *function;
  qnet_builder head, body, *near;
  const qnet_type *index, *lanes, *ints; /* i64, vec<Lxf32>, vec<Lxi32> */
  int64_t width;
  int vectors;
  const qnet_plan_step *step; /* whose code is being made, for this vector */
  int vector, first_sum;      /* of the step */
  qnet_value *row, *zero, *column[QNET_FUSE_VECTORS];
  memo known[MEMO];
  int known_count;
  /* Step by step: sums of the partial result, vector by vector; then bins. */
  qnet_value *sum[QNET_FUSE_MOST_CARRIED];
  int carried;
};

/* ---- building ---------------------------------------------------------------------------------*/

static qnet_value *constant(qnet_builder *b, const qnet_type *type, int64_t v) {
  qnet_value *c = qnet_build1(b, QNET_OP_LOOP_CONST, NULL, 0, type);
  if (c != NULL) qnet_op_set_int(b->module, c->def, "int", v);
  return c;
}

static qnet_value *load(qnet_builder *b, const qnet_type *type, qnet_value *buffer, qnet_value *i,
                        qnet_value *j) {
  return qnet_build1(b, QNET_OP_LOOP_LOAD, (qnet_value *[]){buffer, i, j}, 3, type);
}

static void store(qnet_builder *b, qnet_value *v, qnet_value *buffer, qnet_value *i,
                  qnet_value *j) {
  qnet_build(b, QNET_OP_LOOP_STORE, (qnet_value *[]){v, buffer, i, j}, 4, NULL, 0);
}

static qnet_value *argument(const qnet_fuse *f, int binding) {
  return binding >= 0 ? &f->function->body->arg[binding] : NULL;
}

static qnet_value *remember(qnet_fuse *f, memo what) {
  if (f->known_count < MEMO) f->known[f->known_count++] = what;
  return what.is;
}

static qnet_value *find_value(const qnet_fuse *f, const qnet_plan_value *v) {
  for (int i = 0; i < f->known_count; i++)
    if (f->known[i].value == v && f->known[i].vector == f->vector) return f->known[i].is;
  return NULL;
}

static qnet_value *find_factor(const qnet_fuse *f, int binding, int64_t slot, int vector) {
  for (int i = 0; i < f->known_count; i++) {
    const memo *k = &f->known[i];
    if (k->value == NULL && k->binding == binding && k->slot == slot && k->vector == vector)
      return k->is;
  }
  return NULL;
}

static const qnet_type *lanes_of(const qnet_fuse *f, qnet_dtype dtype) {
  return qnet_type_vector(f->m, dtype, f->loop->lanes);
}

static qnet_value *cast(const qnet_fuse *f, qnet_builder *b, const char *kind, qnet_value *v,
                        const qnet_type *to) {
  qnet_value *is = qnet_build1(b, QNET_OP_LOOP_CAST, &v, 1, to);
  if (is != NULL) qnet_op_set_string(f->m, is->def, "kind", kind);
  return is;
}

/* ---- what kernels use -------------------------------------------------------------------------*/

qnet_value *qnet_fuse_in(qnet_fuse *f, int operand) {
  const qnet_plan_value *v = f->step->in[operand];
  qnet_value *known = find_value(f, v);
  if (known != NULL) return known;
  qnet_value *buffer = argument(f, qnet_plan_loop_find(f->loop, QNET_BIND_ROWS, v, f->step));
  const qnet_dtype dtype = v->type->dtype;
  qnet_value *is = load(&f->body, lanes_of(f, dtype), buffer, f->row, f->column[f->vector]);
  if (dtype == QNET_U8) is = cast(f, &f->body, "zext", is, f->ints);
  return remember(f, (memo){.value = v, .vector = f->vector, .is = is});
}

void qnet_fuse_out(qnet_fuse *f, int result, qnet_value *is) {
  const qnet_plan_value *v = f->step->out[result];
  if (v == NULL) return;
  remember(f, (memo){.value = v, .vector = f->vector, .is = is});
  if (!qnet_plan_loop_stores(f->loop, v)) return;
  qnet_value *buffer = argument(f, qnet_plan_loop_find(f->loop, QNET_BIND_ROWS, v, f->step));
  if (v->type->dtype == QNET_U8) is = cast(f, &f->body, "trunc", is, lanes_of(f, QNET_U8));
  store(&f->body, is, buffer, f->row, f->column[f->vector]);
}

static qnet_value *factor(qnet_fuse *f, int binding, int slot) {
  qnet_value *known = find_factor(f, binding, slot, f->vector);
  if (known != NULL) return known;
  qnet_value *i = constant(f->near, f->index, slot);
  qnet_value *is = load(f->near, f->lanes, argument(f, binding), i, f->column[f->vector]);
  return remember(f, (memo){.binding = binding, .slot = slot, .vector = f->vector, .is = is});
}

qnet_value *qnet_fuse_channels(qnet_fuse *f, int operand) {
  return factor(f, qnet_plan_loop_find(f->loop, QNET_BIND_WHOLE, f->step->in[operand], f->step), 0);
}

qnet_value *qnet_fuse_state(qnet_fuse *f, int slot) {
  return factor(f, qnet_plan_loop_find(f->loop, QNET_BIND_STATE, NULL, f->step), slot);
}

/* One for all vectors. */
static qnet_value *splat(qnet_fuse *f, qnet_value *scalar, const qnet_type *type) {
  return qnet_build1(&f->head, QNET_OP_LOOP_SPLAT, &scalar, 1, type);
}

qnet_value *qnet_fuse_element(qnet_fuse *f, int operand, int64_t index) {
  const int binding = qnet_plan_loop_find(f->loop, QNET_BIND_WHOLE, f->step->in[operand], f->step);
  qnet_value *known = find_factor(f, binding, index, -1);
  if (known != NULL) return known;
  qnet_value *at = constant(&f->head, f->index, index);
  const qnet_dtype dtype = f->step->in[operand]->type->dtype;
  const qnet_type *scalar = qnet_type_scalar(f->m, dtype);
  qnet_value *is = load(&f->head, scalar, argument(f, binding), f->zero, at);
  if (dtype == QNET_U8) is = cast(f, &f->head, "zext", is, qnet_type_scalar(f->m, QNET_I32));
  is = splat(f, is, dtype == QNET_U8 ? f->ints : f->lanes);
  return remember(f, (memo){.binding = binding, .slot = index, .vector = -1, .is = is});
}

qnet_value *qnet_fuse_number(qnet_fuse *f, double v) {
  qnet_value *c =
      qnet_build1(&f->head, QNET_OP_LOOP_CONST, NULL, 0, qnet_type_scalar(f->m, QNET_F32));
  if (c != NULL) qnet_op_set_float(f->m, c->def, "float", v);
  return splat(f, c, f->lanes);
}

static qnet_value *integer(qnet_fuse *f, int64_t v) {
  return splat(f, constant(&f->head, qnet_type_scalar(f->m, QNET_I32), v), f->ints);
}

qnet_value *qnet_fuse_arithmetic(qnet_fuse *f, int opcode, qnet_value *a, qnet_value *b) {
  return qnet_build1(&f->body, opcode, (qnet_value *[]){a, b}, 2, f->lanes);
}

static qnet_value *compare(qnet_fuse *f, int opcode, const char *pred, qnet_value *a,
                           qnet_value *b) {
  qnet_value *is = qnet_build1(&f->body, opcode, (qnet_value *[]){a, b}, 2, lanes_of(f, QNET_I1));
  if (is != NULL) qnet_op_set_string(f->m, is->def, "pred", pred);
  return is;
}

static qnet_value *pick(qnet_fuse *f, qnet_value *condition, qnet_value *a, qnet_value *b) {
  const qnet_type *type = a != NULL ? a->type : f->lanes;
  return qnet_build1(&f->body, QNET_OP_LOOP_SELECT, (qnet_value *[]){condition, a, b}, 3, type);
}

static qnet_value *combine(qnet_fuse *f, int opcode, qnet_value *a, qnet_value *b) {
  return qnet_build1(&f->body, opcode, (qnet_value *[]){a, b}, 2, f->ints);
}

qnet_value *qnet_fuse_choose(qnet_fuse *f, qnet_value *a, qnet_value *b, qnet_value *x,
                             qnet_value *y) {
  return pick(f, compare(f, QNET_OP_LOOP_FCMP, "ogt", a, b), x, y);
}

qnet_value *qnet_fuse_where(qnet_fuse *f, qnet_value *is, int64_t code, qnet_value *v) {
  return pick(f, compare(f, QNET_OP_LOOP_CMP, "eq", is, integer(f, code)), v,
              qnet_fuse_number(f, 0));
}

qnet_value *qnet_fuse_at_most(qnet_fuse *f, qnet_value *is, int64_t most) {
  return combine(f, QNET_OP_LOOP_SMIN, is, integer(f, most));
}

/* ---- tables -----------------------------------------------------------------------------------*/

static int64_t elements_of(const qnet_fuse *f, int operand) {
  return qnet_type_elements(f->step->in[operand]->type);
}

/* Bound `at`, or what nothing is above. */
static qnet_value *bound_at(qnet_fuse *f, int operand, int64_t at) {
  return at < elements_of(f, operand) ? qnet_fuse_element(f, operand, at)
                                      : qnet_fuse_number(f, __builtin_inf());
}

/* The bound that the next halving, of `size` ranks, compares with: the halvings before it, whose
 * outcomes are `above`, began at rank `first`. */
static qnet_value *middle_bound(qnet_fuse *f, int operand, qnet_value *const *above, int halvings,
                                int64_t first, int64_t size) {
  if (halvings == 0) return bound_at(f, operand, first + size - 1);
  const int64_t upper = first + (size << halvings);
  qnet_value *high = middle_bound(f, operand, above + 1, halvings - 1, upper, size);
  qnet_value *low = middle_bound(f, operand, above + 1, halvings - 1, first, size);
  return pick(f, above[0], high, low);
}

qnet_value *qnet_fuse_lookup(qnet_fuse *f, int operand, qnet_value *rank) {
  const qnet_plan_value *v = f->step->in[operand];
  qnet_value *table = argument(f, qnet_plan_loop_find(f->loop, QNET_BIND_WHOLE, v, f->step));
  const qnet_dtype dtype = v->type->dtype;
  qnet_value *is = qnet_build1(&f->body, QNET_OP_LOOP_GATHER,
                               (qnet_value *[]){table, f->zero, rank}, 3, lanes_of(f, dtype));
  return dtype == QNET_U8 ? cast(f, &f->body, "zext", is, f->ints) : is;
}

/* Halving steps: the first few among bounds in registers, later ones look theirs up. Beyond the
 * last bound the last one is asked again: who is above it has the last rank, however far the search
 * has gone. */
qnet_value *qnet_fuse_rank(qnet_fuse *f, qnet_value *x, int operand) {
  const int64_t bounds = elements_of(f, operand);
  int64_t size = 1;
  while (size <= bounds)
    size *= 2;
  const bool whole = size == bounds + 1;
  qnet_value *above[HALVINGS], *rank = integer(f, 0);
  int halvings = 0;
  for (size /= 2; size > 0; size /= 2) {
    qnet_value *bound;
    if (halvings < HALVINGS) {
      bound = middle_bound(f, operand, above, halvings, 0, size);
    } else {
      qnet_value *at = combine(f, QNET_OP_LOOP_ADD, rank, integer(f, size - 1));
      if (!whole) at = qnet_fuse_at_most(f, at, bounds - 1);
      bound = qnet_fuse_lookup(f, operand, at);
    }
    qnet_value *is_above = compare(f, QNET_OP_LOOP_FCMP, "ogt", x, bound);
    qnet_value *next = combine(f, QNET_OP_LOOP_ADD, rank, integer(f, size));
    rank = pick(f, is_above, next, rank);
    if (halvings < HALVINGS) above[halvings++] = is_above;
  }
  return whole ? rank : qnet_fuse_at_most(f, rank, bounds);
}

/* ---- sums -------------------------------------------------------------------------------------*/

static void add_to(qnet_fuse *f, int at, qnet_value *v) {
  f->sum[at] = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FADD, f->sum[at], v);
}

void qnet_fuse_sum(qnet_fuse *f, int slot, qnet_value *v) {
  add_to(f, f->first_sum + slot * f->vectors + f->vector, v);
}

void qnet_fuse_bin(qnet_fuse *f, int row, qnet_value *v) {
  const int parts = qnet_plan_bin_vectors(f->loop, f->step),
            first = f->first_sum + f->step->kernel->sums * f->vectors;
  add_to(f, first + row * parts + f->vector % parts, v);
}

/* The vector's column among the lanes, which follow the elements of the range. */
static qnet_value *lane_column(qnet_fuse *f) {
  const int64_t at = (int64_t)f->vector * f->loop->lanes;
  if (f->width % QNET_LANES == 0) /* then blocks are such, too */
    return constant(&f->body, f->index, at % QNET_LANES);
  qnet_value *const width = constant(&f->body, f->index, f->width);
  qnet_value *const mask = constant(&f->body, f->index, QNET_LANES - 1);
  qnet_value *const row =
      qnet_build1(&f->body, QNET_OP_LOOP_MUL, (qnet_value *[]){f->row, width}, 2, f->index);
  qnet_value *const element = qnet_build1(&f->body, QNET_OP_LOOP_ADD,
                                          (qnet_value *[]){row, f->column[f->vector]}, 2, f->index);
  return qnet_build1(&f->body, QNET_OP_LOOP_AND, (qnet_value *[]){element, mask}, 2, f->index);
}

void qnet_fuse_bin_at(qnet_fuse *f, qnet_value *row, qnet_value *a, qnet_value *b) {
  const bool by_channel = qnet_plan_bins_of(f->step).by_channel;
  qnet_value *bins = argument(f, qnet_plan_loop_find(f->loop, QNET_BIND_BINS, NULL, f->step));
  qnet_value *column = by_channel ? f->column[f->vector] : lane_column(f);
  qnet_build(&f->body, QNET_OP_LOOP_SCATTER_ADD, (qnet_value *[]){a, b, bins, row, column}, 5, NULL,
             0);
}

qnet_value *qnet_fuse_first_row(qnet_fuse *f, int operand, int slot) {
  const qnet_plan_loop *l = f->loop;
  qnet_value *from =
      argument(f, qnet_plan_loop_find(l, QNET_BIND_ROWS, f->step->in[operand], f->step));
  qnet_value *to = argument(f, qnet_plan_loop_find(l, QNET_BIND_PARTIAL, NULL, f->step));
  qnet_value *row = load(&f->head, f->lanes, from, f->zero, f->column[f->vector]);
  store(&f->head, row, to, constant(&f->head, f->index, slot), f->column[f->vector]);
  return row;
}

/* ---- loops ------------------------------------------------------------------------------------*/

/* loop.for with the values carried, of one type; the builder of its body in *body. */
static qnet_op *begin_loop(qnet_fuse *f, qnet_builder *b, qnet_value *end, int64_t step,
                           qnet_value *const *carried, int count, qnet_builder *body) {
  qnet_value *in[2 + sizeof f->sum / sizeof *f->sum] = {f->zero, end};
  const qnet_type *type[1 + sizeof f->sum / sizeof *f->sum] = {f->index};
  for (int i = 0; i < count; i++) {
    in[2 + i] = carried[i];
    type[1 + i] = f->lanes;
  }
  qnet_op *op = qnet_build(b, QNET_OP_LOOP_FOR, in, 2 + count, type + 1, count);
  if (op == NULL) return NULL;
  qnet_op_set_int(f->m, op, "step", step);
  qnet_region *region = qnet_op_add_region(f->m, op, type, 1 + count);
  if (region == NULL) return NULL;
  *body = qnet_builder_at_end(f->m, region);
  return op;
}

/* All steps for all vectors of the block, in one row. */
static void emit_row(qnet_fuse *f) {
  for (f->vector = 0; f->vector < f->vectors; f->vector++) {
    f->first_sum = 0;
    f->step = f->loop->first;
    for (int i = 0; i < f->loop->steps; i++, f->step = f->step->next) {
      f->step->kernel->emit(f, f->step);
      f->first_sum += qnet_plan_carried(f->loop, f->step);
    }
  }
}

/* Stores carried sums from `at` on, a row of `parts` vectors; returns the next. */
static int store_row(qnet_fuse *f, qnet_builder *b, qnet_op *sums, int at, int parts,
                     qnet_value *to, int64_t row, bool by_channel) {
  for (int part = 0; part < parts; part++) {
    qnet_value *column =
        by_channel ? f->column[part] : constant(b, f->index, (int64_t)part * f->loop->lanes);
    store(b, qnet_op_result(sums, at + part), to, constant(b, f->index, row), column);
  }
  return at + parts;
}

static void store_sums(qnet_fuse *f, qnet_builder *b, qnet_op *sums) {
  const qnet_plan_loop *l = f->loop;
  const qnet_plan_step *s = l->first;
  int at = 0;
  for (int i = 0; i < l->steps; i++, s = s->next) {
    const qnet_plan_bins bins = qnet_plan_bins_of(s);
    qnet_value *partial = argument(f, qnet_plan_loop_find(l, QNET_BIND_PARTIAL, NULL, s));
    for (int slot = 0; slot < s->kernel->sums; slot++)
      at = store_row(f, b, sums, at, f->vectors, partial, slot, true);
    qnet_value *to = argument(f, qnet_plan_loop_find(l, QNET_BIND_BINS, NULL, s));
    for (int64_t row = 0; bins.in_registers && row < bins.rows; row++)
      at = store_row(f, b, sums, at, qnet_plan_bin_vectors(l, s), to, row, bins.by_channel);
  }
}

static qnet_value *add_index(qnet_fuse *f, qnet_builder *b, qnet_value *base, int64_t offset) {
  qnet_value *c = constant(b, f->index, offset);
  if (base == NULL) return c;
  return qnet_build1(b, QNET_OP_LOOP_ADD, (qnet_value *[]){base, c}, 2, f->index);
}

/* A loop that carries the sums, which are its arguments from then on. */
static qnet_op *begin_carrying(qnet_fuse *f, qnet_builder *b, qnet_value *end, int64_t step,
                               qnet_builder *body) {
  qnet_op *op = begin_loop(f, b, end, step, f->sum, f->carried, body);
  for (int i = 0; op != NULL && i < f->carried; i++)
    f->sum[i] = &op->region[0]->arg[1 + i];
  return op;
}

/* The loop over rows; what stays the same goes before it. */
static qnet_op *begin_rows(qnet_fuse *f, qnet_builder *b, qnet_builder *body) {
  qnet_value *end =
      qnet_build1(b, QNET_OP_LOOP_LOAD, (qnet_value *[]){argument(f, 0), f->zero}, 2, f->index);
  f->known_count = 0;
  f->head = *b;
  qnet_value *nothing = f->carried > 0 ? qnet_fuse_number(f, 0) : NULL;
  *b = f->head;
  for (int i = 0; i < f->carried; i++)
    f->sum[i] = nothing;
  qnet_op *rows = begin_carrying(f, b, end, 1, body);
  if (rows == NULL) return NULL;
  f->head = qnet_builder_before(f->m, rows);
  f->row = &rows->region[0]->arg[0];
  return rows;
}

/* The columns of the block that begins at `base` (NULL: 0). */
static void set_columns(qnet_fuse *f, qnet_builder *b, qnet_value *base) {
  for (int v = 0; v < f->vectors; v++)
    f->column[v] = add_index(f, b, base, (int64_t)v * f->loop->lanes);
}

/* The loop over rows for one block of channels. */
static void emit_block(qnet_fuse *f, qnet_builder *b, qnet_value *base) {
  set_columns(f, b, base);
  qnet_op *rows = begin_rows(f, b, &f->body);
  if (rows == NULL) return;
  f->near = &f->head;
  emit_row(f);
  qnet_build_yield(&f->body, f->sum, f->carried);
  store_sums(f, b, rows);
}

static void emit_blocks(qnet_fuse *f, qnet_builder *b) {
  qnet_builder inner;
  const int64_t block = (int64_t)f->vectors * f->loop->lanes;
  if (block == f->width) {
    emit_block(f, b, NULL);
    return;
  }
  qnet_value *end = constant(b, f->index, f->width);
  qnet_op *blocks = begin_loop(f, b, end, block, NULL, 0, &inner);
  if (blocks == NULL) return;
  emit_block(f, &inner, &blocks->region[0]->arg[0]);
  qnet_build_yield(&inner, NULL, 0);
}

static void emit_row_major(qnet_fuse *f, qnet_builder *b) {
  qnet_builder outer;
  qnet_value *end = constant(b, f->index, f->width);
  qnet_op *rows = begin_rows(f, b, &outer);
  if (rows == NULL) return;
  qnet_op *blocks = begin_carrying(f, &outer, end, (int64_t)f->vectors * f->loop->lanes, &f->body);
  if (blocks == NULL) return;
  f->near = &f->body;
  set_columns(f, &f->body, &blocks->region[0]->arg[0]);
  emit_row(f);
  qnet_build_yield(&f->body, f->sum, f->carried);
  for (int i = 0; i < f->carried; i++)
    f->sum[i] = qnet_op_result(blocks, i);
  qnet_build_yield(&outer, f->sum, f->carried);
  store_sums(f, b, rows);
}

/* ---- the function -----------------------------------------------------------------------------*/

static const qnet_type *argument_type(const qnet_fuse *f, const qnet_binding *b) {
  const int64_t rows[] = {f->loop->rows, f->width}, slots[] = {SLOTS, f->width}, one = 1;
  switch (b->kind) {
  case QNET_BIND_COUNT: return qnet_type_buffer(f->m, QNET_I64, 1, &one);
  case QNET_BIND_ROWS: return qnet_type_buffer(f->m, b->value->type->dtype, 2, rows);
  case QNET_BIND_WHOLE:
    return qnet_type_buffer(f->m, b->value->type->dtype, 2,
                            (int64_t[]){1, qnet_type_elements(b->value->type)});
  case QNET_BIND_BINS: {
    const qnet_plan_bins bins = qnet_plan_bins_of(b->step);
    const int64_t shape[] = {bins.rows, qnet_plan_bin_columns(b->step), 2};
    return qnet_type_buffer(f->m, QNET_F32, bins.in_registers ? 2 : 3, shape);
  }
  default: return qnet_type_buffer(f->m, QNET_F32, 2, slots);
  }
}

qnet_status qnet_plan_loop_emit(const qnet_plan_loop *l, qnet_module *m, qnet_diag *d) {
  qnet_fuse f = {.loop = l, .m = m, .width = l->first->width, .vectors = l->vectors};
  const qnet_type *type[QNET_FUSE_BUFFERS];
  for (int i = 0; i < l->binding_count; i++)
    type[i] = argument_type(&f, &l->binding[i]);
  f.function = qnet_symbol_add_func(m, l->name, type, l->binding_count, QNET_NO_LOC);
  if (f.function == NULL) return qnet_out_of_memory(d);
  f.index = qnet_type_scalar(m, QNET_I64);
  f.lanes = lanes_of(&f, QNET_F32);
  f.ints = lanes_of(&f, QNET_I32);
  const qnet_plan_step *s = l->first;
  for (int i = 0; i < l->steps; i++, s = s->next)
    f.carried += qnet_plan_carried(l, s);
  qnet_builder b = qnet_builder_at_end(m, f.function->body);
  f.zero = constant(&b, f.index, 0);
  if (l->row_major)
    emit_row_major(&f, &b);
  else
    emit_blocks(&f, &b);
  qnet_build_yield(&b, NULL, 0);
  return m->failed ? qnet_out_of_memory(d) : QNET_OK;
}
