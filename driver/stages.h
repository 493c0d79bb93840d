/* The stages of a training run: one, or one for each entry of the recipe's progressive bits. */
#ifndef QNET_DRIVER_STAGES_H
#define QNET_DRIVER_STAGES_H

#include "driver/session.h"
#include "passes/quantizer.h"
#include "runtime/train.h"

typedef struct qnet_stages {
  struct {
    qnet_quant_spec quant; /* no quantizer: the stage trains the f32 network */
    int epochs;
    char name[16]; /* "32", "3/4" */
  } stage[QNET_MAX_STAGES];
  int count;
  bool progressive;
} qnet_stages;

/* What a layer names for itself, by role; false where the net's line holds. *q is NULL for none. */
bool qnet_layer_quantizer(const qnet_op *op, qnet_role role, const qnet_quantizer **q, int *bits);

/* p: with its own bits as --quantizer and --bits say. A layer has these or
 * more in a stage; the last one must have the fewest bits of any layer, so that what is trained is
 * what is deployed: --bits leaves the stages below
 * out. Bits that a method does not have are an error at their place in the recipe. */
qnet_status qnet_stages_plan(const qnet_session *s, const qnet_program *p, qnet_stages *out);
/* Fills the epochs and stages of training options, which borrow the names. */
void qnet_stages_options(const qnet_stages *stages, qnet_train_options *out);

#endif
