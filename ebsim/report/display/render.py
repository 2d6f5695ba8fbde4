"""One `Table`, four ways to print it: terminal (rich), Markdown, LaTeX (booktabs), and CSV from raw records."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from typing import TYPE_CHECKING

from ebsim.report.display.text import latex, markdown, plain
from ebsim.report.tables.energy import energy_split, sensitivity
from ebsim.report.tables.results import Cell, Column, Table, summary
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from rich.console import Group


def flat(cell: Cell) -> str:
    return "".join(map(str, cell))


def fit(table: Table, width: int) -> list[Column]:
    """The columns that fit in `width` characters; the least important ones go first, priority 0 always stays."""
    columns = list(table.columns)
    while sum(_width(column) + 2 for column in columns) > width and any(c.priority for c in columns):
        columns.remove(max(columns, key=lambda column: column.priority))
    return columns


def _width(column: Column) -> int:
    """A heading wraps at its words, a number never does, a name only where it is longer than 18."""
    cells = [flat(cell) for cell in column.cells]
    words = [*column.heading.split(), *(cells if column.numeric else " ".join(cells).split())]
    return max(*map(len, words), *(min(len(cell), 18) for cell in cells))


def terminal(table: Table, width: int) -> Group:
    """For `rich.console.Console.print`; data is text, never markup or escape codes."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    columns = fit(table, width)
    out = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        heading = "\n".join(wrap(column.heading, _width(column), break_long_words=False))
        out.add_column(
            Text(heading),
            justify="right" if column.numeric else "left",
            vertical="bottom",
            no_wrap=column.numeric,
            min_width=_width(column),
        )
    for number in range(len(table.rows)):
        out.add_row(*(Text(plain(flat(column.cells[number]))) for column in columns))
    notes = [Text(plain(flat(note)), style="dim") for note in table.notes]
    if len(columns) < len(table.columns):
        left_out = ", ".join(c.heading for c in table.columns if c not in columns)
        notes.append(Text(f"Not shown in {width} characters: {left_out}.", style="dim"))
    return Group(Text(plain(table.caption), style="bold"), out, *notes)


def print_summary(run: Run, *, split: bool = False) -> None:
    """The results table on stdout; `split`: then the energies by stage and component, and what the savings rest on."""
    tables = [summary(run)]
    if split:
        tables += [energy_split(run, "stage"), energy_split(run, "component")]
        tables += [found] if (found := sensitivity(run)) else []
    for table in tables:
        print_table(table)


def print_table(table: Table) -> None:
    """A table on stdout, as wide as the terminal; 100 characters into a pipe or file."""
    from rich.console import Console

    console = Console(highlight=False)
    width = console.width if console.is_terminal else max(100, console.width)
    Console(highlight=False, width=width).print(terminal(table, width))


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


def to_latex(table: Table) -> str:
    r"""A booktabs tabular to `\input` into a paper; needs \usepackage{booktabs} and nothing else."""
    align = "".join("r" if column.numeric else "l" for column in table.columns)
    body = [" & ".join(latex(column.heading) for column in table.columns)]
    rows = [" & ".join(latex(flat(cell)) for cell in row) for row in table.rows]
    notes = [f"% {latex(flat(note))}" for note in table.notes]
    return "\n".join(
        [
            f"% {latex(table.caption)}",
            *notes,
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            *(line + r" \\" for line in body),
            r"\midrule",
            *(line + r" \\" for line in rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
