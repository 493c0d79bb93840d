/* The parser's hold on its tokens: looking ahead, expecting, reporting. */
#include "ir/parse_internal.h"
#include "support/strbuf.h"
#include <string.h>

static bool is_punct(const qnet_parser *p, qnet_token t, char c) {
  return t.kind == QNET_TOKEN_PUNCT && p->lexer.text[t.begin] == c;
}

void qnet_parse_advance(qnet_parser *p) {
  if (is_punct(p, p->token, '{')) p->depth++;
  p->previous_end = p->token.end;
  p->token = qnet_lexer_next(&p->lexer);
  if (is_punct(p, p->token, '}')) p->depth--;
}

bool qnet_parse_is(const qnet_parser *p, char punct) {
  return is_punct(p, p->token, punct);
}

bool qnet_parse_is_word(const qnet_parser *p, const char *word) {
  const size_t length = p->token.end - p->token.begin;
  return p->token.kind == QNET_TOKEN_WORD && strlen(word) == length &&
         memcmp(p->lexer.text + p->token.begin, word, length) == 0;
}

bool qnet_parse_accept(qnet_parser *p, char punct) {
  if (!qnet_parse_is(p, punct)) return false;
  qnet_parse_advance(p);
  return true;
}

bool qnet_parse_expect(qnet_parser *p, char punct, const char *where) {
  if (qnet_parse_accept(p, punct)) return true;
  char what[QNET_PARSE_WORD];
  snprintf(what, sizeof what, "'%c' %s", punct, where);
  return qnet_parse_expected(p, what);
}

qnet_loc qnet_parse_loc(const qnet_parser *p, uint32_t begin, uint32_t end) {
  return (qnet_loc){p->buffer, begin, end > begin ? end : begin};
}

bool qnet_parse_error(qnet_parser *p, uint32_t begin, uint32_t end, const char *format, ...) {
  char message[512];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  qnet_error(p->diag, qnet_parse_loc(p, begin, end), "%s", message);
  p->failed = true;
  return false;
}

bool qnet_parse_expected(qnet_parser *p, const char *what) {
  const qnet_token t = p->token;
  if (t.kind == QNET_TOKEN_BAD) return qnet_parse_error(p, t.start, t.end, "%s", t.problem);
  if (t.kind == QNET_TOKEN_END)
    return qnet_parse_error(p, t.start, t.end, "expected %s, but the file ends here", what);
  char found[QNET_PARSE_WORD];
  qnet_token whole = t;
  whole.begin = t.start;
  qnet_parse_word(p, whole, found);
  return qnet_parse_error(p, t.start, t.end, "expected %s, not '%s'", what, found);
}

bool qnet_parse_out_of_memory(qnet_parser *p) {
  p->no_memory = true;
  return false;
}

char *qnet_parse_text(qnet_parser *p, qnet_token t) {
  char *text = qnet_arena_strndup(&p->scratch, p->lexer.text + t.begin, t.end - t.begin);
  if (!text) p->no_memory = true;
  return text;
}

void qnet_parse_word(const qnet_parser *p, qnet_token t, char word[QNET_PARSE_WORD]) {
  size_t length = t.end - t.begin;
  if (length > QNET_PARSE_WORD - 1) length = QNET_PARSE_WORD - 1;
  memcpy(word, p->lexer.text + t.begin, length);
  word[length] = '\0';
}

bool qnet_parse_symbol_name(qnet_parser *p, const char **name) {
  const qnet_token t = p->token;
  if (t.kind != QNET_TOKEN_SYMBOL) return qnet_parse_expected(p, "a symbol (@name)");
  const char *text = qnet_parse_text(p, t);
  if (!text) return false;
  *name = qnet_module_string(p->module, text);
  if (!*name) return qnet_parse_out_of_memory(p);
  qnet_parse_advance(p);
  return true;
}

void *qnet_parse_list_add(qnet_parser *p, qnet_parse_list *list, size_t size) {
  if (list->count == list->capacity) {
    if (list->capacity > INT32_MAX / 2) {
      p->no_memory = true;
      return NULL;
    }
    const int capacity = list->capacity ? list->capacity * 2 : 8;
    void *items = qnet_arena_array(&p->scratch, (size_t)capacity, size);
    if (!items) {
      p->no_memory = true;
      return NULL;
    }
    if (list->count > 0) memcpy(items, list->items, (size_t)list->count * size);
    list->items = items;
    list->capacity = capacity;
  }
  return (char *)list->items + (size_t)list->count++ * size;
}
