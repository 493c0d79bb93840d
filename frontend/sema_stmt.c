/* Names and statements. Names live from their first assignment to the end of the net or block:
 * repetitions and branches have no names of their own, so a repetition carries values from turn to
 * turn by assigning to the same name. */
#include "frontend/sema.h"

#include <string.h>

qnet_binding *qnet_sema_find(qnet_frame *frame, const char *name) {
  for (qnet_binding *b = frame->bindings; b; b = b->next)
    if (strcmp(b->name, name) == 0) return b;
  return NULL;
}

qnet_binding *qnet_sema_bind(qnet_sema *s, qnet_ident name, const qnet_sema_value *value,
                             const char *origin) {
  qnet_frame *f = s->frame;
  qnet_binding *b = qnet_sema_find(f, name.text);
  if (!b) {
    if (f->binding_count == QNET_SEMA_NAMES) {
      qnet_sema_limit(s, name.loc, "more than %d names in '%s'", QNET_SEMA_NAMES,
                      f->block->name.text);
      return NULL;
    }
    b = qnet_sema_alloc(s, 1, sizeof *b);
    if (!b) return NULL;
    b->name = name.text;
    b->next = f->bindings;
    f->bindings = b;
    f->binding_count++;
  }
  b->value = *value;
  b->value.name = name.text;
  b->value.name_loc = name.loc;
  b->value.origin = origin;
  b->assign = NULL;
  b->param = NULL;
  return b;
}

static void run_assign(qnet_sema *s, qnet_stmt *stmt) {
  const qnet_sema_value v = qnet_sema_eval(s, stmt->value);
  if (qnet_sema_op_find(stmt->name.text)) {
    qnet_sema_error(s, stmt->name.loc, "'%s' is a built-in operation; choose another name",
                    stmt->name.text);
    return;
  }
  qnet_binding *b = qnet_sema_bind(s, stmt->name, &v, "defined here");
  if (b) b->assign = stmt;
  stmt->executed = true;
}

/* A declaration behind the net's `return` still counts. */
static bool is_declaration(const qnet_sema *s, const qnet_stmt *stmt) {
  const bool quantize = stmt->kind == QNET_STMT_QUANTIZE && s->frame == s->net;
  return quantize || stmt->kind == QNET_STMT_TRAIN;
}

static void run_return(qnet_sema *s, qnet_stmt *stmt) {
  qnet_frame *f = s->frame;
  if (f->repeats) {
    qnet_sema_error(s, stmt->loc, "'return' in a repetition; assign to a name and return it after");
    return;
  }
  f->result = qnet_sema_eval(s, stmt->value);
  f->return_loc = stmt->value->loc;
  f->returned = true;
  if (stmt->next && !is_declaration(s, stmt->next) && !stmt->warned)
    qnet_warning(s->diag, stmt->next->loc, "what follows 'return' never runs");
  stmt->warned = true;
}

static void run_repeat(qnet_sema *s, qnet_stmt *stmt) {
  const qnet_sema_value v = qnet_sema_eval(s, stmt->value);
  int64_t count = 0;
  if (!qnet_sema_to_int(s, &v, "the count of 'repeat'", 0, QNET_SEMA_REPEAT, &count)) return;
  s->frame->repeats++;
  for (int64_t i = 0; i < count && !s->stop; i++) {
    if (stmt->name.text) {
      const qnet_sema_value index = qnet_sema_int(i);
      if (!qnet_sema_bind(s, stmt->name, &index, "the index of this repetition")) break;
    }
    if (!qnet_sema_enter(s, stmt->loc)) break;
    qnet_sema_statements(s, &stmt->body);
    qnet_sema_leave(s);
  }
  s->frame->repeats--;
}

static void run_if(qnet_sema *s, const qnet_stmt *stmt) {
  const qnet_sema_value v = qnet_sema_eval(s, stmt->value);
  bool condition = false;
  if (!qnet_sema_to_bool(s, &v, "the condition of 'if'", &condition)) return;
  if (!qnet_sema_enter(s, stmt->loc)) return;
  qnet_sema_statements(s, condition ? &stmt->body : &stmt->otherwise);
  qnet_sema_leave(s);
}

static void run(qnet_sema *s, qnet_stmt *stmt) {
  switch (stmt->kind) {
  case QNET_STMT_ASSIGN: run_assign(s, stmt); break;
  case QNET_STMT_RETURN: run_return(s, stmt); break;
  case QNET_STMT_REPEAT: run_repeat(s, stmt); break;
  case QNET_STMT_IF: run_if(s, stmt); break;
  case QNET_STMT_INPUT: qnet_sema_input(s, stmt); break;
  case QNET_STMT_QUANTIZE: qnet_sema_quantize(s, stmt); break;
  case QNET_STMT_TRAIN: qnet_sema_train(s, stmt); break;
  }
}

void qnet_sema_statements(qnet_sema *s, const qnet_stmt_list *list) {
  for (qnet_stmt *stmt = list->first; stmt && !s->stop; stmt = stmt->next)
    if (!s->frame->returned || is_declaration(s, stmt)) run(s, stmt);
}
