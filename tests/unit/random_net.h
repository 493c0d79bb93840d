/* Random small networks for differential tests: modules at level nn as training leaves them, with
 * quantizers inserted, level tables and weight codes in place, ready for the pass `freeze`. */
#ifndef QNET_TESTS_RANDOM_NET_H
#define QNET_TESTS_RANDOM_NET_H

#include "ir/ir.h"

/* The network of a seed, batch 1: @eval(tensor<1xHxWxCxu8>) -> tensor<1xKxf32>. Convolutions with
 * stride, padding and dilation, pools before and after batch_norm, residual adds with and without a
 * projection, flatten and global pools, dense layers; weights and activations of 1..4 bits with
 * additive, uniform, sign-symmetric and arbitrary tables, some of 8 bits, some f32; negative and
 * zero gammas. Aborts when out of memory. */
qnet_module *qnet_random_net(uint64_t seed);

/* A blob of random bytes for the argument of @eval; the caller releases it. */
qnet_blob *qnet_random_image(const qnet_module *m, uint64_t seed);

/* The generator behind both (splitmix64). */
uint64_t qnet_random_next(uint64_t *state);

#endif
