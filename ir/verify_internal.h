/* Private to the verifier. A rule checks what is special to one operation; it runs only after the
 * operation's counts, operands and attributes were found as its table row says. Every function that
 * returns bool returns false after it has reported why. */
#ifndef QNET_IR_VERIFY_INTERNAL_H
#define QNET_IR_VERIFY_INTERNAL_H

#include "ir/ops.h"
#include "ir/verify.h"

typedef struct qnet_verifier {
  const qnet_module *module;
  qnet_diag *diag;
  qnet_arena scratch;
  bool failed, no_memory;
  /* of the function at hand */
  const qnet_symbol *function;
  const qnet_value **values; /* by id: all that the function's operations and regions make */
  bool *defined;             /* by id: has the walk passed the definition? */
  int value_count;
} qnet_verifier;

typedef bool (*qnet_rule)(qnet_verifier *v, const qnet_op *op);
/* The rule of an operation, or NULL when the table row says all. */
qnet_rule qnet_rule_nn(int opcode);
qnet_rule qnet_rule_quant(int opcode);
qnet_rule qnet_rule_bits(int opcode);
qnet_rule qnet_rule_loop(int opcode);

/* verify_symbol.c */
void qnet_verify_symbol(qnet_verifier *v, const qnet_symbol *s);
/* Sizes in range, tables present. */
bool qnet_type_is_sound(const qnet_verifier *v, const qnet_type *t);
/* The same, with a report about `what`. */
bool qnet_verify_type(qnet_verifier *v, qnet_loc loc, const char *what, const qnet_type *t);

/* ---- verify_util.c: reports and expectations ------------------------------------------------- */

/* "nn.relu: ..." at the operation. */
bool qnet_verify_error(qnet_verifier *v, const qnet_op *op, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool qnet_verify_error_at(qnet_verifier *v, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* "tensor<1x8xf32>", valid until the verifier ends. */
const char *qnet_verify_type_text(qnet_verifier *v, const qnet_type *t);

/* Types by value, to compare with. */
qnet_type qnet_tensor0(qnet_dtype dtype);
qnet_type qnet_tensor1(qnet_dtype dtype, int64_t a);
qnet_type qnet_tensor2(qnet_dtype dtype, int64_t a, int64_t b);
qnet_type qnet_tensor4(qnet_dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d);
/* The shape of t with that element type. */
qnet_type qnet_tensor_like(const qnet_type *t, qnet_dtype dtype);
qnet_type qnet_planes4(int planes, int64_t a, int64_t b, int64_t c, int64_t d);

const qnet_type *qnet_in(const qnet_op *op, int index);
const qnet_type *qnet_out(const qnet_op *op, int index);
/* The last dimension; 1 for rank 0. */
int64_t qnet_channels(const qnet_type *t);

bool qnet_expect_in(qnet_verifier *v, const qnet_op *op, int index, qnet_type want);
bool qnet_expect_out(qnet_verifier *v, const qnet_op *op, int index, qnet_type want);
/* Operand `index` is a tensor of that element type and rank; QNET_ANY_RANK: 1 or more. */
enum { QNET_ANY_RANK = -1 };
bool qnet_expect_tensor(qnet_verifier *v, const qnet_op *op, int index, qnet_dtype dtype, int rank);
/* Is it so? The same for any type, without a report. */
bool qnet_is_tensor(const qnet_type *t, qnet_dtype dtype, int rank);
bool qnet_expect_planes(qnet_verifier *v, const qnet_op *op, int index);
/* An integer attribute lies in min..max (absent: fine). */
bool qnet_expect_int(qnet_verifier *v, const qnet_op *op, const char *name, int64_t min,
                     int64_t max);
/* A list attribute has that many elements. */
bool qnet_expect_count(qnet_verifier *v, const qnet_op *op, const char *name, int64_t count);
bool qnet_expect_word(qnet_verifier *v, const qnet_op *op, const char *name,
                      const char *const *words, size_t count);
/* The window attributes are sound and the window fits in_h x in_w; its output size. For pools
 * (`kernel` present) also: every window holds a real position. */
bool qnet_expect_window(qnet_verifier *v, const qnet_op *op, int64_t in_h, int64_t in_w,
                        int64_t *out_h, int64_t *out_w);
/* The table that attribute `table` names, with thresholds and one channel; NULL after a report. */
const qnet_table *qnet_expect_table(qnet_verifier *v, const qnet_op *op);

#endif
