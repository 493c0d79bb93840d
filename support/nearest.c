/* "Did you mean": edit distance (insert, delete, replace, swap of neighbours; case is free). */
#include "support/diag.h"

#include <string.h>

enum { MAX_WORD = 64 };

static size_t min3(size_t a, size_t b, size_t c) {
  const size_t least = a < b ? a : b;
  return least < c ? least : c;
}

static char lower(char c) {
  return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Both words are at most MAX_WORD long. */
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length) {
  size_t rows[3][MAX_WORD + 1];
  size_t *before = rows[0], *above = rows[1], *row = rows[2];
  for (size_t j = 0; j <= b_length; j++)
    above[j] = j;
  for (size_t i = 1; i <= a_length; i++) {
    row[0] = i;
    for (size_t j = 1; j <= b_length; j++) {
      const char x = lower(a[i - 1]), y = lower(b[j - 1]);
      row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y));
      if (i > 1 && j > 1 && x == lower(b[j - 2]) && y == lower(a[i - 2]))
        row[j] = min3(row[j], before[j - 2] + 1, row[j]);
    }
    size_t *const oldest = before;
    before = above;
    above = row;
    row = oldest;
  }
  return above[b_length];
}

const char *qnet_nearest(const char *word, const char *const *candidates, size_t count) {
  const size_t length = strlen(word);
  if (length == 0 || length > MAX_WORD) return NULL;
  const char *best = NULL;
  size_t best_distance = (length + 2) / 3 + 1;
  if (best_distance > length) best_distance = length; /* not every letter may differ */
  for (size_t i = 0; i < count; i++) {
    const size_t candidate_length = strlen(candidates[i]);
    if (candidate_length > MAX_WORD) continue;
    const size_t distance = edit_distance(word, length, candidates[i], candidate_length);
    if (distance >= best_distance) continue;
    best_distance = distance;
    best = candidates[i];
  }
  return best;
}
