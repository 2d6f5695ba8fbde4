"""Fits a device profile to measured training steps, and measures how well the fitted profile predicts other steps.

    time of a step     t = (1 + half_batch / batch) (sum of max(F / (eta peak), B / bandwidth) + launches)
    energy of a step   E = watts t + pj_per_flop F + op energies + pj_per_bit B

F: FLOPs of a row, B: its modelled DRAM bits. Time first (least squares of its logarithm), then energy over that time
(non-negative least squares, relative errors): what is fitted is what `training_cost` computes from the profile. How
many constants of time are fitted (bandwidth, launch, half_batch beside the efficiencies) is decided by the error on
steps left out, and that error is the one reported: for each network, for each batch size, and for each network at the
smallest and the largest batch with neither seen, a profile is fitted to the rest, written, loaded, and priced on what
was left out. The mean over these groups is the error to expect, and its range says how it varies: the worst group is
what steps of other networks, a factor of two outside the measured batches, are off by at most on average.

The measurements are a CSV with the columns network, precision, batch, joules, seconds (one row per case; `joules` and
`seconds` per step).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.analysis.calibrated_profile import Constants, constants_text
from hw_models.analysis.calibration_fit import Groups, choose_time_constants, fit_constants
from hw_models.analysis.measured_steps import COLUMNS, MeasuredStep, read_steps
from hw_models.cost.training_step import training_cost
from hw_models.errors import HardwareError, ProfileError

__all__ = ["COLUMNS", "Constants", "Fit", "fit", "profile_text", "read_steps", "score"]


@dataclass(frozen=True)
class Fit:
    """Fitted constants, and the errors of profiles made in the same way on steps they had not seen.

    Errors are means of |predicted / measured - 1|, by `training_cost` of the written profile.
    """

    constants: Constants
    time_constants: tuple[str, ...]  # fitted beside the efficiencies
    left_out: tuple[str, ...]  # "networks", "batch sizes": what the steps of a left-out group share
    held_out: dict[str, float]  # joules
    held_out_seconds: dict[str, float]
    fitted_error: float
    fitted_seconds_error: float
    steps: int

    @property
    def doubts(self) -> list[str]:
        """Reasons why the stated errors may be too small, as sentences."""
        c = self.constants
        count = len(c.pj_per_flop) + 2
        found = []
        if self.steps <= count:
            found.append(
                f"{self.steps} steps for {count} constants of energy: the fit goes through every step, its error "
                "says nothing; measure more batch sizes and networks"
            )
        if not self.held_out:
            found.append(
                "nothing could be left out (the rest must still fix all constants): the error on steps not "
                "measured is unknown"
            )
        elif len(self.left_out) == 1:
            missing = "networks" if "networks" not in self.left_out else "batch sizes"
            found.append(
                f"no {missing} could be left out: the stated error is that of other {self.left_out[0]}, not of other "
                f"{missing}"
            )
        if zero := [
            name
            for name, value in (
                ("static.watts", c.static_w),
                ("dram.pj_per_bit", c.pj_per_bit),
                *((f"pj_per_flop.{f}", pj) for f, pj in c.pj_per_flop.items()),
            )
            if value == 0
        ]:
            found.append(f"{', '.join(zero)} came out as zero: these steps cannot tell the constants apart")
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: constants, errors on left-out groups and on the fitted steps."""
        return asdict(self)

    @property
    def held_out_error(self) -> float:
        """Mean over the left-out groups, joules."""
        return self.stated[0]

    @property
    def stated(self) -> tuple[float, float, float]:
        """Error of joules on left-out groups: mean, least and worst group."""
        return _range(self.held_out)

    @property
    def stated_seconds(self) -> tuple[float, float, float]:
        """The same of seconds."""
        return _range(self.held_out_seconds)


def _range(errors: Mapping[str, float]) -> tuple[float, float, float]:
    values = list(errors.values()) or [float("nan")]
    return float(np.mean(values)), min(values), max(values)


def fit(steps: Sequence[MeasuredStep], chip: Accelerator | str) -> Fit:
    """Constants of a device profile from measured steps. Raises `HardwareError` with too few of them."""
    chip = load(chip)
    if chip.kind != "device":
        raise ProfileError(f"{chip.path}: {chip.name} is an array profile; only a device can be calibrated")
    formats = sorted({s.precision for s in steps})
    if lacking := [f for f in formats if f not in chip.peak]:
        raise HardwareError(f"{lacking[0]}: {chip.name} states no peak for it; add device.peak_tflops.{lacking[0]}")
    if len(steps) < len(formats) + 2:
        raise HardwareError(
            f"{len(steps)} measured steps cannot fix {len(formats) + 2} constants; measure more "
            "networks, batch sizes or precisions"
        )
    by_network, by_batch = (_groups(steps, by, formats) for by in ("network", "batch"))
    left_out = ("networks",) * bool(by_network) + ("batch sizes",) * bool(by_batch)
    groups = {**by_network, **by_batch}
    extras = choose_time_constants(steps, chip, groups)
    constants = fit_constants(steps, chip, extras)
    if len(left_out) > 1:
        groups = {**groups, **_corners(steps, formats)}
    joules, seconds = {}, {}
    for name, (seen, unseen) in groups.items():
        joules[name], seconds[name] = score(unseen, chip, fit_constants(seen, chip, extras))
    fitted = score(steps, chip, constants)
    return Fit(constants, extras, left_out, joules, seconds, *fitted, len(steps))


def _groups(steps: Sequence[MeasuredStep], by: str, formats: Sequence[str]) -> Groups:
    """Group -> (the others, its own steps), where the others still fix every constant."""
    found = {}
    for name in dict.fromkeys(getattr(s, by) for s in steps):
        seen = [s for s in steps if getattr(s, by) != name]
        unseen = [s for s in steps if getattr(s, by) == name]
        if len(seen) >= len(formats) + 2 and {s.precision for s in unseen} <= {s.precision for s in seen}:
            found[str(name) if by == "network" else f"batch {name}"] = seen, unseen
    return found


def _corners(steps: Sequence[MeasuredStep], formats: Sequence[str]) -> Groups:
    """Each network at the smallest and at the largest batch, where neither the network nor the batch was seen."""
    found = {}
    batches = sorted({s.batch for s in steps})
    for name in dict.fromkeys(s.network for s in steps):
        for batch in (batches[0], batches[-1]):
            seen = [s for s in steps if s.network != name and s.batch != batch]
            unseen = [s for s in steps if s.network == name and s.batch == batch]
            if (
                unseen
                and len(seen) >= len(formats) + 2
                and {s.precision for s in unseen} <= {s.precision for s in seen}
            ):
                found[f"{name} at batch {batch}"] = seen, unseen
    return found


def score(steps: Sequence[MeasuredStep], chip: Accelerator, constants: Constants) -> tuple[float, float]:
    """Mean errors of joules and seconds of the profile with `constants`: written, loaded, and priced on `steps`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fitted.toml"
        path.write_text(constants_text(constants, chip, "fitted", "these steps", "fitted", 2.0), encoding="utf-8")
        try:
            written = load(path)
        except ProfileError as error:
            raise HardwareError(
                "what fits these steps is no profile; are joules (J) and seconds those of one step?\n"
                + str(error).replace(f"{folder}{os.sep}", "")
            ) from error
    costs = [training_cost(s.layers, written, s.precision, s.batch, hypothetical=True) for s in steps]
    return (
        float(np.mean([abs(c.total / s.joules - 1) for c, s in zip(costs, steps, strict=True)])),
        float(np.mean([abs(c.seconds / s.seconds - 1) for c, s in zip(costs, steps, strict=True)])),
    )


def profile_text(fitted: Fit, chip: Accelerator, name: str, measured_on: str) -> str:
    """A TOML that extends `chip` with the fitted constants; loads as a profile of its own, from any folder."""
    mean, least, worst = fitted.stated
    error = (
        f"{100 * mean:.1f} % ({100 * least:.1f} to {100 * worst:.1f} %) on left-out {' and '.join(fitted.left_out)}"
        if fitted.held_out
        else f"unknown, nothing left out ({fitted.steps} steps fitted)"
    )
    band = min(max(1.05, 1 + 2 * mean, 1 + worst) if fitted.held_out else 2.0, 100.0)
    return constants_text(
        fitted.constants, chip, name, measured_on, f"{chip.name}, calibrated: mean error {error}", band
    )
