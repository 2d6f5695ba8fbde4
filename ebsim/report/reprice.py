"""A finished run on another accelerator: the same ledger, other prices; nothing is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import hw_models
from ebsim.pricing.profile import lacking_in
from ebsim.runs.load import Run
from ebsim.runs.schema import Results


def reprice(run: Run, chip: str | None = None, *, model: str | None = None, hypothetical: bool = False) -> Run:
    """The run with every row priced on `chip`, by the reuse model `model`; None: as the run itself was.

    chip: a shipped name or a path; None takes the profile that is stored with the run. Raises
    `hw_models.HardwareError` for a profile that is wrong or lacks a format that the run used (unless `hypothetical`).
    Savings are against the dense row on the same accelerator.
    """
    loaded = run.chip if chip is None else hw_models.load(chip)
    allowed = hypothetical or (chip is None and bool(run.record.hypothetical))
    results = priced(run.results, run.networks, loaded, model=model, hypothetical=allowed)
    results["hardware"] = run.record.hardware if chip is None else chip
    return dataclasses.replace(run, results=results, record=Results.model_validate(results), profile=loaded)


def priced(
    results: Mapping[str, Any],
    networks: Mapping[str, list[dict[str, Any]]],
    chip: Any,
    *,
    model: str | None = None,
    hypothetical: bool = False,
) -> dict[str, Any]:
    """The content of a results.json with the energies of its ledgers on `chip`. Errors as `reprice`."""
    reuse = model or str(results.get("reuse", "closed"))
    before: list[dict[str, Any]] = results["rows"]
    ledgers = [row["ledger"] for row in before]
    energies = hw_models.price_all(
        ledgers,
        networks,
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
    return {**results, "hypothetical": lacking_in(chip, ledgers, networks), "reuse": reuse, "rows": rows}
