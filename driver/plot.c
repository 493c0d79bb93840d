/* What the picture of a training run shows, from the trained module. */
#include "driver/plot.h"
#include "passes/quantizer_state.h"
#include "runtime/plot.h"
#include "support/file.h"

#include <string.h>

static const size_t max_metrics = (size_t)256 << 20;

/* The latent weights of a table's site "conv2.weight_quantizer", or NULL. */
static const qnet_symbol *weight_of(const qnet_module *m, const qnet_symbol *table) {
  static const char suffix[] = "_quantizer";
  char name[512];
  const size_t length = strlen(table->name), tail = sizeof suffix - 1;
  if (table->table->threshold || length <= tail || length >= sizeof name) return NULL;
  memcpy(name, table->name, length - tail);
  name[length - tail] = '\0';
  const qnet_symbol *weight = qnet_symbol_find(m, name);
  return weight && weight->blob && weight->type->dtype == QNET_F32 ? weight : NULL;
}

/* The layer's name without ".weight_quantizer"; levels with their scale. */
static bool describe(qnet_arena *arena, const qnet_symbol *table, const qnet_symbol *weight,
                     qnet_plot_layer *out) {
  const qnet_table *t = table->table;
  float *level = qnet_arena_array(arena, (size_t)(t->channels * t->codes), sizeof *level);
  const char *dot = strrchr(weight->name, '.');
  const int length = (int)(dot ? dot - weight->name : (ptrdiff_t)strlen(weight->name));
  const char *name = qnet_arena_printf(arena, "%.*s", length, weight->name);
  if (!level || !name) return false;
  for (int i = 0; i < t->channels * t->codes; i++)
    level[i] = t->scale[i / t->codes] * (float)t->level[i];
  *out = (qnet_plot_layer){.name = name,
                           .weight = weight->blob->data,
                           .weight_count = qnet_blob_elements(weight->blob),
                           .level = level,
                           .level_count = (int64_t)t->channels * t->codes};
  return true;
}

static qnet_status collect(const qnet_module *m, qnet_arena *arena, qnet_plot *plot, qnet_diag *d) {
  int count = 0;
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next)
    count += s->kind == QNET_SYMBOL_TABLE;
  qnet_plot_layer *layer = qnet_arena_array(arena, (size_t)count, sizeof *layer);
  if (!layer) return qnet_out_of_memory(d);
  plot->layer = layer;
  for (const qnet_symbol *s = m->first_symbol; s; s = s->next) {
    const qnet_symbol *weight = s->kind == QNET_SYMBOL_TABLE ? weight_of(m, s) : NULL;
    if (!weight) continue;
    if (!describe(arena, s, weight, &layer[plot->layer_count++])) return qnet_out_of_memory(d);
  }
  return QNET_OK;
}

static qnet_status draw(const qnet_session *s, const qnet_program *p, const char *metrics,
                        size_t length, const char *path) {
  qnet_arena arena;
  qnet_arena_init(&arena, s->allocator);
  const qnet_quant_spec *q = &p->quant;
  qnet_plot plot = {.metrics = metrics, .metrics_length = length};
  plot.title = q->quantizer ? qnet_arena_printf(&arena, "%s, %s %d/%d bits", p->module->name,
                                                q->quantizer, q->weight_bits, q->activation_bits)
                            : p->module->name;
  qnet_status status =
      plot.title ? collect(p->module, &arena, &plot, s->diag) : qnet_out_of_memory(s->diag);
  if (status == QNET_OK) status = qnet_plot_write(s->allocator, &plot, path, s->diag);
  qnet_arena_clear(&arena);
  return status;
}

qnet_status qnet_plot_training(const qnet_session *s, const qnet_program *p, const char *metrics,
                               const char *path) {
  char *text;
  size_t size;
  if (p->quant.quantizer) QNET_TRY(qnet_quantizer_freeze_all(p->module, s->allocator, s->diag));
  QNET_TRY(qnet_file_read(s->allocator, metrics, max_metrics, &text, &size, s->diag));
  const qnet_status status = draw(s, p, text, size, path);
  qnet_free(s->allocator, text, size + 1);
  return status;
}
