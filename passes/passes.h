/* The entry of every pass, in pipeline order; one file each, of the same name. */
#ifndef QNET_PASSES_PASSES_H
#define QNET_PASSES_PASSES_H

#include "passes/pass.h"

/* nn */
qnet_status qnet_pass_batch(qnet_module *m, const qnet_pass_context *c);
qnet_status qnet_pass_insert_quantizers(qnet_module *m, const qnet_pass_context *c);
/* Arguments of the @step that autodiff makes; the last two kinds only with distillation. */
enum {
  QNET_STEP_IMAGE,
  QNET_STEP_LABEL,
  QNET_STEP_LR,
  QNET_STEP_TEACHER, /* the other network's logits; its features are behind them */
  QNET_STEP_FEATURE
};
qnet_status qnet_pass_autodiff(qnet_module *m, const qnet_pass_context *c);
qnet_status qnet_pass_expose_features(qnet_module *m, const qnet_pass_context *c);
qnet_status qnet_pass_fold_batch_norm(qnet_module *m, const qnet_pass_context *c);
/* nn -> quant */
qnet_status qnet_pass_freeze(qnet_module *m, const qnet_pass_context *c);
/* quant */
qnet_status qnet_pass_fold_thresholds(qnet_module *m, const qnet_pass_context *c);
qnet_status qnet_pass_prove_accumulators(qnet_module *m, const qnet_pass_context *c);
/* quant -> bits */
qnet_status qnet_pass_decompose(qnet_module *m, const qnet_pass_context *c);
/* bits */
qnet_status qnet_pass_fuse_kernels(qnet_module *m, const qnet_pass_context *c);
/* bits -> loop */
qnet_status qnet_pass_lower_to_loop(qnet_module *m, const qnet_pass_context *c);
/* loop */
qnet_status qnet_pass_plan_memory(qnet_module *m, const qnet_pass_context *c);

#endif
