/* Progress of long work: a bar with rate and remaining time on a terminal, nothing elsewhere. */
#ifndef QNET_SUPPORT_PROGRESS_H
#define QNET_SUPPORT_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef struct qnet_progress {
  FILE *out;
  const char *unit; /* "images" */
  size_t total;
  double started, drawn; /* seconds, monotonic */
  bool visible;          /* out is a terminal */
} qnet_progress;

void qnet_progress_begin(qnet_progress *p, FILE *out, const char *unit, size_t total);
/* Redraws at most ten times a second. `extra` (may be NULL) goes behind the bar. */
void qnet_progress_update(qnet_progress *p, size_t done, const char *extra);
void qnet_progress_end(qnet_progress *p); /* erases the bar */
/* Seconds on the monotonic clock. */
double qnet_seconds(void);

#endif
