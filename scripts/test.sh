#!/bin/sh
# All tests: formatting, unit tests (release and sanitized), golden IR, command line, exact restart, differential,
# cross targets under qemu. Prints one line a stage and the counts at the end.
set -eu
cd "$(dirname "$0")/.."
started=$(date +%s)
passed=0
failed=0
skipped=0
report=build/test-report
mkdir -p "$report"

# stage NAME COMMAND...: the command's last line must be "P passed, F failed, S skipped".
stage() {
  name="$1"
  shift
  begin=$(date +%s)
  if "$@" >"$report/$name.log" 2>&1; then status=0; else status=$?; fi
  line=$(tail -n 1 "$report/$name.log")
  counts=$(printf '%s\n' "$line" |
    sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p')
  if [ -z "$counts" ]; then
    counts="0 1 0"
    line="did not finish (exit $status)"
  elif [ "$status" != 0 ] && [ "$(echo "$counts" | cut -d' ' -f2)" = 0 ]; then
    counts="$(echo "$counts" | cut -d' ' -f1) 1 0"
  fi
  set -- $counts
  passed=$((passed + $1))
  failed=$((failed + $2))
  skipped=$((skipped + $3))
  printf '%-14s %s (%ss)\n' "$name" "$line" "$(($(date +%s) - begin))"
  [ "$2" = 0 ] || { grep -vE '^ok |^PASS ' "$report/$name.log" | tail -n 60; }
}

export QNET_TESTS=1
stage format tests/check_format.sh
scripts/build.sh release
stage clang-build tests/check_clang.sh
stage unit tests/run_unit.sh build
stage golden tests/run_golden.sh tests/golden tests/cli
stage differential build/bin/differential 300
stage cli tests/run_cli.sh
stage quantize tests/run_quantize.sh
stage kill tests/run_kill.sh
stage cross tests/run_cross.sh
scripts/build.sh asan
stage unit-asan tests/run_unit.sh build-asan
stage fuzz-asan tests/run_fuzz.sh build-asan 16000
echo "$passed passed, $failed failed, $skipped skipped"
echo "took $(($(date +%s) - started)) s"
[ "$failed" = 0 ]
