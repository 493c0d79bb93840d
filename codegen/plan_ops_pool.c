/* Pools, their gradients, slice and flatten: whole kernels, parallel over images; pad goes by rows.
 * Channels are the inner loop. Average pools add in the order that docs/numbers.md fixes. */
#include "codegen/plan_internal.h"
#include "support/parallel.h"
#include "support/simd.h"
#include <string.h>

typedef struct pool {
  qnet_plan_shape x, y; /* the large and the small side */
  qnet_window window;
  const float *in, *extra; /* extra: dy of max pool's gradient */
  float *out;
} pool;

/* Rows and columns of the window at (oh, ow) that are inside the image. */
typedef struct box {
  int64_t h0, h1, w0, w1;
} box;

static int64_t clamp(int64_t v, int64_t low, int64_t high) {
  return v < low ? low : v > high ? high : v;
}

static box window_box(const pool *p, int64_t oh, int64_t ow) {
  const qnet_window *k = &p->window;
  const int64_t h = oh * k->stride_h - k->pad_top, w = ow * k->stride_w - k->pad_left;
  return (box){clamp(h, 0, p->x.h), clamp(h + k->kernel_h, 0, p->x.h), clamp(w, 0, p->x.w),
               clamp(w + k->kernel_w, 0, p->x.w)};
}

static const float *pixel(const pool *p, const float *base, int64_t h, int64_t w) {
  return base + (h * p->x.w + w) * p->x.c;
}

/* Runs `body` over images; `x_side` is the large tensor. */
static void run_pool(const qnet_plan_step *s, const qnet_type *x, const qnet_type *y,
                     const float *extra, void (*body)(void *, size_t, size_t)) {
  pool p = {.x = qnet_plan_shape_of(x),
            .y = qnet_plan_shape_of(y),
            .in = (const float *)s->in[0]->data,
            .extra = extra,
            .out = (float *)s->out[0]->data};
  if (qnet_op_attr(s->op, "kernel") != NULL) p.window = qnet_op_window(s->op);
  qnet_parallel_for((size_t)p.x.n, 1, body, &p);
}

/* ---- max --------------------------------------------------------------------------------------*/

QNET_SIMD_BODY void keep_max_body(const float *x, int64_t n, float *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    y[i] = x[i] > y[i] ? x[i] : y[i];
}
QNET_SIMD_DISPATCH(keep_max, (const float *x, int64_t n, float *y), (x, n, y))

static void window_max(const pool *p, const float *image, box b, float *y) {
  memcpy(y, pixel(p, image, b.h0, b.w0), (size_t)p->x.c * sizeof *y);
  for (int64_t h = b.h0; h < b.h1; h++)
    for (int64_t w = b.w0 + (h == b.h0); w < b.w1; w++)
      keep_max(pixel(p, image, h, w), p->x.c, y);
}

static void max_images(void *context, size_t begin, size_t end) {
  const pool *p = context;
  for (int64_t n = (int64_t)begin; n < (int64_t)end; n++) {
    const float *image = p->in + n * p->x.h * p->x.w * p->x.c;
    float *y = p->out + n * p->y.h * p->y.w * p->y.c;
    for (int64_t oh = 0; oh < p->y.h; oh++)
      for (int64_t ow = 0; ow < p->y.w; ow++, y += p->y.c)
        window_max(p, image, window_box(p, oh, ow), y);
  }
}

static qnet_status run_max(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  run_pool(s, s->in[0]->type, s->out[0]->type, NULL, max_images);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_max_pool = {.run = run_max};

enum { CHANNEL_BLOCK = 64 };

/* The first maximum takes the gradient: `open` holds what is still to be given, `top` the maxima.
 */
QNET_SIMD_BODY void give_max_body(const float *x, const float *top, int64_t n, float *open,
                                  float *dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const bool hit = x[i] == top[i];
    dx[i] += hit ? open[i] : 0;
    open[i] = hit ? 0 : open[i];
  }
}
QNET_SIMD_DISPATCH(give_max, (const float *x, const float *top, int64_t n, float *open, float *dx),
                   (x, top, n, open, dx))

static void window_max_grad(const pool *p, const float *image, box b, const float *dy, float *dx) {
  float top[CHANNEL_BLOCK], open[CHANNEL_BLOCK];
  for (int64_t c = 0; c < p->x.c; c += CHANNEL_BLOCK) {
    const int64_t n = p->x.c - c < CHANNEL_BLOCK ? p->x.c - c : CHANNEL_BLOCK;
    memcpy(top, pixel(p, image, b.h0, b.w0) + c, (size_t)n * sizeof *top);
    memcpy(open, dy + c, (size_t)n * sizeof *open);
    for (int64_t h = b.h0; h < b.h1; h++)
      for (int64_t w = b.w0; w < b.w1; w++)
        keep_max(pixel(p, image, h, w) + c, n, top);
    for (int64_t h = b.h0; h < b.h1; h++)
      for (int64_t w = b.w0; w < b.w1; w++)
        give_max(pixel(p, image, h, w) + c, top, n, open, dx + (h * p->x.w + w) * p->x.c + c);
  }
}

static void max_grad_images(void *context, size_t begin, size_t end) {
  const pool *p = context;
  const int64_t size = p->x.h * p->x.w * p->x.c;
  for (int64_t n = (int64_t)begin; n < (int64_t)end; n++) {
    const float *dy = p->extra + n * p->y.h * p->y.w * p->y.c;
    memset(p->out + n * size, 0, (size_t)size * sizeof *p->out);
    for (int64_t oh = 0; oh < p->y.h; oh++)
      for (int64_t ow = 0; ow < p->y.w; ow++, dy += p->y.c)
        window_max_grad(p, p->in + n * size, window_box(p, oh, ow), dy, p->out + n * size);
  }
}

static qnet_status run_max_grad(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  run_pool(s, s->in[0]->type, s->in[1]->type, (const float *)s->in[1]->data, max_grad_images);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_max_pool_grad = {.run = run_max_grad};

/* ---- average ----------------------------------------------------------------------------------*/

QNET_SIMD_BODY void accumulate_body(const float *x, int64_t n, float *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    y[i] += x[i];
}
QNET_SIMD_DISPATCH(accumulate, (const float *x, int64_t n, float *y), (x, n, y))

static void window_mean(const pool *p, const float *image, box b, float *y) {
  memset(y, 0, (size_t)p->x.c * sizeof *y);
  for (int64_t h = b.h0; h < b.h1; h++)
    for (int64_t w = b.w0; w < b.w1; w++)
      accumulate(pixel(p, image, h, w), p->x.c, y);
  const float scale = (float)(1.0 / (double)((b.h1 - b.h0) * (b.w1 - b.w0)));
  for (int64_t c = 0; c < p->x.c; c++)
    y[c] *= scale;
}

static void average_images(void *context, size_t begin, size_t end) {
  const pool *p = context;
  for (int64_t n = (int64_t)begin; n < (int64_t)end; n++) {
    const float *image = p->in + n * p->x.h * p->x.w * p->x.c;
    float *y = p->out + n * p->y.h * p->y.w * p->y.c;
    for (int64_t oh = 0; oh < p->y.h; oh++)
      for (int64_t ow = 0; ow < p->y.w; ow++, y += p->y.c)
        window_mean(p, image, window_box(p, oh, ow), y);
  }
}

static qnet_status run_average(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  run_pool(s, s->in[0]->type, s->out[0]->type, NULL, average_images);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_avg_pool = {.run = run_average};

static void spread_window(const pool *p, box b, const float *dy, float *dx) {
  const float scale = (float)(1.0 / (double)((b.h1 - b.h0) * (b.w1 - b.w0)));
  for (int64_t h = b.h0; h < b.h1; h++)
    for (int64_t w = b.w0; w < b.w1; w++)
      for (int64_t c = 0; c < p->x.c; c++)
        dx[(h * p->x.w + w) * p->x.c + c] += dy[c] * scale;
}

static void average_grad_images(void *context, size_t begin, size_t end) {
  const pool *p = context;
  const int64_t size = p->x.h * p->x.w * p->x.c;
  for (int64_t n = (int64_t)begin; n < (int64_t)end; n++) {
    const float *dy = p->in + n * p->y.h * p->y.w * p->y.c;
    memset(p->out + n * size, 0, (size_t)size * sizeof *p->out);
    for (int64_t oh = 0; oh < p->y.h; oh++)
      for (int64_t ow = 0; ow < p->y.w; ow++, dy += p->y.c)
        spread_window(p, window_box(p, oh, ow), dy, p->out + n * size);
  }
}

static qnet_status run_average_grad(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  run_pool(s, s->out[0]->type, s->in[0]->type, NULL, average_grad_images);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_avg_pool_grad = {.run = run_average_grad};

static void global_images(void *context, size_t begin, size_t end) {
  const pool *p = context;
  for (int64_t n = (int64_t)begin; n < (int64_t)end; n++)
    window_mean(p, p->in + n * p->x.h * p->x.w * p->x.c, (box){0, p->x.h, 0, p->x.w},
                p->out + n * p->x.c);
}

static qnet_status run_global(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  run_pool(s, s->in[0]->type, s->out[0]->type, NULL, global_images);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_global_avg_pool = {.run = run_global};

static void global_grad_images(void *context, size_t begin, size_t end) {
  const pool *p = context;
  const int64_t size = p->x.h * p->x.w * p->x.c;
  for (int64_t n = (int64_t)begin; n < (int64_t)end; n++) {
    memset(p->out + n * size, 0, (size_t)size * sizeof *p->out);
    spread_window(p, (box){0, p->x.h, 0, p->x.w}, p->in + n * p->x.c, p->out + n * size);
  }
}

static qnet_status run_global_grad(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  run_pool(s, s->out[0]->type, s->in[0]->type, NULL, global_grad_images);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_global_avg_pool_grad = {.run = run_global_grad};

/* ---- slice, pad -------------------------------------------------------------------------------*/

typedef struct placement {
  qnet_plan_shape small, large;
  qnet_lattice lattice;
  const float *in;
  float *out;
} placement;

static int64_t image_size(const qnet_plan_shape *s) {
  return s->h * s->w * s->c;
}

/* Offset of the channel begin[2] at the place in the large image of pixel (h, w) of the small. */
static int64_t place_of(const placement *p, int64_t h, int64_t w) {
  const qnet_lattice *l = &p->lattice;
  return ((l->begin[0] + l->stride[0] * h) * p->large.w + l->begin[1] + l->stride[1] * w) *
             p->large.c +
         l->begin[2];
}

/* n floats; a step is 1 on one side at least. */
static void copy_floats(const float *in, int64_t in_step, float *out, int64_t out_step, int64_t n) {
  if (in_step == 1 && out_step == 1) {
    memcpy(out, in, (size_t)n * sizeof *out);
    return;
  }
  for (int64_t i = 0; i < n; i++)
    out[i * out_step] = in[i * in_step];
}

static void slice_images(void *context, size_t begin, size_t end) {
  const placement *p = context;
  for (size_t n = begin; n < end; n++) {
    const float *in = p->in + (int64_t)n * image_size(&p->large);
    float *out = p->out + (int64_t)n * image_size(&p->small);
    for (int64_t h = 0; h < p->small.h; h++)
      for (int64_t w = 0; w < p->small.w; w++, out += p->small.c)
        copy_floats(in + place_of(p, h, w), p->lattice.stride[2], out, 1, p->small.c);
  }
}

static qnet_status run_slice(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  placement p = {.small = qnet_plan_shape_of(s->out[0]->type),
                 .large = qnet_plan_shape_of(s->in[0]->type),
                 .lattice = qnet_op_lattice(s->op),
                 .in = (const float *)s->in[0]->data,
                 .out = (float *)s->out[0]->data};
  qnet_parallel_for((size_t)p.small.n, 1, slice_images, &p);
  return QNET_OK;
}

/* Pixels of line `line` of all images' lines, `out` at the pixel `first`; the pixels are 0. */
static void pad_line(const placement *p, int64_t line, int64_t first, int64_t count, float *out) {
  const qnet_lattice *l = &p->lattice;
  const int64_t n = line / p->large.h, above = line % p->large.h - l->begin[0];
  const int64_t h = above / l->stride[0];
  if (above < 0 || above % l->stride[0] != 0 || h >= p->small.h) return;
  const float *in = p->in + (n * p->small.h + h) * p->small.w * p->small.c;
  const int64_t skipped = first - l->begin[1];
  int64_t w = skipped > 0 ? (skipped + l->stride[1] - 1) / l->stride[1] : 0;
  for (; w < p->small.w; w++) {
    const int64_t at = l->begin[1] + l->stride[1] * w - first;
    if (at >= count) return;
    copy_floats(in + w * p->small.c, 1, out + at * p->large.c + l->begin[2], l->stride[2],
                p->small.c);
  }
}

static void pad_rows(const qnet_plan_step *s, const qnet_plan_rows *r) {
  const placement p = {.small = qnet_plan_shape_of(s->in[0]->type),
                       .large = qnet_plan_shape_of(s->out[0]->type),
                       .lattice = qnet_op_lattice(s->op),
                       .in = r->in[0]};
  float *out = r->out[0];
  memset(out, 0, (size_t)(r->count * s->width) * sizeof *out);
  for (int64_t done = 0, count; done < r->count; done += count, out += count * s->width) {
    const int64_t row = r->begin + done, first = row % p.large.w, rest = r->count - done;
    count = p.large.w - first < rest ? p.large.w - first : rest;
    pad_line(&p, row / p.large.w, first, count, out);
  }
}

const qnet_plan_kernel qnet_plan_slice = {.run = run_slice};
const qnet_plan_kernel qnet_plan_pad = {.rows = pad_rows, .row_out = 1};

/* ---- flatten: N,H,W,C to N,(C,H,W), of f32 or codes -------------------------------------------*/

typedef struct transposition {
  const char *in;
  char *out;
  int64_t rows, columns; /* out[column][row] = in[row][column] */
  size_t element;
} transposition;

static void transpose_images(void *context, size_t begin, size_t end) {
  const transposition *t = context;
  for (size_t n = begin; n < end; n++) {
    const size_t size = (size_t)(t->rows * t->columns) * t->element;
    const char *in = t->in + n * size;
    char *out = t->out + n * size;
    for (int64_t c = 0; c < t->columns; c++)
      for (int64_t r = 0; r < t->rows; r++, out += t->element)
        memcpy(out, in + (size_t)(r * t->columns + c) * t->element, t->element);
  }
}

static void run_transposition(const qnet_plan_step *s, const qnet_type *image, bool back) {
  const qnet_plan_shape x = qnet_plan_shape_of(image);
  const int64_t positions = x.h * x.w;
  transposition t = {.in = s->in[0]->data,
                     .out = s->out[0]->data,
                     .rows = back ? x.c : positions,
                     .columns = back ? positions : x.c,
                     .element = (size_t)qnet_type_bytes(image)};
  qnet_parallel_for((size_t)x.n, 16, transpose_images, &t);
}

static qnet_status run_flatten(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  run_transposition(s, s->in[0]->type, false);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_flatten = {.run = run_flatten};

static qnet_status run_flatten_grad(qnet_plan *plan, const qnet_plan_step *s, qnet_diag *d) {
  (void)plan, (void)d;
  run_transposition(s, s->out[0]->type, true);
  return QNET_OK;
}

const qnet_plan_kernel qnet_plan_flatten_grad = {.run = run_flatten_grad};
