#!/bin/sh
# Configures (once) and builds one preset: release, debug or asan. QNET_TESTS=1 builds the tests too.
set -eu
cd "$(dirname "$0")/.."
preset="$1"
case "$preset" in
release) dir=build ;;
*) dir="build-$preset" ;;
esac
tests=OFF
[ -n "${QNET_TESTS:-}" ] && tests=ON
if [ ! -f "$dir/build.ninja" ] || [ -n "${QNET_TESTS:-}" ]; then
  mkdir -p "$dir"
  cmake --preset "$preset" -DQNET_BUILD_TESTS="$tests" >"$dir/configure.log" 2>&1 || {
    cat "$dir/configure.log"
    exit 1
  }
fi
if [ -t 1 ]; then
  cmake --build "$dir"
else
  cmake --build "$dir" >"$dir/build.log" 2>&1 || {
    tail -n 60 "$dir/build.log"
    exit 1
  }
fi
