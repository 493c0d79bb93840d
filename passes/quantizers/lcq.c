/* LCQ (Yamamoto, CVPR 2021, arXiv 2103.07156): learnable companding, one a layer. |x| is clipped at
 * alpha, compressed by a monotone function g of 16 linear pieces, rounded, expanded by its inverse:
 *
 *     Q(x) = sign(x) alpha g^-1(round(s g(|x| / alpha)) / s),   s = 2^(b-1) - 1 or 2^b - 1
 *
 * The pieces are equally wide on the axis of x, of heights softmax(theta). Weights are normalised
 * by the layer's mean and deviation (taken as constants), and values are multiplied back by the
 * deviation: limited weight normalisation.
 *
 * Gradients: round is straight through; theta gets the exact chain rule. x and alpha get it too in
 * "lcq_exact"; in "lcq" the slopes of compression and expansion count as cancelling, so that dQ/dx
 * is 1 inside the clip range. Gradients of alpha and theta are multiplied by sqrt(s / N). */
#include "passes/quantizers/lcq.h"
#include "passes/quantizers/learning.h"
#include <float.h>
#include <math.h>

enum {
  K = QNET_LCQ_PIECES,
  ALPHA = QNET_LCQ_ALPHA,
  THETA = QNET_LCQ_THETA,
  MEAN = QNET_LCQ_MEAN,
  DEVIATION = QNET_LCQ_DEVIATION,
  VELOCITY = QNET_LCQ_VELOCITY
};

/* Heights below e^-7 of the largest would make slopes of expansion burst. */
static const double theta_span = 7;

typedef struct method {
  bool exact;
} method;

static bool is_exact(const qnet_quantizer_site *s) {
  return ((const method *)s->quantizer->method)->exact;
}

static int param_count(int bits) {
  (void)bits;
  return QNET_LCQ_PARAMS;
}

static bool has_sign(const qnet_quantizer_site *s) {
  return s->role == QNET_ROLE_WEIGHT;
}

static int top_of(const qnet_quantizer_site *s) {
  return qnet_uniform_top(s->role, s->bits);
}

static int level_count(const qnet_quantizer_site *s) {
  return has_sign(s) ? 2 * top_of(s) + 1 : top_of(s) + 1;
}

static void init(qnet_quantizer_site *s) {
  const double fan = s->fan > 0 ? (double)s->fan : 1;
  for (int i = 0; i < QNET_LCQ_PARAMS; i++)
    s->param[i] = 0;
  s->param[ALPHA] = (float)qnet_normal_top(s->role, s->bits);
  s->param[DEVIATION] = has_sign(s) ? (float)sqrt(2 / fan) : 1;
  s->step = 0;
}

/* ---- the companding function ------------------------------------------------------------------*/

typedef struct curve {
  double alpha, mean, deviation;
  double p[K], slope[K], beta[K + 1];
  int top;
} curve;

static curve curve_of(const qnet_quantizer_site *s) {
  const float *param = s->param;
  curve c = {.alpha = (double)param[ALPHA],
             .mean = (double)param[MEAN],
             .deviation = (double)param[DEVIATION],
             .top = top_of(s)};
  double largest = (double)param[THETA], sum = 0;
  for (int k = 1; k < K; k++)
    largest = fmax(largest, (double)param[THETA + k]);
  for (int k = 0; k < K; k++)
    sum += c.p[k] = exp((double)param[THETA + k] - largest);
  for (int k = 0; k < K; k++) {
    c.p[k] /= sum;
    c.slope[k] = c.p[k] * K;
    c.beta[k + 1] = c.beta[k] + c.p[k];
  }
  c.beta[K] = 1;
  return c;
}

static int piece_of_height(const curve *c, double y) {
  int k = 0;
  while (k < K - 1 && y >= c->beta[k + 1])
    k++;
  return k;
}

static double expand(const curve *c, double y) {
  const int k = piece_of_height(c, y);
  return fmin(1, (y - c->beta[k]) / c->slope[k] + (double)k / K);
}

/* |x| / alpha of the threshold between the levels q - 1 and q. */
static double threshold_of(const curve *c, int q) {
  return expand(c, (q - 0.5) / c->top);
}

/* ---- cells ------------------------------------------------------------------------------------*/

/* One cell of |x| / alpha: up to `end`, in piece i, rounded to level q. */
typedef struct cell {
  double end;
  int i, q;
} cell;

/* Breakpoints and thresholds merged: K + top cells in the clip range. */
static int side_cells(const curve *c, cell *out) {
  int i = 0, q = 0, n = 0;
  while (i < K) {
    const double piece_end = (double)(i + 1) / K;
    const double threshold = q < c->top ? threshold_of(c, q + 1) : INFINITY;
    const bool is_threshold = threshold < piece_end;
    out[n++] = (cell){is_threshold ? threshold : piece_end, i, q};
    if (is_threshold)
      q++;
    else
      i++;
  }
  return n;
}

static int side_count(const qnet_quantizer_site *s) {
  return K + top_of(s);
}

/* Weights: both sides with what lies beyond; activations: 0 and below, the side, beyond. */
static int cell_count(const qnet_quantizer_site *s) {
  return has_sign(s) ? 2 * side_count(s) + 2 : side_count(s) + 2;
}

static void cells(const qnet_quantizer_site *s, float *bound, float *slope, float *tilt) {
  const curve c = curve_of(s);
  cell side[K + QNET_MAX_LEVELS];
  const int n = side_cells(&c, side), zero = has_sign(s) ? n : 0;
  for (int k = 0; k < cell_count(s); k++)
    slope[k] = tilt[k] = 0;
  bound[zero] = (float)c.mean;
  for (int m = 0; m < n; m++) {
    const double end = c.deviation * c.alpha * side[m].end;
    const int j = piece_of_height(&c, (double)side[m].q / c.top);
    const double ratio = is_exact(s) ? c.slope[side[m].i] / c.slope[j] : 1;
    bound[zero + 1 + m] = (float)(c.mean + end);
    slope[zero + 1 + m] = (float)ratio;
    if (!has_sign(s)) continue;
    bound[zero - 1 - m] = (float)(c.mean - end);
    slope[zero - m] = (float)ratio;
  }
}

/* ---- gradients --------------------------------------------------------------------------------*/

/* With respect to alpha, and to slopes and left heights of the pieces. */
typedef struct partials {
  double alpha, slope[K], beta[K];
} partials;

/* dy: sum of sign dy, dyv: sum of sign dy |x| / alpha in this cell. */
static void add_cell(const curve *c, bool exact, const cell *at, double dy, double dyv,
                     partials *g) {
  const double y = (double)at->q / c->top;
  const int i = at->i, j = piece_of_height(c, y);
  const double gain = c->alpha / c->slope[j];
  g->alpha += expand(c, y) * dy - (exact ? c->slope[i] / c->slope[j] : 1) * dyv;
  g->slope[i] += gain * (dyv - dy * i / K);
  g->slope[j] -= gain * dy * (y - c->beta[j]) / c->slope[j];
  g->beta[i] += gain * dy;
  g->beta[j] -= gain * dy;
}

/* Through heights and softmax. */
static void theta_gradient(const curve *c, const partials *g, double *theta) {
  double p[K], right = 0, average = 0;
  for (int k = K - 1; k >= 0; k--) {
    p[k] = K * g->slope[k] + right;
    right += g->beta[k];
  }
  for (int k = 0; k < K; k++)
    average += c->p[k] * p[k];
  for (int k = 0; k < K; k++)
    theta[k] = c->deviation * c->p[k] * (p[k] - average);
}

qnet_lcq_gradient qnet_lcq_gradients(const qnet_quantizer_site *s, const double *dy,
                                     const double *dyx) {
  const curve c = curve_of(s);
  cell side[K + QNET_MAX_LEVELS];
  const int n = side_cells(&c, side), zero = has_sign(s) ? n : 0;
  const double unit = c.deviation * c.alpha;
  partials g = {0};
  for (int m = 0; m < n; m++) {
    const int right = zero + 1 + m, left = zero - m;
    add_cell(&c, is_exact(s), &side[m], dy[right], (dyx[right] - c.mean * dy[right]) / unit, &g);
    if (has_sign(s))
      add_cell(&c, is_exact(s), &side[m], -dy[left], (dyx[left] - c.mean * dy[left]) / unit, &g);
  }
  g.alpha += dy[zero + n + 1] - (has_sign(s) ? dy[0] : 0);
  qnet_lcq_gradient out = {.alpha = c.deviation * g.alpha};
  theta_gradient(&c, &g, out.theta);
  return out;
}

/* Softmax knows differences alone: theta is kept around 0 and within its span. */
static void confine(float *theta) {
  float largest = theta[0];
  double mean = 0;
  for (int k = 0; k < K; k++) {
    if (!isfinite(theta[k])) return;
    largest = fmaxf(largest, theta[k]);
  }
  for (int k = 0; k < K; k++) {
    theta[k] = fmaxf(theta[k], largest - (float)theta_span);
    mean += (double)theta[k] / K;
  }
  for (int k = 0; k < K; k++)
    theta[k] = (float)((double)theta[k] - mean);
}

static void learn(qnet_quantizer_site *s, const double *dy, const double *dyx, double lr) {
  const qnet_lcq_gradient g = qnet_lcq_gradients(s, dy, dyx);
  const double scale = sqrt(top_of(s) / fmax(1, (double)s->elements));
  float *p = s->param;
  qnet_learn_width(&p[ALPHA], &p[VELOCITY], g.alpha * scale + s->decay * (double)p[ALPHA], lr);
  for (int k = 0; k < K; k++)
    qnet_learn_value(&p[THETA + k], &p[VELOCITY + 1 + k], g.theta[k] * scale, lr);
  confine(p + THETA);
  s->step++;
}

/* ---- data -------------------------------------------------------------------------------------*/

static void follow(qnet_quantizer_site *s, const float *w, int64_t n) {
  double mean, deviation;
  qnet_moments(w, n, &mean, &deviation);
  s->param[MEAN] = (float)mean;
  s->param[DEVIATION] = (float)deviation;
}

static double normalised(const qnet_quantizer_site *s, float x) {
  const double v = ((double)x - (double)s->param[MEAN]) / (double)s->param[DEVIATION];
  return has_sign(s) ? fabs(v) : fmax(v, 0);
}

static double uniform_error(void *context, double top, const float *x, int64_t n) {
  const qnet_quantizer_site *s = context;
  const int steps = top_of(s);
  double error = 0;
  for (int64_t i = 0; i < n; i++) {
    const double v = normalised(s, x[i]);
    const double e = v - top * round(fmin(1, v / top) * steps) / steps;
    error += e * e;
  }
  return error;
}

/* Companding starts as the identity, the clip value as that of the best uniform levels. */
static void fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  init(s);
  if (has_sign(s)) follow(s, x, n);
  double largest = 0;
  for (int64_t i = 0; i < n; i++)
    largest = fmax(largest, normalised(s, x[i]));
  const double top = qnet_best_top(largest, uniform_error, s, x, n);
  if (top > 0) s->param[ALPHA] = (float)top;
}

/* ---- tables -----------------------------------------------------------------------------------*/

static int levels(const qnet_quantizer_site *s, float *level) {
  const curve c = curve_of(s);
  const int zero = has_sign(s) ? c.top : 0;
  for (int k = 0; k <= c.top; k++) {
    const float x = (float)(c.deviation * c.alpha * expand(&c, (double)k / c.top));
    level[zero + k] = x;
    if (has_sign(s)) level[zero - k] = -x;
  }
  return level_count(s);
}

static int32_t gcd(int32_t a, int32_t b) {
  return b == 0 ? a : gcd(b, a % b);
}

static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  const curve c = curve_of(s);
  const int zero = has_sign(s) ? c.top : 0;
  for (int i = 0; i < QNET_LCQ_PARAMS; i++)
    if (!isfinite(s->param[i])) return 0;
  int32_t divisor = 0;
  for (int k = 0; k <= c.top; k++) {
    level[zero + k] = (int32_t)floor(s->grid * expand(&c, (double)k / c.top) + 0.5);
    divisor = gcd(level[zero + k], divisor);
  }
  for (int k = 0; k <= c.top; k++) {
    level[zero + k] /= divisor;
    if (has_sign(s)) level[zero - k] = -level[zero + k];
  }
  *scale = fmaxf((float)(c.deviation * c.alpha * divisor / s->grid), FLT_MIN);
  return level_count(s);
}

static bool thresholds(const qnet_quantizer_site *s, int channel, float *threshold) {
  (void)channel;
  const curve c = curve_of(s);
  const int zero = has_sign(s) ? c.top : 0;
  for (int q = 1; q <= c.top; q++) {
    const double x = c.deviation * c.alpha * threshold_of(&c, q);
    threshold[zero + q - 1] = (float)(c.mean + x);
    if (has_sign(s)) threshold[zero - q] = (float)(c.mean - x);
  }
  return true;
}

#define LCQ_HOOKS                                                                                  \
  .bits = {{2, 8}, {1, 8}}, .per_layer = true, .param_count = param_count,                         \
  .level_count = level_count, .init = init, .emit_forward = qnet_quantizer_emit_forward,           \
  .emit_backward = qnet_quantizer_emit_cells, .cell_count = cell_count, .cells = cells,            \
  .learn = learn, .follow = follow, .fit = fit, .levels = levels, .freeze = freeze,                \
  .thresholds = thresholds

const qnet_quantizer qnet_quantizer_lcq = {
    .name = "lcq",
    .method = &(const method){.exact = false},
    LCQ_HOOKS,
};

const qnet_quantizer qnet_quantizer_lcq_exact = {
    .name = "lcq_exact",
    .method = &(const method){.exact = true},
    LCQ_HOOKS,
};
