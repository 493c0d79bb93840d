/* The frame of a nest:
 *
 *   parallel rows                (channel groups instead when there is one pixel)
 *     groups of channels         weights of a group stay in L1 along the row
 *       tiles of pixels          the last, narrower one has its own body
 *         tiles of vectors       root, epilogue; plane bits are or-ed into the group's words
 *         words stored
 *
 * With planes among the results a group is whole words: 32 or 64 channels, or one tile when that
 * has more. So words are stored once, complete, and bits behind the last channel are 0. Without
 * planes a group is one tile. The last group may have fewer tiles, its last tile fewer vectors. */
#include "passes/loop/lower.h"

int qnet_floor_power(int n) {
  int p = 1;
  while (2 * p <= n)
    p *= 2;
  return p;
}

static int smaller(int64_t a, int64_t b) {
  return (int)(a < b ? a : b);
}

static bool makes_planes(const qnet_op *kernel) {
  for (int r = 0; r < kernel->result_count; r++)
    if (kernel->result[r].type->kind == QNET_TYPE_PLANES) return true;
  return false;
}

void qnet_nest_fit_tile(qnet_nest *n, const qnet_machine *machine, int weight_planes,
                        int activation_planes) {
  const qnet_tile t = qnet_machine_tile(machine, weight_planes, activation_planes);
  const int64_t available = (n->c + n->lanes - 1) / n->lanes;
  int vectors = smaller(t.vectors, available);
  if (makes_planes(n->kernel)) vectors = qnet_floor_power(vectors);
  /* What fewer vectors leave free goes to pixels. */
  const int products = weight_planes * activation_planes;
  int pixels = t.pixels;
  while (vectors < t.vectors && pixels < 8 &&
         (pixels + 1) * vectors * products + vectors * weight_planes + 3 <= machine->registers)
    pixels++;
  n->vectors = vectors;
  n->pixels = smaller(pixels, n->w);
}

/* May all f32 and i32 values that the kernel touches be used as vectors? */
static bool all_by_lanes(const qnet_nest *n) {
  for (int i = 0; i < n->kernel->operand_count + n->kernel->result_count; i++) {
    const int r = i - n->kernel->operand_count;
    const qnet_value *v = r < 0 ? n->kernel->operand[i] : &n->kernel->result[r];
    if (v->def && v->def->opcode == QNET_OP_READ) continue;
    const qnet_layout *l = &n->lw->layout[v->id];
    const bool whole = l->raw && l->dtype != QNET_U8 && l->c % n->lw->machine->f32_lanes == 0;
    if (!l->planes && v->type->dtype != QNET_CODE && !l->by_lanes && !whole) return false;
  }
  return true;
}

void qnet_nest_fit_simple(qnet_nest *n) {
  n->lanes = all_by_lanes(n) ? n->lw->machine->f32_lanes : 1;
  n->pixels = 1;
  n->vectors = n->lanes > 1 && n->c > n->lanes ? 2 : 1;
}

static qnet_status derive(qnet_nest *n) {
  const int64_t bits = n->lw->machine->word_bits;
  n->channel_vectors = (n->c + n->lanes - 1) / n->lanes;
  for (int r = 0; r < n->kernel->result_count; r++) {
    const qnet_type *t = n->kernel->result[r].type;
    if (t->kind == QNET_TYPE_PLANES) n->planes += t->bits;
  }
  const int64_t tile = n->lanes * n->vectors;
  const int64_t group = n->planes && tile < bits ? bits : tile;
  n->group_vectors = group / n->lanes;
  n->group_words = n->planes ? group / bits : 0;
  n->words = (n->c + bits - 1) / bits;
  return qnet_epilogue_create(n);
}

/* ---- one group of channels at one tile of pixels ----------------------------------------------
 */

static qnet_status emit_tile(qnet_nest *n, const qnet_tile_at *at, qnet_value *shift,
                             qnet_value **word) {
  const size_t count = (size_t)at->pixels * (size_t)at->vectors;
  qnet_value **reg = qnet_arena_array(&n->lw->scratch, count, sizeof(qnet_value *));
  if (!reg) return qnet_out_of_memory(n->lw->d);
  if (n->emit_root) QNET_TRY(n->emit_root(n, at, reg));
  return qnet_epilogue_emit(n, at, reg, shift, word);
}

/* The tiles of `vectors` channel vectors from at->vector on. */
static qnet_status emit_tiles(qnet_nest *n, const qnet_tile_at *at, int64_t vectors,
                              qnet_value **word, int words) {
  qnet_lb *lb = n->lb;
  const int64_t full = vectors / n->vectors * n->vectors;
  qnet_tile_at tile = *at;
  tile.vectors = n->vectors;
  if (full) {
    qnet_lb_loop loop =
        qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, full), n->vectors, word, words);
    tile.vector = qnet_lb_add(lb, at->vector, loop.index);
    QNET_TRY(emit_tile(n, &tile, qnet_lb_mul_index(lb, loop.index, n->lanes), word));
    qnet_lb_end(lb, &loop, word);
  }
  if (full == vectors) return QNET_OK;
  tile.vectors = (int)(vectors - full);
  tile.vector = qnet_lb_add_index(lb, at->vector, full);
  return emit_tile(n, &tile, qnet_lb_index(lb, full * n->lanes), word);
}

static qnet_status emit_group_tile(qnet_nest *n, qnet_tile_at *at, qnet_value *group,
                                   int64_t vectors) {
  qnet_lb *lb = n->lb;
  const int words = at->pixels * (int)n->group_words * n->planes;
  qnet_value **word = qnet_arena_array(&n->lw->scratch, (size_t)words, sizeof(qnet_value *));
  if (!word) return qnet_out_of_memory(n->lw->d);
  const int bits = n->lw->machine->word_bits;
  for (int i = 0; i < words; i++)
    word[i] = qnet_lb_int(lb, qnet_lb_type(lb, bits == 64 ? QNET_I64 : QNET_I32, 1), 0);
  at->vector = qnet_lb_mul_index(lb, group, n->group_vectors);
  QNET_TRY(emit_tiles(n, at, vectors, word, words));
  if (!words) return QNET_OK;
  const int64_t exist = (vectors * n->lanes + bits - 1) / bits;
  qnet_epilogue_store_words(n, at, qnet_lb_mul_index(lb, group, n->group_words), exist, word);
  return QNET_OK;
}

/* ---- rows -------------------------------------------------------------------------------------
 */

/* A group of channels along a row. */
static qnet_status emit_group(qnet_nest *n, qnet_value *y, qnet_value *group, int64_t vectors) {
  qnet_lb *lb = n->lb;
  const int64_t full = n->w / n->pixels * n->pixels;
  qnet_tile_at at = {.y = y, .pixels = n->pixels};
  qnet_lb_loop loop =
      qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, full), n->pixels, NULL, 0);
  at.x = loop.index;
  QNET_TRY(emit_group_tile(n, &at, group, vectors));
  qnet_lb_end(lb, &loop, NULL);
  if (full == n->w) return QNET_OK;
  at.pixels = (int)(n->w - full);
  at.x = qnet_lb_index(lb, full);
  return emit_group_tile(n, &at, group, vectors);
}

/* All groups of a row: the full ones in a loop, then the rest. */
static qnet_status emit_rows(qnet_nest *n) {
  qnet_lb *lb = n->lb;
  const int64_t full = n->channel_vectors / n->group_vectors;
  const int64_t rest = n->channel_vectors % n->group_vectors;
  qnet_value *y = qnet_lb_parallel(lb, 0, n->h);
  if (full) {
    qnet_lb_loop loop = qnet_lb_for(lb, qnet_lb_index(lb, 0), qnet_lb_index(lb, full), 1, NULL, 0);
    QNET_TRY(emit_group(n, y, loop.index, n->group_vectors));
    qnet_lb_end(lb, &loop, NULL);
  }
  if (rest) QNET_TRY(emit_group(n, y, qnet_lb_index(lb, full), rest));
  qnet_lb_end_parallel(lb);
  return QNET_OK;
}

/* One pixel: its groups in parallel. */
static qnet_status emit_groups(qnet_nest *n) {
  qnet_lb *lb = n->lb;
  const int64_t full = n->channel_vectors / n->group_vectors;
  const int64_t rest = n->channel_vectors % n->group_vectors;
  if (full) {
    qnet_value *group = qnet_lb_parallel(lb, 0, full);
    QNET_TRY(emit_group(n, qnet_lb_index(lb, 0), group, n->group_vectors));
    qnet_lb_end_parallel(lb);
  }
  if (!rest) return QNET_OK;
  qnet_value *group = qnet_lb_parallel(lb, full, full + 1);
  QNET_TRY(emit_group(n, qnet_lb_index(lb, 0), group, rest));
  qnet_lb_end_parallel(lb);
  return QNET_OK;
}

qnet_status qnet_nest_run(qnet_nest *n) {
  QNET_TRY(derive(n));
  if (!qnet_epilogue_idle(n)) QNET_TRY(n->h * n->w == 1 ? emit_groups(n) : emit_rows(n));
  if (n->lw->m->failed) return qnet_out_of_memory(n->lw->d);
  return qnet_epilogue_finish(n);
}
