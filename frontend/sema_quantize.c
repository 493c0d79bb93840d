/* quantize QUANTIZER(weights = 2, activations = 2, grid = 127, planes = 3) except first, last = 8
 * quantize weights = QUANTIZER(bits = 2), activations = QUANTIZER(bits = 2) except first, last */
#include "frontend/sema.h"

#include <string.h>

/* Quantizers that a .qnet may name. The frontend does not know the passes, which hold the methods
 * themselves; tests compare the two lists. */
static const char *const quantizers[] = {"lqnets",    "lsq",    "qil",  "lcq",
                                         "lcq_exact", "dq",     "pact", "apot",
                                         "dorefa",    "binary", "sign", "ternary"};
enum { QUANTIZERS = sizeof quantizers / sizeof *quantizers };

static const char *known_quantizer(const char *name) {
  for (int i = 0; i < QUANTIZERS; i++)
    if (strcmp(quantizers[i], name) == 0) return quantizers[i];
  return NULL;
}

static bool is_f32(const qnet_sema_value *v) {
  return (v->kind == QNET_KIND_STRING && strcmp(v->s, "f32") == 0) ||
         (v->kind == QNET_KIND_INT && v->i == QNET_F32_BITS);
}

/* 1 to 8 bits, or f32. An absent v leaves *out alone. */
static bool to_bits(qnet_sema *s, const qnet_sema_value *v, const char *what, int *out) {
  int64_t bits = *out;
  if (is_f32(v)) {
    *out = QNET_F32_BITS;
    return true;
  }
  if (v->kind == QNET_KIND_INT && (v->i < 1 || v->i > 8)) {
    qnet_sema_error(s, v->loc, "%s takes 1 to 8 bits, or f32, not %lld", what, (long long)v->i);
    return false;
  }
  const bool ok = qnet_sema_to_int(s, v, what, 1, 8, &bits);
  *out = (int)bits;
  return ok;
}

/* first, last: without a value f32, else 8 bits (or f32). */
static bool exception_bits(qnet_sema *s, const qnet_setting *e, int *bits) {
  *bits = 0;
  if (!e->values.first) return true;
  const qnet_sema_value v = qnet_sema_eval(s, e->values.first);
  if (is_f32(&v)) return true;
  if (v.kind == QNET_KIND_INT && v.i == 8) {
    *bits = 8;
    return true;
  }
  if (!qnet_is_poison(&v))
    qnet_sema_error(s, v.loc, "'%s' is kept at f32 or 8 bits: write %s, or %s = 8", e->name.text,
                    e->name.text, e->name.text);
  return false;
}

static void run_exception(qnet_sema *s, const qnet_setting *e, qnet_quant_spec *q) {
  static const char *const names[] = {"first", "last"};
  const bool first = strcmp(e->name.text, "first") == 0;
  if (!first && strcmp(e->name.text, "last") != 0) {
    qnet_sema_misspelt(s, e->name.loc, qnet_nearest(e->name.text, names, 2),
                       "'except' knows first and last, not '%s'", e->name.text);
    return;
  }
  int *const bits = first ? &q->first_bits : &q->last_bits;
  if (*bits != -1)
    qnet_sema_error(s, e->name.loc, "'%s' is excepted twice", e->name.text);
  else
    exception_bits(s, e, bits);
}

static bool quantizer_arguments(qnet_sema *s, const qnet_expr *e, qnet_quant_spec *q) {
  static const qnet_sema_param params[] = {{"weights", QNET_PARAM_OPTIONAL},
                                           {"activations", QNET_PARAM_OPTIONAL},
                                           {"grid", QNET_PARAM_OPTIONAL},
                                           {"planes", QNET_PARAM_OPTIONAL}};
  const qnet_sema_call call = {.callee = e->call.callee, .loc = e->loc, .args = &e->call.args};
  qnet_sema_value slot[4];
  int64_t grid = 127, planes = 0;
  q->weight_bits = q->activation_bits = 2;
  if (!qnet_sema_arguments(s, &call, params, 4, slot)) return false;
  const bool ok = to_bits(s, &slot[0], "'weights'", &q->weight_bits) &&
                  to_bits(s, &slot[1], "'activations'", &q->activation_bits) &&
                  qnet_sema_to_int(s, &slot[2], "'grid'", 15, 127, &grid) &&
                  qnet_sema_to_int(s, &slot[3], "'planes'", 2, 15, &planes);
  q->grid = (int)grid;
  q->planes = (int)planes;
  return ok;
}

/* The name of a known quantizer, or NULL after an error. */
static const char *resolve_quantizer(qnet_sema *s, const qnet_ident *name) {
  const char *known = known_quantizer(name->text);
  if (!known)
    qnet_sema_misspelt(s, name->loc, qnet_nearest(name->text, quantizers, QUANTIZERS),
                       "unknown quantizer '%s'", name->text);
  return known;
}

/* weights = METHOD(bits = 2), METHOD or f32: the method (NULL for f32) and its bits. */
static bool role_quantizer(qnet_sema *s, const qnet_arg *arg, const char **name, int *bits) {
  static const qnet_sema_param params[] = {{"bits", QNET_PARAM_OPTIONAL}};
  const qnet_expr *e = arg->value;
  qnet_sema_value slot[1];
  *bits = 2;
  if (e->kind == QNET_EXPR_NAME) {
    const bool f32 = strcmp(e->name.text, "f32") == 0;
    *name = f32 ? NULL : resolve_quantizer(s, &e->name);
    if (f32) *bits = QNET_F32_BITS;
    return f32 || *name;
  }
  if (e->kind != QNET_EXPR_CALL) {
    qnet_sema_error(s, e->loc, "'%s' takes a quantizer with its bits, or f32: %s = lsq(bits = 2)",
                    arg->name.text, arg->name.text);
    return false;
  }
  const qnet_sema_call call = {.callee = e->call.callee, .loc = e->loc, .args = &e->call.args};
  *name = resolve_quantizer(s, &e->call.callee);
  const bool ok =
      qnet_sema_arguments(s, &call, params, 1, slot) && to_bits(s, &slot[0], "'bits'", bits);
  return ok && *name;
}

static bool role_argument(qnet_sema *s, const qnet_arg *arg, qnet_quant_spec *q) {
  static const char *const names[] = {"weights", "activations", "grid"};
  int64_t grid = 127;
  if (strcmp(arg->name.text, "weights") == 0)
    return role_quantizer(s, arg, &q->quantizer, &q->weight_bits);
  if (strcmp(arg->name.text, "activations") == 0)
    return role_quantizer(s, arg, &q->activation_quantizer, &q->activation_bits);
  if (strcmp(arg->name.text, "grid") == 0) {
    const qnet_sema_value v = qnet_sema_eval(s, arg->value);
    const bool ok = qnet_sema_to_int(s, &v, "'grid'", 15, 127, &grid);
    q->grid = (int)grid;
    return ok;
  }
  qnet_sema_misspelt(s, arg->name.loc, qnet_nearest(arg->name.text, names, 3),
                     "'quantize' knows weights, activations and grid, not '%s'", arg->name.text);
  return false;
}

/* weights = METHOD(...), activations = METHOD(...), grid = 127 */
static bool quantizer_roles(qnet_sema *s, const qnet_expr *e, qnet_quant_spec *q) {
  bool ok = true;
  q->grid = 127;
  for (const qnet_arg *a = e->call.args.first; a; a = a->next) {
    for (const qnet_arg *before = e->call.args.first; before != a; before = before->next)
      if (strcmp(before->name.text, a->name.text) == 0) {
        qnet_sema_error(s, a->name.loc, "'%s' is given twice", a->name.text);
        ok = false;
      }
    ok = role_argument(s, a, q) && ok;
  }
  if (!ok) return false;
  if (!q->weight_bits || !q->activation_bits || (!q->quantizer && !q->activation_quantizer)) {
    qnet_sema_error(s, e->loc, "say what both become: weights = lsq(bits = 2), activations = f32");
    return false;
  }
  if (!q->quantizer) q->quantizer = q->activation_quantizer; /* weights are f32 */
  return true;
}

void qnet_sema_quantize(qnet_sema *s, const qnet_stmt *stmt) {
  if (!qnet_sema_first(s, stmt, &s->quantize, "'quantize'")) return;
  const qnet_ident *callee = &stmt->value->call.callee;
  qnet_quant_spec q = {.first_bits = -1, .last_bits = -1, .loc = stmt->loc};
  bool ok;
  if (strcmp(callee->text, "quantize") == 0) { /* the keyword: no quantizer has this name */
    ok = quantizer_roles(s, stmt->value, &q);
  } else {
    q.quantizer = resolve_quantizer(s, callee);
    ok = quantizer_arguments(s, stmt->value, &q);
  }
  for (const qnet_setting *e = stmt->settings.first; e; e = e->next)
    run_exception(s, e, &q);
  if (ok && q.quantizer) s->program->quant = q;
}
