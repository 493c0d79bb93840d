/* quantize QUANTIZER(weights = 2, activations = 2, grid = 127, planes = 3) except first, last = 8
 */
#include "frontend/sema.h"

#include <string.h>

/* Quantizers that a .qnet may name. The frontend does not know the passes, which hold the methods
 * themselves; tests compare the two lists. */
static const char *const quantizers[] = {"lqnets", "lsq",  "qil",    "lcq",    "lcq_exact", "dq",
                                         "pact",   "apot", "dorefa", "binary", "ternary"};
enum { QUANTIZERS = sizeof quantizers / sizeof *quantizers };

static const char *known_quantizer(const char *name) {
  for (int i = 0; i < QUANTIZERS; i++)
    if (strcmp(quantizers[i], name) == 0) return quantizers[i];
  return NULL;
}

/* first, last: without a value f32, else 8 bits (or "f32"). */
static bool exception_bits(qnet_sema *s, const qnet_setting *e, int *bits) {
  *bits = 0;
  if (!e->values.first) return true;
  if (e->values.first->kind == QNET_EXPR_NAME && strcmp(e->values.first->name.text, "f32") == 0)
    return true;
  const qnet_sema_value v = qnet_sema_eval(s, e->values.first);
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
  int64_t weights = 2, activations = 2, grid = 127, planes = 0;
  if (!qnet_sema_arguments(s, &call, params, 4, slot)) return false;
  const bool ok = qnet_sema_to_int(s, &slot[0], "'weights'", 1, 8, &weights) &&
                  qnet_sema_to_int(s, &slot[1], "'activations'", 1, 8, &activations) &&
                  qnet_sema_to_int(s, &slot[2], "'grid'", 15, 127, &grid) &&
                  qnet_sema_to_int(s, &slot[3], "'planes'", 2, 15, &planes);
  q->weight_bits = (int)weights;
  q->activation_bits = (int)activations;
  q->grid = (int)grid;
  q->planes = (int)planes;
  return ok;
}

void qnet_sema_quantize(qnet_sema *s, const qnet_stmt *stmt) {
  if (!qnet_sema_first(s, stmt, &s->quantize, "'quantize'")) return;
  const qnet_ident *callee = &stmt->value->call.callee;
  qnet_quant_spec q = {.first_bits = -1, .last_bits = -1, .loc = stmt->loc};
  q.quantizer = known_quantizer(callee->text);
  if (!q.quantizer)
    qnet_sema_misspelt(s, callee->loc, qnet_nearest(callee->text, quantizers, QUANTIZERS),
                       "unknown quantizer '%s'", callee->text);
  const bool ok = quantizer_arguments(s, stmt->value, &q);
  for (const qnet_setting *e = stmt->settings.first; e; e = e->next)
    run_exception(s, e, &q);
  if (ok && q.quantizer) s->program->quant = q;
}
