r"""A `Table` as booktabs tabulars that fit a given width, and its numbers as macros.

A table that is too wide is set in panels under each other, each with the columns that tell rows apart; with
`drop=True` its least important columns are left out instead, and a comment names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ebsim.report.display.latex import breakable, escape, number, width
from ebsim.report.display.table import Column, Table, flat
from ebsim.report.display.text import plain

FULL, COLUMN = 345.0, 220.0
"""Points: the text width of LaTeX's article class, and one of its two columns on A4 (IEEE's and ICML's are wider)."""
_GAP = 6.0  # 2 x \tabcolsep
_WORD = 0.3  # of the width: a longer word of a text is broken


def to_latex(table: Table, limit: float = FULL, *, drop: bool = False) -> str:
    r"""Booktabs tabulars, at most `limit` points wide, to `\input` into a paper."""
    columns, keys = list(table.columns), key_columns(table)
    dropped: list[Column] = []
    while drop and _needed(columns, limit) > limit and any(column.priority for column in columns):
        dropped.append(max(columns, key=lambda column: column.priority))
        columns.remove(dropped[-1])
    head = [f"% {escape(table.caption)}", rf"% Needs \usepackage{{booktabs}}; at most {limit:.0f} pt wide."]
    if dropped:
        head.append("% Left out to fit this width: " + ", ".join(escape(column.heading) for column in dropped) + ".")
    head += [f"% {escape(flat(note))}" for note in table.notes]
    panels = _panels([c for c in columns if c in keys], [c for c in columns if c not in keys], limit)
    body = "\n\\par\\medskip\\noindent\n".join(_tabular(panel, limit) for panel in panels)
    return "\n".join([*head, r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}\noindent", body, r"\endgroup", ""])


def latex_files(tables: Sequence[Table]) -> dict[str, str]:
    """{file name: text}: each table for the full width and for one column of two, and the macros of all numbers."""
    out = {f"{table.name}.tex": to_latex(table) for table in tables}
    out |= {f"{table.name}-column.tex": to_latex(table, COLUMN, drop=True) for table in tables}
    return {**out, "macros.tex": to_macros(tables)}


def key_columns(table: Table) -> list[Column]:
    """The columns that tell rows apart: those marked so, or else the first one."""
    return [column for column in table.columns if column.key] or list(table.columns[:1])


def _panels(keys: list[Column], rest: list[Column], limit: float) -> list[list[Column]]:
    panels = [list(keys)]
    for column in rest:
        if len(panels[-1]) > len(keys) and _needed([*panels[-1], column], limit) > limit:
            panels.append(list(keys))
        panels[-1].append(column)
    return panels


def _least(column: Column, limit: float) -> float:
    """A number is never broken; of a text or a heading, a word that takes more than `_WORD` of the width is."""
    cells = [flat(cell) for cell in column.cells]
    words = plain(column.heading).split() + [w for cell in cells for w in plain(cell).split() if not column.numeric]
    wholes = [width(cell) for cell in cells if column.numeric]
    return max([*wholes, *(min(width(word), _WORD * limit) for word in words)], default=0.0)


def _needed(columns: Sequence[Column], limit: float) -> float:
    return sum(_least(column, limit) for column in columns) + _GAP * (len(columns) - 1)


def _tabular(columns: Sequence[Column], limit: float) -> str:
    widths = [_least(column, limit) for column in columns]
    spare = limit - _needed(columns, limit)
    boxed = []
    for place, column in enumerate(columns):  # what is left goes to the texts, the first ones first
        wish = max((width(flat(cell)) for cell in column.cells), default=0.0)
        more = max(0.0, min(wish - widths[place], spare))
        widths[place], spare = widths[place] + more, spare - more
        boxed.append(not column.numeric and wish > widths[place] + 0.01)
    kinds = [
        f"p{{{wide:.1f}pt}}" if box else "r" if column.numeric else "l"
        for column, wide, box in zip(columns, widths, boxed, strict=True)
    ]
    heads = " & ".join(_heading(column, wide) for column, wide in zip(columns, widths, strict=True))
    lines = []
    for row in zip(*(column.cells for column in columns), strict=True):
        cells = [
            rf"\raggedright {breakable(flat(cell), wide)}"
            if box
            else (number if column.numeric else escape)(flat(cell))
            for cell, column, wide, box in zip(row, columns, widths, boxed, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \tabularnewline")
    return "\n".join(
        [
            rf"\begin{{tabular}}{{@{{}}{''.join(kinds)}@{{}}}}",
            r"\toprule",
            heads + r" \tabularnewline",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _heading(column: Column, wide: float) -> str:
    """Its words in as many lines as the column's width asks for, standing on the rule."""
    if any(width(word) > wide for word in plain(column.heading).split()):
        side = r"\raggedleft" if column.numeric else r"\raggedright"
        return rf"\parbox[b]{{{wide:.1f}pt}}{{{side}\hspace{{0pt}}{breakable(column.heading, wide)}}}"
    lines = [""]
    for word in plain(column.heading).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width(longer) > wide:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) == 1:
        return escape(lines[0])
    side = "r" if column.numeric else "l"
    return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}" + r"\\ ".join(map(escape, lines)) + r"\end{tabular}"


MACROS = r"""% Every number of the tables, by name. After \input{macros}, \ebsim{KEY} is the number as its table has it
% and \ebsimunit{KEY} its unit; a key that does not exist is an error, so a paper cannot keep a number that went away.
\makeatletter
\providecommand{\ebsim}[1]{\@ifundefined{ebsim@#1}{\PackageError{ebsim}{There is no number #1}{%
  Look into macros.tex for the names.}}{\csname ebsim@#1\endcsname}}
\providecommand{\ebsimunit}[1]{\@ifundefined{ebsimunit@#1}{\PackageError{ebsim}{There is no number #1}{%
  Look into macros.tex for the names.}}{\csname ebsimunit@#1\endcsname}}
\def\ebsim@def#1#2#3{\@namedef{ebsim@#1}{#2}\@namedef{ebsimunit@#1}{#3}}
"""


def to_macros(tables: Iterable[Table]) -> str:
    r"""LaTeX macros of all numbers: `\ebsim{results/eb-train-0.5/accuracy}` prints 98.89, `\ebsimunit` of it \%."""
    lines: dict[str, str] = {}
    for table in tables:
        keys = key_columns(table)
        names = _unique(" ".join(flat(cell) for cell in row) for row in zip(*(k.cells for k in keys), strict=True))
        own = [column for column in table.columns if column not in keys and column.numeric]
        heads = _unique(_unit(column.heading)[0] for column in own)
        for column, head in zip(own, heads, strict=True):
            for name, cell in zip(names, column.cells, strict=True):
                key = f"{slug(table.name)}/{name}/{head}"
                lines[key] = rf"\ebsim@def{{{key}}}{{{number(flat(cell))}}}{{{escape(_unit(column.heading)[1])}}}"
    return MACROS + "\n".join(lines.values()) + "\n\\makeatother\n"


def slug(text: object) -> str:
    """Lower-case ASCII letters, digits, full stops and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", plain(text).lower()).strip("-.") or "x"


def _unique(names: Iterable[str]) -> list[str]:
    out: list[str] = []
    for name in map(slug, names):
        taken, again = name, 2
        while taken in out:
            taken, again = f"{name}-{again}", again + 1
        out.append(taken)
    return out


def _unit(heading: str) -> tuple[str, str]:
    """A heading without its unit, and the unit."""
    found = re.fullmatch(r"(.*\S) \(([^()]+)\)", plain(heading))
    return (found[1], found[2]) if found else (heading, "")
