/* The learned quantizers: one file each in passes/quantizers/, one row each in quantizers.c. */
#ifndef QNET_PASSES_QUANTIZER_H
#define QNET_PASSES_QUANTIZER_H

#include "ir/ir.h"

enum { QNET_MAX_LEVELS = 256, QNET_MAX_CELLS = 512 };

typedef enum { QNET_ROLE_WEIGHT, QNET_ROLE_ACTIVATION } qnet_role;

/* One quantization point while it learns; small arrays on the heap, one channel = one basis.
 * `param` is the method's own (LQ-Nets: basis v, its moving average m, the step counter). */
struct qnet_quantizer;

typedef struct qnet_quantizer_site {
  const struct qnet_quantizer *quantizer;
  const char *name; /* "conv2.weight_quantizer" and the like: prefix of its symbols and tensors */
  qnet_role role;
  int bits, channels; /* channels == 1 for activations */
  int grid;           /* integer levels lie in -grid..grid or 0..grid; 15..127 */
  int planes;         /* LCQ: levels take no more planes than this; 0: as many as they take */
  bool is_signed;     /* activation that may be negative (the stem's input at 8 bits) */
  int64_t fan;        /* weights: kernel_h * kernel_w * Cout (initial basis) */
  int64_t inputs;     /* activations: channels of the quantized tensor */
  int64_t elements;   /* weights: all of the layer; activations: those of one image */
  double decay;       /* of the clip values, steps, intervals and levels learned by gradient */
  float *param;       /* [channels][quantizer->param_count(bits)] */
  int64_t step;       /* updates done */
} qnet_quantizer_site;

typedef struct qnet_bit_range {
  int min, max; /* 0, 0: not for this role */
} qnet_bit_range;

typedef struct qnet_quantizer {
  const char *name;       /* as in .qnet and --quantizer= */
  const void *method;     /* for hooks that several methods share (quantizers/scaled_set.h) */
  qnet_bit_range bits[2]; /* by qnet_role */
  bool per_layer;         /* one table for all filters of a weight */
  bool takes_negative;    /* activations that may be negative keep their sign */
  bool takes_planes;      /* the site's `planes` */
  bool by_channel;        /* `update` wants the statistics of activations channel by channel */
  bool keeps_scores;      /* latent weights only select codes: they do not decay */
  double decay;           /* of site->decay, where the recipe asks for no other */
  int (*param_count)(int bits); /* floats a channel */
  /* Levels in use: 2^bits, or fewer. */
  int (*level_count)(const qnet_quantizer_site *s);
  void (*init)(qnet_quantizer_site *s);

  /* IR builders. forward: x -> the quantized value; *code gets the codes (u8). backward: the
   * gradient of x from dy, where `forward` is the operation that emit_forward made. stats: what
   * `update` needs, written to the state symbols SITE.count and SITE.sum; NULL: nothing. */
  qnet_value *(*emit_forward)(qnet_builder *b, const qnet_quantizer_site *s, qnet_value *x,
                              qnet_value **code);
  qnet_value *(*emit_backward)(qnet_builder *b, const qnet_op *forward, qnet_value *dy);
  void (*emit_stats)(qnet_builder *b, const qnet_op *forward);

  /* One learning step from the statistics of one batch: count and sum by code, [channels][2^bits],
   * or by_channel: [inputs][2^bits]. NULL: nothing is learned so. */
  void (*update)(qnet_quantizer_site *s, const int64_t *count, const double *sum);

  /* Gradients. The axis of x is cut into cells (finer than the cells of the codes where the
   * gradient asks for it); in each one dx = dy * (slope + tilt x), and the gradient of every
   * parameter is linear in x, so that the sums of dy and dy x by cell are all that `learn` needs
   * (docs/numbers.md, "Gradients of quantizers"). All NULL: the gradient is straight through. */
  int (*cell_count)(const qnet_quantizer_site *s);
  /* bound[channels][n - 1] ascending, slope[channels][n], tilt[channels][n]. */
  void (*cells)(const qnet_quantizer_site *s, float *bound, float *slope, float *tilt);
  /* Where the gradient of a weight goes on to all weights of the layer through statistics of
   * theirs: every dx gets a + b x more, a = sum of share[0] dy + share[1] dyx over the cells, b
   * likewise from share[2], share[3]; share[4][n]. For one table a layer. NULL: it does not. */
  void (*moments)(const qnet_quantizer_site *s, float *share);
  /* One step of the parameters; dy, dyx: [channels][n]; lr: of the step. NULL: none is learned. */
  void (*learn)(qnet_quantizer_site *s, const double *dy, const double *dyx, double lr);

  /* What the tables take from the latent weights themselves (their largest, their deviation), anew
   * before every table: w[channels][n]. NULL: nothing. */
  void (*follow)(qnet_quantizer_site *s, const float *w, int64_t n);
  /* The closed-form fit to data that was never trained with this quantizer: x[channels][n]. */
  void (*fit)(qnet_quantizer_site *s, const float *x, int64_t n);
  /* Starts where the same method ended at other bits, a stage before; to->param was fitted or made
   * by `init`. NULL: levels of other bits are no start, the fit is. */
  void (*carry)(qnet_quantizer_site *to, const qnet_quantizer_site *from);
  /* The levels as trained, not on the integer grid: level[channels][n], by code. Returns n. */
  int (*levels)(const qnet_quantizer_site *s, float *level);
  /* The same on the integer grid: scale[channels], level[channels][n], by code. Returns n, or 0
   * when a parameter is not finite. (docs/numbers.md, "Snapping") */
  int (*freeze)(const qnet_quantizer_site *s, float *scale, int32_t *level);
  /* The ascending decision threshold[n - 1] of one channel, in both phases, for methods whose
   * levels ascend with the code but whose thresholds are not the midpoints of neighbours. NULL, or
   * false: midpoints. */
  bool (*thresholds)(const qnet_quantizer_site *s, int channel, float *threshold);
  /* How far the levels of a site with `planes` are from those it would have without, at most, over
   * the largest of these. NULL: it takes no planes. */
  double (*plane_distance)(const qnet_quantizer_site *s);
} qnet_quantizer;

extern const qnet_quantizer qnet_quantizer_lqnets, qnet_quantizer_lsq, qnet_quantizer_uniform,
    qnet_quantizer_qil, qnet_quantizer_lcq, qnet_quantizer_lcq_exact, qnet_quantizer_dq,
    qnet_quantizer_pact, qnet_quantizer_apot, qnet_quantizer_dorefa, qnet_quantizer_binary,
    qnet_quantizer_ternary, qnet_quantizer_sign;

const qnet_quantizer *qnet_quantizer_find(const char *name); /* NULL when unknown */
const qnet_quantizer *const *qnet_quantizer_table(size_t *count);

/* The site of an nn.quantize operation; its decay is the method's own, param is NULL. */
qnet_quantizer_site qnet_quantizer_site_of(const qnet_op *op);

/* The usual IR builders. forward: nn.quantize on the symbols SITE.threshold, SITE.level, SITE.perm;
 * straight_through: the gradient as it is for weights, nn.quantize_grad with `mask` for
 * activations; cells: nn.cell_grad on SITE.bound, .slope, .tilt, its sums into SITE.dy, SITE.dyx,
 * and nn.moment_grad on SITE.share for a weight whose method has `moments`; stats: nn.code_stats
 * into SITE.count, SITE.sum. */
qnet_value *qnet_quantizer_emit_forward(qnet_builder *b, const qnet_quantizer_site *s,
                                        qnet_value *x, qnet_value **code);
qnet_value *qnet_quantizer_emit_straight_through(qnet_builder *b, const qnet_op *forward,
                                                 qnet_value *dy, const char *mask);
qnet_value *qnet_quantizer_emit_cells(qnet_builder *b, const qnet_op *forward, qnet_value *dy);
void qnet_quantizer_emit_stats(qnet_builder *b, const qnet_op *forward);

/* The decision table of one channel from its n levels (by code): sorted[n] ascending, perm[n] rank
 * -> code (codes of equal levels all become the lowest of them), threshold[n - 1] midpoints of
 * neighbours, computed in f64 and rounded to f32. */
void qnet_quantizer_sort(const float *level, int n, float *threshold, float *sorted, uint8_t *perm);
/* The same for frozen levels: threshold_k = f32((f64)scale * (L_k + L_(k+1)) / 2). */
void qnet_quantizer_sort_frozen(float scale, const int32_t *level, int n, float *threshold,
                                float *sorted, uint8_t *perm);

#endif
