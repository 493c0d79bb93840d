/* A picture of a training run: loss and accuracy by epoch, and for each quantized layer its levels
 * over the histogram of its weights. Plain SVG without scripts. */
#ifndef QNET_RUNTIME_PLOT_H
#define QNET_RUNTIME_PLOT_H

#include "support/diag.h"

typedef struct qnet_plot_layer {
  const char *name;
  const float *weight; /* latent */
  int64_t weight_count;
  const float *level; /* of all filters */
  int64_t level_count;
} qnet_plot_layer;

typedef struct qnet_plot {
  const char *title;
  const char *metrics; /* the lines that qnet_train writes */
  size_t metrics_length;
  const qnet_plot_layer *layer;
  int layer_count;
} qnet_plot;

/* Writes the picture. The bytes depend on the content alone. A line of metrics that is not one is
 * an error. */
qnet_status qnet_plot_write(const qnet_allocator *a, const qnet_plot *plot, const char *path,
                            qnet_diag *d);

#endif
