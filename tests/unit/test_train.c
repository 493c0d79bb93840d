/* The training loop with a fake engine: schedules, epochs, batches, frozen phase, saving, errors.
 */
#include "runtime/train.h"

#include <math.h>
#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

enum { COUNT = 21, BATCH = 4, CLASSES = 3 };

/* Counts what the loop does; the "image" of one byte says which image it is. */
typedef struct fake {
  int steps, saves, predicted, frozen_at_step;
  int seen[COUNT];
  int nan_at_step, fail_at_step; /* 1-based; 0 = never */
  double last_lr;
  bool labels_fit;
  int stage, stage_at_step[3], observed, last_observed; /* stages count from 1 */
  int64_t wanted;                                       /* by `observe` */
} fake;

static qnet_status fake_step(void *ctx, const uint8_t *images, const int32_t *labels, double lr,
                             qnet_step_result *out, qnet_diag *d) {
  fake *f = ctx;
  f->steps++;
  f->last_lr = lr;
  for (int i = 0; i < BATCH; i++) {
    f->seen[images[i]]++;
    if (labels[i] != images[i] % CLASSES) f->labels_fit = false;
  }
  *out = (qnet_step_result){f->steps == f->nan_at_step ? (double)NAN : 1.0 / f->steps, 1};
  return f->steps == f->fail_at_step ? qnet_error_in(d, "step", "failed") : QNET_OK;
}

static qnet_status fake_freeze(void *ctx, qnet_diag *d) {
  (void)d;
  fake *f = ctx;
  assert_int_equal(f->frozen_at_step, -1);
  f->frozen_at_step = f->steps;
  return QNET_OK;
}

static qnet_status fake_predict(void *ctx, const uint8_t *images, int64_t count, int32_t *classes,
                                qnet_diag *d) {
  (void)d;
  fake *f = ctx;
  f->predicted += (int)count;
  for (int64_t i = 0; i < count; i++)
    classes[i] = images[i] < 10 ? images[i] % CLASSES : -1;
  return QNET_OK;
}

static qnet_status fake_save(void *ctx, const char *path, qnet_diag *d) {
  (void)d;
  assert_string_equal(path, "w.safetensors");
  ((fake *)ctx)->saves++;
  return QNET_OK;
}

static qnet_status fake_stage(void *ctx, int stage, int64_t *batches, qnet_diag *d) {
  (void)d;
  fake *f = ctx;
  assert_int_equal(stage, f->stage);
  f->stage_at_step[f->stage++] = f->steps;
  *batches = f->wanted;
  return QNET_OK;
}

static qnet_status fake_observe(void *ctx, const uint8_t *image, bool last, qnet_diag *d) {
  (void)d;
  fake *f = ctx;
  assert_true(f->stage > 0 && f->steps == f->stage_at_step[f->stage - 1]);
  assert_true(image[0] < COUNT);
  f->observed++;
  f->last_observed += last;
  return QNET_OK;
}

static uint8_t images[COUNT];
static int32_t labels[COUNT];
static const qnet_train_options two_epochs = {.epochs = 2,
                                              .frozen_epochs = 1,
                                              .lr = 0.1,
                                              .schedule = QNET_LR_COSINE,
                                              .seed = 1,
                                              .output = "w.safetensors"};

static qnet_dataset make_set(const qnet_allocator *a, int64_t count) {
  for (int i = 0; i < COUNT; i++) {
    images[i] = (uint8_t)i;
    labels[i] = i % CLASSES;
  }
  const qnet_dataset shape = {
      .allocator = a, .count = count, .classes = CLASSES, .height = 1, .width = 1, .channels = 1};
  return qnet_dataset_view(&shape, images, labels);
}

static qnet_engine make_engine(fake *f) {
  *f = (fake){.frozen_at_step = -1, .labels_fit = true};
  return (qnet_engine){.ctx = f,
                       .batch = BATCH,
                       .step = fake_step,
                       .enter_frozen_phase = fake_freeze,
                       .predict = fake_predict,
                       .save = fake_save};
}

static void runs_whole_epochs(void **state) {
  (void)state;
  fake f;
  const qnet_engine engine = make_engine(&f);
  const qnet_dataset set = make_set(qnet_allocator_system(), COUNT);
  qnet_train_report report;
  char log[1024] = "";
  qnet_train_options options = two_epochs;
  options.log = fmemopen(log, sizeof log, "w");
  assert_int_equal(qnet_train(&engine, &options, &set, &set, &report, NULL), QNET_OK);
  fclose(options.log);
  assert_int_equal(f.steps, 2 * (COUNT / BATCH));
  assert_int_equal(f.saves, 2);
  assert_int_equal(f.frozen_at_step, COUNT / BATCH);
  assert_int_equal(f.predicted, 2 * COUNT);
  assert_true(f.labels_fit);
  int seen = 0;
  for (int i = 0; i < COUNT; i++) {
    assert_in_range(f.seen[i], 0, 2);
    seen += f.seen[i];
  }
  assert_int_equal(seen, f.steps * BATCH);
  assert_int_equal(report.correct, 10);
  assert_int_equal(report.tested, COUNT);
  double loss = 0;
  for (int step = 6; step <= 10; step++)
    loss += 1.0 / step / 5;
  assert_true(fabs(report.loss - loss) < 1e-12);
  assert_true(report.images_per_second > 0);
  assert_non_null(strstr(log, "epoch  2/2  loss 0.1291  train 25.00%  test 47.62% (10 of 21)"));
}

static void limit_takes_the_first_images(void **state) {
  (void)state;
  fake f;
  const qnet_engine engine = make_engine(&f);
  const qnet_dataset set = make_set(qnet_allocator_system(), COUNT);
  qnet_train_report report;
  qnet_train_options options = two_epochs;
  options.limit = 8;
  options.frozen_epochs = 5; /* more than there are: frozen from the start */
  assert_int_equal(qnet_train(&engine, &options, &set, &set, &report, NULL), QNET_OK);
  assert_int_equal(f.frozen_at_step, 0);
  for (int i = 0; i < COUNT; i++)
    assert_int_equal(f.seen[i], i < 8 ? 2 : 0);
}

static void stops_on_errors(void **state) {
  (void)state;
  fake f;
  const qnet_engine engine = make_engine(&f);
  qnet_dataset set = make_set(qnet_allocator_system(), COUNT);
  qnet_train_report report;
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  f.nan_at_step = 7;
  assert_int_equal(qnet_train(&engine, &two_epochs, &set, &set, &report, d), QNET_ERROR);
  assert_int_equal(f.steps, 7);
  assert_int_equal(f.saves, 1); /* the first epoch's file stays */
  char text[512] = "";
  FILE *out = fmemopen(text, sizeof text, "w");
  qnet_diag_print(d, out, false);
  fclose(out);
  assert_non_null(strstr(text, "the loss became nan in epoch 2, step 2"));
  make_engine(&f);
  f.fail_at_step = 3;
  assert_int_equal(qnet_train(&engine, &two_epochs, &set, &set, &report, d), QNET_ERROR);
  assert_int_equal(f.steps, 3);
  assert_int_equal(f.saves, 0);
  make_engine(&f);
  set.count = BATCH - 1;
  assert_int_equal(qnet_train(&engine, &two_epochs, &set, &set, &report, d), QNET_ERROR);
  assert_int_equal(f.steps, 0);
  assert_int_equal(qnet_diag_error_count(d), 3);
  set.count = COUNT;
  qnet_train_options options = two_epochs;
  options.warmup_epochs = 2;
  assert_int_equal(qnet_train(&engine, &options, &set, &set, &report, d), QNET_ERROR);
  qnet_diag_destroy(d);
}

static void lack_of_memory(void **state) {
  (void)state;
  qnet_failing_allocator m;
  uint64_t n = 0;
  do {
    fake f;
    const qnet_engine engine = make_engine(&f);
    qnet_failing_allocator_init(&m, ++n, 0);
    const qnet_dataset set = make_set(&m.base, COUNT);
    qnet_train_report report;
    const qnet_status status = qnet_train(&engine, &two_epochs, &set, &set, &report, NULL);
    assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
    assert_int_equal(m.live_bytes, 0);
  } while (m.failed);
  assert_true(n > 4);
}

static void learning_rates(void **state) {
  (void)state;
  qnet_train_options o = {.epochs = 4, .lr = 0.2, .schedule = QNET_LR_CONSTANT};
  assert_true(qnet_train_lr(&o, 39, 10) == 0.2);
  o.schedule = QNET_LR_COSINE;
  assert_true(qnet_train_lr(&o, 0, 10) == 0.2);
  assert_true(fabs(qnet_train_lr(&o, 20, 10) - 0.1) < 1e-12);
  assert_true(fabs(qnet_train_lr(&o, 40, 10)) < 1e-12);
  for (int step = 0; step < 40; step++)
    assert_true(qnet_train_lr(&o, step, 10) > qnet_train_lr(&o, step + 1, 10));
  o.schedule = QNET_LR_LINEAR;
  assert_true(qnet_train_lr(&o, 0, 10) == 0.2 && fabs(qnet_train_lr(&o, 30, 10) - 0.05) < 1e-12);
  o.warmup_epochs = 2;
  assert_true(fabs(qnet_train_lr(&o, 0, 10) - 0.01) < 1e-12);
  assert_true(fabs(qnet_train_lr(&o, 19, 10) - 0.2) < 1e-12);
  assert_true(fabs(qnet_train_lr(&o, 30, 10) - 0.1) < 1e-12);
  assert_true(fabs(qnet_train_lr(&o, 40, 10)) < 1e-12);
  o.warmup_epochs = 0;
  o.schedule = QNET_LR_STEP;
  o.step_factor = 0.5;
  o.steps = 2;
  o.step_epochs[0] = 1;
  o.step_epochs[1] = 3;
  assert_true(qnet_train_lr(&o, 9, 10) == 0.2);
  assert_true(qnet_train_lr(&o, 10, 10) == 0.1);
  assert_true(qnet_train_lr(&o, 29, 10) == 0.1);
  assert_true(qnet_train_lr(&o, 30, 10) == 0.05);
}

/* Every stage goes through the schedule; only the last one ends on the integer grid. */
static void stages(void **state) {
  (void)state;
  fake f;
  qnet_engine engine = make_engine(&f);
  engine.enter_stage = fake_stage;
  engine.observe = fake_observe;
  f.wanted = 3;
  const qnet_dataset set = make_set(qnet_allocator_system(), COUNT);
  qnet_train_report report;
  qnet_train_options o = two_epochs;
  o.epochs = 5;
  o.stages = 3;
  o.stage[0] = (qnet_train_stage){1, "32"};
  o.stage[1] = (qnet_train_stage){2, "3/3"};
  o.stage[2] = (qnet_train_stage){2, "2/2"};
  assert_int_equal(qnet_train(&engine, &o, &set, &set, &report, NULL), QNET_OK);
  const int steps = COUNT / BATCH;
  assert_int_equal(f.stage, 3);
  assert_int_equal(f.stage_at_step[1], steps);
  assert_int_equal(f.stage_at_step[2], 3 * steps);
  assert_int_equal(f.frozen_at_step, 4 * steps);
  assert_int_equal(f.observed, 3 * 3);
  assert_int_equal(f.last_observed, 3);
  assert_true(qnet_train_lr(&o, steps, steps) == 0.1 && qnet_train_lr(&o, 3 * steps, steps) == 0.1);
  assert_true(fabs(qnet_train_lr(&o, 2 * steps, steps) - 0.05) < 1e-12);
  assert_true(fabs(qnet_train_lr(&o, 4 * steps, steps) - 0.05) < 1e-12);
  assert_int_equal(report.best_epoch, 4); /* of the last stage, although all are alike */
  o.warmup_epochs = 1;
  assert_int_equal(qnet_train(&engine, &o, &set, &set, &report, NULL), QNET_ERROR);
  f.stage = f.observed = f.steps = 0;
  f.frozen_at_step = -1;
  f.wanted = 100; /* more than an epoch has */
  o.warmup_epochs = 0;
  assert_int_equal(qnet_train(&engine, &o, &set, &set, &report, NULL), QNET_OK);
  assert_int_equal(f.observed, 3 * steps);
}

static void evaluation_counts(void **state) {
  (void)state;
  fake f;
  const qnet_engine engine = make_engine(&f);
  const qnet_dataset set = make_set(qnet_allocator_system(), COUNT);
  int64_t correct;
  int32_t classes[COUNT];
  assert_int_equal(qnet_evaluate(&engine, &set, 0, classes, &correct, NULL, NULL), QNET_OK);
  assert_int_equal(correct, 10);
  assert_int_equal(classes[20], -1);
  assert_int_equal(qnet_evaluate(&engine, &set, 4, NULL, &correct, NULL, NULL), QNET_OK);
  assert_int_equal(correct, 4);
  assert_int_equal(f.predicted, COUNT + 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(runs_whole_epochs),
      cmocka_unit_test(limit_takes_the_first_images),
      cmocka_unit_test(stops_on_errors),
      cmocka_unit_test(lack_of_memory),
      cmocka_unit_test(learning_rates),
      cmocka_unit_test(evaluation_counts),
      cmocka_unit_test(stages),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
