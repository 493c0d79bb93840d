/* A loop module to the bytes of an object, assembly, LLVM IR or bitcode. Internal to codegen/. */
#ifndef QNET_CODEGEN_COMPILE_H
#define QNET_CODEGEN_COMPILE_H

#include "codegen/codegen.h"
#include "codegen/emit_llvm.h"
#include "support/strbuf.h"

/* Appends the product to *out (initialised by the caller). kind: all but QNET_EMIT_SHARED. */
qnet_status qnet_codegen_compile(const qnet_module *m, const qnet_emit_options *options,
                                 qnet_emit kind, qnet_strbuf *out, qnet_diag *d);

#endif
