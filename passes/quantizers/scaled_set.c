/* Integers times a learned step: tables, gradients, steps. */
#include "passes/quantizers/scaled_set.h"
#include "passes/quantizers/learning.h"
#include <float.h>
#include <math.h>

/* A set with what of the site goes into every formula. */
typedef struct view {
  int32_t level[QNET_MAX_LEVELS];
  int n;
  double step, mean, deviation;
} view;

static const qnet_scaled_set *set_of(const qnet_quantizer_site *s) {
  return s->quantizer->method;
}

static view view_of(const qnet_quantizer_site *s) {
  view v;
  v.n = set_of(s)->integers(s, v.level);
  v.step = (double)s->param[QNET_SET_STEP];
  v.mean = (double)s->param[QNET_SET_MEAN];
  v.deviation = (double)s->param[QNET_SET_DEVIATION];
  return v;
}

int qnet_scaled_set_param_count(int bits) {
  (void)bits;
  return QNET_SET_PARAMS;
}

/* Where there is no data: weights as they are drawn, activations behind batch norm and relu. */
void qnet_scaled_set_init(qnet_quantizer_site *s) {
  const bool weight = s->role == QNET_ROLE_WEIGHT;
  int32_t level[QNET_MAX_LEVELS];
  const int n = set_of(s)->integers(s, level);
  const double fan = s->fan > 0 ? (double)s->fan : 1;
  const double unit = weight && !set_of(s)->normalises ? sqrt(2 / fan) : 1;
  s->param[QNET_SET_STEP] = (float)(qnet_normal_top(s->role, s->bits) * unit / level[n - 1]);
  s->param[QNET_SET_VELOCITY] = 0;
  s->param[QNET_SET_MEAN] = 0;
  s->param[QNET_SET_DEVIATION] = weight && set_of(s)->normalises ? (float)sqrt(2 / fan) : 1;
  s->step = 0;
}

/* ---- gradients --------------------------------------------------------------------------------*/

int qnet_scaled_set_level_count(const qnet_quantizer_site *s) {
  int32_t level[QNET_MAX_LEVELS];
  return set_of(s)->integers(s, level);
}

/* Below the range, one cell a level, above the range. */
int qnet_scaled_set_cell_count(const qnet_quantizer_site *s) {
  int32_t level[QNET_MAX_LEVELS];
  return set_of(s)->integers(s, level) + 2;
}

void qnet_scaled_set_cells(const qnet_quantizer_site *s, float *bound, float *slope, float *tilt) {
  const view v = view_of(s);
  for (int k = 0; k <= v.n; k++) {
    const double middle = k == 0     ? v.level[0]
                          : k == v.n ? v.level[v.n - 1]
                                     : (v.level[k - 1] + v.level[k]) / 2.0;
    bound[k] = (float)(v.mean + v.deviation * v.step * middle);
  }
  const bool all = set_of(s)->passes_all && s->role == QNET_ROLE_WEIGHT;
  for (int k = 0; k < v.n + 2; k++) {
    slope[k] = all || (k > 0 && k <= v.n) ? 1 : 0;
    tilt[k] = 0;
  }
}

double qnet_scaled_set_gradient(const qnet_quantizer_site *s, const double *dy, const double *dyx) {
  const view v = view_of(s);
  double sum = v.level[0] * dy[0] + v.level[v.n - 1] * dy[v.n + 1];
  for (int k = 1; k <= v.n && !set_of(s)->clips_only; k++)
    sum += v.level[k - 1] * dy[k] - (dyx[k] - v.mean * dy[k]) / (v.deviation * v.step);
  return sum * v.deviation;
}

void qnet_scaled_set_learn(qnet_quantizer_site *s, const double *dy, const double *dyx, double lr) {
  double gradient = qnet_scaled_set_gradient(s, dy, dyx);
  const view v = view_of(s);
  /* d alpha = ds / top, and a step of alpha is top steps of s. */
  if (set_of(s)->by_top) gradient /= (double)v.level[v.n - 1] * (double)v.level[v.n - 1];
  if (set_of(s)->lsq_scaled)
    gradient /= sqrt(fmax(1, (double)s->elements) * (double)v.level[v.n - 1]);
  gradient += s->decay * v.step;
  qnet_learn_width(&s->param[QNET_SET_STEP], &s->param[QNET_SET_VELOCITY], gradient, lr);
  s->step++;
}

/* ---- data -------------------------------------------------------------------------------------*/

void qnet_scaled_set_follow(qnet_quantizer_site *s, const float *w, int64_t n) {
  double mean = 0, deviation = 1;
  if (set_of(s)->normalises) qnet_moments(w, n, &mean, &deviation);
  s->param[QNET_SET_MEAN] = (float)mean;
  s->param[QNET_SET_DEVIATION] = (float)deviation;
}

/* From x, in steps, to the nearest level. */
static double distance(const view *v, double x) {
  int low = 0, high = v->n - 1;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (v->level[middle] < x)
      low = middle;
    else
      high = middle;
  }
  return fmin(fabs(x - v->level[low]), fabs(x - v->level[high]));
}

static double top_error(void *context, double top, const float *x, int64_t n) {
  const view *v = context;
  const double step = top / v->level[v->n - 1];
  double error = 0;
  for (int64_t i = 0; i < n; i++) {
    const double off = distance(v, ((double)x[i] - v->mean) / (v->deviation * step));
    error += off * off;
  }
  return error * step * step;
}

void qnet_scaled_set_fit(qnet_quantizer_site *s, const float *x, int64_t n) {
  if (s->role == QNET_ROLE_WEIGHT) qnet_scaled_set_follow(s, x, n);
  view v = view_of(s);
  double largest = 0;
  for (int64_t i = 0; i < n; i++)
    largest = fmax(largest, fabs((double)x[i] - v.mean) / v.deviation);
  const double top = qnet_best_top(largest, top_error, &v, x, n);
  if (top > 0) s->param[QNET_SET_STEP] = (float)(top / v.level[v.n - 1]);
  s->param[QNET_SET_VELOCITY] = 0;
}

void qnet_scaled_set_carry(qnet_quantizer_site *to, const qnet_quantizer_site *from) {
  const view old = view_of(from), new = view_of(to);
  const double top = old.step * old.level[old.n - 1];
  to->param[QNET_SET_STEP] = (float)(top / new.level[new.n - 1]);
  to->param[QNET_SET_VELOCITY] = 0;
}

/* ---- tables -----------------------------------------------------------------------------------*/

int qnet_scaled_set_levels(const qnet_quantizer_site *s, float *level) {
  const view v = view_of(s);
  for (int k = 0; k < v.n; k++)
    level[k] = (float)(v.deviation * v.step * v.level[k]);
  return v.n;
}

int qnet_scaled_set_freeze(const qnet_quantizer_site *s, float *scale, int32_t *level) {
  const view v = view_of(s);
  const float product = (float)(v.deviation * v.step);
  if (!isfinite(product) || !isfinite(v.mean) || !(product > 0)) return 0;
  *scale = product >= FLT_MIN ? product : FLT_MIN;
  return set_of(s)->integers(s, level);
}

bool qnet_scaled_set_thresholds(const qnet_quantizer_site *s, int channel, float *threshold) {
  (void)channel;
  const view v = view_of(s);
  for (int k = 0; k + 1 < v.n; k++)
    threshold[k] =
        (float)(v.mean + v.deviation * v.step * (v.level[k] + v.level[k + 1]) / 2.0 + 0.0);
  return true;
}
