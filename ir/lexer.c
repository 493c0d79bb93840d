/* The scanner of the text form: no memory, no state but the position. */
#include "ir/lexer.h"
#include <string.h>

bool qnet_is_digit(char c) {
  return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool qnet_is_name_char(char c) {
  return is_letter(c) || qnet_is_digit(c) || c == '_' || c == '.' || c == '-';
}

static char peek(const qnet_lexer *l, uint32_t ahead) {
  return l->length - l->at > ahead ? l->text[l->at + ahead] : '\0';
}

/* Returns whether a line ended. */
static bool skip_blank(qnet_lexer *l) {
  bool line = l->at == 0;
  while (l->at < l->length) {
    const char c = l->text[l->at];
    if (c == '/' && peek(l, 1) == '/') {
      const char *end = memchr(l->text + l->at, '\n', l->length - l->at);
      l->at = end ? (uint32_t)(end - l->text) : l->length;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
      line |= c == '\n';
      l->at++;
    } else {
      break;
    }
  }
  return line;
}

static qnet_token bad(qnet_token t, const char *problem) {
  t.kind = QNET_TOKEN_BAD;
  t.problem = problem;
  return t;
}

static qnet_token scan_name(qnet_lexer *l, qnet_token t, qnet_token_kind kind) {
  t.kind = kind;
  t.begin = ++l->at;
  while (qnet_is_name_char(peek(l, 0)))
    l->at++;
  t.end = l->at;
  return t.end > t.begin ? t : bad(t, "a name of [A-Za-z0-9_.-] must follow");
}

static qnet_token scan_word(qnet_lexer *l, qnet_token t) {
  t.kind = QNET_TOKEN_WORD;
  for (char c = peek(l, 0); is_letter(c) || qnet_is_digit(c) || c == '_' || c == '.';
       c = peek(l, 0))
    l->at++;
  t.end = l->at;
  return t;
}

static void skip_digits(qnet_lexer *l) {
  while (qnet_is_digit(peek(l, 0)))
    l->at++;
}

static qnet_token scan_number(qnet_lexer *l, qnet_token t) {
  t.kind = QNET_TOKEN_NUMBER;
  if (peek(l, 0) == '-') l->at++;
  if (is_letter(peek(l, 0))) {
    t = scan_word(l, t);
    t.kind = QNET_TOKEN_NUMBER;
    const bool inf = t.end - t.begin == 4 && memcmp(l->text + t.begin, "-inf", 4) == 0;
    return inf ? t : bad(t, "a number must follow '-'");
  }
  const uint32_t digits = l->at;
  skip_digits(l);
  bool fine = l->at > digits;
  if (peek(l, 0) == '.') {
    l->at++;
    skip_digits(l);
  }
  if (fine && (peek(l, 0) == 'e' || peek(l, 0) == 'E')) {
    l->at++;
    if (peek(l, 0) == '+' || peek(l, 0) == '-') l->at++;
    fine = qnet_is_digit(peek(l, 0));
    skip_digits(l);
  }
  t.end = l->at;
  return fine ? t : bad(t, "malformed number");
}

static qnet_token scan_string(qnet_lexer *l, qnet_token t) {
  t.kind = QNET_TOKEN_STRING;
  for (l->at++; l->at < l->length; l->at++) {
    const char c = l->text[l->at];
    if (c == '\n' || c == '\0') break;
    if (c == '\\' && peek(l, 1) != '\n') l->at++;
    if (c != '"') continue;
    t.end = ++l->at;
    return t;
  }
  if (l->at > l->length) l->at = l->length;
  t.end = l->at;
  return bad(t, "the string has no closing '\"' on its line");
}

qnet_token qnet_lexer_next(qnet_lexer *l) {
  qnet_token t = {.first_of_line = skip_blank(l)};
  t.start = t.begin = t.end = l->at;
  if (l->at == l->length) return t;
  const char c = l->text[l->at];
  if (c == '@') return scan_name(l, t, QNET_TOKEN_SYMBOL);
  if (c == '%') return scan_name(l, t, QNET_TOKEN_VALUE);
  if (c == '"') return scan_string(l, t);
  if (is_letter(c) || c == '_') return scan_word(l, t);
  if (c == '-' || qnet_is_digit(c)) return scan_number(l, t);
  t.end = ++l->at;
  t.kind = QNET_TOKEN_PUNCT;
  return c != '\0' && strchr("{}()[]<>:,=^", c) ? t : bad(t, "unexpected character");
}

bool qnet_is_name(const char *text) {
  if (!text || !*text) return false;
  while (qnet_is_name_char(*text))
    text++;
  return *text == '\0';
}
