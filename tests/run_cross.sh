#!/bin/sh
# Cross targets: objects of random networks, linked by the target's own gcc, run under qemu (x86-64:
# natively). Every logit must have the bits that the reference interpreter gives. Also what an object
# may need and hold.
set -u
. "$(dirname "$0")/lib.sh"
cd "$scratch" || exit 1
cases="$root/build/bin/make_cases"
count=40
seed="${QNET_SEED:-1000}"
echo "$count networks from seed $seed"
$cases . reference - - $count "$seed" >reference.txt || exit 1

# run_target NAME TARGET CPU FEATURES CC RUNNER
run_target() {
  mkdir -p "$1"
  $cases "$1" "$2" "$3" "$4" $count "$seed" || return 1
  # shellcheck disable=SC2086
  $5 -O1 -static -I"$1" "$1"/main.c "$1"/net*.o -o "$1/main" || return 1
  # shellcheck disable=SC2086
  $6 "$1/main" >"$1/logits.txt" || return 1
  cmp reference.txt "$1/logits.txt"
}

# Nothing undefined but memcpy and memset, nothing writable, weights in .rodata.qnet.
check_symbols() {
  for object in "$1"/net*.o; do
    bad=$(nm -u "$object" | awk '$2 != "memcpy" && $2 != "memset" {print $2}')
    [ -z "$bad" ] || { echo "$object needs $bad"; return 1; }
    bad=$(nm "$object" | awk '$2 ~ /^[bBdDcC]$/ {print $3}')
    [ -z "$bad" ] || { echo "$object holds writable $bad"; return 1; }
    readelf -SW "$object" | grep -q '\.rodata\.qnet' || { echo "$object: no .rodata.qnet"; return 1; }
  done
}

target() {
  check "logits-$1" run_target "$@"
  check "symbols-$1" check_symbols "$1"
}

arm="aarch64-linux-gnu-gcc"
riscv="riscv64-linux-gnu-gcc"
target aarch64 aarch64 - - "$arm" "qemu-aarch64 -cpu cortex-a53"
target cortex-a72 aarch64 cortex-a72 - "$arm" "qemu-aarch64 -cpu cortex-a72"
target neoverse-n1 aarch64 neoverse-n1 - "$arm" "qemu-aarch64 -cpu max"
target riscv64 riscv64 - - "$riscv" "qemu-riscv64 -cpu sifive-u54"
target riscv64-zbb riscv64 - +zbb "$riscv" "qemu-riscv64 -cpu rv64,zbb=on"
if [ "$(uname -m)" = x86_64 ]; then
  target x86-64 x86_64 - - gcc ""
  grep -q popcnt /proc/cpuinfo && target x86-64-v2 x86_64 x86-64-v2 - gcc ""
  grep -q avx2 /proc/cpuinfo && target haswell x86_64 haswell - gcc ""
  grep -q avx512vl /proc/cpuinfo && target skylake-avx512 x86_64 skylake-avx512 - gcc ""
  grep -q avx512_vpopcntdq /proc/cpuinfo && target icelake-server x86_64 icelake-server - gcc ""
fi
finish
