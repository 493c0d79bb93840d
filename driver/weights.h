/* Weights between a module's state symbols and a .safetensors file. In the file convolution weights
 * are O,I,KH,KW (PyTorch), in the module O,KH,KW,I. */
#ifndef QNET_DRIVER_WEIGHTS_H
#define QNET_DRIVER_WEIGHTS_H

#include "ir/ir.h"
#include "runtime/safetensors.h"

/* Gives every state symbol without content its initial value: convolutions and dense layers normal
 * with variance 2 / fan-in (He), counter-based from (seed, name); batch norm 1, 0, mean 0, var 1;
 * biases and all else 0. Quantizer state is not touched. */
qnet_status qnet_weights_init(qnet_module *m, uint64_t seed, qnet_diag *d);

/* Fills the state symbols of layers from the file; of a packed file (driver/packed.h) quantized
 * weights get the values of their codes. A tensor of another shape or with a value that
 * is not finite is an error; states that the file lacks are an error that lists them. Tensors that
 * the module has no use for are listed in one warning, but for those of quantizers. */
qnet_status qnet_weights_load(qnet_module *m, const qnet_tensor_file *f, const char *path,
                              qnet_diag *d);
/* The same, but states that the file lacks stay without content, with a warning that lists them; an
 * error when it has none of all. */
qnet_status qnet_weights_load_some(qnet_module *m, const qnet_tensor_file *f, const char *path,
                                   qnet_diag *d);
/* Adds the layers' states, quantizer parameters and frozen tables of a module to a file. */
qnet_status qnet_weights_store(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d);

/* Only the layers' states that no quantizer's codes stand for. */
qnet_status qnet_weights_store_unquantized(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d);

/* All state of a module, with what training adds (velocities, statistics), for checkpoints. Loading
 * changes contents in place: other modules may share them. */
qnet_status qnet_state_store(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d);
qnet_status qnet_state_load(qnet_module *m, const qnet_tensor_file *f, const char *path,
                            qnet_diag *d);
/* Of all state symbols' names and contents. */
uint64_t qnet_state_hash(const qnet_module *m);
/* Of what the module says, without the contents. */
qnet_status qnet_source_hash(const qnet_module *m, const qnet_allocator *a, uint64_t *out,
                             qnet_diag *d);

/* Is this the name of a quantizer's symbol or tensor ("conv2.weight_quantizer.param")? */
bool qnet_name_is_quantizer(const char *name);

#endif
