/* Types of the text form. What stands between < and > is no sequence of tokens ("8x8xf32"), so it
 * is read character by character. */
#include "ir/parse_internal.h"
#include <string.h>

enum { MAX_CODE_BITS = 8, MAX_PLANES = 64 };
static const int64_t max_elements = (int64_t)1 << 31;

typedef struct shape {
  int rank;
  int64_t dim[QNET_MAX_RANK];
} shape;

static char raw_peek(const qnet_parser *p) {
  return p->lexer.at < p->lexer.length ? p->lexer.text[p->lexer.at] : '\0';
}

static bool raw_accept(qnet_parser *p, char c) {
  if (raw_peek(p) != c) return false;
  p->lexer.at++;
  return true;
}

static bool raw_error(qnet_parser *p, uint32_t begin, const char *message) {
  const uint32_t end = p->lexer.at < p->lexer.length ? p->lexer.at + 1 : p->lexer.at;
  return qnet_parse_error(p, begin, end, "%s", message);
}

/* A number of 1..max. */
static bool raw_int(qnet_parser *p, int64_t max, const char *message, int64_t *out) {
  const uint32_t begin = p->lexer.at;
  int64_t n = 0;
  while (qnet_is_digit(raw_peek(p))) {
    n = n * 10 + (raw_peek(p) - '0');
    if (n > max) return raw_error(p, begin, message);
    p->lexer.at++;
  }
  if (n < 1) return raw_error(p, begin, message);
  *out = n;
  return true;
}

static bool add_dim(qnet_parser *p, shape *s) {
  const uint32_t begin = p->lexer.at;
  if (s->rank == QNET_MAX_RANK) return raw_error(p, begin, "a type has at most 6 dimensions");
  if (!raw_int(p, max_elements, "a dimension is a number of 1..2147483648", &s->dim[s->rank]))
    return false;
  s->rank++;
  int64_t elements = 1;
  for (int i = 0; i < s->rank; i++) {
    elements *= s->dim[i]; /* both at most 2^31 */
    if (elements > max_elements)
      return raw_error(p, begin, "the type has more than 2147483648 elements");
  }
  return true;
}

/* "8x8x": dimensions that an element type follows. */
static bool parse_dims(qnet_parser *p, shape *s) {
  while (qnet_is_digit(raw_peek(p))) {
    if (!add_dim(p, s)) return false;
    if (!raw_accept(p, 'x')) return raw_error(p, p->lexer.at, "expected 'x' behind the dimension");
  }
  return true;
}

static bool find_dtype(const char *text, size_t length, qnet_dtype *out) {
  for (int d = QNET_F32; d <= QNET_U64; d++) {
    const char *name = qnet_dtype_name((qnet_dtype)d);
    if (strlen(name) != length || memcmp(name, text, length) != 0) continue;
    *out = (qnet_dtype)d;
    return true;
  }
  return false;
}

static bool parse_element(qnet_parser *p, qnet_dtype *dtype) {
  const uint32_t begin = p->lexer.at;
  while (qnet_is_name_char(raw_peek(p)))
    p->lexer.at++;
  const uint32_t end = p->lexer.at;
  if (find_dtype(p->lexer.text + begin, end - begin, dtype)) return true;
  return qnet_parse_error(p, begin, end > begin ? end : begin + 1,
                          "expected an element type: f32, f64, i1, i8, u8, i16, i32, i64 or u64");
}

static bool parse_table_name(qnet_parser *p, const char **name) {
  if (!raw_accept(p, ':') || !raw_accept(p, '@'))
    return raw_error(p, p->lexer.at, "expected ':@' and the name of a table");
  qnet_token t = {.start = p->lexer.at, .begin = p->lexer.at};
  while (qnet_is_name_char(raw_peek(p)))
    p->lexer.at++;
  t.end = p->lexer.at;
  if (t.end == t.begin) return raw_error(p, t.begin, "expected the name of a table");
  *name = qnet_parse_text(p, t);
  return *name != NULL;
}

/* From behind "tensor<" to before ">". */
static bool parse_tensor(qnet_parser *p, const qnet_type **type) {
  shape s = {0};
  if (!parse_dims(p, &s)) return false;
  if (raw_accept(p, 'q')) {
    int64_t bits;
    const char *table = NULL;
    if (!raw_int(p, MAX_CODE_BITS, "a code has 1..8 bits", &bits)) return false;
    if (!parse_table_name(p, &table)) return false;
    *type = qnet_type_codes(p->module, (int)bits, table, s.rank, s.dim);
    return true;
  }
  qnet_dtype dtype;
  if (!parse_element(p, &dtype)) return false;
  *type = qnet_type_tensor(p->module, dtype, s.rank, s.dim);
  return true;
}

static bool parse_planes(qnet_parser *p, const qnet_type **type) {
  shape s = {0};
  int64_t planes;
  do {
    if (!add_dim(p, &s)) return false;
  } while (raw_accept(p, 'x'));
  if (s.rank == QNET_MAX_RANK) return raw_error(p, p->lexer.at, "planes have at most 5 dimensions");
  if (!raw_accept(p, ','))
    return raw_error(p, p->lexer.at, "expected ',' and the number of planes");
  if (!raw_int(p, MAX_PLANES, "the number of planes is 1..64", &planes)) return false;
  *type = qnet_type_planes(p->module, (int)planes, s.rank, s.dim);
  return true;
}

static bool parse_vector(qnet_parser *p, const qnet_type **type) {
  const uint32_t begin = p->lexer.at;
  shape s = {0};
  qnet_dtype dtype;
  if (!parse_dims(p, &s)) return false;
  if (s.rank != 1) return raw_error(p, begin, "a vector has one dimension: vec<16xi32>");
  if (!parse_element(p, &dtype)) return false;
  *type = qnet_type_vector(p->module, dtype, s.dim[0]);
  return true;
}

static bool parse_buffer(qnet_parser *p, const qnet_type **type) {
  shape s = {0};
  qnet_dtype dtype;
  if (!parse_dims(p, &s) || !parse_element(p, &dtype)) return false;
  *type = qnet_type_buffer(p->module, dtype, s.rank, s.dim);
  return true;
}

static bool parse_brackets(qnet_parser *p, const qnet_type **type,
                           bool (*inner)(qnet_parser *p, const qnet_type **type)) {
  qnet_parse_advance(p);
  if (!qnet_parse_is(p, '<')) return qnet_parse_expected(p, "'<'");
  p->lexer.at = p->token.end;
  const bool ok = inner(p, type);
  qnet_parse_advance(p);
  if (!ok) return false;
  if (!*type) return qnet_parse_out_of_memory(p);
  return qnet_parse_expect(p, '>', "at the end of the type");
}

bool qnet_parse_type(qnet_parser *p, const qnet_type **type) {
  *type = NULL;
  if (qnet_parse_is_word(p, "tensor")) return parse_brackets(p, type, parse_tensor);
  if (qnet_parse_is_word(p, "planes")) return parse_brackets(p, type, parse_planes);
  if (qnet_parse_is_word(p, "vec")) return parse_brackets(p, type, parse_vector);
  if (qnet_parse_is_word(p, "buf")) return parse_brackets(p, type, parse_buffer);
  qnet_dtype dtype;
  const qnet_token t = p->token;
  if (t.kind != QNET_TOKEN_WORD || !find_dtype(p->lexer.text + t.begin, t.end - t.begin, &dtype))
    return qnet_parse_expected(p,
                               "a type: tensor<...>, planes<...>, vec<...>, buf<...> or a scalar");
  qnet_parse_advance(p);
  *type = qnet_type_scalar(p->module, dtype);
  return *type || qnet_parse_out_of_memory(p);
}
