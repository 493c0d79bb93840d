/* Batches from the loading thread: equal to those made at once, for every size; failures, lack of
 * memory, closing in the middle. */
#include "runtime/loader.h"

#include <setjmp.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>

enum { COUNT = 23, SIDE = 4, PIXELS = SIDE * SIDE * 3 };

static uint8_t images[COUNT][PIXELS];
static int32_t labels[COUNT];

static qnet_dataset make_set(const qnet_allocator *a) {
  for (int i = 0; i < COUNT; i++) {
    labels[i] = i % 7;
    for (int k = 0; k < PIXELS; k++)
      images[i][k] = (uint8_t)(i * 11 + k);
  }
  const qnet_dataset shape = {
      .allocator = a, .count = COUNT, .classes = 7, .height = SIDE, .width = SIDE, .channels = 3};
  return qnet_dataset_view(&shape, images[0], labels);
}

static const qnet_augment moved = {.crop_pad = 1, .flip = true};

static void check_batch(const qnet_loader_plan *p, int64_t at, const qnet_batch *batch) {
  uint32_t index[COUNT];
  uint8_t pixels[COUNT * PIXELS];
  int32_t numbers[COUNT];
  for (int64_t i = 0; i < batch->count; i++)
    index[i] = p->order ? p->order[at + i] : (uint32_t)(at + i);
  assert_int_equal(qnet_dataset_batch(p->set, index, (size_t)batch->count, p->augment, p->seed,
                                      p->epoch, pixels, numbers, NULL),
                   QNET_OK);
  assert_memory_equal(batch->images, pixels, (size_t)batch->count * PIXELS);
  assert_memory_equal(batch->labels, numbers, (size_t)batch->count * sizeof *numbers);
}

static void gives_the_batches_in_order(void **state) {
  (void)state;
  const qnet_dataset set = make_set(qnet_allocator_system());
  uint32_t order[COUNT];
  qnet_dataset_shuffle(order, COUNT, 5, 2);
  for (int64_t batch_size = 1; batch_size <= COUNT; batch_size++)
    for (int shuffled = 0; shuffled < 2; shuffled++) {
      const qnet_loader_plan plan = {&set, shuffled ? order : NULL, COUNT, batch_size, &moved, 9,
                                     3};
      qnet_loader *loader;
      qnet_batch batch;
      int64_t at = 0;
      assert_int_equal(qnet_loader_open(&plan, &loader, NULL), QNET_OK);
      do {
        assert_int_equal(qnet_loader_next(loader, &batch, NULL), QNET_OK);
        const int64_t left = COUNT - at;
        assert_int_equal(batch.count, left < batch_size ? left : batch_size);
        check_batch(&plan, at, &batch);
        at += batch.count;
      } while (batch.count);
      assert_int_equal(at, COUNT);
      qnet_loader_close(loader);
    }
}

static void can_be_closed_at_any_time(void **state) {
  (void)state;
  const qnet_dataset set = make_set(qnet_allocator_system());
  const qnet_loader_plan plan = {.set = &set, .count = COUNT, .batch = 4};
  for (int taken = 0; taken < 7; taken++) {
    qnet_loader *loader;
    qnet_batch batch;
    assert_int_equal(qnet_loader_open(&plan, &loader, NULL), QNET_OK);
    for (int i = 0; i < taken; i++)
      assert_int_equal(qnet_loader_next(loader, &batch, NULL), QNET_OK);
    qnet_loader_close(loader);
  }
  qnet_loader_close(NULL);
}

/* A set that fails at one image, for good or a number of times. */
typedef struct broken {
  int64_t at;
  atomic_int failures_left;
  qnet_dataset inner;
} broken;

static qnet_status load_broken(const qnet_dataset *s, int64_t index, qnet_item *out, qnet_diag *d) {
  broken *b = s->content;
  if (index == b->at && atomic_fetch_sub(&b->failures_left, 1) > 0)
    return qnet_error_in(d, "image", "number %d is broken", (int)index);
  return b->inner.load(&b->inner, index, out, d);
}

/* How many images came before an error; COUNT: all. */
static int64_t images_before_error(broken *b, qnet_diag *d) {
  qnet_dataset set = b->inner;
  set.content = b;
  set.load = load_broken;
  const qnet_loader_plan plan = {.set = &set, .count = COUNT, .batch = 4};
  qnet_loader *loader;
  qnet_batch batch;
  int64_t at = 0;
  assert_int_equal(qnet_loader_open(&plan, &loader, d), QNET_OK);
  while (qnet_loader_next(loader, &batch, d) == QNET_OK && batch.count) {
    const qnet_loader_plan whole = {.set = &b->inner};
    check_batch(&whole, at, &batch);
    at += batch.count;
  }
  qnet_loader_close(loader);
  return at;
}

static void failures_come_in_their_place(void **state) {
  (void)state;
  for (int64_t at = 0; at < COUNT; at++) {
    qnet_diag *d = qnet_diag_create(qnet_allocator_system());
    broken b = {.at = at, .failures_left = 1000, .inner = make_set(qnet_allocator_system())};
    assert_int_equal(images_before_error(&b, d), at / 4 * 4);
    assert_int_equal(qnet_diag_error_count(d), 1);
    b.failures_left = 1; /* it passes */
    assert_int_equal(images_before_error(&b, d), COUNT);
    assert_int_equal(qnet_diag_error_count(d), 1);
    qnet_diag_destroy(d);
  }
}

static void lack_of_memory(void **state) {
  (void)state;
  qnet_failing_allocator m;
  uint64_t n = 0;
  do {
    qnet_failing_allocator_init(&m, ++n, 0);
    const qnet_dataset set = make_set(&m.base);
    const qnet_loader_plan plan = {.set = &set, .count = COUNT, .batch = 4};
    qnet_loader *loader;
    const qnet_status status = qnet_loader_open(&plan, &loader, NULL);
    assert_int_equal(status, m.failed ? QNET_NO_MEMORY : QNET_OK);
    qnet_loader_close(loader);
    assert_int_equal(m.live_bytes, 0);
  } while (m.failed);
  assert_int_equal(n, 11); /* the loader and three arrays a slot */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gives_the_batches_in_order),
      cmocka_unit_test(can_be_closed_at_any_time),
      cmocka_unit_test(failures_come_in_their_place),
      cmocka_unit_test(lack_of_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
