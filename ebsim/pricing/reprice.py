"""A run and its accelerator: whether that has the number formats, before any training, and pricing a run again.

What a finished run executed stands in its ledger, so a new version of the profile needs neither training nor torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hw_models
from ebsim import precision
from ebsim.config import PROFILE_COPY, Experiment
from ebsim.errors import ConfigError
from ebsim.files import read_json, write_atomic, write_json
from ebsim.pricing import profile
from ebsim.report.reprice import priced
from ebsim.runs import folder as folders
from ebsim.runs import provenance

if TYPE_CHECKING:
    from ebsim.experiment.context import Lab
    from hw_models import Accelerator


def check_formats(lab: Lab, chip: Accelerator, users: Mapping[str, Iterable[str]]) -> None:
    """`ConfigError` if a layer will multiply formats that the accelerator does not have. users: backend -> methods."""
    from ebsim.precision.rounded_layers import layers

    names = list(layers(lab.dense_network()))
    missing = {}
    for backend, methods in users.items():
        if formats := profile.lacking(chip, precision.record(lab.backend(backend), names), names):
            missing[f"precision {backend} of {', '.join(methods)}"] = formats
    _refuse(lab.experiment, chip, missing)


def _refuse(experiment: Experiment, chip: Accelerator, missing: Mapping[str, Iterable[str]]) -> None:
    """missing: who needs formats -> which ones the chip lacks."""
    if missing and not experiment.hardware.hypothetical:
        needs = "; ".join(f"{who} needs {', '.join(formats)}" for who, formats in missing.items())
        raise ConfigError(
            f'hardware.profile = "{experiment.hardware.profile}": has {", ".join(chip.formats)}, but {needs}. Choose '
            "another accelerator or precision, or set hardware.hypothetical = true to price it as if the accelerator "
            "had them. Nothing was trained."
        )


def made_by(digest: str) -> dict[str, Any]:
    """What decides how a ledger is priced: the content of the profile, and the revision of the model."""
    return {"hardware_digest": digest, "hardware_model": hw_models.REVISION}


def priced_by(folder: Path) -> dict[str, Any]:
    """The same of a finished run; empty where the run keeps no copy of its profile."""
    made = read_json(folder / "provenance.json") if (folder / PROFILE_COPY).exists() else {}
    return {key: made[key] for key in made_by("") if key in made}


def price_again(folder: Path, experiment: Experiment, wanted: profile.Profile) -> tuple[dict[str, Any], str]:
    """Price the finished run in `folder` on its profile as that is now: new results, and a line that says why.

    Without its manifest from then on: the caller writes report and manifest.
    """
    hardware, before = experiment.hardware, priced_by(folder)
    results, networks, made = (read_json(folder / f"{name}.json") for name in ("results", "networks", "provenance"))
    lacking = profile.lacking_in(wanted.chip, (row["ledger"] for row in results["rows"]), networks)
    _refuse(experiment, wanted.chip, {"the run": lacking} if lacking else {})
    content = priced(results, networks, wanted.chip, hypothetical=hardware.hypothetical)
    (folder / folders.MANIFEST).unlink()  # first of all, so that a half-written folder never counts as finished
    write_atomic(folder / PROFILE_COPY, wanted.text)
    write_json(folder / "results.json", content)
    again = {**made_by(wanted.digest), "folder": folder.as_posix(), "priced_again": provenance.now()}
    write_json(folder / "provenance.json", {**made, **again})
    why = f"this run kept no copy of {hardware.profile}"
    if old := before.get("hardware_digest"):
        why = f"{hardware.profile} has changed since this run was priced ({old[:12]} -> {wanted.digest[:12]})"
        if old == wanted.digest:
            why = f"the hardware model has changed since this run was priced (now revision {hw_models.REVISION})"
    return content, f"{why}: priced again, nothing trained"
