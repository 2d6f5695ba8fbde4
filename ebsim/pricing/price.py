"""Prices the rows of a run on an accelerator: the one place where a ledger becomes an energy and a saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hw_models


def price(
    rows: Sequence[Mapping[str, Any]],
    networks: Mapping[str, list[dict[str, Any]]],
    chip: hw_models.Accelerator,
    *,
    reuse: str = "closed",
    hypothetical: bool = False,
) -> list[dict[str, Any]]:
    """Rows of a results.json with `energy` (modelled) and `saving_vs_dense`, the fraction saved against the dense row.

    rows: dicts with at least `method`, `accuracy` and `ledger`; networks: layer tables by the ledger's keys. The saving
    is None without a dense row, and for a method that was not finished (no accuracy). Raises `hw_models.HardwareError`
    for formats that the accelerator lacks (unless `hypothetical`) and for a ledger that cannot be priced.
    """
    energies = hw_models.price_all(
        [row["ledger"] for row in rows],
        networks,
        chip,
        baseline=next((number for number, row in enumerate(rows) if row["method"] == "dense"), None),
        model=reuse,
        hypothetical=hypothetical,
    )
    return [
        {**row, "energy": energy, "saving_vs_dense": _saving(row, energy)}
        for row, energy in zip(rows, energies, strict=True)
    ]


def _saving(row: Mapping[str, Any], energy: Mapping[str, Any]) -> float | None:
    return None if row["accuracy"] is None or energy["saving"] is None else energy["saving"]["value"]
