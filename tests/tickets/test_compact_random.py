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
}


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
            if kind in ("shuffle", "swap halves") and width % 2:
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
        if kind.startswith("norm"):
            return nn.BatchNorm2d(width), width
        if kind == "excite":
            return nn.Conv2d(width, width, 1), width
        return None, width * 2 if kind == "concatenate" else width + 3 if kind == "pad" else width

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for number, (kind, a, b, half) in enumerate(self.program):
            layer = self.layers[str(number)] if str(number) in self.layers else half  # noqa: SIM401
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
    assert_same(model, mask, torch.randn(4, 4, 6, 6, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@PROGRAMS
def test_any_program_computes_what_its_masked_network_computes(program, seed, density):
    check(program, seed, density)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@PROGRAMS
def test_a_thousand_programs(program, seed, density):
    check(program, seed, density)
