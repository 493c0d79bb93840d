/* oneDNN's direct convolution, f32 or int8, as a program that cares for speed would set it up. */
#include "bench/bench.h"
#include "support/progress.h"
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

struct bench_onednn {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  dnnl_primitive_t conv;
  dnnl_memory_t src, weights, dst;
  dnnl_exec_arg_t args[3];
};

void bench_onednn_limit_to_avx2(void) {
  dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
}

static dnnl_memory_t make_memory(bench_onednn *b, const dnnl_memory_desc_t *md) {
  dnnl_memory_t m = NULL;
  if (dnnl_memory_create(&m, md, b->engine, DNNL_MEMORY_ALLOCATE) != dnnl_success) return NULL;
  void *data = NULL;
  if (dnnl_memory_get_data_handle(m, &data) == dnnl_success && data)
    memset(data, 0, dnnl_memory_desc_get_size(md));
  return m;
}

static dnnl_primitive_attr_t make_attributes(bool int8) {
  dnnl_primitive_attr_t attr = NULL;
  dnnl_post_ops_t ops = NULL;
  if (dnnl_primitive_attr_create(&attr) != dnnl_success) return NULL;
  if (dnnl_post_ops_create(&ops) != dnnl_success) return attr;
  dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f);
  dnnl_primitive_attr_set_post_ops(attr, ops);
  dnnl_post_ops_destroy(ops);
  if (int8) {
    const float scale = 0.01f;
    dnnl_primitive_attr_set_output_scales(attr, 1, 0, &scale);
  }
  return attr;
}

static bool make_primitive(bench_onednn *b, const bench_layer *l, bool int8,
                           dnnl_primitive_desc_t *pd) {
  const dnnl_dim_t c = l->channels, s = l->size;
  const dnnl_dims_t image = {1, c, s, s}, kernel = {c, c, 3, 3}, one = {1, 1};
  const dnnl_data_type_t data = int8 ? dnnl_u8 : dnnl_f32, weight = int8 ? dnnl_s8 : dnnl_f32;
  dnnl_memory_desc_t src, w, dst;
  dnnl_memory_desc_init_by_tag(&src, 4, image, data, dnnl_format_tag_any);
  dnnl_memory_desc_init_by_tag(&w, 4, kernel, weight, dnnl_format_tag_any);
  dnnl_memory_desc_init_by_tag(&dst, 4, image, data, dnnl_format_tag_any);
  dnnl_convolution_desc_t desc;
  if (dnnl_convolution_forward_desc_init(&desc, dnnl_forward_inference, dnnl_convolution_direct,
                                         &src, &w, NULL, &dst, one, one, one) != dnnl_success)
    return false;
  dnnl_primitive_attr_t attr = make_attributes(int8);
  const bool ok = dnnl_primitive_desc_create(pd, &desc, attr, b->engine, NULL) == dnnl_success &&
                  dnnl_primitive_create(&b->conv, *pd) == dnnl_success;
  dnnl_primitive_attr_destroy(attr);
  return ok;
}

static bool setup(bench_onednn *b, const bench_layer *l, bool int8) {
  if (dnnl_engine_create(&b->engine, dnnl_cpu, 0) != dnnl_success) return false;
  if (dnnl_stream_create(&b->stream, b->engine, dnnl_stream_default_flags) != dnnl_success)
    return false;
  dnnl_primitive_desc_t pd = NULL;
  if (!make_primitive(b, l, int8, &pd)) return false;
  b->src = make_memory(b, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0));
  b->weights = make_memory(b, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0));
  b->dst = make_memory(b, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0));
  dnnl_primitive_desc_destroy(pd);
  b->args[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, b->src};
  b->args[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, b->weights};
  b->args[2] = (dnnl_exec_arg_t){DNNL_ARG_DST, b->dst};
  return b->src && b->weights && b->dst;
}

bench_onednn *bench_onednn_create(const bench_layer *layer, bool int8) {
  bench_onednn *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  if (setup(b, layer, int8)) return b;
  bench_onednn_destroy(b);
  return NULL;
}

double bench_onednn_seconds(bench_onednn *b) {
  const double begin = qnet_seconds();
  dnnl_primitive_execute(b->conv, b->stream, 3, b->args);
  dnnl_stream_wait(b->stream);
  return qnet_seconds() - begin;
}

void bench_onednn_destroy(bench_onednn *b) {
  if (!b) return;
  if (b->src) dnnl_memory_destroy(b->src);
  if (b->weights) dnnl_memory_destroy(b->weights);
  if (b->dst) dnnl_memory_destroy(b->dst);
  if (b->conv) dnnl_primitive_destroy(b->conv);
  if (b->stream) dnnl_stream_destroy(b->stream);
  if (b->engine) dnnl_engine_destroy(b->engine);
  free(b);
}
