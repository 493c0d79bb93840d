/* Fuzz target of the language: what the frontend takes must verify, print and go through the first
 * passes; what it does not take it must place in the source. */
#include "driver/model.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/pass.h"
#include "tests/fuzz/fuzz.h"
#include <string.h>

static void run_pipeline(const fuzz_case *c, qnet_module *m, const char *text) {
  const qnet_pipeline_options options = {.verify_each = true};
  fuzz_check(c, qnet_pipeline_run(m, text, &options, NULL, c->diag), text);
}

static void use_program(const fuzz_case *c, const qnet_program *p) {
  fuzz_check(c, qnet_module_verify(p->module, c->diag), "verifying");
  if (qnet_diag_error_count(c->diag)) fuzz_fail("the frontend made a module that does not verify");
  qnet_strbuf text;
  qnet_strbuf_init(&text, c->allocator);
  qnet_module_print(p->module, 0, &text);
  qnet_strbuf_free(&text);
  qnet_session session = {.allocator = c->allocator, .diag = c->diag};
  if (p->quant.quantizer)
    fuzz_check(c, qnet_model_insert_quantizers(&session, p), "inserting quantizers");
  else
    run_pipeline(c, p->module, "insert-quantizers");
  if (c->random % 4 == 0)
    run_pipeline(c, p->module, "batch{n=2},autodiff");
  else
    run_pipeline(c, p->module, qnet_pipeline_to(QNET_LEVEL_BITS));
}

static void run_qnet(const fuzz_case *c, const char *data, size_t size) {
  static const char *const parameters[] = {"classes=7", "width=3",      "x",         "=",
                                           "classes=",  "classes=1e99", "classes=-1"};
  qnet_program program;
  const int given = c->random % 8 == 0;
  const char *const *parameter = &parameters[c->random / 8 % 7];
  const qnet_status status = qnet_frontend_parse(c->allocator, "fuzz.qnet", data, size, parameter,
                                                 given, &program, c->diag);
  fuzz_check(c, status, "the frontend");
  if (status != QNET_OK && program.module) fuzz_fail("a failed parse left a module");
  if (status == QNET_OK) {
    fuzz_accept(c);
    use_program(c, &program);
  }
  qnet_module_destroy(program.module);
}

static const char *const seeds[] = {"examples/*.qnet", "tests/fuzz/seeds/*.qnet", NULL};
static const char *const words[] = {"net",      "input",     "image",    "f32",
                                    "u8",       "normalize", "mean",     "std",
                                    "quantize", "lqnets",    "weights",  "activations",
                                    "grid",     "except",    "first",    "last",
                                    "block",    "return",    "repeat",   "if",
                                    "else",     "and",       "or",       "not",
                                    "train",    "epochs",    "batch",    "optimizer",
                                    "sgd",      "lr",        "momentum", "weight_decay",
                                    "nesterov", "schedule",  "cosine",   "step",
                                    "constant", "augment",   "flip",     "crop",
                                    "pad",      "conv",      "bn",       "relu",
                                    "dense",    "max_pool",  "avg_pool", "global_avg_pool",
                                    "flatten",  "stride",    "dilation", "groups",
                                    "bias",     "name",      "channels", "true",
                                    "false",    "|>",        "==",       "!=",
                                    "<=",       ">=",        "+",        "-",
                                    "*",        "/",         "%",        "{",
                                    "}",        "(",         ")",        "[",
                                    "]",        ",",         "=",        ".",
                                    "3x3",      "1x1",       "0x0",      "99999x99999",
                                    "\"",       "\\",        "//",       "/*",
                                    "*/",       "\n",        NULL};

const fuzz_target fuzz_target_qnet = {"qnet", run_qnet, seeds, words, 15, NULL};
