/* Memory. The system allocator forwards to realloc(3). An arena is a list of zeroed blocks that
 * double in size; a request too large for the usual block gets one of its own, linked behind the
 * current one so that the rest of the current one stays in use. */
#include "support/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Large blocks in large pages, where the system has them: passes over activations meet fewer misses
 * of the address cache. Only a wish; nothing depends on it. */
static void prefer_large_pages(void *block, size_t size) {
#ifdef MADV_HUGEPAGE
  static const size_t page = 4096, large = (size_t)4 << 20;
  if (block == NULL || size < large) return;
  const size_t skip = -(uintptr_t)block % page;
  (void)madvise((char *)block + skip, (size - skip) / page * page, MADV_HUGEPAGE);
#else
  (void)block, (void)size;
#endif
}

static void *system_resize(void *ctx, void *old, size_t old_size, size_t new_size) {
  (void)ctx;
  (void)old_size;
  if (new_size == 0) {
    free(old);
    return NULL;
  }
  void *block = realloc(old, new_size);
  if (old == NULL) prefer_large_pages(block, new_size);
  return block;
}

const qnet_allocator *qnet_allocator_system(void) {
  static const qnet_allocator system = {system_resize, NULL};
  return &system;
}

void *qnet_alloc(const qnet_allocator *a, size_t size) {
  if (size == 0) size = 1;
  void *block = a->resize(a->ctx, NULL, 0, size);
  if (block) memset(block, 0, size);
  return block;
}

void *qnet_alloc_array(const qnet_allocator *a, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
  return qnet_alloc(a, bytes);
}

void qnet_free(const qnet_allocator *a, void *block, size_t size) {
  if (block) a->resize(a->ctx, block, size ? size : 1, 0);
}

/* ---- the failing allocator ----------------------------------------------------------------- */

static void *failing_resize(void *ctx, void *old, size_t old_size, size_t new_size) {
  qnet_failing_allocator *f = ctx;
  if (new_size == 0) {
    if (old) f->live_bytes -= old_size;
    free(old);
    return NULL;
  }
  f->count++;
  if (f->fail_at && (f->count == f->fail_at || (f->persistent && f->count > f->fail_at))) {
    f->failed = 1;
    return NULL;
  }
  void *block = realloc(old, new_size);
  if (block) f->live_bytes += new_size - (old ? old_size : 0);
  return block;
}

void qnet_failing_allocator_init(qnet_failing_allocator *f, uint64_t fail_at, int persistent) {
  *f = (qnet_failing_allocator){.fail_at = fail_at, .persistent = persistent};
  f->base = (qnet_allocator){failing_resize, f};
}

/* ---- arenas -------------------------------------------------------------------------------- */

enum { ARENA_ALIGN = 16, ARENA_MAX_ALIGN = 4096 };
static const size_t arena_first_block = (size_t)4 << 10, arena_last_block = (size_t)1 << 20;

struct qnet_arena_block {
  qnet_arena_block *older;
  size_t size, used; /* of the whole block, this header included */
};

void qnet_arena_init(qnet_arena *arena, const qnet_allocator *allocator) {
  *arena = (qnet_arena){.allocator = allocator};
}

void qnet_arena_clear(qnet_arena *arena) {
  qnet_arena_block *block = arena->head;
  while (block) {
    qnet_arena_block *older = block->older;
    qnet_free(arena->allocator, block, block->size);
    block = older;
  }
  arena->head = NULL;
  arena->bytes = 0;
}

/* Takes `size` bytes from the block, or NULL when it has not so much room. */
static void *block_take(qnet_arena_block *block, size_t size, size_t align) {
  const uintptr_t base = (uintptr_t)block;
  const uintptr_t at = (base + block->used + align - 1) & ~(uintptr_t)(align - 1);
  const size_t offset = (size_t)(at - base);
  if (offset > block->size || size > block->size - offset) return NULL;
  block->used = offset + size;
  return (char *)block + offset;
}

/* Links a new block that has room for `size` bytes at any `align`; NULL when out of memory. */
static qnet_arena_block *arena_grow(qnet_arena *arena, size_t size, size_t align) {
  qnet_arena_block *const head = arena->head;
  size_t usual = head ? head->size * 2 : arena_first_block;
  if (usual > arena_last_block) usual = arena_last_block;
  size_t needed;
  if (__builtin_add_overflow(size, sizeof(qnet_arena_block) + align, &needed)) return NULL;
  /* A large request of its own block does not end the current block. */
  const int alone = head && needed > usual / 4;
  const size_t bytes = alone || needed > usual ? needed : usual;
  qnet_arena_block *block = qnet_alloc(arena->allocator, bytes);
  if (!block) return NULL;
  *block = (qnet_arena_block){NULL, bytes, sizeof *block};
  if (alone) {
    block->older = head->older;
    head->older = block;
  } else {
    block->older = head;
    arena->head = block;
  }
  return block;
}

void *qnet_arena_alloc_aligned(qnet_arena *arena, size_t size, size_t align) {
  if (align > ARENA_MAX_ALIGN || (align & (align - 1))) return NULL;
  if (align < ARENA_ALIGN) align = ARENA_ALIGN;
  if (size == 0) size = 1;
  void *data = arena->head ? block_take(arena->head, size, align) : NULL;
  if (!data) {
    qnet_arena_block *block = arena_grow(arena, size, align);
    if (!block) return NULL;
    data = block_take(block, size, align);
  }
  arena->bytes += size;
  return data;
}

void *qnet_arena_alloc(qnet_arena *arena, size_t size) {
  return qnet_arena_alloc_aligned(arena, size, ARENA_ALIGN);
}

void *qnet_arena_array(qnet_arena *arena, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
  return qnet_arena_alloc(arena, bytes);
}

char *qnet_arena_strndup(qnet_arena *arena, const char *text, size_t length) {
  if (length == SIZE_MAX) return NULL;
  char *copy = qnet_arena_alloc(arena, length + 1);
  if (copy && length) memcpy(copy, text, length);
  return copy;
}

char *qnet_arena_strdup(qnet_arena *arena, const char *text) {
  return qnet_arena_strndup(arena, text, strlen(text));
}

char *qnet_arena_printf(qnet_arena *arena, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  if (length < 0) return NULL;
  char *text = qnet_arena_alloc(arena, (size_t)length + 1);
  if (!text) return NULL;
  va_start(args, format);
  vsnprintf(text, (size_t)length + 1, format, args);
  va_end(args);
  return text;
}
