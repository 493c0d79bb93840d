/* The fuzz driver.
 *
 *   fuzz [N]            N cases, shared among all targets (default 1000)
 *   fuzz N TARGET       N cases of one target
 *   fuzz N TARGET FIRST the same from case FIRST on; N = 1 repeats one case
 *   fuzz N all FIRST    N cases shared among all targets, each from its case FIRST on
 *
 * Case i of a target is a function of (target, i) alone. Cases run in a child process, which tells
 * its parent by shared memory where it is: a crash, a sanitizer's report or a hang costs one case,
 * whose input is left in /tmp/qnet-fuzz-TARGET-i. Memory is bounded by the allocator that the case
 * hands in; what it leaves allocated is a leak, with or without a sanitizer. */
#include "tests/fuzz/fuzz.h"
#include <errno.h>
#include <glob.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  MAX_INPUT = 1 << 16,
  MAX_SEEDS = 128,
  MAX_FAILURES = 10, /* of one target; then it is given up */
  MIN_COUNT = 20,    /* of so many cases some must be well-formed */
  SECONDS = 10       /* of processor time; a case that takes longer hangs */
};
static const size_t max_live = (size_t)64 << 20;

typedef struct text {
  char data[MAX_INPUT];
  size_t size;
} text;

/* ---- random numbers ------------------------------------------------------------------------ */

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static size_t below(uint64_t *state, size_t n) {
  return n ? (size_t)(next_random(state) % n) : 0;
}

/* ---- seeds --------------------------------------------------------------------------------- */

typedef struct seeds {
  text *seed[MAX_SEEDS];
  int count;
} seeds;

static text *add_seed(seeds *s) {
  text *t = malloc(sizeof *t);
  if (!t || s->count == MAX_SEEDS) {
    fprintf(stderr, "fuzz: too many seeds\n");
    exit(1);
  }
  t->size = 0;
  return s->seed[s->count++] = t;
}

static void load_seed(seeds *s, const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) {
    fprintf(stderr, "fuzz: cannot read %s\n", path);
    exit(1);
  }
  text *t = add_seed(s);
  t->size = fread(t->data, 1, MAX_INPUT / 2, f);
  fclose(f);
}

static void make_seeds(seeds *s, const fuzz_target *target) {
  qnet_strbuf made;
  qnet_strbuf_init(&made, qnet_allocator_system());
  for (int i = 0; target->make_seed && target->make_seed(i, &made); i++) {
    text *t = add_seed(s);
    t->size = made.length < MAX_INPUT / 2 ? made.length : MAX_INPUT / 2;
    memcpy(t->data, made.data, t->size);
    made.length = 0;
  }
  qnet_strbuf_free(&made);
}

static void load_seeds(seeds *s, const fuzz_target *target) {
  s->count = 0;
  for (const char *const *pattern = target->seeds; *pattern; pattern++) {
    glob_t found;
    if (glob(*pattern, 0, NULL, &found) != 0) {
      fprintf(stderr, "fuzz: no file %s; run in the source directory\n", *pattern);
      exit(1);
    }
    for (size_t i = 0; i < found.gl_pathc; i++)
      load_seed(s, found.gl_pathv[i]);
    globfree(&found);
  }
  make_seeds(s, target);
}

static void free_seeds(seeds *s) {
  for (int i = 0; i < s->count; i++)
    free(s->seed[i]);
}

/* ---- mutations ----------------------------------------------------------------------------- */

/* Replaces `length` bytes at `at`; what does not fit any more is cut off. */
static void replace(text *t, size_t at, size_t length, const char *with, size_t size) {
  if (at > t->size) at = t->size;
  if (length > t->size - at) length = t->size - at;
  if (size > MAX_INPUT - at) size = MAX_INPUT - at;
  size_t tail = t->size - at - length;
  if (tail > MAX_INPUT - at - size) tail = MAX_INPUT - at - size;
  memmove(t->data + at + size, t->data + at + length, tail);
  memcpy(t->data + at, with, size);
  t->size = at + size + tail;
}

static bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.' || c == '@' || c == '%' || c == '-';
}

/* A word at or behind a random place. */
static void find_word(const text *t, uint64_t *r, size_t *at, size_t *length) {
  size_t i = below(r, t->size);
  while (i > 0 && is_word(t->data[i - 1]))
    i--;
  while (i < t->size && !is_word(t->data[i]))
    i++;
  *at = i;
  while (i < t->size && is_word(t->data[i]))
    i++;
  *length = i - *at;
}

static void find_line(const text *t, uint64_t *r, size_t *at, size_t *length) {
  size_t i = below(r, t->size);
  while (i > 0 && t->data[i - 1] != '\n')
    i--;
  *at = i;
  const char *end = memchr(t->data + i, '\n', t->size - i);
  *length = end ? (size_t)(end - t->data) + 1 - i : t->size - i;
}

static size_t count_words(const char *const *words) {
  size_t n = 0;
  while (words[n])
    n++;
  return n;
}

static void put_number(text *t, uint64_t *r) {
  static const char *const numbers[] = {"0",
                                        "1",
                                        "-1",
                                        "2",
                                        "3",
                                        "7",
                                        "8",
                                        "9",
                                        "16",
                                        "31",
                                        "64",
                                        "65",
                                        "127",
                                        "128",
                                        "255",
                                        "256",
                                        "1000",
                                        "65536",
                                        "0.5",
                                        "-0",
                                        "nan",
                                        "inf",
                                        "-inf",
                                        "1e38",
                                        "2147483647",
                                        "-2147483648",
                                        "4294967296",
                                        "9223372036854775807",
                                        "-9223372036854775808",
                                        "1e-45",
                                        "1e400"};
  for (int tries = 0; tries < 20; tries++) {
    size_t at, length;
    find_word(t, r, &at, &length);
    const char first = length ? t->data[at] : 'a';
    if ((first < '0' || first > '9') && first != '-') continue;
    const char *n = numbers[below(r, sizeof numbers / sizeof numbers[0])];
    replace(t, at, length, n, strlen(n));
    return;
  }
}

/* A run of digits changes, also inside of a word: shapes, widths, names that end in a number. */
static void change_digit(text *t, uint64_t *r) {
  for (int tries = 0; tries < 50; tries++) {
    const size_t at = below(r, t->size);
    if (at == t->size || t->data[at] < '0' || t->data[at] > '9') continue;
    t->data[at] = (char)('0' + below(r, 10));
    return;
  }
}

static void put_dictionary(text *t, uint64_t *r, const char *const *words, bool over) {
  const size_t n = count_words(words);
  if (!n) return;
  const char *word = words[below(r, n)];
  size_t at = below(r, t->size + 1), length = 0;
  if (over) find_word(t, r, &at, &length);
  replace(t, at, length, word, strlen(word));
}

/* A word or line of one place to another. */
static void copy_piece(text *t, uint64_t *r, const text *from, bool line, bool over) {
  static char piece[MAX_INPUT];
  size_t at, length, to, old;
  (line ? find_line : find_word)(from, r, &at, &length);
  memcpy(piece, from->data + at, length);
  (line ? find_line : find_word)(t, r, &to, &old);
  replace(t, to, over ? old : 0, piece, length);
}

static void change_bytes(text *t, uint64_t *r) {
  const size_t n = 1 + below(r, 4), at = below(r, t->size);
  char bytes[4];
  for (size_t i = 0; i < n; i++)
    bytes[i] = (char)next_random(r);
  replace(t, at, n * below(r, 2), bytes, n);
}

static void mutate_once(text *t, uint64_t *r, const fuzz_target *target, const seeds *s) {
  size_t at, length;
  switch (below(r, 16)) {
  case 0: change_bytes(t, r); return;
  case 1:
    if (t->size) t->data[below(r, t->size)] ^= (char)(1 << below(r, 8));
    return;
  case 2: replace(t, below(r, t->size), below(r, 64), "", 0); return;
  case 3: put_dictionary(t, r, target->words, false); return;
  case 4:
  case 5: put_dictionary(t, r, target->words, true); return;
  case 6:
  case 7: put_number(t, r); return;
  case 8:
    find_line(t, r, &at, &length);
    replace(t, at, length, "", 0);
    return;
  case 9: copy_piece(t, r, t, true, false); return;
  case 10: copy_piece(t, r, s->seed[below(r, (size_t)s->count)], true, false); return;
  case 11: copy_piece(t, r, t, true, true); return;
  case 12: change_digit(t, r); return;
  case 13: copy_piece(t, r, s->seed[below(r, (size_t)s->count)], false, true); return;
  default: copy_piece(t, r, t, false, true); return;
  }
}

static uint64_t make_input(const fuzz_target *target, const seeds *s, uint64_t index, text *out) {
  uint64_t r = index;
  for (const char *c = target->name; *c; c++)
    r = next_random(&r) ^ (uint64_t)(unsigned char)*c;
  *out = *s->seed[below(&r, (size_t)s->count)];
  size_t times = 1;
  while (times < 16 && below(&r, 3))
    times++;
  for (size_t i = 0; i < times; i++)
    mutate_once(out, &r, target, s);
  if (below(&r, 64) == 0) out->size = below(&r, out->size);
  return next_random(&r);
}

/* ---- one case ------------------------------------------------------------------------------ */

typedef struct counted {
  qnet_allocator base;
  size_t live;
} counted;

static void *counted_resize(void *ctx, void *old, size_t old_size, size_t new_size) {
  counted *c = ctx;
  if (new_size > max_live || c->live - old_size > max_live - new_size) return NULL;
  const qnet_allocator *system = qnet_allocator_system();
  void *block = system->resize(system->ctx, old, old_size, new_size);
  if (new_size == 0 || block) c->live += new_size - old_size;
  return block;
}

void fuzz_fail(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "fuzz: ");
  vfprintf(stderr, format, args);
  fprintf(stderr, "\n");
  va_end(args);
  _exit(3);
}

void fuzz_check(const fuzz_case *c, qnet_status status, const char *what) {
  if (status == QNET_OK) return;
  if (status != QNET_INTERNAL && qnet_diag_error_count(c->diag) > 0) return;
  qnet_diag_print(c->diag, stderr, false);
  fuzz_fail("%s fails with status %d%s", what, (int)status,
            qnet_diag_error_count(c->diag) ? "" : " and says nothing");
}

void fuzz_accept(const fuzz_case *c) {
  ++*c->accepted;
}

void fuzz_write(const fuzz_case *c, const char *data, size_t size) {
  FILE *f = fopen(c->path, "wb");
  if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0)
    fuzz_fail("cannot write %s", c->path);
}

static void run_case(const fuzz_target *target, const text *input, fuzz_case c) {
  counted memory = {.base.resize = counted_resize};
  memory.base.ctx = &memory;
  c.allocator = &memory.base;
  c.diag = qnet_diag_create(c.allocator);
  if (!c.diag) fuzz_fail("no diagnostics");
  /* An exact copy: reading behind its end shows. */
  char *data = malloc(input->size + 1);
  if (!data) abort();
  memcpy(data, input->data, input->size);
  data[input->size] = 0;
  target->run(&c, data, input->size);
  free(data);
  FILE *sink = fopen("/dev/null", "w");
  if (sink) {
    qnet_diag_print(c.diag, sink, true);
    fclose(sink);
  }
  qnet_diag_destroy(c.diag);
  if (memory.live) fuzz_fail("%zu bytes are left allocated", memory.live);
}

/* ---- children ------------------------------------------------------------------------------ */

typedef struct run {
  const fuzz_target *target;
  seeds seeds;
  text *input;
  volatile uint64_t *at; /* shared: the case that the child is at, and how many were accepted */
  uint64_t first, end;
  char scratch[64];
} run;

/* Processor time finds a hang whatever else the machine does; the alarm is for waits. */
static void start_clock(void) {
  const struct itimerval limit = {.it_value = {.tv_sec = SECONDS}};
  setitimer(ITIMER_PROF, &limit, NULL);
  alarm(12 * SECONDS);
}

static void child(const run *u) {
  for (uint64_t i = u->first; i < u->end; i++) {
    *u->at = i;
    start_clock();
    const uint64_t random = make_input(u->target, &u->seeds, i, u->input);
    run_case(u->target, u->input,
             (fuzz_case){.path = u->scratch, .random = random, .accepted = u->at + 1});
  }
  exit(0);
}

/* Runs until the end or the first failure; true when all were fine. */
static bool run_child(const run *u) {
  *u->at = u->first;
  fflush(NULL);
  const pid_t pid = fork();
  if (pid == 0) child(u);
  int status;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) abort();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  const bool hangs =
      WIFSIGNALED(status) && (WTERMSIG(status) == SIGALRM || WTERMSIG(status) == SIGPROF);
  fprintf(stderr, "FAILED %s case %llu: %s %d\n", u->target->name, (unsigned long long)*u->at,
          hangs                 ? "hangs,"
          : WIFSIGNALED(status) ? "signal"
                                : "exit",
          WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  return false;
}

static void keep_input(const run *u) {
  char path[96];
  snprintf(path, sizeof path, "/tmp/qnet-fuzz-%s-%llu", u->target->name,
           (unsigned long long)*u->at);
  make_input(u->target, &u->seeds, *u->at, u->input);
  FILE *f = fopen(path, "wb");
  if (!f) return;
  fwrite(u->input->data, 1, u->input->size, f);
  fclose(f);
}

static int run_target(const fuzz_target *target, uint64_t first, uint64_t count) {
  run u = {.target = target, .first = first, .end = first + count};
  load_seeds(&u.seeds, target);
  u.input = malloc(sizeof *u.input);
  u.at = mmap(NULL, 2 * sizeof *u.at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (!u.input || u.at == MAP_FAILED) abort();
  snprintf(u.scratch, sizeof u.scratch, "/tmp/qnet-fuzz-%ld", (long)getpid());
  int failures = 0;
  while (u.first < u.end && !run_child(&u)) {
    keep_input(&u);
    u.first = *u.at + 1;
    if (++failures == MAX_FAILURES) break;
  }
  const uint64_t accepted = u.at[1];
  unlink(u.scratch);
  munmap((void *)(uintptr_t)u.at, 2 * sizeof *u.at);
  free(u.input);
  free_seeds(&u.seeds);
  if (count >= MIN_COUNT && !accepted) failures++;
  printf("%s %s: %llu cases, %llu of them well-formed\n", failures ? "FAILED" : "ok", target->name,
         (unsigned long long)count, (unsigned long long)accepted);
  return failures;
}

int main(int argc, char **argv) {
  static const fuzz_target *const targets[] = {
      &fuzz_target_qnet,       &fuzz_target_qir,     &fuzz_target_weights, &fuzz_target_image,
      &fuzz_target_idx,        &fuzz_target_options, &fuzz_target_passes,  &fuzz_target_packed,
      &fuzz_target_checkpoint, &fuzz_target_metrics};
  enum { TARGETS = sizeof targets / sizeof targets[0] };
  const uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
  const uint64_t first = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
  const char *only = argc > 2 && strcmp(argv[2], "all") != 0 ? argv[2] : NULL;
  int passed = 0, failed = 0;
  for (size_t i = 0; i < TARGETS; i++) {
    if (only && strcmp(only, targets[i]->name) != 0) continue;
    const uint64_t n = only ? count : count * (uint64_t)targets[i]->share / 100;
    if (run_target(targets[i], first, n))
      failed++;
    else
      passed++;
  }
  printf("%d passed, %d failed, 0 skipped\n", passed, failed);
  return failed || !passed;
}
