#!/bin/sh
# Runs every unit test program of a build directory, one after the other; cmocka's own output is
# shown for those that fail.
set -u
dir="$1"
passed=0
failed=0
skipped=0
for program in "$dir"/bin/test_*; do
  name=$(basename "$program")
  output=$(ASAN_OPTIONS=detect_leaks=1 LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0 \
    timeout 600 "$program" 2>&1)
  case $? in
  0)
    n=$(printf '%s\n' "$output" | sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s)\.*$/\1/p' | awk '{s += $1} END {print s + 0}')
    passed=$((passed + n))
    echo "ok $name ($n)"
    ;;
  77)
    skipped=$((skipped + 1))
    echo "skipped $name"
    ;;
  *)
    failed=$((failed + 1))
    printf '%s\n' "$output" | tail -n 40
    echo "FAILED $name"
    ;;
  esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
