/* Muon (Keller Jordan et al., 2024), as nn.muon defines it: the momentum of a weight, as a matrix,
 * is brought near the orthogonal matrix next to it by five Newton-Schulz steps of degree five.
 * Products are taken on the shorter side: (X X^T) X = X (X^T X). */
#include "codegen/plan_internal.h"
#include "support/simd.h"
#include <math.h>
#include <string.h>

enum { STEPS = 5 };
static const float term1 = 3.4445f, term3 = -4.775f, term5 = 2.0315f;

typedef struct update {
  const float *w, *gradient, *velocity;
  float *next_w, *next_velocity;
  float *direction; /* [rows][columns] */
  float momentum, decay, rate, reach;
  bool nesterov;
} update;

QNET_SIMD_BODY void momentum_range_body(const update *u, int64_t begin, int64_t end) {
  const float *gradient = u->gradient, *velocity = u->velocity;
  float *next_velocity = u->next_velocity, *direction = u->direction;
  const float momentum = u->momentum;
  const bool nesterov = u->nesterov;
#pragma omp simd
  for (int64_t i = begin; i < end; i++) {
    const float g = gradient[i], v = momentum * velocity[i] + g;
    next_velocity[i] = v;
    direction[i] = nesterov ? g + momentum * v : v;
  }
}
QNET_SIMD_DISPATCH(momentum_range, (const update *u, int64_t begin, int64_t end), (u, begin, end))

QNET_SIMD_BODY void move_range_body(const update *u, int64_t begin, int64_t end) {
  const float *w = u->w, *direction = u->direction;
  float *next_w = u->next_w;
  const float decay = u->decay, rate = u->rate, reach = u->reach;
#pragma omp simd
  for (int64_t i = begin; i < end; i++) {
    const float old = w[i];
    next_w[i] = old - rate * (reach * direction[i] + decay * old);
  }
}
QNET_SIMD_DISPATCH(move_range, (const update *u, int64_t begin, int64_t end), (u, begin, end))

/* What a matrix needs beside itself, and how large its shorter side is. */
typedef struct shape {
  int64_t rows, columns, side;
} shape;

static shape shape_of(const qnet_plan_step *s) {
  const qnet_type *w = s->in[0]->type;
  const int64_t rows = w->dim[0], columns = qnet_type_elements(w) / rows;
  return (shape){rows, columns, rows < columns ? rows : columns};
}

static qnet_status prepare_muon(qnet_plan *p, qnet_plan_step *s, qnet_diag *d) {
  (void)p, (void)d;
  const shape k = shape_of(s);
  qnet_plan_need_scratch(s, (size_t)(2 * (k.rows * k.columns + k.side * k.side)) * sizeof(float));
  return QNET_OK;
}

/* In the order of the elements, in double: the same on every machine. */
static void normalize(float *x, int64_t n) {
  double square = 0;
  for (int64_t i = 0; i < n; i++)
    square += (double)x[i] * (double)x[i];
  const float divisor = (float)fmax(sqrt(square), 1e-7);
  for (int64_t i = 0; i < n; i++)
    x[i] /= divisor;
}

/* next = term1 x + x's product with term3 G + term5 G G; room: for two matrices of side x side. */
static qnet_status newton_schulz(const shape *k, const float *x, float *next, float *room,
                                 qnet_diag *d) {
  const bool wide = k->rows <= k->columns;
  float *const gram = room, *const power = room + k->side * k->side;
  const qnet_matrix plain = {x, k->rows, k->columns, false};
  const qnet_matrix turned = {x, k->rows, k->columns, true};
  const qnet_matrix g = {gram, k->side, k->side, false}, q = {power, k->side, k->side, false};
  QNET_TRY(qnet_matrix_multiply(1, wide ? &plain : &turned, wide ? &turned : &plain, 0, gram, d));
  memcpy(power, gram, (size_t)(k->side * k->side) * sizeof *gram);
  QNET_TRY(qnet_matrix_multiply(term5, &g, &g, term3, power, d));
  memcpy(next, x, (size_t)(k->rows * k->columns) * sizeof *x);
  return qnet_matrix_multiply(1, wide ? &q : &plain, wide ? &plain : &q, term1, next, d);
}

/* x and spare change places with every step; returns where the result is. */
static qnet_status orthogonalize(const shape *k, float *x, float *spare, float *room, float **out,
                                 qnet_diag *d) {
  normalize(x, k->rows * k->columns);
  for (int i = 0; i < STEPS; i++) {
    QNET_TRY(newton_schulz(k, x, spare, room, d));
    float *const last = x;
    x = spare;
    spare = last;
  }
  *out = x;
  return QNET_OK;
}

static qnet_status run_muon(qnet_plan *p, const qnet_plan_step *s, qnet_diag *d) {
  const shape k = shape_of(s);
  const int64_t n = k.rows * k.columns;
  float *const scratch = (float *)(void *)p->scratch;
  update u = {.w = (const float *)s->in[0]->data,
              .gradient = (const float *)s->in[1]->data,
              .velocity = (const float *)s->in[2]->data,
              .next_w = (float *)s->out[0]->data,
              .next_velocity = (float *)s->out[1]->data,
              .direction = scratch,
              .momentum = (float)qnet_op_float(s->op, "momentum", 0),
              .decay = (float)qnet_op_float(s->op, "weight_decay", 0),
              .rate = (float)qnet_op_float(s->op, "scale", 1) * *(const float *)s->in[3]->data,
              .reach = (float)sqrt(fmax(1, (double)k.rows / (double)k.columns)),
              .nesterov = qnet_op_int(s->op, "nesterov", 0) != 0};
  momentum_range(&u, 0, n);
  QNET_TRY(orthogonalize(&k, scratch, scratch + n, scratch + 2 * n, &u.direction, d));
  move_range(&u, 0, n);
  return QNET_OK;
}

/* Not the weight: it is read last, when the next velocity has been written. */
const qnet_plan_kernel qnet_plan_muon = {.prepare = prepare_muon, .run = run_muon, .overwrites = 6};
