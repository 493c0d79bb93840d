/* From operations to steps. Most operations are one step; batch_norm in training is two (sums, then
 * the rest, with what is cheaper computed again than read), a quantizer takes its statistics along,
 * relu goes into the layer before it where that is allowed. Reads become the symbol's own memory.
 * Operations whose results are only written to symbols (moving averages, the update) wait until the
 * end, out of the way of groups.
 *
 * Symbols change at the end of the function in effect: a read after a write is given the written
 * value itself, and the last written value is either computed in the symbol's memory
 * (plan_buffers.c decides: `home`) or copied there last. */
#include "codegen/plan_internal.h"
#include "ir/interp.h"
#include <string.h>

typedef struct lowering {
  qnet_plan *plan;
  qnet_diag *diag;
  bool *skipped; /* by id of an operation's first result: another step does it */
  qnet_plan_step *deferred, *deferred_last;
  struct content *contents; /* of symbols */
} lowering;

/* What a symbol holds at this point of the function. */
typedef struct content {
  qnet_symbol *symbol;
  qnet_plan_value *initial; /* its content before the function; NULL: nobody reads it */
  qnet_plan_value *written; /* NULL: not written */
  struct content *next;
} content;

/* ---- values and steps -------------------------------------------------------------------------*/

static qnet_plan_value *new_value(lowering *l, const qnet_type *type, qnet_place place) {
  qnet_plan_value *v = qnet_arena_alloc(&l->plan->arena, sizeof *v);
  if (v == NULL) return NULL;
  v->type = type;
  v->bytes = (size_t)(qnet_type_elements(type) * qnet_type_bytes(type));
  v->place = place;
  v->first = v->last = -1;
  v->next = l->plan->values;
  l->plan->values = v;
  return v;
}

static qnet_plan_value *value_of(const lowering *l, const qnet_value *v) {
  return l->plan->value_of[v->id];
}

static void append(qnet_plan_step **first, qnet_plan_step **last, qnet_plan_step *s) {
  if (*last != NULL)
    (*last)->next = s;
  else
    *first = s;
  *last = s;
}

/* A step of the operation with its operands; no results yet. */
static qnet_plan_step *new_step(lowering *l, const qnet_op *op, const qnet_plan_kernel *kernel,
                                bool deferred) {
  qnet_plan_step *s = qnet_arena_alloc(&l->plan->arena, sizeof *s);
  if (s == NULL) return NULL;
  s->op = op;
  s->kernel = kernel;
  for (int i = 0; op != NULL && i < op->operand_count; i++)
    s->in[s->in_count++] = value_of(l, op->operand[i]);
  if (deferred)
    append(&l->deferred, &l->deferred_last, s);
  else
    append(&l->plan->first, &l->plan->last, s);
  return s;
}

/* Makes result `index` of the operation result `slot` of the step. */
static qnet_status define(lowering *l, qnet_plan_step *s, int slot, const qnet_value *result) {
  qnet_plan_value *v = new_value(l, result->type, QNET_PLACE_SLAB);
  if (v == NULL) return qnet_out_of_memory(l->diag);
  l->plan->value_of[result->id] = v;
  s->out[slot] = v;
  if (slot >= s->out_count) s->out_count = slot + 1;
  return QNET_OK;
}

/* Of a row kernel. */
static void set_rows(qnet_plan_step *s, int64_t rows) {
  const qnet_plan_value *v = (s->kernel->row_in & 1) != 0 ? s->in[0] : s->out[0];
  s->rows = rows;
  s->width = qnet_type_elements(v->type) / rows;
}

static int64_t positions(const qnet_type *type) {
  return type->rank > 0 ? qnet_type_elements(type) / type->dim[type->rank - 1] : 1;
}

/* ---- the usual operations ---------------------------------------------------------------------*/

static const qnet_plan_kernel *const kernels[QNET_OP_COUNT] = {
    [QNET_OP_NORMALIZE] = &qnet_plan_normalize,
    [QNET_OP_RELU] = &qnet_plan_relu,
    [QNET_OP_ADD] = &qnet_plan_add,
    [QNET_OP_RELU_GRAD] = &qnet_plan_relu_grad,
    [QNET_OP_QUANT_AFFINE] = &qnet_plan_affine,
    [QNET_OP_BATCH_NORM] = &qnet_plan_batch_norm,
    [QNET_OP_QUANT_QUANTIZE] = &qnet_plan_quantize_codes,
    [QNET_OP_QUANT_ROUND] = &qnet_plan_round,
    [QNET_OP_MAX_POOL2D] = &qnet_plan_max_pool,
    [QNET_OP_MAX_POOL2D_GRAD] = &qnet_plan_max_pool_grad,
    [QNET_OP_AVG_POOL2D] = &qnet_plan_avg_pool,
    [QNET_OP_AVG_POOL2D_GRAD] = &qnet_plan_avg_pool_grad,
    [QNET_OP_GLOBAL_AVG_POOL] = &qnet_plan_global_avg_pool,
    [QNET_OP_GLOBAL_AVG_POOL_GRAD] = &qnet_plan_global_avg_pool_grad,
    [QNET_OP_SLICE] = &qnet_plan_slice,
    [QNET_OP_PAD] = &qnet_plan_pad,
    [QNET_OP_FLATTEN] = &qnet_plan_flatten,
    [QNET_OP_FLATTEN_GRAD] = &qnet_plan_flatten_grad,
    [QNET_OP_SGD] = &qnet_plan_sgd,
    [QNET_OP_MUON] = &qnet_plan_muon,
    [QNET_OP_ADAM] = &qnet_plan_adam,
    [QNET_OP_MOVING_AVERAGE] = &qnet_plan_moving_average,
    [QNET_OP_FEATURE_GRAD] = &qnet_plan_feature_grad,
    [QNET_OP_BIAS_GRAD] = &qnet_plan_bias_grad,
    [QNET_OP_CONV2D_GRAD_INPUT] = &qnet_plan_layer_grad_input,
    [QNET_OP_DENSE_GRAD_INPUT] = &qnet_plan_layer_grad_input,
    [QNET_OP_CONV2D_GRAD_WEIGHT] = &qnet_plan_layer_grad_weight,
    [QNET_OP_DENSE_GRAD_WEIGHT] = &qnet_plan_layer_grad_weight,
    [QNET_OP_QUANT_CONV2D] = &qnet_plan_layer_codes,
    [QNET_OP_QUANT_DENSE] = &qnet_plan_layer_codes,
};

/* Is the symbol read again behind this write? */
static bool read_again(const qnet_op *write) {
  for (const qnet_op *op = write->next; op != NULL; op = op->next)
    if (op->opcode == QNET_OP_READ &&
        strcmp(qnet_op_string(op, "sym"), qnet_op_string(write, "sym")) == 0)
      return true;
  return false;
}

/* Do all results go to symbols and nowhere else? */
static bool only_written(const qnet_op *op) {
  for (int i = 0; i < op->result_count; i++)
    for (const qnet_use *u = op->result[i].uses; u != NULL; u = u->next)
      if (u->op->opcode != QNET_OP_WRITE || read_again(u->op)) return false;
  return true;
}

static qnet_status lower_plain(lowering *l, const qnet_op *op, const qnet_plan_kernel *kernel) {
  const bool updates = op->opcode == QNET_OP_SGD || op->opcode == QNET_OP_MUON ||
                       op->opcode == QNET_OP_ADAM || op->opcode == QNET_OP_MOVING_AVERAGE;
  const bool late = updates && only_written(op);
  qnet_plan_step *s = new_step(l, op, kernel, late);
  if (s == NULL) return qnet_out_of_memory(l->diag);
  for (int i = 0; i < op->result_count; i++)
    QNET_TRY(define(l, s, i, &op->result[i]));
  const qnet_value *rows = (kernel->row_in & 1) != 0 ? op->operand[0] : &op->result[0];
  if (kernel->rows != NULL) set_rows(s, positions(rows->type));
  return QNET_OK;
}

/* ---- layers -----------------------------------------------------------------------------------*/

static qnet_status lower_layer(lowering *l, const qnet_op *op) {
  const bool fast = l->plan->mode != QNET_PLAN_EXACT;
  qnet_plan_step *s = new_step(l, op, fast ? &qnet_plan_layer : &qnet_plan_layer_exact, false);
  if (s == NULL) return qnet_out_of_memory(l->diag);
  const qnet_op *user = qnet_value_single_user(&op->result[0]);
  s->relu = fast && user != NULL && user->opcode == QNET_OP_RELU;
  if (!s->relu) return define(l, s, 0, &op->result[0]);
  l->skipped[user->result[0].id] = true;
  return define(l, s, 0, &user->result[0]);
}

/* ---- batch_norm in training -------------------------------------------------------------------*/

/* The pass over the elements; no result yet. */
static qnet_plan_step *norm_apply(lowering *l, const qnet_op *op) {
  qnet_plan_step *s = new_step(l, op, &qnet_plan_norm_apply, false);
  if (s == NULL) return NULL;
  s->in[s->in_count++] = value_of(l, &op->result[1]);
  s->in[s->in_count++] = value_of(l, &op->result[2]);
  set_rows(s, positions(op->operand[0]->type));
  return s;
}

static qnet_status lower_norm_train(lowering *l, const qnet_op *op) {
  qnet_plan_step *sums = new_step(l, op, &qnet_plan_norm_stats, false);
  if (sums == NULL) return qnet_out_of_memory(l->diag);
  set_rows(sums, positions(op->operand[0]->type));
  QNET_TRY(define(l, sums, 0, &op->result[1]));
  QNET_TRY(define(l, sums, 1, &op->result[2]));
  qnet_plan_step *apply = norm_apply(l, op);
  return apply != NULL ? define(l, apply, 0, &op->result[0]) : qnet_out_of_memory(l->diag);
}

static bool uses(const qnet_op *op, const qnet_value *v) {
  for (int i = 0; op != NULL && i < op->operand_count; i++)
    if (op->operand[i] == v) return true;
  return false;
}

/* The batch_norm behind which stands the relu of this relu_grad, where the gradient of both is all
 * that wants it. The sign of y is then cheaper computed again from x, which the gradient of
 * batch_norm reads in any case, than read with y; and the gradient behind relu, which both its
 * passes need, is cheaper made twice than stored. */
static const qnet_op *norm_to_repeat(const qnet_op *op) {
  const qnet_value *y = op->operand[0];
  const qnet_op *relu = y->def, *grad = qnet_value_single_user(&op->result[0]);
  if (relu == NULL || relu->opcode != QNET_OP_RELU || uses(op->operand[1]->def, y)) return NULL;
  const qnet_op *norm = relu->operand[0]->def;
  if (norm == NULL || norm->opcode != QNET_OP_BATCH_NORM_TRAIN) return NULL;
  if (grad == NULL || grad->opcode != QNET_OP_BATCH_NORM_GRAD) return NULL;
  return grad->operand[0] == norm->operand[0] && grad->operand[1] == &op->result[0] ? norm : NULL;
}

/* dy behind relu, as the first steps of a group: computed again, or as it is. */
static qnet_status lower_norm_dy(lowering *l, const qnet_value *v, bool begins,
                                 qnet_plan_value **dy) {
  const qnet_op *op = v->def;
  const qnet_op *norm = op != NULL && op->opcode == QNET_OP_RELU_GRAD ? norm_to_repeat(op) : NULL;
  *dy = value_of(l, v);
  if (norm == NULL) return QNET_OK;
  qnet_plan_step *y = norm_apply(l, norm);
  qnet_plan_step *mask = y != NULL ? new_step(l, op, &qnet_plan_relu_grad, false) : NULL;
  if (mask == NULL) return qnet_out_of_memory(l->diag);
  y->begins = begins;
  y->out[0] = mask->in[0] = new_value(l, norm->result[0].type, QNET_PLACE_SLAB);
  mask->out[0] = *dy = new_value(l, v->type, QNET_PLACE_SLAB);
  if (mask->in[0] == NULL || *dy == NULL) return qnet_out_of_memory(l->diag);
  y->out_count = mask->out_count = 1;
  set_rows(mask, y->rows);
  return QNET_OK;
}

static qnet_status lower_norm_grad(lowering *l, const qnet_op *op) {
  const int64_t rows = positions(op->operand[0]->type);
  qnet_plan_value *dy;
  QNET_TRY(lower_norm_dy(l, op->operand[1], false, &dy));
  qnet_plan_step *sums = new_step(l, op, &qnet_plan_norm_grad_sums, false);
  if (sums == NULL) return qnet_out_of_memory(l->diag);
  sums->in[1] = dy;
  set_rows(sums, rows);
  QNET_TRY(define(l, sums, 0, &op->result[1]));
  QNET_TRY(define(l, sums, 1, &op->result[2]));
  QNET_TRY(lower_norm_dy(l, op->operand[1], true, &dy));
  qnet_plan_step *apply = new_step(l, op, &qnet_plan_norm_grad_apply, false);
  if (apply == NULL) return qnet_out_of_memory(l->diag);
  apply->in[1] = dy;
  apply->in[apply->in_count++] = sums->out[0];
  apply->in[apply->in_count++] = sums->out[1];
  set_rows(apply, rows);
  return define(l, apply, 0, &op->result[0]);
}

/* ---- quantizers -------------------------------------------------------------------------------*/

/* The statistics of this quantizer's codes, or NULL. */
static const qnet_op *stats_of(const qnet_op *op) {
  for (const qnet_use *u = op->result[1].uses; u != NULL; u = u->next)
    if (u->op->opcode == QNET_OP_CODE_STATS && u->op->operand[0] == op->operand[0] &&
        u->op->operand[1] == &op->result[1] &&
        qnet_op_int(u->op, "axis", -1) == qnet_op_int(op, "axis", -1))
      return u->op;
  return NULL;
}

static bool code_is_wanted(const qnet_op *op, const qnet_op *stats) {
  for (const qnet_use *u = op->result[1].uses; u != NULL; u = u->next)
    if (u->op != stats) return true;
  return false;
}

static qnet_status lower_quantize(lowering *l, const qnet_op *op) {
  const int64_t channels = op->operand[2]->type->dim[0];
  const int64_t filters = op->operand[0]->type->dim[0];
  const bool by_filter = qnet_op_int(op, "axis", -1) == 0;
  if (channels != (by_filter ? filters : 1)) return lower_plain(l, op, &qnet_plan_reference);
  qnet_plan_step *s =
      new_step(l, op, by_filter ? &qnet_plan_quantize_filters : &qnet_plan_quantize, false);
  if (s == NULL) return qnet_out_of_memory(l->diag);
  set_rows(s, by_filter ? filters : positions(op->operand[0]->type));
  QNET_TRY(define(l, s, 0, &op->result[0]));
  const qnet_op *stats = stats_of(op);
  if (code_is_wanted(op, stats)) QNET_TRY(define(l, s, 1, &op->result[1]));
  if (stats == NULL) return QNET_OK;
  l->skipped[stats->result[0].id] = true;
  QNET_TRY(define(l, s, 2, &stats->result[0]));
  return define(l, s, 3, &stats->result[1]);
}

static qnet_status lower_quantize_grad(lowering *l, const qnet_op *op) {
  const bool one_table = op->operand[1]->type->dim[0] == 1;
  return lower_plain(l, op, one_table ? &qnet_plan_quantize_grad : &qnet_plan_reference);
}

/* Statistics that no quantizer takes along: those channel by channel. */
static qnet_status lower_code_stats(lowering *l, const qnet_op *op) {
  const bool by_channel = qnet_op_int(op, "axis", -1) == 1;
  return lower_plain(l, op, by_channel ? &qnet_plan_channel_stats : &qnet_plan_reference);
}

static qnet_status lower_cell_grad(lowering *l, const qnet_op *op) {
  const int64_t channels = op->operand[2]->type->dim[0], filters = op->operand[0]->type->dim[0];
  const bool by_filter = qnet_op_int(op, "axis", -1) == 0;
  if (channels != (by_filter ? filters : 1)) return lower_plain(l, op, &qnet_plan_reference);
  qnet_plan_step *s =
      new_step(l, op, by_filter ? &qnet_plan_cell_grad_filters : &qnet_plan_cell_grad, false);
  if (s == NULL) return qnet_out_of_memory(l->diag);
  set_rows(s, by_filter ? filters : positions(op->operand[0]->type));
  for (int i = 0; i < op->result_count; i++)
    QNET_TRY(define(l, s, i, &op->result[i]));
  return QNET_OK;
}

/* ---- symbols ----------------------------------------------------------------------------------*/

static content *content_of(lowering *l, const qnet_op *op) {
  qnet_symbol *symbol = qnet_op_symbol(l->plan->module, op, "sym");
  for (content *c = l->contents; c != NULL; c = c->next)
    if (c->symbol == symbol) return c;
  content *c = qnet_arena_alloc(&l->plan->arena, sizeof *c);
  if (c == NULL) return NULL;
  *c = (content){.symbol = symbol, .next = l->contents};
  return l->contents = c;
}

static qnet_status lower_read(lowering *l, const qnet_op *op) {
  content *c = content_of(l, op);
  if (c == NULL) return qnet_out_of_memory(l->diag);
  if (c->written == NULL && c->initial == NULL) {
    c->initial = new_value(l, op->result[0].type, QNET_PLACE_SYMBOL);
    if (c->initial == NULL) return qnet_out_of_memory(l->diag);
    c->initial->symbol = c->symbol;
  }
  l->plan->value_of[op->result[0].id] = c->written != NULL ? c->written : c->initial;
  return QNET_OK;
}

static qnet_status lower_write(lowering *l, const qnet_op *op) {
  content *c = content_of(l, op);
  if (c == NULL) return qnet_out_of_memory(l->diag);
  c->written = value_of(l, op->operand[0]);
  return QNET_OK;
}

/* ---- dispatch ---------------------------------------------------------------------------------*/

/* A pad waits for the one that uses it: it then fills rows of that one's group, not memory. */
static bool waits(const qnet_op *op) {
  return op != NULL && op->opcode == QNET_OP_PAD && qnet_value_single_user(&op->result[0]) != NULL;
}

static qnet_status lower_waiting(lowering *l, const qnet_op *user) {
  for (int i = 0; i < user->operand_count; i++) {
    const qnet_op *op = user->operand[i]->def;
    if (!waits(op)) continue;
    QNET_TRY(lower_waiting(l, op));
    QNET_TRY(lower_plain(l, op, kernels[op->opcode]));
  }
  return QNET_OK;
}

static qnet_status lower_op(lowering *l, const qnet_op *op) {
  if (waits(op) || (op->result_count > 0 && l->skipped[op->result[0].id])) return QNET_OK;
  QNET_TRY(lower_waiting(l, op));
  switch (op->opcode) {
  case QNET_OP_READ: return lower_read(l, op);
  case QNET_OP_WRITE: return lower_write(l, op);
  case QNET_OP_YIELD: return QNET_OK;
  case QNET_OP_CONV2D:
  case QNET_OP_DENSE: return lower_layer(l, op);
  case QNET_OP_BATCH_NORM_TRAIN: return lower_norm_train(l, op);
  case QNET_OP_BATCH_NORM_GRAD: return lower_norm_grad(l, op);
  case QNET_OP_RELU_GRAD:
    if (norm_to_repeat(op) != NULL) return QNET_OK;
    break;
  case QNET_OP_QUANTIZE: return lower_quantize(l, op);
  case QNET_OP_QUANTIZE_GRAD: return lower_quantize_grad(l, op);
  case QNET_OP_CODE_STATS: return lower_code_stats(l, op);
  case QNET_OP_CELL_GRAD: return lower_cell_grad(l, op);
  default: break;
  }
  if (op->operand_count > QNET_PLAN_MAX_IN || op->result_count > QNET_PLAN_MAX_OUT ||
      op->region_count > 0 ||
      (kernels[op->opcode] == NULL && qnet_interp_kernel_of(op->opcode) == NULL))
    return qnet_error(l->diag, op->loc, "'%s' cannot be planned", qnet_op_def_of(op->opcode)->name);
  return lower_plain(l, op,
                     kernels[op->opcode] != NULL ? kernels[op->opcode] : &qnet_plan_reference);
}

/* ---- ends -------------------------------------------------------------------------------------*/

static qnet_status copy_to(lowering *l, qnet_plan_value *from, qnet_plan_value *to) {
  qnet_plan_step *s = new_step(l, NULL, &qnet_plan_copy, false);
  if (s == NULL) return qnet_out_of_memory(l->diag);
  s->in[0] = from;
  s->out[0] = to;
  s->in_count = s->out_count = 1;
  return QNET_OK;
}

static qnet_status lower_arguments(lowering *l, const qnet_region *body) {
  qnet_plan *p = l->plan;
  p->argument_count = body->arg_count;
  p->argument_value =
      qnet_arena_array(&p->arena, (size_t)body->arg_count, sizeof *p->argument_value);
  if (p->argument_value == NULL) return qnet_out_of_memory(l->diag);
  for (int i = 0; i < body->arg_count; i++) {
    p->argument_value[i] = new_value(l, body->arg[i].type, QNET_PLACE_BLOB);
    if (p->argument_value[i] == NULL) return qnet_out_of_memory(l->diag);
    p->value_of[body->arg[i].id] = p->argument_value[i];
  }
  return QNET_OK;
}

/* Results are computed in their blobs, or copied there. */
static qnet_status lower_results(lowering *l, const qnet_op *yield) {
  qnet_plan *p = l->plan;
  p->result_value =
      qnet_arena_array(&p->arena, (size_t)yield->operand_count, sizeof *p->result_value);
  if (p->result_value == NULL) return qnet_out_of_memory(l->diag);
  p->result_count = yield->operand_count;
  for (int i = 0; i < yield->operand_count; i++) {
    qnet_plan_value *v = value_of(l, yield->operand[i]);
    p->result_value[i] = v;
    if (v->place == QNET_PLACE_SLAB) {
      v->place = QNET_PLACE_BLOB;
      continue;
    }
    p->result_value[i] = new_value(l, v->type, QNET_PLACE_BLOB);
    if (p->result_value[i] == NULL) return qnet_out_of_memory(l->diag);
    QNET_TRY(copy_to(l, v, p->result_value[i]));
  }
  return QNET_OK;
}

/* A written value that is itself the content of some symbol must be saved before symbols change. */
static qnet_status save_contents(lowering *l) {
  for (content *c = l->contents; c != NULL; c = c->next) {
    qnet_plan_value *v = c->written;
    if (v == NULL || v->place != QNET_PLACE_SYMBOL || v == c->initial) continue;
    c->written = new_value(l, v->type, QNET_PLACE_SLAB);
    if (c->written == NULL) return qnet_out_of_memory(l->diag);
    QNET_TRY(copy_to(l, v, c->written));
  }
  return QNET_OK;
}

/* May v be computed in the symbol's memory? Its old content must not be read after v exists, but by
 * the very step that makes v element by element. */
static bool can_be_home(const lowering *l, const content *c) {
  if (c->written->place != QNET_PLACE_SLAB) return false;
  bool defined = false;
  for (const qnet_plan_step *s = l->plan->first; s != NULL; s = s->next) {
    bool defines = false, reads = false;
    for (int i = 0; i < s->out_count; i++)
      defines = defines || s->out[i] == c->written;
    for (int i = 0; c->initial != NULL && i < s->in_count; i++)
      reads = reads || (s->in[i] == c->initial &&
                        (defined || (defines && (s->kernel->overwrites >> i & 1) == 0)));
    if (reads) return false;
    /* A group runs its steps range by range: earlier steps of it are not done yet. */
    if (defines && c->initial != NULL && s->kernel->rows != NULL) return false;
    defined = defined || defines;
  }
  return defined;
}

static qnet_status store_contents(lowering *l) {
  QNET_TRY(save_contents(l));
  for (content *c = l->contents; c != NULL; c = c->next) {
    if (c->written == NULL || c->written == c->initial) continue;
    if (can_be_home(l, c)) {
      c->written->place = QNET_PLACE_SYMBOL;
      c->written->symbol = c->symbol;
      continue;
    }
    qnet_plan_value *home = new_value(l, c->written->type, QNET_PLACE_SYMBOL);
    if (home == NULL) return qnet_out_of_memory(l->diag);
    home->symbol = c->symbol;
    QNET_TRY(copy_to(l, c->written, home));
  }
  return QNET_OK;
}

qnet_status qnet_plan_lower(qnet_plan *p, const qnet_symbol *function, qnet_diag *d) {
  lowering l = {.plan = p, .diag = d};
  const size_t count = (size_t)qnet_function_number_values(function);
  p->value_of = qnet_arena_array(&p->arena, count, sizeof *p->value_of);
  l.skipped = qnet_arena_array(&p->arena, count, sizeof *l.skipped);
  if (p->value_of == NULL || l.skipped == NULL) return qnet_out_of_memory(d);
  QNET_TRY(lower_arguments(&l, function->body));
  for (const qnet_op *op = function->body->first; op != NULL; op = op->next)
    QNET_TRY(lower_op(&l, op));
  if (l.deferred != NULL) {
    append(&p->first, &p->last, l.deferred);
    p->last = l.deferred_last;
  }
  QNET_TRY(lower_results(&l, function->body->last));
  return store_contents(&l);
}
