"""compact on networks that nobody drew: random programs of layers under random masks, in float64, both modes."""

from __future__ import annotations

from math import gcd

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ebsim.tickets import ChannelMask, bn_layers
from tests.oracle.masked import assert_same, randomise
from tests.tickets.hostile import ActNorm, SamePad

# what a step does to a value x [N, width, 6, 6], to a second one y of the same width, with a layer of its own
STEPS = {
    "convolution": lambda x, y, layer: layer(x),
    "depthwise": lambda x, y, layer: layer(x),
    "grouped": lambda x, y, layer: layer(x),
    "norm": lambda x, y, layer: layer(x),
    "norm and relu": lambda x, y, layer: F.relu(layer(x)),
    "norm again": lambda x, y, layer: F.relu(layer(torch.tanh(layer(x)))),
    "excite": lambda x, y, layer: x * torch.sigmoid(layer(x.mean((2, 3), keepdim=True))),
    "add": lambda x, y, layer: x + y,
    "multiply": lambda x, y, layer: x * y,
    "concatenate": lambda x, y, layer: torch.cat([y, x], 1),
    "pool": lambda x, y, layer: F.avg_pool2d(x, 3, 1, 1),
    "shuffle": lambda x, y, layer: x.view(-1, 2, layer, 6, 6).transpose(1, 2).reshape(-1, 2 * layer, 6, 6),
    "swap halves": lambda x, y, layer: torch.cat([F.silu(x.chunk(2, 1)[1]), x[:, :layer]], 1),
    "shift": lambda x, y, layer: (x - 0.5) / 2,
    "pad": lambda x, y, layer: F.pad(x, (0, 0, 0, 0, 2, 1)),
    "no rule": lambda x, y, layer: torch.softmax(x, 1),
    "softmax over space": lambda x, y, layer: torch.softmax(x.flatten(2), -1).view(x.shape),
    "hook": lambda x, y, layer: layer(x),
    "norm with activation": lambda x, y, layer: layer(x),
    "own padding": lambda x, y, layer: layer(x),
    "gain": lambda x, y, layer: layer(x),
    "linear": lambda x, y, layer: layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "tokens": lambda x, y, layer: layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], -1, 6, 6),
    "flip": lambda x, y, layer: x.flip(1).roll(1, 3).flip(2),
    "stack": lambda x, y, layer: torch.stack([x, y], 1).amax(1),
    "item": lambda x, y, layer: x * torch.tanh(x[:, layer])[:, None] + x[:, :, 0, :1].mean(2)[:, :, None, None],
    "gate halves": lambda x, y, layer: F.glu(x, 1),
    "pixels": lambda x, y, layer: F.pixel_unshuffle(F.pixel_shuffle(x, 2).tanh(), 2),
    "assign": lambda x, y, layer: assign(x, y, layer),
    "unbind": lambda x, y, layer: torch.cat([part[:, None] for part in x.unbind(1)][::-1], 1),
    "split": lambda x, y, layer: torch.cat([p * (i + 1) for i, p in enumerate(x.split(max(1, layer), 1))], 1),
    "branch by size": lambda x, y, layer: F.relu(x) if x.shape[-1] > 4 and x.size(1) > 3 else -x,
    "second input": None,
}


def assign(x: Tensor, y: Tensor, half: int) -> Tensor:
    out = torch.zeros_like(x)
    out[:, half:] = x[:, half:]
    out[:, :half] += y[:, :half]
    return out


class Gain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.one = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.wide + self.one * x


class Drawn(nn.Module):
    """A program over a growing list of values: (step, which x, which of the ys that fit, a size)."""

    def __init__(self, steps: list[tuple[str, int, int, int]]) -> None:
        super().__init__()
        self.program: list[tuple[str, int, int, int]] = []
        self.layers = nn.ModuleDict()
        widths = [4]
        for kind, x, y, size in steps:
            x %= len(widths)
            width = widths[x]
            if kind in ("shuffle", "swap halves", "gate halves") and width % 2:
                continue
            if kind == "pixels" and width % 4:
                continue
            fits = [i for i, w in enumerate(widths) if w == width]
            layer, new = self.layer(kind, width, size)
            if layer is not None:
                self.layers[str(len(self.program))] = layer
            self.program.append((kind, x, fits[y % len(fits)], width // 2))
            widths.append(new)
        self.head = nn.Linear(widths[-1] * 4, 3)

    @staticmethod
    def layer(kind: str, width: int, size: int) -> tuple[nn.Module | None, int]:
        """The layer that a step needs, and the width that comes out."""
        bias = size % 3 == 0
        groups = gcd(width, 6)
        if kind == "convolution":
            return nn.Conv2d(width, 2 + size, 3, padding=1, bias=bias), 2 + size
        if kind == "depthwise":
            out = width * (1 + size % 2)
            return nn.Conv2d(width, out, 3, padding=1, groups=width, bias=bias), out
        if kind == "grouped":
            return nn.Conv2d(width, groups * (1 + size), 1, groups=groups, bias=bias), groups * (1 + size)
        if kind == "norm with activation":
            return ActNorm(width), width
        if kind == "own padding":
            return SamePad(width, 2 + size, 3, bias=bias), 2 + size
        if kind == "hook":
            layer: nn.Module = nn.ReLU()
            layer.register_forward_hook(lambda m, i, o: o + 0.5)
            return layer, width
        if kind == "gain":
            return Gain(width), width
        if kind in ("linear", "tokens"):
            return nn.Linear(width, 2 + size, bias=bias), 2 + size
        if kind == "gate halves":
            return None, width // 2
        if kind.startswith("norm"):
            return nn.BatchNorm2d(width), width
        if kind == "excite":
            return nn.Conv2d(width, width, 1), width
        return None, width * 2 if kind == "concatenate" else width + 3 if kind == "pad" else width

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        values = [x]
        for number, (kind, a, b, half) in enumerate(self.program):
            layer = self.layers[str(number)] if str(number) in self.layers else half  # noqa: SIM401
            if kind == "second input":
                values.append(values[a] * torch.sigmoid(z) + values[b])
            else:
                values.append(STEPS[kind](values[a], values[b], layer))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(values[-1], 2), 1))


def steps(kinds: list[str]) -> st.SearchStrategy:
    # later values are read more often than earlier ones: x counts from the end
    step = st.tuples(
        st.sampled_from(kinds), st.sampled_from([-1, -1, -1, -2, -3, -5]), st.integers(0, 9), st.integers(0, 5)
    )
    return st.lists(step, min_size=3, max_size=14)


COMMON = ["convolution", "norm", "norm and relu", "depthwise"]


PROGRAMS = given(steps([*STEPS, *COMMON, *COMMON]), st.integers(0, 2**20), st.sampled_from([0.1, 0.4, 0.8]))


def check(program: list, seed: int, density: float) -> None:
    torch.manual_seed(seed)
    model = randomise(Drawn([("convolution", -1, 0, 4), ("norm", -1, 0, 0), *program, ("norm", -1, 0, 0)]), seed)
    layers = bn_layers(model)
    bits = [torch.rand(n) < density for n in layers.values()]
    for part in bits:
        part[int(torch.randint(len(part), ()))] = True
    mask = ChannelMask(torch.cat(bits), layers)
    x, z = torch.randn(4, 4, 6, 6, dtype=torch.float64), torch.randn(4, 1, 6, 6, dtype=torch.float64)
    assert_same(model, mask, x, z)


@settings(max_examples=25, deadline=None)
@PROGRAMS
def test_any_program_computes_what_its_masked_network_computes(program, seed, density):
    check(program, seed, density)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@PROGRAMS
def test_ten_thousand_programs(program, seed, density):
    check(program, seed, density)
