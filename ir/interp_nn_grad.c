/* Reference kernels of the training operations: gradients, statistics, the update. Any fast f32
 * code may stand in for them in a training step; these are what it is tested against, so long sums
 * are kept in double and rounded once. */
#include "ir/interp_internal.h"

#include <math.h>
#include <string.h>

/* Creates all results. */
static qnet_status begin(const qnet_module *m, const qnet_op *op, qnet_blob **out) {
  for (int i = 0; i < op->result_count; i++) {
    out[i] = qnet_interp_result(m, op, i);
    if (out[i] == NULL) return QNET_NO_MEMORY;
  }
  return QNET_OK;
}

static void round_to_f32(const double *from, int64_t count, float *to) {
  for (int64_t i = 0; i < count; i++)
    to[i] = (float)from[i];
}

/* ---- convolution ---------------------------------------------------------------------------- */

/* dx of one output position: dx[tap] += dy[o] * w[o][tap] for the real taps. */
static void scatter_position(const qnet_sliding *s, const float *dy, const float *w,
                             int64_t outputs, qnet_taps th, qnet_taps tw, double *dx) {
  const int64_t c = s->x.c;
  for (int64_t o = 0; o < outputs; o++)
    for (int64_t kh = th.begin; kh < th.end; kh++)
      for (int64_t kw = tw.begin; kw < tw.end; kw++) {
        const int64_t position =
            (th.first + kh * s->k.dilation_h) * s->x.w + tw.first + kw * s->k.dilation_w;
        const float *tap = w + ((o * s->k.kernel_h + kh) * s->k.kernel_w + kw) * c;
        for (int64_t i = 0; i < c; i++)
          dx[position * c + i] += (double)dy[o] * (double)tap[i];
      }
}

static qnet_status conv2d_grad_input(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                     qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_sliding s = qnet_interp_sliding(op, op->result[0].type);
  const int64_t outputs = op->operand[1]->type->dim[0], image = s.x.h * s.x.w * s.x.c;
  double *sum = qnet_alloc_array(m->allocator, (size_t)image, sizeof *sum);
  if (sum == NULL) return QNET_NO_MEMORY;
  const float *dy = in[0]->data;
  float *dx = out[0]->data;
  for (int64_t n = 0; n < s.x.n; n++, dx += image) {
    memset(sum, 0, (size_t)image * sizeof *sum);
    for (int64_t oh = 0; oh < s.oh; oh++)
      for (int64_t ow = 0; ow < s.ow; ow++, dy += outputs)
        scatter_position(&s, dy, in[1]->data, outputs, qnet_interp_taps_h(&s, oh),
                         qnet_interp_taps_w(&s, ow), sum);
    round_to_f32(sum, image, dx);
  }
  qnet_free(m->allocator, sum, (size_t)image * sizeof *sum);
  return QNET_OK;
}

/* dw[o][k] += dy[o] * x[k] */
static void add_outer_product(const float *dy, int64_t outputs, const float *x, int64_t taps,
                              double *dw) {
  for (int64_t o = 0; o < outputs; o++)
    for (int64_t k = 0; k < taps; k++)
      dw[o * taps + k] += (double)dy[o] * (double)x[k];
}

static void conv2d_weight_sums(const qnet_sliding *s, const float *x, const float *dy,
                               int64_t outputs, float *patch, double *dw) {
  const int64_t taps = s->k.kernel_h * s->k.kernel_w * s->x.c;
  for (int64_t n = 0; n < s->x.n; n++)
    for (int64_t oh = 0; oh < s->oh; oh++)
      for (int64_t ow = 0; ow < s->ow; ow++, dy += outputs) {
        qnet_interp_patch(s, x, sizeof *x, n, oh, ow, patch);
        add_outer_product(dy, outputs, patch, taps, dw);
      }
}

static qnet_status conv2d_grad_weight(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                      qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_sliding s = qnet_interp_sliding(op, op->operand[0]->type);
  const int64_t count = qnet_type_elements(op->result[0].type);
  const int64_t outputs = op->result[0].type->dim[0];
  qnet_arena scratch;
  qnet_arena_init(&scratch, m->allocator);
  double *sum = qnet_arena_array(&scratch, (size_t)count, sizeof *sum);
  float *patch = qnet_arena_array(&scratch, (size_t)(count / outputs), sizeof *patch);
  const bool ready = sum != NULL && patch != NULL;
  if (ready) {
    conv2d_weight_sums(&s, in[0]->data, in[1]->data, outputs, patch, sum);
    round_to_f32(sum, count, out[0]->data);
  }
  qnet_arena_clear(&scratch);
  return ready ? QNET_OK : QNET_NO_MEMORY;
}

static qnet_status bias_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                             qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_type *type = op->operand[0]->type;
  const int64_t count = qnet_type_elements(type), channels = qnet_interp_nhwc(type).c;
  const float *dy = in[0]->data;
  for (int64_t c = 0; c < channels; c++) {
    double sum = 0.0;
    for (int64_t i = c; i < count; i += channels)
      sum += (double)dy[i];
    ((float *)out[0]->data)[c] = (float)sum;
  }
  return QNET_OK;
}

/* ---- dense ---------------------------------------------------------------------------------- */

static qnet_status dense_grad_input(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                    qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_nhwc dx = qnet_interp_nhwc(op->result[0].type);
  const int64_t outputs = op->operand[1]->type->dim[0];
  const float *dy = in[0]->data, *w = in[1]->data;
  float *y = out[0]->data;
  for (int64_t n = 0; n < dx.n; n++)
    for (int64_t i = 0; i < dx.c; i++) {
      double sum = 0.0;
      for (int64_t o = 0; o < outputs; o++)
        sum += (double)dy[n * outputs + o] * (double)w[o * dx.c + i];
      *y++ = (float)sum;
    }
  return QNET_OK;
}

static qnet_status dense_grad_weight(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                     qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_nhwc x = qnet_interp_nhwc(op->operand[0]->type);
  const int64_t outputs = op->result[0].type->dim[0], count = outputs * x.c;
  double *sum = qnet_alloc_array(m->allocator, (size_t)count, sizeof *sum);
  if (sum == NULL) return QNET_NO_MEMORY;
  for (int64_t n = 0; n < x.n; n++)
    add_outer_product((const float *)in[1]->data + n * outputs, outputs,
                      (const float *)in[0]->data + n * x.c, x.c, sum);
  round_to_f32(sum, count, out[0]->data);
  qnet_free(m->allocator, sum, (size_t)count * sizeof *sum);
  return QNET_OK;
}

/* ---- batch normalization -------------------------------------------------------------------- */

static double channel_mean(const float *x, int64_t c, int64_t count, int64_t channels) {
  double sum = 0.0;
  for (int64_t i = c; i < count; i += channels)
    sum += (double)x[i];
  return sum / (double)(count / channels);
}

static double channel_variance(const float *x, int64_t c, int64_t count, int64_t channels,
                               double mean) {
  double sum = 0.0;
  for (int64_t i = c; i < count; i += channels) {
    const double t = (double)x[i] - mean;
    sum += t * t;
  }
  return sum / (double)(count / channels);
}

static qnet_status batch_norm_train(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                    qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_type *type = op->operand[0]->type;
  const int64_t count = qnet_type_elements(type), channels = qnet_interp_nhwc(type).c;
  const double eps = qnet_op_float(op, "eps", 1e-5);
  const float *x = in[0]->data, *gamma = in[1]->data, *beta = in[2]->data;
  float *y = out[0]->data;
  for (int64_t c = 0; c < channels; c++) {
    const double mean = channel_mean(x, c, count, channels);
    const double var = channel_variance(x, c, count, channels, mean);
    const double g = (double)gamma[c] / sqrt(var + eps);
    for (int64_t i = c; i < count; i += channels)
      y[i] = (float)(((double)x[i] - mean) * g + (double)beta[c]);
    ((float *)out[1]->data)[c] = (float)mean;
    ((float *)out[2]->data)[c] = (float)var;
  }
  return QNET_OK;
}

/* One channel's share of the batch_norm gradient. */
typedef struct norm_channel {
  int64_t c, count, channels;
  double mean, inverse; /* 1 / sqrt(var + eps) */
  double gamma;
} norm_channel;

static void batch_norm_grad_channel(const norm_channel *k, const float *x, const float *dy,
                                    float *dx, float *dgamma, float *dbeta) {
  double sum = 0.0, sum_x = 0.0; /* of dy, and of dy times the normalized x */
  for (int64_t i = k->c; i < k->count; i += k->channels) {
    sum += (double)dy[i];
    sum_x += (double)dy[i] * ((double)x[i] - k->mean) * k->inverse;
  }
  const double positions = (double)(k->count / k->channels);
  for (int64_t i = k->c; i < k->count; i += k->channels) {
    const double normalized = ((double)x[i] - k->mean) * k->inverse;
    const double centered = (double)dy[i] - (sum + normalized * sum_x) / positions;
    dx[i] = (float)(k->gamma * k->inverse * centered);
  }
  dgamma[k->c] = (float)sum_x;
  dbeta[k->c] = (float)sum;
}

static qnet_status batch_norm_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                   qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_type *type = op->operand[0]->type;
  const double eps = qnet_op_float(op, "eps", 1e-5);
  const float *gamma = in[2]->data, *mean = in[3]->data, *var = in[4]->data;
  norm_channel k = {.count = qnet_type_elements(type), .channels = qnet_interp_nhwc(type).c};
  for (k.c = 0; k.c < k.channels; k.c++) {
    k.mean = (double)mean[k.c];
    k.inverse = 1.0 / sqrt((double)var[k.c] + eps);
    k.gamma = (double)gamma[k.c];
    batch_norm_grad_channel(&k, in[0]->data, in[1]->data, out[0]->data, out[1]->data, out[2]->data);
  }
  return QNET_OK;
}

static qnet_status moving_average(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                  qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const double momentum = qnet_op_float(op, "momentum", 0.1);
  const double scale = qnet_op_float(op, "scale", 1.0);
  const float *old = in[0]->data, *new = in[1]->data;
  float *y = out[0]->data;
  for (int64_t i = 0; i < qnet_type_elements(op->result[0].type); i++)
    y[i] = (float)((1.0 - momentum) * (double)old[i] + momentum * scale * (double)new[i]);
  return QNET_OK;
}

/* ---- relu and pools ------------------------------------------------------------------------- */

static qnet_status relu_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                             qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const float *y = in[0]->data, *dy = in[1]->data;
  float *dx = out[0]->data;
  for (int64_t i = 0; i < qnet_type_elements(op->result[0].type); i++)
    dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
  return QNET_OK;
}

/* Index of the first maximum of a window within its image. */
static int64_t first_maximum(const qnet_sliding *s, const float *image, int64_t c, qnet_taps th,
                             qnet_taps tw) {
  int64_t best = -1;
  for (int64_t kh = th.begin; kh < th.end; kh++)
    for (int64_t kw = tw.begin; kw < tw.end; kw++) {
      const int64_t i = ((th.first + kh) * s->x.w + tw.first + kw) * s->x.c + c;
      if (best < 0 || image[i] > image[best]) best = i;
    }
  return best;
}

static void max_pool_position(const qnet_sliding *s, const float *image, const float *dy,
                              qnet_taps th, qnet_taps tw, double *dx) {
  for (int64_t c = 0; c < s->x.c; c++) {
    const int64_t i = first_maximum(s, image, c, th, tw);
    if (i >= 0) dx[i] += (double)dy[c];
  }
}

static void avg_pool_position(const qnet_sliding *s, const float *image, const float *dy,
                              qnet_taps th, qnet_taps tw, double *dx) {
  (void)image;
  const double positions = (double)((th.end - th.begin) * (tw.end - tw.begin));
  for (int64_t kh = th.begin; kh < th.end; kh++)
    for (int64_t kw = tw.begin; kw < tw.end; kw++)
      for (int64_t c = 0; c < s->x.c; c++)
        dx[((th.first + kh) * s->x.w + tw.first + kw) * s->x.c + c] += (double)dy[c] / positions;
}

typedef void (*pool_fn)(const qnet_sliding *, const float *, const float *, qnet_taps, qnet_taps,
                        double *);

/* Sums what every window hands to its inputs; x may be NULL for an average. */
static qnet_status pool_grad(const qnet_module *m, const qnet_op *op, const float *x,
                             const float *dy, pool_fn position, float *dx) {
  const qnet_sliding s = qnet_interp_sliding(op, op->result[0].type);
  const int64_t image = s.x.h * s.x.w * s.x.c;
  double *sum = qnet_alloc_array(m->allocator, (size_t)image, sizeof *sum);
  if (sum == NULL) return QNET_NO_MEMORY;
  for (int64_t n = 0; n < s.x.n; n++, dx += image) {
    memset(sum, 0, (size_t)image * sizeof *sum);
    for (int64_t oh = 0; oh < s.oh; oh++)
      for (int64_t ow = 0; ow < s.ow; ow++, dy += s.x.c)
        position(&s, x, dy, qnet_interp_taps_h(&s, oh), qnet_interp_taps_w(&s, ow), sum);
    round_to_f32(sum, image, dx);
    if (x != NULL) x += image;
  }
  qnet_free(m->allocator, sum, (size_t)image * sizeof *sum);
  return QNET_OK;
}

static qnet_status max_pool2d_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                   qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  return pool_grad(m, op, in[0]->data, in[1]->data, max_pool_position, out[0]->data);
}

static qnet_status avg_pool2d_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                   qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  return pool_grad(m, op, NULL, in[0]->data, avg_pool_position, out[0]->data);
}

static qnet_status global_avg_pool_grad(const qnet_module *m, const qnet_op *op,
                                        qnet_blob *const *in, qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_nhwc x = qnet_interp_nhwc(op->result[0].type);
  const int64_t positions = x.h * x.w;
  const float *dy = in[0]->data;
  float *dx = out[0]->data;
  for (int64_t n = 0; n < x.n; n++)
    for (int64_t p = 0; p < positions; p++)
      for (int64_t c = 0; c < x.c; c++)
        *dx++ = (float)((double)dy[n * x.c + c] / (double)positions);
  return QNET_OK;
}

static qnet_status flatten_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                qnet_blob **out) {
  QNET_TRY(begin(m, op, out));
  const qnet_nhwc x = qnet_interp_nhwc(op->result[0].type);
  const int64_t positions = x.h * x.w;
  const float *dy = in[0]->data;
  float *dx = out[0]->data;
  for (int64_t n = 0; n < x.n; n++)
    for (int64_t c = 0; c < x.c; c++)
      for (int64_t p = 0; p < positions; p++)
        dx[(n * positions + p) * x.c + c] = *dy++;
  return QNET_OK;
}

static const qnet_interp_kernel kernels[QNET_OP_COUNT] = {
    [QNET_OP_CONV2D_GRAD_INPUT] = conv2d_grad_input,
    [QNET_OP_CONV2D_GRAD_WEIGHT] = conv2d_grad_weight,
    [QNET_OP_BIAS_GRAD] = bias_grad,
    [QNET_OP_DENSE_GRAD_INPUT] = dense_grad_input,
    [QNET_OP_DENSE_GRAD_WEIGHT] = dense_grad_weight,
    [QNET_OP_BATCH_NORM_TRAIN] = batch_norm_train,
    [QNET_OP_BATCH_NORM_GRAD] = batch_norm_grad,
    [QNET_OP_MOVING_AVERAGE] = moving_average,
    [QNET_OP_RELU_GRAD] = relu_grad,
    [QNET_OP_MAX_POOL2D_GRAD] = max_pool2d_grad,
    [QNET_OP_AVG_POOL2D_GRAD] = avg_pool2d_grad,
    [QNET_OP_GLOBAL_AVG_POOL_GRAD] = global_avg_pool_grad,
    [QNET_OP_FLATTEN_GRAD] = flatten_grad,
};

qnet_interp_kernel qnet_interp_gradient_kernel(int opcode) {
  return opcode >= 0 && opcode < QNET_OP_COUNT ? kernels[opcode] : NULL;
}
