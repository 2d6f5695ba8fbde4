"""Fused stacks move what a row-by-row run of them moves, need what it holds, and never cost more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw_models import HardwareError, Layer, load, reference, training_cost
from hw_models.analysis.fusion import Fused, fused_cost
from hw_models.cost.inference import forward_cost
from hw_models.workload.reference_networks import _Builder
from tests.oracle.depth_first import DepthFirst, Window

CHIP = load("horowitz-45nm")


def _chip(kib: float) -> object:
    return replace(CHIP, memories=(replace(CHIP.memories[0], bits=kib * 8192),))


def _random_chain(rng: np.random.Generator) -> list[Layer]:
    """Convolutions, ReLUs and pools, one after the other."""
    b = _Builder(int(rng.integers(1, 6)), int(rng.integers(10, 40)))
    for i in range(int(rng.integers(2, 6))):
        kind = rng.choice(["conv", "conv", "relu", "pool"])
        if kind == "conv":
            kernel = int(rng.choice([1, 3, 5]))
            b.conv(f"conv{i}", int(rng.integers(1, 9)), kernel, int(rng.choice([1, 1, 2])))
        elif kind == "relu":
            b.relu(f"relu{i}")
        else:
            b.pool(f"pool{i}", "maxpool", 2, 2)
    b.linear("fc", 3)
    return b.done()


def _window(row: Layer) -> Window:
    high = row.kernel[0] if row.kind in ("conv", "maxpool") else 1
    stride = row.stride[0] if row.kind in ("conv", "maxpool") else 1
    pad = row.kernel[0] // 2 if row.kind == "conv" else 0
    return Window(
        high, stride, pad, row.size[0], row.out[0], row.size[1] * row.channels[0], row.out[1] * row.channels[1]
    )


@pytest.mark.parametrize("seed", range(25))
def test_a_stack_moves_and_holds_what_a_run_row_by_row_does(seed: int) -> None:
    rows = _random_chain(np.random.default_rng(seed))
    found = fused_cost(rows, CHIP, None, 3, training=False)
    assert found.stacks  # 2 MiB hold any of these chains
    by_name = {row.name: row for row in rows}
    for stack in found.stacks:
        chain = [by_name[name] for name in stack.layers]
        run = DepthFirst([_window(row) for row in chain]).run()
        weights = sum(row.weights for row in chain)
        moved = 32 * (3 * (run.fetched + run.written) + weights)
        unread = 32 * 3 * (chain[0].inputs - run.fetched)  # rows at the bottom that no window covers
        assert stack.dram_after <= (moved + unread) * (1 + 1e-9)
        if max(chain[0].stride) <= min(chain[0].kernel):  # else columns between the windows are not fetched either
            assert stack.dram_after == pytest.approx(moved + unread)
        held = 32 * (run.most + weights)
        assert held <= stack.bits_on_chip * (1 + 1e-9)
        assert stack.bits_on_chip <= held + 32 * sum(row.size[1] * row.channels[0] * 2 for row in chain)


def _networks() -> list[tuple[str, bool]]:
    return [(n, t) for n in ("vgg16", "resnet18", "alexnet") for t in (False, True)]


@pytest.mark.parametrize(("name", "training"), _networks())
def test_fusing_never_costs_more_and_a_larger_buffer_never_saves_less(name: str, training: bool) -> None:
    rows = reference.network(name)
    saved = []
    for kib in (8, 64, 512, 4096):
        found = fused_cost(rows, _chip(kib), "bf16", 8, training=training)  # type: ignore[arg-type]
        assert found.cost.total <= found.plain.total * (1 + 1e-12) and found.cost.seconds <= found.plain.seconds * (
            1 + 1e-12
        )
        assert (found.cost.dram_bits[1:] == found.plain.dram_bits[1:]).all()  # backward passes and update as they were
        saved.append(sum(s.dram_before - s.dram_after for s in found.stacks))
        assert float((found.plain.dram_bits - found.cost.dram_bits).sum()) == pytest.approx(saved[-1])
        assert all(s.bits_on_chip <= kib * 8192 for s in found.stacks)
    if name == "vgg16":  # what is saved may also have been saved by reuse in a larger buffer
        assert saved[1] >= saved[0]
    assert saved[-1] > 0


def test_without_fusion_it_is_the_plain_step() -> None:
    rows = reference.resnet18()
    step = fused_cost(rows, _chip(0.5), None, 4)  # type: ignore[arg-type]
    assert step.stacks == () and step.cost.total == pytest.approx(training_cost(rows, _chip(0.5), None, 4).total)  # type: ignore[arg-type]
    forward: Fused = fused_cost(rows, CHIP, None, 4, training=False)
    assert forward.plain.total == forward_cost(rows, CHIP, None, 4).total


def test_in_training_statistics_end_a_stack_and_what_is_kept_is_written() -> None:
    rows = reference.resnet18()
    training, inference = (fused_cost(rows, CHIP, "bf16", 4, training=t) for t in (True, False))
    assert not any("bn" in name for s in training.stacks for name in s.layers)
    assert any("bn" in name for s in inference.stacks for name in s.layers)
    pair = next(s for s in training.stacks if s.layers == ("layer1.0.relu", "layer1.0.conv2"))
    relu, conv = (next(r for r in rows if r.name == n) for n in pair.layers)
    bits = 16 * 4
    assert pair.dram_after == bits * (relu.inputs + relu.outputs + conv.outputs) + 16 * conv.weights


def test_what_cannot_be_fused_is_refused_by_name() -> None:
    with pytest.raises(HardwareError, match="h100 is a device"):
        fused_cost(reference.vgg16(), load("h100"))
    with pytest.raises(HardwareError, match="eyeriss-like-65nm: no memory on the chip keeps weights"):
        fused_cost(reference.vgg16(), load("eyeriss-like-65nm"), "int16")
