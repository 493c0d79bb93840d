/* Constructors of the syntax tree. */
#include "frontend/ast.h"

const char *qnet_binary_text(qnet_binary_op op) {
  static const char *const text[] = {
      [QNET_BINARY_ADD] = "+", [QNET_BINARY_SUB] = "-", [QNET_BINARY_MUL] = "*",
      [QNET_BINARY_DIV] = "/", [QNET_BINARY_REM] = "%", [QNET_BINARY_EQ] = "==",
      [QNET_BINARY_NE] = "!=", [QNET_BINARY_LT] = "<",  [QNET_BINARY_LE] = "<=",
      [QNET_BINARY_GT] = ">",  [QNET_BINARY_GE] = ">=", [QNET_BINARY_AND] = "and",
      [QNET_BINARY_OR] = "or",
  };
  return text[op];
}

qnet_expr *qnet_expr_new(qnet_arena *arena, qnet_expr_kind kind, qnet_loc loc) {
  qnet_expr *e = qnet_arena_alloc(arena, sizeof *e);
  if (!e) return NULL;
  e->kind = kind;
  e->loc = loc;
  return e;
}

qnet_expr *qnet_expr_int(qnet_arena *arena, qnet_loc loc, int64_t value) {
  qnet_expr *e = qnet_expr_new(arena, QNET_EXPR_INT, loc);
  if (e) e->i = value;
  return e;
}

qnet_expr *qnet_expr_call(qnet_arena *arena, qnet_loc loc, qnet_ident callee, qnet_arg_list args) {
  qnet_expr *e = qnet_expr_new(arena, QNET_EXPR_CALL, loc);
  if (!e) return NULL;
  e->call.callee = callee;
  e->call.args = args;
  return e;
}

qnet_expr *qnet_expr_unary(qnet_arena *arena, qnet_loc loc, qnet_unary_op op, qnet_loc op_loc,
                           qnet_expr *operand) {
  qnet_expr *e = qnet_expr_new(arena, QNET_EXPR_UNARY, loc);
  if (!e) return NULL;
  e->operation.op = (int)op;
  e->operation.op_loc = op_loc;
  e->operation.left = operand;
  return e;
}

qnet_expr *qnet_expr_binary(qnet_arena *arena, qnet_loc loc, qnet_binary_op op, qnet_loc op_loc,
                            qnet_expr *left, qnet_expr *right) {
  qnet_expr *e = qnet_expr_new(arena, QNET_EXPR_BINARY, loc);
  if (!e) return NULL;
  e->operation.op = (int)op;
  e->operation.op_loc = op_loc;
  e->operation.left = left;
  e->operation.right = right;
  return e;
}

qnet_expr *qnet_expr_pipe(qnet_arena *arena, qnet_loc loc, qnet_expr *left, qnet_expr *stage) {
  if (!left || !stage) return NULL;
  qnet_expr *pipe = left;
  if (left->kind != QNET_EXPR_PIPE) {
    pipe = qnet_expr_new(arena, QNET_EXPR_PIPE, loc);
    if (!pipe) return NULL;
    qnet_expr_append(&pipe->list, left);
  }
  qnet_expr_append(&pipe->list, stage);
  pipe->loc = loc;
  return pipe;
}

qnet_stmt *qnet_stmt_new(qnet_arena *arena, qnet_stmt_kind kind, qnet_loc loc) {
  qnet_stmt *s = qnet_arena_alloc(arena, sizeof *s);
  if (!s) return NULL;
  s->kind = kind;
  s->loc = loc;
  return s;
}

qnet_arg *qnet_arg_new(qnet_arena *arena, qnet_ident name, qnet_expr *value) {
  qnet_arg *a = qnet_arena_alloc(arena, sizeof *a);
  if (!a) return NULL;
  a->name = name;
  a->value = value;
  return a;
}

qnet_param *qnet_param_new(qnet_arena *arena, qnet_ident name, qnet_expr *value) {
  qnet_param *p = qnet_arena_alloc(arena, sizeof *p);
  if (!p) return NULL;
  p->name = name;
  p->value = value;
  return p;
}

qnet_setting *qnet_setting_new(qnet_arena *arena, qnet_ident name, qnet_expr_list values) {
  qnet_setting *s = qnet_arena_alloc(arena, sizeof *s);
  if (!s) return NULL;
  s->name = name;
  s->values = values;
  return s;
}

qnet_block *qnet_block_new(qnet_arena *arena, qnet_ident name, qnet_param_list params,
                           qnet_stmt_list body) {
  qnet_block *b = qnet_arena_alloc(arena, sizeof *b);
  if (!b) return NULL;
  b->name = name;
  b->params = params;
  b->body = body;
  return b;
}

/* All lists are singly linked with a tail pointer. */
#define APPEND(list, item)                                                                         \
  do {                                                                                             \
    if (!(item)) return;                                                                           \
    if ((list)->last)                                                                              \
      (list)->last->next = (item);                                                                 \
    else                                                                                           \
      (list)->first = (item);                                                                      \
    (list)->last = (item);                                                                         \
  } while (0)

void qnet_expr_append(qnet_expr_list *list, qnet_expr *item) {
  APPEND(list, item);
  list->count++;
}

void qnet_arg_append(qnet_arg_list *list, qnet_arg *item) {
  APPEND(list, item);
}

void qnet_stmt_append(qnet_stmt_list *list, qnet_stmt *item) {
  APPEND(list, item);
}

void qnet_param_append(qnet_param_list *list, qnet_param *item) {
  APPEND(list, item);
  list->count++;
}

void qnet_setting_append(qnet_setting_list *list, qnet_setting *item) {
  APPEND(list, item);
}

void qnet_block_append(qnet_block_list *list, qnet_block *item) {
  APPEND(list, item);
  list->count++;
}
