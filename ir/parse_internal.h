/* Private to the parser (parse.c, parse_*.c). Its functions return false after
 * they have reported an error or when memory is out (parser->no_memory, module->failed). */
#ifndef QNET_IR_PARSE_INTERNAL_H
#define QNET_IR_PARSE_INTERNAL_H

#include "ir/ir.h"
#include "ir/lexer.h"

typedef struct qnet_parser {
  qnet_lexer lexer;
  qnet_token token;      /* the one ahead */
  uint32_t previous_end; /* end of the one before */
  int depth;             /* open braces before `token` */
  qnet_module *module;
  qnet_diag *diag;
  uint32_t buffer;
  qnet_arena scratch; /* cleared at every symbol */
  bool failed;        /* an error was reported */
  bool no_memory;
  struct qnet_name_table *names; /* the values in scope */
} qnet_parser;

/* A growing list in the scratch arena. */
typedef struct qnet_parse_list {
  void *items;
  int count, capacity;
} qnet_parse_list;
/* Room for one more item of that size, or NULL. */
void *qnet_parse_list_add(qnet_parser *p, qnet_parse_list *list, size_t size);

void qnet_parse_advance(qnet_parser *p);
bool qnet_parse_is(const qnet_parser *p, char punct);
bool qnet_parse_is_word(const qnet_parser *p, const char *word);
/* Consumes the punctuation mark if it is ahead. */
bool qnet_parse_accept(qnet_parser *p, char punct);
/* The same, or an error: "expected ')' after the operands, not ...". */
bool qnet_parse_expect(qnet_parser *p, char punct, const char *where);
/* Reports at a range and returns false. */
bool qnet_parse_error(qnet_parser *p, uint32_t begin, uint32_t end, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* "expected WHAT, not TOKEN" at the token ahead. */
bool qnet_parse_expected(qnet_parser *p, const char *what);
bool qnet_parse_out_of_memory(qnet_parser *p);
qnet_loc qnet_parse_loc(const qnet_parser *p, uint32_t begin, uint32_t end);
/* The text of a token, in the scratch arena; NULL when out of memory. */
char *qnet_parse_text(qnet_parser *p, qnet_token t);
/* The same for words of which only short ones are known: a longer one is cut. */
enum { QNET_PARSE_WORD = 64 };
void qnet_parse_word(const qnet_parser *p, qnet_token t, char word[QNET_PARSE_WORD]);
/* Consumes `@name`; the name is interned. */
bool qnet_parse_symbol_name(qnet_parser *p, const char **name);

/* parse_type.c */
bool qnet_parse_type(qnet_parser *p, const qnet_type **type);

/* parse_value.c: `{name = value, ...}` into holder->attrs; the schema knows the names. `what` is
 * for messages: "operation 'nn.relu'". */
bool qnet_parse_attrs(qnet_parser *p, const char *schema, const char *what, qnet_op *holder);
/* Content of a const or state of that type. *blob is the caller's reference. */
bool qnet_parse_data(qnet_parser *p, const qnet_type *type, qnet_blob **blob, const char **origin);
/* parse_table.c: `{ bits = ... }` of a table of that name. */
bool qnet_parse_table(qnet_parser *p, const char *name, qnet_loc loc);

#endif
