/* insert-quantizers{quantizer=lqnets,weights=2,activations=2,grid=127,planes=0,first=0,last=0}:
 * puts a learned quantizer before the input and the weight of every convolution and dense layer of
 * @eval.
 *
 * quantizer: of all layers that do not name their own; none: of none.
 * weights, activations: bits; 32 leaves that side f32.
 * activation_quantizer: the method of the activations when it is not that of the weights.
 * first, last: what the first and the last layer (layer_order.h) get: 0 leaves them f32, 8 means
 * 8 bit (quantizer "uniform"), -1 treats them like the others. Layer L gets the sites
 * L.weight_quantizer and L.input_quantizer, each with state symbols SITE.threshold, .level, .perm,
 * .param that hold the quantizer's initial values.
 *
 * A layer with attributes quantizer, bits, grid, planes of its own follows them, whatever the
 * options say, but for `least`: a side with fewer bits gets so many, and free planes.
 *
 * Needs level nn, weights that are read from a symbol L.weight. Gives QNET_FACT_QUANTIZERS. */
#include "ir/ops.h"
#include "passes/layer_order.h"
#include "passes/passes.h"
#include "passes/quantizer_state.h"
#include <string.h>

enum {
  UNIFORM_BITS = 8,
  LIKE_OTHERS = -1,
  MAX_GRID = 127,
  MAX_PLANE_BITS = 4,
  MAX_PLANES = 15,
  MAX_SUMS = 8
};

/* How one layer is to be quantized, by qnet_role; quantizer NULL: that side stays f32. */
typedef struct layer_spec {
  const qnet_quantizer *quantizer[2];
  int bits[2], grid, planes;
} layer_spec;

/* ---- specifications ---------------------------------------------------------------------------*/

static qnet_status unknown_quantizer(const qnet_pass_context *c, qnet_loc loc, const char *name,
                                     size_t length) {
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  qnet_error(c->diag, loc, "insert-quantizers: unknown quantizer '%.*s'", (int)length, name);
  for (size_t i = 0; i < count; i++)
    qnet_note(c->diag, QNET_NO_LOC, "known: %s", table[i]->name);
  return QNET_ERROR;
}

/* The quantizer of that name; NULL for "none". */
static qnet_status find_quantizer(const qnet_pass_context *c, qnet_loc loc, const char *name,
                                  size_t length, const qnet_quantizer **out) {
  size_t count;
  const qnet_quantizer *const *table = qnet_quantizer_table(&count);
  *out = NULL;
  if (length == 4 && memcmp(name, "none", 4) == 0) return QNET_OK;
  for (size_t i = 0; i < count && *out == NULL; i++)
    if (strlen(table[i]->name) == length && memcmp(table[i]->name, name, length) == 0)
      *out = table[i];
  return *out != NULL ? QNET_OK : unknown_quantizer(c, loc, name, length);
}

/* Gives a side its bits; f32 ones take its quantizer away. */
static qnet_status set_bits(const qnet_pass_context *c, qnet_loc loc, layer_spec *s, qnet_role role,
                            int64_t bits) {
  static const char *const sides[] = {"weights", "activations"};
  const qnet_quantizer *q = s->quantizer[role];
  s->bits[role] = (int)bits;
  if (bits == QNET_F32_BITS) s->quantizer[role] = NULL;
  if (bits == QNET_F32_BITS || q == NULL) return QNET_OK;
  const qnet_bit_range range = q->bits[role];
  if (range.max == 0)
    return qnet_error(c->diag, loc, "quantizer '%s' is not for %s; name another for them", q->name,
                      sides[role]);
  if (bits >= range.min && bits <= range.max) return QNET_OK;
  return qnet_error(c->diag, loc,
                    "quantizer '%s' has %d to %d bits, but %lld are wanted for the %s", q->name,
                    range.min, range.max, (long long)bits, sides[role]);
}

static qnet_status set_grid(const qnet_pass_context *c, qnet_loc loc, layer_spec *s, int64_t grid) {
  if (grid < 15 || grid > MAX_GRID)
    return qnet_error(c->diag, loc, "insert-quantizers: grid = %lld is not in 15..127",
                      (long long)grid);
  s->grid = (int)grid;
  return QNET_OK;
}

/* planes = K, no fewer than the bits, for those of the two methods that take it. */
static qnet_status set_planes(const qnet_pass_context *c, qnet_loc loc, layer_spec *out,
                              int64_t planes) {
  int bits = 0;
  if (planes == 0) return QNET_OK;
  for (int role = 0; role < 2; role++)
    if (out->quantizer[role] != NULL && out->quantizer[role]->takes_planes &&
        out->bits[role] > bits)
      bits = out->bits[role];
  const qnet_quantizer *any = out->quantizer[out->quantizer[0] == NULL];
  const char *name = any != NULL ? any->name : "none";
  if (bits == 0) return qnet_error(c->diag, loc, "'%s' takes no number of planes; lcq does", name);
  if (bits > MAX_PLANE_BITS || planes < bits || planes > MAX_PLANES)
    return qnet_error(c->diag, loc,
                      "planes = %lld with %d bits; planes are for up to %d bits, and from as many "
                      "as bits to %d",
                      (long long)planes, bits, MAX_PLANE_BITS, MAX_PLANES);
  out->planes = (int)planes;
  return QNET_OK;
}

/* "METHOD" or "WEIGHTS/ACTIVATIONS". */
static qnet_status set_quantizers(const qnet_pass_context *c, qnet_loc loc, layer_spec *s,
                                  const char *names) {
  const char *slash = strchr(names, '/');
  const char *second = slash ? slash + 1 : names;
  const size_t length = slash ? (size_t)(slash - names) : strlen(names);
  QNET_TRY(find_quantizer(c, loc, names, length, &s->quantizer[QNET_ROLE_WEIGHT]));
  return find_quantizer(c, loc, second, strlen(second), &s->quantizer[QNET_ROLE_ACTIVATION]);
}

/* Option `key`, a name that pass options hold up to the next comma. */
static qnet_status option_quantizer(const qnet_pass_context *c, const char *key,
                                    const qnet_quantizer *otherwise, const qnet_quantizer **out) {
  size_t length;
  const char *name = qnet_pass_option_word(c, key, &length);
  *out = otherwise;
  return name != NULL ? find_quantizer(c, QNET_NO_LOC, name, length, out) : QNET_OK;
}

/* What the pass's options say of all layers. */
static qnet_status read_options(const qnet_pass_context *c, layer_spec *out) {
  const qnet_quantizer **q = out->quantizer;
  QNET_TRY(option_quantizer(c, "quantizer", &qnet_quantizer_lqnets, &q[QNET_ROLE_WEIGHT]));
  QNET_TRY(
      option_quantizer(c, "activation_quantizer", q[QNET_ROLE_WEIGHT], &q[QNET_ROLE_ACTIVATION]));
  QNET_TRY(set_bits(c, QNET_NO_LOC, out, QNET_ROLE_WEIGHT, qnet_pass_option_int(c, "weights", 2)));
  QNET_TRY(set_bits(c, QNET_NO_LOC, out, QNET_ROLE_ACTIVATION,
                    qnet_pass_option_int(c, "activations", 2)));
  QNET_TRY(set_grid(c, QNET_NO_LOC, out, qnet_pass_option_int(c, "grid", MAX_GRID)));
  return set_planes(c, QNET_NO_LOC, out, qnet_pass_option_int(c, "planes", 0));
}

/* What the layer's own attributes say; false: it has none. */
static bool has_own_spec(const qnet_op *op) {
  return qnet_op_string(op, "quantizer") != NULL;
}

static qnet_status read_own_spec(const qnet_pass_context *c, const qnet_op *op, layer_spec *out) {
  const qnet_attr *bits = qnet_op_attr(op, "bits");
  *out = (layer_spec){.grid = MAX_GRID};
  QNET_TRY(set_quantizers(c, op->loc, out, qnet_op_string(op, "quantizer")));
  if (bits != NULL && bits->count != 2)
    return qnet_error(c->diag, op->loc, "a layer's bits are two numbers: of weights and inputs");
  const int64_t least = qnet_pass_option_int(c, "least", 0);
  bool raised = false;
  for (int role = 0; role < 2; role++) {
    const int64_t own = bits != NULL ? bits->ints[role] : 2;
    raised = raised || own < least;
    QNET_TRY(set_bits(c, op->loc, out, (qnet_role)role, own < least ? least : own));
  }
  QNET_TRY(set_grid(c, op->loc, out, qnet_op_int(op, "grid", MAX_GRID)));
  return set_planes(c, op->loc, out, raised ? 0 : qnet_op_int(op, "planes", 0));
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

/* Can no element be negative? Follows the operations that keep signs, sums not too deep. */
static bool is_non_negative(const qnet_value *v, int sums) {
  while (v->def != NULL) {
    switch (v->def->opcode) {
    case QNET_OP_RELU: return true;
    case QNET_OP_MAX_POOL2D:
    case QNET_OP_AVG_POOL2D:
    case QNET_OP_GLOBAL_AVG_POOL:
    case QNET_OP_SLICE:
    case QNET_OP_PAD:
    case QNET_OP_FLATTEN: v = v->def->operand[0]; break;
    case QNET_OP_ADD:
      if (sums == 0 || !is_non_negative(v->def->operand[0], sums - 1)) return false;
      v = v->def->operand[1];
      sums--;
      break;
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
  const qnet_quantizer *q = spec->quantizer[role];
  return (qnet_quantizer_site){
      .quantizer = q,
      .name = qnet_arena_printf(&m->arena, "%s.%s_quantizer", layer, inputs[role]),
      .role = role,
      .bits = spec->bits[role],
      .channels = 1,
      .grid = spec->grid,
      .planes = q != NULL && q->takes_planes ? spec->planes : 0};
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
  site.is_signed = !is_non_negative(op->operand[0], MAX_SUMS);
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

/* ---- the pass ---------------------------------------------------------------------------------*/

/* The options' specifications. */
typedef struct policy {
  layer_spec others, first, last;
  qnet_edge_layers edge;
  bool first_given; /* an only layer is the first one then, else the last */
} policy;

static qnet_status read_policy(const qnet_pass_context *c, const qnet_symbol *eval, policy *p) {
  *p = (policy){0};
  QNET_TRY(read_options(c, &p->others));
  QNET_TRY(edge_spec(c, "first", &p->others, &p->first));
  QNET_TRY(edge_spec(c, "last", &p->others, &p->last));
  p->first_given = qnet_pass_option_int(c, "first", 0) != LIKE_OTHERS;
  return qnet_edge_layers_find(eval, c->allocator, &p->edge, c->diag);
}

/* What is said of the layer: by itself, else as the first or last one, else of all. */
static qnet_status spec_of(const qnet_pass_context *c, const policy *p, const qnet_op *op,
                           layer_spec *out) {
  if (has_own_spec(op)) return read_own_spec(c, op, out);
  *out = op == p->edge.last ? p->last : p->others;
  if (op == p->edge.first && (op != p->edge.last || p->first_given)) *out = p->first;
  return QNET_OK;
}

qnet_status qnet_pass_insert_quantizers(qnet_module *m, const qnet_pass_context *c) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC)
    return qnet_error(c->diag, QNET_NO_LOC, "insert-quantizers: the module has no function @eval");
  policy p;
  QNET_TRY(read_policy(c, eval, &p));
  for (qnet_op *op = eval->body->first; op != NULL; op = op->next) {
    layer_spec spec;
    if (!qnet_is_layer(op)) continue;
    QNET_TRY(spec_of(c, &p, op, &spec));
    QNET_TRY(quantize_layer(m, c, op, &spec));
  }
  return QNET_OK;
}
