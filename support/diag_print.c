/* Rendering of diagnostics, clang's way:
 *
 *     net.qnet:3:12: error: no parameter 'strde' of conv
 *       x = conv(64, strde = 2)
 *                    ^~~~~
 *                    stride
 *
 * Tabs become blanks up to the next multiple of 8 in the source line and below it alike; control
 * characters become '?', so that a file cannot steer the terminal. Of a very long line a window
 * around the caret is shown. */
#include "support/diag_internal.h"

enum { TAB_STOP = 8, LONGEST_LINE = 200, WINDOW_BEFORE = 80 };

typedef struct style {
  const char *bold, *error, *warning, *note, *remark, *caret, *reset;
} style;

static const style plain_style = {"", "", "", "", "", "", ""};
static const style colour_style = {"\033[1m",    "\033[1;31m", "\033[1;35m", "\033[1;36m",
                                   "\033[1;34m", "\033[1;32m", "\033[0m"};

static bool is_continuation(char c) {
  return ((unsigned char)c & 0xc0) == 0x80;
}

/* The part of a source line that is shown: bytes first..last of the buffer. */
typedef struct window {
  const char *text;
  uint32_t first, last;
  bool cut; /* does not begin with the line */
} window;

static window choose_window(const qnet_diag_buffer *buffer, uint32_t begin) {
  const uint32_t line = qnet_diag_buffer_line(buffer, begin);
  uint32_t first = buffer->line_start[line], last = first;
  while (last < buffer->length && buffer->text[last] != '\n')
    last++;
  if (last > first && buffer->text[last - 1] == '\r') last--;
  const uint32_t start = first;
  if (last - first > LONGEST_LINE) {
    if (begin - first > WINDOW_BEFORE) first = begin - WINDOW_BEFORE;
    while (first > start && is_continuation(buffer->text[first]))
      first--;
    if (last - first > LONGEST_LINE) last = first + LONGEST_LINE;
    while (last > first && last < buffer->length && is_continuation(buffer->text[last]))
      last--;
  }
  return (window){buffer->text, first, last, first > start};
}

/* Columns that the character at `offset` takes, when it begins at `column`. */
static unsigned char_columns(const window *w, uint32_t offset, unsigned column) {
  const char c = w->text[offset];
  if (c == '\t') return TAB_STOP - column % TAB_STOP;
  return is_continuation(c) ? 0 : 1;
}

static void print_repeated(FILE *out, char c, unsigned count) {
  for (unsigned i = 0; i < count; i++)
    fputc(c, out);
}

static void print_source(const window *w, FILE *out) {
  unsigned column = 0;
  if (w->cut) fputs("...", out);
  for (uint32_t i = w->first; i < w->last; i++) {
    const unsigned columns = char_columns(w, i, column);
    const unsigned char c = (unsigned char)w->text[i];
    if (c == '\t')
      print_repeated(out, ' ', columns);
    else
      fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
    column += columns;
  }
  fputc('\n', out);
}

/* The column of `begin`, and how many columns begin..end takes (at least one). */
static void measure(const window *w, qnet_loc loc, unsigned *column, unsigned *columns) {
  unsigned at = 0, from = 0, to = 0;
  for (uint32_t i = w->first; i < w->last; i++) {
    if (i <= loc.begin) from = at;
    at += char_columns(w, i, at);
    if (i < loc.end) to = at;
  }
  if (loc.begin >= w->last) from = at; /* at the end of the line, or of the file */
  *column = from;
  *columns = to > from + 1 ? to - from : 1;
}

static void print_snippet(const qnet_diag_buffer *buffer, const qnet_diag_report *r, FILE *out,
                          const style *s) {
  qnet_loc loc = r->loc;
  if (loc.begin > buffer->length) loc.begin = buffer->length;
  const window w = choose_window(buffer, loc.begin);
  unsigned column, columns;
  measure(&w, loc, &column, &columns);
  if (w.cut) column += 3;
  print_source(&w, out);
  print_repeated(out, ' ', column);
  fprintf(out, "%s^", s->caret);
  print_repeated(out, '~', columns - 1);
  fprintf(out, "%s\n", s->reset);
  if (!r->fixit) return;
  print_repeated(out, ' ', column);
  fprintf(out, "%s%s%s\n", s->caret, r->fixit, s->reset);
}

/* Messages quote names from files: these may not steer the terminal either. */
static void print_text(const char *text, FILE *out) {
  for (const char *c = text; *c; c++) {
    const bool control = ((unsigned char)*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7f;
    fputc(control ? '?' : *c, out);
  }
}

static void print_report(const qnet_diag *d, const qnet_diag_report *r, FILE *out, const style *s) {
  static const char *const names[] = {"error", "warning", "note", "remark"};
  const char *const colours[] = {s->error, s->warning, s->note, s->remark};
  const qnet_diag_buffer *buffer = qnet_diag_find_buffer(d, r->loc.buffer);
  fputs(s->bold, out);
  if (buffer) {
    uint32_t line, column;
    qnet_diag_position(d, r->loc, &line, &column);
    fprintf(out, "%s:%u:%u: ", buffer->name, line, column);
  } else if (r->subject) {
    fprintf(out, "%s: ", r->subject);
  }
  fprintf(out, "%s%s%s:%s ", s->reset, colours[r->severity], names[r->severity], s->reset);
  fputs(r->severity == QNET_DIAG_NOTE ? "" : s->bold, out);
  print_text(r->text, out);
  fprintf(out, "%s\n", s->reset);
  if (buffer) print_snippet(buffer, r, out, s);
}

void qnet_diag_print(qnet_diag *d, FILE *out, bool colour) {
  if (!d) return;
  const style *const s = colour ? &colour_style : &plain_style;
  for (const qnet_diag_report *r = d->first_report; r; r = r->next)
    print_report(d, r, out, s);
  if (d->dropped)
    fprintf(out, "%snote:%s %u more error%s not shown\n", s->note, s->reset, d->dropped,
            d->dropped == 1 ? " is" : "s are");
  if (d->out_of_memory) fprintf(out, "%serror:%s out of memory\n", s->error, s->reset);
  qnet_diag_forget_reports(d);
}

void qnet_diag_print_summary(const qnet_diag *d, FILE *out) {
  if (!d || (!d->errors && !d->warnings)) return;
  if (d->warnings) fprintf(out, "%u warning%s", d->warnings, d->warnings == 1 ? "" : "s");
  if (d->warnings && d->errors) fputs(" and ", out);
  if (d->errors) fprintf(out, "%u error%s", d->errors, d->errors == 1 ? "" : "s");
  fputs(" generated.\n", out);
}
