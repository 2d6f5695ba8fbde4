"""Fused selection, BatchNorm and ReLU: against float64, against the library's kernels, and where they are refused."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebsim import models, tickets
from ebsim.config import Train
from ebsim.errors import ConfigError
from ebsim.tickets.shrinking.select import Select
from ebsim.training import TrainStep, make_optimizer, train_epoch
from ebsim.training.compilation import conditions, step_forward
from ebsim.training.kernels import library
from ebsim.training.kernels.batchnorm_relu import FusedBatchNormReLU
from ebsim.training.kernels.fusion import fused

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on the PATH")

# channels, width before the selection, images, side: whole vectors, rests, one channel, more than a run takes
SHAPES = [
    (13, None, 4, 5), (16, None, 3, 7), (46, 64, 8, 6), (1, 3, 4, 4), (255, None, 2, 9), (172, 256, 5, 8),
    (33, 90, 6, 5), (700, None, 2, 3), (16, 16, 2, 2), (2, None, 1, 2), (64, None, 40, 16), (45, 64, 40, 16),
    (600, 1030, 3, 3),
]  # fmt: skip


def layer(channels: int, width: int | None, seed: int = 0) -> tuple[nn.BatchNorm2d, Select | None]:
    torch.manual_seed(seed)
    bn = nn.BatchNorm2d(channels)
    bn.weight.data.normal_()
    bn.bias.data.normal_()
    kept = None if width is None else sorted(torch.randperm(width)[:channels].tolist())
    return bn, None if kept is None or width is None else Select(kept, width)


def images(channels: int, count: int, side: int) -> Tensor:
    x = 3 * torch.randn(count, channels, side, side) + 5 * torch.randn(1, channels, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def both_ways(forward: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = forward(x)
    y.backward(gradient)
    assert x.grad is not None
    return y.detach(), x.grad


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("channels", "width", "count", "side"), SHAPES)
def test_forward_backward_and_statistics_agree_with_float64(
    channels: int, width: int | None, count: int, side: int
) -> None:
    bn, selection = layer(channels, width)
    exact = copy.deepcopy(bn).double()
    x, gradient = images(width or channels, count, side), images(channels, count, side)
    y, dx = both_ways(FusedBatchNormReLU(bn, selection), x, gradient)
    z, dz = both_ways(
        lambda t: torch.relu(exact(t if selection is None else selection(t))), x.double(), gradient.double()
    )
    assert y.is_contiguous(memory_format=torch.channels_last) and dx.is_contiguous(memory_format=torch.channels_last)
    pairs = [(y, z), (dx, dz), (bn.running_mean, exact.running_mean), (bn.running_var, exact.running_var)]
    pairs += [(bn.weight.grad, exact.weight.grad), (bn.bias.grad, exact.bias.grad)]
    assert max(error(a, b) for a, b in pairs) < 2e-6
    assert bn.num_batches_tracked == 1


@pytest.mark.parametrize(("channels", "width", "count", "side"), SHAPES)
def test_bf16_is_rounded_once(channels: int, width: int | None, count: int, side: int) -> None:
    """Output and input gradient are float64's, rounded to bf16 (half a unit of 2^-8), statistics those of the input."""
    bn, selection = layer(channels, width, seed=1)
    exact = copy.deepcopy(bn).double()
    x, gradient = images(width or channels, count, side).bfloat16(), images(channels, count, side).bfloat16()
    y, dx = both_ways(FusedBatchNormReLU(bn, selection), x, gradient)
    z, dz = both_ways(
        lambda t: torch.relu(exact(t if selection is None else selection(t))), x.double(), gradient.double()
    )
    assert y.dtype == dx.dtype == torch.bfloat16
    assert ((y.double() - z).abs() <= 2**-8 * z.abs() + 1e-5 * z.abs().max()).all()
    assert ((dx.double() - dz).abs() <= 2**-8 * dz.abs() + 1e-5 * dz.abs().max()).all()
    assert error(bn.running_var, exact.running_var) < 2e-6 and error(bn.weight.grad, exact.weight.grad) < 1e-5


def test_every_bf16_value_is_rounded_to_nearest_even() -> None:
    """A scale of one and no shift: the output is torch's own rounding of the same float32 product."""
    bn = nn.BatchNorm2d(1, eps=1e-12)
    x = torch.linspace(-3, 3, 4096).view(1, 1, 64, 64).bfloat16().contiguous(memory_format=torch.channels_last)
    y = FusedBatchNormReLU(bn, None)(x)
    wide = x.double()
    mean, var = wide.mean(), wide.var(unbiased=False)
    inv = 1 / (var + 1e-12).sqrt()
    scale, shift = inv.float(), (-mean * inv).float()
    expected = torch.relu(
        torch.addcmul(shift.double(), wide, scale.double()).float()
    ).bfloat16()  # one rounding, as FMA
    assert torch.equal(y, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    bn, _ = layer(5, None)
    x = images(5, 3, 4)
    x[1, 2, 0, 0] = bad
    y, dx = both_ways(
        FusedBatchNormReLU(bn, None), x, torch.ones(3, 5, 4, 4).contiguous(memory_format=torch.channels_last)
    )
    assert y[:, 2].isnan().any() and not y[:, :2].isnan().any() and not y[:, 3:].isnan().any()
    assert not bn.running_var.isfinite().all() and not dx[:, 2].isfinite().all()


def test_a_constant_channel_is_exact() -> None:
    """The background of digits: no variance, where sums of squares would leave some."""
    bn = nn.BatchNorm2d(3)
    x = torch.full((7, 3, 8, 8), -0.81280982).contiguous(memory_format=torch.channels_last)
    y, dx = both_ways(FusedBatchNormReLU(bn, None), x, torch.ones_like(x))
    assert y.abs().max() < 1e-4 and dx.isfinite().all() and error(bn.running_var, torch.full((3,), 0.9)) < 1e-6


@pytest.mark.parametrize("width", [None, 40])
def test_threads_share_the_rows(width: int | None) -> None:
    before = torch.get_num_threads()
    results = {}
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            bn, selection = layer(24, width)
            x, gradient = images(width or 24, 50, 16), images(24, 50, 16)
            results[threads] = (*both_ways(FusedBatchNormReLU(bn, selection), x, gradient), bn.weight.grad)
    finally:
        torch.set_num_threads(before)
    for threads in (2, 3):
        for a, b in zip(results[1], results[threads], strict=True):
            assert a.shape == b.shape and error(a, b) < 2e-6


def test_the_same_step_gives_the_same_bits() -> None:
    bn, selection = layer(24, 40)
    x, gradient = images(40, 9, 16), images(24, 9, 16)
    first = both_ways(FusedBatchNormReLU(copy.deepcopy(bn), selection), x, gradient)
    second = both_ways(FusedBatchNormReLU(copy.deepcopy(bn), selection), x, gradient)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("change", ["contiguous", "double", "evaluation"])
def test_what_the_kernel_is_not_made_for_goes_through_torch(change: str) -> None:
    bn, selection = layer(9, 14)
    x = images(14, 4, 6)
    if change == "contiguous":
        x = x.contiguous()
    elif change == "double":
        x, bn = x.double(), bn.double()
    else:
        bn.eval()
    plain = copy.deepcopy(bn)
    assert selection is not None
    assert torch.equal(FusedBatchNormReLU(bn, selection)(x), torch.relu(plain(selection(x))))
    assert torch.equal(bn.running_mean, plain.running_mean)


NETWORKS: dict[str, tuple[str, int, int]] = {  # family, depth, pairs of BatchNorm and ReLU
    "preresnet": ("preresnet", 20, 19),
    "vgg": ("vgg", 11, 8),
    "resnet": ("resnet", 18, 9),
}


def build(name: str, ratio: float) -> nn.Module:
    family, depth, _ = NETWORKS[name]
    model = models.build(family, depth=depth, classes=10, seed=0)
    if not ratio:
        return model
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator))
    return tickets.compact(model, tickets.channel_mask(model, ratio), torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("ratio", [0.0, 0.4])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_function_and_gradients_of_the_library_kernels(name: str, ratio: float) -> None:
    model = build(name, ratio).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = copy.deepcopy(model).double()
    forward = fused(model)
    pairs = [part for part in forward.modules() if isinstance(part, FusedBatchNormReLU)]  # type: ignore[attr-defined]
    assert len(pairs) == NETWORKS[name][2]
    if name == "preresnet" and ratio:
        assert any(pair.selection is not None for pair in pairs)
    x = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.arange(4)
    for network, call, inputs in ((model, forward, x), (plain, plain, x.double())):
        network.train()
        nn.functional.cross_entropy(call(inputs), y).backward()
    for (key, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert (mine.grad - theirs.grad).norm() < 2e-2 * theirs.grad.norm() + 1e-7, key  # some ReLUs flip
    for (key, mine), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(mine.double(), theirs.double(), rtol=1e-4, atol=1e-6), key


def test_a_training_stays_beside_the_library_one() -> None:
    """Ten steps of PreResNet20 in float32: losses agree to rounding, as two layouts of memory do."""
    torch.manual_seed(0)
    batches = [(torch.randn(16, 3, 16, 16).contiguous(memory_format=torch.channels_last), torch.arange(16) % 10)]
    losses = []
    for kernels in ("library", "fused"):
        model = models.build("preresnet", depth=20, classes=10, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        forward = step_forward(model, Train(kernels=kernels), rounded=False)  # type: ignore[arg-type]
        step = TrainStep(model, forward, make_optimizer(model, lr=0.01, momentum=0.9, weight_decay=1e-4), l1=1e-4)
        losses.append([train_epoch(step, batches).loss for _ in range(10)])
    assert all(abs(a - b) < 1e-3 * a for a, b in zip(*losses, strict=True)) and losses[0] != losses[1]
    assert losses[1][-1] < losses[1][0]


def test_layers_that_somebody_watches_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
    )
    model[1].register_forward_hook(lambda *_: seen.append("bn"))
    forward = fused(model)
    assert sum(isinstance(part, FusedBatchNormReLU) for part in forward.modules()) == 1  # type: ignore[attr-defined]
    forward(torch.randn(2, 3, 4, 4))
    assert seen == ["bn"]
    only = nn.Sequential(nn.BatchNorm2d(4), nn.Sigmoid())
    assert fused(only) is only and "no BatchNorm is followed by a ReLU alone" in caplog.text


@pytest.mark.parametrize("at", [1, 2])
def test_a_layer_whose_forward_was_replaced_is_left_alone(at: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    own = model[at].forward
    model[at].forward = lambda x: own(x) + 1  # type: ignore[method-assign, assignment]
    x = torch.randn(8, 3, 4, 4)
    assert fused(model) is model and torch.equal(fused(model)(x), model(x))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(x)) if x.sum() > 0 else x


def test_a_network_that_cannot_be_traced_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = Untraceable()
    assert fused(model) is model and "cannot be traced" in caplog.text


def test_impossible_combinations_are_refused_and_simulated_precision_keeps_the_library() -> None:
    model = models.build("preresnet", depth=11, classes=10, seed=0)
    with pytest.raises(ConfigError, match="exclude each other"):
        step_forward(model, Train(kernels="fused", compile=True), rounded=False)
    with pytest.raises(ConfigError, match="made for CPUs"):
        step_forward(model.to("meta"), Train(kernels="fused"), rounded=False)
    model = models.build("preresnet", depth=11, classes=10, seed=0)
    assert step_forward(model, Train(kernels="fused"), rounded=True) is model


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.kernels.cache_clear()
    yield tmp_path / "ebsim"
    library.kernels.cache_clear()


def test_kernels_are_built_once_and_the_record_says_by_what(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by = library.kernels().made_by
    assert "-O3" in made_by and len(list(empty_cache.glob("kernels-*.so"))) == 1
    library.kernels.cache_clear()
    monkeypatch.setattr(library, "_build", lambda *_: pytest.fail("built again"))
    assert library.kernels().made_by == made_by
    assert conditions(Train(kernels="fused"), torch.device("cpu"))["kernels"] == made_by
    assert "kernels" not in conditions(Train(), torch.device("cpu"))


def test_no_compiler_a_failing_one_and_a_damaged_cache_are_named(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(library.shutil, "which", lambda _: None)
        with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
            library.kernels()
    with monkeypatch.context() as patched:
        patched.setattr(library, "FLAGS", ("--no-such-flag",))
        with pytest.raises(ConfigError, match="failed"):
            library.kernels()
    empty_cache.mkdir()
    monkeypatch.setattr(library, "_build", lambda compiler, path: path.write_bytes(b"no library"))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        library.kernels()
