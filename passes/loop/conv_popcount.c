/* Convolution of bit planes: lanes are output channels, so that nothing is summed across lanes. A
 * step loads the words of its weights as vectors and one word of each activation plane and pixel,
 * splat; each product is counted at once (and, count, next), which keeps few registers alive.
 *
 * Plane pairs that do not fit the registers together are reduced one after the other. Then
 * acc = sum of coefficient * count, exact in int32 modulo 2^32; the pass prove-accumulators has
 * shown that the true sum fits. */
#include "passes/loop/lower.h"
#include "support/strbuf.h"

/* What multiplies a count: a constant for all channels, or a row of the packed coefficients. */
typedef struct factor {
  bool uniform;
  int64_t value;
  int row;
} factor;

typedef struct popcount {
  const qnet_op *op;
  const qnet_layout *in, *patch;
  int weight_planes, activation_planes;
  int64_t unit, steps; /* words a tap; of a window */
  qnet_value *weight;  /* buf<rows x lanes>: [tile][step][plane][vector] */
  qnet_value *coef;    /* buf<rows x channels padded> or NULL */
  factor *pair;        /* [weight plane][activation plane], or [weight plane] when separated */
  int *power;          /* separated: coef[o][i][j] = pair[i] << power[j]; else NULL */
  factor patch_factor;
  int chunk_w, chunk_a; /* planes reduced together */
} popcount;

/* The planes of one reduction. */
typedef struct chunk {
  const popcount *p;
  int first_w, first_a, count_w, count_a;
} chunk;

/* ---- weights --------------------------------------------------------------------------------- */

/* Word u of a plane's row of u64 words. */
static uint64_t word_at(const uint64_t *row, int64_t u, int word_bits) {
  return word_bits == 64 ? row[u] : row[u / 2] >> (32 * (u % 2)) & UINT32_MAX;
}

typedef struct packing {
  const qnet_nest *n;
  const popcount *p;
  const uint64_t *from; /* [O][KH][KW][planes][ceil(I/64)] */
  int64_t words64;
  void *to;
} packing;

/* One channel's words go to its lane of its vector. */
static void pack_channel(const packing *k, int64_t o) {
  const popcount *p = k->p;
  const int bits = k->n->lw->machine->word_bits;
  const int64_t lanes = k->n->lanes, vector = o / lanes, tile = vector / k->n->vectors;
  const int64_t first = tile * k->n->vectors, all = (k->n->c + lanes - 1) / lanes;
  const int64_t vectors = all - first < k->n->vectors ? all - first : k->n->vectors;
  for (int64_t s = 0; s < p->steps; s++) {
    const int64_t tap = o * (p->steps / p->unit) + s / p->unit, u = s % p->unit;
    for (int i = 0; i < p->weight_planes; i++) {
      const uint64_t *row = k->from + (tap * p->weight_planes + i) * k->words64;
      const int64_t to = first * p->steps * p->weight_planes +
                         (s * p->weight_planes + i) * vectors + (vector - first);
      const uint64_t word = word_at(row, u, bits);
      if (bits == 64) {
        ((uint64_t *)k->to)[to * lanes + o % lanes] = word;
      } else {
        ((uint32_t *)k->to)[to * lanes + o % lanes] = (uint32_t)word;
      }
    }
  }
}

static qnet_status pack_weights(qnet_nest *n, popcount *p) {
  qnet_lower *lw = n->lw;
  qnet_symbol *s;
  QNET_TRY(qnet_kernel_const(lw, n->kernel, p->op->operand[1], &s));
  const int64_t vectors = (n->c + n->lanes - 1) / n->lanes;
  const int64_t dim[] = {vectors * p->steps * p->weight_planes, n->lanes};
  const qnet_type *type = qnet_type_buffer(lw->m, p->in->dtype, 2, dim);
  const packing k = {n, p, s->blob->data, (p->in->c + 63) / 64, qnet_pack_content(lw, type)};
  if (!k.to) return qnet_out_of_memory(lw->d);
  for (int64_t o = 0; o < n->c; o++)
    pack_channel(&k, o);
  return qnet_pack_const(lw, s->name, "packed", type, k.to, &p->weight);
}

/* ---- coefficients ---------------------------------------------------------------------------- */

static int64_t divisor(int64_t a, int64_t b) {
  while (b) {
    const int64_t r = a % b;
    a = b;
    b = r;
  }
  return a < 0 ? -a : a;
}

static int exact_log2(int64_t v) {
  for (int k = 0; k < 31; k++)
    if (v == INT64_C(1) << k) return k;
  return -1;
}

/* The common direction of all rows [channel, weight plane] of coefficients, when it consists of
 * powers of two: as uniform activation tables have it. Fills power. */
static bool find_powers(const int32_t *coef, int64_t rows, int columns, int *power) {
  const int32_t *first = NULL;
  int64_t g = 0;
  for (int64_t r = 0; r < rows && !first; r++) {
    for (int j = 0; j < columns; j++)
      g = divisor(g, coef[r * columns + j]);
    if (g) first = coef + r * columns;
  }
  if (!first) return false;
  if (first[0] < 0) g = -g;
  for (int j = 0; j < columns; j++)
    if ((power[j] = exact_log2(first[j] / g)) < 0) return false;
  /* power[0] may exceed others; a row is then p << power[j] with p = row[0] >> power[0]. */
  for (int64_t r = 0; r < rows; r++)
    for (int j = 0; j < columns; j++)
      if (coef[r * columns + j] * (INT64_C(1) << power[0]) !=
          coef[r * columns] * (INT64_C(1) << power[j]))
        return false;
  return true;
}

typedef struct coefficients {
  int32_t *to; /* rows of padded channels */
  int64_t channels, stride;
  int rows;
} coefficients;

/* A factor from one value a channel. */
static factor make_factor(coefficients *k, const int32_t *value, int64_t stride, int shift) {
  bool uniform = true;
  for (int64_t o = 1; o < k->channels; o++)
    uniform &= value[o * stride] == value[0];
  if (uniform) return (factor){.uniform = true, .value = value[0] >> shift};
  for (int64_t o = 0; o < k->channels; o++)
    k->to[k->rows * k->stride + o] = value[o * stride] >> shift;
  return (factor){.row = k->rows++};
}

static void make_factors(popcount *p, coefficients *k, const int32_t *coef, const int32_t *v) {
  const int pairs = p->weight_planes * p->activation_planes;
  if (p->power) {
    for (int i = 0; i < p->weight_planes; i++)
      p->pair[i] = make_factor(k, coef + i * p->activation_planes, pairs, p->power[0]);
  } else {
    for (int i = 0; i < pairs; i++)
      p->pair[i] = make_factor(k, coef + i, pairs, 0);
  }
  if (v) p->patch_factor = make_factor(k, v, 1, 0);
}

static qnet_status pack_coefficients(qnet_nest *n, popcount *p) {
  qnet_lower *lw = n->lw;
  const int pairs = p->weight_planes * p->activation_planes;
  qnet_symbol *coef, *v = NULL;
  QNET_TRY(qnet_kernel_const(lw, n->kernel, p->op->operand[2], &coef));
  if (p->patch) QNET_TRY(qnet_kernel_const(lw, n->kernel, p->op->operand[4], &v));
  coefficients k = {.channels = n->c, .stride = (n->c + lw->pad - 1) / lw->pad * lw->pad};
  k.to = qnet_arena_array(&lw->scratch, (size_t)(pairs + 1), (size_t)k.stride * sizeof *k.to);
  p->pair = qnet_arena_array(&lw->scratch, (size_t)pairs, sizeof *p->pair);
  p->power = qnet_arena_array(&lw->scratch, (size_t)p->activation_planes, sizeof *p->power);
  if (!k.to || !p->pair || !p->power) return qnet_out_of_memory(lw->d);
  const int64_t rows = n->c * p->weight_planes;
  if (!find_powers(coef->blob->data, rows, p->activation_planes, p->power)) p->power = NULL;
  make_factors(p, &k, coef->blob->data, v ? v->blob->data : NULL);
  if (!k.rows) return QNET_OK;
  const int64_t dim[] = {k.rows, k.stride};
  return qnet_pack_const(lw, coef->name, "lanes", qnet_type_buffer(lw->m, QNET_I32, 2, dim), k.to,
                         &p->coef);
}

/* ---- counting -------------------------------------------------------------------------------- */

/* weight[i * vectors + v] of a step. */
static void load_weights(const qnet_reduction *r, const qnet_step *s, qnet_value **weight) {
  const chunk *c = r->data;
  qnet_lb *lb = r->n->lb;
  const int vectors = r->at->vectors;
  const int64_t rows = (int64_t)c->p->weight_planes * vectors;
  const qnet_type *type = qnet_lb_type(lb, c->p->in->dtype, r->n->lanes);
  qnet_value *tile = qnet_lb_mul_index(lb, r->at->vector, c->p->steps * c->p->weight_planes);
  qnet_value *row = qnet_lb_add(lb, tile, qnet_lb_mul_index(lb, s->number, rows));
  for (int i = 0; i < c->count_w * vectors; i++)
    weight[i] =
        qnet_lb_load(lb, type, c->p->weight, qnet_lb_add_index(lb, row, c->first_w * vectors + i),
                     qnet_lb_index(lb, 0), NULL);
}

static qnet_value *load_activation(const qnet_reduction *r, const qnet_step *s, int m, int j) {
  const chunk *c = r->data;
  qnet_lb *lb = r->n->lb;
  qnet_value *word =
      qnet_lb_load(lb, qnet_lb_type(lb, c->p->in->dtype, 1), c->p->in->buffer, s->row,
                   qnet_reduce_column(r, s, m), qnet_lb_index(lb, c->first_a + j));
  return qnet_lb_splat(lb, word, r->n->lanes);
}

/* Number of the accumulator of pixel m, plane pair (i, j), vector v. */
static int accumulator(const chunk *c, int vectors, int m, int i, int j, int v) {
  return ((m * c->count_a + j) * c->count_w + i) * vectors + v;
}

static void count_steps(const qnet_reduction *r, const qnet_step *step, int count,
                        qnet_value **acc) {
  const chunk *c = r->data;
  qnet_lb *lb = r->n->lb;
  const int vectors = r->at->vectors;
  qnet_value **weight =
      qnet_arena_array(lb->scratch, (size_t)(c->count_w * vectors), sizeof(qnet_value *));
  if (!weight) {
    lb->m->failed = true;
    return;
  }
  for (int s = 0; s < count; s++) {
    load_weights(r, &step[s], weight);
    for (int m = 0; m < r->at->pixels; m++)
      for (int j = 0; j < c->count_a; j++) {
        qnet_value *a = load_activation(r, &step[s], m, j);
        for (int i = 0; i < c->count_w * vectors; i++) {
          qnet_value **to = &acc[accumulator(c, vectors, m, 0, j, 0) + i];
          qnet_value *product = qnet_lb_binary(lb, QNET_OP_LOOP_AND, a, weight[i]);
          *to = qnet_lb_binary(lb, QNET_OP_LOOP_POP_ACC, *to, product);
        }
      }
  }
}

/* ---- counting by carry-save adders ----------------------------------------------------------- */

enum { CSA_WORDS = 8, CSA_STATE = 4 }; /* state of a pair: ones, twos, fours, count */

/* *low + x + y = *low + 2 * result, bit by bit. */
static qnet_value *carry_save(qnet_lb *lb, qnet_value **low, qnet_value *x, qnet_value *y) {
  qnet_value *half = qnet_lb_binary(lb, QNET_OP_LOOP_XOR, *low, x);
  qnet_value *both = qnet_lb_binary(lb, QNET_OP_LOOP_AND, *low, x);
  qnet_value *with = qnet_lb_binary(lb, QNET_OP_LOOP_AND, half, y);
  *low = qnet_lb_binary(lb, QNET_OP_LOOP_XOR, half, y);
  return qnet_lb_binary(lb, QNET_OP_LOOP_OR, both, with);
}

/* count += popcount(x) << shift */
static qnet_value *add_count(qnet_lb *lb, qnet_value *count, qnet_value *x, int shift) {
  if (!x) return NULL;
  qnet_value *ones = qnet_lb_unary(lb, QNET_OP_LOOP_POPCNT, x, x->type);
  if (shift) ones = qnet_lb_binary(lb, QNET_OP_LOOP_SHL, ones, qnet_lb_int(lb, x->type, shift));
  return qnet_lb_add(lb, count, ones);
}

static void add_eight(qnet_lb *lb, qnet_value *const *x, qnet_value **state) {
  qnet_value *twos[2], *fours[2];
  for (int h = 0; h < 2; h++) {
    twos[0] = carry_save(lb, &state[0], x[4 * h], x[4 * h + 1]);
    twos[1] = carry_save(lb, &state[0], x[4 * h + 2], x[4 * h + 3]);
    fours[h] = carry_save(lb, &state[1], twos[0], twos[1]);
  }
  state[3] = add_count(lb, state[3], carry_save(lb, &state[2], fours[0], fours[1]), 3);
}

/* acc: the state of the one pair of a tile of one vector. */
static void carry_save_steps(const qnet_reduction *r, const qnet_step *step, int count,
                             qnet_value **acc) {
  qnet_lb *lb = r->n->lb;
  qnet_value *weight, *x[CSA_WORDS];
  for (int s = 0; s < count; s++) {
    load_weights(r, &step[s], &weight);
    x[s] = qnet_lb_binary(lb, QNET_OP_LOOP_AND, load_activation(r, &step[s], 0, 0), weight);
  }
  if (count == 1) {
    acc[3] = add_count(lb, acc[3], x[0], 0);
    return;
  }
  for (int s = count; s < CSA_WORDS; s++) /* LLVM folds the zeros: what is left is a smaller tree */
    x[s] = qnet_lb_int(lb, r->wide, 0);
  add_eight(lb, x, acc);
}

/* ---- one chunk of planes --------------------------------------------------------------------- */

static void set_counting(qnet_reduction *r, qnet_dtype word) {
  const qnet_machine *machine = r->n->lw->machine;
  qnet_lb *lb = r->n->lb;
  const int64_t bits = machine->word_bits * r->n->lanes;
  r->wide = qnet_lb_type(lb, word, r->n->lanes);
  r->emit = count_steps;
  r->group = 1;
  switch (machine->count) {
  case QNET_COUNT_WORD: break;
  case QNET_COUNT_BYTE:
    r->limit = 31;    /* of at most 8 each: 248 */
    r->products *= 4; /* a count is many instructions: unrolling would only spill */
    r->narrow = qnet_lb_type(lb, QNET_I8, bits / 8);
    break;
  case QNET_COUNT_PAIR:
    r->limit = 4095; /* of at most 16 each */
    r->narrow = qnet_lb_type(lb, QNET_I16, bits / 16);
    break;
  case QNET_COUNT_CSA8:
    r->emit = carry_save_steps;
    r->group = CSA_WORDS;
    r->accumulators *= CSA_STATE;
    r->products *= 4;
    break;
  }
}

/* The counts of a chunk as i32: count[accumulator(...)]. */
static qnet_value **count_chunk(qnet_nest *n, const qnet_tile_at *at, const chunk *c) {
  qnet_lb *lb = n->lb;
  const int pairs = at->pixels * at->vectors * c->count_w * c->count_a;
  qnet_reduction r = {.n = n,
                      .at = at,
                      .in = c->p->in,
                      .window = qnet_conv_window(c->p->op),
                      .unit = c->p->unit,
                      .skip_rows = true,
                      .products = pairs,
                      .accumulators = pairs,
                      .data = c};
  set_counting(&r, c->p->in->dtype);
  const int state = r.accumulators / pairs;
  qnet_value **acc = qnet_arena_array(lb->scratch, (size_t)r.accumulators, sizeof(qnet_value *));
  if (!acc) return NULL;
  for (int i = 0; i < r.accumulators; i++)
    acc[i] = qnet_lb_int(lb, r.wide, 0);
  qnet_reduce(&r, acc);
  for (int i = 0; i < pairs; i++) {
    qnet_value *count = acc[i * state + state - 1];
    for (int k = 0; k + 1 < state; k++)
      count = add_count(lb, count, acc[i * state + k], k);
    acc[i] = qnet_lb_cast(lb, "trunc", QNET_I32, count);
  }
  return acc;
}

/* ---- combining ------------------------------------------------------------------------------- */

/* x * factor for the channels of vector v. */
static qnet_value *scale(qnet_nest *n, const qnet_tile_at *at, const popcount *p, qnet_value *x,
                         const factor *f, int v) {
  qnet_lb *lb = n->lb;
  if (!x) return NULL;
  const int power = f->uniform ? exact_log2(f->value) : -1;
  if (power == 0) return x;
  if (power > 0) return qnet_lb_binary(lb, QNET_OP_LOOP_SHL, x, qnet_lb_int(lb, x->type, power));
  qnet_value *by = NULL;
  if (f->uniform) {
    by = qnet_lb_int(lb, x->type, f->value);
  } else {
    qnet_value *channel = qnet_lb_mul_index(lb, at->vector, n->lanes);
    by = qnet_lb_load(lb, x->type, p->coef, qnet_lb_index(lb, f->row),
                      qnet_lb_add_index(lb, channel, v * n->lanes), NULL);
  }
  return qnet_lb_binary(lb, QNET_OP_LOOP_MUL, x, by);
}

static qnet_value *plus(qnet_lb *lb, qnet_value *sum, qnet_value *x) {
  return sum ? qnet_lb_add(lb, sum, x) : x;
}

/* The chunk's share of one register. */
static qnet_value *combine(qnet_nest *n, const qnet_tile_at *at, const chunk *c,
                           qnet_value *const *count, int m, int v) {
  const popcount *p = c->p;
  qnet_lb *lb = n->lb;
  qnet_value *sum = NULL;
  for (int i = 0; i < c->count_w; i++) {
    qnet_value *row = NULL;
    for (int j = 0; j < c->count_a; j++) {
      qnet_value *x = count[accumulator(c, at->vectors, m, i, j, v)];
      const int w = c->first_w + i, a = c->first_a + j;
      const factor shift = {.uniform = true, .value = p->power ? INT64_C(1) << p->power[a] : 1};
      const factor *f = p->power ? &shift : &p->pair[w * p->activation_planes + a];
      row = plus(lb, row, scale(n, at, p, x, f, v));
    }
    if (p->power) row = scale(n, at, p, row, &p->pair[c->first_w + i], v);
    sum = plus(lb, sum, row);
  }
  return sum;
}

static qnet_status emit_chunk(qnet_nest *n, const qnet_tile_at *at, const chunk *c,
                              qnet_value **reg) {
  qnet_value **count = count_chunk(n, at, c);
  if (!count) return qnet_out_of_memory(n->lw->d);
  for (int m = 0; m < at->pixels; m++)
    for (int v = 0; v < at->vectors; v++) {
      qnet_value **to = &reg[m * at->vectors + v];
      *to = plus(n->lb, *to, combine(n, at, c, count, m, v));
    }
  return QNET_OK;
}

/* + v * patch, >> shift */
static void correct(qnet_nest *n, const qnet_tile_at *at, const popcount *p, qnet_value **reg) {
  qnet_lb *lb = n->lb;
  const int64_t shift = qnet_op_int(p->op, "shift", 0);
  for (int m = 0; m < at->pixels; m++) {
    qnet_value *patch = NULL;
    if (p->patch) {
      qnet_value *x = qnet_lb_add_index(lb, at->x, m);
      patch = qnet_lb_load(lb, qnet_lb_type(lb, QNET_I32, 1), p->patch->buffer, at->y, x, NULL);
      patch = qnet_lb_splat(lb, patch, n->lanes);
    }
    for (int v = 0; v < at->vectors; v++) {
      qnet_value **to = &reg[m * at->vectors + v];
      if (patch) *to = plus(lb, *to, scale(n, at, p, patch, &p->patch_factor, v));
      if (shift && *to)
        *to = qnet_lb_binary(lb, QNET_OP_LOOP_ASHR, *to, qnet_lb_int(lb, (*to)->type, shift));
    }
  }
}

static qnet_status emit_root(qnet_nest *n, const qnet_tile_at *at, qnet_value **reg) {
  const popcount *p = n->root_data;
  chunk c = {.p = p};
  for (c.first_w = 0; c.first_w < p->weight_planes; c.first_w += p->chunk_w)
    for (c.first_a = 0; c.first_a < p->activation_planes; c.first_a += p->chunk_a) {
      const int left_w = p->weight_planes - c.first_w, left_a = p->activation_planes - c.first_a;
      c.count_w = left_w < p->chunk_w ? left_w : p->chunk_w;
      c.count_a = left_a < p->chunk_a ? left_a : p->chunk_a;
      QNET_TRY(emit_chunk(n, at, &c, reg));
    }
  correct(n, at, p, reg);
  return QNET_OK;
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* As many planes together as the registers hold next to the tile. */
static void choose_chunks(const qnet_nest *n, popcount *p) {
  const int registers = n->lw->machine->registers, tile = n->pixels * n->vectors;
  p->chunk_w = p->weight_planes;
  p->chunk_a = p->activation_planes;
  if (n->lw->machine->count == QNET_COUNT_CSA8) {
    p->chunk_w = p->chunk_a = 1;
    return;
  }
  const qnet_tile *listed = n->lw->machine->tile;
  for (int i = 0; i < QNET_MAX_TILES && listed[i].weight_planes; i++)
    if (listed[i].weight_planes == p->weight_planes &&
        listed[i].activation_planes == p->activation_planes)
      return; /* measured as it is */
  while (p->chunk_w > 1 && (tile * p->chunk_a + n->vectors) * p->chunk_w + 3 > registers)
    p->chunk_w--;
  while (p->chunk_a > 1 && (tile * p->chunk_a + n->vectors) * p->chunk_w + 3 > registers)
    p->chunk_a--;
}

/* Carry-save adders keep the state of one pair, a group of products and the constants of the count
 * in registers: a tile of one vector. */
static void choose_tile(qnet_nest *n, const popcount *p) {
  qnet_nest_fit_tile(n, n->lw->machine, p->weight_planes, p->activation_planes);
  if (n->lw->machine->count != QNET_COUNT_CSA8) return;
  n->pixels = n->vectors = 1;
}

static const char *counting_text(qnet_count_form form) {
  switch (form) {
  case QNET_COUNT_WORD: return "a count for each word";
  case QNET_COUNT_BYTE: return "counts by byte, summed in bytes";
  case QNET_COUNT_PAIR: return "counts by byte, summed in 16 bits";
  case QNET_COUNT_CSA8: return "carry-save trees, a count for 8 words";
  }
  return "?";
}

/* Multiplications by coefficients that a vector of results takes. */
static int count_multiplications(const popcount *p) {
  const int factors = p->weight_planes * (p->power ? 1 : p->activation_planes);
  int n = p->patch && !(p->patch_factor.uniform && exact_log2(p->patch_factor.value) >= 0);
  for (int i = 0; i < factors; i++)
    n += !(p->pair[i].uniform && exact_log2(p->pair[i].value) >= 0);
  return n;
}

/* Says what was chosen, why, and what it costs beyond the counts themselves. */
static qnet_status remark(const qnet_nest *n, const popcount *p) {
  qnet_strbuf b;
  qnet_strbuf_init(&b, n->lw->m->allocator);
  qnet_strbuf_printf(&b,
                     "popcount, as both tables have at most 4 bits: %d weight planes x %d "
                     "activation planes, %s; tile of %d pixels x %d vectors of %d channels",
                     p->weight_planes, p->activation_planes, counting_text(n->lw->machine->count),
                     n->pixels, n->vectors, (int)n->lanes);
  if (p->patch) qnet_strbuf_puts(&b, "; the weights' constant part takes a sum over each window");
  const int multiplications = count_multiplications(p);
  if (multiplications > 0) {
    const bool uniform = p->power || p->activation_planes == 1;
    qnet_strbuf_printf(&b, "; multiplications by levels: %d a vector%s", multiplications,
                       uniform ? "" : ", fewer were the activation levels uniform");
  }
  const int64_t bits = p->unit * n->lw->machine->word_bits;
  if (4 * p->in->c < 3 * bits)
    qnet_strbuf_printf(&b, "; %lld of %lld bits a pixel are padding", (long long)(bits - p->in->c),
                       (long long)bits);
  const bool failed = b.failed != 0;
  if (!failed) qnet_remark(n->lw->d, p->op->loc, "%s", qnet_strbuf_text(&b));
  qnet_strbuf_free(&b);
  return failed ? qnet_out_of_memory(n->lw->d) : QNET_OK;
}

qnet_status qnet_lower_conv_popcount(qnet_lower *lw, const qnet_op *kernel) {
  const qnet_op *op = qnet_kernel_root(kernel);
  popcount p = {.op = op, .in = qnet_layout_of(lw, kernel, op->operand[0])};
  if (op->operand_count == 5) p.patch = qnet_layout_of(lw, kernel, op->operand[3]);
  const qnet_type *weight = op->operand[1]->type;
  p.weight_planes = weight->bits;
  p.activation_planes = p.in->planes;
  p.unit = p.in->step;
  p.steps = weight->dim[1] * weight->dim[2] * p.unit;
  qnet_nest n = {.lw = lw,
                 .lb = &lw->lb,
                 .kernel = kernel,
                 .root = op,
                 .root_data = &p,
                 .emit_root = emit_root,
                 .lanes = lw->machine->lanes};
  qnet_type_hwc(op->result[0].type, &n.h, &n.w, &n.c);
  choose_tile(&n, &p);
  choose_chunks(&n, &p);
  QNET_TRY(pack_weights(&n, &p));
  QNET_TRY(pack_coefficients(&n, &p));
  QNET_TRY(remark(&n, &p));
  return qnet_nest_run(&n);
}
