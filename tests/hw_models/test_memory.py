"""What a step keeps is what torch keeps; checkpoints keep less, and recompute exactly what they did not keep."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ebsim
from hw_models import reference, trace, training_cost
from hw_models.analysis.checkpointing import plans
from hw_models.analysis.memory import footprint, largest_batch
from tests.hw_models.nets import Mixed


def _saved_by_torch(network: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """Bytes of all storages that autograd saves in one training forward pass, parameters and buffers aside."""
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    seen: dict[int, int] = {}
    alive: list[Tensor] = []  # an address is not given away again

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            alive.append(t)
        return t

    labels = torch.zeros(len(images), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        nn.functional.cross_entropy(forward(images), labels)
    return sum(seen.values()) - labels.untyped_storage().nbytes() - 4  # the labels, and a scalar of the mean


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mixed": (Mixed, (3, 16, 16)),
    "preresnet": (
        lambda: ebsim.models.build("preresnet", depth=11, classes=10, input_shape=(3, 8, 8), seed=0),
        (3, 8, 8),
    ),
    "vgg": (lambda: ebsim.models.build("vgg", depth=16, classes=10, input_shape=(3, 32, 32), seed=0), (3, 32, 32)),
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_kept_is_what_torch_keeps(name: str) -> None:
    make, shape = NETS[name]
    network = make().train()
    found = footprint(trace(network, shape), None, 4, index_bits=64)
    assert found.activations == _saved_by_torch(network, network, torch.randn(4, *shape))


class Chain(nn.Module):
    """Stages that run one after the other, each of which may be a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 8, 12)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, k, 3, padding=1), nn.BatchNorm2d(k), nn.ReLU())
            for c, k in itertools.pairwise(widths)
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor, again: bool = False) -> Tensor:
        for stage in self.stages:
            x = checkpoint(stage, x, use_reentrant=True) if again else stage(x)
        return self.head(x.mean((2, 3)))


def test_checkpoints_keep_what_torchs_checkpoints_keep() -> None:
    network, images = Chain().train(), torch.randn(2, 3, 10, 10)
    rows = trace(network, (3, 10, 10))
    starts = [i for i, row in enumerate(rows) if row.kind == "conv"] + [
        next(i for i, row in enumerate(rows) if row.kind == "avgpool")
    ]
    found = footprint(rows, None, 2, starts, index_bits=64)
    assert found.segments == 4 and set(found.recomputed) == {r.name for r in rows[: starts[-1]]}
    assert found.activations == _saved_by_torch(network, lambda x: network(x, again=True), images.requires_grad_())


def test_a_chain_by_hand() -> None:
    """Two convolutions of equal tensors (400 bytes) and their ReLUs, then the loss."""
    rows = trace(
        nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()), (1, 10, 10)
    )
    whole = footprint(rows, None, 1)
    # kept: the image, both ReLUs' outputs, the softmax
    assert (whole.activations, whole.parameters) == (4 * 400, 2 * 12)
    forward = [m.bytes for m in whole.timeline if m.phase == "forward"]
    # image + conv, + relu; image + relu + conv, + relu; image + both relus + loss + softmax
    assert forward == [800, 1200, 1200, 1600, 2000]
    backward = [m.bytes for m in whole.timeline if m.phase == "backward"]
    # what earlier rows keep + the gradients of the row's output and input
    assert backward == [1600 + 800, 1200 + 800, 800 + 800, 800 + 800, 400 + 400]
    cut = footprint(rows, None, 1, [2])
    # kept: the image to start again from, the second segment's input and ReLU, the softmax
    assert cut.activations == 4 * 400 and cut.recomputed == (rows[0].name, rows[1].name)


def test_memory_grows_with_the_batch_and_shrinks_with_the_width() -> None:
    rows = reference.resnet18()
    peaks = [footprint(rows, None, b).peak for b in (1, 8, 64)]
    assert peaks == sorted(peaks)
    one, eight = footprint(rows, None, 1), footprint(rows, None, 8)
    assert eight.activations == pytest.approx(8 * one.activations, rel=1e-2)  # but for the statistics
    assert footprint(rows, "bf16", 8).peak < eight.peak


def test_plans_trade_memory_for_energy_and_nothing_for_nothing() -> None:
    rows = reference.resnet50()
    cost = training_cost(rows, "horowitz-45nm", "bf16", 64)
    found = plans(cost, rows, "bf16")
    assert len(found) >= 4 and found[0].cuts == () and found[0].joules == cost.total
    assert all(a.joules < b.joules and a.memory.peak > b.memory.peak for a, b in itertools.pairwise(found))
    assert found[-1].memory.peak < 0.5 * found[0].memory.peak
    for plan in found[1:]:
        again = sum(
            row["joules"]
            for row in cost.rows
            if row["pass"] == "forward" and row["layer"] in set(plan.memory.recomputed)
        )
        assert plan.joules == pytest.approx(cost.total + again) and plan.again < 0.34


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    rows = reference.resnet18()
    for room in (3e8, 2e9, 16 * 2**30):
        batch = largest_batch(rows, room, "bf16")
        assert footprint(rows, "bf16", batch).peak <= room < footprint(rows, "bf16", batch + 1).peak
    assert largest_batch(rows, 1e6) == 0


def test_every_row_runs_forward_and_backward_once() -> None:
    rows: Any = reference.resnet18()
    for cuts in ((), (20,), (10, 30, 50)):
        found = footprint(rows, None, 2, cuts)
        phases = [(m.row, m.phase) for m in found.timeline]
        names = [row.name for row in rows]
        assert [n for n, p in phases if p == "forward"] == names
        assert [n for n, p in phases if p == "backward"] == names[::-1]
        assert sorted(n for n, p in phases if p == "recompute") == sorted(found.recomputed)
