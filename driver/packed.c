/* Packed weights files. The metadata tell which sites there are, by which method and of how many
 * bits; the tensors are those of any weights file (driver/tables.c) without what training alone
 * needs. */
#include "driver/packed.h"
#include "driver/tables.h"
#include "driver/weights.h"
#include "ir/ops.h"
#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 512, MAX_KEY = MAX_NAME + 16, MAX_TEXT = 64 };

static const char version_key[] = "qnet.packed", version[] = "1", site_key[] = "qnet.site.";

static const char *find_site(const qnet_tensor_file *f, const char *site) {
  char key[MAX_KEY];
  snprintf(key, sizeof key, "%s%s", site_key, site);
  return qnet_tensor_file_meta(f, key);
}

const char *qnet_packed_site(const char *key) {
  const size_t prefix = sizeof site_key - 1;
  return strncmp(key, site_key, prefix) == 0 ? key + prefix : NULL;
}

/* "lqnets 2" */
static void describe_site(const qnet_op *quantize, char text[MAX_TEXT]) {
  snprintf(text, MAX_TEXT, "%s %d", qnet_op_string(quantize, "quantizer"),
           (int)qnet_op_int(quantize, "bits", 0));
}

/* ---- store --------------------------------------------------------------------------------- */

static qnet_status store_sites(const qnet_module *m, qnet_tensor_file *f) {
  const qnet_region *body = qnet_symbol_find(m, "eval")->body;
  for (const qnet_op *op = body->first; op; op = op->next) {
    if (op->opcode != QNET_OP_QUANTIZE) continue;
    char key[MAX_KEY], text[MAX_TEXT];
    snprintf(key, sizeof key, "%s%s", site_key, qnet_op_string(op, "site"));
    describe_site(op, text);
    QNET_TRY(qnet_tensor_file_set_meta(f, key, text));
  }
  return qnet_tensor_file_set_meta(f, version_key, version);
}

qnet_status qnet_packed_store(const qnet_module *m, qnet_tensor_file *f, qnet_diag *d) {
  QNET_TRY(qnet_weights_store_unquantized(m, f, d));
  QNET_TRY(qnet_tables_store(m, f, d));
  return store_sites(m, f) == QNET_OK ? QNET_OK : qnet_out_of_memory(d);
}

/* ---- load ---------------------------------------------------------------------------------- */

qnet_status qnet_packed_detect(const qnet_tensor_file *f, const char *path, bool *packed,
                               qnet_diag *d) {
  const char *have = qnet_tensor_file_meta(f, version_key);
  *packed = have != NULL;
  if (!have || strcmp(have, version) == 0) return QNET_OK;
  return qnet_error_in(d, path,
                       "packed weights of version '%s', but this qnetc reads version %s; pack them "
                       "with it",
                       have, version);
}

/* The bits of "METHOD BITS"; 0 when it is malformed. */
static int bits_of(const char *text) {
  const char *space = strchr(text, ' ');
  if (!space || space[1] < '1' || space[1] > '8' || space[2]) return 0;
  return space[1] - '0';
}

qnet_status qnet_packed_expand(const qnet_module *m, qnet_symbol *weight, const qnet_tensor_file *f,
                               const char *path, bool *found, qnet_diag *d) {
  char site[MAX_NAME];
  snprintf(site, sizeof site, "%s_quantizer", weight->name);
  const char *text = find_site(f, site);
  *found = text != NULL;
  if (!text) return QNET_OK;
  const int bits = bits_of(text);
  if (!bits)
    return qnet_error_in(d, path, "metadata '%s%s' is '%s', not a method and its bits", site_key,
                         site, text);
  const qnet_type *t = weight->type;
  qnet_blob *b = qnet_blob_create(m->allocator, t->dtype, t->rank, t->dim);
  if (!b) return qnet_out_of_memory(d);
  const qnet_status status = qnet_tables_expand(site, bits, t, f, path, b->data, d);
  if (status == QNET_OK) qnet_symbol_set_blob(weight, b);
  qnet_blob_release(b);
  return status;
}

static qnet_status check_site(const qnet_op *op, const qnet_tensor_file *f, const char *path,
                              qnet_diag *d) {
  const char *site = qnet_op_string(op, "site"), *have = find_site(f, site);
  char want[MAX_TEXT];
  describe_site(op, want);
  if (have && strcmp(have, want) == 0) return QNET_OK;
  qnet_error_in(d, path,
                "'%s' is packed as %s, but the network asks for %s; packed weights have one form: "
                "give the --quantizer and --bits that they were packed with",
                site, have ? have : "f32", want);
  qnet_note(d, op->loc, "the layer is here");
  return QNET_ERROR;
}

/* A site of the file that the network does not quantize would compute on other numbers. */
static qnet_status check_used(const qnet_module *m, const char *key, const char *text,
                              const char *path, qnet_diag *d) {
  const char *site = qnet_packed_site(key);
  if (!site) return QNET_OK;
  const qnet_region *body = qnet_symbol_find(m, "eval")->body;
  for (const qnet_op *op = body->first; op; op = op->next)
    if (op->opcode == QNET_OP_QUANTIZE && strcmp(qnet_op_string(op, "site"), site) == 0)
      return QNET_OK;
  return qnet_error_in(d, path,
                       "'%s' is packed as %s, but the network does not quantize it; give the "
                       "--quantizer and --bits that the weights were packed with",
                       site, text);
}

qnet_status qnet_packed_check(const qnet_module *m, const qnet_tensor_file *f, const char *path,
                              qnet_diag *d) {
  const qnet_region *body = qnet_symbol_find(m, "eval")->body;
  for (const qnet_op *op = body->first; op; op = op->next)
    if (op->opcode == QNET_OP_QUANTIZE) QNET_TRY(check_site(op, f, path, d));
  for (size_t i = 0; i < f->meta_count; i++)
    QNET_TRY(check_used(m, f->meta[2 * i], f->meta[2 * i + 1], path, d));
  return QNET_OK;
}
