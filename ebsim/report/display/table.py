"""`Table`: headings, and cells that keep their numbers beside their texts, before it is rendered anywhere."""

from __future__ import annotations

from dataclasses import dataclass

from ebsim.report.display.value import Value

Cell = tuple[Value | str, ...]
NONE = "–"


@dataclass(frozen=True)
class Column:
    """A heading and its cells.

    Where space is short the columns of the highest `priority` go first; 0 always stays. `key` columns tell rows apart,
    and are repeated where a table is set in parts.
    """

    heading: str
    cells: tuple[Cell, ...]
    numeric: bool = True
    priority: int = 0
    key: bool = False


@dataclass(frozen=True)
class Table:
    name: str
    caption: str
    columns: tuple[Column, ...]
    notes: tuple[Cell, ...] = ()

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        return list(zip(*(column.cells for column in self.columns), strict=True))


def flat(cell: Cell) -> str:
    """The text of a cell."""
    return "".join(map(str, cell))


def raw_records(table: Table) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The table for CSV: texts as they are, numbers unrounded in base units, each in a column of its own."""
    widths = [max([1, *(len(_numbers(cell)) for cell in column.cells)]) for column in table.columns]
    header = [
        heading if number == 0 else f"{heading} {number + 1}"
        for heading, width in zip((column.heading for column in table.columns), widths, strict=True)
        for number in range(width)
    ]
    rows: list[tuple[object, ...]] = []
    for row in table.rows:
        record: list[object] = []
        for cell, width in zip(row, widths, strict=True):
            found: list[object] = [*_numbers(cell)] or [None if cell == (NONE,) else flat(cell)]
            record += found + [None] * (width - len(found))
        rows.append(tuple(record))
    return tuple(header), rows


def _numbers(cell: Cell) -> list[float]:
    return [piece.raw for piece in cell if isinstance(piece, Value)]


def with_unit(heading: str, unit: str) -> str:
    return f"{heading} ({unit})" if unit else heading
