/* Status codes: what every function that can fail returns.
 *
 * A function that returns anything but QNET_OK has written why into the diagnostics engine it was
 * given (support/diag.h); only driver/ prints and exits. */
#ifndef QNET_SUPPORT_STATUS_H
#define QNET_SUPPORT_STATUS_H

typedef enum {
  QNET_OK = 0,
  QNET_ERROR,     /* the user's input is wrong; a diagnostic says where and what to do */
  QNET_NO_MEMORY, /* an allocation failed; nothing is leaked, the context stays usable */
  QNET_IO,        /* the system refused a read or a write; a diagnostic names the file */
  QNET_STOPPED,   /* the user ended the work early; what was done is saved */
  QNET_INTERNAL,  /* a broken invariant of ours */
} qnet_status;

/* Forwards a failure to the caller. */
#define QNET_TRY(expr)                                                                             \
  do {                                                                                             \
    const qnet_status qnet_try_status_ = (expr);                                                   \
    if (qnet_try_status_ != QNET_OK) return qnet_try_status_;                                      \
  } while (0)

#endif
