/* Quantizers for weights that were not trained with them: levels fitted in closed form, to the
 * weights themselves, and to the activations that batch norm statistics (or images) predict. */
#ifndef QNET_DRIVER_REFIT_H
#define QNET_DRIVER_REFIT_H

#include "driver/session.h"
#include "ir/ir.h"

/* Makes the table (and codes) of every nn.quantize operation of m that has none. `calibrate` names
 * a data set whose training images are run through the f32 network; NULL: batch norm statistics. */
qnet_status qnet_refit(qnet_session *s, qnet_module *m, const char *calibrate);

#endif
