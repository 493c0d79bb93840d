/* Predictors: one frozen network behind any of the engines that must all give the same numbers. */
#ifndef QNET_DRIVER_PREDICTOR_H
#define QNET_DRIVER_PREDICTOR_H

#include "codegen/target.h"
#include "ir/ir.h"

typedef enum {
  QNET_ENGINE_NN, /* the training evaluation: f32 primitives on integer levels (codegen/plan.h) */
  QNET_ENGINE_QUANT, /* reference interpreters ... */
  QNET_ENGINE_BITS,
  QNET_ENGINE_LOOP,
  QNET_ENGINE_JIT, /* native code */
} qnet_engine_kind;

/* "nn", "quant", "bits", "loop", "jit"; diagnosed otherwise. NULL means jit. */
qnet_status qnet_engine_kind_parse(const char *name, qnet_engine_kind *out, qnet_diag *d);

typedef struct qnet_predictor qnet_predictor;

/* nn: a module of level nn at batch 1 with its weights and, where it has quantizers, their tables
 * and codes (driver/model.h). It is cloned. `target` may be NULL: the host. */
qnet_status qnet_predictor_create(const qnet_allocator *a, const qnet_module *nn,
                                  qnet_engine_kind kind, const qnet_target_choice *target,
                                  qnet_predictor **out, qnet_diag *d);
void qnet_predictor_destroy(qnet_predictor *p);

int64_t qnet_predictor_classes(const qnet_predictor *p);
const qnet_type *qnet_predictor_input(const qnet_predictor *p); /* tensor<1xHxWxCxu8 or f32> */
/* logits[count][classes] of `count` inputs that lie one after the other. Uses all threads. */
qnet_status qnet_predictor_logits(qnet_predictor *p, const void *inputs, int64_t count,
                                  float *logits, qnet_diag *d);
/* The index of the largest; ties to the lowest. */
int32_t qnet_argmax(const float *logits, int64_t classes);

#endif
