"""Layers of the random programs: (width, size) -> a layer and the width that comes out of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from tests.tickets.hostile import ActNorm, ConvBn, Plain, RandomPart, SamePad
from tests.tickets.networks import unit

Made = tuple[nn.Module, int]


class Gain(nn.Module):
    """Parameters of one value per channel, and of one for all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.one = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.wide + self.one * x


class Standardized(nn.Module):
    """Constants that are buffers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, width)[:, None, None])
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class Moving(nn.Module):
    """A buffer that changes in training; no BatchNorm in it, so it stays whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mu", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mu.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3)))
        return x - self.mu[:, None, None]


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.7).div_(0.7)


class Layers(nn.Module):
    """Two units in a list that forward runs through, each output read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.units = nn.ModuleList([unit(width, width, 1), unit(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for part in self.units:
            seen.append(part(seen[-1]))
        return sum(seen[1:], seen[0])


def _same(make: Callable[[int], nn.Module]) -> Callable[[int, int], Made]:
    return lambda width, size: (make(width), width)


def _wide(make: Callable[[int, int, bool], nn.Module]) -> Callable[[int, int], Made]:
    """A layer to 2 + size channels, with a bias every third time."""
    return lambda width, size: (make(width, 2 + size, size % 3 == 0), 2 + size)


def _depthwise(width: int, size: int) -> Made:
    out = width * (1 + size % 2)
    return nn.Conv2d(width, out, 3, padding=1, groups=width, bias=size % 3 == 0), out


def _grouped(width: int, size: int) -> Made:
    groups = gcd(width, 6)
    return nn.Conv2d(width, groups * (1 + size), 1, groups=groups, bias=size % 3 == 0), groups * (1 + size)


def _transposed(width: int, size: int) -> Made:
    groups = gcd(width, 2)
    return nn.ConvTranspose2d(width, groups * (1 + size), 3, padding=1, groups=groups, bias=size % 3 == 0), groups * (
        1 + size
    )


def _hooked(module: nn.Module, after: Callable[[Tensor], Tensor]) -> nn.Module:
    module.register_forward_hook(lambda m, i, o: after(o))
    return module


def _pre_hooked(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda m, i: (i[0] + 0.5,))
    return module


def _with_forward(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> nn.Module:
    module.forward = forward  # type: ignore[method-assign]
    return module


def _plus(original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return original(x) + 0.25


def _pruned(width: int, out: int, bias: bool) -> nn.Module:
    return prune.l1_unstructured(nn.Conv2d(width, out, 1, bias=bias), "weight", 0.5)


LAYERS: dict[str, Callable[[int, int], Made]] = {
    "convolution": _wide(lambda i, o, b: nn.Conv2d(i, o, 3, padding=1, bias=b)),
    "depthwise": _depthwise,
    "grouped": _grouped,
    "transposed": _transposed,
    "reflecting": _wide(lambda i, o, b: nn.Conv2d(i, o, 3, padding=1, padding_mode="reflect", bias=b)),
    "norm": _same(nn.BatchNorm2d),
    "norm without momentum": _same(functools.partial(nn.BatchNorm2d, momentum=None)),
    "norm without statistics": _same(functools.partial(nn.BatchNorm2d, track_running_stats=False)),
    "norm without scale": _same(functools.partial(nn.BatchNorm2d, affine=False)),
    "norm with activation": _same(ActNorm),
    "norm that adds": _same(Plain),
    "own padding": _wide(lambda i, o, b: SamePad(i, o, 3, bias=b)),
    "convolution with norm": _wide(lambda i, o, b: ConvBn(i, o)),
    "block": _wide(lambda i, o, b: unit(i, o)),
    "list of layers": _same(Layers),
    "hook": _same(lambda w: _hooked(nn.ReLU(), lambda o: o + 0.5)),
    "hooked convolution": _wide(lambda i, o, b: _hooked(nn.Conv2d(i, o, 1, bias=b), lambda o: o * 2 + 0.5)),
    "hooked block": _wide(lambda i, o, b: _hooked(unit(i, o), torch.sigmoid)),
    "pre-hook": _same(lambda w: _pre_hooked(nn.ReLU())),
    "instance forward": _same(lambda w: _with_forward(nn.ReLU(), lambda x: F.relu(x) + 1)),
    "wrapped forward": _same(lambda w: _with_forward(nn.ReLU(), functools.partial(_plus, F.relu))),
    "weight norm": _wide(lambda i, o, b: parametrizations.weight_norm(nn.Conv2d(i, o, 1, bias=b))),
    "old weight norm": _wide(lambda i, o, b: weight_norm(nn.Conv2d(i, o, 1, bias=b))),
    "spectral norm": _wide(lambda i, o, b: parametrizations.spectral_norm(nn.Conv2d(i, o, 1, bias=b))),
    "old spectral norm": _wide(lambda i, o, b: spectral_norm(nn.Conv2d(i, o, 1, bias=b))),
    "pruned convolution": _wide(_pruned),
    "gain": _same(Gain),
    "buffers": _same(Standardized),
    "moving buffer": _same(Moving),
    "random part": _same(lambda w: RandomPart()),
    "drop path": _same(lambda w: DropPath()),
    "dropout": _same(lambda w: nn.Dropout2d(0.3)),
    "group norm": _same(lambda w: nn.GroupNorm(gcd(w, 2), w)),
    "instance norm": _same(lambda w: nn.InstanceNorm2d(w, affine=True)),
    "slopes": _same(nn.PReLU),
}
OTHERS: dict[str, Callable[[int, int], Made]] = {
    "linear": _wide(lambda i, o, b: nn.Linear(i, o, bias=b)),
    "tokens": _wide(lambda i, o, b: nn.Linear(i, o, bias=b)),
    "norm of tokens": _same(nn.BatchNorm1d),
    "over time": _wide(lambda i, o, b: nn.Conv1d(i, o, 3, padding=1, bias=b)),
    "in depth": _wide(lambda i, o, b: nn.Sequential(nn.Conv3d(i, o, 1, bias=b), nn.BatchNorm3d(o))),
    "excite": _same(lambda w: nn.Conv2d(w, w, 1)),
    "block twice": _same(lambda w: unit(w, w)),
}
