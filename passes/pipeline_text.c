/* Scanner of pipeline texts: names separated by commas, each perhaps with {key=value,...}. Blanks
 * are allowed between words. All that can be wrong with an option is found here, so that a pass
 * reads its options without checks. */
#include "passes/pipeline_text.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct scanner {
  qnet_pipeline_source *source;
  qnet_arena *arena;
  size_t at;
  bool wrong; /* something was reported */
} scanner;

qnet_loc qnet_pipeline_loc(qnet_pipeline_source *s, size_t begin, size_t end) {
  if (s->buffer == 0)
    s->buffer = qnet_diag_add_buffer(s->diag, "<passes>", s->text, strlen(s->text));
  if (s->buffer == 0) return QNET_NO_LOC;
  return (qnet_loc){s->buffer, (uint32_t)begin, (uint32_t)end};
}

qnet_status qnet_pipeline_unknown(const char *name, qnet_loc loc, qnet_diag *d) {
  size_t count;
  const qnet_pass *table = qnet_pass_table(&count);
  const char *names[32];
  const size_t known = count < 32 ? count : 32;
  for (size_t i = 0; i < known; i++)
    names[i] = table[i].name;
  const char *nearest = qnet_nearest(name, names, known);
  if (!nearest)
    return qnet_error(d, loc, "unknown pass '%s'; `qnetc opt --help-passes` lists all", name);
  const qnet_status status =
      qnet_error(d, loc, "unknown pass '%s'; did you mean '%s'?", name, nearest);
  if (loc.buffer) qnet_fixit(d, nearest);
  return status;
}

/* ---- words ----------------------------------------------------------------------------------- */

static bool is_word(char c) {
  return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.' || c == '+';
}

static char peek(scanner *s) {
  while (isspace((unsigned char)s->source->text[s->at]))
    s->at++;
  return s->source->text[s->at];
}

static bool accept(scanner *s, char c) {
  if (peek(s) != c) return false;
  s->at++;
  return true;
}

/* The word at the cursor, possibly empty; NULL when out of memory. */
static const char *scan_word(scanner *s, size_t *begin) {
  peek(s);
  *begin = s->at;
  while (is_word(s->source->text[s->at]))
    s->at++;
  return qnet_arena_strndup(s->arena, s->source->text + *begin, s->at - *begin);
}

static qnet_status unexpected(scanner *s, const char *expected) {
  const char c = peek(s);
  const qnet_loc loc = qnet_pipeline_loc(s->source, s->at, s->at + (c != 0));
  if (c == 0)
    return qnet_error(s->source->diag, loc, "the pipeline ends where %s is expected", expected);
  return qnet_error(s->source->diag, loc, "expected %s, not '%c'", expected, c);
}

/* ---- options --------------------------------------------------------------------------------- */

/* Finds "key:kind" in the list of known options; returns the kind's first letter, 0 if unknown. */
static char option_kind(const char *known, const char *key) {
  const size_t length = strlen(key);
  for (const char *at = known; *at;) {
    const size_t item = strcspn(at, " ");
    if (length > 0 && item > length + 1 && memcmp(at, key, length) == 0 && at[length] == ':')
      return at[length + 1];
    at += item;
    at += strspn(at, " ");
  }
  return 0;
}

static bool is_integer(const char *text) {
  char *end;
  errno = 0;
  (void)strtoll(text, &end, 10);
  return *text && *end == 0 && errno == 0;
}

static bool is_number(const char *text) {
  char *end;
  (void)strtod(text, &end);
  return *text && *end == 0;
}

/* A word of the text and where it stands. */
typedef struct word {
  const char *text;
  size_t begin, end;
} word;

static void check_option(scanner *s, const qnet_pass *pass, const word *key, const word *value) {
  qnet_diag *d = s->source->diag;
  const char kind = option_kind(pass->options, key->text);
  if (kind == 'w' || (kind == 'i' && is_integer(value->text)) ||
      (kind == 'f' && is_number(value->text)))
    return;
  s->wrong = true;
  const word *at = kind ? value : key;
  const qnet_loc loc = qnet_pipeline_loc(s->source, at->begin, at->end);
  if (kind)
    (void)qnet_error(d, loc, "option '%s' of pass '%s' is %s, not '%s'", key->text, pass->name,
                     kind == 'f' ? "a number" : "an integer", value->text);
  else if (*pass->options)
    (void)qnet_error(d, loc, "pass '%s' has no option '%s'; it knows %s", pass->name, key->text,
                     pass->options);
  else
    (void)qnet_error(d, loc, "pass '%s' has no options", pass->name);
}

static qnet_status scan_expected(scanner *s, const char *what, word *out) {
  out->text = scan_word(s, &out->begin);
  if (!out->text) return qnet_out_of_memory(s->source->diag);
  out->end = s->at;
  return *out->text ? QNET_OK : unexpected(s, what);
}

static qnet_status scan_option(scanner *s, const qnet_pass *pass, const char **options) {
  word key, value;
  QNET_TRY(scan_expected(s, "an option's name", &key));
  if (!accept(s, '=')) return unexpected(s, "'='");
  QNET_TRY(scan_expected(s, "an option's value", &value));
  *options = qnet_arena_printf(s->arena, "%s%s%s=%s", *options, **options ? "," : "", key.text,
                               value.text);
  if (!*options) return qnet_out_of_memory(s->source->diag);
  if (pass) check_option(s, pass, &key, &value);
  return QNET_OK;
}

static qnet_status scan_options(scanner *s, const qnet_pass *pass, const char **options) {
  *options = "";
  if (!accept(s, '{') || accept(s, '}')) return QNET_OK;
  do
    QNET_TRY(scan_option(s, pass, options));
  while (accept(s, ','));
  return accept(s, '}') ? QNET_OK : unexpected(s, "',' or '}'");
}

/* ---- steps ----------------------------------------------------------------------------------- */

static qnet_status scan_step(scanner *s, qnet_pipeline_step ***tail) {
  size_t begin;
  const char *name = scan_word(s, &begin);
  if (!name) return qnet_out_of_memory(s->source->diag);
  if (*name == 0) return unexpected(s, "the name of a pass");
  qnet_pipeline_step *step = qnet_arena_alloc(s->arena, sizeof *step);
  if (!step) return qnet_out_of_memory(s->source->diag);
  step->begin = (uint32_t)begin;
  step->end = (uint32_t)s->at;
  step->pass = qnet_pass_find(name);
  if (!step->pass) {
    s->wrong = true;
    (void)qnet_pipeline_unknown(name, qnet_pipeline_loc(s->source, begin, s->at), s->source->diag);
  }
  QNET_TRY(scan_options(s, step->pass, &step->options));
  **tail = step;
  *tail = &step->next;
  return QNET_OK;
}

qnet_status qnet_pipeline_parse(qnet_pipeline_source *source, qnet_arena *arena,
                                qnet_pipeline_step **steps) {
  scanner s = {.source = source, .arena = arena};
  *steps = NULL;
  if (strlen(source->text) > UINT32_MAX / 2)
    return qnet_error_in(source->diag, "<passes>", "the pipeline's text is too long");
  if (peek(&s) == 0) return QNET_OK;
  qnet_pipeline_step **tail = steps;
  do
    QNET_TRY(scan_step(&s, &tail));
  while (accept(&s, ','));
  if (peek(&s) != 0) return unexpected(&s, "','");
  return s.wrong ? QNET_ERROR : QNET_OK;
}
