/* The learned quantizers: one file each in passes/quantizers/, one row each in quantizers.c. */
#ifndef QNET_PASSES_QUANTIZER_H
#define QNET_PASSES_QUANTIZER_H

#include "ir/ir.h"

enum { QNET_MAX_LEVELS = 256 };

typedef enum { QNET_ROLE_WEIGHT, QNET_ROLE_ACTIVATION } qnet_role;

/* One quantization point while it learns; small arrays on the heap, one channel = one basis.
 * `param` is the method's own (LQ-Nets: basis v, its moving average m, the step counter). */
typedef struct qnet_quantizer_site {
  const char *name; /* "conv2.weight", "conv2.input": prefix of its symbols and tensors */
  qnet_role role;
  int bits, channels; /* channels == 1 for activations */
  int grid;           /* integer levels lie in -grid..grid or 0..grid; 15..127 */
  bool is_signed;     /* activation that may be negative (the stem's input at 8 bits) */
  int64_t fan;        /* weights: kernel_h * kernel_w * Cout (initial basis) */
  float *param;       /* [channels][quantizer->param_count(bits)] */
  int64_t step;       /* updates done */
} qnet_quantizer_site;

typedef struct qnet_quantizer {
  const char *name; /* as in .qnet and --quantizer= */
  int bits_min, bits_max;
  /* The tables of weights follow from the latent weights alone: `fit` in place of `update`. */
  bool fits_weights;
  int (*param_count)(int bits); /* floats a channel */
  /* Levels in use: 2^bits, or fewer. */
  int (*level_count)(const qnet_quantizer_site *s);
  void (*init)(qnet_quantizer_site *s);

  /* IR builders. forward: x -> the quantized value; *code gets the codes (u8). backward: the
   * gradient of x from dy, where `forward` is the operation that emit_forward made. stats: what
   * `update` needs, written to the state symbols SITE.count and SITE.sum. */
  qnet_value *(*emit_forward)(qnet_builder *b, const qnet_quantizer_site *s, qnet_value *x,
                              qnet_value **code);
  qnet_value *(*emit_backward)(qnet_builder *b, const qnet_op *forward, qnet_value *dy);
  void (*emit_stats)(qnet_builder *b, const qnet_op *forward);

  /* One learning step from the statistics of one batch: count and sum by code, [channels][2^bits].
   */
  void (*update)(qnet_quantizer_site *s, const int64_t *count, const double *sum);
  /* The closed-form fit to data that was never trained with this quantizer: x[channels][n]. */
  void (*fit)(qnet_quantizer_site *s, const float *x, int64_t n);
  /* The levels as trained, not on the integer grid: level[channels][n], by code. Returns n. */
  int (*levels)(const qnet_quantizer_site *s, float *level);
  /* The same on the integer grid: scale[channels], level[channels][n], by code. Returns n, or 0
   * when a parameter is not finite. (docs/numbers.md, "Snapping") */
  int (*freeze)(const qnet_quantizer_site *s, float *scale, int32_t *level);
} qnet_quantizer;

extern const qnet_quantizer qnet_quantizer_lqnets, qnet_quantizer_uniform;

const qnet_quantizer *qnet_quantizer_find(const char *name); /* NULL when unknown */
const qnet_quantizer *const *qnet_quantizer_table(size_t *count);

/* The usual IR builders. forward: nn.quantize on the symbols SITE.threshold, SITE.level, SITE.perm;
 * straight_through: the gradient as it is for weights, nn.quantize_grad with `mask` for
 * activations; stats: nn.code_stats into SITE.count, SITE.sum. */
qnet_value *qnet_quantizer_emit_forward(qnet_builder *b, const qnet_quantizer *q,
                                        const qnet_quantizer_site *s, qnet_value *x,
                                        qnet_value **code);
qnet_value *qnet_quantizer_emit_straight_through(qnet_builder *b, const qnet_op *forward,
                                                 qnet_value *dy, const char *mask);
void qnet_quantizer_emit_stats(qnet_builder *b, const qnet_op *forward);

/* The decision table of one channel from its n levels (by code): sorted[n] ascending, perm[n] rank
 * -> code (codes of equal levels all become the lowest of them), threshold[n - 1] midpoints of
 * neighbours, computed in f64 and rounded to f32. */
void qnet_quantizer_sort(const float *level, int n, float *threshold, float *sorted, uint8_t *perm);
/* The same for frozen levels: threshold_k = f32((f64)scale * (L_k + L_(k+1)) / 2). */
void qnet_quantizer_sort_frozen(float scale, const int32_t *level, int n, float *threshold,
                                float *sorted, uint8_t *perm);

#endif
