/* The gradients of LCQ's parameters, for its tests. */
#ifndef QNET_PASSES_QUANTIZERS_LCQ_H
#define QNET_PASSES_QUANTIZERS_LCQ_H

#include "passes/quantizer.h"

enum {
  QNET_LCQ_PIECES = 16,
  /* param */
  QNET_LCQ_ALPHA = 0,
  QNET_LCQ_THETA = 1,
  QNET_LCQ_MEAN = QNET_LCQ_THETA + QNET_LCQ_PIECES,
  QNET_LCQ_DEVIATION,
  QNET_LCQ_VELOCITY, /* of alpha, theta */
  QNET_LCQ_PARAMS = QNET_LCQ_VELOCITY + 1 + QNET_LCQ_PIECES,
};

typedef struct qnet_lcq_gradient {
  double alpha, theta[QNET_LCQ_PIECES];
} qnet_lcq_gradient;

/* From the sums of nn.cell_grad, before any scale. */
qnet_lcq_gradient qnet_lcq_gradients(const qnet_quantizer_site *s, const double *dy,
                                     const double *dyx);

#endif
