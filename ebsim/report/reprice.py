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
    before: list[dict[str, Any]] = run.results["rows"]
    energies = hw_models.price_all(
        [row["ledger"] for row in before],
        run.networks,
        chip,
        baseline=next((number for number, row in enumerate(before) if row["method"] == "dense"), None),
        model=reuse,
        hypothetical=hypothetical,
    )
    rows = [
        {
            **row,
            "energy": energy,
            "saving_vs_dense": energy["saving"]["value"] if energy["saving"] and row["accuracy"] is not None else None,
        }
        for row, energy in zip(before, energies, strict=True)
    ]
    results = {**run.results, "hardware": chip, "reuse": reuse, "rows": rows}
    return dataclasses.replace(run, results=results, record=Results.model_validate(results))
