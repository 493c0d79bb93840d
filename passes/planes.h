/* Level tables of at most 4 bits as sums of bit planes (docs/numbers.md, "Planes"). Pure functions
 * on small arrays; they know nothing of the IR. */
#ifndef QNET_PASSES_PLANES_H
#define QNET_PASSES_PLANES_H

#include "support/alloc.h"
#include <stdbool.h>

enum {
  QNET_PLANES_MAX_BITS = 4,
  QNET_PLANES_MAX_CODES = 16,
  QNET_PLANES_MAX = 16, /* 15 planes and the constant one */
};

/* level of rank r = sum_p coef[p] * (mask[p] >> r & 1). When the table has a level 0, every plane
 * is 0 at that rank; else one plane is 1 at all ranks. At least one plane. */
typedef struct qnet_activation_planes {
  int count;
  uint32_t mask[QNET_PLANES_MAX];
  int32_t coef[QNET_PLANES_MAX];
} qnet_activation_planes;

/* level[o][c] << shift = constant[o] + sum_p coef[o][p] * (mask[p] >> c & 1) for every code c: one
 * structure for the layer, coefficients a channel. At least one plane. */
typedef struct qnet_weight_planes {
  int count, channels, shift;
  uint32_t mask[QNET_PLANES_MAX];
  int32_t *coef;     /* [channels][count] */
  int32_t *constant; /* [channels] */
  bool has_constant; /* some constant is not 0 */
} qnet_weight_planes;

/* The fewest planes found for n (1..16) levels by code; perm: rank -> code, each < 16. */
void qnet_planes_of_activation(const int32_t *level, const uint8_t *perm, int n,
                               qnet_activation_planes *out);

/* The fewest planes found for level[channels][n] by code, n in 1..16, with a shift of at most
 * max_shift (>= 0; 0 is always possible); among equals one without constants, then the smallest
 * shift. The result's arrays are in `arena`. False: out of memory. */
bool qnet_planes_of_weight(qnet_arena *arena, const int32_t *level, int n, int channels,
                           int max_shift, qnet_weight_planes *out);

#endif
