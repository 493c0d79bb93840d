/* Sets of numbers as sums over subsets of few generators. */
#ifndef QNET_PASSES_SUBSET_SUMS_H
#define QNET_PASSES_SUBSET_SUMS_H

#include <stdbool.h>
#include <stdint.h>

enum { QNET_SUBSET_MAX = 6, QNET_SUBSET_NUMBERS = 16 };

typedef struct qnet_subset_sums {
  int count;
  int32_t generator[QNET_SUBSET_MAX];   /* > 0 */
  uint32_t member[QNET_SUBSET_NUMBERS]; /* of each number: bit g = generator g is in its sum */
} qnet_subset_sums;

/* The fewest generators found, at most `limit` (<= QNET_SUBSET_MAX), for n (<= QNET_SUBSET_NUMBERS)
 * numbers >= 0. False: none found. */
bool qnet_subset_sums_find(const int32_t *number, int n, int limit, qnet_subset_sums *out);

#endif
