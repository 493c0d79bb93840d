#!/bin/sh
# Exact restart: training that is killed, stopped, starved of disk or left with damaged checkpoints
# goes on with --resume and writes the same bytes as training that nobody disturbed.
#   tests/run_kill.sh [KILLS] [SEED]      25 kills; the seed of their moments is printed
set -u
# Every run syncs its files many times.
[ -w /dev/shm ] && export TMPDIR=/dev/shm
. "$(dirname "$0")/lib.sh"
cd "$scratch" || exit 1
kills=${1:-25}
seed=${2:-$(date +%s)}
echo "seed $seed"
small_data data
cat >small.qnet <<'NET'
net small(classes = 10) {
  input image: u8[1, 28, 28] normalize(mean = [0.2860], std = [0.3530])
  quantize lqnets(weights = 2, activations = 2) except first, last
  x = image |> conv(8, 3x3, stride = 2, pad = 1) |> bn |> relu
  x = x |> conv(16, 3x3, stride = 2, pad = 1) |> bn |> relu
  x = x |> conv(16, 3x3, stride = 2, pad = 1) |> bn |> relu
  return x |> global_avg_pool |> dense(classes)
}
train {
  epochs = 6  batch = 32
  optimizer = sgd(lr = 0.05, momentum = 0.9, nesterov = true, muon = 0.1)
  augment = crop(pad = 2), flip
}
NET

# train NAME [OPTION...]: the training of this test, into NAME.safetensors and so on. As exec where
# it runs in the background, so that $! is qnetc itself.
train() {
  train_name=$1
  shift
  $train_prefix $qnetc train small.qnet $settings -o "$train_name.safetensors" "$@"
}
train_prefix=""
settings="--data=data --frozen-epochs=2 --checkpoint-steps=7 --threads=1"
as() { # as NAME OTHER: all files of one run are those of the other
  for as_end in safetensors best.safetensors metrics.jsonl ckpt; do
    cmp "$1.$as_end" "$2.$as_end" || return 1
  done
}
same() { # same NAME: as those of the undisturbed run, and nothing is left behind
  as "$1" whole && [ -z "$(find . -name "$1.*.tmp-*")" ]
}
# disturb NAME SIGNAL MILLISECONDS [OPTION...]: starts training, sends the signal; $status is its end.
disturb() {
  disturb_name=$1
  disturb_signal=$2
  disturb_time=$(printf '%d.%03d' $(($3 / 1000)) $(($3 % 1000)))
  shift 3
  (
    train_prefix="exec env --default-signal=INT"
    train "$disturb_name" "$@"
  ) >disturb.log 2>&1 &
  disturb_pid=$!
  sleep "$disturb_time"
  kill "-$disturb_signal" $disturb_pid 2>/dev/null
  wait $disturb_pid 2>/dev/null
  status=$?
}
# begin NAME: a run that was killed as soon as it had two checkpoints.
begin() {
  rm -f "$1".*
  (
    train_prefix=exec
    train "$1"
  ) >begin.log 2>&1 &
  begin_pid=$!
  while [ ! -e "$1.ckpt.prev" ] && kill -0 $begin_pid 2>/dev/null; do sleep 0.01; done
  kill -9 $begin_pid 2>/dev/null
  wait $begin_pid 2>/dev/null
  [ -e "$1.ckpt.prev" ]
}
resume() { # resume NAME: to the end, and the same bytes
  train "$1" --resume && same "$1"
}

started=$(date +%s%N)
check whole train whole
span=$((($(date +%s%N) - started) / 1000000))
check again train again
check again-same same again

# ---- kill -9 at random moments ------------------------------------------------------------------
awk -v seed="$seed" -v n=$((4 * kills)) -v span=$span \
  'BEGIN { srand(seed); for (i = 0; i < n; i++) print int(rand() * span) }' >moments
killed=0
option=""
while [ $killed -lt "$kills" ] && read -r moment; do
  disturb k KILL "$moment" $option
  case $status in
  137)
    killed=$((killed + 1))
    option=--resume
    # A chain of five kills is then led to its end.
    [ $((killed % 5)) = 0 ] && [ $killed -lt "$kills" ] || continue
    check "kill-$killed" resume k
    ;;
  0) check "finished-before-$moment-ms" same k ;;
  *) check "exit-$status-before-the-kill" sh -c "cat disturb.log; false" ;;
  esac
  rm -f k.*
  option=""
done <moments
check "kill-$killed" resume k
check kills test $killed = "$kills"

# ---- Control-C, SIGTERM -------------------------------------------------------------------------
for signal in INT TERM INT; do
  rm -f s.*
  disturb s $signal $((span / 3))
  if [ $status = 4 ]; then
    check "stop-$signal-says" grep -q -- "--resume" disturb.log
    check "stop-$signal" resume s
  else
    check "stop-$signal-exit-$status" test $status = 0
  fi
done
(
  trap '' INT
  train_prefix=exec
  train ignore
) >/dev/null 2>&1 &
pid=$!
while [ ! -e ignore.ckpt ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
kill -INT $pid
wait $pid
check ignored-signal-stays-ignored same ignore

# ---- a full disk --------------------------------------------------------------------------------
# The weights fit into 30 KB, the checkpoint with its momentum does not.
check begin begin d
cp d.ckpt kept.ckpt
check disk-full fails 1 "d.ckpt: error: cannot write: File too large" \
  sh -c "ulimit -f 60; exec $qnetc train small.qnet $settings -o d.safetensors --resume"
check disk-full-keeps cmp d.ckpt kept.ckpt
check disk-full-resumes resume d

# ---- damaged and missing checkpoints ------------------------------------------------------------
check begin begin c
cp c.ckpt new.ckpt
cp c.ckpt.prev old.ckpt
restore() { # restore NEWEST: the state after `begin`, the newest checkpoint replaced
  rm -f c.*
  cp "$1" c.ckpt
  cp old.ckpt c.ckpt.prev
}
head -c 1000 new.ckpt >cut.ckpt
cp new.ckpt flipped.ckpt
printf '\125' | dd of=flipped.ckpt bs=1 seek=$(($(wc -c <new.ckpt) - 301)) conv=notrunc 2>/dev/null
: >empty.ckpt
for damage in cut flipped empty; do
  restore $damage.ckpt
  train c --resume >damage.log 2>&1
  check $damage-says grep -q "warning: the checkpoint is damaged" damage.log
  check $damage-newest same c
done
restore new.ckpt
rm c.ckpt
check only-previous resume c
restore cut.ckpt
cp cut.ckpt c.ckpt.prev
check both-damaged fails 1 "c.ckpt.prev" train c --resume
rm -f c.*
train c --resume >damage.log 2>&1
check no-checkpoint-says grep -q "there is no checkpoint" damage.log
check no-checkpoint-same same c
cp whole.ckpt c.ckpt
check finished resume c
check finished-plot train c --resume --plot=c.svg
check finished-plot-levels sh -c "[ \$(grep -c 'class=.level' c.svg) = 2 ]"
restore new.ckpt
touch c.ckpt.tmp-99999999-0
check stale-temporaries resume c

# ---- a checkpoint of another run ----------------------------------------------------------------
restore new.ckpt
check other-seed fails 1 "its seed is 1, here it is 2" train c --resume --seed=2
check other-epochs fails 1 "number of epochs is 6, here it is 7" train c --resume --epochs=7
check other-threads fails 1 "number of threads" train c --resume --threads=3
check other-bits fails 1 "quantizer is lqnets 2/2" train c --resume --bits=3
check other-images fails 1 "image limit is 0, here it is 640" train c --resume --limit=640
check other-isa fails 1 "instruction set" env ONEDNN_MAX_CPU_ISA=SSE41 $qnetc train small.qnet \
  $settings -o c.safetensors --resume
sed 's/conv(8,/conv(12,/' small.qnet >other.qnet
check other-net fails 1 "network is small" $qnetc train other.qnet $settings -o c.safetensors \
  --resume
check other-keeps cmp c.ckpt new.ckpt

# ---- progressive bits ---------------------------------------------------------------------------
# Killed in the middle of each stage and as soon as each stage's last epoch is in the metrics.
sed 's/epochs = 6/epochs = 2, 1, 2  bits = progressive(32, 3, 2)/' small.qnet >stages.qnet
stages() {
  stages_name=$1
  shift
  $train_prefix $qnetc train stages.qnet --data=data --threads=1 --checkpoint-steps=7 \
    -o "$stages_name.safetensors" "$@"
}
check stages stages p
for lines in 0 1 2 3 4; do
  (
    train_prefix=exec
    stages q --resume
  ) >/dev/null 2>&1 &
  pid=$!
  while { [ ! -e q.ckpt ] || [ "$(cat q.metrics.jsonl 2>/dev/null | wc -l)" -lt $lines ]; } &&
    kill -0 $pid 2>/dev/null; do sleep 0.005; done
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
done
check stages-resumed stages q --resume
check stages-same as p q
check other-stages fails 1 "list of stages is 32 x 2, 3/3 x 1, 2/2 x 2" stages q --resume --epochs=2

# ---- with a teacher, and with Adam ----------------------------------------------------------------
# broken NAME SIGNAL COMMAND...: the command is sent the signal as soon as it has a checkpoint.
broken() {
  broken_name=$1
  broken_signal=$2
  shift 2
  rm -f "$broken_name".*
  (exec "$@") >/dev/null 2>&1 &
  broken_pid=$!
  while [ ! -e "$broken_name.ckpt" ] && kill -0 $broken_pid 2>/dev/null; do sleep 0.005; done
  kill "-$broken_signal" $broken_pid
  wait $broken_pid 2>/dev/null
  [ $? != 0 ] && [ -e "$broken_name.ckpt" ]
}
sed 's/sgd(.*)$/adam(lr = 0.01)  schedule = linear  warmup = 1 distill = features/' small.qnet >adam.qnet
settings="--data=data --threads=1 --checkpoint-steps=3 --init=whole.safetensors --distill=whole.safetensors"
check adam-distilled $qnetc train adam.qnet $settings -o t.safetensors
check adam-distilled-stops broken u TERM $qnetc train adam.qnet $settings -o u.safetensors
check adam-distilled-resumes $qnetc train adam.qnet $settings -o u.safetensors --resume
check adam-distilled-same as t u
check other-teacher fails 1 "teacher" $qnetc train adam.qnet --data=data --threads=1 \
  --init=whole.safetensors -o u.safetensors --resume
check no-teacher fails 1 "missing.safetensors" $qnetc train adam.qnet --data=data \
  --distill=missing.safetensors -o v.safetensors

# ---- two threads, and answers that are kept -------------------------------------------------------
settings="--data=data --threads=2 --init=whole.safetensors --distill=whole.safetensors"
check two-threads $qnetc train small.qnet $settings -o two.safetensors
for n in 1 2 3; do
  check two-threads-killed-$n broken kept KILL $qnetc train small.qnet $settings -o kept.safetensors \
    --distill-cache=answers --checkpoint-steps=$((9 * n))
  check two-threads-resumed-$n $qnetc train small.qnet $settings -o kept.safetensors \
    --distill-cache=answers --resume
  check two-threads-same-$n as two kept
done

# ---- quantizers alone, on the images of another set without labels ---------------------------------
mkdir foreign
cp data/*images* foreign
settings="--data=foreign --threads=1 --init=whole.safetensors --train=quantizers --no-labels --epochs=3"
check alone $qnetc train small.qnet $settings -o m.safetensors
check alone-killed broken n KILL $qnetc train small.qnet $settings -o n.safetensors --checkpoint-steps=3
check alone-resumed $qnetc train small.qnet $settings -o n.safetensors --resume
check alone-same as m n
check other-choice fails 1 "choice of what learns is quantizers, here it is all" $qnetc train \
  small.qnet $settings --train=all -o n.safetensors --resume
check needs-labels fails 1 "holds no train-labels" $qnetc train small.qnet --data=foreign -o o.safetensors

# ---- training that diverges -------------------------------------------------------------------------
check diverges fails 1 "note: the first value that is not finite came from layer" $qnetc train small.qnet --data=data --quantizer=none --lr=1e30 \
  -o x.safetensors
check diverges-where grep -q "^small.qnet:[0-9]*:[0-9]*: note: the first value" "$scratch/err"
check diverged-writes-nothing test ! -e x.safetensors
finish
