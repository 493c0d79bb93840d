/* A ring of three batches: one is with the caller, two are ready or in the making. Batch n lies in
 * slot n % 3.
 *
 * The thread reports nothing: diagnostics belong to the caller's thread. When a batch fails, the
 * thread ends, and the caller loads that batch once more himself, which says what is wrong (or
 * succeeds, if memory was short for a moment: then he goes on without the thread). The same happens
 * from the start where no thread could be made. */
#include "runtime/loader.h"

#include <pthread.h>
#include <signal.h>

enum { SLOTS = 3 };

typedef struct slot {
  uint8_t *images;
  int32_t *labels;
  uint32_t *index; /* of a plan without an order */
} slot;

struct qnet_loader {
  qnet_loader_plan plan;
  slot slots[SLOTS];
  int64_t batches;
  pthread_t thread;
  bool has_thread;
  pthread_mutex_t mutex; /* guards what follows */
  pthread_cond_t changed;
  int64_t ready; /* batches that the thread has finished */
  int64_t taken; /* batches that the caller has got */
  bool ended;    /* the thread makes no more batches */
  bool stop;     /* it shall not */
};

static size_t batch_bytes(const qnet_loader_plan *p) {
  return (size_t)(p->batch * p->set->height * p->set->width * p->set->channels);
}

static int64_t batch_count(const qnet_loader *l, int64_t n) {
  const int64_t left = l->plan.count - n * l->plan.batch;
  return left < l->plan.batch ? left : l->plan.batch;
}

static qnet_status fill(qnet_loader *l, int64_t n, qnet_diag *d) {
  const qnet_loader_plan *const p = &l->plan;
  const slot *const to = &l->slots[n % SLOTS];
  const int64_t first = n * p->batch, count = batch_count(l, n);
  const uint32_t *order = p->order ? p->order + first : to->index;
  for (int64_t i = 0; !p->order && i < count; i++)
    to->index[i] = (uint32_t)(first + i);
  return qnet_dataset_batch(p->set, order, (size_t)count, p->augment, p->seed, p->epoch, to->images,
                            to->labels, d);
}

/* ---- the thread ---------------------------------------------------------------------------- */

/* Waits until the slot of batch n is free; false when the loader is being closed. */
static bool wait_for_slot(qnet_loader *l, int64_t n) {
  pthread_mutex_lock(&l->mutex);
  while (!l->stop && n >= l->taken + SLOTS - 1)
    pthread_cond_wait(&l->changed, &l->mutex);
  const bool go_on = !l->stop;
  pthread_mutex_unlock(&l->mutex);
  return go_on;
}

static void publish(qnet_loader *l, int64_t ready, bool ended) {
  pthread_mutex_lock(&l->mutex);
  l->ready = ready;
  l->ended = ended;
  pthread_cond_signal(&l->changed);
  pthread_mutex_unlock(&l->mutex);
}

static void *run(void *context) {
  qnet_loader *const l = context;
  int64_t n = 0;
  while (n < l->batches && wait_for_slot(l, n) && fill(l, n, NULL) == QNET_OK)
    publish(l, ++n, false);
  publish(l, n, true);
  return NULL;
}

/* The thread takes no signals: they are for the thread that computes. */
static void start_thread(qnet_loader *l) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  l->has_thread = pthread_create(&l->thread, NULL, run, l) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!l->has_thread) l->ended = true;
}

/* ---- the caller ---------------------------------------------------------------------------- */

static bool allocate_slots(qnet_loader *l) {
  const qnet_allocator *a = l->plan.set->allocator;
  const size_t batch = (size_t)l->plan.batch;
  for (int i = 0; i < SLOTS; i++) {
    slot *s = &l->slots[i];
    s->images = qnet_alloc(a, batch_bytes(&l->plan));
    s->labels = qnet_alloc_array(a, batch, sizeof *s->labels);
    if (!l->plan.order) s->index = qnet_alloc_array(a, batch, sizeof *s->index);
    if (!s->images || !s->labels || (!l->plan.order && !s->index)) return false;
  }
  return true;
}

static void free_loader(qnet_loader *l) {
  const qnet_allocator *a = l->plan.set->allocator;
  const size_t batch = (size_t)l->plan.batch;
  for (int i = 0; i < SLOTS; i++) {
    qnet_free(a, l->slots[i].images, batch_bytes(&l->plan));
    qnet_free(a, l->slots[i].labels, batch * sizeof *l->slots[i].labels);
    qnet_free(a, l->slots[i].index, batch * sizeof *l->slots[i].index);
  }
  pthread_cond_destroy(&l->changed);
  pthread_mutex_destroy(&l->mutex);
  qnet_free(a, l, sizeof *l);
}

qnet_status qnet_loader_open(const qnet_loader_plan *plan, qnet_loader **out, qnet_diag *d) {
  *out = NULL;
  qnet_loader *l = qnet_alloc(plan->set->allocator, sizeof *l);
  if (!l) return qnet_out_of_memory(d);
  l->plan = *plan;
  l->batches = (plan->count + plan->batch - 1) / plan->batch;
  pthread_mutex_init(&l->mutex, NULL);
  pthread_cond_init(&l->changed, NULL);
  if (!allocate_slots(l)) {
    free_loader(l);
    return qnet_out_of_memory(d);
  }
  start_thread(l);
  *out = l;
  return QNET_OK;
}

/* Whether the thread gives batch n; it waits until that is known. */
static bool wait_for_batch(qnet_loader *l, int64_t n) {
  pthread_mutex_lock(&l->mutex);
  while (l->ready <= n && !l->ended)
    pthread_cond_wait(&l->changed, &l->mutex);
  const bool ready = l->ready > n;
  pthread_mutex_unlock(&l->mutex);
  return ready;
}

static void take_batch(qnet_loader *l) {
  pthread_mutex_lock(&l->mutex);
  l->taken++;
  pthread_cond_signal(&l->changed);
  pthread_mutex_unlock(&l->mutex);
}

qnet_status qnet_loader_next(qnet_loader *l, qnet_batch *out, qnet_diag *d) {
  const int64_t n = l->taken; /* written by this thread alone */
  *out = (qnet_batch){.count = 0};
  if (n == l->batches) return QNET_OK;
  if (!wait_for_batch(l, n)) QNET_TRY(fill(l, n, d));
  const slot *const s = &l->slots[n % SLOTS];
  *out = (qnet_batch){s->images, s->labels, batch_count(l, n)};
  take_batch(l);
  return QNET_OK;
}

void qnet_loader_close(qnet_loader *l) {
  if (!l) return;
  pthread_mutex_lock(&l->mutex);
  l->stop = true;
  pthread_cond_signal(&l->changed);
  pthread_mutex_unlock(&l->mutex);
  if (l->has_thread) pthread_join(l->thread, NULL);
  free_loader(l);
}
