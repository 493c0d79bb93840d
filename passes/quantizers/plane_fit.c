/* A plane is the AND of the bits in a set S of bits of the code: first the sets of one bit, then
 * those of two, higher bits first, and so on. Tables of K planes are sums of coefficients of the
 * first K sets over the sets that lie within the code. They are a linear space, so that the nearest
 * one is a linear projection.
 *
 * The projection of an ascending table need not ascend. The uniform table does and is in the space:
 * the result is (1 - l) projection + l uniform with the least l in 0..1 that makes it ascend. The
 * gradient takes l into account. */
#include "passes/quantizers/plane_fit.h"
#include "passes/quantizers/learning.h"
#include <math.h>

enum { MAX = QNET_FIT_MAX };

/* The first `planes` sets, in order. */
static int sets_of(int n, int planes, int *set) {
  int count = 0;
  for (int size = 1; size < n; size++)
    for (int s = n - 1; s > 0 && count < planes; s--)
      if (__builtin_popcount((unsigned)s) == size) set[count++] = s;
  return count;
}

int qnet_plane_fit_is_free(int n, int planes) {
  return planes >= n - 1;
}

static bool lies_within(int set, int code) {
  return (set & code) == set;
}

/* Symmetric: its own adjoint. */
static void project(const double *table, int n, int planes, double *out) {
  int set[MAX];
  const int count = sets_of(n, planes, set);
  double g[MAX][MAX] = {{0}}, h[MAX] = {0};
  for (int code = 0; code < n; code++)
    for (int i = 0; i < count; i++) {
      if (!lies_within(set[i], code)) continue;
      h[i] += table[code];
      for (int j = 0; j < count; j++)
        g[i][j] += lies_within(set[j], code);
    }
  (void)qnet_solve(count, g[0], MAX, h); /* sets are independent: no pivot vanishes */
  for (int code = 0; code < n; code++) {
    out[code] = 0;
    for (int i = 0; i < count; i++)
      if (lies_within(set[i], code)) out[code] += h[i];
  }
}

static double uniform(const double *table, int n, int code) {
  return table[n - 1] * code / (n - 1);
}

/* What to take of the uniform table, and after which level it is needed (-1: nowhere). */
static double share_of(const double *table, const double *projected, int n, int *after) {
  const double rise = table[n - 1] / (n - 1);
  double share = 0;
  *after = -1;
  for (int k = 0; k + 1 < n; k++) {
    const double fall = projected[k] - projected[k + 1];
    if (!(fall > 0) || fall / (fall + rise) <= share) continue;
    share = fall / (fall + rise);
    *after = k;
  }
  return share;
}

void qnet_plane_fit(const double *table, int n, int planes, double *fitted) {
  double projected[MAX];
  int after;
  project(table, n, planes, projected);
  const double share = share_of(table, projected, n, &after), end = table[n - 1];
  for (int k = 0; k < n; k++)
    fitted[k] = (1 - share) * projected[k] + share * end * k / (n - 1);
  for (int k = 1; k < n; k++) /* rounding */
    fitted[k] = fmax(fitted[k], fitted[k - 1]);
}

void qnet_plane_fit_gradient(const double *table, int n, int planes, const double *dfitted,
                             double *dtable) {
  double projected[MAX], dprojected[MAX], end = 0, dshare = 0;
  int after;
  project(table, n, planes, projected);
  const double share = share_of(table, projected, n, &after);
  for (int k = 0; k < n; k++) {
    dprojected[k] = (1 - share) * dfitted[k];
    dshare += dfitted[k] * (uniform(table, n, k) - projected[k]);
    end += share * dfitted[k] * k / (n - 1);
  }
  if (after >= 0) {
    const double rise = table[n - 1] / (n - 1), fall = projected[after] - projected[after + 1];
    const double square = (fall + rise) * (fall + rise);
    dprojected[after] += dshare * rise / square;
    dprojected[after + 1] -= dshare * rise / square;
    end -= dshare * fall / square / (n - 1);
  }
  project(dprojected, n, planes, dtable);
  dtable[n - 1] += end;
}

/* ---- integers ---------------------------------------------------------------------------------*/

/* Levels of the codes that are sets are rounded, the others are sums. False: one is out of range.
 */
static bool round_levels(const double *fitted, int n, int planes, int32_t grid, double factor,
                         int32_t *level) {
  int set[MAX];
  int32_t coefficient[MAX] = {0};
  const int count = sets_of(n, planes, set);
  for (int i = 0; i < count; i++) {
    coefficient[i] = (int32_t)floor(factor * fitted[set[i]] + 0.5);
    for (int j = 0; j < i; j++)
      if (lies_within(set[j], set[i])) coefficient[i] -= coefficient[j];
  }
  for (int code = 0; code < n; code++) {
    level[code] = 0;
    for (int i = 0; i < count; i++)
      if (lies_within(set[i], code)) level[code] += coefficient[i];
    if (level[code] < 0 || level[code] > grid) return false;
  }
  return true;
}

int32_t qnet_plane_fit_snap(const double *fitted, int n, int planes, int32_t grid, int32_t *level) {
  const double end = fitted[n - 1];
  for (int32_t target = end > 0 ? grid : 0; target > 0; target--)
    if (round_levels(fitted, n, planes, grid, target / end, level)) return level[n - 1];
  for (int code = 0; code < n; code++) /* the uniform table is always one */
    level[code] = code;
  return n - 1;
}
