/* .npy: "\x93NUMPY", version, length, a Python dictionary as text, then the raw array.
 *
 * The dictionary is read by a scanner for exactly the three keys that numpy writes. */
#include "runtime/npy.h"
#include "runtime/image_internal.h"

#include <inttypes.h>
#include <string.h>

typedef struct scanner {
  const char *at, *end;
  unsigned seen; /* bits of keys */
} scanner;

enum { KEY_DESCR = 1, KEY_FORTRAN = 2, KEY_SHAPE = 4, KEYS_ALL = 7 };

static void skip_blanks(scanner *c) {
  while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t'))
    c->at++;
}

/* Consumes `text` after blanks, if it stands there. */
static bool accept(scanner *c, const char *text) {
  skip_blanks(c);
  const size_t length = strlen(text);
  if ((size_t)(c->end - c->at) < length || memcmp(c->at, text, length) != 0) return false;
  c->at += length;
  return true;
}

/* 'text' in quotes, without escapes. */
static bool accept_string(scanner *c, char *out, size_t size) {
  if (!accept(c, "'") && !accept(c, "\"")) return false;
  const char quote = c->at[-1];
  size_t length = 0;
  while (c->at < c->end && *c->at != quote && length + 1 < size)
    out[length++] = *c->at++;
  out[length] = 0;
  return accept(c, quote == '\'' ? "'" : "\"");
}

static bool accept_number(scanner *c, int64_t *out) {
  skip_blanks(c);
  const char *start = c->at;
  *out = 0;
  while (c->at < c->end && *c->at >= '0' && *c->at <= '9') {
    if (*out > INT64_MAX / 100) return false;
    *out = *out * 10 + (*c->at++ - '0');
  }
  return c->at > start;
}

/* (), (3,), (3, 4), (3, 4,) */
static bool accept_shape(scanner *c, qnet_npy *h) {
  if (!accept(c, "(")) return false;
  while (!accept(c, ")")) {
    if (h->rank == QNET_BLOB_MAX_RANK || !accept_number(c, &h->dim[h->rank])) return false;
    h->rank++;
    if (accept(c, ",")) continue;
    return accept(c, ")");
  }
  return true;
}

static bool accept_item(scanner *c, qnet_npy *h) {
  char key[16];
  if (!accept_string(c, key, sizeof key) || !accept(c, ":")) return false;
  const unsigned bit = strcmp(key, "descr") == 0           ? KEY_DESCR
                       : strcmp(key, "fortran_order") == 0 ? KEY_FORTRAN
                       : strcmp(key, "shape") == 0         ? KEY_SHAPE
                                                           : 0;
  if (bit == 0 || (c->seen & bit)) return false;
  c->seen |= bit;
  if (bit == KEY_DESCR) return accept_string(c, h->descr, sizeof h->descr);
  if (bit == KEY_SHAPE) return accept_shape(c, h);
  h->fortran = accept(c, "True");
  return h->fortran || accept(c, "False");
}

static bool accept_dictionary(scanner *c, qnet_npy *h) {
  if (!accept(c, "{")) return false;
  while (!accept(c, "}")) {
    if (!accept_item(c, h)) return false;
    if (accept(c, ",")) continue;
    if (!accept(c, "}")) return false;
    break;
  }
  skip_blanks(c);
  return c->at == c->end && c->seen == KEYS_ALL;
}

/* Finds the dictionary and where the array begins. */
static bool find_parts(const uint8_t *data, size_t size, scanner *dictionary, size_t *array) {
  const size_t start = data[6] == 1 ? 10 : 12;
  if (size < start) return false;
  size_t length = (size_t)data[8] | (size_t)data[9] << 8;
  if (start == 12) length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
  if (length > size - start) return false;
  const char *text = (const char *)data + start;
  *dictionary = (scanner){text, text + length, 0};
  *array = start + length;
  return true;
}

qnet_status qnet_npy_parse(const char *path, const uint8_t *data, size_t size, qnet_npy *out,
                           qnet_diag *d) {
  scanner dictionary;
  *out = (qnet_npy){.elements = 1};
  if (size < QNET_NPY_MAGIC_BYTES || memcmp(data, QNET_NPY_MAGIC, QNET_NPY_MAGIC_BYTES) != 0)
    return qnet_error_in(d, path, "is no .npy file");
  if (size > 6 && (data[6] < 1 || data[6] > 3))
    return qnet_error_in(d, path, ".npy version %d is not supported", data[6]);
  if (size < 10 || !find_parts(data, size, &dictionary, &out->offset) ||
      !accept_dictionary(&dictionary, out))
    return qnet_error_in(d, path, "the header of the .npy file is damaged");
  for (int i = 0; i < out->rank; i++)
    if (__builtin_mul_overflow(out->elements, (uint64_t)out->dim[i], &out->elements))
      out->elements = UINT64_MAX;
  return QNET_OK;
}

static qnet_status choose_dtype(const qnet_image_source *s, const qnet_npy *h, qnet_dtype *dtype) {
  if (h->fortran)
    return qnet_error_in(s->diag, s->path,
                         "the array is in Fortran order; save numpy.ascontiguousarray(x)");
  if (strcmp(h->descr, "|u1") == 0)
    *dtype = QNET_U8;
  else if (strcmp(h->descr, "<f4") == 0)
    *dtype = QNET_F32;
  else if (strcmp(h->descr, ">f4") == 0)
    return qnet_error_in(s->diag, s->path, "the array is big-endian; save x.astype('<f4')");
  else
    return qnet_error_in(s->diag, s->path,
                         "elements of type '%s' are not supported; save x.astype('<f4') or "
                         "x.astype('u1')",
                         h->descr);
  return QNET_OK;
}

qnet_status qnet_npy_decode(const qnet_image_source *s, qnet_blob **out) {
  qnet_npy h;
  qnet_dtype dtype = QNET_U8;
  QNET_TRY(qnet_npy_parse(s->path, s->data, s->size, &h, s->diag));
  QNET_TRY(choose_dtype(s, &h, &dtype));
  const size_t has = s->size - h.offset;
  uint64_t needed;
  if (__builtin_mul_overflow((uint64_t)qnet_dtype_bytes(dtype), h.elements, &needed))
    needed = UINT64_MAX;
  if (needed != has)
    return qnet_error_in(s->diag, s->path,
                         "the array's shape needs %" PRIu64 " bytes, the file has %zu", needed,
                         has);
  *out = qnet_blob_create(s->allocator, dtype, h.rank, h.dim);
  if (!*out) return qnet_out_of_memory(s->diag);
  if (has) memcpy((*out)->data, s->data + h.offset, has);
  return QNET_OK;
}
