/* Parameters, decision tables and frozen tables of a module's quantizers: what happens between two
 * training steps, and before the freeze pass. Everything lives in blobs of state symbols; a site is
 * a view of them. */
#include "passes/quantizer_state.h"
#include "ir/ops.h"
#include <math.h>
#include <string.h>

/* ---- symbols ----------------------------------------------------------------------------------*/

static qnet_symbol *find(const qnet_module *m, const char *site, const char *suffix) {
  char name[512];
  const size_t a = strlen(site), b = strlen(suffix);
  if (a + b + 2 > sizeof name) return NULL;
  memcpy(name, site, a);
  name[a] = '.';
  memcpy(name + a + 1, suffix, b + 1);
  return qnet_symbol_find(m, name);
}

/* The content of a state symbol, made when it is missing. */
static qnet_status require_blob(qnet_symbol *s, const qnet_allocator *a, qnet_diag *d) {
  if (s->blob != NULL) {
    if (s->blob->dtype == s->type->dtype &&
        qnet_blob_elements(s->blob) == qnet_type_elements(s->type))
      return QNET_OK;
    return qnet_error(d, s->loc, "'@%s' has %lld elements of %s, but its type has %lld of %s",
                      s->name, (long long)qnet_blob_elements(s->blob),
                      qnet_dtype_name(s->blob->dtype), (long long)qnet_type_elements(s->type),
                      qnet_dtype_name(s->type->dtype));
  }
  qnet_blob *blob = qnet_blob_create(a, s->type->dtype, s->type->rank, s->type->dim);
  if (blob == NULL) return qnet_out_of_memory(d);
  qnet_symbol_set_blob(s, blob);
  qnet_blob_release(blob);
  return QNET_OK;
}

/* ---- decision tables --------------------------------------------------------------------------*/

/* Room for the levels of all channels of a site. */
typedef struct level_room {
  float *level, *scale;
  int32_t *integer;
} level_room;

static qnet_status room_create(qnet_arena *arena, const qnet_site_state *s, level_room *out,
                               qnet_diag *d) {
  const size_t channels = (size_t)s->site.channels;
  const size_t n = (size_t)s->quantizer->level_count(&s->site) * channels;
  out->level = qnet_arena_array(arena, n, sizeof *out->level);
  out->integer = qnet_arena_array(arena, n, sizeof *out->integer);
  out->scale = qnet_arena_array(arena, channels, sizeof *out->scale);
  if (out->level == NULL || out->integer == NULL || out->scale == NULL)
    return qnet_out_of_memory(d);
  return QNET_OK;
}

static qnet_status not_finite(const qnet_site_state *s, qnet_diag *d) {
  return qnet_error(d, s->loc,
                    "the parameters of quantizer '%s' are not finite: training diverged, or the "
                    "weights file is damaged; try a lower learning rate",
                    s->site.name);
}

static bool all_finite(const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!isfinite(x[i])) return false;
  return true;
}

/* The cells of the gradient, where the step has one. */
static void write_cells(const qnet_site_state *s) {
  if (s->bound == NULL || s->slope == NULL || s->tilt == NULL) return;
  s->quantizer->cells(&s->site, s->bound->blob->data, s->slope->blob->data, s->tilt->blob->data);
  if (s->share != NULL) s->quantizer->moments(&s->site, s->share->blob->data);
}

/* Writes threshold, level and perm of all channels. */
static qnet_status write_tables(const qnet_site_state *s, bool frozen, const level_room *room,
                                qnet_diag *d) {
  const int n = frozen ? s->quantizer->freeze(&s->site, room->scale, room->integer)
                       : s->quantizer->levels(&s->site, room->level);
  if (n == 0 || (!frozen && !all_finite(room->level, (int64_t)n * s->site.channels)))
    return not_finite(s, d);
  float *threshold = s->threshold->blob->data, *level = s->level->blob->data;
  uint8_t *perm = s->perm->blob->data;
  for (ptrdiff_t c = 0; c < s->site.channels; c++) {
    float *t = threshold + c * (n - 1), *l = level + c * n;
    if (frozen)
      qnet_quantizer_sort_frozen(room->scale[c], room->integer + c * n, n, t, l, perm + c * n);
    else
      qnet_quantizer_sort(room->level + c * n, n, t, l, perm + c * n);
    if (s->quantizer->thresholds != NULL) s->quantizer->thresholds(&s->site, (int)c, t);
  }
  write_cells(s);
  return QNET_OK;
}

static qnet_status refresh_site(const qnet_site_state *s, bool frozen, const qnet_allocator *a,
                                qnet_diag *d) {
  qnet_arena scratch;
  qnet_arena_init(&scratch, a);
  level_room room;
  qnet_status status = room_create(&scratch, s, &room, d);
  if (status == QNET_OK) status = write_tables(s, frozen, &room, d);
  qnet_arena_clear(&scratch);
  return status;
}

/* Fetches the blobs: they may have been replaced since the last call. */
static qnet_status bind(qnet_site_state *s, const qnet_allocator *a, qnet_diag *d) {
  qnet_symbol *const own[] = {s->threshold, s->level, s->perm, s->param,
                              s->bound,     s->slope, s->tilt, s->share};
  const bool fresh = s->param->blob == NULL;
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    if (own[i] != NULL) QNET_TRY(require_blob(own[i], a, d));
  s->site.param = s->param->blob->data;
  if (fresh) s->quantizer->init(&s->site);
  return QNET_OK;
}

/* ---- sites ------------------------------------------------------------------------------------*/

qnet_status qnet_quantizer_state_init(qnet_module *m, const qnet_quantizer *q,
                                      const qnet_quantizer_site *site, const qnet_allocator *a,
                                      qnet_diag *d) {
  const char *name = qnet_arena_printf(&m->arena, "%s.param", site->name);
  const qnet_type *type = qnet_type_tensor(
      m, QNET_F32, 2, (const int64_t[]){site->channels, q->param_count(site->bits)});
  if (name == NULL || type == NULL) return qnet_out_of_memory(d);
  qnet_site_state s = {.site = *site,
                       .quantizer = q,
                       .threshold = find(m, site->name, "threshold"),
                       .level = find(m, site->name, "level"),
                       .perm = find(m, site->name, "perm"),
                       .param = qnet_symbol_find(m, name)};
  if (s.threshold == NULL || s.level == NULL || s.perm == NULL) return qnet_out_of_memory(d);
  if (s.param == NULL)
    s.param = qnet_symbol_add_data(m, QNET_SYMBOL_STATE, name, type, NULL, s.threshold->loc);
  if (s.param == NULL) return qnet_out_of_memory(d);
  QNET_TRY(bind(&s, a, d));
  return refresh_site(&s, false, a, d);
}

static qnet_status describe_site(qnet_module *m, const qnet_op *op, qnet_site_state *s,
                                 qnet_diag *d) {
  const char *name = qnet_op_string(op, "site"), *quantizer = qnet_op_string(op, "quantizer");
  const char *role = qnet_op_string(op, "role");
  if (name == NULL || quantizer == NULL || role == NULL)
    return qnet_error(d, op->loc, "nn.quantize lacks its site, quantizer or role");
  s->quantizer = qnet_quantizer_find(quantizer);
  if (s->quantizer == NULL)
    return qnet_error(d, op->loc, "unknown quantizer '%s' at '%s'", quantizer, name);
  s->loc = op->loc;
  s->site = qnet_quantizer_site_of(op);
  const qnet_bit_range bits = s->quantizer->bits[s->site.role];
  if (s->site.bits < bits.min || s->site.bits > bits.max || bits.max == 0)
    return qnet_error(d, op->loc, "quantizer '%s' has no %d bits for a %s", quantizer, s->site.bits,
                      role);
  s->threshold = find(m, name, "threshold");
  s->level = find(m, name, "level");
  s->perm = find(m, name, "perm");
  s->param = find(m, name, "param");
  s->count = find(m, name, "count");
  s->sum = find(m, name, "sum");
  s->bound = find(m, name, "bound");
  s->slope = find(m, name, "slope");
  s->tilt = find(m, name, "tilt");
  s->dy = find(m, name, "dy");
  s->dyx = find(m, name, "dyx");
  s->share = find(m, name, "share");
  const qnet_op *source = op->operand[0]->def;
  if (s->site.role == QNET_ROLE_WEIGHT && source != NULL && source->opcode == QNET_OP_READ)
    s->weight = qnet_op_symbol(m, source, "sym");
  if (s->threshold == NULL || s->level == NULL || s->perm == NULL || s->param == NULL)
    return qnet_error(d, op->loc, "'%s' lacks its state symbols (threshold, level, perm, param)",
                      name);
  if (s->site.role == QNET_ROLE_WEIGHT && s->weight == NULL)
    return qnet_error(d, op->loc, "the weight of '%s' is not read from a symbol", name);
  return QNET_OK;
}

/* The symbols of nn.cell_grad come together. */
static bool fits_cells(const qnet_site_state *s) {
  const qnet_symbol *const cells[] = {s->slope, s->tilt, s->dy, s->dyx};
  if (s->quantizer->cell_count == NULL) return false;
  const int64_t channels = s->site.channels, n = s->quantizer->cell_count(&s->site);
  bool good = qnet_type_elements(s->bound->type) == channels * (n - 1);
  for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
    good = good && cells[i] != NULL && qnet_type_elements(cells[i]->type) == channels * n;
  if (s->share != NULL)
    good = good && s->quantizer->moments != NULL && qnet_type_elements(s->share->type) == 4 * n;
  return good;
}

/* The shapes that `update` and the tables index by. */
static qnet_status check_site(const qnet_site_state *s, qnet_diag *d) {
  const int64_t channels = s->site.channels, codes = (int64_t)1 << s->site.bits;
  const int64_t n = s->quantizer->level_count(&s->site);
  const bool by_channel = s->quantizer->by_channel && s->site.role == QNET_ROLE_ACTIVATION;
  const int64_t rows = by_channel ? s->site.inputs : channels;
  bool good =
      qnet_type_elements(s->level->type) == channels * n &&
      qnet_type_elements(s->perm->type) == channels * n &&
      qnet_type_elements(s->threshold->type) == channels * (n - 1) &&
      qnet_type_elements(s->param->type) == channels * s->quantizer->param_count(s->site.bits);
  if (s->count != NULL && s->sum != NULL)
    good = good && qnet_type_elements(s->count->type) == rows * codes &&
           qnet_type_elements(s->sum->type) == rows * codes;
  if (s->bound != NULL || s->share != NULL) good = good && s->bound != NULL && fits_cells(s);
  if (s->weight != NULL)
    good = good && channels == (s->quantizer->per_layer ? 1 : s->weight->type->dim[0]);
  if (good) return QNET_OK;
  return qnet_error(d, s->loc, "the state symbols of '%s' do not fit %d bits of '%s'", s->site.name,
                    s->site.bits, s->quantizer->name);
}

qnet_status qnet_quantizer_sites_collect(qnet_module *m, const qnet_allocator *a,
                                         qnet_quantizer_sites *out, qnet_diag *d) {
  *out = (qnet_quantizer_sites){.module = m, .allocator = a};
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (eval == NULL || eval->kind != QNET_SYMBOL_FUNC)
    return qnet_error(d, QNET_NO_LOC, "the module has no function @eval");
  int count = 0;
  for (const qnet_op *op = eval->body->first; op != NULL; op = op->next)
    count += op->opcode == QNET_OP_QUANTIZE;
  out->site = qnet_alloc_array(a, (size_t)count, sizeof *out->site);
  if (out->site == NULL) return qnet_out_of_memory(d);
  out->count = count;
  qnet_status status = QNET_OK;
  qnet_site_state *next = out->site;
  for (const qnet_op *op = eval->body->first; op != NULL && status == QNET_OK; op = op->next) {
    if (op->opcode != QNET_OP_QUANTIZE) continue;
    status = describe_site(m, op, next, d);
    if (status == QNET_OK) status = check_site(next++, d);
  }
  if (status != QNET_OK) qnet_quantizer_sites_free(out);
  return status;
}

void qnet_quantizer_sites_free(qnet_quantizer_sites *s) {
  if (s->site != NULL) qnet_free(s->allocator, s->site, (size_t)s->count * sizeof *s->site);
  *s = (qnet_quantizer_sites){0};
}

bool qnet_quantizer_sites_by_gradient(const qnet_quantizer_sites *s) {
  for (int i = 0; i < s->count; i++)
    if (s->site[i].quantizer->learn != NULL) return true;
  return false;
}

/* ---- learning ---------------------------------------------------------------------------------*/

typedef void (*data_hook)(qnet_quantizer_site *s, const float *x, int64_t n);

/* Hands the latent weights to `fit` or `follow`; nothing without such a hook. */
static qnet_status show_weight(qnet_site_state *s, data_hook hook, qnet_diag *d) {
  if (s->weight == NULL || hook == NULL) return QNET_OK;
  if (s->weight->blob == NULL)
    return qnet_error(d, s->loc, "'@%s' has no content; load weights first", s->weight->name);
  hook(&s->site, s->weight->blob->data, qnet_type_elements(s->weight->type) / s->site.channels);
  return QNET_OK;
}

/* Fits a weight, then makes its tables. */
static qnet_status fit_weight(qnet_site_state *s, const qnet_allocator *a, qnet_diag *d) {
  QNET_TRY(bind(s, a, d));
  QNET_TRY(show_weight(s, s->quantizer->fit, d));
  QNET_TRY(show_weight(s, s->quantizer->follow, d));
  return refresh_site(s, false, a, d);
}

qnet_status qnet_quantizer_sites_refresh(qnet_quantizer_sites *s, bool frozen, qnet_diag *d) {
  for (int i = 0; i < s->count; i++) {
    qnet_site_state *site = &s->site[i];
    QNET_TRY(bind(site, s->allocator, d));
    QNET_TRY(show_weight(site, site->quantizer->follow, d));
    QNET_TRY(refresh_site(site, frozen, s->allocator, d));
  }
  return QNET_OK;
}

static bool has_content(const qnet_symbol *s) {
  return s != NULL && s->blob != NULL;
}

qnet_status qnet_quantizer_sites_update(qnet_quantizer_sites *s, bool frozen, qnet_diag *d) {
  for (int i = 0; i < s->count; i++) {
    qnet_site_state *site = &s->site[i];
    const qnet_quantizer *q = site->quantizer;
    QNET_TRY(bind(site, s->allocator, d));
    if (q->update != NULL && has_content(site->count) && has_content(site->sum))
      q->update(&site->site, site->count->blob->data, site->sum->blob->data);
    if (q->learn != NULL && has_content(site->dy) && has_content(site->dyx))
      q->learn(&site->site, site->dy->blob->data, site->dyx->blob->data, s->lr);
  }
  return qnet_quantizer_sites_refresh(s, frozen, d);
}

qnet_status qnet_quantizer_sites_fit_weights(qnet_quantizer_sites *s, qnet_diag *d) {
  for (int i = 0; i < s->count; i++) {
    qnet_site_state *site = &s->site[i];
    if (site->weight != NULL) QNET_TRY(fit_weight(site, s->allocator, d));
  }
  return QNET_OK;
}

qnet_status qnet_quantizer_site_fit(qnet_quantizer_sites *s, int index, const float *x, int64_t n,
                                    qnet_diag *d) {
  qnet_site_state *site = &s->site[index];
  QNET_TRY(bind(site, s->allocator, d));
  site->quantizer->fit(&site->site, x, n);
  return refresh_site(site, false, s->allocator, d);
}

static qnet_site_state *same_site(const qnet_quantizer_sites *s, const qnet_site_state *other) {
  for (int i = 0; i < s->count; i++) {
    qnet_site_state *site = &s->site[i];
    if (site->quantizer == other->quantizer && strcmp(site->site.name, other->site.name) == 0)
      return site;
  }
  return NULL;
}

static qnet_status carry_all(const qnet_quantizer_sites *from, qnet_quantizer_sites *to,
                             qnet_diag *d) {
  for (int i = 0; i < to->count; i++) {
    qnet_site_state *site = &to->site[i], *old = same_site(from, site);
    if (old == NULL || site->quantizer->carry == NULL) continue;
    QNET_TRY(bind(old, from->allocator, d));
    QNET_TRY(bind(site, to->allocator, d));
    site->quantizer->carry(&site->site, &old->site);
    QNET_TRY(refresh_site(site, false, to->allocator, d));
  }
  return QNET_OK;
}

qnet_status qnet_quantizer_carry(qnet_module *from, qnet_module *to, const qnet_allocator *a,
                                 qnet_diag *d) {
  qnet_quantizer_sites old, new = {0};
  QNET_TRY(qnet_quantizer_sites_collect(from, a, &old, d));
  qnet_status status = qnet_quantizer_sites_collect(to, a, &new, d);
  if (status == QNET_OK) status = carry_all(&old, &new, d);
  qnet_quantizer_sites_free(&old);
  qnet_quantizer_sites_free(&new);
  return status;
}

qnet_status qnet_quantizer_state_start(qnet_module *m, const qnet_op *quantize,
                                       const qnet_allocator *a, qnet_diag *d) {
  qnet_site_state s = {0};
  QNET_TRY(describe_site(m, quantize, &s, d));
  QNET_TRY(check_site(&s, d));
  const bool by_gradient = s.quantizer->learn != NULL || s.quantizer->follow != NULL;
  if (!by_gradient || s.weight == NULL || s.weight->blob == NULL) return QNET_OK;
  return fit_weight(&s, a, d);
}

qnet_status qnet_quantizer_plane_distance(qnet_module *m, const qnet_allocator *a,
                                          const char **site, double *distance, qnet_diag *d) {
  qnet_quantizer_sites sites;
  *site = NULL;
  *distance = 0;
  QNET_TRY(qnet_quantizer_sites_collect(m, a, &sites, d));
  qnet_status status = QNET_OK;
  for (int i = 0; i < sites.count && status == QNET_OK; i++) {
    qnet_site_state *s = &sites.site[i];
    if (s->quantizer->plane_distance == NULL || s->site.planes == 0) continue;
    status = bind(s, a, d);
    const double own = status == QNET_OK ? s->quantizer->plane_distance(&s->site) : 0;
    if (*site != NULL && !(own > *distance)) continue;
    *site = s->site.name;
    *distance = own;
  }
  qnet_quantizer_sites_free(&sites);
  return status;
}

/* ---- freezing ---------------------------------------------------------------------------------*/

/* `table @SITE` of this size, an existing one when it fits. */
static qnet_table *require_table(qnet_module *m, const qnet_site_state *s, int codes) {
  const bool activation = s->site.role == QNET_ROLE_ACTIVATION;
  qnet_symbol *symbol = qnet_symbol_find(m, s->site.name);
  if (symbol != NULL) {
    const qnet_table *t = symbol->table;
    if (t != NULL && t->bits == s->site.bits && t->codes == codes &&
        t->channels == s->site.channels && (t->threshold != NULL) == activation)
      return symbol->table;
    qnet_symbol_remove(m, symbol);
  }
  symbol = qnet_symbol_add_table(m, s->site.name, s->site.bits, codes, s->site.channels, activation,
                                 s->loc);
  return symbol != NULL ? symbol->table : NULL;
}

static int rank_of(float x, const float *threshold, int n) {
  int low = 0, high = n - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (x > threshold[middle])
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* The decision table of channel c of a frozen table. */
static void frozen_decision(const qnet_site_state *s, const qnet_table *t, int64_t c,
                            float *threshold, uint8_t *perm) {
  float sorted[QNET_MAX_LEVELS];
  qnet_quantizer_sort_frozen(t->scale[c], t->level + c * t->codes, t->codes, threshold, sorted,
                             perm);
  if (s->quantizer->thresholds != NULL) s->quantizer->thresholds(&s->site, (int)c, threshold);
}

/* `const @SITE.codes`: the latent weights by the frozen thresholds, filter by filter. */
static qnet_status freeze_codes(qnet_module *m, const qnet_site_state *s, const qnet_table *t,
                                const qnet_allocator *a, qnet_diag *d) {
  const qnet_type *shape = s->weight->type;
  if (s->weight->blob == NULL)
    return qnet_error(d, s->loc, "'@%s' has no content; load weights first", s->weight->name);
  qnet_blob *blob = qnet_blob_create(a, QNET_CODE, shape->rank, shape->dim);
  if (blob == NULL) return qnet_out_of_memory(d);
  const float *w = s->weight->blob->data;
  uint8_t *code = blob->data, perm[QNET_MAX_LEVELS];
  float threshold[QNET_MAX_LEVELS];
  const int64_t n = qnet_type_elements(shape) / t->channels;
  for (int64_t c = 0; c < t->channels; c++) {
    frozen_decision(s, t, c, threshold, perm);
    for (int64_t i = c * n; i < (c + 1) * n; i++)
      code[i] = perm[rank_of(w[i], threshold, t->codes)];
  }
  const char *name = qnet_arena_printf(&m->arena, "%s.codes", s->site.name);
  const qnet_type *type = qnet_type_codes(m, t->bits, s->site.name, shape->rank, shape->dim);
  qnet_symbol *symbol = name != NULL ? qnet_symbol_find(m, name) : NULL;
  if (symbol != NULL && symbol->type == type)
    qnet_symbol_set_blob(symbol, blob);
  else if (name != NULL) {
    if (symbol != NULL) qnet_symbol_remove(m, symbol);
    symbol = qnet_symbol_add_data(m, QNET_SYMBOL_CONST, name, type, blob, s->loc);
  }
  qnet_blob_release(blob);
  return symbol != NULL ? QNET_OK : qnet_out_of_memory(d);
}

static qnet_status freeze_site(qnet_module *m, qnet_site_state *s, const qnet_allocator *a,
                               qnet_diag *d) {
  QNET_TRY(bind(s, a, d));
  QNET_TRY(show_weight(s, s->quantizer->follow, d));
  qnet_table *t = require_table(m, s, s->quantizer->level_count(&s->site));
  if (t == NULL) return qnet_out_of_memory(d);
  if (s->quantizer->freeze(&s->site, t->scale, t->level) == 0) return not_finite(s, d);
  if (s->weight != NULL) return freeze_codes(m, s, t, a, d);
  frozen_decision(s, t, 0, t->threshold, t->perm);
  return QNET_OK;
}

qnet_status qnet_quantizer_freeze_all(qnet_module *m, const qnet_allocator *a, qnet_diag *d) {
  qnet_quantizer_sites sites;
  QNET_TRY(qnet_quantizer_sites_collect(m, a, &sites, d));
  qnet_status status = QNET_OK;
  for (int i = 0; i < sites.count && status == QNET_OK; i++)
    status = freeze_site(m, &sites.site[i], a, d);
  qnet_quantizer_sites_free(&sites);
  return status;
}
