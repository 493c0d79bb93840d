/* A trained network as the verbs use it: source, weights, frozen quantizers, in one nn module. */
#ifndef QNET_DRIVER_MODEL_H
#define QNET_DRIVER_MODEL_H

#include "driver/session.h"
#include "runtime/safetensors.h"

/* Applies --quantizer and --bits to what the source says. */
qnet_status qnet_model_quant_spec(const qnet_session *s, qnet_program *program);
/* Runs insert-quantizers as the specification says; nothing when it names no quantizer. */
qnet_status qnet_model_insert_quantizers(qnet_session *s, const qnet_program *program);

/* Parses the source, loads --weights, inserts quantizers and gives each its frozen table: the one
 * in the weights file, or, where that was not trained so, a closed-form fit (with a warning).
 * out->module is the caller's to destroy. */
qnet_status qnet_model_load(qnet_session *s, qnet_program *out);

/* Writes what the network is into a file's metadata: its name, quantizers, bits. QNET_NO_MEMORY on
 * failure. */
qnet_status qnet_model_describe(const qnet_program *p, qnet_tensor_file *f);

/* Reads the input as it is: a module of any level (.qir, or '-' for standard input), or a .qnet,
 * with its weights where they are given. *out is the caller's to destroy. */
qnet_status qnet_model_read(qnet_session *s, qnet_module **out);

#endif
