/* Passes and the pipeline table (passes/pipeline.c). */
#ifndef QNET_PASSES_PASS_H
#define QNET_PASSES_PASS_H

#include "ir/ir.h"
#include "ir/machine.h"
#include <stdio.h>

/* Facts about a module that passes establish and rely on. */
enum {
  QNET_FACT_QUANTIZERS = 1, /* nn.quantize before every layer that is to be quantized */
  QNET_FACT_INTEGER = 2,    /* quantized layers compute on codes (level quant) */
  QNET_FACT_THRESHOLDS = 4, /* affine + relu + quantize chains are integer thresholds */
  QNET_FACT_PLANES = 8,     /* codes of 1..4 bits are bit planes (level bits) */
  QNET_FACT_KERNELS = 16,   /* every op is in a bits.kernel that becomes one loop nest */
  QNET_FACT_LOOPS = 32,     /* level loop */
  QNET_FACT_MEMORY = 64,    /* buffers have offsets in the arena */
};

/* What a pass may ask for. */
typedef struct qnet_pass_context {
  const qnet_allocator *allocator;
  qnet_diag *diag;
  const qnet_machine *machine; /* NULL for passes that do not schedule */
  const char *options;         /* "n=128,..." of `name{...}`; "" when absent */
} qnet_pass_context;

/* The value of key in a pass's options ("n=128,mode=x"), or `otherwise`. */
int64_t qnet_pass_option_int(const qnet_pass_context *c, const char *key, int64_t otherwise);
double qnet_pass_option_float(const qnet_pass_context *c, const char *key, double otherwise);
bool qnet_pass_option_given(const qnet_pass_context *c, const char *key);
/* A word, not terminated; NULL without the option. */
const char *qnet_pass_option_word(const qnet_pass_context *c, const char *key, size_t *length);
bool qnet_pass_option_is(const qnet_pass_context *c, const char *key, const char *value);

typedef struct qnet_pass {
  const char *name;
  qnet_status (*run)(qnet_module *m, const qnet_pass_context *c);
  qnet_level from, to;           /* level of the module before and after */
  unsigned needs, gives, breaks; /* facts */
  const char *options;           /* the keys it knows, "n:int kind:word"; "" when it has none */
  const char *doc;
} qnet_pass;

const qnet_pass *qnet_pass_find(const char *name);
/* All passes, in pipeline order. */
const qnet_pass *qnet_pass_table(size_t *count);

typedef struct qnet_pipeline_options {
  bool verify_each, time_passes;
  bool print_before_all, print_after_all;
  const char *print_before, *print_after; /* one pass name, or NULL */
  FILE *print_to;                         /* receives printed IR and timings */
} qnet_pipeline_options;

/* Runs "a,b{n=1},c". Checks names, levels and needed facts first (facts are re-derived from the
 * module, so a parsed module can be continued). */
qnet_status qnet_pipeline_run(qnet_module *m, const char *pipeline,
                              const qnet_pipeline_options *options, const qnet_machine *machine,
                              qnet_diag *d);

/* The standard pipelines, as text: from quantized nn to frozen quant without thresholds (what the
 * training evaluation runs), to quant, bits, and loop; and what is left of the way to loop for a
 * module that has come as far as this one. */
const char *qnet_pipeline_to_frozen(void);
const char *qnet_pipeline_to(qnet_level level);
const char *qnet_pipeline_rest(const qnet_module *m);

#endif
