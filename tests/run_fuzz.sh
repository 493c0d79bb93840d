#!/bin/sh
# N cases of mutation fuzzing with the program of a build directory (tests/fuzz/fuzz.c).
set -u
program="$PWD/$1/bin/fuzz"
ASAN_OPTIONS=detect_leaks=1 LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0 \
  timeout 300 "$program" "$2"
