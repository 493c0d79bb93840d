/* Data-parallel loops by OpenMP; serial when the compiler has none. */
#include "support/parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

void qnet_parallel_for(size_t count, size_t grain,
                       void (*body)(void *ctx, size_t begin, size_t end), void *ctx) {
  if (grain == 0) grain = 1;
  const size_t ranges = count / grain + (count % grain != 0);
  if (ranges == 1) {
    body(ctx, 0, count);
    return;
  }
/* Pass after pass a thread gets the same part, which oneDNN gives it too: lines that another core
 * wrote, or has read, are slow to read and slower to write. */
#pragma omp parallel for schedule(static)
  for (size_t r = 0; r < ranges; r++) {
    const size_t begin = r * grain;
    body(ctx, begin, count - begin < grain ? count : begin + grain);
  }
}

#ifdef _OPENMP

void qnet_parallel_set_threads(int threads) {
  omp_set_num_threads(threads > 0 ? threads : omp_get_num_procs());
}

int qnet_parallel_threads(void) {
  return omp_get_max_threads();
}

#else

void qnet_parallel_set_threads(int threads) {
  (void)threads;
}

int qnet_parallel_threads(void) {
  return 1;
}

#endif
