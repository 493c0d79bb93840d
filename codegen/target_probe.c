/* The probe functions are compiled twice: to assembly, in which the target's `refine` looks for
 * instructions, and to an object, whose first bytes tell whether the triple means 64-bit
 * little-endian ELF, the only format written. LLVM reports unknown names on standard error and ends
 * the process on a CPU of another architecture; both happen in a child. */
#include "codegen/target_probe.h"

#include "codegen/child.h"
#include "codegen/llvm_support.h"

#include <ctype.h>
#include <llvm-c/Core.h>
#include <llvm-c/IRReader.h>
#include <llvm/Config/llvm-config.h>
#include <string.h>

enum { ELF_BYTES = 6 }; /* magic, class, byte order */
static const char elf64_little[ELF_BYTES] = {0x7f, 'E', 'L', 'F', 2, 1};

bool qnet_probe_has(const qnet_probe *p, const char *function, const char *text) {
  const size_t length = strlen(function);
  const char *at = p->assembly;
  while ((at = strstr(at, function)) != NULL) {
    const bool label = at[length] == ':' && (at == p->assembly || at[-1] == '\n');
    if (label) break;
    at += length;
  }
  if (at == NULL) return false;
  const char *end = strstr(at, ".size");
  const char *hit = strstr(at + length, text);
  return hit != NULL && (end == NULL || hit < end);
}

/* ---- in the child ---------------------------------------------------------------------------- */

/* A memory buffer's content, or its first `limit` bytes. */
static bool send_code(LLVMTargetMachineRef machine, LLVMModuleRef module, LLVMCodeGenFileType kind,
                      size_t limit, int fd) {
  char *message = NULL;
  LLVMMemoryBufferRef code = NULL;
  if (LLVMTargetMachineEmitToMemoryBuffer(machine, module, kind, &message, &code)) {
    qnet_child_write(2, message, strlen(message));
    return false;
  }
  const size_t size = LLVMGetBufferSize(code);
  return qnet_child_write(fd, LLVMGetBufferStart(code), size < limit ? size : limit);
}

static LLVMModuleRef parse_probe(const qnet_target *t, LLVMTargetMachineRef machine) {
  LLVMMemoryBufferRef text =
      LLVMCreateMemoryBufferWithMemoryRangeCopy(t->probe, strlen(t->probe), "probe");
  LLVMModuleRef module = NULL;
  char *message = NULL;
#if LLVM_VERSION_MAJOR >= 22
  const bool bad = LLVMParseIRInContext2(LLVMContextCreate(), text, &module, &message);
#else
  const bool bad = LLVMParseIRInContext(LLVMContextCreate(), text, &module, &message);
#endif
  if (bad) {
    qnet_child_write(2, message, strlen(message));
    return NULL;
  }
  qnet_llvm_set_target(module, machine);
  return module;
}

/* Nothing is freed: the child ends here. */
static int probe_body(void *ctx, int fd) {
  const qnet_target_choice *c = ctx;
  char *message = NULL;
  LLVMTargetMachineRef machine =
      qnet_llvm_target_machine(c->target, c->triple, c->cpu, c->features, &message);
  if (machine == NULL) {
    if (message != NULL) qnet_child_write(2, message, strlen(message));
    return 1;
  }
  LLVMModuleRef module = parse_probe(c->target, machine);
  if (module == NULL) return 1;
  LLVMModuleRef copy = LLVMCloneModule(module);
  const bool ok = send_code(machine, module, LLVMObjectFile, ELF_BYTES, fd) &&
                  send_code(machine, copy, LLVMAssemblyFile, SIZE_MAX, fd);
  return ok ? 0 : 1;
}

/* LLVM prints its lists of CPUs and features when the CPU is called "help". */
static int help_body(void *ctx, int fd) {
  (void)fd;
  const qnet_target_choice *c = ctx;
  char *message = NULL;
  return qnet_llvm_target_machine(c->target, c->triple, "help", "", &message) != NULL ? 0 : 1;
}

/* ---- unknown names --------------------------------------------------------------------------- */

typedef struct name_lists {
  qnet_arena arena;
  const char **cpu, **feature;
  size_t cpus, features;
} name_lists;

/* The word of a line "  name  - text", or NULL. */
static const char *listed_name(qnet_arena *arena, const char *line) {
  if (line[0] != ' ' || line[1] != ' ' || !isalnum((unsigned char)line[2])) return NULL;
  const size_t length = strcspn(line + 2, " \n");
  return qnet_arena_strndup(arena, line + 2, length);
}

static void parse_help(const char *text, name_lists *l) {
  size_t lines = 1;
  for (const char *p = text; *p != '\0'; p++)
    lines += *p == '\n';
  l->cpu = qnet_arena_array(&l->arena, lines, sizeof *l->cpu);
  l->feature = qnet_arena_array(&l->arena, lines, sizeof *l->feature);
  if (l->cpu == NULL || l->feature == NULL) return;
  bool in_features = false;
  for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, "Available features", 18) == 0) in_features = true;
    const char *name = listed_name(&l->arena, line);
    if (name == NULL) continue;
    if (in_features) {
      l->feature[l->features++] = name;
    } else {
      l->cpu[l->cpus++] = name;
    }
  }
}

static void load_names(const qnet_target_choice *c, name_lists *l, qnet_diag *d) {
  qnet_child_result r;
  qnet_target_choice copy = *c;
  qnet_arena_init(&l->arena, qnet_allocator_system());
  if (qnet_child_run(qnet_allocator_system(), help_body, &copy, &r, d) == QNET_OK) {
    parse_help(qnet_strbuf_text(&r.err), l);
  }
  qnet_child_result_free(&r);
}

static void note_all(qnet_diag *d, const char *what, const char *const *names, size_t count) {
  qnet_strbuf text;
  qnet_strbuf_init(&text, qnet_allocator_system());
  for (size_t i = 0; i < count; i++)
    qnet_strbuf_printf(&text, " %s", names[i]);
  qnet_note(d, QNET_NO_LOC, "known %s:%s", what, qnet_strbuf_text(&text));
  qnet_strbuf_free(&text);
}

static void report_unknown(qnet_diag *d, const char *flag, const char *what, const char *word,
                           const char *const *names, size_t count) {
  const char *near = qnet_nearest(word, names, count);
  if (near != NULL) {
    qnet_error_in(d, flag, "unknown %s '%s'; did you mean '%s'?", what, word, near);
    return;
  }
  qnet_error_in(d, flag, "unknown %s '%s'", what, word);
  note_all(d, what, names, count);
}

/* One report a name; LLVM repeats its lines. */
static bool already_said(const char *text, const char *line, size_t length) {
  for (const char *p = text; p < line; p++) {
    if (strncmp(p, line, length) == 0) return true;
  }
  return false;
}

/* Reports each name that LLVM said it does not know; false when it said nothing of the kind. */
static bool report_unrecognized(const qnet_target_choice *c, const char *text, qnet_diag *d) {
  static const char phrase[] = "' is not a recognized ";
  if (strstr(text, phrase) == NULL) return false;
  name_lists l = {0};
  load_names(c, &l, d);
  const char *end;
  for (const char *at = text; (end = strstr(at, phrase)) != NULL; at = end + 1) {
    const char *begin = end;
    while (begin > text && begin[-1] != '\'' && begin[-1] != '\n')
      begin--;
    if (already_said(text, begin, (size_t)(end - begin) + sizeof phrase)) continue;
    const bool cpu = strncmp(end + sizeof phrase - 1, "processor", 9) == 0;
    if (!cpu && (*begin == '+' || *begin == '-')) begin++;
    const char *word = qnet_arena_strndup(&l.arena, begin, (size_t)(end - begin));
    if (word == NULL) break;
    report_unknown(d, cpu ? "--mcpu" : "--mattr", cpu ? "CPU" : "feature", word,
                   cpu ? l.cpu : l.feature, cpu ? l.cpus : l.features);
  }
  qnet_arena_clear(&l.arena);
  return true;
}

/* ---- reading the answer ---------------------------------------------------------------------- */

static qnet_status refused(const qnet_target_choice *c, const char *said, qnet_diag *d) {
  const int length = (int)strcspn(said, "\n");
  return qnet_error_in(d, c->triple, "LLVM cannot make code for CPU '%s' with features '%s'%s%.*s",
                       c->cpu, c->features, length > 0 ? ": " : "", length, said);
}

static qnet_status read_answer(qnet_target_choice *c, const qnet_child_result *r, qnet_diag *d) {
  const char *said = qnet_strbuf_text(&r->err);
  if (report_unrecognized(c, said, d)) return QNET_ERROR;
  if (r->exit_code != 0 || r->out.length < ELF_BYTES) return refused(c, said, d);
  if (memcmp(r->out.data, elf64_little, ELF_BYTES) != 0) {
    return qnet_error_in(d, c->triple,
                         "only 64-bit little-endian ELF objects can be written; use a triple such "
                         "as %s",
                         c->target->triple);
  }
  const qnet_probe probe = {.assembly = r->out.data + ELF_BYTES};
  if (strstr(probe.assembly, "__") != NULL) {
    return qnet_error_in(d, c->triple,
                         "CPU '%s' with features '%s' lacks hardware multiplication or floating "
                         "point; enable it with --mattr",
                         c->cpu, c->features);
  }
  c->target->refine(&probe, &c->machine);
  return QNET_OK;
}

qnet_status qnet_target_probe(qnet_target_choice *c, qnet_diag *d) {
  qnet_child_result r;
  qnet_status status = qnet_child_run(qnet_allocator_system(), probe_body, c, &r, d);
  if (status == QNET_OK) status = read_answer(c, &r, d);
  qnet_child_result_free(&r);
  return status;
}
