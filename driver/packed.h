/* Packed weights files: quantized layers without their f32 weights, as codes and integer levels
 * alone (docs/weights.md). What is read from one computes as what was packed, bit for bit. */
#ifndef QNET_DRIVER_PACKED_H
#define QNET_DRIVER_PACKED_H

#include "ir/ir.h"
#include "runtime/safetensors.h"

/* Adds the layers of a network whose quantizers are frozen: tables and codes where a weight is
 * quantized, f32 states elsewhere. */
qnet_status qnet_packed_store(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d);

/* Is this a packed file? One of a version that is not known here is an error. */
qnet_status qnet_packed_detect(const qnet_tensor_file *f, const char *path, bool *packed,
                               qnet_diag *d);

/* The quantizer that a key of the metadata describes, or NULL: "conv1.weight_quantizer" of
 * "qnet.site.conv1.weight_quantizer". */
const char *qnet_packed_site(const char *key);

/* Fills the content of a layer's weight with the values of its codes. *found is false, and nothing
 * is changed, when the file has no codes of it. */
qnet_status qnet_packed_expand(const qnet_module *m, qnet_symbol *weight, const qnet_tensor_file *f,
                               const char *path, bool *found, qnet_diag *d);

/* Are the quantizers of @eval just those of the file, by method and bits? There are no weights to
 * fit others to. */
qnet_status qnet_packed_check(const qnet_module *m, const qnet_tensor_file *f, const char *path,
                              qnet_diag *d);

#endif
