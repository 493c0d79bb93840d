/* Groups of row kernels, and where every value lives: inside a group's tile, over an operand that
 * ends there, or at an offset of the slab, reused once the last use is over. */
#include "codegen/plan_internal.h"

enum { ALIGN = 64 };

/* ---- groups -----------------------------------------------------------------------------------*/

/* May step s read value v, when v is made by step `maker` of the same group? */
static bool flows_by_rows(const qnet_plan_step *maker, const qnet_plan_step *s,
                          const qnet_plan_value *v) {
  for (int k = 0; k < maker->out_count; k++)
    if (maker->out[k] == v && !qnet_plan_rows_out(maker, k)) return false;
  for (int k = 0; k < s->in_count; k++)
    if (s->in[k] == v && !qnet_plan_rows_in(s, k)) return false;
  return true;
}

static bool makes(const qnet_plan_step *s, const qnet_plan_value *v) {
  for (int k = 0; k < s->out_count; k++)
    if (s->out[k] == v) return true;
  return false;
}

/* Can s join the steps first..last, which run range by range? */
static bool can_join(const qnet_plan_step *first, const qnet_plan_step *s) {
  if (s->kernel->rows == NULL || first->kernel->rows == NULL || s->rows != first->rows)
    return false;
  for (const qnet_plan_step *m = first; m != s; m = m->next)
    for (int k = 0; k < s->in_count; k++)
      if (makes(m, s->in[k]) && !flows_by_rows(m, s, s->in[k])) return false;
  return true;
}

static qnet_status make_groups(qnet_plan *p, qnet_diag *d) {
  size_t steps = 0;
  for (const qnet_plan_step *s = p->first; s != NULL; s = s->next)
    steps++;
  p->group = qnet_arena_array(&p->arena, steps, sizeof *p->group);
  if (p->group == NULL) return qnet_out_of_memory(d);
  for (qnet_plan_step *s = p->first; s != NULL; s = s->next) {
    qnet_plan_group *g = p->group_count > 0 ? &p->group[p->group_count - 1] : NULL;
    if (g == NULL || s->begins || !can_join(g->first, s)) {
      g = &p->group[p->group_count++];
      *g = (qnet_plan_group){.first = s, .rows = s->kernel->rows != NULL ? s->rows : 0, .grain = 1};
    }
    g->count++;
    s->group = p->group_count - 1;
  }
  return QNET_OK;
}

/* The range size follows from the widest row alone. */
static void set_grains(qnet_plan *p) {
  for (int i = 0; i < p->group_count; i++) {
    qnet_plan_group *g = &p->group[i];
    if (g->rows == 0) continue;
    int64_t width = 1;
    const qnet_plan_step *s = g->first;
    for (int k = 0; k < g->count; k++, s = s->next)
      if (s->width > width) width = s->width;
    g->grain = width < QNET_PLAN_RANGE ? QNET_PLAN_RANGE / width : 1;
    if (g->grain > g->rows) g->grain = g->rows;
    g->ranges = (g->rows + g->grain - 1) / g->grain;
  }
}

/* ---- lifetimes --------------------------------------------------------------------------------*/

static void set_lifetimes(qnet_plan *p) {
  for (const qnet_plan_step *s = p->first; s != NULL; s = s->next) {
    for (int k = 0; k < s->out_count; k++)
      if (s->out[k] != NULL) s->out[k]->first = s->out[k]->last = s->group;
    for (int k = 0; k < s->in_count; k++)
      if (s->in[k]->last < s->group) s->in[k]->last = s->group;
  }
}

/* Is every use of v, which lives in one group, row by row? */
static bool rows_only(const qnet_plan_group *g, const qnet_plan_value *v) {
  const qnet_plan_step *s = g->first;
  for (int i = 0; i < g->count; i++, s = s->next) {
    for (int k = 0; k < s->out_count; k++)
      if (s->out[k] == v && !qnet_plan_rows_out(s, k)) return false;
    for (int k = 0; k < s->in_count; k++)
      if (s->in[k] == v && !qnet_plan_rows_in(s, k)) return false;
  }
  return true;
}

static size_t round_up(size_t bytes) {
  return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Values that live inside one group go to its tile as long as there is room. */
static void place_tiles(qnet_plan *p) {
  for (int i = 0; i < p->group_count; i++) {
    const qnet_plan_group *g = &p->group[i];
    size_t used = 0;
    const qnet_plan_step *s = g->first;
    for (int n = 0; g->rows > 0 && n < g->count; n++, s = s->next)
      for (int k = 0; k < s->out_count; k++) {
        qnet_plan_value *v = s->out[k];
        if (v == NULL || v->place != QNET_PLACE_SLAB || v->last != i || !rows_only(g, v)) continue;
        const size_t bytes = round_up(v->bytes / (size_t)g->rows * (size_t)g->grain);
        if (used + bytes > QNET_PLAN_TILE_BYTES) continue;
        v->place = QNET_PLACE_TILE;
        v->offset = used;
        used += bytes;
      }
  }
}

/* ---- in place ---------------------------------------------------------------------------------*/

/* Does any step behind s, in its group, touch the memory of root? */
static bool touched_later(const qnet_plan_step *s, const qnet_plan_value *root) {
  for (const qnet_plan_step *n = s->next; n != NULL && n->group == s->group; n = n->next)
    for (int k = 0; k < n->in_count; k++)
      if (n->in[k]->place == QNET_PLACE_SLAB && qnet_plan_root(n->in[k]) == root) return true;
  return false;
}

/* May result k of s take u's memory, which s or a step before it in the group reads? */
static bool can_take(const qnet_plan *p, const qnet_plan_step *s, int k, qnet_plan_value *u) {
  if (u->place != QNET_PLACE_SLAB || u->bytes != s->out[k]->bytes) return false;
  const qnet_plan_value *root = qnet_plan_root(u);
  if (root->last != s->group || touched_later(s, root)) return false;
  for (int i = 0; i < s->out_count; i++)
    if (i != k && s->out[i] != NULL && qnet_plan_root(s->out[i]) == root) return false;
  bool is_operand = false;
  for (int i = 0; i < s->in_count; i++) {
    if (s->in[i]->place != QNET_PLACE_SLAB || qnet_plan_root(s->in[i]) != root) continue;
    if ((s->kernel->overwrites >> i & 1) == 0) return false;
    is_operand = true;
  }
  if (is_operand && p->group[s->group].count == 1) return true;
  return qnet_plan_rows_out(s, k) && rows_only(&p->group[s->group], u);
}

/* A result takes the memory of a value that nobody needs any more: of those, the one written last,
 * which is still in the cache and has to go from there to memory in any case. */
static void place_over(qnet_plan *p, const qnet_plan_step *s, int k) {
  qnet_plan_value *v = s->out[k], *best = NULL;
  const qnet_plan_step *m = p->group[s->group].first;
  for (bool last = false; !last; m = m->next) {
    last = m == s;
    for (int i = 0; i < m->in_count; i++)
      if (can_take(p, s, k, m->in[i]) &&
          (best == NULL || qnet_plan_root(m->in[i])->written > qnet_plan_root(best)->written))
        best = m->in[i];
  }
  v->written = s->group;
  if (best == NULL) return;
  while (best->alias != NULL)
    best = best->alias;
  v->alias = best;
  best->last = v->last;
  best->written = s->group;
}

static void place_over_operands(qnet_plan *p) {
  for (qnet_plan_step *s = p->first; s != NULL; s = s->next)
    for (int k = 0; k < s->out_count; k++)
      if (s->out[k] != NULL && s->out[k]->place == QNET_PLACE_SLAB) place_over(p, s, k);
}

/* ---- the slab ---------------------------------------------------------------------------------*/

static bool overlap(const qnet_plan_value *a, const qnet_plan_value *b) {
  return a->first <= b->last && b->first <= a->last;
}

/* The lowest offset at which v meets no placed value that lives at the same time. `placed` is
 * sorted by offset. */
static size_t lowest_offset(qnet_plan_value *const *placed, size_t count,
                            const qnet_plan_value *v) {
  size_t offset = 0;
  for (size_t i = 0; i < count; i++) {
    if (!overlap(placed[i], v)) continue;
    if (offset + v->bytes <= placed[i]->offset) break;
    const size_t end = round_up(placed[i]->offset + placed[i]->bytes);
    if (end > offset) offset = end;
  }
  return offset;
}

static void insert_sorted(qnet_plan_value **placed, size_t count, qnet_plan_value *v) {
  size_t at = count;
  for (; at > 0 && placed[at - 1]->offset > v->offset; at--)
    placed[at] = placed[at - 1];
  placed[at] = v;
}

static qnet_status place_slab(qnet_plan *p, qnet_diag *d) {
  size_t count = 0;
  for (const qnet_plan_value *v = p->values; v != NULL; v = v->next)
    count++;
  qnet_plan_value **placed = qnet_arena_array(&p->arena, count, sizeof *placed);
  if (placed == NULL) return qnet_out_of_memory(d);
  count = 0;
  for (qnet_plan_step *s = p->first; s != NULL; s = s->next)
    for (int k = 0; k < s->out_count; k++) {
      qnet_plan_value *v = s->out[k];
      if (v == NULL || v->place != QNET_PLACE_SLAB || v->alias != NULL) continue;
      v->offset = lowest_offset(placed, count, v);
      insert_sorted(placed, count++, v);
      if (v->offset + v->bytes > p->slab_bytes) p->slab_bytes = v->offset + v->bytes;
    }
  for (qnet_plan_value *v = p->values; v != NULL; v = v->next)
    if (v->alias != NULL) v->offset = qnet_plan_root(v)->offset;
  return QNET_OK;
}

qnet_status qnet_plan_place(qnet_plan *p, qnet_diag *d) {
  QNET_TRY(make_groups(p, d));
  set_grains(p);
  set_lifetimes(p);
  place_tiles(p);
  place_over_operands(p);
  return place_slab(p, d);
}
