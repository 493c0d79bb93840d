/* qnetc opt: reads a module of any level (or a .qnet, with its weights where given), runs passes,
 * prints the result. */
#include "codegen/target.h"
#include "driver/model.h"
#include "ir/ops.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/pass.h"
#include "support/file.h"
#include <string.h>

static void list_passes(void) {
  size_t count;
  const qnet_pass *table = qnet_pass_table(&count);
  for (size_t i = 0; i < count; i++)
    printf("%-22s %-5s -> %-5s %s\n", table[i].name, qnet_level_name(table[i].from),
           qnet_level_name(table[i].to), table[i].doc);
}

static qnet_status list_ops(qnet_session *s) {
  qnet_strbuf b;
  qnet_strbuf_init(&b, s->allocator);
  qnet_ops_print(&b);
  fputs(qnet_strbuf_text(&b), stdout);
  const bool failed = b.failed;
  qnet_strbuf_free(&b);
  return failed ? qnet_out_of_memory(s->diag) : QNET_OK;
}

/* The part of the standard pipeline that leads from the module's level to the wanted one. */
static qnet_status standard_pipeline(qnet_session *s, const qnet_module *m, const char **out) {
  static const qnet_level levels[] = {QNET_LEVEL_QUANT, QNET_LEVEL_BITS, QNET_LEVEL_LOOP};
  for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
    if (strcmp(s->options.to, qnet_level_name(levels[i])) != 0) continue;
    if (m->level != QNET_LEVEL_NN)
      return qnet_error_in(s->diag, "qnetc",
                           "--to starts at level nn; use --passes for this %s module",
                           qnet_level_name(m->level));
    *out = qnet_pipeline_to(levels[i]);
    return QNET_OK;
  }
  return qnet_error_in(s->diag, "qnetc", "--to takes quant, bits or loop, not '%s'", s->options.to);
}

static qnet_status run_passes(qnet_session *s, qnet_module *m, const qnet_machine *machine) {
  const qnet_options *o = &s->options;
  const qnet_pipeline_options pipeline = {.verify_each = o->verify_each,
                                          .time_passes = o->time_passes,
                                          .print_before_all = o->print_before_all,
                                          .print_after_all = o->print_after_all,
                                          .print_before = o->print_before,
                                          .print_after = o->print_after,
                                          .print_to = stderr};
  const char *text = o->passes;
  if (o->to) QNET_TRY(standard_pipeline(s, m, &text));
  if (!text) return QNET_OK;
  QNET_TRY(qnet_pipeline_run(m, text, &pipeline, machine, s->diag));
  return qnet_module_verify(m, s->diag);
}

static qnet_status print_module(qnet_session *s, const qnet_module *m) {
  qnet_strbuf b;
  qnet_strbuf_init(&b, s->allocator);
  qnet_module_print(m, s->options.elide ? QNET_PRINT_ELIDE : 0, &b);
  const char *path = s->options.output ? s->options.output : "-";
  const qnet_status status =
      b.failed ? qnet_out_of_memory(s->diag)
               : qnet_file_write(s->allocator, path, qnet_strbuf_text(&b), b.length, s->diag);
  qnet_strbuf_free(&b);
  return status;
}

static qnet_status transform(qnet_session *s, qnet_module *m) {
  const qnet_options *o = &s->options;
  QNET_TRY(qnet_module_verify(m, s->diag));
  if (!o->target && !o->mcpu && !o->mattr) {
    QNET_TRY(run_passes(s, m, NULL));
    return print_module(s, m);
  }
  qnet_target_choice choice;
  QNET_TRY(
      qnet_target_choose(o->target ? o->target : "native", o->mcpu, o->mattr, &choice, s->diag));
  qnet_status status = run_passes(s, m, &choice.machine);
  qnet_target_choice_free(&choice);
  return status == QNET_OK ? print_module(s, m) : status;
}

qnet_status qnet_verb_opt(qnet_session *s) {
  if (s->options.help_passes) {
    list_passes();
    return QNET_OK;
  }
  if (s->options.help_ops) return list_ops(s);
  qnet_module *m = NULL;
  QNET_TRY(qnet_model_read(s, &m));
  const qnet_status status = transform(s, m);
  qnet_module_destroy(m);
  return status;
}
