/* JSON reports through jansson: quoting is its business. */
#include "driver/json.h"
#include <math.h>

/* f32 survives 9 digits. */
enum { DIGITS = 9 };

json_t *qnet_json_text(const char *text) {
  json_t *string = json_string(text);
  return string ? string : json_null();
}

json_t *qnet_json_number(double x) {
  return isfinite(x) ? json_real(x) : json_null();
}

qnet_status qnet_json_print(json_t *object, qnet_diag *d) {
  if (!object) return qnet_out_of_memory(d);
  char *text = json_dumps(object, JSON_REAL_PRECISION(DIGITS));
  json_decref(object);
  if (!text) return qnet_out_of_memory(d);
  puts(text);
  free(text);
  return QNET_OK;
}
