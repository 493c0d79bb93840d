/* A growing text buffer. After the first failed allocation it stays valid and `failed` is set;
 * callers check once at the end. */
#ifndef QNET_SUPPORT_STRBUF_H
#define QNET_SUPPORT_STRBUF_H

#include "support/alloc.h"

typedef struct qnet_strbuf {
  const qnet_allocator *allocator;
  char *data; /* NUL-terminated once anything was appended, else NULL */
  size_t length, capacity;
  int failed;
} qnet_strbuf;

void qnet_strbuf_init(qnet_strbuf *b, const qnet_allocator *allocator);
void qnet_strbuf_free(qnet_strbuf *b);
void qnet_strbuf_append(qnet_strbuf *b, const char *text, size_t length);
void qnet_strbuf_puts(qnet_strbuf *b, const char *text);
void qnet_strbuf_printf(qnet_strbuf *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The text, "" when empty. */
const char *qnet_strbuf_text(const qnet_strbuf *b);

#endif
