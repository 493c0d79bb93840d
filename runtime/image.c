/* Single images: the kind of file is told by its first bytes; then grey and colour are converted as
 * wanted. PGM and PPM are decoded here. */
#include "runtime/image_internal.h"
#include "runtime/pixels.h"
#include "support/file.h"

#include <inttypes.h>
#include <string.h>

qnet_status qnet_image_create(const qnet_image_source *s, uint64_t height, uint64_t width,
                              uint64_t channels, qnet_blob **out) {
  if (height == 0 || width == 0) return qnet_error_in(s->diag, s->path, "the image is empty");
  if (width > QNET_IMAGE_MAX_BYTES || height > QNET_IMAGE_MAX_BYTES / width / channels)
    return qnet_error_in(s->diag, s->path,
                         "the image has %" PRIu64 "x%" PRIu64 " pixels, more than the limit of "
                         "64 MiB",
                         width, height);
  const int64_t dim[3] = {(int64_t)height, (int64_t)width, (int64_t)channels};
  *out = qnet_blob_create(s->allocator, QNET_U8, 3, dim);
  return *out ? QNET_OK : qnet_out_of_memory(s->diag);
}

/* ---- PGM, PPM ------------------------------------------------------------------------------ */

static bool is_blank(uint8_t c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The next number of the header; blanks and comments before it are skipped. */
static bool read_number(const qnet_image_source *s, size_t *at, uint32_t *number) {
  while (*at < s->size && (is_blank(s->data[*at]) || s->data[*at] == '#')) {
    if (s->data[(*at)++] != '#') continue;
    while (*at < s->size && s->data[*at] != '\n')
      (*at)++;
  }
  const size_t start = *at;
  *number = 0;
  while (*at < s->size && s->data[*at] >= '0' && s->data[*at] <= '9') {
    if (*number > 99999999) return false;
    *number = *number * 10 + (uint32_t)(s->data[(*at)++] - '0');
  }
  return *at > start;
}

qnet_status qnet_pnm_decode(const qnet_image_source *s, qnet_blob **out) {
  const uint64_t channels = s->data[1] == '5' ? 1 : 3;
  size_t at = 2;
  uint32_t width, height, largest;
  if (!read_number(s, &at, &width) || !read_number(s, &at, &height) ||
      !read_number(s, &at, &largest) || at >= s->size || !is_blank(s->data[at]))
    return qnet_error_in(s->diag, s->path, "the header of the PGM or PPM file is damaged");
  at++; /* exactly one blank before the pixels */
  if (largest != 255)
    return qnet_error_in(s->diag, s->path, "the largest value is %" PRIu32 ", it must be 255",
                         largest);
  const uint64_t needed = (uint64_t)width * height * channels; /* below 2^56 */
  if (needed > s->size - at)
    return qnet_error_in(s->diag, s->path,
                         "the image needs %" PRIu64 " bytes of pixels, the file has %zu", needed,
                         s->size - at);
  QNET_TRY(qnet_image_create(s, height, width, channels, out));
  memcpy((*out)->data, s->data + at, (size_t)needed);
  return QNET_OK;
}

/* ---- grey and colour ----------------------------------------------------------------------- */

/* Replaces *image by one of `channels` channels. */
static qnet_status convert(const qnet_image_source *s, uint64_t channels, qnet_blob **image) {
  qnet_blob *const in = *image;
  if ((uint64_t)in->dim[2] == channels) return QNET_OK;
  qnet_blob *to;
  QNET_TRY(qnet_image_create(s, (uint64_t)in->dim[0], (uint64_t)in->dim[1], channels, &to));
  const size_t pixels = (size_t)(in->dim[0] * in->dim[1]);
  const uint8_t *from = in->data;
  uint8_t *out = to->data;
  for (size_t i = 0; i < pixels; i++) {
    if (channels == 1)
      out[i] = qnet_pixels_luma(from + 3 * i);
    else
      memset(out + 3 * i, from[i], 3);
  }
  qnet_blob_release(in);
  *image = to;
  return QNET_OK;
}

static bool begins_with(const qnet_image_source *s, const char *magic, size_t length) {
  return s->size >= length && memcmp(s->data, magic, length) == 0;
}

static qnet_status decode(const qnet_image_source *s, int channels, qnet_blob **out) {
  if (begins_with(s, "\x93NUMPY", 6)) return qnet_npy_decode(s, out);
  qnet_status status;
  if (begins_with(s, "\x89PNG\r\n\x1a\n", 8))
    status = qnet_png_decode(s, out);
  else if (begins_with(s, "\xff\xd8\xff", 3))
    status = qnet_jpeg_decode(s, out);
  else if (begins_with(s, "P5", 2) || begins_with(s, "P6", 2))
    status = qnet_pnm_decode(s, out);
  else
    return qnet_error_in(s->diag, s->path, "neither PNG, JPEG, binary PGM or PPM, nor .npy");
  if (status == QNET_OK) status = convert(s, channels == 1 ? 1 : 3, out);
  return status;
}

qnet_status qnet_image_read(const qnet_allocator *a, const char *path, int channels,
                            qnet_blob **out, qnet_diag *d) {
  *out = NULL;
  char *data;
  size_t size;
  QNET_TRY(qnet_file_read(a, path, QNET_IMAGE_MAX_BYTES, &data, &size, d));
  const qnet_image_source s = {a, path, (const uint8_t *)data, size, d};
  const qnet_status status = decode(&s, channels, out);
  if (status != QNET_OK) {
    qnet_blob_release(*out);
    *out = NULL;
  }
  qnet_free(a, data, size + 1);
  return status;
}
