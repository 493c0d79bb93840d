#!/bin/sh
# Golden tests: every .qir and .qnet below the given directories with RUN lines. Each line runs in a
# shell, %s is the file, %t a scratch file; qnetc and LLVM's FileCheck and not are on PATH.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
PATH="$root/build/bin:/usr/lib/llvm-19/bin:/usr/lib/llvm-22/bin:$PATH"
export PATH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0
cd "$root" || exit 1
for file in $(find "$@" \( -name '*.qir' -o -name '*.qnet' \) | sort); do
  runs=$(sed -n 's,^ *\(//\|#\) *RUN: *,,p' "$file")
  [ -n "$runs" ] || continue
  result=ok
  while IFS= read -r command; do
    command=$(printf '%s' "$command" | sed "s,%s,$file,g; s,%t,$scratch/t,g")
    output=$(timeout 60 bash -o pipefail -c "$command" 2>&1) || {
      result=FAILED
      printf '%s\n%s\n' "$command" "$output" | tail -n 40
      break
    }
  done <<EOF
$runs
EOF
  if [ $result = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  echo "$result $file"
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
