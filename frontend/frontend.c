/* .qnet text to an nn module: scan and parse, then analyse. */
#include "frontend/frontend.h"

#include "frontend/sema.h"
#include "frontend/syntax.h"

#include <string.h>

static qnet_status parse(qnet_arena *arena, uint32_t buffer, const char *text, size_t length,
                         qnet_file_ast *file, qnet_diag *d) {
  qnet_syntax *p = qnet_arena_alloc(arena, sizeof *p);
  if (!p) return qnet_out_of_memory(d);
  p->arena = arena;
  p->diag = d;
  p->text = text;
  p->length = (uint32_t)length;
  p->buffer = buffer;
  const qnet_status status = qnet_syntax_run(p);
  *file = p->file;
  file->buffer = buffer;
  return status;
}

static qnet_status analyse(qnet_arena *arena, qnet_file_ast *file, const char *const *parameters,
                           int parameter_count, qnet_program *out, qnet_diag *d) {
  qnet_sema *s = qnet_arena_alloc(arena, sizeof *s);
  if (!s) return qnet_out_of_memory(d);
  s->arena = arena;
  s->diag = d;
  s->file = file;
  s->module = out->module;
  s->program = out;
  return qnet_sema_run(s, parameters, parameter_count);
}

static qnet_status run(const qnet_allocator *a, qnet_arena *scratch, uint32_t buffer,
                       const char *text, size_t length, const char *const *parameters,
                       int parameter_count, qnet_program *out, qnet_diag *d) {
  qnet_file_ast file;
  QNET_TRY(parse(scratch, buffer, text, length, &file, d));
  const char *name = file.nets.first ? file.nets.first->name.text : "net";
  out->module = qnet_module_create(a, name, QNET_LEVEL_NN);
  if (!out->module) return qnet_out_of_memory(d);
  return analyse(scratch, &file, parameters, parameter_count, out, d);
}

qnet_status qnet_frontend_parse(const qnet_allocator *a, const char *name, const char *text,
                                size_t length, const char *const *parameters, int parameter_count,
                                qnet_program *out, qnet_diag *d) {
  memset(out, 0, sizeof *out);
  qnet_recipe_defaults(&out->recipe);
  if (length > QNET_SOURCE_MAX)
    return qnet_error_in(d, name, "a .qnet file has at most %d bytes; this has %zu",
                         QNET_SOURCE_MAX, length);
  const uint32_t buffer = d ? qnet_diag_add_buffer(d, name, text, length) : 1;
  if (buffer == 0) return qnet_out_of_memory(d);
  qnet_arena scratch;
  qnet_arena_init(&scratch, a);
  const qnet_status status =
      run(a, &scratch, buffer, text, length, parameters, parameter_count, out, d);
  qnet_arena_clear(&scratch);
  if (status == QNET_OK) return QNET_OK;
  qnet_module_destroy(out->module);
  out->module = NULL;
  return status;
}
