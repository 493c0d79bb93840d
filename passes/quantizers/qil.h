/* The gradients of QIL's parameters, for its tests. */
#ifndef QNET_PASSES_QUANTIZERS_QIL_H
#define QNET_PASSES_QUANTIZERS_QIL_H

#include "passes/quantizer.h"

typedef struct qnet_qil_gradient {
  double c, d, gamma;
} qnet_qil_gradient;

/* From the sums of nn.cell_grad, before any scale. param: c, d, gamma, the output's constant, ...
 */
qnet_qil_gradient qnet_qil_gradients(const qnet_quantizer_site *s, const double *dy,
                                     const double *dyx);

#endif
