"""A `Table` in Markdown, notes below it as a list."""

from __future__ import annotations

from collections.abc import Iterable

from ebsim.report.display.table import Table, flat
from ebsim.report.display.text import markdown


def to_markdown(table: Table) -> str:
    lines = [
        _line(markdown(column.heading) for column in table.columns),
        _line("---:" if column.numeric else ":---" for column in table.columns),
        *(_line(markdown(flat(cell)) for cell in row) for row in table.rows),
    ]
    notes = "".join(f"\n- {markdown(flat(note))}" for note in table.notes)
    return "\n".join(lines) + "\n" + (notes + "\n" if notes else "")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
