/* Sheets of CIFAR images as some packages have them: one PNG, one image of 32x32 a row of pixels
 * (1024 wide, RGB), labels as a JSON array. */
#ifndef QNET_SCRIPTS_CIFAR_SHEET_H
#define QNET_SCRIPTS_CIFAR_SHEET_H

#include "support/diag.h"

/* Writes all images of the sheet with labels first_label and following of the array, in the classic
 * binary layout (label byte, three planes), to `output`: wholly or not at all. */
qnet_status qnet_cifar_sheet_convert(const qnet_allocator *a, const char *sheet, const char *labels,
                                     size_t first_label, const char *output, qnet_diag *d);

#endif
