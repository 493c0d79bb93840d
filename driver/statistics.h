/* Running statistics of batch_norm estimated anew. Quantizers change what a layer gives, so that
 * statistics from before their insertion do not fit; QIL computes in a domain of its own. */
#ifndef QNET_DRIVER_STATISTICS_H
#define QNET_DRIVER_STATISTICS_H

#include "ir/ir.h"

typedef struct qnet_statistics qnet_statistics;

/* m: level nn at batch 1 with all content, borrowed. *out is NULL when it has no batch_norm. */
qnet_status qnet_statistics_create(const qnet_module *m, int batch, qnet_statistics **out,
                                   qnet_diag *d);
void qnet_statistics_destroy(qnet_statistics *s); /* NULL is fine */
/* A forward pass over one batch of images. */
qnet_status qnet_statistics_add(qnet_statistics *s, const uint8_t *images, qnet_diag *d);
/* Makes the running statistics of m the means of those of the batches. */
void qnet_statistics_finish(qnet_statistics *s);

#endif
