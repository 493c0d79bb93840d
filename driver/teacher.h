/* Knowledge distillation: the f32 network of the same source, whose outputs training follows. */
#ifndef QNET_DRIVER_TEACHER_H
#define QNET_DRIVER_TEACHER_H

#include "driver/session.h"

typedef struct qnet_teacher qnet_teacher;

/* The network of the session's source without quantizers, with the weights of --distill, for
 * batches of so many images. *out is NULL when there is no --distill. */
qnet_status qnet_teacher_create(qnet_session *s, int batch, qnet_teacher **out);
void qnet_teacher_destroy(qnet_teacher *t); /* NULL is fine */
/* Its logits for a batch; borrowed until the next call. */
qnet_status qnet_teacher_logits(qnet_teacher *t, const uint8_t *images, const qnet_blob **out,
                                qnet_diag *d);
/* Of its weights. */
uint64_t qnet_teacher_hash(const qnet_teacher *t);

#endif
