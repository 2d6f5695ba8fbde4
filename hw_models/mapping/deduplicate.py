"""Identical mapping problems solved once: the distinct contractions of a network, and what came of them spread again.

A network repeats its shapes, so a search works on the distinct ones only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_models.mapping.traffic import Widths
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import Halo, Passes

Ints = NDArray[np.int64]


def distinct(p: Passes, bits: Widths) -> tuple[Passes, Widths, Ints]:
    """Each different (layer shape, pass, widths) once, flat; `index` is then the pass. Idle rows are dropped."""
    shape = p.macs.shape
    which = np.broadcast_to(np.arange(3).reshape(3, *(1,) * (p.macs.ndim - 1)), shape)
    h = p.halo
    parts = [
        p.g1,
        p.g2,
        p.red,
        p.groups,
        p.macs,
        p.x,
        p.y,
        p.z,
        p.window,
        bits.x,
        bits.y,
        bits.z,
        bits.acc,
        which,
        h.rows,
        h.cols,
        *h.scale,
        *h.margin,
        *h.limit,
        h.taps,
    ]
    table = np.stack([np.broadcast_to(a, shape)[p.macs > 0] for a in parts])
    u, inverse = np.unique(table, axis=1, return_inverse=True)
    halo = Halo(u[14], u[15], (u[16], u[17]), (u[18], u[19]), (u[20], u[21]), u[22])
    flat = Passes(u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], halo, u[13].astype(np.int64))
    return flat, Widths(u[9], u[10], u[11], u[12]), inverse.reshape(-1)


def spread(values: Array, p: Passes, inverse: Ints) -> Array:
    """Values of the distinct contractions -> an array like those of `p`, 0 for idle rows."""
    out = np.zeros(p.macs.shape)
    out[p.macs > 0] = values[inverse]
    return out


def pick(item: Any, index: Any) -> Any:
    """A dataclass of arrays (nested, or in tuples), indexed field by field."""
    if isinstance(item, tuple):
        return tuple(pick(v, index) for v in item)
    if is_dataclass(item):
        return replace(item, **{f.name: pick(getattr(item, f.name), index) for f in fields(item)})  # type: ignore[type-var]
    return item[index]


def join(items: Sequence[Any]) -> Any:
    """Several such, one after the other."""
    first = items[0]
    if isinstance(first, tuple):
        return tuple(join(column) for column in zip(*items, strict=True))
    if is_dataclass(first):
        return replace(first, **{f.name: join([getattr(i, f.name) for i in items]) for f in fields(first)})  # type: ignore[type-var]
    return np.concatenate(items)
