/* Fuzz targets of a training run that goes on: its checkpoint and its metrics. */
#include "driver/model.h"
#include "driver/trainer.h"
#include "driver/weights.h"
#include "runtime/checkpoint.h"
#include "runtime/plot.h"
#include "support/file.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 4, PIXELS = 64 };

/* ---- checkpoints --------------------------------------------------------------------------- */

/* A training of the small network at its first step. */
typedef struct training {
  qnet_session session;
  qnet_program program;
  qnet_stages stages;
  qnet_trainer *trainer;
  qnet_engine engine;
} training;

static qnet_status start(training *t) {
  qnet_session *s = &t->session;
  QNET_TRY(qnet_model_quant_spec(s, &t->program));
  t->program.recipe.batch = BATCH;
  QNET_TRY(qnet_weights_init(t->program.module, 1, s->diag));
  QNET_TRY(qnet_stages_plan(s, &t->program, &t->stages));
  QNET_TRY(qnet_trainer_create(s, &t->program, &t->stages, NULL, &t->trainer));
  qnet_trainer_set_plan(t->trainer, QNET_PLAN_UNFUSED);
  t->engine = qnet_trainer_engine(t->trainer);
  int64_t batches = 0;
  return t->engine.enter_stage(t->engine.ctx, 0, &batches, s->diag);
}

static qnet_status begin(training *t, const qnet_allocator *a, qnet_diag *d) {
  *t = (training){.session = {.allocator = a, .diag = d}};
  char program[] = "qnetc", verb[] = "train", net[] = "tests/fuzz/seeds/small.qnet", to[] = "-o=x",
       data[] = "--data=x";
  char *argv[] = {program, verb, net, data, to, NULL};
  QNET_TRY(qnet_options_parse(5, argv, &t->session.options, d));
  QNET_TRY(qnet_session_program(&t->session, &t->program));
  return start(t);
}

static void end(training *t) {
  qnet_trainer_destroy(t->trainer);
  qnet_module_destroy(t->program.module);
}

static qnet_train_options options_for(const char *path) {
  return (qnet_train_options){
      .epochs = 2, .checkpoint = path, .previous_checkpoint = "/nowhere/previous"};
}

/* An engine that stores what another one stored, edited. */
static qnet_status store_copy(void *ctx, qnet_tensor_file *f, qnet_diag *d) {
  const qnet_tensor_file *from = ctx;
  for (size_t i = 0; i < from->count; i++)
    if (qnet_tensor_file_set(f, from->entry[i].name, from->entry[i].blob) != QNET_OK)
      return qnet_out_of_memory(d);
  for (size_t i = 0; i < from->meta_count; i++)
    if (qnet_tensor_file_set_meta(f, from->meta[2 * i], from->meta[2 * i + 1]) != QNET_OK)
      return qnet_out_of_memory(d);
  return QNET_OK;
}

static qnet_status write_checkpoint(const qnet_engine *engine, const char *path,
                                    const qnet_allocator *a, qnet_diag *d) {
  const qnet_train_options options = options_for(path);
  const qnet_run_position at = {.epoch = 1, .step = 1, .correct = 2, .loss = 1.5};
  qnet_strbuf metrics;
  qnet_strbuf_init(&metrics, a);
  qnet_strbuf_puts(&metrics, "{\"epoch\": 1}\n");
  const qnet_status status = qnet_checkpoint_write(engine, &options, &at, &metrics, d);
  qnet_strbuf_free(&metrics);
  return status;
}

/* A checkpoint with a checksum that fits, around state that does not. */
static void write_edited(const fuzz_case *c, const training *t) {
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, c->allocator);
  fuzz_check(c, t->engine.store(t->engine.ctx, &f, c->diag), "storing");
  fuzz_edit_tensors(&f, c->random);
  const qnet_engine copier = {.ctx = &f, .store = store_copy};
  fuzz_check(c, write_checkpoint(&copier, c->path, c->allocator, c->diag), "writing a checkpoint");
  qnet_tensor_file_free(&f);
}

/* Goes on from what was read: a step on any images, and all of it stored again. */
static void go_on(const fuzz_case *c, const training *t) {
  const qnet_engine *e = &t->engine;
  uint8_t images[BATCH * PIXELS];
  const int32_t labels[BATCH] = {0, 1, 2, 3};
  for (int i = 0; i < BATCH * PIXELS; i++)
    images[i] = (uint8_t)(c->random >> i % 57);
  qnet_step_result result;
  const qnet_status status = e->step(e->ctx, images, labels, 0.01, &result, c->diag);
  fuzz_check(c, status, "a step");
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, c->allocator);
  fuzz_check(c, e->store(e->ctx, &f, c->diag), "storing again");
  qnet_tensor_file_free(&f);
}

static void run_checkpoint(const fuzz_case *c, const char *data, size_t size) {
  training t;
  fuzz_check(c, begin(&t, c->allocator, c->diag), "beginning");
  if (c->random % 2)
    fuzz_write(c, data, size);
  else
    write_edited(c, &t);
  const qnet_train_options options = options_for(c->path);
  qnet_run_position at = {0};
  qnet_strbuf metrics;
  qnet_strbuf_init(&metrics, c->allocator);
  bool found;
  const qnet_status status =
      qnet_checkpoint_read(&t.engine, &options, &at, &metrics, &found, c->diag);
  fuzz_check(c, status, "reading a checkpoint");
  qnet_strbuf_free(&metrics);
  if (status == QNET_OK) {
    fuzz_accept(c);
    go_on(c, &t);
  }
  end(&t);
}

static bool make_checkpoint(int i, qnet_strbuf *out) {
  if (i > 0) return false;
  const qnet_allocator *system = qnet_allocator_system();
  char path[64], *data;
  size_t size;
  training t;
  snprintf(path, sizeof path, "/tmp/qnet-fuzz-seed-%ld", (long)getpid());
  if (begin(&t, system, NULL) != QNET_OK ||
      write_checkpoint(&t.engine, path, system, NULL) != QNET_OK ||
      qnet_file_read(system, path, 1 << 20, &data, &size, NULL) != QNET_OK)
    abort();
  end(&t);
  unlink(path);
  qnet_strbuf_append(out, data, size);
  qnet_free(system, data, size + 1);
  return true;
}

static const char *const no_seeds[] = {NULL};
static const char *const checkpoint_words[] = {"\"run.epoch\"",
                                               "\"run.step\"",
                                               "\"run.stage\"",
                                               "\"run.frozen\"",
                                               "\"run.checksum\"",
                                               "\"F32\"",
                                               "\"I64\"",
                                               "\"U8\"",
                                               "\"shape\"",
                                               "\"data_offsets\"",
                                               "[0,0]",
                                               "[]",
                                               "null",
                                               "-1",
                                               "1e999",
                                               "\"",
                                               "{",
                                               "}",
                                               ",",
                                               "9223372036854775807",
                                               "0x1p+1023",
                                               "\xff\xff\xff\xff",
                                               NULL};

const fuzz_target fuzz_target_checkpoint = {
    "checkpoint", run_checkpoint, no_seeds, checkpoint_words, 2, make_checkpoint};

/* ---- metrics ------------------------------------------------------------------------------- */

/* What --plot draws of a run that was resumed: the lines that the file has. */
static void run_metrics(const fuzz_case *c, const char *data, size_t size) {
  const qnet_plot plot = {.title = "fuzz", .metrics = data, .metrics_length = size};
  const qnet_status status = qnet_plot_write(c->allocator, &plot, c->path, c->diag);
  fuzz_check(c, status, "drawing metrics");
  if (status == QNET_OK) fuzz_accept(c);
}

static const char *const metrics_seeds[] = {"tests/fuzz/seeds/metrics*.jsonl", NULL};
static const char *const metrics_words[] = {"\"epoch\"",
                                            "\"loss\"",
                                            "\"train_correct\"",
                                            "\"train_images\"",
                                            "\"test_correct\"",
                                            "\"test_images\"",
                                            "\"lr\"",
                                            "\"frozen\"",
                                            "\"stage\"",
                                            "\"bits\"",
                                            "true",
                                            "null",
                                            "1e308",
                                            "-1e308",
                                            "NaN",
                                            "0",
                                            "9223372036854775807",
                                            "{",
                                            "}",
                                            "\n",
                                            NULL};

const fuzz_target fuzz_target_metrics = {"metrics",     run_metrics, metrics_seeds,
                                         metrics_words, 1,           NULL};
