"""Mapping of the innermost memory's tiles onto the array: which operand stays in the registers, and their split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw_models.accelerator.description import OPERANDS
from hw_models.mapping.problems import Problems, Registers, volumes
from hw_models.mapping.spatial import whole_steps
from hw_models.mapping.tile_search import State
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import FILTERS, PIXELS, WINDOW

SPLITS = tuple(sorted({*range(1, 9), *(2**i for i in range(4, 17)), *(3 * 2**i for i in range(2, 16))}))

# what stays in the registers, over which two indices its words go, and which index runs innermost
WAYS = (
    ("sums", ("g1", "g2"), "g2"),
    ("sums", ("g1", "g2"), "g1"),
    ("held", ("g2", "red"), "red"),
    ("held", ("g2", "red"), "g2"),
    ("streaming", ("g1", "red"), "red"),
    ("streaming", ("g1", "red"), "g1"),
)


@dataclass(frozen=True)
class Placed:
    """Each tile's best mapping onto the array: energy in all, elements moved [4, row], register split, array steps."""

    energy: Array
    moved: Array
    split: Array
    steps: Array


def onto_array(
    q: Problems, state: State, registers: Registers, rough: bool = False, given: tuple[int, float, float] | None = None
) -> Placed:
    """The cheapest stationarity and register split inside each tile; `rough`: as if all tiles were full ones.

    `given`: one way instead, with steps of the array along the two indices of what stays (`WAYS`).
    """
    row = state.problem
    ones = np.ones_like(q.merged[0, row])
    of_pixels = _blocks(state.sizes[PIXELS], state.counts[PIXELS], q.unit[PIXELS, row], q.merged[0, row])
    of_window = _blocks(state.sizes[WINDOW], state.counts[WINDOW], q.unit[WINDOW, row], q.merged[1, row])
    of_k = _blocks(state.sizes[FILTERS:], state.counts[FILTERS:], q.unit[FILTERS:, row], ones)
    if rough:
        of_pixels, of_window, of_k = (
            (k[0].max(axis=1, keepdims=True), c.prod(axis=0)[:, None])
            for k, c in zip(
                (of_pixels, of_window, of_k),
                (state.tiles[PIXELS], state.tiles[WINDOW], state.tiles[FILTERS:]),
                strict=True,
            )
        )
    first = q.window_first[row]
    words = registers.words[:, row]
    splits = np.array([s for s in SPLITS if s <= max(words.max(), 1)], dtype=float)[None, :]
    if given is not None:
        splits = np.array([[given[1]]])

    def visits(kinds: tuple[Array, Array], tile: Array) -> Array:
        out = np.zeros(np.broadcast_shapes(tile.shape, (len(row), 1)))
        for i in range(kinds[0].shape[1]):
            out += kinds[1][:, i, None] * np.ceil(kinds[0][:, i, None] / tile)
        return out

    def both(tile: Array) -> tuple[Array, Array]:
        """Visits of g1 and of the reduction, each cut into register tiles of `tile`."""
        a, b = visits(of_pixels, tile), visits(of_window, tile)
        f = first[:, None]
        return np.where(f, b, a), np.where(f, a, b)

    def top(kinds: tuple[Array, Array]) -> Array:
        return (kinds[0] * (kinds[1] > 0)).max(axis=1)[:, None]

    a, b = top(of_pixels), top(of_window)
    n1, nr, n2 = np.where(first[:, None], b, a), np.where(first[:, None], a, b), top(of_k)
    tiles_a, tiles_b = (state.tiles[part].prod(axis=0)[:, None] for part in (PIXELS, WINDOW))
    t1, tr = np.where(first[:, None], tiles_b, tiles_a), np.where(first[:, None], tiles_a, tiles_b)
    t2 = state.tiles[FILTERS][:, None]
    wx, wy, wz = (np.maximum(np.floor(w), 1.0)[:, None] for w in words)

    def other(w: Array) -> Array:
        return np.maximum(np.floor(w / splits), 1.0) if given is None else np.array([[given[2]]])

    options = []  # visits along (g1, g2, red)
    size, rest = np.minimum(splits, wz), other(wz)  # sums stay: g1 x g2
    s1, s2 = both(size)[0], visits(of_k, rest)
    options += [
        (np.where(wy >= rest, s1, both(np.ones_like(size))[0]), s2, tr),
        (s1, np.where(wx >= size, s2, visits(of_k, np.ones_like(size))), tr),
    ]
    size, rest = np.minimum(splits, wy), other(wy)  # Y stays: g2 x red
    s2, sr = visits(of_k, size), both(rest)[1]
    options += [
        (t1, np.where(wx >= rest, s2, visits(of_k, np.ones_like(size))), sr),
        (t1, s2, np.where(wz >= size, sr, both(np.ones_like(size))[1])),
    ]
    size, rest = np.minimum(splits, wx), other(wx)  # X stays: g1 x red
    s1, sr = both(size)[0], both(rest)[1]
    options += [
        (np.where(wy >= rest, s1, both(np.ones_like(size))[0]), t2, sr),
        (s1, t2, np.where(wz >= size, sr, both(np.ones_like(size))[1])),
    ]
    volume_y, volume_z = (v[:, :, 0] for v in volumes(q, row))
    volume_x = (q.loops[PIXELS, row].prod(axis=0) * q.loops[WINDOW, row].prod(axis=0))[:, None]
    bits = [w[row][:, None] for w in (q.x, q.y, q.z, q.acc)]
    vx, vy, vz = (v[:, None] for v in state.visits)
    table = []
    for (kept, _, _), (one, two, red) in zip(WAYS, options, strict=True):
        v1 = np.where(n2 * nr <= wy, vy, one)
        v2 = np.where(n1 * nr <= wx, vx, two)
        vr = np.where(n1 * n2 <= wz, vz, red)
        x, y, spill = np.broadcast_arrays(v2 * volume_x, v1 * volume_y, (vr - 1) * volume_z)
        cost = (
            x * bits[0] * registers.inward[0]
            + y * bits[1] * registers.inward[1]
            + volume_z * bits[2] * registers.outward[2]
            + spill * bits[3] * (registers.inward[2] + registers.outward[2])
        )
        shape = (len(row), splits.shape[1])
        if registers.stays is not None:  # an operand that must stay comes no more often than if it stays
            least = (np.where(n1 * nr <= wx, vx, t2), np.where(n2 * nr <= wy, vy, t1), np.where(n1 * n2 <= wz, vz, tr))
            for o, (found, fewest) in enumerate(zip((v2, v1, vr), least, strict=True)):
                must = registers.stays[row][:, None] == o
                cost = np.where(must & (found > fewest), np.inf, cost)
                if kept != OPERANDS[o]:  # of equals the one that is called so
                    cost = np.where(must, cost * (1 + 1e-12), cost)
        table.append([np.broadcast_to(v, shape) for v in (cost, x, y, spill)])
    if given is not None:
        table = [table[given[0]]]
    cost, x, y, spill = (np.stack(column) for column in zip(*table, strict=True))  # [option, row, split]
    total = cost + state.cost[None, :, None]
    flat = np.moveaxis(total, 1, 0).reshape(len(row), -1)
    best = flat.argmin(axis=1)
    value = flat[np.arange(len(row)), best]
    steps = (
        visits(of_pixels, np.ones((1, 1)))[:, 0]
        * visits(of_window, np.ones((1, 1)))[:, 0]
        * visits(of_k, np.ones((1, 1)))[:, 0]
    )
    option, split = np.unravel_index(best, (len(table), splits.shape[1]))
    here = option, np.arange(len(row)), split
    if given is not None:
        option = np.full_like(option, given[0])
    w = np.concatenate([wz, wz, wy, wy, wx, wx], axis=1)[np.arange(len(row)), option]
    size = np.minimum(splits[0, split], w)
    return Placed(
        value,
        np.stack([x[here], y[here], volume_z[:, 0], spill[here]]),
        np.stack(
            [option, size, np.maximum(np.floor(w / size), 1.0) if given is None else np.full_like(size, given[2])]
        ),
        steps,
    )


def _blocks(sizes: Array, counts: Array, unit: Array, merged: Array) -> tuple[Array, Array]:
    """Steps of the array along an index made of loops [loop, row, kinds], for each kind of tile: (steps, how many)."""
    steps = whole_steps(sizes, unit[:, :, None])
    one, many = steps[0], counts[0]
    for s, c in zip(steps[1:], counts[1:], strict=True):
        one = (one[:, :, None] * s[:, None, :]).reshape(len(one), -1)
        many = (many[:, :, None] * c[:, None, :]).reshape(len(many), -1)
    used = many.any(axis=0)  # kinds of tiles that no row has are left out
    return whole_steps(one[:, used], merged[:, None]), many[:, used]
