/* input NAME: u8[C, H, W] normalize(mean = ..., std = ...) */
#include "frontend/sema.h"

#include <string.h>

static bool input_dtype(qnet_sema *s, const qnet_ident *name, qnet_dtype *dtype) {
  static const char *const names[] = {"u8", "f32"};
  *dtype = strcmp(name->text, "u8") == 0 ? QNET_U8 : QNET_F32;
  if (*dtype == QNET_U8 || strcmp(name->text, "f32") == 0) return true;
  qnet_sema_misspelt(s, name->loc, qnet_nearest(name->text, names, 2),
                     "an input is u8 or f32, not '%s'", name->text);
  return false;
}

/* [C, H, W] of the source as 1,H,W,C. */
static bool input_shape(qnet_sema *s, const qnet_stmt *stmt, int64_t dim[4]) {
  static const int place[3] = {3, 1, 2};
  if (stmt->shape.count != 3) {
    qnet_sema_error(s, stmt->shape.first ? stmt->shape.first->loc : stmt->loc,
                    "the shape of an input is [channels, height, width], not %d numbers",
                    stmt->shape.count);
    return false;
  }
  dim[0] = 1;
  int i = 0;
  for (const qnet_expr *e = stmt->shape.first; e; e = e->next, i++) {
    const qnet_sema_value v = qnet_sema_eval(s, e);
    if (!qnet_sema_to_int(s, &v, "a dimension", 1, QNET_SEMA_DIM, &dim[place[i]])) return false;
  }
  return qnet_sema_fits(s, stmt->loc, "the input", 4, dim);
}

/* A number for all channels, or a list with one a channel. */
static bool per_channel(qnet_sema *s, const qnet_sema_value *v, const char *what, double low,
                        double high, int64_t channels, double *out) {
  if (v->kind != QNET_KIND_LIST) {
    if (!qnet_sema_to_number(s, v, what, low, high, &out[0])) return false;
    for (int64_t c = 1; c < channels; c++)
      out[c] = out[0];
    return true;
  }
  if (v->count != channels) {
    qnet_sema_error(s, v->loc, "%s has %d values for %lld channels", what, v->count,
                    (long long)channels);
    return false;
  }
  for (int64_t c = 0; c < channels; c++)
    if (!qnet_sema_to_number(s, &v->items[c], what, low, high, &out[c])) return false;
  return true;
}

static qnet_value *normalize(qnet_sema *s, const qnet_expr *e, qnet_value *image) {
  static const qnet_sema_param params[] = {{"mean", QNET_PARAM_REQUIRED},
                                           {"std", QNET_PARAM_REQUIRED}};
  const qnet_sema_call call = {.callee = e->call.callee, .loc = e->loc, .args = &e->call.args};
  qnet_sema_value slot[2];
  const int64_t *dim = image->type->dim;
  const int channels = (int)dim[3];
  if (!qnet_sema_arguments(s, &call, params, 2, slot)) return NULL;
  if (channels > QNET_FRONTEND_MAX_NORM) {
    qnet_sema_error(s, e->loc, "'normalize' takes at most %d channels", QNET_FRONTEND_MAX_NORM);
    return NULL;
  }
  double mean[QNET_FRONTEND_MAX_NORM], std[QNET_FRONTEND_MAX_NORM];
  if (!per_channel(s, &slot[0], "'mean'", -1e6, 1e6, channels, mean) ||
      !per_channel(s, &slot[1], "'std'", 1e-6, 1e6, channels, std))
    return NULL;
  qnet_value *y = qnet_sema_build(s, e->loc, QNET_OP_NORMALIZE, &image, 1, 4, dim);
  if (!y) return NULL;
  qnet_op_set_floats(s->module, y->def, "mean", mean, channels);
  qnet_op_set_floats(s->module, y->def, "std", std, channels);
  return y;
}

/* @eval gets its argument when the input is declared; until then the module has no function. */
static qnet_value *add_function(qnet_sema *s, const qnet_stmt *stmt, qnet_dtype dtype,
                                const int64_t dim[4]) {
  const qnet_type *type = qnet_type_tensor(s->module, dtype, 4, dim);
  qnet_symbol *eval = qnet_symbol_add_func(s->module, "eval", &type, 1, s->net->block->name.loc);
  if (!eval) {
    qnet_sema_out_of_memory(s);
    return NULL;
  }
  qnet_value *image = &eval->body->arg[0];
  image->name = qnet_sema_format(s, "%s", stmt->name.text);
  s->builder = qnet_builder_at_end(s->module, eval->body);
  return image;
}

/* The value that the input's name gets: poison after errors, so that its uses stay silent. */
static qnet_sema_value declare(qnet_sema *s, const qnet_stmt *stmt) {
  qnet_dtype dtype;
  int64_t dim[4];
  const bool known = input_dtype(s, &stmt->dtype, &dtype);
  if (!input_shape(s, stmt, dim) || !known) return QNET_POISON;
  qnet_value *image = add_function(s, stmt, dtype, dim);
  if (!image) return QNET_POISON;
  if (stmt->value) {
    image = normalize(s, stmt->value, image);
    return image ? qnet_sema_tensor(image) : QNET_POISON;
  }
  if (dtype == QNET_F32) return qnet_sema_tensor(image);
  return qnet_sema_error(s, stmt->loc,
                         "a u8 input needs normalize(mean = [...], std = [...]); for pixels / 255: "
                         "normalize(mean = 0, std = 1)");
}

void qnet_sema_input(qnet_sema *s, const qnet_stmt *stmt) {
  if (!qnet_sema_first(s, stmt, &s->input, "input")) return;
  const qnet_sema_value v = declare(s, stmt);
  qnet_sema_bind(s, stmt->name, &v, "the input");
}
