"""Renders a `Table` in a terminal without ever cutting a number.

In `width` characters the least important columns (the highest `priority`) go first and are named below the table; where
the columns that always stay do not fit either, each row becomes a block of its own with all of its columns.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ebsim.report.display.table import Column, Table, flat
from ebsim.report.display.text import plain

if TYPE_CHECKING:
    from rich.console import Group

_GAP = 2
_WORD = 18
"""Characters of a word that are kept together in a text; a number is always kept together."""
_NAME = 32
"""The same in a column of names."""


def terminal(table: Table, width: int) -> Group:
    """For `rich.console.Console.print`; data is text, never markup or escape codes."""
    from rich.console import Group
    from rich.text import Text

    lines, left_out = as_lines(table, width)
    notes = [line for note in table.notes for line in _fold(flat(note), width)]
    if left_out:
        names = ", ".join(plain(column.heading) for column in left_out)
        notes += _fold(f"Not shown in {width} characters: {names}.", width)
    caption = Text("\n".join(_fold(table.caption, width)), style="bold")
    below = [*(Text(line, style="dim") for line in notes), *([Text("")] if notes else [])]
    parts = [caption, Text("\n".join(["", *lines, ""])), *below]
    return Group(*parts)


def print_table(table: Table) -> None:
    """A table on stdout, as wide as the terminal or as COLUMNS says; 100 characters into a pipe or file."""
    from rich.console import Console

    width = line_width() or 100
    Console(highlight=False, width=width).print(terminal(table, width))


def line_width() -> int | None:
    """Characters of a line on stdout; None where it is no terminal and COLUMNS does not say (a pipe or file)."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return max(20, shutil.get_terminal_size().columns)
    return None


def print_rows(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The same from texts, one sequence per row; a column of figures is set to the right."""
    columns = []
    for heading, cells in zip(headings, zip(*rows, strict=True), strict=True):
        figures = all(cell[:1].isdigit() or cell in ("", "-", "–") for cell in cells)
        columns.append(Column(heading, tuple((cell,) for cell in cells), numeric=figures))
    print_table(Table("", caption, tuple(columns)))


def as_lines(table: Table, width: int) -> tuple[list[str], list[Column]]:
    """The lines of a table at most `width` characters wide, and the columns that were left out."""
    columns = list(table.columns)
    while _needed(columns) > width and any(column.priority for column in columns):
        columns.remove(max(columns, key=lambda column: column.priority))
    if _needed(columns) > width:
        return _blocks(table, width), []
    return _grid(columns, width), [column for column in table.columns if column not in columns]


def _needed(columns: Sequence[Column]) -> int:
    return sum(map(_least, columns)) + _GAP * max(0, len(columns) - 1)


def _least(column: Column) -> int:
    """A heading wraps at its words, a number never does, a text at its words and inside of very long ones."""
    cells = [plain(flat(cell)) for cell in column.cells]
    words = [word for cell in cells for word in cell.split() if not column.numeric]
    whole = [cell for cell in cells if column.numeric] + plain(column.heading).split()
    numbers = [word for word in words if _is_number(word)]
    most = _NAME if column.key else _WORD  # a name that one copies from the table stays on one line
    short = [min(_cells(cell), most) for cell in cells]
    return max([*map(_cells, [*whole, *numbers]), *short, *(min(_cells(word), most) for word in words)], default=0)


def _is_number(word: str) -> bool:
    try:
        float(word.strip("()[],;:%").replace(",", ""))
    except ValueError:
        return False
    return True


def _grid(columns: Sequence[Column], width: int) -> list[str]:
    widths = [_least(column) for column in columns]
    spare = width - _needed(columns)
    for place, column in enumerate(columns):  # what is left goes to the texts, the first ones first
        wish = max((_cells(plain(flat(cell))) for cell in column.cells), default=0)
        more = max(0, min(wish - widths[place], spare))
        widths[place], spare = widths[place] + more, spare - more
    heads = [_fold(column.heading, wide) for column, wide in zip(columns, widths, strict=True)]
    tallest = max(map(len, heads), default=0)
    rows = [[[""] * (tallest - len(head)) + head for head in heads]]
    rows += [
        [_fold(flat(column.cells[number]), wide) for column, wide in zip(columns, widths, strict=True)]
        for number in range(len(columns[0].cells) if columns else 0)
    ]
    lines = [line for row in rows for line in _side_by_side(row, columns, widths)]
    rule = "─" * (sum(widths) + _GAP * max(0, len(widths) - 1))
    return [*lines[:tallest], rule, *lines[tallest:]]


def _side_by_side(row: Sequence[Sequence[str]], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    out = []
    for number in range(max(map(len, row), default=0)):
        pieces = []
        for lines, column, wide in zip(row, columns, widths, strict=True):
            text = lines[number] if number < len(lines) else ""
            room = " " * (wide - _cells(text))
            pieces.append(room + text if column.numeric else text + room)
        out.append((" " * _GAP).join(pieces).rstrip())
    return out


def _blocks(table: Table, width: int) -> list[str]:
    """One block per row: its first cell as a head, then a line per column."""
    first, *others = table.columns
    label = max((min(_cells(plain(column.heading)), width // 2) for column in others), default=0)
    out: list[str] = []
    for number, head in enumerate(first.cells):
        out += [*([""] if out else []), *_fold(f"{plain(first.heading)}: {plain(flat(head))}", width)]
        for column in others:
            names = _fold(column.heading, label)
            values = _fold(flat(column.cells[number]), width - label - 2 * _GAP)
            for line in range(max(len(names), len(values))):
                name = names[line] if line < len(names) else ""
                value = values[line] if line < len(values) else ""
                out.append(f"{' ' * _GAP}{name}{' ' * (label - _cells(name) + _GAP)}{value}".rstrip())
    return out


def _cells(text: str) -> int:
    """Columns of a terminal that a text takes (a Chinese character takes two)."""
    from rich.cells import cell_len

    return cell_len(text)


def _fold(text: object, width: int) -> list[str]:
    """Lines of at most `width` terminal columns: broken at spaces, and inside a word only where it is longer."""
    from rich.cells import chop_cells

    lines = [""]
    for word in plain(text).split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if _cells(longer) <= width:
            lines[-1] = longer
            continue
        pieces = chop_cells(word, max(width, 1)) if _cells(word) > width else [word]
        lines += pieces if lines[-1] else []
        if not lines[-1]:
            lines[-1:] = pieces
    return lines
