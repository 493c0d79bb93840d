/* Control-C and SIGTERM during training: noticed between steps, so that the run can be saved. */
#ifndef QNET_DRIVER_STOP_H
#define QNET_DRIVER_STOP_H

#include <stdbool.h>

/* From now on SIGINT and SIGTERM wait, but for those that this process was started to ignore. To be
 * called before the first thread is made: threads inherit it. */
void qnet_stop_begin(void);
/* Has one of them come? */
bool qnet_stop_requested(void);

#endif
