/* Weights files that name their layers otherwise than the network. */
#ifndef QNET_DRIVER_WEIGHT_NAMES_H
#define QNET_DRIVER_WEIGHT_NAMES_H

#include "ir/ir.h"
#include "runtime/safetensors.h"

/* Gives the file's tensors the names that the network has for them.
 *
 * map NULL: layers whose names and weights' shapes agree keep them. Of the others those of equal
 * tensors (names behind the last '.', shapes) are paired in order, the network's as they run, the
 * file's by name with numbers by value, where both sides have as many; when `list`, a warning lists
 * the pairs.
 * map: a file of lines "LAYER = LAYER OF THE FILE", empty or from '#' on comments; nothing else is
 * paired. */
qnet_status qnet_weight_names_match(const qnet_module *m, qnet_tensor_file *f, const char *map,
                                    const char *path, bool list, qnet_diag *d);

#endif
