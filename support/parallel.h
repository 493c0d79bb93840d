/* Data-parallel loops on the process's thread team (the one that oneDNN uses, so that two teams
 * never fight for the cores). */
#ifndef QNET_SUPPORT_PARALLEL_H
#define QNET_SUPPORT_PARALLEL_H

#include <stddef.h>

/* Calls body(ctx, begin, end) for disjoint ranges that cover 0..count. Ranges depend on `count` and
 * `grain` alone (each is `grain` long but the last), never on the number of threads: a reduction
 * that keeps one partial result a range, summed in range order, is the same on any machine. */
void qnet_parallel_for(size_t count, size_t grain,
                       void (*body)(void *ctx, size_t begin, size_t end), void *ctx);
void qnet_parallel_set_threads(int threads); /* 0 = all cores */
int qnet_parallel_threads(void);

#endif
