/* qnetc NET.qnet -o FILE: the compiler proper. The kind of output follows the file's suffix. */
#include "codegen/codegen.h"
#include "driver/json.h"
#include "driver/model.h"
#include "ir/verify.h"
#include "passes/pass.h"
#include "support/file.h"
#include <ctype.h>
#include <string.h>

enum { MAX_PATH = 4096, MAX_NAME = 128 };

typedef struct job {
  qnet_session *session;
  char output[MAX_PATH], header[MAX_PATH], name[MAX_NAME];
  qnet_emit kind;
} job;

static const struct {
  const char *suffix;
  qnet_emit kind;
} kinds[] = {{".o", QNET_EMIT_OBJECT},
             {".s", QNET_EMIT_ASSEMBLY},
             {".ll", QNET_EMIT_LLVM_IR},
             {".bc", QNET_EMIT_BITCODE},
             {".so", QNET_EMIT_SHARED}};
enum { KIND_COUNT = sizeof kinds / sizeof kinds[0] };

/* Default output: the input's name with .o, in the current directory. */
static qnet_status choose_output(job *j) {
  const qnet_options *o = &j->session->options;
  qnet_diag *d = j->session->diag;
  if (o->output) {
    if (strlen(o->output) + 4 >= MAX_PATH)
      return qnet_error_in(d, "qnetc", "-o: the path is too long");
    strcpy(j->output, o->output);
  } else if (strcmp(o->input, "-") == 0) {
    return qnet_error_in(d, "qnetc", "standard input has no name; add -o FILE.o");
  } else {
    const char *slash = strrchr(o->input, '/');
    const char *base = slash ? slash + 1 : o->input;
    const bool known = qnet_has_suffix(base, ".qnet") || qnet_has_suffix(base, ".qir");
    const size_t stem = known ? (size_t)(strrchr(base, '.') - base) : strlen(base);
    if (stem + 4 >= MAX_PATH) return qnet_error_in(d, "qnetc", "the input's name is too long");
    snprintf(j->output, sizeof j->output, "%.*s.o", (int)stem, base);
  }
  for (size_t i = 0; i < KIND_COUNT; i++) {
    if (!qnet_has_suffix(j->output, kinds[i].suffix)) continue;
    j->kind = kinds[i].kind;
    const size_t stem = strlen(j->output) - strlen(kinds[i].suffix);
    snprintf(j->header, sizeof j->header, "%.*s.h", (int)stem, j->output);
    return QNET_OK;
  }
  return qnet_error_in(d, "qnetc",
                       "cannot tell what to write from '%s'; use a name that ends in .o, "
                       ".s, .ll, .bc or .so",
                       j->output);
}

static bool is_identifier(const char *name) {
  if (!*name || isdigit((unsigned char)*name)) return false;
  for (; *name; name++)
    if (!isalnum((unsigned char)*name) && *name != '_') return false;
  return true;
}

/* The prefix of the object's symbols: --name, or the net's name made an identifier. */
static qnet_status choose_name(job *j, const char *net) {
  const char *asked = j->session->options.name;
  if (asked && (!is_identifier(asked) || strlen(asked) >= MAX_NAME))
    return qnet_error_in(j->session->diag, "qnetc", "--name takes a C identifier, not '%s'", asked);
  snprintf(j->name, sizeof j->name, "%s", asked ? asked : net);
  for (char *p = j->name; *p; p++)
    if (!isalnum((unsigned char)*p)) *p = '_';
  if (isdigit((unsigned char)j->name[0])) j->name[0] = '_';
  return QNET_OK;
}

static qnet_status write_header(const job *j, const qnet_module *m) {
  qnet_session *s = j->session;
  qnet_strbuf b;
  qnet_strbuf_init(&b, s->allocator);
  qnet_status status = qnet_codegen_header(m, j->name, &b, s->diag);
  if (status == QNET_OK && b.failed) status = qnet_out_of_memory(s->diag);
  if (status == QNET_OK)
    status = qnet_file_write(s->allocator, j->header, b.data, b.length, s->diag);
  qnet_strbuf_free(&b);
  return status;
}

static qnet_status print_report(const job *j, const qnet_module *m, const qnet_target_choice *t) {
  const qnet_region *body = qnet_symbol_find(m, "eval")->body;
  const size_t weights = qnet_codegen_weight_bytes(m);
  const int64_t arena = qnet_type_elements(body->arg[body->arg_count - 1].type);
  if (j->session->options.json)
    return qnet_json_print(
        json_pack("{s:o, s:o, s:s, s:s, s:I, s:I}", "output", qnet_json_text(j->output), "header",
                  qnet_json_text(j->header), "target", t->triple, "machine", t->machine.name,
                  "weight_bytes", (json_int_t)weights, "arena_bytes", (json_int_t)arena),
        j->session->diag);
  printf("%s, %s: %s, %zu bytes of weights, %lld bytes of arena\n", j->output, j->header,
         t->machine.name, weights, (long long)arena);
  return QNET_OK;
}

static qnet_status compile(const job *j, qnet_module *m, const qnet_target_choice *t) {
  const qnet_pipeline_options options = {0};
  qnet_diag *d = j->session->diag;
  QNET_TRY(qnet_pipeline_run(m, qnet_pipeline_rest(m), &options, &t->machine, d));
  QNET_TRY(qnet_codegen_write(m, t, j->kind, j->name, j->output, d));
  QNET_TRY(write_header(j, m));
  return print_report(j, m, t);
}

/* A network with its weights, or a module that has them in it and goes on from its level. */
static qnet_status read_input(qnet_session *s, qnet_module **out) {
  qnet_program program;
  if (qnet_has_suffix(s->options.input, ".qir")) return qnet_model_read(s, out);
  QNET_TRY(qnet_model_load(s, &program));
  *out = program.module;
  return QNET_OK;
}

static qnet_status compile_for(job *j, const qnet_target_choice *t) {
  qnet_module *m;
  QNET_TRY(read_input(j->session, &m));
  qnet_status status = qnet_module_verify(m, j->session->diag);
  if (status == QNET_OK) status = choose_name(j, m->name);
  if (status == QNET_OK) status = compile(j, m, t);
  qnet_module_destroy(m);
  return status;
}

qnet_status qnet_verb_compile(qnet_session *s) {
  const qnet_options *o = &s->options;
  if (o->target && strcmp(o->target, "help") == 0) {
    qnet_target_list(stdout);
    return QNET_OK;
  }
  job j = {.session = s};
  QNET_TRY(choose_output(&j));
  qnet_target_choice choice;
  QNET_TRY(
      qnet_target_choose(o->target ? o->target : "native", o->mcpu, o->mattr, &choice, s->diag));
  const qnet_status status = compile_for(&j, &choice);
  qnet_target_choice_free(&choice);
  return status;
}
