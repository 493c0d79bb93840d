/* Knowledge distillation: the f32 networks whose outputs training follows, the mean of their logits
 * where there are several. */
#ifndef QNET_DRIVER_TEACHER_H
#define QNET_DRIVER_TEACHER_H

#include "driver/session.h"
#include "runtime/dataset.h"

typedef struct qnet_teacher qnet_teacher;

/* For each --distill the network of a program, which has no quantizers yet, or the one of another
 * source, with the weights named there (with --no-labels and no --distill: the first, with those of
 * --init), for batches as the recipe has them. *out is NULL when there is none. Networks of other
 * images or classes are an error, and so are several, or another one, where the recipe has features
 * followed. With --distill-cache answers are kept, of logits only: features are an error. Weights
 * that a quantizer was trained with bring a warning. */
qnet_status qnet_teacher_create(qnet_session *s, const qnet_program *p, qnet_teacher **out);
void qnet_teacher_destroy(qnet_teacher *t); /* NULL is fine */
/* The logits for a batch [batch, classes]; borrowed until the next call. */
qnet_status qnet_teacher_logits(qnet_teacher *t, const uint8_t *images, const qnet_blob **out,
                                qnet_diag *d);
/* Where each run leaves the logits (0) and the features, if the recipe has them followed (1, 2, ...
 * as autodiff counts them); NULL behind the last one. Borrowed. */
qnet_blob *qnet_teacher_output(qnet_teacher *t, int index);
/* The class for each image of a batch. */
qnet_status qnet_teacher_classes(qnet_teacher *t, const uint8_t *images, int32_t *classes,
                                 qnet_diag *d);
/* Makes these classes the labels of a set. */
qnet_status qnet_teacher_label(qnet_teacher *t, qnet_dataset *set, qnet_diag *d);
/* Writes what is new for --distill-cache, if it is given. A disk that is full is a warning, and the
 * end of keeping: training needs no such file. */
qnet_status qnet_teacher_save(qnet_teacher *t, qnet_diag *d);
/* Of all sources and weights. */
uint64_t qnet_teacher_hash(const qnet_teacher *t);

#endif
