/* bits.patch_sum: the weighted popcount of each pixel once, then sums of these over windows, by
 * vectors of pixels. This is a few percent of the convolution that uses it. The border of the
 * planes is summed like the rest: its bits are 0. */
#include "passes/loop/lower.h"

enum { UNROLLED_WORDS = 16, UNROLLED_TAPS = 9 };

typedef struct patch {
  const qnet_op *op;
  const qnet_layout *in, *out;
  qnet_window window;
  qnet_value *sums; /* buf<rows x columns>: i32 of each pixel of the bordered planes */
  int64_t rows, columns;
} patch;

/* ---- pixels ---------------------------------------------------------------------------------- */

/* Popcount of plane j at a pixel (column of its first word). */
static qnet_value *plane_count(qnet_lb *lb, const patch *p, qnet_value *y, qnet_value *column,
                               int j) {
  const qnet_type *type = qnet_lb_type(lb, p->in->dtype, 1);
  qnet_value *count = qnet_lb_int(lb, type, 0);
  const bool unroll = p->in->step * p->in->planes <= UNROLLED_WORDS;
  const int64_t trips = unroll ? 1 : p->in->step, words = p->in->step / trips;
  qnet_lb_loop loop = qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, trips), 1, &count, 1);
  for (int64_t w = 0; w < words; w++) {
    qnet_value *at = qnet_lb_add_index(lb, qnet_lb_add(lb, column, loop.index), w);
    qnet_value *x = qnet_lb_load(lb, type, p->in->buffer, y, at, qnet_lb_index(lb, j));
    count = qnet_lb_add(lb, count, qnet_lb_unary(lb, QNET_OP_LOOP_POPCNT, x, type));
  }
  qnet_lb_end(lb, &loop, &count);
  return qnet_lb_cast(lb, "trunc", QNET_I32, count);
}

static void sum_pixels(qnet_lower *lw, const patch *p) {
  qnet_lb *lb = &lw->lb;
  const qnet_attr *coef = qnet_op_attr(p->op, "coef");
  const qnet_type *i32 = qnet_lb_type(lb, QNET_I32, 1);
  const int64_t width = p->in->left + p->in->w + p->in->right;
  qnet_value *y = qnet_lb_parallel(lb, 0, p->rows);
  qnet_lb_loop loop = qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, width), 1, NULL, 0);
  qnet_value *column = qnet_lb_mul_index(lb, loop.index, p->in->step);
  qnet_value *sum = qnet_lb_int(lb, i32, 0);
  for (int j = 0; j < p->in->planes; j++) {
    qnet_value *count = plane_count(lb, p, y, column, j);
    if (coef->ints[j] != 1)
      count = qnet_lb_binary(lb, QNET_OP_LOOP_MUL, count, qnet_lb_int(lb, i32, coef->ints[j]));
    sum = j == 0 ? count : qnet_lb_add(lb, sum, count);
  }
  qnet_lb_store(lb, sum, p->sums, y, loop.index, NULL);
  qnet_lb_end(lb, &loop, NULL);
  qnet_lb_end_parallel(lb);
}

/* ---- windows --------------------------------------------------------------------------------- */

static qnet_value *tap(qnet_lb *lb, const patch *p, qnet_value *row, qnet_value *column,
                       qnet_value *kh, qnet_value *kw, const qnet_type *type) {
  qnet_value *y = qnet_lb_add(lb, row, qnet_lb_mul_index(lb, kh, p->window.dilation_h));
  qnet_value *x = qnet_lb_add(lb, column, qnet_lb_mul_index(lb, kw, p->window.dilation_w));
  return qnet_lb_load(lb, type, p->sums, y, x, NULL);
}

static qnet_value *window_sum(qnet_lb *lb, const patch *p, qnet_value *y, qnet_value *x,
                              const qnet_type *type) {
  const qnet_window *w = &p->window;
  qnet_value *row =
      qnet_lb_add_index(lb, qnet_lb_mul_index(lb, y, w->stride_h), p->in->top - w->pad_top);
  qnet_value *column =
      qnet_lb_add_index(lb, qnet_lb_mul_index(lb, x, w->stride_w), p->in->left - w->pad_left);
  qnet_value *sum = NULL;
  if (w->kernel_h * w->kernel_w <= UNROLLED_TAPS) {
    for (int64_t i = 0; i < w->kernel_h * w->kernel_w; i++) {
      qnet_value *t = tap(lb, p, row, column, qnet_lb_index(lb, i / w->kernel_w),
                          qnet_lb_index(lb, i % w->kernel_w), type);
      sum = i == 0 ? t : qnet_lb_add(lb, sum, t);
    }
    return sum;
  }
  sum = qnet_lb_int(lb, type, 0);
  qnet_value *zero = qnet_lb_index(lb, 0);
  qnet_lb_loop rows = qnet_lb_for(lb, zero, qnet_lb_index(lb, w->kernel_h), 1, &sum, 1);
  qnet_lb_loop columns = qnet_lb_for(lb, zero, qnet_lb_index(lb, w->kernel_w), 1, &sum, 1);
  sum = qnet_lb_add(lb, sum, tap(lb, p, row, column, rows.index, columns.index, type));
  qnet_lb_end(lb, &columns, &sum);
  qnet_lb_end(lb, &rows, &sum);
  return sum;
}

static void sum_windows(qnet_lower *lw, const patch *p) {
  qnet_lb *lb = &lw->lb;
  const int64_t lanes = p->window.stride_w == 1 && p->out->w > 1 ? lw->machine->f32_lanes : 1;
  const qnet_type *type = qnet_lb_type(lb, QNET_I32, lanes);
  qnet_value *y = qnet_lb_parallel(lb, 0, p->out->h);
  qnet_lb_loop loop =
      qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, p->out->w), lanes, NULL, 0);
  qnet_value *sum = window_sum(lb, p, y, loop.index, type);
  qnet_lb_store(lb, sum, p->out->buffer, y, loop.index, NULL);
  qnet_lb_end(lb, &loop, NULL);
  qnet_lb_end_parallel(lb);
}

qnet_status qnet_lower_patch_sum(qnet_lower *lw, const qnet_op *kernel) {
  const qnet_op *op = qnet_kernel_root(kernel);
  qnet_layout *out = &lw->layout[kernel->result[0].id];
  if (op->next != kernel->region[0]->last || kernel->result_count != 1)
    return qnet_error(lw->d, op->loc, "lower-to-loop: bits.patch_sum must be a kernel of its own");
  patch p = {.op = op,
             .in = qnet_layout_of(lw, kernel, op->operand[0]),
             .out = out,
             .window = qnet_op_window(op)};
  p.rows = p.in->top + p.in->h + p.in->bottom;
  /* The last vector of a row may reach behind its pixels. */
  p.columns = p.in->left + p.in->w + p.in->right + lw->machine->f32_lanes;
  const int64_t dim[] = {p.rows, p.columns};
  const qnet_type *type = qnet_type_buffer(lw->m, QNET_I32, 2, dim);
  p.sums = qnet_build1(&lw->lb.at, QNET_OP_LOOP_ALLOC, NULL, 0, type);
  qnet_layout_allocate(lw, out);
  sum_pixels(lw, &p);
  sum_windows(lw, &p);
  return QNET_OK;
}
