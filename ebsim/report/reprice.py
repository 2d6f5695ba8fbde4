"""A finished run on another accelerator: the same ledger, other prices; nothing is trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import hw_models
from ebsim.report.load import Run
from ebsim.report.schema import Results


def reprice(run: Run, chip: str, *, model: str | None = None, hypothetical: bool = False) -> Run:
    """The run with every row priced on `chip` (a shipped name or a path), by the reuse model `model`.

    Raises `hw_models.HardwareError` for a profile that is wrong or lacks a format that the run used (unless
    `hypothetical`). Savings are against the dense row on the same accelerator.
    """
    reuse = model or str(run.results.get("reuse", "closed"))
    accelerator = hw_models.load(chip)
    rows: list[dict[str, Any]] = []
    for row in run.results["rows"]:
        bill = hw_models.price(row["ledger"], run.networks, accelerator, model=reuse, hypothetical=hypothetical)
        rows.append({**row, "energy": bill.to_dict()})
    dense = next((row["energy"]["joules"] for row in rows if row["method"] == "dense"), None)
    for row in rows:
        whole = dense and row["accuracy"] is not None
        row["saving_vs_dense"] = 1 - row["energy"]["joules"] / dense if whole else None
    results = {**run.results, "hardware": chip, "reuse": reuse, "rows": rows}
    return dataclasses.replace(run, results=results, record=Results.model_validate(results))
