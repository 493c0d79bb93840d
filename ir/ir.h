/* The intermediate representation: types, values, operations, regions, symbols, modules.
 *
 * One set of data structures serves four levels (nn, quant, bits, loop); a level is a set of legal
 * operations (ir/ops.h). A region is one straight block that ends in `yield`; there is no control
 * flow graph. Everything of a module lives in its arena and dies with it; only blobs (weights) are
 * counted references outside. docs/ir.md describes the text form.
 *
 * Out of memory: constructors return NULL and set module->failed; they accept NULL inputs and pass
 * NULL on, so that a builder may check `module->failed` once at its end. */
#ifndef QNET_IR_IR_H
#define QNET_IR_IR_H

#include "ir/blob.h"
#include "support/alloc.h"
#include "support/diag.h"
#include <stdbool.h>

typedef struct qnet_module qnet_module;
typedef struct qnet_op qnet_op;
typedef struct qnet_value qnet_value;
typedef struct qnet_region qnet_region;
typedef struct qnet_symbol qnet_symbol;

typedef enum { QNET_LEVEL_NN, QNET_LEVEL_QUANT, QNET_LEVEL_BITS, QNET_LEVEL_LOOP } qnet_level;
const char *qnet_level_name(qnet_level level); /* "nn", "quant", "bits", "loop" */

/* ---- types: interned in their module, compared by pointer ---------------------------------- */

enum { QNET_MAX_RANK = 6, QNET_MAX_NESTING = 64 /* regions in regions */ };

typedef enum {
  QNET_TYPE_TENSOR, /* tensor<1x28x28x1xf32>; of codes: tensor<1x7x7x64xq2:@table> */
  QNET_TYPE_PLANES, /* planes<1x7x7x64,2>: 2 bit planes of an N,H,W,C tensor of 64 channels */
  QNET_TYPE_SCALAR, /* i32 */
  QNET_TYPE_VECTOR, /* vec<16xi32> */
  QNET_TYPE_BUFFER, /* buf<30x30x2xi32>: memory at the loop level, row-major */
} qnet_type_kind;

typedef struct qnet_type {
  qnet_type_kind kind;
  qnet_dtype dtype; /* element; QNET_CODE for codes; QNET_U64 for planes */
  int bits;         /* width of a code, or number of planes; else 0 */
  int rank;         /* 0 for scalars; 1 for vectors */
  int64_t dim[QNET_MAX_RANK];
  const char *table; /* codes: name of the level table's symbol; else NULL */
} qnet_type;

const qnet_type *qnet_type_tensor(qnet_module *m, qnet_dtype dtype, int rank, const int64_t *dim);
const qnet_type *qnet_type_codes(qnet_module *m, int bits, const char *table, int rank,
                                 const int64_t *dim);
const qnet_type *qnet_type_planes(qnet_module *m, int planes, int rank, const int64_t *dim);
const qnet_type *qnet_type_scalar(qnet_module *m, qnet_dtype dtype);
const qnet_type *qnet_type_vector(qnet_module *m, qnet_dtype dtype, int64_t lanes);
const qnet_type *qnet_type_buffer(qnet_module *m, qnet_dtype dtype, int rank, const int64_t *dim);
/* The product of the dimensions (1 for rank 0). */
int64_t qnet_type_elements(const qnet_type *type);
/* Bytes of one element as the interpreters and buffers hold it (codes: 1). */
int64_t qnet_type_bytes(const qnet_type *type);
/* The same type with dim[0] replaced (the batch). */
const qnet_type *qnet_type_with_batch(qnet_module *m, const qnet_type *type, int64_t batch);
/* The same type in m, of whatever module it is. */
const qnet_type *qnet_type_import(qnet_module *m, const qnet_type *type);
/* Equal in all parts; for types of different modules (of one module: compare pointers). */
bool qnet_type_equal(const qnet_type *a, const qnet_type *b);
/* The shape of the blob that holds a value of the type; returns its rank. Planes of N,H,W,C become
 * N,H,W,P,ceil(C/64) words. */
int qnet_type_blob_shape(const qnet_type *type, int64_t dim[QNET_BLOB_MAX_RANK]);
/* A zeroed blob for a value of the type; NULL when out of memory. */
qnet_blob *qnet_type_new_blob(const qnet_allocator *a, const qnet_type *type);

/* ---- attributes ------------------------------------------------------------------------------ */

typedef enum {
  QNET_ATTR_INT,
  QNET_ATTR_FLOAT, /* f64 */
  QNET_ATTR_STRING,
  QNET_ATTR_SYMBOL, /* @name */
  QNET_ATTR_INTS,
  QNET_ATTR_FLOATS,
} qnet_attr_kind;

typedef struct qnet_attr {
  const char *name;
  qnet_attr_kind kind;
  int count; /* of lists */
  union {
    int64_t i;
    double f;
    const char *s; /* string, symbol */
    const int64_t *ints;
    const double *floats;
  };
  struct qnet_attr *next;
} qnet_attr;

/* ---- values, operations, regions ------------------------------------------------------------- */

typedef struct qnet_use {
  qnet_op *op;
  int index; /* op->operand[index] is the value */
  struct qnet_use *next;
} qnet_use;

struct qnet_value {
  const qnet_type *type;
  qnet_op *def;        /* the operation that makes it; NULL for a region argument */
  qnet_region *region; /* of an argument: its region; else NULL */
  int index;           /* result or argument number */
  qnet_use *uses;
  const char *name; /* a hint for printing ("image"), or NULL */
  int id;           /* scratch for printers and interpreters: dense numbering */
};

struct qnet_op {
  int opcode; /* enum qnet_opcode, ir/ops.h */
  qnet_loc loc;
  int operand_count, result_count, region_count;
  qnet_value **operand;
  qnet_value *result; /* array of result_count */
  qnet_region **region;
  qnet_attr *attrs;     /* in the order they were set */
  qnet_op *prev, *next; /* in its region */
  qnet_region *parent;
};

struct qnet_region {
  qnet_op *parent;       /* NULL: the body of a function */
  qnet_symbol *function; /* the function it is in */
  int arg_count;
  qnet_value *arg;
  qnet_op *first, *last;
};

/* ---- symbols and modules --------------------------------------------------------------------- */

typedef enum {
  QNET_SYMBOL_FUNC,
  QNET_SYMBOL_CONST,
  QNET_SYMBOL_STATE,
  QNET_SYMBOL_TABLE
} qnet_symbol_kind;

enum { QNET_F32_BITS = 32 }; /* the bits of weights or activations that are not quantized */

/* A frozen quantizer (docs/numbers.md): code = perm[#{k : x > threshold_k}],
 * value = scale * level[code]. Per layer (channels == 1) or per output channel. */
typedef struct qnet_table {
  int bits;         /* 2^bits codes; 1..8 */
  int codes;        /* number of levels in use: 2^bits, or fewer (signed 8 bit has 255) */
  int channels;     /* 1 or the number of output channels */
  float *threshold; /* [channels][codes - 1] ascending; NULL for weights, whose codes are stored */
  uint8_t *perm;    /* [codes] rank -> code, the same for all channels; NULL with threshold NULL */
  int32_t *level;   /* [channels][codes], by code; -127..127 */
  float *scale;     /* [channels], > 0 */
} qnet_table;

/* The value that a table of an activation gives to a rank. */
static inline float qnet_table_value(const qnet_table *t, int rank) {
  return t->scale[0] * (float)t->level[t->perm[rank]];
}

struct qnet_symbol {
  qnet_symbol_kind kind;
  const char *name; /* without '@' */
  qnet_loc loc;
  qnet_symbol *next;     /* in order of creation */
  const qnet_type *type; /* const, state: type of its content */
  qnet_blob *blob;       /* const, state: content, a reference held; NULL = not loaded */
  const char *origin;    /* const, state: "file#tensor" as written in the text, or NULL */
  qnet_table *table;     /* table */
  qnet_region *body;     /* func: arguments are body->arg, results are the operands of its yield */
  bool live;             /* scratch of qnet_module_sweep */
};

struct qnet_module {
  qnet_level level;
  const char *name;
  qnet_arena arena;
  const qnet_allocator *allocator;
  qnet_symbol *first_symbol, *last_symbol;
  bool failed;                    /* an allocation failed while building */
  struct qnet_interned *interned; /* types and strings */
};

/* NULL when out of memory. */
qnet_module *qnet_module_create(const qnet_allocator *a, const char *name, qnet_level level);
void qnet_module_destroy(qnet_module *m); /* NULL is fine; drops its blob references */
/* A deep copy that shares the blobs. */
qnet_module *qnet_module_clone(const qnet_module *m);

/* The one copy of a text in the module (compare by strcmp or pointer). */
const char *qnet_module_string(qnet_module *m, const char *text);

qnet_symbol *qnet_symbol_find(const qnet_module *m, const char *name);
/* Fails (NULL, no diagnostic) when the name is taken. */
qnet_symbol *qnet_symbol_add_func(qnet_module *m, const char *name, const qnet_type *const *args,
                                  int arg_count, qnet_loc loc);
/* Takes its own reference on blob (may be NULL). kind is CONST or STATE. */
qnet_symbol *qnet_symbol_add_data(qnet_module *m, qnet_symbol_kind kind, const char *name,
                                  const qnet_type *type, qnet_blob *blob, qnet_loc loc);
/* An empty table of that size in the module's arena, its arrays allocated (threshold and perm only
 * `with_thresholds`). */
qnet_symbol *qnet_symbol_add_table(qnet_module *m, const char *name, int bits, int codes,
                                   int channels, bool with_thresholds, qnet_loc loc);
void qnet_symbol_set_blob(qnet_symbol *s, qnet_blob *blob); /* takes a reference, drops the old */
void qnet_symbol_remove(qnet_module *m, qnet_symbol *s);

/* ---- building and changing ------------------------------------------------------------------- */

/* Where new operations go: before `before`, or at the end of `region` when that is NULL. */
typedef struct qnet_builder {
  qnet_module *module;
  qnet_region *region;
  qnet_op *before;
  qnet_loc loc; /* given to new operations */
} qnet_builder;

qnet_builder qnet_builder_at_end(qnet_module *m, qnet_region *region);
qnet_builder qnet_builder_before(qnet_module *m, qnet_op *op);
qnet_builder qnet_builder_after(qnet_module *m, qnet_op *op);

qnet_op *qnet_build(qnet_builder *b, int opcode, qnet_value *const *operands, int operand_count,
                    const qnet_type *const *results, int result_count);
/* The usual case of one result; returns it. */
qnet_value *qnet_build1(qnet_builder *b, int opcode, qnet_value *const *operands, int operand_count,
                        const qnet_type *result);
/* Adds an empty region with arguments to an operation. */
qnet_region *qnet_op_add_region(qnet_module *m, qnet_op *op, const qnet_type *const *args,
                                int arg_count);
/* read @symbol / write @symbol / yield */
qnet_value *qnet_build_read(qnet_builder *b, const qnet_symbol *symbol);
void qnet_build_write(qnet_builder *b, const qnet_symbol *symbol, qnet_value *value);
void qnet_build_yield(qnet_builder *b, qnet_value *const *values, int count);

qnet_value *qnet_op_result(qnet_op *op, int index); /* NULL op gives NULL */
void qnet_op_set_operand(qnet_module *m, qnet_op *op, int index, qnet_value *value);
/* All uses of `from` become uses of `to`. */
void qnet_value_replace(qnet_module *m, qnet_value *from, qnet_value *to);
int qnet_value_use_count(const qnet_value *v);
/* The only operation that uses v, or NULL when there are none or several. */
qnet_op *qnet_value_single_user(const qnet_value *v);
/* Unlinks the operation (no result may be in use) and drops its operand uses. */
void qnet_op_erase(qnet_op *op);
/* Unlinks and puts it before `before`, or last in `region`. */
void qnet_op_move(qnet_op *op, qnet_region *region, qnet_op *before);
/* Copies an operation (regions too) to the builder's place; map[value->id] gives the operands and
 * receives the results and inner values (of one numbering, qnet_function_number_values). Values
 * whose entry is NULL stay as they are. NULL when out of memory. */
qnet_op *qnet_op_clone(qnet_builder *b, const qnet_op *op, qnet_value **map);
/* The operation after `op` within `root`, in program order, nested ones included; NULL at the end.
 * Start with root->first. */
qnet_op *qnet_op_walk(const qnet_op *op, const qnet_region *root);
/* Numbers all values of a function densely from 0; returns their count. */
int qnet_function_number_values(const qnet_symbol *function);
/* Erases pure operations without uses, and symbols that no operation names (not functions). */
void qnet_module_sweep(qnet_module *m);

void qnet_op_set_int(qnet_module *m, qnet_op *op, const char *name, int64_t v);
void qnet_op_set_float(qnet_module *m, qnet_op *op, const char *name, double v);
void qnet_op_set_string(qnet_module *m, qnet_op *op, const char *name, const char *v);
void qnet_op_set_symbol(qnet_module *m, qnet_op *op, const char *name, const char *v);
void qnet_op_set_ints(qnet_module *m, qnet_op *op, const char *name, const int64_t *v, int n);
void qnet_op_set_floats(qnet_module *m, qnet_op *op, const char *name, const double *v, int n);
/* NULL when absent. */
const qnet_attr *qnet_op_attr(const qnet_op *op, const char *name);
int64_t qnet_op_int(const qnet_op *op, const char *name, int64_t otherwise);
double qnet_op_float(const qnet_op *op, const char *name, double otherwise);
const char *qnet_op_string(const qnet_op *op, const char *name); /* or symbol; NULL when absent */
/* The symbol that the attribute names ("sym" of read, write; "table"), or NULL. */
qnet_symbol *qnet_op_symbol(const qnet_module *m, const qnet_op *op, const char *name);

#endif
