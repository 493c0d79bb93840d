/* Fusion: neighbouring row kernels of a group as one compiled loop over rows.
 *
 * A kernel that can be fused says in `emit` what its `rows` does, as loop-level code for one vector
 * of channels; what one kernel makes and the next reads stays in a register. The arithmetic is that
 * of `rows`, operation by operation, and sums run over rows in the same order, so the results are
 * the same bytes. plan_fuse.c chooses the loops and runs them, plan_fuse_emit.c writes them. */
#ifndef QNET_CODEGEN_PLAN_FUSE_H
#define QNET_CODEGEN_PLAN_FUSE_H

#include "codegen/codegen.h"
#include "codegen/plan_internal.h"

enum {
  QNET_FUSE_VECTORS = 4, /* of channels that a row of the loop takes at once */
  QNET_FUSE_STEPS = 12,
  QNET_FUSE_CARRIED = 24,      /* vectors of sums that several steps of a loop may carry */
  QNET_FUSE_MOST_CARRIED = 64, /* of one step: beyond the registers, into the stack */
  QNET_FUSE_BINS = 32768,      /* floats of all bins of a loop, on a thread's stack */
  QNET_FUSE_RANKS = 8,         /* of a table whose sums are carried */
  QNET_FUSE_CODES = 4,         /* whose sums by channel are carried */
  QNET_FUSE_CHOICES = 16,      /* of a table that is compared with value by value */
  QNET_FUSE_BUFFERS = 64
};

/* What an argument of a loop points at. */
typedef enum {
  QNET_BIND_COUNT,   /* i64: rows of the range */
  QNET_BIND_ROWS,    /* the range's rows of a value */
  QNET_BIND_WHOLE,   /* a value */
  QNET_BIND_STATE,   /* the step's floats, one row of channels each */
  QNET_BIND_PARTIAL, /* the range's partial result of the step, likewise */
  QNET_BIND_BINS,    /* the step's bins of the range */
} qnet_binding_kind;

typedef struct qnet_binding {
  qnet_binding_kind kind;
  const qnet_plan_value *value; /* ROWS: of those in the same memory, any */
  const qnet_plan_step *step;
} qnet_binding;

struct qnet_plan_loop {
  const qnet_plan_step *first;
  int steps;
  int64_t rows;       /* of a range */
  int lanes, vectors; /* of a vector; of a block of channels */
  int64_t bins;       /* floats of all steps */
  bool row_major;     /* rows outside, blocks inside: sums in lanes follow the elements' order */
  bool ready;
  int binding_count, most_bindings;
  qnet_binding binding[QNET_FUSE_BUFFERS];
  char *name;
  qnet_loop_function run;
};

/* -1: not bound. */
int qnet_plan_loop_find(const qnet_plan_loop *l, qnet_binding_kind kind,
                        const qnet_plan_value *value, const qnet_plan_step *step);
/* The step's bins, no rows if its kernel has none; and how many columns a row of them has. */
qnet_plan_bins qnet_plan_bins_of(const qnet_plan_step *s);
int64_t qnet_plan_bin_columns(const qnet_plan_step *s);
/* Vectors that the loop carries of a row of bins in registers; of all sums of a step. */
int qnet_plan_bin_vectors(const qnet_plan_loop *l, const qnet_plan_step *s);
int qnet_plan_carried(const qnet_plan_loop *l, const qnet_plan_step *s);
/* Does a step of that width sum by rank in bins that are looked up, rather than above each bound?
 * Plain kernels sum in the same way. */
bool qnet_plan_looks_up(int64_t ranks, int64_t width);
/* Must a value that a step of the loop makes go to memory? */
bool qnet_plan_loop_stores(const qnet_plan_loop *l, const qnet_plan_value *v);
/* Adds the loop to m, as function l->name. */
qnet_status qnet_plan_loop_emit(const qnet_plan_loop *l, qnet_module *m, qnet_diag *d);

/* ---- for `emit` -------------------------------------------------------------------------------*/

/* Vectors are at the present row and channels, of f32; bytes are i32 here. NULL is passed on when
 * memory is out. */
qnet_value *qnet_fuse_in(qnet_fuse *f, int operand);
void qnet_fuse_out(qnet_fuse *f, int result, qnet_value *v);
/* Of an operand float[C], and of row `slot` of the state float[][C]. */
qnet_value *qnet_fuse_channels(qnet_fuse *f, int operand);
qnet_value *qnet_fuse_state(qnet_fuse *f, int slot);
/* One element of an operand that has no rows, and a number, in all lanes. */
qnet_value *qnet_fuse_element(qnet_fuse *f, int operand, int64_t index);
qnet_value *qnet_fuse_number(qnet_fuse *f, double v);
/* opcode: LOOP_FADD, LOOP_FSUB, LOOP_FMUL. */
qnet_value *qnet_fuse_arithmetic(qnet_fuse *f, int opcode, qnet_value *a, qnet_value *b);
/* a > b ? x : y, where x and y are f32 or i32; v where the i32 are equal to `code`, else 0. */
qnet_value *qnet_fuse_choose(qnet_fuse *f, qnet_value *a, qnet_value *b, qnet_value *x,
                             qnet_value *y);
qnet_value *qnet_fuse_where(qnet_fuse *f, qnet_value *is, int64_t code, qnet_value *v);
/* The smaller of the i32 and `most`. */
qnet_value *qnet_fuse_at_most(qnet_fuse *f, qnet_value *is, int64_t most);
/* #{k : x > bound[k]} as i32, of an operand with ascending bounds, f32[1,N]. */
qnet_value *qnet_fuse_rank(qnet_fuse *f, qnet_value *x, int operand);
/* Element rank[n] of an operand [1,N] in lane n. */
qnet_value *qnet_fuse_lookup(qnet_fuse *f, int operand, qnet_value *rank);
/* The partial result: sums over the rows of the range in slots 0, 1, ...; the operand's first row
 * of the range (kernels with `from_memory`), which is put into a slot behind the sums. */
void qnet_fuse_sum(qnet_fuse *f, int slot, qnet_value *v);
qnet_value *qnet_fuse_first_row(qnet_fuse *f, int operand, int slot);
/* Adds to a row of the step's bins: in registers; looked up, a pair. */
void qnet_fuse_bin(qnet_fuse *f, int row, qnet_value *v);
void qnet_fuse_bin_at(qnet_fuse *f, qnet_value *row, qnet_value *a, qnet_value *b);

#endif
