/* .qnet to nn: scanner (flex), grammar (bison), AST, semantic analysis. docs/language.md. */
#ifndef QNET_FRONTEND_FRONTEND_H
#define QNET_FRONTEND_FRONTEND_H

#include "ir/ir.h"

enum { QNET_FRONTEND_MAX_NORM = 16 }; /* channels that `normalize` takes */

/* How layers are to be quantized, for the insert-quantizers pass: those that say nothing for
 * themselves. Layers that do carry it as attributes (nn.conv2d, nn.dense). */
typedef struct qnet_quant_spec {
  const char *quantizer;            /* "lqnets"; "none": only layers that say so themselves are
                                       quantized; NULL: the network stays f32 */
  const char *activation_quantizer; /* NULL: the same as of the weights */
  int weight_bits, activation_bits; /* QNET_F32_BITS: that side stays f32 */
  int grid;
  int least;                 /* 0; in a stage of progressive bits layers have no fewer */
  int planes;                /* that the levels may take; 0: as many as they do */
  int first_bits, last_bits; /* policy for the first and last layer: 0 = f32, 8 = 8 bit, else like
                                the others (-1) */
  qnet_loc loc;
} qnet_quant_spec;

typedef enum {
  QNET_SCHEDULE_COSINE,
  QNET_SCHEDULE_STEP,
  QNET_SCHEDULE_CONSTANT,
  QNET_SCHEDULE_LINEAR
} qnet_schedule;

enum { QNET_MAX_STAGES = 8 };

/* One stage of progressive bits: QNET_F32_BITS, or the least bits of weights and activations. */
typedef struct qnet_stage {
  int bits;
  qnet_loc loc;
} qnet_stage;

typedef enum { QNET_OPTIMIZER_SGD, QNET_OPTIMIZER_ADAM } qnet_optimizer;

/* The training recipe; values that the .qnet leaves out have these defaults. */
typedef struct qnet_recipe {
  int epochs;                                      /* 10; with stages, of each */
  int stage_epochs[QNET_MAX_STAGES], epoch_counts; /* where every stage has its own */
  qnet_stage stage[QNET_MAX_STAGES];               /* descending bits */
  int stages;                                      /* 0: bits are not progressive */
  int batch;                                       /* 128 */
  qnet_optimizer optimizer;                        /* sgd */
  double lr;                                       /* 0.1; adam 0.001 */
  double weight_decay;                             /* 1e-4; adam 0 */
  double momentum;                                 /* sgd: 0.9 */
  bool nesterov;                                   /* sgd: false */
  double muon;                /* sgd: 0; else convolutions have Muon, at this multiple of lr */
  double beta1, beta2, eps;   /* adam: 0.9, 0.999, 1e-8 */
  bool decoupled;             /* adam: false; else its weight decay is AdamW's */
  int warmup_epochs;          /* 0: epochs in which lr rises to its full value */
  qnet_schedule schedule;     /* cosine */
  double step_factor;         /* 0.1 */
  int step_epochs[16], steps; /* step: the epochs at which lr is multiplied */
  int crop_pad;         /* 0: no crop augmentation; else zero-pad by so much and crop at random */
  bool flip;            /* mirror half of the images */
  double smallest_area; /* 0: no resized_crop; else a random part of at least this share */
  double brightness, contrast, saturation; /* 0; factors are drawn from [1 - x, 1 + x] */
  double label_smoothing;                  /* 0 */
  double quantizer_lr;    /* 1: of what quantizers learn by gradient, as a multiple of lr */
  double quantizer_decay; /* -1: each method's own */
  qnet_loc quantizer_loc; /* where that is said */
  double distill_weight, distill_temperature; /* 0.5, 4: of --distill */
  double feature_weight;                      /* 0: of its features; 0 = not followed */
  qnet_loc distill_loc;                       /* where they are said */
} qnet_recipe;

/* What a .qnet file says. Strings live in the module's arena. */
typedef struct qnet_program {
  qnet_module *module; /* level nn, function @eval, batch 1; owned: qnet_module_destroy */
  qnet_quant_spec quant;
  qnet_recipe recipe;
} qnet_program;

/* Parses and checks `text`. Parameters override defaults of the net's parameters: "classes=100".
 * Layers are numbered by kind in their net or block, conv1, bn1, dense1 ..., prefixed by the path
 * of block calls (basic1.conv2), unless a call says name = "..." (docs/language.md, "Names of
 * layers"). Their symbols are @conv1.weight, @conv1.bias and so on; initial values are not set.
 * On failure out->module is NULL. */
qnet_status qnet_frontend_parse(const qnet_allocator *a, const char *name, const char *text,
                                size_t length, const char *const *parameters, int parameter_count,
                                qnet_program *out, qnet_diag *d);

#endif
