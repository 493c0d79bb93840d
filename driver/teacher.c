/* Each network that is followed runs as a fast plan of its @eval, with the running statistics of
 * its batch_norms. */
#include "driver/teacher.h"
#include "codegen/plan.h"
#include "driver/predictor.h"
#include "driver/teacher_cache.h"
#include "driver/weight_names.h"
#include "driver/weights.h"
#include "passes/pass.h"
#include "support/hash.h"
#include "support/parallel.h"

#include <inttypes.h>
#include <string.h>

/* One batch of a set that is labelled. */
typedef struct label_room {
  uint8_t *images;
  uint32_t *index;
  int32_t *classes;
} label_room;

typedef struct network {
  qnet_module *module;
  qnet_plan *plan;
  uint64_t hash; /* of source and weights */
} network;

struct qnet_teacher {
  const qnet_allocator *allocator;
  network network[QNET_MAX_LIST];
  int count;
  qnet_blob *answer; /* the mean of the logits of more than one, or the cache's; or NULL */
  qnet_teacher_cache *cache;
  const char *cache_path; /* borrowed */
};

/* One --distill, "[NET.qnet:]W.safetensors". */
typedef struct choice {
  const char *source; /* NULL: the network itself */
  const char *weights;
} choice;

static qnet_status choose(qnet_arena *a, const char *text, choice *out, qnet_diag *d) {
  static const char mark[] = ".qnet:";
  const char *at = strstr(text, mark);
  *out = (choice){NULL, text};
  if (!at) return QNET_OK;
  out->weights = at + sizeof mark - 1;
  out->source = qnet_arena_strndup(a, text, (size_t)(out->weights - text - 1));
  if (!*out->weights)
    return qnet_error_in(d, "qnetc", "--distill=%s names no weights; add the file behind the ':'",
                         text);
  return out->source ? QNET_OK : qnet_out_of_memory(d);
}

/* ---- one network ------------------------------------------------------------------------------*/

/* Such weights are not good for anything but their codes. */
static void warn_quantized(const qnet_tensor_file *f, const char *path, qnet_diag *d) {
  const char *quantizer = qnet_tensor_file_meta(f, "qnet.quantizer");
  const char *bits = qnet_tensor_file_meta(f, "qnet.bits");
  if (quantizer && strcmp(quantizer, "none") != 0)
    qnet_warning_in(d, path,
                    "these weights were trained for quantizers (%s, %s bits), which the network "
                    "that is followed has not; name those of the f32 network",
                    quantizer, bits ? bits : "?");
}

static qnet_status load(qnet_session *s, qnet_module *m, const choice *c) {
  const char *const path = c->weights, *const init = s->options.init;
  const bool listed = init && strcmp(path, init) == 0; /* by those who start from it */
  const char *const map = c->source ? NULL : s->options.map;
  qnet_tensor_file f;
  qnet_tensor_file_init(&f, s->allocator);
  qnet_status status = qnet_tensor_file_read(&f, path, s->diag);
  if (status == QNET_OK) status = qnet_weight_names_match(m, &f, map, path, !listed, s->diag);
  if (status == QNET_OK) status = qnet_weights_load(m, &f, path, s->diag);
  if (status == QNET_OK) warn_quantized(&f, path, s->diag);
  qnet_tensor_file_free(&f);
  return status;
}

static const qnet_type *image_of(const qnet_module *m) {
  return qnet_symbol_find(m, "eval")->body->arg[0].type;
}

static int64_t classes_of(const qnet_module *m) {
  return qnet_type_elements(qnet_symbol_find(m, "eval")->body->last->operand[0]->type);
}

/* Another network must read the same images and answer with as many classes. */
static qnet_status check_other(const qnet_module *own, const qnet_module *m, const char *path,
                               qnet_diag *d) {
  const qnet_type *x = image_of(own), *y = image_of(m);
  if (x->dtype != y->dtype || x->rank != y->rank ||
      memcmp(x->dim, y->dim, sizeof x->dim[0] * (size_t)x->rank) != 0)
    return qnet_error_in(d, path,
                         "this network has another input than '%s'; it can only be followed on the "
                         "same images",
                         own->name);
  if (classes_of(own) == classes_of(m)) return QNET_OK;
  return qnet_error_in(d, path, "this network has %lld classes, '%s' has %lld",
                       (long long)classes_of(m), own->name, (long long)classes_of(own));
}

static qnet_status open_module(qnet_session *s, const qnet_program *p, const choice *c,
                               network *n) {
  if (!c->source) {
    n->module = qnet_module_clone(p->module);
    return n->module ? QNET_OK : qnet_out_of_memory(s->diag);
  }
  qnet_program other;
  QNET_TRY(qnet_session_other_program(s, c->source, &other));
  n->module = other.module;
  return check_other(p->module, n->module, c->source, s->diag);
}

static qnet_status add(qnet_session *s, const qnet_program *p, const choice *c, qnet_teacher *t) {
  network *n = &t->network[t->count++];
  QNET_TRY(open_module(s, p, c, n));
  QNET_TRY(qnet_source_hash(n->module, s->allocator, &n->hash, s->diag));
  QNET_TRY(load(s, n->module, c));
  const uint64_t weights = qnet_state_hash(n->module);
  n->hash = qnet_content_hash(n->hash, &weights, sizeof weights);
  char pipeline[64];
  snprintf(pipeline, sizeof pipeline, "%sfold-batch-norm,batch{n=%d}",
           p->recipe.feature_weight > 0 ? "expose-features," : "", p->recipe.batch);
  const qnet_pipeline_options options = {0};
  QNET_TRY(qnet_pipeline_run(n->module, pipeline, &options, NULL, s->diag));
  return qnet_plan_create(n->module, "eval", QNET_PLAN_FAST, &n->plan, s->diag);
}

/* ---- all of them ------------------------------------------------------------------------------*/

static qnet_status check_features(const qnet_program *p, const choice *c, int count, qnet_diag *d) {
  if (p->recipe.feature_weight <= 0 || (count == 1 && !c->source)) return QNET_OK;
  return qnet_error(d, p->recipe.distill_loc,
                    "features are those of the network itself: follow its f32 weights alone "
                    "(--distill=F32.safetensors), or logits only");
}

static qnet_status make_answer(qnet_teacher *t, qnet_diag *d) {
  const qnet_blob *logits = qnet_plan_result(t->network[0].plan, 0);
  t->answer = qnet_blob_create(t->allocator, QNET_F32, logits->rank, logits->dim);
  return t->answer ? QNET_OK : qnet_out_of_memory(d);
}

/* Threads and instruction set decide how sums are rounded. */
static qnet_status open_cache(const qnet_session *s, const qnet_program *p, qnet_teacher *t) {
  char maker[96];
  if (p->recipe.feature_weight > 0)
    return qnet_error(s->diag, p->recipe.distill_loc,
                      "features are not kept: leave --distill-cache out, or follow logits only");
  t->cache_path = s->options.distill_cache;
  snprintf(maker, sizeof maker, "%016" PRIx64 ", %d threads, %s", qnet_teacher_hash(t),
           qnet_parallel_threads(), qnet_plan_isa());
  return qnet_teacher_cache_open(t->allocator, t->cache_path, maker, t->answer, &t->cache, s->diag);
}

static qnet_status prepare(qnet_session *s, const qnet_program *p, const char *const *texts,
                           int count, qnet_teacher *t) {
  qnet_arena names;
  qnet_arena_init(&names, s->allocator);
  qnet_status status = QNET_OK;
  for (int i = 0; i < count && status == QNET_OK; i++) {
    choice c;
    status = choose(&names, texts[i], &c, s->diag);
    if (status == QNET_OK) status = check_features(p, &c, count, s->diag);
    if (status == QNET_OK) status = add(s, p, &c, t);
  }
  qnet_arena_clear(&names);
  const bool cached = s->options.distill_cache != NULL;
  if (status == QNET_OK && (count > 1 || cached)) status = make_answer(t, s->diag);
  return status == QNET_OK && cached ? open_cache(s, p, t) : status;
}

qnet_status qnet_teacher_create(qnet_session *s, const qnet_program *p, qnet_teacher **out) {
  const qnet_options *o = &s->options;
  const bool instead = o->distill_count == 0 && o->no_labels;
  const int count = instead ? 1 : o->distill_count;
  *out = NULL;
  if (count == 0) return QNET_OK;
  qnet_teacher *t = qnet_alloc(s->allocator, sizeof *t);
  if (!t) return qnet_out_of_memory(s->diag);
  *t = (qnet_teacher){.allocator = s->allocator};
  const qnet_status status = prepare(s, p, instead ? &o->init : o->distill, count, t);
  if (status == QNET_OK)
    *out = t;
  else
    qnet_teacher_destroy(t);
  return status;
}

void qnet_teacher_destroy(qnet_teacher *t) {
  if (!t) return;
  for (int i = 0; i < t->count; i++) {
    if (t->network[i].plan) qnet_plan_destroy(t->network[i].plan);
    qnet_module_destroy(t->network[i].module);
  }
  qnet_teacher_cache_close(t->cache);
  qnet_blob_release(t->answer);
  qnet_free(t->allocator, t, sizeof *t);
}

/* ---- answers ----------------------------------------------------------------------------------*/

static void take_mean(qnet_teacher *t) {
  float *mean = t->answer->data;
  const int64_t elements = qnet_blob_elements(t->answer);
  for (int64_t i = 0; i < elements; i++) {
    float sum = 0;
    for (int k = 0; k < t->count; k++)
      sum += ((const float *)qnet_plan_result(t->network[k].plan, 0)->data)[i];
    mean[i] = sum / (float)t->count;
  }
}

static qnet_status compute(qnet_teacher *t, const uint8_t *images, qnet_diag *d) {
  for (int k = 0; k < t->count; k++) {
    qnet_blob *image = qnet_plan_argument(t->network[k].plan, 0);
    memcpy(image->data, images, image->bytes);
    QNET_TRY(qnet_plan_run(t->network[k].plan, d));
  }
  if (t->answer) take_mean(t);
  return QNET_OK;
}

static qnet_status look_up(qnet_teacher *t, const uint8_t *images, qnet_diag *d) {
  const qnet_blob *image = qnet_plan_argument(t->network[0].plan, 0);
  const uint64_t batch = qnet_content_hash(QNET_HASH_START, images, image->bytes);
  const float *known = qnet_teacher_cache_find(t->cache, batch);
  if (known) {
    memcpy(t->answer->data, known, t->answer->bytes);
    return QNET_OK;
  }
  QNET_TRY(compute(t, images, d));
  return qnet_teacher_cache_add(t->cache, batch, t->answer->data, d);
}

qnet_status qnet_teacher_logits(qnet_teacher *t, const uint8_t *images, const qnet_blob **out,
                                qnet_diag *d) {
  QNET_TRY(t->cache ? look_up(t, images, d) : compute(t, images, d));
  *out = qnet_teacher_output(t, 0);
  return QNET_OK;
}

qnet_blob *qnet_teacher_output(qnet_teacher *t, int index) {
  return index == 0 && t->answer ? t->answer : qnet_plan_result(t->network[0].plan, index);
}

qnet_status qnet_teacher_save(qnet_teacher *t, qnet_diag *d) {
  if (!t->cache) return QNET_OK;
  const qnet_status status = qnet_teacher_cache_save(t->cache, NULL);
  if (status == QNET_OK || status == QNET_NO_MEMORY)
    return status == QNET_OK ? QNET_OK : qnet_out_of_memory(d);
  qnet_warning_in(d, t->cache_path, "the answers could not be saved; training goes on without");
  qnet_teacher_cache_close(t->cache);
  t->cache = NULL;
  return QNET_OK;
}

qnet_status qnet_teacher_classes(qnet_teacher *t, const uint8_t *images, int32_t *classes,
                                 qnet_diag *d) {
  const qnet_blob *logits;
  QNET_TRY(qnet_teacher_logits(t, images, &logits, d));
  const int64_t rows = logits->dim[0], outputs = logits->dim[1];
  for (int64_t i = 0; i < rows; i++)
    classes[i] = qnet_argmax((const float *)logits->data + i * outputs, outputs);
  return QNET_OK;
}

/* Images from `first` on, and others behind the end of the set to fill the batch. */
static qnet_status label_batch(qnet_teacher *t, qnet_dataset *set, int64_t first, int64_t batch,
                               label_room *room, qnet_diag *d) {
  for (int64_t i = 0; i < batch; i++)
    room->index[i] = (uint32_t)((first + i) % set->count);
  QNET_TRY(qnet_dataset_batch(set, room->index, (size_t)batch, NULL, 0, 0, room->images,
                              room->classes, d));
  QNET_TRY(qnet_teacher_classes(t, room->images, room->classes, d));
  for (int64_t i = 0; i < batch && first + i < set->count; i++)
    set->labels[first + i] = room->classes[i];
  return QNET_OK;
}

qnet_status qnet_teacher_label(qnet_teacher *t, qnet_dataset *set, qnet_diag *d) {
  const qnet_blob *image = qnet_plan_argument(t->network[0].plan, 0);
  const int64_t batch = image->dim[0];
  qnet_arena arena;
  qnet_arena_init(&arena, t->allocator);
  label_room room = {.images = qnet_arena_array(&arena, image->bytes, 1),
                     .index = qnet_arena_array(&arena, (size_t)batch, sizeof *room.index),
                     .classes = qnet_arena_array(&arena, (size_t)batch, sizeof *room.classes)};
  const bool good = room.images && room.index && room.classes;
  qnet_status status = good ? QNET_OK : qnet_out_of_memory(d);
  for (int64_t i = 0; i < set->count && status == QNET_OK; i += batch)
    status = label_batch(t, set, i, batch, &room, d);
  qnet_arena_clear(&arena);
  if (status == QNET_OK) set->classes = qnet_teacher_output(t, 0)->dim[1];
  return status;
}

uint64_t qnet_teacher_hash(const qnet_teacher *t) {
  uint64_t h = QNET_HASH_START;
  for (int i = 0; i < t->count; i++)
    h = qnet_content_hash(h, &t->network[i].hash, sizeof t->network[i].hash);
  return h;
}
