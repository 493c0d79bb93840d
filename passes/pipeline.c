/* The table of all passes, and the one function that runs them.
 *
 * A pass works on a module of level `from` and leaves one of level `to`. It needs facts, gives
 * facts and breaks facts. Facts are never stored: they are read off the module when a pipeline
 * starts, so that `qnetc opt` can continue from any text, and followed through the table from
 * there. A pipeline whose levels or facts do not fit is refused before its first pass runs. */
#include "ir/ops.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/passes.h"
#include "passes/pipeline_text.h"
#include <string.h>
#include <time.h>

/* Short names, so that a row of the table is a line or two. */
#define NN    QNET_LEVEL_NN
#define QUANT QNET_LEVEL_QUANT
#define BITS  QNET_LEVEL_BITS
#define LOOP  QNET_LEVEL_LOOP
enum {
  QUANTIZERS = QNET_FACT_QUANTIZERS,
  INTEGER = QNET_FACT_INTEGER,
  THRESHOLDS = QNET_FACT_THRESHOLDS,
  PLANES = QNET_FACT_PLANES,
  KERNELS = QNET_FACT_KERNELS,
  LOOPS = QNET_FACT_LOOPS,
  MEMORY = QNET_FACT_MEMORY,
};

// clang-format off
static const qnet_pass passes[] = {
  {"batch", qnet_pass_batch, NN, NN, 0, 0, 0, "n:int",
   "sets the batch of @eval"},
  {"insert-quantizers", qnet_pass_insert_quantizers, NN, NN, 0, QUANTIZERS, 0,
   "quantizer:word activation_quantizer:word weights:int activations:int grid:int "
   "planes:int least:int first:int last:int",
   "puts nn.quantize before the weights and inputs of layers that are to be quantized"},
  {"autodiff", qnet_pass_autodiff, NN, NN, 0, 0, 0,
   "optimizer:word momentum:float weight_decay:float nesterov:int muon:float beta1:float "
   "beta2:float eps:float decoupled:int smoothing:float decay_norm:int distill:float "
   "temperature:float features:float learn:word",
   "derives @step, one step of training, from @eval"},
  {"expose-features", qnet_pass_expose_features, NN, NN, 0, 0, 0, "",
   "yields what layers read, for another network to follow"},
  {"fold-batch-norm", qnet_pass_fold_batch_norm, NN, NN, 0, 0, 0, "",
   "folds batch_norm of f32 layers into their weights and biases"},
  {"freeze", qnet_pass_freeze, NN, QUANT, 0, INTEGER, QUANTIZERS, "",
   "quantizers become level tables, quantized layers integer sums and an affine step"},
  {"fold-thresholds", qnet_pass_fold_thresholds, QUANT, QUANT, INTEGER, THRESHOLDS, 0, "",
   "affine, relu, max pool and quantize after an integer sum become integer thresholds"},
  {"prove-accumulators", qnet_pass_prove_accumulators, QUANT, QUANT, INTEGER, 0, 0, "",
   "proves that no integer sum leaves int32, as levels and as bit planes"},
  {"decompose", qnet_pass_decompose, QUANT, BITS, INTEGER, PLANES, 0, "",
   "level tables of 1 to 4 bits become bit planes and popcount sums"},
  {"fuse-kernels", qnet_pass_fuse_kernels, BITS, BITS, PLANES, KERNELS, 0, "",
   "groups each layer with the elementwise operations after it"},
  {"lower-to-loop", qnet_pass_lower_to_loop, BITS, LOOP, KERNELS, LOOPS,
   INTEGER | THRESHOLDS | PLANES | KERNELS, "",
   "kernels become loop nests for the machine, weights are packed for them"},
  {"plan-memory", qnet_pass_plan_memory, LOOP, LOOP, LOOPS, MEMORY, 0, "",
   "buffers get offsets in one arena; lifetimes that do not meet share bytes"},
};
// clang-format on

enum { PASS_COUNT = sizeof passes / sizeof passes[0] };

const qnet_pass *qnet_pass_table(size_t *count) {
  *count = PASS_COUNT;
  return passes;
}

const qnet_pass *qnet_pass_find(const char *name) {
  for (size_t i = 0; i < PASS_COUNT; i++)
    if (strcmp(passes[i].name, name) == 0) return &passes[i];
  return NULL;
}

#define TO_FROZEN   "freeze"
#define FROM_FROZEN "fold-thresholds,prove-accumulators"
#define FROM_QUANT  "decompose"
#define FROM_PLANES "fuse-kernels"
#define FROM_BITS   "lower-to-loop"
#define FROM_LOOPS  "plan-memory"
#define TO_QUANT    TO_FROZEN "," FROM_FROZEN
#define TO_BITS     TO_QUANT "," FROM_QUANT "," FROM_PLANES
#define TO_LOOP     TO_BITS "," FROM_BITS "," FROM_LOOPS

const char *qnet_pipeline_to_frozen(void) {
  return TO_FROZEN;
}

const char *qnet_pipeline_to(qnet_level level) {
  switch (level) {
  case QNET_LEVEL_NN: return "";
  case QNET_LEVEL_QUANT: return TO_QUANT;
  case QNET_LEVEL_BITS: return TO_BITS;
  case QNET_LEVEL_LOOP: return TO_LOOP;
  }
  return "";
}

/* ---- facts ----------------------------------------------------------------------------------- */

/* What the operations of @eval show. */
typedef struct census {
  bool quantizers, thresholds, kernels, loose, allocations;
} census;

static void count_op(const qnet_op *op, census *c) {
  switch (op->opcode) {
  case QNET_OP_READ:
  case QNET_OP_YIELD: break;
  case QNET_OP_BITS_KERNEL: c->kernels = true; break;
  case QNET_OP_QUANTIZE:
    c->quantizers = true;
    c->loose = true;
    break;
  case QNET_OP_QUANT_THRESHOLD:
  case QNET_OP_BITS_THRESHOLD:
    c->thresholds = true;
    c->loose = true;
    break;
  case QNET_OP_LOOP_ALLOC: c->allocations = true; break;
  default: c->loose = true;
  }
}

static census take_census(const qnet_module *m) {
  census c = {0};
  const qnet_symbol *eval = qnet_symbol_find(m, "eval");
  if (!eval || !eval->body) return c;
  for (const qnet_op *op = eval->body->first; op; op = op->next) {
    count_op(op, &c);
    if (op->opcode != QNET_OP_BITS_KERNEL) continue;
    census inside = {0};
    for (const qnet_op *in = op->region[0]->first; in; in = in->next)
      count_op(in, &inside);
    c.thresholds |= inside.thresholds;
  }
  return c;
}

static unsigned derive_facts(const qnet_module *m) {
  const census c = take_census(m);
  unsigned facts = 0;
  if (c.quantizers) facts |= QUANTIZERS;
  if (m->level == QNET_LEVEL_QUANT || m->level == QNET_LEVEL_BITS) facts |= INTEGER;
  if (c.thresholds) facts |= THRESHOLDS;
  if (m->level == QNET_LEVEL_BITS) facts |= PLANES;
  if (m->level == QNET_LEVEL_BITS && c.kernels && !c.loose) facts |= KERNELS;
  if (m->level == QNET_LEVEL_LOOP) facts |= LOOPS;
  if (m->level == QNET_LEVEL_LOOP && !c.allocations) facts |= MEMORY;
  return facts;
}

const char *qnet_pipeline_rest(const qnet_module *m) {
  const unsigned facts = derive_facts(m);
  switch (m->level) {
  case QNET_LEVEL_NN: return TO_LOOP;
  case QNET_LEVEL_QUANT:
    return FROM_FROZEN "," FROM_QUANT "," FROM_PLANES "," FROM_BITS "," FROM_LOOPS;
  case QNET_LEVEL_BITS:
    return facts & KERNELS ? FROM_BITS "," FROM_LOOPS : FROM_PLANES "," FROM_BITS "," FROM_LOOPS;
  case QNET_LEVEL_LOOP: return facts & MEMORY ? "" : FROM_LOOPS;
  }
  return "";
}

static const char *fact_name(unsigned fact) {
  switch (fact) {
  case QUANTIZERS: return "quantizers in the network";
  case INTEGER: return "integer layers";
  case THRESHOLDS: return "integer thresholds";
  case PLANES: return "bit planes";
  case KERNELS: return "all operations in kernels";
  case LOOPS: return "loops";
  case MEMORY: return "planned memory";
  default: return "?";
  }
}

/* ---- checks before the first pass ------------------------------------------------------------ */

static qnet_status wrong_level(qnet_loc loc, const qnet_pass *pass, qnet_level level,
                               qnet_diag *d) {
  const qnet_status status =
      qnet_error(d, loc, "pass '%s' works at level %s, but the module is at level %s here",
                 pass->name, qnet_level_name(pass->from), qnet_level_name(level));
  for (size_t i = 0; i < PASS_COUNT; i++)
    if (passes[i].from == level && passes[i].to == pass->from && pass->from != level) {
      qnet_note(d, QNET_NO_LOC, "'%s' leads from %s to %s", passes[i].name, qnet_level_name(level),
                qnet_level_name(pass->from));
    }
  return status;
}

static qnet_status missing_fact(qnet_loc loc, const qnet_pass *pass, unsigned missing,
                                qnet_diag *d) {
  const unsigned fact = missing & (0u - missing);
  for (size_t i = 0; i < PASS_COUNT; i++)
    if (passes[i].gives & fact)
      return qnet_error(d, loc, "pass '%s' needs %s; run '%s' before it", pass->name,
                        fact_name(fact), passes[i].name);
  return qnet_error(d, loc, "pass '%s' needs %s", pass->name, fact_name(fact));
}

static qnet_status check_steps(const qnet_module *m, const qnet_pipeline_step *steps,
                               qnet_pipeline_source *source) {
  qnet_level level = m->level;
  unsigned facts = derive_facts(m);
  for (const qnet_pipeline_step *s = steps; s; s = s->next) {
    const qnet_pass *pass = s->pass;
    if (pass->from != level)
      return wrong_level(qnet_pipeline_loc(source, s->begin, s->end), pass, level, source->diag);
    if (pass->needs & ~facts)
      return missing_fact(qnet_pipeline_loc(source, s->begin, s->end), pass, pass->needs & ~facts,
                          source->diag);
    level = pass->to;
    facts = (facts & ~pass->breaks) | pass->gives;
  }
  return QNET_OK;
}

static qnet_status check_print_name(const char *name, qnet_diag *d) {
  if (!name || qnet_pass_find(name)) return QNET_OK;
  return qnet_pipeline_unknown(name, QNET_NO_LOC, d);
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct runner {
  qnet_module *module;
  const qnet_pipeline_options *options;
  qnet_pass_context context;
  double total_ms;
} runner;

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static qnet_status print_module(const runner *r, const char *when, const char *pass) {
  qnet_strbuf text;
  qnet_strbuf_init(&text, r->context.allocator);
  qnet_strbuf_printf(&text, "// %s %s\n", when, pass);
  qnet_module_print(r->module, QNET_PRINT_ELIDE, &text);
  const bool failed = text.failed;
  if (!failed) fputs(qnet_strbuf_text(&text), r->options->print_to);
  qnet_strbuf_free(&text);
  return failed ? qnet_out_of_memory(r->context.diag) : QNET_OK;
}

static bool is_selected(const char *selected, bool all, const char *pass) {
  return all || (selected && strcmp(selected, pass) == 0);
}

static qnet_status verify_after(const runner *r, const qnet_pass *pass) {
  const qnet_status status = qnet_module_verify(r->module, r->context.diag);
  if (status == QNET_ERROR)
    qnet_note(r->context.diag, QNET_NO_LOC, "pass '%s' left this module", pass->name);
  return status == QNET_ERROR ? QNET_INTERNAL : status;
}

static qnet_status run_step(runner *r, const qnet_pipeline_step *step) {
  const qnet_pipeline_options *o = r->options;
  const qnet_pass *pass = step->pass;
  if (o->print_to && is_selected(o->print_before, o->print_before_all, pass->name))
    QNET_TRY(print_module(r, "before", pass->name));
  r->context.options = step->options;
  const double start = now_ms();
  QNET_TRY(pass->run(r->module, &r->context));
  const double ms = now_ms() - start;
  if (r->module->failed) return qnet_out_of_memory(r->context.diag);
  r->total_ms += ms;
  if (o->print_to && o->time_passes) fprintf(o->print_to, "%10.3f ms  %s\n", ms, pass->name);
  if (o->print_to && is_selected(o->print_after, o->print_after_all, pass->name))
    QNET_TRY(print_module(r, "after", pass->name));
  return o->verify_each ? verify_after(r, pass) : QNET_OK;
}

static qnet_status run_steps(runner *r, const qnet_pipeline_step *steps) {
  for (const qnet_pipeline_step *s = steps; s; s = s->next)
    QNET_TRY(run_step(r, s));
  if (r->options->print_to && r->options->time_passes)
    fprintf(r->options->print_to, "%10.3f ms  total\n", r->total_ms);
  return QNET_OK;
}

qnet_status qnet_pipeline_run(qnet_module *m, const char *pipeline,
                              const qnet_pipeline_options *options, const qnet_machine *machine,
                              qnet_diag *d) {
  static const qnet_pipeline_options silent = {0};
  runner r = {.module = m,
              .options = options ? options : &silent,
              .context = {.allocator = m->allocator, .diag = d, .machine = machine}};
  QNET_TRY(check_print_name(r.options->print_before, d));
  QNET_TRY(check_print_name(r.options->print_after, d));
  qnet_arena arena;
  qnet_arena_init(&arena, m->allocator);
  qnet_pipeline_source source = {.text = pipeline, .diag = d};
  qnet_pipeline_step *steps;
  qnet_status status = qnet_pipeline_parse(&source, &arena, &steps);
  if (status == QNET_OK) status = check_steps(m, steps, &source);
  if (status == QNET_OK) status = run_steps(&r, steps);
  qnet_arena_clear(&arena);
  return status;
}
