/* Parsing of the command line by the table in options.def. */
#include "driver/options.h"
#include "ir/ir.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum { KIND_STRING, KIND_INT, KIND_FLOAT, KIND_FLAG, KIND_LIST, KIND_BITS } option_kind;

typedef struct option_row {
  const char *text, *value, *help;
  option_kind kind;
  unsigned verbs;
  size_t offset, count_offset;
} option_row;

enum { MAX_THREADS = 1024 };

enum {
  C = QNET_VERB_COMPILE,
  T = QNET_VERB_TRAIN,
  E = QNET_VERB_EVAL,
  R = QNET_VERB_RUN,
  O = QNET_VERB_OPT,
  P = QNET_VERB_PACK
};

#define QNET_COUNT_STRING(f) 0
#define QNET_COUNT_INT(f)    0
#define QNET_COUNT_FLOAT(f)  0
#define QNET_COUNT_FLAG(f)   0
#define QNET_COUNT_BITS(f)   0
#define QNET_COUNT_LIST(f)   offsetof(qnet_options, f##_count)
static const option_row rows[] = {
#define QNET_OPTION(field, text, kind, verbs, value, help_text)                                    \
  {text,                                                                                           \
   value,                                                                                          \
   help_text,                                                                                      \
   KIND_##kind,                                                                                    \
   verbs,                                                                                          \
   offsetof(qnet_options, field),                                                                  \
   QNET_COUNT_##kind(field)},
#include "driver/options.def"
#undef QNET_OPTION
};
enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

typedef struct verb_row {
  const char *name, *usage, *doc;
  qnet_verb verb;
} verb_row;

static const verb_row verbs[] = {
    {"", "NET.qnet --weights=W --target=T -o NET.o|.s|.ll|.bc|.so",
     "compile a trained network or a .qir module; writes its header too", QNET_VERB_COMPILE},
    {"train", "NET.qnet --data=D -o W.safetensors", "train the network and its quantizers",
     QNET_VERB_TRAIN},
    {"eval", "NET.qnet --weights=W --data=D", "count correct predictions on the test set",
     QNET_VERB_EVAL},
    {"run", "NET.qnet IMAGE --weights=W", "classify one PNG, JPEG, PGM, PPM or .npy",
     QNET_VERB_RUN},
    {"opt", "[FILE.qnet|FILE.qir|-] --passes=...", "read a module of any level, run passes, print",
     QNET_VERB_OPT},
    {"pack", "NET.qnet --weights=W -o P.safetensors",
     "write weights as they are deployed: codes and levels, for --weights", QNET_VERB_PACK},
};
enum { VERB_COUNT = sizeof verbs / sizeof verbs[0] };

static const char *verb_name(qnet_verb verb) {
  for (size_t i = 0; i < VERB_COUNT; i++)
    if (verbs[i].verb == verb) return verbs[i].name;
  return "";
}

static void set_defaults(qnet_options *o) {
  memset(o, 0, sizeof *o);
  for (size_t i = 0; i < ROW_COUNT; i++) {
    char *field = (char *)o + rows[i].offset;
    if (rows[i].kind == KIND_INT) *(int64_t *)(void *)field = QNET_UNSET;
    if (rows[i].kind == KIND_FLOAT) *(double *)(void *)field = NAN;
  }
}

static const option_row *find_row(const char *name, size_t length) {
  for (size_t i = 0; i < ROW_COUNT; i++)
    if (strlen(rows[i].text) == length && memcmp(rows[i].text, name, length) == 0) return &rows[i];
  return NULL;
}

static qnet_status unknown_option(const char *flag, size_t length, qnet_verb verb, qnet_diag *d) {
  const char *names[ROW_COUNT];
  size_t count = 0;
  for (size_t i = 0; i < ROW_COUNT; i++)
    if (rows[i].verbs & (unsigned)verb) names[count++] = rows[i].text;
  char word[64];
  const size_t n = length < sizeof word - 1 ? length : sizeof word - 1;
  memcpy(word, flag, n);
  word[n] = '\0';
  const char *near = qnet_nearest(word, names, count);
  if (near)
    return qnet_error_in(d, "qnetc", "unknown option '%s%s'; did you mean '%s%s'?",
                         n == 1 ? "-" : "--", word, strlen(near) == 1 ? "-" : "--", near);
  return qnet_error_in(d, "qnetc", "unknown option '%s%s'; try 'qnetc %s%s--help'",
                       n == 1 ? "-" : "--", word, verb_name(verb),
                       verb == QNET_VERB_COMPILE ? "" : " ");
}

/* Whole numbers have a range; it begins at 1 where 0 would mean nothing. */
static int64_t lowest(const option_row *row) {
  static const size_t from_one[] = {offsetof(qnet_options, epochs), offsetof(qnet_options, threads),
                                    offsetof(qnet_options, limit)};
  for (size_t i = 0; i < sizeof from_one / sizeof from_one[0]; i++)
    if (row->offset == from_one[i]) return 1;
  return 0;
}

static int64_t highest(const option_row *row) {
  return row->offset == offsetof(qnet_options, threads) ? MAX_THREADS : INT32_MAX;
}

static qnet_status store_number(const option_row *row, char *field, const char *value,
                                qnet_diag *d) {
  char *end = NULL;
  errno = 0;
  if (row->kind == KIND_FLOAT) {
    const double x = strtod(value, &end);
    if (end == value || *end || !isfinite(x) || x < 0)
      return qnet_error_in(d, "qnetc", "--%s takes a number that is not negative, not '%s'",
                           row->text, value);
    *(double *)(void *)field = x;
    return QNET_OK;
  }
  const long long x = strtoll(value, &end, 10);
  if (end == value || *end || errno || x < lowest(row) || x > highest(row))
    return qnet_error_in(d, "qnetc", "--%s takes a whole number from %lld to %lld, not '%s'",
                         row->text, (long long)lowest(row), (long long)highest(row), value);
  *(int64_t *)(void *)field = x;
  return QNET_OK;
}

/* 1 to 8 or 32; *text moves behind the number. 0: none of these. */
static int read_bits(const char **text) {
  char *end;
  const long bits = isdigit((unsigned char)**text) ? strtol(*text, &end, 10) : 0;
  if (bits < 1 || (bits > 8 && bits != QNET_F32_BITS)) return 0;
  *text = end;
  return (int)bits;
}

/* N or WEIGHTS/ACTIVATIONS. */
static qnet_status store_bits(const option_row *row, char *field, const char *value, qnet_diag *d) {
  const char *rest = value;
  qnet_bits bits = {.weight = read_bits(&rest)};
  bits.activation = bits.weight;
  const bool both = *rest != '/';
  if (bits.weight && !both) {
    rest++;
    bits.activation = read_bits(&rest);
  }
  if (!bits.weight || !bits.activation || *rest)
    return qnet_error_in(d, "qnetc",
                         "--%s takes the bits of weights and activations, 1 to 8 or 32 (f32), as "
                         "2, 3/2 or 2/32, not '%s'",
                         row->text, value);
  *(qnet_bits *)(void *)field = bits;
  return QNET_OK;
}

static qnet_status store(const option_row *row, qnet_options *o, const char *value, qnet_diag *d) {
  char *field = (char *)o + row->offset;
  if (row->kind == KIND_STRING) {
    if (!*value) return qnet_error_in(d, "qnetc", "--%s needs a value", row->text);
    *(const char **)(void *)field = value;
    return QNET_OK;
  }
  if (row->kind == KIND_BITS) return store_bits(row, field, value, d);
  if (row->kind == KIND_LIST) {
    int *count = (int *)(void *)((char *)o + row->count_offset);
    if (*count == QNET_MAX_LIST)
      return qnet_error_in(d, "qnetc", "more than %d times '%s'", QNET_MAX_LIST, row->text);
    ((const char **)(void *)field)[(*count)++] = value;
    return QNET_OK;
  }
  return store_number(row, field, value, d);
}

/* --name=value, --name value, --flag, -o value, -Dname=value. Advances *i past a separate value. */
static qnet_status parse_flag(int argc, char **argv, int *i, qnet_options *o, qnet_diag *d) {
  const char *flag = argv[*i];
  const char *name = flag + (flag[1] == '-' ? 2 : 1);
  const char *equals = strchr(name, '=');
  size_t length = equals ? (size_t)(equals - name) : strlen(name);
  const char *value = equals ? equals + 1 : NULL;
  if (name[0] == 'D' && flag[1] == 'D' && name[1]) {
    length = 1;
    value = name + 1;
  }
  const option_row *row = find_row(name, length);
  if (!row) return unknown_option(name, length, o->verb, d);
  if (!(row->verbs & (unsigned)o->verb))
    return o->verb == QNET_VERB_COMPILE
               ? qnet_error_in(d, "qnetc", "'%s' needs a verb before it; try 'qnetc --help'", flag)
               : qnet_error_in(d, "qnetc",
                               "'%s' does not go with 'qnetc %s'; try 'qnetc %s --help'", flag,
                               verb_name(o->verb), verb_name(o->verb));
  if (row->kind == KIND_FLAG) {
    if (value) return qnet_error_in(d, "qnetc", "--%s takes no value", row->text);
    *((bool *)o + row->offset) = true;
    return QNET_OK;
  }
  if (!value) {
    if (*i + 1 >= argc)
      return qnet_error_in(d, "qnetc", "'%s' needs a value (%s)", flag, row->value);
    value = argv[++*i];
  }
  return store(row, o, value, d);
}

static qnet_status parse_word(const char *word, qnet_options *o, qnet_diag *d) {
  if (!o->input) {
    o->input = word;
    return QNET_OK;
  }
  if (o->verb == QNET_VERB_RUN && !o->argument) {
    o->argument = word;
    return QNET_OK;
  }
  return qnet_error_in(d, "qnetc", "one input too many: '%s'", word);
}

/* ---- what a verb cannot do without ----------------------------------------------------------- */

static const struct {
  unsigned verbs;
  size_t offset; /* of a string */
  const char *message;
} needs[] = {
    {C | T | E | R | P, offsetof(qnet_options, input),
     "no input; name a .qnet file ('-' for standard input)"},
    {R, offsetof(qnet_options, argument), "no image; name a PNG, PGM, PPM or .npy file"},
    {C | E | R | P, offsetof(qnet_options, weights),
     "no weights; add --weights=FILE.safetensors (qnetc train makes one)"},
    {T | E, offsetof(qnet_options, data), "no data; add --data=fashion-mnist or a directory"},
    {T | P, offsetof(qnet_options, output), "nowhere to save; add -o WEIGHTS.safetensors"},
};

/* A module (.qir), which only the compiler proper takes, brings its weights along. */
static bool has_need(const qnet_options *o, size_t offset) {
  if (*(const char *const *)(const void *)((const char *)o + offset)) return true;
  const size_t length = o->input ? strlen(o->input) : 0;
  return offset == offsetof(qnet_options, weights) && o->verb == QNET_VERB_COMPILE && length > 4 &&
         strcmp(o->input + length - 4, ".qir") == 0;
}

static qnet_status check_needs(const qnet_options *o, qnet_diag *d) {
  if (o->help || (o->target && strcmp(o->target, "help") == 0)) return QNET_OK;
  qnet_status status = QNET_OK;
  for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++) {
    if ((needs[i].verbs & (unsigned)o->verb) && !has_need(o, needs[i].offset))
      status = qnet_error_in(d, "qnetc", "%s", needs[i].message);
  }
  return status;
}

qnet_status qnet_options_parse(int argc, char **argv, qnet_options *o, qnet_diag *d) {
  set_defaults(o);
  o->verb = QNET_VERB_COMPILE;
  int i = 1;
  for (size_t v = 1; argc > 1 && v < VERB_COUNT; v++)
    if (strcmp(argv[1], verbs[v].name) == 0) {
      o->verb = verbs[v].verb;
      i = 2;
    }
  qnet_status status = QNET_OK;
  for (; i < argc; i++) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      o->help = true;
      continue;
    }
    const bool is_flag = argv[i][0] == '-' && argv[i][1];
    const qnet_status s = is_flag ? parse_flag(argc, argv, &i, o, d) : parse_word(argv[i], o, d);
    if (status == QNET_OK) status = s;
  }
  return status == QNET_OK ? check_needs(o, d) : status;
}

static void print_row(const option_row *row, FILE *out) {
  char left[64];
  const bool clang_like = isupper((unsigned char)row->text[0]) != 0; /* -Rlowering */
  const char *dash = strlen(row->text) == 1 || clang_like ? "-" : "--";
  const char *joint = !row->value ? "" : strlen(row->text) == 1 ? " " : "=";
  snprintf(left, sizeof left, "%s%s%s%s", dash, row->text, joint, row->value ? row->value : "");
  fprintf(out, "  %-28s %s\n", left, row->help);
}

void qnet_options_help(qnet_verb verb, FILE *out) {
  fprintf(out, "usage:\n");
  for (size_t i = 0; i < VERB_COUNT; i++) {
    if (verb != QNET_VERB_COMPILE && verbs[i].verb != verb) continue;
    fprintf(out, "  qnetc %s%s%s\n      %s\n", verbs[i].name, verbs[i].name[0] ? " " : "",
            verbs[i].usage, verbs[i].doc);
  }
  fprintf(out, "\noptions%s%s:\n", verb == QNET_VERB_COMPILE ? "" : " of ", verb_name(verb));
  for (size_t i = 0; i < ROW_COUNT; i++)
    if (rows[i].verbs & (unsigned)verb) print_row(&rows[i], out);
  fprintf(out, "  %-28s %s\n", "--help", "this text");
  if (verb != QNET_VERB_COMPILE) return;
  fprintf(out, "  %-28s %s\n", "--version", "version, LLVM version, default target");
  fprintf(out,
          "\nExit codes: 0 fine, 1 diagnosed error, 2 usage error, 3 internal error, 4 stopped by "
          "Control-C\n(train: the run is saved; go on with --resume).\n");
}
