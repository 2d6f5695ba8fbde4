"""CUDA graphs of the training step: its kernels are recorded once and replayed with a single launch.

A step of a small network is several hundred kernels, most of them shorter than the time that Python and the driver
need to launch one; a replayed graph launches all of them at once. What is replayed are the very kernels that eager
mode launches, on tensors at fixed addresses, so the results have the same bits. A graph holds for one batch shape and
one set of Python numbers that were baked into its kernels (the learning rate): each pair has a graph of its own.

A step can be recorded if it never reads a value from the device and uses no number that changes from step to step on
the host. Whatever fails while recording is reported once, and training goes on in eager mode.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

StepFunction = Callable[[Tensor, Tensor], None]
Recorder = Callable[[Callable[[], None]], Callable[[], None]]  # runs the work once under recording; returns its replay

WARM_UP = 3  # eager steps of a batch shape before it is recorded: cuDNN plans, workspaces and momentum are then there


@dataclass(frozen=True)
class _Recorded:
    """A recorded step and the tensors that it reads its batch from."""

    inputs: Tensor
    labels: Tensor
    replay: Callable[[], None]


class StepGraphs:
    """A training step that replays recorded graphs; called like the step itself, with (images, labels).

    baked: the Python numbers that the step's kernels hold, as a hashable value; where it changes (a milestone) the
    graphs recorded so far are dropped. record: how to record, `cuda_recorder(stream)` outside of tests. A failure to
    record is handed to `failed` as a sentence, once. replayed: steps that were replays.
    state: all tensors that a step changes. With it each new graph is checked once: its first replay is undone, the step
    runs in eager mode, and graphs are given up where the two changed the state differently (beyond rounding).
    """

    def __init__(
        self,
        step: StepFunction,
        baked: Callable[[], Hashable],
        record: Recorder,
        failed: Callable[[str], None] = lambda reason: None,
        state: Callable[[], list[Tensor]] | None = None,
    ) -> None:
        self.replayed = 0
        self._state = state
        self._step, self._baked, self._record, self._failed = step, baked, record, failed
        self._graphs: dict[Hashable, _Recorded] = {}
        self._outdated: dict[Hashable, _Recorded] = {}  # until the next is recorded: a pool without graphs is gone
        self._numbers: Hashable = None
        self._seen: Counter[Hashable] = Counter()
        self._off = False

    def __call__(self, inputs: Tensor, labels: Tensor) -> None:
        if self._off:
            return self._step(inputs, labels)
        if (numbers := self._baked()) != self._numbers:
            self._numbers = numbers
            self._outdated, self._graphs = self._graphs, {}
        shape = (inputs.shape, inputs.stride(), inputs.dtype, labels.shape, labels.dtype)
        graph = self._graphs.get(shape)
        if graph is None:
            self._seen[shape] += 1
            graph = self._recorded(inputs, labels) if self._seen[shape] > WARM_UP else None
            if graph is None:
                return self._step(inputs, labels)
            self._graphs[shape] = graph
            self._outdated = {}
            if self._state is not None:
                return self._checked(graph, self._state(), inputs, labels)
        graph.inputs.copy_(inputs)
        graph.labels.copy_(labels)
        graph.replay()
        self.replayed += 1
        return None

    def _recorded(self, inputs: Tensor, labels: Tensor) -> _Recorded | None:
        """The step recorded on copies of this batch; None, and eager mode from now on, if that fails."""
        own, targets = inputs.clone(), labels.clone()
        try:
            return _Recorded(own, targets, self._record(lambda: self._step(own, targets)))
        except (RuntimeError, NotImplementedError) as error:  # recording runs no kernel, so nothing has changed
            self._give_up(f"the step could not be recorded as a CUDA graph, going on without: {_first_line(error)}")
            return None

    def _checked(self, graph: _Recorded, state: list[Tensor], inputs: Tensor, labels: Tensor) -> None:
        """One eager step, after a replay on the same batch that is compared with it and undone."""
        before = [tensor.clone() for tensor in state]
        graph.inputs.copy_(inputs)
        graph.labels.copy_(labels)
        graph.replay()
        replayed = [tensor.clone() for tensor in state]
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        self._step(inputs, labels)
        if not _same_change(before, replayed, state):
            self._give_up("a replayed CUDA graph of the step gave other numbers than eager mode; going on without")

    def _give_up(self, reason: str) -> None:
        self._off = True
        self._graphs.clear()
        self._failed(reason)


def _same_change(before: list[Tensor], ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether two steps from the same state moved every tensor alike, up to a hundredth of the movement."""
    same = [
        (our.double() - their.double()).norm() <= 1e-2 * (their.double() - old.double()).norm() + 1e-12
        for old, our, their in zip(before, ours, theirs, strict=True)
        if old.is_floating_point()
    ]
    return bool(torch.stack(same).all())


def cuda_recorder(stream: Any) -> Recorder:
    """Records on a CUDA stream, which must not be the default one. All graphs share one pool of memory: their tensors
    live for one step only.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    return record


@contextlib.contextmanager
def on_stream(stream: Any) -> Iterator[None]:
    """Work on a CUDA stream of its own, in order with what comes before and after; None: where one is."""
    if stream is None:
        yield
        return
    outer = torch.cuda.current_stream(stream.device)
    stream.wait_stream(outer)
    with torch.cuda.stream(stream):
        yield
    outer.wait_stream(stream)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
