# Thin: CMake builds, scripts/ does the rest.
#   make build   the compiler, as build/bin/qnetc
#   make demo    trains, compiles and runs a network on real data (Fashion-MNIST)
#   make test    all tests
#   make bench   speed ratios against oneDNN, one thread; writes bench/results.md
#   make bench-train  training steps beside PyTorch; installs it; writes bench/results-train.md

.PHONY: build demo test bench bench-train format clean

build:
	@scripts/install-packages.sh build
	@scripts/build.sh release

demo:
	@scripts/install-packages.sh demo
	@scripts/build.sh release
	@scripts/demo.sh

test:
	@scripts/install-packages.sh all
	@scripts/test.sh

bench:
	@scripts/install-packages.sh build
	@scripts/build.sh release
	@bench/run.sh

bench-train:
	@scripts/install-packages.sh bench-train
	@scripts/build.sh release
	@/usr/bin/python3 bench/train.py

format:
	@git ls-files --cached --others --exclude-standard '*.c' '*.h' | xargs clang-format -i

clean:
	rm -rf build build-debug build-asan build-clang
