/* Checks of types and of symbols: names, contents, level tables. */
#include "ir/lexer.h"
#include "ir/verify_internal.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

static const int64_t max_size = (int64_t)1 << 31;
enum { MAX_BITS = 8, MAX_LEVEL = 127, MAX_PLANES = 64 };

/* ---- types ----------------------------------------------------------------------------------- */

static bool sizes_in_range(const qnet_type *t) {
  int64_t elements = 1;
  for (int i = 0; i < t->rank; i++) {
    if (t->dim[i] < 1 || t->dim[i] > max_size) return false;
    elements *= t->dim[i];
    if (elements > max_size) return false;
  }
  return true;
}

static bool planes_in_range(const qnet_type *t) {
  return t->rank >= 1 && t->rank < QNET_MAX_RANK && t->bits >= 1 && t->bits <= MAX_PLANES;
}

static bool verify_codes(qnet_verifier *v, qnet_loc loc, const char *what, const qnet_type *t) {
  const qnet_symbol *s = qnet_symbol_find(v->module, t->table);
  if (!s || s->kind != QNET_SYMBOL_TABLE)
    return qnet_verify_error_at(v, loc, "%s: @%s is not a table", what, t->table);
  if (s->table->bits != t->bits)
    return qnet_verify_error_at(v, loc, "%s: table @%s has %d bits, the type %d", what, t->table,
                                s->table->bits, t->bits);
  return true;
}

bool qnet_type_is_sound(const qnet_verifier *v, const qnet_type *t) {
  if (!sizes_in_range(t)) return false;
  if (t->kind == QNET_TYPE_PLANES) return planes_in_range(t);
  if (!t->table) return true;
  const qnet_symbol *s = qnet_symbol_find(v->module, t->table);
  return s && s->kind == QNET_SYMBOL_TABLE && s->table->bits == t->bits;
}

bool qnet_verify_type(qnet_verifier *v, qnet_loc loc, const char *what, const qnet_type *t) {
  if (!sizes_in_range(t))
    return qnet_verify_error_at(v, loc, "%s: %s has a size that is out of range", what,
                                qnet_verify_type_text(v, t));
  if (t->kind == QNET_TYPE_PLANES && !planes_in_range(t))
    return qnet_verify_error_at(v, loc, "%s: %s must have 1..64 planes and 1..5 dimensions", what,
                                qnet_verify_type_text(v, t));
  return t->table == NULL || verify_codes(v, loc, what, t);
}

/* ---- data ------------------------------------------------------------------------------------ */

static bool blob_fits(const qnet_blob *b, const qnet_type *t) {
  int64_t dim[QNET_BLOB_MAX_RANK];
  const int rank = qnet_type_blob_shape(t, dim);
  if (b->dtype != t->dtype || b->rank != rank) return false;
  for (int i = 0; i < rank; i++)
    if (b->dim[i] != dim[i]) return false;
  return true;
}

static bool verify_code_data(qnet_verifier *v, const qnet_symbol *s) {
  const qnet_table *t = qnet_symbol_find(v->module, s->type->table)->table;
  const uint8_t *code = s->blob->data;
  for (size_t i = 0; i < s->blob->bytes; i++)
    if (code[i] >= t->codes)
      return qnet_verify_error_at(v, s->loc, "@%s: element %zu is code %d, but @%s has %d codes",
                                  s->name, i, code[i], s->type->table, t->codes);
  return true;
}

/* Popcounts run over whole words: bits behind the last channel must be 0. */
static bool verify_plane_data(qnet_verifier *v, const qnet_symbol *s) {
  const uint64_t *word = s->blob->data;
  const int64_t channels = qnet_channels(s->type), words = (channels + 63) / 64;
  if (channels % 64 == 0) return true;
  const uint64_t behind = ~(uint64_t)0 << (channels % 64);
  const int64_t rows = qnet_blob_elements(s->blob) / words;
  for (int64_t r = 0; r < rows; r++)
    if (word[r * words + words - 1] & behind)
      return qnet_verify_error_at(v, s->loc, "@%s: bits are set behind channel %" PRId64, s->name,
                                  channels - 1);
  return true;
}

static bool verify_data(qnet_verifier *v, const qnet_symbol *s) {
  if (!qnet_verify_type(v, s->loc, s->name, s->type)) return false;
  if (!s->blob) return true;
  if (!blob_fits(s->blob, s->type))
    return qnet_verify_error_at(v, s->loc, "@%s: the content's shape is not that of %s", s->name,
                                qnet_verify_type_text(v, s->type));
  if (s->type->table) return verify_code_data(v, s);
  return s->type->kind != QNET_TYPE_PLANES || verify_plane_data(v, s);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static bool verify_thresholds(qnet_verifier *v, const qnet_symbol *s, const float *t, int count) {
  for (int k = 0; k < count; k++)
    if (isnan(t[k]) || (k > 0 && t[k] < t[k - 1]))
      return qnet_verify_error_at(v, s->loc, "table @%s: thresholds must ascend", s->name);
  return true;
}

static bool verify_table_row(qnet_verifier *v, const qnet_symbol *s, int channel) {
  const qnet_table *t = s->table;
  if (!isfinite(t->scale[channel]) || t->scale[channel] <= 0)
    return qnet_verify_error_at(v, s->loc, "table @%s: scale[%d] must be positive and finite",
                                s->name, channel);
  const int32_t *level = t->level + (size_t)channel * (size_t)t->codes;
  for (int c = 0; c < t->codes; c++)
    if (level[c] < -MAX_LEVEL || level[c] > MAX_LEVEL)
      return qnet_verify_error_at(v, s->loc, "table @%s: level %" PRId32 " is not in -127..127",
                                  s->name, level[c]);
  if (!t->threshold) return true;
  return verify_thresholds(v, s, t->threshold + (size_t)channel * (size_t)(t->codes - 1),
                           t->codes - 1);
}

static bool verify_table(qnet_verifier *v, const qnet_symbol *s) {
  const qnet_table *t = s->table;
  if (t->bits < 1 || t->bits > MAX_BITS || t->codes < 2 || t->codes > 1 << t->bits)
    return qnet_verify_error_at(v, s->loc, "table @%s: %d bits cannot hold %d codes", s->name,
                                t->bits, t->codes);
  if (!t->threshold != !t->perm)
    return qnet_verify_error_at(v, s->loc, "table @%s: thresholds and perm come together", s->name);
  for (int i = 0; t->perm && i < t->codes; i++)
    if (t->perm[i] >= t->codes)
      return qnet_verify_error_at(v, s->loc, "table @%s: perm[%d] is no code", s->name, i);
  for (int c = 0; c < t->channels; c++)
    if (!verify_table_row(v, s, c)) return false;
  return true;
}

void qnet_verify_symbol(qnet_verifier *v, const qnet_symbol *s) {
  if (!qnet_is_name(s->name)) {
    qnet_verify_error_at(v, s->loc, "'%s' is no name of a symbol", s->name);
    return;
  }
  switch (s->kind) {
  case QNET_SYMBOL_CONST:
  case QNET_SYMBOL_STATE: verify_data(v, s); break;
  case QNET_SYMBOL_TABLE: verify_table(v, s); break;
  case QNET_SYMBOL_FUNC: break;
  }
}
