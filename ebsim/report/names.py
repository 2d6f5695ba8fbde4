"""What a row of the results is called where space is short: only the parts that tell rows apart."""

from __future__ import annotations

from collections.abc import Sequence

from ebsim.report.schema import Row
from ebsim.report.text import plain


def precision(row: Row) -> str:
    """`fp32`, or search and retrain apart where they differ: `fp8 → fp32`."""
    stages = [name for name in (row.search_precision, row.retrain_precision) if name]
    return " → ".join(dict.fromkeys(map(plain, stages))) or plain(row.precision)


def ratio(row: Row) -> str:
    return "dense" if row.ratio is None else f"p = {row.ratio:g}"


def short(rows: Sequence[Row]) -> list[str]:
    """One name per row, unique as far as method, ratio and precision are."""
    pruned = [row for row in rows if row.ratio is not None]
    several_methods = len({row.label for row in pruned}) > 1
    several_precisions = len({precision(row) for row in rows}) > 1
    names = []
    for row in rows:
        parts = [plain(row.label)] if row.ratio is None or several_methods else []
        parts += [ratio(row)] if row.ratio is not None else []
        parts += [precision(row)] if several_precisions else []
        names.append(", ".join(parts))
    return names
