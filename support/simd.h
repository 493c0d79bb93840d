/* One body of plain C, compiled for several instruction sets. */
#ifndef QNET_SUPPORT_SIMD_H
#define QNET_SUPPORT_SIMD_H

/* Defines `static void NAME PARAMS` that calls the always-inline NAME_body, compiled for the widest
 * vectors of the running CPU. The results cannot differ: bodies do only what C defines, in order.
 * Not target_clones: its resolvers run before sanitizers are ready. */
#define QNET_SIMD_BODY static inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__GNUC__)
#define QNET_SIMD_DISPATCH(NAME, PARAMS, ARGS)                                                     \
  __attribute__((                                                                                  \
      target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))) static void NAME##_avx512 PARAMS {   \
    NAME##_body ARGS;                                                                              \
  }                                                                                                \
  __attribute__((target("avx2,fma"))) static void NAME##_avx2 PARAMS {                             \
    NAME##_body ARGS;                                                                              \
  }                                                                                                \
  static void NAME PARAMS {                                                                        \
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&                \
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {                     \
      NAME##_avx512 ARGS;                                                                          \
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {                  \
      NAME##_avx2 ARGS;                                                                            \
    } else {                                                                                       \
      NAME##_body ARGS;                                                                            \
    }                                                                                              \
  }
#else
#define QNET_SIMD_DISPATCH(NAME, PARAMS, ARGS)                                                     \
  static void NAME PARAMS {                                                                        \
    NAME##_body ARGS;                                                                              \
  }
#endif

#endif
