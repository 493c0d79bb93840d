/* Integer thresholds by bisection.
 *
 * Every step is monotone in f32, rounding included: (f32)acc, fma with a finite slope, relu. So the
 * set of accumulators that pass a threshold is an end of the range, and its border can be bisected
 * on the expression itself. In terms of u = acc ^ flip (~acc where the chain falls, which turns
 * acc <= T into ~acc >= ~T) the passing end is always the upper one. */
#include "passes/chain.h"
#include <math.h>

float qnet_chain_value(const qnet_chain *c, int64_t channel, int32_t acc) {
  float x = (float)acc;
  for (int i = 0; i < c->count; i++) {
    const qnet_chain_step *s = &c->step[i];
    if (s->kind == QNET_CHAIN_AFFINE) x = fmaf(x, s->a[channel], s->b[channel]);
    if (s->kind == QNET_CHAIN_RELU) x = x > 0.0f || isnan(x) ? x : 0.0f;
  }
  return x;
}

int32_t qnet_chain_flip(const qnet_chain *c, int count, int64_t channel) {
  int32_t flip = 0;
  for (int i = 0; i < count; i++) {
    const qnet_chain_step *s = &c->step[i];
    if (s->kind != QNET_CHAIN_AFFINE) continue;
    if (s->a[channel] == 0.0f) return 0;
    if (s->a[channel] < 0.0f) flip = ~flip;
  }
  return flip;
}

/* The least u in lo..hi whose value passes; INT32_MIN when all pass, INT32_MAX when none does. */
static int32_t bisect(const qnet_chain *c, int64_t channel, int32_t flip, int32_t lo, int32_t hi,
                      float threshold) {
  if (qnet_chain_value(c, channel, lo ^ flip) > threshold) return INT32_MIN;
  if (!(qnet_chain_value(c, channel, hi ^ flip) > threshold)) return INT32_MAX;
  int64_t fails = lo, passes = hi;
  while (passes - fails > 1) {
    const int64_t middle = fails + (passes - fails) / 2;
    if (qnet_chain_value(c, channel, (int32_t)middle ^ flip) > threshold)
      passes = middle;
    else
      fails = middle;
  }
  return (int32_t)passes;
}

bool qnet_chain_thresholds(const qnet_chain *c, int64_t channel, int32_t lo, int32_t hi,
                           int32_t *t) {
  if (isnan(qnet_chain_value(c, channel, lo)) || isnan(qnet_chain_value(c, channel, hi)))
    return false;
  const int32_t flip = qnet_chain_flip(c, c->count, channel);
  const int32_t u_lo = flip ? ~hi : lo, u_hi = flip ? ~lo : hi;
  for (int k = 0; k < c->thresholds; k++)
    t[k] = bisect(c, channel, flip, u_lo, u_hi, c->threshold[k]);
  return true;
}
