/* Helpers of the quant and bits passes. */
#include "passes/rewrite.h"
#include "ir/ops.h"
#include <string.h>

enum { MAX_COPIES = 100000 };

qnet_symbol *qnet_value_symbol(const qnet_module *m, const qnet_value *v) {
  if (!v || !v->def || v->def->opcode != QNET_OP_READ) return NULL;
  return qnet_op_symbol(m, v->def, "sym");
}

int qnet_type_memory_shape(const qnet_type *type, int64_t dim[QNET_BLOB_MAX_RANK]) {
  memcpy(dim, type->dim, (size_t)type->rank * sizeof dim[0]);
  if (type->kind != QNET_TYPE_PLANES) return type->rank;
  dim[type->rank - 1] = type->bits;
  dim[type->rank] = (type->dim[type->rank - 1] + 63) / 64;
  return type->rank + 1;
}

static const char *free_name(qnet_module *m, const char *name) {
  const char *candidate = name;
  for (int i = 1; candidate && i < MAX_COPIES; i++) {
    if (!qnet_symbol_find(m, candidate)) return candidate;
    candidate = qnet_arena_printf(&m->arena, "%s.%d", name, i);
  }
  return NULL;
}

qnet_status qnet_build_const(qnet_builder *b, qnet_diag *d, const char *name, const qnet_type *type,
                             qnet_value **read, void **content) {
  qnet_module *m = b->module;
  if (!type || !name) return qnet_out_of_memory(d);
  int64_t dim[QNET_BLOB_MAX_RANK];
  const int rank = qnet_type_memory_shape(type, dim);
  qnet_blob *blob = qnet_blob_create(m->allocator, type->dtype, rank, dim);
  const char *own = free_name(m, name);
  qnet_symbol *symbol =
      blob && own ? qnet_symbol_add_data(m, QNET_SYMBOL_CONST, own, type, blob, b->loc) : NULL;
  qnet_blob_release(blob);
  if (!symbol) return qnet_out_of_memory(d);
  *content = symbol->blob->data;
  *read = qnet_build_read(b, symbol);
  return *read ? QNET_OK : qnet_out_of_memory(d);
}

static void copy_ints(qnet_module *m, qnet_op *to, const qnet_op *from, const char *name) {
  const qnet_attr *a = qnet_op_attr(from, name);
  if (a && a->kind == QNET_ATTR_INTS) qnet_op_set_ints(m, to, name, a->ints, a->count);
}

void qnet_op_copy_window(qnet_module *m, qnet_op *to, const qnet_op *from) {
  copy_ints(m, to, from, "kernel");
  copy_ints(m, to, from, "stride");
  copy_ints(m, to, from, "pad");
  copy_ints(m, to, from, "dilation");
}

const char *qnet_layer_name(qnet_arena *arena, const char *symbol) {
  const char *end = NULL;
  for (const char *at = symbol; (at = strstr(at, ".weight")) != NULL; at++)
    end = at;
  return qnet_arena_strndup(arena, symbol, end ? (size_t)(end - symbol) : strlen(symbol));
}
