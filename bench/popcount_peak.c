/* The popcount limit of this machine, from registers: twelve independent accumulators. */
#include "bench/bench.h"
#include "support/progress.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { CHAINS = 12, STEPS = 1 << 18 };

__attribute__((target("avx512f,avx512vpopcntdq"), noinline)) static long long run_avx512(void) {
  __m512i acc[CHAINS], a = _mm512_set1_epi64(0x123456789abcdef1), w = _mm512_set1_epi64(-3);
  for (int k = 0; k < CHAINS; k++)
    acc[k] = _mm512_setzero_si512();
  for (int i = 0; i < STEPS; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++) {
      __asm__ volatile("" : "+v"(a)); /* a new value for the compiler: nothing is shared */
      acc[k] = _mm512_add_epi64(acc[k], _mm512_popcnt_epi64(_mm512_and_si512(a, w)));
    }
  }
  long long sum = 0;
  for (int k = 0; k < CHAINS; k++)
    sum += _mm512_reduce_add_epi64(acc[k]);
  return sum;
}

__attribute__((target("avx2"))) static inline __m256i count_bytes(__m256i x, __m256i table) {
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
  const __m256i high =
      _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
  return _mm256_add_epi8(low, high);
}

__attribute__((target("avx2"), noinline)) static long long run_avx2(void) {
  enum { FEW = 6 };
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2,
                                         1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  __m256i acc[FEW], a = _mm256_set1_epi64x(0x123456789abcdef1), w = _mm256_set1_epi64x(-3);
  for (int k = 0; k < FEW; k++)
    acc[k] = _mm256_setzero_si256();
  for (int i = 0; i < 2 * STEPS * CHAINS / FEW; i++) {
#pragma GCC unroll 6
    for (int k = 0; k < FEW; k++) {
      __asm__ volatile("" : "+x"(a));
      acc[k] = _mm256_add_epi8(acc[k], count_bytes(_mm256_and_si256(a, w), table));
    }
  }
  long long sum = 0;
  for (int k = 0; k < FEW; k++)
    sum += _mm256_extract_epi64(acc[k], 0);
  return sum;
}

double bench_popcount_peak(bool avx512) {
  if (avx512 && !__builtin_cpu_supports("avx512vpopcntdq")) return 0;
  if (!__builtin_cpu_supports("avx2")) return 0;
  const double begin = qnet_seconds();
  const long long sum = avx512 ? run_avx512() : run_avx2();
  __asm__ volatile("" ::"r"(sum));
  const double bits = 512.0 * CHAINS * STEPS;
  return (qnet_seconds() - begin) * (double)(1 << 30) / bits;
}
#else
double bench_popcount_peak(bool avx512) {
  (void)avx512;
  return 0;
}
#endif
