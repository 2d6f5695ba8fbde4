"""Short labels of the rows of a run: only the parts (method, ratio, precision) that tell rows apart."""

from __future__ import annotations

from collections.abc import Sequence

from ebsim.report.display.table import Column
from ebsim.report.display.text import plain
from ebsim.runs.schema import Row


def precision(row: Row) -> str:
    """`fp32`, or search and retrain apart where they differ: `fp8 → fp32`."""
    stages = [name for name in (row.search_precision, row.retrain_precision) if name]
    return " → ".join(dict.fromkeys(map(plain, stages))) or plain(row.precision)


def low_precision(row: Row) -> str:
    """`precision`, or nothing for fp32, which goes without saying."""
    found = precision(row)
    return "" if found == "fp32" else found


def ratio(row: Row) -> str:
    return "" if row.ratio is None else f"p = {row.ratio:g}"


def _parts(row: Row, rows: Sequence[Row]) -> tuple[str, str]:
    """(method, precision), each only where it tells this row from others; fp32 goes without saying."""
    several_methods = len({one.label for one in rows if one.ratio is not None}) > 1
    several_precisions = len({precision(one) for one in rows}) > 1
    method = plain(row.label) if row.ratio is None or several_methods else ""
    return method, precision(row) if several_precisions and precision(row) != "fp32" else ""


def group(row: Row, rows: Sequence[Row]) -> str:
    """The name without its ratio: what the rows of one method and precision share."""
    return ", ".join(part for part in _parts(row, rows) if part)


def short(rows: Sequence[Row]) -> list[str]:
    """One name per row, unique as far as method, ratio and precision are."""
    named = [(*_parts(row, rows), ratio(row)) for row in rows]
    return [", ".join(part for part in (method, ratio, precision) if part) for method, precision, ratio in named]


def column(rows: Sequence[Row]) -> Column:
    """The first column of a table with one line per row of the results."""
    return Column("Row", tuple((name,) for name in short(rows)), numeric=False)
