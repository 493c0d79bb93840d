/* The text form of modules (docs/ir.md): parse(print(m)) equals m at every level. */
#ifndef QNET_IR_TEXT_H
#define QNET_IR_TEXT_H

#include "ir/ir.h"
#include "support/strbuf.h"

enum { QNET_PRINT_ELIDE = 1 /* leave out the content of blobs of more than 16 elements */ };

/* Appends the module's text. Small blobs print as lists, larger ones as hex"..."; an elided or
 * unloaded blob prints as its origin "file#tensor", or as `elided`. */
void qnet_module_print(const qnet_module *m, unsigned flags, qnet_strbuf *out);

/* Appends "tensor<1x8xf32>" and the like. */
void qnet_type_print(const qnet_type *type, qnet_strbuf *out);

/* Parses a text. `name` is for diagnostics. On success *out is verified only as far as parsing
 * needs; call qnet_module_verify. Blobs that name a file stay unloaded (symbol->origin says which).
 * Bounds: nesting depth 64, rank QNET_MAX_RANK, at most 2^31 elements a blob. */
qnet_status qnet_module_parse(const qnet_allocator *a, const char *name, const char *text,
                              size_t length, qnet_module **out, qnet_diag *d);

#endif
