/* Shared objects by the system's linker. Internal to codegen/. */
#ifndef QNET_CODEGEN_LINK_H
#define QNET_CODEGEN_LINK_H

#include "codegen/target.h"
#include "support/strbuf.h"

/* Links one object (its bytes) to a shared object called `soname` and appends its bytes to *out.
 * Works in temporary files ($TMPDIR or /tmp) that are gone afterwards. */
qnet_status qnet_link_shared(const qnet_allocator *a, const qnet_target_choice *t,
                             const qnet_strbuf *object, const char *soname, qnet_strbuf *out,
                             qnet_diag *d);

#endif
