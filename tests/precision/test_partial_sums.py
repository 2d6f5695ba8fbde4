"""Simulated accumulators: bit for bit what a loop over single products in numpy gives, for every pass and rank."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hw_models
from ebsim.errors import ConfigError
from ebsim.precision import apply, quantize
from ebsim.precision.formats.accumulators import PartialSums
from hw_models.precision.formats import parse_precision
from tests.oracle import formats as oracle

F32 = np.float32
BITS = {"fp16": (11, -14, 65504.0), "bf16": (8, -126, None), "tf32": (11, -126, None)}  # significand, emin, largest


def kept(x: np.float32, name: str) -> np.float32:
    """A running sum in the accumulator, by fractions."""
    bits, emin, top = BITS[name]
    if not np.isfinite(x) or x == 0:
        return x
    size = abs(Fraction(float(x)))
    if oracle.floor_log2(size) < emin:
        unit = Fraction(2) ** (emin - bits + 1)
        made = oracle.rounded(size / unit) * unit
    else:
        made = oracle.significant(size, bits)
    if top is not None and made > top:
        return F32(np.copysign(np.inf, x))
    return F32(np.copysign(float(made), x))


def added(pairs: list[tuple[np.float32, np.float32]], how: dict[str, Any], name: str) -> np.float32:
    """One sum of products in that order."""
    chunk, step = how.get("chunk", 0) or len(pairs), how.get("step", 1)
    totals = []
    for begin in range(0, len(pairs), chunk):
        running = F32(0)
        for start in range(begin, min(begin + chunk, len(pairs)), step):
            part = None
            for a, b in pairs[start : min(start + step, begin + chunk, len(pairs))]:
                part = F32(a * b) if part is None else F32(part + F32(a * b))
            running = kept(F32(running + part), name)
        totals.append(running)
    total = totals[0]
    for one in totals[1:]:
        total = F32(total + one)
        total = kept(total, name) if how.get("total") == "accumulator" else total
    return total


def places(module: Any, a: Tensor, y: Tensor) -> Callable[..., dict[Any, list[tuple[Any, Any]]]]:
    """Which (input, weight) meet in which output of a plain convolution: the definition, index by index."""
    kernel, rank = module.weight.shape[2:], a.dim() - 2
    groups = module.groups
    ins, outs = a.shape[1] // groups, y.shape[1] // groups
    met = []
    for n, o in itertools.product(range(len(a)), range(y.shape[1])):
        for at in itertools.product(*map(range, y.shape[2:])):
            for c in range(ins):
                for k in itertools.product(*map(range, kernel)):
                    where = tuple(
                        at[i] * module.stride[i] - module.padding[i] + k[i] * module.dilation[i] for i in range(rank)
                    )
                    inside = all(0 <= where[i] < a.shape[2 + i] for i in range(rank))
                    met.append(((n, o, *at), (n, o // outs * ins + c, *where) if inside else None, (o, c, *k)))
    return met  # type: ignore[return-value]


HOWS = [
    {"step": 1},
    {"step": 3, "chunk": 8},
    {"step": 2, "chunk": 5, "total": "accumulator"},
]


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("accumulator", ["fp16", "bf16", "tf32"])
@pytest.mark.parametrize("seed", range(3))
def test_forward_and_weight_gradient_of_a_convolution(how: dict[str, Any], accumulator: str, seed: int) -> None:
    rng, rank = random.Random(seed), seed % 2 + 1
    groups = rng.choice([1, 2])
    conv = (nn.Conv1d, nn.Conv2d)[rank - 1]
    torch.manual_seed(seed)
    layer = conv(4, 2 * groups, rng.choice([1, 2, 3]), stride=rng.choice([1, 2]), padding=1, groups=groups, bias=False)
    x = torch.randn(2, 4, *[4] * rank) * 3
    table = {"weight": "e4m3", "activation": "e4m3", "error": "e5m2", "accumulator": accumulator, "partial_sums": how}
    net = nn.Sequential(layer)
    apply(net, table, compile=False).set_step(0)
    given = x.clone().requires_grad_()
    y = net(given)
    e = torch.randn_like(y)
    y.backward(e)
    qa, qw, qe = (quantize(t.detach(), f).numpy() for t, f in ((x, "e4m3"), (layer.weight, "e4m3"), (e, "e5m2")))
    zero = F32(0)
    forward: dict[Any, list[Any]] = {}
    weight: dict[Any, list[Any]] = {}
    for out, source, kernel in places(layer, x, y):  # type: ignore[misc]
        value = zero if source is None else qa[source]
        forward.setdefault(out, []).append((value, qw[kernel]))
        weight.setdefault(kernel, []).append((value, qe[out]))
    for out, pairs in forward.items():
        assert y[out].item() == added(pairs, how, accumulator), out
    for kernel, pairs in weight.items():  # in the order of samples, then positions
        assert layer.weight.grad[kernel].item() == added(pairs, how, accumulator), kernel
    # input gradient: outputs by channel, then positions of the flipped kernel, zeros between strides included
    back: dict[Any, dict[Any, Any]] = {}
    for out, source, kernel in places(layer, x, y):  # type: ignore[misc]
        if source is not None:
            back.setdefault(source, {})[kernel] = (qe[out], qw[kernel])
    per = layer.out_channels // groups
    for source, given_pairs in back.items():
        group = source[1] // (4 // groups)
        order = [
            (group * per + o, source[1] % (4 // groups), *k)
            for o in range(per)
            for k in itertools.product(*(range(n - 1, -1, -1) for n in layer.kernel_size))
        ]
        pairs = [given_pairs.get(kernel, (zero, qw[kernel])) for kernel in order]
        assert given.grad[source].item() == added(pairs, how, accumulator), source


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_the_products_of_a_linear(how: dict[str, Any]) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(11, 3)
    x = torch.randn(2, 3, 11)
    table = {"weight": "bf16", "activation": "bf16", "error": "bf16", "accumulator": "fp16", "partial_sums": how}
    net = nn.Sequential(layer)
    apply(net, table, compile=False).set_step(0)
    given = x.clone().requires_grad_()
    y = net(given)
    e = torch.randn_like(y)
    y.backward(e)
    qa, qw, qe = (quantize(t.detach(), "bf16").numpy() for t in (x, layer.weight, e))
    bias = layer.bias.detach().numpy()
    for n, t in itertools.product(range(2), range(3)):
        for o in range(3):
            sums = added([(qa[n, t, c], qw[o, c]) for c in range(11)], how, "fp16")
            assert y[n, t, o].item() == F32(sums + bias[o])
        for c in range(11):
            assert given.grad[n, t, c].item() == added([(qe[n, t, o], qw[o, c]) for o in range(3)], how, "fp16")
    rows = list(itertools.product(range(2), range(3)))
    for o, c in itertools.product(range(3), range(11)):
        assert layer.weight.grad[o, c].item() == added([(qa[*r, c], qe[*r, o]) for r in rows], how, "fp16")


def test_a_transposed_convolution_is_the_mirror_of_one() -> None:
    torch.manual_seed(2)
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    plain = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    plain.load_state_dict(layer.state_dict())
    table = {"weight": "e4m3", "activation": "e4m3", "error": "e4m3"}
    sums = {"accumulator": "tf32", "partial_sums": {"step": 1 << 20}}  # one rounding of the whole sum: near fp32's
    x = torch.randn(2, 4, 5, 5)
    grads = []
    for module, more in ((layer, sums), (plain, {})):
        net = nn.Sequential(module)
        apply(net, {**table, **more}, compile=False).set_step(0)
        given = x.clone().requires_grad_()
        y = net(given)
        y.backward(torch.ones_like(y) / 3)
        grads.append((y.detach(), given.grad, module.weight.grad, module.bias.grad))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_long_sums_in_bf16_stop_growing_and_chunks_or_chance_help() -> None:
    """4,096 ones: a bf16 sum of single ones stops at 256; in chunks of 64 it is exact; at random it is unbiased."""
    table = {"weight": "bf16", "activation": "bf16", "accumulator": "bf16"}
    x = torch.ones(1, 4096)

    def total(**how: Any) -> float:
        layer = nn.Linear(4096, 1, bias=False)
        nn.init.ones_(layer.weight)
        net = nn.Sequential(layer)
        apply(net, {**table, "partial_sums": how}, compile=False, seed=3).set_step(7)
        with torch.no_grad():
            return net(x).item()

    assert total() == 256.0
    assert total(chunk=64) == 4096.0
    assert abs(total(rounding="stochastic") - 4096) < 1000


def test_noise_follows_the_sample_and_not_the_cut_of_the_batch() -> None:
    how = {"rounding": "stochastic"}
    table = {"weight": "bf16", "activation": "bf16", "accumulator": "bf16", "partial_sums": how}
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 5))
    placed = apply(net, table, compile=False, seed=5)
    x = torch.randn(6, 3, 5, 5)
    with torch.no_grad():
        placed.set_step(4)
        whole = net(x)
        parts = []
        for first in (0, 2):
            placed.set_step(4, first_sample=first)
            parts.append(net(x[first : first + 2] if first == 0 else x[2:]))
        assert torch.equal(torch.cat(parts), whole)
        placed.set_step(5)
        assert not torch.equal(net(x), whole)


def test_an_fp16_sum_that_is_too_large_is_infinite() -> None:
    how = PartialSums("fp16")
    x = torch.tensor([65503.0, 65519.0, 65520.0, -70000.0, float("nan"), 1e-9, 3e-5])
    assert how.rounded(x, None)[:4].tolist() == [65504.0, 65504.0, float("inf"), -float("inf")]
    assert how.rounded(x, None)[4].isnan() and how.rounded(x, None)[5] == 0
    assert torch.equal(how.rounded(x[5:], None), x[5:].half().float())
    wide = torch.randn(10_000).mul(5).exp()
    assert torch.equal(PartialSums("bf16").rounded(wide, None), wide.bfloat16().float())


@pytest.mark.parametrize(
    "table, words",
    [
        ({"partial_sums": {"step": 2}}, "accumulator is fp32"),
        ({"accumulator": "int32", "partial_sums": {}}, "declared only"),
        ({"accumulator": "fp16", "partial_sums": {"step": 0}}, "from 1 on"),
        ({"accumulator": "fp16", "partial_sums": {"chunks": 4}}, "did you mean 'chunk'"),
        ({"accumulator": "fp16", "partial_sums": {"rounding": "up"}}, "nearest or stochastic"),
    ],
)
def test_what_is_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        apply(nn.Sequential(nn.Linear(3, 3)), {"weight": "e4m3", **table})


def test_what_the_sums_cost_is_priced() -> None:
    """By hand: Linear 96 -> 10, N = 8; K of the three sums 96, 10, 8; chunks of 32; a random number each 4 products."""
    net = nn.Sequential(nn.Linear(5, 96), nn.Linear(96, 10))
    how = {"step": 4, "chunk": 32, "rounding": "stochastic"}
    rule = {"layers": ["0"], "weight": "fp32", "activation": "fp32", "error": "fp32"}
    table = {"weight": "e4m3", "activation": "e4m3", "error": "e4m3", "accumulator": "fp16", "partial_sums": how}
    record = apply(net, {**table, "rule": [rule]}, compile=False).record()
    assert parse_precision(record).partial_sums == {**how, "total": "fp32"}
    rows = hw_models.trace(net, (5,), check=False)
    cost = hw_models.training_cost(rows, "horowitz-45nm", record, 8, "compulsory", hypothetical=True)
    parts = {part.key: part.counts.sum() for part in cost.parts if part.component == "mac"}
    macs = 96 * 10 * 8
    assert parts["op.random"] == 3 * macs / 4
    assert parts["op.add"] == 80 * (3 - 1)  # 80 sums of 96 products in three chunks; the others are shorter than one
