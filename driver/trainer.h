/* The training engine: what runtime/train.h asks for, made of passes and plans. */
#ifndef QNET_DRIVER_TRAINER_H
#define QNET_DRIVER_TRAINER_H

#include "driver/session.h"
#include "driver/teacher.h"
#include "runtime/train.h"

typedef struct qnet_trainer qnet_trainer;

/* program: with initial weights and, where it is to be quantized, inserted quantizers; borrowed,
 * its state symbols receive what is learned. teacher: borrowed; NULL without distillation. */
qnet_status qnet_trainer_create(qnet_session *s, const qnet_program *program, qnet_teacher *teacher,
                                qnet_trainer **out);
void qnet_trainer_destroy(qnet_trainer *t);
/* Function pointers into t. */
qnet_engine qnet_trainer_engine(qnet_trainer *t);

#endif
