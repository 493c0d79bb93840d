/* quantize QUANTIZER(weights = 2, activations = 2, grid = 127, planes = 3) except first, last = 8
 * quantize weights = QUANTIZER(bits = 2), activations = QUANTIZER(bits = 2) except first, last
 *
 * In the net it holds for all layers that nothing nearer says; in a block for what the block calls;
 * as an argument for one layer or block call. Quantizers are values: a block may take one. */
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

static bool quantizes_nothing(qnet_sema *s, qnet_loc loc, const qnet_quant_spec *q) {
  if (q->weight_bits != QNET_F32_BITS || q->activation_bits != QNET_F32_BITS) return false;
  qnet_sema_error(s, loc, "f32 weights and f32 activations are not quantized: say none");
  return true;
}

/* METHOD(weights = 2, activations = 2, grid = 127, planes = 3) */
static bool quantizer_arguments(qnet_sema *s, const qnet_sema_call *call, qnet_quant_spec *q) {
  static const qnet_sema_param params[] = {{"weights", QNET_PARAM_OPTIONAL},
                                           {"activations", QNET_PARAM_OPTIONAL},
                                           {"grid", QNET_PARAM_OPTIONAL},
                                           {"planes", QNET_PARAM_OPTIONAL}};
  qnet_sema_value slot[4];
  int64_t grid = 127, planes = 0;
  if (!qnet_sema_arguments(s, call, params, 4, slot)) return false;
  const bool ok = to_bits(s, &slot[0], "'weights'", &q->weight_bits) &&
                  to_bits(s, &slot[1], "'activations'", &q->activation_bits) &&
                  qnet_sema_to_int(s, &slot[2], "'grid'", 15, 127, &grid) &&
                  qnet_sema_to_int(s, &slot[3], "'planes'", 2, 15, &planes);
  q->grid = (int)grid;
  q->planes = (int)planes;
  return ok && !quantizes_nothing(s, call->loc, q);
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
  if (e->kind == QNET_EXPR_NAME && strcmp(e->name.text, "none") == 0) {
    qnet_sema_error(s, e->loc, "one side that is not quantized is f32: write %s = f32",
                    arg->name.text);
    return false;
  }
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
  q->weight_bits = q->activation_bits = 0; /* not said */
  for (const qnet_arg *a = e->call.args.first; a; a = a->next) {
    for (const qnet_arg *before = e->call.args.first; before != a; before = before->next)
      if (strcmp(before->name.text, a->name.text) == 0) {
        qnet_sema_error(s, a->name.loc, "'%s' is given twice", a->name.text);
        ok = false;
      }
    ok = role_argument(s, a, q) && ok;
  }
  if (!ok || quantizes_nothing(s, e->loc, q)) return false;
  if (!q->weight_bits || !q->activation_bits) {
    qnet_sema_error(s, e->loc, "say what both become: weights = lsq(bits = 2), activations = f32");
    return false;
  }
  if (!q->quantizer) q->quantizer = q->activation_quantizer; /* weights are f32 */
  return true;
}

/* ---- values ---------------------------------------------------------------------------------- */

bool qnet_sema_is_quantizer(const char *name) {
  return strcmp(name, "none") == 0 || known_quantizer(name);
}

/* Names come from the table, so that equal ones are the same. */
bool qnet_sema_same_quantizer(const qnet_quant_spec *a, const qnet_quant_spec *b) {
  if (!a->quantizer || !b->quantizer) return a->quantizer == b->quantizer;
  const char *const x = a->activation_quantizer ? a->activation_quantizer : a->quantizer;
  const char *const y = b->activation_quantizer ? b->activation_quantizer : b->quantizer;
  return a->quantizer == b->quantizer && x == y && a->weight_bits == b->weight_bits &&
         a->activation_bits == b->activation_bits && a->grid == b->grid && a->planes == b->planes;
}

static qnet_sema_value value_of(qnet_sema *s, qnet_loc loc, const qnet_quant_spec *q) {
  qnet_quant_spec *copy = qnet_sema_alloc(s, 1, sizeof *copy);
  if (!copy) return QNET_POISON;
  *copy = *q;
  return (qnet_sema_value){.kind = QNET_KIND_QUANTIZER, .loc = loc, .quant = copy};
}

static qnet_quant_spec defaults(qnet_loc loc) {
  return (qnet_quant_spec){.weight_bits = 2,
                           .activation_bits = 2,
                           .grid = 127,
                           .first_bits = -1,
                           .last_bits = -1,
                           .loc = loc};
}

qnet_sema_value qnet_sema_quantizer_call(qnet_sema *s, const qnet_sema_call *call) {
  qnet_quant_spec q = defaults(call->loc);
  q.quantizer = resolve_quantizer(s, &call->callee);
  const bool ok = quantizer_arguments(s, call, &q);
  return ok && q.quantizer ? value_of(s, call->loc, &q) : QNET_POISON;
}

static qnet_sema_value quantizer_name(qnet_sema *s, const qnet_expr *e) {
  qnet_quant_spec q = defaults(e->loc);
  if (strcmp(e->name.text, "none") == 0) return value_of(s, e->loc, &q);
  q.quantizer = resolve_quantizer(s, &e->name);
  return q.quantizer ? value_of(s, e->loc, &q) : QNET_POISON;
}

static qnet_sema_value quantizer_expression(qnet_sema *s, const qnet_expr *e) {
  const qnet_sema_value v = qnet_sema_eval(s, e);
  if (v.kind == QNET_KIND_QUANTIZER || qnet_is_poison(&v)) return v;
  char is[QNET_SHAPE_TEXT];
  qnet_sema_describe(&v, is);
  return qnet_sema_error(s, e->loc,
                         "'quantize' takes a quantizer, as lsq(weights = 3), or none, not "
                         "%s",
                         is);
}

qnet_sema_value qnet_sema_quantizer(qnet_sema *s, const qnet_expr *e) {
  if (e->kind == QNET_EXPR_NAME && !qnet_sema_find_visible(s, e->name.text))
    return quantizer_name(s, e);
  if (e->kind != QNET_EXPR_CALL) return quantizer_expression(s, e);
  if (strcmp(e->call.callee.text, "quantize") == 0) { /* the keyword: roles */
    qnet_quant_spec q = defaults(e->loc);
    return quantizer_roles(s, e, &q) ? value_of(s, e->loc, &q) : QNET_POISON;
  }
  const qnet_sema_call call = {.callee = e->call.callee, .loc = e->loc, .args = &e->call.args};
  return qnet_sema_quantizer_call(s, &call);
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* Of the innermost block that has one; NULL: the net's holds. */
static const qnet_quant_spec *block_quantizer(const qnet_sema *s) {
  for (const qnet_frame *f = s->frame; f; f = f->caller)
    if (f->quant) return f->quant;
  return NULL;
}

void qnet_sema_set_quantizer(qnet_sema *s, qnet_op *op, const qnet_sema_value *argument) {
  const bool own = argument->kind == QNET_KIND_QUANTIZER;
  const qnet_quant_spec *q = own ? argument->quant : block_quantizer(s);
  if (!q) return;
  if (!q->quantizer) {
    qnet_op_set_string(s->module, op, "quantizer", "none");
    return;
  }
  const char *other = q->activation_quantizer;
  const char *names =
      qnet_sema_format(s, "%s%s%s", q->quantizer, other ? "/" : "", other ? other : "");
  qnet_op_set_string(s->module, op, "quantizer", names);
  qnet_op_set_ints(s->module, op, "bits", (const int64_t[]){q->weight_bits, q->activation_bits}, 2);
  qnet_op_set_int(s->module, op, "grid", q->grid);
  if (q->planes) qnet_op_set_int(s->module, op, "planes", q->planes);
  if (s->program->quant.quantizer) return;
  s->program->quant = *q; /* for its place; nothing holds for the other layers */
  s->program->quant.quantizer = "none";
  s->program->quant.activation_quantizer = NULL;
  s->program->quant.weight_bits = s->program->quant.activation_bits = QNET_F32_BITS;
}

/* ---- the statement --------------------------------------------------------------------------- */

static void quantize_block(qnet_sema *s, const qnet_stmt *stmt) {
  const qnet_sema_value v = qnet_sema_quantizer(s, stmt->value);
  if (stmt->settings.first)
    qnet_sema_error(s, stmt->settings.first->name.loc,
                    "'except' belongs to the net's 'quantize': first and last are layers of the "
                    "net");
  if (v.kind == QNET_KIND_QUANTIZER) s->frame->quant = v.quant;
}

void qnet_sema_quantize(qnet_sema *s, const qnet_stmt *stmt) {
  if (s->frame != s->net) {
    quantize_block(s, stmt);
    return;
  }
  if (!qnet_sema_first(s, stmt, &s->quantize, "'quantize'")) return;
  const qnet_sema_value v = qnet_sema_quantizer(s, stmt->value);
  qnet_quant_spec q = {.first_bits = -1, .last_bits = -1};
  if (v.kind == QNET_KIND_QUANTIZER) q = *v.quant;
  q.loc = stmt->loc;
  for (const qnet_setting *e = stmt->settings.first; e; e = e->next)
    run_exception(s, e, &q);
  if (q.quantizer) s->program->quant = q;
}
