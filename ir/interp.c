/* The core of the reference interpreters: prepares a function and runs it.
 *
 * Preparing flattens a function of the plain levels (nn, quant, bits) to a list of steps over
 * slots. A slot holds one blob; every value maps to a slot. A bits.kernel leaves no step of its
 * own: the arguments of its region are the slots of its operands, its results those of the region's
 * yield. A slot is emptied after the last step that names it, so memory stays as small as the live
 * values. Functions of the loop level become a program of their own (interp_loop.c). */
#include "ir/interp_internal.h"

#include <string.h>

typedef struct slot {
  qnet_blob *blob;
  bool owned;    /* holds a reference; arguments and constants are borrowed */
  int last_step; /* after it the slot is emptied; INT32_MAX for results of the function */
} slot;

typedef struct step {
  const qnet_op *op;
  qnet_interp_kernel kernel; /* NULL: read or write of `symbol` */
  qnet_symbol *symbol;
  int *in, *out; /* slots */
} step;

struct qnet_interp {
  const qnet_allocator *allocator;
  const qnet_module *module;
  const qnet_symbol *function;
  qnet_arena arena; /* all that follows */
  step *step;
  int step_count;
  slot *slot;
  int slot_count;
  int *slot_of; /* value id -> slot */
  int *arg, *result;
  int result_count;
  qnet_blob **in, **out; /* operands and results of the running step */
  int max_operands, max_results;
  bool writes; /* the function changes state: what was read before must be kept alive */
  qnet_loop_program *loop;
};

qnet_interp_kernel qnet_interp_kernel_of(int opcode) {
  qnet_interp_kernel kernel = qnet_interp_nn_kernel(opcode);
  if (kernel == NULL) kernel = qnet_interp_gradient_kernel(opcode);
  if (kernel == NULL) kernel = qnet_interp_train_kernel(opcode);
  if (kernel == NULL) kernel = qnet_interp_quant_kernel(opcode);
  if (kernel == NULL) kernel = qnet_interp_bits_kernel(opcode);
  return kernel;
}

/* ---- blobs of types ------------------------------------------------------------------------- */

qnet_blob *qnet_interp_blob(const qnet_allocator *a, const qnet_type *type) {
  if (type->kind != QNET_TYPE_PLANES)
    return qnet_blob_create(a, type->dtype, type->rank, type->dim);
  if (type->rank < 1 || type->rank + 1 > QNET_BLOB_MAX_RANK) return NULL;
  int64_t dim[QNET_BLOB_MAX_RANK];
  const int last = type->rank - 1;
  memcpy(dim, type->dim, (size_t)last * sizeof dim[0]);
  dim[last] = type->bits;
  dim[last + 1] = (type->dim[last] + 63) / 64;
  return qnet_blob_create(a, QNET_U64, type->rank + 1, dim);
}

qnet_blob *qnet_interp_result(const qnet_module *m, const qnet_op *op, int index) {
  return qnet_interp_blob(m->allocator, op->result[index].type);
}

static size_t bytes_of_type(const qnet_type *type) {
  if (type->kind != QNET_TYPE_PLANES)
    return (size_t)qnet_type_elements(type) * (size_t)qnet_dtype_bytes(type->dtype);
  const int64_t channels = type->dim[type->rank - 1];
  if (channels == 0) return 0;
  const int64_t words = qnet_type_elements(type) / channels * type->bits * ((channels + 63) / 64);
  return (size_t)words * 8;
}

/* Codes and bytes have one form in memory. */
static qnet_dtype memory_dtype(qnet_dtype dtype) {
  return dtype == QNET_CODE ? QNET_U8 : dtype;
}

bool qnet_interp_fits(const qnet_blob *blob, const qnet_type *type) {
  if (blob->bytes != bytes_of_type(type)) return false;
  return type->kind == QNET_TYPE_BUFFER || memory_dtype(blob->dtype) == memory_dtype(type->dtype);
}

/* ---- preparing ------------------------------------------------------------------------------ */

int qnet_interp_count_ops(const qnet_region *region, int depth) {
  if (depth > QNET_INTERP_MAX_DEPTH) return 0;
  int count = 0;
  for (const qnet_op *op = region->first; op != NULL; op = op->next) {
    count++;
    for (int r = 0; r < op->region_count; r++)
      count += qnet_interp_count_ops(op->region[r], depth + 1);
  }
  return count;
}

static int max_of(int a, int b) {
  return a > b ? a : b;
}

static qnet_status flatten_region(qnet_interp *in, const qnet_region *region, int depth,
                                  qnet_diag *d);

/* A fused group: its operands become the region's arguments, what the region yields its results. */
static qnet_status flatten_kernel(qnet_interp *in, const qnet_op *op, int depth, qnet_diag *d) {
  if (op->region_count != 1 || op->region[0]->arg_count != op->operand_count)
    return qnet_error(d, op->loc, "the region of '%s' needs one argument for each of %d operands",
                      qnet_op_def_of(op->opcode)->name, op->operand_count);
  const qnet_region *body = op->region[0];
  for (int i = 0; i < op->operand_count; i++)
    in->slot_of[body->arg[i].id] = in->slot_of[op->operand[i]->id];
  QNET_TRY(flatten_region(in, body, depth + 1, d));
  const qnet_op *yield = body->last;
  if (yield == NULL || yield->operand_count != op->result_count)
    return qnet_error(d, op->loc, "the region of '%s' must yield its %d results",
                      qnet_op_def_of(op->opcode)->name, op->result_count);
  for (int i = 0; i < op->result_count; i++)
    in->slot_of[op->result[i].id] = in->slot_of[yield->operand[i]->id];
  return QNET_OK;
}

static qnet_status bind_step(qnet_interp *in, step *s, qnet_diag *d) {
  const qnet_op *op = s->op;
  if (op->opcode != QNET_OP_READ && op->opcode != QNET_OP_WRITE) {
    s->kernel = qnet_interp_kernel_of(op->opcode);
    if (s->kernel != NULL) return QNET_OK;
    return qnet_error(d, op->loc, "'%s' cannot run in a function of level %s",
                      qnet_op_def_of(op->opcode)->name, qnet_level_name(in->module->level));
  }
  s->symbol = qnet_op_symbol(in->module, op, "sym");
  if (s->symbol == NULL || s->symbol->type == NULL)
    return qnet_error(d, op->loc, "'%s' names no constant or state of the module",
                      qnet_op_def_of(op->opcode)->name);
  if (op->opcode == QNET_OP_WRITE) in->writes = true;
  return QNET_OK;
}

static qnet_status add_step(qnet_interp *in, const qnet_op *op, qnet_diag *d) {
  step *s = &in->step[in->step_count];
  *s = (step){.op = op};
  QNET_TRY(bind_step(in, s, d));
  s->in = qnet_arena_array(&in->arena, (size_t)op->operand_count, sizeof s->in[0]);
  s->out = qnet_arena_array(&in->arena, (size_t)op->result_count, sizeof s->out[0]);
  if (s->in == NULL || s->out == NULL) return qnet_out_of_memory(d);
  for (int i = 0; i < op->operand_count; i++) {
    s->in[i] = in->slot_of[op->operand[i]->id];
    in->slot[s->in[i]].last_step = in->step_count;
  }
  for (int i = 0; i < op->result_count; i++) {
    s->out[i] = in->slot_of[op->result[i].id];
    in->slot[s->out[i]].last_step = in->step_count;
  }
  in->max_operands = max_of(in->max_operands, op->operand_count);
  in->max_results = max_of(in->max_results, op->result_count);
  in->step_count++;
  return QNET_OK;
}

static qnet_status flatten_region(qnet_interp *in, const qnet_region *region, int depth,
                                  qnet_diag *d) {
  for (const qnet_op *op = region->first; op != NULL; op = op->next) {
    if (depth >= QNET_INTERP_MAX_DEPTH)
      return qnet_error(d, op->loc, "regions nest deeper than %d", QNET_INTERP_MAX_DEPTH);
    if (op->opcode == QNET_OP_YIELD) continue;
    if (op->opcode == QNET_OP_BITS_KERNEL) {
      QNET_TRY(flatten_kernel(in, op, depth, d));
    } else {
      QNET_TRY(add_step(in, op, d));
    }
  }
  return QNET_OK;
}

static qnet_status bind_results(qnet_interp *in, qnet_diag *d) {
  const qnet_region *body = in->function->body;
  const qnet_op *yield = body->last;
  if (yield == NULL || yield->opcode != QNET_OP_YIELD)
    return qnet_error(d, in->function->loc, "function '@%s' does not end in 'yield'",
                      in->function->name);
  in->result_count = yield->operand_count;
  in->result = qnet_arena_array(&in->arena, (size_t)in->result_count, sizeof in->result[0]);
  in->arg = qnet_arena_array(&in->arena, (size_t)body->arg_count, sizeof in->arg[0]);
  in->in = qnet_arena_array(&in->arena, (size_t)in->max_operands, sizeof(qnet_blob *));
  in->out = qnet_arena_array(&in->arena, (size_t)in->max_results, sizeof(qnet_blob *));
  if (in->result == NULL || in->arg == NULL || in->in == NULL || in->out == NULL)
    return qnet_out_of_memory(d);
  for (int i = 0; i < in->result_count; i++) {
    in->result[i] = in->slot_of[yield->operand[i]->id];
    in->slot[in->result[i]].last_step = INT32_MAX;
  }
  for (int i = 0; i < body->arg_count; i++)
    in->arg[i] = in->slot_of[body->arg[i].id];
  return QNET_OK;
}

static qnet_status prepare(qnet_interp *in, qnet_diag *d) {
  const qnet_symbol *f = in->function;
  if (in->module->level == QNET_LEVEL_LOOP)
    return qnet_loop_program_create(in->module, f, &in->loop, d);
  in->slot_count = qnet_function_number_values(f);
  const int ops = qnet_interp_count_ops(f->body, 0);
  in->step = qnet_arena_array(&in->arena, (size_t)ops, sizeof in->step[0]);
  in->slot = qnet_arena_array(&in->arena, (size_t)in->slot_count, sizeof in->slot[0]);
  in->slot_of = qnet_arena_array(&in->arena, (size_t)in->slot_count, sizeof in->slot_of[0]);
  if (in->step == NULL || in->slot == NULL || in->slot_of == NULL) return qnet_out_of_memory(d);
  for (int i = 0; i < in->slot_count; i++)
    in->slot_of[i] = i;
  QNET_TRY(flatten_region(in, f->body, 0, d));
  return bind_results(in, d);
}

qnet_status qnet_interp_create(const qnet_module *m, const char *function, qnet_interp **out,
                               qnet_diag *d) {
  *out = NULL;
  const qnet_symbol *f = qnet_symbol_find(m, function);
  if (f == NULL || f->kind != QNET_SYMBOL_FUNC)
    return qnet_error_in(d, m->name, "the module has no function '@%s'", function);
  qnet_interp *in = qnet_alloc(m->allocator, sizeof *in);
  if (in == NULL) return qnet_out_of_memory(d);
  in->allocator = m->allocator;
  in->module = m;
  in->function = f;
  qnet_arena_init(&in->arena, m->allocator);
  const qnet_status status = prepare(in, d);
  if (status != QNET_OK) {
    qnet_interp_destroy(in);
    return status;
  }
  *out = in;
  return QNET_OK;
}

void qnet_interp_destroy(qnet_interp *in) {
  if (in == NULL) return;
  qnet_loop_program_destroy(in->loop);
  qnet_arena_clear(&in->arena);
  qnet_free(in->allocator, in, sizeof *in);
}

/* ---- running -------------------------------------------------------------------------------- */

static void slot_set(slot *s, qnet_blob *blob, bool owned) {
  s->blob = blob;
  s->owned = owned;
}

static void slot_clear(slot *s) {
  if (s->owned) qnet_blob_release(s->blob);
  slot_set(s, NULL, false);
}

static qnet_status run_read(qnet_interp *in, const step *s, qnet_diag *d) {
  const qnet_symbol *symbol = s->symbol;
  if (symbol->blob == NULL) {
    qnet_error(d, s->op->loc, "'@%s' has no content", symbol->name);
    if (symbol->origin != NULL) qnet_note(d, symbol->loc, "load it from %s", symbol->origin);
    return QNET_ERROR;
  }
  if (!qnet_interp_fits(symbol->blob, s->op->result[0].type))
    return qnet_error(d, s->op->loc, "the content of '@%s' does not have its type", symbol->name);
  const bool keep = in->writes && symbol->kind == QNET_SYMBOL_STATE;
  slot_set(&in->slot[s->out[0]], keep ? qnet_blob_retain(symbol->blob) : symbol->blob, keep);
  return QNET_OK;
}

/* A borrowed blob may be overwritten by its owner later, so the state gets a copy of it. */
static qnet_status run_write(qnet_interp *in, const step *s, qnet_diag *d) {
  const slot *value = &in->slot[s->in[0]];
  if (value->owned) {
    qnet_symbol_set_blob(s->symbol, value->blob);
    return QNET_OK;
  }
  const qnet_blob *from = value->blob;
  qnet_blob *copy = qnet_blob_create(in->allocator, from->dtype, from->rank, from->dim);
  if (copy == NULL) return qnet_out_of_memory(d);
  memcpy(copy->data, from->data, from->bytes);
  qnet_symbol_set_blob(s->symbol, copy);
  qnet_blob_release(copy);
  return QNET_OK;
}

static qnet_status run_kernel(qnet_interp *in, const step *s, qnet_diag *d) {
  for (int i = 0; i < s->op->operand_count; i++)
    in->in[i] = in->slot[s->in[i]].blob;
  memset(in->out, 0, (size_t)s->op->result_count * sizeof in->out[0]);
  const qnet_status status = s->kernel(in->module, s->op, in->in, in->out);
  for (int i = 0; i < s->op->result_count; i++)
    slot_set(&in->slot[s->out[i]], in->out[i], true);
  if (status == QNET_NO_MEMORY) return qnet_out_of_memory(d);
  if (status != QNET_OK)
    qnet_error(d, s->op->loc, "'%s' cannot run on these operands",
               qnet_op_def_of(s->op->opcode)->name);
  return status;
}

static qnet_status run_step(qnet_interp *in, const step *s, qnet_diag *d) {
  if (s->kernel != NULL) return run_kernel(in, s, d);
  return s->op->opcode == QNET_OP_READ ? run_read(in, s, d) : run_write(in, s, d);
}

static void clear_dead_slots(qnet_interp *in, int index) {
  const step *s = &in->step[index];
  for (int i = 0; i < s->op->operand_count; i++)
    if (in->slot[s->in[i]].last_step == index) slot_clear(&in->slot[s->in[i]]);
  for (int i = 0; i < s->op->result_count; i++)
    if (in->slot[s->out[i]].last_step == index) slot_clear(&in->slot[s->out[i]]);
}

static qnet_status run_steps(qnet_interp *in, qnet_diag *d) {
  for (int i = 0; i < in->step_count; i++) {
    QNET_TRY(run_step(in, &in->step[i], d));
    clear_dead_slots(in, i);
  }
  return QNET_OK;
}

static qnet_status check_call(const qnet_interp *in, qnet_blob *const *args, int arg_count,
                              int result_count, qnet_diag *d) {
  const qnet_symbol *f = in->function;
  if (arg_count != f->body->arg_count || result_count != in->result_count)
    return qnet_error(d, f->loc, "'@%s' has %d arguments and %d results; called with %d and %d",
                      f->name, f->body->arg_count, in->result_count, arg_count, result_count);
  for (int i = 0; i < arg_count; i++)
    if (!qnet_interp_fits(args[i], f->body->arg[i].type))
      return qnet_error(d, f->loc, "argument %d of '@%s' does not have the argument's type", i,
                        f->name);
  return QNET_OK;
}

qnet_status qnet_interp_run(qnet_interp *in, qnet_blob *const *args, int arg_count,
                            qnet_blob **results, int result_count, qnet_diag *d) {
  QNET_TRY(check_call(in, args, arg_count, result_count, d));
  if (in->loop != NULL) return qnet_loop_program_run(in->loop, args, d);
  for (int i = 0; i < arg_count; i++)
    slot_set(&in->slot[in->arg[i]], args[i], false);
  const qnet_status status = run_steps(in, d);
  for (int i = 0; i < result_count; i++)
    results[i] = status == QNET_OK ? qnet_blob_retain(in->slot[in->result[i]].blob) : NULL;
  for (int i = 0; i < in->slot_count; i++)
    slot_clear(&in->slot[i]);
  return status;
}
