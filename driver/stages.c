/* Progressive bits: 32, 5, 4, 3, 2 of the recipe against what the network is to have. */
#include "driver/stages.h"
#include "ir/ops.h"
#include <stdio.h>
#include <string.h>

static int larger(int a, int b) {
  return a > b ? a : b;
}

static int smaller(int a, int b) {
  return a < b ? a : b;
}

bool qnet_layer_quantizer(const qnet_op *op, qnet_role role, const qnet_quantizer **q, int *bits) {
  const char *names = qnet_op_string(op, "quantizer");
  const qnet_attr *own = qnet_op_attr(op, "bits");
  if ((op->opcode != QNET_OP_CONV2D && op->opcode != QNET_OP_DENSE) || !names) return false;
  const char *slash = strchr(names, '/');
  char name[32];
  if (slash && role == QNET_ROLE_ACTIVATION)
    snprintf(name, sizeof name, "%s", slash + 1);
  else
    snprintf(name, sizeof name, "%.*s", (int)strcspn(names, "/"), names);
  *q = qnet_quantizer_find(name);
  *bits = own && own->count == 2 ? (int)own->ints[role] : 2;
  return true;
}

/* The fewest bits of any layer. */
static int fewest_bits(const qnet_program *p) {
  const qnet_quantizer *q;
  int least = smaller(p->quant.weight_bits, p->quant.activation_bits), bits;
  for (const qnet_op *op = qnet_symbol_find(p->module, "eval")->body->first; op; op = op->next)
    for (int role = 0; role < 2; role++)
      if (qnet_layer_quantizer(op, (qnet_role)role, &q, &bits) && q) least = smaller(least, bits);
  return least;
}

static qnet_status check_role(const qnet_quantizer *q, qnet_role role, int bits, qnet_loc loc,
                              qnet_diag *d) {
  static const char *const roles[] = {"weights", "activations"};
  if (bits == QNET_F32_BITS || !q) return QNET_OK;
  const qnet_bit_range range = q->bits[role];
  if (bits >= range.min && bits <= range.max) return QNET_OK;
  return qnet_error(d, loc, "a stage of %d bits, but '%s' has %d to %d bits for %s", bits, q->name,
                    range.min, range.max, roles[role]);
}

/* Before the first stage: what a later one does not allow must not come to light after hours. */
static qnet_status check_stage(const qnet_program *p, const qnet_quant_spec *q, qnet_loc loc,
                               qnet_diag *d) {
  const char *other = q->activation_quantizer ? q->activation_quantizer : q->quantizer;
  QNET_TRY(check_role(qnet_quantizer_find(q->quantizer), QNET_ROLE_WEIGHT, q->weight_bits, loc, d));
  QNET_TRY(
      check_role(qnet_quantizer_find(other), QNET_ROLE_ACTIVATION, q->activation_bits, loc, d));
  const qnet_quantizer *own;
  int bits;
  for (const qnet_op *op = qnet_symbol_find(p->module, "eval")->body->first; op; op = op->next)
    for (int role = 0; role < 2; role++)
      if (qnet_layer_quantizer(op, (qnet_role)role, &own, &bits))
        QNET_TRY(check_role(own, (qnet_role)role, larger(bits, q->least), loc, d));
  return QNET_OK;
}

/* The bits of the net's line; of the layers where it has none. */
static void name_stage(const qnet_quant_spec *q, char *out, size_t size) {
  const bool line = strcmp(q->quantizer, "none") != 0;
  snprintf(out, size, "%d/%d", line ? q->weight_bits : q->least,
           line ? q->activation_bits : q->least);
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
    const bool raised =
        q.weight_bits > p->quant.weight_bits || q.activation_bits > p->quant.activation_bits;
    q.least = stage->bits;
    if (raised) q.planes = 0; /* they are for the bits of the last stage */
    QNET_TRY(check_stage(p, &q, stage->loc, d));
    name_stage(&q, out->stage[i].name, sizeof out->stage[i].name);
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
  qnet_error(s->diag, last->loc, "the last stage has %d bits, but the network is to have %d",
             last->bits, own);
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

/* A network that stays f32 has the first stage alone; a warning where nobody asked for that. */
static qnet_status plan_one(const qnet_session *s, const qnet_program *p, qnet_stages *out) {
  if (p->recipe.stages > 0 && !s->options.quantizer)
    qnet_warning(
        s->diag, p->recipe.stage[0].loc,
        "no quantizers, no stages: the f32 network is trained for the epochs of the first; "
        "add 'quantize' to the net, or --quantizer=");
  out->count = 1;
  out->stage[0].quant = p->quant;
  out->stage[0].epochs = epochs_of(s, &p->recipe, 0);
  return QNET_OK;
}

qnet_status qnet_stages_plan(const qnet_session *s, const qnet_program *p, qnet_stages *out) {
  const qnet_recipe *r = &p->recipe;
  *out = (qnet_stages){0};
  if (r->stages == 0 || !p->quant.quantizer) return plan_one(s, p, out);
  const int own = fewest_bits(p);
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
