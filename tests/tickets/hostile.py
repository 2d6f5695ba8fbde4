"""Networks that do something behind a graph's back, and what has to become of each: shrunk exactly, or refused."""

from __future__ import annotations

import functools
import random
import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from tests.tickets.networks import Wired, unit


class Hooked(Wired):
    """A forward hook on an activation adds one to zeros."""

    def parts(self):
        self.b[2].register_forward_hook(lambda m, i, o: o + 1)


class PreHooked(Wired):
    def parts(self):
        self.b[2].register_forward_pre_hook(lambda m, i: (i[0] + 1,))


class HookedConvolution(Wired):
    def parts(self):
        self.b[0].register_forward_hook(lambda m, i, o: o * 2 + 0.5)


class HookedNorm(Wired):
    def parts(self):
        self.b[1].register_forward_hook(lambda m, i, o: o + 1)


class HookedBlock(Wired):
    """On a container: followed like the code inside it."""

    def parts(self):
        self.b.register_forward_hook(lambda m, i, o: o + 1)


class HookedRoot(Wired):
    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda m, i, o: o * 3)
        self.register_forward_pre_hook(lambda m, i: (i[0] * 2,))


class InstanceForward(Wired):
    def parts(self):
        self.b[2].forward = lambda t: F.relu(t) + 1


class WrappedForward(Wired):
    """As device-placement libraries do: a partial in the place of forward."""

    def parts(self):
        def around(original, t):
            return original(t) + 1

        self.b[2].forward = functools.partial(around, F.relu)


class RootForward(Wired):
    def __init__(self):
        super().__init__()
        plain = type(self).forward
        self.forward = types.MethodType(lambda self, x: plain(self, x) * 2, self)


class FunctionalNorm(Wired):
    def parts(self):
        self.c, self.n = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)

    def between(self, a, b):
        n = self.n
        b = F.batch_norm(self.c(b), n.running_mean, n.running_var, n.weight, n.bias, self.training)
        return F.relu(b)


class FoldedGamma(Wired):
    """The scale of a BatchNorm multiplied into a kernel."""

    def parts(self):
        self.c, self.n = nn.Conv2d(12, 12, 1, bias=False), nn.BatchNorm2d(12)

    def between(self, a, b):
        return F.conv2d(b, self.c.weight * self.n.weight[:, None, None, None]) + self.n.bias[:, None, None]


class NormInEncoder(Wired):
    def parts(self):
        self.encode = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
        self.encode.norm1 = Tokens(12)

    def between(self, a, b):
        n, c, h, w = b.shape
        return self.encode(b.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, c, h, w)


class Tokens(nn.BatchNorm1d):
    """BatchNorm over tokens [N, T, C]."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ConvBn(nn.Conv2d):
    """As in quantization-aware training: a convolution that calls its own BatchNorm."""

    def __init__(self, i, o):
        super().__init__(i, o, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(o)

    def forward(self, x):
        return self.bn(self._conv_forward(x, self.weight, self.bias))


class OwnNorm(Wired):
    def parts(self):
        self.c, self.d = ConvBn(12, 12), ConvBn(12, 12)

    def between(self, a, b):
        return F.relu(self.d(F.relu(self.c(b))))


class MovingBuffer(Wired):
    def parts(self):
        self.register_buffer("mu", torch.zeros(12))

    def between(self, a, b):
        self.mu.mul_(0.9).add_(0.1 * b.detach().mean((0, 2, 3)))
        return b - self.mu[:, None, None]


class AssignedBuffer(Wired):
    def parts(self):
        self.register_buffer("mu", torch.zeros(12))

    def between(self, a, b):
        self.mu = 0.9 * self.mu + 0.1 * b.detach().mean((0, 2, 3))
        return b - self.mu[:, None, None]


class Counting(Wired):
    def parts(self):
        self.calls = 0

    def between(self, a, b):
        self.calls += 1
        return b if self.calls < 100 else -b


class Centered(nn.Module):
    """The same in a module without BatchNorm: it stays whole."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.zeros(12))

    def forward(self, b):
        if self.training:
            self.mu.mul_(0.9).add_(0.1 * b.detach().mean((0, 2, 3)))
        return b - self.mu[:, None, None]


class MovingPart(Wired):
    def parts(self):
        self.center = Centered()

    def between(self, a, b):
        return self.center(b)


class RandomBranch(Wired):
    def between(self, a, b):
        if self.training and torch.rand(()).item() < 0.5:
            return a.repeat(1, 2, 1, 1)[:, :12]
        return b


class PythonRandomBranch(Wired):
    def between(self, a, b):
        return -b if self.training and random.random() < 0.5 else b


class RandomPart(nn.Module):
    def forward(self, b):
        if self.training and torch.rand(()).item() < 0.5:
            return b * 2
        return b


class RandomInPart(Wired):
    def parts(self):
        self.maybe = RandomPart()

    def between(self, a, b):
        return self.maybe(b)


class ValueBranch(Wired):
    def between(self, a, b):
        return b if b.sum() > 0 else -b


class NoGradient(Wired):
    """Part of the network under no_grad: the gradients would differ."""

    def between(self, a, b):
        with torch.no_grad():
            c = torch.tanh(b)
        return b + c


class Autocast(Wired):
    def between(self, a, b):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return b * 1.5


class Plain(nn.BatchNorm2d):
    """A BatchNorm that adds something: followed, and analyzed as what it is."""

    def forward(self, x):
        return super().forward(x) + 1


class ShiftedNorm(Wired):
    def parts(self):
        self.c, self.n = nn.Conv2d(12, 12, 1), Plain(12)

    def between(self, a, b):
        return self.n(self.c(b))


class ActNorm(nn.BatchNorm2d):
    """BatchNorm with its activation inside."""

    def __init__(self, width):
        super().__init__(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self.act(x)


class NormWithActivation(Wired):
    def parts(self):
        self.c, self.n = nn.Conv2d(12, 12, 1), ActNorm(12)
        self.d, self.m = nn.Conv2d(12, 12, 3, padding=1), ActNorm(12)

    def between(self, a, b):
        return self.m(self.d(self.n(self.c(b)))) + b


class SamePad(nn.Conv2d):
    def forward(self, x):
        h, w = x.shape[-2:]
        ph = max((-(h // -self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - h, 0)
        pw = max((-(w // -self.stride[1]) - 1) * self.stride[1] + self.kernel_size[1] - w, 0)
        x = F.pad(x, [pw // 2, pw - pw // 2, ph // 2, ph - ph // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


class SamePadded(Wired):
    def parts(self):
        self.c, self.n = SamePad(12, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12)

    def between(self, a, b):
        return F.relu(self.n(self.c(b)))


class NotAffine(Wired):
    def parts(self):
        self.c, self.n = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12, affine=False)

    def between(self, a, b):
        return F.relu(self.n(self.c(b)))


class OldWeightNorm(Wired):
    def parts(self):
        self.c = torch.nn.utils.weight_norm(nn.Conv2d(12, 12, 1))

    def between(self, a, b):
        return F.relu(self.c(b))


class NewWeightNorm(Wired):
    def parts(self):
        self.c = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 12, 1))

    def between(self, a, b):
        return F.relu(self.c(b))


class TorchPruned(Wired):
    def parts(self):
        self.c = nn.Conv2d(12, 12, 1)
        prune.l1_unstructured(self.c, "weight", 0.5)

    def between(self, a, b):
        return F.relu(self.c(b))


class LinearChunks(Wired):
    """Chunks of features, a slice, an item."""

    def parts(self):
        self.fc, self.up = nn.Linear(12, 12), nn.Linear(6, 12)

    def between(self, a, b):
        left, right = self.fc(b.mean((2, 3))).chunk(2, 1)
        y = self.up(left * torch.sigmoid(right))
        return b * y[:, :, None, None] + y[:, :4].sum(1)[:, None, None, None]


class Sequence(nn.Module):
    """Convolutions over time, the last step, BatchNorm1d, a linear layer on every step."""

    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv1d(3, 10, 3, padding=1, bias=False), nn.BatchNorm1d(10)
        self.fc, self.m, self.out = nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x):
        seq = F.relu(self.n(self.a(x.flatten(2))))
        steps = self.fc(seq.transpose(1, 2))
        steps = F.relu(self.m(steps.transpose(1, 2)))
        tokens = steps.transpose(1, 2)
        return self.out(steps[:, :, -1] + tokens[:, 0] + tokens.mean(1))


class OneByOne(Wired):
    def between(self, a, b):
        maps = F.adaptive_avg_pool2d(b, 1)
        return b + maps[:, :, 0, 0][:, :, None, None] * F.adaptive_avg_pool2d(a, 1)[:, :1]


class ScalarGain(Wired):
    def parts(self):
        self.g, self.h, self.c = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(12, 1, 1)), unit(12, 12)

    def between(self, a, b):
        return b + self.h * (self.g * self.c(b))


class Focus(Wired):
    def parts(self):
        self.c = unit(48, 12)

    def between(self, a, b):
        return self.c(torch.cat([b[..., ::2, ::2], b[..., 1::2, ::2], b[..., ::2, 1::2], b[..., 1::2, 1::2]], 1))


class Shuffles(Wired):
    def parts(self):
        self.c, self.d = unit(12, 16), unit(4, 12)

    def between(self, a, b):
        return F.pixel_unshuffle(F.interpolate(self.d(F.pixel_shuffle(self.c(b), 2)), scale_factor=0.5), 1) + b


class Moves(Wired):
    """flip, roll, index_select, stack, GLU, NHWC around a linear layer."""

    def parts(self):
        self.fc, self.c = nn.Linear(12, 12), unit(12, 24)

    def between(self, a, b):
        b = b.flip(3).roll(1, 2).flip(1)
        b = b.index_select(1, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]))
        c = F.glu(self.c(b), 1)
        c = self.fc(c.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return torch.stack([b, c], 0).sum(0)


class SizeBranches(Wired):
    """Control flow on sizes and lists: C2f, a pool only where maps are large, a flatten on size."""

    def parts(self):
        self.c, self.m, self.d = unit(12, 12), nn.ModuleList(unit(6, 6) for _ in range(2)), unit(24, 12)

    def between(self, a, b):
        if b.shape[-1] > 4:
            b = F.max_pool2d(b, 2)
        y = list(self.c(b).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        b = self.d(torch.cat(y, 1))
        for _ in range(b.shape[2] // 4):
            b = F.relu(b) + 0.5
        return b


class TemporalShift(Wired):
    """TSM: frames in the batch, a fixed number of them; channels shifted along time by assignment."""

    def between(self, a, b):
        nt, c, h, w = b.size()
        x = b.view(nt // 3, 3, c, h, w)
        out = torch.zeros_like(x)
        out[:, :-1, :2] = x[:, 1:, :2]
        out[:, 1:, 2:4] = x[:, :-1, 2:4]
        out[:, :, 4:] = x[:, :, 4:]
        return out.view(nt, c, h, w)


class DropPath(Wired):
    def parts(self):
        self.c, self.p = unit(12, 12), 0.4

    def between(self, a, b):
        y = self.c(b)
        if self.training:
            keep = y.new_empty((y.shape[0],) + (1,) * (y.ndim - 1)).bernoulli_(1 - self.p)
            y = y * keep.div_(1 - self.p)
        return b + y


class SizeArithmetic(Wired):
    """Padding by what is missing, as in a U-Net."""

    def parts(self):
        self.c, self.up, self.d = unit(12, 12), nn.ConvTranspose2d(12, 12, 2, stride=2), unit(24, 12)

    def between(self, a, b):
        y = self.up(self.c(F.max_pool2d(b, 3, 3)))
        dy, dx = b.size(2) - y.size(2), b.size(3) - y.size(3)
        return self.d(torch.cat([b, F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])], 1))


class NoiseConstant(Wired):
    def between(self, a, b):
        return b + torch.randn(1)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Squares(nn.Module):
    def forward(self, x):
        return Square.apply(x)


class OwnDerivative(Wired):
    """A function with a derivative of its own, in a module of its own."""

    def parts(self):
        self.square = Squares()

    def between(self, a, b):
        return self.square(b)


class BareDerivative(Wired):
    def between(self, a, b):
        return Square.apply(b)


@torch.jit.script
def scripted(x: Tensor):
    return x * 2 + x.mean()


class Scripted(Wired):
    def between(self, a, b):
        return scripted(b)


class Checkpointed(Wired):
    """Activation checkpoints around a block without BatchNorm."""

    def parts(self):
        self.c = nn.Conv2d(12, 12, 1)

    def between(self, a, b):
        return checkpoint(self.c, b, use_reentrant=False) + checkpoint(self.c, b, use_reentrant=True)


EXACT: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Hooked, PreHooked, HookedConvolution, HookedBlock, HookedRoot, InstanceForward, WrappedForward, RootForward,
        FunctionalNorm, OwnNorm, MovingPart, RandomInPart, ShiftedNorm, NormWithActivation, SamePadded, NotAffine,
        OldWeightNorm, NewWeightNorm, TorchPruned, LinearChunks, Sequence, OneByOne, ScalarGain, Focus, Shuffles, Moves,
        SizeBranches, TemporalShift, DropPath, SizeArithmetic, NoiseConstant, OwnDerivative, Checkpointed,
    )
}  # fmt: skip

REFUSED: dict[str, tuple[type[nn.Module], str]] = {
    "HookedNorm": (HookedNorm, r"BatchNorm layer b\.1 cannot be shrunk: it has a hook"),
    "FoldedGamma": (FoldedGamma, r"BatchNorm layer n cannot be shrunk: its scale is read past the layer"),
    "MovingBuffer": (MovingBuffer, "changes mu while it runs"),
    "AssignedBuffer": (AssignedBuffer, "changes mu while it runs"),
    "Counting": (Counting, "changes calls while it runs"),
    "RandomBranch": (RandomBranch, "branches on tensor values"),
    "PythonRandomBranch": (PythonRandomBranch, "random number generators"),
    "ValueBranch": (ValueBranch, "branches on tensor values"),
    "BareDerivative": (BareDerivative, "a function with a derivative of its own"),
    "Scripted": (Scripted, "which is scripted"),
    "NoGradient": (NoGradient, "switches gradients"),
    "Autocast": (Autocast, "autocast"),
}
MAY_REFUSE: dict[str, type[nn.Module]] = {"NormInEncoder": NormInEncoder}


def example(name: str) -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
