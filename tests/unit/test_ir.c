/* Unit tests: building, uses, replacing, cloning, sweeping, interned types, blobs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ir/ops.h"
#include "ir/text.h"
#include <stdlib.h>
#include <string.h>

static const qnet_type *f32(qnet_module *m, int64_t n, int64_t c) {
  const int64_t dim[] = {n, c};
  return qnet_type_tensor(m, QNET_F32, 2, dim);
}

static qnet_module *new_module(void) {
  qnet_module *m = qnet_module_create(qnet_allocator_system(), "test", QNET_LEVEL_NN);
  assert_non_null(m);
  return m;
}

static qnet_value *build_relu(qnet_builder *b, qnet_value *x) {
  return qnet_build1(b, QNET_OP_RELU, &x, 1, x->type);
}

static qnet_value *build_add(qnet_builder *b, qnet_value *x, qnet_value *y) {
  qnet_value *in[] = {x, y};
  return qnet_build1(b, QNET_OP_ADD, in, 2, x->type);
}

static char *print(const qnet_module *m) {
  qnet_strbuf b;
  qnet_strbuf_init(&b, qnet_allocator_system());
  qnet_module_print(m, 0, &b);
  assert_false(b.failed);
  char *text = strdup(qnet_strbuf_text(&b));
  qnet_strbuf_free(&b);
  return text;
}

/* func @eval(x) { a = relu x; b = add a a; c = relu b (unused); yield b } beside @w, which is read
 * by an unused read, and @unused. */
typedef struct sample {
  qnet_module *m;
  qnet_symbol *f;
  qnet_value *x, *a, *b, *c;
} sample;

static sample new_sample(void) {
  sample s = {.m = new_module()};
  const qnet_type *t = f32(s.m, 1, 4);
  qnet_blob *blob = qnet_type_new_blob(qnet_allocator_system(), t);
  qnet_symbol *w = qnet_symbol_add_data(s.m, QNET_SYMBOL_CONST, "w", t, blob, QNET_NO_LOC);
  qnet_symbol_add_data(s.m, QNET_SYMBOL_CONST, "unused", t, blob, QNET_NO_LOC);
  assert_int_equal(blob->refs, 3);
  qnet_blob_release(blob);
  s.f = qnet_symbol_add_func(s.m, "eval", &t, 1, QNET_NO_LOC);
  s.x = &s.f->body->arg[0];
  qnet_builder at = qnet_builder_at_end(s.m, s.f->body);
  s.a = build_relu(&at, s.x);
  s.b = build_add(&at, s.a, s.a);
  s.c = build_relu(&at, s.b);
  build_relu(&at, qnet_build_read(&at, w));
  qnet_build_yield(&at, &s.b, 1);
  assert_false(s.m->failed);
  return s;
}

static void types_are_interned(void **state) {
  (void)state;
  qnet_module *m = new_module(), *other = new_module();
  const int64_t dim[] = {2, 3};
  const qnet_type *t = qnet_type_tensor(m, QNET_F32, 2, dim);
  assert_ptr_equal(t, qnet_type_tensor(m, QNET_F32, 2, dim));
  assert_ptr_not_equal(t, qnet_type_buffer(m, QNET_F32, 2, dim));
  assert_ptr_not_equal(t, qnet_type_tensor(m, QNET_I32, 2, dim));
  assert_ptr_equal(qnet_type_codes(m, 2, "q", 2, dim), qnet_type_codes(m, 2, "q", 2, dim));
  assert_ptr_not_equal(qnet_type_codes(m, 2, "q", 2, dim), qnet_type_codes(m, 2, "r", 2, dim));
  assert_ptr_equal(t, qnet_type_with_batch(m, qnet_type_with_batch(m, t, 7), 2));
  const qnet_type *there = qnet_type_import(other, qnet_type_codes(m, 2, "q", 2, dim));
  assert_ptr_equal(there, qnet_type_codes(other, 2, "q", 2, dim));
  for (int64_t i = 1; i < 1000; i++)
    assert_ptr_equal(f32(m, i, 5), f32(m, i, 5));
  assert_ptr_equal(t, qnet_type_tensor(m, QNET_F32, 2, dim)); /* the table has grown */
  qnet_module_destroy(m);
  qnet_module_destroy(other);
}

static void planes_know_their_blob(void **state) {
  (void)state;
  qnet_module *m = new_module();
  const int64_t dim[] = {1, 3, 3, 65};
  qnet_blob *b = qnet_type_new_blob(qnet_allocator_system(), qnet_type_planes(m, 2, 4, dim));
  assert_int_equal(b->rank, 5);
  assert_int_equal(b->dim[3], 2);
  assert_int_equal(b->dim[4], 2);
  assert_int_equal(b->bytes, 9 * 2 * 2 * 8);
  assert_int_equal((uintptr_t)b->data % 64, 0);
  qnet_blob_release(b);
  const int64_t huge[] = {INT64_MAX, INT64_MAX};
  assert_null(qnet_blob_create(qnet_allocator_system(), QNET_F32, 2, huge));
  qnet_module_destroy(m);
}

static void uses_follow_operands(void **state) {
  (void)state;
  sample s = new_sample();
  assert_int_equal(qnet_value_use_count(s.a), 2);
  assert_ptr_equal(qnet_value_single_user(s.a), s.b->def);
  assert_int_equal(qnet_value_use_count(s.b), 2);
  assert_null(qnet_value_single_user(s.b));
  qnet_op_set_operand(s.m, s.b->def, 1, s.x);
  assert_int_equal(qnet_value_use_count(s.a), 1);
  assert_int_equal(qnet_value_use_count(s.x), 2);
  qnet_value_replace(s.m, s.a, s.x);
  assert_int_equal(qnet_value_use_count(s.a), 0);
  assert_ptr_equal(s.b->def->operand[0], s.x);
  assert_int_equal(qnet_value_use_count(s.x), 3);
  qnet_op_erase(s.a->def);
  assert_int_equal(qnet_value_use_count(s.x), 2);
  assert_ptr_equal(s.f->body->first, s.b->def);
  assert_false(s.m->failed);
  qnet_module_destroy(s.m);
}

static void builders_and_moves_keep_order(void **state) {
  (void)state;
  sample s = new_sample();
  qnet_builder before = qnet_builder_before(s.m, s.b->def);
  qnet_op *p = build_relu(&before, s.x)->def;
  qnet_builder after = qnet_builder_after(s.m, s.b->def);
  qnet_op *q = build_relu(&after, s.x)->def;
  assert_ptr_equal(s.a->def->next, p);
  assert_ptr_equal(p->next, s.b->def);
  assert_ptr_equal(s.b->def->next, q);
  assert_ptr_equal(q->next, s.c->def);
  qnet_op_move(q, s.f->body, s.a->def);
  assert_ptr_equal(s.f->body->first, q);
  assert_ptr_equal(s.a->def->prev, q);
  qnet_op_move(q, s.f->body, NULL);
  assert_ptr_equal(s.f->body->last, q);
  qnet_module_destroy(s.m);
}

static void null_passes_through(void **state) {
  (void)state;
  sample s = new_sample();
  qnet_builder at = qnet_builder_at_end(s.m, s.f->body);
  const qnet_op *last = s.f->body->last;
  qnet_value *none = NULL;
  assert_null(qnet_build1(&at, QNET_OP_RELU, &none, 1, s.x->type));
  assert_true(s.m->failed);
  assert_ptr_equal(s.f->body->last, last);
  qnet_module_destroy(s.m);
}

static void attributes_replace_each_other(void **state) {
  (void)state;
  sample s = new_sample();
  qnet_op *op = s.a->def;
  qnet_op_set_int(s.m, op, "n", 3);
  qnet_op_set_ints(s.m, op, "l", (const int64_t[]){1, 2}, 2);
  qnet_op_set_float(s.m, op, "n", 0.5);
  assert_string_equal(op->attrs->name, "n");
  assert_int_equal(qnet_op_int(op, "n", -1), -1);
  assert_true(qnet_op_float(op, "n", 0) == 0.5);
  assert_int_equal(qnet_op_attr(op, "l")->count, 2);
  assert_null(qnet_op_string(op, "absent"));
  qnet_op_set_symbol(s.m, op, "sym", "w");
  assert_string_equal(qnet_op_symbol(s.m, op, "sym")->name, "w");
  qnet_module_destroy(s.m);
}

static void sweep_keeps_what_is_used(void **state) {
  (void)state;
  sample s = new_sample();
  const int64_t dim[] = {1, 4};
  qnet_symbol_add_table(s.m, "codes", 1, 2, 1, true, QNET_NO_LOC);
  qnet_symbol_add_table(s.m, "lost", 1, 2, 1, true, QNET_NO_LOC);
  const qnet_type *codes = qnet_type_codes(s.m, 1, "codes", 2, dim);
  qnet_builder first = qnet_builder_before(s.m, s.f->body->first);
  qnet_build1(&first, QNET_OP_FLATTEN, &s.x, 1, codes);
  qnet_builder last = qnet_builder_before(s.m, s.f->body->last);
  qnet_symbol *kept =
      qnet_symbol_add_data(s.m, QNET_SYMBOL_STATE, "kept", codes, NULL, QNET_NO_LOC);
  qnet_build_write(&last, kept, s.b);
  qnet_module_sweep(s.m);
  char *text = print(s.m);
  assert_string_equal(text, "module @test nn {\n"
                            "  func @eval(%0: tensor<1x4xf32>) {\n"
                            "    %1 = nn.relu(%0) : tensor<1x4xf32>\n"
                            "    %2 = nn.add(%1, %1) : tensor<1x4xf32>\n"
                            "    write @kept, %2\n"
                            "    yield %2\n"
                            "  }\n"
                            "  table @codes { bits = 1, scale = [0], levels = [0, 0], "
                            "thresholds = [0], perm = [0, 0] }\n"
                            "  state @kept : tensor<1x4xq1:@codes> = elided\n"
                            "}\n");
  free(text);
  assert_null(qnet_symbol_find(s.m, "lost"));
  assert_non_null(
      qnet_symbol_add_data(s.m, QNET_SYMBOL_CONST, "lost", s.x->type, NULL, QNET_NO_LOC));
  qnet_module_destroy(s.m);
}

/* A loop with a body, to copy. */
static qnet_op *build_loop(sample *s) {
  const qnet_type *i64 = qnet_type_scalar(s->m, QNET_I64);
  qnet_builder at = qnet_builder_before(s->m, s->f->body->last);
  qnet_op *loop =
      qnet_build(&at, QNET_OP_LOOP_FOR, (qnet_value *[]){s->x, s->x, s->a}, 3, &s->a->type, 1);
  qnet_op_set_int(s->m, loop, "step", 1);
  qnet_region *body = qnet_op_add_region(s->m, loop, (const qnet_type *[]){i64, s->a->type}, 2);
  body->arg[0].name = "i";
  qnet_builder in = qnet_builder_at_end(s->m, body);
  qnet_value *sum = build_add(&in, &body->arg[1], s->x);
  qnet_build_yield(&in, &sum, 1);
  qnet_op_set_operand(s->m, s->f->body->last, 0, qnet_op_result(loop, 0));
  assert_ptr_equal(body->function, s->f);
  return loop;
}

static void module_clone_is_independent(void **state) {
  (void)state;
  sample s = new_sample();
  build_loop(&s);
  qnet_module *copy = qnet_module_clone(s.m);
  assert_non_null(copy);
  char *before = print(s.m), *text = print(copy);
  assert_string_equal(before, text);
  assert_ptr_equal(qnet_symbol_find(copy, "w")->blob, qnet_symbol_find(s.m, "w")->blob);
  qnet_module_sweep(copy);
  char *again = print(s.m);
  assert_string_equal(before, again);
  qnet_module_destroy(s.m);
  char *swept = print(copy);
  assert_string_not_equal(before, swept);
  free(before);
  free(text);
  free(again);
  free(swept);
  qnet_module_destroy(copy);
}

static void op_clone_maps_values(void **state) {
  (void)state;
  sample s = new_sample();
  qnet_op *loop = build_loop(&s);
  qnet_value *map[32] = {0};
  assert_true(qnet_function_number_values(s.f) < 32);
  map[s.a->id] = s.b;
  qnet_builder at = qnet_builder_before(s.m, s.f->body->last);
  qnet_op *copy = qnet_op_clone(&at, loop, map);
  assert_non_null(copy);
  assert_ptr_equal(copy->operand[0], s.x); /* not in the map */
  assert_ptr_equal(copy->operand[2], s.b);
  assert_ptr_equal(map[loop->result[0].id], &copy->result[0]);
  const qnet_region *body = copy->region[0];
  assert_ptr_equal(body->first->operand[0], &body->arg[1]);
  assert_ptr_equal(body->last->operand[0], &body->first->result[0]);
  assert_string_equal(body->arg[0].name, "i");
  assert_int_equal(qnet_op_int(copy, "step", 0), 1);
  const int uses = qnet_value_use_count(s.x);
  qnet_op_erase(copy);
  assert_int_equal(qnet_value_use_count(s.x), uses - 3);
  qnet_module_destroy(s.m);
}

static void walk_sees_all(void **state) {
  (void)state;
  sample s = new_sample();
  const qnet_op *loop = build_loop(&s);
  int count = 0;
  for (const qnet_op *op = s.f->body->first; op; op = qnet_op_walk(op, s.f->body))
    count++;
  assert_int_equal(count, 9);
  count = 0;
  const qnet_region *body = loop->region[0];
  for (const qnet_op *op = body->first; op; op = qnet_op_walk(op, body))
    count++;
  assert_int_equal(count, 2);
  qnet_module_destroy(s.m);
}

static void windows_never_overflow(void **state) {
  (void)state;
  qnet_window w = {.kernel_h = 3, .stride_h = 2, .pad_top = 1, .pad_bottom = 1, .dilation_h = 1};
  assert_int_equal(qnet_window_out_h(&w, 8), 4);
  w.dilation_h = w.kernel_h = INT64_MAX;
  assert_int_equal(qnet_window_out_h(&w, 8), 0);
  w = (qnet_window){.kernel_h = 1, .stride_h = 1, .pad_top = INT64_MAX, .dilation_h = 1};
  assert_int_equal(qnet_window_out_h(&w, INT64_MAX), INT64_MAX);
  w.stride_h = 0;
  assert_int_equal(qnet_window_out_h(&w, 8), 0);
}

static void op_tables_are_sound(void **state) {
  (void)state;
  for (int i = 0; i < QNET_OP_COUNT; i++) {
    const qnet_op_def *d = qnet_op_def_of(i);
    assert_int_equal(qnet_opcode_find(d->name), i);
    const char *schema = d->attrs;
    qnet_attr_spec spec;
    while ((schema = qnet_attr_spec_next(schema, &spec)) != NULL) {
      const char *kind = qnet_attr_kind_name(spec.kind);
      assert_non_null(strstr(d->attrs, spec.name));
      assert_non_null(strstr(d->attrs, kind));
    }
  }
  assert_int_equal(qnet_opcode_find("nn.nothing"), -1);
  assert_true(qnet_op_legal_at(QNET_OP_RELU, QNET_LEVEL_BITS));
  assert_false(qnet_op_legal_at(QNET_OP_RELU, QNET_LEVEL_LOOP));
  assert_false(qnet_op_legal_at(QNET_OP_BITS_CONV2D, QNET_LEVEL_QUANT));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(types_are_interned),       cmocka_unit_test(planes_know_their_blob),
      cmocka_unit_test(uses_follow_operands),     cmocka_unit_test(builders_and_moves_keep_order),
      cmocka_unit_test(null_passes_through),      cmocka_unit_test(attributes_replace_each_other),
      cmocka_unit_test(sweep_keeps_what_is_used), cmocka_unit_test(module_clone_is_independent),
      cmocka_unit_test(op_clone_maps_values),     cmocka_unit_test(walk_sees_all),
      cmocka_unit_test(windows_never_overflow),   cmocka_unit_test(op_tables_are_sound),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
