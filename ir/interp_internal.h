/* What the files of the reference interpreters share; nobody else includes it. */
#ifndef QNET_IR_INTERP_INTERNAL_H
#define QNET_IR_INTERP_INTERNAL_H

#include "ir/interp.h"
#include "ir/ops.h"
#include "support/simd.h"

/* Regions nest at most this deep (the parser's bound too): the recursion over them is bounded. */
enum { QNET_INTERP_MAX_DEPTH = 64 };

/* ---- kernels, one table a file; NULL for the operations of other files ---------------------- */

qnet_interp_kernel qnet_interp_nn_kernel(int opcode);
qnet_interp_kernel qnet_interp_gradient_kernel(int opcode);
qnet_interp_kernel qnet_interp_train_kernel(int opcode);
qnet_interp_kernel qnet_interp_quant_kernel(int opcode);
qnet_interp_kernel qnet_interp_bits_kernel(int opcode);

/* ---- shapes --------------------------------------------------------------------------------- */

/* N,H,W,C of a type; rank 2 is N,1,1,C, other ranks put all but the last dimension into n. */
typedef struct qnet_nhwc {
  int64_t n, h, w, c;
} qnet_nhwc;
qnet_nhwc qnet_interp_nhwc(const qnet_type *type);

/* A window that slides over an N,H,W,C tensor: convolutions and pools. */
typedef struct qnet_sliding {
  qnet_nhwc x;
  int64_t oh, ow;
  qnet_window k;
} qnet_sliding;
/* The geometry of a window operation over a tensor of type x. */
qnet_sliding qnet_interp_sliding(const qnet_op *op, const qnet_type *x);
/* The taps of a 1-d window at output position `out` that read real elements: begin <= tap < end.
 * Tap t reads position out * stride - pad + t * dilation. */
typedef struct qnet_taps {
  int64_t first, begin, end; /* first: the position that tap 0 would read */
} qnet_taps;
qnet_taps qnet_interp_taps_h(const qnet_sliding *s, int64_t oh);
qnet_taps qnet_interp_taps_w(const qnet_sliding *s, int64_t ow);
/* Copies the window of image n at (oh, ow) into patch[KH][KW][C], zero bytes where it is padding.
 */
void qnet_interp_patch(const qnet_sliding *s, const void *x, size_t element, int64_t n, int64_t oh,
                       int64_t ow, void *patch);

/* A new blob for result `index` of the operation, or NULL. */
qnet_blob *qnet_interp_result(const qnet_module *m, const qnet_op *op, int index);
/* The level table that a code type or an operation's attribute `table` names; NULL when missing. */
const qnet_table *qnet_interp_table_of(const qnet_module *m, const qnet_type *type);
const qnet_table *qnet_interp_op_table(const qnet_module *m, const qnet_op *op);

/* #{k : x > t[k]} */
static inline int qnet_interp_rank(float x, const float *t, int count) {
  int rank = 0;
  for (int k = 0; k < count; k++)
    rank += x > t[k];
  return rank;
}

/* #{k : x >= t[k]} */
static inline int qnet_interp_rank_i32(int32_t x, const int32_t *t, int count) {
  int rank = 0;
  for (int k = 0; k < count; k++)
    rank += x >= t[k];
  return rank;
}

/* Operations of a region and of all regions in it, to the depth bound. */
int qnet_interp_count_ops(const qnet_region *region, int depth);

/* ---- the loop level ------------------------------------------------------------------------- */

typedef struct qnet_loop_program qnet_loop_program;
qnet_status qnet_loop_program_create(const qnet_module *m, const qnet_symbol *function,
                                     qnet_loop_program **out, qnet_diag *d);
void qnet_loop_program_destroy(qnet_loop_program *p); /* NULL is fine */
qnet_status qnet_loop_program_run(qnet_loop_program *p, qnet_blob *const *args, qnet_diag *d);

#endif
