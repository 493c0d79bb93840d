/* Shapes for the plain interpreters: how a window slides over an N,H,W,C tensor, and which level
 * table belongs to a type. Padding is resolved here, outside the loops that compute. */
#include "ir/interp_internal.h"

#include <string.h>

qnet_nhwc qnet_interp_nhwc(const qnet_type *type) {
  if (type->rank == 4) return (qnet_nhwc){type->dim[0], type->dim[1], type->dim[2], type->dim[3]};
  const int64_t c = type->rank == 0 ? 1 : type->dim[type->rank - 1];
  return (qnet_nhwc){c == 0 ? 0 : qnet_type_elements(type) / c, 1, 1, c};
}

qnet_sliding qnet_interp_sliding(const qnet_op *op, const qnet_type *x) {
  qnet_sliding s = {.x = qnet_interp_nhwc(x), .k = qnet_op_window(op)};
  s.oh = qnet_window_out_h(&s.k, s.x.h);
  s.ow = qnet_window_out_w(&s.k, s.x.w);
  return s;
}

static qnet_taps taps(int64_t out, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                      int64_t dilation) {
  qnet_taps t = {.first = out * stride - pad, .begin = 0, .end = kernel};
  while (t.begin < kernel && t.first + t.begin * dilation < 0)
    t.begin++;
  while (t.end > t.begin && t.first + (t.end - 1) * dilation >= size)
    t.end--;
  return t;
}

qnet_taps qnet_interp_taps_h(const qnet_sliding *s, int64_t oh) {
  return taps(oh, s->x.h, s->k.kernel_h, s->k.stride_h, s->k.pad_top, s->k.dilation_h);
}

qnet_taps qnet_interp_taps_w(const qnet_sliding *s, int64_t ow) {
  return taps(ow, s->x.w, s->k.kernel_w, s->k.stride_w, s->k.pad_left, s->k.dilation_w);
}

void qnet_interp_patch(const qnet_sliding *s, const void *x, size_t element, int64_t n, int64_t oh,
                       int64_t ow, void *patch) {
  const size_t pixel = (size_t)s->x.c * element;
  const qnet_taps th = qnet_interp_taps_h(s, oh), tw = qnet_interp_taps_w(s, ow);
  memset(patch, 0, (size_t)(s->k.kernel_h * s->k.kernel_w) * pixel);
  for (int64_t kh = th.begin; kh < th.end; kh++) {
    const int64_t row = (n * s->x.h + th.first + kh * s->k.dilation_h) * s->x.w;
    for (int64_t kw = tw.begin; kw < tw.end; kw++) {
      const int64_t position = row + tw.first + kw * s->k.dilation_w;
      memcpy((char *)patch + (size_t)(kh * s->k.kernel_w + kw) * pixel,
             (const char *)x + (size_t)position * pixel, pixel);
    }
  }
}

const qnet_table *qnet_interp_table_of(const qnet_module *m, const qnet_type *type) {
  if (type->table == NULL) return NULL;
  const qnet_symbol *s = qnet_symbol_find(m, type->table);
  return s == NULL ? NULL : s->table;
}

const qnet_table *qnet_interp_op_table(const qnet_module *m, const qnet_op *op) {
  const qnet_symbol *s = qnet_op_symbol(m, op, "table");
  return s == NULL ? NULL : s->table;
}
