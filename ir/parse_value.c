/* Attributes, contents of blobs, and level tables of the text form. */
#include "ir/ops.h"
#include "ir/parse_internal.h"
#include "ir/text_internal.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers --------------------------------------------------------------------------------- */

typedef struct number {
  bool is_real; /* written with a point or exponent, or not finite */
  int64_t i;
  double f;
} number;

static bool is_number(const qnet_parser *p) {
  return p->token.kind == QNET_TOKEN_NUMBER || qnet_parse_is_word(p, "nan") ||
         qnet_parse_is_word(p, "inf");
}

static bool number_error(qnet_parser *p, qnet_token t, const char *what) {
  return qnet_parse_error(p, t.begin, t.end, "%s", what);
}

/* Decimal text to the nearest double; overflow is an error, inf and nan are spelled. */
static bool to_real(qnet_parser *p, qnet_token t, const char *text, double *out) {
  *out = strtod(text, NULL);
  const bool spelled = strpbrk(text, "ni") != NULL;
  return spelled || isfinite(*out) || number_error(p, t, "the number is out of range");
}

/* Consumes a number. */
static bool parse_number(qnet_parser *p, number *n) {
  if (!is_number(p)) return qnet_parse_expected(p, "a number");
  const qnet_token t = p->token;
  char text[QNET_PARSE_WORD];
  if (t.end - t.begin >= sizeof text) return number_error(p, t, "the number has too many digits");
  qnet_parse_word(p, t, text);
  qnet_parse_advance(p);
  n->is_real = strpbrk(text, ".eEni") != NULL;
  if (!to_real(p, t, text, &n->f)) return false;
  if (n->is_real) return true;
  errno = 0;
  n->i = strtoll(text, NULL, 10);
  return errno == 0 || number_error(p, t, "the integer does not fit 64 bits");
}

/* ---- attributes ------------------------------------------------------------------------------ */

typedef struct number_list {
  qnet_parse_list ints, reals; /* the same numbers; ints only as long as all are integers */
  bool is_real;
} number_list;

static bool parse_number_list(qnet_parser *p, number_list *list) {
  qnet_parse_advance(p);
  while (!qnet_parse_is(p, ']')) {
    number n = {0};
    if (!parse_number(p, &n)) return false;
    int64_t *i = qnet_parse_list_add(p, &list->ints, sizeof *i);
    double *f = qnet_parse_list_add(p, &list->reals, sizeof *f);
    if (!i || !f) return false;
    *i = n.i;
    *f = n.f;
    list->is_real |= n.is_real;
    if (!qnet_parse_accept(p, ',')) break;
  }
  return qnet_parse_expect(p, ']', "at the end of the list");
}

static bool parse_list_attr(qnet_parser *p, const char *name, const qnet_attr_spec *spec,
                            qnet_op *holder) {
  number_list list = {0};
  if (!parse_number_list(p, &list)) return false;
  if (list.is_real || spec->kind == QNET_ATTR_FLOATS)
    qnet_op_set_floats(p->module, holder, name, list.reals.items, list.reals.count);
  else
    qnet_op_set_ints(p->module, holder, name, list.ints.items, list.ints.count);
  return true;
}

static int hex_digit(char c) {
  if (qnet_is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One escape behind a backslash at text[i]; returns its length, 0 when it is none. */
static uint32_t unescape(const char *text, uint32_t left, char *out) {
  if (left >= 1 && (text[0] == '"' || text[0] == '\\')) {
    *out = text[0];
    return 1;
  }
  if (left < 3 || text[0] != 'x') return 0;
  const int high = hex_digit(text[1]), low = hex_digit(text[2]);
  if (high < 0 || low < 0 || (high == 0 && low == 0)) return 0;
  *out = (char)(high * 16 + low);
  return 3;
}

/* Consumes a string; the result is in the scratch arena. */
static bool parse_string(qnet_parser *p, char **out) {
  const qnet_token t = p->token;
  if (t.kind != QNET_TOKEN_STRING) return qnet_parse_expected(p, "a string");
  char *s = qnet_parse_text(p, t);
  if (!s) return false;
  const uint32_t end = t.end - t.begin - 1;
  uint32_t n = 0;
  for (uint32_t i = 1; i < end; i++) {
    char c = s[i];
    if (c == '\\') {
      const uint32_t used = unescape(s + i + 1, end - i - 1, &c);
      if (used == 0)
        return qnet_parse_error(p, t.begin + i, t.begin + i + 2,
                                "unknown escape; \\\" \\\\ and \\x01..\\xff are known");
      i += used;
    }
    s[n++] = c;
  }
  s[n] = '\0';
  *out = s;
  qnet_parse_advance(p);
  return true;
}

static bool parse_text_attr(qnet_parser *p, const char *name, qnet_op *holder) {
  if (p->token.kind == QNET_TOKEN_SYMBOL) {
    const char *symbol;
    if (!qnet_parse_symbol_name(p, &symbol)) return false;
    qnet_op_set_symbol(p->module, holder, name, symbol);
    return true;
  }
  char *text;
  if (!parse_string(p, &text)) return false;
  qnet_op_set_string(p->module, holder, name, text);
  return true;
}

static bool parse_attr_value(qnet_parser *p, const char *name, const qnet_attr_spec *spec,
                             qnet_op *holder) {
  if (qnet_parse_is(p, '[')) return parse_list_attr(p, name, spec, holder);
  if (p->token.kind == QNET_TOKEN_SYMBOL || p->token.kind == QNET_TOKEN_STRING)
    return parse_text_attr(p, name, holder);
  if (!is_number(p)) return qnet_parse_expected(p, "a number, a string, @symbol or a list");
  number n;
  if (!parse_number(p, &n)) return false;
  if (n.is_real || spec->kind == QNET_ATTR_FLOAT)
    qnet_op_set_float(p->module, holder, name, n.f);
  else
    qnet_op_set_int(p->module, holder, name, n.i);
  return true;
}

static bool find_spec(const char *schema, const char *name, qnet_attr_spec *spec) {
  while ((schema = qnet_attr_spec_next(schema, spec)) != NULL)
    if (strcmp(spec->name, name) == 0) return true;
  return false;
}

enum { MAX_SPECS = 16 };

static bool unknown_attr(qnet_parser *p, qnet_token t, const char *name, const char *schema,
                         const char *what) {
  qnet_attr_spec spec[MAX_SPECS];
  const char *known[MAX_SPECS];
  size_t count = 0;
  for (; count < MAX_SPECS; count++) {
    schema = qnet_attr_spec_next(schema, &spec[count]);
    if (!schema) break;
    known[count] = spec[count].name;
  }
  const char *nearest = qnet_nearest(name, known, count);
  if (count == 0)
    return qnet_parse_error(p, t.begin, t.end, "%s takes no attributes, not even '%s'", what, name);
  qnet_parse_error(p, t.begin, t.end, "%s has no attribute '%s'%s%s%s", what, name,
                   nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
  if (nearest) qnet_fixit(p->diag, nearest);
  return false;
}

static bool parse_attr(qnet_parser *p, const char *schema, const char *what, qnet_op *holder) {
  const qnet_token t = p->token;
  if (t.kind != QNET_TOKEN_WORD) return qnet_parse_expected(p, "the name of an attribute");
  char name[QNET_PARSE_WORD];
  qnet_parse_word(p, t, name);
  qnet_attr_spec spec;
  if (!find_spec(schema, name, &spec)) return unknown_attr(p, t, name, schema, what);
  if (qnet_op_attr(holder, name))
    return qnet_parse_error(p, t.begin, t.end, "attribute '%s' is given twice", name);
  qnet_parse_advance(p);
  return qnet_parse_expect(p, '=', "behind the attribute's name") &&
         parse_attr_value(p, name, &spec, holder);
}

bool qnet_parse_attrs(qnet_parser *p, const char *schema, const char *what, qnet_op *holder) {
  qnet_parse_advance(p);
  while (!qnet_parse_is(p, '}')) {
    if (!parse_attr(p, schema, what, holder)) return false;
    if (!qnet_parse_accept(p, ',')) break;
  }
  if (p->module->failed) return qnet_parse_out_of_memory(p);
  return qnet_parse_expect(p, '}', "at the end of the attributes");
}

/* ---- contents of blobs ----------------------------------------------------------------------- */

static bool int_range(qnet_dtype dtype, int64_t *min, int64_t *max) {
  switch (dtype) {
  case QNET_I1: *min = 0, *max = 1; return true;
  case QNET_U8:
  case QNET_CODE: *min = 0, *max = UINT8_MAX; return true;
  case QNET_I8: *min = INT8_MIN, *max = INT8_MAX; return true;
  case QNET_I16: *min = INT16_MIN, *max = INT16_MAX; return true;
  case QNET_I32: *min = INT32_MIN, *max = INT32_MAX; return true;
  case QNET_I64: *min = INT64_MIN, *max = INT64_MAX; return true;
  case QNET_F32:
  case QNET_F64:
  case QNET_U64: break;
  }
  return false;
}

static void store_int(qnet_dtype dtype, int64_t v, void *out) {
  switch (qnet_dtype_bytes(dtype)) {
  case 1: *(uint8_t *)out = (uint8_t)v; break;
  case 2: *(int16_t *)out = (int16_t)v; break;
  case 4: *(int32_t *)out = (int32_t)v; break;
  default: *(int64_t *)out = v; break;
  }
}

static bool element_error(qnet_parser *p, qnet_token t, qnet_dtype dtype) {
  char text[QNET_PARSE_WORD];
  qnet_parse_word(p, t, text);
  return qnet_parse_error(p, t.begin, t.end, "%s is no value of %s", text,
                          dtype == QNET_CODE ? "a code" : qnet_dtype_name(dtype));
}

/* The text is short and of digits: parse_number saw it. */
static bool parse_u64(qnet_parser *p, qnet_token t, uint64_t *out) {
  char text[QNET_PARSE_WORD];
  qnet_parse_word(p, t, text);
  errno = 0;
  *out = strtoull(text, NULL, 10);
  if (errno || text[0] == '-' || text[strspn(text, "0123456789")])
    return element_error(p, t, QNET_U64);
  return true;
}

/* Consumes one number as an element of a blob; out has room for 8 bytes. */
static bool parse_element(qnet_parser *p, qnet_dtype dtype, void *out) {
  const qnet_token t = p->token;
  if (dtype == QNET_U64 && t.kind == QNET_TOKEN_NUMBER && t.end - t.begin < QNET_PARSE_WORD) {
    qnet_parse_advance(p);
    return parse_u64(p, t, out);
  }
  number n = {0};
  if (!parse_number(p, &n)) return false;
  if (dtype == QNET_F64) {
    *(double *)out = n.f;
    return true;
  }
  if (dtype == QNET_F32) {
    char text[QNET_PARSE_WORD];
    qnet_parse_word(p, t, text);
    *(float *)out = strtof(text, NULL);
    return isfinite(*(float *)out) || !isfinite(n.f) || element_error(p, t, dtype);
  }
  int64_t min, max;
  if (n.is_real || !int_range(dtype, &min, &max) || n.i < min || n.i > max)
    return element_error(p, t, dtype);
  store_int(dtype, n.i, out);
  return true;
}

static bool new_blob(qnet_parser *p, const qnet_type *type, qnet_blob **blob) {
  *blob = qnet_type_new_blob(p->module->allocator, type);
  return *blob || qnet_parse_out_of_memory(p);
}

static int64_t blob_elements(const qnet_type *type) {
  int64_t dim[QNET_BLOB_MAX_RANK], n = 1;
  const int rank = qnet_type_blob_shape(type, dim);
  for (int i = 0; i < rank; i++)
    n *= dim[i]; /* at most 2^31 by 64 planes */
  return n;
}

/* Numbers up to the closing bracket, without consuming them. */
static int64_t count_elements(const qnet_parser *p) {
  qnet_lexer ahead = p->lexer;
  qnet_token t = p->token;
  int64_t n = 0;
  for (; t.kind == QNET_TOKEN_NUMBER || t.kind == QNET_TOKEN_WORD || t.kind == QNET_TOKEN_PUNCT;
       t = qnet_lexer_next(&ahead)) {
    if (t.kind != QNET_TOKEN_PUNCT)
      n++;
    else if (ahead.text[t.begin] != ',')
      break;
  }
  return n;
}

/* The length of the list is compared before the blob is made: memory stays in proportion to the
 * text. */
static bool parse_list(qnet_parser *p, const qnet_type *type, qnet_blob **blob) {
  const qnet_token open = p->token;
  qnet_parse_advance(p);
  const int64_t count = blob_elements(type), found = count_elements(p);
  if (found != count)
    return qnet_parse_error(p, open.begin, open.end,
                            "the list has %" PRId64 " elements, but its type %" PRId64, found,
                            count);
  if (!new_blob(p, type, blob)) return false;
  const int64_t size = qnet_dtype_bytes(type->dtype);
  for (int64_t i = 0; i < count; i++) {
    if (i > 0 && !qnet_parse_expect(p, ',', "between the elements")) return false;
    if (!parse_element(p, type->dtype, (char *)(*blob)->data + i * size)) return false;
  }
  return qnet_parse_expect(p, ']', "at the end of the list");
}

static bool parse_splat(qnet_parser *p, const qnet_type *type, qnet_blob **blob) {
  _Alignas(8) char element[8] = {0};
  static const char zero[8] = {0};
  qnet_parse_advance(p);
  if (!qnet_parse_expect(p, '(', "behind splat")) return false;
  if (!parse_element(p, type->dtype, element)) return false;
  if (!qnet_parse_expect(p, ')', "behind the number") || !new_blob(p, type, blob)) return false;
  const size_t size = (size_t)qnet_dtype_bytes(type->dtype);
  if (memcmp(element, zero, size) == 0) return true; /* blobs are zero at first */
  for (size_t i = 0; i < (*blob)->bytes; i += size)
    memcpy((char *)(*blob)->data + i, element, size);
  return true;
}

static bool decode_hex(qnet_parser *p, const qnet_token t, qnet_blob *blob) {
  const char *digits = p->lexer.text + t.begin + 1;
  unsigned char *bytes = blob->data;
  for (size_t i = 0; i < blob->bytes; i++) {
    const int high = hex_digit(digits[2 * i]), low = hex_digit(digits[2 * i + 1]);
    if (high < 0 || low < 0) {
      const uint32_t at = t.begin + 1 + (uint32_t)(2 * i);
      return qnet_parse_error(p, at, at + 2, "expected two hexadecimal digits");
    }
    bytes[i] = (unsigned char)(high * 16 + low);
  }
  return true;
}

static bool parse_hex(qnet_parser *p, const qnet_type *type, qnet_blob **blob) {
  qnet_parse_advance(p);
  const qnet_token t = p->token;
  if (t.kind != QNET_TOKEN_STRING) return qnet_parse_expected(p, "a string of digits behind hex");
  const int64_t wanted = blob_elements(type) * qnet_dtype_bytes(type->dtype);
  const int64_t digits = (int64_t)(t.end - t.begin) - 2;
  if (digits != 2 * wanted)
    return qnet_parse_error(p, t.begin, t.end,
                            "%" PRId64 " hexadecimal digits, but the type has %" PRId64 " bytes",
                            digits, wanted);
  qnet_parse_advance(p);
  return new_blob(p, type, blob) && decode_hex(p, t, *blob);
}

static bool parse_origin(qnet_parser *p, const char **origin) {
  const qnet_token t = p->token;
  char *text;
  if (!parse_string(p, &text)) return false;
  const char *mark = strrchr(text, '#');
  if (!mark || mark == text || mark[1] == '\0')
    return qnet_parse_error(p, t.begin, t.end, "expected \"FILE#TENSOR\"");
  *origin = qnet_module_string(p->module, text);
  return *origin || qnet_parse_out_of_memory(p);
}

bool qnet_parse_data(qnet_parser *p, const qnet_type *type, qnet_blob **blob, const char **origin) {
  if (p->token.kind == QNET_TOKEN_STRING) return parse_origin(p, origin);
  if (qnet_parse_is(p, '[')) return parse_list(p, type, blob);
  if (qnet_parse_is_word(p, "splat")) return parse_splat(p, type, blob);
  if (qnet_parse_is_word(p, "hex")) return parse_hex(p, type, blob);
  if (!qnet_parse_is_word(p, "elided"))
    return qnet_parse_expected(p, "[...], splat(...), hex\"...\", \"FILE#TENSOR\" or elided");
  qnet_parse_advance(p);
  return true;
}
