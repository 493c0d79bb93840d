/* Expressions: static arithmetic with checked overflow, names, fields, pipes. */
#include "frontend/sema.h"

#include <math.h>
#include <string.h>

bool qnet_sema_enter(qnet_sema *s, qnet_loc loc) {
  if (s->stop) return false;
  if (++s->steps > QNET_SEMA_STEPS) {
    qnet_sema_limit(s, loc, "the net takes more than %d steps to build", QNET_SEMA_STEPS);
    return false;
  }
  if (s->depth >= QNET_SEMA_DEPTH) {
    qnet_sema_limit(s, loc, "nested too deeply; give parts of this a name");
    return false;
  }
  s->depth++;
  return true;
}

void qnet_sema_leave(qnet_sema *s) {
  s->depth--;
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

static qnet_sema_value of_bool(bool b) {
  return (qnet_sema_value){.kind = QNET_KIND_BOOL, .b = b};
}

static bool is_number(const qnet_sema_value *v) {
  return v->kind == QNET_KIND_INT || v->kind == QNET_KIND_FLOAT;
}

static double number(const qnet_sema_value *v) {
  return v->kind == QNET_KIND_INT ? (double)v->i : v->f;
}

static qnet_sema_value of_float(qnet_sema *s, qnet_loc loc, double f) {
  if (!isfinite(f)) return qnet_sema_error(s, loc, "the result is not a finite number");
  return (qnet_sema_value){.kind = QNET_KIND_FLOAT, .f = f};
}

static qnet_sema_value int_arithmetic(qnet_sema *s, const qnet_expr *e, int64_t a, int64_t b) {
  int64_t r = 0;
  bool overflow = false;
  switch (e->operation.op) {
  case QNET_BINARY_ADD: overflow = __builtin_add_overflow(a, b, &r); break;
  case QNET_BINARY_SUB: overflow = __builtin_sub_overflow(a, b, &r); break;
  case QNET_BINARY_MUL: overflow = __builtin_mul_overflow(a, b, &r); break;
  default:
    if (b == 0) return qnet_sema_error(s, e->loc, "division by zero");
    overflow = a == INT64_MIN && b == -1;
    if (!overflow) r = e->operation.op == QNET_BINARY_DIV ? a / b : a % b;
  }
  if (overflow) return qnet_sema_error(s, e->loc, "the integer result does not fit in 64 bits");
  return qnet_sema_int(r);
}

static qnet_sema_value float_arithmetic(qnet_sema *s, const qnet_expr *e, double a, double b) {
  switch (e->operation.op) {
  case QNET_BINARY_ADD: return of_float(s, e->loc, a + b);
  case QNET_BINARY_SUB: return of_float(s, e->loc, a - b);
  case QNET_BINARY_MUL: return of_float(s, e->loc, a * b);
  default: break;
  }
  if (b == 0) return qnet_sema_error(s, e->loc, "division by zero");
  return of_float(s, e->loc, e->operation.op == QNET_BINARY_DIV ? a / b : fmod(a, b));
}

/* -1, 0, 1. */
static int order(const qnet_sema_value *a, const qnet_sema_value *b) {
  if (a->kind == QNET_KIND_INT && b->kind == QNET_KIND_INT) return (a->i > b->i) - (a->i < b->i);
  return (number(a) > number(b)) - (number(a) < number(b));
}

static bool equal_items(const qnet_sema_value *a, const qnet_sema_value *b) {
  if (is_number(a) && is_number(b)) return order(a, b) == 0;
  if (a->kind != b->kind) return false;
  if (a->kind == QNET_KIND_STRING) return strcmp(a->s, b->s) == 0;
  if (a->kind == QNET_KIND_QUANTIZER) return qnet_sema_same_quantizer(a->quant, b->quant);
  return a->kind == QNET_KIND_BOOL && a->b == b->b;
}

static bool equal(const qnet_sema_value *a, const qnet_sema_value *b) {
  if (a->kind != QNET_KIND_LIST || b->kind != QNET_KIND_LIST) return equal_items(a, b);
  if (a->count != b->count) return false;
  for (int i = 0; i < a->count; i++)
    if (!equal_items(&a->items[i], &b->items[i])) return false;
  return true;
}

static qnet_sema_value compare(int op, int sign) {
  switch (op) {
  case QNET_BINARY_LT: return of_bool(sign < 0);
  case QNET_BINARY_LE: return of_bool(sign <= 0);
  case QNET_BINARY_GT: return of_bool(sign > 0);
  default: return of_bool(sign >= 0);
  }
}

/* "stage" + 2: names of layers in a repetition. */
static qnet_sema_value concatenate(qnet_sema *s, const qnet_expr *e, const qnet_sema_value *a,
                                   const qnet_sema_value *b) {
  const qnet_sema_value *part[2] = {a, b};
  char digits[2][24];
  const char *text[2];
  for (int i = 0; i < 2; i++) {
    snprintf(digits[i], sizeof digits[i], "%lld", (long long)part[i]->i);
    text[i] = part[i]->kind == QNET_KIND_STRING ? part[i]->s : digits[i];
  }
  if (strlen(text[0]) + strlen(text[1]) > QNET_SEMA_STRING)
    return qnet_sema_error(s, e->loc, "the string is longer than %d bytes", QNET_SEMA_STRING);
  return (qnet_sema_value){.kind = QNET_KIND_STRING,
                           .s = qnet_sema_format(s, "%s%s", text[0], text[1])};
}

static bool is_text(const qnet_sema_value *v) {
  return v->kind == QNET_KIND_STRING || v->kind == QNET_KIND_INT;
}

static qnet_sema_value undefined(qnet_sema *s, const qnet_expr *e, const qnet_sema_value *a,
                                 const qnet_sema_value *b) {
  return qnet_sema_error(s, e->operation.op_loc, "'%s' is not defined for %s and %s",
                         qnet_binary_text((qnet_binary_op)e->operation.op), qnet_kind_name(a->kind),
                         qnet_kind_name(b->kind));
}

static qnet_sema_value binary_values(qnet_sema *s, const qnet_expr *e, const qnet_sema_value *a,
                                     const qnet_sema_value *b) {
  const int op = e->operation.op;
  const bool tensors = a->kind == QNET_KIND_TENSOR && b->kind == QNET_KIND_TENSOR;
  const bool any_tensor = a->kind == QNET_KIND_TENSOR || b->kind == QNET_KIND_TENSOR;
  if (op == QNET_BINARY_ADD && tensors) return qnet_sema_add(s, e->loc, a, b);
  if (any_tensor) return undefined(s, e, a, b);
  if (op == QNET_BINARY_EQ) return of_bool(equal(a, b));
  if (op == QNET_BINARY_NE) return of_bool(!equal(a, b));
  if (op == QNET_BINARY_ADD && is_text(a) && is_text(b) &&
      (a->kind == QNET_KIND_STRING || b->kind == QNET_KIND_STRING))
    return concatenate(s, e, a, b);
  if (!is_number(a) || !is_number(b)) return undefined(s, e, a, b);
  if (op >= QNET_BINARY_LT) return compare(op, order(a, b));
  if (a->kind == QNET_KIND_INT && b->kind == QNET_KIND_INT) return int_arithmetic(s, e, a->i, b->i);
  return float_arithmetic(s, e, number(a), number(b));
}

/* `and`, `or`: the right side is evaluated only when it decides. */
static qnet_sema_value eval_logic(qnet_sema *s, const qnet_expr *e) {
  const char *what =
      e->operation.op == QNET_BINARY_AND ? "the operand of 'and'" : "the operand of 'or'";
  bool value = false;
  const qnet_sema_value left = qnet_sema_eval(s, e->operation.left);
  if (!qnet_sema_to_bool(s, &left, what, &value)) return QNET_POISON;
  if (value == (e->operation.op == QNET_BINARY_OR)) return of_bool(value);
  const qnet_sema_value right = qnet_sema_eval(s, e->operation.right);
  if (!qnet_sema_to_bool(s, &right, what, &value)) return QNET_POISON;
  return of_bool(value);
}

static qnet_sema_value eval_binary(qnet_sema *s, const qnet_expr *e) {
  if (e->operation.op == QNET_BINARY_AND || e->operation.op == QNET_BINARY_OR)
    return eval_logic(s, e);
  const qnet_sema_value a = qnet_sema_eval(s, e->operation.left);
  const qnet_sema_value b = qnet_sema_eval(s, e->operation.right);
  if (qnet_is_poison(&a) || qnet_is_poison(&b)) return QNET_POISON;
  return binary_values(s, e, &a, &b);
}

static qnet_sema_value eval_unary(qnet_sema *s, const qnet_expr *e) {
  const qnet_sema_value v = qnet_sema_eval(s, e->operation.left);
  if (qnet_is_poison(&v)) return v;
  if (e->operation.op == QNET_UNARY_NOT) {
    bool value = false;
    if (!qnet_sema_to_bool(s, &v, "the operand of 'not'", &value)) return QNET_POISON;
    return of_bool(!value);
  }
  if (v.kind == QNET_KIND_FLOAT) return of_float(s, e->loc, -v.f);
  if (v.kind != QNET_KIND_INT)
    return qnet_sema_error(s, e->operation.op_loc, "'-' is not defined for %s",
                           qnet_kind_name(v.kind));
  if (v.i == INT64_MIN)
    return qnet_sema_error(s, e->loc, "the integer result does not fit in 64 bits");
  return qnet_sema_int(-v.i);
}

/* ---- names, lists, fields, pipes ------------------------------------------------------------ */

static qnet_sema_value unknown_name(qnet_sema *s, const qnet_ident *name) {
  bool callable = qnet_sema_op_find(name->text) != NULL;
  for (const qnet_block *b = s->file->blocks.first; b; b = b->next)
    callable = callable || strcmp(b->name.text, name->text) == 0;
  if (callable)
    return qnet_sema_error(s, name->loc, "'%s' is an operation; call it: x |> %s or %s(x, ...)",
                           name->text, name->text, name->text);
  const qnet_binding *outside = qnet_sema_find(s->net, name->text);
  if (outside && s->frame != s->net) {
    if (qnet_sema_begin_error(s, name->loc,
                              "'%s' is not known in block '%s'; pass it as an "
                              "argument",
                              name->text, s->frame->block->name.text)) {
      qnet_sema_note_value(s, &outside->value);
      qnet_sema_end_error(s);
    }
    return QNET_POISON;
  }
  const char *names[QNET_SEMA_NAMES];
  size_t count = 0;
  for (const qnet_binding *b = s->frame->bindings; b && count < QNET_SEMA_NAMES; b = b->next)
    names[count++] = b->name;
  return qnet_sema_misspelt(s, name->loc, qnet_nearest(name->text, names, count),
                            "unknown name '%s'", name->text);
}

/* A block sees its own names; one inside the net sees the net's parameters as well. */
qnet_binding *qnet_sema_find_visible(qnet_sema *s, const char *name) {
  qnet_binding *b = qnet_sema_find(s->frame, name);
  if (b || s->frame == s->net || !s->frame->block->in_net) return b;
  b = qnet_sema_find(s->net, name);
  return b && b->param ? b : NULL;
}

static qnet_sema_value eval_name(qnet_sema *s, const qnet_expr *e) {
  qnet_binding *b = qnet_sema_find_visible(s, e->name.text);
  if (!b && strcmp(e->name.text, "f32") == 0) /* as bits: not quantized */
    return (qnet_sema_value){.kind = QNET_KIND_STRING, .s = "f32"};
  if (!b && qnet_sema_is_quantizer(e->name.text)) return qnet_sema_quantizer(s, e);
  if (!b) return unknown_name(s, &e->name);
  if (b->assign) b->assign->used = true;
  if (b->param) b->param->used = true;
  return b->value;
}

static qnet_sema_value eval_list(qnet_sema *s, const qnet_expr *e) {
  if (e->list.count > QNET_SEMA_LIST)
    return qnet_sema_error(s, e->loc, "a list of more than %d items", QNET_SEMA_LIST);
  qnet_sema_value *items = qnet_sema_alloc(s, (size_t)e->list.count, sizeof *items);
  if (!items) return QNET_POISON;
  int count = 0;
  bool poison = false;
  for (const qnet_expr *x = e->list.first; x; x = x->next) {
    const qnet_sema_value v = qnet_sema_eval(s, x);
    if (v.kind >= QNET_KIND_LIST)
      qnet_sema_error(s, x->loc, "a list holds numbers, strings and booleans, not %ss",
                      qnet_kind_name(v.kind) + sizeof "a");
    poison = poison || qnet_is_poison(&v) || v.kind >= QNET_KIND_LIST;
    items[count++] = v;
  }
  if (poison) return QNET_POISON;
  return (qnet_sema_value){.kind = QNET_KIND_LIST, .count = count, .items = items};
}

static qnet_sema_value eval_field(qnet_sema *s, const qnet_expr *e) {
  static const char *const fields[] = {"channels", "height", "width"};
  const qnet_sema_value v = qnet_sema_eval(s, e->field.base);
  if (qnet_is_poison(&v)) return v;
  if (v.kind != QNET_KIND_TENSOR || !v.tensor)
    return qnet_sema_error(s, e->field.field.loc, "only tensors have '.%s'; this is %s",
                           e->field.field.text, qnet_kind_name(v.kind));
  const qnet_type *t = v.tensor->type;
  const char *name = e->field.field.text;
  if (strcmp(name, "channels") == 0) return qnet_sema_int(t->dim[t->rank - 1]);
  const bool height = strcmp(name, "height") == 0;
  if (!height && strcmp(name, "width") != 0)
    return qnet_sema_misspelt(s, e->field.field.loc, qnet_nearest(name, fields, 3),
                              "a tensor has channels, height and width, not '%s'", name);
  if (t->rank == 4) return qnet_sema_int(t->dim[height ? 1 : 2]);
  char shape[QNET_SHAPE_TEXT];
  qnet_sema_shape(v.tensor, shape);
  if (qnet_sema_begin_error(s, e->field.field.loc, "a tensor %s has no %s", shape, name)) {
    qnet_sema_note_value(s, &v);
    qnet_sema_end_error(s);
  }
  return QNET_POISON;
}

static qnet_sema_value eval_pipe(qnet_sema *s, const qnet_expr *e) {
  qnet_sema_value v = qnet_sema_eval(s, e->list.first);
  for (const qnet_expr *stage = e->list.first->next; stage; stage = stage->next) {
    if (qnet_is_poison(&v) || s->stop) return QNET_POISON;
    const qnet_sema_call call = {
        .callee = stage->call.callee, .loc = stage->loc, .args = &stage->call.args, .piped = &v};
    if (!qnet_sema_enter(s, stage->loc)) return QNET_POISON;
    qnet_sema_value next = qnet_sema_call_run(s, &call);
    qnet_sema_leave(s);
    next.name = NULL;
    next.loc = stage->loc;
    v = next;
  }
  return v;
}

static qnet_sema_value eval_call(qnet_sema *s, const qnet_expr *e) {
  const qnet_sema_call call = {
      .callee = e->call.callee, .loc = e->loc, .args = &e->call.args, .piped = NULL};
  return qnet_sema_call_run(s, &call);
}

static qnet_sema_value eval(qnet_sema *s, const qnet_expr *e) {
  switch (e->kind) {
  case QNET_EXPR_INT: return qnet_sema_int(e->i);
  case QNET_EXPR_FLOAT: return (qnet_sema_value){.kind = QNET_KIND_FLOAT, .f = e->f};
  case QNET_EXPR_BOOL: return of_bool(e->b);
  case QNET_EXPR_STRING: return (qnet_sema_value){.kind = QNET_KIND_STRING, .s = e->s};
  case QNET_EXPR_LIST: return eval_list(s, e);
  case QNET_EXPR_NAME: return eval_name(s, e);
  case QNET_EXPR_FIELD: return eval_field(s, e);
  case QNET_EXPR_CALL: return eval_call(s, e);
  case QNET_EXPR_PIPE: return eval_pipe(s, e);
  case QNET_EXPR_UNARY: return eval_unary(s, e);
  case QNET_EXPR_BINARY: return eval_binary(s, e);
  }
  return QNET_POISON;
}

qnet_sema_value qnet_sema_eval(qnet_sema *s, const qnet_expr *e) {
  if (!qnet_sema_enter(s, e->loc)) return QNET_POISON;
  qnet_sema_value v = eval(s, e);
  qnet_sema_leave(s);
  v.loc = e->loc;
  if (e->kind != QNET_EXPR_NAME) v.name = NULL;
  return v;
}
