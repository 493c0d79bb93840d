/* f32 layers by oneDNN. Activations stay plain N,H,W,C. Weights and their gradients are
 * O,KH,KW,I outside; inside they have the format that oneDNN likes, reordered at every run (they
 * change at every step, and are small). Algorithm: direct convolution only; what oneDNN would
 * choose itself may be Winograd, whose results are not those of the definition. */
#include "codegen/primitives.h"
#include <dnnl.h>
#include <string.h>

struct qnet_onednn {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
};

/* One tensor of a primitive: `user` in our layout, `inner` in the primitive's. */
typedef struct argument {
  dnnl_memory_t user, inner; /* the same object when the layouts are equal */
  dnnl_primitive_t reorder;  /* between them, or NULL */
} argument;

enum { ARG_A, ARG_B, ARG_BIAS, ARG_OUT, ARGS };

struct qnet_primitive {
  dnnl_stream_t stream;
  dnnl_primitive_t primitive;
  argument arg[ARGS];
  dnnl_exec_arg_t exec[ARGS];
  int exec_count;
};

static qnet_status report(dnnl_status_t status, const char *what, qnet_diag *d) {
  if (status == dnnl_success) return QNET_OK;
  if (status == dnnl_out_of_memory) return qnet_out_of_memory(d);
  qnet_error(d, QNET_NO_LOC, "oneDNN refuses to %s (status %d)", what, (int)status);
  return QNET_INTERNAL;
}

/* Forwards a failed call of oneDNN. */
#define DNNL_TRY(call, what, d)                                                                    \
  do {                                                                                             \
    const dnnl_status_t dnnl_try_ = (call);                                                        \
    if (dnnl_try_ != dnnl_success) return report(dnnl_try_, what, d);                              \
  } while (0)

qnet_status qnet_onednn_create(qnet_arena *arena, qnet_onednn **out, qnet_diag *d) {
  qnet_onednn *e = *out = qnet_arena_alloc(arena, sizeof *e);
  if (e == NULL) return qnet_out_of_memory(d);
  DNNL_TRY(dnnl_engine_create(&e->engine, dnnl_cpu, 0), "start", d);
  return report(dnnl_stream_create(&e->stream, e->engine, dnnl_stream_default_flags), "start", d);
}

void qnet_onednn_destroy(qnet_onednn *e) {
  if (e == NULL) return;
  if (e->stream != NULL) dnnl_stream_destroy(e->stream);
  if (e->engine != NULL) dnnl_engine_destroy(e->engine);
}

/* ---- layouts ----------------------------------------------------------------------------------*/

/* The tensors of a layer: as we hold them, and as the descriptor asks for them. */
typedef struct layouts {
  dnnl_memory_desc_t x, w, bias, y, any_w;
  dnnl_dims_t stride, dilation, pad_begin, pad_end;
} layouts;

static dnnl_status_t describe(dnnl_memory_desc_t *md, int rank, const int64_t *dim,
                              dnnl_format_tag_t tag) {
  dnnl_dims_t dims = {0};
  memcpy(dims, dim, sizeof *dim * (size_t)rank);
  return dnnl_memory_desc_init_by_tag(md, rank, dims, dnnl_f32, tag);
}

static qnet_status make_layouts(const qnet_layer_shape *s, layouts *l, qnet_diag *d) {
  const qnet_window *k = &s->window;
  const int rank = s->dense ? 2 : 4;
  const int64_t x[] = {s->n, s->in, s->h, s->w}, y[] = {s->n, s->out, s->oh, s->ow};
  const int64_t w[] = {s->out, s->in, k->kernel_h, k->kernel_w};
  const dnnl_format_tag_t image = s->dense ? dnnl_nc : dnnl_nhwc;
  const dnnl_format_tag_t weight = s->dense ? dnnl_oi : dnnl_ohwi;
  static const char what[] = "describe a layer";
  *l = (layouts){.stride = {k->stride_h, k->stride_w},
                 .dilation = {k->dilation_h - 1, k->dilation_w - 1},
                 .pad_begin = {k->pad_top, k->pad_left},
                 .pad_end = {k->pad_bottom, k->pad_right}};
  DNNL_TRY(describe(&l->x, rank, x, image), what, d);
  DNNL_TRY(describe(&l->y, rank, y, image), what, d);
  DNNL_TRY(describe(&l->w, rank, w, weight), what, d);
  DNNL_TRY(describe(&l->bias, 1, &s->out, dnnl_a), what, d);
  /* A dense layer is a matrix product, at home in the plain layout. */
  return report(describe(&l->any_w, rank, w, s->dense ? dnnl_oi : dnnl_format_tag_any), what, d);
}

/* ---- descriptors ------------------------------------------------------------------------------*/

static dnnl_status_t forward_descriptor(dnnl_engine_t engine, const qnet_layer_shape *s,
                                        const layouts *l, bool bias, bool training,
                                        const_dnnl_primitive_attr_t attr,
                                        dnnl_primitive_desc_t *out) {
  const dnnl_prop_kind_t kind = training ? dnnl_forward_training : dnnl_forward_inference;
  const dnnl_memory_desc_t *b = bias ? &l->bias : NULL;
  if (s->dense) {
    dnnl_inner_product_desc_t desc;
    const dnnl_status_t status =
        dnnl_inner_product_forward_desc_init(&desc, kind, &l->x, &l->any_w, b, &l->y);
    if (status != dnnl_success) return status;
    return dnnl_primitive_desc_create(out, &desc, attr, engine, NULL);
  }
  dnnl_convolution_desc_t desc;
  const dnnl_status_t status = dnnl_dilated_convolution_forward_desc_init(
      &desc, kind, dnnl_convolution_direct, &l->x, &l->any_w, b, &l->y, l->stride, l->dilation,
      l->pad_begin, l->pad_end);
  if (status != dnnl_success) return status;
  return dnnl_primitive_desc_create(out, &desc, attr, engine, NULL);
}

static dnnl_status_t gradient_descriptor(dnnl_engine_t engine, const qnet_layer_shape *s,
                                         const layouts *l, bool of_weight,
                                         const_dnnl_primitive_desc_t forward,
                                         dnnl_primitive_desc_t *out) {
  dnnl_inner_product_desc_t dense;
  dnnl_convolution_desc_t conv;
  dnnl_status_t status;
  if (s->dense)
    status =
        of_weight
            ? dnnl_inner_product_backward_weights_desc_init(&dense, &l->x, &l->any_w, NULL, &l->y)
            : dnnl_inner_product_backward_data_desc_init(&dense, &l->x, &l->any_w, &l->y);
  else if (of_weight)
    status = dnnl_dilated_convolution_backward_weights_desc_init(
        &conv, dnnl_convolution_direct, &l->x, &l->any_w, NULL, &l->y, l->stride, l->dilation,
        l->pad_begin, l->pad_end);
  else
    status = dnnl_dilated_convolution_backward_data_desc_init(
        &conv, dnnl_convolution_direct, &l->x, &l->any_w, &l->y, l->stride, l->dilation,
        l->pad_begin, l->pad_end);
  if (status != dnnl_success) return status;
  const void *desc = s->dense ? (const void *)&dense : &conv;
  return dnnl_primitive_desc_create(out, desc, NULL, engine, forward);
}

static dnnl_status_t relu_attribute(dnnl_primitive_attr_t *out) {
  dnnl_post_ops_t ops = NULL;
  dnnl_status_t status = dnnl_primitive_attr_create(out);
  if (status == dnnl_success) status = dnnl_post_ops_create(&ops);
  if (status == dnnl_success)
    status = dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_relu, 0, 0);
  if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(*out, ops);
  if (ops != NULL) dnnl_post_ops_destroy(ops);
  return status;
}

static dnnl_status_t descriptor(dnnl_engine_t engine, qnet_layer_pass pass,
                                const qnet_layer_shape *s, const layouts *l, bool bias, bool relu,
                                dnnl_primitive_desc_t *out) {
  dnnl_primitive_attr_t attr = NULL;
  dnnl_status_t status = relu ? relu_attribute(&attr) : dnnl_success;
  const bool forward = pass == QNET_LAYER_FORWARD;
  dnnl_primitive_desc_t hint = NULL;
  if (status == dnnl_success)
    status =
        forward_descriptor(engine, s, l, bias && forward, !forward, attr, forward ? out : &hint);
  if (status == dnnl_success && !forward)
    status = gradient_descriptor(engine, s, l, pass == QNET_LAYER_GRAD_WEIGHT, hint, out);
  if (hint != NULL) dnnl_primitive_desc_destroy(hint);
  if (attr != NULL) dnnl_primitive_attr_destroy(attr);
  return status;
}

/* ---- arguments --------------------------------------------------------------------------------*/

static dnnl_status_t make_reorder(dnnl_memory_t from, dnnl_memory_t to, dnnl_engine_t engine,
                                  dnnl_primitive_t *out) {
  const dnnl_memory_desc_t *a, *b;
  dnnl_memory_get_memory_desc(from, &a);
  dnnl_memory_get_memory_desc(to, &b);
  dnnl_primitive_desc_t desc = NULL;
  dnnl_status_t status = dnnl_reorder_primitive_desc_create(&desc, a, engine, b, engine, NULL);
  if (status == dnnl_success) status = dnnl_primitive_create(out, desc);
  if (desc != NULL) dnnl_primitive_desc_destroy(desc);
  return status;
}

/* Sets up one argument; a layout of its own gets memory in the arena and a reorder. */
static qnet_status make_argument(qnet_onednn *e, qnet_arena *arena, qnet_primitive *p, int which,
                                 int id, const dnnl_memory_desc_t *user,
                                 const dnnl_memory_desc_t *inner, qnet_diag *d) {
  static const char what[] = "set up a layer";
  argument *a = &p->arg[which];
  DNNL_TRY(dnnl_memory_create(&a->user, user, e->engine, DNNL_MEMORY_NONE), what, d);
  a->inner = a->user;
  if (!dnnl_memory_desc_equal(user, inner)) {
    void *data = qnet_arena_alloc_aligned(arena, dnnl_memory_desc_get_size(inner), 64);
    if (data == NULL) return qnet_out_of_memory(d);
    DNNL_TRY(dnnl_memory_create(&a->inner, inner, e->engine, data), what, d);
    const bool out = which == ARG_OUT;
    DNNL_TRY(
        make_reorder(out ? a->inner : a->user, out ? a->user : a->inner, e->engine, &a->reorder),
        what, d);
  }
  p->exec[p->exec_count++] = (dnnl_exec_arg_t){id, a->inner};
  return QNET_OK;
}

static qnet_status make_arguments(qnet_onednn *e, qnet_arena *arena, qnet_layer_pass pass,
                                  const layouts *l, bool bias, dnnl_primitive_desc_t desc,
                                  qnet_primitive *p, qnet_diag *d) {
  /* Argument, id, layout outside, which layout the primitive has. */
  const struct {
    int id[3];
    const dnnl_memory_desc_t *user[3];
    dnnl_query_t query[3];
  } table[] = {
      [QNET_LAYER_FORWARD] = {{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
                              {&l->x, &l->w, &l->y},
                              {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md}},
      [QNET_LAYER_GRAD_INPUT] = {{DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC},
                                 {&l->y, &l->w, &l->x},
                                 {dnnl_query_diff_dst_md, dnnl_query_weights_md,
                                  dnnl_query_diff_src_md}},
      [QNET_LAYER_GRAD_WEIGHT] = {{DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS},
                                  {&l->x, &l->y, &l->w},
                                  {dnnl_query_src_md, dnnl_query_diff_dst_md,
                                   dnnl_query_diff_weights_md}},
  };
  static const int slot[3] = {ARG_A, ARG_B, ARG_OUT};
  for (int i = 0; i < 3; i++)
    QNET_TRY(make_argument(e, arena, p, slot[i], table[pass].id[i], table[pass].user[i],
                           dnnl_primitive_desc_query_md(desc, table[pass].query[i], 0), d));
  if (!bias) return QNET_OK;
  return make_argument(e, arena, p, ARG_BIAS, DNNL_ARG_BIAS, &l->bias, &l->bias, d);
}

static qnet_status build(qnet_onednn *e, qnet_arena *arena, qnet_layer_pass pass,
                         const qnet_layer_shape *shape, bool bias, bool relu, qnet_primitive *p,
                         qnet_diag *d) {
  layouts l;
  dnnl_primitive_desc_t desc = NULL;
  QNET_TRY(make_layouts(shape, &l, d));
  qnet_status status =
      report(descriptor(e->engine, pass, shape, &l, bias, relu, &desc), "describe a layer", d);
  if (status == QNET_OK)
    status = report(dnnl_primitive_create(&p->primitive, desc), "make a layer", d);
  if (status == QNET_OK)
    status = make_arguments(e, arena, pass, &l, bias && pass == QNET_LAYER_FORWARD, desc, p, d);
  if (desc != NULL) dnnl_primitive_desc_destroy(desc);
  return status;
}

qnet_status qnet_primitive_create(qnet_onednn *e, qnet_arena *arena, qnet_layer_pass pass,
                                  const qnet_layer_shape *shape, bool bias, bool relu,
                                  qnet_primitive **out, qnet_diag *d) {
  qnet_primitive *p = *out = qnet_arena_alloc(arena, sizeof *p);
  if (p == NULL) return qnet_out_of_memory(d);
  p->stream = e->stream;
  return build(e, arena, pass, shape, bias, relu, p, d);
}

/* ---- the run ----------------------------------------------------------------------------------*/

static dnnl_status_t run_reorder(const qnet_primitive *p, const argument *a, bool out) {
  const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, out ? a->inner : a->user},
                                  {DNNL_ARG_TO, out ? a->user : a->inner}};
  return a->reorder != NULL ? dnnl_primitive_execute(a->reorder, p->stream, 2, args) : dnnl_success;
}

qnet_status qnet_primitive_run(qnet_primitive *p, const void *a, const void *b, const void *bias,
                               void *out, qnet_diag *d) {
  static const char what[] = "run a layer";
  /* oneDNN only reads inputs; its handles are not const. */
  void *const data[ARGS] = {(void *)(uintptr_t)a, (void *)(uintptr_t)b, (void *)(uintptr_t)bias,
                            out};
  for (int i = 0; i < ARGS; i++)
    if (p->arg[i].user != NULL)
      DNNL_TRY(dnnl_memory_set_data_handle(p->arg[i].user, data[i]), what, d);
  for (int i = 0; i < ARG_OUT; i++)
    DNNL_TRY(run_reorder(p, &p->arg[i], false), what, d);
  DNNL_TRY(dnnl_primitive_execute(p->primitive, p->stream, p->exec_count, p->exec), what, d);
  DNNL_TRY(run_reorder(p, &p->arg[ARG_OUT], true), what, d);
  return report(dnnl_stream_wait(p->stream), what, d);
}

void qnet_primitive_destroy(qnet_primitive *p) {
  if (p == NULL) return;
  for (int i = 0; i < ARGS; i++) {
    const argument *a = &p->arg[i];
    if (a->reorder != NULL) dnnl_primitive_destroy(a->reorder);
    if (a->inner != NULL && a->inner != a->user) dnnl_memory_destroy(a->inner);
    if (a->user != NULL) dnnl_memory_destroy(a->user);
  }
  if (p->primitive != NULL) dnnl_primitive_destroy(p->primitive);
}

/* ---- matrices ---------------------------------------------------------------------------------*/

qnet_status qnet_matrix_multiply(float product, const qnet_matrix *a, const qnet_matrix *b,
                                 float keep, float *out, qnet_diag *d) {
  const int64_t rows = a->transposed ? a->columns : a->rows;
  const int64_t inner = a->transposed ? a->rows : a->columns;
  const int64_t columns = b->transposed ? b->rows : b->columns;
  return report(dnnl_sgemm(a->transposed ? 'T' : 'N', b->transposed ? 'T' : 'N', rows, columns,
                           inner, product, a->data, a->columns, b->data, b->columns, keep, out,
                           columns),
                "multiply matrices", d);
}

/* ---- the machine ------------------------------------------------------------------------------*/

const char *qnet_plan_isa(void) {
  static const struct {
    dnnl_cpu_isa_t isa;
    const char *name;
  } names[] = {
      {dnnl_cpu_isa_sse41, "sse4.1"},
      {dnnl_cpu_isa_avx, "avx"},
      {dnnl_cpu_isa_avx2, "avx2"},
      {dnnl_cpu_isa_avx2_vnni, "avx2-vnni"},
      {dnnl_cpu_isa_avx512_core, "avx512"},
      {dnnl_cpu_isa_avx512_core_vnni, "avx512-vnni"},
      {dnnl_cpu_isa_avx512_core_bf16, "avx512-bf16"},
      {dnnl_cpu_isa_avx512_core_amx, "avx512-amx"},
  };
  const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].isa == isa) return names[i].name;
  return "other";
}
