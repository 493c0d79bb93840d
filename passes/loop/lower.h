/* What the files of the step to loops share: layouts of values, the frame of a nest, reductions,
 * roots, the fused epilogue.
 *
 * A bits.kernel becomes nests of one frame: output rows (in parallel), groups of channels, tiles of
 * pixels, tiles of channel vectors. A root (convolution, pool, or nothing) fills the registers of a
 * tile; the epilogue computes the rest of the kernel on them and stores. */
#ifndef QNET_PASSES_LOOP_LOWER_H
#define QNET_PASSES_LOOP_LOWER_H

#include "ir/machine.h"
#include "ir/ops.h"
#include "passes/loop/builder.h"
#include "passes/pass.h"

/* Where a value lives: buf<(top+h+bottom) x (left+w+right)*step [x planes]>. `step` is the distance
 * of neighbouring pixels: words of a plane, or channels (padded to the lanes when `by_lanes`). */
typedef struct qnet_layout {
  const qnet_type *type; /* at the bits level */
  qnet_dtype dtype;      /* of an element in memory */
  int64_t h, w, c, step;
  int64_t top, left, bottom, right;
  int planes;    /* 0: not planes */
  bool by_lanes; /* vectors may be loaded and stored at any channel that the lanes divide */
  bool border;   /* the border holds zeros */
  bool raw;      /* an argument of the function: buf<h x w x c>, or buf<c> */
  qnet_value *buffer;
} qnet_layout;

typedef struct qnet_lower {
  qnet_module *m;
  const qnet_machine *machine;
  qnet_diag *d;
  qnet_arena scratch;
  qnet_lb lb;
  const qnet_region *body; /* the bits-level function */
  qnet_layout *layout;     /* by value->id of that function */
  int values;
  int64_t pad;                   /* channels in memory are padded to a multiple of this */
  struct qnet_lower_const *read; /* constants read so far */
} qnet_lower;

/* ---- layout.c ------------------------------------------------------------------------------- */

/* Decides the layouts of all values of the function from their producers and consumers. */
qnet_status qnet_layout_decide(qnet_lower *lw);
/* Emits the loop.alloc (and loop.zero of a border) of a value. */
void qnet_layout_allocate(qnet_lower *lw, qnet_layout *l);
/* The outside value that a value inside a kernel stands for (itself if it is computed inside). */
const qnet_value *qnet_kernel_outside(const qnet_op *kernel, const qnet_value *v);
qnet_layout *qnet_layout_of(const qnet_lower *lw, const qnet_op *kernel, const qnet_value *v);
/* The kernel's convolution, pool, ..., or NULL when it is elementwise. */
const qnet_op *qnet_kernel_root(const qnet_op *kernel);
bool qnet_root_is_conv(const qnet_op *root); /* conv2d and dense of any level */
/* A vector (or scalar) at row y, pixel x + m, channel c + v, and the store to there. */
qnet_value *qnet_layout_load(qnet_lower *lw, const qnet_layout *l, int64_t lanes, qnet_value *y,
                             qnet_value *x, int64_t m, qnet_value *c, int64_t v);
void qnet_layout_store(qnet_lower *lw, const qnet_layout *l, qnet_value *value, qnet_value *y,
                       qnet_value *x, int64_t m, qnet_value *c, int64_t v);
/* The buffer position of a pixel's first element, and of a row. */
qnet_value *qnet_layout_row(qnet_lower *lw, const qnet_layout *l, qnet_value *y);
int64_t qnet_layout_column(const qnet_layout *l, int64_t x);
/* rank 4 or 2: height, width, channels. */
void qnet_type_hwc(const qnet_type *type, int64_t *h, int64_t *w, int64_t *c);

/* ---- pack.c: constants in the form that kernels load ---------------------------------------- */

/* The content of a constant that the kernel reads; an error names it when it is not there. */
qnet_status qnet_kernel_const(qnet_lower *lw, const qnet_op *kernel, const qnet_value *v,
                              qnet_symbol **symbol);
/* Zeroed memory for the content of a constant of that type, from the scratch arena. */
void *qnet_pack_content(qnet_lower *lw, const qnet_type *type);
/* A const buffer of that content named base.suffix (with a number when that name is taken by other
 * content). *buffer is its read at the function's level. */
qnet_status qnet_pack_const(qnet_lower *lw, const char *base, const char *suffix,
                            const qnet_type *type, const void *content, qnet_value **buffer);
/* f32 or i32 [C] -> [C padded]. */
qnet_status qnet_pack_channels(qnet_lower *lw, const qnet_symbol *s, qnet_value **buffer);
/* i32 [C, n] -> [n][C padded], ascending in n, padded with INT32_MAX. */
qnet_status qnet_pack_thresholds(qnet_lower *lw, const qnet_symbol *s, qnet_value **buffer);
/* Ones where a channel of the word exists: buf<words>. */
qnet_status qnet_pack_tail(qnet_lower *lw, int64_t channels, qnet_value **buffer);

/* ---- nest.c: the frame of every nest --------------------------------------------------------- */

typedef struct qnet_nest qnet_nest;

/* A tile being emitted: output row, first pixel, first channel vector, and its extent. */
typedef struct qnet_tile_at {
  qnet_value *y, *x, *vector;
  int pixels, vectors;
} qnet_tile_at;

/* Fills reg[m * vectors + v] with the root's result at pixel m, channel vector v. */
typedef qnet_status (*qnet_root_emit)(qnet_nest *n, const qnet_tile_at *at, qnet_value **reg);

struct qnet_nest {
  qnet_lower *lw;
  qnet_lb *lb;
  const qnet_op *kernel, *root;
  const void *root_data; /* of emit_root */
  qnet_root_emit emit_root;
  int64_t h, w, c;     /* output pixels and channels */
  int64_t lanes;       /* channels of a vector; 1 = scalar code */
  int pixels, vectors; /* the register tile */
  /* derived by qnet_nest_run: */
  int64_t channel_vectors;    /* ceil(c / lanes) */
  int64_t group_vectors;      /* a group: whole words of planes, or one tile */
  int64_t group_words, words; /* words of a group; of a pixel */
  int planes;                 /* of all results together */
  qnet_value *tail;           /* masks of existing channels, or NULL */
  struct qnet_epilogue *epilogue;
};

/* Emits the nest of the kernel, and the nests that finish results which it cannot. */
qnet_status qnet_nest_run(qnet_nest *n);
/* The largest power of two <= n. */
int qnet_floor_power(int n);

/* ---- epilogue.c ------------------------------------------------------------------------------ */

qnet_status qnet_epilogue_create(qnet_nest *n);
/* Evaluates the kernel's elementwise operations on the tile's registers, stores f32 and i32 results
 * and ors plane bits into word[(m * group_words + word) * planes + plane]; `shift` (i64, or NULL)
 * is the tile's place within its word. */
qnet_status qnet_epilogue_emit(qnet_nest *n, const qnet_tile_at *at, qnet_value **root,
                               qnet_value *shift, qnet_value **word);
/* Is there nothing to do on tiles (all results are searched from values in memory)? */
bool qnet_epilogue_idle(const qnet_nest *n);
/* Stores a group's words. first: the group's first word; count: those that exist. */
void qnet_epilogue_store_words(qnet_nest *n, const qnet_tile_at *at, qnet_value *first,
                               int64_t count, qnet_value **word);
/* Codes of more than 4 bits: their levels are searched in a nest of their own. */
qnet_status qnet_epilogue_finish(qnet_nest *n);

/* ---- reduce.c: sums over the taps of a window ------------------------------------------------ */

/* A place of the reduction: buffer row and column of the first pixel, and number of the step. */
typedef struct qnet_step {
  qnet_value *row, *column, *number;
} qnet_step;

typedef struct qnet_reduction qnet_reduction;
typedef void (*qnet_steps_emit)(const qnet_reduction *r, const qnet_step *step, int count,
                                qnet_value **acc);

struct qnet_reduction {
  qnet_nest *n;
  const qnet_tile_at *at;
  const qnet_layout *in;
  qnet_window window;
  int64_t unit;   /* steps of one tap: words or channels */
  bool skip_rows; /* rows of the border need no steps */
  int products;   /* vector products of one step, for unrolling */
  int group;      /* steps that are emitted together at best (carry-save adders), or 1 */
  qnet_steps_emit emit;
  int accumulators;
  /* Narrow accumulators, widened after at most `limit` steps; 0: none. */
  int64_t limit;
  const qnet_type *narrow, *wide;
  const void *data;
};

/* acc: initial values in, sums out. */
void qnet_reduce(const qnet_reduction *r, qnet_value **acc);
/* Column of pixel m of the tile at a step. */
qnet_value *qnet_reduce_column(const qnet_reduction *r, const qnet_step *s, int pixel);

/* ---- kernels by root: they make the nests ---------------------------------------------------- */

qnet_status qnet_lower_conv_popcount(qnet_lower *lw, const qnet_op *kernel);
qnet_status qnet_lower_conv_product(qnet_lower *lw, const qnet_op *kernel);
qnet_status qnet_lower_pool(qnet_lower *lw, const qnet_op *kernel);
qnet_status qnet_lower_elementwise(qnet_lower *lw, const qnet_op *kernel);
qnet_status qnet_lower_patch_sum(qnet_lower *lw, const qnet_op *kernel);
/* Flatten, slice, pad. */
qnet_status qnet_lower_movement(qnet_lower *lw, const qnet_op *kernel);
/* Is the kernel a quantizer of bytes that a table of 256 entries a channel can do? */
bool qnet_kernel_is_lookup(const qnet_op *kernel);
qnet_status qnet_lower_lookup(qnet_lower *lw, const qnet_op *kernel);

/* ---- copies.c -------------------------------------------------------------------------------- */

/* Element by element. */
void qnet_lower_copy(qnet_lower *lw, const qnet_layout *from, const qnet_layout *to);
/* Levels of codes: level by rank of each element (f32 or i32) among the thresholds. */
qnet_status qnet_lower_search(qnet_lower *lw, const qnet_op *kernel, const qnet_op *quantize,
                              const qnet_layout *from, const qnet_layout *to);

/* Convolutions and dense layers alike: window (dense: 1x1) and output size. */
qnet_window qnet_conv_window(const qnet_op *root);
/* The machine's tile for a convolution: vectors a power of two when the results are planes, no more
 * than there are; pixels at most the row. */
void qnet_nest_fit_tile(qnet_nest *n, const qnet_machine *machine, int weight_planes,
                        int activation_planes);
/* A tile of one pixel, for kernels that wait for memory; scalar when some value demands it. */
void qnet_nest_fit_simple(qnet_nest *n);

#endif
