/* See builder.h. Constants live at the head of the nest's region, each once: nests stay readable
 * and the interpreter does not make them again in inner loops. */
#include "passes/loop/builder.h"
#include <string.h>

typedef struct qnet_lb_const {
  const qnet_type *type;
  bool is_float;
  int64_t i;
  double f;
  qnet_value *value;
  struct qnet_lb_const *next;
} qnet_lb_const;

qnet_lb qnet_lb_create(qnet_module *m, qnet_region *body, qnet_arena *scratch) {
  return (qnet_lb){.at = qnet_builder_at_end(m, body), .m = m, .scratch = scratch};
}

const qnet_type *qnet_lb_type(qnet_lb *lb, qnet_dtype dtype, int64_t lanes) {
  if (lanes == 1) return qnet_type_scalar(lb->m, dtype);
  return qnet_type_vector(lb->m, dtype, lanes);
}

int64_t qnet_lb_lanes(const qnet_type *type) {
  return type->kind == QNET_TYPE_VECTOR ? type->dim[0] : 1;
}

/* ---- constants ------------------------------------------------------------------------------ */

static qnet_value *find_const(const qnet_lb *lb, const qnet_lb_const *key) {
  for (const qnet_lb_const *c = lb->consts; c; c = c->next) {
    const bool same = c->type == key->type && c->is_float == key->is_float && c->i == key->i &&
                      memcmp(&c->f, &key->f, sizeof c->f) == 0;
    if (same) return c->value;
  }
  return NULL;
}

static qnet_value *keep_const(qnet_lb *lb, const qnet_lb_const *key, qnet_value *value) {
  qnet_lb_const *c = qnet_arena_alloc(lb->scratch, sizeof *c);
  if (!c) return value; /* made again at its next use */
  *c = *key;
  c->value = value;
  c->next = lb->consts;
  lb->consts = c;
  return value;
}

static qnet_value *make_const(qnet_lb *lb, const qnet_lb_const *key) {
  qnet_value *known = find_const(lb, key);
  if (known) return known;
  qnet_builder b = lb->anchor ? qnet_builder_before(lb->m, lb->anchor) : lb->at;
  b.loc = lb->at.loc;
  if (key->type->kind == QNET_TYPE_VECTOR) {
    qnet_lb_const lane = *key;
    lane.type = qnet_type_scalar(lb->m, key->type->dtype);
    qnet_value *scalar = lane.type ? make_const(lb, &lane) : NULL;
    return keep_const(lb, key, qnet_build1(&b, QNET_OP_LOOP_SPLAT, &scalar, 1, key->type));
  }
  qnet_value *v = qnet_build1(&b, QNET_OP_LOOP_CONST, NULL, 0, key->type);
  if (!v) return NULL;
  if (key->is_float) {
    qnet_op_set_float(lb->m, v->def, "float", key->f);
  } else {
    qnet_op_set_int(lb->m, v->def, "int", key->i);
  }
  return lb->anchor ? keep_const(lb, key, v) : v;
}

qnet_value *qnet_lb_int(qnet_lb *lb, const qnet_type *type, int64_t v) {
  return type ? make_const(lb, &(qnet_lb_const){.type = type, .i = v}) : NULL;
}

qnet_value *qnet_lb_float(qnet_lb *lb, const qnet_type *type, double v) {
  return type ? make_const(lb, &(qnet_lb_const){.type = type, .is_float = true, .f = v}) : NULL;
}

qnet_value *qnet_lb_index(qnet_lb *lb, int64_t v) {
  return qnet_lb_int(lb, qnet_type_scalar(lb->m, QNET_I64), v);
}

/* ---- arithmetic ----------------------------------------------------------------------------- */

bool qnet_lb_known(const qnet_value *v, int64_t *out) {
  if (!v || !v->def || v->def->opcode != QNET_OP_LOOP_CONST) return false;
  if (v->type->kind != QNET_TYPE_SCALAR || v->type->dtype != QNET_I64) return false;
  const qnet_attr *a = qnet_op_attr(v->def, "int");
  if (!a) return false;
  *out = a->i;
  return true;
}

static bool fold(int opcode, int64_t a, int64_t b, int64_t *out) {
  switch (opcode) {
  case QNET_OP_LOOP_ADD: *out = a + b; return true;
  case QNET_OP_LOOP_SUB: *out = a - b; return true;
  case QNET_OP_LOOP_MUL: *out = a * b; return true;
  case QNET_OP_LOOP_SMAX: *out = a > b ? a : b; return true;
  case QNET_OP_LOOP_SMIN: *out = a < b ? a : b; return true;
  default: return false;
  }
}

/* a op b = a, or b for the mirrored case. */
static qnet_value *identity(int opcode, qnet_value *a, bool ka, int64_t ca, qnet_value *b, bool kb,
                            int64_t cb) {
  const bool sum = opcode == QNET_OP_LOOP_ADD, product = opcode == QNET_OP_LOOP_MUL;
  if (kb && cb == 0 && (sum || opcode == QNET_OP_LOOP_SUB)) return a;
  if (kb && cb == 1 && product) return a;
  if (ka && ca == 0 && sum) return b;
  if (ka && ca == 1 && product) return b;
  return NULL;
}

qnet_value *qnet_lb_binary(qnet_lb *lb, int opcode, qnet_value *a, qnet_value *b) {
  int64_t ca = 0, cb = 0, folded;
  const bool ka = qnet_lb_known(a, &ca), kb = qnet_lb_known(b, &cb);
  if (ka && kb && fold(opcode, ca, cb, &folded)) return qnet_lb_index(lb, folded);
  qnet_value *same = identity(opcode, a, ka, ca, b, kb, cb);
  if (same) return same;
  return qnet_build1(&lb->at, opcode, (qnet_value *[]){a, b}, 2, a ? a->type : NULL);
}

qnet_value *qnet_lb_add(qnet_lb *lb, qnet_value *a, qnet_value *b) {
  return qnet_lb_binary(lb, QNET_OP_LOOP_ADD, a, b);
}

qnet_value *qnet_lb_add_index(qnet_lb *lb, qnet_value *a, int64_t c) {
  return c == 0 ? a : qnet_lb_add(lb, a, qnet_lb_index(lb, c));
}

qnet_value *qnet_lb_mul_index(qnet_lb *lb, qnet_value *a, int64_t c) {
  return c == 1 ? a : qnet_lb_binary(lb, QNET_OP_LOOP_MUL, a, qnet_lb_index(lb, c));
}

qnet_value *qnet_lb_compare(qnet_lb *lb, const char *predicate, qnet_value *a, qnet_value *b) {
  if (!a || !b) return NULL;
  const int opcode = a->type->dtype == QNET_F32 ? QNET_OP_LOOP_FCMP : QNET_OP_LOOP_CMP;
  const qnet_type *bits = qnet_lb_type(lb, QNET_I1, qnet_lb_lanes(a->type));
  qnet_value *v = qnet_build1(&lb->at, opcode, (qnet_value *[]){a, b}, 2, bits);
  if (v) qnet_op_set_string(lb->m, v->def, "pred", predicate);
  return v;
}

qnet_value *qnet_lb_select(qnet_lb *lb, qnet_value *condition, qnet_value *a, qnet_value *b) {
  return qnet_build1(&lb->at, QNET_OP_LOOP_SELECT, (qnet_value *[]){condition, a, b}, 3,
                     a ? a->type : NULL);
}

qnet_value *qnet_lb_cast(qnet_lb *lb, const char *kind, qnet_dtype to, qnet_value *a) {
  if (!a || a->type->dtype == to) return a;
  const qnet_type *type = qnet_lb_type(lb, to, qnet_lb_lanes(a->type));
  qnet_value *v = qnet_build1(&lb->at, QNET_OP_LOOP_CAST, &a, 1, type);
  if (v) qnet_op_set_string(lb->m, v->def, "kind", kind);
  return v;
}

qnet_value *qnet_lb_fma(qnet_lb *lb, qnet_value *a, qnet_value *b, qnet_value *c) {
  return qnet_build1(&lb->at, QNET_OP_LOOP_FMA, (qnet_value *[]){a, b, c}, 3, c ? c->type : NULL);
}

qnet_value *qnet_lb_unary(qnet_lb *lb, int opcode, qnet_value *a, const qnet_type *result) {
  return qnet_build1(&lb->at, opcode, &a, 1, result);
}

qnet_value *qnet_lb_splat(qnet_lb *lb, qnet_value *scalar, int64_t lanes) {
  if (lanes == 1 || !scalar) return scalar;
  return qnet_lb_unary(lb, QNET_OP_LOOP_SPLAT, scalar,
                       qnet_lb_type(lb, scalar->type->dtype, lanes));
}

/* ---- memory --------------------------------------------------------------------------------- */

qnet_value *qnet_lb_load(qnet_lb *lb, const qnet_type *type, qnet_value *buffer, qnet_value *i,
                         qnet_value *j, qnet_value *k) {
  const int rank = buffer ? buffer->type->rank : 0;
  return qnet_build1(&lb->at, QNET_OP_LOOP_LOAD, (qnet_value *[]){buffer, i, j, k}, 1 + rank, type);
}

void qnet_lb_store(qnet_lb *lb, qnet_value *value, qnet_value *buffer, qnet_value *i, qnet_value *j,
                   qnet_value *k) {
  const int rank = buffer ? buffer->type->rank : 0;
  qnet_build(&lb->at, QNET_OP_LOOP_STORE, (qnet_value *[]){value, buffer, i, j, k}, 2 + rank, NULL,
             0);
}

/* ---- loops ---------------------------------------------------------------------------------- */

static bool one_iteration(const qnet_value *lo, const qnet_value *hi, int64_t step) {
  int64_t l, h;
  return qnet_lb_known(lo, &l) && qnet_lb_known(hi, &h) && l < h && h - l <= step;
}

/* The operation with its region, or NULL when memory is out. */
static qnet_op *make_for(qnet_lb *lb, qnet_value *lo, qnet_value *hi, int64_t step,
                         qnet_value **carried, int count) {
  const size_t n = (size_t)count + 2;
  qnet_value **in = qnet_arena_array(lb->scratch, n, sizeof(qnet_value *));
  const qnet_type **type = qnet_arena_array(lb->scratch, n, sizeof(const qnet_type *));
  if (!in || !type) {
    lb->m->failed = true;
    return NULL;
  }
  in[0] = lo, in[1] = hi;
  type[0] = qnet_type_scalar(lb->m, QNET_I64);
  for (int c = 0; c < count; c++) {
    in[c + 2] = carried[c];
    type[c + 1] = carried[c] ? carried[c]->type : NULL;
  }
  qnet_op *op = qnet_build(&lb->at, QNET_OP_LOOP_FOR, in, count + 2, type + 1, count);
  if (!op) return NULL;
  qnet_op_set_int(lb->m, op, "step", step);
  return qnet_op_add_region(lb->m, op, type, count + 1) ? op : NULL;
}

qnet_lb_loop qnet_lb_for(qnet_lb *lb, qnet_value *lo, qnet_value *hi, int64_t step,
                         qnet_value **carried, int count) {
  qnet_lb_loop loop = {.index = lo, .count = count};
  if (one_iteration(lo, hi, step)) return loop;
  loop.outside = lb->at;
  loop.op = make_for(lb, lo, hi, step, carried, count);
  if (!loop.op) return loop;
  qnet_region *body = loop.op->region[0];
  lb->at = qnet_builder_at_end(lb->m, body);
  lb->at.loc = loop.outside.loc;
  loop.index = &body->arg[0];
  for (int c = 0; c < count; c++)
    carried[c] = &body->arg[c + 1];
  return loop;
}

void qnet_lb_end(qnet_lb *lb, const qnet_lb_loop *loop, qnet_value **carried) {
  if (!loop->op) return;
  qnet_build_yield(&lb->at, carried, loop->count);
  lb->at = loop->outside;
  for (int c = 0; c < loop->count; c++)
    carried[c] = qnet_op_result(loop->op, c);
}

qnet_value *qnet_lb_parallel(qnet_lb *lb, int64_t lo, int64_t hi) {
  qnet_value *bound[] = {qnet_lb_index(lb, lo), qnet_lb_index(lb, hi)};
  qnet_op *op = qnet_build(&lb->at, QNET_OP_LOOP_PARALLEL_FOR, bound, 2, NULL, 0);
  if (!op) return NULL;
  qnet_op_set_int(lb->m, op, "step", 1);
  const qnet_type *index = qnet_type_scalar(lb->m, QNET_I64);
  qnet_region *body = qnet_op_add_region(lb->m, op, &index, 1);
  if (!body) return NULL;
  lb->nest = op;
  lb->consts = NULL;
  const qnet_loc loc = lb->at.loc;
  lb->at = qnet_builder_at_end(lb->m, body);
  lb->at.loc = loc;
  qnet_value *zero = qnet_lb_index(lb, 0);
  lb->anchor = zero ? zero->def : NULL;
  return &body->arg[0];
}

void qnet_lb_end_parallel(qnet_lb *lb) {
  if (!lb->nest) return;
  qnet_build_yield(&lb->at, NULL, 0);
  const qnet_loc loc = lb->at.loc;
  lb->at = qnet_builder_at_end(lb->m, lb->nest->parent);
  lb->at.loc = loc;
  lb->nest = lb->anchor = NULL;
  lb->consts = NULL;
}
