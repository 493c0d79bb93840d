/* The C99 header beside an object: sizes, shapes, a hash of the model, and the prototypes with
 * their contract. */
#include "codegen/codegen.h"
#include "ir/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

enum { ABI_VERSION = 1, ARENA_ALIGN = 64, MAX_NAME = 200 };

typedef struct facts {
  char macro[MAX_NAME + 1]; /* the name in capitals */
  const char *name;
  const qnet_type *input, *output, *arena;
  size_t weight_bytes;
  uint64_t hash;
} facts;

/* ---- the hash: FNV-1a over the text without contents, and the contents ------------------------
 */

static uint64_t hash_bytes(uint64_t h, const void *data, size_t size) {
  const unsigned char *p = data;
  for (size_t i = 0; i < size; i++)
    h = (h ^ p[i]) * UINT64_C(0x100000001b3);
  return h;
}

static qnet_status hash_module(const qnet_module *m, uint64_t *hash, qnet_diag *d) {
  qnet_strbuf text;
  qnet_strbuf_init(&text, m->allocator);
  qnet_module_print(m, QNET_PRINT_ELIDE, &text);
  uint64_t h = hash_bytes(UINT64_C(0xcbf29ce484222325), qnet_strbuf_text(&text), text.length);
  const int failed = text.failed;
  qnet_strbuf_free(&text);
  if (failed) return qnet_out_of_memory(d);
  for (const qnet_symbol *s = m->first_symbol; s != NULL; s = s->next) {
    if (s->blob != NULL) h = hash_bytes(h, s->blob->data, s->blob->bytes);
  }
  *hash = h;
  return QNET_OK;
}

/* ---- facts ----------------------------------------------------------------------------------- */

static qnet_status check_name(const char *name, qnet_diag *d) {
  bool good = name[0] != '\0' && !isdigit((unsigned char)name[0]) && strlen(name) <= MAX_NAME;
  for (const char *p = name; *p != '\0'; p++)
    good = good && (isalnum((unsigned char)*p) || *p == '_');
  if (good) return QNET_OK;
  return qnet_error_in(d, name, "not a C identifier of at most %d characters", (int)MAX_NAME);
}

static qnet_status find_facts(const qnet_module *m, const char *name, facts *f, qnet_diag *d) {
  QNET_TRY(check_name(name, d));
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC || eval->body->arg_count != 3) {
    return qnet_error_in(d, m->name,
                         "a header needs @eval(input, output, arena); run the pass plan-memory");
  }
  f->name = name;
  for (size_t i = 0; name[i] != '\0'; i++) {
    f->macro[i] = (char)toupper((unsigned char)name[i]);
  }
  f->input = eval->body->arg[0].type;
  f->output = eval->body->arg[1].type;
  f->arena = eval->body->arg[2].type;
  f->weight_bytes = qnet_codegen_weight_bytes(m);
  return hash_module(m, &f->hash, d);
}

static int64_t bytes_of(const qnet_type *type) {
  return qnet_type_elements(type) * qnet_dtype_bytes(type->dtype);
}

/* ---- text ------------------------------------------------------------------------------------ */

static void put_shape(qnet_strbuf *out, const qnet_type *type) {
  for (int i = 0; i < type->rank; i++) {
    qnet_strbuf_printf(out, "%s%" PRId64, i > 0 ? ", " : "", type->dim[i]);
  }
}

static void put_macros(qnet_strbuf *out, const facts *f) {
  const char *n = f->macro;
  qnet_strbuf_printf(out, "/* Input: %s, row-major", qnet_dtype_name(f->input->dtype));
  if (f->input->rank == 3) qnet_strbuf_puts(out, " H,W,C");
  qnet_strbuf_puts(out, ". Output: ");
  qnet_strbuf_printf(out, "%s. */\n", qnet_dtype_name(f->output->dtype));
  qnet_strbuf_printf(out, "#define %s_INPUT_SHAPE {", n);
  put_shape(out, f->input);
  qnet_strbuf_printf(out, "}\n#define %s_INPUT_DTYPE \"%s\"\n", n,
                     qnet_dtype_name(f->input->dtype));
  qnet_strbuf_printf(out, "#define %s_INPUT_BYTES %" PRId64 "\n", n, bytes_of(f->input));
  qnet_strbuf_printf(out, "#define %s_OUTPUT_COUNT %" PRId64 "\n", n,
                     qnet_type_elements(f->output));
  qnet_strbuf_printf(out, "#define %s_OUTPUT_BYTES %" PRId64 "\n", n, bytes_of(f->output));
  qnet_strbuf_printf(out, "#define %s_ARENA_BYTES %" PRId64 "\n", n, bytes_of(f->arena));
  qnet_strbuf_printf(out, "#define %s_ARENA_ALIGN %d\n", n, (int)ARENA_ALIGN);
  qnet_strbuf_printf(out, "#define %s_WEIGHT_BYTES %zu\n", n, f->weight_bytes);
  qnet_strbuf_printf(out, "#define %s_ABI_VERSION %d\n", n, (int)ABI_VERSION);
  qnet_strbuf_printf(out, "#define %s_MODEL_HASH 0x%016" PRIx64 "u\n\n", n, f->hash);
}

static void put_prototypes(qnet_strbuf *out, const facts *f) {
  qnet_strbuf_printf(
      out,
      "/* Runs the model on one input.\n"
      " *   in     %s_INPUT_BYTES bytes, read only\n"
      " *   out    %s_OUTPUT_BYTES bytes, all written\n"
      " *   arena  %s_ARENA_BYTES bytes of scratch memory, aligned to %s_ARENA_ALIGN; its content\n"
      " *          need not be set and means nothing afterwards\n"
      " * in and out are aligned as their element type; the three do not overlap. Re-entrant: "
      "each\n"
      " * thread brings its own arena. Returns 0; 1 when a pointer is NULL or the arena is not\n"
      " * aligned (then nothing was written). */\n",
      f->macro, f->macro, f->macro, f->macro);
  qnet_strbuf_printf(out, "int %s_run(const void *in, void *out, void *arena);\n\n", f->name);
  qnet_strbuf_printf(
      out,
      "/* The same on several threads. parallel_for must call body(arg, begin, end) for disjoint\n"
      " * ranges that cover 0..n, in any order and on any threads, and return when all are done.\n"
      " * ctx is handed through. The result does not depend on the ranges. */\n"
      "int %s_run_mt(const void *in, void *out, void *arena,\n"
      "    void (*parallel_for)(void *ctx, void (*body)(void *arg, int64_t begin, int64_t end),\n"
      "                         void *arg, int64_t n),\n"
      "    void *ctx);\n\n",
      f->name);
}

qnet_status qnet_codegen_header(const qnet_module *m, const char *name, qnet_strbuf *out,
                                qnet_diag *d) {
  facts f = {.name = NULL};
  QNET_TRY(find_facts(m, name, &f, d));
  qnet_strbuf_printf(
      out, "/* %s: a model compiled by qnetc. Link with the object of that name. */\n", name);
  qnet_strbuf_printf(out, "#ifndef %s_H\n#define %s_H\n\n#include <stdint.h>\n\n", f.macro,
                     f.macro);
  qnet_strbuf_puts(out, "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n");
  put_macros(out, &f);
  put_prototypes(out, &f);
  qnet_strbuf_puts(out, "#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
  return out->failed ? qnet_out_of_memory(d) : QNET_OK;
}
