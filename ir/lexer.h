/* Private to the text form: tokens. */
#ifndef QNET_IR_LEXER_H
#define QNET_IR_LEXER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
  QNET_TOKEN_END,
  QNET_TOKEN_BAD,    /* a character or number that cannot be; `problem` says why */
  QNET_TOKEN_WORD,   /* func, nn.conv2d */
  QNET_TOKEN_SYMBOL, /* @name */
  QNET_TOKEN_VALUE,  /* %name */
  QNET_TOKEN_NUMBER, /* -1, 0.5e-3, -inf */
  QNET_TOKEN_STRING, /* "..." with its quotes */
  QNET_TOKEN_PUNCT,  /* one of {}()[]<>:,=^ */
} qnet_token_kind;

/* A range of the text. Of symbols and values begin is behind the sigil. */
typedef struct qnet_token {
  qnet_token_kind kind;
  uint32_t start, begin, end; /* start: with the sigil */
  bool first_of_line;
  const char *problem;
} qnet_token;

typedef struct qnet_lexer {
  const char *text;
  uint32_t length, at;
} qnet_lexer;

qnet_token qnet_lexer_next(qnet_lexer *l);
/* May c stand in names of symbols and values? */
bool qnet_is_name_char(char c);
bool qnet_is_digit(char c);
/* May the text be such a name? */
bool qnet_is_name(const char *text);

#endif
