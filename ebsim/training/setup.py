"""`Setup`: everything that a training depends on besides the state it continues from: network, data, recipe, seed.

The learning-rate schedule, the evaluation and the start of a training are functions of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ebsim.config import Train
from ebsim.training import loop as steps
from ebsim.training.checkpoint import Checkpoint, on_cpu
from ebsim.training.team import ALONE, Team

LAYOUT = torch.channels_last  # pays on every device measured; results are independent of it up to rounding


Meter = Callable[[Callable[[], object]], dict[str, Any]]  # runs the work, returns measured columns


class Constraint(Protocol):
    """Something a method holds the network to while it trains (a weight mask, soft filter pruning)."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None: ...

    def after_epoch(self, model: nn.Module, epoch: int) -> None: ...


@dataclass(frozen=True)
class Averaging:
    """Stochastic weight averaging from epoch `start` on, at the schedule's learning rate or a constant one."""

    start: int
    lr: float | None = None

    def includes(self, epoch: int) -> bool:
        """Whether the weights after `epoch` enter the average."""
        return epoch >= self.start


@dataclass(frozen=True)
class Setup:
    """What a training depends on, besides the state it continues from.

    network: builds the network with the weights it starts from, on the CPU. score: (network, epoch) -> one number per
    BatchNorm channel, remembered after every epoch. first: epochs that lie behind the start already. meter: a sensor
    around the training of every epoch; what it reads goes into the curve under its own names.
    """

    network: Callable[[], nn.Module]
    data: Any
    train: Train
    seed: int
    device: torch.device
    score: Callable[[nn.Module, int], Tensor]
    first: int = 0
    backend: Any = "fp32"
    stats_every: int = 0
    averaging: Averaging | None = None
    constraint: Constraint | None = None
    meter: Meter | None = None
    _spare: list[nn.Module] = field(default_factory=list, repr=False, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        """The last partial batch is a step too."""
        return -(-self.data.train_images // self.train.batch_size)

    def build(self) -> nn.Module:
        """The network at its start, on the device."""
        model = self._spare.pop() if self._spare else self.network()
        return model.to(self.device).to(memory_format=LAYOUT)  # type: ignore[call-overload]

    def start(self) -> Checkpoint:
        """The state before the first epoch; the network that was built for it is the next one that `build` gives."""
        model = self.network()
        scores = self.score(model, self.first).detach().cpu()[None].clone()
        self._spare[:] = [model]
        return Checkpoint(self.first, 0, on_cpu(model.state_dict()), {}, scores)

    def release(self) -> None:
        """Let go of the network that `start` has built."""
        self._spare.clear()

    def learning_rate(self, epoch: int) -> float:
        """Milestones are absolute: the rate of an epoch does not depend on where a training started."""
        if self.averaging is not None and self.averaging.includes(epoch) and self.averaging.lr is not None:
            return self.averaging.lr
        passed = sum(epoch > milestone for milestone in self.train.milestones)
        return self.train.lr * self.train.lr_decay**passed

    def evaluate(self, model: nn.Module, team: Team = ALONE) -> dict[str, Any]:
        """A network on the test images, as columns of a curve; `team`: the processes that take a share each."""
        own = {"part": team.share_of_test} if team.size > 1 else {}
        batches = self.data.test_batches(max(self.train.batch_size, 500), memory_format=LAYOUT, **own)
        sums = steps.evaluate(model, batches, amp=self.train.amp, team=team)
        top5 = {} if sums.top5 is None else {"test_top5": sums.top5}
        return {"test_loss": sums.loss, "test_accuracy": sums.accuracy, "test_images": sums.images, **top5}


def tested(epoch: int, train: Train) -> bool:
    """Whether a training of this recipe is evaluated after an epoch: every so many, and after the last."""
    return epoch % train.eval_every == 0 or epoch == train.epochs
