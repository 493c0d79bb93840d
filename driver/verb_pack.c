/* qnetc pack: weights as they are deployed, codes and integer levels without the f32 weights that
 * training needs. */
#include "driver/json.h"
#include "driver/model.h"
#include "driver/packed.h"
#include "ir/ops.h"
#include <string.h>
#include <sys/stat.h>

static bool same_file(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static qnet_status check_output(const qnet_session *s) {
  const qnet_options *o = &s->options;
  if (strcmp(o->output, "-") == 0)
    return qnet_error_in(s->diag, "qnetc", "-o takes a file, not standard output");
  if (!same_file(o->output, o->weights)) return QNET_OK;
  return qnet_error_in(s->diag, o->output,
                       "would replace the weights that it is packed from, and they could not be "
                       "trained any more; give another name to -o");
}

static int count_quantizers(const qnet_module *m) {
  int count = 0;
  for (const qnet_op *op = qnet_symbol_find(m, "eval")->body->first; op; op = op->next)
    count += op->opcode == QNET_OP_QUANTIZE;
  return count;
}

static qnet_status print_report(const qnet_session *s, int quantizers) {
  const char *path = s->options.output;
  struct stat info;
  const long long bytes = stat(path, &info) == 0 ? (long long)info.st_size : 0;
  if (s->options.json)
    return qnet_json_print(json_pack("{s:o, s:i, s:I}", "output", qnet_json_text(path),
                                     "quantizers", quantizers, "bytes", (json_int_t)bytes),
                           s->diag);
  printf("%s: %d quantizers, %lld bytes\n", path, quantizers, bytes);
  return QNET_OK;
}

static qnet_status pack(qnet_session *s, const qnet_program *p) {
  const int quantizers = count_quantizers(p->module);
  if (!quantizers)
    return qnet_error_in(s->diag, s->options.input,
                         "no layer is quantized, so that there is nothing to pack; its weights "
                         "file is the smallest already");
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, s->allocator);
  qnet_status status = qnet_packed_store(p->module, &f, s->diag);
  if (status == QNET_OK && qnet_model_describe(p, &f) != QNET_OK)
    status = qnet_out_of_memory(s->diag);
  if (status == QNET_OK) status = qnet_tensor_file_write(&f, s->options.output, s->diag);
  qnet_tensor_file_free(&f);
  return status == QNET_OK ? print_report(s, quantizers) : status;
}

qnet_status qnet_verb_pack(qnet_session *s) {
  qnet_program p;
  QNET_TRY(check_output(s));
  QNET_TRY(qnet_model_load(s, &p));
  const qnet_status status = pack(s, &p);
  qnet_module_destroy(p.module);
  return status;
}
