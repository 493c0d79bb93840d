/* Binary weights and activations (Courbariaux et al. 2016; Rastegari et al., XNOR-Net, ECCV 2016).
 * Weights: the sign times the mean of |w|, one scale a filter, straight through. Activations are
 * not learned. "binary": 0 and 1, x > 1/2 of x cut to 0..1, where the gradient passes, so that
 * padding is the level 0. "sign": -1 and 1, x > 0, the gradient passes in -1..1; padding is
 * neither.
 *
 * param: the scale of a filter; 1 for activations. */
#include "passes/quantizer.h"
#include <float.h>
#include <math.h>

static int param_count(int bits) {
  (void)bits;
  return 1;
}

static int level_count(const qnet_quantizer_site *s) {
  (void)s;
  return 2;
}

static bool is_weight(const qnet_quantizer_site *s) {
  return s->role == QNET_ROLE_WEIGHT;
}

static int32_t lower_level(const qnet_quantizer_site *s) {
  return is_weight(s) ? -1 : *(const int32_t *)s->quantizer->method;
}

static void init(qnet_quantizer_site *s) {
  /* The mean of |w| of a normal distribution. */
  const double mean = 0.7979 * sqrt(2 / (s->fan > 0 ? (double)s->fan : 1));
  for (int c = 0; c < s->channels; c++)
    s->param[c] = is_weight(s) ? (float)mean : 1;
  s->step = 0;
}

static void fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  for (int c = 0; c < s->channels && is_weight(s); c++) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
      sum += fabs((double)x[c * n + i]);
    const float mean = (float)(sum / (double)(n > 0 ? n : 1));
    s->param[c] = mean < FLT_MIN ? 1 : mean; /* NaN is to be seen */
  }
}

static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  for (int c = 0; c < s->channels; c++) {
    scale[c] = s->param[c];
    if (!isfinite(scale[c]) || !(scale[c] > 0)) return 0;
    level[2 * c] = lower_level(s);
    level[2 * c + 1] = 1;
  }
  return 2;
}

static int levels(const qnet_quantizer_site *s, float *level) {
  for (int c = 0; c < s->channels; c++) {
    level[2 * c] = s->param[c] * (float)lower_level(s);
    level[2 * c + 1] = s->param[c];
  }
  return 2;
}

static qnet_value *emit_backward(qnet_builder *b, const qnet_op *forward, qnet_value *dy) {
  return qnet_quantizer_emit_straight_through(b, forward, dy, "inside");
}

#define BINARY_HOOKS                                                                               \
  .bits = {{1, 1}, {1, 1}}, .param_count = param_count, .level_count = level_count, .init = init,  \
  .emit_forward = qnet_quantizer_emit_forward, .emit_backward = emit_backward, .follow = fit,      \
  .fit = fit, .levels = levels, .freeze = freeze

const qnet_quantizer qnet_quantizer_binary = {
    .name = "binary",
    .method = &(const int32_t){0},
    BINARY_HOOKS,
};

const qnet_quantizer qnet_quantizer_sign = {
    .name = "sign",
    .method = &(const int32_t){-1},
    .takes_negative = true,
    BINARY_HOOKS,
};
