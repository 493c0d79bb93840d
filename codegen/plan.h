/* A plan: an nn or quant function as a sequence of calls of f32 primitives (oneDNN, plain C) on
 * preallocated buffers. Training steps and the training evaluation run as plans. */
#ifndef QNET_CODEGEN_PLAN_H
#define QNET_CODEGEN_PLAN_H

#include "ir/ir.h"

typedef struct qnet_plan qnet_plan;

typedef enum {
  QNET_PLAN_FAST,    /* any fast f32 code: training steps; f32 speed measurements */
  QNET_PLAN_UNFUSED, /* the same bytes without compiled loops (codegen/plan_fuse.h) */
  QNET_PLAN_EXACT,   /* docs/numbers.md to the bit: evaluation */
} qnet_plan_mode;

/* Plans a function of m (levels nn, quant). State and const symbols are used in place: `write`
 * changes the symbol's blob. m must outlive the plan. */
qnet_status qnet_plan_create(const qnet_module *m, const char *function, qnet_plan_mode mode,
                             qnet_plan **out, qnet_diag *d);
void qnet_plan_destroy(qnet_plan *p);
/* Buffers of argument i and result i: write the inputs, run, read the outputs. Borrowed. */
qnet_blob *qnet_plan_argument(qnet_plan *p, int index);
qnet_blob *qnet_plan_result(qnet_plan *p, int index);
/* Makes `blob`, of the argument's type, the argument's buffer: another plan's result need not be
 * copied. The plan keeps a reference. */
qnet_status qnet_plan_share_argument(qnet_plan *p, int index, qnet_blob *blob, qnet_diag *d);
/* A run that finds a loss (nn.softmax_cross_entropy) that is not finite ends there: updates come
 * later, so the state is as before. */
qnet_status qnet_plan_run(qnet_plan *p, qnet_diag *d);
/* After such a run: adds a note that names the layer whose value was the first not to be finite. */
qnet_status qnet_plan_explain_loss(qnet_plan *p, qnet_diag *d);
/* The instruction set that fast plans use on this machine ("avx2"): another one rounds sums in
 * another order. */
const char *qnet_plan_isa(void);

#endif
