"""Search for the best tiles of one memory inside the tiles of the next outer memory, all candidates at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hw_models.mapping.deduplicate import Bools, Ints
from hw_models.mapping.problems import Problems, Registers, Store, volumes
from hw_models.mapping.spatial import whole_steps
from hw_models.mapping.tiles import SMALL
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import PIXELS, WINDOW

N, P, Q, C, R, S, K = range(7)


@dataclass
class State:
    """Candidates of a level, arrays [row]: the problem of each, its tiles, and what it has cost."""

    problem: Ints
    tile: Array  # [7, row]
    sizes: Array  # [7, row, kinds]: the different tiles along each loop ...
    counts: Array  # ... and how many there are
    tiles: Array  # [7, row], their number
    x_words: Array
    visits: Array  # [3, row]: how often each element of X, Y, sums comes to this level
    moved: tuple[Array, ...]  # of each level so far: [4, row] elements of X, Y, Z and spilled sums
    chosen: tuple[Array, ...]  # of each level so far: [8, row] tile and which operand stays
    cost: Array
    rank: Array  # cost, and what passes by at the least: the order in which candidates are kept
    parent: Ints  # the row of the level outside that each was cut from

    def take(self, index: Any) -> State:
        """Some of the rows."""
        return State(
            self.problem[index],
            self.tile[:, index],
            self.sizes[:, index],
            self.counts[:, index],
            self.tiles[:, index],
            self.x_words[index],
            self.visits[:, index],
            tuple(m[:, index] for m in self.moved),
            tuple(c[:, index] for c in self.chosen),
            self.cost[index],
            self.rank[index],
            self.parent[index],
        )


def joined(states: list[State]) -> State:
    """The rows of several states, one after the other."""
    if len(states) == 1:
        return states[0]

    def along(name: str, axis: int = 0) -> Any:
        return np.concatenate([getattr(s, name) for s in states], axis=axis)

    def levels(name: str) -> tuple[Array, ...]:
        return tuple(np.concatenate(level, axis=1) for level in zip(*(getattr(s, name) for s in states), strict=True))

    return State(
        along("problem"),
        along("tile", 1),
        along("sizes", 1),
        along("counts", 1),
        along("tiles", 1),
        along("x_words"),
        along("visits", 1),
        levels("moved"),
        levels("chosen"),
        along("cost"),
        along("rank"),
        along("parent"),
    )


def best_tiles(
    q: Problems,
    state: State,
    store: Store,
    keep: int,
    pixels: Array,
    window: Array,
    registers: Registers | None,
    filters: Array | None = None,
) -> State:
    """The best tiles of one memory inside those of the memory outside it, of these candidates [3, row, tile].

    `filters`: of each tile, [row, 1, 1], whether they fit or not; if not given, as many as fit.
    """
    row = state.problem
    outer = state.tile
    unit = q.unit[:, row]
    # numbers of tiles, [row, pixel tile] and [row, window tile]
    count_a = _cut(state.sizes[PIXELS], state.counts[PIXELS], pixels)
    count_b = _cut(state.sizes[WINDOW], state.counts[WINDOW], window)
    all_a, all_b = count_a.prod(axis=0), count_b.prod(axis=0)
    size_a, size_b = pixels.prod(axis=0), window.prod(axis=0)
    same_a = np.logical_and.reduce(pixels >= outer[PIXELS, :, None])
    same_b = np.logical_and.reduce(window >= outer[WINDOW, :, None])
    # X of one tile, and of all of them one after the other: [row, pixel tile, window tile]
    tile_x = pixels[0][:, :, None] * window[0][:, None, :]
    all_x = (q.loops[N, row] * q.loops[C, row])[:, None, None]
    lanes, whole_lanes, tap_lanes = [], [], []
    for axis in (0, 1):
        a, b, c = _spans(q, row, state, axis, window[1 + axis], count_b[1 + axis])
        scale, margin = (
            np.where(
                count_b[1 + axis] <= 1,
                q.scale[axis, row][:, None],
                np.minimum(window[1 + axis], q.strides[axis, row][:, None]),
            ),
            np.where(
                count_b[1 + axis] <= 1,
                q.margin[axis, row][:, None],
                np.maximum(window[1 + axis] - q.strides[axis, row][:, None], 0.0),
            ),
        )
        limit = q.limit[axis, row][:, None, None]
        tile_x = tile_x * np.minimum(pixels[1 + axis][:, :, None] * scale[:, None, :] + margin[:, None, :], limit)
        extent = q.loops[P + axis, row][:, None, None]
        most = limit * count_b[1 + axis][:, None, :]
        lanes.append(
            np.minimum(
                a[:, None, :] * extent + b[:, None, :] * count_a[1 + axis][:, :, None] - c[:, None, :],
                most * count_a[1 + axis][:, :, None],
            )
        )
        outer_count = state.tiles[P + axis][:, None, None]
        whole_lanes.append(
            np.minimum(a[:, None, :] * extent + b[:, None, :] * outer_count - c[:, None, :], most * outer_count)
        )
        # a window that is cut walks over its rows like pixels do, if steps of one pixel are steps of one row
        alike = (q.strides[axis, row] == 1) & (state.tiles[R + axis] == 1)
        over_taps = (q.limit[axis, row] - q.margin[axis, row])[:, None] + q.margin[axis, row][:, None] * count_a[
            1 + axis
        ]
        tap_lanes.append(np.where(alike[:, None, None], np.minimum(over_taps[:, :, None], lanes[-1]), lanes[-1]))
    still = all_x * lanes[0] * lanes[1]
    walks = (still,) * 4
    if store.slides:
        down, across = whole_lanes[0] * lanes[1], lanes[0] * whole_lanes[1]
        walks = (
            np.minimum(all_x * down, still),
            np.minimum(all_x * across, still),
            all_x * (tap_lanes[0] * lanes[1]),
            all_x * (lanes[0] * tap_lanes[1]),
        )
    walking, over_window = np.minimum(walks[0], walks[1]), np.minimum(walks[2], walks[3])
    # filters per tile: as many as fit
    first = q.window_first[row]
    x, y, acc = (w[row][:, None, None] * h for w, h in zip((q.x, q.y * q.y_scale, q.acc), store.holds, strict=True))
    by_filter = np.where(
        first[:, None, None],
        size_a[:, :, None] * y + size_b[:, None, :] * acc,
        size_b[:, None, :] * y + size_a[:, :, None] * acc,
    )
    room = store.bits - tile_x * x
    k, k_unit = outer[K][:, None, None], np.minimum(unit[K], outer[K])[:, None, None]
    most_k = np.clip(np.floor(room / np.maximum(by_filter, 1e-9) + 1e-9), 0.0, k)
    least_window = unit[WINDOW].copy()
    least_window[1:] = np.where(q.strides[0, row] == 0, outer[WINDOW][1:], least_window[1:])  # cannot be cut
    least = (
        _least(pixels, outer[PIXELS], unit[PIXELS])[:, :, None]
        & _least(window, outer[WINDOW], least_window)[:, None, :]
    )
    fits = ((most_k >= k_unit) | least) & _fresh(pixels)[:, :, None] & _fresh(window)[:, None, :]
    most_k = np.maximum(most_k, k_unit)
    # in even pieces of whole steps; of small problems also as many as fit, the last tile smaller
    raw = np.maximum(most_k, k_unit)
    most_k = np.maximum(np.where(raw >= k, k, np.floor(raw / k_unit) * k_unit), k_unit)
    even = np.minimum(k_unit * np.ceil(np.ceil(k / k_unit) / np.ceil(k / most_k)), k)
    tiles_k, fits = even[None], fits[None]
    if store.fixed:  # a given dataflow may be better off with fewer filters than fit
        most = np.ceil(float((outer[K] / np.minimum(unit[K], outer[K])).max()))
        tiny = (q.loops[:, row].prod(axis=0) <= SMALL**2).all()  # rows of either kind come apart
        pieces = np.arange(1.0, most + 1) if tiny else 2.0 ** np.arange(np.ceil(np.log2(most)) + 1)
        fewer = [k_unit * np.ceil(np.ceil(k / k_unit) / np.minimum(n, np.ceil(k / k_unit))) for n in pieces]
        tiles_k = np.stack([even, *(np.minimum(np.minimum(n, k), most_k) for n in fewer)])
        fits = fits & np.stack([(tiles_k[i] != tiles_k[:i]).all(axis=0) for i in range(len(tiles_k))])
    elif (q.loops[:, row].prod(axis=0) <= SMALL**2).all():
        tiles_k = np.stack([even, most_k, np.maximum(np.ceil(k / np.ceil(k / raw)), k_unit), raw])
        other = [(tiles_k[i] != tiles_k[:i]).all(axis=0) for i in range(len(tiles_k))]
        fits = fits & np.stack(other)
    if filters is not None:
        tiles_k, fits = filters[None], np.ones((1, *filters.shape), dtype=bool)
    count_k = np.zeros_like(tiles_k)
    for i in range(state.sizes.shape[-1]):
        count_k += state.counts[K, :, i][:, None, None] * np.ceil(state.sizes[K, :, i][:, None, None] / tiles_k)
    return _choose(
        q,
        state,
        store,
        keep,
        _Cut(
            pixels,
            window,
            tiles_k,
            count_a,
            count_b,
            count_k,
            all_a,
            all_b,
            same_a,
            same_b,
            tiles_k >= k,
            still,
            walks,
            walking,
            over_window,
            fits,
        ),
        registers,
    )


def _fresh(tiles: Array) -> Bools:
    """Which tiles [3, row, tile] are not the one before once more."""
    fresh = np.ones(tiles.shape[1:], dtype=bool)
    fresh[:, 1:] = np.logical_or.reduce(tiles[:, :, 1:] != tiles[:, :, :-1])
    return fresh


def _least(tile: Array, outer: Array, unit: Array) -> Bools:
    """Which tiles [3, row, tile] are what the array works on at once, and no more."""
    return np.logical_and.reduce(tile <= np.minimum(unit, outer)[:, :, None])


def _cut(sizes: Array, counts: Array, tile: Array) -> Array:
    """How many tiles of `tile` [.., row, candidate] the loops [.., row, kinds] are cut into."""
    out = counts[..., 0, None] * np.ceil(sizes[..., 0, None] / tile)
    for i in range(1, sizes.shape[-1]):
        out = out + counts[..., i, None] * np.ceil(sizes[..., i, None] / tile)
    return out


def _spans(q: Problems, row: Ints, state: State, axis: int, tile: Array, count: Array) -> tuple[Array, Array, Array]:
    """Rows (axis 0) or columns of X: (a, b, c), all M tiles of pixel rows together touch a extent + b M - c of them."""
    loop = R + axis
    whole = count <= 1
    s = q.strides[axis, row][:, None]

    def over(size: Array) -> tuple[Array, Array]:
        return np.minimum(size, s), np.maximum(size - s, 0.0)

    scale, margin = q.scale[axis, row][:, None], q.margin[axis, row][:, None]
    excess = scale * q.loops[P + axis, row][:, None] + margin - q.limit[axis, row][:, None]
    a, b = np.zeros_like(tile), np.zeros_like(tile)
    for i in range(state.sizes.shape[-1]):
        size, times = state.sizes[loop, :, i, None], state.counts[loop, :, i, None]
        full = np.floor(size / tile)
        rest = size - full * tile
        for part, n in ((tile, times * full), (rest, times * (rest > 0))):
            one = over(part)
            a, b = a + n * one[0], b + n * one[1]
    return np.where(whole, scale, a), np.where(whole, margin, b), np.where(whole, excess, 0.0)


@dataclass(frozen=True)
class _Cut:
    """All tiles of a level: of pixels [.., row, a], the window [.., row, b], filters [2, row, a, b]."""

    pixels: Array
    window: Array
    filters: Array
    count_a: Array
    count_b: Array
    count_k: Array
    all_a: Array
    all_b: Array
    same_a: Bools
    same_b: Bools
    same_k: Bools
    still: Array  # elements of X under all tiles, [row, a, b]
    walks: tuple[Array, ...]  # the same, but of tiles that walk over P, Q, R, S only what is new
    walking: Array  # over pixels, down or across
    over_window: Array
    fits: Bools


def _choose(q: Problems, state: State, store: Store, keep: int, cut: _Cut, registers: Registers | None) -> State:
    """The cheapest tiles in each of the three orders, `keep` of each order and problem."""
    row = state.problem
    first = q.window_first[row][:, None, None]
    a, b = cut.all_a[:, :, None], cut.all_b[:, None, :]
    a_outer, b_outer = (state.tiles[part].prod(axis=0)[:, None, None] for part in (PIXELS, WINDOW))
    k_outer = state.tiles[K][:, None, None]
    same_a, same_b = cut.same_a[:, :, None], cut.same_b[:, None, :]
    visits = [v[:, None, None] for v in state.visits]
    volume_y, volume_z = volumes(q, row)
    # [x, y, sums]: visits if the operand stays, and if it does not
    one, two = np.where(first, b, a), np.where(first, a, b)
    same_1, same_r = np.where(first, same_b, same_a), np.where(first, same_a, same_b)
    one_outer, two_outer = np.where(first, b_outer, a_outer), np.where(first, a_outer, b_outer)
    kept = same_a & same_b, cut.same_k & same_r, cut.same_k & same_1
    stays = [np.where(kept[i], visits[i], v) for i, v in enumerate((k_outer, one_outer, two_outer))]
    passes = [np.where(kept[i], visits[i], v) for i, v in enumerate((cut.count_k, one, two))]
    came = [[stays[o] if o == n else passes[o] for o in range(3)] for n in range(3)]
    # what X walks over: pixels innermost those, the window innermost that, unless they do not turn
    by_pixels, by_window = (
        np.where(same_a, cut.over_window, cut.walking),
        np.where(same_b, cut.walking, cut.over_window),
    )
    under = [
        np.minimum(cut.walking, cut.over_window),
        np.where(first, by_window, by_pixels),
        np.where(first, by_pixels, by_window),
    ]
    if store.order is not None:
        given, walked = _in_order(q, row, state, cut, store.order[:, row])
        came.append([np.where(kept[o], visits[o], given[o]) for o in range(3)])
        under.append(walked)
    each = range(len(came))
    x_words = [np.where(kept[0], state.x_words[:, None, None], came[i][0] * under[i]) for i in each]
    y_words = [came[i][1] * volume_y for i in each]
    spills = [(came[i][2] - 1) * volume_z for i in each]
    bits = [w[row][:, None, None] for w in (q.x, q.y, q.z, q.acc)]
    costs = (
        np.stack(
            [
                x_words[i] * bits[0] * store.inward[0]
                + y_words[i] * bits[1] * store.inward[1]
                + volume_z * bits[2] * store.outward[2]
                + spills[i] * bits[3] * (store.inward[2] + store.outward[2])
                for i in each
            ]
        )
        + state.cost[:, None, None]
    )
    ranks = costs
    if registers is None and any(
        store.passing
    ):  # what goes past stays over the tiles only if it is kept whole further in
        room = store.room[:, row][:, :, None, None]
        size_a, size_b = cut.pixels.prod(axis=0)[:, :, None], cut.window.prod(axis=0)[:, None, :]
        size_1, size_r = np.where(first, size_b, size_a), np.where(first, size_a, size_b)
        fit = size_a * size_b <= room[0], cut.filters * size_r <= room[1], cut.filters * size_1 <= room[2]
        alike = [np.broadcast_to(a, cut.fits.shape) for a in (cut.count_k, one, two)]
        past = [[np.where(fit[o], came[i][o], alike[o]) for o in range(3)] for i in each]
        ranks = costs + np.stack(
            [
                past[i][0] * cut.walking * bits[0] * store.passing[0]
                + past[i][1] * volume_y * bits[1] * store.passing[1]
                + (past[i][2] - 1) * volume_z * bits[3] * 2 * store.passing[2]
                for i in each
            ]
        )
    if registers is not None:
        ranks = ranks + _edge(q, row, cut, (one, cut.count_k, two), came, registers, bits)
    alone = same_a & same_b & cut.same_k  # nothing turns: one order
    if store.stays is None and store.order is None:
        ranks[1:] = np.where(alone, np.inf, ranks[1:])
    else:
        ranks = np.where(_allowed(store, row, came, stays, ranks.shape), ranks, np.inf)
    # of equals the larger tile; [order, variant, row, a, b]
    share = (
        cut.pixels.prod(axis=0)[:, :, None]
        * cut.window.prod(axis=0)[:, None, :]
        * cut.filters
        / state.tile.prod(axis=0)[:, None, None]
    )
    ranks = np.where(cut.fits, ranks * (1 + 1e-9 * (1 - share)), np.inf)
    order, variant, at, i, j = _cheapest(ranks, row, keep)
    here = order, variant, at, i, j

    def pick(options: list[Array] | tuple[Array, ...]) -> Array:
        return np.stack([np.broadcast_to(o, costs.shape[1:]) for o in options])[here]

    tile = np.stack([*cut.pixels[:, at, i], *cut.window[:, at, j], cut.filters[variant, at, i, j]])
    tiles = np.stack([*cut.count_a[:, at, i], *cut.count_b[:, at, j], cut.count_k[variant, at, i, j]])
    x = pick(x_words)
    v = np.stack([pick([came[n][o] for n in each]) for o in range(3)])
    moved = np.stack([x, pick(y_words), np.broadcast_to(volume_z[:, 0, 0], row.shape)[at], pick(spills)])
    sizes, counts = state.sizes[:, at], state.counts[:, at]
    full = np.floor(sizes / tile[:, :, None])
    rest = sizes - full * tile[:, :, None]
    sizes = np.concatenate([np.broadcast_to(tile[:, :, None], rest.shape), np.where(rest > 0, rest, 1.0)], axis=2)
    counts = np.concatenate([counts * full, counts * (rest > 0)], axis=2)
    return State(
        row[at],
        tile,
        sizes,
        counts,
        tiles,
        x,
        v,
        (*(m[:, at] for m in state.moved), moved),
        (*(c[:, at] for c in state.chosen), np.concatenate([tile, order[None]])),
        costs[here],
        ranks[here],
        at,
    )


def _in_order(q: Problems, row: Ints, state: State, cut: _Cut, place: Array) -> tuple[list[Array], Array]:
    """Visits of X, Y and sums in an order of loops (`place` [7, row]: 0 outermost), and the elements of X under tiles.

    An operand comes again with every turn of a loop outside the innermost one that turns and that it depends on.
    """
    outer = state.tile[:, :, None, None]
    tile = [*cut.pixels[:, :, :, None], *cut.window[:, :, None, :], cut.filters]
    count = [*cut.count_a[:, :, :, None], *cut.count_b[:, :, None, :], cut.count_k]
    at = place[:, :, None, None]
    turning = [np.where(tile[i] < outer[i], at[i], -1.0) for i in range(7)]
    first = q.window_first[row][:, None, None]
    of_pixels, of_window = (np.maximum.reduce(np.broadcast_arrays(*turning[part])) for part in (PIXELS, WINDOW))
    of_pixels, of_window = np.broadcast_arrays(of_pixels, of_window)
    one, red = np.where(first, of_window, of_pixels), np.where(first, of_pixels, of_window)
    last = np.maximum(one, red), np.maximum(turning[K], red), np.maximum(turning[K], one)

    def turns(loops: Any, innermost: Array) -> Array:
        whole = [np.where(at[i] < innermost, count[i], state.tiles[i][:, None, None]) for i in loops]
        return np.prod(np.broadcast_arrays(*whole), axis=0)

    pixels, window = range(3), range(3, 6)
    visits = [
        turns((K,), last[0]),
        np.where(first, turns(window, last[1]), turns(pixels, last[1])),
        np.where(first, turns(pixels, last[2]), turns(window, last[2])),
    ]
    under = np.broadcast_to(cut.still, last[0].shape)
    for loop, walk in zip((P, Q, R, S), cut.walks, strict=True):
        under = np.where((last[0] == at[loop]) & (last[0] >= 0), walk, under)
    return visits, under


def _allowed(store: Store, row: Ints, came: list[list[Array]], stays: list[Array], shape: tuple[int, ...]) -> Bools:
    """Which orders the accelerator's dataflow allows: the one it gives, or those in which an operand stays."""
    allowed = np.ones(shape, dtype=bool)
    if store.order is not None:
        given = (store.order[0, row] >= 0)[:, None, None]
        allowed[:3] &= ~given
        allowed[3] &= given
    if store.stays is not None:
        for o in range(3):
            must = (store.stays[row] == o)[:, None, None]
            for n in range(3):
                allowed[n] &= ~must | (came[n][o] <= stays[o])
    return allowed


def _edge(
    q: Problems,
    row: Ints,
    cut: _Cut,
    tiles: tuple[Array, Array, Array],
    visits: list[list[Array]],
    registers: Registers,
    bits: list[Array],
) -> Array:
    """About what the array takes from tiles in each order, pJ: an even split of registers for each operand that stays.

    `visits`: of each order, how often the tiles of X, Y and sums come.
    """
    first = q.window_first[row][:, None, None]
    unit = np.maximum(q.unit[:, row], 1).astype(float)
    a, b = (
        whole_steps(whole_steps(tiles, unit[loops, :, None]).prod(axis=0), q.merged[i, row][:, None])
        for i, (tiles, loops) in enumerate(((cut.pixels, PIXELS), (cut.window, WINDOW)))
    )
    a, b = a[:, :, None], b[:, None, :]
    n1, nr, n2 = np.where(first, b, a), np.where(first, a, b), np.ceil(cut.filters / unit[K, :, None, None])
    one, two, red = tiles
    wx, wy, wz = (np.maximum(np.floor(w), 1.0)[:, None, None] for w in registers.words[:, row])
    volume_y, volume_z = volumes(q, row)
    volume_x = q.loops[:K, row].prod(axis=0)[:, None, None]
    each = (  # pJ of moving every element of an operand once
        volume_x * bits[0] * registers.inward[0],
        volume_y * bits[1] * registers.inward[1],
        volume_z * bits[3] * (registers.inward[2] + registers.outward[2]),
    )
    # what the registers keep of a whole tile comes as often as the tile does
    whole = n1 * nr <= wx, n2 * nr <= wy, n1 * n2 <= wz
    once = [[np.where(whole[o], came[o] - (o == 2), 0.0) * each[o] for o in range(3)] for came in visits]
    kept = np.stack([sum(once[i], np.zeros(cut.filters.shape)) for i in range(len(visits))])
    x, y, z = (np.where(w, 0.0, e * tile) for w, e, tile in zip(whole, each, (two, one, red), strict=True))
    best = np.full(cut.filters.shape, np.inf)
    for w, (n, m) in ((wz, (n2, n1)), (wy, (n2, nr)), (wx, (nr, n1))):
        s = np.minimum(n, np.maximum(np.floor(np.sqrt(w)), np.floor(w / m)))
        t = np.minimum(m, np.maximum(np.floor(w / s), 1.0))
        if w is wz:
            times: tuple[Any, ...] = np.ceil(n2 / s), np.ceil(n1 / np.where(wy >= s, t, 1.0)), 1.0
        elif w is wy:
            times = np.ceil(n2 / np.where(wx >= t, s, 1.0)), 1.0, np.ceil(nr / t)
        else:
            times = 1.0, np.ceil(n1 / np.where(wy >= s, t, 1.0)), np.ceil(nr / s)
        cost = x * times[0] + y * times[1] + z * times[2]
        if registers.stays is not None:  # what must stay comes once
            for o, turns in enumerate(times):
                must = (registers.stays[row] == o)[:, None, None]
                cost = np.where(must & ~whole[o] & (turns > 1), np.inf, cost)
        best = np.minimum(best, cost)
    return kept + best


def _cheapest(costs: Array, problem: Ints, keep: int) -> tuple[Ints, ...]:
    """Indices of the `keep` cheapest of each order (axis 0) and problem (rows, axis 2, one after another)."""
    order, variant, rows, a, b = costs.shape
    flat = np.moveaxis(costs, 2, 1).reshape(order, rows, -1)  # [order, row, variant a b]
    few = min(keep, flat.shape[-1])
    near = np.argpartition(flat, few - 1, axis=-1)[..., :few]
    found = np.take_along_axis(flat, near, -1).reshape(-1)
    o, at = (
        g.reshape(-1)
        for g in np.broadcast_arrays(np.arange(order)[:, None, None], np.arange(rows)[None, :, None], near)[:2]
    )
    near = near.reshape(-1)
    sort = np.lexsort((found, o, problem[at]))
    key = problem[at[sort]] * order + o[sort]
    start = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    rank = np.arange(key.size) - np.repeat(start, np.diff(np.r_[start, key.size]))
    chosen = sort[(rank < keep) & np.isfinite(found[sort])]
    v, i, j = np.unravel_index(near[chosen], (variant, a, b))
    return o[chosen], v, at[chosen], i, j


def first_rows(problem: Ints, *keys: Array, keep: Any = 1) -> Ints:
    """The `keep` rows of each problem with the least keys, in order of the problems."""
    sort = np.lexsort((*keys[::-1], problem))
    start = np.flatnonzero(np.r_[True, problem[sort][1:] != problem[sort][:-1]])
    rank = np.arange(problem.size) - np.repeat(start, np.diff(np.r_[start, problem.size]))
    return sort[rank < (keep[sort] if isinstance(keep, np.ndarray) else keep)]
