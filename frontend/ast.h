/* The syntax tree of a .qnet file.
 *
 * Nodes live in the arena of the parse and are linked into lists through `next`. Constructors
 * return NULL when out of memory and accept NULL parts, so that the grammar needs no checks; the
 * parse fails as a whole afterwards. The tree is what the source says: names are not resolved and
 * nothing is computed before semantic analysis (sema.h), which runs blocks once for each call. */
#ifndef QNET_FRONTEND_AST_H
#define QNET_FRONTEND_AST_H

#include "support/diag.h"

typedef enum {
  QNET_EXPR_INT,
  QNET_EXPR_FLOAT,
  QNET_EXPR_BOOL,
  QNET_EXPR_STRING,
  QNET_EXPR_LIST,   /* [a, b]; also 3x3, which is the list [3, 3] */
  QNET_EXPR_NAME,   /* x */
  QNET_EXPR_FIELD,  /* x.channels */
  QNET_EXPR_CALL,   /* f(a, k = b) */
  QNET_EXPR_PIPE,   /* x |> f |> g(a): one node however long */
  QNET_EXPR_UNARY,  /* -a, not a */
  QNET_EXPR_BINARY, /* a + b ... a or b */
} qnet_expr_kind;

typedef enum {
  QNET_BINARY_ADD,
  QNET_BINARY_SUB,
  QNET_BINARY_MUL,
  QNET_BINARY_DIV,
  QNET_BINARY_REM,
  QNET_BINARY_EQ,
  QNET_BINARY_NE,
  QNET_BINARY_LT,
  QNET_BINARY_LE,
  QNET_BINARY_GT,
  QNET_BINARY_GE,
  QNET_BINARY_AND,
  QNET_BINARY_OR,
} qnet_binary_op;

/* The operator as written. */
const char *qnet_binary_text(qnet_binary_op op);

typedef enum { QNET_UNARY_MINUS, QNET_UNARY_NOT } qnet_unary_op;

typedef struct qnet_expr qnet_expr;
typedef struct qnet_stmt qnet_stmt;

/* An identifier with its place. */
typedef struct qnet_ident {
  const char *text;
  qnet_loc loc;
} qnet_ident;

typedef struct qnet_arg {
  qnet_ident name; /* text NULL: positional */
  qnet_expr *value;
  struct qnet_arg *next;
} qnet_arg;

typedef struct qnet_arg_list {
  qnet_arg *first, *last;
} qnet_arg_list;

typedef struct qnet_expr_list {
  qnet_expr *first, *last;
  int count;
} qnet_expr_list;

struct qnet_expr {
  qnet_expr_kind kind;
  qnet_loc loc;
  union {
    int64_t i;
    double f;
    bool b;
    const char *s;       /* STRING */
    qnet_ident name;     /* NAME */
    qnet_expr_list list; /* LIST; PIPE: the source value, then its stages (NAME or CALL) */
    struct {
      qnet_ident callee;
      qnet_arg_list args;
    } call;
    struct {
      qnet_expr *base;
      qnet_ident field;
    } field;
    struct {
      int op; /* qnet_unary_op or qnet_binary_op */
      qnet_loc op_loc;
      qnet_expr *left, *right; /* UNARY: left alone */
    } operation;
  };
  qnet_expr *next; /* in a list */
};

typedef struct qnet_stmt_list {
  qnet_stmt *first, *last;
} qnet_stmt_list;

typedef enum {
  QNET_STMT_ASSIGN,
  QNET_STMT_RETURN,
  QNET_STMT_REPEAT,
  QNET_STMT_IF,
  QNET_STMT_QUANTIZE,
  QNET_STMT_INPUT, /* these two only directly in a net */
  QNET_STMT_TRAIN,
} qnet_stmt_kind;

/* NAME = value {, value} of a training recipe, and the items behind `except` (value may be NULL).
 */
typedef struct qnet_setting {
  qnet_ident name;
  qnet_expr_list values;
  struct qnet_setting *next;
} qnet_setting;

typedef struct qnet_setting_list {
  qnet_setting *first, *last;
} qnet_setting_list;

struct qnet_stmt {
  qnet_stmt_kind kind;
  qnet_loc loc;
  qnet_ident name;  /* ASSIGN: target; REPEAT: index or NULL; INPUT, QUANTIZE: what is declared */
  qnet_expr *value; /* ASSIGN, RETURN; REPEAT: count; IF: condition; INPUT, QUANTIZE: a CALL of the
                       normalization or the quantizer with its arguments, or its NAME, or NULL */
  qnet_stmt_list body, otherwise;
  qnet_ident dtype;            /* INPUT */
  qnet_expr_list shape;        /* INPUT */
  qnet_setting_list settings;  /* TRAIN; QUANTIZE: the exceptions */
  bool executed, used, warned; /* marks of semantic analysis, for warnings */
  qnet_stmt *next;
  qnet_stmt *next_assign; /* all ASSIGN statements of the file */
};

typedef struct qnet_param {
  qnet_ident name;
  qnet_expr *value; /* default, or NULL */
  bool used;
  struct qnet_param *next;
} qnet_param;

typedef struct qnet_param_list {
  qnet_param *first, *last;
  int count;
} qnet_param_list;

/* A block, or a net. */
typedef struct qnet_block {
  qnet_ident name;
  qnet_param_list params;
  qnet_stmt_list body;
  bool in_net; /* declared inside the net: sees the net's parameters */
  bool called;
  struct qnet_block *next;
} qnet_block;

typedef struct qnet_block_list {
  qnet_block *first, *last;
  int count;
} qnet_block_list;

typedef struct qnet_file_ast {
  qnet_block_list nets, blocks;
  qnet_stmt_list trains; /* TRAIN statements outside the net */
  qnet_stmt *assigns;    /* newest first */
  uint32_t buffer;
} qnet_file_ast;

/* Constructors. */
qnet_expr *qnet_expr_new(qnet_arena *arena, qnet_expr_kind kind, qnet_loc loc);
qnet_expr *qnet_expr_int(qnet_arena *arena, qnet_loc loc, int64_t value);
qnet_expr *qnet_expr_call(qnet_arena *arena, qnet_loc loc, qnet_ident callee, qnet_arg_list args);
qnet_expr *qnet_expr_unary(qnet_arena *arena, qnet_loc loc, qnet_unary_op op, qnet_loc op_loc,
                           qnet_expr *operand);
qnet_expr *qnet_expr_binary(qnet_arena *arena, qnet_loc loc, qnet_binary_op op, qnet_loc op_loc,
                            qnet_expr *left, qnet_expr *right);
/* Appends a stage to a pipe; `left` may be any expression. */
qnet_expr *qnet_expr_pipe(qnet_arena *arena, qnet_loc loc, qnet_expr *left, qnet_expr *stage);
qnet_stmt *qnet_stmt_new(qnet_arena *arena, qnet_stmt_kind kind, qnet_loc loc);
qnet_arg *qnet_arg_new(qnet_arena *arena, qnet_ident name, qnet_expr *value);
qnet_param *qnet_param_new(qnet_arena *arena, qnet_ident name, qnet_expr *value);
qnet_setting *qnet_setting_new(qnet_arena *arena, qnet_ident name, qnet_expr_list values);
qnet_block *qnet_block_new(qnet_arena *arena, qnet_ident name, qnet_param_list params,
                           qnet_stmt_list body);

/* Appends; a NULL item is skipped. */
void qnet_expr_append(qnet_expr_list *list, qnet_expr *item);
void qnet_arg_append(qnet_arg_list *list, qnet_arg *item);
void qnet_stmt_append(qnet_stmt_list *list, qnet_stmt *item);
void qnet_param_append(qnet_param_list *list, qnet_param *item);
void qnet_setting_append(qnet_setting_list *list, qnet_setting *item);
void qnet_block_append(qnet_block_list *list, qnet_block *item);

#endif
