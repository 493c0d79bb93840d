/* Pipelines: the text, the checks before the first pass, printing, facts of parsed modules. */
#include "ir/text.h"
#include "passes/pass.h"
#include "tests/unit/random_net.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NET_SEED = 3 };

/* Runs a pipeline on m; all reports and prints as one text, which the caller frees. */
static qnet_status run(qnet_module *m, const char *passes, qnet_pipeline_options options,
                       char **output) {
  size_t size;
  FILE *out = open_memstream(output, &size);
  assert_non_null(out);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  options.print_to = out;
  const qnet_status status = qnet_pipeline_run(m, passes, &options, NULL, d);
  qnet_diag_print(d, out, false);
  qnet_diag_destroy(d);
  fclose(out);
  return status;
}

static void expect(const char *passes, qnet_status expected, const char *const *messages) {
  qnet_module *m = qnet_random_net(NET_SEED);
  char *output;
  assert_int_equal(run(m, passes, (qnet_pipeline_options){0}, &output), expected);
  for (int i = 0; messages[i]; i++)
    if (!strstr(output, messages[i]))
      fail_msg("'%s': no \"%s\" in:\n%s", passes, messages[i], output);
  free(output);
  qnet_module_destroy(m);
}

#define EXPECT(passes, status, ...) expect(passes, status, (const char *const[]){__VA_ARGS__, NULL})

static void test_texts(void **state) {
  (void)state;
  EXPECT("", QNET_OK, "");
  EXPECT(" \n", QNET_OK, "");
  EXPECT(" freeze , fold-thresholds{} ", QNET_OK, "");
  EXPECT("batch{n=2}", QNET_OK, "");
  EXPECT("freez", QNET_ERROR, "<passes>:1:1: error: unknown pass 'freez'", "did you mean 'freeze'");
  EXPECT("freeze,,decompose", QNET_ERROR, "<passes>:1:8: error: expected the name of a pass");
  EXPECT("freeze,", QNET_ERROR, "the pipeline ends where the name of a pass is expected");
  EXPECT("batch{n=2", QNET_ERROR, "ends where ',' or '}' is expected");
  EXPECT("batch{n}", QNET_ERROR, "expected '='");
  EXPECT("batch{n=two}", QNET_ERROR, "is an integer, not 'two'");
  EXPECT("batch{m=2}", QNET_ERROR, "has no option 'm'", "n:int");
  EXPECT("freeze{n=2}", QNET_ERROR, "pass 'freeze' has no options");
  EXPECT("freeze decompose", QNET_ERROR, "<passes>:1:8: error: expected ','");
  EXPECT("qqqqqqqq,decompos{x=1}", QNET_ERROR, "unknown pass 'qqqqqqqq'",
         "did you mean 'decompose'");
}

static void test_levels_and_facts(void **state) {
  (void)state;
  EXPECT("decompose", QNET_ERROR, "works at level quant, but the module is at level nn",
         "'freeze' leads from nn to quant");
  EXPECT("freeze,freeze", QNET_ERROR, "<passes>:1:8: error", "at level quant here");
  EXPECT("freeze,decompose,lower-to-loop", QNET_ERROR, "needs all operations in kernels",
         "run 'fuse-kernels' before it");
}

/* Nothing runs when a later pass does not fit. */
static void test_a_refused_pipeline_changes_nothing(void **state) {
  (void)state;
  qnet_module *m = qnet_random_net(NET_SEED);
  char *output;
  assert_int_equal(run(m, "freeze,freeze", (qnet_pipeline_options){0}, &output), QNET_ERROR);
  assert_int_equal(m->level, QNET_LEVEL_NN);
  free(output);
  qnet_module_destroy(m);
}

static void test_printing_and_timing(void **state) {
  (void)state;
  qnet_module *m = qnet_random_net(NET_SEED);
  const qnet_pipeline_options options = {.verify_each = true,
                                         .time_passes = true,
                                         .print_before = "decompose",
                                         .print_after = "freeze"};
  char *output;
  assert_int_equal(run(m, "freeze,fold-thresholds,decompose", options, &output), QNET_OK);
  const char *after = strstr(output, "// after freeze\nmodule @random quant");
  const char *before = strstr(output, "// before decompose\nmodule @random quant");
  assert_true(after && before && after < before);
  assert_null(strstr(output, "fold-thresholds\nmodule"));
  assert_non_null(strstr(output, "ms  fold-thresholds"));
  assert_non_null(strstr(output, "ms  total"));
  free(output);
  qnet_module_destroy(m);

  m = qnet_random_net(NET_SEED);
  assert_int_equal(run(m, "", (qnet_pipeline_options){.print_after = "freez"}, &output),
                   QNET_ERROR);
  assert_non_null(strstr(output, "did you mean 'freeze'"));
  free(output);
  qnet_module_destroy(m);
}

/* A module that was printed and parsed continues where it stopped. */
static void test_facts_come_from_the_module(void **state) {
  (void)state;
  qnet_module *m = qnet_random_net(NET_SEED);
  char *output;
  assert_int_equal(run(m, "freeze,fold-thresholds,decompose", (qnet_pipeline_options){0}, &output),
                   QNET_OK);
  free(output);
  qnet_strbuf text;
  qnet_strbuf_init(&text, qnet_allocator_system());
  qnet_module_print(m, 0, &text);
  qnet_module_destroy(m);
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  assert_int_equal(qnet_module_parse(qnet_allocator_system(), "text", qnet_strbuf_text(&text),
                                     text.length, &m, d),
                   QNET_OK);
  assert_int_equal(qnet_pipeline_run(m, "fuse-kernels", NULL, NULL, d), QNET_OK);
  qnet_module_destroy(m);
  qnet_diag_destroy(d);
  qnet_strbuf_free(&text);
}

/* Every row of the table is found by its name, and the standard pipelines parse. */
static void test_the_table(void **state) {
  (void)state;
  size_t count;
  const qnet_pass *table = qnet_pass_table(&count);
  for (size_t i = 0; i < count; i++) {
    assert_ptr_equal(qnet_pass_find(table[i].name), &table[i]);
    assert_true(table[i].run && *table[i].doc && table[i].from <= table[i].to);
  }
  assert_null(qnet_pass_find("nothing"));
  const qnet_level levels[] = {QNET_LEVEL_NN, QNET_LEVEL_QUANT, QNET_LEVEL_BITS};
  for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
    qnet_module *m = qnet_random_net(NET_SEED);
    char *output;
    assert_int_equal(run(m, qnet_pipeline_to(levels[i]), (qnet_pipeline_options){0}, &output),
                     QNET_OK);
    assert_int_equal(m->level, levels[i]);
    free(output);
    qnet_module_destroy(m);
  }
}

/* From every level of the standard pipeline the rest of it leads to planned loops. */
static void test_the_rest(void **state) {
  (void)state;
  const qnet_level levels[] = {QNET_LEVEL_NN, QNET_LEVEL_QUANT, QNET_LEVEL_BITS, QNET_LEVEL_LOOP};
  const char *const ways[] = {"", "freeze", "freeze,decompose", NULL};
  for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
    for (int standard = 0; standard < 2; standard++) {
      qnet_module *m = qnet_random_net(NET_SEED);
      const char *text = standard || !ways[i] ? qnet_pipeline_to(levels[i]) : ways[i];
      char *output;
      assert_int_equal(run(m, text, (qnet_pipeline_options){0}, &output), QNET_OK);
      free(output);
      assert_int_equal(m->level, levels[i]);
      assert_int_equal(run(m, qnet_pipeline_rest(m), (qnet_pipeline_options){0}, &output), QNET_OK);
      free(output);
      assert_int_equal(m->level, QNET_LEVEL_LOOP);
      assert_string_equal(qnet_pipeline_rest(m), "");
      qnet_module_destroy(m);
    }
}

static void test_option_values(void **state) {
  (void)state;
  const qnet_pass_context c = {.options = "nn=7,n=12,mode=fast,rate=0.5"};
  assert_int_equal(qnet_pass_option_int(&c, "n", 1), 12);
  assert_int_equal(qnet_pass_option_int(&c, "m", 1), 1);
  assert_true(qnet_pass_option_float(&c, "rate", 0) == 0.5);
  assert_true(qnet_pass_option_is(&c, "mode", "fast"));
  assert_false(qnet_pass_option_is(&c, "mode", "fas"));
  assert_false(qnet_pass_option_is(&c, "mod", "fast"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_texts),
      cmocka_unit_test(test_levels_and_facts),
      cmocka_unit_test(test_a_refused_pipeline_changes_nothing),
      cmocka_unit_test(test_printing_and_timing),
      cmocka_unit_test(test_facts_come_from_the_module),
      cmocka_unit_test(test_the_table),
      cmocka_unit_test(test_the_rest),
      cmocka_unit_test(test_option_values),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
