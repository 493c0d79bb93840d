/* Uniform 8 bit levels for the first and the last layer: level = scale * integer.
 *
 * Weights: code - 127 of 255 codes, scale[o] = max |w| / 127 of the latent weights of filter o,
 * taken anew after every step. Activations: 0..127, or code - 127 when the input may be negative.
 * Their scale follows the largest |mean of x by code| of a batch: within a step of the levels that
 * is the largest |x|, and when x goes beyond the top level it grows until x does not.
 *
 * param: scale, the moving average of the largest |x| / 127, the number of updates. */
#include "passes/quantizer.h"
#include <float.h>
#include <math.h>
#include <string.h>

enum { PARAMS = 3, TOP = 127 };

static const double decay = 0.9;
/* Activations before anything is known: a few standard deviations of normalised data. */
static const double initial_range = 4;

static int param_count(int bits) {
  (void)bits;
  return PARAMS;
}

static bool has_negative(const qnet_quantizer_site *s) {
  return s->role == QNET_ROLE_WEIGHT || s->is_signed;
}

static int level_count(const qnet_quantizer_site *s) {
  return has_negative(s) ? 2 * TOP + 1 : TOP + 1;
}

static void init(qnet_quantizer_site *s) {
  const double fan = s->fan > 0 ? (double)s->fan : 1;
  const double range = s->role == QNET_ROLE_WEIGHT ? 3 * sqrt(2 / fan) : initial_range;
  for (int c = 0; c < s->channels; c++) {
    float *p = s->param + (ptrdiff_t)c * PARAMS;
    p[0] = (float)(range / TOP);
    p[1] = p[2] = 0;
  }
  s->step = 0;
}

/* Tables need a scale > 0; data of zeros alone may have any. */
static float positive(double scale) {
  const float rounded = (float)scale;
  return rounded >= FLT_MIN ? rounded : 1;
}

static void update(qnet_quantizer_site *s, const int64_t *count, const double *sum) {
  const ptrdiff_t codes = (ptrdiff_t)1 << s->bits;
  for (int c = 0; c < s->channels; c++) {
    float *p = s->param + (ptrdiff_t)c * PARAMS;
    double largest = 0;
    int64_t total = 0;
    for (ptrdiff_t code = c * codes; code < (c + 1) * codes; code++) {
      total += count[code];
      if (count[code] > 0) largest = fmax(largest, fabs(sum[code] / (double)count[code]));
    }
    if (total == 0 || !isfinite(largest)) continue;
    const double t = (double)p[2] + 1;
    const double average = decay * (double)p[1] + (1 - decay) * largest / (TOP - 0.5);
    p[0] = positive(average / (1 - pow(decay, t)));
    p[1] = (float)average;
    p[2] = (float)fmin(t, 1e6);
  }
  s->step++;
}

static void fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  for (int c = 0; c < s->channels; c++) {
    float *p = s->param + (ptrdiff_t)c * PARAMS;
    double largest = 0;
    for (int64_t i = 0; i < n; i++)
      largest = fmax(largest, fabs((double)x[c * n + i]));
    p[0] = isfinite(largest) ? positive(largest / TOP) : NAN;
    p[1] = p[0];
    p[2] = 1000;
  }
}

static int levels(const qnet_quantizer_site *s, float *level) {
  const int n = level_count(s), zero = n - 1 - TOP;
  for (int c = 0; c < s->channels; c++)
    for (int code = 0; code < n; code++)
      level[(ptrdiff_t)c * n + code] = s->param[(ptrdiff_t)c * PARAMS] * (float)(code - zero);
  return n;
}

static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  const int n = level_count(s), zero = n - 1 - TOP;
  for (int c = 0; c < s->channels; c++) {
    scale[c] = s->param[(ptrdiff_t)c * PARAMS];
    if (!isfinite(scale[c]) || !(scale[c] > 0)) return 0;
    for (int code = 0; code < n; code++)
      level[(ptrdiff_t)c * n + code] = code - zero;
  }
  return n;
}

static qnet_value *emit_backward(qnet_builder *b, const qnet_op *forward, qnet_value *dy) {
  const bool is_signed = qnet_op_int(forward, "signed", 0) != 0;
  return qnet_quantizer_emit_straight_through(b, forward, dy, is_signed ? "inside" : "below_max");
}

/* Statistics of weights would go unused: their tables follow from the weights themselves. */
static void emit_stats(qnet_builder *b, const qnet_op *forward) {
  const char *role = qnet_op_string(forward, "role");
  if (role != NULL && strcmp(role, "weight") != 0) qnet_quantizer_emit_stats(b, forward);
}

const qnet_quantizer qnet_quantizer_uniform = {
    .name = "uniform",
    .bits = {{8, 8}, {8, 8}},
    .takes_negative = true,
    .param_count = param_count,
    .level_count = level_count,
    .init = init,
    .emit_forward = qnet_quantizer_emit_forward,
    .emit_backward = emit_backward,
    .emit_stats = emit_stats,
    .update = update,
    .follow = fit,
    .fit = fit,
    .levels = levels,
    .freeze = freeze,
};
