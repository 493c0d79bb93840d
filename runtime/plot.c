/* The SVG writer: panels with axes, lines, bars. Coordinates are pixels from the top left, with one
 * digit behind the point. */
#include "runtime/plot.h"
#include "support/file.h"
#include "support/strbuf.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

enum {
  WIDTH = 960,
  MARGIN = 24,
  TITLE = 40,
  CURVES = 280,
  HISTOGRAM = 170,
  COLUMNS = 3,
  BINS = 60
};

/* ---- metrics ----------------------------------------------------------------------------------
 */

typedef struct epoch {
  double loss, train, test; /* the latter two in percent */
} epoch;

typedef struct curves {
  epoch *epoch;
  int count;
} curves;

static int count_lines(const qnet_plot *p) {
  int lines = 0;
  for (size_t i = 0; i < p->metrics_length; i++)
    lines += p->metrics[i] == '\n';
  return lines;
}

static double share(const json_t *line, const char *part, const char *whole) {
  const double all = json_number_value(json_object_get(line, whole));
  return all > 0 ? 100 * json_number_value(json_object_get(line, part)) / all : 0;
}

static bool read_line(const char *text, size_t length, epoch *out) {
  json_error_t error;
  json_t *line = json_loadb(text, length, 0, &error);
  const bool good = json_is_number(json_object_get(line, "loss"));
  if (good)
    *out = (epoch){json_number_value(json_object_get(line, "loss")),
                   share(line, "train_correct", "train_images"),
                   share(line, "test_correct", "test_images")};
  json_decref(line);
  return good;
}

static qnet_status read_metrics(const qnet_plot *p, curves *out, const char *path, qnet_diag *d) {
  const char *at = p->metrics;
  for (int i = 0; i < out->count; i++) {
    const size_t left = p->metrics_length - (size_t)(at - p->metrics);
    const size_t length = (size_t)((const char *)memchr(at, '\n', left) - at);
    if (!read_line(at, length, &out->epoch[i]))
      return qnet_error_in(d, path, "cannot plot: line %d of the metrics is none", i + 1);
    at += length + 1;
  }
  return QNET_OK;
}

/* ---- panels -----------------------------------------------------------------------------------
 */

/* A rectangle of the picture and the values at its edges. */
typedef struct panel {
  double x, y, width, height;
  double left, right, bottom, top;
} panel;

static double to_x(const panel *p, double value) {
  return p->x + p->width * (value - p->left) / (p->right - p->left);
}

static double to_y(const panel *p, double value) {
  return p->y + p->height * (p->top - value) / (p->top - p->bottom);
}

/* 1, 2 or 5 times a power of ten, so that a range has at most so many steps. */
static double tick_step(double range, int steps) {
  const double raw = range / steps, unit = pow(10, floor(log10(raw)));
  const double factor = raw / unit;
  return unit * (factor <= 1 ? 1 : factor <= 2 ? 2 : factor <= 5 ? 5 : 10);
}

/* XML's special characters. */
static void put_escaped(qnet_strbuf *b, const char *text) {
  for (; *text; text++) {
    if (*text == '<')
      qnet_strbuf_puts(b, "&lt;");
    else if (*text == '&')
      qnet_strbuf_puts(b, "&amp;");
    else
      qnet_strbuf_append(b, text, 1);
  }
}

static void put_text(qnet_strbuf *b, double x, double y, const char *class, const char *text) {
  qnet_strbuf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
  put_escaped(b, text);
  qnet_strbuf_puts(b, "</text>\n");
}

static void put_line(qnet_strbuf *b, const char *class, double x1, double y1, double x2,
                     double y2) {
  qnet_strbuf_printf(b, "<path class=\"%s\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", class, x1, y1, x2, y2);
}

static void put_x_axis(qnet_strbuf *b, const panel *p, int steps, double least_step) {
  const double step = fmax(tick_step(p->right - p->left, steps), least_step);
  char label[32];
  for (double i = ceil(p->left / step - 1e-9); i * step <= p->right + 1e-9 * step; i++) {
    snprintf(label, sizeof label, "%g", i * step);
    put_text(b, to_x(p, i * step), p->y + p->height + 14, "x", label);
  }
  put_line(b, "axis", p->x, p->y + p->height, p->x + p->width, p->y + p->height);
}

static void put_y_axis(qnet_strbuf *b, const panel *p, const char *unit) {
  const double step = tick_step(p->top - p->bottom, 6);
  char label[32];
  for (double i = ceil(p->bottom / step - 1e-9); i * step <= p->top + 1e-9 * step; i++) {
    const double y = to_y(p, i * step);
    put_line(b, "grid", p->x, y, p->x + p->width, y);
    snprintf(label, sizeof label, "%g%s", i * step, unit);
    put_text(b, p->x - 6, y + 4, "y", label);
  }
}

/* ---- curves -----------------------------------------------------------------------------------
 */

static double value_of(const epoch *e, int which) {
  return which == 0 ? e->loss : which == 1 ? e->train : e->test;
}

static void put_curve(qnet_strbuf *b, const panel *p, const curves *c, int which,
                      const char *class) {
  qnet_strbuf_printf(b, "<path class=\"curve %s\" d=\"", class);
  for (int i = 0; i < c->count; i++)
    qnet_strbuf_printf(b, "%c%.1f %.1f", i ? 'L' : 'M', to_x(p, i + 1),
                       to_y(p, value_of(&c->epoch[i], which)));
  qnet_strbuf_puts(b, "\"/>\n");
  const double last = value_of(&c->epoch[c->count - 1], which);
  qnet_strbuf_printf(b, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", class,
                     to_x(p, c->count), to_y(p, last));
}

/* The panel left (0) or right (1), its y axis around the values of two curves. */
static panel curve_panel(const curves *c, int side, int first, int last, double least,
                         double most) {
  const double half = (WIDTH - 2.0 * MARGIN) / 2;
  double low = INFINITY, high = -INFINITY;
  for (int i = 0; i < c->count; i++)
    for (int which = first; which <= last; which++) {
      low = fmin(low, value_of(&c->epoch[i], which));
      high = fmax(high, value_of(&c->epoch[i], which));
    }
  const double pad = fmax(0.08 * (high - low), 0.01 * fmax(fabs(high), 1));
  return (panel){.x = MARGIN + side * half + 46,
                 .y = TITLE + 34,
                 .width = half - 70,
                 .height = CURVES - 90,
                 .left = 1,
                 .right = c->count > 1 ? c->count : 2,
                 .bottom = fmax(low - pad, least),
                 .top = fmin(high + pad, most)};
}

static void put_curves(qnet_strbuf *b, const curves *c) {
  const panel loss = curve_panel(c, 0, 0, 0, 0, INFINITY);
  put_text(b, loss.x, loss.y - 12, "head", "loss by epoch");
  put_y_axis(b, &loss, "");
  put_x_axis(b, &loss, 8, 1);
  put_curve(b, &loss, c, 0, "loss");
  const panel accuracy = curve_panel(c, 1, 1, 2, 0, 100);
  char text[80];
  put_text(b, accuracy.x, accuracy.y - 12, "head", "accuracy by epoch");
  snprintf(text, sizeof text, "train %.2f%%", c->epoch[c->count - 1].train);
  put_text(b, accuracy.x + accuracy.width - 100, accuracy.y - 12, "key train", text);
  snprintf(text, sizeof text, "test %.2f%%", c->epoch[c->count - 1].test);
  put_text(b, accuracy.x + accuracy.width, accuracy.y - 12, "key test", text);
  put_y_axis(b, &accuracy, "%");
  put_x_axis(b, &accuracy, 8, 1);
  put_curve(b, &accuracy, c, 1, "train");
  put_curve(b, &accuracy, c, 2, "test");
}

/* ---- histograms -------------------------------------------------------------------------------
 */

/* Symmetric around 0, wide enough for all levels and all but rare weights. */
static double reach_of(const qnet_plot_layer *l) {
  double square = 0, reach = 0;
  for (int64_t i = 0; i < l->weight_count; i++)
    square += (double)l->weight[i] * (double)l->weight[i];
  for (int64_t i = 0; i < l->level_count; i++)
    reach = fmax(reach, fabs((double)l->level[i]));
  const double spread = sqrt(square / (double)(l->weight_count > 0 ? l->weight_count : 1));
  reach = fmax(1.05 * reach, 4 * spread);
  return isfinite(reach) && reach > 0 ? reach : 1;
}

static int count_bins(const qnet_plot_layer *l, double reach, int bin[BINS]) {
  int most = 1;
  memset(bin, 0, sizeof *bin * BINS);
  for (int64_t i = 0; i < l->weight_count; i++) {
    const double place = ((double)l->weight[i] / reach + 1) / 2 * BINS;
    if (!(place >= 0 && place < BINS)) continue;
    const int count = ++bin[(int)place];
    if (count > most) most = count;
  }
  return most;
}

static void put_histogram(qnet_strbuf *b, const qnet_plot_layer *l, int index) {
  const double column = (WIDTH - 2.0 * MARGIN) / COLUMNS;
  const double reach = reach_of(l);
  int bin[BINS];
  const int most = count_bins(l, reach, bin);
  const panel p = {.x = MARGIN + (index % COLUMNS) * column + 12,
                   .y = TITLE + CURVES + (index / COLUMNS) * HISTOGRAM + 24,
                   .width = column - 24,
                   .height = HISTOGRAM - 60,
                   .left = -reach,
                   .right = reach,
                   .bottom = 0,
                   .top = most};
  put_text(b, p.x, p.y - 8, "head", l->name);
  qnet_strbuf_puts(b, "<path class=\"bars\" d=\"");
  for (int i = 0; i < BINS; i++)
    if (bin[i])
      qnet_strbuf_printf(b, "M%.1f %.1fV%.1fh%.1fV%.1fz", p.x + p.width * i / BINS, p.y + p.height,
                         to_y(&p, bin[i]), p.width / BINS - 0.5, p.y + p.height);
  qnet_strbuf_puts(b, "\"/>\n");
  qnet_strbuf_printf(b, "<path class=\"level\" stroke-opacity=\"%.2f\" d=\"",
                     fmax(0.15, 2 / sqrt((double)(l->level_count > 0 ? l->level_count : 1))));
  for (int64_t i = 0; i < l->level_count; i++)
    qnet_strbuf_printf(b, "M%.1f %.1fv%.1f", to_x(&p, (double)l->level[i]), p.y, p.height);
  qnet_strbuf_puts(b, "\"/>\n");
  put_x_axis(b, &p, 5, 0);
}

/* ---- the picture ------------------------------------------------------------------------------
 */

static void put_picture(qnet_strbuf *b, const qnet_plot *p, const curves *c) {
  const int rows = (p->layer_count + COLUMNS - 1) / COLUMNS;
  const int height = TITLE + CURVES + rows * HISTOGRAM + MARGIN;
  qnet_strbuf_printf(b,
                     "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                     "viewBox=\"0 0 %d %d\">\n",
                     WIDTH, height, WIDTH, height);
  qnet_strbuf_puts(b, "<style>\n"
                      "text { font: 12px sans-serif; fill: #333 }\n"
                      ".title { font-size: 16px; font-weight: bold }\n"
                      ".head { font-weight: bold }\n"
                      ".x { text-anchor: middle; fill: #666; font-size: 11px }\n"
                      ".y, .key { text-anchor: end; font-size: 11px }\n"
                      ".y { fill: #666 }\n"
                      "path { fill: none }\n"
                      ".axis { stroke: #666 }\n"
                      ".grid { stroke: #e2e2e2 }\n"
                      ".curve { stroke-width: 1.8; stroke-linejoin: round }\n"
                      ".loss { stroke: #5b4b9a } circle.loss { fill: #5b4b9a }\n"
                      ".train { stroke: #2b7bba } circle.train, text.train { fill: #2b7bba }\n"
                      ".test { stroke: #c0392b } circle.test, text.test { fill: #c0392b }\n"
                      "text.train, text.test { stroke: none }\n"
                      ".bars { fill: #a9bcd0 }\n"
                      ".level { stroke: #c0392b; stroke-width: 1.2 }\n"
                      "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
  put_text(b, MARGIN, 30, "title", p->title);
  if (c->count > 0) put_curves(b, c);
  for (int i = 0; i < p->layer_count; i++)
    put_histogram(b, &p->layer[i], i);
  qnet_strbuf_puts(b, "</svg>\n");
}

qnet_status qnet_plot_write(const qnet_allocator *a, const qnet_plot *plot, const char *path,
                            qnet_diag *d) {
  curves c = {.count = count_lines(plot)};
  c.epoch = qnet_alloc_array(a, (size_t)c.count, sizeof *c.epoch);
  if (!c.epoch) return qnet_out_of_memory(d);
  qnet_strbuf b;
  qnet_strbuf_init(&b, a);
  qnet_status status = read_metrics(plot, &c, path, d);
  if (status == QNET_OK) put_picture(&b, plot, &c);
  if (status == QNET_OK && b.failed) status = qnet_out_of_memory(d);
  if (status == QNET_OK) status = qnet_file_write(a, path, b.data, b.length, d);
  qnet_strbuf_free(&b);
  qnet_free(a, c.epoch, (size_t)c.count * sizeof *c.epoch);
  return status;
}
