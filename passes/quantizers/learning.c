/* Steps, moments and starting points of quantizers that learn by gradient. */
#include "passes/quantizers/learning.h"
#include <float.h>
#include <math.h>

static const double momentum = 0.9, largest_change = 0.1;

int qnet_uniform_top(qnet_role role, int bits) {
  const int top = (1 << (role == QNET_ROLE_WEIGHT ? bits - 1 : bits)) - 1;
  return top < 127 ? top : 127;
}

void qnet_learn_value(float *p, float *velocity, double gradient, double lr) {
  const double v = momentum * (double)*velocity + gradient;
  *velocity = (float)v;
  *p = (float)((double)*p - lr * v);
}

void qnet_learn_width(float *p, float *velocity, double gradient, double lr) {
  const double old = (double)*p, limit = largest_change * fabs(old);
  const double v = momentum * (double)*velocity + gradient;
  const double change = fmax(-limit, fmin(limit, lr * v));
  *velocity = (float)v;
  /* NaN must stay visible: fmax would drop it. */
  *p = isnan(v) ? NAN : (float)fmax(old - change, (double)FLT_MIN);
}

int32_t qnet_gcd(int32_t a, int32_t b) {
  while (b != 0) {
    const int32_t r = a % b;
    a = b, b = r;
  }
  return a;
}

void qnet_moments(const float *x, int64_t n, double *mean, double *deviation) {
  double sum = 0, square = 0;
  for (int64_t i = 0; i < n; i++)
    sum += (double)x[i];
  *mean = n > 0 ? sum / (double)n : 0;
  for (int64_t i = 0; i < n; i++)
    square += ((double)x[i] - *mean) * ((double)x[i] - *mean);
  *deviation = n > 1 ? sqrt(square / (double)(n - 1)) : 0;
  if (*deviation < (double)FLT_MIN) *deviation = 1;
}

double qnet_normal_top(qnet_role role, int bits) {
  /* Step times steps of the optimal uniform quantizers with a level 0. */
  static const double weight[] = {0.996, 0.996, 1.758, 2.346, 2.822, 3.22, 3.58, 3.92};
  static const double activation[] = {1.22, 1.952, 2.474, 2.899, 3.27, 3.61, 3.93, 4.2};
  const int i = bits < 1 ? 0 : bits > 8 ? 7 : bits - 1;
  return role == QNET_ROLE_WEIGHT ? weight[i] : activation[i];
}

double qnet_best_top(double largest, qnet_top_error error, void *context, const float *x,
                     int64_t n) {
  enum { TRIES = 40 };
  double best = 0, least = INFINITY;
  if (!isfinite(largest) || largest < (double)FLT_MIN) return 0;
  for (int i = 1; i <= TRIES; i++) {
    const double top = largest * i / TRIES, e = error(context, top, x, n);
    if (!(e < least)) continue;
    least = e;
    best = top;
  }
  return best;
}

static void swap(double *a, double *b) {
  const double old = *a;
  *a = *b;
  *b = old;
}

/* Takes from `to` so much of the row that column i becomes 0; returns how much. */
static double subtract_row(const double *row, double *to, int i, int n) {
  const double factor = to[i] / row[i];
  for (int c = i; c < n; c++)
    to[c] -= factor * row[c];
  return factor;
}

bool qnet_solve(int n, double *g, int stride, double *h) {
  for (int i = 0; i < n; i++) {
    double *row = g + i * stride;
    int best = i;
    for (int r = i + 1; r < n; r++)
      if (fabs(g[r * stride + i]) > fabs(g[best * stride + i])) best = r;
    if (!(fabs(g[best * stride + i]) > 1e-9)) return false;
    for (int c = 0; c < n; c++)
      swap(&row[c], &g[best * stride + c]);
    swap(&h[i], &h[best]);
    for (int r = i + 1; r < n; r++)
      h[r] -= h[i] * subtract_row(row, g + r * stride, i, n);
  }
  for (int i = n - 1; i >= 0; i--) {
    for (int c = i + 1; c < n; c++)
      h[i] -= g[i * stride + c] * h[c];
    h[i] /= g[i * stride + i];
  }
  return true;
}

/* The solution with v = 0 outside `support`; false when it has a negative entry or is none. */
static bool solve_support(int n, unsigned support, double g[QNET_MAX_BASIS][QNET_MAX_BASIS],
                          const double *h, double *v) {
  double part[QNET_MAX_BASIS][QNET_MAX_BASIS], right[QNET_MAX_BASIS];
  int at[QNET_MAX_BASIS], count = 0;
  for (int i = 0; i < n; i++)
    if ((support >> i & 1) != 0) at[count++] = i;
  for (int i = 0; i < count; i++) {
    right[i] = h[at[i]];
    for (int j = 0; j < count; j++)
      part[i][j] = g[at[i]][at[j]];
  }
  if (!qnet_solve(count, part[0], QNET_MAX_BASIS, right)) return false;
  for (int i = 0; i < n; i++)
    v[i] = 0;
  for (int i = 0; i < count; i++) {
    if (!(right[i] >= 0)) return false;
    v[at[i]] = right[i];
  }
  return true;
}

/* So few unknowns that every support can be tried. */
bool qnet_solve_nonnegative(int n, double g[QNET_MAX_BASIS][QNET_MAX_BASIS],
                            double h[QNET_MAX_BASIS]) {
  double best[QNET_MAX_BASIS] = {0}, most = -1;
  for (unsigned support = 0; support < 1u << n; support++) {
    double v[QNET_MAX_BASIS], gain = 0;
    if (!solve_support(n, support, g, h, v)) continue;
    for (int i = 0; i < n; i++)
      gain += h[i] * v[i]; /* the least value is - h' v */
    if (!(gain > most)) continue;
    most = gain;
    for (int i = 0; i < n; i++)
      best[i] = v[i];
  }
  for (int i = 0; i < n; i++)
    h[i] = best[i];
  return most >= 0;
}
