/* Functions and loops of the LLVM module.
 *
 *   NAME_run(args...)                          each parallel loop is one call of its body
 *   NAME_run_mt(args..., parallel_for, ctx)    ... or goes through the caller's parallel_for
 *   NAME.body.K(record, begin, end)            internal: iterations begin..end-1 of loop K; the
 *                                              record holds the arguments and the loop's first
 * index
 *
 * A body makes views, constants and reads of the outer level again at its beginning, on demand.
 * Loops come rotated (test at the end, one guard before), so that no pass has to do it. */
#include "codegen/emit_llvm.h"

#include "codegen/llvm_support.h"
#include "ir/ops.h"

#include <llvm-c/Analysis.h>
#include <stdio.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

static qnet_status emit_region(qnet_emitter *e, const qnet_region *region);

/* ---- helpers for all emitters ---------------------------------------------------------------- */

LLVMValueRef qnet_emit_fail(qnet_emitter *e, const qnet_op *op, const char *why) {
  e->status = qnet_error(e->diag, op->loc, "code generation: '%s' %s",
                         qnet_op_def_of(op->opcode)->name, why);
  return NULL;
}

LLVMTypeRef qnet_emit_dtype(const qnet_emitter *e, qnet_dtype dtype) {
  switch (dtype) {
  case QNET_F32: return LLVMFloatTypeInContext(e->context);
  case QNET_F64: return LLVMDoubleTypeInContext(e->context);
  case QNET_I1: return LLVMInt1TypeInContext(e->context);
  default: return LLVMIntTypeInContext(e->context, (unsigned)qnet_dtype_bytes(dtype) * 8);
  }
}

LLVMTypeRef qnet_emit_type(const qnet_emitter *e, const qnet_type *type) {
  if (type->kind == QNET_TYPE_BUFFER) return e->ptr;
  LLVMTypeRef element = qnet_emit_dtype(e, type->dtype);
  return type->kind == QNET_TYPE_VECTOR ? LLVMVectorType(element, (unsigned)type->dim[0]) : element;
}

LLVMTypeRef qnet_emit_type_like(LLVMTypeRef type, LLVMTypeRef shape) {
  const bool vector = LLVMGetTypeKind(shape) == LLVMVectorTypeKind;
  return vector ? LLVMVectorType(type, LLVMGetVectorSize(shape)) : type;
}

LLVMValueRef qnet_emit_int(LLVMTypeRef type, uint64_t v) {
  if (LLVMGetTypeKind(type) != LLVMVectorTypeKind) return LLVMConstInt(type, v, false);
  enum { MAX_LANES = 256 };
  LLVMValueRef lane[MAX_LANES];
  const unsigned lanes = LLVMGetVectorSize(type);
  if (lanes > MAX_LANES) return LLVMGetUndef(type); /* the verifier of the IR forbids it */
  for (unsigned i = 0; i < lanes; i++) {
    lane[i] = LLVMConstInt(LLVMGetElementType(type), v, false);
  }
  return LLVMConstVector(lane, lanes);
}

LLVMValueRef qnet_emit_splat(qnet_emitter *e, LLVMValueRef scalar, unsigned lanes) {
  LLVMTypeRef type = LLVMVectorType(LLVMTypeOf(scalar), lanes);
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->context);
  LLVMValueRef first = LLVMBuildInsertElement(e->builder, LLVMGetPoison(type), scalar,
                                              LLVMConstInt(i32, 0, false), "");
  return LLVMBuildShuffleVector(e->builder, first, LLVMGetPoison(type),
                                LLVMConstNull(LLVMVectorType(i32, lanes)), "");
}

LLVMValueRef qnet_emit_i64(const qnet_emitter *e, int64_t v) {
  return LLVMConstInt(e->i64, (uint64_t)v, true);
}

LLVMValueRef qnet_emit_intrinsic(qnet_emitter *e, const char *name, LLVMTypeRef *overloads,
                                 size_t overload_count, LLVMValueRef *args, unsigned count) {
  const unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  LLVMValueRef function = LLVMGetIntrinsicDeclaration(e->llvm, id, overloads, overload_count);
  LLVMTypeRef type = LLVMIntrinsicGetType(e->context, id, overloads, overload_count);
  return LLVMBuildCall2(e->builder, type, function, args, count, "");
}

/* Vector registers that are spilled to a stack of smaller alignment split cache lines. */
static unsigned stack_alignment(const qnet_machine *m) {
  const int words = m->lanes * m->word_bits / 8, floats = m->f32_lanes * 4;
  return (unsigned)(words > floats ? words : floats);
}

static void add_attribute(qnet_emitter *e, LLVMValueRef function, const char *name, uint64_t v) {
  const unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
  if (kind == 0) return; /* another LLVM spells it differently; attributes are only facts */
  LLVMAddAttributeAtIndex(function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(e->context, kind, v));
}

static void add_text_attribute(qnet_emitter *e, LLVMValueRef function, const char *name,
                               const char *v) {
  if (v[0] == '\0') return;
  LLVMAttributeRef attribute =
      LLVMCreateStringAttribute(e->context, name, (unsigned)strlen(name), v, (unsigned)strlen(v));
  LLVMAddAttributeAtIndex(function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, attribute);
}

LLVMValueRef qnet_emit_function(qnet_emitter *e, const char *name, LLVMTypeRef type,
                                LLVMLinkage linkage) {
  const qnet_target_choice *t = e->options->target;
  LLVMValueRef function = LLVMAddFunction(e->llvm, name, type);
  LLVMSetLinkage(function, linkage);
  add_attribute(e, function, "nounwind", 0);
  const unsigned align = stack_alignment(&t->machine);
  if (align > 16) add_attribute(e, function, "alignstack", align);
  add_text_attribute(e, function, "target-cpu", t->cpu);
  add_text_attribute(e, function, "target-features", t->features);
  return function;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Makes a value of the function's top level again in the entry block of a body. */
static LLVMValueRef make_again(qnet_emitter *e, const qnet_op *user, const qnet_value *v) {
  const qnet_op *def = v->def;
  const bool possible = e->entry != NULL && def != NULL && def->parent == e->eval->body &&
                        (def->opcode == QNET_OP_LOOP_VIEW || def->opcode == QNET_OP_READ ||
                         def->opcode == QNET_OP_LOOP_CONST);
  if (!possible) return qnet_emit_fail(e, user, "uses a value that its loop cannot see");
  LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder);
  LLVMPositionBuilderAtEnd(e->builder, e->entry);
  LLVMValueRef made = qnet_emit_find(def->opcode)(e, def);
  LLVMPositionBuilderAtEnd(e->builder, here);
  return made;
}

LLVMValueRef qnet_emit_value(qnet_emitter *e, const qnet_op *user, const qnet_value *v) {
  if (e->value[v->id] == NULL) e->value[v->id] = make_again(e, user, v);
  return e->value[v->id];
}

LLVMValueRef qnet_emit_operand(qnet_emitter *e, const qnet_op *op, int i) {
  return qnet_emit_value(e, op, op->operand[i]);
}

/* ---- loops ----------------------------------------------------------------------------------- */

typedef struct loop {
  const qnet_op *op;
  int carried;
  LLVMBasicBlockRef before, body, after;
  LLVMValueRef *init;
} loop;

static LLVMValueRef add_phi(qnet_emitter *e, loop *l, int i) {
  const qnet_value *arg = &l->op->region[0]->arg[1 + i];
  LLVMValueRef phi = LLVMBuildPhi(e->builder, qnet_emit_type(e, arg->type), "");
  LLVMAddIncoming(phi, &l->init[i], &l->before, 1);
  e->value[arg->id] = phi;
  return phi;
}

/* Joins what the loop carried with what it would have been without an iteration. */
static void finish_carried(qnet_emitter *e, loop *l, LLVMValueRef *phi, LLVMBasicBlockRef end,
                           LLVMValueRef *result) {
  const qnet_op *yield = l->op->region[0]->last;
  for (int i = 0; i < l->carried; i++) {
    LLVMValueRef next = e->value[yield->operand[i]->id];
    LLVMAddIncoming(phi[i], &next, &end, 1);
    result[i] = LLVMBuildPhi(e->builder, LLVMTypeOf(phi[i]), "");
    LLVMAddIncoming(result[i], &l->init[i], &l->before, 1);
    LLVMAddIncoming(result[i], &next, &end, 1);
  }
}

/* The values that the yield of a loop names must be at hand before its block ends. */
static bool touch_yield(qnet_emitter *e, const loop *l) {
  const qnet_op *yield = l->op->region[0]->last;
  for (int i = 0; i < l->carried; i++) {
    if (qnet_emit_operand(e, yield, i) == NULL) return false;
  }
  return true;
}

/* for (i = lo; i < hi; i += step) region; result receives the carried values. */
static qnet_status emit_loop(qnet_emitter *e, loop *l, LLVMValueRef lo, LLVMValueRef hi,
                             LLVMValueRef *result) {
  const qnet_region *region = l->op->region[0];
  if (++e->depth > MAX_DEPTH) {
    qnet_emit_fail(e, l->op, "is nested too deeply");
    return e->status;
  }
  LLVMValueRef *phi = qnet_arena_array(&e->scratch, (size_t)l->carried + 1, sizeof *phi);
  if (phi == NULL) return qnet_out_of_memory(e->diag);
  l->before = LLVMGetInsertBlock(e->builder);
  l->body = LLVMAppendBasicBlockInContext(e->context, e->function, "loop");
  l->after = LLVMAppendBasicBlockInContext(e->context, e->function, "after");
  LLVMValueRef enters = LLVMBuildICmp(e->builder, LLVMIntSLT, lo, hi, "");
  LLVMBuildCondBr(e->builder, enters, l->body, l->after);

  LLVMPositionBuilderAtEnd(e->builder, l->body);
  LLVMValueRef i = LLVMBuildPhi(e->builder, e->i64, "i");
  LLVMAddIncoming(i, &lo, &l->before, 1);
  e->value[region->arg[0].id] = i;
  for (int k = 0; k < l->carried; k++)
    phi[k] = add_phi(e, l, k);
  QNET_TRY(emit_region(e, region));
  if (!touch_yield(e, l)) return e->status;
  LLVMValueRef step = qnet_emit_i64(e, qnet_op_int(l->op, "step", 1));
  LLVMValueRef next = LLVMBuildNSWAdd(e->builder, i, step, "");
  LLVMValueRef again = LLVMBuildICmp(e->builder, LLVMIntSLT, next, hi, "");
  LLVMBuildCondBr(e->builder, again, l->body, l->after);
  LLVMBasicBlockRef end = LLVMGetInsertBlock(e->builder);
  LLVMAddIncoming(i, &next, &end, 1);

  LLVMPositionBuilderAtEnd(e->builder, l->after);
  finish_carried(e, l, phi, end, result);
  e->depth--;
  return QNET_OK;
}

static qnet_status emit_for(qnet_emitter *e, const qnet_op *op) {
  loop l = {.op = op, .carried = op->result_count};
  const size_t n = (size_t)l.carried + 1;
  l.init = qnet_arena_array(&e->scratch, n, sizeof *l.init);
  LLVMValueRef *result = qnet_arena_array(&e->scratch, n, sizeof *result);
  if (l.init == NULL || result == NULL) return qnet_out_of_memory(e->diag);
  LLVMValueRef lo = qnet_emit_operand(e, op, 0), hi = qnet_emit_operand(e, op, 1);
  if (lo == NULL || hi == NULL) return e->status;
  for (int i = 0; i < l.carried; i++) {
    l.init[i] = qnet_emit_operand(e, op, 2 + i);
    if (l.init[i] == NULL) return e->status;
  }
  QNET_TRY(emit_loop(e, &l, lo, hi, result));
  for (int i = 0; i < l.carried; i++)
    e->value[op->result[i].id] = result[i];
  return QNET_OK;
}

/* ---- parallel loops -------------------------------------------------------------------------- */

static LLVMValueRef record_field(qnet_emitter *e, LLVMValueRef record, int i) {
  return LLVMBuildStructGEP2(e->builder, e->record_type, record, (unsigned)i, "");
}

/* begin and end count iterations; the loop's own index is lo + iteration * step. */
static qnet_status emit_body_code(qnet_emitter *e, const qnet_op *op, LLVMValueRef first) {
  LLVMValueRef step = qnet_emit_i64(e, qnet_op_int(op, "step", 1)), bound[2];
  for (unsigned i = 0; i < 2; i++) {
    LLVMValueRef scaled = LLVMBuildNSWMul(e->builder, LLVMGetParam(e->function, 1 + i), step, "");
    bound[i] = LLVMBuildNSWAdd(e->builder, first, scaled, "");
  }
  loop l = {.op = op};
  QNET_TRY(emit_loop(e, &l, bound[0], bound[1], NULL));
  LLVMBuildRetVoid(e->builder);
  return QNET_OK;
}

static qnet_status emit_body_function(qnet_emitter *e, const qnet_op *op) {
  const qnet_region *outer = e->eval->body;
  e->entry = LLVMAppendBasicBlockInContext(e->context, e->function, "entry");
  LLVMBasicBlockRef start = LLVMAppendBasicBlockInContext(e->context, e->function, "start");
  LLVMPositionBuilderAtEnd(e->builder, e->entry);
  LLVMValueRef record = LLVMGetParam(e->function, 0);
  for (int i = 0; i < outer->arg_count; i++) {
    e->value[outer->arg[i].id] = LLVMBuildLoad2(e->builder, e->ptr, record_field(e, record, i), "");
  }
  LLVMValueRef first =
      LLVMBuildLoad2(e->builder, e->i64, record_field(e, record, outer->arg_count), "first");
  /* A constant bound is better known than loaded. */
  const qnet_op *lo = op->operand[0]->def;
  if (lo != NULL && lo->opcode == QNET_OP_LOOP_CONST) {
    first = qnet_emit_i64(e, qnet_op_int(lo, "int", 0));
  }
  LLVMPositionBuilderAtEnd(e->builder, start);
  QNET_TRY(emit_body_code(e, op, first));
  LLVMPositionBuilderAtEnd(e->builder, e->entry);
  LLVMBuildBr(e->builder, start);
  return QNET_OK;
}

/* Outlines the next parallel loop; the second entry finds it made. */
static qnet_status outline(qnet_emitter *e, const qnet_op *op, LLVMValueRef *function) {
  const int k = e->body_next++;
  if (e->body[k] == NULL) {
    const qnet_emitter outer = *e;
    char *name = qnet_arena_printf(&e->scratch, "%s.body.%d", e->options->name, k);
    LLVMValueRef *value = qnet_arena_array(&e->scratch, (size_t)e->value_count + 1, sizeof *value);
    if (name == NULL || value == NULL) return qnet_out_of_memory(e->diag);
    LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder);
    e->value = value;
    e->function = e->body[k] = qnet_emit_function(e, name, e->body_type, LLVMInternalLinkage);
    QNET_TRY(emit_body_function(e, op));
    LLVMPositionBuilderAtEnd(e->builder, here);
    e->value = outer.value;
    e->function = outer.function;
    e->entry = outer.entry;
  }
  *function = e->body[k];
  return QNET_OK;
}

/* max(0, ceil((hi - lo) / step)) */
static LLVMValueRef iterations(qnet_emitter *e, LLVMValueRef lo, LLVMValueRef hi, int64_t step) {
  LLVMBuilderRef b = e->builder;
  LLVMValueRef span = LLVMBuildNSWSub(b, hi, lo, "");
  LLVMValueRef up = LLVMBuildNSWAdd(b, span, qnet_emit_i64(e, step - 1), "");
  LLVMValueRef n = LLVMBuildSDiv(b, up, qnet_emit_i64(e, step), "");
  LLVMValueRef any = LLVMBuildICmp(b, LLVMIntSLT, lo, hi, "");
  return LLVMBuildSelect(b, any, n, qnet_emit_i64(e, 0), "");
}

static qnet_status emit_parallel(qnet_emitter *e, const qnet_op *op) {
  if (e->record == NULL || e->entry != NULL) {
    qnet_emit_fail(e, op, "stands inside another loop");
    return e->status;
  }
  LLVMValueRef lo = qnet_emit_operand(e, op, 0), hi = qnet_emit_operand(e, op, 1);
  if (lo == NULL || hi == NULL) return e->status;
  LLVMValueRef body = NULL;
  QNET_TRY(outline(e, op, &body));
  LLVMBuildStore(e->builder, lo, record_field(e, e->record, e->eval->body->arg_count));
  LLVMValueRef n = iterations(e, lo, hi, qnet_op_int(op, "step", 1));
  if (e->parallel_for == NULL) {
    LLVMValueRef args[] = {e->record, qnet_emit_i64(e, 0), n};
    LLVMBuildCall2(e->builder, e->body_type, body, args, 3, "");
    return QNET_OK;
  }
  LLVMTypeRef params[] = {e->ptr, e->ptr, e->ptr, e->i64};
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(e->context), params, 4, false);
  LLVMValueRef args[] = {e->parallel_context, body, e->record, n};
  LLVMBuildCall2(e->builder, type, e->parallel_for, args, 4, "");
  return QNET_OK;
}

/* ---- regions --------------------------------------------------------------------------------- */

static qnet_status emit_op(qnet_emitter *e, const qnet_op *op) {
  if (op->opcode == QNET_OP_LOOP_FOR) return emit_for(e, op);
  if (op->opcode == QNET_OP_LOOP_PARALLEL_FOR) return emit_parallel(e, op);
  const qnet_emit_fn emit = qnet_emit_find(op->opcode);
  if (emit == NULL) {
    qnet_emit_fail(e, op, "has no code; lower the module to loops and plan its memory first");
    return e->status;
  }
  LLVMValueRef made = emit(e, op);
  if (made == NULL) return e->status;
  if (op->result_count > 0) e->value[op->result[0].id] = made;
  return QNET_OK;
}

static qnet_status emit_region(qnet_emitter *e, const qnet_region *region) {
  for (const qnet_op *op = region->first; op != NULL; op = op->next) {
    if (op->opcode != QNET_OP_YIELD) QNET_TRY(emit_op(e, op));
  }
  return QNET_OK;
}

/* ---- entries --------------------------------------------------------------------------------- */

/* An i1 that is true when a pointer is NULL or the arena is not aligned. */
static LLVMValueRef bad_arguments(qnet_emitter *e) {
  const int n = e->eval->body->arg_count;
  LLVMBuilderRef b = e->builder;
  LLVMValueRef bad = LLVMConstInt(LLVMInt1TypeInContext(e->context), 0, false);
  for (unsigned i = 0; i < (unsigned)n; i++) {
    bad = LLVMBuildOr(b, bad, LLVMBuildIsNull(b, LLVMGetParam(e->function, i), ""), "");
  }
  if (e->parallel_for != NULL) {
    bad = LLVMBuildOr(b, bad, LLVMBuildIsNull(b, e->parallel_for, ""), "");
  }
  if (!qnet_emit_has_arena(e->eval)) return bad;
  LLVMValueRef bits = LLVMBuildPtrToInt(b, LLVMGetParam(e->function, (unsigned)n - 1), e->i64, "");
  LLVMValueRef low = LLVMBuildAnd(b, bits, qnet_emit_i64(e, QNET_EMIT_ALIGN - 1), "");
  LLVMValueRef askew = LLVMBuildICmp(b, LLVMIntNE, low, qnet_emit_i64(e, 0), "");
  return LLVMBuildOr(b, bad, askew, "");
}

static qnet_status emit_entry_code(qnet_emitter *e) {
  const qnet_region *body = e->eval->body;
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->context);
  LLVMBasicBlockRef entry = LLVMAppendBasicBlockInContext(e->context, e->function, "entry");
  LLVMBasicBlockRef refuse = LLVMAppendBasicBlockInContext(e->context, e->function, "refuse");
  LLVMBasicBlockRef start = LLVMAppendBasicBlockInContext(e->context, e->function, "start");
  LLVMPositionBuilderAtEnd(e->builder, entry);
  e->record = LLVMBuildAlloca(e->builder, e->record_type, "record");
  LLVMBuildCondBr(e->builder, bad_arguments(e), refuse, start);
  LLVMPositionBuilderAtEnd(e->builder, refuse);
  LLVMBuildRet(e->builder, LLVMConstInt(i32, 1, false));
  LLVMPositionBuilderAtEnd(e->builder, start);
  for (int i = 0; i < body->arg_count; i++) {
    LLVMValueRef arg = LLVMGetParam(e->function, (unsigned)i);
    e->value[body->arg[i].id] = arg;
    LLVMBuildStore(e->builder, arg, record_field(e, e->record, i));
  }
  QNET_TRY(emit_region(e, body));
  LLVMBuildRet(e->builder, LLVMConstNull(i32));
  return QNET_OK;
}

/* Buffers of one call do not overlap. */
static void add_noalias(qnet_emitter *e, LLVMValueRef function, int count) {
  const unsigned kind = LLVMGetEnumAttributeKindForName("noalias", 7);
  for (int i = 0; i < count && kind != 0; i++) {
    LLVMAddAttributeAtIndex(function, (LLVMAttributeIndex)(1 + i),
                            LLVMCreateEnumAttribute(e->context, kind, 0));
  }
}

static qnet_status emit_entry(qnet_emitter *e, bool parallel) {
  const int n = e->eval->body->arg_count;
  const unsigned count = (unsigned)n + (parallel ? 2 : 0);
  LLVMTypeRef *params = qnet_arena_array(&e->scratch, count + 1, sizeof *params);
  char *name = qnet_arena_printf(&e->scratch, parallel ? "%s_run_mt" : "%s_run", e->options->name);
  e->value = qnet_arena_array(&e->scratch, (size_t)e->value_count + 1, sizeof *e->value);
  if (params == NULL || name == NULL || e->value == NULL) return qnet_out_of_memory(e->diag);
  for (unsigned i = 0; i < count; i++)
    params[i] = e->ptr;
  LLVMTypeRef type = LLVMFunctionType(LLVMInt32TypeInContext(e->context), params, count, false);
  e->function = qnet_emit_function(e, name, type, LLVMExternalLinkage);
  add_noalias(e, e->function, n);
  e->parallel_for = parallel ? LLVMGetParam(e->function, (unsigned)n) : NULL;
  e->parallel_context = parallel ? LLVMGetParam(e->function, (unsigned)n + 1) : NULL;
  e->body_next = 0;
  return emit_entry_code(e);
}

/* ---- the module ------------------------------------------------------------------------------ */

static qnet_status check_arguments(const qnet_symbol *function, qnet_diag *d) {
  for (int i = 0; i < function->body->arg_count; i++) {
    if (function->body->arg[i].type->kind == QNET_TYPE_BUFFER) continue;
    return qnet_error(d, function->loc, "argument %d of @%s is not a buffer", i, function->name);
  }
  return QNET_OK;
}

static qnet_status check_module(const qnet_module *m, const qnet_symbol *eval, bool functions,
                                qnet_diag *d) {
  if (m->level != QNET_LEVEL_LOOP) {
    return qnet_error_in(d, m->name, "code is made of the level loop, not of %s",
                         qnet_level_name(m->level));
  }
  for (const qnet_symbol *s = m->first_symbol; s != NULL && functions; s = s->next) {
    if (s->kind == QNET_SYMBOL_FUNC) QNET_TRY(check_arguments(s, d));
  }
  if (functions) return QNET_OK;
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC) {
    return qnet_error_in(d, m->name, "the module has no function @eval");
  }
  return check_arguments(eval, d);
}

static qnet_status prepare(qnet_emitter *e) {
  const qnet_region *body = e->eval->body;
  e->i8 = LLVMInt8TypeInContext(e->context);
  e->i64 = LLVMInt64TypeInContext(e->context);
  e->ptr = LLVMPointerTypeInContext(e->context, 0);
  e->no_content = LLVMMetadataAsValue(e->context, LLVMMDNodeInContext2(e->context, NULL, 0));
  LLVMTypeRef params[] = {e->ptr, e->i64, e->i64};
  e->body_type = LLVMFunctionType(LLVMVoidTypeInContext(e->context), params, 3, false);
  const unsigned fields = (unsigned)body->arg_count + 1;
  LLVMTypeRef *field = qnet_arena_array(&e->scratch, fields, sizeof *field);
  for (const qnet_op *op = body->first; op != NULL; op = op->next) {
    e->body_count += op->opcode == QNET_OP_LOOP_PARALLEL_FOR;
  }
  e->body = qnet_arena_array(&e->scratch, (size_t)e->body_count + 1, sizeof *e->body);
  if (field == NULL || e->body == NULL) return qnet_out_of_memory(e->diag);
  for (unsigned i = 0; i < fields; i++)
    field[i] = i + 1 < fields ? e->ptr : e->i64;
  e->record_type = LLVMStructTypeInContext(e->context, field, fields, false);
  return qnet_emit_places(e);
}

/* void NAME(void *const *buffers) */
static qnet_status emit_plain(qnet_emitter *e) {
  const qnet_region *body = e->eval->body;
  e->value = qnet_arena_array(&e->scratch, (size_t)e->value_count + 1, sizeof *e->value);
  if (e->value == NULL) return qnet_out_of_memory(e->diag);
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(e->context), &e->ptr, 1, false);
  e->function = qnet_emit_function(e, e->eval->name, type, LLVMExternalLinkage);
  LLVMPositionBuilderAtEnd(e->builder,
                           LLVMAppendBasicBlockInContext(e->context, e->function, "entry"));
  for (int i = 0; i < body->arg_count; i++) {
    LLVMValueRef index = qnet_emit_i64(e, i);
    LLVMValueRef slot =
        LLVMBuildInBoundsGEP2(e->builder, e->ptr, LLVMGetParam(e->function, 0), &index, 1, "");
    e->value[body->arg[i].id] = LLVMBuildLoad2(e->builder, e->ptr, slot, "");
  }
  QNET_TRY(emit_region(e, body));
  LLVMBuildRetVoid(e->builder);
  return QNET_OK;
}

static qnet_status emit_functions(qnet_emitter *e) {
  for (const qnet_symbol *s = e->module->first_symbol; s != NULL; s = s->next) {
    if (s->kind != QNET_SYMBOL_FUNC) continue;
    e->eval = s;
    e->value_count = qnet_function_number_values(s);
    QNET_TRY(prepare(e));
    QNET_TRY(emit_plain(e));
  }
  return QNET_OK;
}

static qnet_status emit_entries(qnet_emitter *e) {
  e->value_count = qnet_function_number_values(e->eval);
  QNET_TRY(prepare(e));
  QNET_TRY(emit_entry(e, false));
  return emit_entry(e, true);
}

static qnet_status emit_all(qnet_emitter *e) {
  QNET_TRY(e->options->functions ? emit_functions(e) : emit_entries(e));
  char *message = NULL;
  qnet_status status = QNET_OK;
  if (LLVMVerifyModule(e->llvm, LLVMReturnStatusAction, &message)) {
    qnet_error_in(e->diag, e->module->name, "internal error: invalid LLVM IR: %s", message);
    status = QNET_INTERNAL;
  }
  LLVMDisposeMessage(message);
  return status;
}

qnet_status qnet_emit_llvm(const qnet_module *m, const qnet_emit_options *options,
                           LLVMContextRef context, LLVMModuleRef *out, qnet_diag *d) {
  *out = NULL;
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  QNET_TRY(check_module(m, eval, options->functions, d));
  LLVMTargetMachineRef machine = qnet_llvm_machine_of(options->target, d);
  if (machine == NULL) return QNET_ERROR;
  qnet_emitter e = {
      .module = m,
      .options = options,
      .diag = d,
      .eval = eval,
      .context = context,
      .llvm = LLVMModuleCreateWithNameInContext(options->name, context),
      .builder = LLVMCreateBuilderInContext(context),
  };
  qnet_arena_init(&e.scratch, m->allocator);
  qnet_llvm_set_target(e.llvm, machine);
  LLVMDisposeTargetMachine(machine);
  const qnet_status status = emit_all(&e);
  LLVMDisposeBuilder(e.builder);
  qnet_arena_clear(&e.scratch);
  if (status == QNET_OK) {
    *out = e.llvm;
  } else {
    LLVMDisposeModule(e.llvm);
  }
  return status;
}
