/* LQ-Nets (Zhang, Yang, Ye, Hua, ECCV 2018): levels sum_k v_k e_k of a learned basis v in R^K, e_k
 * in
 * {-1, +1} for weights (one basis a filter), {0, 1} for activations (one a layer). Bit k of a code
 * is e_k.
 *
 * Learning is quantization error minimisation: with the codes B of a batch held fixed the best
 * basis solves (B'B + eps I) v* = B'x + eps v; B'B and B'x need only the count and the sum of x by
 * code. The proximal term keeps v where a batch says nothing (a plane never set, two planes
 * equal). v follows v* by a moving average that is corrected for its start at zero.
 *
 * param: v[K], its moving average m[K], the number of updates t. */
#include "passes/quantizers/learning.h"
#include <float.h>
#include <math.h>
#include <string.h>

enum { MAX_BITS = QNET_MAX_BASIS, FIT_ROUNDS = 60 };

static const double ridge = 1e-4, decay = 0.9;
/* The 0.75 quantile of the standard normal. */
static const double quartile = 0.6745;

static int param_count(int bits) {
  return 2 * bits + 1;
}

static int level_count(const qnet_quantizer_site *s) {
  return 1 << s->bits;
}

/* e_k of a code. */
static double bit_value(qnet_role role, int code, int k) {
  const int bit = code >> k & 1;
  return role == QNET_ROLE_WEIGHT ? 2.0 * bit - 1 : bit;
}

static void init(qnet_quantizer_site *s) {
  const int bits = s->bits;
  const double fan = s->fan > 0 ? (double)s->fan : 1;
  const double unit = s->role == QNET_ROLE_WEIGHT
                          ? quartile * sqrt(2 / fan) / (double)(1 << (bits - 1))
                          : quartile * 2 / (double)((1 << bits) - 1);
  for (int c = 0; c < s->channels; c++) {
    float *p = s->param + (ptrdiff_t)c * param_count(bits);
    memset(p, 0, sizeof *p * (size_t)param_count(bits));
    for (int k = 0; k < bits; k++)
      p[k] = (float)(unit * (double)(1 << k));
  }
  s->step = 0;
}

/* v becomes the best basis for these codes. False (v unchanged) when they determine none. */
static bool least_squares(qnet_role role, int bits, const int64_t *count, const double *sum,
                          double *v) {
  double g[MAX_BITS][MAX_BITS] = {{0}}, h[MAX_BITS] = {0};
  int64_t total = 0;
  for (int code = 0; code < 1 << bits; code++) {
    total += count[code];
    for (int i = 0; i < bits; i++) {
      const double e = bit_value(role, code, i);
      h[i] += e * sum[code];
      for (int j = 0; j < bits; j++)
        g[i][j] += (double)count[code] * e * bit_value(role, code, j);
    }
  }
  if (total == 0) return false;
  for (int i = 0; i < bits; i++) {
    g[i][i] += ridge;
    h[i] += ridge * v[i];
  }
  /* Activations that pile up at a few values can ask for negative entries; freezing would drop
   * them, so they are not learned in the first place. */
  const bool solved = role == QNET_ROLE_ACTIVATION ? qnet_solve_nonnegative(bits, g, h)
                                                   : qnet_solve(bits, g[0], MAX_BITS, h);
  if (!solved) return false;
  for (int i = 0; i < bits; i++)
    if (!isfinite(h[i])) return false;
  memcpy(v, h, sizeof *v * (size_t)bits);
  return true;
}

static void update(qnet_quantizer_site *s, const int64_t *count, const double *sum) {
  const int bits = s->bits;
  const ptrdiff_t n = (ptrdiff_t)1 << bits;
  for (int c = 0; c < s->channels; c++) {
    float *p = s->param + (ptrdiff_t)c * param_count(bits);
    double v[MAX_BITS];
    for (int k = 0; k < bits; k++)
      v[k] = (double)p[k];
    if (!least_squares(s->role, bits, count + c * n, sum + c * n, v)) continue;
    const double t = (double)p[2 * bits] + 1;
    const double weight = 1 - pow(decay, t);
    for (int k = 0; k < bits; k++) {
      p[bits + k] = (float)(decay * (double)p[bits + k] + (1 - decay) * v[k]);
      p[k] = (float)((double)p[bits + k] / weight);
    }
    /* Beyond some hundred steps the correction is 1; the count must stay exact in f32. */
    p[2 * bits] = (float)fmin(t, 1e6);
  }
  s->step++;
}

/* ---- fit to data ------------------------------------------------------------------------------*/

static void basis_levels(qnet_role role, int bits, const double *v, float *level) {
  for (int code = 0; code < 1 << bits; code++) {
    double sum = 0;
    for (int k = 0; k < bits; k++)
      sum += bit_value(role, code, k) * v[k];
    level[code] = (float)sum;
  }
}

/* Quantizes x to the nearest levels; fills the statistics and returns the squared error. */
static double assign(qnet_role role, int bits, const double *v, const float *x, int64_t n,
                     int64_t *count, double *sum) {
  float level[1 << MAX_BITS], threshold[1 << MAX_BITS], sorted[1 << MAX_BITS];
  uint8_t perm[1 << MAX_BITS];
  const int levels = 1 << bits;
  basis_levels(role, bits, v, level);
  qnet_quantizer_sort(level, levels, threshold, sorted, perm);
  memset(count, 0, sizeof *count * (size_t)levels);
  memset(sum, 0, sizeof *sum * (size_t)levels);
  double error = 0;
  for (int64_t i = 0; i < n; i++) {
    int rank = 0;
    for (int k = 0; k + 1 < levels; k++)
      rank += x[i] > threshold[k];
    const double e = (double)x[i] - (double)sorted[rank];
    error += e * e;
    count[perm[rank]]++;
    sum[perm[rank]] += (double)x[i];
  }
  return error;
}

/* Alternates codes and basis from v until the error stops falling; v becomes the best basis seen,
 * whose error is returned. */
static double minimise(qnet_role role, int bits, double *v, const float *x, int64_t n) {
  int64_t count[1 << MAX_BITS];
  double sum[1 << MAX_BITS], next[MAX_BITS];
  memcpy(next, v, sizeof *v * (size_t)bits);
  double best = assign(role, bits, v, x, n, count, sum);
  for (int round = 0; round < FIT_ROUNDS; round++) {
    if (!least_squares(role, bits, count, sum, next)) break;
    const double error = assign(role, bits, next, x, n, count, sum);
    if (!(error < best)) break;
    best = error;
    memcpy(v, next, sizeof *v * (size_t)bits);
  }
  return best;
}

/* A uniform basis whose top level is `top`. */
static void uniform_start(int bits, double top, double *v) {
  for (int k = 0; k < bits; k++)
    v[k] = top * (double)(1 << k) / (double)((1 << bits) - 1);
}

static void fit_channel(qnet_role role, int bits, float *p, const float *x, int64_t n) {
  /* Top levels in units of the root mean square: heavy and light tails. */
  static const double tops[] = {1.2, 1.5, 1.8, 2.2, 2.6};
  double v[MAX_BITS], trial[MAX_BITS], square = 0;
  for (int k = 0; k < bits; k++)
    v[k] = (double)p[k];
  for (int64_t i = 0; i < n; i++)
    square += (double)x[i] * (double)x[i];
  if (n == 0 || !isfinite(square)) return;
  double best = minimise(role, bits, v, x, n);
  for (size_t t = 0; t < sizeof tops / sizeof *tops; t++) {
    uniform_start(bits, tops[t] * sqrt(square / (double)n), trial);
    const double error = minimise(role, bits, trial, x, n);
    if (!(error < best)) continue;
    best = error;
    memcpy(v, trial, sizeof v);
  }
  /* As if after very many equal updates. */
  for (int k = 0; k < bits; k++)
    p[k] = p[bits + k] = (float)v[k];
  p[2 * bits] = 1000;
}

static void fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  for (int c = 0; c < s->channels; c++)
    fit_channel(s->role, s->bits, s->param + (ptrdiff_t)c * param_count(s->bits), x + c * n, n);
}

/* ---- levels -----------------------------------------------------------------------------------*/

static int levels(const qnet_quantizer_site *s, float *level) {
  const int n = 1 << s->bits;
  for (int c = 0; c < s->channels; c++) {
    const float *p = s->param + (ptrdiff_t)c * param_count(s->bits);
    double v[MAX_BITS];
    for (int k = 0; k < s->bits; k++)
      v[k] = (double)p[k];
    basis_levels(s->role, s->bits, v, level + (ptrdiff_t)c * n);
  }
  return n;
}

/* The integer basis nearest to v by largest remainders (docs/numbers.md, "Snapping"). */
static float snap(int bits, const double *v, double sum, int grid, int32_t *integer) {
  double remainder[MAX_BITS];
  int rest = grid;
  for (int k = 0; k < bits; k++) {
    const double q = v[k] * grid / sum;
    integer[k] = (int32_t)floor(q);
    remainder[k] = q - floor(q);
    rest -= integer[k];
  }
  for (; rest > 0; rest--) {
    int best = 0;
    for (int k = 1; k < bits; k++)
      if (remainder[k] > remainder[best]) best = k;
    integer[best]++;
    remainder[best] = -1;
  }
  int32_t divisor = 0, total = 0;
  for (int k = 0; k < bits; k++)
    divisor = qnet_gcd(divisor, integer[k]);
  for (int k = 0; k < bits; k++) {
    integer[k] /= divisor;
    total += integer[k];
  }
  return (float)(sum / total);
}

static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  const int n = 1 << s->bits;
  const bool weight = s->role == QNET_ROLE_WEIGHT;
  for (int c = 0; c < s->channels; c++) {
    const float *p = s->param + (ptrdiff_t)c * param_count(s->bits);
    double v[MAX_BITS], sum = 0;
    int32_t integer[MAX_BITS] = {0};
    for (int k = 0; k < s->bits; k++) {
      if (!isfinite(p[k])) return 0;
      v[k] = weight ? fabs((double)p[k]) : fmax((double)p[k], 0);
      sum += v[k];
    }
    scale[c] = sum > 0 ? snap(s->bits, v, sum, s->grid, integer) : 1;
    /* A sum so small that f32 cannot hold the scale counts as none. */
    if (!(scale[c] >= FLT_MIN)) {
      scale[c] = 1;
      memset(integer, 0, sizeof integer);
    }
    for (int code = 0; code < n; code++) {
      int32_t total = 0;
      for (int k = 0; k < s->bits; k++)
        total += (code >> k & 1) != 0 ? integer[k] : weight ? -integer[k] : 0;
      level[(ptrdiff_t)c * n + code] = total;
    }
  }
  return n;
}

/* ---- the row ----------------------------------------------------------------------------------*/

static qnet_value *emit_backward(qnet_builder *b, const qnet_op *forward, qnet_value *dy) {
  return qnet_quantizer_emit_straight_through(b, forward, dy, "below_max");
}

const qnet_quantizer qnet_quantizer_lqnets = {
    .name = "lqnets",
    .bits = {{1, MAX_BITS}, {1, MAX_BITS}},
    .param_count = param_count,
    .level_count = level_count,
    .init = init,
    .emit_forward = qnet_quantizer_emit_forward,
    .emit_backward = emit_backward,
    .emit_stats = qnet_quantizer_emit_stats,
    .update = update,
    .fit = fit,
    .levels = levels,
    .freeze = freeze,
};
