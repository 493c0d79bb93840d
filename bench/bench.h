/* Side-by-side measurements: medians of interleaved repeats, one thread, one process. */
#ifndef QNET_BENCH_BENCH_H
#define QNET_BENCH_BENCH_H

#include "codegen/target.h"
#include "support/diag.h"

/* A 3x3 convolution, stride 1, padding 1, as many input as output channels. */
typedef struct bench_layer {
  int size, channels;
} bench_layer;

/* Our kernel with its fused threshold and packing: a chain of `depth` such convolutions as native
 * code. The time of one is (chain of many - chain of one) / (difference in depth). */
typedef struct bench_ours bench_ours;
qnet_status bench_ours_create(const bench_layer *layer, int weight_bits, int activation_bits,
                              int depth, const qnet_target_choice *target, bench_ours **out,
                              qnet_diag *d);
double bench_ours_seconds(bench_ours *b); /* one run */
void bench_ours_destroy(bench_ours *b);

/* oneDNN's direct convolution with relu, formats of its choice, weights packed before. */
typedef struct bench_onednn bench_onednn;
bench_onednn *bench_onednn_create(const bench_layer *layer, bool int8); /* NULL when it cannot */
double bench_onednn_seconds(bench_onednn *b);
void bench_onednn_destroy(bench_onednn *b);
/* Limits oneDNN to AVX2; must come first in the process. */
void bench_onednn_limit_to_avx2(void);

/* Seconds of 2^30 one-bit multiply-adds (and + popcount + add) in registers: the machine's limit.
 * avx512: VPOPCNTDQ, else the AVX2 nibble look-up. 0 when the CPU lacks it. */
double bench_popcount_peak(bool avx512);

#endif
