/* Frozen quantizers in weights files. */
#include "driver/tables.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 512 };

/* ---- packing ------------------------------------------------------------------------------- */

static size_t packed_bytes(int64_t count, int bits) {
  return ((size_t)count * (size_t)bits + 7) / 8;
}

static void pack(uint8_t *out, const uint8_t *code, int64_t count, int bits) {
  for (int64_t i = 0; i < count; i++)
    for (int k = 0; k < bits; k++) {
      const size_t position = (size_t)i * (size_t)bits + (size_t)k;
      if (code[i] >> k & 1) out[position / 8] |= (uint8_t)(1u << position % 8);
    }
}

static void unpack(uint8_t *code, const uint8_t *in, int64_t count, int bits) {
  for (int64_t i = 0; i < count; i++) {
    unsigned c = 0;
    for (int k = 0; k < bits; k++) {
      const size_t position = (size_t)i * (size_t)bits + (size_t)k;
      c |= (unsigned)(in[position / 8] >> position % 8 & 1) << k;
    }
    code[i] = (uint8_t)c;
  }
}

/* ---- store --------------------------------------------------------------------------------- */

/* Stores an array under SITE + suffix; src_bytes may be of a wider type (levels). */
static qnet_status store_array(qnet_tensor_file *f, const char *site, const char *suffix,
                               qnet_dtype dtype, int rank, const int64_t *dim, const void *data) {
  char name[MAX_NAME];
  snprintf(name, sizeof name, "%s%s", site, suffix);
  qnet_blob *b = qnet_blob_create(f->allocator, dtype, rank, dim);
  if (!b) return QNET_NO_MEMORY;
  if (b->bytes) memcpy(b->data, data, b->bytes);
  const qnet_status status = qnet_tensor_file_set(f, name, b);
  qnet_blob_release(b);
  return status;
}

/* Do all channels have the levels of the first? Uniform methods differ in their scales alone. */
static bool levels_repeat(const qnet_table *t) {
  const size_t row = (size_t)t->codes * sizeof *t->level;
  for (int c = 1; c < t->channels; c++)
    if (memcmp(t->level + c * t->codes, t->level, row) != 0) return false;
  return true;
}

static qnet_status store_levels(qnet_tensor_file *f, const char *site, const qnet_table *t) {
  char name[MAX_NAME];
  snprintf(name, sizeof name, "%s.table.level", site);
  const int64_t dim[2] = {levels_repeat(t) ? 1 : t->channels, t->codes};
  qnet_blob *b = qnet_blob_create(f->allocator, QNET_I8, 2, dim);
  if (!b) return QNET_NO_MEMORY;
  for (int64_t i = 0; i < dim[0] * dim[1]; i++)
    ((int8_t *)b->data)[i] = (int8_t)t->level[i];
  const qnet_status status = qnet_tensor_file_set(f, name, b);
  qnet_blob_release(b);
  return status;
}

static qnet_status store_table(qnet_tensor_file *f, const char *site, const qnet_table *t) {
  const int64_t channels = t->channels, n = t->codes, thresholds = n - 1;
  QNET_TRY(store_array(f, site, ".table.scale", QNET_F32, 1, &channels, t->scale));
  QNET_TRY(store_levels(f, site, t));
  if (!t->threshold) return QNET_OK;
  QNET_TRY(store_array(f, site, ".table.threshold", QNET_F32, 1, &thresholds, t->threshold));
  return store_array(f, site, ".table.perm", QNET_U8, 1, &n, t->perm);
}

static qnet_status store_codes(qnet_tensor_file *f, const char *site, const qnet_symbol *codes,
                               int bits) {
  const int64_t count = qnet_blob_elements(codes->blob);
  const int64_t bytes = (int64_t)packed_bytes(count, bits);
  char name[MAX_NAME];
  snprintf(name, sizeof name, "%s.codes", site);
  qnet_blob *b = qnet_blob_create(f->allocator, QNET_U8, 1, &bytes);
  if (!b) return QNET_NO_MEMORY;
  pack(b->data, codes->blob->data, count, bits);
  const qnet_status status = qnet_tensor_file_set(f, name, b);
  qnet_blob_release(b);
  return status;
}

static const qnet_symbol *codes_of(const qnet_module *m, const char *site) {
  char name[MAX_NAME];
  snprintf(name, sizeof name, "%s.codes", site);
  const qnet_symbol *s = qnet_symbol_find(m, name);
  return s && s->blob ? s : NULL;
}

qnet_status qnet_tables_store(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d) {
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next) {
    if (s->kind != QNET_SYMBOL_TABLE) continue;
    const qnet_symbol *codes = codes_of(m, s->name);
    if (store_table(f, s->name, s->table) != QNET_OK) return qnet_out_of_memory(d);
    if (codes && store_codes(f, s->name, codes, s->table->bits) != QNET_OK)
      return qnet_out_of_memory(d);
  }
  return QNET_OK;
}

/* ---- load ---------------------------------------------------------------------------------- */

typedef struct loader {
  qnet_module *module;
  const qnet_tensor_file *file;
  const char *path, *site;
  qnet_diag *diag;
  int bits, codes, channels;
  bool is_weight;
  const qnet_type *value; /* of the quantized tensor */
} loader;

static qnet_blob *find_part(const loader *l, const char *suffix) {
  char name[MAX_NAME];
  snprintf(name, sizeof name, "%s%s", l->site, suffix);
  return qnet_tensor_file_find(l->file, name);
}

/* The tensor SITE + suffix with the wanted dtype and number of elements, or a diagnosed error. */
static qnet_status need_part(const loader *l, const char *suffix, qnet_dtype dtype, int64_t count,
                             const qnet_blob **out) {
  *out = find_part(l, suffix);
  if (!*out) return qnet_error_in(l->diag, l->path, "tensor '%s%s' is missing", l->site, suffix);
  if ((*out)->dtype == dtype && qnet_blob_elements(*out) == count) return QNET_OK;
  return qnet_error_in(l->diag, l->path, "tensor '%s%s' is not %s of %lld elements", l->site,
                       suffix, qnet_dtype_name(dtype), (long long)count);
}

static qnet_status load_thresholds(const loader *l, qnet_table *t) {
  const qnet_blob *threshold, *perm;
  QNET_TRY(need_part(l, ".table.threshold", QNET_F32, l->codes - 1, &threshold));
  QNET_TRY(need_part(l, ".table.perm", QNET_U8, l->codes, &perm));
  const float *x = threshold->data;
  for (int k = 0; k < l->codes - 1; k++)
    if (isnan(x[k]) || (k && x[k] < x[k - 1]))
      return qnet_error_in(l->diag, l->path, "'%s.table.threshold' is not ascending", l->site);
  for (int k = 0; k < l->codes; k++)
    if (((const uint8_t *)perm->data)[k] >= l->codes)
      return qnet_error_in(l->diag, l->path, "'%s.table.perm' has a code out of range", l->site);
  memcpy(t->threshold, x, threshold->bytes);
  memcpy(t->perm, perm->data, perm->bytes);
  return QNET_OK;
}

/* The scales, positive and one a channel, and the levels, one row for all channels or one each. */
static qnet_status need_levels(const loader *l, const float **scale, const qnet_blob **level) {
  const qnet_blob *scales;
  QNET_TRY(need_part(l, ".table.scale", QNET_F32, l->channels, &scales));
  const qnet_blob *have = find_part(l, ".table.level");
  const int64_t rows = have && have->rank == 2 && have->dim[0] == 1 ? 1 : l->channels;
  QNET_TRY(need_part(l, ".table.level", QNET_I8, rows * l->codes, level));
  *scale = scales->data;
  for (int c = 0; c < l->channels; c++)
    if (!isfinite((*scale)[c]) || (*scale)[c] <= 0)
      return qnet_error_in(l->diag, l->path, "'%s.table.scale' has a value that is not positive",
                           l->site);
  return QNET_OK;
}

/* Of channel c, by code. */
static const int8_t *level_row(const loader *l, const qnet_blob *level, int64_t c) {
  return (const int8_t *)level->data + (level->dim[0] == 1 ? 0 : c * l->codes);
}

static qnet_status load_levels(const loader *l, qnet_table *t) {
  const float *scale;
  const qnet_blob *level;
  QNET_TRY(need_levels(l, &scale, &level));
  for (int c = 0; c < l->channels; c++) {
    t->scale[c] = scale[c];
    for (int k = 0; k < l->codes; k++)
      t->level[c * l->codes + k] = level_row(l, level, c)[k];
  }
  return QNET_OK;
}

static qnet_status unpack_codes(const loader *l, const qnet_type *shape, uint8_t *out) {
  const int64_t count = qnet_type_elements(shape);
  const qnet_blob *packed;
  QNET_TRY(need_part(l, ".codes", QNET_U8, (int64_t)packed_bytes(count, l->bits), &packed));
  unpack(out, packed->data, count, l->bits);
  for (int64_t i = 0; i < count; i++)
    if (out[i] >= l->codes)
      return qnet_error_in(l->diag, l->path, "'%s.codes' has a code out of range", l->site);
  return QNET_OK;
}

static qnet_status load_codes(const loader *l) {
  char name[MAX_NAME];
  snprintf(name, sizeof name, "%s.codes", l->site);
  const qnet_type *type =
      qnet_type_codes(l->module, l->bits, l->site, l->value->rank, l->value->dim);
  qnet_blob *b = qnet_blob_create(l->module->allocator, QNET_CODE, l->value->rank, l->value->dim);
  qnet_status status = type && b ? unpack_codes(l, l->value, b->data) : qnet_out_of_memory(l->diag);
  if (status == QNET_OK &&
      !qnet_symbol_add_data(l->module, QNET_SYMBOL_CONST, name, type, b, QNET_NO_LOC))
    status = qnet_out_of_memory(l->diag);
  qnet_blob_release(b);
  return status;
}

static void remove_symbols(qnet_module *m, const char *site) {
  char codes[MAX_NAME];
  snprintf(codes, sizeof codes, "%s.codes", site);
  const char *const names[] = {site, codes};
  for (size_t i = 0; i < 2; i++) {
    qnet_symbol *s = qnet_symbol_find(m, names[i]);
    if (s) qnet_symbol_remove(m, s);
  }
}

static loader make_loader(qnet_module *m, const qnet_op *quantize, const qnet_tensor_file *f,
                          const char *path, qnet_diag *d) {
  const qnet_type *level = quantize->operand[2]->type;
  const char *role = qnet_op_string(quantize, "role");
  return (loader){.module = m,
                  .file = f,
                  .path = path,
                  .site = qnet_op_string(quantize, "site"),
                  .diag = d,
                  .bits = (int)qnet_op_int(quantize, "bits", 0),
                  .codes = (int)level->dim[1],
                  .channels = (int)level->dim[0],
                  .is_weight = role && strcmp(role, "weight") == 0,
                  .value = quantize->result[0].type};
}

/* Is there a table of the wanted number of levels and channels? */
static bool has_table(const loader *l) {
  const qnet_blob *level = find_part(l, ".table.level"), *scale = find_part(l, ".table.scale");
  return level && scale && level->rank == 2 && level->dim[1] == l->codes &&
         (level->dim[0] == 1 || level->dim[0] == l->channels) &&
         qnet_blob_elements(scale) == l->channels;
}

qnet_status qnet_tables_load(qnet_module *m, const qnet_op *quantize, const qnet_tensor_file *f,
                             const char *path, bool *found, qnet_diag *d) {
  const loader l = make_loader(m, quantize, f, path, d);
  *found = has_table(&l);
  if (!*found) return QNET_OK;
  remove_symbols(m, l.site);
  qnet_symbol *s =
      qnet_symbol_add_table(m, l.site, l.bits, l.codes, l.channels, !l.is_weight, quantize->loc);
  if (!s) return qnet_out_of_memory(d);
  QNET_TRY(load_levels(&l, s->table));
  return l.is_weight ? load_codes(&l) : load_thresholds(&l, s->table);
}

/* ---- values -------------------------------------------------------------------------------- */

/* scale * level of every code, filter by filter. */
static void write_values(const loader *l, const float *scale, const qnet_blob *level,
                         const uint8_t *code, int64_t count, float *out) {
  const int64_t n = count / l->channels;
  for (int64_t c = 0; c < l->channels; c++)
    for (int64_t i = c * n; i < (c + 1) * n; i++)
      out[i] = scale[c] * (float)level_row(l, level, c)[code[i]];
}

static qnet_status expand(const loader *l, float *out) {
  const int64_t count = qnet_type_elements(l->value);
  const float *scale;
  const qnet_blob *level;
  QNET_TRY(need_levels(l, &scale, &level));
  uint8_t *code = qnet_alloc_array(l->file->allocator, (size_t)count, 1);
  if (!code) return qnet_out_of_memory(l->diag);
  const qnet_status status = unpack_codes(l, l->value, code);
  if (status == QNET_OK) write_values(l, scale, level, code, count, out);
  qnet_free(l->file->allocator, code, (size_t)count);
  return status;
}

qnet_status qnet_tables_expand(const char *site, int bits, const qnet_type *type,
                               const qnet_tensor_file *f, const char *path, float *out,
                               qnet_diag *d) {
  loader l = {.file = f, .path = path, .site = site, .diag = d, .bits = bits, .value = type};
  const qnet_blob *level = find_part(&l, ".table.level"), *scale = find_part(&l, ".table.scale");
  const int64_t channels = scale ? qnet_blob_elements(scale) : 0;
  const int64_t codes = level && level->rank == 2 ? level->dim[1] : 0;
  if ((channels != 1 && channels != type->dim[0]) || codes < 1 || codes > (int64_t)1 << bits)
    return qnet_error_in(d, path, "the levels of '%s' do not fit %d bits of the layer", site, bits);
  l.channels = (int)channels;
  l.codes = (int)codes;
  return expand(&l, out);
}
