/* lld links for every target without a sysroot, since the objects need nothing but memset; on the
 * host the C compiler does as well. The first linker that can be started is used. */
#include "codegen/link.h"

#include "codegen/child.h"
#include "support/file.h"

#include <errno.h>
#include <llvm/Config/llvm-config.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NOT_FOUND = 127, MAX_BYTES = 1 << 30 };

typedef struct linker {
  const char *program, *extra; /* extra: one more argument, or NULL */
  bool host_only;
} linker;

#define VERSIONED_(name, version) name "-" #version
#define VERSIONED(name, version)  VERSIONED_(name, version)
static const linker linkers[] = {
    {VERSIONED("ld.lld", LLVM_VERSION_MAJOR), NULL, false},
    {"ld.lld", NULL, false},
    {"cc", "-nostdlib", true},
};
enum { LINKERS = sizeof linkers / sizeof linkers[0] };

typedef struct link_job {
  const linker *linker;
  const char *object, *shared, *soname;
} link_job;

static int link_body(void *ctx, int fd) {
  (void)fd;
  const link_job *j = ctx;
  const char *argv[12] = {j->linker->program, "-shared", "-o", j->shared, j->object};
  int n = 5;
  if (j->linker->extra != NULL) argv[n++] = j->linker->extra;
  if (j->linker->host_only) {
    static const char prefix[] = "-Wl,-soname,";
    char *flag = malloc(sizeof prefix + strlen(j->soname));
    if (flag == NULL) return 1;
    argv[n++] = strcat(strcpy(flag, prefix), j->soname);
  } else {
    argv[n++] = "-soname";
    argv[n++] = j->soname;
  }
  execvp(argv[0], (char *const *)argv);
  return errno == ENOENT ? NOT_FOUND : 1;
}

static qnet_status linker_failed(const linker *l, const char *said, qnet_diag *d) {
  return qnet_error_in(d, l->program, "cannot link the shared object: %.*s",
                       (int)strcspn(said, "\n"), said);
}

static qnet_status run_linker(const qnet_allocator *a, const qnet_target_choice *t, link_job *j,
                              qnet_diag *d) {
  for (size_t i = 0; i < LINKERS; i++) {
    if (linkers[i].host_only && !t->host) continue;
    j->linker = &linkers[i];
    qnet_child_result r;
    qnet_status status = qnet_child_run(a, link_body, j, &r, d);
    const int code = r.exit_code;
    if (status == QNET_OK && code != 0 && code != NOT_FOUND) {
      status = linker_failed(j->linker, qnet_strbuf_text(&r.err), d);
    }
    qnet_child_result_free(&r);
    if (status != QNET_OK || code == 0) return status;
  }
  return qnet_error_in(
      d, "ld.lld",
      "no linker for %s; install the package lld, or write an object (.o) and link "
      "it yourself",
      t->triple);
}

static qnet_status link_in(const qnet_allocator *a, const qnet_target_choice *t, const char *dir,
                           const qnet_strbuf *object, const char *soname, qnet_strbuf *out,
                           qnet_diag *d) {
  qnet_strbuf o, so;
  qnet_strbuf_init(&o, a);
  qnet_strbuf_init(&so, a);
  qnet_strbuf_printf(&o, "%s/model.o", dir);
  qnet_strbuf_printf(&so, "%s/model.so", dir);
  char *data = NULL;
  size_t size = 0;
  link_job j = {.object = qnet_strbuf_text(&o), .shared = qnet_strbuf_text(&so), .soname = soname};
  qnet_status status = o.failed || so.failed ? qnet_out_of_memory(d) : QNET_OK;
  if (status == QNET_OK) status = qnet_file_write(a, j.object, object->data, object->length, d);
  if (status == QNET_OK) status = run_linker(a, t, &j, d);
  if (status == QNET_OK) status = qnet_file_read(a, j.shared, MAX_BYTES, &data, &size, d);
  if (status == QNET_OK) {
    qnet_strbuf_append(out, data, size);
    qnet_free(a, data, size + 1);
    if (out->failed) status = qnet_out_of_memory(d);
  }
  unlink(j.object);
  unlink(j.shared);
  qnet_strbuf_free(&o);
  qnet_strbuf_free(&so);
  return status;
}

qnet_status qnet_link_shared(const qnet_allocator *a, const qnet_target_choice *t,
                             const qnet_strbuf *object, const char *soname, qnet_strbuf *out,
                             qnet_diag *d) {
  const char *base = getenv("TMPDIR");
  qnet_strbuf dir;
  qnet_strbuf_init(&dir, a);
  qnet_strbuf_printf(&dir, "%s/qnetc-XXXXXX", base != NULL && base[0] != '\0' ? base : "/tmp");
  qnet_status status = QNET_OK;
  if (dir.failed) {
    status = qnet_out_of_memory(d);
  } else if (mkdtemp(dir.data) == NULL) {
    qnet_error_in(d, dir.data, "cannot make a temporary directory: %s", strerror(errno));
    status = QNET_IO;
  } else {
    status = link_in(a, t, dir.data, object, soname, out, d);
    rmdir(dir.data);
  }
  qnet_strbuf_free(&dir);
  return status;
}
