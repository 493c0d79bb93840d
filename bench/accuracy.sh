#!/bin/sh
# Top-1 of ResNet-20 on CIFAR-10 by learned quantizer: fine-tunes examples/resnet20.qnet from its f32
# weights, every method by one recipe, packs the result and lets the JIT count on all test images.
# usage: bench/accuracy.sh [METHOD:BITS ...]    default: all rows of docs/accuracy.md
# A run that was stopped goes on where it was; results stay in build/accuracy (remove it to start
# over). Needs scripts/get-cifar10.sh; each run takes about half an hour on two cores.
set -eu
cd "$(dirname "$0")/.."
qnetc=build/bin/qnetc
net=examples/resnet20.qnet
f32=${F32:-examples/resnet20-f32.safetensors}
out=${OUT:-build/accuracy}
recipe=${RECIPE:---epochs=15 --lr=0.04 -D decay=1e-4 -D warmup=1 --distill=$f32}
mkdir -p "$out"
[ $# -gt 0 ] || set -- lqnets:2 qil:2 lcq:2 dq:2 lcq:3 lqnets:3

field() { sed -n "s/.*\"$2\": *\([0-9.]*\).*/\1/p" "$1"; }
# evaluate ENGINE WEIGHTS REPORT OPTIONS...: predictions and report REPORT.txt, REPORT.json
evaluate() {
  engine=$1 weights=$2 report=$3
  shift 3
  $qnetc eval $net --weights="$weights" --data=cifar10 --engine="$engine" --json "$@" \
    --predictions="$out/$report.txt" >"$out/$report.json"
}

for run in "$@"; do
  method=${run%%:*} bits=${run##*:}
  name=$method-w${bits}a$bits
  options="--quantizer=$method --bits=$bits"
  if [ ! -f "$out/$name.done" ]; then
    echo "$name"
    # shellcheck disable=SC2086
    $qnetc train $net --data=cifar10 --init="$f32" $recipe $options --checkpoint-steps=100 \
      --resume -o "$out/$name.safetensors"
    touch "$out/$name.done"
  fi
  # shellcheck disable=SC2086
  $qnetc pack $net --weights="$out/$name.safetensors" $options -o "$out/$name.packed.safetensors"
  # shellcheck disable=SC2086
  evaluate nn "$out/$name.safetensors" "$name.nn" $options
  # shellcheck disable=SC2086
  evaluate jit "$out/$name.packed.safetensors" "$name.jit" $options
done

echo
echo "ResNet-20, CIFAR-10, 10000 test images; $recipe"
printf '%-14s %18s %11s %16s %13s\n' run "training evaluation" "packed, JIT" "images differing" \
  "packed bytes"
for run in "$@"; do
  name=${run%%:*}-w${run##*:}a${run##*:}
  printf '%-14s %19s %11s %16s %13s\n' "$name" "$(field "$out/$name.nn.json" correct)" \
    "$(field "$out/$name.jit.json" correct)" \
    "$(paste "$out/$name.nn.txt" "$out/$name.jit.txt" | awk '$1 != $2 {n++} END {print n + 0}')" \
    "$(wc -c <"$out/$name.packed.safetensors")"
done
