/* Nests that move elements one by one: staging of arguments, results, flatten, slice, pad; and
 * codes of 5..8 bits, whose levels are found by binary search or, from bytes, in a table. */
#include "passes/loop/lower.h"
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- loops over all elements ----------------------------------------------------------------- */

typedef struct element {
  qnet_value *y, *x, *c;
  qnet_lb_loop columns, channels;
} element;

static element begin_elements(qnet_lb *lb, int64_t h, int64_t w, int64_t c) {
  element e = {.y = qnet_lb_parallel(lb, 0, h)};
  qnet_value *zero = qnet_lb_index(lb, 0);
  e.columns = qnet_lb_for(lb, zero, qnet_lb_index(lb, w), 1, NULL, 0);
  e.channels = qnet_lb_for(lb, zero, qnet_lb_index(lb, c), 1, NULL, 0);
  e.x = e.columns.index;
  e.c = e.channels.index;
  return e;
}

static void end_elements(qnet_lb *lb, const element *e) {
  qnet_lb_end(lb, &e->channels, NULL);
  qnet_lb_end(lb, &e->columns, NULL);
  qnet_lb_end_parallel(lb);
}

static qnet_value *load(qnet_lower *lw, const qnet_layout *l, const element *e) {
  return qnet_layout_load(lw, l, 1, e->y, e->x, 0, e->c, 0);
}

static void store(qnet_lower *lw, const qnet_layout *l, qnet_value *v, const element *e) {
  qnet_layout_store(lw, l, v, e->y, e->x, 0, e->c, 0);
}

void qnet_lower_copy(qnet_lower *lw, const qnet_layout *from, const qnet_layout *to) {
  const element e = begin_elements(&lw->lb, to->h, to->w, to->c);
  store(lw, to, load(lw, from, &e), &e);
  end_elements(&lw->lb, &e);
}

/* ---- flatten: channel, row, column ----------------------------------------------------------- */

static void flatten(qnet_lower *lw, const qnet_layout *from, const qnet_layout *to) {
  qnet_lb *lb = &lw->lb;
  const element e = begin_elements(lb, from->h, from->w, from->c);
  qnet_value *at = qnet_lb_mul_index(lb, e.c, from->h * from->w);
  at = qnet_lb_add(lb, at, qnet_lb_mul_index(lb, e.y, from->w));
  at = qnet_lb_add(lb, at, e.x);
  qnet_value *zero = qnet_lb_index(lb, 0);
  qnet_layout_store(lw, to, load(lw, from, &e), zero, zero, 0, at, 0);
  end_elements(lb, &e);
}

/* ---- slice, pad ------------------------------------------------------------------------------ */

static qnet_value *on_lattice(qnet_lb *lb, qnet_value *at, const qnet_lattice *l, int i) {
  return qnet_lb_add(lb, qnet_lb_mul_index(lb, at, l->stride[i]), qnet_lb_index(lb, l->begin[i]));
}

/* Element e of the small tensor, in the large one. */
static element place_of(qnet_lb *lb, const qnet_op *op, const element *e) {
  const qnet_lattice l = qnet_op_lattice(op);
  element at = *e;
  at.y = on_lattice(lb, e->y, &l, 0);
  at.x = on_lattice(lb, e->x, &l, 1);
  at.c = on_lattice(lb, e->c, &l, 2);
  return at;
}

static void slice(qnet_lower *lw, const qnet_op *op, const qnet_layout *from,
                  const qnet_layout *to) {
  const element e = begin_elements(&lw->lb, to->h, to->w, to->c);
  const element at = place_of(&lw->lb, op, &e);
  store(lw, to, load(lw, from, &at), &e);
  end_elements(&lw->lb, &e);
}

static void fill_zero(qnet_lower *lw, const qnet_layout *to) {
  qnet_lb *lb = &lw->lb;
  const element e = begin_elements(lb, to->h, to->w, to->c);
  store(lw, to, qnet_lb_float(lb, qnet_type_scalar(lw->m, to->dtype), 0), &e);
  end_elements(lb, &e);
}

static void pad(qnet_lower *lw, const qnet_op *op, const qnet_layout *from, const qnet_layout *to) {
  fill_zero(lw, to);
  const element e = begin_elements(&lw->lb, from->h, from->w, from->c);
  const element at = place_of(&lw->lb, op, &e);
  store(lw, to, load(lw, from, &e), &at);
  end_elements(&lw->lb, &e);
}

/* ---- kernels that begin with a movement ------------------------------------------------------ */

static void move(qnet_lower *lw, const qnet_op *op, const qnet_layout *from,
                 const qnet_layout *to) {
  switch (op->opcode) {
  case QNET_OP_SLICE: slice(lw, op, from, to); break;
  case QNET_OP_PAD: pad(lw, op, from, to); break;
  default: flatten(lw, from, to); break;
  }
}

/* The register of a moved value that has consumers in its kernel. */
static qnet_status emit_moved(qnet_nest *n, const qnet_tile_at *at, qnet_value **reg) {
  qnet_value *channel = qnet_lb_mul_index(n->lb, at->vector, n->lanes);
  for (int i = 0; i < at->pixels * at->vectors; i++)
    reg[i] = qnet_layout_load(n->lw, n->root_data, n->lanes, at->y, at->x, i / at->vectors, channel,
                              i % at->vectors * n->lanes);
  return QNET_OK;
}

qnet_status qnet_lower_movement(qnet_lower *lw, const qnet_op *kernel) {
  const qnet_op *op = qnet_kernel_root(kernel);
  const qnet_layout *from = qnet_layout_of(lw, kernel, op->operand[0]);
  qnet_layout *to = &lw->layout[kernel->result[0].id];
  if (op->next == kernel->region[0]->last && kernel->result_count == 1) {
    qnet_layout_allocate(lw, to);
    move(lw, op, from, to);
    return QNET_OK;
  }
  qnet_layout moved = {.type = op->result[0].type, .dtype = from->dtype};
  qnet_type_hwc(moved.type, &moved.h, &moved.w, &moved.c);
  moved.by_lanes = from->dtype == QNET_F32 || from->dtype == QNET_I32;
  moved.step = moved.by_lanes ? (moved.c + lw->pad - 1) / lw->pad * lw->pad : moved.c;
  qnet_layout_allocate(lw, &moved);
  move(lw, op, from, &moved);
  qnet_nest n = {.lw = lw,
                 .lb = &lw->lb,
                 .kernel = kernel,
                 .root = op,
                 .root_data = &moved,
                 .emit_root = emit_moved,
                 .h = moved.h,
                 .w = moved.w,
                 .c = moved.c};
  qnet_nest_fit_simple(&n);
  return qnet_nest_run(&n);
}

/* ---- codes to levels ------------------------------------------------------------------------- */

static qnet_status table_of(qnet_lower *lw, const qnet_op *op, const qnet_table **table) {
  const qnet_symbol *s = qnet_op_symbol(lw->m, op, "table");
  if (!s || !s->table || !s->table->perm)
    return qnet_error(lw->d, op->loc, "the level table @%s of these codes is not there",
                      qnet_op_string(op, "table"));
  *table = s->table;
  return QNET_OK;
}

/* Levels in the order of ranks: buf<codes x i8>. */
static qnet_status pack_levels(qnet_lower *lw, const qnet_op *op, const qnet_table *t,
                               qnet_value **buffer) {
  const int64_t size = t->codes;
  const qnet_type *type = qnet_type_buffer(lw->m, QNET_I8, 1, &size);
  int8_t *to = qnet_pack_content(lw, type);
  if (!to) return qnet_out_of_memory(lw->d);
  for (int r = 0; r < t->codes; r++)
    to[r] = (int8_t)t->level[t->perm[r]];
  return qnet_pack_const(lw, qnet_op_string(op, "table"), "levels", type, to, buffer);
}

typedef struct search {
  qnet_value *threshold; /* buf<channels x size>, size = 2^rounds - 1; one channel for f32 */
  qnet_value *flip;      /* buf<channels padded>, or NULL */
  qnet_value *level;
  int rounds;
  bool by_channel;
} search;

static int by_value(const void *a, const void *b) {
  const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

static int rounds_for(int64_t thresholds) {
  int rounds = 1;
  while ((INT64_C(1) << rounds) - 1 < thresholds)
    rounds++;
  return rounds;
}

static qnet_status pack_f32_search(qnet_lower *lw, const qnet_op *op, const qnet_table *t,
                                   search *s) {
  s->rounds = rounds_for(t->codes - 1);
  const int64_t dim[] = {1, (INT64_C(1) << s->rounds) - 1};
  const qnet_type *type = qnet_type_buffer(lw->m, QNET_F32, 2, dim);
  float *to = qnet_pack_content(lw, type);
  if (!to) return qnet_out_of_memory(lw->d);
  for (int64_t k = 0; k < dim[1]; k++)
    to[k] = k < t->codes - 1 ? t->threshold[k] : INFINITY;
  return qnet_pack_const(lw, qnet_op_string(op, "table"), "search", type, to, &s->threshold);
}

static qnet_status pack_i32_search(qnet_lower *lw, const qnet_op *kernel, const qnet_op *op,
                                   search *s) {
  qnet_symbol *t, *flip;
  QNET_TRY(qnet_kernel_const(lw, kernel, op->operand[1], &t));
  QNET_TRY(qnet_kernel_const(lw, kernel, op->operand[2], &flip));
  QNET_TRY(qnet_pack_channels(lw, flip, &s->flip));
  const int64_t channels = t->type->dim[0], n = t->type->dim[1];
  s->rounds = rounds_for(n);
  s->by_channel = true;
  const int64_t dim[] = {channels, (INT64_C(1) << s->rounds) - 1};
  const qnet_type *type = qnet_type_buffer(lw->m, QNET_I32, 2, dim);
  int32_t *to = qnet_pack_content(lw, type);
  if (!to) return qnet_out_of_memory(lw->d);
  const int32_t *from = t->blob->data;
  for (int64_t c = 0; c < channels; c++, to += dim[1], from += n) {
    for (int64_t k = 0; k < dim[1]; k++)
      to[k] = k < n ? from[k] : INT32_MAX; /* accumulators never reach it */
    qsort(to, (size_t)dim[1], sizeof *to, by_value);
  }
  return qnet_pack_const(lw, t->name, "search", type, to - channels * dim[1], &s->threshold);
}

/* #{k : x > t_k} (f32) or #{k : x >= t_k} (i32): one bit of the rank a round. */
static qnet_value *emit_rank(qnet_lb *lb, const search *s, qnet_value *x, qnet_value *channel) {
  const qnet_type *type = x ? x->type : NULL;
  const bool is_float = type && type->dtype == QNET_F32;
  qnet_value *row = s->by_channel ? channel : qnet_lb_index(lb, 0);
  qnet_value *rank = qnet_lb_index(lb, 0);
  for (int r = s->rounds - 1; r >= 0; r--) {
    const int64_t half = INT64_C(1) << r;
    qnet_value *t =
        qnet_lb_load(lb, type, s->threshold, row, qnet_lb_add_index(lb, rank, half - 1), NULL);
    qnet_value *above = qnet_lb_compare(lb, is_float ? "ogt" : "sge", x, t);
    rank = qnet_lb_select(lb, above, qnet_lb_add_index(lb, rank, half), rank);
  }
  return rank;
}

qnet_status qnet_lower_search(qnet_lower *lw, const qnet_op *kernel, const qnet_op *quantize,
                              const qnet_layout *from, const qnet_layout *to) {
  qnet_lb *lb = &lw->lb;
  const qnet_table *table = NULL;
  search s = {0};
  QNET_TRY(table_of(lw, quantize, &table));
  QNET_TRY(pack_levels(lw, quantize, table, &s.level));
  const bool is_float = quantize->opcode == QNET_OP_QUANT_QUANTIZE;
  QNET_TRY(is_float ? pack_f32_search(lw, quantize, table, &s)
                    : pack_i32_search(lw, kernel, quantize, &s));
  const element e = begin_elements(lb, to->h, to->w, to->c);
  qnet_value *x = load(lw, from, &e);
  if (s.flip && x) {
    qnet_value *flip = qnet_lb_load(lb, x->type, s.flip, e.c, NULL, NULL);
    x = qnet_lb_binary(lb, QNET_OP_LOOP_XOR, x, flip);
  }
  qnet_value *rank = emit_rank(lb, &s, x, e.c);
  store(lw, to, qnet_lb_load(lb, qnet_lb_type(lb, QNET_I8, 1), s.level, rank, NULL, NULL), &e);
  end_elements(lb, &e);
  return QNET_OK;
}

/* ---- bytes to levels by table ---------------------------------------------------------------- */

bool qnet_kernel_is_lookup(const qnet_op *kernel) {
  const qnet_op *normalize = kernel->region[0]->first;
  if (!normalize || normalize->opcode != QNET_OP_NORMALIZE) return false;
  if (normalize->operand[0]->type->dtype != QNET_U8) return false;
  const qnet_op *quantize = normalize->next, *end = kernel->region[0]->last;
  return quantize && quantize->opcode == QNET_OP_QUANT_QUANTIZE && quantize->next == end &&
         kernel->result_count == 1 && end->operand[0] == &quantize->result[0] &&
         quantize->operand[0] == &normalize->result[0];
}

static double listed(const qnet_attr *list, int64_t c) {
  return list->floats[list->count == 1 ? 0 : c];
}

/* The level of a byte: docs/numbers.md, "Layers" and "Frozen quantizer". */
static int8_t level_of_byte(const qnet_op *normalize, const qnet_table *t, int64_t c, int byte) {
  const double mean = listed(qnet_op_attr(normalize, "mean"), c);
  const double std = listed(qnet_op_attr(normalize, "std"), c);
  const float y = fmaf((float)byte, (float)(1 / (255 * std)), (float)(-mean / std));
  int rank = 0;
  for (int k = 0; k + 1 < t->codes; k++)
    rank += y > t->threshold[k];
  return (int8_t)t->level[t->perm[rank]];
}

qnet_status qnet_lower_lookup(qnet_lower *lw, const qnet_op *kernel) {
  qnet_lb *lb = &lw->lb;
  const qnet_op *normalize = kernel->region[0]->first, *quantize = normalize->next;
  const qnet_layout *from = qnet_layout_of(lw, kernel, normalize->operand[0]);
  qnet_layout *to = &lw->layout[kernel->result[0].id];
  const qnet_table *table = NULL;
  QNET_TRY(table_of(lw, quantize, &table));
  const qnet_type *type = qnet_type_buffer(lw->m, QNET_I8, 2, (int64_t[]){to->c, 256});
  int8_t *content = qnet_pack_content(lw, type);
  if (!content) return qnet_out_of_memory(lw->d);
  for (int64_t i = 0; i < to->c * 256; i++)
    content[i] = level_of_byte(normalize, table, i / 256, (int)(i % 256));
  qnet_value *lookup;
  QNET_TRY(
      qnet_pack_const(lw, qnet_op_string(quantize, "table"), "lookup", type, content, &lookup));
  qnet_layout_allocate(lw, to);
  const element e = begin_elements(lb, to->h, to->w, to->c);
  qnet_value *byte = qnet_lb_cast(lb, "zext", QNET_I64, load(lw, from, &e));
  store(lw, to, qnet_lb_load(lb, qnet_lb_type(lb, QNET_I8, 1), lookup, e.c, byte, NULL), &e);
  end_elements(lb, &e);
  return QNET_OK;
}
