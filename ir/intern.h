/* Private to ir/: the tables behind a module's interned strings and types. A string's entry also
 * knows the symbol of that name, so that looking up a symbol is one probe. */
#ifndef QNET_IR_INTERN_H
#define QNET_IR_INTERN_H

#include "ir/ir.h"

typedef struct qnet_string_entry {
  const char *text; /* in the module's arena; NULL = free slot */
  uint32_t hash;
  qnet_symbol *symbol; /* NULL = no symbol of that name */
} qnet_string_entry;

/* Open addressing, capacity a power of two (0 at first), at most three quarters full. */
struct qnet_interned {
  qnet_string_entry *string;
  size_t string_count, string_capacity;
  const qnet_type **type;
  size_t type_count, type_capacity;
};

/* The entry of a text: NULL when it was never interned. */
qnet_string_entry *qnet_string_lookup(const qnet_module *m, const char *text);
/* The entry, made if need be; NULL when out of memory. */
qnet_string_entry *qnet_string_enter(qnet_module *m, const char *text);
void qnet_interned_free(qnet_module *m);

uint32_t qnet_hash_bytes(uint32_t seed, const void *data, size_t size); /* FNV-1a */
void qnet_op_link(qnet_op *op, qnet_region *region, qnet_op *before);
/* Gives a new region its arguments; false when memory is out or a type is NULL. */
bool qnet_region_init_args(qnet_module *m, qnet_region *region, const qnet_type *const *types,
                           int count);

enum { QNET_HASH_SEED = 0x811c9dc5 };

#endif
