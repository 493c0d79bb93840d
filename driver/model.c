/* From source and weights file to one module with frozen quantizers. */
#include "driver/model.h"
#include "driver/packed.h"
#include "driver/refit.h"
#include "driver/tables.h"
#include "driver/weight_names.h"
#include "driver/weights.h"
#include "ir/ops.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "passes/quantizer.h"
#include "support/file.h"
#include <stdarg.h>
#include <string.h>

enum { MAX_MODULE = 1 << 28 };

/* Who asks for quantizers: the net's line, or without a place the command line. */
typedef struct asker {
  qnet_diag *diag;
  qnet_loc loc;
} asker;

__attribute__((format(printf, 2, 3))) static qnet_status refuse(const asker *a, const char *format,
                                                                ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (a->loc.buffer) return qnet_error(a->diag, a->loc, "%s", text);
  return qnet_error_in(a->diag, "qnetc", "%s", text);
}

static qnet_status unknown_quantizer(const char *name, const asker *a) {
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  const char *names[32];
  char known[256] = "";
  for (size_t i = 0, at = 0; i < count && i < 32; i++) {
    names[i] = table[i]->name;
    at += (size_t)snprintf(known + at, sizeof known - at, "%s, ", names[i]);
    if (at >= sizeof known) break;
  }
  const char *near = qnet_nearest(name, names, count);
  if (near) return refuse(a, "unknown quantizer '%s'; did you mean '%s'?", name, near);
  return refuse(a, "unknown quantizer '%s'; known are %sand none", name, known);
}

static qnet_status check_role(const qnet_quantizer *q, qnet_role role, int bits, const asker *a) {
  static const char *const roles[] = {"weights", "activations"};
  const qnet_bit_range range = q->bits[role];
  if (bits == QNET_F32_BITS) return QNET_OK;
  if (range.max == 0)
    return refuse(a, "%s is not for %s; name another quantizer for them", q->name, roles[role]);
  if (bits >= range.min && bits <= range.max) return QNET_OK;
  if (range.min == range.max)
    return refuse(a, "quantizer %s takes %d bits for %s, not %d; %s%d", q->name, range.min,
                  roles[role], bits, a->loc.buffer ? "say " : "add --bits=", range.min);
  return refuse(a, "%s takes %d to %d bits for %s, not %d", q->name, range.min, range.max,
                roles[role], bits);
}

/* "weights/activations" or one for both. */
static qnet_status name_quantizers(qnet_program *p, const char *names, qnet_diag *d) {
  const char *slash = strchr(names, '/');
  p->quant.quantizer = names;
  p->quant.activation_quantizer = slash ? slash + 1 : NULL;
  if (!slash) return QNET_OK;
  p->quant.quantizer = qnet_arena_strndup(&p->module->arena, names, (size_t)(slash - names));
  return p->quant.quantizer ? QNET_OK : qnet_out_of_memory(d);
}

static const char *activation_quantizer(const qnet_quant_spec *q) {
  return q->activation_quantizer ? q->activation_quantizer : q->quantizer;
}

static qnet_status check_bits(const qnet_quant_spec *q, const asker *a) {
  const qnet_quantizer *weights = qnet_quantizer_find(q->quantizer);
  const qnet_quantizer *activations = qnet_quantizer_find(activation_quantizer(q));
  if (q->weight_bits == QNET_F32_BITS && q->activation_bits == QNET_F32_BITS)
    return refuse(a, "32 bits of both quantize nothing; say --quantizer=none");
  if (!weights) return unknown_quantizer(q->quantizer, a);
  if (!activations) return unknown_quantizer(q->activation_quantizer, a);
  QNET_TRY(check_role(weights, QNET_ROLE_WEIGHT, q->weight_bits, a));
  return check_role(activations, QNET_ROLE_ACTIVATION, q->activation_bits, a);
}

/* Does the net itself name a quantizer for the layers that name none? */
static bool names_quantizer(const qnet_quant_spec *q) {
  return q->quantizer && strcmp(q->quantizer, "none") != 0;
}

/* What --quantizer means where the net says nothing: the first and last layer stay f32. */
static void set_defaults(qnet_quant_spec *q) {
  q->weight_bits = q->activation_bits = 2;
  q->grid = 127;
  q->first_bits = q->last_bits = 0;
}

qnet_status qnet_model_quant_spec(const qnet_session *s, qnet_program *program) {
  const qnet_options *o = &s->options;
  qnet_quant_spec *q = &program->quant;
  if (o->quantizer && strcmp(o->quantizer, "none") == 0) {
    if (o->bits.weight)
      return qnet_error_in(s->diag, "qnetc", "--bits does not go with --quantizer=none");
    q->quantizer = NULL;
    return QNET_OK;
  }
  if (o->quantizer && !names_quantizer(q)) set_defaults(q);
  if (o->quantizer) QNET_TRY(name_quantizers(program, o->quantizer, s->diag));
  if (!names_quantizer(q) && o->bits.weight)
    return qnet_error_in(s->diag, "qnetc",
                         "--bits needs a quantizer: '%s' names none; add --quantizer=", o->input);
  if (!names_quantizer(q)) return QNET_OK;
  if (o->bits.weight) {
    q->weight_bits = o->bits.weight;
    q->activation_bits = o->bits.activation;
  }
  const bool by_options = o->quantizer || o->bits.weight;
  return check_bits(q, &(asker){s->diag, by_options ? QNET_NO_LOC : q->loc});
}

static bool has_quantizer(const qnet_module *m) {
  for (const qnet_op *op = qnet_symbol_find(m, "eval")->body->first; op; op = op->next)
    if (op->opcode == QNET_OP_QUANTIZE) return true;
  return false;
}

qnet_status qnet_model_insert_quantizers(qnet_session *s, const qnet_program *program) {
  const qnet_quant_spec *q = &program->quant;
  if (!q->quantizer) return QNET_OK;
  char pipeline[256];
  snprintf(pipeline, sizeof pipeline,
           "insert-quantizers{quantizer=%s,activation_quantizer=%s,weights=%d,activations=%d,grid=%"
           "d,planes=%d,least=%d,first=%d,last=%d}",
           q->quantizer, activation_quantizer(q), q->weight_bits, q->activation_bits, q->grid,
           q->planes, q->least, q->first_bits, q->last_bits);
  const qnet_pipeline_options options = {0};
  const qnet_status status = qnet_pipeline_run(program->module, pipeline, &options, NULL, s->diag);
  if (status == QNET_ERROR && q->planes)
    qnet_note(s->diag, q->loc, "planes = %d is said here", q->planes);
  if (status != QNET_OK) return status;
  if (!has_quantizer(program->module))
    qnet_warning(s->diag, q->loc, "no layer is quantized: the network has none but those excepted");
  return QNET_OK;
}

/* Tables from the file, in place of any that the module has; *missing counts those it lacks. */
static qnet_status load_tables(qnet_module *m, const qnet_tensor_file *f, const char *path,
                               int *missing, qnet_diag *d) {
  const qnet_region *body = qnet_symbol_find(m, "eval")->body;
  *missing = 0;
  for (const qnet_op *op = body->first; op; op = op->next) {
    if (op->opcode != QNET_OP_QUANTIZE) continue;
    bool found;
    QNET_TRY(qnet_tables_load(m, op, f, path, &found, d));
    *missing += !found;
  }
  return QNET_OK;
}

/* A packed file has all tables that the network needs, and no others. */
static qnet_status load_packed(qnet_module *m, const qnet_tensor_file *f, const char *path,
                               qnet_diag *d) {
  int missing;
  QNET_TRY(qnet_packed_check(m, f, path, d));
  QNET_TRY(load_tables(m, f, path, &missing, d));
  if (!missing) return QNET_OK;
  return qnet_error_in(d, path,
                       "%d quantizers have tables of another size than the network's; are "
                       "these weights of another network?",
                       missing);
}

static void warn_refit(qnet_session *s, const qnet_program *p, int missing) {
  const qnet_quant_spec *q = &p->quant;
  const char *const other = q->activation_quantizer;
  char how[128] = "as the .qnet says", options[160] = "";
  if (names_quantizer(q)) {
    snprintf(how, sizeof how, "with %s%s%s at %d/%d bits", q->quantizer, other ? "/" : "",
             other ? other : "", q->weight_bits, q->activation_bits);
    snprintf(options, sizeof options, " --quantizer=%s%s%s --bits=%d/%d", q->quantizer,
             other ? "/" : "", other ? other : "", q->weight_bits, q->activation_bits);
  }
  qnet_warning_in(
      s->diag, s->options.weights,
      "%d quantizers were not trained %s; their levels are fitted to the weights and to %s. "
      "Training would recover accuracy: qnetc train %s --init=%s%s --data=... -o ...",
      missing, how, s->options.calibrate ? s->options.calibrate : "batch norm statistics",
      s->options.input, s->options.weights, options);
}

static qnet_status load_into(qnet_session *s, qnet_program *p, const qnet_tensor_file *f) {
  const char *path = s->options.weights;
  QNET_TRY(qnet_weights_load(p->module, f, path, s->diag));
  QNET_TRY(qnet_model_insert_quantizers(s, p));
  bool packed;
  QNET_TRY(qnet_packed_detect(f, path, &packed, s->diag));
  if (packed) return load_packed(p->module, f, path, s->diag);
  if (!p->quant.quantizer) return QNET_OK;
  int missing;
  QNET_TRY(load_tables(p->module, f, path, &missing, s->diag));
  if (!missing) return QNET_OK;
  QNET_TRY(qnet_refit(s, p->module, s->options.calibrate));
  warn_refit(s, p, missing);
  return load_tables(p->module, f, path, &missing, s->diag);
}

static qnet_status load_weights(qnet_session *s, qnet_program *p) {
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, s->allocator);
  qnet_status status = qnet_tensor_file_read(&f, s->options.weights, s->diag);
  if (status == QNET_OK)
    status =
        qnet_weight_names_match(p->module, &f, s->options.map, s->options.weights, true, s->diag);
  if (status == QNET_OK) status = load_into(s, p, &f);
  qnet_tensor_file_free(&f);
  return status;
}

qnet_status qnet_model_load(qnet_session *s, qnet_program *out) {
  QNET_TRY(qnet_session_program(s, out));
  qnet_status status = qnet_model_quant_spec(s, out);
  if (status == QNET_OK) status = load_weights(s, out);
  if (status == QNET_OK) return QNET_OK;
  qnet_module_destroy(out->module);
  out->module = NULL;
  return status;
}

qnet_status qnet_model_describe(const qnet_program *p, qnet_tensor_file *f) {
  const qnet_quant_spec *q = &p->quant;
  char bits[32];
  snprintf(bits, sizeof bits, "%d/%d", q->weight_bits, q->activation_bits);
  QNET_TRY(qnet_tensor_file_set_meta(f, "qnet.net", p->module->name));
  QNET_TRY(qnet_tensor_file_set_meta(f, "qnet.quantizer", q->quantizer ? q->quantizer : "none"));
  if (q->activation_quantizer)
    QNET_TRY(qnet_tensor_file_set_meta(f, "qnet.activation_quantizer", q->activation_quantizer));
  return q->quantizer ? qnet_tensor_file_set_meta(f, "qnet.bits", bits) : QNET_OK;
}

static qnet_status read_ir(qnet_session *s, const char *path, qnet_module **out) {
  char *text;
  size_t size;
  QNET_TRY(qnet_file_read(s->allocator, path, MAX_MODULE, &text, &size, s->diag));
  const char *name = strcmp(path, "-") == 0 ? "<stdin>" : path;
  const qnet_status status = qnet_module_parse(s->allocator, name, text, size, out, s->diag);
  qnet_free(s->allocator, text, size + 1);
  return status;
}

qnet_status qnet_model_read(qnet_session *s, qnet_module **out) {
  const char *path = s->options.input ? s->options.input : "-";
  if (!qnet_has_suffix(path, ".qnet")) return read_ir(s, path, out);
  qnet_program program;
  QNET_TRY(s->options.weights ? qnet_model_load(s, &program) : qnet_session_program(s, &program));
  *out = program.module;
  return QNET_OK;
}
