/* LSQ (Esser, McKinstry, Bablani, Appuswamy, Modha, ICLR 2020, arXiv 1902.08153): uniform integers
 * times one learned step a layer. Weights -2^(b-1) .. 2^(b-1) - 1, activations 0 .. 2^b - 1, at 8
 * bits -127..127 and 0..127. The gradient of the step is divided by sqrt(N Q): N the weights of the
 * layer, or the features of one image; Q the largest integer. Values beyond the range pass no
 * gradient. The step learns at the rate of the weights and does not decay. */
#include "passes/quantizers/learning.h"
#include "passes/quantizers/scaled_set.h"

static int integers(const qnet_quantizer_site *s, int32_t *level) {
  const int top = qnet_uniform_top(s->role, s->bits);
  int low = s->role == QNET_ROLE_WEIGHT ? -(1 << (s->bits - 1)) : 0;
  if (low < -127) low = -127;
  for (int k = low; k <= top; k++)
    level[k - low] = k;
  return top - low + 1;
}

static const qnet_scaled_set set = {.integers = integers, .lsq_scaled = true};

const qnet_quantizer qnet_quantizer_lsq = {
    .name = "lsq",
    .bits = {{2, 8}, {1, 8}},
    QNET_SCALED_SET_HOOKS(&set),
};
