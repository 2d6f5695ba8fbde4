"""Prices a finished run again: on another accelerator, or on its own after the profile or the model has changed.

What a run executed stands in its ledger, so this needs neither training nor torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import hw_models
from ebsim.config import PROFILE_COPY, Hardware
from ebsim.files import read_json, write_atomic, write_json
from ebsim.pricing.format_check import missing_in_ledgers, refuse_missing_formats
from ebsim.pricing.price import price
from ebsim.pricing.profile import Profile
from ebsim.runs import provenance
from ebsim.runs.load import Run
from ebsim.runs.run_folder import RunFolder
from ebsim.runs.schema import Results


def reprice(
    run: Run, chip: str | None = None, *, model: str | None = None, hypothetical: bool = False, fuse: bool = False
) -> Run:
    """The run with every row priced on `chip`, by the reuse model `model`; None: as the run itself was.

    chip: a shipped name or a path; None takes the profile that is stored with the run. fuse: layers fused depth-first
    within the accelerator's memories. Raises
    `hw_models.HardwareError` for a profile that is wrong or lacks a format that the run used (unless `hypothetical`).
    Savings are against the dense row on the same accelerator.
    """
    loaded = run.chip if chip is None else hw_models.load(chip)
    if fuse:
        model = f"{(model or str(run.results.get('reuse', 'closed'))).removesuffix('+fused')}+fused"
    allowed = hypothetical or (chip is None and bool(run.record.hypothetical))
    results = priced(run.results, run.networks, loaded, model=model, hypothetical=allowed)
    results["hardware"] = run.record.hardware if chip is None else chip
    return dataclasses.replace(run, results=results, record=Results.model_validate(results), profile=loaded)


def priced(
    results: Mapping[str, Any],
    networks: Mapping[str, list[dict[str, Any]]],
    chip: hw_models.Accelerator,
    *,
    model: str | None = None,
    hypothetical: bool = False,
) -> dict[str, Any]:
    """The content of a results.json with the energies of its ledgers on `chip`. Errors as `reprice`."""
    reuse = model or str(results.get("reuse", "closed"))
    rows = price(results["rows"], networks, chip, reuse=reuse, hypothetical=hypothetical)
    missing = missing_in_ledgers(chip, (row["ledger"] for row in rows), networks)
    return {**results, "hypothetical": missing, "reuse": reuse, "rows": rows}


def pricing_key(digest: str) -> dict[str, Any]:
    """What decides how a ledger is priced: the content of the profile, and the revision of the model."""
    return {"hardware_digest": digest, "hardware_model": hw_models.REVISION}


def stored_pricing_key(folder: RunFolder) -> dict[str, Any]:
    """The same of a finished run; empty where the run keeps no copy of its profile."""
    made = read_json(folder.path / "provenance.json") if (folder.path / PROFILE_COPY).exists() else {}
    return {key: made[key] for key in pricing_key("") if key in made}


def price_again(folder: RunFolder, hardware: Hardware, wanted: Profile) -> tuple[dict[str, Any], str]:
    """Price a finished run on its profile as that is now: new results, and a line that says why.

    The folder counts as unfinished from then on: the caller writes report and manifest.
    """
    path, before = folder.path, stored_pricing_key(folder)
    results, networks, made = (read_json(path / f"{name}.json") for name in ("results", "networks", "provenance"))
    if not hardware.hypothetical:
        ledgers = [row["ledger"] for row in results["rows"]]
        needed = missing_in_ledgers(wanted.chip, ledgers, networks)
        refuse_missing_formats(hardware.profile, wanted.chip, {"the run": needed})
    content = priced(results, networks, wanted.chip, hypothetical=hardware.hypothetical)
    folder.reopen()  # first of all, so that a half-written folder never counts as finished
    write_atomic(path / PROFILE_COPY, wanted.text)
    write_json(path / "results.json", content)
    again = {**pricing_key(wanted.digest), "folder": path.as_posix(), "priced_again": provenance.now()}
    write_json(path / "provenance.json", {**made, **again})
    why = f"this run kept no copy of {hardware.profile}"
    if old := before.get("hardware_digest"):
        why = f"{hardware.profile} has changed since this run was priced ({old[:12]} -> {wanted.digest[:12]})"
        if old == wanted.digest:
            why = f"the hardware model has changed since this run was priced (now revision {hw_models.REVISION})"
    return content, f"{why}: priced again, nothing trained"
