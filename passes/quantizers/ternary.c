/* Ternary weights (Li, Zhang, Liu, 2016, arXiv 1605.04711): -a, 0, a with one threshold and one
 * scale a filter: 0.7 times the mean of |w|, and the mean of what lies beyond it. Both follow from
 * the latent weights after every step; the gradient is straight through.
 *
 * param: threshold, scale. */
#include "passes/quantizer.h"
#include <float.h>
#include <math.h>

enum { THRESHOLD, SCALE, PARAMS };

static const double cut = 0.7;

static int param_count(int bits) {
  (void)bits;
  return PARAMS;
}

static int level_count(const qnet_quantizer_site *s) {
  (void)s;
  return 3;
}

static void init(qnet_quantizer_site *s) {
  const double deviation = sqrt(2 / (s->fan > 0 ? (double)s->fan : 1));
  for (ptrdiff_t c = 0; c < s->channels; c++) {
    /* Of a normal distribution: 0.7 E|w|, and the mean of |w| beyond. */
    s->param[c * PARAMS + THRESHOLD] = (float)(0.5585 * deviation);
    s->param[c * PARAMS + SCALE] = (float)(1.185 * deviation);
  }
  s->step = 0;
}

static void fit_filter(float *p, const float *w, int64_t n) {
  double sum = 0, beyond = 0;
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++)
    sum += fabs((double)w[i]);
  p[THRESHOLD] = (float)(cut * sum / (double)(n > 0 ? n : 1));
  for (int64_t i = 0; i < n; i++) {
    if (!(fabsf(w[i]) > p[THRESHOLD])) continue;
    beyond += fabs((double)w[i]);
    count++;
  }
  const float mean = count > 0 ? (float)(beyond / (double)count) : 0;
  p[SCALE] = mean >= FLT_MIN ? mean : 1;
}

static void fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  for (ptrdiff_t c = 0; c < s->channels; c++)
    fit_filter(s->param + c * PARAMS, x + c * n, n);
}

static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  for (ptrdiff_t c = 0; c < s->channels; c++) {
    scale[c] = s->param[c * PARAMS + SCALE];
    if (!isfinite(scale[c]) || !isfinite(s->param[c * PARAMS + THRESHOLD])) return 0;
    for (int k = 0; k < 3; k++)
      level[3 * c + k] = k - 1;
  }
  return 3;
}

static int levels(const qnet_quantizer_site *s, float *level) {
  for (ptrdiff_t c = 0; c < s->channels; c++)
    for (int k = 0; k < 3; k++)
      level[3 * c + k] = s->param[c * PARAMS + SCALE] * (float)(k - 1);
  return 3;
}

static bool thresholds(const qnet_quantizer_site *s, int channel, float *threshold) {
  threshold[1] = s->param[(ptrdiff_t)channel * PARAMS + THRESHOLD];
  threshold[0] = -threshold[1];
  return true;
}

static qnet_value *emit_backward(qnet_builder *b, const qnet_op *forward, qnet_value *dy) {
  return qnet_quantizer_emit_straight_through(b, forward, dy, "none");
}

const qnet_quantizer qnet_quantizer_ternary = {
    .name = "ternary",
    .bits = {{2, 2}, {0, 0}},
    .param_count = param_count,
    .level_count = level_count,
    .init = init,
    .emit_forward = qnet_quantizer_emit_forward,
    .emit_backward = emit_backward,
    .follow = fit,
    .fit = fit,
    .levels = levels,
    .freeze = freeze,
    .thresholds = thresholds,
};
