"""Statistics of the quantizers and the mask-noise floor, against sums computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ebsim.errors import ConfigError
from ebsim.precision import apply, backend, mask_noise_floor, quantize
from tests.precision.nets import LAYERS, Small, batch, gradients


def test_figures_equal_sums_by_hand() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 2, bias=False))
    placement = apply(net, {"activation": "e4m3/unscaled"}, compile=False, stats_every=1)
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[1.0, 1000.0, 1e-4, 0.0], [0.3, -460.0, nan, inf]])
    net(x)
    seen = placement.stats()["0"]["activation"]
    assert seen["count"] == 8 and seen["nonfinite"] == 2 / 8
    assert seen["overflow"] == 2 / 8 and seen["underflow"] == 1 / 8 and seen["absmax"] == 1000.0
    finite = x[x.isfinite()].double()
    noise = (quantize(x, "e4m3/unscaled")[x.isfinite()].double() - finite).square().sum()
    assert seen["sqnr_db"] == pytest.approx(10 * math.log10(finite.square().sum() / noise))
    assert placement.stats() == {}  # read once: the next figures are the next epoch's


def test_only_training_steps_that_are_due_are_sampled() -> None:
    model = Small()
    placement = apply(model, {"base": "fp8", "error": "fp32", "output": "fp32"}, compile=False, stats_every=3)
    for step in range(7):
        placement.set_step(step)
        gradients(model, *batch())
    model.eval()
    model(batch()[0])
    seen = placement.stats()
    assert sorted(seen) == sorted(LAYERS[1:-1]) and set(seen["body"]) == {"weight", "activation"}
    assert seen["body"]["weight"]["count"] == 3 * model.body.weight.numel()  # steps 0, 3 and 6
    sums = 3 * quantize(model.body.weight, "e4m3").sub(model.body.weight.detach()).double().square().sum()
    signal = 3 * model.body.weight.detach().double().square().sum()
    assert seen["body"]["weight"]["sqnr_db"] == pytest.approx(10 * math.log10(signal / sums), rel=1e-6)


def gammas(mean: float, spread: float, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {f"bn{i}": (torch.randn(264, generator=g) * spread + mean).abs() for i in range(16)}


def test_mask_noise_is_zero_in_fp32_and_reproduces_the_study_elsewhere() -> None:
    """Early gammas, N(0.45, 0.04): percent-level noise for 8-bit mantissas, 7 to 11 % for E4M3."""
    early = gammas(0.45, 0.04)
    assert mask_noise_floor(early, 0.5, "fp32") == 0.0 == mask_noise_floor(early, 0.5, backend("bfp8"))
    eb2020 = mask_noise_floor(early, 0.5, backend("eb2020"))
    assert 0.005 < eb2020 < 0.03
    assert 0.07 < mask_noise_floor(early, 0.5, "e4m3") < 0.13
    assert mask_noise_floor(early, 0.0, "e4m3") == 0.0
    with pytest.raises(ConfigError, match="ratio"):
        mask_noise_floor(early, 1.0, "e4m3")


def test_mask_noise_is_the_distance_of_masks_by_hand() -> None:
    few = {"a": torch.tensor([0.5, 0.26, 1.0]), "b": torch.tensor([0.25, 0.75])}
    got = mask_noise_floor(few, 0.4, "int8", draws=1, seed=5)
    kept = []
    for step in (0, 1):
        rounded = [
            quantize(g, "int8", rounding="stochastic", seed=5, step=step, layer=n, role="stored")
            for n, g in few.items()
        ]
        values = torch.cat(rounded).tolist()
        pruned = sorted(range(5), key=lambda i: (abs(values[i]), i))[:2]
        kept.append([i not in pruned for i in range(5)])
    assert got == sum(a != b for a, b in zip(*kept, strict=True)) / 5
