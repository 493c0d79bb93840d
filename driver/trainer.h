/* The training engine: what runtime/train.h asks for, made of passes and plans. */
#ifndef QNET_DRIVER_TRAINER_H
#define QNET_DRIVER_TRAINER_H

#include "codegen/plan.h"
#include "driver/stages.h"
#include "driver/teacher.h"
#include "runtime/train.h"

typedef struct qnet_trainer qnet_trainer;

/* program: with initial weights, without quantizers; its state symbols receive what is learned.
 * teacher: NULL without distillation. All borrowed. The session's options say what learns. */
qnet_status qnet_trainer_create(qnet_session *s, const qnet_program *program,
                                const qnet_stages *stages, qnet_teacher *teacher,
                                qnet_trainer **out);
/* How steps are planned from the next stage on; QNET_PLAN_FAST unless said otherwise. UNFUSED gives
 * the same bytes without compiling, which few steps are not worth. */
void qnet_trainer_set_plan(qnet_trainer *t, qnet_plan_mode mode);
void qnet_trainer_destroy(qnet_trainer *t);
/* Function pointers into t. */
qnet_engine qnet_trainer_engine(qnet_trainer *t);
/* The network of the stage that training has come to, with its quantizers; NULL before the first
 * one. */
const qnet_program *qnet_trainer_program(const qnet_trainer *t);

#endif
