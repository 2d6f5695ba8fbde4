"""The HTML page of a grid or comparison: its lines as a table, in the accuracy-energy plane and along each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebsim.report.comparison import figures, page
from ebsim.report.comparison.aggregate import Member
from ebsim.report.comparison.page import PageSection, Shown
from ebsim.report.comparison.table import ComparedLine, name
from ebsim.report.display.table import Cell, Table, flat


def build(
    title: str,
    sub: str,
    badge: str,
    every: Sequence[ComparedLine],
    axes: Mapping[str, Sequence[Any]],
    final: Table,
    cells: Shown,
    *,
    lead: Sequence[Cell] = (),
    differing: Table | None = None,
    members: Sequence[Member] = (),
    for_paper: bool = False,
) -> dict[str, bytes]:
    """{path: bytes} of report.html and figures/.

    final: the table of the lines, one per entry. cells: the runs that it is made of, with links. differing: what tells
    the runs apart, where they are not cells of a grid. members: the runs whose mask distances are shown. for_paper:
    each figure as PDF and PGF too.
    """
    drawn = figures.page_figures(every, axes, told(every, final), members)
    charts = tuple(figure.name for figure in drawn if figure.name not in ("accuracy_energy", "mask_maps"))
    maps = tuple(figure.name for figure in drawn if figure.name == "mask_maps")
    sections = [
        PageSection("lines", "Results", tuple(lead), (Shown(final),)),
        PageSection("plane", "Accuracy and energy", (), (), ("accuracy_energy",) if drawn else ()),
        *([PageSection("axes", "Along each axis", (), (), charts)] if charts else []),
        *([PageSection("masks", "How the tickets emerged", (), (), maps)] if maps else []),
        *([PageSection("differing", "What differs", (), (Shown(differing),))] if differing is not None else []),
        PageSection("runs", "Runs", (("Each run has a page of its own.",),), (cells,)),
    ]
    html = page.page(title, badge, sub, sections, drawn)
    return {"report.html": html.encode(), **page.files(drawn, for_paper=for_paper)}


def told(every: Sequence[ComparedLine], final: Table) -> dict[str, str]:
    """Line -> its name and every number of its row, for the pointer over its point."""
    them = [entry.line for entry in every]
    finished = [line for line in them if line.finished]
    out = {}
    for number, line in enumerate(them):
        if line.finished:
            numbers = (f"{c.heading} {flat(c.cells[number])}" for c in final.columns if not c.key)
            out[name(line, finished)] = "; ".join([name(line, finished), *numbers])
    return out
