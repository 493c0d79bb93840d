/* Files: everything is made in memory and goes through the one file writer, so that a failure
 * leaves an old file alone. */
#include "codegen/compile.h"
#include "codegen/link.h"
#include "support/file.h"

#include <string.h>

/* What a deployed model's entries take: input, output, arena. */
enum { ENTRY_ARGS = 3 };

static qnet_status check_entry(const qnet_module *m, qnet_diag *d) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC) {
    return qnet_error_in(d, m->name, "the module has no function @eval");
  }
  if (eval->body->arg_count == ENTRY_ARGS && qnet_emit_has_arena(eval)) return QNET_OK;
  return qnet_error(d, eval->loc,
                    "an object needs @eval(input, output, arena); run the pass plan-memory");
}

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash != NULL ? slash + 1 : path;
}

qnet_status qnet_codegen_write(const qnet_module *m, const qnet_target_choice *t, qnet_emit kind,
                               const char *name, const char *path, qnet_diag *d) {
  QNET_TRY(check_entry(m, d));
  const qnet_emit_options options = {.name = name, .target = t};
  const bool shared = kind == QNET_EMIT_SHARED;
  qnet_strbuf code, linked;
  qnet_strbuf_init(&code, m->allocator);
  qnet_strbuf_init(&linked, m->allocator);
  qnet_status status =
      qnet_codegen_compile(m, &options, shared ? QNET_EMIT_OBJECT : kind, &code, d);
  if (status == QNET_OK && shared) {
    status = qnet_link_shared(m->allocator, t, &code, base_name(path), &linked, d);
  }
  if (status == QNET_OK) {
    const qnet_strbuf *product = shared ? &linked : &code;
    status = qnet_file_write(m->allocator, path, product->data, product->length, d);
  }
  qnet_strbuf_free(&code);
  qnet_strbuf_free(&linked);
  return status;
}

size_t qnet_codegen_weight_bytes(const qnet_module *m) {
  size_t bytes = 0;
  for (const qnet_symbol *s = m->first_symbol; s != NULL; s = s->next) {
    if (s->kind != QNET_SYMBOL_CONST) continue;
    bytes += (size_t)(qnet_type_elements(s->type) * qnet_dtype_bytes(s->type->dtype));
  }
  return bytes;
}
