/* A pass over the data compares with a few bounds at once, which stand in registers with their
 * sums; a table of more ranks takes several passes over a range that lies in the cache. What is
 * above each bound is summed; what belongs to a rank is the difference of neighbours.
 *
 * Vectors are GCC's: a loop over lanes in arrays does not reliably become registers. A vector holds
 * a part of the lanes, as many as all compilers do well; a pass goes through the data once a part.
 */
#include "codegen/lanes.h"
#include "support/simd.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

/* GCC takes vectors wider than the machine's apart into scalars. */
#ifdef __x86_64__
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif
enum { LANES = QNET_LANES, WIDTH = VECTOR_BYTES / 4, SLOTS = 4, RANKS = QNET_LANE_RANKS };

typedef float vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

/* Loops over slots, whose arrays then become registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 4")
#endif

/* Not + 0, which would make -0 a +0. */
#define SPREAD(scalar)    ((scalar) - (vector){0})
#define WHERE(m, a)       ((vector)((mask)(a) & (m)))
#define SELECT(m, a, b)   ((vector)(((mask)(a) & (m)) | ((mask)(b) & ~(m))))
#define LOAD(pointer)     (*(const vector *)(pointer))
#define STORE(pointer, v) (*(vector *)(pointer) = (v))

/* Consecutive ranks of a table: bound[k] is below them, -inf below rank 0, +inf where the table
 * has no more. */
typedef struct slots {
  float bound[SLOTS], value[SLOTS];
} slots;

/* Of all that is above the bounds, lane by lane. */
typedef struct lane_sums {
  float sum[SLOTS][LANES], product[SLOTS][LANES];
  int32_t count[SLOTS][LANES];
} lane_sums;

/* All above each bound of a table. */
typedef struct above {
  int64_t count[RANKS + SLOTS];
  double sum[RANKS + SLOTS], product[RANKS + SLOTS];
} above;

static slots slots_of(const qnet_lane_table *t, int first) {
  slots s;
  for (int k = 0; k < SLOTS; k++) {
    const int rank = first + k;
    s.bound[k] = rank >= t->ranks ? INFINITY : rank == 0 ? -INFINITY : t->bound[rank - 1];
    s.value[k] = t->value != NULL && rank < t->ranks ? t->value[rank] : 0;
  }
  return s;
}

/* ---- values -----------------------------------------------------------------------------------*/

/* y = value of the highest slot that x is above, else `base`, else (NULL) what y was. n is a
 * multiple of LANES. */
QNET_SIMD_BODY void pick_body(const slots *s, const float *base, const float *x, int64_t n,
                              float *y) {
  vector bound[SLOTS], value[SLOTS];
  UNROLL
  for (int k = 0; k < SLOTS; k++) {
    bound[k] = SPREAD(s->bound[k]);
    value[k] = SPREAD(s->value[k]);
  }
  const vector other = SPREAD(base != NULL ? *base : 0);
  for (int64_t i = 0; i < n; i += WIDTH) {
    const vector v = LOAD(x + i);
    vector out = base != NULL ? other : LOAD(y + i);
    UNROLL
    for (int k = 0; k < SLOTS; k++)
      out = SELECT(v > bound[k], value[k], out);
    STORE(y + i, out);
  }
}
QNET_SIMD_DISPATCH(pick, (const slots *s, const float *base, const float *x, int64_t n, float *y),
                   (s, base, x, n, y))

static void pick_all(const qnet_lane_table *t, const float *x, int64_t n, float *y) {
  for (int first = 0; first < t->ranks; first += SLOTS) {
    const slots s = slots_of(t, first);
    pick(&s, first == 0 ? t->value : NULL, x, n, y);
  }
}

/* A block of what is left behind the last multiple of LANES; -inf is above nothing. */
static void fill_block(float *block, const float *x, int64_t n, float filling) {
  for (int64_t i = 0; i < LANES; i++)
    block[i] = i < n ? x[i] : filling;
}

void qnet_lanes_pick(const qnet_lane_table *t, const float *x, int64_t n, float *y) {
  const int64_t rest = n % LANES, whole = n - rest;
  float block[LANES], picked[LANES];
  pick_all(t, x, whole, y);
  if (rest == 0) return;
  fill_block(block, x + whole, rest, -INFINITY);
  pick_all(t, block, LANES, picked);
  memcpy(y + whole, picked, (size_t)rest * sizeof *y);
}

/* ---- values and statistics --------------------------------------------------------------------*/

QNET_SIMD_BODY void pick_and_sum_body(const slots *s, const float *base, const float *x, int64_t n,
                                      float *y, lane_sums *out) {
  vector bound[SLOTS], value[SLOTS];
  UNROLL
  for (int k = 0; k < SLOTS; k++) {
    bound[k] = SPREAD(s->bound[k]);
    value[k] = SPREAD(s->value[k]);
  }
  const vector other = SPREAD(base != NULL ? *base : 0);
  for (int part = 0; part < LANES; part += WIDTH) {
    vector sum[SLOTS] = {{0}};
    mask count[SLOTS] = {{0}};
    for (int64_t i = part; i < n; i += LANES) {
      const vector v = LOAD(x + i);
      vector picked = base != NULL ? other : LOAD(y + i);
      UNROLL
      for (int k = 0; k < SLOTS; k++) {
        const mask is_above = v > bound[k];
        sum[k] += WHERE(is_above, v);
        count[k] -= is_above;
        picked = SELECT(is_above, value[k], picked);
      }
      STORE(y + i, picked);
    }
    UNROLL
    for (int k = 0; k < SLOTS; k++) {
      memcpy(&out->sum[k][part], &sum[k], sizeof sum[k]);
      memcpy(&out->count[k][part], &count[k], sizeof count[k]);
    }
  }
}
QNET_SIMD_DISPATCH(pick_and_sum,
                   (const slots *s, const float *base, const float *x, int64_t n, float *y,
                    lane_sums *out),
                   (s, base, x, n, y, out))

double qnet_lanes_add(const float *lane) {
  double sum = 0;
  for (int j = 0; j < LANES; j++)
    sum += (double)lane[j];
  return sum;
}

void qnet_lanes_add_pairs(const qnet_lane_pair *lane, double sum[2]) {
  sum[0] = sum[1] = 0;
  for (int j = 0; j < LANES; j++)
    for (int k = 0; k < 2; k++)
      sum[k] += (double)lane[j][k];
}

static void sum_all(const qnet_lane_table *t, const float *x, int64_t n, float *y, above *a) {
  lane_sums sums;
  for (int first = 0; first < t->ranks; first += SLOTS) {
    const slots s = slots_of(t, first);
    pick_and_sum(&s, first == 0 ? t->value : NULL, x, n, y, &sums);
    for (int k = 0; k < SLOTS; k++) {
      a->sum[first + k] += qnet_lanes_add(sums.sum[k]);
      for (int j = 0; j < LANES; j++)
        a->count[first + k] += sums.count[k][j];
    }
  }
}

void qnet_lanes_pick_and_sum(const qnet_lane_table *t, const float *x, int64_t n, float *y,
                             int64_t *count, double *sum) {
  const int64_t rest = n % LANES, whole = n - rest;
  above a;
  memset(&a, 0, sizeof a);
  sum_all(t, x, whole, y, &a);
  if (rest > 0) {
    float block[LANES], picked[LANES];
    fill_block(block, x + whole, rest, -INFINITY);
    sum_all(t, block, LANES, picked, &a);
    memcpy(y + whole, picked, (size_t)rest * sizeof *y);
  }
  /* What is above nothing, not even -inf, counts as of rank 0. */
  a.count[0] = n;
  for (int r = 0; r < t->ranks; r++) {
    const bool last = r == t->ranks - 1;
    count[r] += a.count[r] - (last ? 0 : a.count[r + 1]);
    sum[r] += a.sum[r] - (last ? 0 : a.sum[r + 1]);
  }
}

/* ---- sums of gradients ------------------------------------------------------------------------*/

/* `width` of the slots, a constant. */
QNET_SIMD_BODY void weigh_slots(const slots *s, const float *x, const float *dy, int64_t n,
                                const int width, lane_sums *out) {
  vector bound[SLOTS];
  UNROLL
  for (int k = 0; k < width; k++)
    bound[k] = SPREAD(s->bound[k]);
  for (int part = 0; part < LANES; part += WIDTH) {
    vector sum[SLOTS] = {{0}}, product[SLOTS] = {{0}};
    for (int64_t i = part; i < n; i += LANES) {
      const vector v = LOAD(x + i), g = LOAD(dy + i), p = g * v;
      UNROLL
      for (int k = 0; k < width; k++) {
        const mask is_above = v > bound[k];
        sum[k] += WHERE(is_above, g);
        product[k] += WHERE(is_above, p);
      }
    }
    UNROLL
    for (int k = 0; k < width; k++) {
      memcpy(&out->sum[k][part], &sum[k], sizeof sum[k]);
      memcpy(&out->product[k][part], &product[k], sizeof product[k]);
    }
  }
}

QNET_SIMD_BODY void weigh_four_body(const slots *s, const float *x, const float *dy, int64_t n,
                                    lane_sums *out) {
  weigh_slots(s, x, dy, n, 4, out);
}
QNET_SIMD_DISPATCH(weigh_four,
                   (const slots *s, const float *x, const float *dy, int64_t n, lane_sums *out),
                   (s, x, dy, n, out))

QNET_SIMD_BODY void weigh_two_body(const slots *s, const float *x, const float *dy, int64_t n,
                                   lane_sums *out) {
  weigh_slots(s, x, dy, n, 2, out);
}
QNET_SIMD_DISPATCH(weigh_two,
                   (const slots *s, const float *x, const float *dy, int64_t n, lane_sums *out),
                   (s, x, dy, n, out))

static void weigh_all(const qnet_lane_table *t, const float *x, const float *dy, int64_t n,
                      above *a) {
  lane_sums sums;
  for (int first = 0; first < t->ranks; first += SLOTS) {
    const slots s = slots_of(t, first);
    const int width = t->ranks - first > 2 ? 4 : 2;
    if (width == 4)
      weigh_four(&s, x, dy, n, &sums);
    else
      weigh_two(&s, x, dy, n, &sums);
    for (int k = 0; k < width; k++) {
      a->sum[first + k] += qnet_lanes_add(sums.sum[k]);
      a->product[first + k] += qnet_lanes_add(sums.product[k]);
    }
  }
}

void qnet_lanes_weigh(const qnet_lane_table *t, const float *x, const float *dy, int64_t n,
                      double *sum, double *sum_x) {
  const int64_t rest = n % LANES, whole = n - rest;
  above a;
  memset(&a, 0, sizeof a);
  weigh_all(t, x, dy, whole, &a);
  if (rest > 0) {
    float block[LANES], gradient[LANES];
    fill_block(block, x + whole, rest, -INFINITY);
    fill_block(gradient, dy + whole, rest, 0);
    weigh_all(t, block, gradient, LANES, &a);
  }
  for (int r = 0; r < t->ranks; r++) {
    const bool last = r == t->ranks - 1;
    sum[r] += a.sum[r] - (last ? 0 : a.sum[r + 1]);
    sum_x[r] += a.product[r] - (last ? 0 : a.product[r + 1]);
  }
}

/* ---- channel by channel -----------------------------------------------------------------------*/

typedef uint8_t bytes __attribute__((vector_size(WIDTH), aligned(1), may_alias));

/* Of WIDTH channels in rows of `stride`, for the codes `first` to first + SLOTS - 1. */
QNET_SIMD_BODY void sum_codes_body(const float *x, const uint8_t *code, int64_t rows,
                                   int64_t stride, int first, lane_sums *out) {
  vector sum[SLOTS] = {{0}};
  mask count[SLOTS] = {{0}};
  for (int64_t r = 0; r < rows; r++, x += stride, code += stride) {
    const vector v = LOAD(x);
    const mask c = __builtin_convertvector(*(const bytes *)code, mask);
    UNROLL
    for (int k = 0; k < SLOTS; k++) {
      const mask hit = c == first + k;
      sum[k] += WHERE(hit, v);
      count[k] -= hit;
    }
  }
  UNROLL
  for (int k = 0; k < SLOTS; k++) {
    memcpy(out->sum[k], &sum[k], sizeof sum[k]);
    memcpy(out->count[k], &count[k], sizeof count[k]);
  }
}
QNET_SIMD_DISPATCH(sum_codes,
                   (const float *x, const uint8_t *code, int64_t rows, int64_t stride, int first,
                    lane_sums *out),
                   (x, code, rows, stride, first, out))

/* The same for one channel. */
static void sum_codes_of_one(const float *x, const uint8_t *code, int64_t rows, int64_t stride,
                             int first, lane_sums *out) {
  for (int k = 0; k < SLOTS; k++) {
    out->sum[k][0] = 0;
    out->count[k][0] = 0;
  }
  for (int64_t r = 0; r < rows; r++, x += stride, code += stride) {
    const int k = *code - first;
    if (k < 0 || k >= SLOTS) continue;
    out->sum[k][0] += *x;
    out->count[k][0]++;
  }
}

void qnet_lanes_channel_sums(const float *x, const uint8_t *code, int64_t rows, int64_t channels,
                             int64_t codes, int64_t *count, double *sum) {
  lane_sums s;
  for (int64_t c = 0, width; c < channels; c += width) {
    width = channels - c < WIDTH ? 1 : WIDTH;
    for (int first = 0; first < codes; first += SLOTS) {
      if (width == WIDTH)
        sum_codes(x + c, code + c, rows, channels, first, &s);
      else
        sum_codes_of_one(x + c, code + c, rows, channels, first, &s);
      for (int k = first; k < first + SLOTS && k < codes; k++)
        for (int64_t j = 0; j < width; j++) {
          count[(c + j) * codes + k] += s.count[k - first][j];
          sum[(c + j) * codes + k] += (double)s.sum[k - first][j];
        }
    }
  }
}
