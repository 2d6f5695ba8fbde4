"""The results of a grid, from the run folders of its cells alone: page, figures, and the table in five formats.

Nothing here depends on when, in which order or by how many workers the cells were run, so the files of a grid that
was killed and started again are those of an undisturbed one, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ebsim.files import write_atomic
from ebsim.grid.state import DONE, FAILED, GridState
from ebsim.report import Table, load_run, to_markdown
from ebsim.report.comparison import lines_page, table
from ebsim.report.comparison.aggregate import Baseline, Member, lines
from ebsim.report.comparison.page import Shown
from ebsim.report.display.latex_table import latex_files
from ebsim.report.display.table import Column
from ebsim.report.display.text import as_typed, csv, markdown
from ebsim.report.display.value import counted

SEED = "seed"


def members(grid_state: GridState) -> list[Member]:
    """The finished cells of a grid, in its order. Raises `DamagedError` for a run that does not hold."""
    out = []
    for cell in grid_state.cells(DONE):
        settings = {key: value for key, value in cell.settings.items() if key != SEED}
        out.append(Member(settings, cell.experiment.seed, load_run(grid_state.runs[cell.number])))
    return out


def finish(grid_state: GridState, baseline: Baseline = "dense", *, for_paper: bool = False) -> Table | None:
    """Write the table and the figures into the grid's folder; None where no cell is done.

    for_paper: each figure as PDF and PGF too.
    """
    found = members(grid_state)
    if not found:
        return None
    every = lines(found)
    entries = table.entries(every, baseline)
    final = table.table(entries, table.caption([member.run for member in found]), baseline, notes(grid_state, found))
    cells = _cells(grid_state, found)
    page = lines_page.build(
        grid_state.grid.name,
        f"Grid of {counted(len(grid_state.grid.cells), 'cell')}: {_axes(grid_state)}",
        f"MODELLED on {', '.join(dict.fromkeys(member.run.hardware for member in found))}, not measured",
        entries,
        {key: values for key, values in grid_state.grid.axes.items() if key != SEED},
        final,
        _links(grid_state),
        members=found,
        for_paper=for_paper,
    )
    contents: dict[str, bytes | str] = {
        "table.md": _page(grid_state, final, sorted(name for name in page if name.endswith(".svg"))),
        "table.csv": csv(*table.records(entries)),
        **latex_files([final]),
        "table.json": json.dumps(table.as_json(entries), indent=1, allow_nan=False) + "\n",
        "cells.csv": csv(*cells),
        **page,
    }
    for name, content in contents.items():
        write_atomic(grid_state.folder / name, content)
    return final


def notes(grid_state: GridState, found: Sequence[Member]) -> list[str]:
    """What a reader must know beyond the lines: cells that are missing, and cells that were run differently."""
    out = []
    failed = grid_state.cells(FAILED)
    if failed:
        out.append(f"{len(failed)} of {len(grid_state.grid.cells)} cells failed and are left out: "
                   + "; ".join(cell.label for cell in failed) + ".")  # fmt: skip
    if missing := len(grid_state.grid.cells) - len(found) - len(failed):
        out.append(f"{missing} of {len(grid_state.grid.cells)} cells have not been run.")
    return out + table.made_differently([member.run for member in found])


def _axes(grid_state: GridState) -> str:
    return "; ".join(f"{key} = {', '.join(map(as_typed, values))}" for key, values in grid_state.grid.axes.items())


def _links(grid_state: GridState) -> Shown:
    """The cells with their settings and where each stands; a finished one leads to its own page."""
    cells = grid_state.grid.cells
    keys = list(grid_state.grid.axes)
    columns = [
        Column("Cell", tuple((str(cell.number),) for cell in cells)),
        *(Column(key, tuple((as_typed(cell.settings[key]),) for cell in cells), numeric=False) for key in keys),
        Column("State", tuple((grid_state.states[cell.number],) for cell in cells), numeric=False),
    ]
    done = {cell.number for cell in grid_state.cells(DONE)}
    links = tuple(
        f"../../{quote(grid_state.runs[cell.number].name)}/report.html" if cell.number in done else "" for cell in cells
    )
    return Shown(Table("cells", "The cells of the grid", tuple(columns)), links, folded=len(cells) > 40)


def _page(grid_state: GridState, final: Table, drawn: Sequence[str]) -> str:
    figure_lines = "".join(f"\n![{Path(name).stem}]({name})\n" for name in drawn)
    grid = grid_state.grid
    head = f"# {markdown(grid.name)}\n\n{markdown(final.caption)}\n\nGrid of {counted(len(grid.cells), 'cell')}: "
    return f"{head}{markdown(_axes(grid_state))}\n\n{to_markdown(final)}{figure_lines}"


def _cells(grid_state: GridState, found: Sequence[Member]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Every row of every cell as it is, for plots of one's own."""
    axes = [key for key in grid_state.grid.axes if key != SEED]
    fields = ("method", "label", "ratio", "search_precision", "retrain_precision", "epoch_drawn", "accuracy",
              "best_accuracy", "parameters", "macs", "train_flops", "saving_vs_dense")  # fmt: skip
    header = ("run", SEED, *(f"axis {key}" for key in axes), *fields, "joules")
    rows: list[tuple[Any, ...]] = [
        (member.run.path.name, member.seed, *(as_typed(member.settings[key]) for key in axes),
         *(getattr(row, key) for key in fields), row.energy.joules)
        for member in found
        for row in member.run.rows
    ]  # fmt: skip
    return header, rows
