/* What makes two training runs the same run: a run may go on from a checkpoint only when all of it
 * is equal. */
#ifndef QNET_DRIVER_RUN_FIELDS_H
#define QNET_DRIVER_RUN_FIELDS_H

#include "driver/teacher.h"
#include "runtime/train.h"

enum { QNET_RUN_FIELDS = 24 };

typedef struct qnet_run_fields {
  qnet_run_field field[QNET_RUN_FIELDS];
  int count;
} qnet_run_fields;

/* Begins *out with the network itself. p: as parsed, still without weights. */
qnet_status qnet_run_fields_begin(const qnet_session *s, const qnet_program *p,
                                  qnet_run_fields *out);
/* Adds the rest. p: with initial weights; teacher may be NULL. options: as they will be given to
 * qnet_train. */
qnet_status qnet_run_fields_add(const qnet_session *s, const qnet_program *p,
                                const qnet_train_options *options, const qnet_teacher *teacher,
                                const qnet_dataset *train, const qnet_dataset *test,
                                qnet_run_fields *out);

#endif
