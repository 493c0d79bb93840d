/* The table of quantizers, and what they share: decision tables from levels, and the IR of the
 * usual forward, straight-through gradient and statistics. */
#include "ir/ops.h"
#include "passes/quantizer.h"
#include <string.h>

static const qnet_quantizer *const quantizers[] = {
    &qnet_quantizer_lqnets, &qnet_quantizer_lsq,       &qnet_quantizer_qil,
    &qnet_quantizer_lcq,    &qnet_quantizer_lcq_exact, &qnet_quantizer_dq,
    &qnet_quantizer_pact,   &qnet_quantizer_apot,      &qnet_quantizer_dorefa,
    &qnet_quantizer_binary, &qnet_quantizer_sign,      &qnet_quantizer_ternary,
    &qnet_quantizer_uniform};

const qnet_quantizer *const *qnet_quantizer_table(size_t *count) {
  *count = sizeof quantizers / sizeof *quantizers;
  return quantizers;
}

const qnet_quantizer *qnet_quantizer_find(const char *name) {
  for (size_t i = 0; i < sizeof quantizers / sizeof *quantizers; i++)
    if (strcmp(quantizers[i]->name, name) == 0) return quantizers[i];
  return NULL;
}

/* ---- decision tables --------------------------------------------------------------------------*/

/* Ranks by (level, code). Insertion: the tables are short, the long ones (8 bits) sorted already.
 */
static void rank_codes(const double *level, int n, uint8_t *perm) {
  for (int i = 0; i < n; i++) {
    int at = i;
    for (; at > 0 && level[perm[at - 1]] > level[i]; at--)
      perm[at] = perm[at - 1];
    perm[at] = (uint8_t)i;
  }
}

static void decision_table(const double *level, double scale, int n, float *threshold,
                           float *sorted, uint8_t *perm) {
  rank_codes(level, n, perm);
  for (int r = 0; r < n; r++)
    sorted[r] = (float)(scale * level[perm[r]] + 0.0); /* + 0.0: -0 becomes +0 */
  for (int r = 0; r + 1 < n; r++)
    threshold[r] = (float)(scale * (level[perm[r]] + level[perm[r + 1]]) / 2 + 0.0);
  for (int r = 1; r < n; r++)
    if (level[perm[r]] == level[perm[r - 1]]) perm[r] = perm[r - 1];
}

void qnet_quantizer_sort(const float *level, int n, float *threshold, float *sorted,
                         uint8_t *perm) {
  double wide[QNET_MAX_LEVELS];
  for (int i = 0; i < n; i++)
    wide[i] = (double)level[i];
  decision_table(wide, 1, n, threshold, sorted, perm);
}

void qnet_quantizer_sort_frozen(float scale, const int32_t *level, int n, float *threshold,
                                float *sorted, uint8_t *perm) {
  double wide[QNET_MAX_LEVELS];
  for (int i = 0; i < n; i++)
    wide[i] = (double)level[i];
  decision_table(wide, (double)scale, n, threshold, sorted, perm);
}

/* ---- IR ---------------------------------------------------------------------------------------*/

qnet_quantizer_site qnet_quantizer_site_of(const qnet_op *op) {
  const char *role = qnet_op_string(op, "role");
  const bool weight = role != NULL && strcmp(role, "weight") == 0;
  const qnet_type *x = op->operand[0]->type;
  const int64_t images = !weight && x->rank > 1 ? x->dim[0] : 1;
  const qnet_quantizer *q = qnet_quantizer_find(qnet_op_string(op, "quantizer"));
  return (qnet_quantizer_site){.quantizer = q,
                               .name = qnet_op_string(op, "site"),
                               .role = weight ? QNET_ROLE_WEIGHT : QNET_ROLE_ACTIVATION,
                               .bits = (int)qnet_op_int(op, "bits", 0),
                               .channels = (int)op->operand[2]->type->dim[0],
                               .grid = (int)qnet_op_int(op, "grid", 127),
                               .planes = (int)qnet_op_int(op, "planes", 0),
                               .is_signed = qnet_op_int(op, "signed", 0) != 0,
                               .fan = qnet_op_int(op, "fan", 0),
                               .inputs = x->rank > 0 ? x->dim[x->rank - 1] : 1,
                               .elements = qnet_type_elements(x) / images,
                               .decay = q != NULL ? q->decay : 0};
}

/* The symbol SITE.SUFFIX, made of zeros when it is missing. */
static qnet_symbol *site_symbol(qnet_module *m, const char *site, const char *suffix,
                                const qnet_type *type, qnet_loc loc) {
  char *name = qnet_arena_printf(&m->arena, "%s.%s", site, suffix);
  if (name == NULL) {
    m->failed = true;
    return NULL;
  }
  qnet_symbol *s = qnet_symbol_find(m, name);
  if (s != NULL || type == NULL) return s;
  qnet_blob *zero = qnet_blob_create(m->allocator, type->dtype, type->rank, type->dim);
  if (zero != NULL) s = qnet_symbol_add_data(m, QNET_SYMBOL_STATE, name, type, zero, loc);
  qnet_blob_release(zero);
  m->failed = m->failed || s == NULL;
  return s;
}

static qnet_value *read_symbol(qnet_builder *b, const char *site, const char *suffix,
                               qnet_dtype dtype, int64_t rows, int64_t columns) {
  const qnet_type *type = qnet_type_tensor(b->module, dtype, 2, (const int64_t[]){rows, columns});
  const qnet_symbol *s = site_symbol(b->module, site, suffix, type, b->loc);
  return s != NULL ? qnet_build_read(b, s) : NULL;
}

qnet_value *qnet_quantizer_emit_forward(qnet_builder *b, const qnet_quantizer_site *s,
                                        qnet_value *x, qnet_value **code) {
  qnet_module *m = b->module;
  const qnet_quantizer *q = s->quantizer;
  if (x == NULL) return NULL;
  const int n = q->level_count(s);
  qnet_value *operands[] = {x, read_symbol(b, s->name, "threshold", QNET_F32, s->channels, n - 1),
                            read_symbol(b, s->name, "level", QNET_F32, s->channels, n),
                            read_symbol(b, s->name, "perm", QNET_U8, s->channels, n)};
  const qnet_type *results[] = {x->type, qnet_type_tensor(m, QNET_U8, x->type->rank, x->type->dim)};
  qnet_op *op = qnet_build(b, QNET_OP_QUANTIZE, operands, 4, results, 2);
  if (op == NULL) return NULL;
  const bool weight = s->role == QNET_ROLE_WEIGHT;
  qnet_op_set_int(m, op, "axis", weight && !q->per_layer ? 0 : -1);
  qnet_op_set_int(m, op, "bits", s->bits);
  qnet_op_set_string(m, op, "quantizer", q->name);
  qnet_op_set_string(m, op, "site", s->name);
  qnet_op_set_string(m, op, "role", weight ? "weight" : "activation");
  qnet_op_set_int(m, op, "grid", s->grid);
  if (s->planes > 0) qnet_op_set_int(m, op, "planes", s->planes);
  if (weight) qnet_op_set_int(m, op, "fan", s->fan);
  if (s->is_signed) qnet_op_set_int(m, op, "signed", 1);
  if (code != NULL) *code = qnet_op_result(op, 1);
  return qnet_op_result(op, 0);
}

qnet_value *qnet_quantizer_emit_straight_through(qnet_builder *b, const qnet_op *forward,
                                                 qnet_value *dy, const char *mask) {
  const char *role = qnet_op_string(forward, "role");
  if (dy == NULL || (role != NULL && strcmp(role, "weight") == 0)) return dy;
  qnet_value *operands[] = {forward->operand[0], forward->operand[2], dy};
  qnet_value *dx = qnet_build1(b, QNET_OP_QUANTIZE_GRAD, operands, 3, dy->type);
  if (dx == NULL) return NULL;
  qnet_op_set_int(b->module, dx->def, "axis", qnet_op_int(forward, "axis", -1));
  qnet_op_set_string(b->module, dx->def, "mask", mask);
  return dx;
}

/* What reaches all weights of the layer; `cells` is the nn.cell_grad. */
static qnet_value *emit_moments(qnet_builder *b, const qnet_quantizer_site *s, qnet_op *cells) {
  const int64_t n = s->quantizer->cell_count(s);
  qnet_value *operands[] = {&cells->result[0], cells->operand[0], &cells->result[1],
                            &cells->result[2], read_symbol(b, s->name, "share", QNET_F32, 4, n)};
  return qnet_build1(b, QNET_OP_MOMENT_GRAD, operands, 5, cells->result[0].type);
}

qnet_value *qnet_quantizer_emit_cells(qnet_builder *b, const qnet_op *forward, qnet_value *dy) {
  qnet_module *m = b->module;
  const qnet_quantizer_site s = qnet_quantizer_site_of(forward);
  const int64_t n = s.quantizer->cell_count(&s);
  qnet_value *operands[] = {forward->operand[0],
                            read_symbol(b, s.name, "bound", QNET_F32, s.channels, n - 1),
                            read_symbol(b, s.name, "slope", QNET_F32, s.channels, n),
                            read_symbol(b, s.name, "tilt", QNET_F32, s.channels, n), dy};
  const qnet_type *sums = qnet_type_tensor(m, QNET_F64, 2, (const int64_t[]){s.channels, n});
  if (dy == NULL) return NULL;
  qnet_op *op =
      qnet_build(b, QNET_OP_CELL_GRAD, operands, 5, (const qnet_type *[]){dy->type, sums, sums}, 3);
  if (op == NULL) return NULL;
  qnet_op_set_int(m, op, "axis", qnet_op_int(forward, "axis", -1));
  const qnet_symbol *by_dy = site_symbol(m, s.name, "dy", sums, b->loc);
  const qnet_symbol *by_dyx = site_symbol(m, s.name, "dyx", sums, b->loc);
  if (by_dy == NULL || by_dyx == NULL) return NULL;
  qnet_build_write(b, by_dy, qnet_op_result(op, 1));
  qnet_build_write(b, by_dyx, qnet_op_result(op, 2));
  if (s.role != QNET_ROLE_WEIGHT || s.quantizer->moments == NULL) return qnet_op_result(op, 0);
  return emit_moments(b, &s, op);
}

void qnet_quantizer_emit_stats(qnet_builder *b, const qnet_op *forward) {
  qnet_module *m = b->module;
  const int64_t bits = qnet_op_int(forward, "bits", 0);
  const char *site = qnet_op_string(forward, "site");
  const qnet_quantizer_site s = qnet_quantizer_site_of(forward);
  const bool by_channel = s.quantizer->by_channel && s.role == QNET_ROLE_ACTIVATION;
  const int64_t dims[] = {by_channel ? s.inputs : s.channels, (int64_t)1 << bits};
  const qnet_type *types[] = {qnet_type_tensor(m, QNET_I64, 2, dims),
                              qnet_type_tensor(m, QNET_F64, 2, dims)};
  qnet_value *operands[] = {forward->operand[0], &forward->result[1]};
  qnet_op *op = qnet_build(b, QNET_OP_CODE_STATS, operands, 2, types, 2);
  if (op == NULL) return;
  qnet_op_set_int(m, op, "axis", by_channel ? 1 : qnet_op_int(forward, "axis", -1));
  qnet_op_set_int(m, op, "bits", bits);
  const qnet_symbol *count = site_symbol(m, site, "count", types[0], b->loc);
  const qnet_symbol *sum = site_symbol(m, site, "sum", types[1], b->loc);
  if (count == NULL || sum == NULL) return;
  qnet_build_write(b, count, qnet_op_result(op, 0));
  qnet_build_write(b, sum, qnet_op_result(op, 1));
}
