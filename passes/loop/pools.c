/* Pools, on vectors of channels; and kernels without a root. A pool's window is cut to the real
 * positions by its loops' bounds. f32 sums go in ascending (h, w) from +0. */
#include "passes/loop/lower.h"
#include <limits.h>
#include <math.h>

enum { UNROLLED_POSITIONS = 9 };

typedef struct pool {
  const qnet_op *op;
  const qnet_layout *in;
  qnet_window window;
  qnet_value *flip;       /* quant.max_pool2d: buf<channels padded>, or NULL for no flips */
  qnet_value *reciprocal; /* average with padding: buf<positions + 1> of 1 / n */
} pool;

static bool is_average(const pool *p) {
  return p->op->opcode == QNET_OP_AVG_POOL2D || p->op->opcode == QNET_OP_GLOBAL_AVG_POOL;
}

static bool is_padded(const qnet_window *w) {
  return w->pad_top || w->pad_left || w->pad_bottom || w->pad_right;
}

/* ---- preparing ------------------------------------------------------------------------------- */

static qnet_status prepare_flip(qnet_lower *lw, const qnet_op *kernel, pool *p) {
  if (p->op->opcode != QNET_OP_QUANT_MAX_POOL2D) return QNET_OK;
  qnet_symbol *s;
  QNET_TRY(qnet_kernel_const(lw, kernel, p->op->operand[1], &s));
  const int32_t *flip = s->blob->data;
  for (int64_t i = qnet_blob_elements(s->blob); i > 0; i--)
    if (*flip++ != 0) return qnet_pack_channels(lw, s, &p->flip);
  return QNET_OK;
}

static qnet_status prepare_reciprocal(qnet_lower *lw, pool *p) {
  if (!is_average(p) || !is_padded(&p->window)) return QNET_OK;
  const int64_t size = p->window.kernel_h * p->window.kernel_w + 1;
  const qnet_type *type = qnet_type_buffer(lw->m, QNET_F32, 1, &size);
  float *to = qnet_pack_content(lw, type);
  if (!to) return qnet_out_of_memory(lw->d);
  for (int64_t n = 1; n < size; n++)
    to[n] = 1.0f / (float)n;
  return qnet_pack_const(lw, "pool", "reciprocal", type, to, &p->reciprocal);
}

/* ---- one tile of one pixel ------------------------------------------------------------------- */

/* First and last + 1 kernel position that is real, for output position `out`. */
typedef struct bounds {
  qnet_value *lo, *hi;
} bounds;

static bounds real_positions(qnet_lb *lb, qnet_value *out, int64_t kernel, int64_t stride,
                             int64_t pad, bool padded, int64_t size) {
  bounds b = {qnet_lb_index(lb, 0), qnet_lb_index(lb, kernel)};
  if (!padded) return b;
  qnet_value *first = qnet_lb_binary(lb, QNET_OP_LOOP_SUB, qnet_lb_index(lb, pad),
                                     qnet_lb_mul_index(lb, out, stride));
  b.lo = qnet_lb_binary(lb, QNET_OP_LOOP_SMAX, first, b.lo);
  b.hi = qnet_lb_binary(lb, QNET_OP_LOOP_SMIN, qnet_lb_add_index(lb, first, size), b.hi);
  return b;
}

static qnet_value *first_value(qnet_lb *lb, const pool *p, int64_t lanes) {
  if (p->op->opcode == QNET_OP_QUANT_MAX_POOL2D)
    return qnet_lb_int(lb, qnet_lb_type(lb, QNET_I32, lanes), INT32_MIN);
  return qnet_lb_float(lb, qnet_lb_type(lb, QNET_F32, lanes),
                       is_average(p) ? 0.0 : -(double)INFINITY);
}

static qnet_value *join(qnet_lb *lb, const pool *p, qnet_value *acc, qnet_value *x,
                        qnet_value *flip) {
  if (is_average(p)) return qnet_lb_binary(lb, QNET_OP_LOOP_FADD, acc, x);
  if (p->op->opcode == QNET_OP_MAX_POOL2D)
    return qnet_lb_select(lb, qnet_lb_compare(lb, "ogt", x, acc), x, acc);
  if (flip) x = qnet_lb_binary(lb, QNET_OP_LOOP_XOR, x, flip);
  return qnet_lb_binary(lb, QNET_OP_LOOP_SMAX, acc, x);
}

static void join_position(qnet_nest *n, const qnet_tile_at *at, qnet_value *kh, qnet_value *kw,
                          qnet_value *const *flip, qnet_value **acc) {
  const pool *p = n->root_data;
  const qnet_window *w = &p->window;
  qnet_lb *lb = n->lb;
  qnet_value *y = qnet_lb_add(lb, qnet_lb_mul_index(lb, at->y, w->stride_h), kh);
  qnet_value *x = qnet_lb_add(lb, qnet_lb_mul_index(lb, at->x, w->stride_w), kw);
  y = qnet_lb_add_index(lb, y, -w->pad_top);
  qnet_value *channel = qnet_lb_mul_index(lb, at->vector, n->lanes);
  for (int v = 0; v < at->vectors; v++) {
    qnet_value *value =
        qnet_layout_load(n->lw, p->in, n->lanes, y, x, -w->pad_left, channel, v * n->lanes);
    acc[v] = join(lb, p, acc[v], value, flip[v]);
  }
}

static void load_flips(qnet_nest *n, const qnet_tile_at *at, qnet_value **flip) {
  const pool *p = n->root_data;
  qnet_value *channel = qnet_lb_mul_index(n->lb, at->vector, n->lanes);
  for (int v = 0; v < at->vectors && p->flip; v++)
    flip[v] = qnet_lb_load(n->lb, qnet_lb_type(n->lb, QNET_I32, n->lanes), p->flip,
                           qnet_lb_add_index(n->lb, channel, v * n->lanes), NULL, NULL);
}

/* Sum times f32(1 / number of real positions). */
static void average(qnet_nest *n, const bounds *h, const bounds *w, int vectors, qnet_value **acc) {
  const pool *p = n->root_data;
  qnet_lb *lb = n->lb;
  qnet_value *factor;
  if (p->reciprocal) {
    qnet_value *rows = qnet_lb_binary(lb, QNET_OP_LOOP_SUB, h->hi, h->lo);
    qnet_value *columns = qnet_lb_binary(lb, QNET_OP_LOOP_SUB, w->hi, w->lo);
    qnet_value *count = qnet_lb_binary(lb, QNET_OP_LOOP_MUL, rows, columns);
    factor = qnet_lb_load(lb, qnet_lb_type(lb, QNET_F32, 1), p->reciprocal, count, NULL, NULL);
    factor = qnet_lb_splat(lb, factor, n->lanes);
  } else {
    const float f = 1.0f / (float)(p->window.kernel_h * p->window.kernel_w);
    factor = qnet_lb_float(lb, qnet_lb_type(lb, QNET_F32, n->lanes), (double)f);
  }
  for (int v = 0; v < vectors; v++)
    acc[v] = qnet_lb_binary(lb, QNET_OP_LOOP_FMUL, acc[v], factor);
}

static void join_window(qnet_nest *n, const qnet_tile_at *at, const bounds *h, const bounds *w,
                        qnet_value *const *flip, qnet_value **acc) {
  const pool *p = n->root_data;
  qnet_lb *lb = n->lb;
  const int64_t positions = p->window.kernel_h * p->window.kernel_w;
  if (!is_padded(&p->window) && positions <= UNROLLED_POSITIONS) {
    for (int64_t i = 0; i < positions; i++)
      join_position(n, at, qnet_lb_index(lb, i / p->window.kernel_w),
                    qnet_lb_index(lb, i % p->window.kernel_w), flip, acc);
    return;
  }
  qnet_lb_loop rows = qnet_lb_for(lb, h->lo, h->hi, 1, acc, at->vectors);
  qnet_lb_loop columns = qnet_lb_for(lb, w->lo, w->hi, 1, acc, at->vectors);
  join_position(n, at, rows.index, columns.index, flip, acc);
  qnet_lb_end(lb, &columns, acc);
  qnet_lb_end(lb, &rows, acc);
}

static qnet_status emit_pool(qnet_nest *n, const qnet_tile_at *at, qnet_value **reg) {
  const pool *p = n->root_data;
  const qnet_window *k = &p->window;
  qnet_lb *lb = n->lb;
  qnet_value **flip = qnet_arena_array(&n->lw->scratch, (size_t)at->vectors, sizeof(qnet_value *));
  if (!flip) return qnet_out_of_memory(n->lw->d);
  load_flips(n, at, flip);
  const bounds h = real_positions(lb, at->y, k->kernel_h, k->stride_h, k->pad_top,
                                  k->pad_top || k->pad_bottom, p->in->h);
  const bounds w = real_positions(lb, at->x, k->kernel_w, k->stride_w, k->pad_left,
                                  k->pad_left || k->pad_right, p->in->w);
  for (int v = 0; v < at->vectors; v++)
    reg[v] = first_value(lb, p, n->lanes);
  join_window(n, at, &h, &w, flip, reg);
  for (int v = 0; v < at->vectors && p->flip; v++)
    reg[v] = qnet_lb_binary(lb, QNET_OP_LOOP_XOR, reg[v], flip[v]);
  if (is_average(p)) average(n, &h, &w, at->vectors, reg);
  return QNET_OK;
}

/* ---- kernels --------------------------------------------------------------------------------- */

qnet_status qnet_lower_pool(qnet_lower *lw, const qnet_op *kernel) {
  const qnet_op *op = qnet_kernel_root(kernel);
  pool p = {.op = op, .in = qnet_layout_of(lw, kernel, op->operand[0])};
  if (op->opcode == QNET_OP_GLOBAL_AVG_POOL) {
    p.window = (qnet_window){.kernel_h = p.in->h,
                             .kernel_w = p.in->w,
                             .stride_h = 1,
                             .stride_w = 1,
                             .dilation_h = 1,
                             .dilation_w = 1};
  } else {
    p.window = qnet_op_window(op);
  }
  QNET_TRY(prepare_flip(lw, kernel, &p));
  QNET_TRY(prepare_reciprocal(lw, &p));
  qnet_nest n = {.lw = lw,
                 .lb = &lw->lb,
                 .kernel = kernel,
                 .root = op,
                 .root_data = &p,
                 .emit_root = emit_pool};
  qnet_type_hwc(op->result[0].type, &n.h, &n.w, &n.c);
  qnet_nest_fit_simple(&n);
  return qnet_nest_run(&n);
}

qnet_status qnet_lower_elementwise(qnet_lower *lw, const qnet_op *kernel) {
  qnet_nest n = {.lw = lw, .lb = &lw->lb, .kernel = kernel};
  qnet_type_hwc(kernel->result[0].type, &n.h, &n.w, &n.c);
  qnet_nest_fit_simple(&n);
  return qnet_nest_run(&n);
}
