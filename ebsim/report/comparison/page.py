"""The HTML page of several runs: a grid, a comparison, or one run priced on several accelerators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebsim.report.display.html import render
from ebsim.report.display.table import Cell, Table
from ebsim.report.figures import for_paper as paper_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Shown:
    """A table of a page; `links`: where the first cell of each row leads (paths relative to the page)."""

    table: Table
    links: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class PageSection:
    anchor: str
    heading: str
    lead: tuple[Cell, ...] = ()
    tables: tuple[Shown, ...] = ()
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class PageFigure:
    """A figure of a page: its files by ending, and what a pointer over its points says."""

    name: str
    title: str
    caption: str
    files: Mapping[str, bytes]
    """{"svg": ..., "png": ..., "csv": ...}"""
    details: Mapping[str, str]
    wide: bool = True
    plot: Callable[[float], Figure] | None = None
    """Draws it again at a width in inches."""


def page(title: str, badge: str, sub: str, sections: Sequence[PageSection], page_figures: Sequence[PageFigure]) -> str:
    """The page as HTML, with its figures inline; links to their files go to `figures/` beside it."""
    content = {
        "title": title,
        "badge": badge,
        "sub": sub,
        "contents": [(section.anchor, section.heading) for section in sections],
        "sections": sections,
        "plots": {figure.name: figure for figure in page_figures},
        "wide": {figure.name for figure in page_figures if figure.wide},
    }
    return render(
        "sections.html",
        content,
        {figure.name: figure.files["svg"] for figure in page_figures},
        {figure.name: figure.title for figure in page_figures},
        {figure.name: figure.details for figure in page_figures},
    )


def files(page_figures: Sequence[PageFigure], *, for_paper: bool = False) -> dict[str, bytes]:
    """{path beside the page: bytes} of the figures; for_paper: PDF and PGF of each too, at 3.25 and 6.75 inches."""
    out = {f"figures/{d.name}.{ending}": data for d in page_figures for ending, data in d.files.items()}
    for one in page_figures if for_paper else ():
        if one.plot is not None:
            out |= {f"figures/{name}": data for name, data in paper_files(one.name, one.plot).items()}
    return out
