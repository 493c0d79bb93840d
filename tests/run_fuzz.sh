#!/bin/sh
# N cases of mutation fuzzing with the program of a build directory (tests/fuzz/fuzz.c): two halves
# side by side.
set -u
program="$PWD/$1/bin/fuzz"
half=$(($2 / 2))
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
export OMP_WAIT_POLICY=passive ASAN_OPTIONS=detect_leaks=1
export LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0
timeout 300 "$program" $half all 0 >"$reports/1" 2>&1 &
timeout 300 "$program" $half all $half >"$reports/2" 2>&1
second=$?
wait $!
first=$?
cat "$reports/1" "$reports/2"
[ $first -le 1 ] && [ $second -le 1 ] || exit 3
cat "$reports/1" "$reports/2" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed, 0 skipped$/\1 \2/p' |
  awk '{p += $1; f += $2}
    END {if (NR != 2) exit 3; print p " passed, " f " failed, 0 skipped"; exit f > 0}'
