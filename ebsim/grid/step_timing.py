"""How long steps take on this machine, from a few real ones: medians, and CPU time where other work disturbs the clock."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ENOUGH = 0.5  # seconds of steps that are enough for a median
MOST = 24  # steps timed at most


@dataclass(frozen=True)
class Timed:
    """Of one piece of work done several times. first: the extra seconds of its first time (compilation, memory)."""

    seconds: float
    first: float
    disturbed: bool
    """Whether other processes took the CPU meanwhile, so that `seconds` are CPU seconds."""


def timed(work: Callable[[], object], device: Any, repeats: int = 3) -> Timed:
    """The median of at least `repeats` times, and of more of them where they are short, after one that warms up."""
    first, taken = _once(work, device), [_once(work, device) for _ in range(repeats)]
    while sum(one.wall for one in taken) < ENOUGH and len(taken) < min(MOST, 8 * repeats):
        taken.append(_once(work, device))
    median = statistics.median(one.seconds for one in taken)
    disturbed = sum(one.disturbed for one in taken) > len(taken) / 2
    return Timed(median, max(0.0, first.seconds - median), disturbed)


@dataclass(frozen=True)
class _Once:
    wall: float
    cpu: float
    preempted: int
    alone: bool  # all work is done by one thread of this process

    @property
    def disturbed(self) -> bool:
        return self.alone and self.preempted > 0 and self.wall > 1.05 * self.cpu

    @property
    def seconds(self) -> float:
        """Wall-clock seconds; where the thread was sent off its CPU, what it would have taken without that."""
        return self.cpu if self.disturbed else self.wall


def _once(work: Callable[[], object], device: Any) -> _Once:
    import torch

    before, cpu, began = _preemptions(), time.process_time(), time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return _Once(wall, cpu, _preemptions() - before, alone)


def _preemptions() -> int:
    """How often the kernel has taken the CPU from this process; a wait of its own, for a disk say, is none."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
