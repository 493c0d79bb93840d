/* Private to the text form: what printer and parser share. */
#ifndef QNET_IR_TEXT_INTERNAL_H
#define QNET_IR_TEXT_INTERNAL_H

#include "ir/text.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blobs and hex data are little-endian");

/* The shortest decimal text that reads back as the same number; "nan", "inf", "-inf". */
void qnet_print_f32(qnet_strbuf *out, float v);
void qnet_print_f64(qnet_strbuf *out, double v);
/* The same, but never without one of ".einf", so that it does not read as an integer. */
void qnet_print_real(qnet_strbuf *out, double v);
/* "text" with \" \\ \xHH. */
void qnet_print_string(qnet_strbuf *out, const char *text);
/* What follows `=` of a const or state. */
void qnet_print_data(qnet_strbuf *out, const qnet_symbol *s, unsigned flags);

#endif
