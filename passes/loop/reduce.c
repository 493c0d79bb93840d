/* Sums over the taps of a window: loops over kernel rows (and columns, when they are not one run of
 * memory), and a run of steps, unrolled so far that the loop's own work does not count.
 *
 * Counting forms with narrow accumulators add at most `limit` steps before they widen: all steps if
 * those are so few, else a run, else a part of a run. */
#include "passes/loop/lower.h"

enum { STEPS_FLAT = 40 }; /* most steps that are emitted without a loop for the sake of groups */

/* The shape of the reduction. */
typedef struct shape {
  int64_t columns;     /* trips of the loop over kernel columns */
  int64_t run;         /* steps in one run of memory */
  int64_t column_step; /* buffer elements between the runs of neighbouring kernel columns */
  int64_t total;
} shape;

static shape shape_of(const qnet_reduction *r) {
  const qnet_window *w = &r->window;
  const bool one_run = w->dilation_w == 1 && r->unit == r->in->step;
  return (shape){.columns = one_run ? 1 : w->kernel_w,
                 .run = one_run ? w->kernel_w * r->unit : r->unit,
                 .column_step = w->dilation_w * r->in->step,
                 .total = w->kernel_h * w->kernel_w * r->unit};
}

qnet_value *qnet_reduce_column(const qnet_reduction *r, const qnet_step *s, int pixel) {
  return qnet_lb_add_index(r->n->lb, s->column, pixel * r->window.stride_w * r->in->step);
}

/* Buffer row of the window's first tap, and the column of pixel 0. */
static qnet_step origin(const qnet_reduction *r) {
  qnet_lb *lb = r->n->lb;
  const qnet_window *w = &r->window;
  qnet_value *row = qnet_lb_mul_index(lb, r->at->y, w->stride_h);
  qnet_value *column = qnet_lb_mul_index(lb, r->at->x, w->stride_w * r->in->step);
  return (qnet_step){.row = qnet_lb_add_index(lb, row, r->in->top - w->pad_top),
                     .column =
                         qnet_lb_add_index(lb, column, (r->in->left - w->pad_left) * r->in->step),
                     .number = qnet_lb_index(lb, 0)};
}

static qnet_step advance(qnet_lb *lb, const qnet_step *s, qnet_value *by) {
  return (qnet_step){s->row, qnet_lb_add(lb, s->column, by), qnet_lb_add(lb, s->number, by)};
}

/* ---- runs ------------------------------------------------------------------------------------ */

/* Steps in an unrolled loop body. Few registers: more would only spill. */
static int64_t most_unrolled(const qnet_reduction *r) {
  const int64_t products = r->n->lw->machine->registers;
  return products / (r->products ? r->products : 1);
}

static int divisor_at_most(int64_t n, int64_t most) {
  for (int64_t d = most < n ? most : n; d > 1; d--)
    if (n % d == 0) return (int)d;
  return 1;
}

static void emit_steps(const qnet_reduction *r, const qnet_step *first, int count,
                       qnet_value **acc) {
  qnet_lb *lb = r->n->lb;
  qnet_step *steps = qnet_arena_array(lb->scratch, (size_t)count, sizeof *steps);
  if (!steps) {
    lb->m->failed = true;
    return;
  }
  for (int i = 0; i < count; i++)
    steps[i] = advance(lb, first, qnet_lb_index(lb, i));
  r->emit(r, steps, count, acc);
}

/* `length` neighbouring steps. */
static void emit_run(const qnet_reduction *r, const qnet_step *first, int64_t length,
                     qnet_value **acc) {
  qnet_lb *lb = r->n->lb;
  const int unroll =
      r->group > 1 && length >= r->group ? r->group : divisor_at_most(length, most_unrolled(r));
  const int64_t looped = length / unroll * unroll;
  qnet_lb_loop loop = qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, looped), unroll, acc,
                                  r->accumulators);
  const qnet_step s = advance(lb, first, loop.index);
  emit_steps(r, &s, unroll, acc);
  qnet_lb_end(lb, &loop, acc);
  if (looped == length) return;
  const qnet_step rest = advance(lb, first, qnet_lb_index(lb, looped));
  emit_steps(r, &rest, (int)(length - looped), acc);
}

/* ---- narrow accumulators --------------------------------------------------------------------- */

static qnet_value **open_narrow(const qnet_reduction *r) {
  qnet_lb *lb = r->n->lb;
  qnet_value **narrow =
      qnet_arena_array(lb->scratch, (size_t)r->accumulators, sizeof(qnet_value *));
  if (!narrow) lb->m->failed = true;
  for (int i = 0; narrow && i < r->accumulators; i++)
    narrow[i] = qnet_lb_int(lb, r->narrow, 0);
  return narrow;
}

static void close_narrow(const qnet_reduction *r, qnet_value **narrow, qnet_value **acc) {
  qnet_lb *lb = r->n->lb;
  for (int i = 0; i < r->accumulators; i++)
    acc[i] = qnet_lb_add(lb, acc[i], qnet_lb_unary(lb, QNET_OP_LOOP_WIDEN_SUM, narrow[i], r->wide));
}

/* A run in blocks that narrow accumulators can hold. */
static void emit_blocks(const qnet_reduction *r, const qnet_step *first, int64_t run,
                        qnet_value **acc) {
  qnet_lb *lb = r->n->lb;
  const int64_t blocks = (run + r->limit - 1) / r->limit;
  const int64_t length = (run + blocks - 1) / blocks, looped = run / length * length;
  qnet_lb_loop loop = qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, looped), length, acc,
                                  r->accumulators);
  const qnet_step s = advance(lb, first, loop.index);
  qnet_value **narrow = open_narrow(r);
  if (!narrow) return;
  emit_run(r, &s, length, narrow);
  close_narrow(r, narrow, acc);
  qnet_lb_end(lb, &loop, acc);
  if (looped == run) return;
  const qnet_step rest = advance(lb, first, qnet_lb_index(lb, looped));
  narrow = open_narrow(r);
  if (!narrow) return;
  emit_run(r, &rest, run - looped, narrow);
  close_narrow(r, narrow, acc);
}

/* ---- windows --------------------------------------------------------------------------------- */

static void row_bounds(const qnet_reduction *r, qnet_value **lo, qnet_value **hi) {
  qnet_lb *lb = r->n->lb;
  const qnet_window *w = &r->window;
  *lo = qnet_lb_index(lb, 0);
  *hi = qnet_lb_index(lb, w->kernel_h);
  const bool over = w->pad_top || w->pad_bottom;
  if (!r->skip_rows || !over || w->dilation_h != 1 || w->kernel_h == 1) return;
  /* Input row = y * stride - pad_top + kh, which is to be in 0..in->h. */
  qnet_value *y = qnet_lb_mul_index(lb, r->at->y, w->stride_h);
  qnet_value *above = qnet_lb_binary(lb, QNET_OP_LOOP_SUB, qnet_lb_index(lb, w->pad_top), y);
  *lo = qnet_lb_binary(lb, QNET_OP_LOOP_SMAX, above, *lo);
  *hi = qnet_lb_binary(lb, QNET_OP_LOOP_SMIN, qnet_lb_add_index(lb, above, r->in->h), *hi);
}

/* Loops over kernel rows and columns; blocks: each run widens its own narrow accumulators. */
static void emit_window(const qnet_reduction *r, const shape *s, bool blocks, qnet_value **acc) {
  qnet_lb *lb = r->n->lb;
  const qnet_step start = origin(r);
  qnet_value *lo, *hi;
  row_bounds(r, &lo, &hi);
  qnet_lb_loop rows = qnet_lb_for(lb, lo, hi, 1, acc, r->accumulators);
  qnet_value *down = qnet_lb_mul_index(lb, rows.index, r->window.dilation_h);
  qnet_step at = {.row = qnet_lb_add(lb, start.row, down), .column = start.column};
  at.number = qnet_lb_mul_index(lb, rows.index, s->columns * s->run);
  qnet_lb_loop columns =
      qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, s->columns), 1, acc, r->accumulators);
  at.column = qnet_lb_add(lb, at.column, qnet_lb_mul_index(lb, columns.index, s->column_step));
  at.number = qnet_lb_add(lb, at.number, qnet_lb_mul_index(lb, columns.index, s->run));
  if (blocks) {
    emit_blocks(r, &at, s->run, acc);
  } else {
    emit_run(r, &at, s->run, acc);
  }
  qnet_lb_end(lb, &columns, acc);
  qnet_lb_end(lb, &rows, acc);
}

/* Every step of the window in a row, in groups: where runs are shorter than a group. */
static void emit_flat(const qnet_reduction *r, const shape *s, qnet_value **acc) {
  qnet_lb *lb = r->n->lb;
  qnet_step *steps = qnet_arena_array(lb->scratch, (size_t)s->total, sizeof *steps);
  if (!steps) {
    lb->m->failed = true;
    return;
  }
  const qnet_step start = origin(r);
  for (int64_t i = 0; i < s->total; i++) {
    const int64_t t = i % s->run, column = i / s->run % s->columns, row = i / s->run / s->columns;
    steps[i].row = qnet_lb_add_index(lb, start.row, row * r->window.dilation_h);
    steps[i].column = qnet_lb_add_index(lb, start.column, column * s->column_step + t);
    steps[i].number = qnet_lb_index(lb, i);
  }
  for (int64_t i = 0; i < s->total; i += r->group) {
    const int64_t left = s->total - i;
    r->emit(r, &steps[i], (int)(left < r->group ? left : r->group), acc);
  }
}

void qnet_reduce(const qnet_reduction *r, qnet_value **acc) {
  const shape s = shape_of(r);
  if (r->group > 1 && s.run % r->group != 0 && s.total <= STEPS_FLAT) {
    emit_flat(r, &s, acc);
  } else if (r->limit && s.total <= r->limit) {
    qnet_value **narrow = open_narrow(r);
    if (!narrow) return;
    emit_window(r, &s, false, narrow);
    close_narrow(r, narrow, acc);
  } else {
    emit_window(r, &s, r->limit != 0, acc);
  }
}
