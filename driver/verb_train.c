/* qnetc train: trains a network and its quantizers, saves weights and frozen tables. Beside the
 * weights file W.safetensors lie W.best.safetensors, W.metrics.jsonl and the checkpoints W.ckpt and
 * W.ckpt.prev. */
#include "driver/data.h"
#include "driver/json.h"
#include "driver/model.h"
#include "driver/packed.h"
#include "driver/plot.h"
#include "driver/run_fields.h"
#include "driver/stop.h"
#include "driver/teacher.h"
#include "driver/trainer.h"
#include "driver/weight_names.h"
#include "driver/weights.h"
#include "passes/quantizer.h"
#include "passes/quantizer_state.h"
#include "support/file.h"
#include "support/parallel.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct data_pair {
  qnet_dataset train, test;
} data_pair;

/* Names of the files beside the weights. */
typedef struct file_names {
  qnet_arena arena;
  const char *best, *metrics, *checkpoint, *previous;
} file_names;

/* Before hours of training, not after the first epoch: can the weights be saved there? */
static qnet_status check_output(const qnet_session *s) {
  const char *path = s->options.output;
  if (strcmp(path, "-") == 0)
    return qnet_error_in(s->diag, "qnetc", "-o takes a file: weights are saved after every epoch");
  qnet_file_writer *w;
  QNET_TRY(qnet_file_writer_open(s->allocator, path, &w, s->diag));
  qnet_file_writer_abort(w);
  return QNET_OK;
}

/* What a packed file has not: the weights that its codes were made of. */
static qnet_status warn_packed(const qnet_tensor_file *f, const char *path, qnet_diag *d) {
  bool packed;
  QNET_TRY(qnet_packed_detect(f, path, &packed, d));
  if (packed)
    qnet_warning_in(d, path,
                    "packed weights: training starts from the values of their codes; start from "
                    "the weights that were packed where you have them");
  return QNET_OK;
}

/* What learns by itself: by gradient, or from the values that it sees. */
static bool learns(const qnet_quantizer *q, int bits) {
  return q && bits != QNET_F32_BITS && (q->learn || q->update);
}

/* By the net's line, or by a layer of its own. */
static bool any_learns(const qnet_program *p) {
  const qnet_quant_spec *spec = &p->quant;
  const char *other = spec->activation_quantizer ? spec->activation_quantizer : spec->quantizer;
  if (learns(qnet_quantizer_find(spec->quantizer), spec->weight_bits) ||
      learns(qnet_quantizer_find(other), spec->activation_bits))
    return true;
  const qnet_quantizer *q;
  int bits;
  for (const qnet_op *op = qnet_symbol_find(p->module, "eval")->body->first; op; op = op->next)
    for (int role = 0; role < 2; role++)
      if (qnet_layer_quantizer(op, (qnet_role)role, &q, &bits) && learns(q, bits)) return true;
  return false;
}

/* --train=quantizers: are there any in every stage, with something to learn, and weights? */
static qnet_status check_quantizers_alone(const qnet_session *s, const qnet_program *p,
                                          const qnet_stages *stages) {
  const qnet_quant_spec *q = &p->quant;
  if (!s->options.init)
    return qnet_error_in(
        s->diag, "qnetc",
        "--train=quantizers leaves the weights as they are; say which with --init");
  if (!q->quantizer)
    return qnet_error_in(s->diag, "qnetc",
                         "--train=quantizers: the network has no quantizers; add "
                         "--quantizer=");
  if (!stages->stage[0].quant.quantizer)
    return qnet_error(s->diag, p->recipe.stage[0].loc,
                      "a stage of f32 has no quantizers that --train=quantizers could train");
  if (any_learns(p)) return QNET_OK;
  return qnet_error_in(s->diag, "qnetc",
                       "--train=quantizers: '%s' has nothing to learn but weights", q->quantizer);
}

static qnet_status check_what(const qnet_session *s, const qnet_program *p,
                              const qnet_stages *stages) {
  const char *what = s->options.train;
  if (s->options.no_labels && s->options.distill_count == 0 && !s->options.init)
    return qnet_error_in(
        s->diag, "qnetc",
        "--no-labels needs the f32 network to follow; add --distill=F32.safetensors");
  if (s->options.map && s->options.distill_count == 0 && !s->options.init)
    return qnet_error_in(s->diag, "qnetc",
                         "--map says what the layers of a weights file are called, but none is "
                         "read; add --init= or --distill=");
  if (s->options.distill_cache && s->options.distill_count == 0 && !s->options.no_labels)
    return qnet_error_in(s->diag, "qnetc",
                         "--distill-cache keeps what a network answers that is followed; add "
                         "--distill=F32.safetensors");
  if (!what || strcmp(what, "all") == 0) return QNET_OK;
  if (strcmp(what, "quantizers") == 0) return check_quantizers_alone(s, p, stages);
  return qnet_error_in(s->diag, "qnetc", "--train takes 'all' or 'quantizers', not '%s'", what);
}

/* --init: layers' weights from the file, as far as it has them; else initial values. */
static qnet_status initial_weights(qnet_session *s, qnet_program *p, uint64_t seed) {
  if (!s->options.init) return qnet_weights_init(p->module, seed, s->diag);
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, s->allocator);
  qnet_status status = qnet_tensor_file_read(&f, s->options.init, s->diag);
  if (status == QNET_OK) status = warn_packed(&f, s->options.init, s->diag);
  if (status == QNET_OK)
    status = qnet_weight_names_match(p->module, &f, s->options.map, s->options.init, true, s->diag);
  if (status == QNET_OK) status = qnet_weights_load_some(p->module, &f, s->options.init, s->diag);
  if (status == QNET_OK) status = qnet_weights_init(p->module, seed, s->diag);
  qnet_tensor_file_free(&f);
  return status;
}

static qnet_lr_schedule schedule_of(const qnet_recipe *r) {
  switch (r->schedule) {
  case QNET_SCHEDULE_COSINE: return QNET_LR_COSINE;
  case QNET_SCHEDULE_STEP: return QNET_LR_STEP;
  case QNET_SCHEDULE_CONSTANT: return QNET_LR_CONSTANT;
  case QNET_SCHEDULE_LINEAR: return QNET_LR_LINEAR;
  }
  return QNET_LR_CONSTANT;
}

static qnet_augment augment_of(const qnet_recipe *r) {
  return (qnet_augment){.crop_pad = r->crop_pad,
                        .flip = r->flip,
                        .smallest_area = r->smallest_area,
                        .brightness = r->brightness,
                        .contrast = r->contrast,
                        .saturation = r->saturation};
}

static bool stop_requested(void *ctx) {
  (void)ctx;
  return qnet_stop_requested();
}

static qnet_status name_files(const qnet_session *s, file_names *f) {
  static const char suffix[] = ".safetensors";
  const char *output = s->options.output;
  const size_t length = strlen(output), tail = sizeof suffix - 1;
  const bool has = length > tail && strcmp(output + length - tail, suffix) == 0;
  const int stem = (int)(has ? length - tail : length);
  qnet_arena *a = &f->arena;
  f->best = qnet_arena_printf(a, "%.*s.best%s", stem, output, suffix);
  f->metrics = s->options.metrics ? s->options.metrics
                                  : qnet_arena_printf(a, "%.*s.metrics.jsonl", stem, output);
  f->checkpoint = qnet_arena_printf(a, "%.*s.ckpt", stem, output);
  f->previous = qnet_arena_printf(a, "%.*s.ckpt.prev", stem, output);
  return f->best && f->metrics && f->checkpoint && f->previous ? QNET_OK
                                                               : qnet_out_of_memory(s->diag);
}

/* Answers are written over nothing that the run itself writes. */
static qnet_status check_cache(const qnet_session *s, const file_names *f) {
  const char *const cache = s->options.distill_cache;
  const char *const own[] = {s->options.output, f->best, f->metrics, f->checkpoint, f->previous};
  if (!cache) return QNET_OK;
  bool taken = strcmp(cache, "-") == 0;
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    taken = taken || strcmp(cache, own[i]) == 0;
  if (!taken) return QNET_OK;
  return qnet_error_in(s->diag, "qnetc", "--distill-cache=%s: name a file of its own", cache);
}

static qnet_train_options train_options(const qnet_session *s, const qnet_program *p,
                                        const qnet_stages *stages, const file_names *files) {
  const qnet_options *o = &s->options;
  const qnet_recipe *r = &p->recipe;
  qnet_train_options t = {.lr = isnan(o->lr) ? r->lr : o->lr,
                          .schedule = schedule_of(r),
                          .warmup_epochs = r->warmup_epochs,
                          .step_factor = r->step_factor,
                          .steps = r->steps,
                          .augment = augment_of(r),
                          .seed = o->seed != QNET_UNSET ? (uint64_t)o->seed : 1,
                          .limit = o->limit != QNET_UNSET ? o->limit : 0,
                          .log = stderr,
                          .output = o->output,
                          .best = files->best,
                          .metrics = files->metrics,
                          .checkpoint = files->checkpoint,
                          .previous_checkpoint = files->previous,
                          .checkpoint_steps =
                              o->checkpoint_steps != QNET_UNSET ? o->checkpoint_steps : 0,
                          .resume = o->resume,
                          .stop = stop_requested};
  qnet_stages_options(stages, &t);
  for (int i = 0; i < r->steps; i++)
    t.step_epochs[i] = r->step_epochs[i];
  if (p->quant.quantizer)
    t.frozen_epochs = o->frozen_epochs != QNET_UNSET ? (int)o->frozen_epochs : 1;
  if (t.frozen_epochs > t.epochs) t.frozen_epochs = t.epochs;
  return t;
}

static qnet_status print_report(const qnet_session *s, const qnet_train_report *r) {
  if (s->options.json)
    return qnet_json_print(json_pack("{s:I, s:I, s:o, s:o, s:o}", "correct", (json_int_t)r->correct,
                                     "images", (json_int_t)r->tested, "loss",
                                     qnet_json_number(r->loss), "seconds",
                                     qnet_json_number(r->seconds), "images_per_second",
                                     qnet_json_number(r->images_per_second)),
                           s->diag);
  printf("%s: %lld of %lld correct (%.2f %%), %.0f s\n", s->options.output, (long long)r->correct,
         (long long)r->tested, 100.0 * (double)r->correct / (double)r->tested, r->seconds);
  return QNET_OK;
}

/* What holding the levels to few planes took from them. */
static qnet_status print_planes(const qnet_session *s, const qnet_program *p) {
  const char *site;
  double distance;
  if (p->quant.planes == 0) return QNET_OK;
  QNET_TRY(qnet_quantizer_plane_distance(p->module, s->allocator, &site, &distance, s->diag));
  if (site)
    fprintf(stderr, "planes = %d: levels are within %.1f %% of the largest from free ones (%s)\n",
            p->quant.planes, 100 * distance, site);
  return QNET_OK;
}

static qnet_status run(qnet_session *s, const qnet_program *p, const qnet_stages *stages,
                       qnet_teacher *teacher, const qnet_train_options *options,
                       const data_pair *data) {
  qnet_trainer *t;
  QNET_TRY(qnet_trainer_create(s, p, stages, teacher, &t));
  const qnet_engine engine = qnet_trainer_engine(t);
  qnet_train_report report = {0};
  qnet_status status = qnet_train(&engine, options, &data->train, &data->test, &report, s->diag);
  if (status == QNET_OK) status = print_planes(s, qnet_trainer_program(t));
  if (status == QNET_OK && s->options.plot)
    status = qnet_plot_training(s, qnet_trainer_program(t), options->metrics, s->options.plot);
  qnet_trainer_destroy(t);
  if (status == QNET_STOPPED)
    fprintf(stderr,
            "stopped; the run is saved in %s. To go on, give the same command with --resume\n",
            options->checkpoint);
  return status == QNET_OK ? print_report(s, &report) : status;
}

static qnet_status label_test(const qnet_session *s, qnet_teacher *teacher, data_pair *data) {
  fprintf(stderr, "without labels: correct is what the f32 network says too\n");
  return qnet_teacher_label(teacher, &data->test, s->diag);
}

/* Settings that change nothing. */
static void warn_distillation(const qnet_session *s, const qnet_recipe *r,
                              const qnet_teacher *teacher) {
  if (r->distill_loc.buffer == 0 || teacher) return;
  if (r->distill_weight != 0.5 || r->distill_temperature != 4 || r->feature_weight > 0)
    qnet_warning(s->diag, r->distill_loc,
                 "no f32 network is followed: name its weights with --distill=F32.safetensors");
}

static qnet_status train(qnet_session *s, qnet_program *p, const qnet_stages *stages,
                         data_pair *data, const file_names *files) {
  qnet_train_options options = train_options(s, p, stages, files);
  qnet_run_fields fields;
  qnet_teacher *teacher;
  QNET_TRY(qnet_run_fields_begin(s, p, &fields));
  QNET_TRY(initial_weights(s, p, options.seed));
  QNET_TRY(qnet_teacher_create(s, p, &teacher));
  warn_distillation(s, &p->recipe, teacher);
  qnet_status status =
      qnet_run_fields_add(s, p, &options, teacher, &data->train, &data->test, &fields);
  if (status == QNET_OK && s->options.no_labels) status = label_test(s, teacher, data);
  options.field = fields.field;
  options.field_count = fields.count;
  if (status == QNET_OK) status = run(s, p, stages, teacher, &options, data);
  qnet_teacher_destroy(teacher);
  return status;
}

static qnet_status load_data(qnet_session *s, const qnet_program *p, data_pair *data) {
  const qnet_region *body = qnet_symbol_find(p->module, "eval")->body;
  const qnet_type *in = body->arg[0].type;
  const int64_t outputs =
      s->options.no_labels ? 0 : qnet_type_elements(body->last->operand[0]->type);
  QNET_TRY(qnet_data_load(s->allocator, s->options.data, QNET_SPLIT_TRAIN, in, outputs,
                          &data->train, s->diag));
  return qnet_data_load(s->allocator, s->options.data, QNET_SPLIT_TEST, in, outputs, &data->test,
                        s->diag);
}

qnet_status qnet_verb_train(qnet_session *s) {
  qnet_program p;
  QNET_TRY(check_output(s));
  qnet_stop_begin();
  if (s->options.threads != QNET_UNSET) qnet_parallel_set_threads((int)s->options.threads);
  QNET_TRY(qnet_session_program(s, &p));
  data_pair data = {0};
  file_names files = {0};
  qnet_arena_init(&files.arena, s->allocator);
  qnet_stages stages = {0};
  qnet_status status = qnet_model_quant_spec(s, &p);
  if (status == QNET_OK) status = qnet_stages_plan(s, &p, &stages);
  if (status == QNET_OK) status = check_what(s, &p, &stages);
  if (s->options.no_labels) p.recipe.distill_weight = 1;
  if (status == QNET_OK) status = name_files(s, &files);
  if (status == QNET_OK) status = check_cache(s, &files);
  if (status == QNET_OK) status = load_data(s, &p, &data);
  if (status == QNET_OK) status = train(s, &p, &stages, &data, &files);
  qnet_arena_clear(&files.arena);
  qnet_dataset_free(&data.train);
  qnet_dataset_free(&data.test);
  qnet_module_destroy(p.module);
  return status;
}
