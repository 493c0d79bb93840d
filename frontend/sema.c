/* Semantic analysis: entry, parameters of the net, reports, warnings at the end. */
#include "frontend/sema.h"

#include "support/strbuf.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRAIL = 8, OVERRIDE_NAMES = QNET_SEMA_PARAMS };

/* ---- memory and reports ---------------------------------------------------------------------- */

void qnet_sema_out_of_memory(qnet_sema *s) {
  s->no_memory = s->stop = true;
}

void *qnet_sema_alloc(qnet_sema *s, size_t count, size_t size) {
  void *block = qnet_arena_array(s->arena, count, size);
  if (!block) qnet_sema_out_of_memory(s);
  return block;
}

/* A message is short: names in it are cut by their own limits. */
enum { MESSAGE = 512 };

const char *qnet_sema_format(qnet_sema *s, const char *format, ...) {
  char text[MESSAGE];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  const char *copy = qnet_module_string(s->module, text);
  if (!copy) qnet_sema_out_of_memory(s);
  return copy ? copy : "";
}

static bool same_place(qnet_loc a, qnet_loc b) {
  return a.begin == b.begin && a.end == b.end && a.buffer == b.buffer;
}

static bool begin_error(qnet_sema *s, qnet_loc loc, const char *format, va_list ap) {
  if (s->stop) return false;
  for (int i = 0; i < s->errors; i++)
    if (same_place(s->reported[i], loc)) return false;
  s->reported[s->errors++] = loc;
  if (s->errors == QNET_SEMA_ERRORS) s->stop = true;
  char text[MESSAGE];
  vsnprintf(text, sizeof text, format, ap);
  qnet_error(s->diag, loc, "%s", text);
  return true;
}

bool qnet_sema_begin_error(qnet_sema *s, qnet_loc loc, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  const bool reported = begin_error(s, loc, format, ap);
  va_end(ap);
  return reported;
}

void qnet_sema_end_error(qnet_sema *s) {
  int shown = 0;
  for (const qnet_frame *f = s->frame; f && f->caller && shown < TRAIL; f = f->caller, shown++)
    qnet_note(s->diag, f->call_loc, "in block '%s' called here", f->block->name.text);
}

qnet_sema_value qnet_sema_error(qnet_sema *s, qnet_loc loc, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  const bool reported = begin_error(s, loc, format, ap);
  va_end(ap);
  if (reported) qnet_sema_end_error(s);
  return QNET_POISON;
}

qnet_sema_value qnet_sema_misspelt(qnet_sema *s, qnet_loc loc, const char *near, const char *format,
                                   ...) {
  char text[MESSAGE];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  if (!near) return qnet_sema_error(s, loc, "%s", text);
  if (!qnet_sema_begin_error(s, loc, "%s; did you mean '%s'?", text, near)) return QNET_POISON;
  qnet_fixit(s->diag, near);
  qnet_sema_end_error(s);
  return QNET_POISON;
}

void qnet_sema_note_value(qnet_sema *s, const qnet_sema_value *v) {
  char text[QNET_SHAPE_TEXT];
  qnet_sema_describe(v, text);
  if (v->name && v->origin)
    qnet_note(s->diag, v->name_loc, "'%s' is %s, %s", v->name, text, v->origin);
  else
    qnet_note(s->diag, v->loc, "this is %s", text);
}

qnet_sema_value qnet_sema_limit(qnet_sema *s, qnet_loc loc, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  const bool reported = begin_error(s, loc, format, ap);
  va_end(ap);
  if (reported) qnet_sema_end_error(s);
  s->stop = true;
  return QNET_POISON;
}

bool qnet_sema_first(qnet_sema *s, const qnet_stmt *stmt, const qnet_stmt **earlier,
                     const char *what) {
  if (!*earlier) {
    *earlier = stmt;
    return true;
  }
  if (qnet_sema_begin_error(s, stmt->loc, "a second %s; a net has one", what)) {
    qnet_note(s->diag, (*earlier)->loc, "the first one is here");
    qnet_sema_end_error(s);
  }
  return false;
}

/* ---- parameters of the net ------------------------------------------------------------------- */

static qnet_sema_value parse_override(const char *text) {
  char *end;
  errno = 0;
  const long long i = strtoll(text, &end, 10);
  if (*text && *end == '\0' && errno == 0) return qnet_sema_int(i);
  const double f = strtod(text, &end);
  if (*text && *end == '\0' && isfinite(f))
    return (qnet_sema_value){.kind = QNET_KIND_FLOAT, .f = f};
  if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
    return (qnet_sema_value){.kind = QNET_KIND_BOOL, .b = text[0] == 't'};
  return (qnet_sema_value){.kind = QNET_KIND_STRING, .s = text};
}

/* The value that the command line gives to a parameter; the last one counts. */
static const char *find_override(const char *name, const char *const *overrides, int count) {
  const size_t length = strlen(name);
  for (int i = count - 1; i >= 0; i--)
    if (strncmp(overrides[i], name, length) == 0 && overrides[i][length] == '=')
      return overrides[i] + length + 1;
  return NULL;
}

/* Overrides must name parameters. */
static void check_overrides(qnet_sema *s, const qnet_block *net, const char *const *overrides,
                            int count) {
  const char *names[OVERRIDE_NAMES];
  size_t known = 0;
  for (const qnet_param *p = net->params.first; p && known < OVERRIDE_NAMES; p = p->next)
    names[known++] = p->name.text;
  for (int i = 0; i < count; i++) {
    const char *equals = strchr(overrides[i], '=');
    const size_t length = equals ? (size_t)(equals - overrides[i]) : 0;
    char name[64] = {0};
    memcpy(name, overrides[i], length < sizeof name ? length : sizeof name - 1);
    bool found = false;
    for (size_t k = 0; k < known; k++)
      found = found || strcmp(names[k], name) == 0;
    if (found) continue;
    s->errors += s->errors < QNET_SEMA_ERRORS - 1;
    const char *near = length ? qnet_nearest(name, names, known) : NULL;
    if (!length)
      qnet_error_in(s->diag, "-D", "a parameter is written NAME=VALUE, not '%s'", overrides[i]);
    else if (near)
      qnet_error_in(s->diag, "-D", "net '%s' has no parameter '%s'; did you mean '%s'?",
                    net->name.text, name, near);
    else
      qnet_error_in(s->diag, "-D", "net '%s' has no parameter '%s'", net->name.text, name);
  }
}

/* An override must be of the default's kind; an integer may stand for a float. */
static qnet_sema_value apply_override(qnet_sema *s, const qnet_param *p, const char *text,
                                      const qnet_sema_value *otherwise) {
  qnet_sema_value v = parse_override(text);
  if (v.kind == QNET_KIND_STRING) v.s = qnet_sema_format(s, "%s", text);
  if (otherwise->kind == QNET_KIND_FLOAT && v.kind == QNET_KIND_INT)
    v = (qnet_sema_value){.kind = QNET_KIND_FLOAT, .f = (double)v.i};
  if (otherwise->kind == QNET_KIND_ABSENT || otherwise->kind == QNET_KIND_POISON ||
      otherwise->kind == v.kind)
    return v;
  if (qnet_sema_begin_error(s, p->name.loc, "parameter '%s' is %s and cannot be set to '%s'",
                            p->name.text, qnet_kind_name(otherwise->kind), text))
    qnet_sema_end_error(s);
  return QNET_POISON;
}

static void bind_net_parameters(qnet_sema *s, qnet_block *net, const char *const *overrides,
                                int count) {
  check_overrides(s, net, overrides, count);
  for (qnet_param *p = net->params.first; p && !s->stop; p = p->next) {
    qnet_sema_value v = {.kind = QNET_KIND_ABSENT};
    if (p->value) v = qnet_sema_eval(s, p->value);
    const char *text = find_override(p->name.text, overrides, count);
    if (text) v = apply_override(s, p, text, &v);
    if (v.kind == QNET_KIND_ABSENT)
      v = qnet_sema_error(s, p->name.loc,
                          "parameter '%s' of the net has no value; give it a default: %s = ...",
                          p->name.text, p->name.text);
    qnet_binding *b = qnet_sema_bind(s, p->name, &v, "set here");
    if (b) b->param = p;
  }
}

/* ---- the run -------------------------------------------------------------------------------- */

static void check_parameter_names(qnet_sema *s, const qnet_block *block) {
  if (block->params.count > QNET_SEMA_PARAMS) {
    qnet_sema_error(s, block->name.loc, "'%s' has more than %d parameters", block->name.text,
                    QNET_SEMA_PARAMS);
    return;
  }
  for (const qnet_param *p = block->params.first; p; p = p->next) {
    if (strcmp(p->name.text, "name") == 0)
      qnet_sema_error(s, p->name.loc, "'name' is reserved: it names the call of a block");
    for (const qnet_param *q = block->params.first; q != p; q = q->next)
      if (strcmp(p->name.text, q->name.text) == 0)
        qnet_sema_error(s, p->name.loc, "a second parameter '%s'", p->name.text);
  }
}

static void check_block_name(qnet_sema *s, const qnet_block *block) {
  const char *name = block->name.text;
  if (qnet_sema_op_find(name))
    qnet_sema_error(s, block->name.loc, "'%s' is a built-in operation; choose another name", name);
  for (const qnet_block *b = s->file->blocks.first; b != block; b = b->next) {
    if (strcmp(b->name.text, name) != 0) continue;
    if (qnet_sema_begin_error(s, block->name.loc, "a second block '%s'", name)) {
      qnet_note(s->diag, b->name.loc, "the first one is here");
      qnet_sema_end_error(s);
    }
    return;
  }
}

static void check_declarations(qnet_sema *s) {
  const qnet_file_ast *file = s->file;
  if (file->blocks.count > QNET_SEMA_BLOCKS) {
    qnet_sema_limit(s, file->blocks.last->name.loc, "more than %d blocks", QNET_SEMA_BLOCKS);
    return;
  }
  for (const qnet_block *b = file->blocks.first; b; b = b->next) {
    check_block_name(s, b);
    check_parameter_names(s, b);
  }
  if (!file->nets.first) return;
  check_parameter_names(s, file->nets.first);
  for (const qnet_block *n = file->nets.first->next; n; n = n->next)
    if (qnet_sema_begin_error(s, n->name.loc, "a second net; a file has one")) {
      qnet_note(s->diag, file->nets.first->name.loc, "the first one is here");
      qnet_sema_end_error(s);
    }
}

/* The net's result: class scores, [N]. */
static void finish_net(qnet_sema *s, qnet_frame *net) {
  const qnet_ident name = net->block->name;
  if (s->stop) return;
  if (!net->returned) {
    qnet_sema_error(s, name.loc, "net '%s' returns nothing; end it with: return LOGITS", name.text);
    return;
  }
  const qnet_sema_value *v = &net->result;
  if (qnet_is_poison(v)) return;
  char shape[QNET_SHAPE_TEXT];
  qnet_sema_describe(v, shape);
  if (v->kind != QNET_KIND_TENSOR || v->tensor->type->rank != 2) {
    qnet_sema_error(s, net->return_loc, "a net returns class scores [N], but this is %s%s", shape,
                    v->kind == QNET_KIND_TENSOR ? "; end with: |> global_avg_pool |> dense(N)"
                                                : "");
    return;
  }
  s->builder.loc = net->return_loc;
  qnet_build_yield(&s->builder, (qnet_value *const[]){v->tensor}, 1);
}

static void warn_unused(qnet_sema *s) {
  for (const qnet_block *b = s->file->blocks.first; b; b = b->next) {
    if (!b->called) qnet_warning(s->diag, b->name.loc, "block '%s' is never used", b->name.text);
    for (const qnet_param *p = b->params.first; p && b->called; p = p->next)
      if (!p->used)
        qnet_warning(s->diag, p->name.loc, "parameter '%s' of block '%s' is never used",
                     p->name.text, b->name.text);
  }
  for (const qnet_param *p = s->net->block->params.first; p; p = p->next)
    if (!p->used)
      qnet_warning(s->diag, p->name.loc, "parameter '%s' of the net is never used", p->name.text);
  for (const qnet_stmt *a = s->file->assigns; a; a = a->next_assign)
    if (a->executed && !a->used)
      qnet_warning(s->diag, a->name.loc, "the value of '%s' is never used", a->name.text);
}

static void run_net(qnet_sema *s, qnet_block *net, const char *const *overrides, int count) {
  qnet_frame frame = {.block = net, .path = ""};
  s->frame = s->net = &frame;
  bind_net_parameters(s, net, overrides, count);
  if (!s->stop) qnet_sema_statements(s, &net->body);
  for (const qnet_stmt *t = s->file->trains.first; t; t = t->next)
    qnet_sema_train(s, t);
  if (!s->stop && !s->input)
    qnet_sema_error(s, net->name.loc,
                    "net '%s' has no input; add: input image: u8[C, H, W] "
                    "normalize(mean = [...], std = [...])",
                    net->name.text);
  else
    finish_net(s, &frame);
  if (!s->errors && !s->no_memory) warn_unused(s);
  s->frame = s->net = NULL;
}

qnet_status qnet_sema_run(qnet_sema *s, const char *const *overrides, int override_count) {
  check_declarations(s);
  qnet_block *net = s->file->nets.first;
  if (!net) {
    qnet_sema_error(s, (qnet_loc){s->file->buffer, 0, 0},
                    "no net in this file; write: net NAME { ... }");
    return QNET_ERROR;
  }
  if (!s->stop) run_net(s, net, overrides, override_count);
  if (s->no_memory || s->module->failed) return qnet_out_of_memory(s->diag);
  if (s->errors) return QNET_ERROR;
  qnet_module_sweep(s->module);
  return s->module->failed ? qnet_out_of_memory(s->diag) : QNET_OK;
}
