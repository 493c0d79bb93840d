/* Pairs the layers of a network with those of a weights file, by a map or by order and shape. */
#include "driver/weight_names.h"
#include "driver/packed.h"
#include "driver/weights.h"
#include "support/file.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MAP = 1 << 20 };

/* One side's layer: tensors LAYER.weight, LAYER.bias, ... */
typedef struct layer {
  const char *name;
  const char *tensors; /* "bias[16] weight[16,3,3,3]": what makes two layers equal */
  const char *weight;  /* the shape of LAYER.weight, or "" */
  const char *partner; /* of the file's: the network's layer; of the network's: it has one */
  int order;
} layer;

typedef struct layer_list {
  layer *item;
  size_t count;
} layer_list;

/* A tensor of either side. */
typedef struct tensor {
  const char *layer, *part; /* "conv1" and "weight" or "weight_quantizer.codes" */
  char shape[64];
} tensor;

typedef struct matcher {
  const qnet_module *module;
  qnet_tensor_file *file;
  const char *path;
  qnet_diag *diag;
  qnet_arena scratch;
  layer_list network, stored;
  int pairs;
} matcher;

/* ---- order ----------------------------------------------------------------------------------- */

/* Byte by byte, but runs of digits by their value. */
static int natural_order(const char *a, const char *b) {
  const char *const x = a, *const y = b;
  while (*a && *b) {
    if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
      while (*a == '0' && isdigit((unsigned char)a[1]))
        a++;
      while (*b == '0' && isdigit((unsigned char)b[1]))
        b++;
      const size_t n = strspn(a, "0123456789"), m = strspn(b, "0123456789");
      const int order = n != m ? (n > m) - (n < m) : strncmp(a, b, n);
      if (order) return order;
      a += n;
      b += m;
    } else if (*a != *b) {
      break;
    } else {
      a++;
      b++;
    }
  }
  const int order = (unsigned char)*a - (unsigned char)*b;
  return order ? order : strcmp(x, y);
}

static int by_layer_and_part(const void *a, const void *b) {
  const tensor *x = a, *y = b;
  const int order = natural_order(x->layer, y->layer);
  return order ? order : strcmp(x->part, y->part);
}

static int by_part_name(const void *a, const void *b) {
  return strcmp(((const tensor *)a)->part, ((const tensor *)b)->part);
}

static int by_tensors_and_order(const void *a, const void *b) {
  const layer *x = *(layer *const *)a, *y = *(layer *const *)b;
  const int order = strcmp(x->tensors, y->tensors);
  return order ? order : x->order - y->order;
}

/* ---- the two sides --------------------------------------------------------------------------- */

/* The '.' behind the layer's name: a quantizer's site is a part of its layer. */
static const char *layer_end(const char *name) {
  static const char *const sites[] = {".weight_quantizer", ".input_quantizer"};
  for (int i = 0; i < 2; i++) {
    const char *at = strstr(name, sites[i]);
    const char *end = at ? at + strlen(sites[i]) : "?";
    if (*end == '.' || !*end) return at;
  }
  return strrchr(name, '.');
}

static bool split(matcher *s, const char *name, tensor *t) {
  const char *dot = layer_end(name);
  t->layer = dot ? qnet_arena_strndup(&s->scratch, name, (size_t)(dot - name)) : "";
  t->part = dot ? dot + 1 : name;
  return t->layer != NULL;
}

/* In the file's order: convolution weights O,I,KH,KW. */
static void write_shape(tensor *t, int rank, const int64_t *dim, bool of_network) {
  static const int file_order[] = {0, 3, 1, 2};
  size_t at = 0;
  for (int i = 0; i < rank && at < sizeof t->shape; i++)
    at += (size_t)snprintf(t->shape + at, sizeof t->shape - at, "%s%lld", i ? "," : "",
                           (long long)dim[of_network && rank == 4 ? file_order[i] : i]);
}

/* "bias[16] weight[16]" of n tensors. */
static const char *describe(matcher *s, const tensor *t, size_t n) {
  const char *text = "";
  for (size_t i = 0; i < n && text; i++)
    text = qnet_arena_printf(&s->scratch, "%s%s[%s] ", text, t[i].part, t[i].shape);
  return text;
}

static const char *weight_shape(matcher *s, const tensor *t, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (strcmp(t[i].part, "weight") == 0)
      return qnet_arena_strndup(&s->scratch, t[i].shape, strlen(t[i].shape));
  return "";
}

/* Makes layers of tensors that stand together. */
static qnet_status group(matcher *s, tensor *t, size_t count, layer_list *out) {
  out->item = qnet_arena_array(&s->scratch, count + 1, sizeof *out->item);
  if (!out->item) return qnet_out_of_memory(s->diag);
  for (size_t i = 0, end; i < count; i = end) {
    for (end = i + 1; end < count && strcmp(t[end].layer, t[i].layer) == 0;)
      end++;
    qsort(t + i, end - i, sizeof *t, by_part_name);
    const char *tensors = describe(s, t + i, end - i), *weight = weight_shape(s, t + i, end - i);
    if (!tensors || !weight) return qnet_out_of_memory(s->diag);
    out->item[out->count] = (layer){t[i].layer, tensors, weight, NULL, (int)out->count};
    out->count++;
  }
  return QNET_OK;
}

static bool is_parameter(const qnet_symbol *s) {
  return s->kind == QNET_SYMBOL_STATE && !qnet_name_is_quantizer(s->name);
}

/* The network's, in the order in which its layers run. */
static qnet_status read_network(matcher *s) {
  size_t count = 0;
  for (const qnet_symbol *y = s->module->first_symbol; y; y = y->next)
    count += is_parameter(y);
  tensor *t = qnet_arena_array(&s->scratch, count + 1, sizeof *t);
  if (!t) return qnet_out_of_memory(s->diag);
  count = 0;
  for (const qnet_symbol *y = s->module->first_symbol; y; y = y->next) {
    if (!is_parameter(y)) continue;
    if (!split(s, y->name, &t[count])) return qnet_out_of_memory(s->diag);
    write_shape(&t[count++], y->type->rank, y->type->dim, true);
  }
  return group(s, t, count, &s->network);
}

static bool is_counter(const char *name) { /* PyTorch's */
  static const char suffix[] = ".num_batches_tracked";
  const size_t n = strlen(name), m = sizeof suffix - 1;
  return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Packed layers have codes in place of weights; what else quantizers have makes no layer. */
static bool is_of_layer(const char *name) {
  static const char codes[] = ".weight_quantizer.codes";
  const size_t n = strlen(name), m = sizeof codes - 1;
  if (qnet_name_is_quantizer(name)) return n > m && strcmp(name + n - m, codes) == 0;
  return !is_counter(name);
}

static qnet_status read_file(matcher *s) {
  const qnet_tensor_file *f = s->file;
  tensor *t = qnet_arena_array(&s->scratch, f->count + 1, sizeof *t);
  size_t count = 0;
  if (!t) return qnet_out_of_memory(s->diag);
  for (size_t i = 0; i < f->count; i++) {
    const qnet_tensor_entry *e = &f->entry[i];
    if (!is_of_layer(e->name)) continue;
    if (!split(s, e->name, &t[count])) return qnet_out_of_memory(s->diag);
    write_shape(&t[count++], e->blob->rank, e->blob->dim, false);
  }
  qsort(t, count, sizeof *t, by_layer_and_part);
  return group(s, t, count, &s->stored);
}

static layer *find_stored(const matcher *s, const char *name) {
  size_t low = 0, high = s->stored.count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const int order = natural_order(s->stored.item[middle].name, name);
    if (order == 0) return &s->stored.item[middle];
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return NULL;
}

/* ---- by order and shape ---------------------------------------------------------------------- */

static qnet_status open_layers(matcher *s, const layer_list *list, layer ***out, size_t *count) {
  *out = qnet_arena_array(&s->scratch, list->count + 1, sizeof **out);
  *count = 0;
  if (!*out) return qnet_out_of_memory(s->diag);
  for (size_t i = 0; i < list->count; i++)
    if (!list->item[i].partner) (*out)[(*count)++] = &list->item[i];
  qsort(*out, *count, sizeof **out, by_tensors_and_order);
  return QNET_OK;
}

/* How many from `at` on have the tensors of the first. */
static size_t run_length(layer *const *l, size_t at, size_t count) {
  size_t end = at;
  while (end < count && strcmp(l[end]->tensors, l[at]->tensors) == 0)
    end++;
  return end - at;
}

static qnet_status pair_open(matcher *s) {
  layer **net, **file;
  size_t nets, files, i = 0, k = 0;
  QNET_TRY(open_layers(s, &s->network, &net, &nets));
  QNET_TRY(open_layers(s, &s->stored, &file, &files));
  while (i < nets && k < files) {
    const int order = strcmp(net[i]->tensors, file[k]->tensors);
    const size_t n = run_length(net, i, nets), m = run_length(file, k, files);
    for (size_t j = 0; j < n && order == 0 && n == m; j++) {
      file[k + j]->partner = net[i + j]->name;
      net[i + j]->partner = file[k + j]->name;
      s->pairs++;
    }
    if (order <= 0) i += n;
    if (order >= 0) k += m;
  }
  return QNET_OK;
}

static void warn_pairs(const matcher *s) {
  if (!s->pairs) return;
  qnet_warning_in(s->diag, s->path,
                  "layers have other names here and were matched by order and shape; check the "
                  "pairs, or put those that are right into a file for --map");
  for (size_t i = 0; i < s->network.count; i++) {
    const layer *l = &s->network.item[i];
    if (l->partner && l->partner != l->name)
      qnet_note(s->diag, QNET_NO_LOC, "%s = %s", l->name, l->partner);
  }
}

static qnet_status match_by_order(matcher *s, bool list) {
  bool all = true;
  for (size_t i = 0; i < s->network.count; i++) {
    layer *l = &s->network.item[i], *same = find_stored(s, l->name);
    if (same && strcmp(same->weight, l->weight) != 0) same = NULL;
    if (same) same->partner = l->partner = l->name;
    all = all && same;
  }
  if (all) return QNET_OK;
  QNET_TRY(pair_open(s));
  if (list) warn_pairs(s);
  return QNET_OK;
}

/* ---- by a map -------------------------------------------------------------------------------- */

static char *trim(char *text) {
  while (isspace((unsigned char)*text))
    text++;
  size_t n = strlen(text);
  while (n > 0 && isspace((unsigned char)text[n - 1]))
    text[--n] = '\0';
  return text;
}

static bool in_network(const matcher *s, const char *name) {
  for (size_t i = 0; i < s->network.count; i++)
    if (strcmp(s->network.item[i].name, name) == 0) return true;
  return false;
}

static qnet_status map_line(matcher *s, const char *map, int number, char *line) {
  line[strcspn(line, "#")] = '\0';
  if (!*trim(line)) return QNET_OK;
  char *equals = strchr(line, '=');
  if (!equals)
    return qnet_error_in(s->diag, map, "line %d: not LAYER = LAYER OF THE FILE: '%.80s'", number,
                         trim(line));
  *equals = '\0';
  const char *to = trim(line), *from = trim(equals + 1);
  layer *l = find_stored(s, from);
  if (!in_network(s, to))
    return qnet_error_in(s->diag, map, "line %d: the network has no layer '%.80s'", number, to);
  if (!l)
    return qnet_error_in(s->diag, map, "line %d: %s has no layer '%.80s'", number, s->path, from);
  if (l->partner)
    return qnet_error_in(s->diag, map, "line %d: '%.80s' is '%.80s' already", number, from,
                         l->partner);
  l->partner = qnet_arena_strndup(&s->scratch, to, strlen(to));
  s->pairs++;
  return l->partner ? QNET_OK : qnet_out_of_memory(s->diag);
}

static qnet_status match_by_map(matcher *s, const char *map) {
  char *text;
  size_t size;
  const qnet_allocator *a = s->module->allocator;
  QNET_TRY(qnet_file_read(a, map, MAX_MAP, &text, &size, s->diag));
  qnet_status status = QNET_OK;
  int number = 1;
  for (char *line = text; line && status == QNET_OK; number++) {
    char *end = strchr(line, '\n');
    if (end) *end = '\0';
    status = map_line(s, map, number, line);
    line = end ? end + 1 : NULL;
  }
  qnet_free(a, text, size + 1);
  return status;
}

/* ---- renaming -------------------------------------------------------------------------------- */

/* What the network calls a tensor or site of the file. */
static qnet_status rename_one(matcher *s, const char *name, const char **out) {
  tensor t;
  if (!split(s, name, &t)) return qnet_out_of_memory(s->diag);
  const layer *l = find_stored(s, t.layer);
  *out = l && l->partner ? qnet_arena_printf(&s->scratch, "%s.%s", l->partner, t.part) : name;
  return *out ? QNET_OK : qnet_out_of_memory(s->diag);
}

static qnet_status add_renamed(matcher *s, const qnet_tensor_entry *e, qnet_tensor_file *out) {
  const char *name;
  QNET_TRY(rename_one(s, e->name, &name));
  if (qnet_tensor_file_find(out, name))
    return qnet_error_in(s->diag, s->path, "two tensors would become '%s': name both in --map",
                         name);
  if (qnet_tensor_file_set(out, name, e->blob) != QNET_OK) return qnet_out_of_memory(s->diag);
  return QNET_OK;
}

static qnet_status add_meta(matcher *s, const char *key, const char *value, qnet_tensor_file *out) {
  const char *site = qnet_packed_site(key), *renamed = key;
  if (site) {
    QNET_TRY(rename_one(s, site, &renamed));
    renamed = qnet_arena_printf(&s->scratch, "%.*s%s", (int)(site - key), key, renamed);
  }
  if (!renamed || qnet_tensor_file_set_meta(out, renamed, value) != QNET_OK)
    return qnet_out_of_memory(s->diag);
  return QNET_OK;
}

static qnet_status rename_all(matcher *s) {
  qnet_tensor_file renamed;
  qnet_tensor_file_init(&renamed, s->file->allocator);
  qnet_status status = QNET_OK;
  for (size_t i = 0; i < s->file->count && status == QNET_OK; i++)
    status = add_renamed(s, &s->file->entry[i], &renamed);
  for (size_t i = 0; i < s->file->meta_count && status == QNET_OK; i++)
    status = add_meta(s, s->file->meta[2 * i], s->file->meta[2 * i + 1], &renamed);
  if (status != QNET_OK) {
    qnet_tensor_file_free(&renamed);
    return status;
  }
  qnet_tensor_file_free(s->file);
  *s->file = renamed;
  return QNET_OK;
}

qnet_status qnet_weight_names_match(const qnet_module *m, qnet_tensor_file *f, const char *map,
                                    const char *path, bool list, qnet_diag *d) {
  matcher s = {.module = m, .file = f, .path = path, .diag = d};
  qnet_arena_init(&s.scratch, m->allocator);
  qnet_status status = read_network(&s);
  if (status == QNET_OK) status = read_file(&s);
  if (status == QNET_OK) status = map ? match_by_map(&s, map) : match_by_order(&s, list);
  if (status == QNET_OK && s.pairs) status = rename_all(&s);
  qnet_arena_clear(&s.scratch);
  return status;
}
