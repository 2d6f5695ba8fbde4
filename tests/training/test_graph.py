"""Replayed steps give the bits of plain ones, an epoch reads the device once, and what cannot be recorded says so.

No GPU is needed: recording is replaced by remembering the work, which reads its batch from the same fixed tensors as a
CUDA graph would; reads of values are counted where torch dispatches them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ebsim import models, tickets
from ebsim.config import Train
from ebsim.errors import ConfigError, DivergedError
from ebsim.runs.store import Store
from ebsim.training import StepGraphs, TrainStep, Trajectory, make_optimizer, train_epoch
from ebsim.training.compilation import blocks
from ebsim.training.graph import WARM_UP
from tests.training.toy import Recorder, ToyData, toy_network

RATES = (0.1, 0.1, 0.01)


def remember(work: Callable[[], None]) -> Callable[[], None]:
    """Stands in for a CUDA graph: recording runs nothing, replaying does the work on the tensors it was recorded on."""
    return work


def train(
    record: Callable[..., Any] | None, checked: bool = False, **options: Any
) -> tuple[dict[str, Tensor], list[float], Any]:
    """Three epochs of 5 batches of 10 images or fewer (the last one has 5), with a milestone before the third."""
    model, data = toy_network(), ToyData()
    optimizer = make_optimizer(model, lr=RATES[0], momentum=0.9, weight_decay=1e-4, fused=True)
    step = TrainStep(model, model, optimizer, l1=1e-3, checked=False)
    graphs = None
    if record is not None:
        options |= {"state": step.state} if checked else {}
        graphs = StepGraphs(step, lambda: optimizer.param_groups[0]["lr"], record, **options)
    losses = []
    for epoch, rate in enumerate(RATES, start=1):
        optimizer.param_groups[0]["lr"] = rate
        batches = data.train_batches(10, seed=0, epoch=epoch, memory_format=torch.channels_last)
        losses.append(train_epoch(step, batches, run=graphs).loss)
    return model.state_dict(), losses, graphs


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_replayed_steps_have_the_bits_of_plain_ones() -> None:
    plain, losses, _ = train(None)
    replayed, other, graphs = train(remember)
    assert equal(plain, replayed)
    assert losses == other
    # 4 full batches and a partial one an epoch: after the warm-up of each shape, all are replays
    assert graphs.replayed == 3 * 5 - 2 * WARM_UP


def test_a_graph_is_recorded_anew_where_a_baked_number_changes() -> None:
    recorded: list[float] = []
    seen: dict[str, float] = {"lr": 0.1}
    model = toy_network()
    optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0, fused=True)
    step = TrainStep(model, model, optimizer, l1=0.0, checked=False)

    def record(work: Callable[[], None]) -> Callable[[], None]:
        recorded.append(seen["lr"])
        return work

    graphs = StepGraphs(step, lambda: seen["lr"], record)
    images, labels = ToyData().x[:8], ToyData().y[:8]
    step.begin()
    for rate in (0.1,) * (WARM_UP + 3) + (0.01,) * 2:
        seen["lr"] = rate
        graphs(images, labels)
    assert recorded == [0.1, 0.01]
    assert graphs.replayed == 5


def test_a_recorded_step_is_checked_against_eager_mode_once_and_given_up_where_it_differs() -> None:
    """A replay that forgets the update, or that always sees its first batch, would train another network silently."""
    plain, losses, _ = train(None)
    good, same, graphs = train(remember, checked=True)
    assert equal(plain, good)
    assert losses == same
    # the check of a graph is an eager step: one for full batches, and one again after the milestone
    assert graphs.replayed == 3 * 5 - 2 * WARM_UP - 2

    def forgets(work: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    reasons: list[str] = []
    found, other, graphs = train(forgets, checked=True, failed=reasons.append)
    assert equal(plain, found)
    assert losses == other
    assert graphs.replayed == 0
    assert reasons == ["a replayed CUDA graph of the step gave other numbers than eager mode; going on without"]


def test_what_cannot_be_recorded_goes_on_eagerly_and_says_why_once() -> None:
    reasons: list[str] = []

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    plain, losses, _ = train(None)
    eager, other, graphs = train(refuse, failed=reasons.append)
    assert equal(plain, eager)
    assert losses == other
    assert graphs.replayed == 0
    assert len(reasons) == 1
    assert reasons[0].endswith("operation not permitted when stream is capturing")


class Reads(TorchDispatchMode):
    """Counts the operations that hand a value to the host, or make a shape depend on one."""

    NAMES = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "unique", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.NAMES:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_an_epoch_reads_nothing_before_its_totals(amp: str) -> None:
    model, data = toy_network(), ToyData()
    optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    step = TrainStep(model, model, optimizer, l1=1e-3, amp=amp, checked=False)
    with Reads() as reads:
        step.begin()
        for images, labels in data.train_batches(10, seed=0, epoch=1, memory_format=torch.channels_last):
            step(images, labels)
            step.count(len(labels))
    assert not reads.seen
    with Reads() as reads:  # the counter works: a checked step reads its flag
        TrainStep(model, model, make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0), l1=0.0)(images, labels)
    assert reads.seen


def test_a_late_check_names_the_first_bad_step_and_no_update_is_applied_from_it_on() -> None:
    model = toy_network()
    optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    step = TrainStep(model, model, optimizer, l1=1e-3, checked=False)
    before: dict[str, Tensor] = {}

    def after(done: int) -> None:
        if done == 2:
            before.update({name: p.detach().clone() for name, p in model.named_parameters()})

    batches = ToyData(poison=(1, 2)).train_batches(10, seed=0, epoch=1, memory_format=torch.contiguous_format)
    with pytest.raises(DivergedError, match="step 3 of the epoch"):
        train_epoch(step, batches, after_step=after)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_late_and_immediate_checks_train_the_same_network() -> None:
    found = []
    for checked in (False, True):
        model = toy_network()
        optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
        step = TrainStep(model, model, optimizer, l1=1e-3, checked=checked)
        batches = ToyData().train_batches(10, seed=0, epoch=1, memory_format=torch.channels_last)
        sums = train_epoch(step, batches)
        found.append((model.state_dict(), sums))
    assert equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_insisting_on_graphs_without_a_gpu_is_an_error_and_auto_is_silent(tmp_path: Path) -> None:
    notes = Recorder()

    def run(graph: str) -> Trajectory:
        train = Train(epochs=1, batch_size=20, milestones=(), graph=graph)  # type: ignore[arg-type]
        stage = Store(tmp_path).stage("dense", {"graph": graph})
        return Trajectory(stage, toy_network, ToyData(), train, seed=3, device=torch.device("cpu"), progress=notes)

    with pytest.raises(ConfigError, match=r'train.graph = "on": there is no GPU'):
        run("on").extend(1)
    assert equal(run("auto").state_at(0), run("off").state_at(0))
    run("auto").extend(1)
    run("off").extend(1)
    assert equal(run("auto").state_at(1), run("off").state_at(1))
    assert not notes.notes


def test_the_blocks_that_are_compiled_one_by_one() -> None:
    model = models.build("preresnet", depth=20, classes=10, seed=0)
    names = [name for name, module in model.named_modules() if module in blocks(model)]
    assert names == [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]
    ticket = tickets.compact(model, tickets.channel_mask(model, 0.5), torch.zeros(2, 3, 32, 32))
    assert blocks(ticket) == [ticket]  # its parts have no forward of their own


def test_graphs_of_old_numbers_live_until_the_next_one_is_recorded() -> None:
    """Graphs share a pool of memory, and CUDA gives a pool up with its last graph."""
    seen: dict[str, float] = {"lr": 0.1}
    alive: set[int] = set()
    at_recording: list[int] = []

    class Replay:
        def __init__(self, work: Callable[[], None]) -> None:
            self.work = work
            alive.add(id(self))

        def __call__(self) -> None:
            self.work()

        def __del__(self) -> None:
            alive.discard(id(self))

    def record(work: Callable[[], None]) -> Callable[[], None]:
        at_recording.append(len(alive))
        return Replay(work)

    graphs = StepGraphs(lambda images, labels: None, lambda: seen["lr"], record)
    images, labels = torch.zeros(4, 3), torch.zeros(4)
    for rate in (0.1,) * (WARM_UP + 2) + (0.01,) * 2 + (0.001,) * 2:
        seen["lr"] = rate
        graphs(images, labels)
    assert at_recording == [0, 1, 1]
    assert len(alive) == 1
