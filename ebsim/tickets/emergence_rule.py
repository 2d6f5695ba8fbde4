"""The Early-Bird rule: which mask distances are compared with the threshold, and when the ticket has emerged. No torch.

`paper` (You et al. 2020, Algorithm 1): the last `window` distances between consecutive masks, all below the threshold.
`authors` (their published code): the newest of the last `window` masks, within the threshold of each of the others.
`early_bird` applies the rule during a training.
"""

from __future__ import annotations

from collections.abc import Sequence

RULES = ("paper", "authors")


def largest_distance(rule: str, window: int, distances: Sequence[float]) -> float | None:
    """What the rule compares with its threshold: the largest distance in its window; None while that is not full.

    distances, oldest first: of each mask to the one before it (`paper`, the last `window` count), or of the newest mask
    to each older one (`authors`, the last `window - 1` count).
    """
    count = window if rule == "paper" else window - 1
    return max(distances[-count:]) if len(distances) >= count else None


def has_emerged(rule: str, largest: float | None, threshold: float) -> bool:
    """Whether the ticket has emerged: the largest distance is below the threshold, or (`authors`) equal to it."""
    return largest is not None and (largest < threshold if rule == "paper" else largest <= threshold)
