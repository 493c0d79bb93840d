/* State symbols and weights files. */
#include "driver/weights.h"
#include "driver/packed.h"
#include "driver/tables.h"
#include "ir/text.h"
#include "support/hash.h"
#include "support/strbuf.h"
#include <Random123/philox.h>
#include <math.h>
#include <string.h>

bool qnet_name_is_quantizer(const char *name) {
  return strstr(name, "_quantizer.") != NULL;
}

static bool has_suffix(const char *name, const char *suffix) {
  const size_t n = strlen(name), m = strlen(suffix);
  return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* What training adds and a weights file does not hold. */
static bool is_transient(const char *name) {
  static const char *const suffixes[] = {".momentum", ".variance", ".steps", ".count", ".sum"};
  for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
    if (has_suffix(name, suffixes[i])) return true;
  return false;
}

/* ---- initial values ------------------------------------------------------------------------ */

static uint64_t hash_name(const char *name) {
  uint64_t h = 14695981039346656037u; /* FNV-1a */
  for (; *name; name++)
    h = (h ^ (unsigned char)*name) * 1099511628211u;
  return h;
}

static double uniform(uint32_t bits) { /* in (0, 1) */
  return ((double)bits + 0.5) / 4294967296.0;
}

/* Box-Muller on counter-based numbers: element i depends on (seed, name, i) alone. */
static void fill_normal(float *x, int64_t n, double deviation, uint64_t seed, const char *name) {
  const uint64_t stream = hash_name(name);
  const philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  for (int64_t i = 0; i < n; i++) {
    const philox4x32_ctr_t counter = {
        {(uint32_t)i, (uint32_t)(i >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
    const philox4x32_ctr_t r = philox4x32(counter, key);
    const double radius = sqrt(-2 * log(uniform(r.v[0])));
    x[i] = (float)(deviation * radius * cos(2 * 3.14159265358979323846 * uniform(r.v[1])));
  }
}

static void fill_constant(float *x, int64_t n, float value) {
  for (int64_t i = 0; i < n; i++)
    x[i] = value;
}

static void fill_initial(const qnet_symbol *s, uint64_t seed) {
  float *x = s->blob->data;
  const int64_t n = qnet_blob_elements(s->blob);
  if (s->type->rank >= 2 && has_suffix(s->name, ".weight")) {
    const int64_t fan_in = n / s->type->dim[0];
    fill_normal(x, n, sqrt(2.0 / (double)fan_in), seed, s->name);
    return;
  }
  const bool one = has_suffix(s->name, ".weight") || has_suffix(s->name, ".running_var");
  fill_constant(x, n, one ? 1.0f : 0.0f);
}

static qnet_status make_blob(const qnet_module *m, qnet_symbol *s, qnet_diag *d) {
  qnet_blob *b = qnet_blob_create(m->allocator, s->type->dtype, s->type->rank, s->type->dim);
  if (!b) return qnet_out_of_memory(d);
  qnet_symbol_set_blob(s, b);
  qnet_blob_release(b);
  return QNET_OK;
}

qnet_status qnet_weights_init(qnet_module *m, uint64_t seed, qnet_diag *d) {
  for (qnet_symbol *s = m->first_symbol; s; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE || s->blob || qnet_name_is_quantizer(s->name)) continue;
    QNET_TRY(make_blob(m, s, d));
    if (s->type->dtype == QNET_F32) fill_initial(s, seed);
  }
  return QNET_OK;
}

/* ---- layout -------------------------------------------------------------------------------- */

/* The shape in the file: convolution weights O,KH,KW,I -> O,I,KH,KW. */
static void file_shape(const qnet_type *t, int64_t *dim) {
  memcpy(dim, t->dim, sizeof t->dim);
  if (t->rank != 4) return;
  dim[1] = t->dim[3];
  dim[2] = t->dim[1];
  dim[3] = t->dim[2];
}

/* Copies between the two layouts: module [o][p][i], file [o][i][p], p = spatial position. */
static void copy_conv(const qnet_type *t, float *module, float *file, bool to_file) {
  const int64_t spatial = t->dim[1] * t->dim[2], in = t->dim[3];
  for (int64_t o = 0; o < t->dim[0]; o++)
    for (int64_t p = 0; p < spatial; p++)
      for (int64_t i = 0; i < in; i++) {
        float *a = module + (o * spatial + p) * in + i, *b = file + (o * in + i) * spatial + p;
        if (to_file)
          *b = *a;
        else
          *a = *b;
      }
}

static bool same_shape(const qnet_blob *b, const qnet_type *t) {
  int64_t dim[QNET_MAX_RANK];
  file_shape(t, dim);
  if (b->rank != t->rank || b->dtype != t->dtype) return false;
  return memcmp(b->dim, dim, sizeof dim[0] * (size_t)t->rank) == 0;
}

static void print_shape(qnet_strbuf *b, qnet_dtype dtype, int rank, const int64_t *dim) {
  qnet_strbuf_printf(b, "%s[", qnet_dtype_name(dtype));
  for (int i = 0; i < rank; i++)
    qnet_strbuf_printf(b, "%s%lld", i ? ", " : "", (long long)dim[i]);
  qnet_strbuf_puts(b, "]");
}

static qnet_status shape_error(const qnet_module *m, const qnet_symbol *s, const qnet_blob *b,
                               const char *path, qnet_diag *d) {
  int64_t dim[QNET_MAX_RANK];
  file_shape(s->type, dim);
  qnet_strbuf want, have;
  qnet_strbuf_init(&want, m->allocator);
  qnet_strbuf_init(&have, m->allocator);
  print_shape(&want, s->type->dtype, s->type->rank, dim);
  print_shape(&have, b->dtype, b->rank, b->dim);
  qnet_error_in(d, path, "tensor '%s' is %s but the network needs %s", s->name,
                qnet_strbuf_text(&have), qnet_strbuf_text(&want));
  qnet_note(d, s->loc, "the layer is here; are these weights of another network?");
  qnet_strbuf_free(&want);
  qnet_strbuf_free(&have);
  return QNET_ERROR;
}

/* ---- load ---------------------------------------------------------------------------------- */

static qnet_status check_finite(const qnet_symbol *s, const qnet_blob *b, const char *path,
                                qnet_diag *d) {
  if (b->dtype != QNET_F32) return QNET_OK;
  const float *x = b->data;
  for (int64_t i = 0; i < qnet_blob_elements(b); i++)
    if (!isfinite(x[i])) {
      qnet_error_in(d, path,
                    "element %lld of tensor '%s' is %g; the training diverged, train "
                    "again with a lower learning rate",
                    (long long)i, s->name, (double)x[i]);
      qnet_note(d, s->loc, "the layer is here");
      return QNET_ERROR;
    }
  return QNET_OK;
}

static void copy_in(qnet_symbol *s, const qnet_blob *b) {
  if (s->type->rank == 4)
    copy_conv(s->type, s->blob->data, b->data, false);
  else
    memcpy(s->blob->data, b->data, b->bytes);
}

static qnet_status load_one(qnet_module *m, qnet_symbol *s, const qnet_blob *b, const char *path,
                            qnet_diag *d) {
  if (!same_shape(b, s->type)) return shape_error(m, s, b, path, d);
  QNET_TRY(check_finite(s, b, path, d));
  QNET_TRY(make_blob(m, s, d));
  copy_in(s, b);
  return QNET_OK;
}

/* From its tensor, or from its codes in a packed file. */
static qnet_status load_layer_state(qnet_module *m, qnet_symbol *s, const qnet_tensor_file *f,
                                    bool packed, const char *path, bool *found, qnet_diag *d) {
  const qnet_blob *b = qnet_tensor_file_find(f, s->name);
  *found = b != NULL;
  if (b) return load_one(m, s, b, path, d);
  if (!packed) return QNET_OK;
  QNET_TRY(qnet_packed_expand(m, s, f, path, found, d));
  return *found ? check_finite(s, s->blob, path, d) : QNET_OK;
}

static void append_name(qnet_strbuf *list, const char *name, int count) {
  if (count < 8) qnet_strbuf_printf(list, "%s%s", count ? ", " : "", name);
  if (count == 8) qnet_strbuf_puts(list, ", ...");
}

static void warn_unused(const qnet_module *m, const qnet_tensor_file *f, const char *path,
                        qnet_diag *d) {
  qnet_strbuf list;
  qnet_strbuf_init(&list, m->allocator);
  int count = 0;
  for (size_t i = 0; i < f->count; i++) {
    const char *name = f->entry[i].name;
    if (qnet_symbol_find(m, name) || qnet_name_is_quantizer(name)) continue;
    if (has_suffix(name, ".num_batches_tracked")) continue; /* PyTorch's counter */
    append_name(&list, name, count++);
  }
  if (count) qnet_warning_in(d, path, "the network has no use for: %s", qnet_strbuf_text(&list));
  qnet_strbuf_free(&list);
}

/* Loads what is there; the names of what is not go to `missing`, their number to *count. */
static qnet_status load_states(qnet_module *m, const qnet_tensor_file *f, const char *path,
                               qnet_strbuf *missing, int *count, qnet_diag *d) {
  bool packed;
  qnet_status status = qnet_packed_detect(f, path, &packed, d);
  if (status != QNET_OK) return status;
  for (qnet_symbol *s = m->first_symbol; s && status != QNET_NO_MEMORY; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE || qnet_name_is_quantizer(s->name)) continue;
    if (is_transient(s->name)) continue;
    bool found;
    const qnet_status one = load_layer_state(m, s, f, packed, path, &found, d);
    if (one != QNET_OK) status = one;
    if (!found) append_name(missing, s->name, (*count)++);
  }
  return status;
}

/* needed: states that the file lacks are an error. */
static qnet_status load_and_tell(qnet_module *m, const qnet_tensor_file *f, const char *path,
                                 bool needed, qnet_diag *d) {
  qnet_strbuf missing;
  qnet_strbuf_init(&missing, m->allocator);
  int count = 0, total = 0;
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next)
    total += s->kind == QNET_SYMBOL_STATE && !qnet_name_is_quantizer(s->name);
  qnet_status status = load_states(m, f, path, &missing, &count, d);
  if (status == QNET_OK) warn_unused(m, f, path, d);
  if (count && status == QNET_OK && (needed || count == total))
    status = qnet_error_in(d, path, "tensors that the network needs are missing: %s",
                           qnet_strbuf_text(&missing));
  else if (count && status == QNET_OK)
    qnet_warning_in(d, path, "these start from initial values, the file lacks them: %s",
                    qnet_strbuf_text(&missing));
  qnet_strbuf_free(&missing);
  return status;
}

qnet_status qnet_weights_load(qnet_module *m, const qnet_tensor_file *f, const char *path,
                              qnet_diag *d) {
  return load_and_tell(m, f, path, true, d);
}

qnet_status qnet_weights_load_some(qnet_module *m, const qnet_tensor_file *f, const char *path,
                                   qnet_diag *d) {
  return load_and_tell(m, f, path, false, d);
}

/* ---- store --------------------------------------------------------------------------------- */

static qnet_status store_one(const qnet_module *m, const qnet_symbol *s, qnet_tensor_file *f) {
  int64_t dim[QNET_MAX_RANK];
  file_shape(s->type, dim);
  qnet_blob *b = qnet_blob_create(m->allocator, s->type->dtype, s->type->rank, dim);
  if (!b) return QNET_NO_MEMORY;
  if (s->type->rank == 4)
    copy_conv(s->type, s->blob->data, b->data, true);
  else
    memcpy(b->data, s->blob->data, b->bytes);
  const qnet_status status = qnet_tensor_file_set(f, s->name, b);
  qnet_blob_release(b);
  return status;
}

/* Of a quantizer's training state only the parameters are kept: the rest follows from them. */
static bool is_stored(const qnet_symbol *s) {
  if (s->kind != QNET_SYMBOL_STATE || !s->blob || is_transient(s->name)) return false;
  return !qnet_name_is_quantizer(s->name) || has_suffix(s->name, ".param");
}

qnet_status qnet_weights_store(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d) {
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next)
    if (is_stored(s) && store_one(m, s, f) != QNET_OK) return qnet_out_of_memory(d);
  return qnet_tables_store(m, f, d);
}

/* "conv1.weight" has codes when there is a table @conv1.weight_quantizer. */
static bool has_codes(const qnet_module *m, const qnet_symbol *weight) {
  char name[512];
  snprintf(name, sizeof name, "%s_quantizer", weight->name);
  const qnet_symbol *s = qnet_symbol_find(m, name);
  return s && s->kind == QNET_SYMBOL_TABLE;
}

qnet_status qnet_weights_store_unquantized(const qnet_module *m, qnet_tensor_file *f,
                                           qnet_diag *d) {
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next) {
    if (!is_stored(s) || qnet_name_is_quantizer(s->name) || has_codes(m, s)) continue;
    if (store_one(m, s, f) != QNET_OK) return qnet_out_of_memory(d);
  }
  return QNET_OK;
}

/* ---- checkpoints --------------------------------------------------------------------------- */

qnet_status qnet_state_store(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d) {
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE || !s->blob) continue;
    if (store_one(m, s, f) != QNET_OK) return qnet_out_of_memory(d);
  }
  return QNET_OK;
}

qnet_status qnet_state_load(qnet_module *m, const qnet_tensor_file *f, const char *path,
                            qnet_diag *d) {
  for (qnet_symbol *s = m->first_symbol; s; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE || !s->blob) continue;
    const qnet_blob *b = qnet_tensor_file_find(f, s->name);
    if (!b) return qnet_error_in(d, path, "tensor '%s' is missing", s->name);
    if (!same_shape(b, s->type)) return shape_error(m, s, b, path, d);
    copy_in(s, b);
  }
  return QNET_OK;
}

uint64_t qnet_state_hash(const qnet_module *m) {
  uint64_t h = QNET_HASH_START;
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next) {
    if (s->kind != QNET_SYMBOL_STATE || !s->blob) continue;
    h = qnet_content_hash_text(h, s->name);
    h = qnet_content_hash(h, s->blob->data, s->blob->bytes);
  }
  return h;
}

qnet_status qnet_source_hash(const qnet_module *m, const qnet_allocator *a, uint64_t *out,
                             qnet_diag *d) {
  qnet_strbuf text;
  qnet_strbuf_init(&text, a);
  qnet_module_print(m, QNET_PRINT_ELIDE, &text);
  const bool failed = text.failed;
  if (!failed) *out = qnet_content_hash(QNET_HASH_START, text.data, text.length);
  qnet_strbuf_free(&text);
  return failed ? qnet_out_of_memory(d) : QNET_OK;
}
