#ifndef QNET_IR_VERIFY_H
#define QNET_IR_VERIFY_H

#include "ir/ir.h"

/* Checks all that the op tables state: operand and result counts, types and shapes, attributes,
 * legality at the module's level, definitions before uses, symbols, terminators, tables (sorted
 * thresholds, levels in -127..127, positive finite scales). Reports every violation found, with the
 * operation's location. */
qnet_status qnet_module_verify(const qnet_module *m, qnet_diag *d);

#endif
