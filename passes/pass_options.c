/* The options of one pass: the text between the braces of `name{key=value,...}`. The pipeline has
 * checked keys and integers before any pass runs (passes/pipeline_text.c). */
#include "passes/pass.h"
#include <stdlib.h>
#include <string.h>

/* The value of `key`, not terminated: it ends at a comma or at the end of the text. NULL: absent.
 */
static const char *find_value(const char *options, const char *key, size_t *length) {
  const size_t key_length = strlen(key);
  for (const char *at = options; at && *at;) {
    const size_t item = strcspn(at, ",");
    if (item > key_length && memcmp(at, key, key_length) == 0 && at[key_length] == '=') {
      *length = item - key_length - 1;
      return at + key_length + 1;
    }
    at += item;
    if (*at == ',') at++;
  }
  return NULL;
}

bool qnet_pass_option_given(const qnet_pass_context *c, const char *key) {
  size_t length;
  return find_value(c->options, key, &length) != NULL;
}

int64_t qnet_pass_option_int(const qnet_pass_context *c, const char *key, int64_t otherwise) {
  size_t length;
  const char *value = find_value(c->options, key, &length);
  return value ? strtoll(value, NULL, 10) : otherwise;
}

double qnet_pass_option_float(const qnet_pass_context *c, const char *key, double otherwise) {
  size_t length;
  const char *value = find_value(c->options, key, &length);
  return value ? strtod(value, NULL) : otherwise;
}

const char *qnet_pass_option_word(const qnet_pass_context *c, const char *key, size_t *length) {
  return find_value(c->options, key, length);
}

bool qnet_pass_option_is(const qnet_pass_context *c, const char *key, const char *value) {
  size_t length;
  const char *found = find_value(c->options, key, &length);
  return found && length == strlen(value) && memcmp(found, value, length) == 0;
}
