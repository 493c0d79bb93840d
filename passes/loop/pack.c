/* Constants in the form that the kernels load: channel vectors padded to the lanes, thresholds by
 * rank, masks of words. Each is made once, under a name made of what it comes from. */
#include "passes/loop/lower.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct qnet_lower_const {
  const qnet_symbol *symbol;
  qnet_value *read;
  struct qnet_lower_const *next;
} qnet_lower_const;

qnet_status qnet_kernel_const(qnet_lower *lw, const qnet_op *kernel, const qnet_value *v,
                              qnet_symbol **symbol) {
  const qnet_value *outside = qnet_kernel_outside(kernel, v);
  const qnet_op *def = outside->def;
  if (!def || def->opcode != QNET_OP_READ)
    return qnet_error(lw->d, kernel->loc,
                      "lower-to-loop: a parameter of this layer is computed at "
                      "run time; it must be a constant");
  *symbol = qnet_op_symbol(lw->m, def, "sym");
  if (!*symbol || !(*symbol)->blob)
    return qnet_error(lw->d, kernel->loc, "the content of @%s is not loaded; give the weights file",
                      qnet_op_string(def, "sym"));
  return QNET_OK;
}

/* The read of a constant, placed before the nest that is being filled. */
static qnet_value *read_const(qnet_lower *lw, const qnet_symbol *s) {
  for (const qnet_lower_const *c = lw->read; c; c = c->next)
    if (c->symbol == s) return c->read;
  qnet_lb *lb = &lw->lb;
  qnet_builder b = lb->nest ? qnet_builder_before(lw->m, lb->nest) : lb->at;
  b.loc = s->loc;
  qnet_lower_const *c = qnet_arena_alloc(&lw->scratch, sizeof *c);
  if (!c) {
    lw->m->failed = true;
    return NULL;
  }
  *c = (qnet_lower_const){.symbol = s, .read = qnet_build_read(&b, s), .next = lw->read};
  lw->read = c;
  return c->read;
}

/* The constant of that name, type and content from before, or NULL with a name that is free. */
static qnet_symbol *find_packed(qnet_lower *lw, const char *base, const char *suffix,
                                const qnet_type *type, const void *content, const char **name) {
  const size_t bytes = (size_t)(qnet_type_elements(type) * qnet_type_bytes(type));
  *name = qnet_arena_printf(&lw->scratch, "%s.%s", base, suffix);
  for (int i = 1; *name; i++) {
    qnet_symbol *s = qnet_symbol_find(lw->m, *name);
    if (!s) return NULL;
    if (s->type == type && s->blob && memcmp(s->blob->data, content, bytes) == 0) return s;
    *name = qnet_arena_printf(&lw->scratch, "%s.%s.%d", base, suffix, i);
  }
  return NULL;
}

static qnet_symbol *add_packed(qnet_lower *lw, const char *name, const qnet_type *type,
                               const void *content) {
  qnet_blob *blob = qnet_blob_create(lw->m->allocator, type->dtype, type->rank, type->dim);
  if (!blob) return NULL;
  memcpy(blob->data, content, blob->bytes);
  qnet_symbol *s = qnet_symbol_add_data(lw->m, QNET_SYMBOL_CONST, name, type, blob, lw->lb.at.loc);
  qnet_blob_release(blob);
  return s;
}

void *qnet_pack_content(qnet_lower *lw, const qnet_type *type) {
  if (!type) return NULL;
  return qnet_arena_array(&lw->scratch, (size_t)qnet_type_elements(type),
                          (size_t)qnet_type_bytes(type));
}

qnet_status qnet_pack_const(qnet_lower *lw, const char *base, const char *suffix,
                            const qnet_type *type, const void *content, qnet_value **buffer) {
  if (!type || !content) return qnet_out_of_memory(lw->d);
  const char *name = NULL;
  qnet_symbol *s = find_packed(lw, base, suffix, type, content, &name);
  if (!s && name) s = add_packed(lw, name, type, content);
  *buffer = s ? read_const(lw, s) : NULL;
  return *buffer ? QNET_OK : qnet_out_of_memory(lw->d);
}

static int64_t padded(const qnet_lower *lw, int64_t channels) {
  return (channels + lw->pad - 1) / lw->pad * lw->pad;
}

qnet_status qnet_pack_channels(qnet_lower *lw, const qnet_symbol *s, qnet_value **buffer) {
  const int64_t c = qnet_type_elements(s->type), n = padded(lw, c);
  const qnet_type *type = qnet_type_buffer(lw->m, s->type->dtype, 1, &n);
  void *content = qnet_pack_content(lw, type);
  if (!content) return qnet_out_of_memory(lw->d);
  memcpy(content, s->blob->data, (size_t)(c * qnet_type_bytes(type)));
  return qnet_pack_const(lw, s->name, "lanes", type, content, buffer);
}

static int by_value(const void *a, const void *b) {
  const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

/* The rank is a count, so that the order within a channel is free; ascending, the k-th comparison
 * tells whether the rank is above k. */
qnet_status qnet_pack_thresholds(qnet_lower *lw, const qnet_symbol *s, qnet_value **buffer) {
  const int64_t c = s->type->dim[0], n = s->type->dim[1], stride = padded(lw, c);
  const qnet_type *type = qnet_type_buffer(lw->m, QNET_I32, 2, (int64_t[]){n, stride});
  int32_t *to = qnet_pack_content(lw, type);
  int32_t *row = qnet_arena_array(&lw->scratch, (size_t)n, sizeof *row);
  if (!to || !row) return qnet_out_of_memory(lw->d);
  const int32_t *from = s->blob->data;
  for (int64_t i = 0; i < n * stride; i++)
    to[i] = INT32_MAX;
  for (int64_t o = 0; o < c; o++) {
    memcpy(row, from + o * n, (size_t)n * sizeof *row);
    qsort(row, (size_t)n, sizeof *row, by_value);
    for (int64_t k = 0; k < n; k++)
      to[k * stride + o] = row[k];
  }
  return qnet_pack_const(lw, s->name, "lanes", type, to, buffer);
}

qnet_status qnet_pack_tail(qnet_lower *lw, int64_t channels, qnet_value **buffer) {
  const int bits = lw->machine->word_bits;
  const int64_t words = (channels + bits - 1) / bits;
  const qnet_type *type = qnet_type_buffer(lw->m, bits == 64 ? QNET_I64 : QNET_I32, 1, &words);
  void *content = qnet_pack_content(lw, type);
  const char *base = qnet_arena_printf(&lw->scratch, "channels.%lld", (long long)channels);
  if (!content || !base) return qnet_out_of_memory(lw->d);
  for (int64_t c = 0; c < channels; c++) {
    if (bits == 64) {
      ((uint64_t *)content)[c / 64] |= UINT64_C(1) << (c % 64);
    } else {
      ((uint32_t *)content)[c / 32] |= UINT32_C(1) << (c % 32);
    }
  }
  return qnet_pack_const(lw, base, "mask", type, content, buffer);
}
