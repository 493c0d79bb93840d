/* The rest of a training step: the update, moving averages, gradients of biases; copies; and the
 * reference kernels of the interpreter for whatever has no kernel of its own. */
#include "codegen/lanes.h"
#include "codegen/plan_fuse.h"
#include "ir/interp.h"
#include "support/parallel.h"
#include "support/simd.h"
#include <math.h>
#include <string.h>

/* ---- the update: operands w, gradient, velocity, lr; results w', velocity' --------------------*/

typedef struct update {
  const float *w, *gradient, *velocity;
  float *next_w, *next_velocity;
  float momentum, decay, lr;
  bool nesterov;
} update;

QNET_SIMD_BODY void update_range_body(const update *u, int64_t begin, int64_t end) {
  const float *w = u->w, *gradient = u->gradient, *velocity = u->velocity;
  float *next_w = u->next_w, *next_velocity = u->next_velocity;
  const float momentum = u->momentum, decay = u->decay, lr = u->lr;
  const bool nesterov = u->nesterov;
#pragma omp simd
  for (int64_t i = begin; i < end; i++) {
    const float g = gradient[i] + decay * w[i], v = momentum * velocity[i] + g;
    const float old = w[i];
    next_velocity[i] = v;
    next_w[i] = old - lr * (nesterov ? g + momentum * v : v);
  }
}
QNET_SIMD_DISPATCH(update_range, (const update *u, int64_t begin, int64_t end), (u, begin, end))

static void update_chunk(void *context, size_t begin, size_t end) {
  update_range(context, (int64_t)begin, (int64_t)end);
}

static qnet_status run_sgd(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  (void)p, (void)d;
  update u = {.w = (const float *)s->in[0]->data,
              .gradient = (const float *)s->in[1]->data,
              .velocity = (const float *)s->in[2]->data,
              .next_w = (float *)s->out[0]->data,
              .next_velocity = (float *)s->out[1]->data,
              .momentum = (float)qnet_op_float(s->op, "momentum", 0),
              .decay = (float)qnet_op_float(s->op, "weight_decay", 0),
              .lr = *(const float *)s->in[3]->data,
              .nesterov = qnet_op_int(s->op, "nesterov", 0) != 0};
  qnet_parallel_for((size_t)qnet_type_elements(s->in[0]->type), 16 * QNET_PLAN_RANGE, update_chunk,
                    &u);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_sgd = {.run = run_sgd, .overwrites = 7};

/* ---- Adam: operands w, gradient, m, v, steps, lr; results the new w, m, v, steps --------------*/

typedef struct adam {
  const float *w, *gradient, *mean, *square;
  float *next_w, *next_mean, *next_square;
  float beta1, beta2, eps;
  float decay, decoupled;         /* one of them is 0 */
  float rate, correction, shrink; /* lr / (1 - beta1^t), 1 / (1 - beta2^t), lr */
} adam;

QNET_SIMD_BODY void adam_range_body(const adam *u, int64_t begin, int64_t end) {
  const float *w = u->w, *gradient = u->gradient, *mean = u->mean, *square = u->square;
  float *next_w = u->next_w, *next_mean = u->next_mean, *next_square = u->next_square;
  const float beta1 = u->beta1, beta2 = u->beta2, eps = u->eps, decay = u->decay;
  const float rate = u->rate, correction = u->correction, shrink = u->shrink * u->decoupled;
#pragma omp simd
  for (int64_t i = begin; i < end; i++) {
    const float old = w[i], g = gradient[i] + decay * old;
    const float first = beta1 * mean[i] + (1 - beta1) * g;
    const float second = beta2 * square[i] + (1 - beta2) * (g * g);
    next_mean[i] = first;
    next_square[i] = second;
    next_w[i] = old - (rate * (first / (sqrtf(second * correction) + eps)) + shrink * old);
  }
}
QNET_SIMD_DISPATCH(adam_range, (const adam *u, int64_t begin, int64_t end), (u, begin, end))

static void adam_chunk(void *context, size_t begin, size_t end) {
  adam_range(context, (int64_t)begin, (int64_t)end);
}

static qnet_status run_adam(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  (void)p, (void)d;
  const double beta1 = qnet_op_float(s->op, "beta1", 0.9);
  const double beta2 = qnet_op_float(s->op, "beta2", 0.999);
  const double decay = qnet_op_float(s->op, "weight_decay", 0);
  const bool decoupled = qnet_op_int(s->op, "decoupled", 0) != 0;
  const int64_t t = *(const int64_t *)s->in[4]->data + 1;
  const float lr = *(const float *)s->in[5]->data;
  adam u = {.w = (const float *)s->in[0]->data,
            .gradient = (const float *)s->in[1]->data,
            .mean = (const float *)s->in[2]->data,
            .square = (const float *)s->in[3]->data,
            .next_w = (float *)s->out[0]->data,
            .next_mean = (float *)s->out[1]->data,
            .next_square = (float *)s->out[2]->data,
            .beta1 = (float)beta1,
            .beta2 = (float)beta2,
            .eps = (float)qnet_op_float(s->op, "eps", 1e-8),
            .decay = decoupled ? 0 : (float)decay,
            .decoupled = decoupled ? (float)decay : 0,
            .rate = (float)((double)lr / (1 - pow(beta1, (double)t))),
            .correction = (float)(1 / (1 - pow(beta2, (double)t))),
            .shrink = lr};
  qnet_parallel_for((size_t)qnet_type_elements(s->in[0]->type), 16 * QNET_PLAN_RANGE, adam_chunk,
                    &u);
  *(int64_t *)s->out[3]->data = t; /* last: it may lie where an operand was */
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_adam = {.run = run_adam, .overwrites = 0x1f};

/* ---- features: operands x, target; the factor of the one pass needs all of the target ---------*/

/* state: the factor for all channels, then a sum of squares for each range. */
static qnet_status prepare_feature_grad(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  const size_t ranges = (size_t)(s->rows * s->width + QNET_PLAN_RANGE - 1) / QNET_PLAN_RANGE;
  s->state = qnet_plan_alloc(p, ((size_t)s->width + ranges) * sizeof(float));
  return s->state != NULL ? QNET_OK : qnet_out_of_memory(d);
}

/* Element i goes to lane i % 16, on every machine. */
QNET_SIMD_BODY void sum_squares_body(const float *x, int64_t n, float *lane) {
  int64_t i = 0;
  for (; i + QNET_LANES <= n; i += QNET_LANES)
#pragma omp simd
    for (int k = 0; k < QNET_LANES; k++)
      lane[k] += x[i + k] * x[i + k];
  for (; i < n; i++)
    lane[i % QNET_LANES] += x[i] * x[i];
}
QNET_SIMD_DISPATCH(sum_squares, (const float *x, int64_t n, float *lane), (x, n, lane))

typedef struct squares {
  const float *x;
  float *sum; /* by range */
} squares;

static void square_range(void *context, size_t begin, size_t end) {
  const squares *q = context;
  float lane[QNET_LANES] = {0};
  sum_squares(q->x + begin, (int64_t)(end - begin), lane);
  q->sum[begin / QNET_PLAN_RANGE] = (float)qnet_lanes_add(lane);
}

static void begin_feature_grad(const qnet_plan_step *s) {
  const size_t n = (size_t)(s->rows * s->width);
  float *factor = s->state;
  squares q = {.x = (const float *)s->in[1]->data, .sum = factor + s->width};
  qnet_parallel_for(n, QNET_PLAN_RANGE, square_range, &q);
  double sum = 0;
  for (size_t i = 0; i < n; i += QNET_PLAN_RANGE)
    sum += (double)q.sum[i / QNET_PLAN_RANGE];
  const double weight = qnet_op_float(s->op, "weight", 1);
  for (int64_t c = 0; c < s->width; c++)
    factor[c] = sum > 0 ? (float)(2 * weight / sum) : 0;
}

QNET_SIMD_BODY void feature_grad_body(const float *x, const float *target, float factor, int64_t n,
                                      float *dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    dx[i] = (x[i] - target[i]) * factor;
}
QNET_SIMD_DISPATCH(feature_grad,
                   (const float *x, const float *target, float factor, int64_t n, float *dx),
                   (x, target, factor, n, dx))

static void feature_grad_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  feature_grad(r->in[0], r->in[1], *(const float *)s->state, r->count * s->width, r->out[0]);
}

static void emit_feature_grad(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_value *e =
      qnet_fuse_arithmetic(f, QNET_OP_LOOP_FSUB, qnet_fuse_in(f, 0), qnet_fuse_in(f, 1));
  qnet_fuse_out(f, 0, qnet_fuse_arithmetic(f, QNET_OP_LOOP_FMUL, e, qnet_fuse_state(f, 0)));
}

const qnet_plan_kernel qnet_plan_feature_grad = {.prepare = prepare_feature_grad,
                                                 .begin = begin_feature_grad,
                                                 .rows = feature_grad_rows,
                                                 .emit = emit_feature_grad,
                                                 .row_in = 3,
                                                 .row_out = 1,
                                                 .overwrites = 1};

/* ---- moving averages --------------------------------------------------------------------------*/

static qnet_status run_moving_average(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  (void)p, (void)d;
  const float *old = (const float *)s->in[0]->data, *new = (const float *)s->in[1]->data;
  float *out = (float *)s->out[0]->data;
  const double momentum = qnet_op_float(s->op, "momentum", 0.1);
  const double factor = momentum * qnet_op_float(s->op, "scale", 1);
  for (int64_t i = 0; i < qnet_type_elements(s->out[0]->type); i++)
    out[i] = (float)((1 - momentum) * (double)old[i] + factor * (double)new[i]);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_moving_average = {.run = run_moving_average, .overwrites = 3};

/* ---- gradient of a bias: the sum of dy over rows ----------------------------------------------*/

QNET_SIMD_BODY void sum_rows_body(const float *dy, int64_t rows, int64_t channels, float *sum) {
  for (int64_t r = 0; r < rows; r++, dy += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++)
      sum[c] += dy[c];
  }
}
QNET_SIMD_DISPATCH(sum_rows, (const float *dy, int64_t rows, int64_t channels, float *sum),
                   (dy, rows, channels, sum))

static void bias_grad_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  sum_rows(r->in[0], r->count, s->width, r->partial);
}

static qnet_status prepare_bias_grad(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)d;
  s->state = &p->group[s->group];
  s->partial_bytes = (size_t)s->width * sizeof(float);
  return QNET_OK;
}

static void finish_bias_grad(const qnet_plan_step *s) {
  const qnet_plan_group *g = s->state;
  float *out = (float *)s->out[0]->data;
  for (int64_t c = 0; c < s->width; c++) {
    double sum = 0;
    for (int64_t i = 0; i < g->ranges; i++)
      sum += (double)((const float *)(s->partial + s->partial_bytes * (size_t)i))[c];
    out[c] = (float)sum;
  }
}

static void emit_bias_grad(qnet_fuse *f, const qnet_plan_step *s) {
  (void)s;
  qnet_fuse_sum(f, 0, qnet_fuse_in(f, 0));
}

const qnet_plan_kernel qnet_plan_bias_grad = {.prepare = prepare_bias_grad,
                                              .rows = bias_grad_rows,
                                              .emit = emit_bias_grad,
                                              .sums = 1,
                                              .finish = finish_bias_grad,
                                              .row_in = 1};

/* ---- copies -----------------------------------------------------------------------------------*/

static qnet_status run_copy(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  (void)p, (void)d;
  memcpy(s->out[0]->data, s->in[0]->data, s->out[0]->bytes);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_copy = {.run = run_copy};

/* ---- reference kernels ------------------------------------------------------------------------*/

/* A blob's head over memory that the plan owns. */
static qnet_blob view_of(const qnet_plan *p, const qnet_plan_value *v) {
  qnet_blob b = {.allocator = p->allocator,
                 .dtype = v->type->dtype,
                 .rank = v->type->rank,
                 .bytes = v->bytes,
                 .data = v->data,
                 .refs = 1};
  memcpy(b.dim, v->type->dim, sizeof v->type->dim[0] * (size_t)v->type->rank);
  return b;
}

static qnet_status run_reference(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  qnet_blob view[QNET_PLAN_MAX_IN], *in[QNET_PLAN_MAX_IN], *out[QNET_PLAN_MAX_OUT] = {NULL};
  for (int i = 0; i < s->in_count; i++) {
    view[i] = view_of(p, s->in[i]);
    in[i] = &view[i];
  }
  qnet_status status = qnet_interp_kernel_of(s->op->opcode)(p->module, s->op, in, out);
  for (int i = 0; i < s->out_count; i++) {
    if (status == QNET_OK && s->out[i] != NULL)
      memcpy(s->out[i]->data, out[i]->data, s->out[i]->bytes);
    qnet_blob_release(out[i]);
  }
  if (status == QNET_NO_MEMORY) return qnet_out_of_memory(d);
  if (status != QNET_OK)
    return qnet_error(d, s->op->loc,
                      "'%s' cannot work on these values (a label, code or table out "
                      "of range)",
                      qnet_op_def_of(s->op->opcode)->name);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_reference = {.run = run_reference};
