/* QIL (Jung, Son, Lee, Son, Han, Kwak, Hwang, Choi, CVPR 2019, arXiv 1808.05779): a learned
 * interval of centre c and half width d, one a layer. With u = (|x| - c + d) / 2d cut to 0..1, the
 * transformed value is sign(x) u^gamma, rounded to k / Q; activations have no sign and gamma = 1. Q
 * = 2^(b-1) - 1 for weights, 2^b - 1 for activations, at most 127. gamma is learned for weights of
 * 2 bits.
 *
 * The layer computes in the transformed domain, as the paper has it, times a constant: the ratio
 * <x, y> / <y, y> of the data that the interval was fitted to. What normalises the batch behind the
 * layer absorbs it; where nothing does, the layer still starts at its own scale.
 *
 * Gradients are exact but for rounding; outside the interval all are 0. For gamma != 1 they are
 * curved in x: each is interpolated linearly between PIECES knots u = (j / PIECES)^2, with u no
 * less than LEAST, where u^(gamma - 1) would burst. As in LSQ the gradients of c and d are divided
 * by sqrt(N Q). Kept: d <= c, so that pruning starts at 0 or above. */
#include "passes/quantizers/qil.h"
#include "passes/quantizers/learning.h"
#include <float.h>
#include <math.h>

enum { C, D, GAMMA, OUT, C_VELOCITY, D_VELOCITY, GAMMA_VELOCITY, PARAMS, PIECES = 48 };

static const double least = 1e-4, gamma_min = 0.2, gamma_max = 5, narrowest = 0.02;

static int param_count(int bits) {
  (void)bits;
  return PARAMS;
}

static bool has_sign(const qnet_quantizer_site *s) {
  return s->role == QNET_ROLE_WEIGHT;
}

static bool learns_gamma(const qnet_quantizer_site *s) {
  return has_sign(s) && s->bits == 2;
}

static int pieces_of(const qnet_quantizer_site *s) {
  return learns_gamma(s) ? PIECES : 1;
}

static int top_of(const qnet_quantizer_site *s) {
  return qnet_uniform_top(s->role, s->bits);
}

static int level_count(const qnet_quantizer_site *s) {
  return has_sign(s) ? 2 * top_of(s) + 1 : top_of(s) + 1;
}

static void init(qnet_quantizer_site *s) {
  const double fan = s->fan > 0 ? (double)s->fan : 1;
  const double unit = has_sign(s) ? sqrt(2 / fan) : 1;
  const double top = qnet_normal_top(s->role, s->bits) * unit;
  for (int i = 0; i < PARAMS; i++)
    s->param[i] = 0;
  s->param[C] = s->param[D] = (float)(top / 2);
  s->param[GAMMA] = 1;
  s->param[OUT] = (float)top;
  s->step = 0;
}

/* ---- one side of the axis: |x| against the interval -------------------------------------------*/

typedef struct interval {
  double c, d, gamma, out;
  int pieces, top;
} interval;

static interval interval_of(const qnet_quantizer_site *s) {
  const float *p = s->param;
  return (interval){(double)p[C],   (double)p[D], (double)p[GAMMA],
                    (double)p[OUT], pieces_of(s), top_of(s)};
}

static double knot_u(const interval *v, int j) {
  const double t = (double)j / v->pieces;
  return v->pieces == 1 ? t : t * t;
}

static double x_of_u(const interval *v, double u) {
  return v->c - v->d + 2 * v->d * u;
}

/* Derivatives of the value at u with respect to |x|, c, d, gamma. */
typedef struct partials {
  double x, c, d, gamma;
} partials;

static partials partials_at(const interval *v, double u) {
  const double alpha = 0.5 / v->d, low = fmax(u, least);
  const double rise = v->out * v->gamma * pow(low, v->gamma - 1);
  partials p;
  p.x = rise * alpha;
  p.c = -rise * alpha;
  p.d = rise * alpha / v->d * (v->c - x_of_u(v, u));
  p.gamma = v->out * pow(low, v->gamma) * log(low);
  return p;
}

/* The line p + q |x| through the values at both ends of a piece. */
typedef struct line {
  double p, q;
} line;

static line line_through(const interval *v, int piece, double at_low, double at_high) {
  const double low = x_of_u(v, knot_u(v, piece)), high = x_of_u(v, knot_u(v, piece + 1));
  const double q = high > low ? (at_high - at_low) / (high - low) : 0;
  return (line){at_low - q * low, q};
}

/* ---- cells: [above on the negative side] pieces, pruned, pieces, above ------------------------*/

static int cell_count(const qnet_quantizer_site *s) {
  const int side = pieces_of(s) + 1;
  return has_sign(s) ? 2 * side + 1 : side + 1;
}

static void cells(const qnet_quantizer_site *s, float *bound, float *slope, float *tilt) {
  const interval v = interval_of(s);
  const int side = v.pieces + 1, pruned = has_sign(s) ? side : 0;
  for (int k = 0; k < cell_count(s); k++)
    slope[k] = tilt[k] = 0;
  for (int j = 0; j < side; j++) {
    const float x = (float)x_of_u(&v, knot_u(&v, j));
    bound[pruned + j] = x;
    if (has_sign(s)) bound[pruned - 1 - j] = -x;
  }
  for (int j = 0; j < v.pieces; j++) {
    const double low = partials_at(&v, knot_u(&v, j)).x;
    const line l = line_through(&v, j, low, partials_at(&v, knot_u(&v, j + 1)).x);
    slope[pruned + 1 + j] = (float)l.p;
    tilt[pruned + 1 + j] = (float)l.q;
    if (!has_sign(s)) continue;
    slope[pruned - 1 - j] = (float)l.p;
    tilt[pruned - 1 - j] = (float)-l.q;
  }
}

/* Adds the part of one piece and side; dyx holds x, which is sign |x|. */
static void add_piece(const interval *v, int piece, double sign, double dy, double dyx,
                      qnet_qil_gradient *g) {
  const partials low = partials_at(v, knot_u(v, piece)),
                 high = partials_at(v, knot_u(v, piece + 1));
  const double signed_dy = sign * dy; /* sum of sign dy |x| is dyx */
  const line c = line_through(v, piece, low.c, high.c), d = line_through(v, piece, low.d, high.d);
  const line e = line_through(v, piece, low.gamma, high.gamma);
  g->c += c.p * signed_dy + c.q * dyx;
  g->d += d.p * signed_dy + d.q * dyx;
  g->gamma += e.p * signed_dy + e.q * dyx;
}

qnet_qil_gradient qnet_qil_gradients(const qnet_quantizer_site *s, const double *dy,
                                     const double *dyx) {
  const interval v = interval_of(s);
  const int pruned = has_sign(s) ? v.pieces + 1 : 0;
  qnet_qil_gradient g = {0, 0, 0};
  for (int j = 0; j < v.pieces; j++) {
    const int right = pruned + 1 + j, left = pruned - 1 - j;
    add_piece(&v, j, 1, dy[right], dyx[right], &g);
    if (has_sign(s)) add_piece(&v, j, -1, dy[left], dyx[left], &g);
  }
  return g;
}

static void learn(qnet_quantizer_site *s, const double *dy, const double *dyx, double lr) {
  const qnet_qil_gradient g = qnet_qil_gradients(s, dy, dyx);
  const double scale = 1 / sqrt(fmax(1, (double)s->elements) * top_of(s));
  float *p = s->param;
  qnet_learn_width(&p[C], &p[C_VELOCITY], g.c * scale + s->decay * (double)p[C], lr);
  qnet_learn_width(&p[D], &p[D_VELOCITY], g.d * scale + s->decay * (double)p[D], lr);
  if (learns_gamma(s)) qnet_learn_width(&p[GAMMA], &p[GAMMA_VELOCITY], g.gamma * scale, lr);
  s->step++;
  if (isnan(p[C]) || isnan(p[D]) || isnan(p[GAMMA])) return;
  p[D] = fminf(fmaxf(p[D], (float)narrowest * p[C]), p[C]);
  p[GAMMA] = fminf(fmaxf(p[GAMMA], (float)gamma_min), (float)gamma_max);
}

/* ---- data -------------------------------------------------------------------------------------*/

static double transformed(const interval *v, double x, bool sign) {
  const double size = sign ? fabs(x) : x;
  const double u = fmin(1, fmax(0, (size - v->c + v->d) / (2 * v->d)));
  const double k = ceil(pow(u, v->gamma) * v->top - 0.5);
  return (sign && x < 0 ? -k : k) / v->top;
}

typedef struct products {
  double xy, yy, xx;
} products;

static products products_of(const interval *v, bool sign, const float *x, int64_t n) {
  products sum = {0, 0, 0};
  for (int64_t i = 0; i < n; i++) {
    const double y = transformed(v, (double)x[i], sign);
    sum.xy += (double)x[i] * y;
    sum.yy += y * y;
    sum.xx += (double)x[i] * (double)x[i];
  }
  return sum;
}

/* The squared error of an interval that starts at 0, with the best constant. */
static double interval_error(void *context, double top, const float *x, int64_t n) {
  const qnet_quantizer_site *s = context;
  const interval v = {top / 2, top / 2, 1, 1, 1, top_of(s)};
  const products sum = products_of(&v, has_sign(s), x, n);
  return sum.yy > 0 ? sum.xx - sum.xy * sum.xy / sum.yy : sum.xx;
}

static void fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  double largest = 0;
  for (int64_t i = 0; i < n; i++)
    largest = fmax(largest, has_sign(s) ? fabs((double)x[i]) : (double)x[i]);
  const double top = qnet_best_top(largest, interval_error, s, x, n);
  if (!(top > 0)) return;
  init(s);
  s->param[C] = s->param[D] = (float)(top / 2);
  const interval v = interval_of(s);
  const products sum = products_of(&v, has_sign(s), x, n);
  if (sum.yy > 0 && sum.xy > 0) s->param[OUT] = (float)(sum.xy / sum.yy);
}

/* The interval is the same at all bits. */
static void carry(qnet_quantizer_site *to, const qnet_quantizer_site *from) {
  for (int i = 0; i < PARAMS; i++)
    to->param[i] = i < C_VELOCITY ? from->param[i] : 0;
  if (!learns_gamma(to)) to->param[GAMMA] = 1;
}

/* ---- tables -----------------------------------------------------------------------------------*/

static int freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  const float *p = s->param;
  const int n = level_count(s), zero = has_sign(s) ? top_of(s) : 0;
  for (int i = 0; i < PARAMS; i++)
    if (!isfinite(p[i])) return 0;
  *scale = fmaxf((float)((double)p[OUT] / top_of(s)), FLT_MIN);
  for (int k = 0; k < n; k++)
    level[k] = k - zero;
  return n;
}

static int levels(const qnet_quantizer_site *s, float *level) {
  const int n = level_count(s), zero = has_sign(s) ? top_of(s) : 0;
  for (int k = 0; k < n; k++)
    level[k] = (float)((double)s->param[OUT] * (k - zero) / top_of(s));
  return n;
}

static bool thresholds(const qnet_quantizer_site *s, int channel, float *threshold) {
  (void)channel;
  const interval v = interval_of(s);
  const int zero = has_sign(s) ? v.top : 0;
  for (int k = 1; k <= v.top; k++) {
    const float x = (float)x_of_u(&v, pow((k - 0.5) / v.top, 1 / v.gamma));
    threshold[zero + k - 1] = x;
    if (has_sign(s)) threshold[zero - k] = -x;
  }
  return true;
}

const qnet_quantizer qnet_quantizer_qil = {
    .name = "qil",
    .bits = {{2, 8}, {1, 8}},
    .per_layer = true,
    .param_count = param_count,
    .level_count = level_count,
    .init = init,
    .emit_forward = qnet_quantizer_emit_forward,
    .emit_backward = qnet_quantizer_emit_cells,
    .cell_count = cell_count,
    .cells = cells,
    .learn = learn,
    .fit = fit,
    .carry = carry,
    .levels = levels,
    .freeze = freeze,
    .thresholds = thresholds,
};
