/* Memory: addresses with the alignment that can be proved, loads, stores, views of the arena, and
 * constants.
 *
 * Arguments of an entry do not overlap, and neither do views of disjoint byte ranges; accesses
 * carry that as alias scopes. Constants never change: their loads are invariant. */
#include "codegen/emit_llvm.h"

#include "ir/ops.h"

#include <stdio.h>
#include <string.h>

enum { ALIGN_LOG2 = 6, MAX_PROOF_DEPTH = 8 };

static int smaller(int a, int b) {
  return a < b ? a : b;
}

/* ---- places and alias scopes ----------------------------------------------------------------- */

bool qnet_emit_has_arena(const qnet_symbol *eval) {
  const int n = eval->body->arg_count;
  return n >= 3 && eval->body->arg[n - 1].type->dtype == QNET_I8 &&
         eval->body->arg[n - 1].type->rank == 1;
}

static int64_t buffer_bytes(const qnet_type *type) {
  return qnet_type_elements(type) * qnet_dtype_bytes(type->dtype);
}

static void place_view(qnet_emitter *e, const qnet_op *op) {
  const qnet_emit_place *base = &e->place[op->operand[0]->id];
  const int64_t begin = base->begin + qnet_op_int(op, "offset", 0);
  e->place[op->result[0].id] = (qnet_emit_place){
      .base = base->base, .begin = begin, .end = begin + buffer_bytes(op->result[0].type)};
}

qnet_status qnet_emit_places(qnet_emitter *e) {
  e->place = qnet_arena_array(&e->scratch, (size_t)e->value_count + 1, sizeof *e->place);
  if (e->place == NULL) return qnet_out_of_memory(e->diag);
  for (int i = 0; i < e->value_count; i++)
    e->place[i].base = -1;
  const qnet_region *body = e->eval->body;
  for (int i = 0; i < body->arg_count; i++) {
    e->place[body->arg[i].id] =
        (qnet_emit_place){.base = i, .end = buffer_bytes(body->arg[i].type)};
  }
  for (const qnet_op *op = body->first; op != NULL; op = op->next) {
    if (op->opcode == QNET_OP_LOOP_VIEW) place_view(e, op);
  }
  return QNET_OK;
}

static bool is_disjoint(const qnet_emit_place *a, const qnet_emit_place *b) {
  return a->base != b->base || a->end <= b->begin || b->end <= a->begin;
}

static LLVMMetadataRef scope_node(qnet_emitter *e, int id) {
  char name[32];
  snprintf(name, sizeof name, "buffer %d", id);
  LLVMMetadataRef domain_name = LLVMMDStringInContext2(e->context, "buffers", 7);
  LLVMMetadataRef parts[2] = {LLVMMDStringInContext2(e->context, name, strlen(name)),
                              LLVMMDNodeInContext2(e->context, &domain_name, 1)};
  return LLVMMDNodeInContext2(e->context, parts, 2);
}

static void make_scopes(qnet_emitter *e, int id) {
  qnet_emit_place *p = &e->place[id];
  LLVMMetadataRef *others =
      qnet_arena_array(&e->scratch, (size_t)e->value_count + 1, sizeof *others);
  if (others == NULL) return; /* only a lost fact */
  size_t count = 0;
  for (int i = 0; i < e->value_count; i++) {
    const qnet_emit_place *q = &e->place[i];
    if (q->base >= 0 && is_disjoint(p, q)) others[count++] = scope_node(e, i);
  }
  LLVMMetadataRef own = scope_node(e, id);
  p->scope = LLVMMetadataAsValue(e->context, LLVMMDNodeInContext2(e->context, &own, 1));
  p->noalias = LLVMMetadataAsValue(e->context, LLVMMDNodeInContext2(e->context, others, count));
}

static void set_metadata(qnet_emitter *e, LLVMValueRef access, const char *kind,
                         LLVMValueRef node) {
  LLVMSetMetadata(access, LLVMGetMDKindIDInContext(e->context, kind, (unsigned)strlen(kind)), node);
}

/* Tells LLVM what the access to `buffer` may overlap. */
static void annotate(qnet_emitter *e, LLVMValueRef access, const qnet_value *buffer) {
  qnet_emit_place *p = &e->place[buffer->id];
  const bool load = LLVMGetInstructionOpcode(access) == LLVMLoad;
  if (buffer->def != NULL && buffer->def->opcode == QNET_OP_READ) {
    if (load) set_metadata(e, access, "invariant.load", e->no_content);
    return;
  }
  if (p->base < 0) return;
  if (p->scope == NULL) make_scopes(e, buffer->id);
  if (p->scope == NULL) return;
  set_metadata(e, access, "alias.scope", p->scope);
  set_metadata(e, access, "noalias", p->noalias);
}

/* ---- alignment ------------------------------------------------------------------------------- */

static int zeros(int64_t v) {
  return v == 0 ? ALIGN_LOG2 : smaller(ALIGN_LOG2, __builtin_ctzll((uint64_t)v));
}

static int known_zeros(const qnet_value *v, int depth);

/* Low zero bits of a loop variable: those of the first value and of the step. */
static int variable_zeros(const qnet_value *v, int depth) {
  const qnet_op *loop = v->region != NULL ? v->region->parent : NULL;
  if (loop == NULL || v->index != 0) return 0;
  if (loop->opcode != QNET_OP_LOOP_FOR && loop->opcode != QNET_OP_LOOP_PARALLEL_FOR) return 0;
  return smaller(zeros(qnet_op_int(loop, "step", 1)), known_zeros(loop->operand[0], depth));
}

/* How many low bits of an index are known to be zero. */
static int known_zeros(const qnet_value *v, int depth) {
  if (depth == 0) return 0;
  depth--;
  if (v->def == NULL) return variable_zeros(v, depth);
  const qnet_op *op = v->def;
  switch (op->opcode) {
  case QNET_OP_LOOP_CONST: return zeros(qnet_op_int(op, "int", 0));
  case QNET_OP_LOOP_ADD:
  case QNET_OP_LOOP_SUB:
    return smaller(known_zeros(op->operand[0], depth), known_zeros(op->operand[1], depth));
  case QNET_OP_LOOP_MUL:
    return smaller(ALIGN_LOG2,
                   known_zeros(op->operand[0], depth) + known_zeros(op->operand[1], depth));
  default: return 0;
  }
}

/* log2 of the alignment of a buffer's first byte. */
static int buffer_zeros(const qnet_emitter *e, const qnet_value *buffer) {
  const qnet_op *op = buffer->def;
  if (op == NULL) {
    const bool arena =
        qnet_emit_has_arena(e->eval) && buffer->index == e->eval->body->arg_count - 1;
    return arena ? ALIGN_LOG2 : zeros(qnet_dtype_bytes(buffer->type->dtype));
  }
  if (op->opcode != QNET_OP_LOOP_VIEW) return ALIGN_LOG2; /* a constant */
  const qnet_emit_place *p = &e->place[buffer->id];
  const qnet_value *base = p->base >= 0 ? &e->eval->body->arg[p->base] : NULL;
  return base != NULL ? smaller(zeros(p->begin), buffer_zeros(e, base)) : 0;
}

/* ---- addresses ------------------------------------------------------------------------------- */

typedef struct address {
  LLVMValueRef pointer;
  unsigned align;
} address;

/* The address that operands first (buffer) and those behind it (indices) name; of the indices, the
 * scalar ones: others differ from lane to lane. */
static address find_address(qnet_emitter *e, const qnet_op *op, int first) {
  const address none = {NULL, 0};
  const qnet_value *buffer = op->operand[first];
  const qnet_type *type = buffer->type;
  LLVMValueRef pointer = qnet_emit_operand(e, op, first);
  if (pointer == NULL) return none;
  if (op->operand_count - first - 1 != type->rank) {
    qnet_emit_fail(e, op, "has not one index for each dimension of its buffer");
    return none;
  }
  int aligned = buffer_zeros(e, buffer);
  int64_t stride = qnet_dtype_bytes(type->dtype);
  LLVMValueRef offset = qnet_emit_i64(e, 0);
  for (int k = type->rank - 1; k >= 0; stride *= type->dim[k--]) {
    if (op->operand[first + 1 + k]->type->kind == QNET_TYPE_VECTOR) continue;
    LLVMValueRef index = qnet_emit_operand(e, op, first + 1 + k);
    if (index == NULL) return none;
    LLVMValueRef term = LLVMBuildNSWMul(e->builder, index, qnet_emit_i64(e, stride), "");
    offset = LLVMBuildNSWAdd(e->builder, term, offset, "");
    const int term_zeros = zeros(stride) + known_zeros(op->operand[first + 1 + k], MAX_PROOF_DEPTH);
    aligned = smaller(aligned, term_zeros);
  }
  const address a = {
      LLVMBuildInBoundsGEP2(e->builder, e->i8, pointer, &offset, 1, ""),
      1u << aligned,
  };
  return a;
}

/* One-bit lanes lie in memory as one byte each. */
static LLVMTypeRef memory_type(const qnet_emitter *e, const qnet_type *type) {
  LLVMTypeRef t = qnet_emit_type(e, type);
  return type->dtype == QNET_I1 ? qnet_emit_type_like(e->i8, t) : t;
}

LLVMValueRef qnet_emit_load(qnet_emitter *e, const qnet_op *op) {
  const address a = find_address(e, op, 0);
  if (a.pointer == NULL) return NULL;
  LLVMTypeRef type = memory_type(e, op->result[0].type);
  LLVMValueRef load = LLVMBuildLoad2(e->builder, type, a.pointer, "");
  LLVMSetAlignment(load, a.align);
  annotate(e, load, op->operand[0]);
  if (op->result[0].type->dtype != QNET_I1) return load;
  return LLVMBuildICmp(e->builder, LLVMIntNE, load, LLVMConstNull(type), "");
}

LLVMValueRef qnet_emit_store(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef value = qnet_emit_operand(e, op, 0);
  const address a = find_address(e, op, 1);
  if (value == NULL || a.pointer == NULL) return NULL;
  const qnet_type *type = op->operand[0]->type;
  if (type->dtype == QNET_I1) {
    value = LLVMBuildZExt(e->builder, value, memory_type(e, type), "");
  }
  LLVMValueRef store = LLVMBuildStore(e->builder, value, a.pointer);
  LLVMSetAlignment(store, a.align);
  annotate(e, store, op->operand[1]);
  return store;
}

/* ---- an address a lane ----------------------------------------------------------------------- */

/* llvm.masked.gather of all lanes; since LLVM 22 the alignment is an attribute of the address. */
static LLVMValueRef masked_gather(qnet_emitter *e, LLVMTypeRef type, LLVMValueRef at,
                                  unsigned align) {
  LLVMTypeRef i1 = LLVMInt1TypeInContext(e->context);
  LLVMTypeRef overloads[2] = {type, LLVMTypeOf(at)};
  LLVMValueRef mask = LLVMConstAllOnes(qnet_emit_type_like(i1, type)), rest = LLVMGetUndef(type);
#if LLVM_VERSION_MAJOR >= 22
  LLVMValueRef args[3] = {at, mask, rest};
  LLVMValueRef gather = qnet_emit_intrinsic(e, "llvm.masked.gather", overloads, 2, args, 3);
  const unsigned kind = LLVMGetEnumAttributeKindForName("align", 5);
  if (gather != NULL)
    LLVMAddCallSiteAttribute(gather, 1, LLVMCreateEnumAttribute(e->context, kind, align));
  return gather;
#else
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->context);
  LLVMValueRef args[4] = {at, LLVMConstInt(i32, align, false), mask, rest};
  return qnet_emit_intrinsic(e, "llvm.masked.gather", overloads, 2, args, 4);
#endif
}

LLVMValueRef qnet_emit_gather(qnet_emitter *e, const qnet_op *op) {
  const address a = find_address(e, op, 0);
  LLVMValueRef index = qnet_emit_operand(e, op, op->operand_count - 1);
  if (a.pointer == NULL || index == NULL) return NULL;
  LLVMTypeRef type = qnet_emit_type(e, op->result[0].type);
  LLVMValueRef at =
      LLVMBuildInBoundsGEP2(e->builder, LLVMGetElementType(type), a.pointer, &index, 1, "");
  const unsigned align = (unsigned)qnet_dtype_bytes(op->result[0].type->dtype);
  LLVMValueRef gather = masked_gather(e, type, at, align);
  if (gather != NULL) annotate(e, gather, op->operand[0]);
  return gather;
}

/* Lane `n` of a and b as a vector of two. */
static LLVMValueRef pair_of(qnet_emitter *e, LLVMValueRef a, LLVMValueRef b, int64_t n,
                            int64_t lanes) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->context);
  LLVMValueRef pick[2] = {LLVMConstInt(i32, (uint64_t)n, false),
                          LLVMConstInt(i32, (uint64_t)(n + lanes), false)};
  return LLVMBuildShuffleVector(e->builder, a, b, LLVMConstVector(pick, 2), "");
}

/* Lane by lane: with the scatter of AVX-512 it took half as long again (AMD EPYC). */
LLVMValueRef qnet_emit_scatter_add(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef a = qnet_emit_operand(e, op, 0), b = qnet_emit_operand(e, op, 1);
  LLVMValueRef buffer = qnet_emit_operand(e, op, 2), row = qnet_emit_operand(e, op, 3);
  LLVMValueRef column = qnet_emit_operand(e, op, 4), store = NULL;
  if (a == NULL || b == NULL || buffer == NULL || row == NULL || column == NULL) return NULL;
  const int64_t lanes = op->operand[0]->type->dim[0];
  LLVMTypeRef two = LLVMVectorType(LLVMFloatTypeInContext(e->context), 2);
  LLVMValueRef columns = qnet_emit_i64(e, op->operand[2]->type->dim[1]);
  buffer = LLVMBuildInBoundsGEP2(e->builder, two, buffer, &column, 1, "");
  for (int64_t n = 0; n < lanes; n++) {
    LLVMValueRef lane = qnet_emit_i64(e, n);
    LLVMValueRef at = LLVMBuildExtractElement(e->builder, row, lane, "");
    at = LLVMBuildNSWMul(e->builder, LLVMBuildZExt(e->builder, at, e->i64, ""), columns, "");
    at = LLVMBuildNSWAdd(e->builder, at, lane, "");
    LLVMValueRef pointer = LLVMBuildInBoundsGEP2(e->builder, two, buffer, &at, 1, "");
    LLVMValueRef load = LLVMBuildLoad2(e->builder, two, pointer, "");
    LLVMValueRef sum = LLVMBuildFAdd(e->builder, load, pair_of(e, a, b, n, lanes), "");
    store = LLVMBuildStore(e->builder, sum, pointer);
    LLVMSetAlignment(load, sizeof(float));
    LLVMSetAlignment(store, sizeof(float));
    annotate(e, load, op->operand[2]);
    annotate(e, store, op->operand[2]);
  }
  return store;
}

LLVMValueRef qnet_emit_zero(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef pointer = qnet_emit_operand(e, op, 0);
  if (pointer == NULL) return NULL;
  const unsigned align = 1u << buffer_zeros(e, op->operand[0]);
  LLVMValueRef set = LLVMBuildMemSet(e->builder, pointer, LLVMConstNull(e->i8),
                                     qnet_emit_i64(e, buffer_bytes(op->operand[0]->type)), align);
  annotate(e, set, op->operand[0]);
  return set;
}

LLVMValueRef qnet_emit_view(qnet_emitter *e, const qnet_op *op) {
  LLVMValueRef base = qnet_emit_operand(e, op, 0);
  if (base == NULL) return NULL;
  LLVMValueRef offset = qnet_emit_i64(e, qnet_op_int(op, "offset", 0));
  return LLVMBuildInBoundsGEP2(e->builder, e->i8, base, &offset, 1, "");
}

/* ---- constants ------------------------------------------------------------------------------- */

static LLVMValueRef constant_global(qnet_emitter *e, const qnet_symbol *s, size_t bytes) {
  char *name = qnet_arena_printf(&e->scratch, "const.%s", s->name);
  if (name == NULL) {
    e->status = qnet_out_of_memory(e->diag);
    return NULL;
  }
  LLVMValueRef global = LLVMGetNamedGlobal(e->llvm, name);
  if (global != NULL) return global;
  LLVMValueRef content = LLVMConstStringInContext2(e->context, s->blob->data, bytes, true);
  global = LLVMAddGlobal(e->llvm, LLVMTypeOf(content), name);
  LLVMSetInitializer(global, content);
  LLVMSetGlobalConstant(global, true);
  LLVMSetLinkage(global, LLVMInternalLinkage);
  LLVMSetUnnamedAddress(global, LLVMGlobalUnnamedAddr);
  LLVMSetSection(global, ".rodata.qnet");
  LLVMSetAlignment(global, QNET_EMIT_ALIGN);
  return global;
}

LLVMValueRef qnet_emit_read(qnet_emitter *e, const qnet_op *op) {
  const qnet_symbol *s = qnet_op_symbol(e->module, op, "sym");
  if (s == NULL || s->kind != QNET_SYMBOL_CONST) {
    return qnet_emit_fail(e, op, "reads something that is not a constant");
  }
  const size_t bytes = (size_t)buffer_bytes(s->type);
  if (s->blob == NULL || s->blob->bytes < bytes) {
    return qnet_emit_fail(e, op, "reads a constant without content; load the weights first");
  }
  if (!e->options->in_place) return constant_global(e, s, bytes);
  return LLVMConstIntToPtr(qnet_emit_i64(e, (int64_t)(intptr_t)s->blob->data), e->ptr);
}
