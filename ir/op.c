/* Operations in place: uses, replacement, erasure, moving, walking, numbering, sweeping. */
#include "ir/intern.h"
#include "ir/ops.h"
#include <string.h>

/* ---- uses ------------------------------------------------------------------------------------ */

static qnet_use *take_use(qnet_value *v, const qnet_op *op, int index) {
  for (qnet_use **link = &v->uses; *link; link = &(*link)->next) {
    qnet_use *use = *link;
    if (use->op != op || use->index != index) continue;
    *link = use->next;
    return use;
  }
  return NULL;
}

static void put_use(qnet_value *v, qnet_use *use) {
  use->next = v->uses;
  v->uses = use;
}

void qnet_op_set_operand(qnet_module *m, qnet_op *op, int index, qnet_value *value) {
  if (!op || index < 0 || index >= op->operand_count) return;
  if (!value) {
    m->failed = true;
    return;
  }
  qnet_value *old = op->operand[index];
  qnet_use *use = old ? take_use(old, op, index) : qnet_arena_alloc(&m->arena, sizeof *use);
  if (!use) {
    m->failed = true;
    return;
  }
  use->op = op;
  use->index = index;
  op->operand[index] = value;
  put_use(value, use);
}

void qnet_value_replace(qnet_module *m, qnet_value *from, qnet_value *to) {
  if (!from || !to) {
    m->failed = true;
    return;
  }
  if (from == to) return;
  while (from->uses) {
    qnet_use *use = from->uses;
    from->uses = use->next;
    use->op->operand[use->index] = to;
    put_use(to, use);
  }
}

int qnet_value_use_count(const qnet_value *v) {
  int n = 0;
  for (const qnet_use *use = v->uses; use; use = use->next)
    n++;
  return n;
}

qnet_op *qnet_value_single_user(const qnet_value *v) {
  if (!v->uses) return NULL;
  for (const qnet_use *use = v->uses->next; use; use = use->next)
    if (use->op != v->uses->op) return NULL;
  return v->uses->op;
}

qnet_value *qnet_op_result(qnet_op *op, int index) {
  if (!op || index < 0 || index >= op->result_count) return NULL;
  return &op->result[index];
}

/* ---- walking --------------------------------------------------------------------------------- */

static qnet_op *first_from(const qnet_op *op, int region) {
  for (int i = region; i < op->region_count; i++)
    if (op->region[i]->first) return op->region[i]->first;
  return NULL;
}

static int region_index(const qnet_op *op, const qnet_region *region) {
  int i = 0;
  while (i < op->region_count && op->region[i] != region)
    i++;
  return i;
}

qnet_op *qnet_op_walk(const qnet_op *op, const qnet_region *root) {
  if (!op) return NULL;
  qnet_op *next = first_from(op, 0);
  while (!next) {
    if (op->next) return op->next;
    const qnet_region *region = op->parent;
    if (region == root || !region || !region->parent) return NULL;
    op = region->parent;
    next = first_from(op, region_index(op, region) + 1);
  }
  return next;
}

static qnet_op *last_before(const qnet_op *op, int region) {
  for (int i = region - 1; i >= 0; i--)
    if (op->region[i]->last) return op->region[i]->last;
  return NULL;
}

/* The mirror of qnet_op_walk: an operation comes before what it holds. `inside`: also into op. */
static qnet_op *walk_back(const qnet_op *op, const qnet_region *root, bool inside) {
  qnet_op *next = inside ? last_before(op, op->region_count) : NULL;
  while (!next) {
    if (op->prev) return op->prev;
    const qnet_region *region = op->parent;
    if (region == root || !region->parent) return NULL;
    op = region->parent;
    next = last_before(op, region_index(op, region));
  }
  return next;
}

int qnet_function_number_values(const qnet_symbol *function) {
  const qnet_region *body = function->body;
  int n = 0;
  for (int i = 0; i < body->arg_count; i++)
    body->arg[i].id = n++;
  for (qnet_op *op = body->first; op; op = qnet_op_walk(op, body)) {
    for (int i = 0; i < op->result_count; i++)
      op->result[i].id = n++;
    for (int r = 0; r < op->region_count; r++)
      for (int i = 0; i < op->region[r]->arg_count; i++)
        op->region[r]->arg[i].id = n++;
  }
  return n;
}

/* ---- erasing and moving ---------------------------------------------------------------------- */

static void unlink_op(qnet_op *op) {
  qnet_region *r = op->parent;
  if (!r) return;
  if (op->prev)
    op->prev->next = op->next;
  else
    r->first = op->next;
  if (op->next)
    op->next->prev = op->prev;
  else
    r->last = op->prev;
  op->prev = op->next = NULL;
  op->parent = NULL;
}

static void drop_operands(qnet_op *op) {
  for (int i = 0; i < op->operand_count; i++) {
    if (op->operand[i]) take_use(op->operand[i], op, i);
    op->operand[i] = NULL;
  }
}

void qnet_op_erase(qnet_op *op) {
  if (!op) return;
  drop_operands(op);
  for (int r = 0; r < op->region_count; r++) {
    const qnet_region *root = op->region[r];
    for (qnet_op *inner = root->first; inner; inner = qnet_op_walk(inner, root))
      drop_operands(inner);
  }
  unlink_op(op);
}

void qnet_op_link(qnet_op *op, qnet_region *region, qnet_op *before) {
  op->parent = region;
  op->next = before;
  op->prev = before ? before->prev : region->last;
  if (op->prev)
    op->prev->next = op;
  else
    region->first = op;
  if (before)
    before->prev = op;
  else
    region->last = op;
}

static void set_function(qnet_op *op, qnet_symbol *function) {
  for (int r = 0; r < op->region_count; r++) {
    qnet_region *root = op->region[r];
    root->function = function;
    for (qnet_op *inner = root->first; inner; inner = qnet_op_walk(inner, root))
      for (int i = 0; i < inner->region_count; i++)
        inner->region[i]->function = function;
  }
}

void qnet_op_move(qnet_op *op, qnet_region *region, qnet_op *before) {
  if (!op || !region || op == before) return;
  unlink_op(op);
  qnet_op_link(op, region, before);
  set_function(op, region->function);
}

/* ---- sweeping -------------------------------------------------------------------------------- */

static bool is_dead(const qnet_op *op) {
  if (!(qnet_op_def_of(op->opcode)->traits & QNET_PURE)) return false;
  for (int i = 0; i < op->result_count; i++)
    if (op->result[i].uses) return false;
  return true;
}

/* Backwards: users go before what they use. */
static void sweep_ops(qnet_region *body) {
  for (qnet_op *op = body->last; op;) {
    const bool dead = is_dead(op);
    qnet_op *next = walk_back(op, body, !dead);
    if (dead) qnet_op_erase(op);
    op = next;
  }
}

static void mark_symbol(const qnet_module *m, const char *name) {
  qnet_symbol *s = qnet_symbol_find(m, name);
  if (s) s->live = true;
}

static void mark_types(const qnet_module *m, const qnet_value *values, int count) {
  for (int i = 0; i < count; i++)
    if (values[i].type->table) mark_symbol(m, values[i].type->table);
}

static void mark_function(const qnet_module *m, const qnet_region *body) {
  mark_types(m, body->arg, body->arg_count);
  for (const qnet_op *op = body->first; op; op = qnet_op_walk(op, body)) {
    mark_types(m, op->result, op->result_count);
    for (int r = 0; r < op->region_count; r++)
      mark_types(m, op->region[r]->arg, op->region[r]->arg_count);
    for (const qnet_attr *a = op->attrs; a; a = a->next)
      if (a->kind == QNET_ATTR_SYMBOL) mark_symbol(m, a->s);
  }
}

void qnet_module_sweep(qnet_module *m) {
  for (qnet_symbol *s = m->first_symbol; s; s = s->next)
    s->live = s->kind == QNET_SYMBOL_FUNC;
  for (qnet_symbol *s = m->first_symbol; s; s = s->next) {
    if (s->kind != QNET_SYMBOL_FUNC) continue;
    sweep_ops(s->body);
    mark_function(m, s->body);
  }
  /* A table lives as long as data that is made of its codes. */
  for (qnet_symbol *s = m->first_symbol; s; s = s->next)
    if (s->live && s->type && s->type->table) mark_symbol(m, s->type->table);
  for (qnet_symbol *s = m->first_symbol, *next; s; s = next) {
    next = s->next;
    if (!s->live) qnet_symbol_remove(m, s);
  }
}
