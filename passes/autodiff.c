/* autodiff{optimizer=sgd,momentum=0.9,weight_decay=0.0001,nesterov=0,muon=0,beta1=0.9,beta2=0.999,
 * eps=1e-8,decoupled=0,smoothing=0,decay_norm=0}: makes the training step @step(image, label, lr)
 * -> loss, correct from @eval.
 *
 * learn=quantizers leaves all parameters alone: batch_norm keeps its form and its running
 * statistics, the gradient reaches the quantizers. learn=statistics leaves even these alone and
 * writes the statistics of the batch itself in place of the moving averages.
 *
 * distill=A (with temperature=4) adds the argument %teacher, another network's logits, and gives
 * them the share A of the loss. features=W adds W times the mean, over its features
 * (layer_order.h), of their squared distance from those of that network (the arguments %feature1,
 * ...) over the square of these. This part is in the gradient, not in the loss that @step yields.
 *
 * The forward of @eval is copied, batch_norm in its training form with moving averages written to
 * the running statistics (PyTorch's: momentum 0.1, unbiased variance). The gradient flows backwards
 * operation by operation through one table. Every f32 state symbol it reaches is learned by SGD
 * with a velocity in the state NAME.momentum, or by Adam (optimizer=adam) with averages in
 * NAME.momentum and NAME.variance and the count NAME.steps. muon=F: SGD leaves the weights of
 * convolutions to Muon, at F times the rate. Weight decay acts on convolution and dense weights,
 * and on biases and batch_norm parameters too when decay_norm is 1. Quantizers bring their own
 * gradients and statistics (passes/quantizer.h).
 *
 * Needs level nn; batch first (batch{n=N}), quantizers inserted. Keeps @eval and all facts. */
#include "ir/ops.h"
#include "passes/layer_order.h"
#include "passes/passes.h"
#include "passes/quantizer.h"
#include "passes/rewrite.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_GRADS = 3 };

/* PyTorch's default for batch_norm. */
static const double running_momentum = 0.1;

typedef enum { LEARN_ALL, LEARN_QUANTIZERS, LEARN_STATISTICS } learning;

typedef struct differ {
  qnet_module *module;
  learning learn;
  const qnet_pass_context *context;
  qnet_builder b;
  qnet_arena scratch;
  qnet_value **map;     /* value of @eval by id -> its copy in @step */
  bool *active;         /* by id in @step: does a learned parameter influence it? */
  qnet_value **grad;    /* by id in @step: its gradient so far */
  qnet_value **feature; /* of @eval; what is followed */
  int features;
  qnet_value **target; /* by id in @step: the feature that it follows, or NULL */
} differ;

/* ---- gradients, one function an operation -----------------------------------------------------*/

/* Sets dx[i] to the gradient of operand i; leaves those NULL that are not wanted or have none. */
typedef void (*gradient)(differ *s, qnet_op *op, qnet_value *dy, const bool *want, qnet_value **dx);

/* An operation of two operands and the window of `like`. */
static qnet_value *build2(differ *s, int opcode, qnet_value *a, qnet_value *b,
                          const qnet_type *result, const qnet_op *like) {
  qnet_value *v = qnet_build1(&s->b, opcode, (qnet_value *[]){a, b}, 2, result);
  if (v != NULL && like != NULL) qnet_op_copy_window(s->module, v->def, like);
  return v;
}

static qnet_value *build1(differ *s, int opcode, qnet_value *a, const qnet_type *result,
                          const qnet_op *like) {
  qnet_value *v = qnet_build1(&s->b, opcode, &a, 1, result);
  if (v != NULL && like != NULL) qnet_op_copy_window(s->module, v->def, like);
  return v;
}

static void layer_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                           qnet_value **dx) {
  const bool conv = op->opcode == QNET_OP_CONV2D;
  qnet_value *x = op->operand[0], *w = op->operand[1];
  const qnet_op *window = conv ? op : NULL;
  if (op->operand_count > 2 && want[2])
    dx[2] = build1(s, QNET_OP_BIAS_GRAD, dy, op->operand[2]->type, NULL);
  if (want[1])
    dx[1] = build2(s, conv ? QNET_OP_CONV2D_GRAD_WEIGHT : QNET_OP_DENSE_GRAD_WEIGHT, x, dy, w->type,
                   window);
  if (want[0])
    dx[0] = build2(s, conv ? QNET_OP_CONV2D_GRAD_INPUT : QNET_OP_DENSE_GRAD_INPUT, dy, w, x->type,
                   window);
}

static void batch_norm_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                                qnet_value **dx) {
  (void)want;
  qnet_value *operands[] = {op->operand[0], dy, op->operand[1], &op->result[1], &op->result[2]};
  const qnet_type *c = op->operand[1]->type;
  qnet_op *g = qnet_build(&s->b, QNET_OP_BATCH_NORM_GRAD, operands, 5,
                          (const qnet_type *[]){op->operand[0]->type, c, c}, 3);
  if (g == NULL) return;
  qnet_op_set_float(s->module, g, "eps", qnet_op_float(op, "eps", 1e-5));
  for (int i = 0; i < 3; i++)
    dx[i] = &g->result[i];
}

/* `const @zeros.N`: N zeros. */
static qnet_value *zeros(differ *s, const qnet_type *type) {
  qnet_module *m = s->module;
  const char *name =
      qnet_arena_printf(&m->arena, "zeros.%lld", (long long)qnet_type_elements(type));
  qnet_symbol *symbol = name != NULL ? qnet_symbol_find(m, name) : NULL;
  qnet_blob *blob = symbol == NULL ? qnet_type_new_blob(m->allocator, type) : NULL;
  if (blob != NULL && name != NULL)
    symbol = qnet_symbol_add_data(m, QNET_SYMBOL_CONST, name, type, blob, s->b.loc);
  if (blob != NULL) qnet_blob_release(blob);
  if (symbol != NULL) return qnet_build_read(&s->b, symbol);
  m->failed = true;
  return NULL;
}

/* With statistics that are constants: dy gamma / sqrt(var + eps), a batch_norm without mean and
 * bias. */
static void fixed_norm_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                                qnet_value **dx) {
  (void)want;
  qnet_value *zero = zeros(s, op->operand[1]->type);
  if (zero == NULL) return;
  qnet_value *operands[] = {dy, op->operand[1], zero, zero, op->operand[4]};
  dx[0] = qnet_build1(&s->b, QNET_OP_BATCH_NORM, operands, 5, dy->type);
  if (dx[0] != NULL)
    qnet_op_set_float(s->module, dx[0]->def, "eps", qnet_op_float(op, "eps", 1e-5));
}

static void relu_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                          qnet_value **dx) {
  (void)want;
  dx[0] = build2(s, QNET_OP_RELU_GRAD, &op->result[0], dy, dy->type, NULL);
}

static void max_pool_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                              qnet_value **dx) {
  (void)want;
  dx[0] = build2(s, QNET_OP_MAX_POOL2D_GRAD, op->operand[0], dy, op->operand[0]->type, op);
}

/* Linear operations whose gradient needs dy alone. */
static void linear_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                            qnet_value **dx) {
  (void)want;
  const int opcode = op->opcode == QNET_OP_AVG_POOL2D        ? QNET_OP_AVG_POOL2D_GRAD
                     : op->opcode == QNET_OP_GLOBAL_AVG_POOL ? QNET_OP_GLOBAL_AVG_POOL_GRAD
                                                             : QNET_OP_FLATTEN_GRAD;
  dx[0] = build1(s, opcode, dy, op->operand[0]->type, op);
}

/* Each of slice and pad is the other's gradient, with the same places. */
static void lattice_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                             qnet_value **dx) {
  (void)want;
  const int opcode = op->opcode == QNET_OP_SLICE ? QNET_OP_PAD : QNET_OP_SLICE;
  dx[0] = build1(s, opcode, dy, op->operand[0]->type, NULL);
  if (dx[0] == NULL) return;
  const qnet_lattice l = qnet_op_lattice(op);
  qnet_op_set_lattice(s->module, dx[0]->def, &l);
}

static void add_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                         qnet_value **dx) {
  (void)s, (void)op, (void)want;
  dx[0] = dx[1] = dy;
}

static void quantize_gradient(differ *s, qnet_op *op, qnet_value *dy, const bool *want,
                              qnet_value **dx) {
  (void)want;
  const qnet_quantizer *q = qnet_quantizer_find(qnet_op_string(op, "quantizer"));
  dx[0] = q->emit_backward(&s->b, op, dy);
}

/* operands: those that have a gradient, one bit each. */
static const struct row {
  int opcode;
  unsigned operands;
  gradient emit;
} table[] = {
    {QNET_OP_CONV2D, 7, layer_gradient},
    {QNET_OP_DENSE, 7, layer_gradient},
    {QNET_OP_BATCH_NORM_TRAIN, 7, batch_norm_gradient},
    {QNET_OP_BATCH_NORM, 1, fixed_norm_gradient},
    {QNET_OP_RELU, 1, relu_gradient},
    {QNET_OP_MAX_POOL2D, 1, max_pool_gradient},
    {QNET_OP_AVG_POOL2D, 1, linear_gradient},
    {QNET_OP_GLOBAL_AVG_POOL, 1, linear_gradient},
    {QNET_OP_FLATTEN, 1, linear_gradient},
    {QNET_OP_SLICE, 1, lattice_gradient},
    {QNET_OP_PAD, 1, lattice_gradient},
    {QNET_OP_ADD, 3, add_gradient},
    {QNET_OP_QUANTIZE, 1, quantize_gradient},
    {QNET_OP_NORMALIZE, 0, NULL},
    {QNET_OP_READ, 0, NULL},
};

static const struct row *row_of(int opcode) {
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (table[i].opcode == opcode) return &table[i];
  return NULL;
}

/* ---- forward ----------------------------------------------------------------------------------*/

/* batch_norm in its training form; the running statistics are updated at once. */
static qnet_status copy_batch_norm(differ *s, const qnet_op *op) {
  qnet_module *m = s->module;
  qnet_value *x = s->map[op->operand[0]->id];
  qnet_value *operands[] = {x, s->map[op->operand[1]->id], s->map[op->operand[2]->id]};
  const qnet_type *c = op->operand[1]->type;
  qnet_op *train = qnet_build(&s->b, QNET_OP_BATCH_NORM_TRAIN, operands, 3,
                              (const qnet_type *[]){x->type, c, c}, 3);
  if (train == NULL) return qnet_out_of_memory(s->context->diag);
  qnet_op_set_float(m, train, "eps", qnet_op_float(op, "eps", 1e-5));
  const double n = (double)(qnet_type_elements(x->type) / qnet_type_elements(c));
  for (int i = 0; i < 2; i++) {
    qnet_value *old = s->map[op->operand[3 + i]->id];
    const qnet_symbol *symbol = old->def != NULL && old->def->opcode == QNET_OP_READ
                                    ? qnet_op_symbol(m, old->def, "sym")
                                    : NULL;
    if (symbol == NULL || symbol->kind != QNET_SYMBOL_STATE)
      return qnet_error(s->context->diag, op->loc,
                        "the running statistics of this batch_norm are not state symbols");
    qnet_value *average = build2(s, QNET_OP_MOVING_AVERAGE, old, &train->result[1 + i], c, NULL);
    if (average == NULL) return qnet_out_of_memory(s->context->diag);
    qnet_op_set_float(m, average->def, "momentum",
                      s->learn == LEARN_STATISTICS ? 1 : running_momentum);
    if (i == 1 && n > 1) qnet_op_set_float(m, average->def, "scale", n / (n - 1));
    qnet_build_write(&s->b, symbol, average);
  }
  s->map[op->result[0].id] = &train->result[0];
  return QNET_OK;
}

/* The statistics of a quantizer are states named after its site; two cannot share them. */
static qnet_status copy_stats(differ *s, qnet_op *copy) {
  const qnet_pass_context *c = s->context;
  const qnet_quantizer *q = qnet_quantizer_find(qnet_op_string(copy, "quantizer"));
  if (q == NULL)
    return qnet_error(c->diag, copy->loc, "unknown quantizer '%s'",
                      qnet_op_string(copy, "quantizer"));
  if (q->emit_stats == NULL) return QNET_OK;
  const char *site = qnet_op_string(copy, "site");
  const char *count = qnet_arena_printf(&s->scratch, "%s.count", site);
  if (count == NULL) return qnet_out_of_memory(c->diag);
  if (qnet_symbol_find(s->module, count) != NULL)
    return qnet_error(c->diag, copy->loc,
                      "autodiff: there is a symbol @%s already; two quantizers cannot share a site",
                      count);
  q->emit_stats(&s->b, copy);
  return QNET_OK;
}

static qnet_status copy_op(differ *s, const qnet_op *op) {
  if (row_of(op->opcode) == NULL)
    return qnet_error(s->context->diag, op->loc, "'%s' has no gradient; it cannot be trained",
                      qnet_op_def_of(op->opcode)->name);
  if (op->opcode == QNET_OP_BATCH_NORM && s->learn != LEARN_QUANTIZERS)
    return copy_batch_norm(s, op);
  qnet_op *copy = qnet_op_clone(&s->b, op, s->map);
  if (copy == NULL) return qnet_out_of_memory(s->context->diag);
  for (int i = 0; i < op->result_count; i++)
    s->map[op->result[i].id] = &copy->result[i];
  if (op->opcode != QNET_OP_QUANTIZE || s->learn == LEARN_STATISTICS) return QNET_OK;
  return copy_stats(s, copy);
}

static qnet_value *teacher_of(qnet_region *step) {
  return step->arg_count > QNET_STEP_TEACHER ? &step->arg[QNET_STEP_TEACHER] : NULL;
}

/* Copies @eval up to its yield and appends the loss, which is returned in *loss. */
static qnet_status build_forward(differ *s, const qnet_symbol *eval, qnet_region *step,
                                 qnet_op **loss) {
  qnet_module *m = s->module;
  s->map[eval->body->arg[0].id] = &step->arg[0];
  for (const qnet_op *op = eval->body->first; op != NULL; op = op->next) {
    s->b.loc = op->loc;
    if (op->opcode != QNET_OP_YIELD) {
      QNET_TRY(copy_op(s, op));
      continue;
    }
    qnet_value *logits = s->map[op->operand[0]->id];
    const qnet_type *results[] = {qnet_type_tensor(m, QNET_F32, 0, NULL), logits->type,
                                  qnet_type_tensor(m, QNET_I32, 0, NULL)};
    qnet_value *operands[] = {logits, &step->arg[QNET_STEP_LABEL], teacher_of(step)};
    *loss =
        qnet_build(&s->b, QNET_OP_SOFTMAX_CROSS_ENTROPY, operands, operands[2] ? 3 : 2, results, 3);
  }
  if (*loss == NULL) return qnet_out_of_memory(s->context->diag);
  if (teacher_of(step) != NULL) {
    qnet_op_set_float(m, *loss, "distill", qnet_pass_option_float(s->context, "distill", 0));
    qnet_op_set_float(m, *loss, "temperature",
                      qnet_pass_option_float(s->context, "temperature", 4));
  }
  const double smoothing = qnet_pass_option_float(s->context, "smoothing", 0);
  if (smoothing > 0) qnet_op_set_float(m, *loss, "smoothing", smoothing);
  return QNET_OK;
}

/* ---- backward ---------------------------------------------------------------------------------*/

static bool is_parameter(const differ *s, const qnet_op *op) {
  if (op->opcode != QNET_OP_READ || s->learn != LEARN_ALL) return false;
  const qnet_symbol *symbol = qnet_op_symbol(s->module, op, "sym");
  return symbol != NULL && symbol->kind == QNET_SYMBOL_STATE && symbol->type->dtype == QNET_F32;
}

/* A quantizer whose parameters learn by gradient: dy must reach it even where x is not learned. */
static bool learns(const qnet_op *op) {
  if (op->opcode != QNET_OP_QUANTIZE) return false;
  const qnet_quantizer *q = qnet_quantizer_find(qnet_op_string(op, "quantizer"));
  return q != NULL && q->learn != NULL;
}

/* Marks what a learned parameter can influence through operands that have gradients. */
static void mark_active(differ *s, const qnet_region *step) {
  for (const qnet_op *op = step->first; op != NULL; op = op->next) {
    const struct row *row = row_of(op->opcode);
    bool active = is_parameter(s, op) || learns(op);
    for (int i = 0; row != NULL && i < op->operand_count; i++)
      active = active || ((row->operands >> i & 1) != 0 && s->active[op->operand[i]->id]);
    if (op->result_count > 0) s->active[op->result[0].id] = active;
  }
}

static void accumulate(differ *s, const qnet_value *of, qnet_value *g) {
  qnet_value **sum = &s->grad[of->id];
  *sum = *sum == NULL || g == NULL ? g : build2(s, QNET_OP_ADD, *sum, g, g->type, NULL);
}

/* The pull towards a feature, behind all other gradients of x: it need not wait for them. */
static void follow(differ *s, qnet_value *x) {
  if (s->target[x->id] == NULL || !s->active[x->id]) return;
  qnet_value *g = build2(s, QNET_OP_FEATURE_GRAD, x, s->target[x->id], x->type, NULL);
  if (g == NULL) return;
  const double weight = qnet_pass_option_float(s->context, "features", 0);
  qnet_op_set_float(s->module, g->def, "weight", weight / s->features);
  accumulate(s, x, g);
}

static void differentiate(differ *s, qnet_op *op) {
  const struct row *row = row_of(op->opcode);
  s->b.loc = op->loc;
  if (row != NULL && op->result_count > 0) follow(s, &op->result[0]);
  if (row == NULL || row->emit == NULL || s->grad[op->result[0].id] == NULL) return;
  bool want[MAX_GRADS] = {false};
  qnet_value *dx[MAX_GRADS] = {NULL};
  bool any = learns(op);
  for (int i = 0; i < op->operand_count && i < MAX_GRADS; i++) {
    want[i] = (row->operands >> i & 1) != 0 && s->active[op->operand[i]->id];
    any = any || want[i];
  }
  if (!any) return;
  row->emit(s, op, s->grad[op->result[0].id], want, dx);
  for (int i = 0; i < op->operand_count && i < MAX_GRADS; i++)
    if (want[i] && dx[i] != NULL) accumulate(s, op->operand[i], dx[i]);
}

static qnet_status build_backward(differ *s, qnet_region *step, qnet_op *loss) {
  const int count = qnet_function_number_values(step->function);
  s->active = qnet_arena_array(&s->scratch, (size_t)count, sizeof *s->active);
  s->grad = qnet_arena_array(&s->scratch, (size_t)count, sizeof *s->grad);
  s->target = qnet_arena_array(&s->scratch, (size_t)count, sizeof *s->target);
  if (s->active == NULL || s->grad == NULL || s->target == NULL)
    return qnet_out_of_memory(s->context->diag);
  for (int i = 0; i < s->features; i++)
    s->target[s->map[s->feature[i]->id]->id] = &step->arg[QNET_STEP_FEATURE + i];
  mark_active(s, step);
  if (!s->active[loss->operand[0]->id] && s->learn == LEARN_QUANTIZERS) return QNET_OK;
  if (!s->active[loss->operand[0]->id])
    return qnet_error(s->context->diag, loss->loc,
                      "no state symbol influences the result: there is nothing to train");
  s->grad[loss->operand[0]->id] = &loss->result[1];
  for (qnet_op *op = loss->prev; op != NULL; op = op->prev)
    differentiate(s, op);
  return s->module->failed ? qnet_out_of_memory(s->context->diag) : QNET_OK;
}

/* ---- update -----------------------------------------------------------------------------------*/

/* The state NAME.suffix beside a parameter, zero at first. */
static qnet_symbol *beside(differ *s, const qnet_symbol *parameter, const char *suffix,
                           const qnet_type *type) {
  qnet_module *m = s->module;
  const char *name = qnet_arena_printf(&m->arena, "%s.%s", parameter->name, suffix);
  if (name == NULL || type == NULL) return NULL;
  qnet_symbol *found = qnet_symbol_find(m, name);
  if (found != NULL) return found;
  qnet_blob *zero = qnet_blob_create(m->allocator, type->dtype, type->rank, type->dim);
  if (zero == NULL) return NULL;
  found = qnet_symbol_add_data(m, QNET_SYMBOL_STATE, name, type, zero, parameter->loc);
  qnet_blob_release(zero);
  return found;
}

/* Scores only select codes; decay would pull them all to one. */
static bool holds_scores(const qnet_value *w) {
  for (const qnet_use *u = w->uses; u != NULL; u = u->next) {
    if (u->op->opcode != QNET_OP_QUANTIZE) continue;
    const qnet_quantizer *q = qnet_quantizer_find(qnet_op_string(u->op, "quantizer"));
    if (q != NULL && q->keeps_scores) return true;
  }
  return false;
}

static double decay_of(const differ *s, const qnet_value *w, double otherwise) {
  const bool matrix = w->type->rank >= 2;
  const bool decays = matrix || qnet_pass_option_int(s->context, "decay_norm", 0) != 0;
  return decays && !holds_scores(w) ? qnet_pass_option_float(s->context, "weight_decay", otherwise)
                                    : 0;
}

/* SGD; or Muon, for the weights of convolutions (that of a classifier keeps SGD, as Muon's authors
 * have it). Both have a velocity. */
static qnet_status build_sgd(differ *s, const qnet_symbol *symbol, qnet_value *w, qnet_value *g,
                             qnet_value *lr) {
  qnet_module *m = s->module;
  const qnet_pass_context *c = s->context;
  const double muon = w->type->rank == 4 ? qnet_pass_option_float(c, "muon", 0) : 0;
  qnet_symbol *velocity = beside(s, symbol, "momentum", w->type);
  if (velocity == NULL) return qnet_out_of_memory(c->diag);
  qnet_value *operands[] = {w, g, qnet_build_read(&s->b, velocity), lr};
  qnet_op *sgd = qnet_build(&s->b, muon > 0 ? QNET_OP_MUON : QNET_OP_SGD, operands, 4,
                            (const qnet_type *[]){w->type, w->type}, 2);
  if (sgd == NULL) return qnet_out_of_memory(c->diag);
  qnet_op_set_float(m, sgd, "momentum", qnet_pass_option_float(c, "momentum", 0.9));
  qnet_op_set_float(m, sgd, "weight_decay", decay_of(s, w, 1e-4));
  if (qnet_pass_option_int(c, "nesterov", 0) != 0) qnet_op_set_int(m, sgd, "nesterov", 1);
  if (muon > 0) qnet_op_set_float(m, sgd, "scale", muon);
  qnet_build_write(&s->b, symbol, &sgd->result[0]);
  qnet_build_write(&s->b, velocity, &sgd->result[1]);
  return QNET_OK;
}

static qnet_status build_adam(differ *s, const qnet_symbol *symbol, qnet_value *w, qnet_value *g,
                              qnet_value *lr) {
  qnet_module *m = s->module;
  const qnet_pass_context *c = s->context;
  const qnet_type *count = qnet_type_tensor(m, QNET_I64, 0, NULL);
  const qnet_symbol *const own[] = {beside(s, symbol, "momentum", w->type),
                                    beside(s, symbol, "variance", w->type),
                                    beside(s, symbol, "steps", count)};
  if (own[0] == NULL || own[1] == NULL || own[2] == NULL) return qnet_out_of_memory(c->diag);
  qnet_value *operands[] = {w,
                            g,
                            qnet_build_read(&s->b, own[0]),
                            qnet_build_read(&s->b, own[1]),
                            qnet_build_read(&s->b, own[2]),
                            lr};
  const qnet_type *results[] = {w->type, w->type, w->type, count};
  qnet_op *adam = qnet_build(&s->b, QNET_OP_ADAM, operands, 6, results, 4);
  if (adam == NULL) return qnet_out_of_memory(c->diag);
  qnet_op_set_float(m, adam, "beta1", qnet_pass_option_float(c, "beta1", 0.9));
  qnet_op_set_float(m, adam, "beta2", qnet_pass_option_float(c, "beta2", 0.999));
  qnet_op_set_float(m, adam, "eps", qnet_pass_option_float(c, "eps", 1e-8));
  qnet_op_set_float(m, adam, "weight_decay", decay_of(s, w, 0));
  if (qnet_pass_option_int(c, "decoupled", 0) != 0) qnet_op_set_int(m, adam, "decoupled", 1);
  qnet_build_write(&s->b, symbol, &adam->result[0]);
  for (int i = 0; i < 3; i++)
    qnet_build_write(&s->b, own[i], &adam->result[1 + i]);
  return QNET_OK;
}

static qnet_status build_update(differ *s, qnet_op *read, qnet_value *lr) {
  qnet_value *w = &read->result[0], *g = s->grad[w->id];
  const qnet_symbol *symbol = qnet_op_symbol(s->module, read, "sym");
  s->b.loc = read->loc;
  return qnet_pass_option_is(s->context, "optimizer", "adam") ? build_adam(s, symbol, w, g, lr)
                                                              : build_sgd(s, symbol, w, g, lr);
}

/* A read and its place in the program. */
typedef struct placed_read {
  const qnet_symbol *symbol;
  qnet_op *op;
  int place;
} placed_read;

static int compare_reads(const void *a, const void *b) {
  const placed_read *x = a, *y = b;
  if (x->symbol != y->symbol) return (uintptr_t)x->symbol < (uintptr_t)y->symbol ? -1 : 1;
  return x->place - y->place;
}

static placed_read *collect_reads(differ *s, const qnet_region *body, int *count) {
  *count = 0;
  for (const qnet_op *op = body->first; op != NULL; op = op->next)
    *count += op->opcode == QNET_OP_READ;
  placed_read *read = qnet_arena_array(&s->scratch, (size_t)*count, sizeof *read);
  int place = 0;
  for (qnet_op *op = body->first; op != NULL && read != NULL; op = op->next)
    if (op->opcode == QNET_OP_READ) {
      read[place] = (placed_read){qnet_op_symbol(s->module, op, "sym"), op, place};
      place++;
    }
  return read;
}

/* All reads of a parameter share one gradient sum, or each update would undo the other. The first
 * one stays. */
static qnet_status merge_reads(differ *s, const qnet_region *body) {
  int count;
  placed_read *read = collect_reads(s, body, &count);
  if (read == NULL) return qnet_out_of_memory(s->context->diag);
  if (count > 0) qsort(read, (size_t)count, sizeof *read, compare_reads);
  for (int i = 1, first = 0; i < count; i++) {
    if (read[i].symbol != read[first].symbol) {
      first = i;
      continue;
    }
    qnet_value_replace(s->module, &read[i].op->result[0], &read[first].op->result[0]);
    qnet_op_erase(read[i].op);
  }
  return s->module->failed ? qnet_out_of_memory(s->context->diag) : QNET_OK;
}

/* ---- the pass ---------------------------------------------------------------------------------*/

static qnet_status check_eval(const qnet_module *m, const qnet_pass_context *c,
                              const qnet_symbol *eval) {
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC)
    return qnet_error(c->diag, QNET_NO_LOC, "autodiff: the module has no function @eval");
  if (qnet_symbol_find(m, "step") != NULL)
    return qnet_error(c->diag, QNET_NO_LOC, "autodiff: the module has a symbol @step already");
  const qnet_op *yield = eval->body->last;
  if (eval->body->arg_count != 1 || yield == NULL || yield->opcode != QNET_OP_YIELD ||
      yield->operand_count != 1 || yield->operand[0]->type->rank != 2)
    return qnet_error(c->diag, eval->loc,
                      "autodiff: @eval must take one image and yield one tensor<NxCLASSESxf32>");
  const qnet_type *image = eval->body->arg[0].type, *logits = yield->operand[0]->type;
  if (image->rank < 1 || image->dim[0] != logits->dim[0])
    return qnet_error(c->diag, yield->loc,
                      "autodiff: @eval must yield a row for each image of its argument");
  return QNET_OK;
}

static qnet_status find_features(differ *s, const qnet_symbol *eval) {
  if (qnet_pass_option_float(s->context, "features", 0) <= 0) return QNET_OK;
  if (qnet_pass_option_float(s->context, "distill", 0) <= 0)
    return qnet_error(s->context->diag, QNET_NO_LOC, "autodiff: 'features' needs 'distill'");
  const int layers = qnet_layer_count(eval->body);
  s->feature = qnet_arena_array(&s->scratch, (size_t)layers, sizeof *s->feature);
  if (s->feature == NULL) return qnet_out_of_memory(s->context->diag);
  s->features = qnet_layer_features(eval->body, s->feature);
  return QNET_OK;
}

/* @step with its arguments, or NULL when out of memory. */
static qnet_symbol *declare_step(differ *s, const qnet_symbol *eval) {
  static const char *const names[] = {"image", "label", "lr", "teacher"};
  qnet_module *m = s->module;
  const qnet_type *image = eval->body->arg[0].type;
  const bool distill = qnet_pass_option_float(s->context, "distill", 0) > 0;
  const int count = distill ? QNET_STEP_FEATURE + s->features : QNET_STEP_TEACHER;
  const qnet_type **type =
      qnet_arena_array(&s->scratch, QNET_STEP_FEATURE + (size_t)s->features, sizeof *type);
  if (type == NULL) return NULL;
  type[QNET_STEP_IMAGE] = image;
  type[QNET_STEP_LABEL] = qnet_type_tensor(m, QNET_I32, 1, image->dim);
  type[QNET_STEP_LR] = qnet_type_tensor(m, QNET_F32, 0, NULL);
  type[QNET_STEP_TEACHER] = eval->body->last->operand[0]->type;
  for (int i = 0; i < s->features; i++)
    type[QNET_STEP_FEATURE + i] = s->feature[i]->type;
  qnet_symbol *step = qnet_symbol_add_func(m, "step", type, count, eval->loc);
  for (int i = 0; step != NULL && i < count; i++)
    step->body->arg[i].name =
        i < QNET_STEP_FEATURE ? names[i]
                              : qnet_arena_printf(&m->arena, "feature%d", i - QNET_STEP_TEACHER);
  return step;
}

static qnet_status build_step(differ *s, const qnet_symbol *eval) {
  qnet_module *m = s->module;
  QNET_TRY(find_features(s, eval));
  qnet_symbol *step = declare_step(s, eval);
  if (step == NULL) return qnet_out_of_memory(s->context->diag);
  s->b = qnet_builder_at_end(m, step->body);
  qnet_op *loss = NULL;
  QNET_TRY(build_forward(s, eval, step->body, &loss));
  QNET_TRY(merge_reads(s, step->body));
  if (s->learn != LEARN_STATISTICS) QNET_TRY(build_backward(s, step->body, loss));
  for (qnet_op *op = step->body->first; op != loss; op = op->next)
    if (is_parameter(s, op) && s->grad[op->result[0].id] != NULL)
      QNET_TRY(build_update(s, op, &step->body->arg[QNET_STEP_LR]));
  qnet_build_yield(&s->b, (qnet_value *[]){&loss->result[0], &loss->result[2]}, 2);
  return m->failed ? qnet_out_of_memory(s->context->diag) : QNET_OK;
}

static qnet_status read_learning(const qnet_pass_context *c, learning *out) {
  static const char *const words[] = {"all", "quantizers", "statistics"};
  if (!qnet_pass_option_given(c, "learn")) return QNET_OK;
  for (int i = 0; i < 3; i++)
    if (qnet_pass_option_is(c, "learn", words[i])) {
      *out = (learning)i;
      return QNET_OK;
    }
  return qnet_error(c->diag, QNET_NO_LOC,
                    "autodiff: 'learn' is all, quantizers or statistics, in {%s}", c->options);
}

qnet_status qnet_pass_autodiff(qnet_module *m, const qnet_pass_context *c) {
  qnet_symbol *eval = qnet_symbol_find(m, "eval");
  QNET_TRY(check_eval(m, c, eval));
  differ s = {.module = m, .context = c, .learn = LEARN_ALL};
  QNET_TRY(read_learning(c, &s.learn));
  qnet_arena_init(&s.scratch, c->allocator);
  const int count = qnet_function_number_values(eval);
  s.map = qnet_arena_array(&s.scratch, (size_t)count, sizeof *s.map);
  const qnet_status status = s.map != NULL ? build_step(&s, eval) : qnet_out_of_memory(c->diag);
  qnet_arena_clear(&s.scratch);
  return status;
}
