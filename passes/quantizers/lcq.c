/* LCQ (Yamamoto, CVPR 2021, arXiv 2103.07156): learnable companding, one a layer. |x| is clipped at
 * alpha, compressed by a monotone function g of 16 linear pieces, rounded, expanded by its inverse:
 *
 *     Q(x) = sign(x) alpha g^-1(round(s g(|x| / alpha)) / s),   s = 2^(b-1) - 1 or 2^b - 1
 *
 * The pieces are equally wide on the axis of x, of heights softmax(theta). Weights are normalised
 * by the layer's mean and deviation, and values are multiplied back by the deviation: limited
 * weight normalisation. The gradient goes through both.
 *
 * Gradients: round is straight through; theta gets the exact chain rule. x and alpha get it too in
 * "lcq_exact"; in "lcq" the slopes of compression and expansion count as cancelling, so that dQ/dx
 * is 1 inside the clip range. Gradients of alpha and theta are multiplied by sqrt(s / N). Those of
 * normalised weights are divided by the square of the deviation: what is learned is on the scale of
 * the weights then, as the step of LSQ is, and moves as fast.
 *
 * With planes = K the levels are the nearest that take K planes (plane_fit.h; of a weight one is
 * the sign, K - 1 are of the magnitude). Thresholds stay those of the companding function. The
 * gradient is that of the fitted level, on top of what x moves within its cell. */
#include "passes/quantizers/lcq.h"
#include "passes/quantizers/learning.h"
#include "passes/quantizers/plane_fit.h"
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
  int planes; /* of the magnitude; 0: levels are free */
} curve;

static int magnitude_planes(const qnet_quantizer_site *s) {
  const int planes = has_sign(s) ? s->planes - 1 : s->planes;
  if (s->planes == 0 || qnet_plane_fit_is_free(top_of(s) + 1, planes)) return 0;
  return planes;
}

static curve curve_of(const qnet_quantizer_site *s) {
  const float *param = s->param;
  curve c = {.alpha = (double)param[ALPHA],
             .mean = (double)param[MEAN],
             .deviation = (double)param[DEVIATION],
             .top = top_of(s),
             .planes = magnitude_planes(s)};
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

/* The levels over alpha, [top + 1]; the free ones are those of the companding function. */
static void free_values(const curve *c, double *value) {
  for (int q = 0; q <= c->top; q++)
    value[q] = expand(c, (double)q / c->top);
}

static void values_of(const curve *c, double *value) {
  free_values(c, value);
  if (c->planes > 0) qnet_plane_fit(value, c->top + 1, c->planes, value);
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

/* Adds `gain` times the gradient of the free level q. */
static void add_level(const curve *c, int q, double gain, partials *g) {
  const double y = (double)q / c->top;
  const int j = piece_of_height(c, y);
  g->slope[j] -= gain / c->slope[j] * (y - c->beta[j]) / c->slope[j];
  g->beta[j] -= gain / c->slope[j];
}

/* dy: sum of sign dy, dyv: sum of sign dy |x| / alpha in this cell. */
static void add_cell(const curve *c, bool exact, const cell *at, double dy, double dyv,
                     partials *g) {
  const int i = at->i, j = piece_of_height(c, (double)at->q / c->top);
  const double gain = c->alpha / c->slope[j];
  g->alpha -= (exact ? c->slope[i] / c->slope[j] : 1) * dyv;
  g->slope[i] += gain * (dyv - dy * i / K);
  g->beta[i] += gain * dy;
}

/* The part of the levels; dy: sums of sign dy by level, those of clipped values with the last. */
static void add_levels(const curve *c, const double *dy, partials *g) {
  double value[QNET_MAX_LEVELS], dvalue[QNET_FIT_MAX];
  values_of(c, value);
  for (int q = 0; q <= c->top; q++)
    g->alpha += value[q] * dy[q];
  if (c->planes > 0) {
    free_values(c, value);
    qnet_plane_fit_gradient(value, c->top + 1, c->planes, dy, dvalue);
    dy = dvalue;
  }
  for (int q = 0; q <= c->top; q++)
    add_level(c, q, c->alpha * dy[q], g);
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
  double by_level[QNET_MAX_LEVELS] = {0};
  for (int m = 0; m < n; m++) {
    const int right = zero + 1 + m, left = zero - m;
    add_cell(&c, is_exact(s), &side[m], dy[right], (dyx[right] - c.mean * dy[right]) / unit, &g);
    by_level[side[m].q] += dy[right];
    if (!has_sign(s)) continue;
    add_cell(&c, is_exact(s), &side[m], -dy[left], (dyx[left] - c.mean * dy[left]) / unit, &g);
    by_level[side[m].q] -= dy[left];
  }
  by_level[c.top] += dy[zero + n + 1] - (has_sign(s) ? dy[0] : 0);
  add_levels(&c, by_level, &g);
  qnet_lcq_gradient out = {.alpha = c.deviation * g.alpha};
  theta_gradient(&c, &g, out.theta);
  return out;
}

/* The gradient goes on to all weights through mean and deviation: with n = (x - mean) / deviation,
 * d value / d mean = -slope, d value / d deviation = Q(n) - slope n, and of those by a weight 1 / N
 * and n / (N - 1). */
static void moments(const qnet_quantizer_site *s, float *share) {
  const curve c = curve_of(s);
  cell side[K + QNET_MAX_LEVELS];
  float bound[QNET_MAX_CELLS], slope[QNET_MAX_CELLS], tilt[QNET_MAX_CELLS];
  double value[QNET_MAX_LEVELS], q[QNET_MAX_CELLS];
  const int n = side_cells(&c, side), count = cell_count(s);
  cells(s, bound, slope, tilt);
  values_of(&c, value);
  q[count - 1] = c.alpha * value[c.top];
  q[0] = -q[count - 1];
  for (int m = 0; m < n; m++) {
    q[n + 1 + m] = c.alpha * value[side[m].q];
    q[n - m] = -q[n + 1 + m];
  }
  const double elements = fmax(2, (double)s->elements);
  const double unit = 1 / ((elements - 1) * c.deviation);
  for (int k = 0; k < count; k++) {
    const double rate = (double)slope[k];
    const double by_dy = unit * (q[k] + rate * c.mean / c.deviation);
    const double by_dyx = -unit * rate / c.deviation;
    share[k] = (float)(-rate / elements - c.mean * by_dy);
    share[count + k] = (float)(-c.mean * by_dyx);
    share[2 * count + k] = (float)by_dy;
    share[3 * count + k] = (float)by_dyx;
  }
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

/* No step moves a slope by more than about a tenth. NaN stays. */
static void learn_theta(float *theta, float *velocity, double gradient, double lr) {
  const float limit = 0.1f, old = *theta;
  qnet_learn_value(theta, velocity, gradient, lr);
  if (*theta > old + limit) *theta = old + limit;
  if (*theta < old - limit) *theta = old - limit;
}

static void learn(qnet_quantizer_site *s, const double *dy, const double *dyx, double lr) {
  const qnet_lcq_gradient g = qnet_lcq_gradients(s, dy, dyx);
  const double deviation = (double)s->param[DEVIATION];
  const double scale = sqrt(top_of(s) / fmax(1, (double)s->elements)) / (deviation * deviation);
  float *p = s->param;
  qnet_learn_width(&p[ALPHA], &p[VELOCITY], g.alpha * scale + s->decay * (double)p[ALPHA], lr);
  for (int k = 0; k < K; k++)
    learn_theta(&p[THETA + k], &p[VELOCITY + 1 + k], g.theta[k] * scale, lr);
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

/* Clip value and companding function are the same at all bits; mean and deviation are those of the
 * weights. */
static void carry(qnet_quantizer_site *to, const qnet_quantizer_site *from) {
  to->param[ALPHA] = from->param[ALPHA];
  for (int k = 0; k < K; k++)
    to->param[THETA + k] = from->param[THETA + k];
  for (int i = VELOCITY; i < QNET_LCQ_PARAMS; i++)
    to->param[i] = 0;
}

/* ---- tables -----------------------------------------------------------------------------------*/

static int levels(const qnet_quantizer_site *s, float *level) {
  const curve c = curve_of(s);
  const int zero = has_sign(s) ? c.top : 0;
  double value[QNET_MAX_LEVELS];
  values_of(&c, value);
  for (int k = 0; k <= c.top; k++) {
    const float x = (float)(c.deviation * c.alpha * value[k]);
    level[zero + k] = x;
    if (has_sign(s)) level[zero - k] = -x;
  }
  return level_count(s);
}

static double plane_distance(const qnet_quantizer_site *s) {
  const curve c = curve_of(s);
  double value[QNET_MAX_LEVELS], free_value[QNET_MAX_LEVELS], largest = 0;
  values_of(&c, value);
  free_values(&c, free_value);
  for (int q = 0; q <= c.top; q++)
    largest = fmax(largest, fabs(value[q] - free_value[q]));
  return largest;
}

/* Integers 0..grid for the values; returns what stands for their end. */
static int32_t snap(const curve *c, int32_t grid, const double *value, int32_t *integer) {
  if (c->planes > 0) return qnet_plane_fit_snap(value, c->top + 1, c->planes, grid, integer);
  for (int k = 0; k <= c->top; k++)
    integer[k] = (int32_t)floor(grid * value[k] + 0.5);
  return grid;
}

static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  const curve c = curve_of(s);
  const int zero = has_sign(s) ? c.top : 0;
  for (int i = 0; i < QNET_LCQ_PARAMS; i++)
    if (!isfinite(s->param[i])) return 0;
  double value[QNET_MAX_LEVELS];
  values_of(&c, value);
  int32_t divisor = 0, end = snap(&c, s->grid, value, level + zero);
  for (int k = 0; k <= c.top; k++)
    divisor = qnet_gcd(level[zero + k], divisor);
  for (int k = 0; k <= c.top; k++) {
    level[zero + k] /= divisor;
    if (has_sign(s)) level[zero - k] = -level[zero + k];
  }
  *scale = fmaxf((float)(c.deviation * c.alpha * value[c.top] * divisor / end), FLT_MIN);
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
  .bits = {{2, 8}, {1, 8}}, .per_layer = true, .takes_planes = true, .param_count = param_count,   \
  .level_count = level_count, .init = init, .emit_forward = qnet_quantizer_emit_forward,           \
  .emit_backward = qnet_quantizer_emit_cells, .cell_count = cell_count, .cells = cells,            \
  .moments = moments, .learn = learn, .follow = follow, .fit = fit, .carry = carry,                \
  .levels = levels, .freeze = freeze, .plane_distance = plane_distance, .thresholds = thresholds

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
