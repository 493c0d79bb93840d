/* The text of a pipeline, "a,b{n=1},c", as a list of passes with their options. */
#ifndef QNET_PASSES_PIPELINE_TEXT_H
#define QNET_PASSES_PIPELINE_TEXT_H

#include "passes/pass.h"

typedef struct qnet_pipeline_step {
  const qnet_pass *pass;
  const char *options; /* checked; without blanks; "" when absent */
  uint32_t begin, end; /* where the name stands in the text */
  struct qnet_pipeline_step *next;
} qnet_pipeline_step;

/* Diagnostics about a pipeline point into its text, which is registered at the first of them. */
typedef struct qnet_pipeline_source {
  const char *text;
  uint32_t buffer;
  qnet_diag *diag;
} qnet_pipeline_source;

qnet_loc qnet_pipeline_loc(qnet_pipeline_source *s, size_t begin, size_t end);

/* *steps: in order, in `arena`; NULL for a blank text. Reports every unknown name and option. */
qnet_status qnet_pipeline_parse(qnet_pipeline_source *s, qnet_arena *arena,
                                qnet_pipeline_step **steps);
/* "unknown pass 'x'", with the nearest name as a fix-it. */
qnet_status qnet_pipeline_unknown(const char *name, qnet_loc loc, qnet_diag *d);

#endif
