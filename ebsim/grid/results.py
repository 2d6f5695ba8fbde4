"""What a grid ends in, from the run folders of its cells alone: the table in five formats, and the figures.

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
from ebsim.grid.state import DONE, FAILED, Board
from ebsim.report import Table, load_run, to_markdown
from ebsim.report.comparison import lines_page, table
from ebsim.report.comparison.aggregate import Baseline, Member, lines
from ebsim.report.comparison.page import Shown
from ebsim.report.display.latex_table import latex_files
from ebsim.report.display.table import Column
from ebsim.report.display.text import as_typed, csv, markdown

SEED = "seed"


def members(board: Board) -> list[Member]:
    """The finished cells of a grid, in its order. Raises `DamagedError` for a run that does not hold."""
    out = []
    for cell in board.cells(DONE):
        settings = {key: value for key, value in cell.settings.items() if key != SEED}
        out.append(Member(settings, cell.experiment.seed, load_run(board.runs[cell.number])))
    return out


def finish(board: Board, baseline: Baseline = "dense") -> Table | None:
    """Write the table and the figures into the grid's folder; None where no cell is done."""
    found = members(board)
    if not found:
        return None
    every = lines(found)
    entries = table.entries(every, baseline)
    final = table.table(entries, table.caption([member.run for member in found]), baseline, notes(board, found))
    cells = _cells(board, found)
    page = lines_page.build(
        board.grid.name,
        f"Grid of {len(board.grid.cells)} cells: {_axes(board)}",
        f"MODELLED on {', '.join(dict.fromkeys(member.run.hardware for member in found))}, not measured",
        entries,
        {key: values for key, values in board.grid.axes.items() if key != SEED},
        final,
        _links(board),
    )
    contents: dict[str, bytes | str] = {
        "table.md": _page(board, final, sorted(name for name in page if name.endswith(".svg"))),
        "table.csv": csv(*table.records(entries)),
        **latex_files([final]),
        "table.json": json.dumps(table.as_json(entries), indent=1, allow_nan=False) + "\n",
        "cells.csv": csv(*cells),
        **page,
    }
    for name, content in contents.items():
        write_atomic(board.folder / name, content)
    return final


def notes(board: Board, found: Sequence[Member]) -> list[str]:
    """What a reader must know beyond the lines: cells that are missing, and cells that were run differently."""
    out = []
    failed = board.cells(FAILED)
    if failed:
        out.append(f"{len(failed)} of {len(board.grid.cells)} cells failed and are left out: "
                   + "; ".join(cell.label for cell in failed) + ".")  # fmt: skip
    if missing := len(board.grid.cells) - len(found) - len(failed):
        out.append(f"{missing} of {len(board.grid.cells)} cells have not been run.")
    return out + table.made_differently([member.run for member in found])


def _axes(board: Board) -> str:
    return "; ".join(f"{key} = {', '.join(map(as_typed, values))}" for key, values in board.grid.axes.items())


def _links(board: Board) -> Shown:
    """The cells with their settings and where each stands; a finished one leads to its own page."""
    cells = board.grid.cells
    keys = list(board.grid.axes)
    columns = [
        Column("Cell", tuple((str(cell.number),) for cell in cells)),
        *(Column(key, tuple((as_typed(cell.settings[key]),) for cell in cells), numeric=False) for key in keys),
        Column("State", tuple((board.states[cell.number],) for cell in cells), numeric=False),
    ]
    done = {cell.number for cell in board.cells(DONE)}
    links = tuple(
        f"../../{quote(board.runs[cell.number].name)}/report.html" if cell.number in done else "" for cell in cells
    )
    return Shown(Table("cells", "The cells of the grid", tuple(columns)), links, folded=len(cells) > 40)


def _page(board: Board, final: Table, drawn: Sequence[str]) -> str:
    figure_lines = "".join(f"\n![{Path(name).stem}]({name})\n" for name in drawn)
    head = f"# {markdown(board.grid.name)}\n\n{markdown(final.caption)}\n\nGrid of {len(board.grid.cells)} cells: "
    return f"{head}{markdown(_axes(board))}\n\n{to_markdown(final)}{figure_lines}"


def _cells(board: Board, found: Sequence[Member]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Every row of every cell as it is, for plots of one's own."""
    axes = [key for key in board.grid.axes if key != SEED]
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
