/* The quantization points of a module while they learn: their parameters and decision tables live
 * in the state symbols SITE.param, .threshold, .level, .perm, the statistics of the last step in
 * SITE.count, SITE.sum, SITE.dy, SITE.dyx. */
#ifndef QNET_PASSES_QUANTIZER_STATE_H
#define QNET_PASSES_QUANTIZER_STATE_H

#include "passes/quantizer.h"

typedef struct qnet_site_state {
  qnet_quantizer_site site; /* param: the blob of `param`, in place */
  const qnet_quantizer *quantizer;
  qnet_symbol *threshold, *level, *perm, *param;
  qnet_symbol *count, *sum; /* NULL without @step, and where the method needs no statistics */
  qnet_symbol *bound, *slope, *tilt, *dy, *dyx; /* of nn.cell_grad; NULL likewise */
  qnet_symbol *share;                           /* of nn.moment_grad; NULL likewise */
  qnet_symbol *weight;                          /* the latent weights; NULL for activations */
  qnet_loc loc;
} qnet_site_state;

typedef struct qnet_quantizer_sites {
  qnet_module *module;
  const qnet_allocator *allocator;
  qnet_site_state *site; /* in program order of @eval */
  int count;
  double lr; /* of the last training step, for parameters that are learned by gradient */
} qnet_quantizer_sites;

/* Makes the state symbols of a site whose nn.quantize has just been built, with initial values. */
qnet_status qnet_quantizer_state_init(qnet_module *m, const qnet_quantizer *q,
                                      const qnet_quantizer_site *site, const qnet_allocator *a,
                                      qnet_diag *d);

/* Fits the parameters of a weight that is there already: what is learned by small steps starts from
 * its data. For methods that learn by gradient; the statistics of others forget their start. */
qnet_status qnet_quantizer_state_start(qnet_module *m, const qnet_op *quantize,
                                       const qnet_allocator *a, qnet_diag *d);

/* Finds the sites by the nn.quantize operations of @eval. Free with qnet_quantizer_sites_free. */
qnet_status qnet_quantizer_sites_collect(qnet_module *m, const qnet_allocator *a,
                                         qnet_quantizer_sites *out, qnet_diag *d);
void qnet_quantizer_sites_free(qnet_quantizer_sites *s);
/* Does any site learn by gradient? */
bool qnet_quantizer_sites_by_gradient(const qnet_quantizer_sites *s);

/* Writes SITE.threshold, .level, .perm from SITE.param (and from the weights, for methods that
 * follow them). frozen: on the integer grid, as the deployed network has them. To be called when
 * parameters or weights were loaded, and when the frozen phase begins. */
qnet_status qnet_quantizer_sites_refresh(qnet_quantizer_sites *s, bool frozen, qnet_diag *d);
/* One learning step of every site from the statistics of the last training step, then refresh. In
 * the frozen phase too: the parameters go on learning, the tables are their snapped form. */
qnet_status qnet_quantizer_sites_update(qnet_quantizer_sites *s, bool frozen, qnet_diag *d);
/* Fits the bases of all weights to the latent weights (weights never trained at these bits). */
qnet_status qnet_quantizer_sites_fit_weights(qnet_quantizer_sites *s, qnet_diag *d);
/* Fits one activation site to n sampled values. */
qnet_status qnet_quantizer_site_fit(qnet_quantizer_sites *s, int index, const float *x, int64_t n,
                                    qnet_diag *d);

/* Sites of `to` that `from` has too (name, role, method), at other bits perhaps, start from what
 * was learned there, where the method can (`carry`). Both have their parameters; tables follow. */
qnet_status qnet_quantizer_carry(qnet_module *from, qnet_module *to, const qnet_allocator *a,
                                 qnet_diag *d);

/* The site whose levels are farthest from those it would have without `planes`, and how far: over
 * the largest level. *site NULL: no method here takes planes. The name lives with the module. */
qnet_status qnet_quantizer_plane_distance(qnet_module *m, const qnet_allocator *a,
                                          const char **site, double *distance, qnet_diag *d);

/* Makes, or makes anew, `table @SITE` of every site and, of weights, `const @SITE.codes` from the
 * parameters and the latent weights. What the freeze pass needs. */
qnet_status qnet_quantizer_freeze_all(qnet_module *m, const qnet_allocator *a, qnet_diag *d);

#endif
