/* Small arithmetic that the quantizers learned by gradient share. */
#ifndef QNET_PASSES_QUANTIZERS_LEARNING_H
#define QNET_PASSES_QUANTIZERS_LEARNING_H

#include "passes/quantizer.h"

/* The largest integer of a uniform table: 2^bits - 1 of activations, 2^(bits-1) - 1 of weights, and
 * never more than 127. */
int qnet_uniform_top(qnet_role role, int bits);

/* One step of momentum 0.9 on the gradient. What is learned is a width: it stays positive, and no
 * step moves it by more than a tenth. */
void qnet_learn_width(float *p, float *velocity, double gradient, double lr);
/* The same without limits. */
void qnet_learn_value(float *p, float *velocity, double gradient, double lr);

enum { QNET_MAX_BASIS = 7 }; /* 2^7 - 1 is the largest level of the integer grid */
/* Solves g v = h (g symmetric, positive definite but for rounding, its rows `stride` apart) by
 * elimination with pivoting; g is lost, v takes the place of h. False when a pivot vanishes. */
bool qnet_solve(int n, double *g, int stride, double *h);

/* The same for the least v' g v - 2 h' v with no negative v. False when h is not finite. */
bool qnet_solve_nonnegative(int n, double g[QNET_MAX_BASIS][QNET_MAX_BASIS],
                            double h[QNET_MAX_BASIS]);

/* The greatest common divisor of numbers >= 0; 0 of zeros. */
int32_t qnet_gcd(int32_t a, int32_t b);

/* Mean and deviation (n - 1) of x; a deviation of 0 becomes 1. */
void qnet_moments(const float *x, int64_t n, double *mean, double *deviation);

/* The end of the range at which 2^bits - 1 (activations) or 2^(bits-1) - 1 (weights) uniform steps
 * have the least squared error, when activations are normal of deviation 1 cut at 0, weights normal
 * of deviation 1. For points without data. */
double qnet_normal_top(qnet_role role, int bits);

/* The end of the range of |x - mean| / deviation with the least squared error among 40 tries up to
 * the largest, where error(context, top, x, n) is the squared error. 0: x has no finite value but
 * 0. */
typedef double (*qnet_top_error)(void *context, double top, const float *x, int64_t n);
double qnet_best_top(double largest, qnet_top_error error, void *context, const float *x,
                     int64_t n);

#endif
