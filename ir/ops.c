/* The operation tables and what follows from them. */
#include "ir/ops.h"
#include <string.h>

static const qnet_op_def defs[QNET_OP_COUNT] = {
#define QNET_OP(dialect, NAME, ...) [QNET_OP_##NAME] = {QNET_DIALECT_##dialect, __VA_ARGS__},
/* In the order of the levels. */
/* clang-format off */
#include "ir/ops_core.def"
#include "ir/ops_nn.def"
#include "ir/ops_quant.def"
#include "ir/ops_bits.def"
#include "ir/ops_loop.def"
/* clang-format on */
#undef QNET_OP
};

const qnet_op_def *qnet_op_def_of(int opcode) {
  return &defs[opcode];
}

int qnet_opcode_find(const char *name) {
  for (int i = 0; i < QNET_OP_COUNT; i++)
    if (strcmp(defs[i].name, name) == 0) return i;
  return -1;
}

bool qnet_op_legal_at(int opcode, qnet_level level) {
  switch (defs[opcode].dialect) {
  case QNET_DIALECT_core: return true;
  case QNET_DIALECT_nn: return level != QNET_LEVEL_LOOP;
  case QNET_DIALECT_quant: return level == QNET_LEVEL_QUANT || level == QNET_LEVEL_BITS;
  case QNET_DIALECT_bits: return level == QNET_LEVEL_BITS;
  case QNET_DIALECT_loop: return level == QNET_LEVEL_LOOP;
  }
  return false;
}

static void print_count(qnet_strbuf *out, int min, int max) {
  if (max == QNET_MANY)
    qnet_strbuf_printf(out, "%d..", min);
  else if (min == max)
    qnet_strbuf_printf(out, "%d", min);
  else
    qnet_strbuf_printf(out, "%d..%d", min, max);
}

void qnet_ops_print(qnet_strbuf *out) {
  for (int i = 0; i < QNET_OP_COUNT; i++) {
    const qnet_op_def *d = &defs[i];
    qnet_strbuf_printf(out, "%s (", d->name);
    print_count(out, d->operands_min, d->operands_max);
    qnet_strbuf_puts(out, ") -> ");
    print_count(out, d->results == QNET_MANY ? 0 : d->results, d->results);
    if (d->regions > 0) qnet_strbuf_puts(out, ", region");
    if (d->attrs[0]) qnet_strbuf_printf(out, " {%s}", d->attrs);
    qnet_strbuf_printf(out, ": %s\n", d->doc);
  }
}

/* ---- windows --------------------------------------------------------------------------------- */

/* Element `index` of an integer list, or `otherwise` when the list is missing or short. */
static int64_t list_int(const qnet_op *op, const char *name, int index, int64_t otherwise) {
  const qnet_attr *a = qnet_op_attr(op, name);
  return a && a->kind == QNET_ATTR_INTS && index < a->count ? a->ints[index] : otherwise;
}

/* Type of the O,KH,KW,I weight of a convolution, also of its gradients; NULL for others. */
static const qnet_type *weight_type(const qnet_op *op) {
  if (op->opcode == QNET_OP_CONV2D_GRAD_WEIGHT)
    return op->result_count > 0 ? op->result[0].type : NULL;
  return op->operand_count > 1 && op->operand[1] ? op->operand[1]->type : NULL;
}

qnet_window qnet_op_window(const qnet_op *op) {
  qnet_window w = {
      .kernel_h = list_int(op, "kernel", 0, 1),
      .kernel_w = list_int(op, "kernel", 1, 1),
      .stride_h = list_int(op, "stride", 0, 1),
      .stride_w = list_int(op, "stride", 1, 1),
      .pad_top = list_int(op, "pad", 0, 0),
      .pad_left = list_int(op, "pad", 1, 0),
      .pad_bottom = list_int(op, "pad", 2, 0),
      .pad_right = list_int(op, "pad", 3, 0),
      .dilation_h = list_int(op, "dilation", 0, 1),
      .dilation_w = list_int(op, "dilation", 1, 1),
  };
  if (qnet_op_attr(op, "kernel")) return w;
  const qnet_type *weight = weight_type(op);
  if (!weight || weight->rank < 3) return w;
  w.kernel_h = weight->dim[1];
  w.kernel_w = weight->dim[2];
  return w;
}

qnet_lattice qnet_op_lattice(const qnet_op *op) {
  qnet_lattice l;
  for (int i = 0; i < 3; i++) {
    l.begin[i] = list_int(op, "begin", i, 0);
    l.stride[i] = list_int(op, "stride", i, 1);
  }
  return l;
}

void qnet_op_set_lattice(qnet_module *m, qnet_op *op, const qnet_lattice *l) {
  qnet_op_set_ints(m, op, "begin", l->begin, 3);
  qnet_op_set_ints(m, op, "stride", l->stride, 3);
}

/* In 128 bits, so that no attribute overflows; 0 when the window does not fit. */
static int64_t out_size(int64_t in, int64_t before, int64_t after, int64_t kernel, int64_t stride,
                        int64_t dilation) {
  if (stride < 1) return 0;
  const __int128 span = (__int128)in + before + after - (__int128)dilation * (kernel - 1) - 1;
  if (span < 0) return 0;
  const __int128 out = span / stride + 1;
  return out > INT64_MAX ? INT64_MAX : (int64_t)out;
}

int64_t qnet_window_out_h(const qnet_window *w, int64_t in_h) {
  return out_size(in_h, w->pad_top, w->pad_bottom, w->kernel_h, w->stride_h, w->dilation_h);
}

int64_t qnet_window_out_w(const qnet_window *w, int64_t in_w) {
  return out_size(in_w, w->pad_left, w->pad_right, w->kernel_w, w->stride_w, w->dilation_w);
}

/* ---- attribute schemas ----------------------------------------------------------------------- */

static const char *const kind_names[] = {
    [QNET_ATTR_INT] = "int",       [QNET_ATTR_FLOAT] = "float", [QNET_ATTR_STRING] = "string",
    [QNET_ATTR_SYMBOL] = "symbol", [QNET_ATTR_INTS] = "ints",   [QNET_ATTR_FLOATS] = "floats",
};

const char *qnet_attr_kind_name(qnet_attr_kind kind) {
  return kind_names[kind];
}

static qnet_attr_kind kind_of(const char *text, size_t length) {
  for (int k = 0; k <= QNET_ATTR_FLOATS; k++)
    if (strlen(kind_names[k]) == length && memcmp(kind_names[k], text, length) == 0)
      return (qnet_attr_kind)k;
  return QNET_ATTR_INT;
}

const char *qnet_attr_spec_next(const char *schema, qnet_attr_spec *out) {
  schema += strspn(schema, " ");
  const size_t name = strcspn(schema, ":");
  if (schema[name] == '\0' || name >= sizeof out->name) return NULL;
  memcpy(out->name, schema, name);
  out->name[name] = '\0';
  const char *kind = schema + name + 1;
  const size_t length = strcspn(kind, "? ");
  out->kind = kind_of(kind, length);
  out->optional = kind[length] == '?';
  return kind + length + out->optional;
}
