/* Deep copies of operations, and of whole modules, which share their blobs. */
#include "ir/ir.h"
#include <string.h>

/* ---- operations ------------------------------------------------------------------------------ */

static bool copy_attr(qnet_module *m, qnet_op *op, const qnet_attr *a) {
  switch (a->kind) {
  case QNET_ATTR_INT: qnet_op_set_int(m, op, a->name, a->i); break;
  case QNET_ATTR_FLOAT: qnet_op_set_float(m, op, a->name, a->f); break;
  case QNET_ATTR_STRING: qnet_op_set_string(m, op, a->name, a->s); break;
  case QNET_ATTR_SYMBOL: qnet_op_set_symbol(m, op, a->name, a->s); break;
  case QNET_ATTR_INTS: qnet_op_set_ints(m, op, a->name, a->ints, a->count); break;
  case QNET_ATTR_FLOATS: qnet_op_set_floats(m, op, a->name, a->floats, a->count); break;
  }
  return !m->failed;
}

static qnet_value *mapped(qnet_value **map, qnet_value *v) {
  return map && v->id >= 0 && map[v->id] ? map[v->id] : v;
}

/* Names and map entries of the copies of results or arguments. */
static void map_values(qnet_module *m, qnet_value **map, const qnet_value *from, qnet_value *to,
                       int count) {
  for (int i = 0; i < count; i++) {
    if (from[i].name) to[i].name = qnet_module_string(m, from[i].name);
    if (map && from[i].id >= 0) map[from[i].id] = &to[i];
  }
}

/* The types of values in m, an array in its arena; NULL when out of memory. */
static const qnet_type **import_types(qnet_module *m, const qnet_value *values, int count) {
  const qnet_type **types = qnet_arena_array(&m->arena, (size_t)count, sizeof(qnet_type *));
  if (!types) m->failed = true;
  for (int i = 0; types && i < count; i++)
    types[i] = qnet_type_import(m, values[i].type);
  return m->failed ? NULL : types;
}

/* Without its regions. */
static qnet_op *clone_head(qnet_builder *b, const qnet_op *op, qnet_value **map) {
  qnet_module *m = b->module;
  qnet_value **operands =
      qnet_arena_array(&m->arena, (size_t)op->operand_count, sizeof(qnet_value *));
  const qnet_type **types = import_types(m, op->result, op->result_count);
  if (!operands || !types) {
    m->failed = true;
    return NULL;
  }
  for (int i = 0; i < op->operand_count; i++)
    operands[i] = mapped(map, op->operand[i]);
  qnet_op *copy = qnet_build(b, op->opcode, operands, op->operand_count, types, op->result_count);
  if (!copy) return NULL;
  copy->loc = op->loc;
  for (const qnet_attr *a = op->attrs; a; a = a->next)
    if (!copy_attr(m, copy, a)) return NULL;
  map_values(m, map, op->result, copy->result, op->result_count);
  return copy;
}

static bool add_regions(qnet_module *m, const qnet_op *op, qnet_op *copy, qnet_value **map) {
  for (int r = 0; r < op->region_count; r++) {
    const qnet_region *from = op->region[r];
    const qnet_type **types = import_types(m, from->arg, from->arg_count);
    qnet_region *to = types ? qnet_op_add_region(m, copy, types, from->arg_count) : NULL;
    if (!to) return false;
    map_values(m, map, from->arg, to->arg, from->arg_count);
  }
  return true;
}

static qnet_op *clone_tree(qnet_builder *b, const qnet_op *op, qnet_value **map, int depth) {
  if (depth > QNET_MAX_NESTING) return NULL;
  qnet_op *copy = clone_head(b, op, map);
  if (!copy || !add_regions(b->module, op, copy, map)) return NULL;
  for (int r = 0; r < op->region_count; r++) {
    qnet_builder inner = qnet_builder_at_end(b->module, copy->region[r]);
    for (const qnet_op *o = op->region[r]->first; o; o = o->next)
      if (!clone_tree(&inner, o, map, depth + 1)) return NULL;
  }
  return copy;
}

qnet_op *qnet_op_clone(qnet_builder *b, const qnet_op *op, qnet_value **map) {
  qnet_op *copy = op ? clone_tree(b, op, map, 0) : NULL;
  if (!copy) b->module->failed = true;
  return copy;
}

/* ---- modules --------------------------------------------------------------------------------- */

static bool clone_function(qnet_module *m, const qnet_symbol *from) {
  const qnet_type **args = import_types(m, from->body->arg, from->body->arg_count);
  if (!args) return false;
  qnet_symbol *to = qnet_symbol_add_func(m, from->name, args, from->body->arg_count, from->loc);
  if (!to) return false;
  const size_t count = (size_t)qnet_function_number_values(from);
  qnet_value **map = qnet_alloc_array(m->allocator, count, sizeof(qnet_value *));
  if (!map) return false;
  map_values(m, map, from->body->arg, to->body->arg, from->body->arg_count);
  qnet_builder b = qnet_builder_at_end(m, to->body);
  bool ok = true;
  for (const qnet_op *op = from->body->first; op && ok; op = op->next)
    ok = qnet_op_clone(&b, op, map) != NULL;
  qnet_free(m->allocator, map, count * sizeof(qnet_value *));
  return ok;
}

static bool clone_data(qnet_module *m, const qnet_symbol *from) {
  const qnet_type *type = qnet_type_import(m, from->type);
  qnet_symbol *to =
      type ? qnet_symbol_add_data(m, from->kind, from->name, type, from->blob, from->loc) : NULL;
  if (to && from->origin) to->origin = qnet_module_string(m, from->origin);
  return to && !m->failed;
}

static bool clone_table(qnet_module *m, const qnet_symbol *from) {
  const qnet_table *t = from->table;
  qnet_symbol *to = qnet_symbol_add_table(m, from->name, t->bits, t->codes, t->channels,
                                          t->threshold != NULL, from->loc);
  if (!to) return false;
  const size_t rows = (size_t)t->channels, n = (size_t)t->codes;
  memcpy(to->table->level, t->level, rows * n * sizeof *t->level);
  memcpy(to->table->scale, t->scale, rows * sizeof *t->scale);
  if (t->threshold && n > 1)
    memcpy(to->table->threshold, t->threshold, rows * (n - 1) * sizeof *t->threshold);
  if (t->perm) memcpy(to->table->perm, t->perm, n);
  return true;
}

static bool clone_symbol(qnet_module *m, const qnet_symbol *s) {
  switch (s->kind) {
  case QNET_SYMBOL_FUNC: return clone_function(m, s);
  case QNET_SYMBOL_TABLE: return clone_table(m, s);
  case QNET_SYMBOL_CONST:
  case QNET_SYMBOL_STATE: return clone_data(m, s);
  }
  return false;
}

qnet_module *qnet_module_clone(const qnet_module *m) {
  qnet_module *copy = qnet_module_create(m->allocator, m->name, m->level);
  if (!copy) return NULL;
  bool ok = true;
  for (const qnet_symbol *s = m->first_symbol; s && ok; s = s->next)
    ok = clone_symbol(copy, s);
  if (ok && !copy->failed) return copy;
  qnet_module_destroy(copy);
  return NULL;
}
