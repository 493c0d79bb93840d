/* The epilogue: what a kernel does after its root, on the registers of a tile.
 *
 * Each register is a vector of channels at one pixel. Parameters of a channel vector (scales,
 * thresholds) are loaded once a tile and serve all its pixels. A rank mask k says where the rank is
 * above k; as ranks grow with k falling, a plane is the exclusive or of the masks at which its bits
 * change, starting from its bit of rank 0, which is applied to whole words at the end. */
#include "passes/loop/lower.h"

typedef struct step {
  const qnet_op *op;
  qnet_value *param[2];    /* buffers: scale and offset, or thresholds and flip (may be NULL) */
  const qnet_table *table; /* bits.quantize, quant.round */
  const qnet_attr *planes; /* one mask a plane, or NULL */
  int thresholds;
  int first_plane;     /* its number among all planes of the kernel; -1: no result */
  qnet_value **vector; /* parameters of the channel vector at hand; NULL: not loaded */
  int vectors;
} step;

typedef struct stored {
  const qnet_value *value;
  qnet_layout *layout;
} stored;

/* A result of codes: searched from a stored value. */
typedef struct searched {
  const qnet_op *op;
  qnet_layout *from, *to;
} searched;

typedef struct qnet_epilogue {
  step *steps;
  stored *stores;
  searched *searches;
  qnet_layout **plane_layout; /* by plane */
  int *plane_index;           /* in its layout */
  bool *inverted;             /* the plane's bit of rank 0 */
  qnet_value **reg;           /* by value id: the register at hand */
  int step_count, store_count, search_count;
} qnet_epilogue;

/* ---- preparing: parameters ------------------------------------------------------------------- */

static qnet_status channel_param(qnet_nest *n, const qnet_value *v, qnet_value **buffer) {
  qnet_symbol *s;
  QNET_TRY(qnet_kernel_const(n->lw, n->kernel, v, &s));
  return qnet_pack_channels(n->lw, s, buffer);
}

static bool all_zero(const qnet_blob *b) {
  const int32_t *x = b->data;
  for (int64_t i = qnet_blob_elements(b); i > 0; i--)
    if (*x++ != 0) return false;
  return true;
}

static qnet_status threshold_params(qnet_nest *n, step *s) {
  qnet_symbol *t, *flip;
  QNET_TRY(qnet_kernel_const(n->lw, n->kernel, s->op->operand[1], &t));
  QNET_TRY(qnet_kernel_const(n->lw, n->kernel, s->op->operand[2], &flip));
  s->thresholds = (int)t->type->dim[1];
  QNET_TRY(qnet_pack_thresholds(n->lw, t, &s->param[0]));
  if (all_zero(flip->blob)) return QNET_OK;
  return qnet_pack_channels(n->lw, flip, &s->param[1]);
}

static double listed(const qnet_attr *list, int64_t c) {
  return list->floats[list->count == 1 ? 0 : c];
}

/* docs/numbers.md, "Layers": computed in f64, rounded once. */
static qnet_status normalize_params(qnet_nest *n, step *s) {
  qnet_lower *lw = n->lw;
  const qnet_attr *mean = qnet_op_attr(s->op, "mean"), *std = qnet_op_attr(s->op, "std");
  const bool bytes = s->op->operand[0]->type->dtype == QNET_U8;
  const int64_t size = (n->c + lw->pad - 1) / lw->pad * lw->pad;
  const qnet_type *type = qnet_type_buffer(lw->m, QNET_F32, 1, &size);
  const char *base = qnet_arena_printf(&lw->scratch, "normalize.%d", s->op->result[0].id);
  if (!base) return qnet_out_of_memory(lw->d);
  float *a = qnet_pack_content(lw, type), *b = qnet_pack_content(lw, type);
  if (!a || !b) return qnet_out_of_memory(lw->d);
  for (int64_t c = 0; c < n->c; c++) {
    a[c] = (float)(1 / ((bytes ? 255 : 1) * listed(std, c)));
    b[c] = (float)(-listed(mean, c) / listed(std, c));
  }
  QNET_TRY(qnet_pack_const(lw, base, "scale", type, a, &s->param[0]));
  return qnet_pack_const(lw, base, "offset", type, b, &s->param[1]);
}

static qnet_status prepare_step(qnet_nest *n, step *s) {
  switch (s->op->opcode) {
  case QNET_OP_QUANT_AFFINE:
    QNET_TRY(channel_param(n, s->op->operand[1], &s->param[0]));
    return channel_param(n, s->op->operand[2], &s->param[1]);
  case QNET_OP_NORMALIZE: return normalize_params(n, s);
  case QNET_OP_BITS_THRESHOLD: return threshold_params(n, s);
  case QNET_OP_QUANT_ROUND:
  case QNET_OP_BITS_QUANTIZE: {
    const qnet_symbol *table = qnet_op_symbol(n->lw->m, s->op, "table");
    if (!table || !table->table || !table->table->threshold) break;
    s->table = table->table;
    s->thresholds = table->table->codes - 1;
    return QNET_OK;
  }
  case QNET_OP_RELU:
  case QNET_OP_ADD:
  case QNET_OP_QUANT_QUANTIZE:
  case QNET_OP_QUANT_THRESHOLD: return QNET_OK;
  default: break;
  }
  return qnet_error(n->lw->d, s->op->loc, "lower-to-loop: '%s' cannot stand inside a kernel",
                    qnet_op_def_of(s->op->opcode)->name);
}

/* ---- preparing: results ---------------------------------------------------------------------- */

static void add_planes(qnet_nest *n, const qnet_value *inside, qnet_layout *l, int first) {
  qnet_epilogue *e = n->epilogue;
  for (int i = 0; i < e->step_count; i++) {
    step *s = &e->steps[i];
    if (&s->op->result[0] != inside) continue;
    s->first_plane = first;
    for (int p = 0; p < l->planes; p++) {
      e->plane_layout[first + p] = l;
      e->plane_index[first + p] = p;
      e->inverted[first + p] = s->planes->ints[p] & 1;
    }
  }
}

static void add_store(qnet_epilogue *e, const qnet_value *inside, qnet_layout *l) {
  e->stores[e->store_count++] = (stored){inside, l};
}

/* The stored form of a value inside the kernel; makes one when it is no result itself. */
static qnet_layout *stored_form(qnet_nest *n, const qnet_value *inside) {
  qnet_epilogue *e = n->epilogue;
  if (inside->region == n->kernel->region[0]) return qnet_layout_of(n->lw, n->kernel, inside);
  const qnet_op *end = n->kernel->region[0]->last;
  for (int r = 0; r < end->operand_count; r++)
    if (end->operand[r] == inside) return &n->lw->layout[n->kernel->result[r].id];
  qnet_layout *l = qnet_arena_alloc(&n->lw->scratch, sizeof *l);
  if (!l) return NULL;
  *l = (qnet_layout){.type = inside->type, .dtype = inside->type->dtype, .by_lanes = n->lanes > 1};
  qnet_type_hwc(inside->type, &l->h, &l->w, &l->c);
  l->step = l->by_lanes ? (l->c + n->lw->pad - 1) / n->lw->pad * n->lw->pad : l->c;
  qnet_layout_allocate(n->lw, l);
  add_store(e, inside, l);
  return l;
}

static qnet_status add_result(qnet_nest *n, int r, int *planes) {
  qnet_epilogue *e = n->epilogue;
  const qnet_value *inside = n->kernel->region[0]->last->operand[r];
  qnet_layout *l = &n->lw->layout[n->kernel->result[r].id];
  qnet_layout_allocate(n->lw, l);
  if (l->planes) {
    add_planes(n, inside, l, *planes);
    *planes += l->planes;
  } else if (l->type->dtype == QNET_CODE) {
    qnet_layout *from = inside->def ? stored_form(n, inside->def->operand[0]) : NULL;
    if (!from) return qnet_out_of_memory(n->lw->d);
    e->searches[e->search_count++] = (searched){inside->def, from, l};
  } else {
    add_store(e, inside, l);
  }
  return QNET_OK;
}

static bool allocate(qnet_nest *n, qnet_epilogue *e, int steps) {
  qnet_arena *a = &n->lw->scratch;
  const size_t results = (size_t)n->kernel->result_count, planes = (size_t)n->planes;
  e->steps = qnet_arena_array(a, (size_t)steps, sizeof *e->steps);
  e->stores = qnet_arena_array(a, 2 * results, sizeof *e->stores);
  e->searches = qnet_arena_array(a, results, sizeof *e->searches);
  e->plane_layout = qnet_arena_array(a, planes, sizeof(qnet_layout *));
  e->plane_index = qnet_arena_array(a, planes, sizeof *e->plane_index);
  e->inverted = qnet_arena_array(a, planes, sizeof *e->inverted);
  e->reg = qnet_arena_array(a, (size_t)n->lw->values, sizeof(qnet_value *));
  return e->steps && e->stores && e->searches && e->plane_layout && e->plane_index && e->inverted &&
         e->reg;
}

static qnet_status add_step(qnet_nest *n, const qnet_op *op) {
  qnet_epilogue *e = n->epilogue;
  step *s = &e->steps[e->step_count++];
  *s = (step){.op = op, .planes = qnet_op_attr(op, "planes"), .first_plane = -1};
  QNET_TRY(prepare_step(n, s));
  s->vectors = s->thresholds + 2;
  s->vector = qnet_arena_array(&n->lw->scratch, (size_t)s->vectors, sizeof(qnet_value *));
  return s->vector ? QNET_OK : qnet_out_of_memory(n->lw->d);
}

/* Bits behind the last channel need clearing where lanes reach behind it or planes are inverted. */
static qnet_status prepare_tail(qnet_nest *n) {
  bool needed = n->planes && n->c % n->lanes != 0;
  for (int p = 0; p < n->planes; p++)
    needed |= n->epilogue->inverted[p] && n->c % n->lw->machine->word_bits != 0;
  return needed ? qnet_pack_tail(n->lw, n->c, &n->tail) : QNET_OK;
}

qnet_status qnet_epilogue_create(qnet_nest *n) {
  const qnet_region *body = n->kernel->region[0];
  const qnet_op *first = n->root ? n->root->next : body->first;
  int steps = 0, planes = 0;
  for (const qnet_op *op = first; op && op != body->last; op = op->next)
    steps++;
  n->epilogue = qnet_arena_alloc(&n->lw->scratch, sizeof *n->epilogue);
  if (!n->epilogue || !allocate(n, n->epilogue, steps)) return qnet_out_of_memory(n->lw->d);
  for (const qnet_op *op = first; op && op != body->last; op = op->next)
    QNET_TRY(add_step(n, op));
  for (int r = 0; r < n->kernel->result_count; r++)
    QNET_TRY(add_result(n, r, &planes));
  return prepare_tail(n);
}

/* ---- registers ------------------------------------------------------------------------------- */

/* A register's place: pixel m and channel vector v of the tile. */
typedef struct place {
  qnet_nest *n;
  const qnet_tile_at *at;
  int m, v;
} place;

/* Channel of the tile's first vector. */
static qnet_value *first_channel(const place *p) {
  return qnet_lb_mul_index(p->n->lb, p->at->vector, p->n->lanes);
}

static qnet_value *channel(const place *p) {
  return qnet_lb_add_index(p->n->lb, first_channel(p), p->v * p->n->lanes);
}

static qnet_value *operand(const place *p, const qnet_value *v) {
  qnet_nest *n = p->n;
  if (v->region != n->kernel->region[0]) return n->epilogue->reg[v->id];
  const qnet_layout *l = qnet_layout_of(n->lw, n->kernel, v);
  return qnet_layout_load(n->lw, l, n->lanes, p->at->y, p->at->x, p->m, first_channel(p),
                          p->v * n->lanes);
}

/* Parameter k of the step for the channel vector: a row of param[0], or param[1]. */
static qnet_value *param(const place *p, step *s, qnet_value *buffer, int row, int slot) {
  qnet_nest *n = p->n;
  if (s->vector[slot] || !buffer) return s->vector[slot];
  const qnet_type *type = qnet_lb_type(n->lb, buffer->type->dtype, n->lanes);
  const bool rows = buffer->type->rank == 2;
  s->vector[slot] = qnet_lb_load(n->lb, type, buffer, rows ? qnet_lb_index(n->lb, row) : channel(p),
                                 rows ? channel(p) : NULL, NULL);
  return s->vector[slot];
}

static qnet_value *to_f32(qnet_lb *lb, qnet_value *x) {
  if (x && x->type->dtype == QNET_U8) x = qnet_lb_cast(lb, "zext", QNET_I32, x);
  return qnet_lb_cast(lb, "sitofp", QNET_F32, x);
}

static qnet_value *affine(const place *p, step *s) {
  qnet_lb *lb = p->n->lb;
  qnet_value *x = to_f32(lb, operand(p, s->op->operand[0]));
  return qnet_lb_fma(lb, x, param(p, s, s->param[0], 0, 0), param(p, s, s->param[1], 0, 1));
}

static qnet_value *relu(const place *p, const step *s) {
  qnet_lb *lb = p->n->lb;
  qnet_value *x = operand(p, s->op->operand[0]);
  qnet_value *zero = x ? qnet_lb_float(lb, x->type, 0) : NULL;
  return qnet_lb_select(lb, qnet_lb_compare(lb, "ogt", x, zero), x, zero);
}

/* The value of rank 0, raised at every threshold that x exceeds. */
static qnet_value *round_value(const place *p, const step *s) {
  qnet_lb *lb = p->n->lb;
  const qnet_table *t = s->table;
  qnet_value *x = operand(p, s->op->operand[0]);
  if (!x) return NULL;
  qnet_value *y = qnet_lb_float(lb, x->type, (double)qnet_table_value(t, 0));
  for (int k = 0; k < s->thresholds; k++) {
    qnet_value *above =
        qnet_lb_compare(lb, "ogt", x, qnet_lb_float(lb, x->type, (double)t->threshold[k]));
    y = qnet_lb_select(lb, above, qnet_lb_float(lb, x->type, (double)qnet_table_value(t, k + 1)),
                       y);
  }
  return y;
}

/* ---- planes ---------------------------------------------------------------------------------- */

/* Where the rank is above k. */
static qnet_value *rank_mask(const place *p, step *s, qnet_value *x, int k) {
  qnet_lb *lb = p->n->lb;
  if (s->table) {
    qnet_value *t = x ? qnet_lb_float(lb, x->type, (double)s->table->threshold[k]) : NULL;
    return qnet_lb_compare(lb, "ogt", x, t);
  }
  return qnet_lb_compare(lb, "sge", x, param(p, s, s->param[0], k, 2 + k));
}

/* The plane's bits, relative to its bit of rank 0; NULL when they are all 0. */
static qnet_value *plane_bits(qnet_lb *lb, uint64_t plane, qnet_value *const *mask, int count) {
  qnet_value *bits = NULL;
  for (int k = 0; k < count; k++) {
    if (((plane >> k ^ plane >> (k + 1)) & 1) == 0) continue;
    bits = bits ? qnet_lb_binary(lb, QNET_OP_LOOP_XOR, bits, mask[k]) : mask[k];
  }
  return bits;
}

/* Ors the bits of a channel vector into its word. */
static void insert_bits(const place *p, qnet_value *bits, qnet_value *shift, qnet_value **word) {
  qnet_nest *n = p->n;
  qnet_lb *lb = n->lb;
  const int word_bits = n->lw->machine->word_bits;
  const int64_t lane = p->v * n->lanes;
  const qnet_type *type = qnet_lb_type(lb, word_bits == 64 ? QNET_I64 : QNET_I32, 1);
  qnet_value *v = qnet_lb_unary(lb, QNET_OP_LOOP_BITMASK, bits, type);
  qnet_value *place_in_word = qnet_lb_add_index(lb, shift, lane % word_bits);
  int64_t by;
  if (!qnet_lb_known(place_in_word, &by)) {
    qnet_value *amount = type ? qnet_lb_cast(lb, "trunc", type->dtype, place_in_word) : NULL;
    v = qnet_lb_binary(lb, QNET_OP_LOOP_SHL, v, amount);
  } else if (by != 0) {
    v = qnet_lb_binary(lb, QNET_OP_LOOP_SHL, v, qnet_lb_int(lb, type, by));
  }
  *word = qnet_lb_binary(lb, QNET_OP_LOOP_OR, *word, v);
}

static qnet_status emit_planes(const place *p, step *s, qnet_value *shift, qnet_value **word) {
  qnet_nest *n = p->n;
  qnet_value **mask =
      qnet_arena_array(&n->lw->scratch, (size_t)s->thresholds + 1, sizeof(qnet_value *));
  if (!mask) return qnet_out_of_memory(n->lw->d);
  qnet_value *x = operand(p, s->op->operand[0]);
  if (s->param[1]) x = qnet_lb_binary(n->lb, QNET_OP_LOOP_XOR, x, param(p, s, s->param[1], 0, 0));
  for (int k = 0; k < s->thresholds; k++)
    mask[k] = rank_mask(p, s, x, k);
  const int64_t at_word = p->m * n->group_words + p->v * n->lanes / n->lw->machine->word_bits;
  for (int i = 0; s->first_plane >= 0 && i < s->planes->count; i++) {
    qnet_value *bits = plane_bits(n->lb, (uint64_t)s->planes->ints[i], mask, s->thresholds);
    if (bits) insert_bits(p, bits, shift, &word[at_word * n->planes + s->first_plane + i]);
  }
  return QNET_OK;
}

/* ---- the tile -------------------------------------------------------------------------------- */

static qnet_status emit_step(const place *p, step *s, qnet_value *shift, qnet_value **word) {
  qnet_value *v = NULL;
  switch (s->op->opcode) {
  case QNET_OP_QUANT_AFFINE:
  case QNET_OP_NORMALIZE: v = affine(p, s); break;
  case QNET_OP_RELU: v = relu(p, s); break;
  case QNET_OP_QUANT_ROUND: v = round_value(p, s); break;
  case QNET_OP_ADD:
    v = qnet_lb_binary(p->n->lb, QNET_OP_LOOP_FADD, operand(p, s->op->operand[0]),
                       operand(p, s->op->operand[1]));
    break;
  case QNET_OP_BITS_QUANTIZE:
  case QNET_OP_BITS_THRESHOLD: return emit_planes(p, s, shift, word);
  default: return QNET_OK; /* codes: qnet_epilogue_finish */
  }
  p->n->epilogue->reg[s->op->result[0].id] = v;
  return QNET_OK;
}

static qnet_status emit_place(const place *p, qnet_value *root, qnet_value *shift,
                              qnet_value **word) {
  qnet_nest *n = p->n;
  qnet_epilogue *e = n->epilogue;
  if (n->root) e->reg[n->root->result[0].id] = root;
  for (int i = 0; i < e->step_count; i++)
    QNET_TRY(emit_step(p, &e->steps[i], shift, word));
  for (int i = 0; i < e->store_count; i++) {
    qnet_value *value = operand(p, e->stores[i].value);
    qnet_layout_store(n->lw, e->stores[i].layout, value, p->at->y, p->at->x, p->m, first_channel(p),
                      p->v * n->lanes);
  }
  return QNET_OK;
}

qnet_status qnet_epilogue_emit(qnet_nest *n, const qnet_tile_at *at, qnet_value **root,
                               qnet_value *shift, qnet_value **word) {
  qnet_epilogue *e = n->epilogue;
  for (int v = 0; v < at->vectors; v++) {
    for (int i = 0; i < e->step_count; i++)
      for (int k = 0; k < e->steps[i].vectors; k++)
        e->steps[i].vector[k] = NULL;
    for (int m = 0; m < at->pixels; m++) {
      const place p = {n, at, m, v};
      QNET_TRY(emit_place(&p, root[m * at->vectors + v], shift, word));
    }
  }
  return n->lw->m->failed ? qnet_out_of_memory(n->lw->d) : QNET_OK;
}

static qnet_value *finish_word(qnet_nest *n, qnet_value *word, qnet_value *number, bool inverted) {
  qnet_lb *lb = n->lb;
  if (!word) return NULL;
  if (inverted) word = qnet_lb_binary(lb, QNET_OP_LOOP_XOR, word, qnet_lb_int(lb, word->type, -1));
  if (!n->tail) return word;
  qnet_value *mask = qnet_lb_load(lb, word->type, n->tail, number, NULL, NULL);
  return qnet_lb_binary(lb, QNET_OP_LOOP_AND, word, mask);
}

void qnet_epilogue_store_words(qnet_nest *n, const qnet_tile_at *at, qnet_value *first,
                               int64_t count, qnet_value **word) {
  qnet_lb *lb = n->lb;
  const qnet_epilogue *e = n->epilogue;
  for (int m = 0; m < at->pixels; m++)
    for (int w = 0; w < (int)count; w++)
      for (int p = 0; p < n->planes; p++) {
        const qnet_layout *l = e->plane_layout[p];
        qnet_value *number = qnet_lb_add_index(lb, first, w);
        qnet_value *x = qnet_lb_mul_index(lb, at->x, l->step);
        qnet_value *at_column =
            qnet_lb_add_index(lb, qnet_lb_add(lb, x, number), qnet_layout_column(l, m));
        const int64_t i = (m * n->group_words + w) * n->planes + p;
        qnet_lb_store(lb, finish_word(n, word[i], number, e->inverted[p]), l->buffer,
                      qnet_layout_row(n->lw, l, at->y), at_column,
                      qnet_lb_index(lb, e->plane_index[p]));
      }
}

bool qnet_epilogue_idle(const qnet_nest *n) {
  return !n->root && n->planes == 0 && n->epilogue->store_count == 0;
}

qnet_status qnet_epilogue_finish(qnet_nest *n) {
  const qnet_epilogue *e = n->epilogue;
  for (int i = 0; i < e->search_count; i++) {
    const searched *s = &e->searches[i];
    QNET_TRY(qnet_lower_search(n->lw, n->kernel, s->op, s->from, s->to));
  }
  return QNET_OK;
}
