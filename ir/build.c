/* Building: new operations and regions at a builder's place, attributes, copies. */
#include "ir/intern.h"
#include "ir/ops.h"
#include <string.h>

static void *fail(qnet_module *m) {
  m->failed = true;
  return NULL;
}

qnet_builder qnet_builder_at_end(qnet_module *m, qnet_region *region) {
  return (qnet_builder){.module = m, .region = region};
}

qnet_builder qnet_builder_before(qnet_module *m, qnet_op *op) {
  if (!op) return (qnet_builder){.module = m};
  return (qnet_builder){.module = m, .region = op->parent, .before = op, .loc = op->loc};
}

qnet_builder qnet_builder_after(qnet_module *m, qnet_op *op) {
  if (!op) return (qnet_builder){.module = m};
  return (qnet_builder){.module = m, .region = op->parent, .before = op->next, .loc = op->loc};
}

/* ---- operations ------------------------------------------------------------------------------ */

static bool all_present(const void *const *items, int count) {
  for (int i = 0; i < count; i++)
    if (!items[i]) return false;
  return true;
}

static qnet_value *new_values(qnet_module *m, const qnet_type *const *types, int count) {
  qnet_value *values = qnet_arena_array(&m->arena, (size_t)count, sizeof *values);
  for (int i = 0; values && i < count; i++)
    values[i] = (qnet_value){.type = types[i], .index = i, .id = -1};
  return values;
}

static bool init_operands(qnet_module *m, qnet_op *op, qnet_value *const *operands, int count) {
  op->operand = qnet_arena_array(&m->arena, (size_t)count, sizeof(qnet_value *));
  qnet_use *use = qnet_arena_array(&m->arena, (size_t)count, sizeof *use);
  if (!op->operand || !use) return false;
  op->operand_count = count;
  for (int i = 0; i < count; i++) {
    op->operand[i] = operands[i];
    use[i] = (qnet_use){.op = op, .index = i, .next = operands[i]->uses};
    operands[i]->uses = &use[i];
  }
  return true;
}

qnet_op *qnet_build(qnet_builder *b, int opcode, qnet_value *const *operands, int operand_count,
                    const qnet_type *const *results, int result_count) {
  qnet_module *m = b->module;
  if (!b->region || !all_present((const void *const *)operands, operand_count)) return fail(m);
  if (!all_present((const void *const *)results, result_count)) return fail(m);
  qnet_op *op = qnet_arena_alloc(&m->arena, sizeof *op);
  if (!op) return fail(m);
  op->opcode = opcode;
  op->loc = b->loc;
  op->result = new_values(m, results, result_count);
  if (!op->result || !init_operands(m, op, operands, operand_count)) return fail(m);
  op->result_count = result_count;
  for (int i = 0; i < result_count; i++)
    op->result[i].def = op;
  qnet_op_link(op, b->region, b->before);
  return op;
}

qnet_value *qnet_build1(qnet_builder *b, int opcode, qnet_value *const *operands, int operand_count,
                        const qnet_type *result) {
  return qnet_op_result(qnet_build(b, opcode, operands, operand_count, &result, 1), 0);
}

bool qnet_region_init_args(qnet_module *m, qnet_region *region, const qnet_type *const *types,
                           int count) {
  if (!all_present((const void *const *)types, count)) return false;
  region->arg = new_values(m, types, count);
  if (!region->arg) return false;
  region->arg_count = count;
  for (int i = 0; i < count; i++)
    region->arg[i].region = region;
  return true;
}

qnet_region *qnet_op_add_region(qnet_module *m, qnet_op *op, const qnet_type *const *args,
                                int arg_count) {
  if (!op) return fail(m);
  const size_t n = (size_t)op->region_count;
  qnet_region *region = qnet_arena_alloc(&m->arena, sizeof *region);
  qnet_region **list = qnet_arena_array(&m->arena, n + 1, sizeof(qnet_region *));
  if (!region || !list || !qnet_region_init_args(m, region, args, arg_count)) return fail(m);
  region->parent = op;
  region->function = op->parent ? op->parent->function : NULL;
  if (n > 0) memcpy(list, op->region, n * sizeof(qnet_region *));
  list[n] = region;
  op->region = list;
  op->region_count++;
  return region;
}

qnet_value *qnet_build_read(qnet_builder *b, const qnet_symbol *symbol) {
  if (!symbol) return fail(b->module);
  qnet_op *op = qnet_build(b, QNET_OP_READ, NULL, 0, &symbol->type, 1);
  qnet_op_set_symbol(b->module, op, "sym", symbol->name);
  return qnet_op_result(op, 0);
}

void qnet_build_write(qnet_builder *b, const qnet_symbol *symbol, qnet_value *value) {
  if (!symbol) {
    fail(b->module);
    return;
  }
  qnet_op *op = qnet_build(b, QNET_OP_WRITE, &value, 1, NULL, 0);
  qnet_op_set_symbol(b->module, op, "sym", symbol->name);
}

void qnet_build_yield(qnet_builder *b, qnet_value *const *values, int count) {
  qnet_build(b, QNET_OP_YIELD, values, count, NULL, 0);
}

/* ---- attributes ------------------------------------------------------------------------------ */

/* The attribute of that name, made at the end of the list if need be. */
static qnet_attr *attr_slot(qnet_module *m, qnet_op *op, const char *name) {
  if (!op) return fail(m);
  qnet_attr **link = &op->attrs;
  for (; *link; link = &(*link)->next)
    if (strcmp((*link)->name, name) == 0) return *link;
  qnet_attr *a = qnet_arena_alloc(&m->arena, sizeof *a);
  const char *text = qnet_module_string(m, name);
  if (!a || !text) return fail(m);
  a->name = text;
  *link = a;
  return a;
}

void qnet_op_set_int(qnet_module *m, qnet_op *op, const char *name, int64_t v) {
  qnet_attr *a = attr_slot(m, op, name);
  if (!a) return;
  a->kind = QNET_ATTR_INT;
  a->i = v;
}

void qnet_op_set_float(qnet_module *m, qnet_op *op, const char *name, double v) {
  qnet_attr *a = attr_slot(m, op, name);
  if (!a) return;
  a->kind = QNET_ATTR_FLOAT;
  a->f = v;
}

static void set_text(qnet_module *m, qnet_op *op, const char *name, qnet_attr_kind kind,
                     const char *v) {
  const char *text = qnet_module_string(m, v);
  qnet_attr *a = text ? attr_slot(m, op, name) : NULL;
  if (!a) {
    fail(m);
    return;
  }
  a->kind = kind;
  a->s = text;
}

void qnet_op_set_string(qnet_module *m, qnet_op *op, const char *name, const char *v) {
  set_text(m, op, name, QNET_ATTR_STRING, v);
}

void qnet_op_set_symbol(qnet_module *m, qnet_op *op, const char *name, const char *v) {
  set_text(m, op, name, QNET_ATTR_SYMBOL, v);
}

static void set_list(qnet_module *m, qnet_op *op, const char *name, qnet_attr_kind kind,
                     const void *v, int n) {
  _Static_assert(sizeof(int64_t) == sizeof(double), "lists share their copying");
  int64_t *copy = qnet_arena_array(&m->arena, (size_t)n, sizeof *copy);
  qnet_attr *a = copy ? attr_slot(m, op, name) : NULL;
  if (!a) {
    fail(m);
    return;
  }
  if (n > 0) memcpy(copy, v, (size_t)n * sizeof *copy);
  a->kind = kind;
  a->count = n;
  if (kind == QNET_ATTR_INTS)
    a->ints = copy;
  else
    a->floats = (const double *)(const void *)copy;
}

void qnet_op_set_ints(qnet_module *m, qnet_op *op, const char *name, const int64_t *v, int n) {
  set_list(m, op, name, QNET_ATTR_INTS, v, n);
}

void qnet_op_set_floats(qnet_module *m, qnet_op *op, const char *name, const double *v, int n) {
  set_list(m, op, name, QNET_ATTR_FLOATS, v, n);
}

const qnet_attr *qnet_op_attr(const qnet_op *op, const char *name) {
  for (const qnet_attr *a = op->attrs; a; a = a->next)
    if (strcmp(a->name, name) == 0) return a;
  return NULL;
}

int64_t qnet_op_int(const qnet_op *op, const char *name, int64_t otherwise) {
  const qnet_attr *a = qnet_op_attr(op, name);
  return a && a->kind == QNET_ATTR_INT ? a->i : otherwise;
}

double qnet_op_float(const qnet_op *op, const char *name, double otherwise) {
  const qnet_attr *a = qnet_op_attr(op, name);
  return a && a->kind == QNET_ATTR_FLOAT ? a->f : otherwise;
}

const char *qnet_op_string(const qnet_op *op, const char *name) {
  const qnet_attr *a = qnet_op_attr(op, name);
  return a && (a->kind == QNET_ATTR_STRING || a->kind == QNET_ATTR_SYMBOL) ? a->s : NULL;
}

qnet_symbol *qnet_op_symbol(const qnet_module *m, const qnet_op *op, const char *name) {
  const qnet_attr *a = qnet_op_attr(op, name);
  return a && a->kind == QNET_ATTR_SYMBOL ? qnet_symbol_find(m, a->s) : NULL;
}
