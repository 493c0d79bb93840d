#!/bin/sh
# Top-1 of ResNet-20 on CIFAR-10 by learned quantizer: fine-tunes a network from its f32 weights,
# every method by one recipe, following the mean of the f32 networks in examples/, packs the result and
# lets the JIT count on all test images.
# usage: bench/accuracy.sh [METHOD:BITS ...]    default: four methods at 2 bits, two at 3
# A run takes half an hour on two quiet cores, the first one two thirds longer; one that was stopped
# goes on where it was. Results stay in build/accuracy (remove it to start over). Needs scripts/get-cifar10.sh.
# Others by environment: QNETC, the program; NET, the network, and F32, its f32 weights; EPOCHS; OUT, the
# directory, one for each network and recipe; RECIPE.
set -eu
cd "$(dirname "$0")/.."
qnetc=${QNETC:-build/bin/qnetc}
net=${NET:-examples/resnet20.qnet}
f32=${F32:-${net%.qnet}-f32.safetensors}
out=${OUT:-build/accuracy/$(basename "$net" .qnet)}
teachers=""
for weights in examples/*-f32.safetensors; do
  teachers="$teachers --distill=${weights%-f32.safetensors}.qnet:$weights"
done
# All methods and networks see the same batches: what is followed says of them is computed once.
answers=$(dirname "$out")/answers.safetensors
default="--epochs=${EPOCHS:-20} --lr=0.05 -D muon=0.15 -D warmup=1 -D quantizer_lr=0.1 -D follow=0.9$teachers
  --distill-cache=$answers"
recipe=${RECIPE:-$default}

name_of() { echo "${1%%:*}-w${1##*:}a${1##*:}"; }
options_of() { echo "--quantizer=${1%%:*} --bits=${1##*:}"; }
field() { sed -n "s/.*\"$2\": *\([0-9.]*\).*/\1/p" "$1"; }

train() {
  name=$(name_of "$1")
  if [ -f "$out/$name.done" ]; then
    [ "$(cat "$out/$name.done")" = "$recipe" ] && return 0
    echo "$out/$name.done: made by another recipe, $(cat "$out/$name.done"); remove it, or set OUT" >&2
    exit 1
  fi
  echo "$name"
  # shellcheck disable=SC2046,SC2086
  $qnetc train $net --data=cifar10 --init="$f32" $recipe $(options_of "$1") --checkpoint-steps=100 \
    --resume -o "$out/$name.safetensors"
  echo "$recipe" >"$out/$name.done"
}

# evaluate RUN ENGINE WEIGHTS: its predictions and report
evaluate() {
  report=$out/$(name_of "$1").$2
  # shellcheck disable=SC2046
  $qnetc eval $net --weights="$3" --data=cifar10 --engine="$2" --json $(options_of "$1") \
    --predictions="$report.txt" >"$report.json"
}

# The weights of the epoch that had most test images right are packed, as `qnetc train` keeps them.
table_row() {
  name=$out/$(name_of "$1")
  # shellcheck disable=SC2046
  $qnetc pack $net --weights="$name.best.safetensors" $(options_of "$1") -o "$name.packed.safetensors"
  evaluate "$1" nn "$name.best.safetensors"
  evaluate "$1" jit "$name.packed.safetensors"
  tail -n 1 "$name.metrics.jsonl" >"$name.last.json"
  printf '%-14s %10s %10s %11s %16s %13s\n' "$(name_of "$1")" \
    "$(field "$name.last.json" test_correct)" "$(field "$name.nn.json" correct)" \
    "$(field "$name.jit.json" correct)" \
    "$(paste "$name.nn.txt" "$name.jit.txt" | awk '$1 != $2 {n++} END {print n + 0}')" \
    "$(wc -c <"$name.packed.safetensors")"
}

mkdir -p "$out"
[ $# -gt 0 ] || set -- lqnets:2 dq:2 qil:2 lcq:2 lqnets:3 dq:3
for run in "$@"; do
  train "$run"
done

echo
echo "$(basename "$net" .qnet), CIFAR-10, 10000 test images;" $recipe
printf '%-14s %10s %10s %11s %16s %13s\n' run "last epoch" "best epoch" "packed, JIT" \
  "images differing" "packed bytes"
for run in "$@"; do
  table_row "$run"
done
