"""Training steps of ResNet-20 in PyTorch on command: the counterpart of bench_train.c, with the
same commands (but "save") and replies.

usage: torch_train.py DATA-DIRECTORY WEIGHTS.safetensors none|QUANTIZER contiguous|channels_last"""

import json
import os
import struct
import sys
import time

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from torch_quantizers import QUANTIZERS

# The recipe of examples/resnet20.qnet, at bench_train.c's learning rate.
BATCH, LR, MOMENTUM, DECAY, PAD = 128, 0.01, 0.9, 5e-4, 4
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
STD = torch.tensor([0.2470, 0.2435, 0.2616]).view(1, 3, 1, 1)


# ---- the network of examples/resnet20.qnet, with its names --------------------------------------


class QuantConv2d(nn.Conv2d):
    def __init__(self, quantizer, *args, **kwargs):
        super().__init__(*args, bias=False, **kwargs)
        self.quantizer = quantizer
        if quantizer:
            weight, activation = QUANTIZERS[quantizer]
            self.weight_quantizer = weight(self.weight.shape)
            self.input_quantizer = activation(self.weight.shape)

    def forward(self, x):
        if not self.quantizer:
            return super().forward(x)
        return self._conv_forward(self.input_quantizer(x), self.weight_quantizer(self.weight), None)


class Basic(nn.Module):
    """The shortcut: the identity; where shapes change, every other pixel between zero channels."""

    def __init__(self, quantizer, inputs, outputs, stride):
        super().__init__()
        self.conv1 = QuantConv2d(quantizer, inputs, outputs, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = QuantConv2d(quantizer, outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def shortcut(self, x):
        if self.stride == 1:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class ResNet20(nn.Module):
    def __init__(self, quantizer):
        super().__init__()
        self.conv1 = QuantConv2d(None, 3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        for i in range(1, 10):
            stride = 1 if widths[i] == widths[i - 1] else 2
            setattr(self, f"basic{i}", Basic(quantizer, widths[i - 1], widths[i], stride))
        self.dense1 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        for i in range(1, 10):
            x = getattr(self, f"basic{i}")(x)
        return self.dense1(F.adaptive_avg_pool2d(x, 1).flatten(1))


def read_safetensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    return {
        name: torch.from_numpy(
            numpy.frombuffer(data, "<f4", -1, 0)[
                t["data_offsets"][0] // 4 : t["data_offsets"][1] // 4
            ].copy()
        ).view(t["shape"])
        for name, t in header.items()
        if name != "__metadata__"
    }


def load(net, path):
    own = {
        name: value
        for name, value in net.state_dict().items()
        if "_quantizer." not in name and "num_batches" not in name
    }
    given = read_safetensors(path)
    if own.keys() != given.keys():
        sys.exit(f"other tensors than in the network: {sorted(own.keys() ^ given.keys())}")
    for name, value in given.items():
        own[name].copy_(value)


# ---- batches ------------------------------------------------------------------------------------


class Feed:
    """Whole batches at once: random crops of padded images and mirrors, by one indexing."""

    def __init__(self, directory, layout):
        images = torch.from_numpy(numpy.load(f"{directory}/x_train.npy"))
        self.images = images.permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(numpy.load(f"{directory}/y_train.npy").astype(numpy.int64))
        self.layout = layout

    def normalised(self, images):
        x = images.float().div_(255).sub_(MEAN).div_(STD)
        return x.contiguous(memory_format=self.layout)

    def augmented(self, index):
        x = F.pad(self.images[index], (PAD,) * 4)
        n, size = len(index), self.images.shape[-1]
        line = torch.arange(size)
        rows = line + torch.randint(2 * PAD + 1, (n, 1))
        columns = torch.where(torch.rand(n, 1) < 0.5, line, line.flip(0))
        columns = columns + torch.randint(2 * PAD + 1, (n, 1))
        which = torch.arange(n)[:, None, None]
        part = x[which, :, rows[:, :, None], columns[:, None, :]]
        return part.permute(0, 3, 1, 2)

    def batches(self, steps, plain):
        if plain:
            order = torch.arange(steps * BATCH)
        else:
            order = torch.randperm(len(self.images))
        for i in range(steps):
            index = order[i * BATCH : (i + 1) * BATCH]
            images = self.images[index] if plain else self.augmented(index)
            yield self.normalised(images), self.labels[index]


# ---- steps --------------------------------------------------------------------------------------


def make_optimizer(net):
    """Only weights of layers decay."""
    large = [p for p in net.parameters() if p.dim() > 1]
    small = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": large, "weight_decay": DECAY}, {"params": small}]
    return torch.optim.SGD(groups, LR, MOMENTUM, nesterov=True, foreach=True)


def peak_kib():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))


def main():
    directory, weights, quantizer, layout = sys.argv[1:]
    torch.manual_seed(1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    layout = getattr(torch, layout + "_format" if layout == "contiguous" else layout)
    net = ResNet20(None if quantizer == "none" else quantizer)
    load(net, weights)
    net = net.to(memory_format=layout).train()
    optimizer = make_optimizer(net)
    feed = Feed(directory, layout)
    for line in sys.stdin:
        mode, steps = line.split()
        losses = []
        before = time.perf_counter()
        for images, labels in feed.batches(int(steps), mode == "plain"):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - before
        print(f"{seconds:.6f} {peak_kib()}", *(f"{x:.9g}" for x in losses), flush=True)


main()
