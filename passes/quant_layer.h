/* A quantized convolution or dense layer as the passes see it: its tables, stored codes, the proven
 * range of its accumulators, and the planes it decomposes into. */
#ifndef QNET_PASSES_QUANT_LAYER_H
#define QNET_PASSES_QUANT_LAYER_H

#include "ir/ir.h"
#include "passes/planes.h"

typedef struct qnet_quant_layer {
  qnet_op *op;      /* quant.conv2d or quant.dense */
  const char *name; /* "conv2" */
  const qnet_table *activation, *weight;
  const uint8_t *codes; /* [outputs][taps] */
  int64_t outputs, taps;
  bool padded; /* some window reaches over the border */
} qnet_quant_layer;

/* Reads the layer off the operation. Errors: weights that are no constant or are not loaded, tables
 * that do not fit, codes beyond their table. The name is in `arena`. */
qnet_status qnet_quant_layer_read(const qnet_module *m, qnet_op *op, qnet_arena *arena,
                                  qnet_quant_layer *out, qnet_diag *d);

/* The exact least and greatest accumulator of each output: over all codes that the activation's
 * quantizer can give, with padded taps at 0. */
typedef struct qnet_range {
  int64_t lo, hi;
} qnet_range;
qnet_range qnet_quant_layer_range(const qnet_quant_layer *l, int64_t output);

/* The largest magnitude in the ranges of all outputs. */
int64_t qnet_quant_layer_bound(const qnet_quant_layer *l);

/* May the layer run on bit planes: both tables have at most 4 bits? */
bool qnet_quant_layer_has_planes(const qnet_quant_layer *l);

/* The planes of a layer whose sums int32 holds. The plane form wraps like any int32 sum and ends at
 * acc << shift modulo 2^32, so that the shift is exact as long as acc << shift fits: the weight
 * planes are chosen among those whose shift does. */
typedef struct qnet_layer_planes {
  qnet_activation_planes activation;
  qnet_weight_planes weight; /* arrays in the arena */
} qnet_layer_planes;
/* False: out of memory. */
bool qnet_quant_layer_planes(const qnet_quant_layer *l, qnet_arena *arena, qnet_layer_planes *out);

/* An upper bound of the magnitude of the sum of all activation levels in a window, plane by plane.
 */
int64_t qnet_quant_layer_patch_bound(const qnet_quant_layer *l, const qnet_layer_planes *p);

#endif
