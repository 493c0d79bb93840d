/* Numbers, strings and the content of blobs as text. */
#include "ir/text_internal.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
  LIST_MAX = 64,  /* more elements print as hex */
  SPLAT_MIN = 5,  /* fewer equal elements print as a list */
  ELIDE_MIN = 17, /* see QNET_PRINT_ELIDE */
};

static void print_special(qnet_strbuf *out, double v) {
  qnet_strbuf_puts(out, isnan(v) ? "nan" : v > 0 ? "inf" : "-inf");
}

void qnet_print_f32(qnet_strbuf *out, float v) {
  if (!isfinite(v)) {
    print_special(out, (double)v);
    return;
  }
  char text[32];
  for (int digits = 6; digits <= 9; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, (double)v);
    if (strtof(text, NULL) == v && (float)strtod(text, NULL) == v) break;
  }
  qnet_strbuf_puts(out, text);
}

static void format_f64(char *text, size_t size, double v) {
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(text, size, "%.*g", digits, v);
    if (strtod(text, NULL) == v) return;
  }
}

void qnet_print_f64(qnet_strbuf *out, double v) {
  char text[40];
  if (!isfinite(v)) {
    print_special(out, v);
    return;
  }
  format_f64(text, sizeof text, v);
  qnet_strbuf_puts(out, text);
}

void qnet_print_real(qnet_strbuf *out, double v) {
  char text[40];
  if (!isfinite(v)) {
    print_special(out, v);
    return;
  }
  format_f64(text, sizeof text, v);
  qnet_strbuf_puts(out, text);
  if (!strpbrk(text, ".e")) qnet_strbuf_puts(out, ".0");
}

void qnet_print_string(qnet_strbuf *out, const char *text) {
  qnet_strbuf_puts(out, "\"");
  for (const char *p = text; *p; p++) {
    const unsigned char c = (unsigned char)*p;
    if (c == '"' || c == '\\')
      qnet_strbuf_printf(out, "\\%c", c);
    else if (c < 0x20 || c == 0x7f)
      qnet_strbuf_printf(out, "\\x%02x", c);
    else
      qnet_strbuf_append(out, p, 1);
  }
  qnet_strbuf_puts(out, "\"");
}

/* ---- blobs ----------------------------------------------------------------------------------- */

static void print_element(qnet_strbuf *out, const qnet_blob *b, int64_t i) {
  switch (b->dtype) {
  case QNET_F32: qnet_print_f32(out, ((const float *)b->data)[i]); break;
  case QNET_F64: qnet_print_f64(out, ((const double *)b->data)[i]); break;
  case QNET_I8: qnet_strbuf_printf(out, "%d", ((const int8_t *)b->data)[i]); break;
  case QNET_I1:
  case QNET_U8:
  case QNET_CODE: qnet_strbuf_printf(out, "%d", ((const uint8_t *)b->data)[i]); break;
  case QNET_I16: qnet_strbuf_printf(out, "%d", ((const int16_t *)b->data)[i]); break;
  case QNET_I32: qnet_strbuf_printf(out, "%" PRId32, ((const int32_t *)b->data)[i]); break;
  case QNET_I64: qnet_strbuf_printf(out, "%" PRId64, ((const int64_t *)b->data)[i]); break;
  case QNET_U64: qnet_strbuf_printf(out, "%" PRIu64, ((const uint64_t *)b->data)[i]); break;
  }
}

/* Would the decimal text lose bits? So it is with NaNs other than the usual one. */
static bool is_odd_nan(const qnet_blob *b, int64_t i) {
  if (b->dtype == QNET_F32) {
    uint32_t bits;
    memcpy(&bits, (const float *)b->data + i, sizeof bits);
    return isnan(((const float *)b->data)[i]) && bits != 0x7fc00000u;
  }
  if (b->dtype == QNET_F64) {
    uint64_t bits;
    memcpy(&bits, (const double *)b->data + i, sizeof bits);
    return isnan(((const double *)b->data)[i]) && bits != 0x7ff8000000000000u;
  }
  return false;
}

static bool all_equal(const qnet_blob *b, int64_t count) {
  const size_t size = (size_t)qnet_dtype_bytes(b->dtype);
  /* Every element equals its neighbour. */
  return memcmp(b->data, (const char *)b->data + size, ((size_t)count - 1) * size) == 0;
}

static void print_hex(qnet_strbuf *out, const qnet_blob *b) {
  static const char digits[] = "0123456789abcdef";
  const unsigned char *bytes = b->data;
  char chunk[256];
  qnet_strbuf_puts(out, "hex\"");
  for (size_t i = 0; i < b->bytes;) {
    size_t n = 0;
    for (; n < sizeof chunk && i < b->bytes; i++) {
      chunk[n++] = digits[bytes[i] >> 4];
      chunk[n++] = digits[bytes[i] & 15];
    }
    qnet_strbuf_append(out, chunk, n);
  }
  qnet_strbuf_puts(out, "\"");
}

static bool fits_list(const qnet_blob *b, int64_t count) {
  if (count > LIST_MAX) return false;
  for (int64_t i = 0; i < count; i++)
    if (is_odd_nan(b, i)) return false;
  return true;
}

static void print_list(qnet_strbuf *out, const qnet_blob *b, int64_t count) {
  qnet_strbuf_puts(out, "[");
  for (int64_t i = 0; i < count; i++) {
    if (i > 0) qnet_strbuf_puts(out, ", ");
    print_element(out, b, i);
  }
  qnet_strbuf_puts(out, "]");
}

static void print_absent(qnet_strbuf *out, const qnet_symbol *s) {
  if (s->origin)
    qnet_print_string(out, s->origin);
  else
    qnet_strbuf_puts(out, "elided");
}

void qnet_print_data(qnet_strbuf *out, const qnet_symbol *s, unsigned flags) {
  const qnet_blob *b = s->blob;
  const int64_t count = b ? qnet_blob_elements(b) : 0;
  if (!b || ((flags & QNET_PRINT_ELIDE) && count >= ELIDE_MIN)) {
    print_absent(out, s);
  } else if (count >= SPLAT_MIN && all_equal(b, count) && !is_odd_nan(b, 0)) {
    qnet_strbuf_puts(out, "splat(");
    print_element(out, b, 0);
    qnet_strbuf_puts(out, ")");
  } else if (fits_list(b, count)) {
    print_list(out, b, count);
  } else {
    print_hex(out, b);
  }
}
