/* Semantic analysis: runs the syntax tree and builds the nn module while it runs.
 *
 * The net is a program over two sorts of values: static ones (numbers, strings, lists), which are
 * gone afterwards, and tensors, which stand for results of operations in the module. A block is run
 * anew for each call, a repetition for each turn; that is how names of layers and shapes come out.
 *
 * Errors do not stop the analysis: what failed has the kind QNET_KIND_POISON, and whatever is made
 * of poison is poison without a further message. A place is reported once, however many calls of
 * its block fail there. All loops and recursions are bounded by the limits below. */
#ifndef QNET_FRONTEND_SEMA_H
#define QNET_FRONTEND_SEMA_H

#include "frontend/ast.h"
#include "frontend/frontend.h"
#include "ir/ops.h"

enum {
  QNET_SEMA_DEPTH = 400,    /* nested expressions, statements and calls */
  QNET_SEMA_STEPS = 500000, /* expressions evaluated */
  QNET_SEMA_OPS = 20000,    /* operations in the module */
  QNET_SEMA_CALLS = 20000,  /* calls of layers and blocks, which get names */
  QNET_SEMA_REPEAT = 10000, /* turns of one repetition */
  QNET_SEMA_NAMES = 1000,   /* names in one net or block */
  QNET_SEMA_BLOCKS = 250,   /* blocks in one file */
  QNET_SEMA_PARAMS = 64,    /* parameters of one block */
  QNET_SEMA_LIST = 4096,    /* items of a list */
  QNET_SEMA_STRING = 200,   /* bytes of a string that `+` makes, and of a layer's path */
  QNET_SEMA_ERRORS = 20,    /* reported before the analysis stops */
  QNET_SEMA_DIM = 65536,    /* of a tensor */
  QNET_SEMA_ELEMENTS = 1 << 28,
};

/* ---- values ---------------------------------------------------------------------------------- */

typedef enum {
  QNET_KIND_ABSENT, /* an argument that the call leaves out */
  QNET_KIND_POISON, /* failed and reported */
  QNET_KIND_INT,
  QNET_KIND_FLOAT,
  QNET_KIND_BOOL,
  QNET_KIND_STRING,
  QNET_KIND_LIST, /* of numbers, strings, booleans; not of lists */
  QNET_KIND_TENSOR,
  QNET_KIND_QUANTIZER, /* a method with its bits, or none */
} qnet_kind;

typedef struct qnet_sema_value qnet_sema_value;
struct qnet_sema_value {
  qnet_kind kind;
  int count;          /* LIST */
  const char *name;   /* what the source calls it; NULL for the result of an expression */
  const char *origin; /* "defined here": what the name's place is called */
  qnet_loc name_loc;  /* where the name was given */
  qnet_loc loc;       /* the expression that was evaluated */
  union {
    int64_t i;
    double f;
    bool b;
    const char *s;
    const qnet_sema_value *items;
    qnet_value *tensor;
    const qnet_quant_spec *quant; /* quantizer NULL: none */
  };
};

#define QNET_POISON ((qnet_sema_value){.kind = QNET_KIND_POISON})

static inline bool qnet_is_poison(const qnet_sema_value *v) {
  return v->kind == QNET_KIND_POISON;
}

/* "an integer", "a tensor", ... */
const char *qnet_kind_name(qnet_kind kind);

/* ---- state ----------------------------------------------------------------------------------- */

typedef struct qnet_binding {
  const char *name;
  qnet_sema_value value;
  qnet_stmt *assign; /* what is marked as used when the name is read; one of the two, or none */
  qnet_param *param;
  struct qnet_binding *next;
} qnet_binding;

/* A name given to a layer or block call, and the numbering of one kind of them. */
typedef struct qnet_taken {
  const char *name;
  qnet_loc loc;
  struct qnet_taken *next;
} qnet_taken;

typedef struct qnet_counter {
  const char *kind;
  int count;
  struct qnet_counter *next;
} qnet_counter;

/* A running net or block. */
typedef struct qnet_frame {
  qnet_block *block;
  struct qnet_frame *caller; /* NULL: the net */
  qnet_loc call_loc;
  const char *path; /* prefix of its layers: "", "basic1." */
  qnet_binding *bindings;
  int binding_count;
  qnet_taken *taken;
  qnet_counter *counters;
  const qnet_quant_spec *quant; /* of layers called from here that have none of their own */
  int repeats;                  /* repetitions that are open */
  bool returned;
  qnet_sema_value result;
  qnet_loc return_loc;
} qnet_frame;

enum { QNET_SEMA_REPORTED = QNET_SEMA_ERRORS };

typedef struct qnet_sema {
  qnet_arena *arena; /* scratch */
  qnet_diag *diag;
  qnet_file_ast *file;
  qnet_module *module;
  qnet_program *program;
  qnet_builder builder;
  qnet_frame *frame, *net;
  const qnet_stmt *input, *quantize, *train; /* the declarations seen, for "again" */
  int depth, steps, ops, calls, errors;
  qnet_loc reported[QNET_SEMA_REPORTED];
  bool no_memory;
  bool stop; /* out of memory, or over a limit: unwind quickly */
} qnet_sema;

/* ---- sema.c: entry, reports, memory ---------------------------------------------------------- */

/* Analyses file. program->module exists and is empty; overrides are "name=value". */
qnet_status qnet_sema_run(qnet_sema *s, const char *const *overrides, int override_count);

/* Begins an error unless this place was reported already: when true, the caller may add a fix-it,
 * then notes, then calls qnet_sema_end_error, which adds the trail of block calls. */
bool qnet_sema_begin_error(qnet_sema *s, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void qnet_sema_end_error(qnet_sema *s);
/* Both at once. Returns poison, so that `return qnet_sema_error(...)` reads well. */
qnet_sema_value qnet_sema_error(qnet_sema *s, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* An error about a word of which `near` may be the right spelling (NULL: no idea). */
qnet_sema_value qnet_sema_misspelt(qnet_sema *s, qnet_loc loc, const char *near, const char *format,
                                   ...) __attribute__((format(printf, 4, 5)));
/* A note that shows v's shape or kind at the place where it got its name. */
void qnet_sema_note_value(qnet_sema *s, const qnet_sema_value *v);
/* Over a limit of the language: reports and stops the analysis. */
qnet_sema_value qnet_sema_limit(qnet_sema *s, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* From the scratch arena; NULL (and stop) when out of memory. */
void *qnet_sema_alloc(qnet_sema *s, size_t count, size_t size);
/* Text in the module's arena; "" when out of memory. */
const char *qnet_sema_format(qnet_sema *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void qnet_sema_out_of_memory(qnet_sema *s);

/* ---- sema_value.c: shapes and conversions --------------------------------------------------- */

enum { QNET_SHAPE_TEXT = 80 };
/* "[16, 28, 28]": channels, height, width; or "[10]". */
void qnet_sema_shape(const qnet_value *tensor, char text[QNET_SHAPE_TEXT]);
/* "a tensor [16, 28, 28]", "a string", ... */
void qnet_sema_describe(const qnet_sema_value *v, char text[QNET_SHAPE_TEXT]);

qnet_sema_value qnet_sema_int(int64_t i);
qnet_sema_value qnet_sema_tensor(qnet_value *tensor);

/* Arguments as C values. `what` names the argument in messages; each reports what is wrong at
 * v->loc and returns false. An absent or poisoned v leaves *out alone and returns true, false. */
bool qnet_sema_to_int(qnet_sema *s, const qnet_sema_value *v, const char *what, int64_t low,
                      int64_t high, int64_t *out);
bool qnet_sema_to_number(qnet_sema *s, const qnet_sema_value *v, const char *what, double low,
                         double high, double *out);
bool qnet_sema_to_bool(qnet_sema *s, const qnet_sema_value *v, const char *what, bool *out);
/* An integer n as [n, n], or a list [height, width]. */
bool qnet_sema_to_pair(qnet_sema *s, const qnet_sema_value *v, const char *what, int64_t low,
                       int64_t out[2]);
/* An image [C, H, W] (rank 4 in the module). */
bool qnet_sema_to_image(qnet_sema *s, const qnet_sema_value *v, const char *op, qnet_value **out);
bool qnet_sema_to_tensor(qnet_sema *s, const qnet_sema_value *v, const char *op, qnet_value **out);

/* ---- sema_expr.c ---------------------------------------------------------------------------- */

qnet_sema_value qnet_sema_eval(qnet_sema *s, const qnet_expr *e);
/* What a name stands for where the analysis is, or NULL. */
qnet_binding *qnet_sema_find_visible(qnet_sema *s, const char *name);
/* Enters one level of nesting; false when too deep, and then there is nothing to leave. */
bool qnet_sema_enter(qnet_sema *s, qnet_loc loc);
void qnet_sema_leave(qnet_sema *s);

/* ---- sema_stmt.c: names and statements ------------------------------------------------------ */

void qnet_sema_statements(qnet_sema *s, const qnet_stmt_list *list);
qnet_binding *qnet_sema_find(qnet_frame *frame, const char *name);
/* Binds or rebinds; NULL when out of memory or over the limit. */
qnet_binding *qnet_sema_bind(qnet_sema *s, qnet_ident name, const qnet_sema_value *value,
                             const char *origin);

/* ---- sema_call.c: arguments, block calls, names of layers ----------------------------------- */

typedef struct qnet_sema_call {
  qnet_ident callee;
  qnet_loc loc; /* the whole call */
  const qnet_arg_list *args;
  const qnet_sema_value *piped; /* the first argument, or NULL */
} qnet_sema_call;

/* A parameter of a built-in operation, quantizer, optimizer ... */
typedef struct qnet_sema_param {
  const char *name;
  enum { QNET_PARAM_OPTIONAL, QNET_PARAM_REQUIRED, QNET_PARAM_KEYWORD } mode;
} qnet_sema_param;

qnet_sema_value qnet_sema_call_run(qnet_sema *s, const qnet_sema_call *call);
/* Evaluates the arguments of call and sorts them into slot[count] by params; absent ones become
 * QNET_KIND_ABSENT. False after errors and when an argument is poison. */
bool qnet_sema_arguments(qnet_sema *s, const qnet_sema_call *call, const qnet_sema_param *params,
                         int count, qnet_sema_value *slot);
/* The full name of a layer or block instance: the explicit one, or kind and number. NULL after an
 * error. */
const char *qnet_sema_layer_name(qnet_sema *s, const qnet_sema_call *call, const char *kind,
                                 const qnet_sema_value *explicit_name);

/* ---- sema_op*.c: built-in operations -------------------------------------------------------- */

enum { QNET_SEMA_OP_PARAMS = 10 };

typedef struct qnet_sema_op {
  const char *name;
  qnet_sema_param params[QNET_SEMA_OP_PARAMS]; /* ends with a NULL name when there are fewer */
  qnet_sema_value (*build)(qnet_sema *s, const qnet_sema_call *call, const qnet_sema_value *slot);
} qnet_sema_op;

const qnet_sema_op *qnet_sema_op_find(const char *name);
/* The built-in operation whose name is nearest, or NULL. */
const char *qnet_sema_op_nearest(const char *name);

/* Builders, a file for layers with weights and one for the rest. */
qnet_sema_value qnet_sema_conv(qnet_sema *, const qnet_sema_call *, const qnet_sema_value *);
qnet_sema_value qnet_sema_dense(qnet_sema *, const qnet_sema_call *, const qnet_sema_value *);
qnet_sema_value qnet_sema_bn(qnet_sema *, const qnet_sema_call *, const qnet_sema_value *);
/* x + y of equal shapes; also the operation add. */
qnet_sema_value qnet_sema_add(qnet_sema *s, qnet_loc loc, const qnet_sema_value *x,
                              const qnet_sema_value *y);

/* Checks the result's size, builds the operation at loc and counts it. attrs set by the caller on
 * the operation: qnet_value's def. NULL after an error. */
qnet_value *qnet_sema_build(qnet_sema *s, qnet_loc loc, int opcode, qnet_value *const *operands,
                            int operand_count, int rank, const int64_t *dim);
/* Does a tensor of that size stay in the limits? Reports at loc. */
bool qnet_sema_fits(qnet_sema *s, qnet_loc loc, const char *what, int rank, const int64_t *dim);
/* Padding argument: an integer, [top, left, bottom, right], or "same" for a window over h x w;
 * absent means 0. Fills w->pad_*, of which all else is set. */
bool qnet_sema_to_pad(qnet_sema *s, const qnet_sema_value *v, bool allow_same, int64_t h,
                      int64_t width, qnet_window *w);

/* ---- sema_input.c, sema_quantize.c, recipe.c: declarations ---------------------------------- */

void qnet_sema_input(qnet_sema *s, const qnet_stmt *stmt);
void qnet_sema_quantize(qnet_sema *s, const qnet_stmt *stmt);
/* Is that the name of a quantizer, or "none"? */
bool qnet_sema_is_quantizer(const char *name);
/* e where a quantizer is wanted: `lsq(weights = 3)`, `lsq`, `none`, roles, or a name of one. A
 * value of QNET_KIND_QUANTIZER, or poison. */
qnet_sema_value qnet_sema_quantizer(qnet_sema *s, const qnet_expr *e);
bool qnet_sema_same_quantizer(const qnet_quant_spec *a, const qnet_quant_spec *b);
/* The same of a call lsq(weights = 3). */
qnet_sema_value qnet_sema_quantizer_call(qnet_sema *s, const qnet_sema_call *call);
/* Writes the quantizer of a layer to its operation: the argument's, else that of the innermost
 * block that has one; nothing when the net's own holds. */
void qnet_sema_set_quantizer(qnet_sema *s, qnet_op *op, const qnet_sema_value *argument);
void qnet_sema_train(qnet_sema *s, const qnet_stmt *stmt);
/* False (and a message with a note) when `earlier` exists already. */
bool qnet_sema_first(qnet_sema *s, const qnet_stmt *stmt, const qnet_stmt **earlier,
                     const char *what);
void qnet_recipe_defaults(qnet_recipe *r);

#endif
