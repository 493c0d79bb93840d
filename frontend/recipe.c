/* train { ... }: the training recipe. Values of settings are names or calls of their own small
 * vocabularies (sgd, cosine, crop ...), so they are read from the tree; only their arguments are
 * evaluated. */
#include "frontend/sema.h"

#include <string.h>

enum { MAX_PARAMS = 8 }; /* of a word */
enum { MAX_EPOCHS = 100000, MAX_BATCH = 65536, MAX_CROP = 64 };

void qnet_recipe_defaults(qnet_recipe *r) {
  *r = (qnet_recipe){.epochs = 10,
                     .batch = 128,
                     .lr = 0.1,
                     .momentum = 0.9,
                     .weight_decay = 1e-4,
                     .beta1 = 0.9,
                     .beta2 = 0.999,
                     .eps = 1e-8,
                     .quantizer_lr = 1,
                     .quantizer_decay = -1,
                     .distill_weight = 0.5,
                     .distill_temperature = 4,
                     .schedule = QNET_SCHEDULE_COSINE,
                     .step_factor = 0.1};
}

/* A word with arguments: `cosine`, `step(at = [5, 8])`. */
typedef struct word {
  const char *name;
  qnet_sema_param params[MAX_PARAMS];
  void (*run)(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r);
} word;

/* ---- optimizers ----------------------------------------------------------------------------- */

static void run_sgd(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  r->optimizer = QNET_OPTIMIZER_SGD;
  qnet_sema_to_number(s, &slot[0], "'lr'", 1e-12, 1e6, &r->lr);
  qnet_sema_to_number(s, &slot[1], "'momentum'", 0, 1, &r->momentum);
  qnet_sema_to_number(s, &slot[2], "'weight_decay'", 0, 1, &r->weight_decay);
  qnet_sema_to_bool(s, &slot[3], "'nesterov'", &r->nesterov);
  qnet_sema_to_number(s, &slot[4], "'muon'", 0, 1e6, &r->muon);
}

/* Its own defaults: a rate that suits SGD would let Adam diverge. */
static void run_adam(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  r->optimizer = QNET_OPTIMIZER_ADAM;
  r->lr = 1e-3;
  r->weight_decay = 0;
  qnet_sema_to_number(s, &slot[0], "'lr'", 1e-12, 1e6, &r->lr);
  qnet_sema_to_number(s, &slot[1], "'beta1'", 0, 0.999999, &r->beta1);
  qnet_sema_to_number(s, &slot[2], "'beta2'", 0, 0.999999, &r->beta2);
  qnet_sema_to_number(s, &slot[3], "'eps'", 1e-30, 1, &r->eps);
  qnet_sema_to_number(s, &slot[4], "'weight_decay'", 0, 1, &r->weight_decay);
  qnet_sema_to_bool(s, &slot[5], "'decoupled'", &r->decoupled);
}

static const word optimizers[] = {
    {"sgd",
     {{"lr", 0}, {"momentum", 0}, {"weight_decay", 0}, {"nesterov", 0}, {"muon", 0}},
     run_sgd},
    {"adam",
     {{"lr", 0}, {"beta1", 0}, {"beta2", 0}, {"eps", 0}, {"weight_decay", 0}, {"decoupled", 0}},
     run_adam},
};

/* ---- schedules ------------------------------------------------------------------------------ */

static void run_cosine(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  (void)s;
  (void)slot;
  r->schedule = QNET_SCHEDULE_COSINE;
}

static void run_linear(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  (void)s;
  (void)slot;
  r->schedule = QNET_SCHEDULE_LINEAR;
}

static void run_constant(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  (void)s;
  (void)slot;
  r->schedule = QNET_SCHEDULE_CONSTANT;
}

static void run_step(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  const int room = (int)(sizeof r->step_epochs / sizeof *r->step_epochs);
  const qnet_sema_value *at = &slot[0];
  const int count = at->kind == QNET_KIND_LIST ? at->count : 1;
  r->schedule = QNET_SCHEDULE_STEP;
  qnet_sema_to_number(s, &slot[1], "'factor'", 1e-6, 1, &r->step_factor);
  if (count < 1 || count > room) {
    qnet_sema_error(s, at->loc, "'at' lists 1 to %d epochs", room);
    return;
  }
  for (int i = 0; i < count; i++) {
    const qnet_sema_value *v = at->kind == QNET_KIND_LIST ? &at->items[i] : at;
    int64_t epoch = 0;
    if (!qnet_sema_to_int(s, v, "an epoch of 'at'", 1, MAX_EPOCHS, &epoch)) return;
    if (i > 0 && epoch <= r->step_epochs[i - 1])
      qnet_sema_error(s, v->loc, "the epochs of 'at' must ascend");
    r->step_epochs[i] = (int)epoch;
  }
  r->steps = count;
}

static const word schedules[] = {
    {"cosine", {{0}}, run_cosine},
    {"step", {{"at", QNET_PARAM_REQUIRED}, {"factor", 0}}, run_step},
    {"constant", {{0}}, run_constant},
    {"linear", {{0}}, run_linear},
};

/* ---- augmentations -------------------------------------------------------------------------- */

static void run_crop(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  int64_t pad = 4;
  if (qnet_sema_to_int(s, &slot[0], "'pad'", 1, MAX_CROP, &pad)) r->crop_pad = (int)pad;
}

static void run_flip(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  (void)s;
  (void)slot;
  r->flip = true;
}

static void run_jitter(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  r->brightness = r->contrast = r->saturation = 0.4;
  qnet_sema_to_number(s, &slot[0], "'brightness'", 0, 1, &r->brightness);
  qnet_sema_to_number(s, &slot[1], "'contrast'", 0, 1, &r->contrast);
  qnet_sema_to_number(s, &slot[2], "'saturation'", 0, 1, &r->saturation);
}

static void run_resized_crop(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  r->smallest_area = 0.08;
  qnet_sema_to_number(s, &slot[0], "'area'", 0.01, 1, &r->smallest_area);
}

static const word augmentations[] = {
    {"crop", {{"pad", 0}}, run_crop},
    {"flip", {{0}}, run_flip},
    {"jitter", {{"brightness", 0}, {"contrast", 0}, {"saturation", 0}}, run_jitter},
    {"resized_crop", {{"area", 0}}, run_resized_crop},
};
enum { AUGMENTATIONS = sizeof augmentations / sizeof *augmentations };

/* ---- words ---------------------------------------------------------------------------------- */

enum { MAX_WORDS = 4 };

static void run_word(qnet_sema *s, const qnet_expr *e, const char *setting, const word *words,
                     int count, qnet_recipe *r) {
  static const qnet_arg_list none = {0};
  const bool is_call = e->kind == QNET_EXPR_CALL;
  const char *names[MAX_WORDS];
  for (int i = 0; i < count; i++)
    names[i] = words[i].name;
  if (!is_call && e->kind != QNET_EXPR_NAME) {
    qnet_sema_error(s, e->loc, "a word such as '%s' belongs here, not an expression", names[0]);
    return;
  }
  const qnet_ident name = is_call ? e->call.callee : e->name;
  int i = 0;
  while (i < count && strcmp(words[i].name, name.text) != 0)
    i++;
  if (i == count) {
    qnet_sema_misspelt(s, name.loc, qnet_nearest(name.text, names, (size_t)count),
                       "unknown %s '%s'", setting, name.text);
    return;
  }
  int params = 0;
  while (params < MAX_PARAMS && words[i].params[params].name)
    params++;
  const qnet_sema_call call = {
      .callee = name, .loc = e->loc, .args = is_call ? &e->call.args : &none};
  qnet_sema_value slot[MAX_PARAMS];
  if (qnet_sema_arguments(s, &call, words[i].params, params, slot)) words[i].run(s, slot, r);
}

/* ---- settings ------------------------------------------------------------------------------- */

static const qnet_expr *single(qnet_sema *s, const qnet_setting *t) {
  if (t->values.count == 1) return t->values.first;
  qnet_sema_error(s, t->name.loc, "'%s' takes one value", t->name.text);
  return NULL;
}

static void set_int(qnet_sema *s, const qnet_setting *t, int64_t low, int64_t high, int *out) {
  const qnet_expr *e = single(s, t);
  if (!e) return;
  int64_t value = *out;
  const qnet_sema_value v = qnet_sema_eval(s, e);
  char what[40];
  snprintf(what, sizeof what, "'%s'", t->name.text);
  if (qnet_sema_to_int(s, &v, what, low, high, &value)) *out = (int)value;
}

/* One number, or one for each stage. */
static void set_epochs(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  if (t->values.count == 1) {
    set_int(s, t, 1, MAX_EPOCHS, &r->epochs);
    return;
  }
  int count = 0;
  for (const qnet_expr *e = t->values.first; e; e = e->next) {
    const qnet_sema_value v = qnet_sema_eval(s, e);
    int64_t epochs = 1;
    if (!qnet_sema_to_int(s, &v, "'epochs'", 1, MAX_EPOCHS, &epochs)) return;
    if (count < QNET_MAX_STAGES) r->stage_epochs[count] = (int)epochs;
    count++;
  }
  r->epoch_counts = count;
}

static void run_progressive(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  for (int i = 0; i < MAX_PARAMS && slot[i].kind != QNET_KIND_ABSENT; i++) {
    int64_t bits = 0;
    if (!qnet_sema_to_int(s, &slot[i], "a stage of 'progressive'", 1, QNET_F32_BITS, &bits)) return;
    if (bits > 8 && bits != QNET_F32_BITS)
      qnet_sema_error(s, slot[i].loc, "a stage has 1 to 8 bits, or 32 for the f32 network, not %d",
                      (int)bits);
    if (i > 0 && bits >= r->stage[i - 1].bits)
      qnet_sema_error(s, slot[i].loc, "the bits of 'progressive' must descend");
    r->stage[i] = (qnet_stage){(int)bits, slot[i].loc};
    r->stages = i + 1;
  }
}

static const word progressions[] = {
    {"progressive",
     {{"stage1", QNET_PARAM_REQUIRED},
      {"stage2", QNET_PARAM_REQUIRED},
      {"stage3", 0},
      {"stage4", 0},
      {"stage5", 0},
      {"stage6", 0},
      {"stage7", 0},
      {"stage8", 0}},
     run_progressive},
};

static void set_bits(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  const qnet_expr *e = single(s, t);
  if (e) run_word(s, e, "bits", progressions, 1, r);
}

static void set_batch(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  set_int(s, t, 1, MAX_BATCH, &r->batch);
}

/* Less than all epochs: the check needs both, so it is made where training begins. */
static void set_warmup(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  set_int(s, t, 0, MAX_EPOCHS, &r->warmup_epochs);
}

static void set_optimizer(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  const qnet_expr *e = single(s, t);
  if (e) run_word(s, e, "optimizer", optimizers, 2, r);
}

static void set_schedule(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  const qnet_expr *e = single(s, t);
  if (e) run_word(s, e, "schedule", schedules, 4, r);
}

static void set_augment(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  for (const qnet_expr *e = t->values.first; e; e = e->next)
    run_word(s, e, "augmentation", augmentations, AUGMENTATIONS, r);
}

static void set_label_smoothing(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  const qnet_expr *e = single(s, t);
  if (!e) return;
  const qnet_sema_value v = qnet_sema_eval(s, e);
  qnet_sema_to_number(s, &v, "'label_smoothing'", 0, 0.9, &r->label_smoothing);
}

static void run_rate(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  qnet_sema_to_number(s, &slot[0], "'lr'", 0, 1000, &r->quantizer_lr);
  qnet_sema_to_number(s, &slot[1], "'decay'", 0, 1, &r->quantizer_decay);
}

static const word rates[] = {
    {"rate", {{"lr", 0}, {"decay", 0}}, run_rate},
};

static void set_quantizers(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  const qnet_expr *e = single(s, t);
  if (e) run_word(s, e, "rate", rates, 1, r);
  r->quantizer_loc = t->name.loc;
}

static void run_logits(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  qnet_sema_to_number(s, &slot[0], "'weight'", 1e-6, 1, &r->distill_weight);
  qnet_sema_to_number(s, &slot[1], "'temperature'", 0.1, 100, &r->distill_temperature);
}

static void run_features(qnet_sema *s, const qnet_sema_value *slot, qnet_recipe *r) {
  r->feature_weight = 1;
  qnet_sema_to_number(s, &slot[0], "'weight'", 0, 1000, &r->feature_weight);
}

static const word distillations[] = {
    {"logits", {{"weight", 0}, {"temperature", 0}}, run_logits},
    {"features", {{"weight", 0}}, run_features},
};

static void set_distill(qnet_sema *s, const qnet_setting *t, qnet_recipe *r) {
  for (const qnet_expr *e = t->values.first; e; e = e->next)
    run_word(s, e, "distillation", distillations, 2, r);
  r->distill_loc = t->name.loc;
}

typedef struct setting_def {
  const char *name;
  void (*run)(qnet_sema *s, const qnet_setting *t, qnet_recipe *r);
} setting_def;

static const setting_def settings[] = {
    {"epochs", set_epochs},     {"batch", set_batch},     {"optimizer", set_optimizer},
    {"schedule", set_schedule}, {"augment", set_augment}, {"label_smoothing", set_label_smoothing},
    {"warmup", set_warmup},     {"distill", set_distill}, {"quantizers", set_quantizers},
    {"bits", set_bits},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static bool given_before(qnet_sema *s, const qnet_stmt *stmt, const qnet_setting *t) {
  for (const qnet_setting *u = stmt->settings.first; u != t; u = u->next) {
    if (strcmp(u->name.text, t->name.text) != 0) continue;
    if (qnet_sema_begin_error(s, t->name.loc, "'%s' is set twice", t->name.text)) {
      qnet_note(s->diag, u->name.loc, "first here");
      qnet_sema_end_error(s);
    }
    return true;
  }
  return false;
}

static void run_setting(qnet_sema *s, const qnet_stmt *stmt, const qnet_setting *t) {
  const char *names[SETTINGS];
  if (given_before(s, stmt, t)) return;
  for (int i = 0; i < SETTINGS; i++) {
    names[i] = settings[i].name;
    if (strcmp(names[i], t->name.text) != 0) continue;
    settings[i].run(s, t, &s->program->recipe);
    return;
  }
  qnet_sema_misspelt(s, t->name.loc, qnet_nearest(t->name.text, names, SETTINGS),
                     "unknown setting '%s'", t->name.text);
}

/* Epochs by stage need as many stages. */
static void check_epochs(qnet_sema *s, const qnet_stmt *stmt) {
  const qnet_recipe *r = &s->program->recipe;
  if (r->epoch_counts == 0 || r->epoch_counts == r->stages) return;
  for (const qnet_setting *t = stmt->settings.first; t; t = t->next) {
    if (strcmp(t->name.text, "epochs") != 0) continue;
    if (r->stages == 0)
      qnet_sema_error(
          s, t->name.loc,
          "'epochs' takes one value, or one for each stage of 'bits = progressive(...)'");
    else
      qnet_sema_error(s, t->name.loc, "%d numbers of epochs, but 'bits' has %d stages",
                      r->epoch_counts, r->stages);
  }
}

void qnet_sema_train(qnet_sema *s, const qnet_stmt *stmt) {
  if (!qnet_sema_first(s, stmt, &s->train, "'train'")) return;
  for (const qnet_setting *t = stmt->settings.first; t && !s->stop; t = t->next)
    run_setting(s, stmt, t);
  check_epochs(s, stmt);
}
