/* What a table of ascending bounds says of many numbers at once: values by rank, and counts and
 * sums by rank, from which quantizers learn. rank = #{k : x > bound[k]}.
 *
 * Sums by rank are of 16 fixed lanes of f32, element i in lane i % 16, that are added in order in
 * f64; sums by channel, in f32 over all rows. Both are the same on every machine. */
#ifndef QNET_CODEGEN_LANES_H
#define QNET_CODEGEN_LANES_H

#include <stdint.h>

enum { QNET_LANES = 16, QNET_LANE_RANKS = 32 /* the most ranks of a table */ };

/* A table of `ranks` values with ranks - 1 bounds between them. */
typedef struct qnet_lane_table {
  int ranks;
  const float *bound, *value;
} qnet_lane_table;

/* Two sums in a lane. */
typedef float qnet_lane_pair[2];

/* The sum of the lanes, in order. */
double qnet_lanes_add(const float *lane);
void qnet_lanes_add_pairs(const qnet_lane_pair *lane, double sum[2]);
/* y = value[rank]. x and y must not overlap. */
void qnet_lanes_pick(const qnet_lane_table *t, const float *x, int64_t n, float *y);
/* The same; adds to count and sum the number and the sum of x by rank. */
void qnet_lanes_pick_and_sum(const qnet_lane_table *t, const float *x, int64_t n, float *y,
                             int64_t *count, double *sum);
/* Adds to sum and sum_x the sums of dy and of dy x by rank of x. Values are not looked at. */
void qnet_lanes_weigh(const qnet_lane_table *t, const float *x, const float *dy, int64_t n,
                      double *sum, double *sum_x);
/* Rows of `channels` elements with their codes: adds counts and sums by channel and code to count
 * and sum, [channels][codes]. */
void qnet_lanes_channel_sums(const float *x, const uint8_t *code, int64_t rows, int64_t channels,
                             int64_t codes, int64_t *count, double *sum);

#endif
