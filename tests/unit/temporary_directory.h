/* A directory of its own for a test of files: made before the group, cleared before each test. */
#ifndef QNET_TESTS_TEMPORARY_DIRECTORY_H
#define QNET_TESTS_TEMPORARY_DIRECTORY_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* In memory where that is possible: writers sync their files. */
static char directory[64] = "/dev/shm/qnet-test-XXXXXX";

static inline const char *in_directory(const char *name) {
  static char path[600];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return path;
}

static inline int make_directory(void **state) {
  (void)state;
  if (access("/dev/shm", W_OK) != 0) snprintf(directory, sizeof directory, "/tmp/qnet-test-XXXXXX");
  return mkdtemp(directory) ? 0 : -1;
}

static inline int clear_directory(void **state) {
  (void)state;
  char command[300];
  snprintf(command, sizeof command, "find '%s' -mindepth 1 -delete", directory);
  return system(command);
}

static inline int remove_directory(void **state) {
  clear_directory(state);
  return rmdir(directory);
}

#endif
