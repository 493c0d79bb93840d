/* DQ-style, after the abstract of "Direct Quantization for Training Highly Accurate Low Bit-width
 * DNNs" (Hoang, Do, Nguyen, Cheung, IJCAI 2020, arXiv 2012.13762), whose body was not at hand: what
 * follows meets its statements but is our construction.
 *
 * Weights: the quantized weights themselves are updated. A filter has levels sum_k v_k e_k, e_k in
 * {-1, +1}, v learned by the gradient of the loss. What is stored for each weight is only a score
 * that selects its code through thresholds fixed when the levels were fitted; it starts as the
 * weight, does not decay, and moves with the central slope of the present levels over the cell.
 * v_k is at least the sum of those before it, so that levels ascend with the code.
 *
 * Activations: one basis a layer, e_k in {0, 1}, fitted in closed form after every batch so that
 * each channel counts alike: the squared error of channel c is divided by its mean square. v
 * follows by 0.9 v + 0.1 v*. The gradient passes up to the top level.
 *
 * param: v[K], velocity[K], threshold[2^K - 1]. */
#include "passes/quantizers/learning.h"
#include <float.h>
#include <math.h>
#include <string.h>

enum {
  MAX_BITS = QNET_MAX_BASIS,
  MAX_CODES = 1 << QNET_MAX_BASIS,
  LQNETS_PARAMS = 2 * MAX_BITS + 1
};

/* Levels learn at a tenth of the rate of the weights. */
static const double level_rate = 0.1;
static const double follow_rate = 0.1, ridge = 1e-4;
static const double least_slope = 0.1, largest_slope = 10;

static int param_count(int bits) {
  return 2 * bits + (1 << bits) - 1;
}

static int level_count(const qnet_quantizer_site *s) {
  return 1 << s->bits;
}

static float *param_of(const qnet_quantizer_site *s, int channel) {
  return s->param + (ptrdiff_t)channel * param_count(s->bits);
}

static bool is_weight(const qnet_quantizer_site *s) {
  return s->role == QNET_ROLE_WEIGHT;
}

static void levels_of(const qnet_quantizer_site *s, const float *v, float *level) {
  for (int code = 0; code < 1 << s->bits; code++) {
    double sum = 0;
    for (int k = 0; k < s->bits; k++)
      sum += (code >> k & 1) != 0 ? (double)v[k] : is_weight(s) ? -(double)v[k] : 0;
    level[code] = (float)sum;
  }
}

/* Levels then ascend with the code. */
static void order_basis(float *v, int bits) {
  float below = 0;
  for (int k = 0; k < bits; k++) {
    if (v[k] < below) v[k] = below; /* false for NaN, which is to be seen */
    below += v[k];
  }
}

static void fix_thresholds(const qnet_quantizer_site *s, float *p) {
  float level[MAX_CODES];
  levels_of(s, p, level);
  for (int k = 0; k + 1 < 1 << s->bits; k++)
    p[2 * s->bits + k] = (float)(((double)level[k] + (double)level[k + 1]) / 2);
}

/* ---- start ------------------------------------------------------------------------------------*/

/* A channel of the site as one of LQ-Nets, whose basis the parameters of lq are. */
static qnet_quantizer_site as_lqnets(const qnet_quantizer_site *s, float *lq) {
  qnet_quantizer_site out = *s;
  out.quantizer = &qnet_quantizer_lqnets;
  out.channels = 1;
  out.param = lq;
  return out;
}

static void take_basis(const qnet_quantizer_site *s, int channel, const float *basis) {
  float *p = param_of(s, channel);
  for (int k = 0; k < s->bits; k++) {
    int at = k;
    const float size = fabsf(basis[k]);
    for (; at > 0 && p[at - 1] > size; at--)
      p[at] = p[at - 1];
    p[at] = size;
  }
  memset(p + s->bits, 0, sizeof *p * (size_t)s->bits);
  order_basis(p, s->bits);
  fix_thresholds(s, p);
}

static void init(qnet_quantizer_site *s) {
  for (int c = 0; c < s->channels; c++) {
    float lq[LQNETS_PARAMS] = {0};
    qnet_quantizer_site site = as_lqnets(s, lq);
    qnet_quantizer_lqnets.init(&site);
    take_basis(s, c, lq);
  }
  s->step = 0;
}

static void fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  for (int c = 0; c < s->channels; c++) {
    float lq[LQNETS_PARAMS] = {0};
    qnet_quantizer_site site = as_lqnets(s, lq);
    qnet_quantizer_lqnets.init(&site);
    qnet_quantizer_lqnets.fit(&site, x + c * n, n);
    take_basis(s, c, lq);
  }
}

/* ---- weights ----------------------------------------------------------------------------------*/

static int cell_count(const qnet_quantizer_site *s) {
  return 1 << s->bits;
}

/* The rise of the levels around a cell for the width of the cell; cells at the ends are taken to be
 * as wide as their neighbours. */
static double slope_of(const float *level, const float *threshold, int n, int r) {
  const int low = r > 0 ? r - 1 : r, high = r < n - 1 ? r + 1 : r;
  const int inner = r < 1 ? 1 : r > n - 2 ? n - 2 : r;
  if (n == 2) return 1;
  const double width = (double)threshold[inner] - (double)threshold[inner - 1];
  const double rise = ((double)level[high] - (double)level[low]) / (high - low);
  if (!(width > (double)FLT_MIN) || !isfinite(rise)) return 1;
  return fmin(largest_slope, fmax(least_slope, rise / width));
}

static void cells(const qnet_quantizer_site *s, float *bound, float *slope, float *tilt) {
  const int n = 1 << s->bits;
  for (ptrdiff_t c = 0; c < s->channels; c++) {
    const float *p = param_of(s, (int)c), *threshold = p + 2 * s->bits;
    float level[MAX_CODES];
    levels_of(s, p, level);
    memcpy(bound + c * (n - 1), threshold, sizeof *bound * (size_t)(n - 1));
    for (int r = 0; r < n; r++) {
      slope[c * n + r] = (float)slope_of(level, threshold, n, r);
      tilt[c * n + r] = 0;
    }
  }
}

static void learn(qnet_quantizer_site *s, const double *dy, const double *dyx, double lr) {
  (void)dyx;
  const int bits = s->bits, n = 1 << bits;
  for (int c = 0; c < s->channels; c++, dy += n) {
    float *p = param_of(s, c);
    for (int k = 0; k < bits; k++) {
      double gradient = s->decay * (double)p[k];
      for (int code = 0; code < n; code++)
        gradient += (code >> k & 1) != 0 ? dy[code] : -dy[code];
      qnet_learn_width(&p[k], &p[bits + k], gradient, level_rate * lr);
    }
    order_basis(p, bits);
  }
  s->step++;
}

/* ---- activations ------------------------------------------------------------------------------*/

/* 1 / mean square of a channel, from its sums by code; 0 for one that is empty or all zero. */
static double channel_weight(const int64_t *count, const double *sum, int n) {
  double square = 0, total = 0;
  for (int k = 0; k < n; k++) {
    total += (double)count[k];
    if (count[k] > 0) square += sum[k] * sum[k] / (double)count[k];
  }
  return square > 0 && isfinite(square) ? total / square : 0;
}

static void update(qnet_quantizer_site *s, const int64_t *count, const double *sum) {
  const int bits = s->bits, n = 1 << bits;
  double g[MAX_BITS][MAX_BITS] = {{0}}, h[MAX_BITS] = {0}, weights = 0;
  for (int64_t c = 0; c < s->inputs; c++, count += n, sum += n) {
    double total = 0;
    for (int k = 0; k < n; k++)
      total += (double)count[k];
    const double weight = channel_weight(count, sum, n);
    weights += weight;
    for (int code = 1; code < n && total > 0; code++)
      for (int i = 0; i < bits; i++) {
        if ((code >> i & 1) == 0) continue;
        h[i] += weight / total * sum[code];
        for (int j = 0; j < bits; j++)
          g[i][j] += (code >> j & 1) != 0 ? weight / total * (double)count[code] : 0;
      }
  }
  if (!(weights > 0)) return;
  for (int i = 0; i < bits; i++) {
    for (int j = 0; j < bits; j++)
      g[i][j] /= weights;
    g[i][i] += ridge;
    h[i] = h[i] / weights + ridge * (double)s->param[i];
  }
  if (!qnet_solve_nonnegative(bits, g, h)) return;
  for (int k = 0; k < bits; k++)
    if (isfinite(h[k]))
      s->param[k] = (float)((1 - follow_rate) * (double)s->param[k] + follow_rate * h[k]);
  s->step++;
}

/* ---- tables -----------------------------------------------------------------------------------*/

static int levels(const qnet_quantizer_site *s, float *level) {
  for (ptrdiff_t c = 0; c < s->channels; c++)
    levels_of(s, param_of(s, (int)c), level + (c << s->bits));
  return 1 << s->bits;
}

/* The additive snapping of LQ-Nets. */
static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  const int n = 1 << s->bits;
  for (ptrdiff_t c = 0; c < s->channels; c++) {
    float lq[LQNETS_PARAMS] = {0};
    memcpy(lq, param_of(s, (int)c), sizeof *lq * (size_t)s->bits);
    const qnet_quantizer_site site = as_lqnets(s, lq);
    if (qnet_quantizer_lqnets.freeze(&site, scale + c, level + c * n) == 0) return 0;
  }
  return n;
}

static bool thresholds(const qnet_quantizer_site *s, int channel, float *threshold) {
  if (!is_weight(s)) return false;
  const float *own = param_of(s, channel) + 2 * s->bits;
  memcpy(threshold, own, sizeof *own * (size_t)((1 << s->bits) - 1));
  return true;
}

/* ---- the row ----------------------------------------------------------------------------------*/

static qnet_value *emit_backward(qnet_builder *b, const qnet_op *forward, qnet_value *dy) {
  const qnet_quantizer_site s = qnet_quantizer_site_of(forward);
  return is_weight(&s) ? qnet_quantizer_emit_cells(b, forward, dy)
                       : qnet_quantizer_emit_straight_through(b, forward, dy, "below_max");
}

static void emit_stats(qnet_builder *b, const qnet_op *forward) {
  const qnet_quantizer_site s = qnet_quantizer_site_of(forward);
  if (!is_weight(&s)) qnet_quantizer_emit_stats(b, forward);
}

const qnet_quantizer qnet_quantizer_dq = {
    .name = "dq",
    .bits = {{1, MAX_BITS}, {1, MAX_BITS}},
    .by_channel = true,
    .keeps_scores = true,
    .param_count = param_count,
    .level_count = level_count,
    .init = init,
    .emit_forward = qnet_quantizer_emit_forward,
    .emit_backward = emit_backward,
    .emit_stats = emit_stats,
    .update = update,
    .cell_count = cell_count,
    .cells = cells,
    .learn = learn,
    .decay = 1e-4,
    .fit = fit,
    .levels = levels,
    .freeze = freeze,
    .thresholds = thresholds,
};
