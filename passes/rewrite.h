/* Small helpers that the passes of the quant and bits levels share: constants, names, windows. */
#ifndef QNET_PASSES_REWRITE_H
#define QNET_PASSES_REWRITE_H

#include "ir/ir.h"

/* The symbol that the value is a read of, or NULL. */
qnet_symbol *qnet_value_symbol(const qnet_module *m, const qnet_value *v);

/* A new const symbol `name` (name.1, name.2, ... when taken) of a tensor with zeroed content, for
 * the caller to fill: *content. *read is its read at the builder's place. */
qnet_status qnet_build_const(qnet_builder *b, qnet_diag *d, const char *name, const qnet_type *type,
                             qnet_value **read, void **content);

/* The shape in memory of a type: planes are [dims but C][planes][words]. Returns the rank. */
int qnet_type_memory_shape(const qnet_type *type, int64_t dim[QNET_BLOB_MAX_RANK]);

/* Copies the attributes stride, pad, dilation and kernel as far as `from` has them. */
void qnet_op_copy_window(qnet_module *m, qnet_op *to, const qnet_op *from);

/* "conv2" of "conv2.weight", "conv2.weight_quantizer.codes" and the like: the name up to its last
 * part that begins with "weight". In the arena; NULL when out of memory. */
const char *qnet_layer_name(qnet_arena *arena, const char *symbol);

#endif
