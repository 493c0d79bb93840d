/* Calls: arguments, instances of blocks, names of layers. */
#include "frontend/sema.h"

#include <ctype.h>
#include <string.h>

/* ---- arguments ------------------------------------------------------------------------------ */

/* Parameters as the binder sees them; `keyword`: by name only. */
typedef struct formal {
  const char *name;
  bool required, keyword;
} formal;

static int positional_count(const formal *formals, int count) {
  int n = 0;
  while (n < count && !formals[n].keyword)
    n++;
  return n;
}

static int find_formal(qnet_sema *s, const qnet_sema_call *call, const formal *formals, int count,
                       const qnet_ident *name) {
  const char *names[QNET_SEMA_PARAMS + 1];
  for (int i = 0; i < count; i++) {
    if (strcmp(formals[i].name, name->text) == 0) return i;
    names[i] = formals[i].name;
  }
  qnet_sema_misspelt(s, name->loc, qnet_nearest(name->text, names, (size_t)count),
                     "'%s' has no argument '%s'", call->callee.text, name->text);
  return -1;
}

/* Puts the next positional argument into its slot; returns false after an error. */
static bool place(qnet_sema *s, const qnet_sema_call *call, const formal *formals, int count,
                  int *next, const qnet_sema_value *v, qnet_sema_value *slot) {
  const int room = positional_count(formals, count);
  if (*next >= room) {
    qnet_sema_error(s, v->loc, "too many arguments: '%s' takes %d%s", call->callee.text, room,
                    call->piped ? ", with the piped value" : "");
    return false;
  }
  slot[(*next)++] = *v;
  return true;
}

static bool place_named(qnet_sema *s, const qnet_sema_call *call, const formal *formals, int count,
                        const qnet_arg *arg, qnet_sema_value *slot) {
  const bool quantizer = strcmp(arg->name.text, "quantize") == 0;
  const qnet_sema_value v =
      quantizer ? qnet_sema_quantizer(s, arg->value) : qnet_sema_eval(s, arg->value);
  const int i = find_formal(s, call, formals, count, &arg->name);
  if (i < 0) return false;
  if (slot[i].kind != QNET_KIND_ABSENT) {
    qnet_sema_error(s, arg->name.loc, "argument '%s' of '%s' is given twice", arg->name.text,
                    call->callee.text);
    return false;
  }
  slot[i] = v;
  return true;
}

static bool place_all(qnet_sema *s, const qnet_sema_call *call, const formal *formals, int count,
                      qnet_sema_value *slot) {
  int next = 0;
  bool ok = !call->piped || place(s, call, formals, count, &next, call->piped, slot);
  bool named = false;
  for (const qnet_arg *a = call->args->first; a && !s->stop; a = a->next) {
    if (a->name.text) {
      named = true;
      ok = place_named(s, call, formals, count, a, slot) && ok;
      continue;
    }
    const qnet_sema_value v = qnet_sema_eval(s, a->value);
    if (named) {
      qnet_sema_error(s, a->value->loc, "an argument without a name after named ones");
      ok = false;
    } else if (!place(s, call, formals, count, &next, &v, slot)) {
      return false;
    }
  }
  return ok && !s->stop;
}

static bool bind_arguments(qnet_sema *s, const qnet_sema_call *call, const formal *formals,
                           int count, qnet_sema_value *slot) {
  for (int i = 0; i < count; i++)
    slot[i] = (qnet_sema_value){.kind = QNET_KIND_ABSENT};
  if (!place_all(s, call, formals, count, slot)) return false;
  bool ok = true;
  for (int i = 0; i < count; i++) {
    if (formals[i].required && slot[i].kind == QNET_KIND_ABSENT) {
      qnet_sema_error(s, call->loc, "'%s' needs the argument '%s'", call->callee.text,
                      formals[i].name);
      return false;
    }
    ok = ok && !qnet_is_poison(&slot[i]);
  }
  return ok;
}

bool qnet_sema_arguments(qnet_sema *s, const qnet_sema_call *call, const qnet_sema_param *params,
                         int count, qnet_sema_value *slot) {
  formal formals[QNET_SEMA_OP_PARAMS];
  for (int i = 0; i < count; i++)
    formals[i] = (formal){params[i].name, params[i].mode == QNET_PARAM_REQUIRED,
                          params[i].mode == QNET_PARAM_KEYWORD};
  return bind_arguments(s, call, formals, count, slot);
}

/* ---- names of layers ------------------------------------------------------------------------ */

static const qnet_taken *find_taken(const qnet_frame *f, const char *name) {
  for (const qnet_taken *t = f->taken; t; t = t->next)
    if (strcmp(t->name, name) == 0) return t;
  return NULL;
}

static bool take(qnet_sema *s, const char *name, qnet_loc loc) {
  qnet_taken *t = qnet_sema_alloc(s, 1, sizeof *t);
  if (!t) return false;
  t->name = name;
  t->loc = loc;
  t->next = s->frame->taken;
  s->frame->taken = t;
  return true;
}

static bool is_layer_name(const char *text) {
  if (!isalpha((unsigned char)text[0]) && text[0] != '_') return false;
  for (const char *c = text; *c; c++)
    if (!isalnum((unsigned char)*c) && *c != '_' && *c != '-') return false;
  return true;
}

static const char *explicit_layer_name(qnet_sema *s, const qnet_sema_value *v) {
  if (v->kind != QNET_KIND_STRING || !is_layer_name(v->s) || strlen(v->s) > QNET_SEMA_STRING / 4) {
    qnet_sema_error(s, v->loc,
                    "'name' must be a string of at most %d letters, digits, '_' and '-' that "
                    "begins with a letter",
                    QNET_SEMA_STRING / 4);
    return NULL;
  }
  const qnet_taken *taken = find_taken(s->frame, v->s);
  if (!taken) return v->s;
  if (qnet_sema_begin_error(s, v->loc, "the name '%s' is taken", v->s)) {
    if (taken->loc.begin == v->loc.begin)
      qnet_note(s->diag, taken->loc,
                "by an earlier turn; use the index: repeat N as i { ... name "
                "= \"%.40s\" + i ... }",
                v->s);
    else
      qnet_note(s->diag, taken->loc, "by this call");
    qnet_sema_end_error(s);
  }
  return NULL;
}

static const char *numbered_layer_name(qnet_sema *s, const char *kind) {
  qnet_counter *c = s->frame->counters;
  while (c && strcmp(c->kind, kind) != 0)
    c = c->next;
  if (!c) {
    c = qnet_sema_alloc(s, 1, sizeof *c);
    if (!c) return NULL;
    c->kind = kind;
    c->next = s->frame->counters;
    s->frame->counters = c;
  }
  const char *name;
  do
    name = qnet_sema_format(s, "%.60s%d", kind, ++c->count);
  while (!s->stop && find_taken(s->frame, name));
  return s->stop ? NULL : name;
}

const char *qnet_sema_layer_name(qnet_sema *s, const qnet_sema_call *call, const char *kind,
                                 const qnet_sema_value *explicit_name) {
  const bool given = explicit_name->kind != QNET_KIND_ABSENT;
  if (++s->calls > QNET_SEMA_CALLS) {
    qnet_sema_limit(s, call->loc, "more than %d calls of layers and blocks", QNET_SEMA_CALLS);
    return NULL;
  }
  const char *name = given ? explicit_layer_name(s, explicit_name) : numbered_layer_name(s, kind);
  if (!name || !take(s, name, given ? explicit_name->loc : call->loc)) return NULL;
  if (strlen(s->frame->path) + strlen(name) > QNET_SEMA_STRING) {
    qnet_sema_error(s, call->loc, "the layer's full name is longer than %d bytes",
                    QNET_SEMA_STRING);
    return NULL;
  }
  return qnet_sema_format(s, "%s%s", s->frame->path, name);
}

/* ---- blocks --------------------------------------------------------------------------------- */

static bool is_running(qnet_sema *s, const qnet_sema_call *call, const qnet_block *block) {
  for (const qnet_frame *f = s->frame; f; f = f->caller) {
    if (f->block != block) continue;
    if (qnet_sema_begin_error(s, call->loc, "block '%s' calls itself", block->name.text)) {
      qnet_note(s->diag, block->name.loc, "defined here; use 'repeat' for repetition");
      qnet_sema_end_error(s);
    }
    return true;
  }
  return false;
}

/* Parameters in order: a default may use the parameters before it. */
static bool bind_block(qnet_sema *s, const qnet_block *block, const qnet_sema_value *slot) {
  int i = 0;
  for (qnet_param *p = block->params.first; p; p = p->next, i++) {
    const bool given = slot[i].kind != QNET_KIND_ABSENT;
    const qnet_sema_value v = given ? slot[i] : qnet_sema_eval(s, p->value);
    qnet_ident name = p->name;
    if (given) name.loc = slot[i].loc;
    qnet_binding *b = qnet_sema_bind(s, name, &v, given ? "passed here" : "the default");
    if (!b) return false;
    b->param = p;
  }
  return true;
}

static qnet_sema_value run_block(qnet_sema *s, const qnet_sema_call *call, qnet_block *block,
                                 const char *path, const qnet_sema_value *slot) {
  qnet_frame frame = {.block = block, .caller = s->frame, .call_loc = call->loc, .path = path};
  const qnet_sema_value *quantizer = &slot[block->params.count + 1];
  if (quantizer->kind == QNET_KIND_QUANTIZER) frame.quant = quantizer->quant;
  s->frame = &frame;
  block->called = true;
  if (bind_block(s, block, slot)) qnet_sema_statements(s, &block->body);
  s->frame = frame.caller;
  if (s->stop) return QNET_POISON;
  if (!frame.returned) {
    if (qnet_sema_begin_error(s, block->name.loc,
                              "block '%s' returns nothing; end it with: "
                              "return VALUE",
                              block->name.text)) {
      qnet_note(s->diag, call->loc, "called here");
      qnet_sema_end_error(s);
    }
    return QNET_POISON;
  }
  return frame.result;
}

static qnet_sema_value call_block(qnet_sema *s, const qnet_sema_call *call, qnet_block *block) {
  const int count = block->params.count;
  if (is_running(s, call, block) || count > QNET_SEMA_PARAMS) return QNET_POISON;
  formal *formals = qnet_sema_alloc(s, (size_t)count + 2, sizeof *formals);
  qnet_sema_value *slot = qnet_sema_alloc(s, (size_t)count + 2, sizeof *slot);
  if (!formals || !slot) return QNET_POISON;
  int i = 0;
  for (const qnet_param *p = block->params.first; p; p = p->next)
    formals[i++] = (formal){p->name.text, p->value == NULL, false};
  formals[count] = (formal){"name", false, true};
  formals[count + 1] = (formal){"quantize", false, true};
  block->called = true;
  if (!bind_arguments(s, call, formals, count + 2, slot)) return QNET_POISON;
  const char *name = qnet_sema_layer_name(s, call, block->name.text, &slot[count]);
  if (!name) return QNET_POISON;
  return run_block(s, call, block, qnet_sema_format(s, "%s.", name), slot);
}

/* ---- dispatch ------------------------------------------------------------------------------- */

static qnet_sema_value unknown_operation(qnet_sema *s, const qnet_sema_call *call) {
  const char *name = call->callee.text;
  const qnet_binding *value = qnet_sema_find(s->frame, name);
  if (value) {
    if (qnet_sema_begin_error(s, call->callee.loc, "'%s' is a value, not an operation", name)) {
      qnet_sema_note_value(s, &value->value);
      qnet_sema_end_error(s);
    }
    return QNET_POISON;
  }
  const char *blocks[QNET_SEMA_BLOCKS];
  size_t block_count = 0;
  for (const qnet_block *b = s->file->blocks.first; b; b = b->next)
    blocks[block_count++] = b->name.text;
  const char *block = qnet_nearest(name, blocks, block_count);
  return qnet_sema_misspelt(s, call->callee.loc, block ? block : qnet_sema_op_nearest(name),
                            "unknown operation or block '%s'", name);
}

static qnet_sema_value call_builtin(qnet_sema *s, const qnet_sema_call *call,
                                    const qnet_sema_op *op) {
  qnet_sema_value slot[QNET_SEMA_OP_PARAMS];
  int count = 0;
  while (count < QNET_SEMA_OP_PARAMS && op->params[count].name)
    count++;
  if (!qnet_sema_arguments(s, call, op->params, count, slot)) return QNET_POISON;
  s->builder.loc = call->loc;
  return op->build(s, call, slot);
}

qnet_sema_value qnet_sema_call_run(qnet_sema *s, const qnet_sema_call *call) {
  const qnet_sema_op *op = qnet_sema_op_find(call->callee.text);
  if (op) return call_builtin(s, call, op);
  for (qnet_block *b = s->file->blocks.first; b; b = b->next)
    if (strcmp(b->name.text, call->callee.text) == 0) return call_block(s, call, b);
  if (qnet_sema_is_quantizer(call->callee.text) && !call->piped)
    return qnet_sema_quantizer_call(s, call);
  return unknown_operation(s, call);
}
