/* The choice of a target: names, CPUs, features, and the machine that they amount to. */
#include "codegen/target.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static qnet_target_choice choose(const char *name, const char *cpu, const char *features) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_target_choice c;
  const qnet_status status = qnet_target_choose(name, cpu, features, &c, d);
  qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  assert_int_equal(status, QNET_OK);
  return c;
}

static void expect_machine(const char *name, const char *cpu, const char *features,
                           const qnet_machine *want) {
  qnet_target_choice c = choose(name, cpu, features);
  assert_int_equal(c.machine.word_bits, want->word_bits);
  assert_int_equal(c.machine.lanes, want->lanes);
  assert_int_equal(c.machine.f32_lanes, want->f32_lanes);
  assert_int_equal(c.machine.registers, want->registers);
  assert_int_equal(c.machine.count, want->count);
  assert_int_equal(c.machine.fma, want->fma);
  assert_false(c.host);
  qnet_target_choice_free(&c);
}

static void machines_follow_cpu_and_features(void **state) {
  (void)state;
  static const struct {
    const char *name, *cpu, *features;
    qnet_machine want;
  } rows[] = {
      {"x86_64", NULL, NULL, {NULL, 32, 4, 4, 16, QNET_COUNT_BYTE, {{0}}, false}},
      {"x86-64", "x86-64-v2", "", {NULL, 64, 1, 4, 13, QNET_COUNT_WORD, {{0}}, false}},
      {"amd64", "haswell", "", {NULL, 32, 8, 8, 16, QNET_COUNT_BYTE, {{0}}, true}},
      {"x86_64", "haswell", "-fma", {NULL, 32, 8, 8, 16, QNET_COUNT_BYTE, {{0}}, false}},
      {"x86_64", "znver4", "", {NULL, 32, 16, 16, 32, QNET_COUNT_WORD, {{0}}, true}},
      {"x86_64", "icelake-server", "", {NULL, 32, 16, 16, 32, QNET_COUNT_WORD, {{0}}, true}},
      {"x86_64", "skylake-avx512", "", {NULL, 32, 16, 16, 32, QNET_COUNT_BYTE, {{0}}, true}},
      {"aarch64", NULL, NULL, {NULL, 32, 4, 4, 32, QNET_COUNT_PAIR, {{0}}, true}},
      {"arm64", "cortex-a72", "", {NULL, 32, 4, 4, 32, QNET_COUNT_PAIR, {{0}}, true}},
      {"aarch64-linux-gnu", "neoverse-n1", "", {NULL, 32, 4, 4, 32, QNET_COUNT_PAIR, {{0}}, true}},
      {"riscv64", NULL, NULL, {NULL, 64, 1, 1, 24, QNET_COUNT_CSA8, {{0}}, true}},
      {"riscv64", NULL, "zbb", {NULL, 64, 1, 1, 24, QNET_COUNT_WORD, {{0}}, true}},
      {"riscv64", "sifive-u74", "", {NULL, 64, 1, 1, 24, QNET_COUNT_CSA8, {{0}}, true}},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    expect_machine(rows[i].name, rows[i].cpu, rows[i].features, &rows[i].want);
  }
}

static void tiles_fit_the_registers(void **state) {
  (void)state;
  static const char *const cpus[][2] = {
      {"x86_64", "znver4"}, {"x86_64", "haswell"}, {"x86_64", "x86-64-v2"},
      {"aarch64", NULL},    {"riscv64", NULL},
  };
  for (size_t i = 0; i < sizeof cpus / sizeof cpus[0]; i++) {
    qnet_target_choice c = choose(cpus[i][0], cpus[i][1], NULL);
    for (const qnet_tile *t = c.machine.tile; t->weight_planes != 0; t++) {
      const int weights = t->vectors * t->weight_planes;
      assert_true(t->pixels * weights * t->activation_planes + weights + 3 <= c.machine.registers);
    }
    qnet_target_choice_free(&c);
  }
}

static void native_is_the_host(void **state) {
  (void)state;
  qnet_target_choice c = choose("native", NULL, NULL);
  assert_true(c.host);
  assert_true(c.machine.lanes >= 1);
  qnet_target_choice_free(&c);
  c = choose(NULL, NULL, NULL);
  assert_true(c.host);
  qnet_target_choice_free(&c);
}

static void expect_refused(const char *name, const char *cpu, const char *features,
                           const char *text) {
  qnet_diag *d = qnet_diag_create(qnet_allocator_system());
  qnet_target_choice c;
  assert_int_equal(qnet_target_choose(name, cpu, features, &c, d), QNET_ERROR);
  assert_null(c.triple);
  char *said = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&said, &size);
  qnet_diag_print(d, f, false);
  fclose(f);
  if (strstr(said, text) == NULL) fail_msg("'%s' is not in:\n%s", text, said);
  free(said);
  qnet_diag_destroy(d);
}

static void bad_names_are_diagnosed(void **state) {
  (void)state;
  expect_refused("aarch46", NULL, NULL, "did you mean 'aarch64'");
  expect_refused("sparc", NULL, NULL, "--target=help");
  expect_refused("mips-linux-gnu", NULL, NULL, "unknown target");
  expect_refused("x86_64", "haswel", NULL, "did you mean 'haswell'");
  expect_refused("riscv64", "foo", NULL, "sifive-u74");
  expect_refused("riscv64", "sifive-e31", NULL, "RV64");
  expect_refused("x86_64", "i386", NULL, "64-bit");
  expect_refused("aarch64", NULL, "+sev", "unknown feature 'sev'");
  expect_refused("x86_64", "haswell", "avx3,+fmaa", "unknown feature 'fmaa'");
  expect_refused("x86_64", "help", NULL, "znver4");
  expect_refused("x86_64", "a;b", NULL, "';'");
  expect_refused("x86_64-pc-windows-msvc", NULL, NULL, "ELF");
  expect_refused("aarch64-apple-darwin", NULL, NULL, "ELF");
  expect_refused("riscv64", NULL, "-d,-f", "hardware");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(machines_follow_cpu_and_features),
      cmocka_unit_test(tiles_fit_the_registers),
      cmocka_unit_test(native_is_the_host),
      cmocka_unit_test(bad_names_are_diagnosed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
