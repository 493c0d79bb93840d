#!/bin/sh
# The main job on real data: trains examples/fashion.qnet on Fashion-MNIST, in f32 and with LQ-Nets at
# 2 bits, compiles it for three architectures and shows that every engine gives the same answers.
# Trained weights stay in build/demo and are used again; `rm -r build/demo` starts over.
set -eu
cd "$(dirname "$0")/.."
qnetc=build/bin/qnetc
out=build/demo
net=examples/fashion.qnet
data=fashion-mnist
images=/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz
mkdir -p "$out"

say() { printf '\n%s\n' "$*"; }
field() { sed -n "s/.*\"$2\": *\([0-9.]*\).*/\1/p" "$1"; }

if [ ! -f "$out/f32.safetensors" ] || [ ! -f "$out/w2a2.safetensors" ]; then
  say "Training on 60000 images takes six to nine minutes on two cores. Later runs reuse the weights."
  say "1. The f32 network"
  $qnetc train $net --data=$data --quantizer=none --epochs=5 -o "$out/f32.safetensors.new"
  say "2. LQ-Nets at 2 bit weights and activations, from the f32 weights"
  $qnetc train $net --data=$data --init="$out/f32.safetensors.new" --epochs=5 --lr=0.02 \
    -o "$out/w2a2.safetensors"
  mv "$out/f32.safetensors.new" "$out/f32.safetensors"
fi

w="$out/w2a2.safetensors"
# evaluate ENGINE IMAGES: predictions, logits and a report in $out.
evaluate() {
  $qnetc eval $net --weights="$w" --data=$data --engine="$1" --limit="$2" --json \
    --predictions="$out/$1.txt" --logits="$out/$1-$2.npy" >"$out/$1.json"
}

say "3. Every engine on the test images"
$qnetc eval $net --weights="$out/f32.safetensors" --data=$data --quantizer=none --engine=nn --json \
  >"$out/f32.json"
for engine in nn quant jit; do evaluate $engine 10000; done
for engine in bits loop; do evaluate $engine 100; done
$qnetc eval $net --weights="$w" --data=$data --engine=jit --limit=100 --json \
  --logits="$out/jit-100.npy" >/dev/null
zcat $images | tail -c +17 | head -c $((500 * 784)) >"$out/images500.bin"
zcat "$(dirname $images)/t10k-labels-idx1-ubyte.gz" | tail -c +9 | od -An -v -tu1 -w1 |
  tr -d ' ' >"$out/labels.txt"

for arch in aarch64 riscv64 x86_64; do
  $qnetc $net --weights="$w" --target=$arch --name=fashion -o "$out/$arch.o" >"$out/$arch.txt"
done
for arch in aarch64 riscv64; do
  cp "$out/$arch.h" "$out/fashion.h"
  $arch-linux-gnu-gcc -O2 -static -I"$out" examples/link/classify.c "$out/$arch.o" \
    -o "$out/classify-$arch"
  qemu-$arch "$out/classify-$arch" <"$out/images500.bin" >"$out/$arch.classes"
done
build/bin/bench_net $net "$out/f32.safetensors" "$w" >"$out/time.json"

# How many of the first N predictions are right.
correct() { paste "$1" "$out/labels.txt" | head -n "$2" | awk '$1 == $2 {n++} END {print n + 0}'; }
# How many of the first N predictions of two engines differ.
differ() {
  head -n "$3" "$1" >"$out/a"
  head -n "$3" "$2" >"$out/b"
  paste "$out/a" "$out/b" | awk -v n="$3" '$1 != $2 {k++} END {print k + (NR != n ? n : 0)}'
}

correct_f32=$(field "$out/f32.json" correct)
correct_train=$(correct "$out/nn.txt" 10000)
correct_quant=$(correct "$out/quant.txt" 10000)
correct_jit=$(correct "$out/jit.txt" 10000)
correct500_jit=$(correct "$out/jit.txt" 500)
correct500_aarch64=$(correct "$out/aarch64.classes" 500)
correct500_riscv64=$(correct "$out/riscv64.classes" 500)
correct100_bits=$(correct "$out/bits.txt" 100)
correct100_loop=$(correct "$out/loop.txt" 100)
mismatches=0
for pair in "nn.txt quant.txt 10000" "nn.txt jit.txt 10000" "jit.txt aarch64.classes 500" \
  "jit.txt riscv64.classes 500" "jit.txt bits.txt 100" "jit.txt loop.txt 100"; do
  set -- $pair
  mismatches=$((mismatches + $(differ "$out/$1" "$out/$2" "$3")))
done
logits=equal
for engine in bits loop; do
  cmp -s "$out/$engine-100.npy" "$out/jit-100.npy" || logits=DIFFERENT
done
bytes_f32=$($qnetc opt $net --elide-blobs | awk '/state .*(weight|bias|running_)/ {
  match($0, /tensor<[0-9x]*/); n = split(substr($0, RSTART + 7, RLENGTH - 7), d, "x"); p = 4
  for (i = 1; i <= n; i++) if (d[i] != "") p *= d[i]
  s += p } END {print s + 0}')
bytes_object_rodata=$(size -A "$out/x86_64.o" | awk '/^\.rodata/ {s += $2} END {print s + 0}')
us_f32=$(field "$out/time.json" us_f32)
us_jit=$(field "$out/time.json" us_jit)

cat >"$out/summary.json.new" <<EOF
{
  "correct_f32": $correct_f32,
  "correct_train": $correct_train,
  "correct_quant": $correct_quant,
  "correct_jit": $correct_jit,
  "mismatches": $mismatches,
  "correct500_jit": $correct500_jit,
  "correct500_aarch64": $correct500_aarch64,
  "correct500_riscv64": $correct500_riscv64,
  "bytes_f32": $bytes_f32,
  "bytes_object_rodata": $bytes_object_rodata,
  "us_f32": $us_f32,
  "us_jit": $us_jit
}
EOF
mv "$out/summary.json.new" "$out/summary.json"

row() { printf '  %-46s %s\n' "$1" "$2"; }
say "Fashion-MNIST, examples/fashion.qnet, weights and activations of 2 bits (LQ-Nets)"
echo
row "correct of 10000: f32 network" "$correct_f32"
row "  W2A2, training evaluation" "$correct_train"
row "  W2A2, interpreter of level quant" "$correct_quant"
row "  W2A2, native code (JIT)" "$correct_jit"
row "correct of the first 500: JIT" "$correct500_jit"
row "  aarch64 object under qemu" "$correct500_aarch64"
row "  riscv64 object under qemu" "$correct500_riscv64"
row "correct of the first 100: bits, loop interpreters" "$correct100_bits, $correct100_loop (logits $logits)"
row "images on which two quantized engines differ" "$mismatches"
row "read-only bytes of the object : f32 weights" "$bytes_object_rodata : $bytes_f32"
row "time per image, one thread: oneDNN f32 : JIT" "$us_f32 us : $us_jit us"
say "To link the network into your program (examples/link/classify.c is a whole one):"
cat <<EOF

    #include "fashion.h"
    static _Alignas(FASHION_ARENA_ALIGN) unsigned char arena[FASHION_ARENA_BYTES];
    float logits[FASHION_OUTPUT_COUNT];
    fashion_run(image, logits, arena);          /* image: 28x28 bytes */

    $qnetc $net --weights=$w --target=aarch64 --name=fashion -o fashion.o
    aarch64-linux-gnu-gcc -O2 your_program.c fashion.o
EOF
