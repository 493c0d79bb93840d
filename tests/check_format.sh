#!/bin/sh
# clang-format must change nothing, and no line is longer than 100 columns.
set -u
cd "$(dirname "$0")/.."
passed=0
failed=0
for file in $(git ls-files --cached --others --exclude-standard '*.c' '*.h' '*.y' '*.l' '*.def'); do
  [ -f "$file" ] || continue
  bad=""
  case "$file" in
  *.c | *.h) clang-format --dry-run --Werror "$file" >/dev/null 2>&1 || bad="not formatted (make format)" ;;
  esac
  awk 'length($0) > 100 {exit 1}' "$file" || bad="$bad a line over 100 columns"
  if [ -n "$bad" ]; then
    failed=$((failed + 1))
    echo "FAILED $file: $bad"
  else
    passed=$((passed + 1))
  fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
