/* PACT (Choi, Wang, Venkataramani, Chuang, Srinivasan, Gopalakrishnan, 2018, arXiv 1805.06085), for
 * activations: uniform integers 0 .. Q up to a learned clip value alpha = s Q, one a layer. The
 * gradient of alpha comes from clipped values alone, so that of s is Q times it; alpha decays as
 * weights do, which pulls it down to where clipping begins to cost. Here s is what is stored. Where
 * there is no data alpha starts at the optimum of a normal distribution, not at the paper's 10. */
#include "passes/quantizers/learning.h"
#include "passes/quantizers/scaled_set.h"

static int integers(const qnet_quantizer_site *s, int32_t *level) {
  const int top = qnet_uniform_top(s->role, s->bits);
  for (int k = 0; k <= top; k++)
    level[k] = k;
  return top + 1;
}

static const qnet_scaled_set set = {.integers = integers, .clips_only = true, .by_top = true};

const qnet_quantizer qnet_quantizer_pact = {
    .name = "pact",
    .bits = {{0, 0}, {1, 8}},
    .decay = 1e-4,
    QNET_SCALED_SET_HOOKS(&set),
};
