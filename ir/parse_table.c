/* Level tables of the text form: attributes, converted and checked against each other. */
#include "ir/parse_internal.h"
#include <inttypes.h>

enum { MAX_BITS = 8 };

typedef struct table_text {
  int64_t bits, codes, channels;
  const qnet_attr *scale, *levels, *thresholds, *perm;
} table_text;

static bool table_error(qnet_parser *p, qnet_loc loc, const char *message) {
  return qnet_parse_error(p, loc.begin, loc.end, "%s", message);
}

static const qnet_attr *list_attr(const qnet_op *holder, const char *name, qnet_attr_kind kind) {
  const qnet_attr *a = qnet_op_attr(holder, name);
  return a && a->kind == kind ? a : NULL;
}

static bool check_sizes(qnet_parser *p, const qnet_op *holder, qnet_loc loc, table_text *t) {
  t->bits = qnet_op_int(holder, "bits", 0);
  if (t->bits < 1 || t->bits > MAX_BITS) return table_error(p, loc, "a table needs bits = 1..8");
  t->codes = qnet_op_int(holder, "codes", (int64_t)1 << t->bits);
  if (t->codes < 2 || t->codes > (int64_t)1 << t->bits)
    return table_error(p, loc, "codes must be 2 up to 2^bits");
  t->channels = qnet_op_int(holder, "channels", 1);
  if (t->channels < 1 || t->channels > INT32_MAX / 256)
    return table_error(p, loc, "channels must be at least 1");
  t->scale = list_attr(holder, "scale", QNET_ATTR_FLOATS);
  t->levels = list_attr(holder, "levels", QNET_ATTR_INTS);
  t->thresholds = list_attr(holder, "thresholds", QNET_ATTR_FLOATS);
  t->perm = list_attr(holder, "perm", QNET_ATTR_INTS);
  if (!t->scale || !t->levels)
    return table_error(p, loc, "a table needs the lists scale and levels");
  if (!t->thresholds != !t->perm)
    return table_error(p, loc, "thresholds and perm come together, or not at all (weights)");
  return true;
}

static bool check_count(qnet_parser *p, qnet_loc loc, const qnet_attr *list, int64_t count) {
  if (!list || list->count == count) return true;
  return qnet_parse_error(p, loc.begin, loc.end, "%s has %d numbers instead of %" PRId64,
                          list->name, list->count, count);
}

static bool check_range(qnet_parser *p, qnet_loc loc, const qnet_attr *list, int64_t min,
                        int64_t max) {
  for (int i = 0; list && i < list->count; i++)
    if (list->ints[i] < min || list->ints[i] > max)
      return qnet_parse_error(p, loc.begin, loc.end,
                              "%s[%d] = %" PRId64 " is not in %" PRId64 "..%" PRId64, list->name, i,
                              list->ints[i], min, max);
  return true;
}

static bool check_lists(qnet_parser *p, qnet_loc loc, const table_text *t) {
  return check_count(p, loc, t->scale, t->channels) &&
         check_count(p, loc, t->levels, t->channels * t->codes) &&
         check_count(p, loc, t->thresholds, t->channels * (t->codes - 1)) &&
         check_count(p, loc, t->perm, t->codes) &&
         check_range(p, loc, t->levels, INT32_MIN, INT32_MAX) &&
         check_range(p, loc, t->perm, 0, t->codes - 1);
}

static void fill(qnet_table *table, const table_text *t) {
  for (int i = 0; i < t->scale->count; i++)
    table->scale[i] = (float)t->scale->floats[i];
  for (int i = 0; i < t->levels->count; i++)
    table->level[i] = (int32_t)t->levels->ints[i];
  for (int i = 0; t->thresholds && i < t->thresholds->count; i++)
    table->threshold[i] = (float)t->thresholds->floats[i];
  for (int i = 0; t->perm && i < t->perm->count; i++)
    table->perm[i] = (uint8_t)t->perm->ints[i];
}

bool qnet_parse_table(qnet_parser *p, const char *name, qnet_loc loc) {
  static const char schema[] =
      "bits:int codes:int? channels:int? scale:floats levels:ints thresholds:floats? perm:ints?";
  qnet_op holder = {0};
  table_text t = {0};
  if (!qnet_parse_is(p, '{')) return qnet_parse_expected(p, "'{' and the table's content");
  if (!qnet_parse_attrs(p, schema, "a table", &holder)) return false;
  if (!check_sizes(p, &holder, loc, &t) || !check_lists(p, loc, &t)) return false;
  const qnet_symbol *s = qnet_symbol_add_table(p->module, name, (int)t.bits, (int)t.codes,
                                               (int)t.channels, t.thresholds != NULL, loc);
  if (!s) return qnet_parse_out_of_memory(p);
  fill(s->table, &t);
  return true;
}
