/* Convolutions, dense layers and products of matrices, of f32: fast ones by oneDNN, exact ones in
 * the order that docs/numbers.md fixes. Activations N,H,W,C; weights O,KH,KW,I (dense: O,I). */
#ifndef QNET_CODEGEN_PRIMITIVES_H
#define QNET_CODEGEN_PRIMITIVES_H

#include "ir/ops.h"

/* A layer's geometry. A dense layer has h = w = oh = ow = 1 and a 1x1 window. */
typedef struct qnet_layer_shape {
  bool dense;
  int64_t n, h, w, in, oh, ow, out;
  qnet_window window;
} qnet_layer_shape;

typedef enum { QNET_LAYER_FORWARD, QNET_LAYER_GRAD_INPUT, QNET_LAYER_GRAD_WEIGHT } qnet_layer_pass;

typedef struct qnet_onednn qnet_onednn; /* engine and stream */
qnet_status qnet_onednn_create(qnet_arena *arena, qnet_onednn **out, qnet_diag *d);
void qnet_onednn_destroy(qnet_onednn *e); /* NULL is fine */

typedef struct qnet_primitive qnet_primitive;
/* Memory is the arena's; what oneDNN owns goes with qnet_primitive_destroy. */
qnet_status qnet_primitive_create(qnet_onednn *e, qnet_arena *arena, qnet_layer_pass pass,
                                  const qnet_layer_shape *shape, bool bias, bool relu,
                                  qnet_primitive **out, qnet_diag *d);
/* forward: a = x, b = w (bias may be NULL) -> y. grad_input: a = dy, b = w -> dx. grad_weight: a =
 * x, b = dy -> dw. Pointers aligned to 64. */
qnet_status qnet_primitive_run(qnet_primitive *p, const void *a, const void *b, const void *bias,
                               void *out, qnet_diag *d);
void qnet_primitive_destroy(qnet_primitive *p); /* NULL is fine */

/* A matrix of f32, [rows][columns] without gaps, or its transpose. */
typedef struct qnet_matrix {
  const float *data;
  int64_t rows, columns; /* as stored */
  bool transposed;
} qnet_matrix;
/* out = product a b + keep out; out has no gaps either and is neither of them. */
qnet_status qnet_matrix_multiply(float product, const qnet_matrix *a, const qnet_matrix *b,
                                 float keep, float *out, qnet_diag *d);

/* The layer to the bit: one accumulator an output from +0, fma over taps in ascending (kh, kw,
 * cin), padded taps included, bias (may be NULL) last. */
size_t qnet_exact_layer_scratch(const qnet_layer_shape *s); /* bytes */
void qnet_exact_layer(const qnet_layer_shape *s, const float *x, const float *w, const float *bias,
                      float *y, void *scratch);

#endif
