"""Fused stacks move what a row-by-row run of them moves, need what it holds, and never cost more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw_models import HardwareError, Layer, load, reference, training_cost
from hw_models.analysis.fusion import Fused, fused_cost
from hw_models.cost.inference import forward_cost
from hw_models.precision.formats import parse_precision
from hw_models.workload.reference_networks import _Builder
from hw_models.workload.shapes import shapes
from tests.oracle import fused_tiles
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
        index = 3 * sum(2 * row.outputs for row in chain if row.kind == "maxpool")  # bits
        moved = 32 * (3 * (run.fetched + run.written) + weights) + index
        unread = 32 * 3 * (chain[0].inputs - run.fetched)  # rows at the bottom that no window covers
        assert stack.dram_after <= (moved + unread) * (1 + 1e-9)
        if max(chain[0].stride) <= min(chain[0].kernel):  # else columns between the windows are not fetched either
            assert stack.dram_after == pytest.approx(moved + unread)
        held = 32 * (run.most + weights)
        assert held <= stack.bits_on_chip * (1 + 1e-9)
        assert stack.bits_on_chip <= held + 32 * sum(row.size[1] * row.channels[0] * 2 for row in chain)


def _small(rng: np.random.Generator, residual: bool, bn: bool) -> list[Layer]:
    """A stem and a residual block, or a chain with strides and pools; few rows, channels and pixels."""
    b = _Builder(int(rng.integers(1, 5)), int(rng.integers(6, 15)))
    if residual or rng.random() < 0.5:
        b.conv("stem", int(rng.integers(1, 6)), 3)
        if bn:
            b.bn("bn.stem")
        b.relu("relu.stem")
    around = b.at
    for i in range(int(rng.integers(1, 3)) if residual else int(rng.integers(1, 4))):
        kind = "conv" if residual else rng.choice(["conv", "conv", "relu", "pool"])
        if kind == "conv":
            stride = 1 if residual else int(rng.choice([1, 1, 2]))
            b.conv(f"conv{i}", b.channels if residual else int(rng.integers(1, 7)), int(rng.choice([1, 3])), stride)
            if bn and rng.random() < 0.7:
                b.bn(f"bn{i}")
            if residual and rng.random() < 0.6:
                b.relu(f"relu{i}")
        elif kind == "relu":
            b.relu(f"relu{i}")
        elif b.size % 2 == 0:
            b.pool(f"pool{i}", "maxpool", 2, 2)
    if residual:
        b.add("add", around)
        if rng.random() < 0.7:
            b.relu("relu.out")
    b.linear("fc", 3)
    return b.done()


def _against_every_cut(seed: int) -> None:
    """Forward and backward, in training and evaluation: DRAM traffic is that of the best of all cuts and tiles."""
    rng = np.random.default_rng(seed)
    rows, training = _small(rng, seed % 2 == 1, seed % 3 != 0), seed % 4 < 3
    batch, room = int(rng.integers(1, 4)), float(rng.choice([200, 600, 1500, 10**6]))
    found = fused_cost(rows, _chip(room / 256), None, batch, "compulsory", training=training)  # type: ignore[arg-type]
    passes = [(fused_tiles.forward(rows, training=training), [0])]
    passes += [(fused_tiles.backward(rows), [1, 2])] if training else []
    of = [i for i, row in enumerate(rows) if row.kind not in ("linear", "loss")]
    for steps, stages in passes:
        known = [step for step in steps if step is not None]
        alone = sum(batch * step.alone + step.weights for step in known)
        plain, fused = (c.dram_bits[stages][:, of].sum() / 32 for c in (found.plain, found.cost))
        assert plain == pytest.approx(alone)  # both count the unfused traffic alike
        best = fused_tiles.least(steps, batch, room)
        widest = max([step.row for step in known] + [read.row for step in known for read in step.inputs], default=0.0)
        assert best * (1 - 1e-9) <= fused  # never below what a run of it moves
        assert fused <= fused_tiles.least(steps, batch, room - widest) * (1 + 1e-9)


@pytest.mark.parametrize("seed", [s for s in range(30) if s not in (5, 17)])  # those two take a minute
def test_the_stacks_are_the_best_of_every_cut_and_tile(seed: int) -> None:
    _against_every_cut(seed)


def test_rows_that_move_nothing_have_nothing_to_save() -> None:
    """A chip that has BatchNorm and ReLU at the array's output reads no statistics."""
    free = replace(CHIP, fused=("bn", "relu"))
    found = fused_cost(reference.resnet18(), free, "bf16", 4)
    assert (found.cost.dram_bits >= 0).all() and found.cost.total <= found.plain.total
    assert (found.cost.dram_bits <= found.plain.dram_bits * (1 + 1e-12)).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30, 300))
def test_many_stacks_are_the_best_of_every_cut_and_tile(seed: int) -> None:
    _against_every_cut(seed)


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
        assert (found.cost.dram_bits[3] == found.plain.dram_bits[3]).all()  # the update as it was
        assert (found.cost.dram_bits <= found.plain.dram_bits * (1 + 1e-12)).all() and (found.cost.dram_bits >= 0).all()
        saved.append(sum(s.dram_before - s.dram_after for s in found.stacks))
        assert float((found.plain.dram_bits - found.cost.dram_bits).sum()) == pytest.approx(saved[-1])
        assert all(s.bits_on_chip <= kib * 8192 for s in found.stacks)
    if name == "vgg16":  # what is saved may also have been saved by reuse in a larger buffer
        assert saved[1] >= saved[0]
    assert saved[-1] > 0


def test_without_fusion_it_is_the_plain_step() -> None:
    rows = reference.resnet18()
    step = fused_cost(rows, _chip(0.5), None, 4)  # type: ignore[arg-type]
    assert step.stacks == () and step.cost is step.plain
    assert training_cost(rows, _chip(0.5), None, 4, fuse=True).total == step.plain.total  # type: ignore[arg-type]
    forward: Fused = fused_cost(rows, CHIP, None, 4, training=False)
    assert forward.plain.total == forward_cost(rows, CHIP, None, 4).total


def test_a_training_step_is_fused_over_residual_sums_and_backwards() -> None:
    rows = reference.resnet18()
    training, inference = (fused_cost(rows, CHIP, "bf16", 4, training=t) for t in (True, False))
    stacks = {stack.layers: stack for stack in training.stacks}
    over = stacks["layer1.0.bn2", "layer1.0.add", "layer1.0.relu.out", "layer1.1.conv1"]
    assert over.phase == "forward"
    back = stacks["layer1.1.bn1", "layer1.1.conv1", "sum at layer1.0.relu.out", "layer1.0.relu.out"]
    assert back.phase == "backward"
    by_name = {row.name: row for row in rows}
    for stack in training.stacks:  # its statistics are of the whole batch: a BatchNorm begins a stack
        assert not any(by_name[name].kind == "bn" for name in stack.layers[1:] if name in by_name)
    assert any("bn" in name for s in inference.stacks for name in s.layers[1:])
    # by hand, bf16 but for the sum in fp32: conv2's output is read for statistics and for scaling, the shortcut where
    # it is summed; relu's output is kept, conv1's read by the next BatchNorm; weights are converted from fp32
    relu, conv = by_name["layer1.0.relu.out"], by_name["layer1.1.conv1"]
    n = 4 * relu.outputs
    assert over.dram_after == 16 * (2 * n + n + n) + 32 * n + (32 + 16 + 16) * conv.weights
    inside = 16 * n + 2 * 32 * n + 16 * n + 16 * n  # bn out, the sum's other input and its output, relu in, conv1 in
    assert over.dram_before - over.dram_after == inside + 16 * n  # and the statistics of what conv1 makes


def test_it_is_an_option_of_pricing() -> None:
    rows = reference.resnet18()
    found = fused_cost(rows, CHIP, "fp8", 8)
    assert training_cost(rows, CHIP, "fp8", 8, fuse=True).total == found.cost.total < found.plain.total
    evaluation = fused_cost(rows, CHIP, "fp8", 8, training=False).cost
    assert forward_cost(rows, CHIP, "fp8", 8, fuse=True).total == evaluation.total
    gathering = forward_cost(rows, CHIP, "fp8", 8, statistics=True, fuse=True)
    assert evaluation.total < gathering.total < forward_cost(rows, CHIP, "fp8", 8, statistics=True).total
    with pytest.raises(HardwareError, match="pass the layers themselves"):
        training_cost(shapes(rows), CHIP, "fp8", 8, fuse=True)
    assert (
        training_cost(rows, CHIP, "fp8", 8, "macs", fuse=True).total
        == training_cost(rows, CHIP, "fp8", 8, "macs").total
    )


def test_reads_and_writes_that_cost_differently_are_saved_apart() -> None:
    """Where writing costs nothing, only readings count; the parts of both sum to the traffic."""
    dear = replace(CHIP, dram_writes=replace(CHIP.dram, value=CHIP.dram.value * 3))
    found = fused_cost(reference.resnet18(), dear, "bf16", 4)
    read, written = (
        sum(p.counts.sum() for p in found.cost.parts if p.key == key) for key in ("dram.read", "dram.write")
    )
    assert read + written == pytest.approx(found.cost.dram_bits.sum()) and 0 < written < read
    assert found.cost.total < found.plain.total


def test_what_cannot_be_fused_is_refused_by_name() -> None:
    with pytest.raises(HardwareError, match="h100 is a device"):
        fused_cost(reference.vgg16(), load("h100"))
    with pytest.raises(HardwareError, match="eyeriss-like-65nm: no memory on the chip keeps weights"):
        fused_cost(reference.vgg16(), load("eyeriss-like-65nm"), "int16")


def test_what_clipping_remembers_is_moved_with_fusion_as_without() -> None:
    rows, plain = reference.resnet18(), parse_precision("fp8")
    clipping = replace(plain, default=replace(plain.default, clipped=("activation", "weight", "output")))
    without, with_bits = (fused_cost(rows, CHIP, precision, 4) for precision in (plain, clipping))
    assert [s.layers for s in with_bits.stacks] == [s.layers for s in without.stacks]
    more = with_bits.plain.dram_bits - without.plain.dram_bits
    assert more.sum() > 0
    np.testing.assert_allclose((with_bits.cost.dram_bits - without.cost.dram_bits).sum(), more.sum())
