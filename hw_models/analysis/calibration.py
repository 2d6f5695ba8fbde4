"""Fit a device profile to measured training steps.

    energy of a step   E = P t + e_flop F + e_byte B        (non-negative least squares, relative errors)
    time of a step     t >= max(F / (peak eta_compute), B / bandwidth), from the fastest measured steps

F: FLOPs of the step (2 x MAC of the three passes, + pointwise operations), B: modelled DRAM bytes, t: measured
seconds. A fit is only worth its error on what it has not seen: each network is left out in turn, predicted
from the others, and the mean absolute percentage error is reported with the profile.

The measurements are a CSV with the columns network, precision, batch, joules, seconds (one row per case;
`joules` and `seconds` per step).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.accelerator.toml_reader import SHIPPED
from hw_models.cost.training_step import training_cost
from hw_models.errors import HardwareError, ProfileError
from hw_models.precision.formats import FORMATS
from hw_models.workload.layer import Layer
from hw_models.workload.reference_networks import network
from hw_models.workload.shapes import Array

COLUMNS = ("network", "precision", "batch", "joules", "seconds")
MOST = {"batch": 1e7, "joules": 1e9, "seconds": 1e7}  # of one step; beyond, a unit is wrong


@dataclass(frozen=True)
class Step:
    """One measured training step, with the counts that the model gives it."""

    network: str
    precision: str
    batch: int
    joules: float
    seconds: float
    flops: float
    bytes: float


@dataclass(frozen=True)
class Fit:
    """Fitted constants and their error on held-out networks (mean absolute percentage error, as a fraction)."""

    static_w: float
    pj_per_flop: dict[str, float]
    pj_per_bit: float
    eta_compute: float  # share of the peak that the fastest step reached
    gbytes_per_s: float  # the profile's, or more if a step moved its modelled bytes faster
    held_out: dict[str, float]
    fitted_error: float
    steps: int

    @property
    def doubts(self) -> list[str]:
        """Why the errors say less than they seem to."""
        constants = len(self.pj_per_flop) + 2
        found = []
        if self.steps <= constants:
            found.append(
                f"{self.steps} steps for {constants} constants: the fit goes through every step, its error "
                "says nothing; measure more batch sizes and networks"
            )
        if not self.held_out:
            found.append(
                "no network could be left out (the others must still fix all constants): the error on "
                "networks not measured is unknown"
            )
        if zero := [
            name
            for name, value in (
                ("static.watts", self.static_w),
                ("dram.pj_per_bit", self.pj_per_bit),
                *((f"pj_per_flop.{f}", pj) for f, pj in self.pj_per_flop.items()),
            )
            if value == 0
        ]:
            found.append(f"{', '.join(zero)} came out as zero: these steps cannot tell the constants apart")
        return found

    @property
    def held_out_error(self) -> float:
        return float(np.mean(list(self.held_out.values()))) if self.held_out else float("nan")


def read_steps(
    path: str | Path, chip: Accelerator | str, networks: Mapping[str, Sequence[Layer]] | None = None
) -> list[Step]:
    """Measured steps from a CSV; network names are looked up in `networks`, then among the reference tables.

    Raises `HardwareError` naming line and column of the first thing that is wrong.
    """
    chip = load(chip)
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HardwareError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows or set(COLUMNS) - set(rows[0]):
        raise HardwareError(f"{path}:1: needs the columns {', '.join(COLUMNS)} and at least one row")
    return [_step(f"{path}:{line}", row, chip, networks or {}) for line, row in enumerate(rows, 2)]


def _step(where: str, row: Mapping[str, Any], chip: Accelerator, networks: Mapping[str, Sequence[Layer]]) -> Step:
    values = {}
    for name in ("batch", "joules", "seconds"):
        try:
            values[name] = float(row[name])
        except (TypeError, ValueError):
            values[name] = float("nan")
        if not 0 < values[name] <= MOST[name]:
            raise HardwareError(f"{where}: {name} is {row[name]!r}, must be a number above 0 and up to {MOST[name]:g}")
    if values["batch"] != int(values["batch"]):
        raise HardwareError(f"{where}: batch is {row['batch']!r}, must be a whole number of images")
    if row["precision"] not in FORMATS:
        raise HardwareError(f"{where}: precision {row['precision']!r} is not one of {', '.join(FORMATS)}")
    try:
        layers = networks.get(row["network"]) or network(row["network"])
    except HardwareError as error:
        raise HardwareError(f"{where}: {error}") from error
    cost = training_cost(layers, chip, row["precision"], values["batch"], hypothetical=True)
    return Step(
        row["network"],
        row["precision"],
        int(values["batch"]),
        values["joules"],
        values["seconds"],
        2 * cost.macs,
        cost.bytes,
    )


def fit(steps: Sequence[Step], chip: Accelerator | str) -> Fit:
    """Constants of a device profile from measured steps. Raises `HardwareError` with too few of them."""
    chip = load(chip)
    if chip.kind != "device":
        raise ProfileError(f"{chip.path}: {chip.name} is an array profile; only a device can be calibrated")
    formats = sorted({s.precision for s in steps})
    if len(steps) < len(formats) + 2:
        raise HardwareError(
            f"{len(steps)} measured steps cannot fix {len(formats) + 2} constants; measure more "
            "networks, batch sizes or precisions"
        )
    constants = _solve(steps, formats)
    held_out = {}
    for name in sorted({s.network for s in steps}):
        seen = [s for s in steps if s.network != name]
        unseen = [s for s in steps if s.network == name]
        if len(seen) >= len(formats) + 2 and {s.precision for s in unseen} <= {s.precision for s in seen}:
            held_out[name] = _error(unseen, formats, _solve(seen, formats))
    eta = max(s.flops / s.seconds / (2 * chip.rate(FORMATS[s.precision], FORMATS[s.precision])) for s in steps)
    bandwidth = max(chip.dram_bits_per_s / 8e9, *(s.bytes / s.seconds / 1e9 for s in steps))
    pj = constants * 1e12
    return Fit(
        static_w=float(constants[0]),
        pj_per_flop=dict(zip(formats, pj[2:].tolist(), strict=True)),
        pj_per_bit=float(pj[1]),
        eta_compute=min(1.0, eta * chip.eta_compute),
        gbytes_per_s=bandwidth,
        held_out=held_out,
        fitted_error=_error(steps, formats, constants),
        steps=len(steps),
    )


def _matrix(steps: Sequence[Step], formats: Sequence[str]) -> Array:
    """Seconds, DRAM bits and FLOPs by format of each step, [steps, 2 + formats]."""
    return np.array([[s.seconds, 8 * s.bytes, *(s.flops * (s.precision == f) for f in formats)] for s in steps])


def _solve(steps: Sequence[Step], formats: Sequence[str]) -> Array:
    """Watts, J per bit, J per FLOP by format; columns and rows scaled to size, so that errors are relative."""
    joules = np.array([s.joules for s in steps])
    matrix = _matrix(steps, formats) / joules[:, None]
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    solution, _ = nnls(matrix / scale, np.ones(len(steps)))
    return solution / scale


def _error(steps: Sequence[Step], formats: Sequence[str], constants: Array) -> float:
    predicted = _matrix(steps, formats) @ constants
    joules = np.array([s.joules for s in steps])
    return float(np.mean(np.abs(predicted / joules - 1)))


def profile_text(fitted: Fit, chip: Accelerator, name: str, measured_on: str) -> str:
    """A TOML that extends `chip` with the fitted constants; loads as a profile of its own, from any folder."""
    error = (
        f"{100 * fitted.held_out_error:.1f} % on left-out networks"
        if fitted.held_out
        else f"unknown, no network left out ({fitted.steps} steps fitted)"
    )
    band = min(max(1.05, 1 + 2 * (fitted.held_out_error if fitted.held_out else 0.5)), 100.0)
    path = Path(chip.path).resolve()
    base = path.stem if path.parent == SHIPPED.resolve() else str(path)
    source = f"source = {_quoted(f'fitted to {measured_on}')}"
    return (
        f"""extends = {_quoted(base)}
name = {_quoted(name)}
absolute_band = {band:.3g}
summary = {_quoted(f"{chip.name}, calibrated: mean error {error}")}
calibrated_on = {_quoted(measured_on)}

[device]
eta_compute = {fitted.eta_compute:.4g}
source = {_quoted(f"fastest step of {measured_on}")}

[pj_per_flop]
{source}
band = {band:.3g}
"""
        + "".join(f"{f} = {max(pj, 1e-3):.4g}\n" for f, pj in fitted.pj_per_flop.items())
        + f"""
[dram]
gbytes_per_s = {fitted.gbytes_per_s:.4g}
pj_per_bit = {{ value = {max(fitted.pj_per_bit, 1e-3):.4g}, band = {band:.3g}, {source} }}

[static]
watts = {{ value = {fitted.static_w:.4g}, band = {band:.3g}, {source} }}
"""
    )


def _quoted(text: str) -> str:
    """A TOML string; what a terminal would obey is replaced."""
    return json.dumps("".join(c if c.isprintable() else "?" for c in text), ensure_ascii=False)
