/* plan-memory: buffers get offsets in one arena, which becomes the last argument of @eval.
 *
 * A buffer lives from the first to the last top-level operation that uses it. Large buffers are
 * placed first, each at the lowest offset where no buffer of an overlapping lifetime lies. Offsets
 * are multiples of 64 bytes: vectors never share a cache line with a neighbour.
 *
 * Needs: loops. Gives: memory; loop.alloc becomes loop.view. Breaks nothing. */
#include "ir/ops.h"
#include "passes/passes.h"
#include <stdlib.h>

enum { ALIGNMENT = 64 };

typedef struct placement {
  qnet_op *alloc;
  int64_t bytes, offset;
  int first, last; /* top-level operations that use it */
  int order;
} placement;

static int64_t align(int64_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* ---- lifetimes ------------------------------------------------------------------------------- */

/* Extends lifetimes over one operation and all inside it. id of an alloc's value: its placement. */
static void touch(const qnet_op *op, int time, placement *all) {
  for (int i = 0; i < op->operand_count; i++) {
    const qnet_value *v = op->operand[i];
    if (!v->def || v->def->opcode != QNET_OP_LOOP_ALLOC) continue;
    placement *p = &all[v->id];
    if (p->first < 0) p->first = time;
    p->last = time;
  }
  for (int r = 0; r < op->region_count; r++) /* nesting is bounded by the parser and the passes */
    for (const qnet_op *in = op->region[r]->first; in; in = in->next)
      touch(in, time, all);
}

static int collect(const qnet_region *body, placement *all) {
  int count = 0, time = 0;
  for (qnet_op *op = body->first; op; op = op->next) {
    if (op->opcode != QNET_OP_LOOP_ALLOC) continue;
    qnet_value *v = &op->result[0];
    all[count] = (placement){.alloc = op, .first = -1, .last = -1, .order = count};
    all[count].bytes = align(qnet_type_elements(v->type) * qnet_type_bytes(v->type));
    v->id = count++;
  }
  for (const qnet_op *op = body->first; op; op = op->next)
    touch(op, time++, all);
  return count;
}

/* ---- offsets --------------------------------------------------------------------------------- */

static int larger_first(const void *a, const void *b) {
  const placement *x = a, *y = b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x->order - y->order;
}

static bool live_together(const placement *a, const placement *b) {
  return a->first <= b->last && b->first <= a->last;
}

/* The lowest offset of all[i] that is free of all before it. */
static int64_t lowest_offset(const placement *all, int i) {
  int64_t offset = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (int k = 0; k < i; k++) {
      const placement *p = &all[k];
      const bool overlap = offset < p->offset + p->bytes && p->offset < offset + all[i].bytes;
      if (!overlap || !live_together(p, &all[i])) continue;
      offset = p->offset + p->bytes;
      moved = true;
    }
  }
  return offset;
}

static int64_t place(placement *all, int count) {
  int64_t size = ALIGNMENT; /* an arena of no bytes would be no argument */
  qsort(all, (size_t)count, sizeof *all, larger_first);
  for (int i = 0; i < count; i++) {
    all[i].offset = lowest_offset(all, i);
    const int64_t end = all[i].offset + all[i].bytes;
    if (end > size) size = end;
  }
  return size;
}

/* ---- rewriting ------------------------------------------------------------------------------- */

/* Appends an argument to the function; its values move, their uses with them. */
static qnet_value *add_argument(qnet_module *m, qnet_region *body, const qnet_type *type,
                                const char *name) {
  const int n = body->arg_count;
  qnet_value *arg = qnet_arena_array(&m->arena, (size_t)n + 1, sizeof *arg);
  if (!arg || !type) return NULL;
  for (int i = 0; i < n; i++) {
    arg[i] = body->arg[i];
    arg[i].uses = NULL;
    qnet_value_replace(m, &body->arg[i], &arg[i]);
  }
  arg[n] = (qnet_value){
      .type = type, .region = body, .index = n, .name = qnet_module_string(m, name), .id = -1};
  body->arg = arg;
  body->arg_count = n + 1;
  return &arg[n];
}

static void rewrite(qnet_module *m, qnet_value *arena, const placement *all, int count) {
  for (int i = 0; i < count; i++) {
    qnet_op *alloc = all[i].alloc;
    qnet_builder b = qnet_builder_before(m, alloc);
    qnet_value *view = qnet_build1(&b, QNET_OP_LOOP_VIEW, &arena, 1, alloc->result[0].type);
    if (!view) return;
    qnet_op_set_int(m, view->def, "offset", all[i].offset);
    qnet_value_replace(m, &alloc->result[0], view);
    qnet_op_erase(alloc);
  }
}

qnet_status qnet_pass_plan_memory(qnet_module *m, const qnet_pass_context *c) {
  qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (!eval || !eval->body)
    return qnet_error(c->diag, QNET_NO_LOC, "plan-memory: the module has no function @eval");
  size_t ops = 0;
  for (const qnet_op *op = eval->body->first; op; op = op->next)
    ops++;
  qnet_arena scratch;
  qnet_arena_init(&scratch, c->allocator);
  placement *all = qnet_arena_array(&scratch, ops, sizeof *all);
  if (all) {
    const int count = collect(eval->body, all);
    const int64_t bytes = place(all, count);
    qnet_value *arena =
        add_argument(m, eval->body, qnet_type_buffer(m, QNET_I8, 1, &bytes), "arena");
    if (arena) {
      rewrite(m, arena, all, count);
    } else {
      m->failed = true;
    }
  }
  qnet_arena_clear(&scratch);
  return all && !m->failed ? QNET_OK : qnet_out_of_memory(c->diag);
}
