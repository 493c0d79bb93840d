/* The reference interpreters: one plain C loop an operation at nn, quant and bits (interp_nn*.c,
 * interp_quant.c, interp_bits.c); at loop the operations themselves (interp_loop*.c). */
#ifndef QNET_IR_INTERP_H
#define QNET_IR_INTERP_H

#include "ir/ir.h"

/* A prepared function: values numbered, memory reused from call to call. Not thread-safe; make one
 * a thread, all of them from the same thread (creation numbers the values of the function). */
typedef struct qnet_interp qnet_interp;
qnet_status qnet_interp_create(const qnet_module *m, const char *function, qnet_interp **out,
                               qnet_diag *d);
void qnet_interp_destroy(qnet_interp *in);

/* Runs the function. in[i] has the type of argument i (borrowed). out[i] receives a blob that the
 * caller releases. At the loop level the function has no results: buffers are arguments, and out
 * arguments are written in place. Symbols without content are an error that names them. */
qnet_status qnet_interp_run(qnet_interp *in, qnet_blob *const *args, int arg_count,
                            qnet_blob **results, int result_count, qnet_diag *d);

/* One operation on blobs: operands in, results out (created here; all NULL on entry, and after a
 * failure the caller releases those that are not). The kernel tables of the plain
 * levels; also the reference that training primitives are tested against. */
typedef qnet_status (*qnet_interp_kernel)(const qnet_module *m, const qnet_op *op,
                                          qnet_blob *const *in, qnet_blob **out);
/* NULL for operations that the interpreter's core runs itself (read, write, yield, kernel). */
qnet_interp_kernel qnet_interp_kernel_of(int opcode);

/* A zeroed blob of a value's type as the interpreters hold it (planes:
 * u64[N][H][W][P][ceil(C/64)]); NULL when out of memory. */
qnet_blob *qnet_interp_blob(const qnet_allocator *a, const qnet_type *type);
/* Has the blob the element type and the size of the type? Codes and u8 are one; of a buffer, which
 * is raw memory, only the size counts. */
bool qnet_interp_fits(const qnet_blob *blob, const qnet_type *type);

#endif
