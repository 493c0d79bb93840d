#!/bin/sh
# The command line as a user meets it: train, eval, run, compile, and every way to get it wrong.
set -u
. "$(dirname "$0")/lib.sh"
cd "$scratch" || exit 1
net="$root/examples/fashion.qnet"
source=/usr/share/datasets/fashion-mnist

small_data data

# ---- train, eval, run -------------------------------------------------------------------------
check train-f32 $qnetc train "$net" --data=data --quantizer=none --epochs=2 --lr=0.02 -o f32.safetensors
check train-w2a2 $qnetc train "$net" --data=data --init=f32.safetensors --epochs=2 --lr=0.01 \
  -o w2.safetensors
check train-same-seed sh -c "$qnetc train '$net' --data=data --epochs=1 --seed=7 -o a.safetensors &&
  $qnetc train '$net' --data=data --epochs=1 --seed=7 -o b.safetensors && cmp a.safetensors b.safetensors"
check train-quiet sh -c "$qnetc train '$net' --data=data --epochs=1 --json -o c.safetensors 2>log |
  grep -q '\"correct\": ' && ! grep -q '\\[=' log"
for engine in nn quant bits loop jit; do
  limit=200
  [ $engine = loop ] && limit=20
  check eval-$engine $qnetc eval "$net" --weights=w2.safetensors --data=data --engine=$engine \
    --limit=$limit --predictions=$engine.txt --logits=$engine.npy
done
$qnetc eval "$net" --weights=w2.safetensors --data=data --limit=20 --logits=jit20.npy >/dev/null
for engine in nn quant bits; do check logits-$engine cmp $engine.npy jit.npy; done
check logits-loop cmp loop.npy jit20.npy
check eval-f32 $qnetc eval "$net" --weights=f32.safetensors --quantizer=none --engine=nn --data=data \
  --logits=f32nn.npy
check eval-f32-jit $qnetc eval "$net" --weights=f32.safetensors --quantizer=none --data=data \
  --logits=f32jit.npy
check logits-f32 cmp f32nn.npy f32jit.npy
for cpu in haswell x86-64 x86-64-v2; do
  check eval-$cpu $qnetc eval "$net" --weights=w2.safetensors --data=data --target=x86_64 --mcpu=$cpu \
    --logits=$cpu.npy
  check logits-$cpu cmp $cpu.npy jit.npy
done

# First and last layer of 8 bits instead of f32.
sed 's/except first, last/except first = 8, last = 8/' "$net" >eight.qnet
check train-8bit $qnetc train eight.qnet --data=data --epochs=2 --lr=0.02 -o eight.safetensors
for engine in nn quant jit; do
  check eval-8bit-$engine $qnetc eval eight.qnet --weights=eight.safetensors --data=data \
    --engine=$engine --logits=eight-$engine.npy
done
for engine in quant jit; do check logits-8bit-$engine cmp eight-nn.npy eight-$engine.npy; done

# One image in every form that `run` reads.
zcat "$source/t10k-images-idx3-ubyte.gz" | tail -c +17 | head -c 784 >raw
{ printf 'P5\n28 28\n255\n' && cat raw; } >image.pgm
{ printf "\223NUMPY\001\000\166\000%-117s\n" "{'descr': '|u1', 'fortran_order': False, 'shape': (28, 28), }" &&
  cat raw; } >image.npy
check run-pgm sh -c "$qnetc run '$net' image.pgm --weights=w2.safetensors --json >pgm.json"
check run-npy sh -c "$qnetc run '$net' image.npy --weights=w2.safetensors --json >npy.json"
check run-same cmp pgm.json npy.json
check run-class sh -c "[ \$(sed 's/.*\"class\": \\([0-9]*\\).*/\\1/' pgm.json) = \$(head -n 1 jit.txt) ]"

# The first test images once more, as files in a directory for each class; any order counts the same.
mkdir -p files/val && zcat data/t10k-images-idx3-ubyte.gz | tail -c +17 >pixels
tail -c +9 data/t10k-labels-idx1-ubyte | head -c 60 | od -An -v -tu1 -w1 | tr -d ' ' |
  while read -r label; do
    mkdir -p "files/train/$label" "files/val/$label"
    n=$((${n:--1} + 1))
    { printf 'P5\n28 28\n255\n' && tail -c +$((n * 784 + 1)) pixels | head -c 784; } >"files/val/$label/$n.pgm"
  done
correct_of() { $qnetc eval "$net" --weights=w2.safetensors --data="$1" --limit=60 --json |
  sed 's/, "seconds".*//'; }
check eval-files [ -n "$(correct_of files)" -a "$(correct_of files)" = "$(correct_of data)" ]
printf 'P5\n28 28\n255\nshort' >files/val/0/1000.pgm
check bad-file fails 1 "val/0/1000.pgm: error: the image needs 784 bytes" \
  $qnetc eval "$net" --weights=w2.safetensors --data=files

# Training on image files, with every augmentation: the same seed gives the same weights.
for n in $(seq 0 99); do
  mkdir -p "files/train/$((n % 10))"
  { printf 'P5\n28 28\n255\n' && tail -c +$((n * 784 + 1)) pixels | head -c 784; } \
    >"files/train/$((n % 10))/$n.pgm"
done
rm files/val/0/1000.pgm
sed 's/augment = .*/augment = resized_crop, crop(pad = 2), flip, jitter/; s/batch = [0-9]*/batch = 50/' \
  "$net" >augmented.qnet
check train-files sh -c "for i in 1 2; do $qnetc train augmented.qnet --data=files --epochs=1 \
  -o files\$i.safetensors || exit 1; done; cmp files1.safetensors files2.safetensors"

# ---- weights that were not trained at these bits ------------------------------------------------
check bits3-warns sh -c "$qnetc eval '$net' --weights=w2.safetensors --bits=3 --data=data 2>err &&
  grep -q 'warning: .*not trained' err"
check bits4-calibrated sh -c "$qnetc eval '$net' --weights=f32.safetensors --bits=4 --data=data \
  --calibrate=data --json 2>/dev/null"
check bits-engines sh -c "$qnetc eval '$net' --weights=f32.safetensors --bits=3 --data=data --logits=b3.npy \
  2>/dev/null && $qnetc eval '$net' --weights=f32.safetensors --bits=3 --data=data --engine=quant \
  --logits=q3.npy 2>/dev/null && cmp b3.npy q3.npy"

# ---- packed weights -----------------------------------------------------------------------------
check pack $qnetc pack "$net" --weights=w2.safetensors -o p2.safetensors
check pack-json sh -c "$qnetc pack '$net' --weights=w2.safetensors -o p3.safetensors --json |
  grep -q '\"bytes\": '$(wc -c <p2.safetensors)'}' && cmp p2.safetensors p3.safetensors"
check pack-small [ $(($(wc -c <p2.safetensors) * 5)) -lt "$(wc -c <w2.safetensors)" ]
for engine in nn jit; do
  check pack-eval-$engine $qnetc eval "$net" --weights=p2.safetensors --data=data --engine=$engine \
    --logits=packed-$engine.npy
  check pack-logits-$engine cmp packed-$engine.npy jit.npy
done
for arch in x86_64 aarch64 riscv64; do
  check pack-$arch sh -c "$qnetc '$net' --weights=w2.safetensors --target=$arch -o w2.o &&
    $qnetc '$net' --weights=p2.safetensors --target=$arch -o p2.o && cmp w2.o p2.o"
done
check pack-run sh -c "$qnetc run '$net' image.pgm --weights=p2.safetensors --json | cmp - pgm.json"
check pack-refit sh -c "$qnetc pack '$net' --weights=f32.safetensors --bits=3 -o b3.safetensors &&
  $qnetc eval '$net' --weights=b3.safetensors --bits=3 --data=data --logits=p3.npy && cmp p3.npy b3.npy"
check pack-init sh -c "$qnetc train '$net' --data=data --init=p2.safetensors --epochs=1 \
  -o from-packed.safetensors 2>err && head -n 1 err | grep -q 'warning: packed weights'"
check pack-other-bits fails 1 "asks for lqnets 3" $qnetc eval "$net" --weights=p2.safetensors --bits=3 --data=data
check pack-f32 fails 1 "does not quantize it" $qnetc eval "$net" --weights=p2.safetensors --quantizer=none \
  --data=data
check pack-nothing fails 1 "nothing to pack" $qnetc pack "$net" --weights=f32.safetensors --quantizer=none \
  -o none.safetensors
check pack-itself fails 1 "give another name" $qnetc pack "$net" --weights=w2.safetensors -o ./w2.safetensors
check pack-stdout fails 1 "-o takes a file" $qnetc pack "$net" --weights=w2.safetensors -o -
check pack-needs fails 2 "nowhere to save" $qnetc pack "$net" --weights=w2.safetensors
head -c 3000 p2.safetensors >cut-p2.safetensors
check pack-cut fails 1 "cut-p2.safetensors" $qnetc eval "$net" --weights=cut-p2.safetensors --data=data
check pack-other-net fails 1 "p2.safetensors" $qnetc eval "$root/examples/tiny.qnet" --weights=p2.safetensors \
  --data=data

# ---- weights whose layers have other names --------------------------------------------------------
sed 's/block layer/block unit/; s/layer(64/unit(64/g; s/layer(128)/unit(128)/; s/"stem"/"first"/' "$net" >names.qnet
names="$qnetc eval names.qnet --weights=f32.safetensors --quantizer=none --data=data"
check names-order sh -c "$names --logits=names.npy 2>err && cmp names.npy f32jit.npy &&
  grep -q 'warning: .*matched by order' err && grep -q 'note: unit3.conv1 = layer3.conv1' err"
sed -n 's/.*note: //p' err >pairs.map
check names-map sh -c "$names --map=pairs.map --logits=map.npy 2>err && cmp map.npy f32jit.npy && ! grep -q warning err"
# A file that is both the start and the network to follow lists its pairs once.
check names-once sh -c "$qnetc train names.qnet --init=f32.safetensors --distill=f32.safetensors --data=data \
  --epochs=1 -o once.safetensors 2>err && [ \$(grep -c 'matched by order' err) = 1 ]"
# What quantizers learned goes with their layers.
for form in w2 p2; do
  check names-map-$form sh -c "$qnetc eval names.qnet --weights=$form.safetensors --map=pairs.map --data=data \
    --logits=map-$form.npy 2>err && cmp map-$form.npy jit.npy && ! grep -q warning err"
done
echo 'unit9.conv1 = layer1.conv1' >bad.map
check names-bad-map fails 1 "bad.map: error: line 1: the network has no layer 'unit9.conv1'" $names --map=bad.map
sed 's/|> global/|> conv(16, 1x1, name = "more") |> conv(128, 1x1, name = "again") |> global/' "$net" >more.qnet
check names-missing fails 1 "are missing: more.weight, again.weight" $qnetc eval more.qnet \
  --weights=f32.safetensors --quantizer=none --data=data
check init-some sh -c "$qnetc train more.qnet --init=f32.safetensors --quantizer=none --data=data --epochs=1 \
  -o more.safetensors 2>err && grep -q 'these start from initial values.*: more.weight, again.weight' err"

# ---- outputs ------------------------------------------------------------------------------------
for kind in o s ll bc so; do
  check write-$kind sh -c "$qnetc '$net' --weights=w2.safetensors -o model.$kind && [ -s model.$kind ] &&
    [ -s model.h ]"
done
printf '#include "model.h"\nint main(void) { return FASHION_ARENA_BYTES == 0; }\n' >use.c
check header-c99 gcc -std=c99 -pedantic -Wall -Wextra -Werror -c use.c -o use.o
cp use.c use.cc
command -v g++ >/dev/null && check header-c++ g++ -Wall -Wextra -Werror -c use.cc -o use.oo
check same-bytes sh -c "$qnetc '$net' --weights=w2.safetensors -o one.o && $qnetc '$net' \
  --weights=w2.safetensors -o two.o && cmp one.o two.o"
$qnetc "$net" --weights=w2.safetensors --json -o 'a"b.o' >quoted.json
check json-quotes grep -qF 'a\"b.h' quoted.json
check remarks sh -c "$qnetc '$net' --weights=w2.safetensors -Rlowering -o model.o 2>err && grep -q popcount err"
for arch in x86_64 aarch64 riscv64; do
  check target-$arch $qnetc "$net" --weights=w2.safetensors --target=$arch -o $arch.o
done
check target-help sh -c "$qnetc --target=help | grep -q riscv64"
check help sh -c "$qnetc --help | grep -q -- --weights && $qnetc train --help | grep -q -- --epochs"
check version sh -c "$qnetc --version | grep -q LLVM"

# ---- opt ------------------------------------------------------------------------------------------
check opt-stdin sh -c "$qnetc opt '$net' | $qnetc opt - | $qnetc opt >/dev/null"
check opt-print sh -c "$qnetc opt '$net' --passes=batch{n=2} --print-ir-after-all --print-ir-before=batch \
  --verify-each --time-passes 2>&1 >/dev/null | grep -q batch"
for level in quant bits loop; do
  check opt-$level sh -c "$qnetc opt '$net' --weights=w2.safetensors --to=$level | $qnetc opt - --elide-blobs |
    grep -q 'module @fashion $level'"
  check compile-$level sh -c "$qnetc opt '$net' --weights=w2.safetensors --to=$level --target=native -o level.qir &&
    $qnetc level.qir -o level.o && cmp one.o level.o"
done
check opt-help sh -c "$qnetc opt --help-passes | grep -q decompose && $qnetc opt --help-ops | grep -q bits.conv2d"

# ---- mistakes -------------------------------------------------------------------------------------
check usage fails 2 "did you mean '--weights'" $qnetc eval "$net" --weihgts=x
check usage-verb fails 2 "does not go with" $qnetc eval "$net" --epochs=3
check usage-number fails 2 "whole number" $qnetc train "$net" --epochs=many
check usage-zero fails 2 "from 1 to" $qnetc train "$net" --data=data -o x.safetensors --epochs=0
check usage-threads fails 2 "from 1 to 1024" $qnetc eval "$net" --weights=w2.safetensors --data=data \
  --threads=100000
check usage-rate fails 2 "not negative" $qnetc train "$net" --data=data -o x.safetensors --lr=-1
check needs-input fails 2 "no input" $qnetc train --data=data -o x.safetensors
check needs-weights fails 2 "no weights" $qnetc "$net" -o x.o
cp "$net" net.qir
check needs-weights-qir fails 2 "no weights" $qnetc eval net.qir --data=data
check needs-data fails 2 "no data" $qnetc eval "$net" --weights=w2.safetensors
check needs-image fails 2 "no image" $qnetc run "$net" --weights=w2.safetensors
check needs-output fails 2 "nowhere to save" $qnetc train "$net" --data=data
check stdin-output fails 1 "add -o" $qnetc - --weights=w2.safetensors
check train-stdout fails 1 "takes a file" $qnetc train "$net" --data=data -o -
check train-nowhere fails 1 "nowhere/x.safetensors" $qnetc train "$net" --data=data -o nowhere/x.safetensors
check train-nowhere-early test ! -s "$scratch/out"
check parameter-form fails 1 "NAME=VALUE" $qnetc opt "$net" -Dclasses
check parameter-name fails 1 "did you mean 'classes'" $qnetc opt "$net" -Dclases=3
check quantizer-bits fails 1 "add --bits=8" $qnetc eval "$net" --weights=f32.safetensors --data=data \
  --quantizer=uniform
check quantizer-uniform $qnetc eval "$net" --weights=f32.safetensors --data=data --quantizer=uniform --bits=8
printf 'net flat { input image: u8[1, 28, 28] normalize(mean = 0, std = 1)
  quantize lqnets(weights = 2, activations = 2) except first, last
  return image |> flatten |> dense(10) }\n' >flat.qnet
check nothing-quantized sh -c "$qnetc train flat.qnet --data=data --epochs=1 -o flat.safetensors 2>err &&
  grep -q 'flat.qnet:2:.*no layer is quantized' err"
check no-input fails 1 "No such file" $qnetc eval nothing.qnet --weights=w2.safetensors --data=data
check no-weights fails 1 "missing.safetensors" $qnetc eval "$net" --weights=missing.safetensors --data=data
check no-data fails 1 "fashion-mnist" $qnetc eval "$net" --weights=w2.safetensors --data=fashion-mnits
check no-cifar10 fails 1 "run scripts/get-cifar10.sh" env -u QNET_DATA -u XDG_CACHE_HOME HOME="$scratch" \
  $qnetc train "$root/examples/resnet20.qnet" --data=cifar10 -o x.safetensors
mkdir bin && printf '#!/bin/sh\nexit 1\n' >bin/npm && chmod +x bin/npm
check no-network fails 1 "npm could not fetch" env PATH="$scratch/bin:$PATH" "$root/scripts/get-cifar10.sh" \
  "$scratch"
check no-network-no-data test ! -e cifar10
check no-target fails 1 "aarch64" $qnetc "$net" --weights=w2.safetensors --target=arch64 -o x.o
check bad-cpu fails 1 "cortex-a72" $qnetc "$net" --weights=w2.safetensors --target=aarch64 --mcpu=cortex-a7222 -o x.o
check bad-suffix fails 1 ".so" $qnetc "$net" --weights=w2.safetensors -o x.exe
check bad-bits fails 2 "1 to 8 or 32" $qnetc eval "$net" --weights=w2.safetensors --data=data --bits=77
check bad-pass fails 1 "did you mean" $qnetc opt "$net" --passes=bacth
check bad-engine fails 1 "engines are" $qnetc eval "$net" --weights=w2.safetensors --data=data --engine=gpu
head -c 1000 w2.safetensors >short.safetensors
check short-weights fails 1 "short.safetensors" $qnetc eval "$net" --weights=short.safetensors --data=data
seeds="$root/tests/fuzz/seeds"
check other-images-train fails 1 "images are 1x28x28 (C,H,W), the network takes 1x8x8" $qnetc train \
  "$seeds/small.qnet" --data=data -o x.safetensors
check other-images-eval fails 1 "the network takes 1x8x8" $qnetc eval "$seeds/small.qnet" \
  --weights="$seeds/small.safetensors" --data=data
check other-images-calibrate fails 1 "the network takes 1x8x8" $qnetc "$seeds/small.qnet" --bits=3 \
  --weights="$seeds/small.safetensors" --calibrate=data -o x.o
check few-outputs fails 1 "10 classes, but the network has 4 outputs" $qnetc train "$net" -Dclasses=4 \
  --data=data -o x.safetensors
sed 's/u8\(.*\) normalize.*/f32\1/' "$net" >f32.qnet
check f32-input fails 1 "declare its input as u8" $qnetc train f32.qnet --data=data -o x.safetensors
mkdir cut && cp data/* cut/ && head -c 5000 data/train-images-idx3-ubyte >cut/train-images-idx3-ubyte
check short-data fails 1 "train-images" $qnetc train "$net" --data=cut -o x.safetensors
check nothing-written test ! -e x.safetensors -a ! -e x.o
check other-net fails 1 "needs" $qnetc eval "$root/examples/tiny.qnet" --weights=w2.safetensors --data=data
cp w2.safetensors old.safetensors
check disk-full fails 1 "old.safetensors: error: cannot write: File too large" \
  sh -c "ulimit -f 8; exec $qnetc train '$net' --data=data --epochs=1 -o old.safetensors"
check disk-full-keeps cmp old.safetensors w2.safetensors
check disk-full-leaves-nothing sh -c "[ -z \"\$(ls | grep -v '^old.safetensors$' | grep old.safetensors)\" ]"
check no-directory fails 1 "nowhere/x.o" $qnetc "$net" --weights=w2.safetensors -o nowhere/x.o
check stdout-full sh -c "! $qnetc --help >/dev/full"
finish
