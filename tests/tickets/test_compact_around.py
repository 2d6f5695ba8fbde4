"""What stands around a network: caches in its code, its own train(), names, state in containers, other tensors."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebsim.errors import CompactError
from ebsim.tickets import apply_mask, channel_mask, compact
from ebsim.tickets.shrinking.shrunk import mask_of
from tests.oracle.masked import assert_same, copied, randomise
from tests.tickets.networks import Wired, unit


def image(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@functools.lru_cache(maxsize=8)
def slope(h: int, w: int) -> Tensor:
    return torch.linspace(0, 1, h, dtype=torch.float64)[:, None] * torch.linspace(0, 1, w, dtype=torch.float64)


@functools.cache
def area(h: int, w: int) -> float:
    return h * w / 64


SEEN: dict[Any, Any] = {}
LAST: list[Any] = [0]


class Memos(Wired):
    """By size: in functools caches, in a dictionary of the module, in one of the file, in a list of the file."""

    def parts(self):
        self.memo = {}

    def between(self, a, b):
        size = b.shape[-2:]
        if size not in self.memo:
            self.memo[size] = slope(*size) + 1
        if size not in SEEN:
            SEEN[size] = size[0] / 8
        LAST[0] = b.shape[2]
        return b * self.memo[size] * area(b.shape[2], b.shape[3]) * SEEN[size]


@pytest.mark.parametrize("first", [True, False])
def test_caches_in_the_code_are_left_as_they_were(first):
    for cache in (slope, area):
        cache.cache_clear()
    SEEN.clear()
    model = randomise(Memos())
    dense = copied(model).eval()
    if first:  # the caches hold what the dense network put there
        dense(image())
    shrunk = assert_same(model, channel_mask(model, 0.5), image())
    assert not shrunk.notes
    for side in (8, 12):
        x = torch.ones(1, 3, side, side, dtype=torch.float64)
        expected = dense.head(dense.last(dense.b(dense.a(x)) * (slope(side, side) + 1) * (side**3 / 512)).mean((2, 3)))
        assert torch.allclose(dense(x), expected, atol=1e-12) and torch.is_tensor(slope(side, side))
    assert all(type(size) is torch.Size and type(value) is float for size, value in SEEN.items())
    assert LAST[0] + 1 == 13 and int(LAST[0]) == 12


class Counted(Wired):
    def parts(self):
        self.calls = {"forward": [0]}

    def between(self, a, b):
        self.calls["forward"][0] += 1
        return b if self.calls["forward"][0] < 50 else -b


class Averaged(Wired):
    def parts(self):
        self.held = [torch.zeros(12, dtype=torch.float64)]

    def between(self, a, b):
        self.held[0] = 0.9 * self.held[0] + 0.1 * b.detach().mean((0, 2, 3))
        return b - self.held[0][:, None, None]


class Remembered(Wired):
    """Normalizes by what the first batch was."""

    def parts(self):
        self.first = {}

    def between(self, a, b):
        if "mean" not in self.first:
            self.first["mean"] = b.detach().mean()
        return b - self.first["mean"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Counted, r"changes calls\['forward'\]\[0\] while"), (Averaged, r"changes held\[0\]"), (Remembered, "differ")],
)
def test_state_in_containers_is_refused(kind, message):
    model = randomise(kind())
    with pytest.raises(CompactError, match=message):
        compact(model, channel_mask(model, 0.5), image())
    model(image())  # and nothing of the tracing is left in it
    assert not any("Proxy" in type(v).__name__ for v in getattr(model, "first", {}).values())


class KeptFrozen(Wired):
    def train(self, mode: bool = True):
        super().train(mode)
        self.b[1].eval()
        return self


def test_what_the_own_train_keeps_in_evaluation_mode_stays_there():
    model = randomise(KeptFrozen()).train()
    shrunk = compact(model, channel_mask(model, 0.5), image())
    for mode in (True, False, True):
        shrunk.train(mode)
        frozen, other = shrunk.get_submodule("b.1"), shrunk.get_submodule("a.1")
        assert not frozen.training and other.training == mode
    before = frozen.running_mean.clone()
    shrunk(image())
    assert torch.equal(frozen.running_mean, before)


class Named(nn.Module):
    """Parts and settings that are called as what a shrunk network says about itself."""

    def __init__(self):
        super().__init__()
        self.stem, self.mask, self.example, self.call = unit(3, 8), unit(8, 8), unit(8, 8), unit(8, 8)
        self.notes = "of the network"
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.call(self.example(self.mask(self.stem(x)))).mean((2, 3)))


def test_parts_of_any_name():
    model = randomise(Named())
    mask = channel_mask(model, 0.5)
    shrunk = assert_same(model, mask, image())
    assert mask_of(shrunk) == mask and isinstance(shrunk.mask, nn.Module) and shrunk.notes == ()
    model = nn.Sequential()
    model.graph = unit(3, 8)
    with pytest.raises(CompactError, match="a part named 'graph'"):
        compact(model, channel_mask(model, 0.5), image())


class Monitor(nn.Module):
    """Nobody reads what it gives; it counts and keeps a running mean."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.5).add_(0.5 * x.detach().mean())
        return self.mean


class Unread(Wired):
    """Dropout, a monitor and a second call of a BatchNorm whose results nobody reads."""

    def parts(self):
        self.drop, self.then, self.monitor = nn.Dropout(0.5), nn.Dropout(0.5), Monitor()
        self.c, self.n = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)

    def between(self, a, b):
        self.drop(b)
        F.dropout(a, 0.5, self.training)
        self.monitor(b)
        y = self.n(self.c(b))
        self.n(self.c(b * 3))
        return self.then(y)


def test_what_nobody_reads_still_happens():
    model = randomise(Unread())
    mask = channel_mask(model, 0.5)
    shrunk = assert_same(model, mask, image(6))
    masked = copied(model).train()
    apply_mask(masked, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        shrunk = compact(model, mask, image(6)).train()
    for network in (masked, shrunk):
        torch.manual_seed(0)
        network(image(6))
    assert torch.allclose(masked.monitor.mean, shrunk.monitor.mean) and float(masked.monitor.mean) != 0
    kept = mask["n"]
    assert torch.allclose(masked.n.running_var[kept], shrunk.n.running_var)


class Tagged(Tensor):
    """A subclass of Tensor, as libraries of images and labels have one."""


def test_inputs_of_a_subclass_of_tensor():
    model = randomise(Wired())
    mask = channel_mask(model, 0.5)
    tagged = image().as_subclass(Tagged)
    shrunk = compact(model, mask, tagged).eval()
    assert torch.equal(shrunk(tagged).as_subclass(Tensor), shrunk(image()))


class Copied(Wired):
    def between(self, a, b):
        return copy.copy(b) * 2  # has no derivative


class Conditional(Wired):
    def between(self, a, b):
        return torch.cond(b.sum() > 0, lambda t: t * 2, lambda t: t - 1, (b,))


class Mapped(Wired):
    def between(self, a, b):
        return torch.vmap(lambda t: t * 2)(b)


class Positive(Wired):
    def between(self, a, b):
        return b * b[b > 0].mean()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Copied, "copies a tensor with copy.copy"),
        (Conditional, r"branches on tensor values \(torch.cond\)"),
        (Mapped, r"torch.vmap"),
        (Positive, "the size of a tensor depends on values"),
    ],
)
def test_errors_speak_of_the_code(kind, message):
    model = randomise(kind())
    with pytest.raises(CompactError, match=message) as told:
        compact(model, channel_mask(model, 0.5), image())
    assert "Proxy" not in str(told.value) and "Dynamo" not in str(told.value)


class CompiledPart(Wired):
    def parts(self):
        self.c = torch.compile(unit(12, 12), backend="eager")

    def between(self, a, b):
        return self.c(b)


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_part_is_followed():
    model = randomise(CompiledPart())
    shrunk = assert_same(model, channel_mask(model, 0.5), image(6))
    assert "c._orig_mod.1" in shrunk.mask.layers and shrunk.notes[0].startswith("c has a forward of its own")


class Outside(nn.Module):
    """A layer that lives in a closure, not in the network."""

    def __init__(self):
        super().__init__()
        self.a, self.head = unit(3, 8), nn.Linear(8, 2)
        hidden = unit(8, 8).double()
        self.step = lambda x: hidden(x)

    def forward(self, x):
        return self.head(self.step(self.a(x)).mean((2, 3)))


def test_layers_in_a_closure_keep_what_they_do():
    model = randomise(Outside())
    mask = channel_mask(model, 0.5)
    try:
        shrunk = compact(model, mask, image())
    except CompactError as error:
        assert "\n" not in str(error)
        return
    masked = copied(model).eval()
    apply_mask(masked, mask)
    assert torch.allclose(shrunk.eval()(image()), masked(image()), atol=1e-10)
