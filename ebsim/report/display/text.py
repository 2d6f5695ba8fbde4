"""Sanitizes free text from a run (labels, names, argv) for each place where it is displayed.

Everything that prints text taken from a file goes through one of these; HTML is left to jinja2's autoescape.
"""

from __future__ import annotations

import re
import unicodedata

# C0 and C1 controls, and the invisible marks that reorder text (bidi) or hide it (zero width).
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def plain(text: object) -> str:
    """One line of visible characters: controls, escape codes and bidi marks become spaces or go."""
    flat = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", str(text))
    flat = re.sub(r"[\t\r\n]+", " ", flat)
    return "".join(char for char in flat if unicodedata.category(char) not in _INVISIBLE)


def clip(text: object, limit: int = 36) -> str:
    """Plain text for a label in a figure, cut where it would push the figure aside."""
    flat = plain(text)
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def markdown(text: object) -> str:
    """Text for a Markdown paragraph or table cell: no markup, no HTML, no cell break."""
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", safe)
    return re.sub(r"^([-+=])", r"\\\1", safe)


def code(text: object) -> str:
    """A Markdown code span; a longer fence where the text itself has back-ticks."""
    safe = plain(text).replace("|", "¦").strip() or "–"
    runs = [len(run) for run in re.findall(r"`+", safe)]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if runs else ""
    return f"{fence}{space}{safe}{space}{fence}"


def as_typed(value: object) -> str:
    """A setting as one would type it on the command line."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def csv_cell(value: object) -> str:
    """One CSV cell: numbers as they are, text that a spreadsheet would run as a formula quoted with '."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    cell = plain(value)
    if cell.lstrip()[:1] in {"=", "+", "-", "@"}:
        cell = "'" + cell
    return '"' + cell.replace('"', '""') + '"' if re.search('[",;]', cell) else cell


def csv(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A whole CSV file, lines ended by a newline."""
    return "".join(",".join(map(csv_cell, row)) + "\n" for row in (header, *rows))
