/* insert-quantizers{quantizer=lqnets,weights=2,activations=2,grid=127,planes=0,first=0,last=0}:
 * puts a learned quantizer before the input and the weight of every convolution and dense layer of
 * @eval.
 *
 * weights, activations: bits; 32 leaves that side f32.
 * activation_quantizer: the method of the activations when it is not that of the weights.
 * first, last: what the first and the last layer in program order get: 0 leaves them f32, 8 means
 * 8 bit (quantizer "uniform"), -1 treats them like the others. Layer L gets the sites
 * L.weight_quantizer and L.input_quantizer, each with state symbols SITE.threshold, .level, .perm,
 * .param that hold the quantizer's initial values.
 *
 * Needs level nn, weights that are read from a symbol L.weight. Gives QNET_FACT_QUANTIZERS. */
#include "ir/ops.h"
#include "passes/passes.h"
#include "passes/quantizer_state.h"
#include <string.h>

enum { UNIFORM_BITS = 8, LIKE_OTHERS = -1, MAX_GRID = 127, MAX_PLANE_BITS = 4, MAX_PLANES = 15 };

/* How one layer is to be quantized, by qnet_role; quantizer NULL: that side stays f32. */
typedef struct layer_spec {
  const qnet_quantizer *quantizer[2];
  int bits[2], grid, planes;
} layer_spec;

static bool is_layer(const qnet_op *op) {
  return op->opcode == QNET_OP_CONV2D || op->opcode == QNET_OP_DENSE;
}

/* ---- options ----------------------------------------------------------------------------------*/

/* The quantizer that option `key` names; `otherwise` without the option. */
static qnet_status find_quantizer(const qnet_pass_context *c, const char *key,
                                  const qnet_quantizer *otherwise, const qnet_quantizer **out) {
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  *out = otherwise;
  if (!qnet_pass_option_given(c, key)) return QNET_OK;
  for (size_t i = 0; i < count; i++)
    if (qnet_pass_option_is(c, key, table[i]->name)) {
      *out = table[i];
      return QNET_OK;
    }
  qnet_error(c->diag, QNET_NO_LOC, "insert-quantizers: unknown quantizer in {%s}", c->options);
  for (size_t i = 0; i < count; i++)
    qnet_note(c->diag, QNET_NO_LOC, "known: %s", table[i]->name);
  return QNET_ERROR;
}

static qnet_status check_bits(const qnet_pass_context *c, const qnet_quantizer *q, const char *what,
                              qnet_role role, int64_t bits) {
  const qnet_bit_range range = q->bits[role];
  if (range.max == 0)
    return qnet_error(c->diag, QNET_NO_LOC, "quantizer '%s' is not for %s; name another for them",
                      q->name, what);
  if (bits >= range.min && bits <= range.max) return QNET_OK;
  return qnet_error(c->diag, QNET_NO_LOC,
                    "quantizer '%s' has %d to %d bits, but %lld are wanted for the %s", q->name,
                    range.min, range.max, (long long)bits, what);
}

static qnet_status read_role(const qnet_pass_context *c, qnet_role role, const char *key,
                             layer_spec *out) {
  const int64_t bits = qnet_pass_option_int(c, key, 2);
  if (bits == QNET_F32_BITS) {
    out->quantizer[role] = NULL;
    return QNET_OK;
  }
  QNET_TRY(check_bits(c, out->quantizer[role], key, role, bits));
  out->bits[role] = (int)bits;
  return QNET_OK;
}

/* planes = K, no fewer than the bits, for those of the two methods that take it. */
static qnet_status read_planes(const qnet_pass_context *c, layer_spec *out) {
  const int64_t planes = qnet_pass_option_int(c, "planes", 0);
  int bits = 0;
  if (planes == 0) return QNET_OK;
  for (int role = 0; role < 2; role++)
    if (out->quantizer[role]->takes_planes && out->bits[role] > bits) bits = out->bits[role];
  if (bits == 0)
    return qnet_error(c->diag, QNET_NO_LOC, "'%s' takes no number of planes; lcq does",
                      out->quantizer[0]->name);
  if (bits > MAX_PLANE_BITS || planes < bits || planes > MAX_PLANES)
    return qnet_error(c->diag, QNET_NO_LOC,
                      "planes = %lld with %d bits; planes are for up to %d bits, and from as many "
                      "as bits to %d",
                      (long long)planes, bits, MAX_PLANE_BITS, MAX_PLANES);
  out->planes = (int)planes;
  return QNET_OK;
}

static qnet_status read_spec(const qnet_pass_context *c, layer_spec *out) {
  const qnet_quantizer **q = out->quantizer;
  QNET_TRY(find_quantizer(c, "quantizer", &qnet_quantizer_lqnets, &q[QNET_ROLE_WEIGHT]));
  QNET_TRY(
      find_quantizer(c, "activation_quantizer", q[QNET_ROLE_WEIGHT], &q[QNET_ROLE_ACTIVATION]));
  QNET_TRY(read_role(c, QNET_ROLE_WEIGHT, "weights", out));
  QNET_TRY(read_role(c, QNET_ROLE_ACTIVATION, "activations", out));
  const int64_t grid = qnet_pass_option_int(c, "grid", MAX_GRID);
  if (grid < 15 || grid > MAX_GRID)
    return qnet_error(c->diag, QNET_NO_LOC, "insert-quantizers: grid = %lld is not in 15..127",
                      (long long)grid);
  out->grid = (int)grid;
  return read_planes(c, out);
}

/* What the policy option `key` (first, last) makes of the others' spec. */
static qnet_status edge_spec(const qnet_pass_context *c, const char *key, const layer_spec *others,
                             layer_spec *out) {
  const int64_t policy = qnet_pass_option_int(c, key, 0);
  *out = *others;
  if (policy == LIKE_OTHERS) return QNET_OK;
  if (policy == 0)
    out->quantizer[0] = out->quantizer[1] = NULL;
  else if (policy == UNIFORM_BITS)
    *out = (layer_spec){{&qnet_quantizer_uniform, &qnet_quantizer_uniform},
                        {UNIFORM_BITS, UNIFORM_BITS},
                        MAX_GRID,
                        0};
  else
    return qnet_error(c->diag, QNET_NO_LOC,
                      "insert-quantizers: %s = %lld; it is 0 (f32), 8 (8 bit) or -1 (like the "
                      "other layers)",
                      key, (long long)policy);
  return QNET_OK;
}

/* ---- one layer --------------------------------------------------------------------------------*/

/* Can no element be negative? Follows the operations that keep signs. */
static bool is_non_negative(const qnet_value *v) {
  while (v->def != NULL) {
    switch (v->def->opcode) {
    case QNET_OP_RELU: return true;
    case QNET_OP_MAX_POOL2D:
    case QNET_OP_AVG_POOL2D:
    case QNET_OP_GLOBAL_AVG_POOL:
    case QNET_OP_FLATTEN: v = v->def->operand[0]; break;
    default: return false;
    }
  }
  return false;
}

/* "conv1" of a layer whose weight is read from @conv1.weight; NULL otherwise. */
static const char *layer_name(qnet_module *m, const qnet_op *op) {
  static const char suffix[] = ".weight";
  const qnet_op *read = op->operand[1]->def;
  const char *symbol = read != NULL ? qnet_op_string(read, "sym") : NULL;
  const size_t length = symbol != NULL ? strlen(symbol) : 0;
  if (length < sizeof suffix || strcmp(symbol + length - (sizeof suffix - 1), suffix) != 0)
    return NULL;
  return qnet_arena_strndup(&m->arena, symbol, length - (sizeof suffix - 1));
}

static int planes_of(const layer_spec *spec, qnet_role role) {
  const qnet_quantizer *q = spec->quantizer[role];
  return q != NULL && q->takes_planes ? spec->planes : 0;
}

static qnet_status quantize_operand(qnet_module *m, const qnet_pass_context *c, qnet_op *op,
                                    int index, const qnet_quantizer_site *site) {
  const qnet_quantizer *q = site->quantizer;
  qnet_builder b = qnet_builder_before(m, op);
  b.loc = op->loc;
  qnet_value *y = q->emit_forward(&b, site, op->operand[index], NULL);
  if (y == NULL || m->failed) return qnet_out_of_memory(c->diag);
  qnet_op_set_operand(m, op, index, y);
  QNET_TRY(qnet_quantizer_state_init(m, q, site, c->allocator, c->diag));
  return qnet_quantizer_state_start(m, y->def, c->allocator, c->diag);
}

/* Of a site with the quantizer of that role in the layer's spec; name NULL: out of memory. */
static qnet_quantizer_site new_site(qnet_module *m, const layer_spec *spec, qnet_role role,
                                    const char *layer) {
  static const char *const inputs[] = {"weight", "input"};
  return (qnet_quantizer_site){
      .quantizer = spec->quantizer[role],
      .name = qnet_arena_printf(&m->arena, "%s.%s_quantizer", layer, inputs[role]),
      .role = role,
      .bits = spec->bits[role],
      .channels = 1,
      .grid = spec->grid,
      .planes = planes_of(spec, role)};
}

static qnet_status check_new(qnet_module *m, const qnet_pass_context *c, const qnet_op *op,
                             const qnet_quantizer_site *site, const char *layer) {
  const char *level = site->name ? qnet_arena_printf(&m->arena, "%s.level", site->name) : NULL;
  if (level == NULL) return qnet_out_of_memory(c->diag);
  if (qnet_symbol_find(m, level) == NULL) return QNET_OK;
  return qnet_error(c->diag, op->loc, "layer '%s' has quantizers already", layer);
}

static qnet_status quantize_input(qnet_module *m, const qnet_pass_context *c, qnet_op *op,
                                  const layer_spec *spec, const char *layer) {
  qnet_quantizer_site site = new_site(m, spec, QNET_ROLE_ACTIVATION, layer);
  if (site.quantizer == NULL) return QNET_OK;
  QNET_TRY(check_new(m, c, op, &site, layer));
  site.is_signed = !is_non_negative(op->operand[0]);
  if (site.is_signed && !site.quantizer->takes_negative) {
    qnet_warning(c->diag, op->loc,
                 "the input of '%s' may be negative; '%s' makes negative values 0", layer,
                 site.quantizer->name);
    qnet_note(c->diag, op->loc, "put relu before this layer, or keep it at f32 or 8 bits");
    site.is_signed = false;
  }
  return quantize_operand(m, c, op, 0, &site);
}

static qnet_status quantize_weight(qnet_module *m, const qnet_pass_context *c, qnet_op *op,
                                   const layer_spec *spec, const char *layer) {
  qnet_quantizer_site site = new_site(m, spec, QNET_ROLE_WEIGHT, layer);
  if (site.quantizer == NULL) return QNET_OK;
  QNET_TRY(check_new(m, c, op, &site, layer));
  const qnet_type *w = op->operand[1]->type;
  if (!site.quantizer->per_layer) site.channels = (int)w->dim[0];
  site.fan = w->rank == 4 ? w->dim[0] * w->dim[1] * w->dim[2] : w->dim[0];
  return quantize_operand(m, c, op, 1, &site);
}

static qnet_status quantize_layer(qnet_module *m, const qnet_pass_context *c, qnet_op *op,
                                  const layer_spec *spec) {
  if (spec->quantizer[0] == NULL && spec->quantizer[1] == NULL) return QNET_OK;
  const char *name = layer_name(m, op);
  if (name == NULL)
    return m->failed ? qnet_out_of_memory(c->diag)
                     : qnet_error(c->diag, op->loc,
                                  "this layer's weight is not read from a symbol '@NAME.weight', "
                                  "so that its quantizer has no name");
  QNET_TRY(quantize_input(m, c, op, spec, name));
  return quantize_weight(m, c, op, spec, name);
}

qnet_status qnet_pass_insert_quantizers(qnet_module *m, const qnet_pass_context *c) {
  layer_spec others, first, last;
  QNET_TRY(read_spec(c, &others));
  QNET_TRY(edge_spec(c, "first", &others, &first));
  QNET_TRY(edge_spec(c, "last", &others, &last));
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC)
    return qnet_error(c->diag, QNET_NO_LOC, "insert-quantizers: the module has no function @eval");
  const qnet_op *last_layer = NULL;
  for (const qnet_op *op = eval->body->first; op != NULL; op = op->next)
    if (is_layer(op)) last_layer = op;
  bool seen = false;
  for (qnet_op *op = eval->body->first; op != NULL; op = op->next) {
    if (!is_layer(op)) continue;
    const layer_spec *spec = !seen ? &first : op == last_layer ? &last : &others;
    seen = true;
    QNET_TRY(quantize_layer(m, c, op, spec));
  }
  return QNET_OK;
}
