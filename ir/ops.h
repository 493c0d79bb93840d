/* The operation tables. One row of ir/ops_<level>.def is one operation: enum, name, parser,
 * printer, verifier, interpreter and documentation come from it. docs/howto-add.md tells the way of
 * a new operation. */
#ifndef QNET_IR_OPS_H
#define QNET_IR_OPS_H

#include "ir/ir.h"
#include "support/strbuf.h"

typedef enum {
#define QNET_OP(dialect, NAME, ...) QNET_OP_##NAME,
/* In the order of the levels. */
/* clang-format off */
#include "ir/ops_core.def"
#include "ir/ops_nn.def"
#include "ir/ops_quant.def"
#include "ir/ops_bits.def"
#include "ir/ops_loop.def"
/* clang-format on */
#undef QNET_OP
  QNET_OP_COUNT
} qnet_opcode;

/* Traits, or-ed. */
enum {
  QNET_PURE = 1,        /* no effect but its results: may be erased when unused */
  QNET_ELEMENTWISE = 2, /* result element i depends on element i of the operands (and on channel) */
  QNET_TERMINATOR = 4,
  QNET_TRAINING = 8, /* only in @step */
};

enum { QNET_MANY = -1 };

typedef enum {
  QNET_DIALECT_core,
  QNET_DIALECT_nn,
  QNET_DIALECT_quant,
  QNET_DIALECT_bits,
  QNET_DIALECT_loop
} qnet_dialect;

typedef struct qnet_op_def {
  qnet_dialect dialect;
  const char *name;               /* "nn.conv2d"; core operations have no prefix */
  int operands_min, operands_max; /* QNET_MANY = any number */
  int results;                    /* QNET_MANY = any number */
  int regions;
  unsigned traits;
  const char *attrs; /* "stride:ints bias:int? sym:symbol": name:kind, '?' = optional */
  const char *doc;
} qnet_op_def;

const qnet_op_def *qnet_op_def_of(int opcode);
/* -1 when there is none of that name. */
int qnet_opcode_find(const char *name);
/* May the operation stand at that level? nn operations stay legal at quant and bits; core
 * operations everywhere; at loop only core and loop operations. */
bool qnet_op_legal_at(int opcode, qnet_level level);
/* One attribute of an operation's `attrs`. */
typedef struct qnet_attr_spec {
  char name[32];
  qnet_attr_kind kind;
  bool optional;
} qnet_attr_spec;
/* Decodes the first attribute of a schema "stride:ints dilation:ints?"; returns what is behind it,
 * or NULL when the schema is empty. */
const char *qnet_attr_spec_next(const char *schema, qnet_attr_spec *out);
/* "ints", ... */
const char *qnet_attr_kind_name(qnet_attr_kind kind);
/* The reference of all operations, one line each. */
void qnet_ops_print(qnet_strbuf *out);

/* Spatial geometry of a window operation, decoded from its attributes stride, pad (top, left,
 * bottom, right), dilation (absent = 1). */
typedef struct qnet_window {
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, pad_bottom, pad_right,
      dilation_h, dilation_w;
} qnet_window;
/* kernel: from attribute `kernel` or, for convolutions, from the weight operand's type. */
qnet_window qnet_op_window(const qnet_op *op);

/* Where nn.slice and nn.pad find element i of the small tensor in the large one: begin + stride i
 * in each of the dimensions h, w, c. */
typedef struct qnet_lattice {
  int64_t begin[3], stride[3];
} qnet_lattice;
qnet_lattice qnet_op_lattice(const qnet_op *op);
/* Sets the attributes of the operation. */
void qnet_op_set_lattice(qnet_module *m, qnet_op *op, const qnet_lattice *l);
/* (size + pads - dilation * (kernel - 1) - 1) / stride + 1; < 1 when the window does not fit. */
int64_t qnet_window_out_h(const qnet_window *w, int64_t in_h);
int64_t qnet_window_out_w(const qnet_window *w, int64_t in_w);

#endif
