/* The loop interpreter's program: what interp_loop.c decodes and interp_loop_ops.c computes. */
#ifndef QNET_IR_INTERP_LOOP_H
#define QNET_IR_INTERP_LOOP_H

#include "ir/interp_internal.h"

typedef struct qnet_loop_instr qnet_loop_instr;

/* Runs one instruction and returns the next; NULL after it has reported an error. */
typedef const qnet_loop_instr *(*qnet_loop_fn)(const qnet_loop_instr *in, qnet_diag *d);

/* A decoded operation: its handler is made for the operand's width, its operands are the fixed
 * places of their values. */
struct qnet_loop_instr {
  qnet_loop_fn run;
  void *dst;
  const void *a, *b, *c;
  int64_t lanes, imm; /* imm: lane of extract, addends of widen_sum, bytes to copy */
  const qnet_op *op;
  const void *detail; /* of memory and loop instructions */
};

/* Chooses run, lanes and imm of an operation that only computes (arithmetic, comparisons, casts,
 * counting). Leaves run NULL when the operation does not exist for its types. */
void qnet_loop_choose(const qnet_op *op, qnet_loop_instr *in);

/* Lanes of a vector, 1 of a scalar. */
static inline int64_t qnet_loop_lanes(const qnet_type *type) {
  return type->kind == QNET_TYPE_VECTOR ? type->dim[0] : 1;
}
/* Bytes of a scalar or vector as the interpreter holds it: i1 takes one byte a lane. */
static inline size_t qnet_loop_bytes(const qnet_type *type) {
  return (size_t)qnet_loop_lanes(type) * (size_t)qnet_dtype_bytes(type->dtype);
}

#endif
