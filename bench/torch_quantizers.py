"""Eager PyTorch implementations of the quantizers that qnetc trains, after their papers: weights
and activations of 2 bits, each as its own module. Large tensors (activations) go through autograd
functions that save no more than they need; thresholds are compared with whole tensors."""

import math

import torch
from torch import nn
from torch.autograd import Function

BITS = 2


def sums_above(x, masks, dims=None):
    """Numbers and sums of x under each mask, over all elements or over `dims`."""
    if dims is None:
        return [m.sum() for m in masks], [(x * m).sum() for m in masks]
    return [m.sum(dims) for m in masks], [(x * m).sum(dims) for m in masks]


def pick(masks, level):
    """level[rank]; masks are those of ascending thresholds, level a list."""
    y = masks[0] * (level[1] - level[0])
    for k in range(1, len(masks)):
        y.add_(masks[k], alpha=level[k + 1] - level[k])
    return y.add_(level[0]) if level[0] != 0 else y


def ranks_to_codes(above, whole, order):
    """From what is above each threshold to what belongs to each code."""
    edges = [whole, *above, torch.zeros_like(whole)]
    by_rank = torch.stack([edges[k] - edges[k + 1] for k in range(len(edges) - 1)])
    return torch.empty_like(by_rank).index_copy_(0, order, by_rank)


def code_table(low):
    codes = torch.arange(1 << BITS)
    bits = torch.stack([(codes >> k) & 1 for k in range(BITS)], 1).float()
    return bits if low == 0 else 2 * bits - 1


# ---- LQ-Nets ------------------------------------------------------------------------------------

RIDGE, KEEP = 1e-4, 0.9


class Basis(nn.Module):
    """v and its moving average, corrected for its start at zero."""

    def __init__(self, channels, low):
        super().__init__()
        self.register_buffer("codes", code_table(low))
        start = 0.6745 * torch.tensor([2.0**k for k in range(BITS)]) / (2 ** (BITS - 1))
        self.register_buffer("v", start.repeat(channels, 1))
        self.register_buffer("average", torch.zeros_like(self.v))
        self.updates = 0

    def sorted_levels(self):
        level, order = torch.sort(self.v @ self.codes.t(), 1)
        return level, order, (level[:, 1:] + level[:, :-1]) / 2

    def learn(self, gram, product):
        """gram = B'B, product = B'x of each channel."""
        system = gram + RIDGE * torch.eye(BITS)
        best = torch.linalg.solve(system, product + RIDGE * self.v)
        self.updates += 1
        self.average.mul_(KEEP).add_(best, alpha=1 - KEEP)
        self.v.copy_(self.average / (1 - KEEP**self.updates))


class PassBelow(Function):
    @staticmethod
    def forward(ctx, x, y, top):
        ctx.save_for_backward(x)
        ctx.top = top
        return y

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (x <= ctx.top), None, None


class LqActivation(Basis):
    """by_matrix: B'B and B'x by matrix products, as the paper writes them; else from the number and
    the sum of x by code."""

    by_matrix = True

    def __init__(self, shape):
        super().__init__(1, 0)

    def forward(self, x):
        with torch.no_grad():
            level, order, threshold = self.sorted_levels()
            masks = [x > t for t in threshold[0].tolist()]
            level = level[0].tolist()
            y = pick(masks, level)
            if self.by_matrix:
                rank = torch.zeros_like(x, dtype=torch.uint8)
                for m in masks:
                    rank += m
                self.learn_by_matrix(x, order[0], rank)
            else:
                self.learn_by_sums(x, order[0], masks)
        return PassBelow.apply(x, y, level[-1])

    def learn_by_matrix(self, x, order, rank):
        flat = rank.permute(0, 2, 3, 1).reshape(-1).int()
        b = self.codes[order].index_select(0, flat)
        self.learn((b.t() @ b)[None], (x.permute(0, 2, 3, 1).reshape(-1) @ b)[None])

    def learn_by_sums(self, x, order, masks):
        counts, sums = sums_above(x, masks)
        count = ranks_to_codes(counts, torch.tensor(x.numel()), order).float()
        total = ranks_to_codes(sums, x.sum(), order)
        self.learn((self.codes.t() * count @ self.codes)[None], (total @ self.codes)[None])


class LqActivationBySums(LqActivation):
    by_matrix = False


class LqWeight(Basis):
    def __init__(self, shape):
        super().__init__(shape[0], -1)
        with torch.no_grad():
            self.v.mul_(math.sqrt(2 / (shape[0] * shape[2] * shape[3])))

    def forward(self, w):
        flat = w.reshape(len(w), -1)
        with torch.no_grad():
            level, order, threshold = self.sorted_levels()
            rank = (flat[:, :, None] > threshold[:, None, :]).sum(2)
            y = level.gather(1, rank)
            b = self.codes[order.gather(1, rank)]
            self.learn(b.transpose(1, 2) @ b, (flat[:, None, :] @ b)[:, 0])
        return (flat + (y - flat).detach()).view_as(w)


# ---- LSQ ----------------------------------------------------------------------------------------


class LsqFunction(Function):
    @staticmethod
    def forward(ctx, x, step, low, top, scale):
        s = step.item()
        ctx.save_for_backward(x)
        ctx.constants = s, low, top, scale
        return (x / s).round_().clamp_(low, top).mul_(s)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        s, low, top, scale = ctx.constants
        v = x / s
        rounded = v.round().clamp_(low, top)
        inside = (v >= low) & (v <= top)
        dx = dy * inside
        # Inside: round(v) - v; outside: the end.
        ds = rounded.sub_(v.mul_(inside)).mul_(dy).sum() * scale
        return dx, ds.reshape(1), None, None, None


class Lsq(nn.Module):
    def __init__(self, low, top):
        super().__init__()
        self.step = nn.Parameter(torch.zeros(1))
        self.low, self.top = low, top

    def forward(self, x):
        if self.step.item() == 0:
            with torch.no_grad():
                self.step.fill_(2 * x.abs().mean().item() / math.sqrt(self.top))
        count = x.numel() if self.low < 0 else x[0].numel()
        scale = 1 / math.sqrt(count * self.top)
        return LsqFunction.apply(x, self.step, self.low, self.top, scale)


class LsqActivation(Lsq):
    def __init__(self, shape):
        super().__init__(0, 2**BITS - 1)


class LsqWeight(Lsq):
    def __init__(self, shape):
        super().__init__(-(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1)


# ---- PACT, DoReFa -------------------------------------------------------------------------------


class RoundSte(Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, dy):
        return dy


class PactFunction(Function):
    @staticmethod
    def forward(ctx, x, alpha, top):
        a = alpha.item()
        ctx.save_for_backward(x)
        ctx.a = a
        return x.clamp(0, a).mul_(top / a).round_().mul_(a / top)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        above = x >= ctx.a
        dx = dy * ((x > 0) & ~above)
        return dx, (dy * above).sum().reshape(1), None


class PactActivation(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x):
        return PactFunction.apply(x, self.alpha, 2**BITS - 1)


class UnitFunction(Function):
    """0..1 in steps of 1 / top."""

    @staticmethod
    def forward(ctx, x, top):
        ctx.save_for_backward(x)
        return x.clamp(0, 1).mul_(top).round_().div_(top)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * ((x >= 0) & (x <= 1)), None


class DorefaActivation(nn.Module):
    def __init__(self, shape):
        super().__init__()

    def forward(self, x):
        return UnitFunction.apply(x, 2**BITS - 1)


class DorefaWeight(nn.Module):
    def __init__(self, shape):
        super().__init__()

    def forward(self, w):
        top = 2**BITS - 1
        t = torch.tanh(w)
        unit = t / (2 * t.detach().abs().max()) + 0.5
        return 2 * RoundSte.apply(unit * top) / top - 1


# ---- QIL ----------------------------------------------------------------------------------------


class IntervalFunction(Function):
    """The interval of activations: no sign, gamma = 1."""

    @staticmethod
    def forward(ctx, x, center, width, top):
        c, d = center.item(), width.item()
        ctx.save_for_backward(x)
        ctx.interval = c, d
        u = (x - (c - d)).mul_(0.5 / d).clamp_(0, 1)
        return u.mul_(top).round_().div_(top)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        c, d = ctx.interval
        u = (x - (c - d)).mul_(0.5 / d)
        dx = (dy * ((u > 0) & (u < 1))).mul_(0.5 / d)
        total = dx.sum()
        dd = total - 2 * u.mul_(dx).sum()
        return dx, -total.reshape(1), dd.reshape(1), None


class QilActivation(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.center = nn.Parameter(torch.tensor([1.0]))
        self.width = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x):
        return IntervalFunction.apply(x, self.center, self.width, 2**BITS - 1)


class QilWeight(nn.Module):
    def __init__(self, shape):
        super().__init__()
        start = math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
        self.center = nn.Parameter(torch.tensor([start]))
        self.width = nn.Parameter(torch.tensor([start]))
        self.gamma = nn.Parameter(torch.tensor([1.0]))

    def forward(self, w):
        top = 2 ** (BITS - 1) - 1
        u = ((w.abs() - self.center + self.width) / (2 * self.width)).clamp(0, 1)
        v = torch.sign(w) * u.clamp(min=1e-4) ** self.gamma * (u > 0)
        return RoundSte.apply(v * top) / top


# ---- LCQ ----------------------------------------------------------------------------------------

PIECES = 16


class CompandFunction(Function):
    """alpha h(round(s g(|x| / alpha)) / s) with sign; the gradient of x is 1 inside, that of slopes
    and offsets exact. Sums by piece and by level are taken with bincount."""

    @staticmethod
    def forward(ctx, x, alpha, slope, offset, top, signed):
        a = alpha.item()
        u = (x.abs() if signed else x).div(a).clamp_(0, 1)
        piece = (u * PIECES).to(torch.int32).clamp_(max=PIECES - 1)
        flat = piece.flatten()
        inner = u - piece / PIECES
        g = slope.index_select(0, flat).view_as(u).mul_(inner)
        g.add_(offset.index_select(0, flat).view_as(u))
        level = g.mul_(top).round_()
        q = torch.arange(top + 1) / top
        where = (torch.bucketize(q, offset[1:PIECES], right=True)).clamp_(max=PIECES - 1)
        values = ((q - offset[where]) / slope[where] + where / PIECES).clamp_(max=1)
        values[0] = 0
        y = values.index_select(0, level.flatten().int()).view_as(u).mul_(a)
        if signed:
            y.mul_(torch.sign(x))
        ctx.save_for_backward(x, piece, inner, level, slope, offset, q, where, y)
        ctx.constants = a, signed
        return y

    @staticmethod
    def backward(ctx, dy):
        x, piece, inner, level, slope, offset, q, where, y = ctx.saved_tensors
        a, signed = ctx.constants
        inside = (x.abs() if signed else x) < a
        dx = dy * inside
        dalpha = (dy * torch.where(inside, (y - x) / a, torch.sign(x))).sum().reshape(1)
        g = dx.mul(a)
        if signed:
            g.mul_(torch.sign(x))
        flat_level = level.flatten().int()
        g_over = (g.flatten() / slope[where].index_select(0, flat_level))
        flat = piece.flatten()
        dslope = torch.bincount(flat, g_over * inner.flatten(), PIECES).float()
        doffset = torch.zeros_like(offset)
        doffset[:PIECES] = torch.bincount(flat, g_over, PIECES).float()
        by_level = torch.bincount(flat_level, g_over, len(q)).float()
        dslope.index_add_(0, where, -by_level * (q - offset[where]) / slope[where])
        doffset.index_add_(0, where, -by_level)
        return dx, dalpha, dslope, doffset, None, None


class Lcq(nn.Module):
    def __init__(self, top, signed):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(PIECES))
        self.alpha = nn.Parameter(torch.tensor([3.0]))
        self.top, self.signed = top, signed

    def compand(self, x):
        height = torch.softmax(self.theta, 0)
        offset = torch.cat([torch.zeros(1), torch.cumsum(height, 0)])
        return CompandFunction.apply(x, self.alpha, height * PIECES, offset, self.top, self.signed)


class LcqActivation(Lcq):
    def __init__(self, shape):
        super().__init__(2**BITS - 1, False)

    def forward(self, x):
        return self.compand(x)


class LcqWeight(Lcq):
    def __init__(self, shape):
        super().__init__(2 ** (BITS - 1) - 1, True)

    def forward(self, w):
        deviation, mean = torch.std_mean(w.detach())
        return self.compand((w - mean) / deviation) * deviation


# ---- APoT ---------------------------------------------------------------------------------------


class ApotFunction(Function):
    @staticmethod
    def forward(ctx, x, alpha, level, clip):
        a = alpha.item()
        masks = [x > a * (p + q) / 2 for p, q in zip(level, level[1:])]
        y = pick(masks, [a * p for p in level])
        ctx.save_for_backward(x, y)
        ctx.constants = a, level[0], clip
        return y

    @staticmethod
    def backward(ctx, dy):
        x, y = ctx.saved_tensors
        a, low, clip = ctx.constants
        inside = (x >= a * low) & (x <= a)
        dalpha = (y - x * inside).mul_(dy).sum() / a
        return dy * inside if clip else dy, dalpha.reshape(1), None, None


class ApotActivation(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x):
        return ApotFunction.apply(x, self.alpha, [0, 0.25, 0.5, 1], True)


class ApotWeight(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([3.0]))

    def forward(self, w):
        deviation, mean = torch.std_mean(w.detach())
        normal = (w - mean) / deviation
        return ApotFunction.apply(normal, self.alpha, [-1, 0, 1], False) * deviation


# ---- DQ style -----------------------------------------------------------------------------------


class DqActivation(Basis):
    """The basis of LQ-Nets, fitted so that each channel counts alike."""

    def __init__(self, shape):
        super().__init__(1, 0)

    def forward(self, x):
        with torch.no_grad():
            level, order, threshold = self.sorted_levels()
            masks = [x > t for t in threshold[0].tolist()]
            level = level[0].tolist()
            self.balance(x, order[0], masks)
        return PassBelow.apply(x, pick(masks, level), level[-1])

    def balance(self, x, order, masks):
        counts, sums = sums_above(x, masks, (0, 2, 3))
        whole = torch.full((x.shape[1],), x.numel() // x.shape[1])
        count = ranks_to_codes(counts, whole, order).float()
        total = ranks_to_codes(sums, x.sum((0, 2, 3)), order)
        weight = 1 / (total**2 / count.clamp(min=1)).sum(0).clamp(min=1e-12)
        count, total = (count * weight).sum(1), (total * weight).sum(1)
        scale = 1 / count.sum().clamp(min=1e-12)
        gram = self.codes.t() * (count * scale) @ self.codes + RIDGE * torch.eye(BITS)
        best = torch.linalg.solve(gram, total * scale @ self.codes + RIDGE * self.v[0])
        self.v.mul_(0.9).add_(best, alpha=0.1)


class DqWeight(nn.Module):
    """Scores select codes; the basis of each filter learns by gradient."""

    def __init__(self, shape):
        super().__init__()
        unit = 0.6745 * math.sqrt(2 / (shape[0] * shape[2] * shape[3])) / 2
        self.v = nn.Parameter(unit * torch.tensor([[1.0, 2.0]]).repeat(shape[0], 1))
        self.register_buffer("codes", code_table(-1))
        self.register_buffer("threshold", unit * torch.tensor([-2.0, 0.0, 2.0]))

    def forward(self, w):
        flat = w.reshape(len(w), -1)
        rank = (flat[:, :, None] > self.threshold).sum(2)
        quantized = (self.codes[rank] * self.v[:, None, :]).sum(2)
        return (quantized + flat - flat.detach()).view_as(w)


# Of weights and of activations, by the name that qnetc's --quantizer takes.
QUANTIZERS = {
    "lqnets": (LqWeight, LqActivation),
    "lqnets-sums": (LqWeight, LqActivationBySums),
    "qil": (QilWeight, QilActivation),
    "lcq": (LcqWeight, LcqActivation),
    "dq": (DqWeight, DqActivation),
    "lsq": (LsqWeight, LsqActivation),
    "dorefa/pact": (DorefaWeight, PactActivation),
    "dorefa": (DorefaWeight, DorefaActivation),
    "apot": (ApotWeight, ApotActivation),
}
