# Helpers of the shell tests: source this, call `check NAME COMMAND...`, end with `finish`.
passed=0
failed=0
skipped=0
root=$(cd "$(dirname "$0")/.." && pwd)
qnetc="$root/build/bin/qnetc"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# check NAME COMMAND...: the command must exit 0.
check() {
  check_name="$1"
  shift
  if "$@" >"$scratch/check.log" 2>&1; then
    passed=$((passed + 1))
    echo "ok $check_name"
  else
    failed=$((failed + 1))
    echo "FAILED $check_name: $*"
    tail -n 20 "$scratch/check.log"
  fi
}

# fails CODE TEXT COMMAND...: the command must exit with CODE and print TEXT on standard error.
fails() {
  fails_code="$1"
  fails_text="$2"
  shift 2
  "$@" >"$scratch/out" 2>"$scratch/err"
  fails_status=$?
  cat "$scratch/err"
  [ "$fails_status" = "$fails_code" ] || {
    echo "exit $fails_status, wanted $fails_code"
    return 1
  }
  grep -qF -- "$fails_text" "$scratch/err" || {
    echo "no '$fails_text' in the message"
    return 1
  }
}

finish() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
