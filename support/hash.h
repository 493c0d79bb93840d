/* A fast 64-bit hash that tells contents apart (files, data sets); not against attackers. */
#ifndef QNET_SUPPORT_HASH_H
#define QNET_SUPPORT_HASH_H

#include <stddef.h>
#include <stdint.h>

#define QNET_HASH_START 14695981039346656037u

/* Goes on from h. Contents that differ in one place always give different hashes. */
uint64_t qnet_content_hash(uint64_t h, const void *data, size_t size);
/* With the NUL. */
uint64_t qnet_content_hash_text(uint64_t h, const char *text);

#endif
