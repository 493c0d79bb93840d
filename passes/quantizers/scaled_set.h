/* What LSQ, APoT and PACT share: a fixed set of ascending integers L times one learned step s, one
 * table a layer. Q(x) = s L_r with the level nearest to x / s (ties low), clipped at the ends.
 *
 * Learning: round is straight through, so that inside the clip range dQ/ds = L_r - x / s, outside
 * it is the end level. Weights may be normalised first (mean and deviation of the layer, taken as
 * constants): then x stands for (w - mean) / deviation, and values are multiplied back. */
#ifndef QNET_PASSES_QUANTIZERS_SCALED_SET_H
#define QNET_PASSES_QUANTIZERS_SCALED_SET_H

#include "passes/quantizer.h"

enum {
  QNET_SET_STEP,     /* s */
  QNET_SET_VELOCITY, /* of its learning */
  QNET_SET_MEAN,     /* of normalised weights; 0 and 1 otherwise */
  QNET_SET_DEVIATION,
  QNET_SET_PARAMS,
};

typedef struct qnet_scaled_set {
  int (*integers)(const qnet_quantizer_site *s, int32_t *level); /* ascending; returns how many */
  bool normalises;                                               /* weights */
  bool passes_all; /* the gradient of clipped weights is not masked */
  bool clips_only; /* ds from clipped values alone (PACT) */
  bool lsq_scaled; /* ds is divided by sqrt(elements * top level) */
  bool by_top;     /* the learned width is alpha = s * top level: ds is divided by its square */
} qnet_scaled_set;

int qnet_scaled_set_param_count(int bits);
void qnet_scaled_set_init(qnet_quantizer_site *s);
int qnet_scaled_set_level_count(const qnet_quantizer_site *s);
int qnet_scaled_set_cell_count(const qnet_quantizer_site *s);
void qnet_scaled_set_cells(const qnet_quantizer_site *s, float *bound, float *slope, float *tilt);
/* dL/ds, before LSQ's scale. */
double qnet_scaled_set_gradient(const qnet_quantizer_site *s, const double *dy, const double *dyx);
void qnet_scaled_set_learn(qnet_quantizer_site *s, const double *dy, const double *dyx, double lr);
void qnet_scaled_set_follow(qnet_quantizer_site *s, const float *w, int64_t n);
void qnet_scaled_set_fit(qnet_quantizer_site *s, const float *x, int64_t n);
/* The range stays, and with it the clip value. */
void qnet_scaled_set_carry(qnet_quantizer_site *to, const qnet_quantizer_site *from);
int qnet_scaled_set_levels(const qnet_quantizer_site *s, float *level);
int qnet_scaled_set_freeze(const qnet_quantizer_site *s, float *scale, int32_t *level);
bool qnet_scaled_set_thresholds(const qnet_quantizer_site *s, int channel, float *threshold);

/* The row of a method over its set. */
#define QNET_SCALED_SET_HOOKS(set)                                                                 \
  .method = (set), .per_layer = true, .param_count = qnet_scaled_set_param_count,                  \
  .level_count = qnet_scaled_set_level_count, .init = qnet_scaled_set_init,                        \
  .emit_forward = qnet_quantizer_emit_forward, .emit_backward = qnet_quantizer_emit_cells,         \
  .cell_count = qnet_scaled_set_cell_count, .cells = qnet_scaled_set_cells,                        \
  .learn = qnet_scaled_set_learn, .follow = qnet_scaled_set_follow, .fit = qnet_scaled_set_fit,    \
  .carry = qnet_scaled_set_carry, .levels = qnet_scaled_set_levels,                                \
  .freeze = qnet_scaled_set_freeze, .thresholds = qnet_scaled_set_thresholds

#endif
