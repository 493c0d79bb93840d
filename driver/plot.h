/* --plot: the picture of a training run. */
#ifndef QNET_DRIVER_PLOT_H
#define QNET_DRIVER_PLOT_H

#include "driver/session.h"

/* p: trained; its tables are frozen anew. metrics: the file that training wrote. */
qnet_status qnet_plot_training(const qnet_session *s, const qnet_program *p, const char *metrics,
                               const char *path);

#endif
