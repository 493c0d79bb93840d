/* Values of the analysis: how they are called in messages, and their use as arguments. */
#include "frontend/sema.h"

#include <string.h>

const char *qnet_kind_name(qnet_kind kind) {
  switch (kind) {
  case QNET_KIND_ABSENT: return "nothing";
  case QNET_KIND_POISON: return "an error";
  case QNET_KIND_INT: return "an integer";
  case QNET_KIND_FLOAT: return "a number";
  case QNET_KIND_BOOL: return "true or false";
  case QNET_KIND_STRING: return "a string";
  case QNET_KIND_LIST: return "a list";
  case QNET_KIND_TENSOR: return "a tensor";
  case QNET_KIND_QUANTIZER: return "a quantizer";
  }
  return "?";
}

/* In memory N,H,W,C; to the user C,H,W. */
void qnet_sema_shape(const qnet_value *tensor, char text[QNET_SHAPE_TEXT]) {
  const qnet_type *t = tensor->type;
  if (t->rank == 4)
    snprintf(text, QNET_SHAPE_TEXT, "[%lld, %lld, %lld]", (long long)t->dim[3],
             (long long)t->dim[1], (long long)t->dim[2]);
  else
    snprintf(text, QNET_SHAPE_TEXT, "[%lld]", (long long)t->dim[1]);
}

void qnet_sema_describe(const qnet_sema_value *v, char text[QNET_SHAPE_TEXT]) {
  switch (v->kind) {
  case QNET_KIND_TENSOR:
    if (v->tensor)
      qnet_sema_shape(v->tensor, text);
    else
      snprintf(text, QNET_SHAPE_TEXT, "a tensor");
    break;
  case QNET_KIND_INT: snprintf(text, QNET_SHAPE_TEXT, "the integer %lld", (long long)v->i); break;
  case QNET_KIND_FLOAT: snprintf(text, QNET_SHAPE_TEXT, "the number %g", v->f); break;
  case QNET_KIND_BOOL: snprintf(text, QNET_SHAPE_TEXT, "%s", v->b ? "true" : "false"); break;
  case QNET_KIND_STRING: snprintf(text, QNET_SHAPE_TEXT, "the string \"%.40s\"", v->s); break;
  case QNET_KIND_LIST: snprintf(text, QNET_SHAPE_TEXT, "a list of %d", v->count); break;
  default: snprintf(text, QNET_SHAPE_TEXT, "%s", qnet_kind_name(v->kind));
  }
}

qnet_sema_value qnet_sema_int(int64_t i) {
  return (qnet_sema_value){.kind = QNET_KIND_INT, .i = i};
}

qnet_sema_value qnet_sema_tensor(qnet_value *tensor) {
  return (qnet_sema_value){.kind = QNET_KIND_TENSOR, .tensor = tensor};
}

/* What `what` must be, against what v is. */
static bool mismatch(qnet_sema *s, const qnet_sema_value *v, const char *what, const char *wanted) {
  if (qnet_is_poison(v)) return false;
  char is[QNET_SHAPE_TEXT];
  qnet_sema_describe(v, is);
  qnet_sema_error(s, v->loc, "%s must be %s, not %s", what, wanted, is);
  return false;
}

bool qnet_sema_to_int(qnet_sema *s, const qnet_sema_value *v, const char *what, int64_t low,
                      int64_t high, int64_t *out) {
  if (v->kind == QNET_KIND_ABSENT) return true;
  if (v->kind != QNET_KIND_INT) return mismatch(s, v, what, "an integer");
  if (v->i < low || v->i > high) {
    qnet_sema_error(s, v->loc, "%s must be in %lld..%lld, not %lld", what, (long long)low,
                    (long long)high, (long long)v->i);
    return false;
  }
  *out = v->i;
  return true;
}

bool qnet_sema_to_number(qnet_sema *s, const qnet_sema_value *v, const char *what, double low,
                         double high, double *out) {
  if (v->kind == QNET_KIND_ABSENT) return true;
  if (v->kind != QNET_KIND_INT && v->kind != QNET_KIND_FLOAT)
    return mismatch(s, v, what, "a number");
  const double value = v->kind == QNET_KIND_INT ? (double)v->i : v->f;
  if (!(value >= low && value <= high)) {
    qnet_sema_error(s, v->loc, "%s must be in %g..%g, not %g", what, low, high, value);
    return false;
  }
  *out = value;
  return true;
}

bool qnet_sema_to_bool(qnet_sema *s, const qnet_sema_value *v, const char *what, bool *out) {
  if (v->kind == QNET_KIND_ABSENT) return true;
  if (v->kind != QNET_KIND_BOOL) return mismatch(s, v, what, "true or false");
  *out = v->b;
  return true;
}

bool qnet_sema_to_pair(qnet_sema *s, const qnet_sema_value *v, const char *what, int64_t low,
                       int64_t out[2]) {
  if (v->kind == QNET_KIND_ABSENT) return true;
  if (v->kind == QNET_KIND_INT) {
    if (!qnet_sema_to_int(s, v, what, low, QNET_SEMA_DIM, &out[0])) return false;
    out[1] = out[0];
    return true;
  }
  if (v->kind != QNET_KIND_LIST || v->count != 2)
    return mismatch(s, v, what, "an integer or [height, width]");
  return qnet_sema_to_int(s, &v->items[0], what, low, QNET_SEMA_DIM, &out[0]) &&
         qnet_sema_to_int(s, &v->items[1], what, low, QNET_SEMA_DIM, &out[1]);
}

bool qnet_sema_to_tensor(qnet_sema *s, const qnet_sema_value *v, const char *op, qnet_value **out) {
  if (qnet_is_poison(v)) return false;
  if (v->kind == QNET_KIND_TENSOR) {
    *out = v->tensor;
    return v->tensor != NULL;
  }
  char is[QNET_SHAPE_TEXT];
  qnet_sema_describe(v, is);
  qnet_sema_error(s, v->loc, "'%s' needs a tensor, not %s", op, is);
  return false;
}

bool qnet_sema_to_image(qnet_sema *s, const qnet_sema_value *v, const char *op, qnet_value **out) {
  if (!qnet_sema_to_tensor(s, v, op, out)) return false;
  if ((*out)->type->rank == 4) return true;
  char shape[QNET_SHAPE_TEXT];
  qnet_sema_shape(*out, shape);
  if (qnet_sema_begin_error(s, s->builder.loc, "'%s' needs a tensor [C, H, W], not %s", op,
                            shape)) {
    qnet_sema_note_value(s, v);
    qnet_sema_end_error(s);
  }
  return false;
}
