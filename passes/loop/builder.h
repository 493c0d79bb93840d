/* A builder of loop-level code: constants that are made once a nest, folded index arithmetic, loops
 * with carried values in place.
 *
 * Like all constructors of the IR, these pass NULL on when memory is out; module->failed tells. */
#ifndef QNET_PASSES_LOOP_BUILDER_H
#define QNET_PASSES_LOOP_BUILDER_H

#include "ir/ir.h"
#include "ir/ops.h"

typedef struct qnet_lb {
  qnet_builder at; /* where operations go */
  qnet_module *m;
  qnet_arena *scratch;
  qnet_op *nest;                /* the loop.parallel_for being filled, or NULL */
  qnet_op *anchor;              /* constants of the nest go before it */
  struct qnet_lb_const *consts; /* those made so far */
} qnet_lb;

/* At the end of a function's body. */
qnet_lb qnet_lb_create(qnet_module *m, qnet_region *body, qnet_arena *scratch);

/* A vector of that many lanes; of 1 lane: a scalar. */
const qnet_type *qnet_lb_type(qnet_lb *lb, qnet_dtype dtype, int64_t lanes);
int64_t qnet_lb_lanes(const qnet_type *type); /* 1 for scalars */

qnet_value *qnet_lb_index(qnet_lb *lb, int64_t v); /* i64 */
/* Constants of a scalar or (all lanes) a vector type. */
qnet_value *qnet_lb_int(qnet_lb *lb, const qnet_type *type, int64_t v);
qnet_value *qnet_lb_float(qnet_lb *lb, const qnet_type *type, double v);

/* Is it a constant index that this builder made? */
bool qnet_lb_known(const qnet_value *v, int64_t *out);
/* Operands and result of one type. Folds what is constant in i64. */
qnet_value *qnet_lb_binary(qnet_lb *lb, int opcode, qnet_value *a, qnet_value *b);
qnet_value *qnet_lb_add(qnet_lb *lb, qnet_value *a, qnet_value *b);
qnet_value *qnet_lb_add_index(qnet_lb *lb, qnet_value *a, int64_t c);
qnet_value *qnet_lb_mul_index(qnet_lb *lb, qnet_value *a, int64_t c);
/* loop.cmp or loop.fcmp, by the operands' type. */
qnet_value *qnet_lb_compare(qnet_lb *lb, const char *predicate, qnet_value *a, qnet_value *b);
qnet_value *qnet_lb_select(qnet_lb *lb, qnet_value *condition, qnet_value *a, qnet_value *b);
qnet_value *qnet_lb_cast(qnet_lb *lb, const char *kind, qnet_dtype to, qnet_value *a);
qnet_value *qnet_lb_fma(qnet_lb *lb, qnet_value *a, qnet_value *b, qnet_value *c);
/* One operand, result of the given type. */
qnet_value *qnet_lb_unary(qnet_lb *lb, int opcode, qnet_value *a, const qnet_type *result);
/* To all lanes of a vector; 1 lane: the scalar itself. */
qnet_value *qnet_lb_splat(qnet_lb *lb, qnet_value *scalar, int64_t lanes);

/* As many indices as the buffer has dimensions are used. */
qnet_value *qnet_lb_load(qnet_lb *lb, const qnet_type *type, qnet_value *buffer, qnet_value *i,
                         qnet_value *j, qnet_value *k);
void qnet_lb_store(qnet_lb *lb, qnet_value *value, qnet_value *buffer, qnet_value *i, qnet_value *j,
                   qnet_value *k);

/* loop.for from begin to end: `carried` holds the values before the loop, inside it the region's
 * arguments, after it the results. A loop of one known iteration becomes its body. */
typedef struct qnet_lb_loop {
  qnet_op *op; /* NULL: one iteration */
  qnet_builder outside;
  qnet_value *index;
  int count;
} qnet_lb_loop;
qnet_lb_loop qnet_lb_for(qnet_lb *lb, qnet_value *lo, qnet_value *hi, int64_t step,
                         qnet_value **carried, int count);
void qnet_lb_end(qnet_lb *lb, const qnet_lb_loop *loop, qnet_value **carried);

/* loop.parallel_for over lo..hi, step 1; returns its index. */
qnet_value *qnet_lb_parallel(qnet_lb *lb, int64_t lo, int64_t hi);
void qnet_lb_end_parallel(qnet_lb *lb);

#endif
