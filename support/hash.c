/* Eight bytes a step, each step a bijection of h (exclusive or, multiplication by an odd number,
 * folding): a difference can be undone by a second one only. */
#include "support/hash.h"

#include <string.h>

static uint64_t mix(uint64_t h, uint64_t word) {
  h = (h ^ word) * 1099511628211u;
  return h ^ h >> 32;
}

uint64_t qnet_content_hash(uint64_t h, const void *data, size_t size) {
  const unsigned char *byte = data;
  h = mix(h, size);
  for (; size >= sizeof(uint64_t); size -= sizeof(uint64_t), byte += sizeof(uint64_t)) {
    uint64_t word;
    memcpy(&word, byte, sizeof word);
    h = mix(h, word);
  }
  for (; size; size--)
    h = mix(h, *byte++);
  return h;
}

uint64_t qnet_content_hash_text(uint64_t h, const char *text) {
  return qnet_content_hash(h, text, strlen(text) + 1);
}
