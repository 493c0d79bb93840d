/* Convolutions and dense layers by multiplication: f32 (fma in ascending kernel row, column, input
 * channel from +0, docs/numbers.md) and int8 levels of 5..8 bits (exact in i32). Lanes are output
 * channels; a step is one input channel of one tap. */
#include "passes/loop/lower.h"
#include <string.h>

typedef struct product {
  const qnet_op *op;
  const qnet_layout *in;
  bool levels;
  int64_t steps;      /* of a window */
  qnet_value *weight; /* buf<rows x lanes>: [tile][step][vector] */
  qnet_value *bias;   /* buf<channels padded> or NULL */
} product;

qnet_window qnet_conv_window(const qnet_op *root) {
  if (root->opcode != QNET_OP_DENSE && root->opcode != QNET_OP_QUANT_DENSE)
    return qnet_op_window(root);
  return (qnet_window){
      .kernel_h = 1, .kernel_w = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1};
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Row of channel o's vector at step s. */
static int64_t packed_row(const qnet_nest *n, int64_t steps, int64_t o, int64_t s) {
  const int64_t vector = o / n->lanes, first = vector / n->vectors * n->vectors;
  const int64_t left = (n->c + n->lanes - 1) / n->lanes - first;
  const int64_t vectors = left < n->vectors ? left : n->vectors;
  return first * steps + s * vectors + (vector - first);
}

static void pack_f32(const qnet_nest *n, const product *p, const float *from, float *to) {
  for (int64_t o = 0; o < n->c; o++)
    for (int64_t s = 0; s < p->steps; s++)
      to[packed_row(n, p->steps, o, s) * n->lanes + o % n->lanes] = from[o * p->steps + s];
}

static void pack_levels(const qnet_nest *n, const product *p, const qnet_table *t,
                        const uint8_t *from, int8_t *to) {
  for (int64_t o = 0; o < n->c; o++) {
    const int32_t *level = t->level + (t->channels == 1 ? 0 : o * t->codes);
    for (int64_t s = 0; s < p->steps; s++)
      to[packed_row(n, p->steps, o, s) * n->lanes + o % n->lanes] =
          (int8_t)level[from[o * p->steps + s]];
  }
}

static qnet_status pack_weights(qnet_nest *n, product *p) {
  qnet_lower *lw = n->lw;
  qnet_symbol *s;
  QNET_TRY(qnet_kernel_const(lw, n->kernel, p->op->operand[1], &s));
  const int64_t dim[] = {(n->c + n->lanes - 1) / n->lanes * p->steps, n->lanes};
  const qnet_type *type = qnet_type_buffer(lw->m, p->in->dtype, 2, dim);
  void *content = qnet_pack_content(lw, type);
  if (!content) return qnet_out_of_memory(lw->d);
  if (p->levels) {
    const qnet_symbol *table = qnet_symbol_find(lw->m, s->type->table);
    if (!table || !table->table)
      return qnet_error(lw->d, p->op->loc, "the level table @%s of the weights is not there",
                        s->type->table);
    pack_levels(n, p, table->table, s->blob->data, content);
  } else {
    pack_f32(n, p, s->blob->data, content);
  }
  return qnet_pack_const(lw, s->name, "packed", type, content, &p->weight);
}

static qnet_status pack_bias(qnet_nest *n, product *p) {
  if (p->levels || p->op->operand_count < 3) return QNET_OK;
  qnet_symbol *s;
  QNET_TRY(qnet_kernel_const(n->lw, n->kernel, p->op->operand[2], &s));
  return qnet_pack_channels(n->lw, s, &p->bias);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static qnet_value *load_weight(const qnet_reduction *r, const qnet_step *s, int v) {
  const product *p = r->data;
  qnet_lb *lb = r->n->lb;
  qnet_value *tile = qnet_lb_mul_index(lb, r->at->vector, p->steps);
  qnet_value *row = qnet_lb_add(lb, tile, qnet_lb_mul_index(lb, s->number, r->at->vectors));
  qnet_value *w = qnet_lb_load(lb, qnet_lb_type(lb, p->in->dtype, r->n->lanes), p->weight,
                               qnet_lb_add_index(lb, row, v), qnet_lb_index(lb, 0), NULL);
  return p->levels ? qnet_lb_cast(lb, "sext", QNET_I32, w) : w;
}

static qnet_value *load_activation(const qnet_reduction *r, const qnet_step *s, int m) {
  const product *p = r->data;
  qnet_lb *lb = r->n->lb;
  qnet_value *a = qnet_lb_load(lb, qnet_lb_type(lb, p->in->dtype, 1), p->in->buffer, s->row,
                               qnet_reduce_column(r, s, m), NULL);
  if (p->levels) a = qnet_lb_cast(lb, "sext", QNET_I32, a);
  return qnet_lb_splat(lb, a, r->n->lanes);
}

static qnet_value *multiply_add(qnet_lb *lb, const product *p, qnet_value *a, qnet_value *w,
                                qnet_value *acc) {
  if (!p->levels) return qnet_lb_fma(lb, a, w, acc);
  return qnet_lb_add(lb, acc, qnet_lb_binary(lb, QNET_OP_LOOP_MUL, a, w));
}

static void multiply_steps(const qnet_reduction *r, const qnet_step *step, int count,
                           qnet_value **acc) {
  qnet_lb *lb = r->n->lb;
  const int vectors = r->at->vectors;
  qnet_value **weight = qnet_arena_array(lb->scratch, (size_t)vectors, sizeof(qnet_value *));
  if (!weight) {
    lb->m->failed = true;
    return;
  }
  for (int s = 0; s < count; s++) {
    for (int v = 0; v < vectors; v++)
      weight[v] = load_weight(r, &step[s], v);
    for (int m = 0; m < r->at->pixels; m++) {
      qnet_value *a = load_activation(r, &step[s], m);
      for (int v = 0; v < vectors; v++) {
        qnet_value **to = &acc[m * vectors + v];
        *to = multiply_add(lb, r->data, a, weight[v], *to);
      }
    }
  }
}

static void add_bias(qnet_nest *n, const qnet_tile_at *at, const product *p, qnet_value **reg) {
  qnet_lb *lb = n->lb;
  qnet_value *channel = qnet_lb_mul_index(lb, at->vector, n->lanes);
  for (int v = 0; v < at->vectors; v++) {
    qnet_value *bias = qnet_lb_load(lb, qnet_lb_type(lb, QNET_F32, n->lanes), p->bias,
                                    qnet_lb_add_index(lb, channel, v * n->lanes), NULL, NULL);
    for (int m = 0; m < at->pixels; m++) {
      qnet_value **to = &reg[m * at->vectors + v];
      *to = qnet_lb_binary(lb, QNET_OP_LOOP_FADD, *to, bias);
    }
  }
}

static qnet_status emit_root(qnet_nest *n, const qnet_tile_at *at, qnet_value **reg) {
  const product *p = n->root_data;
  qnet_lb *lb = n->lb;
  const int count = at->pixels * at->vectors;
  const qnet_type *type = qnet_lb_type(lb, p->levels ? QNET_I32 : QNET_F32, n->lanes);
  for (int i = 0; i < count; i++)
    reg[i] = p->levels ? qnet_lb_int(lb, type, 0) : qnet_lb_float(lb, type, 0);
  const qnet_reduction r = {.n = n,
                            .at = at,
                            .in = p->in,
                            .window = qnet_conv_window(p->op),
                            .unit = p->in->c,
                            .skip_rows = p->levels, /* f32: 0 * w counts, were it not finite */
                            .products = count,
                            .group = 1,
                            .emit = multiply_steps,
                            .accumulators = count,
                            .data = p};
  qnet_reduce(&r, reg);
  if (p->bias) add_bias(n, at, p, reg);
  return QNET_OK;
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* Why a quantized layer stays on int8 levels. */
static const char *why_levels(const qnet_type *weight, const qnet_type *input) {
  const bool few_bits = weight->bits <= 4 && input->bits <= 4;
  return few_bits ? "its codes do not come from a quantizer"
                  : "a table has 5 to 8 bits: that many planes are dearer";
}

/* Why a layer is computed in f32: the end of "f32, as ...". */
static void why_f32(const qnet_op *op, char *text, size_t size) {
  const qnet_attr *bits = qnet_op_attr(op, "bits");
  const int weights = bits && bits->count == 2 ? (int)bits->ints[0] : QNET_F32_BITS;
  const int activations = bits && bits->count == 2 ? (int)bits->ints[1] : QNET_F32_BITS;
  if (weights < QNET_F32_BITS)
    snprintf(text, size, "its activations are f32 (weights of %d bits, decoded)", weights);
  else if (activations < QNET_F32_BITS)
    snprintf(text, size, "its weights are f32 (activations of %d bits)", activations);
  else
    snprintf(text, size, "the layer is not quantized");
}

static void remark(const qnet_nest *n, const product *p) {
  const qnet_lower *lw = n->lw;
  const char *slow = p->levels || lw->machine->fma
                         ? ""
                         : "; slow: this CPU has no fused multiply-add, a function computes it";
  char why[80];
  why_f32(p->op, why, sizeof why);
  if (p->levels)
    qnet_remark(lw->d, p->op->loc,
                "int8 levels multiplied in 32 bits, as %s; tile of %d pixels x %d vectors of %d "
                "channels",
                why_levels(p->op->operand[1]->type, p->in->type), n->pixels, n->vectors,
                (int)n->lanes);
  else
    qnet_remark(lw->d, p->op->loc, "f32, as %s; tile of %d pixels x %d vectors of %d channels%s",
                why, n->pixels, n->vectors, (int)n->lanes, slow);
}

qnet_status qnet_lower_conv_product(qnet_lower *lw, const qnet_op *kernel) {
  const qnet_op *op = qnet_kernel_root(kernel);
  const qnet_type *weight = op->operand[1]->type;
  product p = {.op = op, .in = qnet_layout_of(lw, kernel, op->operand[0])};
  p.levels = weight->dtype == QNET_CODE;
  p.steps = qnet_type_elements(weight) / weight->dim[0];
  qnet_nest n = {.lw = lw,
                 .lb = &lw->lb,
                 .kernel = kernel,
                 .root = op,
                 .root_data = &p,
                 .emit_root = emit_root,
                 .lanes = lw->machine->f32_lanes};
  qnet_type_hwc(op->result[0].type, &n.h, &n.w, &n.c);
  qnet_machine plain = *lw->machine; /* its measured tiles are for popcounts */
  plain.tile[0].weight_planes = 0;
  qnet_nest_fit_tile(&n, &plain, 1, 1);
  QNET_TRY(pack_weights(&n, &p));
  QNET_TRY(pack_bias(&n, &p));
  remark(&n, &p);
  return qnet_nest_run(&n);
}
