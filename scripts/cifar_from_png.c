/* cifar_from_png SHEET.png LABELS.json FIRST_LABEL OUT.bin (scripts/get-cifar10.sh). */
#include "scripts/cifar_sheet.h"

#include <stdlib.h>

static int usage(void) {
  fputs("usage: cifar_from_png SHEET.png LABELS.json FIRST_LABEL OUT.bin\n", stderr);
  return 2;
}

int main(int count, char **arg) {
  if (count != 5) return usage();
  char *end;
  const unsigned long first = strtoul(arg[3], &end, 10);
  if (end == arg[3] || *end || first > 10000000) return usage();
  const qnet_allocator *a = qnet_allocator_system();
  qnet_diag *d = qnet_diag_create(a);
  if (!d) return 1;
  const qnet_status status = qnet_cifar_sheet_convert(a, arg[1], arg[2], first, arg[4], d);
  qnet_diag_print(d, stderr, false);
  qnet_diag_destroy(d);
  return status == QNET_OK ? 0 : 1;
}
