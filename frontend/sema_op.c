/* Built-in operations: their table, and those without weights. A new operation is a row here and a
 * builder. */
#include "frontend/sema.h"

#include <string.h>

/* ---- building -------------------------------------------------------------------------------- */

bool qnet_sema_fits(qnet_sema *s, qnet_loc loc, const char *what, int rank, const int64_t *dim) {
  int64_t elements = 1;
  bool fits = true;
  for (int i = 0; i < rank && fits; i++) {
    fits = dim[i] >= 1 && dim[i] <= QNET_SEMA_DIM;
    if (fits) elements *= dim[i];
    fits = fits && elements <= QNET_SEMA_ELEMENTS;
  }
  if (!fits)
    qnet_sema_error(s, loc, "%s is too large: at most %d a dimension and %d elements", what,
                    QNET_SEMA_DIM, QNET_SEMA_ELEMENTS);
  return fits;
}

qnet_value *qnet_sema_build(qnet_sema *s, qnet_loc loc, int opcode, qnet_value *const *operands,
                            int operand_count, int rank, const int64_t *dim) {
  if (!qnet_sema_fits(s, loc, "the result", rank, dim)) return NULL;
  if (++s->ops > QNET_SEMA_OPS) {
    qnet_sema_limit(s, loc, "the net has more than %d operations", QNET_SEMA_OPS);
    return NULL;
  }
  s->builder.loc = loc;
  const qnet_type *type = qnet_type_tensor(s->module, QNET_F32, rank, dim);
  qnet_value *v = qnet_build1(&s->builder, opcode, operands, operand_count, type);
  if (!v) qnet_sema_out_of_memory(s);
  return v;
}

static qnet_sema_value result(qnet_value *v) {
  return v ? qnet_sema_tensor(v) : QNET_POISON;
}

/* ---- padding --------------------------------------------------------------------------------- */

/* As much as makes the output ceil(size / stride); the odd one goes behind. */
static void same_padding(int64_t size, int64_t kernel, int64_t stride, int64_t dilation,
                         int64_t *before, int64_t *after) {
  const int64_t out = (size + stride - 1) / stride;
  int64_t total = (out - 1) * stride + dilation * (kernel - 1) + 1 - size;
  if (total < 0) total = 0;
  *before = total / 2;
  *after = total - total / 2;
}

static bool list_pad(qnet_sema *s, const qnet_sema_value *v, qnet_window *w) {
  int64_t *const side[4] = {&w->pad_top, &w->pad_left, &w->pad_bottom, &w->pad_right};
  for (int i = 0; i < 4; i++)
    if (!qnet_sema_to_int(s, &v->items[i], "'pad'", 0, QNET_SEMA_DIM, side[i])) return false;
  return true;
}

bool qnet_sema_to_pad(qnet_sema *s, const qnet_sema_value *v, bool allow_same, int64_t h,
                      int64_t width, qnet_window *w) {
  if (v->kind == QNET_KIND_LIST && v->count == 4) return list_pad(s, v, w);
  if (allow_same && v->kind == QNET_KIND_STRING && strcmp(v->s, "same") == 0) {
    same_padding(h, w->kernel_h, w->stride_h, w->dilation_h, &w->pad_top, &w->pad_bottom);
    same_padding(width, w->kernel_w, w->stride_w, w->dilation_w, &w->pad_left, &w->pad_right);
    return true;
  }
  if (v->kind == QNET_KIND_ABSENT || v->kind == QNET_KIND_INT) {
    int64_t pad = 0;
    if (!qnet_sema_to_int(s, v, "'pad'", 0, QNET_SEMA_DIM, &pad)) return false;
    w->pad_top = w->pad_left = w->pad_bottom = w->pad_right = pad;
    return true;
  }
  char is[QNET_SHAPE_TEXT];
  qnet_sema_describe(v, is);
  qnet_sema_error(s, v->loc, "'pad' must be an integer%s [top, left, bottom, right]%s, not %s",
                  allow_same ? "," : " or", allow_same ? " or \"same\"" : "", is);
  return false;
}

/* ---- pools ----------------------------------------------------------------------------------- */

/* Every window of a pool must see a real position. */
static bool check_pool_pad(qnet_sema *s, const qnet_sema_value *v, const qnet_window *w) {
  if (w->pad_top < w->kernel_h && w->pad_bottom < w->kernel_h && w->pad_left < w->kernel_w &&
      w->pad_right < w->kernel_w)
    return true;
  qnet_sema_error(s, v->loc, "'pad' must be smaller than the window %lldx%lld",
                  (long long)w->kernel_h, (long long)w->kernel_w);
  return false;
}

static bool pool_window(qnet_sema *s, const qnet_sema_value *slot, const qnet_type *x,
                        qnet_window *w) {
  int64_t kernel[2] = {1, 1}, stride[2];
  if (!qnet_sema_to_pair(s, &slot[1], "the window of a pool", 1, kernel)) return false;
  stride[0] = kernel[0];
  stride[1] = kernel[1];
  if (!qnet_sema_to_pair(s, &slot[2], "'stride'", 1, stride)) return false;
  *w = (qnet_window){.kernel_h = kernel[0],
                     .kernel_w = kernel[1],
                     .stride_h = stride[0],
                     .stride_w = stride[1],
                     .dilation_h = 1,
                     .dilation_w = 1};
  return qnet_sema_to_pad(s, &slot[3], false, x->dim[1], x->dim[2], w) &&
         check_pool_pad(s, &slot[3], w);
}

static qnet_sema_value pool(qnet_sema *s, const qnet_sema_call *call, const qnet_sema_value *slot,
                            int opcode) {
  qnet_value *x = NULL;
  qnet_window w;
  if (!qnet_sema_to_image(s, &slot[0], call->callee.text, &x)) return QNET_POISON;
  if (!pool_window(s, slot, x->type, &w)) return QNET_POISON;
  const int64_t dim[4] = {1, qnet_window_out_h(&w, x->type->dim[1]),
                          qnet_window_out_w(&w, x->type->dim[2]), x->type->dim[3]};
  if (dim[1] < 1 || dim[2] < 1) {
    char shape[QNET_SHAPE_TEXT];
    qnet_sema_shape(x, shape);
    if (qnet_sema_begin_error(s, call->loc, "a window %lldx%lld does not fit into %s",
                              (long long)w.kernel_h, (long long)w.kernel_w, shape)) {
      qnet_sema_note_value(s, &slot[0]);
      qnet_sema_end_error(s);
    }
    return QNET_POISON;
  }
  qnet_value *y = qnet_sema_build(s, call->loc, opcode, &x, 1, 4, dim);
  if (!y) return QNET_POISON;
  qnet_module *m = s->module;
  qnet_op_set_ints(m, y->def, "kernel", (const int64_t[]){w.kernel_h, w.kernel_w}, 2);
  qnet_op_set_ints(m, y->def, "stride", (const int64_t[]){w.stride_h, w.stride_w}, 2);
  qnet_op_set_ints(m, y->def, "pad",
                   (const int64_t[]){w.pad_top, w.pad_left, w.pad_bottom, w.pad_right}, 4);
  return qnet_sema_tensor(y);
}

static qnet_sema_value max_pool(qnet_sema *s, const qnet_sema_call *call,
                                const qnet_sema_value *slot) {
  return pool(s, call, slot, QNET_OP_MAX_POOL2D);
}

static qnet_sema_value avg_pool(qnet_sema *s, const qnet_sema_call *call,
                                const qnet_sema_value *slot) {
  return pool(s, call, slot, QNET_OP_AVG_POOL2D);
}

static qnet_sema_value global_avg_pool(qnet_sema *s, const qnet_sema_call *call,
                                       const qnet_sema_value *slot) {
  qnet_value *x = NULL;
  if (!qnet_sema_to_image(s, &slot[0], call->callee.text, &x)) return QNET_POISON;
  const int64_t dim[2] = {1, x->type->dim[3]};
  return result(qnet_sema_build(s, call->loc, QNET_OP_GLOBAL_AVG_POOL, &x, 1, 2, dim));
}

/* ---- the others ------------------------------------------------------------------------------ */

static qnet_sema_value flatten(qnet_sema *s, const qnet_sema_call *call,
                               const qnet_sema_value *slot) {
  qnet_value *x = NULL;
  if (!qnet_sema_to_image(s, &slot[0], call->callee.text, &x)) return QNET_POISON;
  const int64_t *d = x->type->dim;
  const int64_t features = d[1] * d[2] * d[3];
  if (features > QNET_SEMA_DIM) {
    if (qnet_sema_begin_error(s, call->loc, "%lld features; at most %d", (long long)features,
                              QNET_SEMA_DIM)) {
      qnet_sema_note_value(s, &slot[0]);
      qnet_sema_end_error(s);
    }
    return QNET_POISON;
  }
  const int64_t dim[2] = {1, features};
  return result(qnet_sema_build(s, call->loc, QNET_OP_FLATTEN, &x, 1, 2, dim));
}

/* ---- slice, pad ------------------------------------------------------------------------------ */

/* Language order [C, H, W] to the module's h, w, c. */
static const int place_of_axis[3] = {2, 0, 1};

/* A list [C, H, W] of one integer an axis into out[h, w, c]; absent: out stays. */
static bool axis_list(qnet_sema *s, const qnet_sema_value *v, const char *what, const int64_t *low,
                      const int64_t *high, int64_t out[3]) {
  if (v->kind == QNET_KIND_ABSENT) return true;
  if (v->kind != QNET_KIND_LIST || v->count != 3) {
    char is[QNET_SHAPE_TEXT];
    qnet_sema_describe(v, is);
    qnet_sema_error(s, v->loc, "%s must be a list [channels, height, width], not %s", what, is);
    return false;
  }
  for (int i = 0; i < 3; i++) {
    const int at = place_of_axis[i];
    if (!qnet_sema_to_int(s, &v->items[i], what, low[at], high[at], &out[at])) return false;
  }
  return true;
}

static qnet_sema_value build_lattice(qnet_sema *s, const qnet_sema_call *call, int opcode,
                                     qnet_value *x, const int64_t size[3],
                                     const qnet_lattice *lattice) {
  const int64_t dim[4] = {1, size[0], size[1], size[2]};
  qnet_value *y = qnet_sema_build(s, call->loc, opcode, &x, 1, 4, dim);
  if (!y) return QNET_POISON;
  qnet_op_set_lattice(s->module, y->def, lattice);
  return qnet_sema_tensor(y);
}

static qnet_sema_value slice(qnet_sema *s, const qnet_sema_call *call,
                             const qnet_sema_value *slot) {
  qnet_value *x = NULL;
  if (!qnet_sema_to_image(s, &slot[0], call->callee.text, &x)) return QNET_POISON;
  const int64_t *in = x->type->dim + 1;
  static const int64_t zero[3] = {0, 0, 0}, one[3] = {1, 1, 1};
  const int64_t last[3] = {in[0] - 1, in[1] - 1, in[2] - 1};
  qnet_lattice l = {{0, 0, 0}, {1, 1, 1}};
  int64_t end[3] = {in[0], in[1], in[2]}, size[3];
  if (!axis_list(s, &slot[1], "'begin'", zero, last, l.begin)) return QNET_POISON;
  const int64_t least[3] = {l.begin[0] + 1, l.begin[1] + 1, l.begin[2] + 1};
  if (!axis_list(s, &slot[2], "'end'", least, in, end) ||
      !axis_list(s, &slot[3], "'step'", one, in, l.stride))
    return QNET_POISON;
  for (int i = 0; i < 3; i++)
    size[i] = (end[i] - l.begin[i] - 1) / l.stride[i] + 1;
  return build_lattice(s, call, QNET_OP_SLICE, x, size, &l);
}

static qnet_sema_value pad(qnet_sema *s, const qnet_sema_call *call, const qnet_sema_value *slot) {
  qnet_value *x = NULL;
  if (!qnet_sema_to_image(s, &slot[0], call->callee.text, &x)) return QNET_POISON;
  static const int64_t zero[3] = {0, 0, 0}, most[3] = {QNET_SEMA_DIM, QNET_SEMA_DIM, QNET_SEMA_DIM};
  qnet_lattice l = {{0, 0, 0}, {1, 1, 1}};
  int64_t after[3] = {0, 0, 0}, size[3];
  if (!axis_list(s, &slot[1], "'before'", zero, most, l.begin) ||
      !axis_list(s, &slot[2], "'after'", zero, most, after))
    return QNET_POISON;
  for (int i = 0; i < 3; i++)
    size[i] = l.begin[i] + x->type->dim[i + 1] + after[i];
  return build_lattice(s, call, QNET_OP_PAD, x, size, &l);
}

static qnet_sema_value relu(qnet_sema *s, const qnet_sema_call *call, const qnet_sema_value *slot) {
  qnet_value *x = NULL;
  if (!qnet_sema_to_tensor(s, &slot[0], call->callee.text, &x)) return QNET_POISON;
  return result(qnet_sema_build(s, call->loc, QNET_OP_RELU, &x, 1, x->type->rank, x->type->dim));
}

qnet_sema_value qnet_sema_add(qnet_sema *s, qnet_loc loc, const qnet_sema_value *x,
                              const qnet_sema_value *y) {
  qnet_value *operand[2];
  if (!qnet_sema_to_tensor(s, x, "add", &operand[0])) return QNET_POISON;
  if (!qnet_sema_to_tensor(s, y, "add", &operand[1])) return QNET_POISON;
  const qnet_type *a = operand[0]->type, *b = operand[1]->type;
  if (a->rank == b->rank && memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim) == 0)
    return result(qnet_sema_build(s, loc, QNET_OP_ADD, operand, 2, a->rank, a->dim));
  char left[QNET_SHAPE_TEXT], right[QNET_SHAPE_TEXT];
  qnet_sema_shape(operand[0], left);
  qnet_sema_shape(operand[1], right);
  if (qnet_sema_begin_error(s, loc, "cannot add %s and %s: the shapes differ", left, right)) {
    qnet_sema_note_value(s, x);
    qnet_sema_note_value(s, y);
    qnet_sema_end_error(s);
  }
  return QNET_POISON;
}

static qnet_sema_value add(qnet_sema *s, const qnet_sema_call *call, const qnet_sema_value *slot) {
  return qnet_sema_add(s, call->loc, &slot[0], &slot[1]);
}

/* ---- the table ------------------------------------------------------------------------------- */

#define X                                                                                          \
  { "x", QNET_PARAM_REQUIRED }
#define NEED(n)                                                                                    \
  { n, QNET_PARAM_REQUIRED }
#define MAY(n)                                                                                     \
  { n, QNET_PARAM_OPTIONAL }
#define NAME                                                                                       \
  { "name", QNET_PARAM_KEYWORD }
#define QUANTIZE                                                                                   \
  { "quantize", QNET_PARAM_KEYWORD }

static const qnet_sema_op operations[] = {
    {"conv",
     {X, NEED("ch"), NEED("kernel"), MAY("stride"), MAY("pad"), MAY("dilation"), MAY("bias"), NAME,
      QUANTIZE},
     qnet_sema_conv},
    {"dense", {X, NEED("n"), MAY("bias"), NAME, QUANTIZE}, qnet_sema_dense},
    {"bn", {X, MAY("eps"), NAME}, qnet_sema_bn},
    {"relu", {X}, relu},
    {"max_pool", {X, NEED("k"), MAY("stride"), MAY("pad")}, max_pool},
    {"avg_pool", {X, NEED("k"), MAY("stride"), MAY("pad")}, avg_pool},
    {"global_avg_pool", {X}, global_avg_pool},
    {"slice", {X, MAY("begin"), MAY("end"), MAY("step")}, slice},
    {"pad", {X, MAY("before"), MAY("after")}, pad},
    {"flatten", {X}, flatten},
    {"add", {X, NEED("y")}, add},
};

#undef X
#undef NEED
#undef MAY
#undef NAME
#undef QUANTIZE

enum { OPERATIONS = sizeof operations / sizeof *operations };

const qnet_sema_op *qnet_sema_op_find(const char *name) {
  for (int i = 0; i < OPERATIONS; i++)
    if (strcmp(operations[i].name, name) == 0) return &operations[i];
  return NULL;
}

const char *qnet_sema_op_nearest(const char *name) {
  const char *names[OPERATIONS];
  for (int i = 0; i < OPERATIONS; i++)
    names[i] = operations[i].name;
  return qnet_nearest(name, names, OPERATIONS);
}
