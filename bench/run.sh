#!/bin/sh
# Runs the convolution benchmark for the host and for AVX2 on one core; writes bench/results.md.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
pin=""
command -v taskset >/dev/null && pin="taskset -c 0"
{
  echo "# Speed of the popcount convolution"
  echo
  echo "Written by \`make bench\`: our kernel with its fused thresholds and packing, beside oneDNN's"
  echo "direct convolution with relu (f32 and int8, formats of its choice), in one process on one core."
  echo "CPU: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)."
  $pin build/bin/bench_conv
  grep -q avx2 /proc/cpuinfo && $pin build/bin/bench_conv --avx2
} >bench/results.md.new
mv bench/results.md.new bench/results.md
cat bench/results.md
