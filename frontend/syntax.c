/* Runs scanner and grammar, and words syntax errors. */
#include "frontend/syntax.h"

#include "frontend/grammar.h"
#define YYSTYPE QNET_YYSTYPE
#define YYLTYPE QNET_YYLTYPE
#include "frontend/scanner.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ERRORS = 20, MAX_EXPECTED = 4, MAX_SHOWN = 32 };

void qnet_syntax_error(qnet_syntax *p, qnet_loc loc, const char *format, ...) {
  if (p->no_memory) return;
  p->error_at = loc.begin;
  if (p->errors++ >= MAX_ERRORS) return;
  char text[256];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  qnet_error(p->diag, loc, "%s", text);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

const char *qnet_syntax_text(qnet_syntax *p, const char *text, size_t length) {
  const char *copy = qnet_arena_strndup(p->arena, text, length);
  if (!copy) p->no_memory = true;
  return copy ? copy : "";
}

int64_t qnet_syntax_integer(qnet_syntax *p, qnet_loc loc, const char *text) {
  errno = 0;
  const long long value = strtoll(text, NULL, 10);
  if (errno == 0) return value;
  qnet_syntax_error(p, loc, "the integer is too large; the largest is 9223372036854775807");
  return 0;
}

double qnet_syntax_float(qnet_syntax *p, qnet_loc loc, const char *text) {
  const double value = strtod(text, NULL);
  if (isfinite(value)) return value;
  qnet_syntax_error(p, loc, "the number is too large");
  return 0;
}

qnet_expr *qnet_syntax_extent(qnet_syntax *p, qnet_loc loc, const char *text) {
  qnet_expr *list = qnet_expr_new(p->arena, QNET_EXPR_LIST, loc);
  qnet_expr *height = qnet_expr_int(p->arena, loc, qnet_syntax_integer(p, loc, text));
  const char *second = strchr(text, 'x') + 1;
  qnet_expr *width = qnet_expr_int(p->arena, loc, qnet_syntax_integer(p, loc, second));
  if (!list || !height || !width) {
    p->no_memory = true;
    return NULL;
  }
  qnet_expr_append(&list->list, height);
  qnet_expr_append(&list->list, width);
  return list;
}

static char closing_of(char open) {
  return open == '(' ? ')' : open == '[' ? ']' : '}';
}

static const qnet_delimiter *innermost(const qnet_syntax *p) {
  const bool known = p->open_count > 0 && p->open_count <= QNET_SYNTAX_DELIMITERS;
  return known ? &p->open[p->open_count - 1] : NULL;
}

/* The text at loc, at most MAX_SHOWN bytes of it. */
static int shown_length(qnet_loc loc) {
  const uint32_t length = loc.end - loc.begin;
  return (int)(length > MAX_SHOWN ? MAX_SHOWN : length);
}

void qnet_syntax_track(qnet_syntax *p, qnet_loc loc, bool is_identifier) {
  p->previous = p->last;
  p->previous_is_identifier = p->last_is_identifier;
  p->last = loc;
  p->last_is_identifier = is_identifier;
  if (loc.end - loc.begin != 1) return;
  const char c = p->text[loc.begin];
  if (c == '(' || c == '[' || c == '{') {
    if (p->open_count < QNET_SYNTAX_DELIMITERS) p->open[p->open_count] = (qnet_delimiter){c, loc};
    p->open_count++;
  } else if (c == ')' || c == ']' || c == '}') {
    const qnet_delimiter *top = innermost(p);
    if (p->open_count > QNET_SYNTAX_DELIMITERS || (top && closing_of(top->open) == c))
      p->open_count--;
  }
}

char qnet_syntax_close(qnet_syntax *p, qnet_loc loc) {
  const qnet_delimiter *open = innermost(p);
  if (!open || open->open == '{') return 0;
  const char closing = closing_of(open->open);
  /* A mistake inside the brackets was reported already; this may be a part of it. */
  const bool known = p->errors && p->error_at > open->loc.begin;
  if (!known) {
    qnet_syntax_error(p, loc, "expected '%c' before '%.*s'", closing, shown_length(loc),
                      p->text + loc.begin);
    if (p->errors <= MAX_ERRORS) qnet_note(p->diag, open->loc, "to match this '%c'", open->open);
  }
  p->open_count--;
  return closing;
}

/* After a wrong closing bracket: forget what was opened since its partner. */
static void close_through(qnet_syntax *p, char c) {
  int i = p->open_count;
  if (i > QNET_SYNTAX_DELIMITERS) return;
  while (i > 0 && closing_of(p->open[i - 1].open) != c)
    i--;
  if (i > 0) p->open_count = i - 1;
}

/* ---- syntax errors --------------------------------------------------------------------------- */

static bool among(const char *name, const char *const *names, int count) {
  for (int i = 0; i < count; i++)
    if (strcmp(name, names[i]) == 0) return true;
  return false;
}

/* Operators may follow any expression: naming them all would hide what is missing. */
static bool is_operator(const char *name) {
  static const char *const operators[] = {"'|>'", "'=='", "'!='", "'<='",  "'>='",  "'<'",
                                          "'>'",  "'+'",  "'-'",  "'*'",   "'/'",   "'%'",
                                          "'.'",  "'or'", "'('",  "'and'", "'not'", "'['"};
  return among(name, operators, (int)(sizeof operators / sizeof *operators));
}

static bool is_literal(const char *name) {
  static const char *const literals[] = {"a name", "a string", "an integer", "a number",
                                         "a size", "'true'",   "'false'"};
  return among(name, literals, (int)(sizeof literals / sizeof *literals));
}

/* What would fit, in words. */
typedef struct expectation {
  const char *name[MAX_EXPECTED];
  int count;
  bool too_many;
} expectation;

static void expect(expectation *e, const char *name) {
  if (e->count < MAX_EXPECTED)
    e->name[e->count++] = name;
  else
    e->too_many = true;
}

static expectation summarize(const char *const *expected, int count) {
  expectation e = {{0}, 0, false};
  const bool expression = among("an integer", expected, count) && among("a name", expected, count);
  const bool statement = among("'return'", expected, count) && among("a name", expected, count);
  const bool declaration = among("'net'", expected, count);
  const bool operand = among("'|>'", expected, count); /* an expression may end here */
  if (expression) expect(&e, "an expression");
  if (statement) expect(&e, "a statement");
  for (int i = 0; i < count; i++) {
    const char *name = expected[i];
    if (expression && (is_literal(name) || is_operator(name))) continue;
    if (statement && strcmp(name, "'}'") != 0) continue;
    if (declaration && strcmp(name, "end of file") == 0) continue;
    if (operand && (is_operator(name) || strcmp(name, "'='") == 0)) continue;
    expect(&e, name);
  }
  return e;
}

static void describe(const expectation *e, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, "expected ");
  for (int i = 0; i < e->count && used < size; i++) {
    const char *separator = i == 0 ? "" : i + 1 == e->count ? " or " : ", ";
    used += (size_t)snprintf(text + used, size - used, "%s%s", separator, e->name[i]);
  }
}

/* A misspelt keyword looks like a name that something strange follows. */
static bool report_misspelt(qnet_syntax *p, const char *const *expected, int count) {
  static const char *const keywords[] = {"return",   "repeat", "if",   "input",     "block", "net",
                                         "quantize", "train",  "else", "normalize", "except"};
  const bool assignment = count == 1 && strcmp(expected[0], "'='") == 0;
  const bool before = assignment && p->previous_is_identifier;
  if (!before && !p->last_is_identifier) return false;
  const qnet_loc loc = before ? p->previous : p->last;
  if (loc.end - loc.begin > MAX_SHOWN) return false;
  char word[MAX_SHOWN + 1] = {0};
  memcpy(word, p->text + loc.begin, loc.end - loc.begin);
  const char *near = qnet_nearest(word, keywords, sizeof keywords / sizeof *keywords);
  if (!near) return false;
  char quoted[16];
  snprintf(quoted, sizeof quoted, "'%s'", near);
  if (!before && !among(quoted, expected, count)) return false;
  qnet_syntax_error(p, loc, "unknown keyword '%s'; did you mean '%s'?", word, near);
  if (p->errors <= MAX_ERRORS) qnet_fixit(p->diag, near);
  return true;
}

void qnet_syntax_unexpected(qnet_syntax *p, qnet_loc loc, bool at_end, const char *const *expected,
                            int expected_count) {
  /* A bracket that qnet_syntax_close added is empty. */
  if (p->no_memory || (loc.begin == loc.end && !at_end)) return;
  if (report_misspelt(p, expected, expected_count)) return;
  const expectation e = summarize(expected, expected_count);
  char text[160];
  describe(&e, text, sizeof text);
  const bool clear = e.count > 0 && !e.too_many;
  if (at_end)
    qnet_syntax_error(p, loc, "%s at the end of the file", clear ? text : "incomplete");
  else if (clear)
    qnet_syntax_error(p, loc, "%s before '%.*s'", text, shown_length(loc), p->text + loc.begin);
  else
    qnet_syntax_error(p, loc, "'%.*s' does not fit here", shown_length(loc), p->text + loc.begin);
  const char c = at_end ? '\0' : p->text[loc.begin];
  const bool closing = c == ')' || c == ']' || c == '}';
  const qnet_delimiter *open = innermost(p);
  if ((at_end || closing) && open && p->errors <= MAX_ERRORS) {
    const char partner[] = {'\'', closing_of(open->open), '\'', '\0'};
    if (among(partner, expected, expected_count))
      qnet_note(p->diag, open->loc, "to match this '%c'", open->open);
  }
  if (closing) close_through(p, c);
}

/* ---- the run --------------------------------------------------------------------------------- */

void *qnet_syntax_pool(qnet_syntax *p, size_t size) {
  const size_t rounded = (size + 15) & ~(size_t)15;
  if (rounded < size || rounded > sizeof p->pool - p->pool_used) return NULL;
  void *block = p->pool + p->pool_used;
  p->pool_used += rounded;
  return block;
}

qnet_status qnet_syntax_run(qnet_syntax *p) {
  /* The scanner writes into its buffer, which ends in two NULs. */
  char *copy = qnet_arena_alloc(p->arena, (size_t)p->length + 2);
  if (!copy) return qnet_out_of_memory(p->diag);
  if (p->length) memcpy(copy, p->text, p->length);
  yyscan_t scanner = NULL;
  if (qnet_scan_lex_init_extra(p, &scanner) != 0) return QNET_INTERNAL;
  p->scanner = scanner;
  qnet_scan__scan_buffer(copy, (size_t)p->length + 2, scanner);
  const int result = qnet_yyparse(p);
  qnet_scan_lex_destroy(scanner);
  if (p->no_memory) return qnet_out_of_memory(p->diag);
  return result != 0 || p->errors ? QNET_ERROR : QNET_OK;
}
