/* Kernels: what becomes one loop nest (bits -> bits).
 *
 * Every operation of @eval but reads and the yield goes into a bits.kernel. Operations are visited
 * in order. An elementwise one joins the kernel that makes the latest of its operands, as long as
 * it has that kernel's shape; any other (convolution, dense, pool, flatten, patch sum), and an
 * elementwise one whose operands come from outside, opens a kernel. So a convolution takes its
 * whole epilogue with it: affine, the add of a shortcut that was made earlier, relu, and the
 * quantizers of the result, even when the result itself is needed elsewhere too; then the kernel
 * has several results. Slices and pads go first: they move up to what they read.
 *
 * Kernels are numbered as they open, and each operation's operands come from kernels of its own
 * number or below: emitted by number they are in order.
 *
 * Needs bit planes; gives kernels; breaks nothing. */
#include "ir/ops.h"
#include "passes/passes.h"
#include <string.h>

/* A kernel under construction: its operations are linked by position in `member`. */
typedef struct group {
  qnet_op *root;         /* its first operation: gives shape and location */
  qnet_value **outside;  /* operands: values from outside, in order of first use */
  qnet_value **produced; /* results: values of its operations that are used outside */
  int outside_count, produced_count;
} group;

typedef struct fuser {
  qnet_module *module;
  qnet_region *body;
  qnet_arena scratch;
  qnet_diag *diag;
  qnet_op **member; /* all operations that go into kernels, in order */
  int *group_of;    /* of member i */
  group *groups;
  int members, group_count;
  int *group_by_value; /* by value id: number of the group that makes it, or -1 */
} fuser;

/* ---- order ----------------------------------------------------------------------------------- */

static bool moves_elements(const qnet_op *op) {
  return op->opcode == QNET_OP_SLICE || op->opcode == QNET_OP_PAD;
}

/* A shortcut that only moves elements goes up to what it reads: then it is there when the
 * convolution beside it is done, whose epilogue adds it. */
static void hoist_movements(qnet_region *body) {
  for (qnet_op *op = body->first, *next; op; op = next) {
    next = op->next;
    if (!moves_elements(op)) continue;
    const qnet_op *from = op->operand[0]->def;
    qnet_op_move(op, body, from ? from->next : body->first);
  }
}

/* ---- grouping -------------------------------------------------------------------------------- */

static bool stays_outside(const qnet_op *op) {
  return op->opcode == QNET_OP_READ || op->opcode == QNET_OP_YIELD ||
         op->opcode == QNET_OP_BITS_KERNEL;
}

static bool is_elementwise(const qnet_op *op) {
  return (qnet_op_def_of(op->opcode)->traits & QNET_ELEMENTWISE) != 0;
}

/* Rank 2 planes and tensors as N,1,1,C. */
static void full_shape(const qnet_type *t, int64_t dim[4]) {
  const bool is_map = t->rank == 4;
  dim[0] = t->rank > 0 ? t->dim[0] : 1;
  dim[1] = is_map ? t->dim[1] : 1;
  dim[2] = is_map ? t->dim[2] : 1;
  dim[3] = t->rank > 0 ? t->dim[t->rank - 1] : 1;
}

static bool same_extent(const qnet_op *a, const qnet_op *b) {
  int64_t x[4], y[4];
  full_shape(a->result[0].type, x);
  full_shape(b->result[0].type, y);
  return memcmp(x, y, sizeof x) == 0;
}

/* A table of that many thresholds is not for every register of a convolution's tile: it gets a
 * kernel of its own, which has one. */
static bool is_long(const fuser *f, const qnet_op *op) {
  enum { MOST_CODES = 16 };
  if (op->opcode != QNET_OP_QUANT_ROUND) return false;
  const qnet_symbol *s = qnet_op_symbol(f->module, op, "table");
  return s && s->table && s->table->codes > MOST_CODES;
}

/* The group that the operation joins, or -1 when it opens one. */
static int group_to_join(const fuser *f, const qnet_op *op) {
  if (!is_elementwise(op) || is_long(f, op)) return -1;
  int latest = -1;
  for (int i = 0; i < op->operand_count; i++) {
    const int g = f->group_by_value[op->operand[i]->id];
    if (g > latest) latest = g;
  }
  return latest >= 0 && same_extent(op, f->groups[latest].root) ? latest : -1;
}

static void assign_groups(fuser *f) {
  for (int i = 0; i < f->members; i++) {
    qnet_op *op = f->member[i];
    int g = group_to_join(f, op);
    if (g < 0) {
      g = f->group_count++;
      f->groups[g].root = op;
    }
    f->group_of[i] = g;
    for (int r = 0; r < op->result_count; r++)
      f->group_by_value[op->result[r].id] = g;
  }
}

/* ---- interfaces ------------------------------------------------------------------------------ */

static bool used_outside(const fuser *f, const qnet_value *v, int g) {
  for (const qnet_use *use = v->uses; use; use = use->next) {
    const qnet_op *user = use->op;
    if (stays_outside(user) || user->result_count == 0) return true;
    if (f->group_by_value[user->result[0].id] != g) return true;
  }
  return false;
}

static bool contains(qnet_value *const *list, int count, const qnet_value *v) {
  for (int i = 0; i < count; i++)
    if (list[i] == v) return true;
  return false;
}

/* Room for all that the members could name; counted first, so that one block serves a group. */
static bool allocate_interface(fuser *f, int g) {
  size_t operands = 0, results = 0;
  for (int i = 0; i < f->members; i++) {
    if (f->group_of[i] != g) continue;
    operands += (size_t)f->member[i]->operand_count;
    results += (size_t)f->member[i]->result_count;
  }
  f->groups[g].outside = qnet_arena_array(&f->scratch, operands + 1, sizeof(qnet_value *));
  f->groups[g].produced = qnet_arena_array(&f->scratch, results + 1, sizeof(qnet_value *));
  return f->groups[g].outside && f->groups[g].produced;
}

static void collect_interface(fuser *f, int g) {
  group *k = &f->groups[g];
  for (int i = 0; i < f->members; i++) {
    if (f->group_of[i] != g) continue;
    qnet_op *op = f->member[i];
    for (int j = 0; j < op->operand_count; j++) {
      qnet_value *v = op->operand[j];
      if (f->group_by_value[v->id] != g && !contains(k->outside, k->outside_count, v))
        k->outside[k->outside_count++] = v;
    }
    for (int j = 0; j < op->result_count; j++)
      if (used_outside(f, &op->result[j], g)) k->produced[k->produced_count++] = &op->result[j];
  }
}

/* ---- building -------------------------------------------------------------------------------- */

static const qnet_type **types_of(fuser *f, qnet_value *const *values, int count) {
  const qnet_type **types = qnet_arena_array(&f->scratch, (size_t)count + 1, sizeof *types);
  for (int i = 0; types && i < count; i++)
    types[i] = values[i]->type;
  return types;
}

/* Moves the members into the region and makes them use its arguments. */
static void fill_region(fuser *f, int g, qnet_region *region) {
  const group *k = &f->groups[g];
  for (int i = 0; i < f->members; i++) {
    if (f->group_of[i] != g) continue;
    qnet_op *op = f->member[i];
    qnet_op_move(op, region, NULL);
    for (int j = 0; j < op->operand_count; j++)
      for (int a = 0; a < k->outside_count; a++)
        if (op->operand[j] == k->outside[a]) qnet_op_set_operand(f->module, op, j, &region->arg[a]);
  }
}

static void replace_results(fuser *f, const group *k, qnet_op *kernel, const qnet_region *region) {
  for (int r = 0; r < k->produced_count; r++) {
    qnet_value *from = k->produced[r];
    for (qnet_use *use = from->uses, *next; use; use = next) {
      next = use->next;
      if (use->op->parent != region)
        qnet_op_set_operand(f->module, use->op, use->index, &kernel->result[r]);
    }
  }
}

/* A later group may hold values of this one as operands: they are the kernel's results now. */
static void rename_operands(fuser *f, const group *k, qnet_op *kernel, int after) {
  for (int g = after + 1; g < f->group_count; g++)
    for (int a = 0; a < f->groups[g].outside_count; a++)
      for (int r = 0; r < k->produced_count; r++)
        if (f->groups[g].outside[a] == k->produced[r]) f->groups[g].outside[a] = &kernel->result[r];
}

static qnet_status build_kernel(fuser *f, int g) {
  group *k = &f->groups[g];
  const qnet_type **arguments = types_of(f, k->outside, k->outside_count);
  const qnet_type **results = types_of(f, k->produced, k->produced_count);
  if (!arguments || !results) return qnet_out_of_memory(f->diag);
  qnet_builder b = qnet_builder_before(f->module, f->body->last);
  b.loc = k->root->loc;
  qnet_op *kernel =
      qnet_build(&b, QNET_OP_BITS_KERNEL, k->outside, k->outside_count, results, k->produced_count);
  qnet_region *region = qnet_op_add_region(f->module, kernel, arguments, k->outside_count);
  if (!region) return qnet_out_of_memory(f->diag);
  fill_region(f, g, region);
  replace_results(f, k, kernel, region);
  rename_operands(f, k, kernel, g);
  qnet_builder inside = qnet_builder_at_end(f->module, region);
  inside.loc = k->root->loc;
  qnet_build_yield(&inside, k->produced, k->produced_count);
  return f->module->failed ? qnet_out_of_memory(f->diag) : QNET_OK;
}

/* ---- the pass -------------------------------------------------------------------------------- */

static qnet_status prepare(fuser *f, const qnet_symbol *eval) {
  const int values = qnet_function_number_values(eval);
  int operations = 0;
  for (const qnet_op *op = f->body->first; op; op = op->next)
    operations++;
  const size_t n = (size_t)operations + 1;
  f->member = qnet_arena_array(&f->scratch, n, sizeof *f->member);
  f->group_of = qnet_arena_array(&f->scratch, n, sizeof *f->group_of);
  f->groups = qnet_arena_array(&f->scratch, n, sizeof *f->groups);
  f->group_by_value = qnet_arena_array(&f->scratch, (size_t)values + 1, sizeof(int));
  if (!f->member || !f->group_of || !f->groups || !f->group_by_value)
    return qnet_out_of_memory(f->diag);
  for (int i = 0; i < values; i++)
    f->group_by_value[i] = -1;
  bool has_kernels = false;
  for (qnet_op *op = f->body->first; op; op = op->next) {
    has_kernels |= op->opcode == QNET_OP_BITS_KERNEL;
    if (!stays_outside(op)) f->member[f->members++] = op;
  }
  if (has_kernels && f->members)
    return qnet_error(f->diag, f->member[0]->loc,
                      "'%s' stands beside kernels; this pass fuses whole functions only",
                      qnet_op_def_of(f->member[0]->opcode)->name);
  return QNET_OK;
}

static qnet_status fuse_function(fuser *f, const qnet_symbol *eval) {
  hoist_movements(f->body);
  QNET_TRY(prepare(f, eval));
  assign_groups(f);
  for (int g = 0; g < f->group_count; g++) {
    if (!allocate_interface(f, g)) return qnet_out_of_memory(f->diag);
    collect_interface(f, g);
  }
  for (int g = 0; g < f->group_count; g++)
    QNET_TRY(build_kernel(f, g));
  return QNET_OK;
}

qnet_status qnet_pass_fuse_kernels(qnet_module *m, const qnet_pass_context *c) {
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (!eval || !eval->body || !eval->body->last)
    return qnet_error_in(c->diag, m->name, "there is no function @eval");
  qnet_module_sweep(m);
  fuser f = {.module = m, .body = eval->body, .diag = c->diag};
  qnet_arena_init(&f.scratch, c->allocator);
  const qnet_status status = fuse_function(&f, eval);
  qnet_arena_clear(&f.scratch);
  return status;
}
