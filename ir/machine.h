/* What the passes know of the machine they schedule for. codegen/ fills it from a target; passes
 * only read it. */
#ifndef QNET_IR_MACHINE_H
#define QNET_IR_MACHINE_H

#include <stdbool.h>

/* How popcounts are accumulated (the accumulator of loop.pop_acc). */
typedef enum {
  QNET_COUNT_WORD, /* a count a word: VPOPCNTDQ, Zbb cpop, scalar popcnt */
  QNET_COUNT_BYTE, /* i8 lanes, widened at least every 31 steps: AVX2, SSE */
  QNET_COUNT_PAIR, /* i16 lanes (NEON cnt + uadalp), widened every 4095 steps */
  QNET_COUNT_CSA8, /* carry-save tree of 8 words, then one popcount: plain rv64gc */
} qnet_count_form;

/* Register tile of the popcount kernel for one pair of plane counts. */
typedef struct qnet_tile {
  int weight_planes, activation_planes;
  int pixels;  /* output positions along w */
  int vectors; /* vectors of output channels */
} qnet_tile;

enum { QNET_MAX_TILES = 16 };

typedef struct qnet_machine {
  const char *name; /* for remarks: "x86-64 AVX-512 VPOPCNTDQ" */
  int word_bits;    /* width of a packed word: 32 (vector lanes) or 64 (scalar) */
  int lanes;        /* words in a vector: output channels a vector; 1 = scalar code */
  int f32_lanes;    /* lanes of f32 vectors */
  int registers;    /* vector registers (scalar ones when lanes == 1) */
  qnet_count_form count;
  qnet_tile tile[QNET_MAX_TILES]; /* looked up by plane counts; ends with weight_planes == 0 */
  bool fma; /* fused multiply-add in hardware; else an exact helper is called */
} qnet_machine;

/* The tile for these plane counts, or the largest that fits the registers by the rule
 * accumulators + weight vectors + 3 <= registers. Never less than 1 x 1. */
qnet_tile qnet_machine_tile(const qnet_machine *m, int weight_planes, int activation_planes);

#endif
