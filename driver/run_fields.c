/* The fields of a training run: settings as text, large things as hashes. */
#include "driver/run_fields.h"
#include "codegen/plan.h"
#include "driver/weights.h"
#include "support/hash.h"
#include "support/parallel.h"

#include <inttypes.h>
#include <stdarg.h>

__attribute__((format(printf, 3, 4))) static void put(qnet_run_fields *f, const char *name,
                                                      const char *format, ...) {
  qnet_run_field *field = &f->field[f->count++];
  va_list arguments;
  va_start(arguments, format);
  field->name = name;
  vsnprintf(field->value, sizeof field->value, format, arguments);
  va_end(arguments);
}

qnet_status qnet_run_fields_begin(const qnet_session *s, const qnet_program *p,
                                  qnet_run_fields *out) {
  uint64_t source;
  out->count = 0;
  QNET_TRY(qnet_source_hash(p->module, s->allocator, &source, s->diag));
  put(out, "network", "%s %016" PRIx64, p->module->name, source);
  return QNET_OK;
}

/* Labels and images; of sets that are decoded item by item only the labels, which follow the files'
 * names: decoding all would take as long as an epoch. */
static qnet_status put_data(qnet_run_fields *f, const char *name, const qnet_dataset *set,
                            qnet_diag *d) {
  uint64_t h =
      qnet_content_hash(QNET_HASH_START, set->labels, (size_t)set->count * sizeof *set->labels);
  bool in_memory = true;
  for (int64_t i = 0; i < set->count && in_memory; i++) {
    qnet_item item;
    QNET_TRY(set->load(set, i, &item, d));
    in_memory = item.decoded == NULL;
    if (in_memory)
      h = qnet_content_hash(h, item.pixels, (size_t)(item.height * item.width * set->channels));
    qnet_item_release(&item);
  }
  put(f, name, "%" PRId64 " images %016" PRIx64, set->count, h);
  return QNET_OK;
}

static void put_quantizer(const qnet_quant_spec *q, qnet_run_fields *f) {
  if (!q->quantizer) {
    put(f, "quantizer", "none");
    return;
  }
  const char *other = q->activation_quantizer;
  put(f, "quantizer", "%s%s%s %d/%d grid %d planes %d first %d last %d", q->quantizer,
      other ? "/" : "", other ? other : "", q->weight_bits, q->activation_bits, q->grid, q->planes,
      q->first_bits, q->last_bits);
}

static void put_schedule(const qnet_train_options *o, qnet_run_fields *f) {
  static const char *const names[] = {"cosine", "step", "constant", "linear"};
  uint64_t h = QNET_HASH_START;
  if (o->schedule == QNET_LR_STEP)
    h = qnet_content_hash(h, o->step_epochs, sizeof *o->step_epochs * (size_t)o->steps);
  put(f, "schedule", "%s lr %.17g warm-up %d factor %.9g at %016" PRIx64, names[o->schedule], o->lr,
      o->warmup_epochs, o->step_factor, h);
}

static void put_stages(const qnet_train_options *o, qnet_run_fields *f) {
  char text[96] = "one";
  for (int i = 0, at = 0; i < o->stages && at < (int)sizeof text; i++)
    at += snprintf(text + at, sizeof text - (size_t)at, "%s%s x %d", i > 0 ? ", " : "",
                   o->stage[i].name, o->stage[i].epochs);
  put(f, "list of stages", "%s", text);
}

static void put_settings(const qnet_program *p, const qnet_train_options *o, qnet_run_fields *f) {
  const qnet_recipe *r = &p->recipe;
  put(f, "number of epochs", "%d", o->epochs);
  put_stages(o, f);
  put(f, "number of frozen epochs", "%d", o->frozen_epochs);
  put(f, "batch", "%d", r->batch);
  put(f, "image limit", "%" PRId64, o->limit);
  if (r->optimizer == QNET_OPTIMIZER_ADAM)
    put(f, "optimizer", "adam beta %.9g %.9g eps %.9g decay %.17g decoupled %d", r->beta1, r->beta2,
        r->eps, r->weight_decay, r->decoupled);
  else
    put(f, "optimizer", "sgd momentum %.17g decay %.17g nesterov %d muon %.17g", r->momentum,
        r->weight_decay, r->nesterov, r->muon);
  put_schedule(o, f);
  const qnet_augment *g = &o->augment;
  put(f, "augmentation", "crop %d flip %d part %.9g jitter %.9g %.9g %.9g", g->crop_pad, g->flip,
      g->smallest_area, g->brightness, g->contrast, g->saturation);
  if (r->quantizer_decay >= 0)
    put(f, "rate of quantizers", "lr %.17g decay %.17g", r->quantizer_lr, r->quantizer_decay);
  else
    put(f, "rate of quantizers", "lr %.17g", r->quantizer_lr);
  put(f, "label smoothing", "%.17g", r->label_smoothing);
  put(f, "seed", "%" PRIu64, o->seed);
  put(f, "number of threads", "%d", qnet_parallel_threads());
  put(f, "instruction set", "%s", qnet_plan_isa());
}

static void put_teacher(const qnet_teacher *teacher, const qnet_recipe *r, qnet_run_fields *f) {
  if (teacher)
    put(f, "teacher", "%016" PRIx64 " weight %.17g temperature %.17g features %.17g",
        qnet_teacher_hash(teacher), r->distill_weight, r->distill_temperature, r->feature_weight);
  else
    put(f, "teacher", "none");
}

qnet_status qnet_run_fields_add(const qnet_session *s, const qnet_program *p,
                                const qnet_train_options *options, const qnet_teacher *teacher,
                                const qnet_dataset *train, const qnet_dataset *test,
                                qnet_run_fields *out) {
  put_quantizer(&p->quant, out);
  put_settings(p, options, out);
  put_teacher(teacher, &p->recipe, out);
  put(out, "choice of what learns", "%s", s->options.train ? s->options.train : "all");
  put(out, "use of labels", "%s", s->options.no_labels ? "none" : "all");
  QNET_TRY(put_data(out, "training data", train, s->diag));
  QNET_TRY(put_data(out, "test data", test, s->diag));
  put(out, "initial weights", "%016" PRIx64, qnet_state_hash(p->module));
  return QNET_OK;
}
