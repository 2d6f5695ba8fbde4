"""Memory of a training step over time: activations kept for the backward pass, the peak, and recomputation.

The rows run in order, then backwards. A row's output lives until its last reader, or longer if a backward pass reads it
(`hw_models.cost.step_memory`). That is what an eager framework keeps (a test holds it against torch's saved tensors);
what several read counts once. Gradients of activations live from the first reader's backward pass to their own row's.
Weights, their gradients and momentum are allocated all the time. Bytes follow from the precision: outputs in their
format, statistics in fp32.

With checkpoints (`hw_models.analysis.checkpointing`) the network is cut into segments: of all but the last only the
tensors that cross a cut are kept, and a segment runs forward again before its backward pass (Chen et al., arXiv
1604.06174). Not modelled: allocator fragmentation, workspaces, and gradients summed at a fork (the sum is in place).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hw_models.cost.step_memory import Moment, StepMemory, union
from hw_models.precision.formats import Bits, parse_precision
from hw_models.workload.layer import Layer

MOST_IMAGES = 2**24  # of a batch that is looked for


@dataclass(frozen=True)
class Footprint:
    """Memory of one step on a batch: over time, its peak, and the bytes that each row keeps."""

    batch: float
    timeline: tuple[Moment, ...]
    kept: dict[str, float]  # tensor or statistics -> bytes kept from the forward to the backward pass
    parameters: float  # bytes of weights, gradients and the optimizer's states (momentum; of Adam two moments)
    recomputed: tuple[str, ...]  # rows that run forward twice
    segments: int

    @property
    def peak(self) -> float:
        """Bytes at the worst moment, parameters included."""
        return self.parameters + max((m.bytes for m in self.timeline), default=0.0)

    @property
    def activations(self) -> float:
        """Bytes that the forward pass leaves for the backward pass."""
        return sum(self.kept.values())

    @property
    def most(self) -> float:
        """Bytes of activations and their gradients at the worst moment, without the parameters."""
        return self.peak - self.parameters

    @property
    def worst(self) -> Moment:
        return max(self.timeline, key=lambda m: m.bytes)


def footprint(
    layers: Sequence[Layer],
    bits: Bits = None,
    batch: float = 256,
    cuts: Sequence[int] = (),
    *,
    index_bits: float | None = None,
) -> Footprint:
    """The memory of one training step of `layers` on `batch` images.

    `cuts`: positions in `layers` where a new segment begins (checkpointing); none keeps everything. `index_bits`: of a
    max pool's index (default: as many as the window needs; eager torch takes 64 and keeps the pool's input as well).
    """
    step = StepMemory(layers, parse_precision(bits), float(batch), index_bits)
    edges = [0, *sorted({c for c in cuts if 0 < c < len(layers)}), len(layers)]
    segments = [range(a, b) for a, b in itertools.pairwise(edges)]
    crossing = [step.entering(rows) for rows in segments[:-1]]  # what running a segment again starts from
    timeline: list[Moment] = []
    held: dict[str, float] = {}
    for j, rows in enumerate(segments):
        last = j == len(segments) - 1
        held |= {} if last else crossing[j]
        timeline += step.forward(rows, "forward", held, keeps=last, until=len(layers))
    kept = {**held, **step.saved(segments[-1])}
    again: list[str] = []
    for j in range(len(segments) - 1, -1, -1):
        rows, held = segments[j], union(crossing[: j + 1])
        if j < len(segments) - 1:
            again += [layers[i].name for i in rows]
            flowing = {**held, **step.gradients(rows[-1] + 1)} if rows[-1] + 1 < len(layers) else held
            timeline += step.forward(rows, "recompute", flowing, keeps=True, until=rows[-1])
        timeline += step.backward(rows, held)
    return Footprint(float(batch), tuple(timeline), kept, step.parameters, tuple(again), len(segments))


def largest_batch(layers: Sequence[Layer], room: float, bits: Bits = None) -> int:
    """The largest batch whose step, without checkpoints, stays within `room` bytes; 0 if one image does not."""
    if footprint(layers, bits, 1).peak > room:
        return 0
    fits, over = 1, 2
    while over <= MOST_IMAGES and footprint(layers, bits, over).peak <= room:
        fits, over = over, 2 * over
    while over - fits > 1:
        middle = (fits + over) // 2
        if footprint(layers, bits, middle).peak <= room:
            fits = middle
        else:
            over = middle
    return fits
