#!/bin/sh
# Runs every unit test program of a build directory, as many at a time as there are cores, and shows
# cmocka's own output for those that fail, and the slowest ones.
#   tests/run_unit.sh DIR [PROGRAM REPORTS]      the latter: one program, its report into REPORTS
set -u
dir="$1"

# One program: "P N SECONDS NAME" where P is ok, skipped or FAILED and N its number of tests.
run_one() {
  name=$(basename "$1")
  begin=$(date +%s)
  output=$(timeout 600 "$1" 2>&1)
  case $? in
  0) verdict=ok ;;
  77) verdict=skipped ;;
  *) verdict=FAILED ;;
  esac
  n=$(printf '%s\n' "$output" | sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s)\.*$/\1/p' | awk '{s += $1} END {print s + 0}')
  {
    echo "$verdict $n $(($(date +%s) - begin)) $name"
    [ $verdict != FAILED ] || printf '%s\n' "$output" | tail -n 40
  } >"$2/$name"
}
if [ $# = 3 ]; then
  run_one "$2" "$3"
  exit 0
fi

reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
# Threads that wait for others must leave the cores to the programs beside them.
export OMP_WAIT_POLICY=passive ASAN_OPTIONS=detect_leaks=1
export LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0
printf '%s\n' "$dir"/bin/test_* | xargs -P "$(nproc)" -I PROGRAM "$0" "$dir" PROGRAM "$reports"
passed=0
failed=0
skipped=0
for program in "$dir"/bin/test_*; do
  name=$(basename "$program")
  verdict=FAILED n=0 seconds=0
  read -r verdict n seconds name <"$reports/$name"
  case $verdict in
  ok) passed=$((passed + n)) ;;
  skipped) skipped=$((skipped + 1)) ;;
  *)
    failed=$((failed + 1))
    tail -n +2 "$reports/$name"
    ;;
  esac
  echo "$verdict $name ($n, ${seconds}s)"
done
echo "slowest:$(cat "$reports"/* | awk '$1 == "ok" && NF == 4 {print $3, $4}' | sort -rn | head -n 5 |
  awk '{printf " %s %ss", $2, $1}')"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
