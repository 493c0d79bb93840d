/* Directories of photographs: train/CLASS/ with image files, and val/ or test/ the same way. Only
 * the names are kept; an image is decoded when it is asked for. Classes are the sorted names of the
 * directories in train/, so that both splits agree; files are in the order of their names. */
#include "runtime/dataset_internal.h"
#include "runtime/image.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* What a set holds on to. */
typedef struct folder {
  qnet_arena arena;
  const char *root;  /* DIRECTORY/SPLIT */
  const char **file; /* CLASS/NAME */
} folder;

typedef struct listing {
  const char **name; /* sorted */
  size_t count;
  size_t others;     /* entries of the wrong kind */
  const char *other; /* one of them */
} listing;

typedef struct reader {
  const qnet_dataset_source *source;
  folder *folder;
  const char *split; /* "train", "val", "test" */
  listing classes;
  listing *files; /* of each class, in this split */
} reader;

/* ---- listing directories ------------------------------------------------------------------- */

static qnet_status system_error(const reader *r, const char *path, const char *what) {
  qnet_error_in(r->source->diag, path, "%s: %s", what, strerror(errno));
  return QNET_IO;
}

static bool has_image_name(const char *name) {
  static const char *const suffixes[] = {".jpg", ".jpeg", ".png", ".ppm", ".pgm"};
  const char *dot = strrchr(name, '.');
  for (size_t i = 0; dot && i < sizeof suffixes / sizeof suffixes[0]; i++)
    if (strcasecmp(dot, suffixes[i]) == 0) return true;
  return false;
}

/* Links are followed. */
static bool is_wanted(DIR *dir, const struct dirent *e, bool directories) {
  struct stat info;
  bool is_directory = e->d_type == DT_DIR, is_file = e->d_type == DT_REG;
  if (!is_directory && !is_file) {
    if (fstatat(dirfd(dir), e->d_name, &info, 0) != 0) return false;
    is_directory = S_ISDIR(info.st_mode);
    is_file = S_ISREG(info.st_mode);
  }
  return directories ? is_directory : is_file && has_image_name(e->d_name);
}

typedef struct link {
  struct link *next;
  const char *name;
} link;

static int compare_names(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static qnet_status sort_names(const reader *r, const link *names, listing *out) {
  out->name = qnet_arena_array(r->source->scratch, out->count, sizeof *out->name);
  if (!out->name) return qnet_out_of_memory(r->source->diag);
  size_t i = 0;
  for (; names; names = names->next)
    out->name[i++] = names->name;
  qsort(out->name, out->count, sizeof *out->name, compare_names);
  return QNET_OK;
}

static qnet_status read_entries(const reader *r, const char *path, DIR *dir, bool directories,
                                listing *out) {
  qnet_arena *const scratch = r->source->scratch;
  link *names = NULL;
  for (;;) {
    errno = 0;
    const struct dirent *e = readdir(dir);
    if (!e && errno) return system_error(r, path, "cannot list");
    if (!e) return sort_names(r, names, out);
    if (e->d_name[0] == '.') continue;
    const char *name = qnet_arena_strdup(scratch, e->d_name);
    link *entry = qnet_arena_alloc(scratch, sizeof *entry);
    if (!name || !entry) return qnet_out_of_memory(r->source->diag);
    if (!is_wanted(dir, e, directories)) {
      out->others++;
      out->other = name;
      continue;
    }
    *entry = (link){names, name};
    names = entry;
    out->count++;
  }
}

/* The directories or the image files in SPLIT or SPLIT/CLASS. */
static qnet_status list(const reader *r, const char *split, const char *class, listing *out) {
  const qnet_dataset_source *s = r->source;
  *out = (listing){.count = 0};
  const char *path = qnet_arena_printf(s->scratch, "%s/%s%s%s", s->directory, split,
                                       class ? "/" : "", class ? class : "");
  if (!path) return qnet_out_of_memory(s->diag);
  DIR *dir = opendir(path);
  if (!dir) return system_error(r, path, "cannot list");
  qnet_status status = read_entries(r, path, dir, !class, out);
  closedir(dir);
  if (status != QNET_OK || !class) return status;
  if (out->count == 0)
    return qnet_error_in(s->diag, path, "holds no JPEG or PNG files; remove it or fill it");
  if (out->others > 0)
    qnet_warning_in(s->diag, path, "%zu of its entries, such as '%s', are no images and left out",
                    out->others, out->other);
  return QNET_OK;
}

/* ---- classes and files --------------------------------------------------------------------- */

static qnet_status exists(const reader *r, const char *split, bool *found) {
  struct stat info;
  const char *path = qnet_dataset_path(r->source, split);
  if (!path) return qnet_out_of_memory(r->source->diag);
  *found = stat(path, &info) == 0;
  return QNET_OK;
}

static qnet_status choose_split(reader *r) {
  bool found = true;
  r->split = "train";
  if (r->source->request->split == QNET_SPLIT_TEST) {
    QNET_TRY(exists(r, "test", &found));
    r->split = found ? "test" : "val";
  }
  QNET_TRY(exists(r, r->split, &found));
  if (found) return QNET_OK;
  return qnet_error_in(r->source->diag, r->source->directory, "holds no directory %s/", r->split);
}

static qnet_status list_classes(reader *r) {
  const qnet_dataset_source *s = r->source;
  bool found = false;
  QNET_TRY(exists(r, "train", &found));
  const char *const from = found ? "train" : r->split;
  QNET_TRY(list(r, from, NULL, &r->classes));
  if (r->classes.count == 0)
    return qnet_error_in(s->diag, s->directory, "%s/ holds no directories, one for each class",
                         from);
  if (s->classes && r->classes.count != (size_t)s->classes)
    return qnet_error_in(s->diag, s->directory,
                         "%s/ holds %zu directories, the data set has %d classes", from,
                         r->classes.count, s->classes);
  return QNET_OK;
}

static bool is_class(const reader *r, const char *name) {
  return bsearch(&name, r->classes.name, r->classes.count, sizeof name, compare_names) != NULL;
}

/* A class may be missing in a test split, but not the other way round. */
static qnet_status list_files(reader *r) {
  const qnet_dataset_source *s = r->source;
  listing present;
  QNET_TRY(list(r, r->split, NULL, &present));
  for (size_t i = 0; i < present.count; i++)
    if (!is_class(r, present.name[i]))
      return qnet_error_in(s->diag, s->directory, "%s/%s is no class: train/ has no such directory",
                           r->split, present.name[i]);
  r->files = qnet_arena_array(s->scratch, r->classes.count, sizeof *r->files);
  if (!r->files) return qnet_out_of_memory(s->diag);
  for (size_t i = 0, k = 0; i < r->classes.count; i++) {
    if (k == present.count || strcmp(present.name[k], r->classes.name[i]) != 0) continue;
    QNET_TRY(list(r, r->split, present.name[k++], &r->files[i]));
  }
  return QNET_OK;
}

static qnet_status keep_files(const reader *r, qnet_dataset *out) {
  folder *const f = r->folder;
  size_t count = 0, at = 0;
  for (size_t i = 0; i < r->classes.count; i++)
    count += r->files[i].count;
  if (count == 0 || count > INT32_MAX)
    return qnet_error_in(r->source->diag, f->root, "holds %zu images", count);
  out->count = (int64_t)count;
  out->labels = qnet_alloc_array(out->allocator, count, sizeof *out->labels);
  f->file = qnet_arena_array(&f->arena, count, sizeof *f->file);
  if (!out->labels || !f->file) return qnet_out_of_memory(r->source->diag);
  for (size_t i = 0; i < r->classes.count; i++)
    for (size_t k = 0; k < r->files[i].count; k++, at++) {
      out->labels[at] = (int32_t)i;
      f->file[at] = qnet_arena_printf(&f->arena, "%s/%s", r->classes.name[i], r->files[i].name[k]);
      if (!f->file[at]) return qnet_out_of_memory(r->source->diag);
    }
  return QNET_OK;
}

/* ---- the set ------------------------------------------------------------------------------- */

static qnet_status load_file(const qnet_dataset *s, int64_t index, qnet_item *out, qnet_diag *d) {
  const folder *f = s->content;
  char path[PATH_MAX];
  const int length = snprintf(path, sizeof path, "%s/%s", f->root, f->file[index]);
  if (length < 0 || (size_t)length >= sizeof path)
    return qnet_error_in(d, f->root, "the path of %s is too long", f->file[index]);
  qnet_blob *image;
  QNET_TRY(qnet_image_read(s->allocator, path, (int)s->channels, &image, d));
  *out = (qnet_item){image->dim[0], image->dim[1], image->data, image};
  if (image->dtype == QNET_U8 && image->rank == 3 && image->dim[2] == s->channels) return QNET_OK;
  qnet_item_release(out);
  return qnet_error_in(d, path, "is an array, not an image");
}

static void close_folder(qnet_dataset *s) {
  folder *f = s->content;
  qnet_free(s->allocator, s->labels, (size_t)s->count * sizeof *s->labels);
  qnet_arena_clear(&f->arena);
  qnet_free(s->allocator, f, sizeof *f);
}

static qnet_status make_folder(reader *r, qnet_dataset *out) {
  const qnet_dataset_source *s = r->source;
  folder *f = r->folder = qnet_alloc(s->allocator, sizeof *f);
  if (!f) return qnet_out_of_memory(s->diag);
  qnet_arena_init(&f->arena, s->allocator);
  out->content = f;
  out->load = load_file;
  out->close = close_folder;
  f->root = qnet_arena_printf(&f->arena, "%s/%s", s->directory, r->split);
  return f->root ? QNET_OK : qnet_out_of_memory(s->diag);
}

static qnet_status read_folder(const qnet_dataset_source *s, qnet_dataset *out) {
  reader r = {.source = s};
  const qnet_dataset_request *const request = s->request;
  if (request->channels != 1 && request->channels != 3)
    return qnet_error_in(s->diag, s->directory,
                         "holds image files, which give 1 or 3 channels; the network takes %lld",
                         (long long)request->channels);
  out->height = request->height;
  out->width = request->width;
  out->channels = request->channels;
  QNET_TRY(choose_split(&r));
  QNET_TRY(make_folder(&r, out));
  QNET_TRY(list_classes(&r));
  out->classes = (int64_t)r.classes.count;
  QNET_TRY(list_files(&r));
  return keep_files(&r, out);
}

const qnet_dataset_format qnet_format_folder = {
    .what = "image files: {train,val}/CLASS/*.{jpg,png} (test/ is the same as val/)",
    .marker = {"train", "val", "test"},
    .read = read_folder};
