/* Layers with weights: conv, dense, bn. Each declares its state symbols under the layer's name. */
#include "frontend/sema.h"

#include <string.h>

/* Declares @LAYER.suffix and reads it. NULL after an error. */
static qnet_value *weight(qnet_sema *s, const qnet_sema_call *call, const char *layer,
                          const char *suffix, int rank, const int64_t *dim) {
  if (!qnet_sema_fits(s, call->loc, "the weight", rank, dim)) return NULL;
  const qnet_type *type = qnet_type_tensor(s->module, QNET_F32, rank, dim);
  const char *name = qnet_sema_format(s, "%s.%s", layer, suffix);
  qnet_symbol *symbol =
      qnet_symbol_add_data(s->module, QNET_SYMBOL_STATE, name, type, NULL, call->loc);
  s->builder.loc = call->loc;
  qnet_value *v = symbol ? qnet_build_read(&s->builder, symbol) : NULL;
  if (!v) qnet_sema_out_of_memory(s);
  s->ops++;
  return v;
}

/* Operands of conv and dense: x, weight, bias when there is one. Returns how many; 0: an error. */
static int weighted(qnet_sema *s, const qnet_sema_call *call, const char *layer, qnet_value *x,
                    int rank, const int64_t *dim, bool bias, qnet_value *operand[3]) {
  operand[0] = x;
  operand[1] = weight(s, call, layer, "weight", rank, dim);
  if (!operand[1]) return 0;
  if (!bias) return 2;
  operand[2] = weight(s, call, layer, "bias", 1, dim);
  return operand[2] ? 3 : 0;
}

/* ---- conv ----------------------------------------------------------------------------------- */

enum {
  CONV_X,
  CONV_CH,
  CONV_KERNEL,
  CONV_STRIDE,
  CONV_PAD,
  CONV_DILATION,
  CONV_BIAS,
  CONV_NAME,
  CONV_QUANTIZE
};

static bool conv_window(qnet_sema *s, const qnet_sema_value *slot, const qnet_type *x,
                        qnet_window *w) {
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1};
  const bool ok = qnet_sema_to_pair(s, &slot[CONV_KERNEL], "'kernel'", 1, kernel) &&
                  qnet_sema_to_pair(s, &slot[CONV_STRIDE], "'stride'", 1, stride) &&
                  qnet_sema_to_pair(s, &slot[CONV_DILATION], "'dilation'", 1, dilation);
  if (!ok) return false;
  *w = (qnet_window){.kernel_h = kernel[0],
                     .kernel_w = kernel[1],
                     .stride_h = stride[0],
                     .stride_w = stride[1],
                     .dilation_h = dilation[0],
                     .dilation_w = dilation[1]};
  return qnet_sema_to_pad(s, &slot[CONV_PAD], true, x->dim[1], x->dim[2], w);
}

static void conv_misfit(qnet_sema *s, const qnet_sema_call *call, const qnet_sema_value *x,
                        const qnet_window *w) {
  char shape[QNET_SHAPE_TEXT];
  qnet_sema_shape(x->tensor, shape);
  if (!qnet_sema_begin_error(s, call->loc, "a kernel %lldx%lld does not fit into %s",
                             (long long)w->kernel_h, (long long)w->kernel_w, shape))
    return;
  qnet_sema_note_value(s, x);
  qnet_sema_end_error(s);
}

static void set_conv_attributes(qnet_sema *s, qnet_op *op, const qnet_window *w) {
  qnet_module *m = s->module;
  qnet_op_set_ints(m, op, "stride", (const int64_t[]){w->stride_h, w->stride_w}, 2);
  qnet_op_set_ints(m, op, "pad",
                   (const int64_t[]){w->pad_top, w->pad_left, w->pad_bottom, w->pad_right}, 4);
  if (w->dilation_h != 1 || w->dilation_w != 1)
    qnet_op_set_ints(m, op, "dilation", (const int64_t[]){w->dilation_h, w->dilation_w}, 2);
}

qnet_sema_value qnet_sema_conv(qnet_sema *s, const qnet_sema_call *call,
                               const qnet_sema_value *slot) {
  qnet_value *x = NULL;
  int64_t channels = 0;
  bool bias = false;
  qnet_window w;
  if (!qnet_sema_to_image(s, &slot[CONV_X], "conv", &x)) return QNET_POISON;
  if (!qnet_sema_to_int(s, &slot[CONV_CH], "'ch'", 1, QNET_SEMA_DIM, &channels) ||
      !qnet_sema_to_bool(s, &slot[CONV_BIAS], "'bias'", &bias) ||
      !conv_window(s, slot, x->type, &w))
    return QNET_POISON;
  const int64_t dim[4] = {1, qnet_window_out_h(&w, x->type->dim[1]),
                          qnet_window_out_w(&w, x->type->dim[2]), channels};
  if (dim[1] < 1 || dim[2] < 1) {
    conv_misfit(s, call, &slot[CONV_X], &w);
    return QNET_POISON;
  }
  const char *layer = qnet_sema_layer_name(s, call, "conv", &slot[CONV_NAME]);
  if (!layer) return QNET_POISON;
  const int64_t weight_dim[4] = {channels, w.kernel_h, w.kernel_w, x->type->dim[3]};
  qnet_value *operand[3];
  const int operands = weighted(s, call, layer, x, 4, weight_dim, bias, operand);
  if (!operands) return QNET_POISON;
  qnet_value *y = qnet_sema_build(s, call->loc, QNET_OP_CONV2D, operand, operands, 4, dim);
  if (!y) return QNET_POISON;
  set_conv_attributes(s, y->def, &w);
  qnet_sema_set_quantizer(s, y->def, &slot[CONV_QUANTIZE]);
  return qnet_sema_tensor(y);
}

/* ---- dense ---------------------------------------------------------------------------------- */

qnet_sema_value qnet_sema_dense(qnet_sema *s, const qnet_sema_call *call,
                                const qnet_sema_value *slot) {
  qnet_value *x = NULL;
  int64_t n = 0;
  bool bias = true;
  if (!qnet_sema_to_tensor(s, &slot[0], "dense", &x)) return QNET_POISON;
  if (!qnet_sema_to_int(s, &slot[1], "'n'", 1, QNET_SEMA_DIM, &n) ||
      !qnet_sema_to_bool(s, &slot[2], "'bias'", &bias))
    return QNET_POISON;
  if (x->type->rank != 2) {
    char shape[QNET_SHAPE_TEXT];
    qnet_sema_shape(x, shape);
    if (qnet_sema_begin_error(s, call->loc,
                              "'dense' needs features [N], not %s; put 'flatten' or "
                              "'global_avg_pool' before it",
                              shape)) {
      qnet_sema_note_value(s, &slot[0]);
      qnet_sema_end_error(s);
    }
    return QNET_POISON;
  }
  const char *layer = qnet_sema_layer_name(s, call, "dense", &slot[3]);
  if (!layer) return QNET_POISON;
  const int64_t weight_dim[2] = {n, x->type->dim[1]};
  const int64_t dim[2] = {1, n};
  qnet_value *operand[3];
  const int operands = weighted(s, call, layer, x, 2, weight_dim, bias, operand);
  if (!operands) return QNET_POISON;
  qnet_value *y = qnet_sema_build(s, call->loc, QNET_OP_DENSE, operand, operands, 2, dim);
  if (!y) return QNET_POISON;
  qnet_sema_set_quantizer(s, y->def, &slot[4]);
  return qnet_sema_tensor(y);
}

/* ---- bn ------------------------------------------------------------------------------------- */

qnet_sema_value qnet_sema_bn(qnet_sema *s, const qnet_sema_call *call,
                             const qnet_sema_value *slot) {
  static const char *const suffix[] = {"weight", "bias", "running_mean", "running_var"};
  qnet_value *operand[5] = {NULL};
  double eps = 1e-5;
  if (!qnet_sema_to_tensor(s, &slot[0], "bn", &operand[0]) ||
      !qnet_sema_to_number(s, &slot[1], "'eps'", 1e-12, 1, &eps))
    return QNET_POISON;
  const char *layer = qnet_sema_layer_name(s, call, "bn", &slot[2]);
  if (!layer) return QNET_POISON;
  const qnet_type *x = operand[0]->type;
  for (int i = 0; i < 4; i++) {
    operand[1 + i] = weight(s, call, layer, suffix[i], 1, &x->dim[x->rank - 1]);
    if (!operand[1 + i]) return QNET_POISON;
  }
  qnet_value *y = qnet_sema_build(s, call->loc, QNET_OP_BATCH_NORM, operand, 5, x->rank, x->dim);
  if (!y) return QNET_POISON;
  qnet_op_set_float(s->module, y->def, "eps", eps);
  return qnet_sema_tensor(y);
}
