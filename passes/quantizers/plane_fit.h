/* The nearest level table that takes no more than a given number of planes. */
#ifndef QNET_PASSES_QUANTIZERS_PLANE_FIT_H
#define QNET_PASSES_QUANTIZERS_PLANE_FIT_H

#include <stdint.h>

enum { QNET_FIT_MAX = 16 };

/* Can n = 2^b levels that begin with 0 be any with this many planes? */
int qnet_plane_fit_is_free(int n, int planes);

/* fitted[n]: the table of `planes` planes (log2 n .. 15) that is nearest to the ascending table[n],
 * which begins with 0, n <= QNET_FIT_MAX; ascending too. May be the same array. */
void qnet_plane_fit(const double *table, int n, int planes, double *fitted);

/* From the gradient with respect to `fitted` to that with respect to `table`. */
void qnet_plane_fit_gradient(const double *table, int n, int planes, const double *dfitted,
                             double *dtable);

/* The integers level[n] in 0..grid that take as many planes and are nearest to a fitted table times
 * grid over its end, grid >= n - 1. Returns level[n - 1], which is above 0 and may be below grid.
 */
int32_t qnet_plane_fit_snap(const double *fitted, int n, int planes, int32_t grid, int32_t *level);

#endif
