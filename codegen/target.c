/* The choice of a target: a name, alias or triple, a CPU and a feature string become a description,
 * LLVM's spelling of them, and a machine. */
#include "codegen/target.h"

#include "codegen/target_probe.h"
#include "support/strbuf.h"

#include <ctype.h>
#include <llvm-c/Core.h>
#include <llvm-c/TargetMachine.h>
#include <string.h>

static const qnet_target *const targets[] = {
    &qnet_target_x86_64,
    &qnet_target_aarch64,
    &qnet_target_riscv64,
};
enum { TARGETS = sizeof targets / sizeof targets[0], MAX_NAMES = 32 };

/* ---- names ----------------------------------------------------------------------------------- */

static bool is_word(const char *word, const char *text, size_t length) {
  return strlen(word) == length && strncmp(word, text, length) == 0;
}

static const qnet_target *find_target(const char *name, size_t length) {
  for (size_t i = 0; i < TARGETS; i++) {
    if (is_word(targets[i]->name, name, length)) return targets[i];
    for (const char *const *alias = targets[i]->aliases; *alias != NULL; alias++) {
      if (is_word(*alias, name, length)) return targets[i];
    }
  }
  return NULL;
}

static qnet_status unknown_target(const char *name, qnet_diag *d) {
  const char *names[MAX_NAMES] = {"native"};
  size_t count = 1;
  for (size_t i = 0; i < TARGETS; i++) {
    names[count++] = targets[i]->name;
    for (const char *const *a = targets[i]->aliases; *a != NULL && count < MAX_NAMES - TARGETS; a++)
      names[count++] = *a;
  }
  const char *near = qnet_nearest(name, names, count);
  if (near != NULL) {
    return qnet_error_in(d, "--target", "unknown target '%s'; did you mean '%s'?", name, near);
  }
  return qnet_error_in(d, "--target",
                       "unknown target '%s'; --target=help lists the known ones, a triple such as "
                       "%s is understood too",
                       name, targets[0]->triple);
}

static char *copy_text(const char *text) {
  const size_t size = strlen(text) + 1;
  char *copy = qnet_alloc(qnet_allocator_system(), size);
  if (copy != NULL) memcpy(copy, text, size);
  return copy;
}

/* Copies a string of LLVM's and releases it. */
static char *take_message(char *message) {
  char *copy = copy_text(message);
  LLVMDisposeMessage(message);
  return copy;
}

static qnet_status resolve_name(const char *name, qnet_target_choice *out, qnet_diag *d) {
  const bool native = strcmp(name, "native") == 0;
  const bool triple = !native && strchr(name, '-') != NULL &&
                      find_target(name, strlen(name)) == NULL; /* "x86-64" is an alias */
  if (native) {
    out->triple = take_message(LLVMGetDefaultTargetTriple());
  } else if (triple) {
    out->triple = take_message(LLVMNormalizeTargetTriple(name));
  }
  if ((native || triple) && out->triple == NULL) return qnet_out_of_memory(d);
  const char *arch = out->triple != NULL ? out->triple : name;
  out->host = native;
  out->target = find_target(arch, strcspn(arch, out->triple != NULL ? "-" : ""));
  if (out->target == NULL) {
    return native ? qnet_error_in(d, "--target", "this machine (%s) is not a known target", arch)
                  : unknown_target(name, d);
  }
  if (out->triple == NULL) out->triple = copy_text(out->target->triple);
  return out->triple != NULL ? QNET_OK : qnet_out_of_memory(d);
}

/* ---- CPU and features ------------------------------------------------------------------------ */

static bool is_given(const char *text) {
  return text != NULL && text[0] != '\0';
}

static qnet_status check_characters(const char *flag, const char *text, const char *others,
                                    qnet_diag *d) {
  for (const char *p = text; *p != '\0'; p++) {
    if (isalnum((unsigned char)*p) || strchr(others, *p) != NULL) continue;
    return qnet_error_in(d, flag, "'%s' has a character that no name has: '%c'", text, *p);
  }
  return QNET_OK;
}

static qnet_status resolve_cpu(const char *cpu, qnet_target_choice *out, qnet_diag *d) {
  if (is_given(cpu)) {
    QNET_TRY(check_characters("--mcpu", cpu, "._-+", d));
    /* "help" makes LLVM print its lists on the standard error. */
    if (strcmp(cpu, "help") == 0) cpu = "help-is-not-a-cpu";
    out->cpu = copy_text(cpu);
  } else if (out->host) {
    out->cpu = take_message(LLVMGetHostCPUName());
  } else {
    out->cpu = copy_text(out->target->cpu);
  }
  return out->cpu != NULL ? QNET_OK : qnet_out_of_memory(d);
}

/* Appends a user's list "a,+b,-c", every name with a sign. */
static void append_features(qnet_strbuf *b, const char *list) {
  while (*list != '\0') {
    const size_t length = strcspn(list, ", ");
    if (length > 0) {
      if (b->length > 0) qnet_strbuf_puts(b, ",");
      if (*list != '+' && *list != '-') qnet_strbuf_puts(b, "+");
      qnet_strbuf_append(b, list, length);
    }
    list += length;
    list += strspn(list, ", ");
  }
}

/* The host's features, or the target's default ones, hold only for the CPU they belong to. */
static qnet_status resolve_features(const char *features, bool cpu_given, qnet_target_choice *out,
                                    qnet_diag *d) {
  qnet_strbuf b;
  qnet_strbuf_init(&b, qnet_allocator_system());
  if (out->host && !cpu_given) {
    char *of_host = LLVMGetHostCPUFeatures();
    append_features(&b, of_host);
    LLVMDisposeMessage(of_host);
  } else if (strcmp(out->cpu, out->target->cpu) == 0) {
    append_features(&b, out->target->features);
  }
  qnet_status status = QNET_OK;
  if (is_given(features)) status = check_characters("--mattr", features, "._-+, ", d);
  if (status == QNET_OK && is_given(features)) append_features(&b, features);
  if (status == QNET_OK) {
    out->features = b.failed ? NULL : copy_text(qnet_strbuf_text(&b));
    if (out->features == NULL) status = qnet_out_of_memory(d);
  }
  qnet_strbuf_free(&b);
  return status;
}

/* ---- public ---------------------------------------------------------------------------------- */

static qnet_status resolve(const char *name, const char *cpu, const char *features,
                           qnet_target_choice *out, qnet_diag *d) {
  QNET_TRY(resolve_name(name, out, d));
  QNET_TRY(resolve_cpu(cpu, out, d));
  QNET_TRY(resolve_features(features, is_given(cpu), out, d));
  return qnet_target_probe(out, d);
}

qnet_status qnet_target_choose(const char *name, const char *cpu, const char *features,
                               qnet_target_choice *out, qnet_diag *d) {
  memset(out, 0, sizeof *out);
  const qnet_status status = resolve(is_given(name) ? name : "native", cpu, features, out, d);
  if (status != QNET_OK) qnet_target_choice_free(out);
  return status;
}

static void free_text(char *text) {
  if (text != NULL) qnet_free(qnet_allocator_system(), text, strlen(text) + 1);
}

void qnet_target_choice_free(qnet_target_choice *c) {
  free_text(c->triple);
  free_text(c->cpu);
  free_text(c->features);
  memset(c, 0, sizeof *c);
}

void qnet_target_list(FILE *out) {
  fprintf(out, "%-10s %s\n", "native", "this machine, its CPU and features");
  for (size_t i = 0; i < TARGETS; i++) {
    const qnet_target *t = targets[i];
    fprintf(out, "%-10s %s (%s, CPU %s)\n", t->name, t->doc, t->triple, t->cpu);
  }
}
