"""Layer tables of pruned networks from channel masks, without building the shrunk network.

A pruned channel has gamma = beta = 0, so its BatchNorm output is zero. On the table of layers, propagate
forwards which output channels can be non-zero and backwards which are needed; channels that are both are kept. The
rules are those of exact dead-channel elimination:

    row                      can be non-zero                     needs of its inputs
    conv, linear             all, if any input can (or bias)     all
    depthwise conv           the input's channels (or bias)      its own kept channels
    bn                       the mask (all without one)          its own kept channels
    relu, pools, dropout     the input's                         its own kept channels
    add, concat              union, juxtaposition                its own kept channels, the slice
    anything else            all                                 all

Channels of several candidates can be given at once: masks [candidates, channels], so a thousand networks cost
one pass over the rows. Reading some channels of a wider tensor is counted as reading those channels (a
built network may copy them first).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_models.errors import WorkloadError
from hw_models.workload.layer import INPUT, Layer, conv_macs
from hw_models.workload.shapes import Array, Shapes, candidates, shapes

Bools = NDArray[np.bool_]
BLOCK = 64  # candidates worked on together: their masks stay in the processor's cache
_SAME = ("relu", "maxpool", "avgpool", "dropout", "bn")  # zero stays zero, channel by channel (bn: by its mask)


@dataclass(frozen=True)
class ChannelCounts:
    """Channels read and made by every row, [..., rows]; `read` sums over the row's inputs."""

    read: Array
    made: Array


def widths(layers: Sequence[Layer], masks: Mapping[str, Any]) -> ChannelCounts:
    """Channels that survive. `masks`: BatchNorm row name -> booleans [..., channels], True = kept.

    Raises `WorkloadError` for a mask whose name or length does not fit a BatchNorm row.
    """
    rows = {row.name: row for row in layers}
    kept_by = {name: _checked(rows, name, np.asarray(mask, dtype=bool)) for name, mask in masks.items()}
    shape = np.broadcast_shapes((), *(m.shape[:-1] for m in kept_by.values()))
    alive: dict[str, Bools] = {}
    for row in layers:
        alive[row.name] = _alive(row, rows, alive, kept_by, shape)
    needed = {row.name: np.zeros((*shape, row.channels[1]), dtype=bool) for row in layers}
    consumed = {source for row in layers for source in row.sources}
    for row in reversed(layers):
        if row.name not in consumed:
            needed[row.name][:] = True
        for source, wanted in _needs(row, rows, needed[row.name] & alive[row.name]):
            needed[source] |= wanted
    kept = {name: needed[name] & alive[name] for name in rows}
    read = [_read(row, rows, kept, shape) for row in layers]
    made = [np.count_nonzero(kept[row.name], axis=-1) for row in layers]
    return ChannelCounts(np.stack(np.broadcast_arrays(*read), -1).astype(float), np.stack(made, -1).astype(float))


def shrink(layers: Sequence[Layer], masks: Mapping[str, Any]) -> list[Layer]:
    """The table of the shrunk network under one mask per BatchNorm; rows left without a channel disappear."""
    w = widths(layers, masks)
    if w.made.ndim != 1:
        raise WorkloadError("shrink takes one candidate; price many with shrink.candidate_shapes")
    rows = []
    for row, read, made in zip(layers, w.read, w.made, strict=True):
        if made and read:
            rows.append(_smaller(row, int(read), int(made)))
    gone = {row.name for row in layers} - {row.name for row in rows}
    return [replace(row, sources=tuple(s for s in row.sources if s not in gone)) for row in rows]


def candidate_shapes(layers: Sequence[Layer], masks: Mapping[str, Any]) -> Shapes:
    """Arrays of many shrunk networks at once ([candidates, rows]), for `hw_models.cost.training_step`."""
    arrays = {name: np.atleast_2d(np.asarray(mask, dtype=bool)) for name, mask in masks.items()}
    count = max((len(m) for m in arrays.values()), default=1)
    parts = [
        widths(layers, {n: m if len(m) == 1 else m[i : i + BLOCK] for n, m in arrays.items()})
        for i in range(0, count, BLOCK)
    ]
    read, made = (np.concatenate(side) for side in ([p.read for p in parts], [p.made for p in parts]))
    return candidates(shapes(layers), read, made, np.array([_channels_read(row) for row in layers], dtype=float))


def _checked(rows: Mapping[str, Layer], name: str, mask: Bools) -> Bools:
    row = rows.get(name)
    if row is None or row.kind != "bn":
        raise WorkloadError(f"mask {name!r}: the network has no BatchNorm row of that name")
    if mask.shape[-1:] != (row.channels[1],):
        raise WorkloadError(f"mask {name!r}: has {mask.shape[-1:]} channels, the BatchNorm has {row.channels[1]}")
    return mask


def _depthwise(row: Layer) -> bool:
    return row.kind == "conv" and 1 < row.groups == row.channels[0] == row.channels[1]


def _sliced(row: Layer, rows: Mapping[str, Layer]) -> list[slice] | None:
    """Where the channels of each source lie in the row's input, or None if they do not line up."""
    if INPUT in row.sources or any(s not in rows for s in row.sources):
        return None
    sizes = [rows[s].channels[1] for s in row.sources]
    if row.kind == "concat":
        if sum(sizes) != row.channels[1]:
            return None
        ends = np.cumsum(sizes)
        return [slice(int(e - n), int(e)) for e, n in zip(ends, sizes, strict=True)]
    return [slice(0, n) for n in sizes] if all(n == row.channels[1] for n in sizes) else None


def _alive(
    row: Layer,
    rows: Mapping[str, Layer],
    alive: Mapping[str, Bools],
    masks: Mapping[str, Bools],
    shape: tuple[int, ...],
) -> Bools:
    everything: Bools = np.ones((*shape, row.channels[1]), dtype=bool)
    if row.kind == "bn":
        return everything & masks[row.name] if row.name in masks else everything
    inputs = [alive[s] for s in row.sources if s in alive]
    if row.bias or len(inputs) != len(row.sources):
        return everything
    if row.kind in ("conv", "linear") and not _depthwise(row):
        some = np.stack([np.any(i, axis=-1, keepdims=True) for i in inputs])
        return everything & np.any(some, axis=0)
    if _sliced(row, rows) is None:
        return everything
    if row.kind == "concat":
        return np.concatenate(inputs, axis=-1)
    if row.kind == "add" or row.kind in _SAME or _depthwise(row):
        return everything & np.stack(inputs).any(axis=0)
    return everything


def _needs(row: Layer, rows: Mapping[str, Layer], kept: Bools) -> list[tuple[str, Bools]]:
    """(source, channels needed of it) for each source of a row."""
    slices = _sliced(row, rows)
    own = (row.kind in (*_SAME, "add", "concat") or _depthwise(row)) and slices is not None
    if own and slices is not None:
        return [(s, kept[..., cut]) for s, cut in zip(row.sources, slices, strict=True)]
    every = np.any(kept, axis=-1, keepdims=True)
    return [(s, np.broadcast_to(every, (*kept.shape[:-1], rows[s].channels[1]))) for s in row.sources if s in rows]


def _channels_read(row: Layer) -> int:
    """Channels of all inputs together, in units of `row.channels[0]`'s kind (a flattened map: features)."""
    pixels = max(row.size[0] * row.size[1], 1)
    return max(row.inputs // pixels, 1)


def _read(row: Layer, rows: Mapping[str, Layer], kept: Mapping[str, Bools], shape: tuple[int, ...]) -> Any:
    total = _channels_read(row)
    if any(s not in rows for s in row.sources):
        return np.full(shape, total)
    own = kept[row.name]
    slices = _sliced(row, rows) if row.kind in (*_SAME, "add", "concat") or _depthwise(row) else None
    counts = []
    for i, source in enumerate(row.sources):
        used = kept[source]
        if slices is not None:
            used = used & own[..., slices[i]]
        counts.append(np.count_nonzero(used, axis=-1))
    full = sum(rows[s].channels[1] for s in row.sources)
    return np.sum(counts, axis=0) * total // max(full, 1)


def _smaller(row: Layer, read: int, made: int) -> Layer:
    """One row with fewer channels."""
    before = _channels_read(row)
    inputs = row.inputs * read // before
    outputs = row.outputs * made // max(row.channels[1], 1)
    groups = made if _depthwise(row) else row.groups
    macs = conv_macs(outputs, read, row.kernel, groups) if row.macs and row.kind != "matmul" else row.macs
    weights = 0
    if row.weights:
        weights = 2 * made if row.kind == "bn" else made * (read // groups) * row.kernel[0] * row.kernel[1]
        weights += made if row.bias else 0
    c = row.channels[0] * read // before if row.kind not in ("conv", "linear") else read
    return replace(row, macs=macs, inputs=inputs, outputs=outputs, weights=weights, channels=(c, made), groups=groups)
