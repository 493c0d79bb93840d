/* Progressive bits: 32, 5, 4, 3, 2 of the recipe against what the network is to have. */
#include "driver/stages.h"
#include "passes/quantizer.h"
#include <stdio.h>

static int larger(int a, int b) {
  return a > b ? a : b;
}

static int smaller(int a, int b) {
  return a < b ? a : b;
}

static qnet_status check_role(const char *name, qnet_role role, int bits, qnet_loc loc,
                              qnet_diag *d) {
  static const char *const roles[] = {"weights", "activations"};
  if (bits == QNET_F32_BITS) return QNET_OK;
  const qnet_quantizer *q = qnet_quantizer_find(name);
  const qnet_bit_range range = q->bits[role];
  if (bits >= range.min && bits <= range.max) return QNET_OK;
  return qnet_error(d, loc, "a stage of %d bits, but '%s' has %d to %d bits for %s", bits, name,
                    range.min, range.max, roles[role]);
}

static qnet_status check_stage(const qnet_quant_spec *q, qnet_loc loc, qnet_diag *d) {
  const char *other = q->activation_quantizer ? q->activation_quantizer : q->quantizer;
  QNET_TRY(check_role(q->quantizer, QNET_ROLE_WEIGHT, q->weight_bits, loc, d));
  return check_role(other, QNET_ROLE_ACTIVATION, q->activation_bits, loc, d);
}

static qnet_status add_stage(const qnet_program *p, const qnet_stage *stage, int epochs,
                             qnet_stages *out, qnet_diag *d) {
  qnet_quant_spec q = p->quant;
  const int i = out->count++;
  q.weight_bits = larger(q.weight_bits, stage->bits);
  q.activation_bits = larger(q.activation_bits, stage->bits);
  if (stage->bits == QNET_F32_BITS) {
    q.quantizer = q.activation_quantizer = NULL;
    snprintf(out->stage[i].name, sizeof out->stage[i].name, "%d", QNET_F32_BITS);
  } else {
    QNET_TRY(check_stage(&q, stage->loc, d));
    snprintf(out->stage[i].name, sizeof out->stage[i].name, "%d/%d", q.weight_bits,
             q.activation_bits);
  }
  out->stage[i].quant = q;
  out->stage[i].epochs = epochs;
  return QNET_OK;
}

/* The last stage must be what is deployed. */
static qnet_status check_end(const qnet_session *s, const qnet_program *p, int own) {
  const qnet_recipe *r = &p->recipe;
  const qnet_quant_spec *q = &p->quant;
  const qnet_stage *last = &r->stage[r->stages - 1];
  const bool given = s->options.bits.weight != 0;
  if (last->bits == own || (last->bits < own && given)) return QNET_OK;
  qnet_error(s->diag, last->loc, "the last stage has %d bits, but the network is to have %d/%d",
             last->bits, q->weight_bits, q->activation_bits);
  if (given)
    qnet_note(s->diag, last->loc, "as --bits=%d/%d says", q->weight_bits, q->activation_bits);
  else
    qnet_note(s->diag, q->loc, "as 'quantize' says here");
  return QNET_ERROR;
}

static int epochs_of(const qnet_session *s, const qnet_recipe *r, int stage) {
  if (s->options.epochs != QNET_UNSET) return (int)s->options.epochs;
  return r->epoch_counts > 0 ? r->stage_epochs[stage] : r->epochs;
}

/* A network that stays f32 has the first stage alone. */
static qnet_status plan_one(const qnet_session *s, const qnet_program *p, qnet_stages *out) {
  out->count = 1;
  out->stage[0].quant = p->quant;
  out->stage[0].epochs = epochs_of(s, &p->recipe, 0);
  return QNET_OK;
}

qnet_status qnet_stages_plan(const qnet_session *s, const qnet_program *p, qnet_stages *out) {
  const qnet_recipe *r = &p->recipe;
  *out = (qnet_stages){0};
  if (r->stages == 0 || !p->quant.quantizer) return plan_one(s, p, out);
  const int own = smaller(p->quant.weight_bits, p->quant.activation_bits);
  out->progressive = true;
  QNET_TRY(check_end(s, p, own));
  for (int i = 0; i < r->stages && r->stage[i].bits >= own; i++)
    QNET_TRY(add_stage(p, &r->stage[i], epochs_of(s, r, i), out, s->diag));
  if (r->stage[out->count - 1].bits == own) return QNET_OK;
  return qnet_error(s->diag, r->stage[out->count - 1].loc,
                    "no stage has the %d bits that --bits asks for", own);
}

void qnet_stages_options(const qnet_stages *stages, qnet_train_options *out) {
  out->epochs = 0;
  out->stages = stages->progressive ? stages->count : 0;
  for (int i = 0; i < stages->count; i++) {
    out->epochs += stages->stage[i].epochs;
    out->stage[i] = (qnet_train_stage){stages->stage[i].epochs, stages->stage[i].name};
  }
}
