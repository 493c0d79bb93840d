#!/bin/sh
# Installs the Debian packages that building and testing need: only what is missing, as root or with
# sudo. On another system it says what to install.
set -eu

build="gcc libc6-dev cmake ninja-build pkg-config llvm-19-dev libffi-dev flex bison libdnnl-dev zlib1g-dev
libpng-dev libjpeg62-turbo-dev libjansson-dev librandom123-dev lld-19 dataset-fashion-mnist"
cross="qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-riscv64-linux-gnu
libc6-dev-riscv64-cross"
tests="git llvm-19-tools libcmocka-dev clang clang-format"

case "${1:-all}" in
build) wanted="$build" ;;
demo) wanted="$build $cross" ;;
all) wanted="$build $cross $tests" ;;
bench-train) wanted="$build python3-torch" ;;
*)
  echo "usage: $0 [build|demo|all|bench-train]" >&2
  exit 2
  ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "This is not a Debian system. Please install the equivalents of:" >&2
  echo "$wanted" | tr '\n' ' ' | fold -s -w 90 >&2
  echo >&2
  echo "and run make again with QNET_NO_INSTALL=1." >&2
  [ -n "${QNET_NO_INSTALL:-}" ] && exit 0
  exit 1
fi
[ -n "${QNET_NO_INSTALL:-}" ] && exit 0

missing=""
for package in $wanted; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing="$missing $package"
done
[ -z "$missing" ] && exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || {
    echo "Missing packages:$missing" >&2
    echo "Run as root: apt-get install --no-install-recommends$missing" >&2
    exit 1
  }
  sudo="sudo"
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
options="-o DPkg::Lock::Timeout=900 -qq -y --no-install-recommends"
# The package lists may be absent or old: try at once, else refresh them first.
# shellcheck disable=SC2086
$sudo apt-get install $options $missing >/dev/null 2>&1 || {
  $sudo apt-get update -qq
  $sudo apt-get install $options $missing >/dev/null
}
