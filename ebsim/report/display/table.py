"""A table before it is printed: headings, and cells that keep their numbers beside their texts."""

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


def with_unit(heading: str, unit: str) -> str:
    return f"{heading} ({unit})" if unit else heading
