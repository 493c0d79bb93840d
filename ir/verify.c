/* The verifier: what all operations have in common (counts, scopes, attributes, levels, regions),
 * then the operation's own rule. */
#include "ir/lexer.h"
#include "ir/verify_internal.h"
#include <string.h>

/* ---- operands -------------------------------------------------------------------------------- */

static bool is_of_function(const qnet_verifier *v, const qnet_value *value) {
  return value->id >= 0 && value->id < v->value_count && v->values[value->id] == value;
}

/* Values cross the border of a kernel only as its operands; into a parallel loop only buffers,
 * since its body becomes a function of its own. */
static bool check_border(qnet_verifier *v, const qnet_op *op, int index, const qnet_op *border) {
  if (border->opcode == QNET_OP_BITS_KERNEL)
    return qnet_verify_error(v, op, "operand %d is from outside the bits.kernel; pass it in",
                             index);
  if (border->opcode == QNET_OP_LOOP_PARALLEL_FOR && qnet_in(op, index)->kind != QNET_TYPE_BUFFER)
    return qnet_verify_error(
        v, op, "operand %d is no buffer, but from outside the loop.parallel_for", index);
  return true;
}

static bool check_scope(qnet_verifier *v, const qnet_op *op, int index) {
  const qnet_value *value = op->operand[index];
  const qnet_region *home = value->def ? value->def->parent : value->region;
  for (const qnet_region *r = op->parent; r != home; r = r->parent->parent) {
    if (!r->parent) return qnet_verify_error(v, op, "operand %d is not visible here", index);
    if (!check_border(v, op, index, r->parent)) return false;
  }
  return true;
}

static bool check_operands(qnet_verifier *v, const qnet_op *op) {
  for (int i = 0; i < op->operand_count; i++) {
    const qnet_value *value = op->operand[i];
    if (!value || !is_of_function(v, value))
      return qnet_verify_error(v, op, "operand %d is no value of this function", i);
    if (!v->defined[value->id])
      return qnet_verify_error(v, op, "operand %d is used before its definition", i);
    if (!check_scope(v, op, i)) return false;
    if (!qnet_type_is_sound(v, value->type)) return false; /* reported where it is made */
  }
  return true;
}

/* ---- counts, attributes, levels -------------------------------------------------------------- */

static bool check_counts(qnet_verifier *v, const qnet_op *op) {
  const qnet_op_def *d = qnet_op_def_of(op->opcode);
  const int n = op->operand_count;
  if (n < d->operands_min || (d->operands_max != QNET_MANY && n > d->operands_max)) {
    if (d->operands_max == d->operands_min)
      return qnet_verify_error(v, op, "takes %d operands, not %d", d->operands_min, n);
    if (d->operands_max == QNET_MANY)
      return qnet_verify_error(v, op, "takes at least %d operands, not %d", d->operands_min, n);
    return qnet_verify_error(v, op, "takes %d to %d operands, not %d", d->operands_min,
                             d->operands_max, n);
  }
  if (d->results != QNET_MANY && op->result_count != d->results)
    return qnet_verify_error(v, op, "has %d results, not %d", d->results, op->result_count);
  if (op->region_count != d->regions)
    return qnet_verify_error(v, op, "has %d regions, not %d", d->regions, op->region_count);
  return true;
}

static bool check_attr(qnet_verifier *v, const qnet_op *op, const qnet_attr *a) {
  qnet_attr_spec spec;
  const char *schema = qnet_op_def_of(op->opcode)->attrs;
  while ((schema = qnet_attr_spec_next(schema, &spec)) != NULL) {
    if (strcmp(spec.name, a->name) != 0) continue;
    if (a->kind != spec.kind)
      return qnet_verify_error(v, op, "attribute '%s' must be of kind %s, not %s", a->name,
                               qnet_attr_kind_name(spec.kind), qnet_attr_kind_name(a->kind));
    if (a->kind == QNET_ATTR_SYMBOL && !qnet_symbol_find(v->module, a->s))
      return qnet_verify_error(v, op, "there is no symbol @%s", a->s);
    return true;
  }
  return qnet_verify_error(v, op, "has no attribute '%s'", a->name);
}

static bool check_attrs(qnet_verifier *v, const qnet_op *op) {
  for (const qnet_attr *a = op->attrs; a; a = a->next)
    if (!check_attr(v, op, a)) return false;
  qnet_attr_spec spec;
  const char *schema = qnet_op_def_of(op->opcode)->attrs;
  while ((schema = qnet_attr_spec_next(schema, &spec)) != NULL)
    if (!spec.optional && !qnet_op_attr(op, spec.name))
      return qnet_verify_error(v, op, "attribute '%s' is missing", spec.name);
  return true;
}

static bool check_level(qnet_verifier *v, const qnet_op *op) {
  const qnet_level level = v->module->level;
  if (!qnet_op_legal_at(op->opcode, level))
    return qnet_verify_error(v, op, "is not legal at level %s", qnet_level_name(level));
  const bool training = qnet_op_def_of(op->opcode)->traits & QNET_TRAINING;
  if (training && strcmp(v->function->name, "eval") == 0)
    return qnet_verify_error(v, op, "belongs to training and cannot stand in @eval");
  return true;
}

static bool check_types(qnet_verifier *v, qnet_loc loc, const char *what, const qnet_value *values,
                        int count) {
  for (int i = 0; i < count; i++)
    if (!qnet_verify_type(v, loc, what, values[i].type)) return false;
  return true;
}

/* ---- core operations ------------------------------------------------------------------------- */

static bool check_data_symbol(qnet_verifier *v, const qnet_op *op, const qnet_type *is,
                              bool write) {
  const qnet_symbol *s = qnet_op_symbol(v->module, op, "sym");
  if (s->kind != QNET_SYMBOL_STATE && (write || s->kind != QNET_SYMBOL_CONST))
    return qnet_verify_error(v, op, "@%s is no %s", s->name, write ? "state" : "const or state");
  if (qnet_type_equal(s->type, is)) return true;
  return qnet_verify_error(v, op, "@%s is %s, not %s", s->name, qnet_verify_type_text(v, s->type),
                           qnet_verify_type_text(v, is));
}

static bool rule_read(qnet_verifier *v, const qnet_op *op) {
  return check_data_symbol(v, op, qnet_out(op, 0), false);
}

static bool rule_write(qnet_verifier *v, const qnet_op *op) {
  return check_data_symbol(v, op, qnet_in(op, 0), true);
}

/* What the operation around expects of its region's yield. */
static bool rule_yield(qnet_verifier *v, const qnet_op *op) {
  const qnet_op *around = op->parent->parent;
  if (op->next) return qnet_verify_error(v, op, "must be the last operation of its region");
  if (!around) {
    if (v->module->level == QNET_LEVEL_LOOP && op->operand_count > 0)
      return qnet_verify_error(v, op, "functions of the loop level have no results");
    return true;
  }
  if (op->operand_count != around->result_count)
    return qnet_verify_error(v, op, "%d values, but %s has %d results", op->operand_count,
                             qnet_op_def_of(around->opcode)->name, around->result_count);
  for (int i = 0; i < op->operand_count; i++)
    if (!qnet_expect_in(v, op, i, *qnet_out(around, i))) return false;
  return true;
}

static qnet_rule rule_of(int opcode) {
  switch (opcode) {
  case QNET_OP_READ: return rule_read;
  case QNET_OP_WRITE: return rule_write;
  case QNET_OP_YIELD: return rule_yield;
  default: break;
  }
  switch (qnet_op_def_of(opcode)->dialect) {
  case QNET_DIALECT_nn: return qnet_rule_nn(opcode);
  case QNET_DIALECT_quant: return qnet_rule_quant(opcode);
  case QNET_DIALECT_bits: return qnet_rule_bits(opcode);
  case QNET_DIALECT_loop: return qnet_rule_loop(opcode);
  case QNET_DIALECT_core: break;
  }
  return NULL;
}

/* ---- regions --------------------------------------------------------------------------------- */

static void verify_op_itself(qnet_verifier *v, const qnet_op *op) {
  const char *name = qnet_op_def_of(op->opcode)->name;
  if (!check_level(v, op) || !check_counts(v, op) || !check_operands(v, op)) return;
  if (!check_attrs(v, op) || !check_types(v, op->loc, name, op->result, op->result_count)) return;
  for (int r = 0; r < op->region_count; r++)
    if (!check_types(v, op->loc, name, op->region[r]->arg, op->region[r]->arg_count)) return;
  const qnet_rule rule = rule_of(op->opcode);
  if (rule) rule(v, op);
}

static void define(qnet_verifier *v, const qnet_value *values, int count) {
  for (int i = 0; i < count; i++)
    v->defined[values[i].id] = true;
}

static void verify_region(qnet_verifier *v, const qnet_region *region, qnet_loc loc, int nesting) {
  if (nesting > QNET_MAX_NESTING) {
    qnet_verify_error_at(v, loc, "regions are nested more than %d deep", QNET_MAX_NESTING);
    return;
  }
  define(v, region->arg, region->arg_count);
  for (const qnet_op *op = region->first; op; op = op->next) {
    verify_op_itself(v, op);
    for (int r = 0; r < op->region_count; r++)
      verify_region(v, op->region[r], op->loc, nesting + 1);
    define(v, op->result, op->result_count);
  }
  if (!region->last || region->last->opcode != QNET_OP_YIELD)
    qnet_verify_error_at(v, region->last ? region->last->loc : loc, "the region must end in yield");
}

static void index_values(qnet_verifier *v, const qnet_value *values, int count) {
  for (int i = 0; i < count; i++)
    v->values[values[i].id] = &values[i];
}

static void index_function(qnet_verifier *v, const qnet_region *body) {
  index_values(v, body->arg, body->arg_count);
  for (const qnet_op *op = body->first; op; op = qnet_op_walk(op, body)) {
    index_values(v, op->result, op->result_count);
    for (int r = 0; r < op->region_count; r++)
      index_values(v, op->region[r]->arg, op->region[r]->arg_count);
  }
}

static void verify_function(qnet_verifier *v, const qnet_symbol *f) {
  const size_t count = (size_t)qnet_function_number_values(f);
  v->function = f;
  v->value_count = (int)count;
  v->values = qnet_arena_array(&v->scratch, count, sizeof(qnet_value *));
  v->defined = qnet_arena_array(&v->scratch, count, sizeof(bool));
  if (!v->values || !v->defined) {
    v->no_memory = true;
    return;
  }
  index_function(v, f->body);
  if (check_types(v, f->loc, f->name, f->body->arg, f->body->arg_count))
    verify_region(v, f->body, f->loc, 0);
}

qnet_status qnet_module_verify(const qnet_module *m, qnet_diag *d) {
  qnet_verifier v = {.module = m, .diag = d};
  if (m->failed) return qnet_out_of_memory(d);
  qnet_arena_init(&v.scratch, m->allocator);
  if (!qnet_is_name(m->name))
    qnet_verify_error_at(&v, QNET_NO_LOC, "'%s' is no name of a module", m->name);
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next) {
    qnet_verify_symbol(&v, s);
    if (s->kind == QNET_SYMBOL_FUNC) verify_function(&v, s);
    qnet_arena_clear(&v.scratch);
  }
  if (v.no_memory) return qnet_out_of_memory(d);
  return v.failed ? QNET_ERROR : QNET_OK;
}
