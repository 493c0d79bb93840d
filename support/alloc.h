/* Memory: one allocator struct, and arenas on top of it.
 *
 * Everything that the compiler allocates goes through a qnet_allocator, so that a test can fail the
 * n-th allocation. An arena owns what is made in it; nothing in an arena is freed alone. */
#ifndef QNET_SUPPORT_ALLOC_H
#define QNET_SUPPORT_ALLOC_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

typedef struct qnet_allocator {
  /* realloc(3) with the old size: new_size 0 frees and returns NULL, old NULL allocates.
   * Returns NULL on failure and leaves the old block alone. Blocks are aligned to 16 bytes. */
  void *(*resize)(void *ctx, void *old, size_t old_size, size_t new_size);
  void *ctx;
} qnet_allocator;

/* The C library's heap. */
const qnet_allocator *qnet_allocator_system(void);

/* Allocates size bytes (zeroed), or NULL. Size 0 gives a unique pointer of one byte. */
void *qnet_alloc(const qnet_allocator *a, size_t size);
/* Array of count elements (zeroed), or NULL, also when count * size overflows. */
void *qnet_alloc_array(const qnet_allocator *a, size_t count, size_t size);
void qnet_free(const qnet_allocator *a, void *block, size_t size);

/* An allocator for tests: forwards to the system and fails the fail_at-th allocation (1-based; 0 =
 * never), and all after it when `persistent`. Counts live bytes to find leaks. */
typedef struct qnet_failing_allocator {
  qnet_allocator base; /* pass &base; base.ctx points at this struct */
  uint64_t fail_at, count;
  int persistent, failed;
  size_t live_bytes;
} qnet_failing_allocator;
void qnet_failing_allocator_init(qnet_failing_allocator *f, uint64_t fail_at, int persistent);

typedef struct qnet_arena_block qnet_arena_block;
typedef struct qnet_arena {
  const qnet_allocator *allocator;
  qnet_arena_block *head; /* newest block */
  size_t bytes;           /* handed out so far */
} qnet_arena;

void qnet_arena_init(qnet_arena *arena, const qnet_allocator *allocator);
void qnet_arena_clear(qnet_arena *arena); /* frees all; the arena can be used again */
/* Zeroed memory aligned to 16 (arena_alloc) or to `align` (a power of two <= 4096); NULL on
 * failure. */
void *qnet_arena_alloc(qnet_arena *arena, size_t size);
void *qnet_arena_alloc_aligned(qnet_arena *arena, size_t size, size_t align);
void *qnet_arena_array(qnet_arena *arena, size_t count, size_t size);
char *qnet_arena_strdup(qnet_arena *arena, const char *text);
char *qnet_arena_strndup(qnet_arena *arena, const char *text, size_t length);
char *qnet_arena_printf(qnet_arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
