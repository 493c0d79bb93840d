/* The grammar of .qnet (docs/language.md). Builds the tree of frontend/ast.h.
 *
 * Statements need no separator: each begins with a keyword or with `name =`. An error is recovered
 * from at the closing bracket of the list it is in, else at the next statement. */
%require "3.8"
%define api.pure full
%define api.prefix {qnet_yy}
%define api.token.prefix {TOK_}
%define api.location.type {qnet_loc}
%define parse.error custom
%define parse.lac full
/* Never more than the parser's own depth, so that bison allocates nothing. */
%define parse.lac.es-capacity-initial {1000}
%locations
%parse-param {qnet_syntax *p}
%lex-param {qnet_syntax *p}

%code requires {
#include "frontend/syntax.h"
}

%code {
#include <string.h>

#define YYINITDEPTH QNET_SYNTAX_DEPTH
#define YYMAXDEPTH  QNET_SYNTAX_DEPTH
#define YYMALLOC(size) ((void *)0)
#define YYFREE(block)  ((void)(block))

#define YYLLOC_DEFAULT(current, rhs, n)                                                            \
  do {                                                                                             \
    if (n) {                                                                                       \
      (current) = YYRHSLOC(rhs, 1);                                                                \
      (current).end = YYRHSLOC(rhs, n).end;                                                        \
    } else {                                                                                       \
      (current) = YYRHSLOC(rhs, 0);                                                                \
      (current).begin = (current).end;                                                             \
    }                                                                                              \
  } while (0)

int qnet_scan_token(QNET_YYSTYPE *value, QNET_YYLTYPE *loc, void *scanner);

static int qnet_yylex(QNET_YYSTYPE *value, QNET_YYLTYPE *loc, qnet_syntax *p);
static void qnet_yyerror(const QNET_YYLTYPE *loc, qnet_syntax *p, const char *message);

static qnet_ident ident(const char *text, qnet_loc loc) {
  return (qnet_ident){text, loc};
}

/* NULL sticks: what is built of it is NULL as well, and the parse fails at its end. */
#define BUILT(node)                                                                                \
  do {                                                                                             \
    if (!(node)) p->no_memory = true;                                                              \
  } while (0)

static qnet_expr *unary(qnet_syntax *p, qnet_loc loc, qnet_unary_op op, qnet_loc op_loc,
                        qnet_expr *operand) {
  qnet_expr *e = qnet_expr_unary(p->arena, loc, op, op_loc, operand);
  BUILT(e);
  return e;
}

static qnet_expr *binary(qnet_syntax *p, qnet_loc loc, qnet_binary_op op, qnet_loc op_loc,
                         qnet_expr *left, qnet_expr *right) {
  qnet_expr *e = qnet_expr_binary(p->arena, loc, op, op_loc, left, right);
  BUILT(e);
  return e;
}

/* NULL for a part that is NULL after an error of syntax is no lack of memory. */
static qnet_expr *pipe_to(qnet_syntax *p, qnet_loc loc, qnet_expr *left, qnet_expr *stage) {
  qnet_expr *e = qnet_expr_pipe(p->arena, loc, left, stage);
  if (left && stage) BUILT(e);
  return e;
}
}

%union {
  const char *text;
  int64_t integer;
  double real;
  qnet_expr *expr;
  qnet_expr_list exprs;
  qnet_arg *arg;
  qnet_arg_list args;
  qnet_stmt *stmt;
  qnet_stmt_list stmts;
  qnet_param *param;
  qnet_param_list params;
  qnet_setting *setting;
  qnet_setting_list settings;
  qnet_block *block;
}

%token END 0 "end of file"
%token NET "'net'" BLOCK "'block'" INPUT "'input'" NORMALIZE "'normalize'"
%token QUANTIZE "'quantize'" EXCEPT "'except'" TRAIN "'train'" RETURN "'return'"
%token REPEAT "'repeat'" AS "'as'" IF "'if'" ELSE "'else'"
%token TRUE "'true'" FALSE "'false'" AND "'and'" OR "'or'" NOT "'not'"
%token PIPE "'|>'" EQ "'=='" NE "'!='" LE "'<='" GE "'>='"
%token <text> IDENTIFIER "a name" STRING "a string"
%token <integer> INTEGER "an integer"
%token <real> FLOAT "a number"
%token <expr> EXTENT "a size"

%type <expr> expr stage call normalize quantizer
%type <exprs> exprs
%type <arg> arg role
%type <args> args arguments roles
%type <stmt> statement if input quantize train
%type <stmts> statements body otherwise net_items
%type <param> param
%type <params> params parameters
%type <setting> setting exception
%type <settings> settings exceptions except
%type <block> block

%precedence PIPE
%left OR
%left AND
%precedence NOT
%nonassoc EQ NE '<' '>' LE GE
%left '+' '-'
%left '*' '/' '%'
%precedence NEGATE
%precedence '.'

%%

file: %empty
    | file net
    | file block            { qnet_block_append(&p->file.blocks, $2); }
    | file train            { qnet_stmt_append(&p->file.trains, $2); }
    | file error
    | file error '{' net_items '}'
    ;

net: NET IDENTIFIER parameters '{' net_items '}'
                            {
                              qnet_block *net = qnet_block_new(p->arena, ident($2, @2), $3, $5);
                              BUILT(net);
                              qnet_block_append(&p->file.nets, net);
                            }
   | NET error '{' net_items '}'
   ;

net_items: %empty           { $$ = (qnet_stmt_list){0}; }
         | net_items statement { $$ = $1; qnet_stmt_append(&$$, $2); }
         | net_items input     { $$ = $1; qnet_stmt_append(&$$, $2); }
         | net_items train     { $$ = $1; qnet_stmt_append(&$$, $2); }
         | net_items block
                            {
                              $$ = $1;
                              if ($2) $2->in_net = true;
                              qnet_block_append(&p->file.blocks, $2);
                            }
         ;

block: BLOCK IDENTIFIER parameters body
                            {
                              $$ = qnet_block_new(p->arena, ident($2, @2), $3, $4);
                              BUILT($$);
                            }
     | BLOCK error body     { $$ = NULL; }
     ;

parameters: %empty          { $$ = (qnet_param_list){0}; }
          | '(' ')'         { $$ = (qnet_param_list){0}; }
          | '(' params ')'  { $$ = $2; }
          | '(' params ',' ')' { $$ = $2; }
          ;

params: param               { $$ = (qnet_param_list){0}; qnet_param_append(&$$, $1); }
      | params ',' param    { $$ = $1; qnet_param_append(&$$, $3); }
      ;

param: IDENTIFIER           { $$ = qnet_param_new(p->arena, ident($1, @1), NULL); BUILT($$); }
     | IDENTIFIER '=' expr  { $$ = qnet_param_new(p->arena, ident($1, @1), $3); BUILT($$); }
     ;

input: INPUT IDENTIFIER ':' IDENTIFIER '[' exprs ']' normalize
                            {
                              $$ = qnet_stmt_new(p->arena, QNET_STMT_INPUT, @$);
                              BUILT($$);
                              if ($$) {
                                $$->name = ident($2, @2);
                                $$->dtype = ident($4, @4);
                                $$->shape = $6;
                                $$->value = $8;
                              }
                            }
     ;

normalize: %empty           { $$ = NULL; }
         | NORMALIZE arguments
                            {
                              $$ = qnet_expr_call(p->arena, @$, ident("normalize", @1), $2);
                              BUILT($$);
                            }
         ;

quantize: QUANTIZE quantizer except
                            {
                              $$ = qnet_stmt_new(p->arena, QNET_STMT_QUANTIZE, @$);
                              BUILT($$);
                              if ($$) {
                                $$->value = $2;
                                $$->settings = $3;
                              }
                            }
        ;

quantizer: IDENTIFIER       {
                              $$ = qnet_expr_new(p->arena, QNET_EXPR_NAME, @$);
                              BUILT($$);
                              if ($$) $$->name = ident($1, @1);
                            }
         | call
         | roles            {
                              $$ = qnet_expr_call(p->arena, @$, ident("quantize", @1), $1);
                              BUILT($$);
                            }
         ;

roles: role                 { $$ = (qnet_arg_list){0}; qnet_arg_append(&$$, $1); }
     | roles ',' role       { $$ = $1; qnet_arg_append(&$$, $3); }
     ;

role: IDENTIFIER '=' expr   { $$ = qnet_arg_new(p->arena, ident($1, @1), $3); BUILT($$); }
    ;

except: %empty              { $$ = (qnet_setting_list){0}; }
      | EXCEPT exceptions   { $$ = $2; }
      ;

exceptions: exception       { $$ = (qnet_setting_list){0}; qnet_setting_append(&$$, $1); }
          | exceptions ',' exception { $$ = $1; qnet_setting_append(&$$, $3); }
          ;

exception: IDENTIFIER       {
                              $$ = qnet_setting_new(p->arena, ident($1, @1), (qnet_expr_list){0});
                              BUILT($$);
                            }
         | IDENTIFIER '=' expr
                            {
                              qnet_expr_list one = {0};
                              qnet_expr_append(&one, $3);
                              $$ = qnet_setting_new(p->arena, ident($1, @1), one);
                              BUILT($$);
                            }
         ;

train: TRAIN '{' settings '}'
                            {
                              $$ = qnet_stmt_new(p->arena, QNET_STMT_TRAIN, @1);
                              BUILT($$);
                              if ($$) $$->settings = $3;
                            }
     ;

settings: %empty            { $$ = (qnet_setting_list){0}; }
        | settings setting  { $$ = $1; qnet_setting_append(&$$, $2); }
        ;

setting: IDENTIFIER '=' exprs
                            {
                              $$ = qnet_setting_new(p->arena, ident($1, @1), $3);
                              BUILT($$);
                            }
       | error              { $$ = NULL; }
       ;

body: '{' statements '}'    { $$ = $2; }
    ;

statements: %empty          { $$ = (qnet_stmt_list){0}; }
          | statements statement { $$ = $1; qnet_stmt_append(&$$, $2); }
          ;

statement: IDENTIFIER '=' expr
                            {
                              $$ = qnet_stmt_new(p->arena, QNET_STMT_ASSIGN, @$);
                              BUILT($$);
                              if ($$) {
                                $$->name = ident($1, @1);
                                $$->value = $3;
                                $$->next_assign = p->file.assigns;
                                p->file.assigns = $$;
                              }
                            }
         | RETURN expr      {
                              $$ = qnet_stmt_new(p->arena, QNET_STMT_RETURN, @$);
                              BUILT($$);
                              if ($$) $$->value = $2;
                            }
         | REPEAT expr body {
                              $$ = qnet_stmt_new(p->arena, QNET_STMT_REPEAT, @1);
                              BUILT($$);
                              if ($$) {
                                $$->value = $2;
                                $$->body = $3;
                              }
                            }
         | REPEAT expr AS IDENTIFIER body
                            {
                              $$ = qnet_stmt_new(p->arena, QNET_STMT_REPEAT, @1);
                              BUILT($$);
                              if ($$) {
                                $$->value = $2;
                                $$->name = ident($4, @4);
                                $$->body = $5;
                              }
                            }
         | if
         | quantize
         | REPEAT error body { $$ = NULL; }
         | error            { $$ = NULL; }
         | error body       { $$ = NULL; }
         ;

if: IF expr body otherwise  {
                              $$ = qnet_stmt_new(p->arena, QNET_STMT_IF, @1);
                              BUILT($$);
                              if ($$) {
                                $$->value = $2;
                                $$->body = $3;
                                $$->otherwise = $4;
                              }
                            }
  | IF error body otherwise { $$ = NULL; }
  ;

otherwise: %empty           { $$ = (qnet_stmt_list){0}; }
         | ELSE body        { $$ = $2; }
         | ELSE if          { $$ = (qnet_stmt_list){0}; qnet_stmt_append(&$$, $2); }
         ;

exprs: expr                 { $$ = (qnet_expr_list){0}; qnet_expr_append(&$$, $1); }
     | exprs ',' expr       { $$ = $1; qnet_expr_append(&$$, $3); }
     ;

expr: INTEGER               { $$ = qnet_expr_int(p->arena, @$, $1); BUILT($$); }
    | FLOAT                 {
                              $$ = qnet_expr_new(p->arena, QNET_EXPR_FLOAT, @$);
                              BUILT($$);
                              if ($$) $$->f = $1;
                            }
    | STRING                {
                              $$ = qnet_expr_new(p->arena, QNET_EXPR_STRING, @$);
                              BUILT($$);
                              if ($$) $$->s = $1;
                            }
    | TRUE                  {
                              $$ = qnet_expr_new(p->arena, QNET_EXPR_BOOL, @$);
                              BUILT($$);
                              if ($$) $$->b = true;
                            }
    | FALSE                 { $$ = qnet_expr_new(p->arena, QNET_EXPR_BOOL, @$); BUILT($$); }
    | EXTENT
    | IDENTIFIER            {
                              $$ = qnet_expr_new(p->arena, QNET_EXPR_NAME, @$);
                              BUILT($$);
                              if ($$) $$->name = ident($1, @1);
                            }
    | call
    | '(' expr ')'          { $$ = $2; if ($$) $$->loc = @$; }
    | '(' error ')'         { $$ = NULL; }
    | '[' ']'               { $$ = qnet_expr_new(p->arena, QNET_EXPR_LIST, @$); BUILT($$); }
    | '[' exprs ']'         {
                              $$ = qnet_expr_new(p->arena, QNET_EXPR_LIST, @$);
                              BUILT($$);
                              if ($$) $$->list = $2;
                            }
    | '[' error ']'         { $$ = NULL; }
    | expr '.' IDENTIFIER   {
                              $$ = qnet_expr_new(p->arena, QNET_EXPR_FIELD, @$);
                              BUILT($$);
                              if ($$) {
                                $$->field.base = $1;
                                $$->field.field = ident($3, @3);
                              }
                            }
    | '-' expr %prec NEGATE { $$ = unary(p, @$, QNET_UNARY_MINUS, @1, $2); }
    | NOT expr              { $$ = unary(p, @$, QNET_UNARY_NOT, @1, $2); }
    | expr '+' expr         { $$ = binary(p, @$, QNET_BINARY_ADD, @2, $1, $3); }
    | expr '-' expr         { $$ = binary(p, @$, QNET_BINARY_SUB, @2, $1, $3); }
    | expr '*' expr         { $$ = binary(p, @$, QNET_BINARY_MUL, @2, $1, $3); }
    | expr '/' expr         { $$ = binary(p, @$, QNET_BINARY_DIV, @2, $1, $3); }
    | expr '%' expr         { $$ = binary(p, @$, QNET_BINARY_REM, @2, $1, $3); }
    | expr EQ expr          { $$ = binary(p, @$, QNET_BINARY_EQ, @2, $1, $3); }
    | expr NE expr          { $$ = binary(p, @$, QNET_BINARY_NE, @2, $1, $3); }
    | expr '<' expr         { $$ = binary(p, @$, QNET_BINARY_LT, @2, $1, $3); }
    | expr LE expr          { $$ = binary(p, @$, QNET_BINARY_LE, @2, $1, $3); }
    | expr '>' expr         { $$ = binary(p, @$, QNET_BINARY_GT, @2, $1, $3); }
    | expr GE expr          { $$ = binary(p, @$, QNET_BINARY_GE, @2, $1, $3); }
    | expr AND expr         { $$ = binary(p, @$, QNET_BINARY_AND, @2, $1, $3); }
    | expr OR expr          { $$ = binary(p, @$, QNET_BINARY_OR, @2, $1, $3); }
    | expr PIPE stage       { $$ = pipe_to(p, @$, $1, $3); }
    ;

stage: IDENTIFIER           {
                              $$ = qnet_expr_call(p->arena, @$, ident($1, @1), (qnet_arg_list){0});
                              BUILT($$);
                            }
     | call
     ;

call: IDENTIFIER arguments  { $$ = qnet_expr_call(p->arena, @$, ident($1, @1), $2); BUILT($$); }
    ;

arguments: '(' ')'          { $$ = (qnet_arg_list){0}; }
         | '(' args ')'     { $$ = $2; }
         | '(' args ',' ')' { $$ = $2; }
         | '(' error ')'    { $$ = (qnet_arg_list){0}; }
         ;

args: arg                   { $$ = (qnet_arg_list){0}; qnet_arg_append(&$$, $1); }
    | args ',' arg          { $$ = $1; qnet_arg_append(&$$, $3); }
    ;

arg: expr                   { $$ = qnet_arg_new(p->arena, (qnet_ident){0}, $1); BUILT($$); }
   | IDENTIFIER '=' expr    { $$ = qnet_arg_new(p->arena, ident($1, @1), $3); BUILT($$); }
   | QUANTIZE '=' expr      {
                              $$ = qnet_arg_new(p->arena, ident("quantize", @1), $3);
                              BUILT($$);
                            }
   | QUANTIZE '=' '(' roles ')'
                            {
                              qnet_expr *both =
                                qnet_expr_call(p->arena, @4, ident("quantize", @4), $4);
                              BUILT(both);
                              $$ = qnet_arg_new(p->arena, ident("quantize", @1), both);
                              BUILT($$);
                            }
   ;

%%

/* `quantize` is the name of an argument where one may begin. */
static bool begins_argument(const qnet_syntax *p) {
  const char before = p->text[p->last.begin];
  return before == ',' || before == '(';
}

/* Tokens that never stand inside ( ) or [ ]. */
static bool ends_brackets(const qnet_syntax *p, int token) {
  if (token == TOK_QUANTIZE) return !begins_argument(p);
  switch (token) {
  case '{':
  case '}':
  case TOK_NET:
  case TOK_BLOCK:
  case TOK_INPUT:
  case TOK_TRAIN:
  case TOK_RETURN:
  case TOK_REPEAT:
  case TOK_IF:
  case TOK_ELSE:
    return true;
  default:
    return false;
  }
}

/* Closes brackets that were forgotten before handing out a token that cannot stand in them, so that
 * one missing ')' does not swallow the statements that follow. */
static int qnet_yylex(QNET_YYSTYPE *value, QNET_YYLTYPE *loc, qnet_syntax *p) {
  if (p->no_memory) return TOK_END;
  const int token = p->pending ? p->pending : qnet_scan_token(value, loc, p->scanner);
  if (p->pending) *loc = p->pending_loc;
  p->pending = 0;
  if (ends_brackets(p, token)) {
    const char closing = qnet_syntax_close(p, *loc);
    if (closing) {
      p->pending = token; /* such tokens have no value */
      p->pending_loc = *loc;
      loc->end = loc->begin;
      return closing;
    }
  }
  qnet_syntax_track(p, *loc, token == TOK_IDENTIFIER);
  return token;
}

/* bison's own message is that its stack is full; syntax errors go the way below. */
static void qnet_yyerror(const QNET_YYLTYPE *loc, qnet_syntax *p, const char *message) {
  (void)message;
  qnet_syntax_error(p, *loc, "nested too deeply for the parser; give parts of this a name");
}

static int yyreport_syntax_error(const yypcontext_t *context, qnet_syntax *p) {
  yysymbol_kind_t kinds[YYNTOKENS];
  const char *expected[YYNTOKENS];
  const int count = yypcontext_expected_tokens(context, kinds, YYNTOKENS);
  for (int i = 0; i < count; i++) expected[i] = yysymbol_name(kinds[i]);
  qnet_syntax_unexpected(p, *yypcontext_location(context),
                        yypcontext_token(context) == YYSYMBOL_YYEOF, expected,
                        count < 0 ? 0 : count);
  return 0;
}
