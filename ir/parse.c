/* The text form read back: recursive descent with one token ahead. After an error the parser goes
 * on at the next line of the same nesting, so that one run reports several; results of operations
 * that could not be built are known as broken, and their uses are not reported again. */
#include "ir/intern.h"
#include "ir/ops.h"
#include "ir/parse_internal.h"
#include "ir/text_internal.h"
#include <string.h>

/* ---- names of values ------------------------------------------------------------------------- */

enum { NAME_BUCKETS = 4096 };

/* Names leave in the reverse order of their coming, so the last one is the head of its bucket. */
typedef struct value_name {
  const char *text;
  qnet_value *value; /* NULL: broken, an error was reported */
  struct value_name *chain, *before;
  size_t bucket;
} value_name;

typedef struct qnet_name_table {
  value_name *last;
  value_name *bucket[NAME_BUCKETS];
} name_table;

static value_name *find_name(const name_table *t, const char *text) {
  const size_t bucket = qnet_hash_bytes(QNET_HASH_SEED, text, strlen(text)) % NAME_BUCKETS;
  value_name *n = t->bucket[bucket];
  while (n && strcmp(n->text, text) != 0)
    n = n->chain;
  return n;
}

static bool define_name(qnet_parser *p, qnet_token t, qnet_value *value) {
  const char *text = qnet_parse_text(p, t);
  if (!text) return false;
  const value_name *old = find_name(p->names, text);
  if (old) return qnet_parse_error(p, t.start, t.end, "value %%%s is defined twice", text);
  value_name *n = qnet_arena_alloc(&p->scratch, sizeof *n);
  if (!n) return qnet_parse_out_of_memory(p);
  n->text = text;
  n->value = value;
  n->bucket = qnet_hash_bytes(QNET_HASH_SEED, text, strlen(text)) % NAME_BUCKETS;
  n->chain = p->names->bucket[n->bucket];
  n->before = p->names->last;
  p->names->bucket[n->bucket] = p->names->last = n;
  if (value && text[strspn(text, "0123456789")] != '\0')
    value->name = qnet_module_string(p->module, text);
  return true;
}

static void leave_scope(name_table *t, const value_name *mark) {
  while (t->last != mark) {
    value_name *n = t->last;
    t->bucket[n->bucket] = n->chain;
    t->last = n->before;
  }
}

/* ---- lists of names, values and types -------------------------------------------------------- */

typedef struct arg_list {
  qnet_parse_list names; /* qnet_token */
  qnet_parse_list types; /* const qnet_type * */
} arg_list;

static bool add_type(qnet_parser *p, qnet_parse_list *types) {
  const qnet_type **slot = qnet_parse_list_add(p, types, sizeof *slot);
  return slot && qnet_parse_type(p, slot);
}

static bool add_value_token(qnet_parser *p, qnet_parse_list *names) {
  if (p->token.kind != QNET_TOKEN_VALUE) return qnet_parse_expected(p, "a value (%name)");
  qnet_token *slot = qnet_parse_list_add(p, names, sizeof *slot);
  if (!slot) return false;
  *slot = p->token;
  qnet_parse_advance(p);
  return true;
}

/* `(%a: type, ...)` */
static bool parse_args(qnet_parser *p, arg_list *args) {
  if (!qnet_parse_expect(p, '(', "before the arguments")) return false;
  while (!qnet_parse_is(p, ')')) {
    if (!add_value_token(p, &args->names)) return false;
    if (!qnet_parse_expect(p, ':', "and the argument's type")) return false;
    if (!add_type(p, &args->types)) return false;
    if (!qnet_parse_accept(p, ',')) break;
  }
  return qnet_parse_expect(p, ')', "after the arguments");
}

static bool define_args(qnet_parser *p, const arg_list *args, qnet_region *region) {
  const qnet_token *name = args->names.items;
  for (int i = 0; i < args->names.count; i++)
    if (!define_name(p, name[i], &region->arg[i])) return false;
  return true;
}

/* ---- operations ------------------------------------------------------------------------------ */

typedef struct op_text {
  uint32_t begin, name_begin;
  int opcode;
  qnet_parse_list results;  /* qnet_token */
  qnet_parse_list operands; /* qnet_value * */
  qnet_parse_list types;    /* const qnet_type * */
  qnet_op attrs;            /* holds the attributes until the operation is built */
  bool broken;              /* an operand is */
} op_text;

static bool parse_results(qnet_parser *p, op_text *o) {
  do {
    if (!add_value_token(p, &o->results)) return false;
  } while (qnet_parse_accept(p, ','));
  return qnet_parse_expect(p, '=', "after the results");
}

static bool parse_operand(qnet_parser *p, op_text *o) {
  const qnet_token t = p->token;
  if (t.kind != QNET_TOKEN_VALUE) return qnet_parse_expected(p, "a value (%name)");
  const char *text = qnet_parse_text(p, t);
  qnet_value **slot = qnet_parse_list_add(p, &o->operands, sizeof *slot);
  if (!text || !slot) return false;
  const value_name *n = find_name(p->names, text);
  if (!n)
    return qnet_parse_error(p, t.start, t.end,
                            "%%%s is not defined here; a value must be defined before its use",
                            text);
  if (!n->value) o->broken = true;
  *slot = n->value;
  qnet_parse_advance(p);
  return true;
}

static bool parse_operand_list(qnet_parser *p, op_text *o) {
  do {
    if (!parse_operand(p, o)) return false;
  } while (qnet_parse_accept(p, ','));
  return true;
}

static bool unknown_op(qnet_parser *p, qnet_token t, const char *name) {
  const char *known[QNET_OP_COUNT];
  for (int i = 0; i < QNET_OP_COUNT; i++)
    known[i] = qnet_op_def_of(i)->name;
  const char *nearest = qnet_nearest(name, known, QNET_OP_COUNT);
  qnet_parse_error(p, t.begin, t.end, "unknown operation '%s'%s%s%s", name,
                   nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
  if (nearest) qnet_fixit(p->diag, nearest);
  return false;
}

static bool parse_opcode(qnet_parser *p, op_text *o) {
  const qnet_token t = p->token;
  if (t.kind != QNET_TOKEN_WORD) return qnet_parse_expected(p, "an operation");
  char name[QNET_PARSE_WORD];
  qnet_parse_word(p, t, name);
  o->name_begin = t.begin;
  o->opcode = qnet_opcode_find(name);
  if (o->opcode < 0) return unknown_op(p, t, name);
  qnet_parse_advance(p);
  return true;
}

static bool parse_sym(qnet_parser *p, op_text *o) {
  const char *name;
  if (!qnet_parse_symbol_name(p, &name)) return false;
  qnet_op_set_symbol(p->module, &o->attrs, "sym", name);
  return true;
}

/* Is a region ahead, and not attributes? */
static bool is_region_ahead(const qnet_parser *p) {
  if (!qnet_parse_is(p, '{')) return false;
  qnet_lexer ahead = p->lexer;
  const qnet_token t = qnet_lexer_next(&ahead);
  return t.kind == QNET_TOKEN_PUNCT && ahead.text[t.begin] == '^';
}

static bool parse_call(qnet_parser *p, op_text *o) {
  if (!qnet_parse_expect(p, '(', "before the operands")) return false;
  if (!qnet_parse_is(p, ')') && !parse_operand_list(p, o)) return false;
  if (!qnet_parse_expect(p, ')', "after the operands")) return false;
  if (!qnet_parse_is(p, '{') || is_region_ahead(p)) return true;
  const qnet_op_def *def = qnet_op_def_of(o->opcode);
  return qnet_parse_attrs(p, def->attrs, def->name, &o->attrs);
}

/* What stands between the name and the result types. */
static bool parse_action(qnet_parser *p, op_text *o) {
  switch (o->opcode) {
  case QNET_OP_READ: return parse_sym(p, o);
  case QNET_OP_WRITE:
    return parse_sym(p, o) && qnet_parse_expect(p, ',', "and the value to write") &&
           parse_operand(p, o);
  case QNET_OP_YIELD: return p->token.kind != QNET_TOKEN_VALUE || parse_operand_list(p, o);
  default: return parse_call(p, o);
  }
}

static bool parse_result_types(qnet_parser *p, op_text *o) {
  if (!qnet_parse_accept(p, ':')) return true;
  do {
    if (!add_type(p, &o->types)) return false;
  } while (qnet_parse_accept(p, ','));
  return true;
}

static bool parse_head(qnet_parser *p, op_text *o) {
  if (p->token.kind == QNET_TOKEN_VALUE && !parse_results(p, o)) return false;
  if (!parse_opcode(p, o) || !parse_action(p, o) || !parse_result_types(p, o)) return false;
  if (o->results.count != o->types.count)
    return qnet_parse_error(p, o->name_begin, p->previous_end,
                            "%d results are named, but %d result types given", o->results.count,
                            o->types.count);
  if (p->module->failed) return qnet_parse_out_of_memory(p);
  return true;
}

static qnet_op *build_op(qnet_parser *p, const op_text *o, qnet_region *region) {
  qnet_builder b = qnet_builder_at_end(p->module, region);
  b.loc = qnet_parse_loc(p, o->begin, p->previous_end);
  qnet_op *op = qnet_build(&b, o->opcode, o->operands.items, o->operands.count, o->types.items,
                           o->types.count);
  if (op)
    op->attrs = o->attrs.attrs;
  else
    qnet_parse_out_of_memory(p);
  return op;
}

static bool define_results(qnet_parser *p, const op_text *o, qnet_op *op) {
  const qnet_token *name = o->results.items;
  bool ok = true;
  for (int i = 0; i < o->results.count && !p->no_memory; i++)
    ok &= define_name(p, name[i], op ? &op->result[i] : NULL);
  return ok && !p->no_memory;
}

/* Goes to the first token of a line at the nesting of `depth`, or to the brace that closes it. */
static void resync(qnet_parser *p, uint32_t begin, int depth) {
  if (p->token.start == begin) qnet_parse_advance(p);
  while (p->token.kind != QNET_TOKEN_END) {
    const bool brace = qnet_parse_is(p, '}');
    if (brace ? p->depth < depth : p->depth <= depth && p->token.first_of_line) return;
    qnet_parse_advance(p);
  }
}

static bool parse_op(qnet_parser *p, qnet_region *region, int nesting);

/* Operations up to and with the closing brace. */
static bool parse_ops(qnet_parser *p, qnet_region *region, int nesting) {
  const int depth = p->depth;
  while (!qnet_parse_is(p, '}')) {
    if (p->token.kind == QNET_TOKEN_END) return qnet_parse_expected(p, "'}'");
    const uint32_t begin = p->token.start;
    if (parse_op(p, region, nesting)) continue;
    if (p->no_memory) return false;
    resync(p, begin, depth);
  }
  qnet_parse_advance(p);
  return true;
}

/* `{ ^(args): operations }` */
static bool parse_region(qnet_parser *p, qnet_op *op, int nesting) {
  if (nesting > QNET_MAX_NESTING)
    return qnet_parse_error(p, p->token.start, p->token.end, "regions are nested more than %d deep",
                            QNET_MAX_NESTING);
  const value_name *mark = p->names->last;
  arg_list args = {0};
  qnet_parse_advance(p);
  qnet_parse_advance(p);
  if (!parse_args(p, &args) || !qnet_parse_expect(p, ':', "after the region's arguments"))
    return false;
  qnet_region *region = qnet_op_add_region(p->module, op, args.types.items, args.types.count);
  if (!region) return qnet_parse_out_of_memory(p);
  const bool ok = define_args(p, &args, region) && parse_ops(p, region, nesting);
  leave_scope(p->names, mark);
  return ok;
}

static bool parse_op(qnet_parser *p, qnet_region *region, int nesting) {
  op_text o = {.begin = p->token.start};
  if (!parse_head(p, &o)) {
    if (!p->no_memory) define_results(p, &o, NULL);
    return false;
  }
  qnet_op *op = o.broken ? NULL : build_op(p, &o, region);
  if (p->no_memory || !define_results(p, &o, op)) return false;
  while (op && is_region_ahead(p))
    if (!parse_region(p, op, nesting + 1)) return false;
  return op != NULL;
}

/* ---- symbols --------------------------------------------------------------------------------- */

/* `KEYWORD @name`, of which the keyword is ahead. */
static bool parse_symbol_head(qnet_parser *p, const char **name, qnet_loc *loc) {
  const uint32_t begin = p->token.start;
  qnet_parse_advance(p);
  const qnet_token t = p->token;
  if (!qnet_parse_symbol_name(p, name)) return false;
  *loc = qnet_parse_loc(p, begin, t.end);
  const qnet_symbol *old = qnet_symbol_find(p->module, *name);
  if (!old) return true;
  qnet_parse_error(p, t.start, t.end, "symbol @%s is defined twice", *name);
  qnet_note(p->diag, old->loc, "the first definition is here");
  return false;
}

static bool parse_function(qnet_parser *p) {
  const char *name;
  qnet_loc loc;
  arg_list args = {0};
  if (!parse_symbol_head(p, &name, &loc) || !parse_args(p, &args)) return false;
  if (!qnet_parse_expect(p, '{', "before the function's operations")) return false;
  const qnet_symbol *f =
      qnet_symbol_add_func(p->module, name, args.types.items, args.types.count, loc);
  if (!f) return qnet_parse_out_of_memory(p);
  const bool ok = define_args(p, &args, f->body) && parse_ops(p, f->body, 0);
  leave_scope(p->names, NULL);
  return ok;
}

static bool parse_data_symbol(qnet_parser *p, qnet_symbol_kind kind) {
  const char *name, *origin = NULL;
  qnet_loc loc;
  const qnet_type *type;
  qnet_blob *blob = NULL;
  if (!parse_symbol_head(p, &name, &loc) || !qnet_parse_expect(p, ':', "and the type"))
    return false;
  if (!qnet_parse_type(p, &type) || !qnet_parse_expect(p, '=', "and the content")) return false;
  bool ok = qnet_parse_data(p, type, &blob, &origin);
  if (ok) {
    qnet_symbol *s = qnet_symbol_add_data(p->module, kind, name, type, blob, loc);
    if (s)
      s->origin = origin;
    else
      ok = qnet_parse_out_of_memory(p);
  }
  qnet_blob_release(blob);
  return ok;
}

static bool parse_table_symbol(qnet_parser *p) {
  const char *name;
  qnet_loc loc;
  return parse_symbol_head(p, &name, &loc) && qnet_parse_table(p, name, loc);
}

static bool parse_symbol(qnet_parser *p) {
  if (qnet_parse_is_word(p, "func")) return parse_function(p);
  if (qnet_parse_is_word(p, "const")) return parse_data_symbol(p, QNET_SYMBOL_CONST);
  if (qnet_parse_is_word(p, "state")) return parse_data_symbol(p, QNET_SYMBOL_STATE);
  if (qnet_parse_is_word(p, "table")) return parse_table_symbol(p);
  return qnet_parse_expected(p, "func, const, state, table or '}'");
}

/* ---- the module ------------------------------------------------------------------------------ */

static bool parse_level(qnet_parser *p, qnet_level *level) {
  for (int l = QNET_LEVEL_NN; l <= QNET_LEVEL_LOOP; l++) {
    if (!qnet_parse_is_word(p, qnet_level_name((qnet_level)l))) continue;
    *level = (qnet_level)l;
    qnet_parse_advance(p);
    return true;
  }
  return qnet_parse_expected(p, "the module's level: nn, quant, bits or loop");
}

/* `module @name level {`. The module is made first, because names are interned in it. */
static bool parse_module_head(qnet_parser *p) {
  if (!qnet_parse_is_word(p, "module")) return qnet_parse_expected(p, "'module @NAME LEVEL {'");
  qnet_parse_advance(p);
  return qnet_parse_symbol_name(p, &p->module->name) && parse_level(p, &p->module->level) &&
         qnet_parse_expect(p, '{', "before the module's symbols");
}

static void parse_module(qnet_parser *p) {
  if (!parse_module_head(p)) return;
  const int depth = p->depth;
  while (!qnet_parse_is(p, '}')) {
    if (p->token.kind == QNET_TOKEN_END) {
      qnet_parse_expected(p, "'}'");
      return;
    }
    const uint32_t begin = p->token.start;
    const bool ok = parse_symbol(p);
    leave_scope(p->names, NULL);
    qnet_arena_clear(&p->scratch);
    if (p->no_memory) return;
    if (!ok) resync(p, begin, depth);
  }
  qnet_parse_advance(p);
  if (p->token.kind != QNET_TOKEN_END) qnet_parse_expected(p, "the end of the file");
}

static qnet_status run(qnet_parser *p, const qnet_allocator *a) {
  p->names = qnet_alloc(a, sizeof *p->names);
  if (!p->names) return qnet_out_of_memory(p->diag);
  qnet_arena_init(&p->scratch, a);
  qnet_parse_advance(p);
  parse_module(p);
  qnet_arena_clear(&p->scratch);
  qnet_free(a, p->names, sizeof *p->names);
  if (p->no_memory || p->module->failed) return qnet_out_of_memory(p->diag);
  return p->failed ? QNET_ERROR : QNET_OK;
}

qnet_status qnet_module_parse(const qnet_allocator *a, const char *name, const char *text,
                              size_t length, qnet_module **out, qnet_diag *d) {
  *out = NULL;
  if (length >= UINT32_MAX) return qnet_error_in(d, name, "the text is longer than 4 GiB");
  qnet_parser p = {.lexer = {.text = text, .length = (uint32_t)length}, .diag = d};
  p.buffer = d ? qnet_diag_add_buffer(d, name, text, length) : 0;
  if (d && p.buffer == 0) return qnet_out_of_memory(d);
  p.module = qnet_module_create(a, "", QNET_LEVEL_NN);
  if (!p.module) return qnet_out_of_memory(d);
  const qnet_status status = run(&p, a);
  if (status == QNET_OK)
    *out = p.module;
  else
    qnet_module_destroy(p.module);
  return status;
}
