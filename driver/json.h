/* Reports as JSON, one object a line on standard output. */
#ifndef QNET_DRIVER_JSON_H
#define QNET_DRIVER_JSON_H

#include "support/diag.h"
#include <jansson.h>

/* A string, or null when the text is not UTF-8 (a path may be anything). */
json_t *qnet_json_text(const char *text);
/* A number, or null when it is not finite: JSON has no NaN. */
json_t *qnet_json_number(double x);
/* Prints and releases the object; NULL and objects that miss a value are lack of memory. */
qnet_status qnet_json_print(json_t *object, qnet_diag *d);

#endif
