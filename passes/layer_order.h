/* Which layers are the first and the last of a network. */
#ifndef QNET_PASSES_LAYER_ORDER_H
#define QNET_PASSES_LAYER_ORDER_H

#include "ir/ir.h"

/* Convolution or dense layer, at level nn? */
bool qnet_is_layer(const qnet_op *op);

/* The first and the last layer of the function in the order in which they run. A 1x1 convolution
 * that stands on the shorter way into an addition is the projection of a shortcut, and neither,
 * unless there are no others. NULL: there is no layer. */
typedef struct qnet_edge_layers {
  const qnet_op *first, *last;
} qnet_edge_layers;
qnet_status qnet_edge_layers_find(const qnet_symbol *function, const qnet_allocator *a,
                                  qnet_edge_layers *out, qnet_diag *d);

/* The features of a network: what its layers read (before a quantizer of theirs), in program order,
 * each value once, without what the first one reads. out has room for as many as there are layers;
 * returns their number. */
int qnet_layer_features(const qnet_region *body, qnet_value **out);
int qnet_layer_count(const qnet_region *body);

#endif
