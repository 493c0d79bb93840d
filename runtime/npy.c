/* .npy: "\x93NUMPY", version, length, a Python dictionary as text, then the raw array.
 *
 * The dictionary is read by a scanner for exactly the three keys that numpy writes. */
#include "runtime/image_internal.h"

#include <inttypes.h>
#include <string.h>

typedef struct scanner {
  const qnet_image_source *source;
  const char *at, *end;
} scanner;

typedef struct header {
  char descr[16];
  bool fortran;
  int rank;
  int64_t dim[QNET_BLOB_MAX_RANK];
  unsigned seen; /* bits of keys */
} header;

enum { KEY_DESCR = 1, KEY_FORTRAN = 2, KEY_SHAPE = 4, KEYS_ALL = 7 };

static qnet_status damaged(const qnet_image_source *s) {
  return qnet_error_in(s->diag, s->path, "the header of the .npy file is damaged");
}

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
static bool accept_shape(scanner *c, header *h) {
  if (!accept(c, "(")) return false;
  while (!accept(c, ")")) {
    if (h->rank == QNET_BLOB_MAX_RANK || !accept_number(c, &h->dim[h->rank])) return false;
    h->rank++;
    if (accept(c, ",")) continue;
    return accept(c, ")");
  }
  return true;
}

static bool accept_item(scanner *c, header *h) {
  char key[16];
  if (!accept_string(c, key, sizeof key) || !accept(c, ":")) return false;
  const unsigned bit = strcmp(key, "descr") == 0           ? KEY_DESCR
                       : strcmp(key, "fortran_order") == 0 ? KEY_FORTRAN
                       : strcmp(key, "shape") == 0         ? KEY_SHAPE
                                                           : 0;
  if (bit == 0 || (h->seen & bit)) return false;
  h->seen |= bit;
  if (bit == KEY_DESCR) return accept_string(c, h->descr, sizeof h->descr);
  if (bit == KEY_SHAPE) return accept_shape(c, h);
  h->fortran = accept(c, "True");
  return h->fortran || accept(c, "False");
}

static qnet_status read_dictionary(scanner *c, header *h) {
  if (!accept(c, "{")) return damaged(c->source);
  while (!accept(c, "}")) {
    if (!accept_item(c, h)) return damaged(c->source);
    if (accept(c, ",")) continue;
    if (!accept(c, "}")) return damaged(c->source);
    break;
  }
  skip_blanks(c);
  return c->at == c->end && h->seen == KEYS_ALL ? QNET_OK : damaged(c->source);
}

/* Finds the dictionary and where the array begins. */
static qnet_status find_parts(const qnet_image_source *s, scanner *dictionary, size_t *array) {
  const size_t start = s->size > 6 && s->data[6] == 1 ? 10 : 12;
  if (s->size < start) return damaged(s);
  if (s->data[6] < 1 || s->data[6] > 3)
    return qnet_error_in(s->diag, s->path, ".npy version %d is not supported", s->data[6]);
  size_t length = (size_t)s->data[8] | (size_t)s->data[9] << 8;
  if (start == 12) length |= (size_t)s->data[10] << 16 | (size_t)s->data[11] << 24;
  if (length > s->size - start) return damaged(s);
  const char *text = (const char *)s->data + start;
  *dictionary = (scanner){s, text, text + length};
  *array = start + length;
  return QNET_OK;
}

static qnet_status choose_dtype(const qnet_image_source *s, const header *h, qnet_dtype *dtype) {
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
  scanner dictionary = {s, NULL, NULL};
  header h = {.rank = 0};
  size_t array = 0;
  qnet_dtype dtype = QNET_U8;
  QNET_TRY(find_parts(s, &dictionary, &array));
  QNET_TRY(read_dictionary(&dictionary, &h));
  QNET_TRY(choose_dtype(s, &h, &dtype));
  const size_t has = s->size - array;
  uint64_t needed = (uint64_t)qnet_dtype_bytes(dtype);
  for (int i = 0; i < h.rank; i++)
    if (__builtin_mul_overflow(needed, (uint64_t)h.dim[i], &needed)) needed = UINT64_MAX;
  if (needed != has)
    return qnet_error_in(s->diag, s->path,
                         "the array's shape needs %" PRIu64 " bytes, the file has %zu", needed,
                         has);
  *out = qnet_blob_create(s->allocator, dtype, h.rank, h.dim);
  if (!*out) return qnet_out_of_memory(s->diag);
  if (has) memcpy((*out)->data, s->data + array, has);
  return QNET_OK;
}
