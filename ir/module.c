/* Modules and their symbols: creation, lookup, destruction. */
#include "ir/intern.h"
#include <string.h>

const char *qnet_level_name(qnet_level level) {
  static const char *const names[] = {"nn", "quant", "bits", "loop"};
  return names[level];
}

qnet_module *qnet_module_create(const qnet_allocator *a, const char *name, qnet_level level) {
  qnet_module *m = qnet_alloc(a, sizeof *m);
  if (!m) return NULL;
  m->allocator = a;
  m->level = level;
  qnet_arena_init(&m->arena, a);
  m->interned = qnet_arena_alloc(&m->arena, sizeof *m->interned);
  if (m->interned) m->name = qnet_module_string(m, name);
  if (m->name) return m;
  qnet_module_destroy(m);
  return NULL;
}

void qnet_module_destroy(qnet_module *m) {
  if (!m) return;
  for (qnet_symbol *s = m->first_symbol; s; s = s->next)
    qnet_blob_release(s->blob);
  qnet_interned_free(m);
  qnet_arena_clear(&m->arena);
  qnet_free(m->allocator, m, sizeof *m);
}

/* ---- symbols --------------------------------------------------------------------------------- */

qnet_symbol *qnet_symbol_find(const qnet_module *m, const char *name) {
  const qnet_string_entry *e = qnet_string_lookup(m, name);
  return e ? e->symbol : NULL;
}

/* A symbol that is not in the module yet, or NULL when the name is taken or memory is out. */
static qnet_symbol *new_symbol(qnet_module *m, qnet_symbol_kind kind, const char *name,
                               qnet_loc loc) {
  const qnet_string_entry *e = qnet_string_enter(m, name);
  if (!e || e->symbol) return NULL;
  qnet_symbol *s = qnet_arena_alloc(&m->arena, sizeof *s);
  if (!s) {
    m->failed = true;
    return NULL;
  }
  s->kind = kind;
  s->name = e->text;
  s->loc = loc;
  return s;
}

static qnet_symbol *append_symbol(qnet_module *m, qnet_symbol *s) {
  qnet_string_lookup(m, s->name)->symbol = s;
  if (m->last_symbol)
    m->last_symbol->next = s;
  else
    m->first_symbol = s;
  m->last_symbol = s;
  return s;
}

static qnet_region *new_body(qnet_module *m, qnet_symbol *function, const qnet_type *const *args,
                             int arg_count) {
  qnet_region *body = qnet_arena_alloc(&m->arena, sizeof *body);
  if (!body || !qnet_region_init_args(m, body, args, arg_count)) {
    m->failed = true;
    return NULL;
  }
  body->function = function;
  return body;
}

qnet_symbol *qnet_symbol_add_func(qnet_module *m, const char *name, const qnet_type *const *args,
                                  int arg_count, qnet_loc loc) {
  qnet_symbol *s = new_symbol(m, QNET_SYMBOL_FUNC, name, loc);
  if (!s) return NULL;
  s->body = new_body(m, s, args, arg_count);
  return s->body ? append_symbol(m, s) : NULL;
}

qnet_symbol *qnet_symbol_add_data(qnet_module *m, qnet_symbol_kind kind, const char *name,
                                  const qnet_type *type, qnet_blob *blob, qnet_loc loc) {
  if (!type) {
    m->failed = true;
    return NULL;
  }
  qnet_symbol *s = new_symbol(m, kind, name, loc);
  if (!s) return NULL;
  s->type = type;
  s->blob = qnet_blob_retain(blob);
  return append_symbol(m, s);
}

static qnet_table *new_table(qnet_arena *arena, int bits, int codes, int channels,
                             bool with_thresholds) {
  const size_t n = (size_t)codes, rows = (size_t)channels;
  qnet_table *t = qnet_arena_alloc(arena, sizeof *t);
  if (!t) return NULL;
  t->bits = bits;
  t->codes = codes;
  t->channels = channels;
  t->level = qnet_arena_array(arena, rows, n * sizeof *t->level);
  t->scale = qnet_arena_array(arena, rows, sizeof *t->scale);
  if (!t->level || !t->scale) return NULL;
  if (!with_thresholds) return t;
  t->threshold = qnet_arena_array(arena, rows, (n - 1) * sizeof *t->threshold);
  t->perm = qnet_arena_alloc(arena, n);
  return t->threshold && t->perm ? t : NULL;
}

qnet_symbol *qnet_symbol_add_table(qnet_module *m, const char *name, int bits, int codes,
                                   int channels, bool with_thresholds, qnet_loc loc) {
  qnet_symbol *s = new_symbol(m, QNET_SYMBOL_TABLE, name, loc);
  if (!s) return NULL;
  if (codes >= 1 && channels >= 1)
    s->table = new_table(&m->arena, bits, codes, channels, with_thresholds);
  if (!s->table) {
    m->failed = true;
    return NULL;
  }
  return append_symbol(m, s);
}

void qnet_symbol_set_blob(qnet_symbol *s, qnet_blob *blob) {
  qnet_blob *old = s->blob;
  s->blob = qnet_blob_retain(blob);
  qnet_blob_release(old);
}

static void unlink_symbol(qnet_module *m, qnet_symbol *s) {
  qnet_symbol *prev = NULL;
  for (qnet_symbol **link = &m->first_symbol; *link; link = &(*link)->next) {
    if (*link == s) {
      *link = s->next;
      break;
    }
    prev = *link;
  }
  if (m->last_symbol == s) m->last_symbol = prev;
  s->next = NULL;
}

void qnet_symbol_remove(qnet_module *m, qnet_symbol *s) {
  unlink_symbol(m, s);
  qnet_string_entry *e = qnet_string_lookup(m, s->name);
  if (e && e->symbol == s) e->symbol = NULL;
  qnet_blob_release(s->blob);
  s->blob = NULL;
}
