/* What the files of the plan share.
 *
 * A plan is a list of steps, each one kernel on values. Kernels of two kinds: whole ones do an
 * operation at once (convolutions, pools); row kernels work on any range of rows (a row: the
 * channels of one position). Neighbouring row kernels form a group, which runs range by range, so
 * that what one writes is still in the cache when the next reads it, and a value that lives only
 * inside the group needs no memory but a tile. Ranges depend on shapes alone, and sums keep one
 * partial result a range that is added up in order: results do not depend on the number of threads.
 */
#ifndef QNET_CODEGEN_PLAN_INTERNAL_H
#define QNET_CODEGEN_PLAN_INTERNAL_H

#include "codegen/plan.h"
#include "codegen/primitives.h"
#include "ir/ops.h"

enum {
  QNET_PLAN_MAX_IN = 8,
  QNET_PLAN_MAX_OUT = 4,
  QNET_PLAN_RANGE = 8192,          /* elements of a value that a range of rows aims at */
  QNET_PLAN_TILE_BYTES = 96 * 1024 /* of all values inside a group, for one range */
};

typedef enum {
  QNET_PLACE_SLAB,   /* at an offset of the plan's memory */
  QNET_PLACE_SYMBOL, /* the content of a const or state symbol, in place */
  QNET_PLACE_BLOB,   /* an argument's or result's own blob */
  QNET_PLACE_TILE,   /* inside its group only */
} qnet_place;

typedef struct qnet_plan_value {
  const qnet_type *type;
  size_t bytes;
  qnet_place place;
  qnet_symbol *symbol;           /* SYMBOL */
  struct qnet_plan_value *alias; /* SLAB: takes over this value's memory */
  int first, last;               /* groups that define it and use it last; -1 = before all */
  int written;                   /* the group that wrote its memory last */
  size_t offset;                 /* SLAB, TILE */
  char *data;                    /* set while running; unused in tiles */
  struct qnet_plan_value *next;
} qnet_plan_value;

/* The value whose memory v has taken over; v itself, mostly. NULL gives NULL. */
static inline const qnet_plan_value *qnet_plan_root(const qnet_plan_value *v) {
  while (v != NULL && v->alias != NULL)
    v = v->alias;
  return v;
}

typedef struct qnet_plan_step qnet_plan_step;
typedef struct qnet_plan_loop qnet_plan_loop; /* codegen/plan_fuse.h */
typedef struct qnet_fuse qnet_fuse;

/* One range of rows, pointers at its first row. */
typedef struct qnet_plan_rows {
  const void *in[QNET_PLAN_MAX_IN];
  void *out[QNET_PLAN_MAX_OUT];
  int64_t begin, count; /* the first row's number */
  void *partial;        /* the range's partial result, zeroed before the run */
} qnet_plan_rows;

/* Sums of a range. Columns are the channels of a row, or 16 lanes: element i of the range belongs
 * to lane i % 16 (codegen/lanes.h). */
typedef struct qnet_plan_bins {
  int64_t rows;      /* 0: none */
  bool by_channel;   /* columns */
  bool in_registers; /* carried through the loop, float[rows][columns]; else looked up by row, in
                        memory, pairs: float[rows][columns][2] */
} qnet_plan_bins;

typedef struct qnet_plan_kernel {
  /* A whole kernel has `run`; a row kernel has `rows`, and perhaps `begin` before and `finish`
   * after all ranges. */
  qnet_status (*run)(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d);
  void (*begin)(const qnet_plan_step *s);
  void (*rows)(const qnet_plan_step *s, const qnet_plan_rows *r);
  void (*finish)(const qnet_plan_step *s);
  /* What `rows` does as code (codegen/plan_fuse.h); NULL: only `rows` does it. With `sums`, the
   * partial result begins with that many rows of sums, float[][width]. from_memory: operand 0 is
   * needed before the rows. */
  void (*emit)(qnet_fuse *f, const qnet_plan_step *s);
  int sums;
  bool from_memory;
  /* Sums of another shape: which, and what makes the partial result of them. ready, asked before
   * each run: may the loop do it this time? NULL: always. */
  qnet_plan_bins (*bins)(const qnet_plan_step *s);
  void (*collect)(const qnet_plan_step *s, const float *bins, const qnet_plan_rows *r);
  bool (*ready)(const qnet_plan_step *s);
  /* Allocates s->state in the plan's arena; frees what is not memory. Both may be NULL. */
  qnet_status (*prepare)(qnet_plan *p, qnet_plan_step *s, qnet_diag *d);
  void (*destroy)(qnet_plan_step *s);
  unsigned row_in, row_out; /* operands and results that have rows, one bit each */
  unsigned overwrites;      /* operands whose memory a result of equal size may take */
} qnet_plan_kernel;

struct qnet_plan_step {
  const qnet_op *op;
  const qnet_plan_kernel *kernel;
  int in_count, out_count;
  qnet_plan_value *in[QNET_PLAN_MAX_IN];
  qnet_plan_value *out[QNET_PLAN_MAX_OUT]; /* NULL: nobody wants it */
  void *state;
  bool relu;            /* a layer whose result goes through relu */
  bool begins;          /* a group of its own or the first of one */
  int64_t rows, width;  /* row kernels: rows, and elements a row of operand 0 (of result 0 where
                           that operand has no rows) */
  size_t partial_bytes; /* of one range */
  char *partial;
  size_t scratch_bytes; /* of plan->scratch, for the time of the step */
  int group;
  qnet_plan_loop *loop; /* does this step and those behind it; NULL: `rows` does this one */
  qnet_plan_step *next; /* in order of execution */
};

/* Has operand k rows? Has result k? */
static inline bool qnet_plan_rows_in(const qnet_plan_step *s, int k) {
  return (s->kernel->row_in >> k & 1) != 0;
}
static inline bool qnet_plan_rows_out(const qnet_plan_step *s, int k) {
  return (s->kernel->row_out >> k & 1) != 0;
}

typedef struct qnet_plan_group {
  qnet_plan_step *first;
  int count; /* steps */
  int64_t rows, grain;
  int64_t ranges;
} qnet_plan_group;

struct qnet_plan {
  const qnet_module *module;
  const qnet_allocator *allocator;
  qnet_plan_mode mode;
  int lanes; /* f32 of the widest vectors in loops; 0: the machine's */
  qnet_arena arena;
  qnet_onednn *onednn;
  struct qnet_jit *jit;       /* of the loops */
  qnet_plan_value **value_of; /* by id of the function's values */
  qnet_plan_value *values;    /* all */
  qnet_plan_step *first, *last;
  qnet_plan_group *group;
  int group_count;
  qnet_blob **argument, **result;
  int argument_count, result_count;
  qnet_plan_value **argument_value, **result_value;
  char *slab, *scratch;
  size_t slab_bytes, scratch_bytes;
};

/* qnet_plan_create with loops of vectors of at most 4, 8 or 16 lanes, as other machines have. */
qnet_status qnet_plan_create_lanes(const qnet_module *m, const char *function, qnet_plan_mode mode,
                                   int lanes, qnet_plan **out, qnet_diag *d);

/* plan_lower.c: the steps of a function, in order, deferred ones and copies last. */
qnet_status qnet_plan_lower(qnet_plan *p, const qnet_symbol *function, qnet_diag *d);
/* plan_buffers.c: groups, then the place of every value. */
qnet_status qnet_plan_place(qnet_plan *p, qnet_diag *d);
/* plan_fuse.c: loops for what can be fused. The steps have been prepared. */
qnet_status qnet_plan_fuse(qnet_plan *p, qnet_diag *d);

/* A range of the rows of a group, while it runs. */
typedef struct qnet_plan_range {
  int64_t begin, count;
  size_t number;
  char *tile;
} qnet_plan_range;
/* Where the range has its rows of a value of the step. */
char *qnet_plan_row(const qnet_plan_value *v, const qnet_plan_step *s, const qnet_plan_range *r);
/* Asks the steps whether the loop can do them this time. */
void qnet_plan_begin_loop(qnet_plan_loop *l);
/* Runs the loop and returns its number of steps; 0: it cannot this time. */
int qnet_plan_run_loop(const qnet_plan_loop *l, const qnet_plan_range *r);

/* plan.c: runs one group. Symbols are bound. */
qnet_status qnet_plan_run_group(qnet_plan *p, int index, qnet_diag *d);

/* Kernels, by file. */
extern const qnet_plan_kernel qnet_plan_normalize, qnet_plan_relu, qnet_plan_add,
    qnet_plan_relu_grad, qnet_plan_affine, qnet_plan_batch_norm; /* plan_ops_elementwise.c */
extern const qnet_plan_kernel qnet_plan_norm_stats, qnet_plan_norm_apply, qnet_plan_norm_grad_sums,
    qnet_plan_norm_grad_apply; /* plan_ops_norm.c */
extern const qnet_plan_kernel qnet_plan_quantize, qnet_plan_quantize_filters,
    qnet_plan_quantize_grad, qnet_plan_quantize_codes, qnet_plan_round; /* plan_ops_quantize.c */
extern const qnet_plan_kernel qnet_plan_cell_grad, qnet_plan_cell_grad_filters,
    qnet_plan_channel_stats; /* plan_ops_cell.c */
extern const qnet_plan_kernel qnet_plan_slice, qnet_plan_pad;
extern const qnet_plan_kernel qnet_plan_max_pool, qnet_plan_max_pool_grad, qnet_plan_avg_pool,
    qnet_plan_avg_pool_grad, qnet_plan_global_avg_pool, qnet_plan_global_avg_pool_grad,
    qnet_plan_flatten, qnet_plan_flatten_grad; /* plan_ops_pool.c */
extern const qnet_plan_kernel qnet_plan_sgd, qnet_plan_adam, qnet_plan_moving_average,
    qnet_plan_feature_grad, qnet_plan_bias_grad, qnet_plan_copy,
    qnet_plan_reference;                      /* plan_ops_train.c */
extern const qnet_plan_kernel qnet_plan_muon; /* plan_ops_muon.c */
extern const qnet_plan_kernel qnet_plan_layer, qnet_plan_layer_exact, qnet_plan_layer_grad_input,
    qnet_plan_layer_grad_weight, qnet_plan_layer_codes; /* plan_ops_layer.c */

/* N,H,W,C of a tensor; rank 2 is N,1,1,C; other ranks put all but the last dimension into n. */
typedef struct qnet_plan_shape {
  int64_t n, h, w, c;
} qnet_plan_shape;
qnet_plan_shape qnet_plan_shape_of(const qnet_type *type);
/* Zeroed memory of the plan, or NULL. */
void *qnet_plan_alloc(qnet_plan *p, size_t bytes);
/* Adds up a step's partial results, each i64[n] counts and then f64[n] sums, in the order of
 * ranges. s->state is the step's group. */
void qnet_plan_finish_counts(const qnet_plan_step *s, const qnet_plan_value *count,
                             const qnet_plan_value *sum);
/* Asks for scratch memory during the step. */
void qnet_plan_need_scratch(qnet_plan_step *s, size_t bytes);

#endif
