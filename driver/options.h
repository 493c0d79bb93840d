/* The command line: one table (options.def) for all verbs. */
#ifndef QNET_DRIVER_OPTIONS_H
#define QNET_DRIVER_OPTIONS_H

#include "support/diag.h"
#include <stdbool.h>

enum { QNET_MAX_LIST = 32 };
enum { QNET_UNSET = INT32_MIN }; /* an integer option that was not given */

typedef enum {
  QNET_VERB_COMPILE = 1,
  QNET_VERB_TRAIN = 2,
  QNET_VERB_EVAL = 4,
  QNET_VERB_RUN = 8,
  QNET_VERB_OPT = 16,
  QNET_VERB_PACK = 32
} qnet_verb;

/* Bits of weights and activations, QNET_F32_BITS for f32; 0: not given. */
typedef struct qnet_bits {
  int weight, activation;
} qnet_bits;

typedef struct qnet_options {
  qnet_verb verb;
  const char *input;    /* .qnet or .qir file; "-" = standard input; NULL */
  const char *argument; /* run: the image */
  bool help;
#define QNET_FIELD_STRING(f) const char *f;
#define QNET_FIELD_INT(f)    int64_t f;
#define QNET_FIELD_FLOAT(f)  double f; /* NaN = not given */
#define QNET_FIELD_FLAG(f)   bool f;
#define QNET_FIELD_BITS(f)   qnet_bits f;
#define QNET_FIELD_LIST(f)                                                                         \
  const char *f[QNET_MAX_LIST];                                                                    \
  int f##_count;
#define QNET_OPTION(field, text, kind, verbs, value, help_text) QNET_FIELD_##kind(field)
#include "driver/options.def"
#undef QNET_OPTION
} qnet_options;

/* Fills *o from argv and checks that all is there that the verb needs. Usage errors are diagnosed
 * (exit code 2). */
qnet_status qnet_options_parse(int argc, char **argv, qnet_options *o, qnet_diag *d);
void qnet_options_help(qnet_verb verb, FILE *out);

#endif
