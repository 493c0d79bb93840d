/* Checkpoints with a fake engine whose whole state is one number: a run that was stopped anywhere
 * ends like one that was not; damage, other runs and lack of memory cost nothing. */
#include "runtime/checkpoint.h"
#include "support/file.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { COUNT = 13, BATCH = 4, STEPS = COUNT / BATCH, EPOCHS = 3 };

/* In memory where that is possible: every run syncs its files many times. */
static char in_memory[] = "/dev/shm/qnet-checkpoint-XXXXXX",
            on_disk[] = "/tmp/qnet-checkpoint-XXXXXX";
static const char *folder;

typedef struct fake {
  uint64_t state;
  bool frozen;
  int steps;      /* of this process */
  int stop_after; /* so many steps; 0 = never */
} fake;

static qnet_status fake_step(void *ctx, const uint8_t *images, const int32_t *labels, double lr,
                             qnet_step_result *out, qnet_diag *d) {
  (void)d;
  fake *f = ctx;
  for (int i = 0; i < BATCH; i++)
    f->state = f->state * 1000003 + images[i] * 7 + (uint64_t)labels[i] + f->frozen;
  f->state += (uint64_t)(lr * 1e9);
  f->steps++;
  *out = (qnet_step_result){(double)(f->state % 1000) / 999, (int64_t)(f->state % BATCH)};
  return QNET_OK;
}

static qnet_status fake_freeze(void *ctx, qnet_diag *d) {
  (void)d;
  fake *f = ctx;
  assert_false(f->frozen);
  f->frozen = true;
  return QNET_OK;
}

static qnet_status fake_predict(void *ctx, const uint8_t *images, int64_t count, int32_t *classes,
                                qnet_diag *d) {
  (void)d;
  for (int64_t i = 0; i < count; i++)
    classes[i] = (int32_t)((((fake *)ctx)->state >> images[i]) & 1);
  return QNET_OK;
}

static qnet_status fake_save(void *ctx, const char *path, qnet_diag *d) {
  return qnet_file_write(qnet_allocator_system(), path, &((fake *)ctx)->state, 8, d);
}

static qnet_status fake_store(void *ctx, qnet_tensor_file *f, qnet_diag *d) {
  const fake *from = ctx;
  qnet_blob *b = qnet_blob_create(f->allocator, QNET_U64, 0, NULL);
  if (!b) return qnet_out_of_memory(d);
  *(uint64_t *)b->data = from->state;
  qnet_status status = qnet_tensor_file_set(f, "state", b);
  qnet_blob_release(b);
  if (status == QNET_OK) status = qnet_tensor_file_set_meta(f, "frozen", from->frozen ? "1" : "0");
  return status == QNET_OK ? status : qnet_out_of_memory(d);
}

static qnet_status fake_restore(void *ctx, const qnet_tensor_file *f, const char *path,
                                qnet_diag *d) {
  (void)d;
  assert_non_null(path);
  fake *to = ctx;
  to->state = *(const uint64_t *)qnet_tensor_file_find(f, "state")->data;
  to->frozen = strcmp(qnet_tensor_file_meta(f, "frozen"), "1") == 0;
  return QNET_OK;
}

static bool fake_stop(void *ctx) {
  const fake *f = ctx;
  return f->stop_after > 0 && f->steps >= f->stop_after;
}

static qnet_engine make_engine(fake *f, int stop_after) {
  *f = (fake){.state = 1, .stop_after = stop_after};
  return (qnet_engine){.ctx = f,
                       .batch = BATCH,
                       .step = fake_step,
                       .enter_frozen_phase = fake_freeze,
                       .predict = fake_predict,
                       .save = fake_save,
                       .store = fake_store,
                       .restore = fake_restore};
}

static uint8_t images[COUNT];
static int32_t labels[COUNT];

static qnet_dataset make_set(const qnet_allocator *a) {
  for (int i = 0; i < COUNT; i++) {
    images[i] = (uint8_t)i;
    labels[i] = i & 1;
  }
  const qnet_dataset shape = {
      .allocator = a, .count = COUNT, .classes = 2, .height = 1, .width = 1, .channels = 1};
  return qnet_dataset_view(&shape, images, labels);
}

static const qnet_run_field fields[] = {{"seed", "1"}, {"color", "blue"}};

static qnet_train_options make_options(fake *f, bool resume) {
  return (qnet_train_options){.epochs = EPOCHS,
                              .frozen_epochs = 1,
                              .lr = 0.1,
                              .schedule = QNET_LR_COSINE,
                              .seed = 1,
                              .output = "w",
                              .best = "best",
                              .metrics = "metrics",
                              .checkpoint = "ckpt",
                              .previous_checkpoint = "ckpt.prev",
                              .checkpoint_steps = 2,
                              .resume = resume,
                              .field = fields,
                              .field_count = 2,
                              .stop = fake_stop,
                              .stop_ctx = f};
}

static const char *const files[] = {"w", "best", "metrics", "ckpt"};
enum { FILES = sizeof files / sizeof *files };

typedef struct contents {
  char *data[FILES];
  size_t size[FILES];
} contents;

static contents read_files(void) {
  contents c;
  for (int i = 0; i < FILES; i++)
    assert_int_equal(
        qnet_file_read(qnet_allocator_system(), files[i], 1 << 20, &c.data[i], &c.size[i], NULL),
        QNET_OK);
  return c;
}

static void free_contents(contents *c) {
  for (int i = 0; i < FILES; i++)
    qnet_free(qnet_allocator_system(), c->data[i], c->size[i] + 1);
}

static void assert_files(const contents *expected) {
  contents now = read_files();
  for (int i = 0; i < FILES; i++) {
    assert_int_equal(now.size[i], expected->size[i]);
    assert_memory_equal(now.data[i], expected->data[i], now.size[i]);
  }
  free_contents(&now);
}

static void clean(void) {
  for (int i = 0; i < FILES; i++)
    unlink(files[i]);
  unlink("ckpt.prev");
}

static qnet_status run(int stop_after, bool resume, const qnet_allocator *a, qnet_diag *d) {
  fake f;
  const qnet_engine engine = make_engine(&f, stop_after);
  const qnet_dataset set = make_set(a);
  const qnet_train_options options = make_options(&f, resume);
  qnet_train_report report;
  return qnet_train(&engine, &options, &set, &set, &report, d);
}

/* The files of a run that nobody disturbs. */
static contents run_whole(void) {
  clean();
  assert_int_equal(run(0, false, qnet_allocator_system(), NULL), QNET_OK);
  return read_files();
}

static void stops_and_goes_on_anywhere(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  contents whole = run_whole();
  for (int first = 1; first <= EPOCHS * STEPS; first++)
    for (int second = 1; second <= 3; second++) {
      clean();
      const bool ends = first == EPOCHS * STEPS;
      assert_int_equal(run(first, false, a, NULL), ends ? QNET_OK : QNET_STOPPED);
      const qnet_status status = run(second, true, a, NULL);
      assert_true(status == QNET_STOPPED || first + second >= EPOCHS * STEPS);
      assert_int_equal(run(0, true, a, NULL), QNET_OK);
      assert_files(&whole);
    }
  free_contents(&whole);
}

static void metrics_and_best(void **state) {
  (void)state;
  contents whole = run_whole();
  int lines = 0;
  for (size_t i = 0; i < whole.size[2]; i++)
    lines += whole.data[2][i] == '\n';
  assert_int_equal(lines, EPOCHS);
  assert_int_equal(strncmp(whole.data[2], "{\"epoch\": 1, \"loss\": ", 21), 0);
  assert_non_null(strstr(whole.data[2], "\"frozen\": true}"));
  long most = -1;
  for (const char *p = whole.data[2]; (p = strstr(p, "\"test_correct\": ")) != NULL;) {
    const long correct = strtol(p += 16, NULL, 10);
    if (correct > most) most = correct;
  }
  fake f;
  const qnet_engine engine = make_engine(&f, 0);
  memcpy(&f.state, whole.data[1], sizeof f.state);
  const qnet_dataset set = make_set(qnet_allocator_system());
  int64_t correct;
  assert_int_equal(qnet_evaluate(&engine, &set, 0, NULL, &correct, NULL, NULL), QNET_OK);
  assert_int_equal(correct, most);
  free_contents(&whole);
}

static void write_file(const char *path, const char *data, size_t size) {
  assert_int_equal(qnet_file_write(qnet_allocator_system(), path, data, size, NULL), QNET_OK);
}

/* The newest checkpoint cut at every length and changed at every byte. */
static void damage_costs_nothing(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  contents whole = run_whole();
  clean();
  assert_int_equal(run(5, false, a, NULL), QNET_STOPPED);
  contents stopped = {0};
  char *old;
  size_t old_size;
  assert_int_equal(qnet_file_read(a, "ckpt", 1 << 20, &stopped.data[0], &stopped.size[0], NULL),
                   QNET_OK);
  assert_int_equal(qnet_file_read(a, "ckpt.prev", 1 << 20, &old, &old_size, NULL), QNET_OK);
  for (size_t i = 0; i < stopped.size[0]; i += 3) {
    qnet_diag *d = qnet_diag_create(a);
    write_file("ckpt.prev", old, old_size);
    if (i % 2) {
      write_file("ckpt", stopped.data[0], i);
    } else {
      stopped.data[0][i] ^= 0x11;
      write_file("ckpt", stopped.data[0], stopped.size[0]);
      stopped.data[0][i] ^= 0x11;
    }
    assert_int_equal(run(0, true, a, d), QNET_OK);
    assert_int_equal(qnet_diag_warning_count(d), 1);
    assert_files(&whole);
    qnet_diag_destroy(d);
  }
  write_file("ckpt", old, 100);
  write_file("ckpt.prev", old, 100);
  assert_int_equal(run(0, true, a, NULL), QNET_ERROR);
  qnet_free(a, old, old_size + 1);
  qnet_free(a, stopped.data[0], stopped.size[0] + 1);
  free_contents(&whole);
}

static void another_run_is_told_apart(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  clean();
  assert_int_equal(run(5, false, a, NULL), QNET_STOPPED);
  const qnet_run_field other[] = {{"seed", "1"}, {"color", "green"}};
  fake f;
  const qnet_engine engine = make_engine(&f, 0);
  const qnet_dataset set = make_set(a);
  qnet_train_options options = make_options(&f, true);
  options.field = other;
  qnet_diag *d = qnet_diag_create(a);
  qnet_train_report report;
  assert_int_equal(qnet_train(&engine, &options, &set, &set, &report, d), QNET_ERROR);
  assert_int_equal(f.steps, 0);
  char text[512] = "";
  FILE *out = fmemopen(text, sizeof text, "w");
  qnet_diag_print(d, out, false);
  fclose(out);
  assert_non_null(strstr(text, "of another run: its color is blue, here it is green"));
  qnet_diag_destroy(d);
}

/* Memory that ends anywhere, in a run that begins and in one that goes on: the checkpoint on the
 * disk is good for the same end. */
static void lack_of_memory(void **state) {
  (void)state;
  const qnet_allocator *a = qnet_allocator_system();
  contents whole = run_whole();
  for (int resumed = 0; resumed < 2; resumed++) {
    qnet_failing_allocator m;
    uint64_t n = 0;
    do {
      clean();
      if (resumed) assert_int_equal(run(4, false, a, NULL), QNET_STOPPED);
      n++;
      qnet_failing_allocator_init(&m, n, n % 2 == 0);
      const qnet_status status = run(0, resumed, &m.base, NULL);
      assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
      assert_int_equal(m.live_bytes, 0);
      assert_int_equal(run(0, true, a, NULL), QNET_OK);
      assert_files(&whole);
    } while (m.failed);
    assert_true(n > 20);
  }
  free_contents(&whole);
}

static int enter_folder(void **state) {
  (void)state;
  folder = mkdtemp(in_memory);
  if (!folder) folder = mkdtemp(on_disk);
  return folder ? chdir(folder) : -1;
}

static int remove_folder(void **state) {
  (void)state;
  clean();
  return chdir("/") == 0 ? rmdir(folder) : -1; /* fails when a temporary file was left */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(stops_and_goes_on_anywhere),
      cmocka_unit_test(metrics_and_best),
      cmocka_unit_test(damage_costs_nothing),
      cmocka_unit_test(another_run_is_told_apart),
      cmocka_unit_test(lack_of_memory),
  };
  return cmocka_run_group_tests(tests, enter_folder, remove_folder);
}
