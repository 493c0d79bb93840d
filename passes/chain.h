/* The chain that follows an integer sum up to its quantizer, acc -> affine -> relu, max pool ->
 * quantize, as a function of one accumulator, and its integer thresholds (docs/numbers.md). */
#ifndef QNET_PASSES_CHAIN_H
#define QNET_PASSES_CHAIN_H

#include "ir/ir.h"

typedef enum { QNET_CHAIN_AFFINE, QNET_CHAIN_RELU, QNET_CHAIN_MAX_POOL } qnet_chain_kind;

typedef struct qnet_chain_step {
  qnet_chain_kind kind;
  const float *a, *b; /* affine: [channels] */
  qnet_op *op;
} qnet_chain_step;

typedef struct qnet_chain {
  const qnet_chain_step *step;
  int count;
  const float *threshold; /* of the quantizer, ascending */
  int thresholds;
} qnet_chain;

/* What the quantizer compares, for an accumulator of that channel: the f32 expression itself. A
 * maximum over equal accumulators is the accumulator. */
float qnet_chain_value(const qnet_chain *c, int64_t channel, int32_t acc);

/* -1 where the first `count` steps fall with growing acc, else 0 (also when they are constant). */
int32_t qnet_chain_flip(const qnet_chain *c, int count, int64_t channel);

/* t[k] so that value > threshold[k] exactly when (acc ^ flip) >= t[k], for lo <= acc <= hi, all in
 * int32; flip as above for the whole chain. False when the expression is NaN somewhere. */
bool qnet_chain_thresholds(const qnet_chain *c, int64_t channel, int32_t lo, int32_t hi,
                           int32_t *t);

#endif
