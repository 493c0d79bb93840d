/* Modules as text (docs/ir.md). Values are numbered densely in each function, in the order of the
 * text; those with a name print by name, made unique, so that printing what was parsed changes
 * nothing. */
#include "ir/intern.h"
#include "ir/lexer.h"
#include "ir/ops.h"
#include "ir/text_internal.h"
#include <inttypes.h>
#include <string.h>

typedef struct label {
  const char *name; /* NULL: by number */
  int number;
} label;

typedef struct taken_name {
  const char *name; /* NULL = free slot */
  int next;         /* suffix to try for the next value of that name */
} taken_name;

typedef struct printer {
  const qnet_module *module;
  unsigned flags;
  qnet_strbuf *out;
  qnet_arena scratch; /* labels and names of one function */
  label *labels;      /* by value->id */
  int label_count;
  struct taken_name *taken; /* hash set of the names in use */
  size_t taken_capacity;
} printer;

/* ---- types ----------------------------------------------------------------------------------- */

static void print_dims(qnet_strbuf *out, const qnet_type *t, const char *last) {
  for (int i = 0; i < t->rank; i++)
    qnet_strbuf_printf(out, "%" PRId64 "%s", t->dim[i], i + 1 < t->rank ? "x" : last);
}

void qnet_type_print(const qnet_type *t, qnet_strbuf *out) {
  static const char *const prefix[] = {"tensor<", "planes<", "", "vec<", "buf<"};
  qnet_strbuf_puts(out, prefix[t->kind]);
  print_dims(out, t, t->kind == QNET_TYPE_PLANES ? "" : "x");
  if (t->kind == QNET_TYPE_PLANES)
    qnet_strbuf_printf(out, ",%d", t->bits);
  else
    qnet_strbuf_puts(out, qnet_dtype_name(t->dtype));
  if (t->table) qnet_strbuf_printf(out, "%d:@%s", t->bits, t->table);
  if (t->kind != QNET_TYPE_SCALAR) qnet_strbuf_puts(out, ">");
}

/* ---- labels of values ------------------------------------------------------------------------ */

/* Names of digits alone would collide with numbers. */
static bool is_label_name(const char *text) {
  return qnet_is_name(text) && text[strspn(text, "0123456789")] != '\0';
}

static taken_name *taken_slot(const printer *p, const char *name) {
  size_t i = qnet_hash_bytes(QNET_HASH_SEED, name, strlen(name)) & (p->taken_capacity - 1);
  while (p->taken[i].name && strcmp(p->taken[i].name, name) != 0)
    i = (i + 1) & (p->taken_capacity - 1);
  return &p->taken[i];
}

static const char *unique_name(printer *p, const char *hint) {
  const char *name = hint;
  taken_name *const first = taken_slot(p, hint), *slot = first;
  while (slot->name) {
    name = qnet_arena_printf(&p->scratch, "%s.%d", hint, ++first->next);
    if (!name) {
      p->out->failed = true;
      return NULL;
    }
    slot = taken_slot(p, name);
  }
  slot->name = name;
  return name;
}

static int label_values(printer *p, const qnet_value *values, int count, int number) {
  for (int i = 0; i < count; i++) {
    label *l = &p->labels[values[i].id];
    if (is_label_name(values[i].name)) l->name = unique_name(p, values[i].name);
    if (!l->name) l->number = number++;
  }
  return number;
}

static bool label_function(printer *p, const qnet_symbol *f) {
  const int count = qnet_function_number_values(f);
  p->taken_capacity = 16;
  while (p->taken_capacity < 2 * (size_t)count)
    p->taken_capacity *= 2;
  p->labels = qnet_arena_array(&p->scratch, (size_t)count, sizeof(label));
  p->taken = qnet_arena_array(&p->scratch, p->taken_capacity, sizeof(taken_name));
  if (!p->labels || !p->taken) return false;
  p->label_count = count;
  const qnet_region *body = f->body;
  int number = label_values(p, body->arg, body->arg_count, 0);
  for (const qnet_op *op = body->first; op; op = qnet_op_walk(op, body)) {
    number = label_values(p, op->result, op->result_count, number);
    for (int r = 0; r < op->region_count; r++)
      number = label_values(p, op->region[r]->arg, op->region[r]->arg_count, number);
  }
  return true;
}

/* ---- operations ------------------------------------------------------------------------------ */

static void print_indent(const printer *p, int depth) {
  for (int i = 0; i < depth; i++)
    qnet_strbuf_puts(p->out, "  ");
}

/* Also of values that a broken pass left behind: printing is how one finds them. */
static void print_value(const printer *p, const qnet_value *v) {
  if (!v || v->id < 0 || v->id >= p->label_count) {
    qnet_strbuf_puts(p->out, "%?");
    return;
  }
  const label *l = &p->labels[v->id];
  if (l->name)
    qnet_strbuf_printf(p->out, "%%%s", l->name);
  else
    qnet_strbuf_printf(p->out, "%%%d", l->number);
}

static void print_operands(const printer *p, const qnet_op *op) {
  for (int i = 0; i < op->operand_count; i++) {
    if (i > 0) qnet_strbuf_puts(p->out, ", ");
    print_value(p, op->operand[i]);
  }
}

static void print_attr_value(qnet_strbuf *out, const qnet_attr *a) {
  switch (a->kind) {
  case QNET_ATTR_INT: qnet_strbuf_printf(out, "%" PRId64, a->i); return;
  case QNET_ATTR_FLOAT: qnet_print_real(out, a->f); return;
  case QNET_ATTR_STRING: qnet_print_string(out, a->s); return;
  case QNET_ATTR_SYMBOL: qnet_strbuf_printf(out, "@%s", a->s); return;
  case QNET_ATTR_INTS:
  case QNET_ATTR_FLOATS: break;
  }
  qnet_strbuf_puts(out, "[");
  for (int i = 0; i < a->count; i++) {
    if (i > 0) qnet_strbuf_puts(out, ", ");
    if (a->kind == QNET_ATTR_INTS)
      qnet_strbuf_printf(out, "%" PRId64, a->ints[i]);
    else
      qnet_print_real(out, a->floats[i]);
  }
  qnet_strbuf_puts(out, "]");
}

static void print_attrs(const printer *p, const qnet_op *op) {
  if (!op->attrs) return;
  qnet_strbuf_puts(p->out, " {");
  for (const qnet_attr *a = op->attrs; a; a = a->next) {
    if (a != op->attrs) qnet_strbuf_puts(p->out, ", ");
    qnet_strbuf_printf(p->out, "%s = ", a->name);
    print_attr_value(p->out, a);
  }
  qnet_strbuf_puts(p->out, "}");
}

/* What stands between the results and the result types. */
static void print_action(const printer *p, const qnet_op *op) {
  const char *symbol = qnet_op_string(op, "sym");
  switch (op->opcode) {
  case QNET_OP_READ: qnet_strbuf_printf(p->out, "read @%s", symbol ? symbol : "?"); return;
  case QNET_OP_WRITE:
    qnet_strbuf_printf(p->out, "write @%s, ", symbol ? symbol : "?");
    print_operands(p, op);
    return;
  case QNET_OP_YIELD:
    qnet_strbuf_puts(p->out, op->operand_count > 0 ? "yield " : "yield");
    print_operands(p, op);
    return;
  default: break;
  }
  qnet_strbuf_printf(p->out, "%s(", qnet_op_def_of(op->opcode)->name);
  print_operands(p, op);
  qnet_strbuf_puts(p->out, ")");
  print_attrs(p, op);
}

static void print_head(const printer *p, const qnet_op *op) {
  for (int i = 0; i < op->result_count; i++) {
    print_value(p, &op->result[i]);
    qnet_strbuf_puts(p->out, i + 1 < op->result_count ? ", " : " = ");
  }
  print_action(p, op);
  for (int i = 0; i < op->result_count; i++) {
    qnet_strbuf_puts(p->out, i > 0 ? ", " : " : ");
    qnet_type_print(op->result[i].type, p->out);
  }
}

static void print_args(const printer *p, const qnet_region *region) {
  qnet_strbuf_puts(p->out, "(");
  for (int i = 0; i < region->arg_count; i++) {
    if (i > 0) qnet_strbuf_puts(p->out, ", ");
    print_value(p, &region->arg[i]);
    qnet_strbuf_puts(p->out, ": ");
    qnet_type_print(region->arg[i].type, p->out);
  }
  qnet_strbuf_puts(p->out, ")");
}

static void print_ops(const printer *p, const qnet_region *region, int depth) {
  if (depth > QNET_MAX_NESTING + 2) return; /* the verifier rejects it */
  for (const qnet_op *op = region->first; op; op = op->next) {
    print_indent(p, depth);
    print_head(p, op);
    for (int r = 0; r < op->region_count; r++) {
      qnet_strbuf_puts(p->out, " {\n");
      print_indent(p, depth + 1);
      qnet_strbuf_puts(p->out, "^");
      print_args(p, op->region[r]);
      qnet_strbuf_puts(p->out, ":\n");
      print_ops(p, op->region[r], depth + 1);
      print_indent(p, depth);
      qnet_strbuf_puts(p->out, "}");
    }
    qnet_strbuf_puts(p->out, "\n");
  }
}

/* ---- symbols --------------------------------------------------------------------------------- */

static void print_function(printer *p, const qnet_symbol *f) {
  qnet_arena_init(&p->scratch, p->module->allocator);
  if (label_function(p, f)) {
    qnet_strbuf_printf(p->out, "  func @%s", f->name);
    print_args(p, f->body);
    qnet_strbuf_puts(p->out, " {\n");
    print_ops(p, f->body, 2);
    qnet_strbuf_puts(p->out, "  }\n");
  } else {
    p->out->failed = true;
  }
  qnet_arena_clear(&p->scratch);
}

static void print_f32_list(qnet_strbuf *out, const char *name, const float *v, int n) {
  qnet_strbuf_printf(out, ", %s = [", name);
  for (int i = 0; i < n; i++) {
    if (i > 0) qnet_strbuf_puts(out, ", ");
    qnet_print_f32(out, v[i]);
  }
  qnet_strbuf_puts(out, "]");
}

static void print_table(qnet_strbuf *out, const qnet_symbol *s) {
  const qnet_table *t = s->table;
  qnet_strbuf_printf(out, "  table @%s { bits = %d", s->name, t->bits);
  if (t->codes != 1 << t->bits) qnet_strbuf_printf(out, ", codes = %d", t->codes);
  if (t->channels != 1) qnet_strbuf_printf(out, ", channels = %d", t->channels);
  print_f32_list(out, "scale", t->scale, t->channels);
  qnet_strbuf_puts(out, ", levels = [");
  for (int i = 0; i < t->channels * t->codes; i++)
    qnet_strbuf_printf(out, i > 0 ? ", %" PRId32 : "%" PRId32, t->level[i]);
  qnet_strbuf_puts(out, "]");
  if (t->threshold) {
    print_f32_list(out, "thresholds", t->threshold, t->channels * (t->codes - 1));
    qnet_strbuf_puts(out, ", perm = [");
    for (int i = 0; i < t->codes; i++)
      qnet_strbuf_printf(out, i > 0 ? ", %d" : "%d", t->perm[i]);
    qnet_strbuf_puts(out, "]");
  }
  qnet_strbuf_puts(out, " }\n");
}

static void print_data_symbol(const printer *p, const qnet_symbol *s) {
  const char *keyword = s->kind == QNET_SYMBOL_CONST ? "const" : "state";
  qnet_strbuf_printf(p->out, "  %s @%s : ", keyword, s->name);
  qnet_type_print(s->type, p->out);
  qnet_strbuf_puts(p->out, " = ");
  qnet_print_data(p->out, s, p->flags);
  qnet_strbuf_puts(p->out, "\n");
}

void qnet_module_print(const qnet_module *m, unsigned flags, qnet_strbuf *out) {
  printer p = {.module = m, .flags = flags, .out = out};
  qnet_strbuf_printf(out, "module @%s %s {\n", m->name, qnet_level_name(m->level));
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next) {
    switch (s->kind) {
    case QNET_SYMBOL_FUNC: print_function(&p, s); break;
    case QNET_SYMBOL_TABLE: print_table(out, s); break;
    case QNET_SYMBOL_CONST:
    case QNET_SYMBOL_STATE: print_data_symbol(&p, s); break;
    }
  }
  qnet_strbuf_puts(out, "}\n");
}
