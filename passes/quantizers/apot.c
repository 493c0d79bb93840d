/* APoT (Li, Dong, Wang, ICLR 2020, arXiv 1909.13144): levels that are sums of powers of two, times
 * a learned clip value alpha, one a layer. Activations of b bits take the set of b bits, weights
 * the set of b - 1 bits with a sign:
 *
 *     1 bit 0 1 | 2 bits 0 1 2 4 | 3 bits 0 1 2 3 4 6 8 10 | 4 bits a + b, a of 0 2 8 32, b of 0 1
 * 4 16
 *
 * Weights are normalised by the layer's mean and deviation, taken as constants, and multiplied
 * back; their gradient passes unclipped. The gradient of alpha is Q/alpha - x/alpha inside the
 * range and the sign outside; as in LSQ it is divided by sqrt(N Q), in the step s = alpha / largest
 * integer. alpha decays as weights do. */
#include "passes/quantizers/scaled_set.h"
#include <string.h>

/* Magnitudes of the set of b bits, ascending; returns how many. */
static int magnitudes(int bits, int32_t *out) {
  static const int32_t sets[3][8] = {{0, 1}, {0, 1, 2, 4}, {0, 1, 2, 3, 4, 6, 8, 10}};
  static const int32_t a[] = {0, 2, 8, 32}, b[] = {0, 1, 4, 16};
  const int n = 1 << bits;
  if (bits <= 3) {
    memcpy(out, sets[bits - 1], sizeof *out * (size_t)n);
    return n;
  }
  for (int i = 0; i < n; i++) {
    const int32_t sum = a[i / 4] + b[i % 4];
    int at = i;
    for (; at > 0 && out[at - 1] > sum; at--)
      out[at] = out[at - 1];
    out[at] = sum;
  }
  return n;
}

static int integers(const qnet_quantizer_site *s, int32_t *level) {
  int32_t size[16];
  if (s->role == QNET_ROLE_ACTIVATION) return magnitudes(s->bits, level);
  const int n = magnitudes(s->bits - 1, size), zero = n - 1;
  for (int k = 0; k < n; k++) {
    level[zero + k] = size[k];
    level[zero - k] = -size[k];
  }
  return 2 * n - 1;
}

static const qnet_scaled_set set = {
    .integers = integers, .normalises = true, .passes_all = true, .lsq_scaled = true};

const qnet_quantizer qnet_quantizer_apot = {
    .name = "apot",
    .bits = {{2, 5}, {1, 4}},
    .decay = 1e-4,
    QNET_SCALED_SET_HOOKS(&set),
};
