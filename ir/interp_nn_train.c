/* Reference kernels of the other training operations: what a quantizer learns from, the loss, the
 * update. As with the gradients (interp_nn_grad.c), sums are kept in double and rounded once. */
#include "ir/interp_internal.h"

#include <math.h>
#include <string.h>

/* ---- quantizers ----------------------------------------------------------------------------- */

/* Does the straight-through gradient pass? level[n] ascending. */
typedef enum { PASS_ALL, PASS_BELOW_MAX, PASS_INSIDE } gradient_mask;

static gradient_mask mask_of(const qnet_op *op) {
  const char *mask = qnet_op_string(op, "mask");
  if (mask != NULL && strcmp(mask, "below_max") == 0) return PASS_BELOW_MAX;
  if (mask != NULL && strcmp(mask, "inside") == 0) return PASS_INSIDE;
  return PASS_ALL;
}

static bool passes(gradient_mask mask, float x, const float *level, int64_t n) {
  if (mask == PASS_ALL) return true;
  if (x > level[n - 1]) return false;
  return mask == PASS_BELOW_MAX || !(x < level[0]);
}

static qnet_status quantize_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                 qnet_blob **out) {
  const qnet_type *levels = op->operand[1]->type;
  const int64_t count = qnet_type_elements(op->operand[0]->type);
  const int64_t channels = levels->dim[0], n = levels->dim[1];
  if (channels < 1 || count % channels != 0) return QNET_ERROR;
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const gradient_mask mask = mask_of(op);
  const float *x = in[0]->data, *level = in[1]->data, *dy = in[2]->data;
  float *dx = out[0]->data;
  const int64_t run = count / channels;
  for (int64_t i = 0; i < count; i++)
    dx[i] = passes(mask, x[i], level + i / run * n, n) ? dy[i] : 0.0f;
  return QNET_OK;
}

static int64_t cell_of(float x, const float *bound, int64_t n) {
  int64_t cell = 0;
  while (cell < n - 1 && x > bound[cell])
    cell++;
  return cell;
}

static qnet_status cell_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                             qnet_blob **out) {
  const int64_t count = qnet_type_elements(op->operand[0]->type);
  const int64_t channels = op->operand[2]->type->dim[0], n = op->operand[2]->type->dim[1];
  if (channels < 1 || count % channels != 0) return QNET_ERROR;
  for (int i = 0; i < 3; i++) {
    out[i] = qnet_interp_result(m, op, i);
    if (out[i] == NULL) return QNET_NO_MEMORY;
  }
  const float *x = in[0]->data, *bound = in[1]->data, *slope = in[2]->data, *tilt = in[3]->data;
  const float *dy = in[4]->data;
  float *dx = out[0]->data;
  double *sum = out[1]->data, *sum_x = out[2]->data;
  const int64_t run = count / channels;
  for (int64_t i = 0; i < count; i++) {
    const int64_t c = i / run, cell = c * n + cell_of(x[i], bound + c * (n - 1), n);
    dx[i] = dy[i] * (slope[cell] + tilt[cell] * x[i]);
    sum[cell] += (double)dy[i];
    sum_x[cell] += (double)dy[i] * (double)x[i];
  }
  return QNET_OK;
}

static double inner_product(const float *share, const double *sum, int64_t n) {
  double total = 0;
  for (int64_t k = 0; k < n; k++)
    total += (double)share[k] * sum[k];
  return total;
}

static qnet_status moment_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                               qnet_blob **out) {
  const int64_t count = qnet_type_elements(op->operand[0]->type);
  const int64_t n = op->operand[2]->type->dim[1];
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const float *dx = in[0]->data, *x = in[1]->data, *share = in[4]->data;
  const double *dy = in[2]->data, *dyx = in[3]->data;
  const double a = inner_product(share, dy, n) + inner_product(share + n, dyx, n);
  const double b = inner_product(share + 2 * n, dy, n) + inner_product(share + 3 * n, dyx, n);
  for (int64_t i = 0; i < count; i++)
    ((float *)out[0]->data)[i] = (float)((double)dx[i] + (a + b * (double)x[i]));
  return QNET_OK;
}

static qnet_status code_stats(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                              qnet_blob **out) {
  const qnet_type *type = op->result[0].type;
  const int64_t elements = qnet_type_elements(op->operand[0]->type);
  const int64_t channels = type->dim[0], codes = type->dim[1];
  if (channels < 1 || elements % channels != 0) return QNET_ERROR;
  out[0] = qnet_interp_result(m, op, 0);
  out[1] = qnet_interp_result(m, op, 1);
  if (out[0] == NULL || out[1] == NULL) return QNET_NO_MEMORY;
  const float *x = in[0]->data;
  const uint8_t *code = in[1]->data;
  int64_t *count = out[0]->data;
  double *sum = out[1]->data;
  const int64_t run = elements / channels;
  const bool by_channel = qnet_op_int(op, "axis", -1) == 1;
  for (int64_t i = 0; i < elements; i++) {
    if (code[i] >= codes) return QNET_ERROR;
    const int64_t cell = (by_channel ? i % channels : i / run) * codes + code[i];
    count[cell]++;
    sum[cell] += (double)x[i];
  }
  return QNET_OK;
}

/* ---- loss ----------------------------------------------------------------------------------- */

static int64_t argmax(const float *x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; i++)
    if (x[i] > x[best]) best = i;
  return best;
}

/* One row: returns its loss and writes the gradient of the mean over `rows`. */
static double cross_entropy_row(const float *logit, int64_t classes, int64_t label,
                                double smoothing, int64_t rows, float *grad) {
  const double max = (double)logit[argmax(logit, classes)];
  double sum = 0.0;
  for (int64_t k = 0; k < classes; k++)
    sum += exp((double)logit[k] - max);
  const double log_sum = log(sum);
  double loss = 0.0;
  for (int64_t k = 0; k < classes; k++) {
    const double log_p = (double)logit[k] - max - log_sum;
    const double target = (k == label ? 1.0 - smoothing : 0.0) + smoothing / (double)classes;
    loss -= target * log_p;
    grad[k] = (float)((exp(log_p) - target) / (double)rows);
  }
  return loss;
}

/* log(sum(exp(x / t))) + max / t, so that log softmax is x / t minus this. */
static double log_sum_exp(const float *x, int64_t classes, double t) {
  const double max = (double)x[argmax(x, classes)] / t;
  double sum = 0.0;
  for (int64_t k = 0; k < classes; k++)
    sum += exp((double)x[k] / t - max);
  return max + log(sum);
}

/* Mixes the teacher into one row: the loss of it all; `grad` and `loss` are those of the labels. */
static double distill_row(const qnet_op *op, const float *logit, const float *teacher,
                          int64_t classes, int64_t rows, double loss, float *grad) {
  const double share = qnet_op_float(op, "distill", 0.5);
  const double t = qnet_op_float(op, "temperature", 4.0);
  const double own = log_sum_exp(logit, classes, t), theirs = log_sum_exp(teacher, classes, t);
  double divergence = 0.0;
  for (int64_t k = 0; k < classes; k++) {
    const double log_p = (double)logit[k] / t - own, log_q = (double)teacher[k] / t - theirs;
    divergence += exp(log_q) * (log_q - log_p);
    const double pull = t * (exp(log_p) - exp(log_q)) / (double)rows;
    grad[k] = (float)((1.0 - share) * (double)grad[k] + share * pull);
  }
  return (1.0 - share) * loss + share * t * t * divergence;
}

static qnet_status softmax_cross_entropy(const qnet_module *m, const qnet_op *op,
                                         qnet_blob *const *in, qnet_blob **out) {
  for (int i = 0; i < 3; i++) {
    out[i] = qnet_interp_result(m, op, i);
    if (out[i] == NULL) return QNET_NO_MEMORY;
  }
  const int64_t rows = op->operand[0]->type->dim[0], classes = op->operand[0]->type->dim[1];
  const double smoothing = qnet_op_float(op, "smoothing", 0.0);
  const float *logit = in[0]->data;
  const float *teacher = op->operand_count > 2 ? in[2]->data : NULL;
  const int32_t *label = in[1]->data;
  double loss = 0.0;
  int32_t correct = 0;
  for (int64_t n = 0; n < rows; n++) {
    if (label[n] < 0 || label[n] >= classes) return QNET_ERROR;
    float *grad = (float *)out[1]->data + n * classes;
    const float *row = logit + n * classes;
    const double hard = cross_entropy_row(row, classes, label[n], smoothing, rows, grad);
    loss += teacher == NULL
                ? hard
                : distill_row(op, row, teacher + n * classes, classes, rows, hard, grad);
    correct += argmax(logit + n * classes, classes) == label[n];
  }
  *(float *)out[0]->data = (float)(loss / (double)rows);
  *(int32_t *)out[2]->data = correct;
  return QNET_OK;
}

/* ---- features ------------------------------------------------------------------------------- */

static qnet_status feature_grad(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                                qnet_blob **out) {
  out[0] = qnet_interp_result(m, op, 0);
  if (out[0] == NULL) return QNET_NO_MEMORY;
  const int64_t n = qnet_type_elements(op->result[0].type);
  const float *x = in[0]->data, *target = in[1]->data;
  double sum = 0.0;
  for (int64_t i = 0; i < n; i++)
    sum += (double)target[i] * (double)target[i];
  const double factor = sum > 0.0 ? 2.0 * qnet_op_float(op, "weight", 1.0) / sum : 0.0;
  for (int64_t i = 0; i < n; i++)
    ((float *)out[0]->data)[i] = (float)(factor * ((double)x[i] - (double)target[i]));
  return QNET_OK;
}

/* ---- update --------------------------------------------------------------------------------- */

static qnet_status sgd(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                       qnet_blob **out) {
  for (int i = 0; i < 2; i++) {
    out[i] = qnet_interp_result(m, op, i);
    if (out[i] == NULL) return QNET_NO_MEMORY;
  }
  const double momentum = qnet_op_float(op, "momentum", 0.0);
  const double decay = qnet_op_float(op, "weight_decay", 0.0);
  const bool nesterov = qnet_op_int(op, "nesterov", 0) != 0;
  const float *w = in[0]->data, *grad = in[1]->data, *velocity = in[2]->data;
  const double lr = (double)*(const float *)in[3]->data;
  float *new_w = out[0]->data, *new_velocity = out[1]->data;
  for (int64_t i = 0; i < qnet_type_elements(op->result[0].type); i++) {
    const double g = (double)grad[i] + decay * (double)w[i];
    const double v = momentum * (double)velocity[i] + g;
    new_velocity[i] = (float)v;
    new_w[i] = (float)((double)w[i] - lr * (nesterov ? g + momentum * v : v));
  }
  return QNET_OK;
}

enum { MUON_STEPS = 5 };
static const double muon_a = 3.4445, muon_b = -4.775, muon_c = 2.0315;

/* Turned where it has more rows than columns: rows are few then, and so is the work. */
typedef struct matrix {
  int64_t rows, columns; /* rows <= columns */
  bool turned;
  double *x; /* [rows][columns] */
} matrix;

/* Where element i of the weight is. */
static double *matrix_at(const matrix *m, int64_t i) {
  return &m->x[m->turned ? i % m->rows * m->columns + i / m->rows : i];
}

static matrix matrix_of(const qnet_type *type) {
  const int64_t rows = type->dim[0], columns = qnet_type_elements(type) / rows;
  const bool turned = rows > columns;
  return (matrix){
      .rows = turned ? columns : rows, .columns = turned ? rows : columns, .turned = turned};
}

/* out[rows][rows] = x x^T */
static void gram(const matrix *m, double *out) {
  for (int64_t i = 0; i < m->rows; i++)
    for (int64_t j = 0; j < m->rows; j++) {
      double sum = 0;
      for (int64_t k = 0; k < m->columns; k++)
        sum += m->x[i * m->columns + k] * m->x[j * m->columns + k];
      out[i * m->rows + j] = sum;
    }
}

/* x = a x + (b G + c G^2) x; room for two matrices of rows x rows and a column. */
static void newton_schulz(const matrix *m, double *room) {
  const int64_t rows = m->rows;
  double *const g = room, *const p = g + rows * rows, *const column = p + rows * rows;
  gram(m, g);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < rows; j++) {
      double sum = 0;
      for (int64_t k = 0; k < rows; k++)
        sum += g[i * rows + k] * g[k * rows + j];
      p[i * rows + j] = muon_b * g[i * rows + j] + muon_c * sum;
    }
  for (int64_t k = 0; k < m->columns; k++) {
    for (int64_t i = 0; i < rows; i++)
      column[i] = m->x[i * m->columns + k];
    for (int64_t i = 0; i < rows; i++) {
      double sum = muon_a * column[i];
      for (int64_t j = 0; j < rows; j++)
        sum += p[i * rows + j] * column[j];
      m->x[i * m->columns + k] = sum;
    }
  }
}

/* Its singular values become roughly 1. */
static void orthogonalize(const matrix *m, double *room) {
  const int64_t n = m->rows * m->columns;
  double square = 0;
  for (int64_t i = 0; i < n; i++)
    square += m->x[i] * m->x[i];
  const double norm = sqrt(square), divisor = norm < 1e-7 ? 1e-7 : norm;
  for (int64_t i = 0; i < n; i++)
    m->x[i] /= divisor;
  for (int i = 0; i < MUON_STEPS; i++)
    newton_schulz(m, room);
}

/* Keller Jordan et al., "Muon: an optimizer for hidden layers" (2024), as in torch.optim.Muon. */
static qnet_status muon(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                        qnet_blob **out) {
  matrix u = matrix_of(op->result[0].type);
  const int64_t n = u.rows * u.columns;
  const size_t doubles = (size_t)(n + 2 * u.rows * u.rows + u.rows);
  for (int i = 0; i < 2; i++) {
    out[i] = qnet_interp_result(m, op, i);
    if (out[i] == NULL) return QNET_NO_MEMORY;
  }
  double *room = qnet_alloc_array(m->allocator, doubles, sizeof *room);
  if (room == NULL) return QNET_NO_MEMORY;
  u.x = room;
  const double momentum = qnet_op_float(op, "momentum", 0.0);
  const double decay = qnet_op_float(op, "weight_decay", 0.0);
  const bool nesterov = qnet_op_int(op, "nesterov", 0) != 0;
  const float *w = in[0]->data, *grad = in[1]->data, *velocity = in[2]->data;
  for (int64_t i = 0; i < n; i++) {
    const double v = momentum * (double)velocity[i] + (double)grad[i];
    ((float *)out[1]->data)[i] = (float)v;
    *matrix_at(&u, i) = nesterov ? (double)grad[i] + momentum * v : v;
  }
  orthogonalize(&u, room + n);
  const double reach = u.turned ? sqrt((double)u.columns / (double)u.rows) : 1;
  const double rate = qnet_op_float(op, "scale", 1.0) * (double)*(const float *)in[3]->data;
  for (int64_t i = 0; i < n; i++)
    ((float *)out[0]->data)[i] =
        (float)((double)w[i] - rate * (reach * *matrix_at(&u, i) + decay * (double)w[i]));
  qnet_free(m->allocator, room, doubles * sizeof *room);
  return QNET_OK;
}

static qnet_status adam(const qnet_module *m, const qnet_op *op, qnet_blob *const *in,
                        qnet_blob **out) {
  for (int i = 0; i < 4; i++) {
    out[i] = qnet_interp_result(m, op, i);
    if (out[i] == NULL) return QNET_NO_MEMORY;
  }
  const double beta1 = qnet_op_float(op, "beta1", 0.9), beta2 = qnet_op_float(op, "beta2", 0.999);
  const double eps = qnet_op_float(op, "eps", 1e-8), lr = (double)*(const float *)in[5]->data;
  const double decay = qnet_op_float(op, "weight_decay", 0.0);
  const bool decoupled = qnet_op_int(op, "decoupled", 0) != 0;
  const int64_t t = *(const int64_t *)in[4]->data + 1;
  const double correct1 = 1.0 - pow(beta1, (double)t), correct2 = 1.0 - pow(beta2, (double)t);
  const float *w = in[0]->data, *grad = in[1]->data, *mean = in[2]->data, *square = in[3]->data;
  float *new_w = out[0]->data, *new_mean = out[1]->data, *new_square = out[2]->data;
  for (int64_t i = 0; i < qnet_type_elements(op->result[0].type); i++) {
    const double g = (double)grad[i] + (decoupled ? 0.0 : decay * (double)w[i]);
    const double first = beta1 * (double)mean[i] + (1.0 - beta1) * g;
    const double second = beta2 * (double)square[i] + (1.0 - beta2) * g * g;
    const double step = first / correct1 / (sqrt(second / correct2) + eps);
    new_mean[i] = (float)first;
    new_square[i] = (float)second;
    new_w[i] = (float)((double)w[i] - lr * (step + (decoupled ? decay * (double)w[i] : 0.0)));
  }
  *(int64_t *)out[3]->data = t;
  return QNET_OK;
}

static const qnet_interp_kernel kernels[QNET_OP_COUNT] = {
    [QNET_OP_QUANTIZE_GRAD] = quantize_grad,
    [QNET_OP_CELL_GRAD] = cell_grad,
    [QNET_OP_MOMENT_GRAD] = moment_grad,
    [QNET_OP_FEATURE_GRAD] = feature_grad,
    [QNET_OP_CODE_STATS] = code_stats,
    [QNET_OP_SOFTMAX_CROSS_ENTROPY] = softmax_cross_entropy,
    [QNET_OP_SGD] = sgd,
    [QNET_OP_MUON] = muon,
    [QNET_OP_ADAM] = adam,
};

qnet_interp_kernel qnet_interp_train_kernel(int opcode) {
  return opcode >= 0 && opcode < QNET_OP_COUNT ? kernels[opcode] : NULL;
}
