/* What the rules of the verifier are made of. */
#include "ir/text.h"
#include "ir/verify_internal.h"
#include <inttypes.h>
#include <string.h>

static const int64_t max_size = (int64_t)1 << 31;

/* ---- reports --------------------------------------------------------------------------------- */

static bool report(qnet_verifier *v, qnet_loc loc, const char *prefix, const char *format,
                   va_list args) {
  char message[512];
  vsnprintf(message, sizeof message, format, args);
  qnet_error(v->diag, loc, "%s%s%s", prefix, *prefix ? ": " : "", message);
  v->failed = true;
  return false;
}

bool qnet_verify_error(qnet_verifier *v, const qnet_op *op, const char *format, ...) {
  va_list args;
  va_start(args, format);
  report(v, op->loc, qnet_op_def_of(op->opcode)->name, format, args);
  va_end(args);
  return false;
}

bool qnet_verify_error_at(qnet_verifier *v, qnet_loc loc, const char *format, ...) {
  va_list args;
  va_start(args, format);
  report(v, loc, "", format, args);
  va_end(args);
  return false;
}

const char *qnet_verify_type_text(qnet_verifier *v, const qnet_type *t) {
  qnet_strbuf b;
  qnet_strbuf_init(&b, v->module->allocator);
  qnet_type_print(t, &b);
  const char *text = b.failed ? NULL : qnet_arena_strdup(&v->scratch, qnet_strbuf_text(&b));
  qnet_strbuf_free(&b);
  return text ? text : "another type";
}

/* ---- types ----------------------------------------------------------------------------------- */

qnet_type qnet_tensor0(qnet_dtype dtype) {
  return (qnet_type){.kind = QNET_TYPE_TENSOR, .dtype = dtype};
}

qnet_type qnet_tensor1(qnet_dtype dtype, int64_t a) {
  return (qnet_type){.kind = QNET_TYPE_TENSOR, .dtype = dtype, .rank = 1, .dim = {a}};
}

qnet_type qnet_tensor2(qnet_dtype dtype, int64_t a, int64_t b) {
  return (qnet_type){.kind = QNET_TYPE_TENSOR, .dtype = dtype, .rank = 2, .dim = {a, b}};
}

qnet_type qnet_tensor4(qnet_dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d) {
  return (qnet_type){.kind = QNET_TYPE_TENSOR, .dtype = dtype, .rank = 4, .dim = {a, b, c, d}};
}

qnet_type qnet_tensor_like(const qnet_type *t, qnet_dtype dtype) {
  qnet_type like = *t;
  like.kind = QNET_TYPE_TENSOR;
  like.dtype = dtype;
  like.bits = 0;
  like.table = NULL;
  return like;
}

qnet_type qnet_planes4(int planes, int64_t a, int64_t b, int64_t c, int64_t d) {
  qnet_type t = qnet_tensor4(QNET_U64, a, b, c, d);
  t.kind = QNET_TYPE_PLANES;
  t.bits = planes;
  return t;
}

const qnet_type *qnet_in(const qnet_op *op, int index) {
  return op->operand[index]->type;
}

const qnet_type *qnet_out(const qnet_op *op, int index) {
  return op->result[index].type;
}

int64_t qnet_channels(const qnet_type *t) {
  return t->rank > 0 ? t->dim[t->rank - 1] : 1;
}

/* ---- expectations ---------------------------------------------------------------------------- */

bool qnet_expect_in(qnet_verifier *v, const qnet_op *op, int index, qnet_type want) {
  const qnet_type *is = qnet_in(op, index);
  if (qnet_type_equal(is, &want)) return true;
  return qnet_verify_error(v, op, "operand %d must be %s, not %s", index,
                           qnet_verify_type_text(v, &want), qnet_verify_type_text(v, is));
}

bool qnet_expect_out(qnet_verifier *v, const qnet_op *op, int index, qnet_type want) {
  const qnet_type *is = qnet_out(op, index);
  if (qnet_type_equal(is, &want)) return true;
  return qnet_verify_error(v, op, "result %d must be %s, not %s", index,
                           qnet_verify_type_text(v, &want), qnet_verify_type_text(v, is));
}

bool qnet_is_tensor(const qnet_type *t, qnet_dtype dtype, int rank) {
  if (t->kind != QNET_TYPE_TENSOR || t->dtype != dtype) return false;
  return rank == QNET_ANY_RANK ? t->rank >= 1 : t->rank == rank;
}

bool qnet_expect_tensor(qnet_verifier *v, const qnet_op *op, int index, qnet_dtype dtype,
                        int rank) {
  const qnet_type *is = qnet_in(op, index);
  if (qnet_is_tensor(is, dtype, rank)) return true;
  const char *element = dtype == QNET_CODE ? "codes" : qnet_dtype_name(dtype);
  if (rank == QNET_ANY_RANK)
    return qnet_verify_error(v, op, "operand %d must be a tensor of %s, not %s", index, element,
                             qnet_verify_type_text(v, is));
  return qnet_verify_error(v, op, "operand %d must be a tensor of %s with %d dimensions, not %s",
                           index, element, rank, qnet_verify_type_text(v, is));
}

bool qnet_expect_planes(qnet_verifier *v, const qnet_op *op, int index) {
  const qnet_type *is = qnet_in(op, index);
  if (is->kind == QNET_TYPE_PLANES && is->rank == 4) return true;
  return qnet_verify_error(v, op, "operand %d must be planes with 4 dimensions, not %s", index,
                           qnet_verify_type_text(v, is));
}

bool qnet_expect_int(qnet_verifier *v, const qnet_op *op, const char *name, int64_t min,
                     int64_t max) {
  const int64_t value = qnet_op_int(op, name, min);
  if (value >= min && value <= max) return true;
  return qnet_verify_error(v, op, "%s = %" PRId64 " is not in %" PRId64 "..%" PRId64, name, value,
                           min, max);
}

bool qnet_expect_count(qnet_verifier *v, const qnet_op *op, const char *name, int64_t count) {
  const qnet_attr *a = qnet_op_attr(op, name);
  if (!a || a->count == count) return true;
  return qnet_verify_error(v, op, "%s has %d elements instead of %" PRId64, name, a->count, count);
}

bool qnet_expect_word(qnet_verifier *v, const qnet_op *op, const char *name,
                      const char *const *words, size_t count) {
  const char *word = qnet_op_string(op, name);
  for (size_t i = 0; i < count; i++)
    if (strcmp(word, words[i]) == 0) return true;
  const char *nearest = qnet_nearest(word, words, count);
  return qnet_verify_error(v, op, "%s = \"%s\" is not known; did you mean \"%s\"?", name, word,
                           nearest ? nearest : words[0]);
}

/* ---- windows --------------------------------------------------------------------------------- */

static bool expect_sizes(qnet_verifier *v, const qnet_op *op, const char *name, int count,
                         int64_t min) {
  const qnet_attr *a = qnet_op_attr(op, name);
  if (!a) return true;
  if (!qnet_expect_count(v, op, name, count)) return false;
  for (int i = 0; i < count; i++)
    if (a->ints[i] < min || a->ints[i] > max_size)
      return qnet_verify_error(v, op, "%s[%d] = %" PRId64 " is not in %" PRId64 "..%" PRId64, name,
                               i, a->ints[i], min, max_size);
  return true;
}

static bool pads_are_real(const qnet_window *w) {
  return w->pad_top < w->kernel_h && w->pad_bottom < w->kernel_h && w->pad_left < w->kernel_w &&
         w->pad_right < w->kernel_w;
}

bool qnet_expect_window(qnet_verifier *v, const qnet_op *op, int64_t in_h, int64_t in_w,
                        int64_t *out_h, int64_t *out_w) {
  if (!expect_sizes(v, op, "kernel", 2, 1) || !expect_sizes(v, op, "stride", 2, 1) ||
      !expect_sizes(v, op, "pad", 4, 0) || !expect_sizes(v, op, "dilation", 2, 1))
    return false;
  const qnet_window w = qnet_op_window(op);
  *out_h = qnet_window_out_h(&w, in_h);
  *out_w = qnet_window_out_w(&w, in_w);
  if (*out_h < 1 || *out_w < 1)
    return qnet_verify_error(v, op,
                             "the window of %" PRId64 "x%" PRId64
                             " does not fit the padded input of %" PRId64 "x%" PRId64,
                             w.kernel_h, w.kernel_w, in_h, in_w);
  const bool pools = qnet_op_attr(op, "kernel") && !qnet_op_attr(op, "coef");
  if (pools && !pads_are_real(&w))
    return qnet_verify_error(v, op, "padding must be smaller than the kernel");
  return true;
}

const qnet_table *qnet_expect_table(qnet_verifier *v, const qnet_op *op) {
  const qnet_symbol *s = qnet_op_symbol(v->module, op, "table");
  if (!s || s->kind != QNET_SYMBOL_TABLE) {
    qnet_verify_error(v, op, "@%s is not a table", qnet_op_string(op, "table"));
    return NULL;
  }
  if (!s->table->threshold || s->table->channels != 1) {
    qnet_verify_error(v, op, "table @%s must have thresholds and one channel", s->name);
    return NULL;
  }
  return s->table;
}
