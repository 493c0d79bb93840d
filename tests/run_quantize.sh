#!/bin/sh
# What a .qnet and the command line say about quantizers, all the way: a small network is trained, and
# every engine gives the logits of the training evaluation.
set -u
. "$(dirname "$0")/lib.sh"
cd "$scratch" || exit 1
small_data data

# net NAME LINE: a network with that line at its head.
net() {
  cat >"$1.qnet" <<END
net small {
  input image: u8[1, 28, 28] normalize(mean = [0.2860], std = [0.3530])
  $2
  block residual(x) {
    y = x |> conv(8, 3x3, pad = 1) |> bn |> relu |> conv(8, 3x3, pad = 1) |> bn
    return relu(x + y)
  }
  x = image |> conv(8, 3x3, stride = 2) |> bn |> relu |> max_pool(2)
  x = residual(x)
  return x |> flatten |> dense(16, bias = false) |> bn |> relu |> dense(10)
}
train { epochs = 1 batch = 64 optimizer = sgd(lr = 0.02) }
END
}

# engines NAME [OPTION...]: all engines on 40 images of $data, the slow one on 4.
data=data
engines() {
  of="$1"
  shift
  for engine in nn quant bits loop jit; do
    limit=40
    [ $engine = loop ] && limit=4
    $qnetc eval "$of.qnet" --weights="$of.safetensors" --data=$data --engine=$engine --limit=$limit \
      --logits="$of.$engine.npy" "$@" || return 1
  done
  $qnetc eval "$of.qnet" --weights="$of.safetensors" --data=$data --limit=4 --logits="$of.4.npy" "$@" &&
    cmp "$of.nn.npy" "$of.quant.npy" && cmp "$of.nn.npy" "$of.bits.npy" &&
    cmp "$of.nn.npy" "$of.jit.npy" && cmp "$of.4.npy" "$of.loop.npy"
}

# way NAME LINE [OPTION...]: train, evaluate on all engines, compile for every target.
way() {
  name="$1"
  net "$name" "$2"
  shift 2
  check "$name-train" $qnetc train "$name.qnet" --data=data --seed=3 -o "$name.safetensors" "$@"
  check "$name-engines" engines "$name" "$@"
  for target in aarch64 riscv64; do
    check "$name-$target" $qnetc "$name.qnet" --weights="$name.safetensors" --target=$target -o "$name.o" "$@"
  done
}

# remark NAME TEXT: -Rlowering says it.
remark() { $qnetc "$1.qnet" --weights="$1.safetensors" -Rlowering -o "$1.o" 2>&1 | grep -qF -- "$2"; }

# remark_of NAME TEXT COUNT: so many layers of the narrow network have it.
remark_of() {
  [ "$($qnetc "$1.qnet" --weights="$1.safetensors" -Dwidth=4 -Rlowering -o "$1.o" 2>&1 |
    grep -cF -- "$2")" = "$3" ]
}

# ---- one side only ------------------------------------------------------------------------------
way weights 'quantize lsq(weights = 3, activations = f32) except first, last'
check weights-remark remark weights "f32, as its activations are f32 (weights of 3 bits, decoded)"
way activations 'quantize weights = f32, activations = lqnets(bits = 2) except last'
check activations-remark remark activations "f32, as its weights are f32 (activations of 2 bits)"
way mixed 'quantize lqnets' --bits=3/2
way weights-8 'quantize lsq' --bits=8/32
way activations-8 'quantize pact(weights = f32, activations = 8)'
# Every method that learns, down to popcount code: the two convolutions of the block and the dense layer.
popcounts() {
  [ "$($qnetc "$1.qnet" --weights="$1.safetensors" -Rlowering -o "$1.o" 2>&1 | grep -c ": remark: popcount")" = 3 ]
}
for method in lqnets qil lcq dq apot lsq; do
  for bits in 2 3; do
    way $method-$bits "quantize $method(weights = $bits, activations = $bits) except first, last"
    check $method-$bits-popcount popcounts $method-$bits
  done
done
# Additive bases beyond four planes go by codes.
way lqnets-5 'quantize lqnets(weights = 5, activations = 6) except first, last'
way dq-7 'quantize dq(weights = 7, activations = 7) except first, last'
check fitted-32 engines weights --bits=2/32 --calibrate=data
check bits-32 fails 2 "1 to 8 or 32" $qnetc eval weights.qnet --weights=weights.safetensors --data=data --bits=3/9
check bits-slash fails 2 "3/2 or 2/32" $qnetc eval weights.qnet --weights=weights.safetensors --data=data --bits=3/
check bits-none fails 1 "quantize nothing" $qnetc eval weights.qnet --weights=weights.safetensors --data=data \
  --bits=32

# ---- by layer and block -------------------------------------------------------------------------
# Two layers read x, with activation quantizers of their own; the block's first has none.
cat >own.qnet <<END
net small {
  input image: u8[1, 28, 28] normalize(mean = [0.2860], std = [0.3530])
  quantize lqnets(weights = 2, activations = 2) except first = 8, last = 8
  block branches(x, q) {
    quantize q
    a = x |> conv(8, 3x3, pad = 1) |> bn
    b = x |> conv(8, 1x1, quantize = lsq(weights = 4, activations = 3)) |> bn
    c = x |> conv(8, 1x1, quantize = (weights = ternary, activations = f32)) |> bn
    return relu(a + b + c)
  }
  x = image |> conv(8, 3x3, stride = 2) |> bn |> relu |> max_pool(2)
  x = x |> branches(lsq(weights = 2, activations = 2)) |> branches(none)
  x = x |> conv(8, 3x3) |> bn |> relu
  return x |> flatten |> dense(10)
}
train { epochs = 1 batch = 64 optimizer = sgd(lr = 0.02) }
END
check own-train $qnetc train own.qnet --data=data --seed=3 -o own.safetensors
check own-engines engines own
check own-remark remark own "f32, as its activations are f32 (weights of 2 bits, decoded)"
for target in aarch64 riscv64; do
  check own-$target $qnetc own.qnet --weights=own.safetensors --target=$target -o own.o
done
check own-none sh -c "$qnetc eval own.qnet --weights=own.safetensors --data=data --limit=20 --quantizer=none"
# Only the command line or a layer names a quantizer.
sed '/quantize lqnets/d' own.qnet >layers.qnet
check layers-train $qnetc train layers.qnet --data=data --seed=3 -o layers.safetensors
check layers-engines engines layers
check layers-other $qnetc eval layers.qnet --weights=layers.safetensors --data=data --limit=20 --quantizer=lsq
check layers-bits fails 1 "--bits needs a quantizer" $qnetc eval layers.qnet --weights=layers.safetensors \
  --data=data --bits=3
sed 's/activations = 3))/activations = 9))/' own.qnet >nine.qnet
check own-place fails 1 "nine.qnet:7:" $qnetc opt nine.qnet
sed 's/(weights = ternary,/(weights = ternary(3),/' own.qnet >three.qnet
check own-bits fails 1 "three.qnet:8:" $qnetc train three.qnet --data=data -o three.safetensors

# ---- placement ----------------------------------------------------------------------------------
# Pre-activation order, on images of 32x32 whose bytes are those of others. The stem of 8 bits has the
# quantizer of the normalized pixel.
pixels() { zcat data/t10k-images-idx3-ubyte.gz | tail -c +17; }
mkdir cifar
for n in $(seq 0 24); do
  printf "\\0$(printf %o $((n % 10)))"
  pixels | tail -c +$((n * 3072 + 1)) | head -c 3072
done >cifar/test_batch.bin
for n in 1 2 3 4 5; do
  cat cifar/test_batch.bin cifar/test_batch.bin >cifar/data_batch_$n.bin
done
data=cifar
cp "$root/examples/preact_resnet20.qnet" preact.qnet
# Quantized projections: two quantizers on one tensor.
sed 's/except first, last/except first = 8, last = 8/; s/, quantize = none//' preact.qnet >edges.qnet
for name in preact edges; do
  check $name-train $qnetc train $name.qnet --data=cifar --epochs=1 -Dwidth=4 -Dwarmup=0 -o $name.safetensors
  check $name-engines engines $name -Dwidth=4
done
# The stem, the two projections and the head.
check preact-f32 remark_of preact "f32, as the layer is not quantized" 4
check edges-stem remark_of edges "int8 levels" 2

# ---- what docs/accuracy.md shows ------------------------------------------------------------------
# The weights that are shipped, packed, and the script that makes the table, on those few images.
for weights in "$root"/examples/*-*-w?a?.safetensors; do
  of=$(basename "$weights" .safetensors) # NET-QUANTIZER-wBITSaBITS
  quantizer=${of#*-}
  bits=${of##*a}
  cp "$weights" "$of.safetensors"
  cp "$root/examples/${of%%-*}.qnet" "$of.qnet"
  check "shipped-$of" engines "$of" --quantizer="${quantizer%-*}" --bits="$bits"
done
mkdir sets && mv cifar sets/cifar10
table() { env QNET_DATA="$scratch/sets" QNETC="$qnetc" OUT="$scratch/accuracy" "$@" "$root/bench/accuracy.sh" lqnets:2 qil:3; }
check accuracy-table table
cp "$scratch/check.log" table
check accuracy-rows [ "$(grep -cE '^(lqnets-w2a2|qil-w3a3)( +[0-9]+){3} +0 +[0-9]+$' table)" = 2 ]
check accuracy-other-recipe fails 1 "made by another recipe" table RECIPE=--epochs=1
finish
