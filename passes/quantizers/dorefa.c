/* DoReFa (Zhou, Wu, Ni, Zhou, Wen, Zou, 2016, arXiv 1606.06160): no parameter is learned.
 *
 * Weights of b > 1 bits: tanh w over the layer's largest |tanh w| in -1..1, rounded to the 2^b odd
 * integers -Q, -Q + 2 .. Q over Q = 2^b - 1; the gradient goes through tanh, the largest taken as a
 * constant. As in QIL the layer computes with these values times a constant that the fit chose. One
 * bit: the sign times the mean of |w|, straight through.
 *
 * Activations: 0 .. Q over Q, of x cut to 0..1, at most 127 levels above 0; the gradient passes
 * inside.
 *
 * param: largest |tanh w|; the constant (1 bit: mean |w|; activations: 1). */
#include "passes/quantizers/learning.h"
#include <float.h>
#include <math.h>

enum { LARGEST, OUT, PARAMS, PIECES = 64 };

static int param_count(int bits) {
  (void)bits;
  return PARAMS;
}

static bool is_weight(const qnet_quantizer_site *s) {
  return s->role == QNET_ROLE_WEIGHT;
}

/* Steps between the ends. */
static int steps_of(const qnet_quantizer_site *s) {
  return is_weight(s) ? (1 << s->bits) - 1 : qnet_uniform_top(s->role, s->bits);
}

static int level_count(const qnet_quantizer_site *s) {
  return steps_of(s) + 1;
}

static void init(qnet_quantizer_site *s) {
  const double deviation = sqrt(2 / (s->fan > 0 ? (double)s->fan : 1));
  s->param[LARGEST] = is_weight(s) ? (float)tanh(3 * deviation) : 1;
  s->param[OUT] = is_weight(s) ? (float)deviation : 1;
  s->step = 0;
}

/* ---- cells ------------------------------------------------------------------------------------*/

static int cell_count(const qnet_quantizer_site *s) {
  return is_weight(s) && s->bits > 1 ? PIECES + 2 : 3;
}

/* |tanh| below 1, so that the inverse is finite. */
static double inverse_tanh(double y) {
  const double limit = 1 - 1e-7;
  return atanh(fmax(-limit, fmin(limit, y)));
}

static double derivative(const qnet_quantizer_site *s, double w) {
  const double t = tanh(w);
  return (double)s->param[OUT] * (1 - t * t) / (double)s->param[LARGEST];
}

static void cells(const qnet_quantizer_site *s, float *bound, float *slope, float *tilt) {
  const int n = cell_count(s);
  const double end = is_weight(s) ? inverse_tanh((double)s->param[LARGEST]) : 1;
  for (int k = 0; k < n; k++)
    slope[k] = tilt[k] = 0;
  if (n == 3) {
    bound[0] = is_weight(s) ? (float)-end : 0;
    bound[1] = (float)end;
    slope[0] = slope[2] = is_weight(s);
    slope[1] = 1;
    return;
  }
  for (int k = 0; k <= PIECES; k++)
    bound[k] = (float)(end * (2.0 * k / PIECES - 1));
  slope[0] = slope[n - 1] = (float)derivative(s, end);
  for (int k = 1; k <= PIECES; k++) {
    const double low = (double)bound[k - 1], high = (double)bound[k];
    const double rise = derivative(s, high) - derivative(s, low);
    tilt[k] = high > low ? (float)(rise / (high - low)) : 0;
    slope[k] = (float)(derivative(s, low) - (double)tilt[k] * low);
  }
}

/* ---- data -------------------------------------------------------------------------------------*/

static void follow(qnet_quantizer_site *s, const float *w, int64_t n) {
  double largest = 0, sum = 0;
  for (int64_t i = 0; i < n; i++) {
    largest = fmax(largest, fabs((double)w[i]));
    sum += fabs((double)w[i]);
  }
  const float bound = (float)tanh(largest), mean = (float)(sum / (double)(n > 0 ? n : 1));
  s->param[LARGEST] = bound >= FLT_MIN ? bound : 1;
  /* NaN is to be seen. */
  if (s->bits == 1) s->param[OUT] = mean < FLT_MIN ? 1 : mean;
}

static double value_of(const qnet_quantizer_site *s, double w) {
  const int steps = steps_of(s);
  const double position = tanh(w) / (2 * (double)s->param[LARGEST]) + 0.5;
  return 2 * ceil(position * steps - 0.5) / steps - 1;
}

static void fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  init(s);
  if (!is_weight(s)) return;
  follow(s, x, n);
  double xy = 0, yy = 0;
  for (int64_t i = 0; i < n && s->bits > 1; i++) {
    const double y = value_of(s, (double)x[i]);
    xy += (double)x[i] * y;
    yy += y * y;
  }
  if (xy > 0 && isfinite(xy)) s->param[OUT] = (float)(xy / yy);
}

/* ---- tables -----------------------------------------------------------------------------------*/

static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  const int steps = steps_of(s);
  if (!isfinite(s->param[LARGEST]) || !isfinite(s->param[OUT])) return 0;
  *scale = fmaxf((float)((double)s->param[OUT] / steps), FLT_MIN);
  for (int m = 0; m <= steps; m++)
    level[m] = is_weight(s) ? 2 * m - steps : m;
  return steps + 1;
}

static int levels(const qnet_quantizer_site *s, float *level) {
  const int steps = steps_of(s);
  for (int m = 0; m <= steps; m++)
    level[m] = (float)((double)s->param[OUT] * (is_weight(s) ? 2 * m - steps : m) / steps);
  return steps + 1;
}

static bool thresholds(const qnet_quantizer_site *s, int channel, float *threshold) {
  (void)channel;
  const int steps = steps_of(s);
  if (!is_weight(s)) return false;
  for (int m = 0; m < steps; m++) {
    const double position = 2 * ((m + 0.5) / steps - 0.5);
    threshold[m] = (float)(inverse_tanh((double)s->param[LARGEST] * position) + 0.0);
  }
  return true;
}

const qnet_quantizer qnet_quantizer_dorefa = {
    .name = "dorefa",
    .bits = {{1, 7}, {1, 8}},
    .per_layer = true,
    .param_count = param_count,
    .level_count = level_count,
    .init = init,
    .emit_forward = qnet_quantizer_emit_forward,
    .emit_backward = qnet_quantizer_emit_cells,
    .cell_count = cell_count,
    .cells = cells,
    .follow = follow,
    .fit = fit,
    .levels = levels,
    .freeze = freeze,
    .thresholds = thresholds,
};
