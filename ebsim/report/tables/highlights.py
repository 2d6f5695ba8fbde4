"""Selects the best rows of a run, which get a card, a waterfall and a panel of their own."""

from __future__ import annotations

from collections.abc import Sequence

from ebsim.report.tables import row_labels
from ebsim.runs.load import Run

MOST = 3


def highlights(run: Run, most: int = MOST) -> list[str]:
    """Names of the best rows, the dense baseline aside, in the order of the table; all where there are no more.

    Those that no other row beats in both accuracy and energy, spread from the cheapest to the most accurate one; where
    they are fewer than `most`, the cheapest others join them.
    """
    names = row_labels.short(run.rows)
    others = [place for place, row in enumerate(run.rows) if row is not run.dense]
    if len(others) <= most:
        return [names[place] for place in others]
    finished = [place for place in others if run.rows[place].accuracy is not None]
    finished.sort(key=lambda place: run.rows[place].energy.joules)
    points = [(run.rows[place].energy.joules, run.rows[place].accuracy or 0.0) for place in finished]
    front = [place for place, kept in zip(finished, pareto(points), strict=True) if kept]
    if len(front) > most:
        front = [front[round(number * (len(front) - 1) / (most - 1))] for number in range(most)]
    chosen = dict.fromkeys([*front, *finished])
    return [names[place] for place in sorted(list(chosen)[:most])]


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (energy, accuracy) points no other one beats: none is as cheap and as accurate and better in one."""
    return [
        not any(e <= energy and a >= accuracy and (e, a) != (energy, accuracy) for e, a in points)
        for energy, accuracy in points
    ]
