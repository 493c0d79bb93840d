/* The interpreter of the loop level. Preparing a function decodes it into a flat array of
 * instructions: every scalar and vector value has one fixed place in memory, buffers are resolved,
 * handlers are chosen by width (interp_loop_ops.c). A loop is an instruction that runs the range
 * behind it; its results share the places of its carried values. Loads and stores are checked
 * against their buffer. Fresh buffers are filled with a pattern, so that whoever reads what was
 * never written computes nonsense here too. Parallel loops run in ascending order. */
#include "ir/interp_loop.h"

#include <stdio.h>
#include <string.h>

enum { POISON = 0xa5 };

typedef enum { BUFFER_ARGUMENT, BUFFER_ALLOC, BUFFER_VIEW, BUFFER_SYMBOL } buffer_kind;

typedef struct buffer {
  buffer_kind kind;
  const qnet_type *type;
  const qnet_op *op; /* NULL for arguments */
  char *data;        /* set when a run begins */
  size_t bytes;
  int argument;                /* BUFFER_ARGUMENT */
  const struct buffer *parent; /* BUFFER_VIEW */
  int64_t offset;
  const qnet_symbol *symbol; /* BUFFER_SYMBOL: never stored to */
  struct buffer *next;       /* in order of definition */
} buffer;

/* Detail of load and store. */
typedef struct access {
  const buffer *buffer;
  int rank;
  const int64_t *index[QNET_MAX_RANK];
  int64_t stride[QNET_MAX_RANK]; /* bytes */
  size_t bytes;                  /* of the value */
} access;

/* Detail of gather and scatter_add: lane n is at index[n] * stride bytes from what `first` names,
 * and scatter_add's n pairs further. */
typedef struct lanes_access {
  access first;
  const int32_t *index;
  int64_t stride;
} lanes_access;

typedef struct copy {
  void *to;
  const void *from;
  size_t bytes;
} copy;

typedef struct copies {
  int count;
  copy *item;
} copies;

/* Detail of a loop; lo and hi are operands a and b, i is dst. */
typedef struct loop {
  int64_t step;
  const qnet_loop_instr *end; /* behind the body, which begins behind the loop instruction */
  copies enter;               /* initial values */
} loop;

struct qnet_loop_program {
  const qnet_allocator *allocator;
  const qnet_module *module;
  const qnet_symbol *function;
  qnet_arena arena;
  qnet_loop_instr *code;
  int length;
  void **place;         /* value id -> memory of a scalar or vector; only while decoding */
  buffer **buffer;      /* value id -> buffer; only while decoding */
  buffer *first, *last; /* all buffers */
};

/* ---- running -------------------------------------------------------------------------------- */

static inline void move_bytes(void *to, const void *from, size_t bytes) {
  switch (bytes) {
  case 1: memcpy(to, from, 1); return;
  case 4: memcpy(to, from, 4); return;
  case 8: memcpy(to, from, 8); return;
  case 32: memcpy(to, from, 32); return;
  case 64: memcpy(to, from, 64); return;
  default: memcpy(to, from, bytes); return;
  }
}

static void run_copies(const copies *list) {
  for (int i = 0; i < list->count; i++)
    move_bytes(list->item[i].to, list->item[i].from, list->item[i].bytes);
}

static const qnet_loop_instr *bounds_error(const qnet_loop_instr *in, qnet_diag *d) {
  const access *m = in->detail;
  char index[QNET_MAX_RANK * 24 + 1] = "", shape[QNET_MAX_RANK * 24 + 1] = "";
  size_t used = 0, length = 0;
  for (int i = 0; i < m->rank; i++) {
    used += (size_t)snprintf(index + used, sizeof index - used, "%s%lld", i == 0 ? "" : ", ",
                             (long long)*m->index[i]);
    length += (size_t)snprintf(shape + length, sizeof shape - length, "%lldx",
                               (long long)m->buffer->type->dim[i]);
  }
  qnet_error(d, in->op->loc, "'%s' out of bounds: %zu bytes at index [%s] of buf<%s%s>",
             qnet_op_def_of(in->op->opcode)->name, m->bytes, index, shape,
             qnet_dtype_name(m->buffer->type->dtype));
  return NULL;
}

/* A lane has left its buffer. */
static const qnet_loop_instr *lane_error(const qnet_loop_instr *in, int64_t lane, qnet_diag *d) {
  const lanes_access *m = in->detail;
  qnet_error(d, in->op->loc, "'%s' out of bounds: lane %lld has index %d",
             qnet_op_def_of(in->op->opcode)->name, (long long)lane, (int)m->index[lane]);
  return NULL;
}

/* The address of the access, `shift` bytes further; NULL when it leaves the buffer. Offsets wrap as
 * unsigned numbers, so that a negative one is a large one. */
static inline char *address_at(const access *m, int64_t shift) {
  uint64_t offset = (uint64_t)shift;
  for (int i = 0; i < m->rank; i++)
    offset += (uint64_t)*m->index[i] * (uint64_t)m->stride[i];
  if (m->bytes > m->buffer->bytes || offset > m->buffer->bytes - m->bytes) return NULL;
  return m->buffer->data + offset;
}

static inline char *address_of(const access *m) {
  return address_at(m, 0);
}

static const qnet_loop_instr *run_load(const qnet_loop_instr *in, qnet_diag *d) {
  const access *m = in->detail;
  const char *from = address_of(m);
  if (from != NULL) {
    move_bytes(in->dst, from, m->bytes);
    return in + 1;
  }
  return bounds_error(in, d);
}

static const qnet_loop_instr *run_store(const qnet_loop_instr *in, qnet_diag *d) {
  const access *m = in->detail;
  char *to = address_of(m);
  if (to != NULL) {
    move_bytes(to, in->a, m->bytes);
    return in + 1;
  }
  return bounds_error(in, d);
}

static const qnet_loop_instr *run_gather(const qnet_loop_instr *in, qnet_diag *d) {
  const lanes_access *m = in->detail;
  for (int64_t n = 0; n < in->lanes; n++) {
    const char *from = address_at(&m->first, m->index[n] * m->stride);
    if (from == NULL) return lane_error(in, n, d);
    move_bytes((char *)in->dst + (size_t)n * m->first.bytes, from, m->first.bytes);
  }
  return in + 1;
}

static const qnet_loop_instr *run_scatter_add(const qnet_loop_instr *in, qnet_diag *d) {
  const lanes_access *m = in->detail;
  const float *const value[2] = {in->a, in->b};
  float pair[2];
  for (int64_t n = 0; n < in->lanes; n++) {
    char *to = address_at(&m->first, m->index[n] * m->stride + n * (int64_t)sizeof pair);
    if (to == NULL) return lane_error(in, n, d);
    memcpy(pair, to, sizeof pair);
    for (int k = 0; k < 2; k++)
      pair[k] += value[k][n];
    memcpy(to, pair, sizeof pair);
  }
  return in + 1;
}

static const qnet_loop_instr *run_zero(const qnet_loop_instr *in, qnet_diag *d) {
  (void)d;
  const buffer *b = in->detail;
  memset(b->data, 0, b->bytes);
  return in + 1;
}

static const qnet_loop_instr *run_poison(const qnet_loop_instr *in, qnet_diag *d) {
  (void)d;
  const buffer *b = in->detail;
  memset(b->data, POISON, b->bytes);
  return in + 1;
}

static const qnet_loop_instr *run_yield(const qnet_loop_instr *in, qnet_diag *d) {
  (void)d;
  run_copies(in->detail);
  return in + 1;
}

static bool run_range(const qnet_loop_instr *pc, const qnet_loop_instr *end, qnet_diag *d) {
  while (pc != end) {
    pc = pc->run(pc, d);
    if (pc == NULL) return false;
  }
  return true;
}

static const qnet_loop_instr *run_loop(const qnet_loop_instr *in, qnet_diag *d) {
  const loop *l = in->detail;
  const int64_t hi = *(const int64_t *)in->b;
  int64_t i = *(const int64_t *)in->a;
  run_copies(&l->enter);
  while (i < hi) {
    *(int64_t *)in->dst = i;
    if (!run_range(in + 1, l->end, d)) return NULL;
    if ((uint64_t)hi - (uint64_t)i <= (uint64_t)l->step) break; /* i + step may not exist */
    i += l->step;
  }
  return l->end;
}

/* ---- decoding: buffers ---------------------------------------------------------------------- */

static qnet_status bad_operation(const qnet_op *op, qnet_diag *d) {
  return qnet_error(d, op->loc, "'%s' does not exist for these operands and results",
                    qnet_op_def_of(op->opcode)->name);
}

/* NULL when out of memory. */
static buffer *add_buffer(qnet_loop_program *p, const qnet_value *v, buffer_kind kind) {
  buffer *b = qnet_arena_alloc(&p->arena, sizeof *b);
  if (b == NULL) return NULL;
  *b = (buffer){.kind = kind, .type = v->type, .op = v->def};
  b->bytes = (size_t)qnet_type_elements(v->type) * (size_t)qnet_dtype_bytes(v->type->dtype);
  if (p->last == NULL) {
    p->first = b;
  } else {
    p->last->next = b;
  }
  p->last = b;
  p->buffer[v->id] = b;
  return b;
}

static qnet_loop_instr *emit(qnet_loop_program *p, const qnet_op *op, qnet_loop_fn run) {
  qnet_loop_instr *in = &p->code[p->length++];
  *in = (qnet_loop_instr){.run = run, .op = op};
  return in;
}

static qnet_status decode_alloc(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  buffer *b = add_buffer(p, &op->result[0], BUFFER_ALLOC);
  if (b == NULL) return qnet_out_of_memory(d);
  b->data = qnet_arena_alloc_aligned(&p->arena, b->bytes, 64);
  if (b->data == NULL) return qnet_out_of_memory(d);
  emit(p, op, run_poison)->detail = b;
  return QNET_OK;
}

static qnet_status decode_view(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  const buffer *parent = p->buffer[op->operand[0]->id];
  if (parent == NULL || parent->kind == BUFFER_SYMBOL) return bad_operation(op, d);
  buffer *b = add_buffer(p, &op->result[0], BUFFER_VIEW);
  if (b == NULL) return qnet_out_of_memory(d);
  b->parent = parent;
  b->offset = qnet_op_int(op, "offset", 0);
  if (b->offset < 0 || b->bytes > parent->bytes || (uint64_t)b->offset > parent->bytes - b->bytes)
    return qnet_error(d, op->loc, "a view of %zu bytes at %lld leaves its buffer of %zu bytes",
                      b->bytes, (long long)b->offset, parent->bytes);
  return QNET_OK;
}

static qnet_status decode_read(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  const qnet_symbol *symbol = qnet_op_symbol(p->module, op, "sym");
  if (symbol == NULL || op->result[0].type->kind != QNET_TYPE_BUFFER) return bad_operation(op, d);
  buffer *b = add_buffer(p, &op->result[0], BUFFER_SYMBOL);
  if (b == NULL) return qnet_out_of_memory(d);
  b->symbol = symbol;
  return QNET_OK;
}

static qnet_status decode_zero(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  const buffer *b = p->buffer[op->operand[0]->id];
  if (b == NULL || b->kind == BUFFER_SYMBOL) return bad_operation(op, d);
  emit(p, op, run_zero)->detail = b;
  return QNET_OK;
}

/* ---- decoding: values ----------------------------------------------------------------------- */

static qnet_status give_place(qnet_loop_program *p, const qnet_value *v, qnet_diag *d) {
  if (v->type->kind == QNET_TYPE_BUFFER) return QNET_OK;
  p->place[v->id] = qnet_arena_alloc_aligned(&p->arena, qnet_loop_bytes(v->type),
                                             v->type->kind == QNET_TYPE_VECTOR ? 64 : 16);
  return p->place[v->id] == NULL ? qnet_out_of_memory(d) : QNET_OK;
}

/* The places of operands first..count-1 of an operation. */
static qnet_status operand_places(const qnet_loop_program *p, const qnet_op *op, int first,
                                  const void **place, int count, qnet_diag *d) {
  for (int i = 0; i < count; i++) {
    place[i] = p->place[op->operand[first + i]->id];
    if (place[i] == NULL) return bad_operation(op, d);
  }
  return QNET_OK;
}

static bool is_index(const qnet_value *v) {
  return v->type->kind == QNET_TYPE_SCALAR && v->type->dtype == QNET_I64;
}

/* The strides of a buffer's dimensions. */
static void set_strides(const qnet_type *type, int64_t *stride) {
  int64_t bytes = qnet_dtype_bytes(type->dtype);
  for (int i = type->rank - 1; i >= 0; bytes *= type->dim[i--])
    stride[i] = bytes;
}

/* load: buffer, indices; store: value, buffer, indices. */
static qnet_status decode_access(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  const bool store = op->opcode == QNET_OP_LOOP_STORE;
  const int first = store ? 2 : 1;
  const qnet_value *value = store ? op->operand[0] : &op->result[0];
  const buffer *b = op->operand_count < first ? NULL : p->buffer[op->operand[first - 1]->id];
  if (b == NULL || (store && b->kind == BUFFER_SYMBOL) ||
      op->operand_count - first != b->type->rank || value->type->kind == QNET_TYPE_BUFFER)
    return bad_operation(op, d);
  access *m = qnet_arena_alloc(&p->arena, sizeof *m);
  if (m == NULL) return qnet_out_of_memory(d);
  m->buffer = b;
  m->rank = b->type->rank;
  m->bytes = qnet_loop_bytes(value->type);
  set_strides(b->type, m->stride);
  for (int i = 0; i < m->rank; i++) {
    if (!is_index(op->operand[first + i])) return bad_operation(op, d);
    m->index[i] = p->place[op->operand[first + i]->id];
  }
  qnet_loop_instr *in = emit(p, op, store ? run_store : run_load);
  in->detail = m;
  if (store) return operand_places(p, op, 0, &in->a, 1, d);
  QNET_TRY(give_place(p, value, d));
  in->dst = p->place[value->id];
  return QNET_OK;
}

/* Operands `first` on are a buffer and its indices, one of them, `varying`, with lanes: it stays
 * out of `first`, where it counts 0. */
static qnet_status decode_lanes(qnet_loop_program *p, const qnet_op *op, int first, int varying,
                                qnet_loop_instr *in, qnet_diag *d) {
  const buffer *b = p->buffer[op->operand[first]->id];
  const qnet_value *index = op->operand[varying];
  if (b == NULL || op->operand_count - first - 1 > b->type->rank ||
      index->type->kind != QNET_TYPE_VECTOR || index->type->dtype != QNET_I32)
    return bad_operation(op, d);
  lanes_access *m = qnet_arena_alloc(&p->arena, sizeof *m);
  if (m == NULL) return qnet_out_of_memory(d);
  *m = (lanes_access){.index = p->place[index->id], .first = {.buffer = b}};
  int64_t stride[QNET_MAX_RANK];
  set_strides(b->type, stride);
  for (int i = first + 1; i < op->operand_count; i++) {
    const qnet_value *v = op->operand[i];
    if (i == varying) {
      m->stride = stride[i - first - 1];
      continue;
    }
    if (!is_index(v)) return bad_operation(op, d);
    m->first.index[m->first.rank] = p->place[v->id];
    m->first.stride[m->first.rank++] = stride[i - first - 1];
  }
  m->first.bytes = (size_t)qnet_dtype_bytes(b->type->dtype);
  in->detail = m;
  in->lanes = qnet_loop_lanes(index->type);
  return QNET_OK;
}

static qnet_status decode_gather(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  qnet_loop_instr *in = emit(p, op, run_gather);
  const qnet_value *value = &op->result[0];
  QNET_TRY(decode_lanes(p, op, 0, op->operand_count - 1, in, d));
  const qnet_type *buffer = op->operand[0]->type;
  if (op->operand_count - 1 != buffer->rank || value->type->dtype != buffer->dtype ||
      qnet_loop_lanes(value->type) != in->lanes)
    return bad_operation(op, d);
  QNET_TRY(give_place(p, value, d));
  in->dst = p->place[value->id];
  return QNET_OK;
}

static qnet_status decode_scatter_add(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  qnet_loop_instr *in = emit(p, op, run_scatter_add);
  QNET_TRY(decode_lanes(p, op, 2, 3, in, d));
  lanes_access *m = (lanes_access *)(uintptr_t)in->detail;
  const qnet_type *buffer = m->first.buffer->type;
  if (m->first.buffer->kind == BUFFER_SYMBOL || buffer->dtype != QNET_F32 || buffer->rank != 3 ||
      buffer->dim[2] != 2)
    return bad_operation(op, d);
  m->first.bytes *= 2;
  const void *value[2];
  QNET_TRY(operand_places(p, op, 0, value, 2, d));
  in->a = value[0];
  in->b = value[1];
  return QNET_OK;
}

/* Constants are written into their places once, when the program is made. */
static qnet_status decode_const(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  const qnet_value *v = &op->result[0];
  if (v->type->kind != QNET_TYPE_SCALAR) return bad_operation(op, d);
  QNET_TRY(give_place(p, v, d));
  if (v->type->dtype == QNET_F32) {
    *(float *)p->place[v->id] =
        (float)qnet_op_float(op, "float", (double)qnet_op_int(op, "int", 0));
    return QNET_OK;
  }
  if (v->type->dtype == QNET_F64) return bad_operation(op, d);
  uint64_t bits = (uint64_t)qnet_op_int(op, "int", 0);
  if (v->type->dtype == QNET_I1) bits &= 1;
  const size_t bytes = qnet_loop_bytes(v->type);
  for (size_t i = 0; i < bytes; i++)
    ((uint8_t *)p->place[v->id])[i] = (uint8_t)(bits >> (8 * i));
  return QNET_OK;
}

static qnet_status decode_compute(qnet_loop_program *p, const qnet_op *op, qnet_diag *d) {
  qnet_loop_instr in = {.op = op};
  qnet_loop_choose(op, &in);
  if (in.run == NULL || op->operand_count > 3) return bad_operation(op, d);
  const void *place[3] = {NULL, NULL, NULL};
  QNET_TRY(operand_places(p, op, 0, place, op->operand_count, d));
  QNET_TRY(give_place(p, &op->result[0], d));
  in.dst = p->place[op->result[0].id];
  in.a = place[0];
  in.b = place[1];
  in.c = place[2];
  p->code[p->length++] = in;
  return QNET_OK;
}

/* ---- decoding: loops ------------------------------------------------------------------------ */

static qnet_status decode_region(qnet_loop_program *p, const qnet_region *region, int depth,
                                 qnet_diag *d);

/* Room for twice the carried values: see decode_yield. */
static qnet_status new_copies(qnet_loop_program *p, copies *list, int carried, qnet_diag *d) {
  list->count = 0;
  list->item = qnet_arena_array(&p->arena, 2 * (size_t)carried, sizeof list->item[0]);
  return list->item == NULL ? qnet_out_of_memory(d) : QNET_OK;
}

static void add_copy(copies *list, void *to, const void *from, size_t bytes) {
  if (to != from) list->item[list->count++] = (copy){to, from, bytes};
}

/* The loop's own carried value: copying it may come after its place has been overwritten. */
static bool is_carried(const qnet_region *body, const qnet_value *v) {
  return v->region == body;
}

static qnet_status decode_yield(qnet_loop_program *p, const qnet_op *op, const qnet_op *yield,
                                qnet_diag *d) {
  const qnet_region *body = op->region[0];
  const int carried = op->result_count;
  copies *list = qnet_arena_alloc(&p->arena, sizeof *list);
  const void **from = qnet_arena_array(&p->arena, (size_t)carried, sizeof *from);
  if (list == NULL || from == NULL) return qnet_out_of_memory(d);
  QNET_TRY(new_copies(p, list, carried, d));
  QNET_TRY(operand_places(p, yield, 0, from, carried, d));
  for (int i = 0; i < carried; i++) {
    const qnet_type *type = body->arg[i + 1].type;
    if (yield->operand[i]->type != type) return bad_operation(yield, d);
    if (!is_carried(body, yield->operand[i]) || from[i] == p->place[body->arg[i + 1].id]) continue;
    void *saved = qnet_arena_alloc_aligned(&p->arena, qnet_loop_bytes(type), 64);
    if (saved == NULL) return qnet_out_of_memory(d);
    add_copy(list, saved, from[i], qnet_loop_bytes(type));
    from[i] = saved;
  }
  for (int i = 0; i < carried; i++)
    add_copy(list, p->place[body->arg[i + 1].id], from[i], qnet_loop_bytes(body->arg[i + 1].type));
  if (list->count > 0) emit(p, yield, run_yield)->detail = list;
  return QNET_OK;
}

/* Operands lo, hi, initial values; arguments i, carried values. */
static bool loop_is_sound(const qnet_op *op) {
  const int carried = op->result_count;
  if (op->region_count != 1 || op->operand_count != 2 + carried) return false;
  const qnet_region *body = op->region[0];
  if (body->arg_count != 1 + carried || !is_index(op->operand[0]) || !is_index(op->operand[1]) ||
      !is_index(&body->arg[0]) || qnet_op_int(op, "step", 0) < 1)
    return false;
  for (int i = 0; i < carried; i++) {
    const qnet_type *type = op->result[i].type;
    if (type->kind == QNET_TYPE_BUFFER || op->operand[2 + i]->type != type ||
        body->arg[1 + i].type != type)
      return false;
  }
  return body->last != NULL && body->last->opcode == QNET_OP_YIELD &&
         body->last->operand_count == carried;
}

static qnet_status enter_loop(qnet_loop_program *p, const qnet_op *op, loop *l, qnet_diag *d) {
  const qnet_region *body = op->region[0];
  for (int i = 0; i < body->arg_count; i++)
    QNET_TRY(give_place(p, &body->arg[i], d));
  QNET_TRY(new_copies(p, &l->enter, op->result_count, d));
  for (int i = 0; i < op->result_count; i++) {
    void *carried = p->place[body->arg[1 + i].id];
    p->place[op->result[i].id] = carried;
    add_copy(&l->enter, carried, p->place[op->operand[2 + i]->id],
             qnet_loop_bytes(op->result[i].type));
  }
  return QNET_OK;
}

static qnet_status decode_loop(qnet_loop_program *p, const qnet_op *op, int depth, qnet_diag *d) {
  if (!loop_is_sound(op)) return bad_operation(op, d);
  const qnet_region *body = op->region[0];
  loop *l = qnet_arena_alloc(&p->arena, sizeof *l);
  if (l == NULL) return qnet_out_of_memory(d);
  l->step = qnet_op_int(op, "step", 0);
  qnet_loop_instr *in = emit(p, op, run_loop);
  in->detail = l;
  const void *bounds[2] = {NULL, NULL};
  QNET_TRY(operand_places(p, op, 0, bounds, 2, d));
  QNET_TRY(enter_loop(p, op, l, d));
  in->a = bounds[0];
  in->b = bounds[1];
  in->dst = p->place[body->arg[0].id];
  QNET_TRY(decode_region(p, body, depth + 1, d));
  QNET_TRY(decode_yield(p, op, body->last, d));
  l->end = &p->code[p->length];
  return QNET_OK;
}

static qnet_status decode_op(qnet_loop_program *p, const qnet_op *op, int depth, qnet_diag *d) {
  switch (op->opcode) {
  case QNET_OP_YIELD: return QNET_OK; /* its loop decodes it */
  case QNET_OP_READ: return decode_read(p, op, d);
  case QNET_OP_LOOP_ALLOC: return decode_alloc(p, op, d);
  case QNET_OP_LOOP_VIEW: return decode_view(p, op, d);
  case QNET_OP_LOOP_ZERO: return decode_zero(p, op, d);
  case QNET_OP_LOOP_PARALLEL_FOR:
  case QNET_OP_LOOP_FOR: return decode_loop(p, op, depth, d);
  case QNET_OP_LOOP_CONST: return decode_const(p, op, d);
  case QNET_OP_LOOP_LOAD:
  case QNET_OP_LOOP_STORE: return decode_access(p, op, d);
  case QNET_OP_LOOP_GATHER: return decode_gather(p, op, d);
  case QNET_OP_LOOP_SCATTER_ADD: return decode_scatter_add(p, op, d);
  default: return decode_compute(p, op, d);
  }
}

static qnet_status decode_region(qnet_loop_program *p, const qnet_region *region, int depth,
                                 qnet_diag *d) {
  for (const qnet_op *op = region->first; op != NULL; op = op->next) {
    if (depth >= QNET_INTERP_MAX_DEPTH)
      return qnet_error(d, op->loc, "loops nest deeper than %d", QNET_INTERP_MAX_DEPTH);
    QNET_TRY(decode_op(p, op, depth, d));
  }
  return QNET_OK;
}

/* ---- the program ---------------------------------------------------------------------------- */

static qnet_status decode(qnet_loop_program *p, qnet_diag *d) {
  const qnet_region *body = p->function->body;
  const size_t values = (size_t)qnet_function_number_values(p->function);
  p->place = qnet_arena_array(&p->arena, values, sizeof p->place[0]);
  p->buffer = qnet_arena_array(&p->arena, values, sizeof p->buffer[0]);
  p->code =
      qnet_arena_array(&p->arena, (size_t)qnet_interp_count_ops(body, 0) + 1, sizeof p->code[0]);
  if (p->place == NULL || p->buffer == NULL || p->code == NULL) return qnet_out_of_memory(d);
  for (int i = 0; i < body->arg_count; i++) {
    if (body->arg[i].type->kind != QNET_TYPE_BUFFER)
      return qnet_error(d, p->function->loc, "argument %d of '@%s' is not a buffer", i,
                        p->function->name);
    buffer *b = add_buffer(p, &body->arg[i], BUFFER_ARGUMENT);
    if (b == NULL) return qnet_out_of_memory(d);
    b->argument = i;
  }
  return decode_region(p, body, 0, d);
}

qnet_status qnet_loop_program_create(const qnet_module *m, const qnet_symbol *function,
                                     qnet_loop_program **out, qnet_diag *d) {
  *out = NULL;
  qnet_loop_program *p = qnet_alloc(m->allocator, sizeof *p);
  if (p == NULL) return qnet_out_of_memory(d);
  p->allocator = m->allocator;
  p->module = m;
  p->function = function;
  qnet_arena_init(&p->arena, m->allocator);
  const qnet_status status = decode(p, d);
  if (status != QNET_OK) {
    qnet_loop_program_destroy(p);
    return status;
  }
  *out = p;
  return QNET_OK;
}

void qnet_loop_program_destroy(qnet_loop_program *p) {
  if (p == NULL) return;
  qnet_arena_clear(&p->arena);
  qnet_free(p->allocator, p, sizeof *p);
}

static qnet_status bind_symbol(buffer *b, qnet_diag *d) {
  const qnet_blob *blob = b->symbol->blob;
  if (blob == NULL) return qnet_error(d, b->op->loc, "'@%s' has no content", b->symbol->name);
  if (blob->bytes != b->bytes)
    return qnet_error(d, b->op->loc, "the content of '@%s' does not have its type",
                      b->symbol->name);
  b->data = blob->data;
  return QNET_OK;
}

qnet_status qnet_loop_program_run(qnet_loop_program *p, qnet_blob *const *args, qnet_diag *d) {
  for (buffer *b = p->first; b != NULL; b = b->next) {
    if (b->kind == BUFFER_ARGUMENT) b->data = args[b->argument]->data;
    if (b->kind == BUFFER_VIEW) b->data = b->parent->data + b->offset;
    if (b->kind == BUFFER_SYMBOL) QNET_TRY(bind_symbol(b, d));
  }
  return run_range(p->code, p->code + p->length, d) ? QNET_OK : QNET_ERROR;
}
