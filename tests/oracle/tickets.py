"""Masks and emergence written as slowly and plainly as their definitions read; shares no code with ebsim."""

from __future__ import annotations


def kept(gammas: list[float], ratio: float, sizes: list[int] | None = None, floor: int = 0) -> list[bool]:
    """Prune round(p*n) channels, smallest |gamma| first, of equals the first; then every layer's floor."""
    order = sorted(range(len(gammas)), key=lambda i: (abs(gammas[i]), i))
    bits = [True] * len(gammas)
    for i in order[: round(ratio * len(gammas))]:
        bits[i] = False
    start = 0
    for size in sizes or []:
        layer = range(start, start + size)
        for i in [j for j in reversed(order) if j in layer][:floor]:
            if sum(bits[j] for j in layer) < min(floor, size):
                bits[i] = True
        start += size
    return bits


def kept_by_authors(gammas: list[float], ratio: float) -> list[bool]:
    """Keep what is strictly above the sorted |gamma| at index int(n*p)."""
    threshold = sorted(abs(g) for g in gammas)[int(len(gammas) * ratio)]
    return [abs(g) > threshold for g in gammas]


def distance(a: list[bool], b: list[bool]) -> float:
    """Fraction of channels on which two masks differ."""
    return sum(x != y for x, y in zip(a, b, strict=True)) / len(a)


def paper(rows: list[list[float]], ratio: float, threshold: float, window: int, **floor) -> int | None:
    """Rows 0 (untrained), 1, 2, ... epochs; the last `window` consecutive distances all below the threshold."""
    masks = [kept(row, ratio, **floor) for row in rows]
    queue: list[float] = []
    for epoch in range(2, len(rows)):
        queue.append(distance(masks[epoch], masks[epoch - 1]))
        if len(queue) > window:
            queue.pop(0)
        if len(queue) == window and all(d < threshold for d in queue):
            return epoch
    return None


def authors(rows: list[list[float]], ratio: float, threshold: float, window: int) -> int | None:
    """Masks before each epoch, the untrained one included; the newest within the threshold of all others queued."""
    queue: list[list[bool]] = []
    for epoch, row in enumerate(rows):
        queue.append(kept_by_authors(row, ratio))
        if len(queue) > window:
            queue.pop(0)
        if len(queue) == window and all(distance(queue[-1], m) <= threshold for m in queue[:-1]):
            return epoch
    return None
