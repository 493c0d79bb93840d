/* Writes objects of random networks for one target, and main.c that runs them on fixed inputs and
 * prints the bits of every logit. With target "reference": prints what the quant interpreter gives.
 * usage: make_cases DIR TARGET CPU FEATURES COUNT SEED   ("-" = default) */
#include "codegen/codegen.h"
#include "driver/predictor.h"
#include "passes/pass.h"
#include "support/file.h"
#include "tests/unit/random_net.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_CLASSES = 256 };

typedef struct writer {
  const char *directory;
  qnet_target_choice target;
  bool reference;
  FILE *main;
  qnet_diag *diag;
} writer;

static const char *option(const char *text) {
  return strcmp(text, "-") == 0 ? NULL : text;
}

static void print_logits(FILE *out, long k, const float *logits, int64_t n) {
  fprintf(out, "%ld", k);
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, &logits[i], sizeof bits);
    fprintf(out, " %08x", bits);
  }
  fprintf(out, "\n");
}

static qnet_status print_reference(const writer *w, const qnet_module *m, const qnet_blob *image,
                                   long k) {
  qnet_predictor *p;
  float logits[MAX_CLASSES];
  QNET_TRY(qnet_predictor_create(qnet_allocator_system(), m, QNET_ENGINE_QUANT, NULL, &p, w->diag));
  const int64_t n = qnet_predictor_classes(p);
  const qnet_status status =
      n > MAX_CLASSES ? QNET_INTERNAL : qnet_predictor_logits(p, image->data, 1, logits, w->diag);
  if (status == QNET_OK) print_logits(stdout, k, logits, n);
  qnet_predictor_destroy(p);
  return status;
}

static qnet_status write_header(const writer *w, const qnet_module *m, long k, const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s/net%ld.h", w->directory, k);
  qnet_strbuf b;
  qnet_strbuf_init(&b, qnet_allocator_system());
  qnet_status status = qnet_codegen_header(m, name, &b, w->diag);
  if (status == QNET_OK)
    status = qnet_file_write(qnet_allocator_system(), path, b.data, b.length, w->diag);
  qnet_strbuf_free(&b);
  return status;
}

static void write_call(const writer *w, const qnet_blob *image, long k) {
  fprintf(w->main, "#include \"net%ld.h\"\nstatic void run%ld(void) {\n", k, k);
  fprintf(w->main, "  static _Alignas(64) unsigned char arena[NET%ld_ARENA_BYTES];\n", k);
  fprintf(w->main, "  static const unsigned char image[] = {");
  for (size_t i = 0; i < image->bytes; i++)
    fprintf(w->main, "%s%d", i ? "," : "", ((const uint8_t *)image->data)[i]);
  fprintf(w->main, "};\n  static float logits[NET%ld_OUTPUT_COUNT];\n", k);
  fprintf(w->main, "  memset(arena, 0xa5, sizeof arena);\n");
  fprintf(w->main, "  if (net%ld_run(image, logits, arena)) exit(1);\n", k);
  fprintf(w->main, "  print(%ld, logits, NET%ld_OUTPUT_COUNT);\n}\n", k, k);
}

static qnet_status write_case(const writer *w, qnet_module *m, const qnet_blob *image, long k) {
  char path[512], name[32];
  snprintf(path, sizeof path, "%s/net%ld.o", w->directory, k);
  snprintf(name, sizeof name, "net%ld", k);
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(m, qnet_pipeline_to(QNET_LEVEL_LOOP), &options, &w->target.machine,
                             w->diag));
  QNET_TRY(qnet_codegen_write(m, &w->target, QNET_EMIT_OBJECT, name, path, w->diag));
  QNET_TRY(write_header(w, m, k, name));
  write_call(w, image, k);
  return QNET_OK;
}

static qnet_status make_case(const writer *w, uint64_t seed, long k) {
  qnet_module *m = qnet_random_net(seed);
  qnet_blob *image = qnet_random_image(m, seed);
  const qnet_status status =
      w->reference ? print_reference(w, m, image, k) : write_case(w, m, image, k);
  qnet_blob_release(image);
  qnet_module_destroy(m);
  return status;
}

static const char prologue[] = "#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
                               "#include <string.h>\n"
                               "static void print(int k, const float *x, int n) {\n"
                               "  printf(\"%d\", k);\n"
                               "  for (int i = 0; i < n; i++) {\n"
                               "    uint32_t bits;\n"
                               "    memcpy(&bits, &x[i], sizeof bits);\n"
                               "    printf(\" %08x\", bits);\n"
                               "  }\n"
                               "  printf(\"\\n\");\n"
                               "}\n";

static qnet_status make_all(writer *w, long count, uint64_t seed) {
  if (!w->reference) fputs(prologue, w->main);
  for (long k = 0; k < count; k++)
    QNET_TRY(make_case(w, seed + (uint64_t)k, k));
  if (w->reference) return QNET_OK;
  fprintf(w->main, "int main(void) {\n");
  for (long k = 0; k < count; k++)
    fprintf(w->main, "  run%ld();\n", k);
  fprintf(w->main, "  return 0;\n}\n");
  return fclose(w->main) == 0 ? QNET_OK : QNET_IO;
}

static qnet_status open_writer(writer *w, char **argv) {
  w->reference = strcmp(argv[2], "reference") == 0;
  if (w->reference) return QNET_OK;
  QNET_TRY(qnet_target_choose(argv[2], option(argv[3]), option(argv[4]), &w->target, w->diag));
  char path[512];
  snprintf(path, sizeof path, "%s/main.c", argv[1]);
  w->main = fopen(path, "w");
  return w->main ? QNET_OK : qnet_error_in(w->diag, path, "cannot write");
}

int main(int argc, char **argv) {
  if (argc != 7) {
    fprintf(stderr, "usage: make_cases DIR TARGET CPU FEATURES COUNT SEED\n");
    return 2;
  }
  writer w = {.directory = argv[1], .diag = qnet_diag_create(qnet_allocator_system())};
  qnet_status status = open_writer(&w, argv);
  if (status == QNET_OK)
    status = make_all(&w, strtol(argv[5], NULL, 10), strtoull(argv[6], NULL, 10));
  qnet_diag_print(w.diag, stderr, false);
  qnet_diag_destroy(w.diag);
  if (!w.reference) qnet_target_choice_free(&w.target);
  return status == QNET_OK ? 0 : 1;
}
