/* The fewest generators whose subset sums hold given numbers, by iterative deepening.
 *
 * Numbers are met in ascending order. One that is no sum yet needs a new generator: what it is
 * short of some sum that there is, each of which is tried. (Two new generators at once are not; no
 * table of a quantizer has been seen to need them.) */
#include "passes/subset_sums.h"

typedef struct search {
  const int32_t *number;
  int order[QNET_SUBSET_NUMBERS]; /* ascending */
  int n, limit;
  int32_t sum[1 << QNET_SUBSET_MAX]; /* by subset of the generators so far */
  qnet_subset_sums found;
} search;

static void sort_numbers(search *s) {
  for (int i = 0; i < s->n; i++) {
    int at = i;
    for (; at > 0 && s->number[s->order[at - 1]] > s->number[i]; at--)
      s->order[at] = s->order[at - 1];
    s->order[at] = i;
  }
}

/* The subset whose sum is `wanted`, or -1. */
static int subset_of(const search *s, int32_t wanted) {
  for (int subset = 0; subset < 1 << s->found.count; subset++)
    if (s->sum[subset] == wanted) return subset;
  return -1;
}

static void add_generator(search *s, int32_t generator) {
  const int count = s->found.count++;
  s->found.generator[count] = generator;
  for (int subset = 0; subset < 1 << count; subset++)
    s->sum[subset | 1 << count] = s->sum[subset] + generator;
}

/* Are the numbers from the i-th on sums of the generators so far and of those still allowed? */
static bool extend(search *s, int i) {
  for (; i < s->n; i++) {
    const int subset = subset_of(s, s->number[s->order[i]]);
    if (subset < 0) break;
    s->found.member[s->order[i]] = (uint32_t)subset;
  }
  if (i == s->n) return true;
  const int count = s->found.count;
  if (count == s->limit) return false;
  const int32_t wanted = s->number[s->order[i]];
  for (int subset = 0; subset < 1 << count; subset++) {
    if (s->sum[subset] >= wanted) continue;
    add_generator(s, wanted - s->sum[subset]);
    if (extend(s, i)) return true;
    s->found.count = count;
  }
  return false;
}

bool qnet_subset_sums_find(const int32_t *number, int n, int limit, qnet_subset_sums *out) {
  search s = {.number = number, .n = n};
  sort_numbers(&s);
  for (s.limit = 0; s.limit <= limit && s.limit <= QNET_SUBSET_MAX; s.limit++) {
    s.found.count = 0;
    s.sum[0] = 0;
    if (!extend(&s, 0)) continue;
    *out = s.found;
    return true;
  }
  return false;
}
