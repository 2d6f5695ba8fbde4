"""How long a training takes here, from a few of its real steps, one evaluation and one checkpoint.

The steps are those of the training itself (`training.Trainer`: batches, precision, compilation, constraints). A step
counts by the median. Where the kernel takes the CPU away meanwhile, the seconds of a single thread are those that it
computed: other work then does not lengthen the plan of a machine that will be idle.
"""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from ebsim.training import Setup, Trainer

T = TypeVar("T")
ENOUGH = 0.5  # seconds of steps that are enough for a median
MOST = 24  # steps timed at most


@dataclass(frozen=True)
class Pace:
    """Seconds of a training: a step, what an epoch takes beside its steps, a test, and what its start takes once."""

    step: float
    epoch: float
    test: float
    start: float
    disturbed: bool = False
    """Whether other work took the CPU meanwhile; these are then CPU seconds."""


NONE = Pace(0.0, 0.0, 0.0, 0.0)


class Sample:
    """A dataset of which an epoch has only the first `steps` full batches, and a test the first `tests` batches."""

    def __init__(self, data: Any) -> None:
        self._data, self.steps, self.tests = data, 1, 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def train_batches(self, size: int, **options: Any) -> Iterator[Any]:
        """Full batches, of several epochs where one has too few; a dataset smaller than a batch is its only one."""
        epochs = (self._data.train_batches(size, **{**options, "epoch": epoch}) for epoch in itertools.count(1))
        batches = itertools.chain.from_iterable(epochs)
        size = min(size, self._data.train_images)
        return itertools.islice((batch for batch in batches if len(batch[1]) == size), self.steps)

    def test_batches(self, size: int, **options: Any) -> Iterator[Any]:
        return itertools.islice(self._data.test_batches(size, **options), self.tests)


def pace(setup: Setup, sample: Sample, steps: int) -> Pace:
    """Train `steps` steps (more where they are short) of what `setup` describes, whose data are `sample`."""
    clock = Clock(setup.device)
    trainer = Trainer(setup, setup.start())
    sample.steps = 1
    _, first = clock.measured(lambda: trainer.one_epoch(evaluate=False, tick=lambda done, total: None))
    sample.steps = min(MOST, max(steps, math.ceil(ENOUGH / max(first.seconds, 1e-3))))
    ticks: list[Span] = []
    marks = [clock.now()]

    def tick(done: int, total: int) -> None:
        marks.append(clock.now())
        ticks.append(clock.between(*marks[-2:]))

    trainer.one_epoch(evaluate=False, tick=tick)
    rest = clock.between(marks[-1], clock.now())
    step = statistics.median(span.seconds for span in ticks)
    seen, tested = clock.measured(lambda: setup.evaluate(trainer.model)["test_images"])
    with tempfile.TemporaryDirectory() as folder:
        _, written = clock.measured(lambda: trainer.checkpoint().save(Path(folder) / "x.safetensors", "plan"))
    return Pace(
        step=step,
        epoch=rest.seconds + written.seconds,
        test=tested.seconds * setup.data.test_images / seen,
        start=max(0.0, first.seconds - step),
        disturbed=sum(span.disturbed for span in ticks) > len(ticks) / 2,
    )


@dataclass(frozen=True)
class Span:
    """Some work: wall-clock and CPU seconds, and how often the kernel took the CPU away from it.

    alone: it is done by a single thread of this process, and by nothing else.
    """

    wall: float
    cpu: float
    preempted: int
    alone: bool

    @property
    def disturbed(self) -> bool:
        return self.alone and self.preempted > 0 and self.wall > 1.05 * self.cpu

    @property
    def seconds(self) -> float:
        """Wall-clock seconds; where the thread was sent off its CPU, what it would have taken without that."""
        return self.cpu if self.disturbed else self.wall


@dataclass(frozen=True)
class Clock:
    """Measures work on a device."""

    device: torch.device

    def now(self) -> tuple[float, float, int]:
        """Wall-clock seconds, CPU seconds, preemptions so far (a wait of one's own, for a disk say, is none)."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        return time.perf_counter(), time.process_time(), preempted

    def between(self, before: tuple[float, float, int], after: tuple[float, float, int]) -> Span:
        """What lies between two readings of `now`."""
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return Span(after[0] - before[0], after[1] - before[1], after[2] - before[2], alone)

    def measured(self, work: Callable[[], T]) -> tuple[T, Span]:
        """The result of some work, and what it took."""
        before = self.now()
        made = work()
        return made, self.between(before, self.now())
