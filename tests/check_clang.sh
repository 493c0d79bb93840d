#!/bin/sh
# Every source file compiles without a warning with clang too (gcc built it already).
set -u
cd "$(dirname "$0")/.."
passed=0
failed=0
llvm=$(llvm-config-19 --includedir 2>/dev/null || llvm-config-22 --includedir)
for file in $(git ls-files --cached --others --exclude-standard '*.c' | grep -v '^examples/'); do
  [ -f "$file" ] || continue
  if clang -std=gnu11 -D_GNU_SOURCE -I. -Ibuild -isystem "$llvm" -Wall -Wextra -Wconversion -Werror \
    -Wno-unknown-pragmas -ffp-contract=off -fsyntax-only -DQNET_VERSION='"0"' \
    -DQNET_LLVM_VERSION='"0"' "$file"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED $file"
  fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
