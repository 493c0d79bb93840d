/* Layouts. Every buffer is [rows][pixels * step] ([planes] innermost for bit planes):
 *
 *   planes  step = ceil(C / word_bits) words; channel c is bit c % word_bits of word c / word_bits;
 *           the planes of a word lie side by side, so that one reduction step reads neighbours and
 *           the taps of a window row are one run of words
 *   f32,i32 step = C, or C padded to the lanes when some kernel works on vectors of channels
 *   codes   (5..8 bits) are kept as their int8 levels, step = C
 *
 * A value that a padded window reads has a border as large as the largest padding of its consumers.
 * It holds zeros, which is what padded taps read: level 0, no bits, +0. */
#include "passes/loop/lower.h"

void qnet_type_hwc(const qnet_type *type, int64_t *h, int64_t *w, int64_t *c) {
  const bool image = type->rank == 4;
  *h = image ? type->dim[1] : 1;
  *w = image ? type->dim[2] : 1;
  *c = type->rank > 0 ? type->dim[type->rank - 1] : 1;
}

const qnet_value *qnet_kernel_outside(const qnet_op *kernel, const qnet_value *v) {
  return v->region == kernel->region[0] ? kernel->operand[v->index] : v;
}

qnet_layout *qnet_layout_of(const qnet_lower *lw, const qnet_op *kernel, const qnet_value *v) {
  return &lw->layout[qnet_kernel_outside(kernel, v)->id];
}

const qnet_op *qnet_kernel_root(const qnet_op *kernel) {
  const qnet_op *op = kernel->region[0]->first;
  switch (op ? op->opcode : QNET_OP_YIELD) {
  case QNET_OP_BITS_CONV2D:
  case QNET_OP_QUANT_CONV2D:
  case QNET_OP_QUANT_DENSE:
  case QNET_OP_CONV2D:
  case QNET_OP_DENSE:
  case QNET_OP_BITS_PATCH_SUM:
  case QNET_OP_MAX_POOL2D:
  case QNET_OP_AVG_POOL2D:
  case QNET_OP_GLOBAL_AVG_POOL:
  case QNET_OP_QUANT_MAX_POOL2D:
  case QNET_OP_SLICE:
  case QNET_OP_PAD:
  case QNET_OP_FLATTEN: return op;
  default: return NULL;
  }
}

bool qnet_root_is_conv(const qnet_op *root) {
  if (!root) return false;
  switch (root->opcode) {
  case QNET_OP_BITS_CONV2D:
  case QNET_OP_QUANT_CONV2D:
  case QNET_OP_QUANT_DENSE:
  case QNET_OP_CONV2D:
  case QNET_OP_DENSE: return true;
  default: return false;
  }
}

/* ---- deciding -------------------------------------------------------------------------------- */

static qnet_status init_layout(qnet_lower *lw, const qnet_value *v, qnet_loc loc) {
  const qnet_type *t = v->type;
  if (t->rank > 0 && t->dim[0] != 1)
    return qnet_error(lw->d, loc, "lower-to-loop works on one image: the batch is %lld, not 1",
                      (long long)t->dim[0]);
  if (t->rank != 4 && t->rank != 2)
    return qnet_error(lw->d, loc, "lower-to-loop needs N,H,W,C or N,C values, not rank %d",
                      t->rank);
  qnet_layout *l = &lw->layout[v->id];
  *l = (qnet_layout){.type = t, .dtype = t->dtype};
  qnet_type_hwc(t, &l->h, &l->w, &l->c);
  l->step = l->c;
  if (t->kind == QNET_TYPE_PLANES) {
    const int64_t bits = lw->machine->word_bits;
    l->dtype = bits == 64 ? QNET_I64 : QNET_I32;
    l->planes = t->bits;
    l->step = (l->c + bits - 1) / bits;
  } else if (t->dtype == QNET_CODE) {
    l->dtype = QNET_I8;
  } else {
    l->by_lanes = t->dtype != QNET_U8 && v->def && 2 * l->c >= lw->pad;
  }
  return QNET_OK;
}

static int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

static void require_border(qnet_layout *l, const qnet_window *w) {
  l->top = larger(l->top, w->pad_top);
  l->left = larger(l->left, w->pad_left);
  l->bottom = larger(l->bottom, w->pad_bottom);
  l->right = larger(l->right, w->pad_right);
  l->border = l->top || l->left || l->bottom || l->right;
}

/* The f32 and i32 values that a convolution's epilogue reads and writes are vectors. */
static void require_lanes(qnet_lower *lw, const qnet_op *kernel) {
  for (int r = 0; r < kernel->result_count; r++) {
    qnet_layout *l = &lw->layout[kernel->result[r].id];
    l->by_lanes = l->dtype == QNET_F32 || (l->dtype == QNET_I32 && !l->planes);
  }
  const qnet_op *root = kernel->region[0]->first;
  for (const qnet_op *op = root->next; op; op = op->next) {
    if (op->opcode != QNET_OP_ADD) continue;
    for (int i = 0; i < 2; i++)
      qnet_layout_of(lw, kernel, op->operand[i])->by_lanes = true;
  }
}

/* Convolutions index their input themselves; an argument of the function is copied for them. */
static void consider_input(qnet_lower *lw, const qnet_op *kernel, const qnet_op *root) {
  qnet_layout *l = qnet_layout_of(lw, kernel, root->operand[0]);
  const qnet_window w = qnet_conv_window(root);
  require_border(l, &w);
  l->raw = false;
}

static void consider_kernel(qnet_lower *lw, const qnet_op *kernel) {
  const qnet_op *root = qnet_kernel_root(kernel);
  if (!root) return;
  if (qnet_root_is_conv(root)) require_lanes(lw, kernel);
  if (qnet_root_is_conv(root) || root->opcode == QNET_OP_BITS_PATCH_SUM) {
    consider_input(lw, kernel, root);
  }
  if (root->opcode == QNET_OP_BITS_PATCH_SUM) { /* rows are written by vectors of pixels */
    qnet_layout *l = &lw->layout[kernel->result[0].id];
    const int64_t lanes = lw->machine->f32_lanes;
    l->right = (l->w + lanes - 1) / lanes * lanes - l->w;
    l->by_lanes = false;
  }
}

qnet_status qnet_layout_decide(qnet_lower *lw) {
  const qnet_region *body = lw->body;
  for (int a = 0; a < body->arg_count; a++) {
    QNET_TRY(init_layout(lw, &body->arg[a], QNET_NO_LOC));
    lw->layout[body->arg[a].id].raw = true;
  }
  for (const qnet_op *op = body->first; op; op = op->next) {
    if (op->opcode != QNET_OP_BITS_KERNEL) continue;
    for (int r = 0; r < op->result_count; r++)
      QNET_TRY(init_layout(lw, &op->result[r], op->loc));
  }
  for (const qnet_op *op = body->first; op; op = op->next)
    if (op->opcode == QNET_OP_BITS_KERNEL) consider_kernel(lw, op);
  for (int i = 0; i < lw->values; i++) {
    qnet_layout *l = &lw->layout[i];
    if (!l->by_lanes) continue;
    l->raw = false;
    l->step = (l->c + lw->pad - 1) / lw->pad * lw->pad;
  }
  return QNET_OK;
}

/* ---- using ----------------------------------------------------------------------------------- */

static const qnet_type *buffer_type(qnet_lower *lw, const qnet_layout *l) {
  const int64_t dim[] = {l->top + l->h + l->bottom, (l->left + l->w + l->right) * l->step,
                         l->planes};
  return qnet_type_buffer(lw->m, l->dtype, l->planes ? 3 : 2, dim);
}

void qnet_layout_allocate(qnet_lower *lw, qnet_layout *l) {
  qnet_lb *lb = &lw->lb;
  l->buffer = qnet_build1(&lb->at, QNET_OP_LOOP_ALLOC, NULL, 0, buffer_type(lw, l));
  if (l->border) qnet_build(&lb->at, QNET_OP_LOOP_ZERO, &l->buffer, 1, NULL, 0);
}

qnet_value *qnet_layout_row(qnet_lower *lw, const qnet_layout *l, qnet_value *y) {
  return qnet_lb_add_index(&lw->lb, y, l->top);
}

int64_t qnet_layout_column(const qnet_layout *l, int64_t x) {
  return (l->left + x) * l->step;
}

/* Row, column in it; of raw buffers the dimensions as they are. */
static void position(qnet_lower *lw, const qnet_layout *l, qnet_value **y, qnet_value **x,
                     int64_t m, qnet_value **c, int64_t v) {
  qnet_lb *lb = &lw->lb;
  qnet_value *channel = qnet_lb_add_index(lb, *c, v);
  if (!l->raw) {
    qnet_value *column = qnet_lb_add(lb, qnet_lb_mul_index(lb, *x, l->step), *c);
    *y = qnet_layout_row(lw, l, *y);
    *x = qnet_lb_add_index(lb, column, qnet_layout_column(l, m) + v);
  } else if (l->buffer->type->rank == 1) {
    *y = channel;
  } else {
    *x = qnet_lb_add_index(lb, *x, m);
    *c = channel;
  }
}

qnet_value *qnet_layout_load(qnet_lower *lw, const qnet_layout *l, int64_t lanes, qnet_value *y,
                             qnet_value *x, int64_t m, qnet_value *c, int64_t v) {
  if (!l->buffer) return NULL;
  position(lw, l, &y, &x, m, &c, v);
  return qnet_lb_load(&lw->lb, qnet_lb_type(&lw->lb, l->dtype, lanes), l->buffer, y, x, c);
}

void qnet_layout_store(qnet_lower *lw, const qnet_layout *l, qnet_value *value, qnet_value *y,
                       qnet_value *x, int64_t m, qnet_value *c, int64_t v) {
  if (!l->buffer) return;
  position(lw, l, &y, &x, m, &c, v);
  qnet_lb_store(&lw->lb, value, l->buffer, y, x, c);
}
