/* Text to syntax tree: what scanner, grammar and the rest of the frontend share.
 *
 * Neither flex nor bison gets memory of its own: the scanner runs on a private copy of the text and
 * a small fixed pool, the parser on a stack of fixed depth, so that deep nesting is a diagnostic.
 */
#ifndef QNET_FRONTEND_SYNTAX_H
#define QNET_FRONTEND_SYNTAX_H

#include "frontend/ast.h"

enum {
  QNET_SOURCE_MAX = 1 << 20,   /* bytes of a .qnet file */
  QNET_SYNTAX_DEPTH = 1000,    /* entries of the parser's stack */
  QNET_SYNTAX_DELIMITERS = 64, /* open brackets remembered for notes */
  QNET_SCANNER_POOL = 2048,
};

/* An open bracket, for the note at a missing partner. */
typedef struct qnet_delimiter {
  char open;
  qnet_loc loc;
} qnet_delimiter;

/* One parse. */
typedef struct qnet_syntax {
  qnet_arena *arena;
  qnet_diag *diag;
  const char *text;
  uint32_t length, buffer;
  uint32_t offset; /* of the next token */
  void *scanner;   /* yyscan_t */
  bool no_memory;
  unsigned errors;
  qnet_file_ast file;
  qnet_loc last, previous; /* the newest token that the parser got, and the one before it */
  bool last_is_identifier, previous_is_identifier;
  qnet_delimiter open[QNET_SYNTAX_DELIMITERS];
  uint32_t error_at; /* where the newest error is */
  int pending;       /* a token held back while closing brackets; 0 = none */
  qnet_loc pending_loc;
  int open_count; /* may exceed QNET_SYNTAX_DELIMITERS */
  size_t pool_used;
  _Alignas(16) unsigned char pool[QNET_SCANNER_POOL];
} qnet_syntax;

/* Parses p->text into p->file. The caller has set arena, diag, text, length and buffer. */
qnet_status qnet_syntax_run(qnet_syntax *p);

/* For the grammar and the scanner. */
void qnet_syntax_error(qnet_syntax *p, qnet_loc loc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A token that does not fit. expected: how the tokens that would fit are called. */
void qnet_syntax_unexpected(qnet_syntax *p, qnet_loc loc, bool at_end, const char *const *expected,
                            int expected_count);
/* Follows tokens and brackets, for such messages. */
void qnet_syntax_track(qnet_syntax *p, qnet_loc loc, bool is_identifier);
/* The partner of an open ( or [ that the token at loc cannot stand in, reported as missing; 0 when
 * there is none. */
char qnet_syntax_close(qnet_syntax *p, qnet_loc loc);
/* The text of an identifier or string in the arena; "" (and no_memory) when that fails. */
const char *qnet_syntax_text(qnet_syntax *p, const char *text, size_t length);
/* Literals; out-of-range ones are diagnosed and become 0. */
int64_t qnet_syntax_integer(qnet_syntax *p, qnet_loc loc, const char *text);
double qnet_syntax_float(qnet_syntax *p, qnet_loc loc, const char *text);
/* "3x3" as the list [3, 3]. */
qnet_expr *qnet_syntax_extent(qnet_syntax *p, qnet_loc loc, const char *text);
/* Memory for flex; NULL when the pool is empty. */
void *qnet_syntax_pool(qnet_syntax *p, size_t size);

#endif
