/* Bit planes of a level table.
 *
 * A table is a function of an element (a rank for activations, a code for weights). Each candidate
 * below is an exact expansion of that function in 0/1 planes plus a constant; planes whose
 * coefficient is 0 in every channel are dropped, and the candidate with the fewest planes wins:
 *
 *   Moebius      planes are ANDs of index bits after the index is xored with a base, so that the
 *                base element has no plane set. Additive tables need one plane a bit.
 *   Walsh        planes are signs, products of (2 bit - 1), written as 2 plane - 1. Tables that are
 *                odd in the sign bit lose half of them. Coefficients have the denominator 2^bits,
 *                which is cancelled as far as it goes; the rest is the final exact shift. The index
 *                of a table -L..0..L of an odd number of codes is sign and magnitude.
 *   thermometer  planes are comparisons with a rank, upwards and downwards from a base.
 *   subset sums  planes are the generators of subset_sums.h above the least level: sums of smaller
 *                tables (APoT) in whatever order. For one table a layer.
 *
 * The index is the stored code or the rank (a uniform table stored in any order is additive in its
 * ranks). Walsh serves weights alone: an activation's planes must vanish at its level 0. */
#include "passes/planes.h"
#include "passes/subset_sums.h"
#include <string.h>

enum { STRIDE = QNET_PLANES_MAX };

/* The function to expand. Element e has value[channel * n + e]. */
typedef struct levels {
  const int32_t *value;
  int n, channels;
} levels;

/* value << shift = constant[ch] + sum_p coef[ch * STRIDE + p] * (mask[p] >> e & 1) */
typedef struct expansion {
  int count, shift;
  bool has_constant;
  uint32_t mask[STRIDE];
  int32_t *coef, *constant;
} expansion;

typedef struct search {
  levels of;
  bool constant_is_plane; /* activations: the constant costs a plane */
  int max_shift;
  expansion trial, best;
  bool found;
} search;

/* ---- candidates ------------------------------------------------------------------------------ */

static int table_size(int n) {
  int size = 1;
  while (size < n)
    size *= 2;
  return size;
}

/* size: number of index values, a power of two. Unused index values get coefficient 0: their value
 * is free. */
static void expand_moebius(const levels *t, const uint8_t *index, int size, int base,
                           expansion *out) {
  int element[STRIDE];
  for (int i = 0; i < size; i++)
    element[i] = -1;
  for (int e = 0; e < t->n; e++)
    element[index[e]] = e;
  for (int ch = 0; ch < t->channels; ch++) {
    int32_t *m = out->coef + ch * STRIDE;
    for (int s = 0; s < size; s++) {
      const int e = element[s ^ base];
      m[s] = e < 0 ? 0 : t->value[ch * t->n + e];
      for (int r = 0; r < s && e >= 0; r++)
        if ((r & s) == r) m[s] -= m[r];
    }
    out->constant[ch] = m[0];
    m[0] = 0;
  }
  for (int s = 0; s < size; s++)
    for (int e = 0; e < t->n; e++)
      if (((index[e] ^ base) & s) == s) out->mask[s] |= 1u << e;
  out->count = size;
}

/* +1 or -1: the product over the bits of s of (2 bit - 1). */
static int walsh_sign(int index, int s) {
  return __builtin_parity((unsigned)(~index & s)) ? -1 : 1;
}

/* size: number of index values, a power of two. Those that are not used take the value of `twin`.
 */
static void expand_walsh(const levels *t, const uint8_t *index, int size, int twin,
                         expansion *out) {
  int element[STRIDE];
  for (int i = 0; i < size; i++)
    element[i] = twin;
  for (int e = 0; e < t->n; e++)
    element[index[e]] = e;
  for (int ch = 0; ch < t->channels; ch++) {
    int32_t *h = out->coef + ch * STRIDE;
    for (int s = 0; s < size; s++) {
      h[s] = 0;
      for (int i = 0; i < size; i++)
        h[s] += walsh_sign(i, s) * t->value[ch * t->n + element[i]];
    }
    int32_t constant = h[0];
    for (int s = 1; s < size; s++) {
      constant -= h[s];
      h[s] *= 2;
    }
    out->constant[ch] = constant;
    h[0] = 0;
  }
  for (int s = 0; s < size; s++)
    for (int e = 0; e < t->n; e++)
      if (walsh_sign(index[e], s) > 0) out->mask[s] |= 1u << e;
  out->count = size;
  out->shift = __builtin_ctz((unsigned)size);
}

/* order: position -> element. */
static void expand_thermometer(const levels *t, const uint8_t *order, int base, expansion *out) {
  for (int ch = 0; ch < t->channels; ch++) {
    const int32_t *value = t->value + ch * t->n;
    for (int k = 0; k < t->n; k++) {
      const int towards_base = k > base ? k - 1 : k < base ? k + 1 : k;
      out->coef[ch * STRIDE + k] = value[order[k]] - value[order[towards_base]];
    }
    out->constant[ch] = value[order[base]];
  }
  for (int k = 0; k < t->n; k++)
    for (int position = 0; position < t->n; position++)
      if (k > base ? position >= k : position <= k) out->mask[k] |= 1u << order[position];
  out->count = t->n;
}

/* ---- the choice ------------------------------------------------------------------------------ */

static bool plane_is_used(const search *s, int p) {
  for (int ch = 0; ch < s->of.channels; ch++)
    if (s->trial.coef[ch * STRIDE + p] != 0) return true;
  return false;
}

static void drop_unused_planes(search *s) {
  expansion *x = &s->trial;
  int kept = 0;
  for (int p = 0; p < x->count; p++) {
    if (!plane_is_used(s, p)) continue;
    x->mask[kept] = x->mask[p];
    for (int ch = 0; ch < s->of.channels; ch++)
      x->coef[ch * STRIDE + kept] = x->coef[ch * STRIDE + p];
    kept++;
  }
  x->count = kept;
}

/* Divides by the largest power of two that the shift has and all numbers share. */
static void cancel_shift(search *s) {
  expansion *x = &s->trial;
  uint32_t all = 1u << x->shift;
  for (int ch = 0; ch < s->of.channels; ch++) {
    all |= (uint32_t)x->constant[ch];
    for (int p = 0; p < x->count; p++)
      all |= (uint32_t)x->coef[ch * STRIDE + p];
  }
  const int cancelled = __builtin_ctz(all);
  for (int ch = 0; ch < s->of.channels; ch++) {
    x->constant[ch] /= 1 << cancelled;
    for (int p = 0; p < x->count; p++)
      x->coef[ch * STRIDE + p] /= 1 << cancelled;
  }
  x->shift -= cancelled;
}

static bool is_better(const search *s) {
  const expansion *a = &s->trial, *b = &s->best;
  const int cost_a = a->count + (s->constant_is_plane && a->has_constant);
  const int cost_b = b->count + (s->constant_is_plane && b->has_constant);
  if (cost_a != cost_b) return cost_a < cost_b;
  if (a->has_constant != b->has_constant) return b->has_constant;
  return a->shift < b->shift;
}

static void reset_trial(search *s) {
  memset(s->trial.mask, 0, sizeof s->trial.mask);
  s->trial.shift = 0;
}

static void consider_trial(search *s) {
  drop_unused_planes(s);
  cancel_shift(s);
  s->trial.has_constant = false;
  for (int ch = 0; ch < s->of.channels; ch++)
    if (s->trial.constant[ch] != 0) s->trial.has_constant = true;
  if (s->trial.shift > s->max_shift) return;
  if (s->found && !is_better(s)) return;
  const expansion swap = s->best;
  s->best = s->trial;
  s->trial = swap;
  s->found = true;
}

/* allowed: bit e = element e may be the base. */
static void try_moebius(search *s, const uint8_t *index, int size, uint32_t allowed) {
  for (int e = 0; e < s->of.n; e++) {
    if (!(allowed >> e & 1)) continue;
    reset_trial(s);
    expand_moebius(&s->of, index, size, index[e], &s->trial);
    consider_trial(s);
  }
}

static void try_walsh(search *s, const uint8_t *index) {
  if (table_size(s->of.n) != s->of.n) return;
  reset_trial(s);
  expand_walsh(&s->of, index, s->of.n, 0, &s->trial);
  consider_trial(s);
}

/* -L..0..L by code: both signs of the magnitude 0 are the one code in the middle. */
static void try_sign_and_magnitude(search *s) {
  const int n = s->of.n, zero = n / 2, size = table_size(n);
  uint8_t index[QNET_PLANES_MAX_CODES];
  if (n != size - 1) return;
  for (int ch = 0; ch < s->of.channels; ch++)
    for (int k = 0; k <= zero; k++)
      if (s->of.value[ch * n + zero + k] != -s->of.value[ch * n + zero - k]) return;
  for (int code = 0; code < n; code++)
    index[code] = (uint8_t)(code < zero ? zero - code : size / 2 + code - zero);
  reset_trial(s);
  expand_walsh(&s->of, index, size, zero, &s->trial);
  consider_trial(s);
}

static void try_thermometer(search *s, const uint8_t *order, uint32_t allowed) {
  for (int k = 0; k < s->of.n; k++) {
    if (!(allowed >> order[k] & 1)) continue;
    reset_trial(s);
    expand_thermometer(&s->of, order, k, &s->trial);
    consider_trial(s);
  }
}

/* Above the least level, which an activation needs to be 0. */
static void try_subset_sums(search *s) {
  int32_t distance[QNET_SUBSET_NUMBERS], least = s->of.value[0];
  qnet_subset_sums sums;
  if (s->of.channels != 1) return;
  for (int e = 1; e < s->of.n; e++)
    if (s->of.value[e] < least) least = s->of.value[e];
  if (s->constant_is_plane && least != 0) return;
  for (int e = 0; e < s->of.n; e++)
    distance[e] = s->of.value[e] - least;
  const int limit = s->best.shift > 0 ? s->best.count : s->best.count - 1;
  if (!qnet_subset_sums_find(distance, s->of.n, limit, &sums)) return;
  reset_trial(s);
  s->trial.count = sums.count;
  s->trial.constant[0] = least;
  for (int p = 0; p < sums.count; p++) {
    s->trial.coef[p] = sums.generator[p];
    for (int e = 0; e < s->of.n; e++)
      s->trial.mask[p] |= (sums.member[e] >> p & 1) << e;
  }
  consider_trial(s);
}

/* ---- activations ----------------------------------------------------------------------------- */

void qnet_planes_of_activation(const int32_t *level, const uint8_t *perm, int n,
                               qnet_activation_planes *out) {
  int32_t value[QNET_PLANES_MAX_CODES], coef[2][STRIDE], constant[2];
  uint8_t rank[QNET_PLANES_MAX_CODES];
  uint32_t zeros = 0;
  for (int r = 0; r < n; r++) {
    value[r] = level[perm[r]];
    rank[r] = (uint8_t)r;
    if (value[r] == 0) zeros |= 1u << r;
  }
  search s = {.of = {value, n, 1}, .constant_is_plane = true};
  s.trial = (expansion){.coef = coef[0], .constant = &constant[0]};
  s.best = (expansion){.coef = coef[1], .constant = &constant[1]};
  const uint32_t bases = zeros ? zeros : UINT32_MAX;
  try_moebius(&s, perm, QNET_PLANES_MAX_CODES, bases);
  try_moebius(&s, rank, table_size(n), bases);
  try_thermometer(&s, rank, bases);
  try_subset_sums(&s);

  *out = (qnet_activation_planes){.count = s.best.count};
  for (int p = 0; p < s.best.count; p++) {
    out->mask[p] = s.best.mask[p];
    out->coef[p] = s.best.coef[p];
  }
  if (s.best.has_constant) {
    out->mask[out->count] = (1u << n) - 1;
    out->coef[out->count++] = s.best.constant[0];
  }
  if (out->count == 0) out->count = 1; /* all levels 0: one empty plane */
}

/* ---- weights --------------------------------------------------------------------------------- */

/* order: position -> element, ascending in channel 0; rank: its inverse. */
static void sort_levels(const levels *t, uint8_t *order, uint8_t *rank) {
  for (int e = 0; e < t->n; e++) {
    int k = e;
    for (; k > 0 && t->value[order[k - 1]] > t->value[e]; k--)
      order[k] = order[k - 1];
    order[k] = (uint8_t)e;
  }
  for (int k = 0; k < t->n; k++)
    rank[order[k]] = (uint8_t)k;
}

static bool allocate_expansion(qnet_arena *arena, int channels, expansion *out) {
  *out = (expansion){0};
  out->coef = qnet_arena_array(arena, (size_t)channels * STRIDE, sizeof *out->coef);
  out->constant = qnet_arena_array(arena, (size_t)channels, sizeof *out->constant);
  return out->coef && out->constant;
}

static bool copy_weight_planes(qnet_arena *arena, const search *s, qnet_weight_planes *out) {
  const expansion *x = &s->best;
  const int channels = s->of.channels;
  *out = (qnet_weight_planes){.count = x->count ? x->count : 1,
                              .channels = channels,
                              .shift = x->shift,
                              .constant = x->constant,
                              .has_constant = x->has_constant};
  out->coef = qnet_arena_array(arena, (size_t)(channels * out->count), sizeof *out->coef);
  if (!out->coef) return false;
  for (int p = 0; p < x->count; p++) {
    out->mask[p] = x->mask[p];
    for (int ch = 0; ch < channels; ch++)
      out->coef[ch * out->count + p] = x->coef[ch * STRIDE + p];
  }
  return true;
}

bool qnet_planes_of_weight(qnet_arena *arena, const int32_t *level, int n, int channels,
                           int max_shift, qnet_weight_planes *out) {
  search s = {.of = {level, n, channels}, .max_shift = max_shift};
  if (!allocate_expansion(arena, channels, &s.trial)) return false;
  if (!allocate_expansion(arena, channels, &s.best)) return false;
  uint8_t code[QNET_PLANES_MAX_CODES], order[QNET_PLANES_MAX_CODES], rank[QNET_PLANES_MAX_CODES];
  for (int c = 0; c < n; c++)
    code[c] = (uint8_t)c;
  sort_levels(&s.of, order, rank);
  const int size = table_size(n);
  try_moebius(&s, code, size, UINT32_MAX);
  try_walsh(&s, code);
  try_moebius(&s, rank, size, UINT32_MAX);
  try_walsh(&s, rank);
  try_thermometer(&s, order, UINT32_MAX);
  try_sign_and_magnitude(&s);
  try_subset_sums(&s);
  return copy_weight_planes(arena, &s, out);
}
