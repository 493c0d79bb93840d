/* Answers of the networks that are followed, in a file for runs that see the same batches: methods
 * that are compared start from one seed, and from the second one on the f32 network costs nothing.
 *
 * The key of an answer is the content of its batch, so that it depends on no setting of the run; an
 * answer that is read is the one that would be computed, to the bit. */
#ifndef QNET_DRIVER_TEACHER_CACHE_H
#define QNET_DRIVER_TEACHER_CACHE_H

#include "ir/blob.h"
#include "support/diag.h"

typedef struct qnet_teacher_cache qnet_teacher_cache;

/* Reads the file, or begins an empty one (a place that cannot be written is an error at once).
 * `maker` names the networks and all else that the bits of an answer depend on: a file of other
 * networks, or of other batches or classes than `logits` [batch, classes], is an error, and so is
 * one that is damaged or something else: it could be worth keeping. `path` is borrowed. */
qnet_status qnet_teacher_cache_open(const qnet_allocator *a, const char *path, const char *maker,
                                    const qnet_blob *logits, qnet_teacher_cache **out,
                                    qnet_diag *d);
void qnet_teacher_cache_close(qnet_teacher_cache *c); /* NULL is fine; does not save */

/* The logits for a batch with this hash of its content (support/hash.h), borrowed until the next
 * call; or NULL. Fastest in the order of the file. */
const float *qnet_teacher_cache_find(qnet_teacher_cache *c, uint64_t batch);
qnet_status qnet_teacher_cache_add(qnet_teacher_cache *c, uint64_t batch, const float *logits,
                                   qnet_diag *d);
/* Writes the file, if anything was added since. */
qnet_status qnet_teacher_cache_save(qnet_teacher_cache *c, qnet_diag *d);

#endif
