/* lower-to-loop: kernels become loop nests for the machine.
 *
 * Every bits.kernel of @eval becomes loop.alloc'ed result buffers and loop.parallel_for nests that
 * fill them; weights and parameters are packed into new constants in the order in which the nests
 * read them. @eval gets its input and output buffers as arguments. passes/loop/ has the parts:
 * layouts of values, the frame of a nest, reductions, roots, the fused epilogue.
 *
 * Needs: kernels (fuse-kernels), batch 1, constants with content. Gives: loops.
 * Breaks: everything of the bits level. Remarks say which lowering each layer took. */
#include "passes/loop/lower.h"
#include "passes/passes.h"

/* What `qnetc opt` schedules for: AVX-512 with VPOPCNTDQ. */
static const qnet_machine default_machine = {
    .name = "AVX-512 VPOPCNTDQ",
    .word_bits = 32,
    .lanes = 16,
    .f32_lanes = 16,
    .registers = 32,
    .count = QNET_COUNT_WORD,
    .fma = true,
};

/* ---- the function ---------------------------------------------------------------------------- */

/* tensor<1xHxWxC> -> buf<HxWxC>, tensor<1xC> -> buf<C>. */
static const qnet_type *argument_type(qnet_module *m, const qnet_type *t) {
  return qnet_type_buffer(m, t->dtype, t->rank - 1, t->dim + 1);
}

static qnet_status check_body(const qnet_lower *lw) {
  for (const qnet_op *op = lw->body->first; op; op = op->next) {
    const bool known = op->opcode == QNET_OP_READ || op->opcode == QNET_OP_BITS_KERNEL ||
                       op->opcode == QNET_OP_YIELD;
    if (!known)
      return qnet_error(lw->d, op->loc,
                        "lower-to-loop: '%s' is outside of a kernel; run fuse-kernels first",
                        qnet_op_def_of(op->opcode)->name);
  }
  return QNET_OK;
}

static qnet_status check_results(const qnet_lower *lw) {
  const qnet_op *end = lw->body->last;
  for (int r = 0; end && r < end->operand_count; r++) {
    const qnet_value *v = end->operand[r];
    const bool numbers = v->type->kind == QNET_TYPE_TENSOR && v->type->dtype != QNET_CODE;
    const bool computed = !v->def || v->def->opcode == QNET_OP_BITS_KERNEL;
    if (!numbers || !computed)
      return qnet_error(lw->d, end->loc,
                        "lower-to-loop: result %d of @eval must be a computed tensor of numbers",
                        r);
  }
  return QNET_OK;
}

/* Replaces @eval by an empty loop-level function: inputs, then outputs. */
static qnet_symbol *make_function(qnet_lower *lw, qnet_symbol *eval) {
  qnet_module *m = lw->m;
  const qnet_op *end = lw->body->last;
  const int in = lw->body->arg_count, out = end->operand_count;
  const qnet_type **type =
      qnet_arena_array(&lw->scratch, (size_t)(in + out), sizeof(const qnet_type *));
  if (!type) return NULL;
  for (int a = 0; a < in; a++)
    type[a] = argument_type(m, lw->body->arg[a].type);
  for (int r = 0; r < out; r++)
    type[in + r] = argument_type(m, end->operand[r]->type);
  qnet_symbol_remove(m, eval);
  qnet_symbol *f = qnet_symbol_add_func(m, "eval", type, in + out, eval->loc);
  if (!f) return NULL;
  for (int i = 0; i < in + out; i++) {
    const int number = i < in ? i : i - in;
    const char *base = i < in ? "in" : "out";
    const char *name = number ? qnet_arena_printf(&lw->scratch, "%s%d", base, number + 1) : base;
    if (name) f->body->arg[i].name = qnet_module_string(m, name);
  }
  return f;
}

/* Arguments that consumers read with a border, by lanes or by convolutions are copied. */
static void stage_arguments(qnet_lower *lw, const qnet_symbol *f) {
  for (int a = 0; a < lw->body->arg_count; a++) {
    qnet_layout *l = &lw->layout[lw->body->arg[a].id];
    const qnet_layout raw = {.type = l->type,
                             .dtype = l->dtype,
                             .h = l->h,
                             .w = l->w,
                             .c = l->c,
                             .raw = true,
                             .buffer = &f->body->arg[a]};
    if (l->raw) {
      l->buffer = raw.buffer;
      continue;
    }
    qnet_layout_allocate(lw, l);
    qnet_lower_copy(lw, &raw, l);
  }
}

static void copy_results(qnet_lower *lw, const qnet_symbol *f) {
  const qnet_op *end = lw->body->last;
  for (int r = 0; r < end->operand_count; r++) {
    const qnet_layout *from = &lw->layout[end->operand[r]->id];
    qnet_layout to = *from;
    to.raw = true;
    to.buffer = &f->body->arg[lw->body->arg_count + r];
    qnet_lower_copy(lw, from, &to);
  }
}

/* ---- kernels --------------------------------------------------------------------------------- */

static qnet_status lower_kernel(qnet_lower *lw, const qnet_op *kernel) {
  const qnet_op *root = qnet_kernel_root(kernel);
  lw->lb.at.loc = root ? root->loc : kernel->loc;
  switch (root ? root->opcode : QNET_OP_YIELD) {
  case QNET_OP_BITS_CONV2D: return qnet_lower_conv_popcount(lw, kernel);
  case QNET_OP_CONV2D:
  case QNET_OP_DENSE:
  case QNET_OP_QUANT_CONV2D:
  case QNET_OP_QUANT_DENSE: return qnet_lower_conv_product(lw, kernel);
  case QNET_OP_BITS_PATCH_SUM: return qnet_lower_patch_sum(lw, kernel);
  case QNET_OP_SLICE:
  case QNET_OP_PAD:
  case QNET_OP_FLATTEN: return qnet_lower_movement(lw, kernel);
  case QNET_OP_YIELD: break;
  default: return qnet_lower_pool(lw, kernel);
  }
  if (qnet_kernel_is_lookup(kernel)) return qnet_lower_lookup(lw, kernel);
  return qnet_lower_elementwise(lw, kernel);
}

static qnet_status lower_function(qnet_lower *lw, qnet_symbol *eval) {
  lw->body = eval->body;
  QNET_TRY(check_body(lw));
  QNET_TRY(check_results(lw));
  lw->values = qnet_function_number_values(eval);
  lw->layout = qnet_arena_array(&lw->scratch, (size_t)lw->values, sizeof *lw->layout);
  if (!lw->layout) return qnet_out_of_memory(lw->d);
  QNET_TRY(qnet_layout_decide(lw));
  qnet_symbol *f = make_function(lw, eval);
  if (!f) return qnet_out_of_memory(lw->d);
  lw->lb = qnet_lb_create(lw->m, f->body, &lw->scratch);
  stage_arguments(lw, f);
  for (const qnet_op *op = lw->body->first; op; op = op->next)
    if (op->opcode == QNET_OP_BITS_KERNEL && op->result_count > 0) QNET_TRY(lower_kernel(lw, op));
  copy_results(lw, f);
  qnet_build_yield(&lw->lb.at, NULL, 0);
  if (lw->m->failed) return qnet_out_of_memory(lw->d);
  lw->m->level = QNET_LEVEL_LOOP;
  qnet_module_sweep(lw->m);
  return QNET_OK;
}

qnet_status qnet_pass_lower_to_loop(qnet_module *m, const qnet_pass_context *c) {
  qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (!eval || !eval->body)
    return qnet_error(c->diag, QNET_NO_LOC, "lower-to-loop: the module has no function @eval");
  qnet_lower lw = {.m = m, .machine = c->machine ? c->machine : &default_machine, .d = c->diag};
  lw.pad = lw.machine->lanes > lw.machine->f32_lanes ? lw.machine->lanes : lw.machine->f32_lanes;
  qnet_arena_init(&lw.scratch, c->allocator);
  const qnet_status status = lower_function(&lw, eval);
  qnet_arena_clear(&lw.scratch);
  return status;
}
