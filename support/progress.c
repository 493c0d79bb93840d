/* The progress bar: one line that is redrawn in place, at most as wide as the terminal. */
#include "support/progress.h"

#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { BAR_WIDTH = 24 };

double qnet_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void qnet_progress_begin(qnet_progress *p, FILE *out, const char *unit, size_t total) {
  *p = (qnet_progress){.out = out, .unit = unit, .total = total};
  p->visible = out && isatty(fileno(out));
  p->started = qnet_seconds();
  p->drawn = p->started;
}

static int terminal_columns(FILE *out) {
  struct winsize size;
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

/* "1:05" or "2:03:04". */
static void format_seconds(char *text, size_t size, double seconds) {
  const long s = seconds < 359999 ? (long)(seconds + 0.5) : 359999;
  if (s < 3600)
    snprintf(text, size, "%ld:%02ld", s / 60, s % 60);
  else
    snprintf(text, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

void qnet_progress_update(qnet_progress *p, size_t done, const char *extra) {
  if (!p->visible) return;
  const double now = qnet_seconds();
  if (now - p->drawn < 0.1) return;
  p->drawn = now;
  const double share = p->total ? (double)done / (double)p->total : 0;
  const double rate = (double)done / (now - p->started);
  char bar[BAR_WIDTH + 1], left[40] = "?", line[512];
  const int filled = (int)(share * BAR_WIDTH);
  for (int i = 0; i < BAR_WIDTH; i++)
    bar[i] = i < filled ? '=' : i == filled ? '>' : ' ';
  bar[BAR_WIDTH] = 0;
  if (done && done <= p->total) format_seconds(left, sizeof left, (double)(p->total - done) / rate);
  snprintf(line, sizeof line, "[%s] %3.0f%%  %.0f %s/s  %s left%s%s", bar, 100 * share, rate,
           p->unit, left, extra && *extra ? "  " : "", extra ? extra : "");
  /* The last column stays free: some terminals wrap as soon as it is written. */
  fprintf(p->out, "\r%.*s\033[K", terminal_columns(p->out) - 1, line);
  fflush(p->out);
}

void qnet_progress_end(qnet_progress *p) {
  if (!p->visible) return;
  fputs("\r\033[K", p->out);
  fflush(p->out);
  p->visible = false;
}
