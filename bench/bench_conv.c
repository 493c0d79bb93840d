/* 3x3 convolutions of ResNet shapes, one thread: our kernel beside oneDNN f32, oneDNN int8 and the
 * popcount limit, all in one run; medians of interleaved repeats. Prints Markdown.
 * usage: bench_conv [--avx2]   (--avx2: code for haswell, oneDNN limited to AVX2) */
#include "bench/bench.h"
#include "support/parallel.h"
#include <stdlib.h>
#include <string.h>

enum { REPEATS = 41, DEPTH = 9, ROUND = 3 };

static const bench_layer layers[] = {{56, 64}, {28, 128}, {14, 256}};
static const int widths[][2] = {{1, 1}, {1, 2}, {2, 2}};

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *x, int n) {
  qsort(x, (size_t)n, sizeof *x, compare);
  return x[n / 2];
}

typedef struct row {
  double ours, f32, int8, limit; /* seconds of one convolution */
} row;

typedef struct contestants {
  bench_ours *one, *many;
  bench_onednn *f32, *int8;
} contestants;

static double multiply_adds(const bench_layer *l) {
  return (double)l->size * l->size * l->channels * l->channels * 9;
}

static row measure(const contestants *c, const bench_layer *l, const int *bits, bool avx512) {
  double one[REPEATS], many[REPEATS], f32[REPEATS], int8[REPEATS], limit[REPEATS];
  for (int i = -ROUND; i < REPEATS; i++) {
    const int k = i < 0 ? 0 : i; /* the first rounds only warm up */
    one[k] = bench_ours_seconds(c->one);
    many[k] = bench_ours_seconds(c->many);
    f32[k] = bench_onednn_seconds(c->f32);
    int8[k] = c->int8 ? bench_onednn_seconds(c->int8) : 0;
    limit[k] = bench_popcount_peak(avx512);
  }
  const double gig = multiply_adds(l) * bits[0] * bits[1] / (double)(1 << 30);
  return (row){(median(many, REPEATS) - median(one, REPEATS)) / (DEPTH - 1), median(f32, REPEATS),
               median(int8, REPEATS), median(limit, REPEATS) * gig};
}

static qnet_status open_contestants(contestants *c, const bench_layer *l, const int *bits,
                                    const qnet_target_choice *target, qnet_diag *d) {
  QNET_TRY(bench_ours_create(l, bits[0], bits[1], 1, target, &c->one, d));
  QNET_TRY(bench_ours_create(l, bits[0], bits[1], DEPTH, target, &c->many, d));
  c->f32 = bench_onednn_create(l, false);
  c->int8 = bench_onednn_create(l, true);
  return c->f32 ? QNET_OK : qnet_error_in(d, "bench", "oneDNN has no such f32 convolution");
}

static void close_contestants(contestants *c) {
  bench_ours_destroy(c->one);
  bench_ours_destroy(c->many);
  bench_onednn_destroy(c->f32);
  bench_onednn_destroy(c->int8);
}

static qnet_status bench_one(const bench_layer *l, const int *bits,
                             const qnet_target_choice *target, bool avx512, qnet_diag *d) {
  contestants c = {0};
  const qnet_status status = open_contestants(&c, l, bits, target, d);
  if (status == QNET_OK) {
    const row r = measure(&c, l, bits, avx512);
    printf("| %d@%dx%d | W%dA%d | %.1f | %.1f | %.1f | %.1f | %.2f | %.2f | %.0f%% |\n",
           l->channels, l->size, l->size, bits[0], bits[1], r.ours * 1e6, r.f32 * 1e6, r.int8 * 1e6,
           r.limit * 1e6, r.f32 / r.ours, r.int8 / r.ours, 100 * r.limit / r.ours);
    fflush(stdout);
  }
  close_contestants(&c);
  return status;
}

static qnet_status bench_all(bool avx2, qnet_diag *d) {
  qnet_target_choice target;
  QNET_TRY(
      qnet_target_choose(avx2 ? "x86_64" : "native", avx2 ? "haswell" : NULL, NULL, &target, d));
  printf("\n%s, one thread, median of %d interleaved repeats, microseconds a convolution\n\n",
         target.machine.name, REPEATS);
  printf("| 3x3 layer | bits | qnetc | oneDNN f32 | oneDNN int8 | popcount limit | f32 : qnetc | "
         "int8 : qnetc | of limit |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n");
  qnet_status status = QNET_OK;
  for (size_t l = 0; l < sizeof layers / sizeof layers[0] && status == QNET_OK; l++)
    for (size_t w = 0; w < sizeof widths / sizeof widths[0] && status == QNET_OK; w++)
      status = bench_one(&layers[l], widths[w], &target, !avx2, d);
  qnet_target_choice_free(&target);
  return status;
}

int main(int argc, char **argv) {
  const bool avx2 = argc > 1 && strcmp(argv[1], "--avx2") == 0;
  if (avx2) bench_onednn_limit_to_avx2();
  qnet_parallel_set_threads(1);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  if (!d) return 1;
  const qnet_status status = bench_all(avx2, d);
  qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  return status == QNET_OK ? 0 : 1;
}
