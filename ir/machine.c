/* Register tiles of the popcount kernel. */
#include "ir/machine.h"

enum { MAX_PIXELS = 8, MAX_VECTORS = 4 };

static bool fits(const qnet_machine *m, const qnet_tile *t) {
  const int accumulators = t->pixels * t->vectors * t->weight_planes * t->activation_planes;
  return accumulators + t->vectors * t->weight_planes + 3 <= m->registers;
}

/* More products a step first, then fewer loads a step. Powers of two vectors fill words of planes
 * evenly. */
static bool better(const qnet_tile *a, const qnet_tile *b) {
  const int products = a->pixels * a->vectors, best = b->pixels * b->vectors;
  if (products != best) return products > best;
  const int loads = a->pixels * a->activation_planes + a->vectors * a->weight_planes;
  return loads < b->pixels * b->activation_planes + b->vectors * b->weight_planes;
}

qnet_tile qnet_machine_tile(const qnet_machine *m, int weight_planes, int activation_planes) {
  for (int i = 0; i < QNET_MAX_TILES && m->tile[i].weight_planes; i++) {
    const qnet_tile *t = &m->tile[i];
    if (t->weight_planes == weight_planes && t->activation_planes == activation_planes) return *t;
  }
  qnet_tile best = {weight_planes, activation_planes, 1, 1};
  for (int vectors = 1; vectors <= MAX_VECTORS; vectors *= 2)
    for (int pixels = 1; pixels <= MAX_PIXELS; pixels++) {
      const qnet_tile t = {weight_planes, activation_planes, pixels, vectors};
      if (fits(m, &t) && better(&t, &best)) best = t;
    }
  return best;
}
