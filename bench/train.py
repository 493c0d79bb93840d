"""Runs the training benchmark: qnetc (bench_train) and PyTorch (torch_train.py) take turns at steps
of ResNet-20, quantizer by quantizer; prints a table and writes it to bench/results-train.md."""

import math
import os
import statistics
import subprocess
import sys
import tempfile

import numpy

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "build")
NET = os.path.join(HERE, "..", "examples", "resnet20.qnet")
THREADS, BATCH, WARM, ROUNDS, STEPS = 2, 128, 2, 5, 2
CHECKED_STEPS, FIRST_TOLERANCE, TOLERANCE = 2, 1e-4, 1e-3
LAYOUTS = ("channels_last", "contiguous")

# Title, qnetc's quantizer, those of torch_quantizers.py.
ROWS = [
    ("f32", "none", "none"),
    ("W2A2 lqnets", "lqnets", "lqnets"),
    ("W2A2 lqnets, QEM by sums", "lqnets", "lqnets-sums"),
    ("W2A2 qil", "qil", "qil"),
    ("W2A2 lcq", "lcq", "lcq"),
    ("W2A2 dq", "dq", "dq"),
    ("W2A2 lsq", "lsq", "lsq"),
    ("W2A2 dorefa/pact", "dorefa/pact", "dorefa/pact"),
    ("W2A2 dorefa", "dorefa", "dorefa"),
    ("W2A2 apot", "apot", "apot"),
]


class Contestant:
    """A process that makes steps on command; it waits without computing in between."""

    def __init__(self, command):
        environment = dict(os.environ, OMP_NUM_THREADS=str(THREADS), PYTHONDONTWRITEBYTECODE="1")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.seconds = []
        self.peak = 0

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        reply = self.process.stdout.readline().split()
        if not reply:
            sys.exit(f"{' '.join(self.process.args)}: ended at '{line}'")
        return reply

    def run(self, steps, mode="augmented"):
        seconds, self.peak, *losses = map(float, self.ask(f"{mode} {steps}"))
        if not all(map(math.isfinite, losses)):
            sys.exit(f"{' '.join(self.process.args)}: the loss is not finite")
        self.seconds.append(seconds / steps)
        return losses

    def images_per_second(self):
        return BATCH / statistics.median(self.seconds)

    def close(self):
        self.process.stdin.close()
        if self.process.wait() != 0:
            sys.exit(f"{' '.join(self.process.args)}: failed")


def ours(directory, quantizer):
    command = [os.path.join(BUILD, "bin", "bench_train"), NET, "--data=" + directory]
    return Contestant([*command, "--quantizer=" + quantizer, f"--threads={THREADS}"])


def torch(directory, quantizer, weights, layout):
    script = os.path.join(HERE, "torch_train.py")
    return Contestant([sys.executable, script, directory, weights, quantizer, layout])


def write_images(directory):
    """10000 images: those of CIFAR-10's first file where it is at hand. Says which."""
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    places = [os.path.join(cache, "qnetc"), os.environ.get("QNET_DATA", "")]
    files = [os.path.join(place, "cifar10", "data_batch_1.bin") for place in places]
    for file in filter(os.path.exists, files):
        rows = numpy.fromfile(file, numpy.uint8).reshape(-1, 3073)
        images, labels, said = rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], "CIFAR-10"
        break
    else:
        random = numpy.random.default_rng(1)
        images = random.integers(0, 256, (10000, 3, 32, 32), numpy.uint8)
        labels = random.integers(0, 10, 10000, numpy.uint8)
        said = "random images of CIFAR-10's shape"
    numpy.save(f"{directory}/x_train.npy", numpy.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    numpy.save(f"{directory}/y_train.npy", numpy.ascontiguousarray(labels))
    return said


def check(directory, weights):
    """Both compute the same: f32 losses of the first steps from equal weights, which qnetc writes,
    on equal batches."""
    contestants = [ours(directory, "none")]
    contestants[0].ask("save " + weights)
    contestants += [torch(directory, "none", weights, LAYOUTS[0])]
    a, b = (c.run(CHECKED_STEPS, "plain") for c in contestants)
    for c in contestants:
        c.close()
    differences = [abs(x - y) / y for x, y in zip(a, b)]
    said = ", ".join(f"{x:.6f} ({d:.0e})" for x, d in zip(a, differences))
    if differences[0] > FIRST_TOLERANCE or max(differences) > TOLERANCE:
        sys.exit(f"qnetc and PyTorch do not train the same network: losses {a}, {b}")
    return said


def measure(directory, weights, quantizer, quantizer_of_torch):
    contestants = [ours(directory, quantizer)]
    contestants += [torch(directory, quantizer_of_torch, weights, layout) for layout in LAYOUTS]
    for c in contestants:
        c.run(WARM)
        c.seconds.clear()
    for _ in range(ROUNDS):
        for c in contestants:
            c.run(STEPS)
    for c in contestants:
        c.close()
    return contestants


def row(title, contestants):
    speeds = [c.images_per_second() for c in contestants]
    best = max(contestants[1:], key=Contestant.images_per_second)
    cells = [title, *(f"{s:.0f}" for s in speeds), f"{speeds[0] / max(speeds[1:]):.2f}"]
    cells += [f"{c.peak / 1024:.0f}" for c in (contestants[0], best)]
    return "| " + " | ".join(cells) + " |"


def processor():
    with open("/proc/cpuinfo") as f:
        names = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return names[0] if names else "unknown"


def head(images, losses):
    version = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()
    return f"""# Speed of training

Written by `make bench-train`: whole training steps of ResNet-20 (examples/resnet20.qnet), batch
{BATCH}, {THREADS} threads, SGD with momentum, batches cropped and flipped by both sides from 10000
images in memory ({images}). qnetc and PyTorch {version} take turns in one run; images a
second are medians of {ROUNDS} rounds of {STEPS} steps, peak memory is that of the process (PyTorch:
of its faster layout). CPU: {processor()}; load before the run: {os.getloadavg()[0]:.1f}.

PyTorch's quantizers are ours (bench/torch_quantizers.py), eager. LQ-Nets stands twice: with QEM by
matrix products of codes, as the paper writes it, and by counts and sums by code, as qnetc does it.

That both train the same network: f32 losses of the first steps from equal weights and batches, and
their relative difference to PyTorch's: {losses}.

| | qnetc images/s | PyTorch channels_last | contiguous | qnetc : best | qnetc MiB | PyTorch MiB |
|---|---:|---:|---:|---:|---:|---:|
"""


def main():
    with tempfile.TemporaryDirectory() as directory:
        images = write_images(directory)
        weights = os.path.join(directory, "weights.safetensors")
        text = head(images, check(directory, weights))
        print(text, end="", flush=True)
        for title, quantizer, quantizer_of_torch in ROWS:
            line = row(title, measure(directory, weights, quantizer, quantizer_of_torch)) + "\n"
            print(line, end="", flush=True)
            text += line
    with open(os.path.join(HERE, "results-train.md"), "w") as f:
        f.write(text)


main()
