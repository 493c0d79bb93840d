/* The growing text buffer: doubling, and a sticky failure. */
#include "support/strbuf.h"

#include <stdio.h>
#include <string.h>

void qnet_strbuf_init(qnet_strbuf *b, const qnet_allocator *allocator) {
  *b = (qnet_strbuf){.allocator = allocator};
}

void qnet_strbuf_free(qnet_strbuf *b) {
  qnet_free(b->allocator, b->data, b->capacity);
  qnet_strbuf_init(b, b->allocator);
}

/* Makes room for `more` bytes and a NUL; returns 0 on failure. */
static int reserve(qnet_strbuf *b, size_t more) {
  if (b->failed) return 0;
  size_t needed;
  if (__builtin_add_overflow(b->length, more, &needed) || needed == SIZE_MAX) {
    b->failed = 1;
    return 0;
  }
  if (needed < b->capacity) return 1;
  size_t capacity = b->capacity ? b->capacity : 64;
  while (capacity <= needed)
    capacity = capacity > SIZE_MAX / 2 ? needed + 1 : capacity * 2;
  char *data = b->allocator->resize(b->allocator->ctx, b->data, b->capacity, capacity);
  if (!data) {
    b->failed = 1;
    return 0;
  }
  b->data = data;
  b->capacity = capacity;
  return 1;
}

void qnet_strbuf_append(qnet_strbuf *b, const char *text, size_t length) {
  if (!reserve(b, length)) return;
  if (length) memcpy(b->data + b->length, text, length);
  b->length += length;
  b->data[b->length] = 0;
}

void qnet_strbuf_puts(qnet_strbuf *b, const char *text) {
  qnet_strbuf_append(b, text, strlen(text));
}

void qnet_strbuf_printf(qnet_strbuf *b, const char *format, ...) {
  /* Most texts are short: one pass into the room there is, a second only when it was too small. */
  if (!reserve(b, 64)) return;
  va_list args;
  va_start(args, format);
  const int length = vsnprintf(b->data + b->length, b->capacity - b->length, format, args);
  va_end(args);
  if (length < 0 || !reserve(b, (size_t)length)) {
    b->failed = 1;
    b->data[b->length] = 0;
    return;
  }
  va_start(args, format);
  vsnprintf(b->data + b->length, (size_t)length + 1, format, args);
  va_end(args);
  b->length += (size_t)length;
}

const char *qnet_strbuf_text(const qnet_strbuf *b) {
  return b->data ? b->data : "";
}
