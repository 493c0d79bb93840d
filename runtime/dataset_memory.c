/* Sets that lie wholly in memory: an item is a place in one array. */
#include "runtime/dataset_internal.h"

static size_t image_bytes(const qnet_dataset *s) {
  return (size_t)(s->height * s->width * s->channels);
}

static qnet_status load_view(const qnet_dataset *s, int64_t index, qnet_item *out, qnet_diag *d) {
  (void)d;
  const uint8_t *images = s->content;
  *out = (qnet_item){s->height, s->width, images + (size_t)index * image_bytes(s), NULL};
  return QNET_OK;
}

static void close_memory(qnet_dataset *s) {
  const size_t count = (size_t)s->count;
  qnet_free(s->allocator, s->content, count * image_bytes(s));
  qnet_free(s->allocator, s->labels, count * sizeof *s->labels);
}

void qnet_dataset_adopt(qnet_dataset *out, uint8_t *images) {
  out->content = images;
  out->load = load_view;
  out->close = close_memory;
}

qnet_status qnet_dataset_allocate(const qnet_dataset_source *s, qnet_dataset *out) {
  qnet_dataset_adopt(out, qnet_alloc_array(s->allocator, (size_t)out->count, image_bytes(out)));
  out->labels = qnet_alloc_array(s->allocator, (size_t)out->count, sizeof *out->labels);
  return out->content && out->labels ? QNET_OK : qnet_out_of_memory(s->diag);
}

qnet_dataset qnet_dataset_view(const qnet_dataset *shape, const uint8_t *images, int32_t *labels) {
  qnet_dataset s = *shape;
  s.labels = labels;
  s.content = (void *)(uintptr_t)images; /* only read: a view is never closed */
  s.load = load_view;
  s.close = NULL;
  return s;
}
