/* No handler and no global: the signals are blocked, and the kernel is asked whether one waits. */
#include "driver/stop.h"

#include <signal.h>

static void watched(sigset_t *set) {
  static const int signals[] = {SIGINT, SIGTERM};
  sigemptyset(set);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct sigaction action;
    const bool ignored = sigaction(signals[i], NULL, &action) == 0 && action.sa_handler == SIG_IGN;
    if (!ignored) sigaddset(set, signals[i]);
  }
}

void qnet_stop_begin(void) {
  sigset_t set;
  watched(&set);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
}

bool qnet_stop_requested(void) {
  sigset_t set, waiting;
  watched(&set);
  sigpending(&waiting);
  return (sigismember(&set, SIGINT) && sigismember(&waiting, SIGINT)) ||
         (sigismember(&set, SIGTERM) && sigismember(&waiting, SIGTERM));
}
