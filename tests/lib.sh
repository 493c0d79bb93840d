# Helpers of the shell tests: source this, call `check NAME COMMAND...`, end with `finish`.
passed=0
failed=0
skipped=0
root=$(cd "$(dirname "$0")/.." && pwd)
qnetc="${QNET_BUILD:-$root/build}/bin/qnetc"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# check NAME COMMAND...: the command must exit 0.
check() {
  check_name="$1"
  shift
  if "$@" >"$scratch/check.log" 2>&1; then
    passed=$((passed + 1))
    echo "ok $check_name"
  else
    failed=$((failed + 1))
    echo "FAILED $check_name: $*"
    tail -n 20 "$scratch/check.log"
  fi
}

# fails CODE TEXT COMMAND...: the command must exit with CODE and print TEXT on standard error.
fails() {
  fails_code="$1"
  fails_text="$2"
  shift 2
  "$@" >"$scratch/out" 2>"$scratch/err"
  fails_status=$?
  cat "$scratch/err"
  [ "$fails_status" = "$fails_code" ] || {
    echo "exit $fails_status, wanted $fails_code"
    return 1
  }
  grep -qF -- "$fails_text" "$scratch/err" || {
    echo "no '$fails_text' in the message"
    return 1
  }
}

# small_data DIR: IDX files with the first images of Fashion-MNIST (1280 to train, 200 to test).
small_data() {
  small_dims='\000\000\000\034\000\000\000\034'
  mkdir "$1"
  small_idx train-images-idx3-ubyte 3 1280 784 16 "$small_dims" >"$1/train-images-idx3-ubyte"
  small_idx train-labels-idx1-ubyte 1 1280 1 8 '' >"$1/train-labels-idx1-ubyte"
  small_idx t10k-images-idx3-ubyte 3 200 784 16 "$small_dims" | gzip >"$1/t10k-images-idx3-ubyte.gz"
  small_idx t10k-labels-idx1-ubyte 1 200 1 8 '' >"$1/t10k-labels-idx1-ubyte"
}
octal() { printf '\\0%03o' "$1"; }
small_idx() { # small_idx FILE MAGIC COUNT ITEM_BYTES HEADER_BYTES DIMS
  printf '\000\000\010%b\000\000%b%b%b' "\\00$2" "$(octal $(($3 / 256)))" "$(octal $(($3 % 256)))" "$6"
  zcat "/usr/share/datasets/fashion-mnist/$1.gz" | tail -c +$(($5 + 1)) | head -c $(($3 * $4))
}

finish() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
