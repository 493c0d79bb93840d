/* Frozen quantizers between a module (table @SITE, const @SITE.codes) and a weights file:
 *   SITE.table.scale f32[ch]   SITE.table.level i8[ch or 1, n]   SITE.codes u8[packed]
 *   SITE.table.threshold f32[n - 1]   SITE.table.perm u8[n]            (activations)
 * One row of levels is for all channels. Codes are packed, `bits` bits each, first code in the
 * lowest bits; order O,KH,KW,I (docs/weights.md). */
#ifndef QNET_DRIVER_TABLES_H
#define QNET_DRIVER_TABLES_H

#include "ir/ir.h"
#include "runtime/safetensors.h"

qnet_status qnet_tables_store(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d);

/* Makes the table (and for weights the codes) of the site of one nn.quantize operation from the
 * file. *found is false, and nothing is made, when the file has no table for the site or one of
 * other bits. A malformed table is an error that names the tensor. */
qnet_status qnet_tables_load(qnet_module *m, const qnet_op *quantize, const qnet_tensor_file *f,
                             const char *path, bool *found, qnet_diag *d);

/* The values of a quantized weight of type O,KH,KW,I or O,I: scale * level[code], to out. */
qnet_status qnet_tables_expand(const char *site, int bits, const qnet_type *type,
                               const qnet_tensor_file *f, const char *path, float *out,
                               qnet_diag *d);

#endif
