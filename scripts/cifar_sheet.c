/* From a sheet to records; the rows of the sheet are the images, so nothing moves but the colours.
 */
#include "scripts/cifar_sheet.h"
#include "runtime/image.h"
#include "support/file.h"

#include <jansson.h>

enum { PLANE = 32 * 32, RECORD = 1 + 3 * PLANE, CLASSES = 10, MAX_LABEL_BYTES = 16 << 20 };

typedef struct conversion {
  const qnet_allocator *allocator;
  const char *sheet, *labels_path;
  size_t first_label;
  json_t *labels;
  qnet_blob *pixels;
  qnet_file_writer *writer;
  qnet_diag *diag;
} conversion;

static qnet_status read_labels(conversion *c) {
  char *text;
  size_t size;
  QNET_TRY(qnet_file_read(c->allocator, c->labels_path, MAX_LABEL_BYTES, &text, &size, c->diag));
  json_error_t error;
  c->labels = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
  qnet_free(c->allocator, text, size + 1);
  if (!c->labels)
    return qnet_error_in(c->diag, c->labels_path, "line %d: %s", error.line, error.text);
  if (!json_is_array(c->labels))
    return qnet_error_in(c->diag, c->labels_path, "is no array of labels");
  return QNET_OK;
}

static qnet_status read_sheet(conversion *c) {
  QNET_TRY(qnet_image_read(c->allocator, c->sheet, 3, &c->pixels, c->diag));
  const qnet_blob *p = c->pixels;
  if (p->dtype != QNET_U8 || p->rank != 3 || p->dim[1] != PLANE || p->dim[2] != 3)
    return qnet_error_in(c->diag, c->sheet, "is no image that is %d pixels wide", PLANE);
  const size_t has = json_array_size(c->labels), needs = c->first_label + (size_t)p->dim[0];
  if (has < needs)
    return qnet_error_in(c->diag, c->labels_path, "holds %zu labels, %zu are needed", has, needs);
  return QNET_OK;
}

static qnet_status write_record(conversion *c, size_t image) {
  uint8_t record[RECORD];
  const uint8_t *row = (const uint8_t *)c->pixels->data + image * 3 * PLANE;
  const json_t *label = json_array_get(c->labels, c->first_label + image);
  const json_int_t value = json_integer_value(label);
  if (!json_is_integer(label) || value < 0 || value >= CLASSES)
    return qnet_error_in(c->diag, c->labels_path, "label %zu is no class 0..%d",
                         c->first_label + image, CLASSES - 1);
  record[0] = (uint8_t)value;
  for (int i = 0; i < PLANE; i++)
    for (int k = 0; k < 3; k++)
      record[1 + k * PLANE + i] = row[3 * i + k];
  return qnet_file_writer_write(c->writer, record, sizeof record);
}

static qnet_status write_records(conversion *c, const char *output) {
  QNET_TRY(qnet_file_writer_open(c->allocator, output, &c->writer, c->diag));
  qnet_status status = QNET_OK;
  for (int64_t i = 0; i < c->pixels->dim[0] && status == QNET_OK; i++)
    status = write_record(c, (size_t)i);
  if (status == QNET_OK) return qnet_file_writer_commit(c->writer);
  qnet_file_writer_abort(c->writer);
  return status;
}

qnet_status qnet_cifar_sheet_convert(const qnet_allocator *a, const char *sheet, const char *labels,
                                     size_t first_label, const char *output, qnet_diag *d) {
  conversion c = {
      .allocator = a, .sheet = sheet, .labels_path = labels, .first_label = first_label, .diag = d};
  qnet_status status = read_labels(&c);
  if (status == QNET_OK) status = read_sheet(&c);
  if (status == QNET_OK) status = write_records(&c, output);
  qnet_blob_release(c.pixels);
  json_decref(c.labels);
  return status;
}
