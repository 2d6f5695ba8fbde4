"""compact on random networks: programs of layers under random masks, in float64, both modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ebsim.tickets import ChannelMask, bn_layers
from tests.oracle.masked import assert_same, randomise
from tests.tickets.random_parts import LAYERS, OTHERS

# what a step does to a value x [N, width, 6, 6], to a second one y of the same width, with a layer of its own
# (a layer of `random_parts`) or with half the width
STEPS = {
    **{kind: lambda x, y, layer: layer(x) for kind in LAYERS},
    "norm and relu": lambda x, y, layer: F.relu(layer(x)),
    "norm again": lambda x, y, layer: F.relu(layer(torch.tanh(layer(x)))),
    "norm by hand": lambda x, y, layer: F.batch_norm(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.training
    ),
    "block twice": lambda x, y, layer: layer(layer(x) + y),
    "linear": lambda x, y, layer: layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "tokens": lambda x, y, layer: layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:]),
    "norm of tokens": lambda x, y, layer: layer(x.flatten(2)).view(x.shape),
    "over time": lambda x, y, layer: layer(x.flatten(2)).unflatten(2, x.shape[2:]),
    "in depth": lambda x, y, layer: layer(x.unsqueeze(2)).squeeze(2),
    "excite": lambda x, y, layer: x * torch.sigmoid(layer(x.mean((2, 3), keepdim=True))),
    "add": lambda x, y, layer: x + y,
    "add in place": lambda x, y, layer: x.clone().add_(y).relu_(),
    "multiply": lambda x, y, layer: x * y,
    "concatenate": lambda x, y, layer: torch.cat([y, x], 1),
    "pool": lambda x, y, layer: F.avg_pool2d(x, 3, 1, 1),
    "shuffle": lambda x, y, layer: x.unflatten(1, (2, layer)).transpose(1, 2).reshape(-1, 2 * layer, *x.shape[2:]),
    "swap halves": lambda x, y, layer: torch.cat([F.silu(x.chunk(2, 1)[1]), x[:, :layer]], 1),
    "shift": lambda x, y, layer: (x - 0.5) / 2,
    "pad": lambda x, y, layer: F.pad(x, (0, 0, 0, 0, 2, 1)),
    "reflect": lambda x, y, layer: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1),
    "no rule": lambda x, y, layer: torch.softmax(x, 1),
    "softmax over space": lambda x, y, layer: torch.softmax(x.flatten(2), -1).view(x.shape),
    "attention": lambda x, y, layer: attention(x, y),
    "flip": lambda x, y, layer: x.flip(1).roll(1, 3).flip(2),
    "stack": lambda x, y, layer: torch.stack([x, y], 1).amax(1),
    "item": lambda x, y, layer: x * torch.tanh(x[:, layer])[:, None] + x[:, :, 0, :1].mean(2)[:, :, None, None],
    "gate halves": lambda x, y, layer: F.glu(x, 1),
    "pixels": lambda x, y, layer: F.pixel_unshuffle(F.pixel_shuffle(x, 2).tanh(), 2),
    "assign": lambda x, y, layer: assign(x, y, layer),
    "unbind": lambda x, y, layer: torch.cat([part[:, None] for part in x.unbind(1)][::-1], 1),
    "split": lambda x, y, layer: torch.cat([p * (i + 1) for i, p in enumerate(x.split(max(1, layer), 1))], 1),
    "index": lambda x, y, layer: x[:, [*range(layer, x.shape[1]), *range(layer)]],
    "every second": lambda x, y, layer: torch.cat([x[:, ::2], x[:, 1::2]], 1),
    "maximum": lambda x, y, layer: torch.maximum(x, y) - torch.minimum(x, y) * 0.5,
    "where": lambda x, y, layer: torch.where(x > 0, x, 0.1 * y),
    "divide": lambda x, y, layer: x / (1 + y.abs()),
    "channel maximum": lambda x, y, layer: x * torch.sigmoid(x.amax(1, keepdim=True) - y.mean(1, keepdim=True)),
    "unit length": lambda x, y, layer: F.normalize(x, dim=1),
    "einsum": lambda x, y, layer: torch.einsum("nchw,nc->nchw", x, y.mean((2, 3))),
    "repeat": lambda x, y, layer: x.mean((2, 3), keepdim=True).repeat(1, 1, *x.shape[2:]) + x,
    "expand": lambda x, y, layer: x.amax((2, 3), keepdim=True).expand_as(y) + y,
    "centered": lambda x, y, layer: x - x.mean(1, keepdim=True),
    "crop": lambda x, y, layer: F.pad(x[:, :, :6, :6] + y[..., -6:, :6], (0, x.shape[3] - 6, 0, x.shape[2] - 6)),
    "half the batch": lambda x, y, layer: torch.cat([x[:2] * 2, y[2:]], 0),
    "branch by size": lambda x, y, layer: F.relu(x) if x.shape[-1] > 4 and x.size(1) > 3 else -x,
    "second input": None,
}
OWN = {"norm and relu": "norm", "norm again": "norm", "norm by hand": "norm"}  # whose layer another step takes


def attention(x: Tensor, y: Tensor) -> Tensor:
    q, k = x.flatten(2), y.flatten(2)
    weights = torch.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, -1)
    return (q @ weights.transpose(1, 2)).view(x.shape)


def assign(x: Tensor, y: Tensor, half: int) -> Tensor:
    out = torch.zeros_like(x)
    out[:, half:] = x[:, half:]
    out[:, :half] += y[:, :half]
    return out


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
        self.several = len(widths) % 3 == 0  # outputs of several values

    @staticmethod
    def layer(kind: str, width: int, size: int) -> tuple[nn.Module | None, int]:
        """The layer that a step needs, and the width that comes out."""
        make = LAYERS.get(OWN.get(kind, kind)) or OTHERS.get(kind)
        if make is not None:
            return make(width, size)
        change = {"concatenate": width * 2, "pad": width + 3, "gate halves": width // 2}
        return None, change.get(kind, width)

    def forward(self, x: Tensor, z: Tensor) -> Any:
        values = [x]
        for number, (kind, a, b, half) in enumerate(self.program):
            layer = self.layers[str(number)] if str(number) in self.layers else half  # noqa: SIM401
            if kind == "second input":
                values.append(values[a] * torch.sigmoid(z) + values[b])
            else:
                values.append(STEPS[kind](values[a], values[b], layer))
        out = self.head(torch.flatten(F.adaptive_avg_pool2d(values[-1], 2), 1))
        return {"out": out, "features": (values[-2], values[len(values) // 2])} if self.several else out


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
    (x, z), *others = (
        (torch.randn(n, 4, h, w, dtype=torch.float64), torch.randn(n, 1, h, w, dtype=torch.float64))
        for n, h, w in ((4, 6, 6), (3, 6, 6), (1, 6, 6), (2, 9, 8))
    )
    assert_same(model, mask, x, z, elsewhere=others, verify=False)


@settings(max_examples=25, deadline=None)
@PROGRAMS
def test_any_program_computes_what_its_masked_network_computes(program, seed, density):
    check(program, seed, density)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_ten_thousand_programs(part):
    """In parts of 500, each of its own seed, so that they can be run side by side."""
    settings(max_examples=500, deadline=None, database=None)(seed(part)(PROGRAMS(check)))()
