/* The loop-level code of a fused loop:
 *
 *   for blocks of channels (as many vectors as fit the registers):
 *     factors of the channels                      `head`
 *     for rows, carrying the sums:                 `body`
 *       for each vector of the block: every step
 *     sums to the partial results */
#include "codegen/plan_fuse.h"
#include <string.h>

enum {
  SLOTS = 8,  /* rows of states and partial results at most */
  LANES = 16, /* of lane sums */
  MEMO = QNET_FUSE_VECTORS * QNET_FUSE_STEPS * (QNET_PLAN_MAX_IN + QNET_PLAN_MAX_OUT)
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
  qnet_builder head, body;
  const qnet_type *index, *lanes; /* i64, vec<Lxf32> */
  int64_t width;
  int vectors;
  const qnet_plan_step *step; /* whose code is being made, for this vector */
  int vector, first_sum, first_lane_sum;
  qnet_value *row, *zero, *column[QNET_FUSE_VECTORS];
  memo known[MEMO];
  int known_count;
  qnet_value *sum[QNET_FUSE_CARRIED]; /* of channels, vector by vector; then of lanes */
  int sums, carried;
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

/* ---- what kernels use -------------------------------------------------------------------------*/

qnet_value *qnet_fuse_in(qnet_fuse *f, int operand) {
  const qnet_plan_value *v = f->step->in[operand];
  qnet_value *known = find_value(f, v);
  if (known != NULL) return known;
  qnet_value *buffer = argument(f, qnet_plan_loop_find(f->loop, QNET_BIND_ROWS, v, f->step));
  qnet_value *is = load(&f->body, f->lanes, buffer, f->row, f->column[f->vector]);
  return remember(f, (memo){.value = v, .vector = f->vector, .is = is});
}

void qnet_fuse_out(qnet_fuse *f, int result, qnet_value *is) {
  const qnet_plan_value *v = f->step->out[result];
  if (v == NULL) return;
  remember(f, (memo){.value = v, .vector = f->vector, .is = is});
  if (!qnet_plan_loop_stores(f->loop, v)) return;
  qnet_value *buffer = argument(f, qnet_plan_loop_find(f->loop, QNET_BIND_ROWS, v, f->step));
  store(&f->body, is, buffer, f->row, f->column[f->vector]);
}

static qnet_value *factor(qnet_fuse *f, int binding, int slot) {
  qnet_value *known = find_factor(f, binding, slot, f->vector);
  if (known != NULL) return known;
  qnet_value *i = constant(&f->head, f->index, slot);
  qnet_value *is = load(&f->head, f->lanes, argument(f, binding), i, f->column[f->vector]);
  return remember(f, (memo){.binding = binding, .slot = slot, .vector = f->vector, .is = is});
}

qnet_value *qnet_fuse_channels(qnet_fuse *f, int operand) {
  return factor(f, qnet_plan_loop_find(f->loop, QNET_BIND_WHOLE, f->step->in[operand], f->step), 0);
}

qnet_value *qnet_fuse_state(qnet_fuse *f, int slot) {
  return factor(f, qnet_plan_loop_find(f->loop, QNET_BIND_STATE, NULL, f->step), slot);
}

/* One for all vectors. */
static qnet_value *splat(qnet_fuse *f, int binding, int64_t slot, qnet_value *scalar) {
  qnet_value *is = qnet_build1(&f->head, QNET_OP_LOOP_SPLAT, &scalar, 1, f->lanes);
  return remember(f, (memo){.binding = binding, .slot = slot, .vector = -1, .is = is});
}

qnet_value *qnet_fuse_element(qnet_fuse *f, int operand, int64_t index) {
  const int binding = qnet_plan_loop_find(f->loop, QNET_BIND_WHOLE, f->step->in[operand], f->step);
  qnet_value *known = find_factor(f, binding, index, -1);
  if (known != NULL) return known;
  qnet_value *at = constant(&f->head, f->index, index);
  const qnet_type *f32 = qnet_type_scalar(f->m, QNET_F32);
  return splat(f, binding, index, load(&f->head, f32, argument(f, binding), f->zero, at));
}

qnet_value *qnet_fuse_number(qnet_fuse *f, double v) {
  qnet_value *c =
      qnet_build1(&f->head, QNET_OP_LOOP_CONST, NULL, 0, qnet_type_scalar(f->m, QNET_F32));
  if (c != NULL) qnet_op_set_float(f->m, c->def, "float", v);
  return qnet_build1(&f->head, QNET_OP_LOOP_SPLAT, &c, 1, f->lanes);
}

qnet_value *qnet_fuse_arithmetic(qnet_fuse *f, int opcode, qnet_value *a, qnet_value *b) {
  return qnet_build1(&f->body, opcode, (qnet_value *[]){a, b}, 2, f->lanes);
}

qnet_value *qnet_fuse_choose(qnet_fuse *f, qnet_value *a, qnet_value *b, qnet_value *x,
                             qnet_value *y) {
  const qnet_type *bits = qnet_type_vector(f->m, QNET_I1, f->loop->lanes);
  qnet_value *above = qnet_build1(&f->body, QNET_OP_LOOP_FCMP, (qnet_value *[]){a, b}, 2, bits);
  if (above != NULL) qnet_op_set_string(f->m, above->def, "pred", "ogt");
  return qnet_build1(&f->body, QNET_OP_LOOP_SELECT, (qnet_value *[]){above, x, y}, 3, f->lanes);
}

void qnet_fuse_sum(qnet_fuse *f, int slot, qnet_value *v) {
  qnet_value **sum = &f->sum[(f->first_sum + slot) * f->vectors + f->vector];
  *sum = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FADD, *sum, v);
}

/* Vectors that hold the lanes of one sum, and the one that this vector of channels belongs to. */
static int parts_of(const qnet_fuse *f) {
  return LANES / f->loop->lanes;
}

void qnet_fuse_lane_sum(qnet_fuse *f, int index, qnet_value *v) {
  const int parts = parts_of(f), first = f->sums * f->vectors;
  qnet_value **sum = &f->sum[first + (f->first_lane_sum + index) * parts + f->vector % parts];
  *sum = qnet_fuse_arithmetic(f, QNET_OP_LOOP_FADD, *sum, v);
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
  qnet_value *in[2 + QNET_FUSE_CARRIED] = {f->zero, end};
  const qnet_type *type[1 + QNET_FUSE_CARRIED] = {f->index};
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
    f->first_sum = f->first_lane_sum = 0;
    f->step = f->loop->first;
    for (int i = 0; i < f->loop->steps; i++, f->step = f->step->next) {
      f->step->kernel->emit(f, f->step);
      f->first_sum += f->step->kernel->sums;
      if (f->step->kernel->lane_sums != NULL)
        f->first_lane_sum += f->step->kernel->lane_sums(f->step);
    }
  }
}

static void store_sums(qnet_fuse *f, qnet_builder *b, qnet_op *rows) {
  const qnet_plan_step *s = f->loop->first;
  int at = 0;
  for (int i = 0; i < f->loop->steps; i++, s = s->next)
    for (int slot = 0; slot < s->kernel->sums; slot++)
      for (int v = 0; v < f->vectors; v++) {
        const int to = qnet_plan_loop_find(f->loop, QNET_BIND_PARTIAL, NULL, s);
        store(b, qnet_op_result(rows, at++), argument(f, to), constant(b, f->index, slot),
              f->column[v]);
      }
  qnet_value *lanes = argument(f, qnet_plan_loop_find(f->loop, QNET_BIND_LANES, NULL, NULL));
  for (int i = 0; i < f->loop->lane_sums; i++)
    for (int part = 0; part < parts_of(f); part++)
      store(b, qnet_op_result(rows, at++), lanes, constant(b, f->index, i),
            constant(b, f->index, (int64_t)part * f->loop->lanes));
}

static qnet_value *add_index(qnet_fuse *f, qnet_builder *b, qnet_value *base, int64_t offset) {
  qnet_value *c = constant(b, f->index, offset);
  if (base == NULL) return c;
  return qnet_build1(b, QNET_OP_LOOP_ADD, (qnet_value *[]){base, c}, 2, f->index);
}

/* The loop over rows for the channels from `base` on (NULL: 0). */
static void emit_block(qnet_fuse *f, qnet_builder *b, qnet_value *base) {
  qnet_value *end =
      qnet_build1(b, QNET_OP_LOOP_LOAD, (qnet_value *[]){argument(f, 0), f->zero}, 2, f->index);
  for (int v = 0; v < f->vectors; v++)
    f->column[v] = add_index(f, b, base, (int64_t)v * f->loop->lanes);
  f->known_count = 0;
  f->head = *b;
  qnet_value *nothing = f->carried > 0 ? qnet_fuse_number(f, 0) : NULL;
  *b = f->head;
  for (int i = 0; i < f->carried; i++)
    f->sum[i] = nothing;
  qnet_op *rows = begin_loop(f, b, end, 1, f->sum, f->carried, &f->body);
  if (rows == NULL) return;
  f->head = qnet_builder_before(f->m, rows);
  f->row = &rows->region[0]->arg[0];
  for (int i = 0; i < f->carried; i++)
    f->sum[i] = &rows->region[0]->arg[1 + i];
  emit_row(f);
  qnet_build_yield(&f->body, f->sum, f->carried);
  store_sums(f, b, rows);
}

static void emit_blocks(qnet_fuse *f) {
  qnet_builder b = qnet_builder_at_end(f->m, f->function->body), inner;
  const int64_t block = (int64_t)f->vectors * f->loop->lanes;
  f->zero = constant(&b, f->index, 0);
  if (block == f->width) {
    emit_block(f, &b, NULL);
  } else {
    qnet_value *end = constant(&b, f->index, f->width);
    qnet_op *blocks = begin_loop(f, &b, end, block, NULL, 0, &inner);
    if (blocks == NULL) return;
    emit_block(f, &inner, &blocks->region[0]->arg[0]);
    qnet_build_yield(&inner, NULL, 0);
  }
  qnet_build_yield(&b, NULL, 0);
}

/* ---- the function -----------------------------------------------------------------------------*/

static const qnet_type *argument_type(const qnet_fuse *f, const qnet_binding *b) {
  const int64_t rows[] = {f->loop->rows, f->width}, slots[] = {SLOTS, f->width}, one = 1;
  const int64_t lanes[] = {QNET_FUSE_LANE_SUMS, LANES};
  switch (b->kind) {
  case QNET_BIND_COUNT: return qnet_type_buffer(f->m, QNET_I64, 1, &one);
  case QNET_BIND_ROWS: return qnet_type_buffer(f->m, b->value->type->dtype, 2, rows);
  case QNET_BIND_WHOLE:
    return qnet_type_buffer(f->m, b->value->type->dtype, 2,
                            (int64_t[]){1, qnet_type_elements(b->value->type)});
  case QNET_BIND_LANES: return qnet_type_buffer(f->m, QNET_F32, 2, lanes);
  default: return qnet_type_buffer(f->m, QNET_F32, 2, slots);
  }
}

qnet_status qnet_plan_loop_emit(const qnet_plan_loop *l, qnet_module *m, qnet_diag *d) {
  qnet_fuse f = {.loop = l, .m = m, .width = l->first->width};
  const qnet_type *type[QNET_FUSE_BUFFERS];
  for (int i = 0; i < l->binding_count; i++)
    type[i] = argument_type(&f, &l->binding[i]);
  f.function = qnet_symbol_add_func(m, l->name, type, l->binding_count, QNET_NO_LOC);
  if (f.function == NULL) return qnet_out_of_memory(d);
  f.index = qnet_type_scalar(m, QNET_I64);
  f.lanes = qnet_type_vector(m, QNET_F32, l->lanes);
  f.vectors = l->vectors;
  const qnet_plan_step *s = l->first;
  for (int i = 0; i < l->steps; i++, s = s->next)
    f.sums += s->kernel->sums;
  f.carried = f.sums * f.vectors + l->lane_sums * LANES / l->lanes;
  emit_blocks(&f);
  return m->failed ? qnet_out_of_memory(d) : QNET_OK;
}
