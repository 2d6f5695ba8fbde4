"""Fit a device profile to measured training steps, and say how well the profile that comes out predicts others.

    time of a step     t = (1 + half_batch / batch) (sum of max(F / (eta peak), B / bandwidth) + launches)
    energy of a step   E = watts t + pj_per_flop F + op energies + pj_per_bit B

F: FLOPs of a row, B: its modelled DRAM bits. Time first (least squares of its logarithm), then energy over that time
(non-negative least squares, relative errors): what is fitted is what `training_cost` computes from the profile. How
many constants of time are fitted (bandwidth, launch, half_batch beside the efficiencies) is decided by the error on
steps left out, and that error is the one reported: for each network (with a single one: each batch size) a profile is
fitted to the rest, written, loaded, and priced on what was left out.

The measurements are a CSV with the columns network, precision, batch, joules, seconds (one row per case; `joules` and
`seconds` per step).
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares, nnls

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.accelerator.toml_reader import SHIPPED
from hw_models.cost.step_cost import Cost
from hw_models.cost.training_step import training_cost
from hw_models.errors import HardwareError, ProfileError
from hw_models.precision.formats import FORMATS
from hw_models.workload.layer import Layer
from hw_models.workload.reference_networks import network
from hw_models.workload.shapes import Array

COLUMNS = ("network", "precision", "batch", "joules", "seconds")
MOST = {"batch": 1e7, "joules": 1e9, "seconds": 1e7}  # of one step; beyond, a unit is wrong
EXTRAS = ("gbytes_per_s", "launch_us", "half_batch")  # constants of time that steps may or may not tell
GAIN = 0.9  # a further constant must bring the left-out error to this share of it


@dataclass(frozen=True)
class Step:
    """One measured training step, and what the model counts of it on the profile that is fitted."""

    network: str
    precision: str
    batch: int
    joules: float
    seconds: float
    layers: tuple[Layer, ...]
    cost: Cost


@dataclass(frozen=True)
class Constants:
    """What is fitted of a device profile. `scale`: by which the energies of the vector unit are multiplied."""

    eta: dict[str, float]
    gbytes_per_s: float
    launch_us: float
    half_batch: float
    static_w: float
    pj_per_flop: dict[str, float]
    pj_per_bit: float
    scale: float


@dataclass(frozen=True)
class Fit:
    """Fitted constants, and the errors of profiles made in the same way on steps they had not seen.

    Errors are means of |predicted / measured - 1|, by `training_cost` of the written profile.
    """

    constants: Constants
    time_constants: tuple[str, ...]  # fitted beside the efficiencies
    left_out: str  # "network" or "batch": what each left-out group shares
    held_out: dict[str, float]  # joules
    held_out_seconds: dict[str, float]
    fitted_error: float
    fitted_seconds_error: float
    steps: int

    @property
    def doubts(self) -> list[str]:
        """Why the errors say less than they seem to."""
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
        elif self.left_out == "batch":
            found.append("one network only: the left-out error is that of other batch sizes, not of other networks")
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
            lines = file.readlines()
        above = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)  # where they are from
        rows = list(csv.DictReader(lines[above:]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HardwareError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows or set(COLUMNS) - set(rows[0]):
        raise HardwareError(f"{path}:1: needs the columns {', '.join(COLUMNS)} and at least one row")
    return [_step(f"{path}:{line}", row, chip, networks or {}) for line, row in enumerate(rows, above + 2)]


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
        row["network"], row["precision"], int(values["batch"]), values["joules"], values["seconds"], tuple(layers), cost
    )


def fit(steps: Sequence[Step], chip: Accelerator | str) -> Fit:
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
    left_out = "network" if len({s.network for s in steps}) > 1 else "batch"
    groups = _groups(steps, left_out, formats)
    extras = _choose(steps, chip, groups)
    constants = _constants(steps, chip, extras)
    joules, seconds = {}, {}
    for name, (seen, unseen) in groups.items():
        joules[name], seconds[name] = score(unseen, chip, _constants(seen, chip, extras))
    fitted = score(steps, chip, constants)
    return Fit(constants, extras, left_out, joules, seconds, *fitted, len(steps))


def _groups(steps: Sequence[Step], by: str, formats: Sequence[str]) -> dict[str, tuple[list[Step], list[Step]]]:
    """Group -> (the others, its own steps), where the others still fix every constant."""
    found = {}
    for name in dict.fromkeys(getattr(s, by) for s in steps):
        seen = [s for s in steps if getattr(s, by) != name]
        unseen = [s for s in steps if getattr(s, by) == name]
        if len(seen) >= len(formats) + 2 and {s.precision for s in unseen} <= {s.precision for s in seen}:
            found[str(name) if by == "network" else f"batch {name}"] = seen, unseen
    return found


def score(steps: Sequence[Step], chip: Accelerator, constants: Constants) -> tuple[float, float]:
    """Mean errors of joules and seconds of the profile with `constants`: written, loaded, and priced on `steps`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fitted.toml"
        path.write_text(_text(constants, chip, "fitted", "these steps", "fitted", 2.0), encoding="utf-8")
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


# time


def _choose(
    steps: Sequence[Step], chip: Accelerator, groups: Mapping[str, tuple[list[Step], list[Step]]]
) -> tuple[str, ...]:
    """The constants of time beside the efficiencies that predict left-out steps best, none without clear gain."""
    best: tuple[str, ...] = ()
    least = _time_error((), steps, chip, groups)
    for size in range(1, len(EXTRAS) + 1):
        for extras in itertools.combinations(EXTRAS, size):
            error = _time_error(extras, steps, chip, groups)
            if error < GAIN ** (size - len(best)) * least and error < GAIN * least:
                best, least = extras, error
    return best


def _time_error(
    extras: tuple[str, ...],
    steps: Sequence[Step],
    chip: Accelerator,
    groups: Mapping[str, tuple[list[Step], list[Step]]],
) -> float:
    formats = len({s.precision for s in steps})
    if any(len(seen) < formats + len(extras) for seen, _ in groups.values()) or (not groups and extras):
        return float("inf")
    cases = groups.values() or [(list(steps), list(steps))]
    errors = []
    for seen, unseen in cases:
        times = _Times(seen, chip, extras)
        values = times.solve()
        errors += list(np.abs(np.exp(_Times(unseen, chip, extras, times.formats).gap(values)) - 1))
    return float(np.mean(errors))


class _Times:
    """Predicted seconds of steps: functions of the fitted logarithms (efficiencies, bandwidth) and shares."""

    def __init__(
        self, steps: Sequence[Step], chip: Accelerator, extras: tuple[str, ...], formats: Sequence[str] = ()
    ) -> None:
        self.chip, self.extras = chip, extras
        self.formats = list(formats) or sorted({s.precision for s in steps})
        # seconds that the array and the DRAM alone would take: [step, distinct rows], how often each occurs
        alike = [np.unique(s.cost.row_limits[[0, 2]].reshape(2, -1), axis=1, return_counts=True) for s in steps]
        longest = max(times.size for _, times in alike)
        self.alone = np.zeros((2, len(steps), longest))
        self.times = np.zeros((len(steps), longest))
        for i, (limits, times) in enumerate(alike):
            self.alone[:, i, : times.size], self.times[i, : times.size] = limits, times
        self.rows = np.array([np.count_nonzero(s.cost.dram_bits) for s in steps], dtype=float)
        self.batch = np.array([s.batch for s in steps], dtype=float)
        self.which = np.array([self.formats.index(s.precision) for s in steps])
        self.measured = np.log([s.seconds for s in steps])

    def gap(self, values: Array) -> Array:
        """ln(predicted / measured) of each step."""
        slower = np.exp(values[: len(self.formats)])[self.which][:, None]
        extra = dict(zip(self.extras, values[len(self.formats) :], strict=True))
        memory = np.exp(extra.get("gbytes_per_s", 0.0))
        launch = extra.get("launch_us", self.chip.launch_s * 1e6) * 1e-6
        half = extra.get("half_batch", self.chip.half_batch)
        rows = (np.maximum(self.alone[0] * slower, self.alone[1] * memory) * self.times).sum(axis=1)
        return np.log((rows + self.rows * launch) * (1 + half / self.batch)) - self.measured

    def solve(self) -> Array:
        """The best values: no format is faster than its peak, nothing is negative."""
        count = len(self.formats)
        floor = {"gbytes_per_s": np.log(0.2), "launch_us": 0.0, "half_batch": 0.0}
        roof = {"gbytes_per_s": np.log(20.0), "launch_us": 1e4, "half_batch": 1e4}
        guess = {"gbytes_per_s": 0.0, "launch_us": 5.0, "half_batch": 8.0}
        low = [np.log(self.chip.efficiency[f]) - 1e-9 for f in self.formats] + [floor[e] for e in self.extras]
        high = [np.log(1e3)] * count + [roof[e] for e in self.extras]
        start = [0.0] * count + [guess[e] for e in self.extras]
        scale = [1.0] * count + [{"gbytes_per_s": 1.0}.get(e, 10.0) for e in self.extras]
        return least_squares(
            self.gap,
            np.clip(start, low, high),
            bounds=(low, high),
            x_scale=scale,
            loss="soft_l1",
            f_scale=0.1,
            max_nfev=200,
        ).x


# energy


def _constants(steps: Sequence[Step], chip: Accelerator, extras: tuple[str, ...]) -> Constants:
    times = _Times(steps, chip, extras)
    values = times.solve()
    seconds = np.exp(times.gap(values)) * [s.seconds for s in steps]
    eta = {f: min(1.0, chip.efficiency[f] / float(np.exp(v))) for f, v in zip(times.formats, values, strict=False)}
    extra = dict(zip(extras, values[len(times.formats) :].tolist(), strict=True))
    watts, bit, flops, scale = _energy(steps, times.formats, seconds, chip)
    return Constants(
        eta,
        chip.dram_bits_per_s / 8e9 / float(np.exp(extra.get("gbytes_per_s", 0.0))),
        extra.get("launch_us", chip.launch_s * 1e6),
        extra.get("half_batch", chip.half_batch),
        watts,
        flops,
        bit,
        scale,
    )


def _energy(
    steps: Sequence[Step], formats: Sequence[str], seconds: Array, chip: Accelerator
) -> tuple[float, float, dict[str, float], float]:
    """(watts, pJ per DRAM bit, pJ per FLOP by format, factor of the vector unit's energies).

    The vector unit keeps its proportion to the widest format that was measured.
    """
    widest = max(formats, key=lambda f: FORMATS[f].bits)
    table = []
    for step, t in zip(steps, seconds, strict=True):
        by = step.cost.by_constant
        vector = sum(j for key, j in by.items() if key.startswith("op."))
        macs = sum(j for key, j in by.items() if key.startswith("mac."))
        table.append(
            [
                t,
                by["dram.pj_per_bit"],
                *((macs + vector * (f == widest)) * (step.precision == f) or vector * (f == widest) for f in formats),
            ]
        )
    joules = np.array([s.joules for s in steps])
    matrix = np.array(table) / joules[:, None]
    size = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    solution, _ = nnls(matrix / size, np.ones(len(steps)))
    watts, dram, *factors = (solution / size).tolist()
    flops = {
        f: k * chip.mac(FORMATS[f], FORMATS[f], hypothetical=True).value / 2
        for f, k in zip(formats, factors, strict=True)
    }
    return watts, dram * chip.dram.value, flops, dict(zip(formats, factors, strict=True))[widest]


# the profile


def profile_text(fitted: Fit, chip: Accelerator, name: str, measured_on: str) -> str:
    """A TOML that extends `chip` with the fitted constants; loads as a profile of its own, from any folder."""
    what = "networks" if fitted.left_out == "network" else "batch sizes"
    error = (
        f"{100 * fitted.held_out_error:.1f} % on left-out {what}"
        if fitted.held_out
        else f"unknown, nothing left out ({fitted.steps} steps fitted)"
    )
    band = min(max(1.05, 1 + 2 * (fitted.held_out_error if fitted.held_out else 0.5)), 100.0)
    return _text(fitted.constants, chip, name, measured_on, f"{chip.name}, calibrated: mean error {error}", band)


def _text(c: Constants, chip: Accelerator, name: str, measured_on: str, summary: str, band: float) -> str:
    path = Path(chip.path).resolve()
    base = path.stem if path.parent == SHIPPED.resolve() else str(path)
    source = f"source = {_quoted(f'fitted to {measured_on}')}"
    fastest = max(c.eta.values())
    others = "".join(  # formats that were not measured keep their proportion to the widest one that was
        f"{f} = {{ value = {max(n.value / 2 * c.scale, 1e-3):.6g}, derived = true }}\n"
        for f, n in chip.mac_points.items()
        if f not in c.pj_per_flop
    )
    ops = "".join(f"{op} = {{ value = {n.value * c.scale:.6g}, derived = true }}\n" for op, n in chip.ops.items())
    return (
        f"""extends = {_quoted(base)}
name = {_quoted(name)}
absolute_band = {band:.3g}
summary = {_quoted(summary)}
calibrated_on = {_quoted(measured_on)}

[device]
eta_compute = {fastest:.6g}
launch_us = {c.launch_us:.6g}
half_batch = {c.half_batch:.6g}
{source}

[device.eta]
"""
        + "".join(f"{f} = {eta:.6g}\n" for f, eta in c.eta.items())
        + f"""
[pj_per_flop]
{source}
band = {band:.3g}
"""
        + "".join(f"{f} = {max(pj, 1e-3):.6g}\n" for f, pj in c.pj_per_flop.items())
        + others
        + f"""
[op]
source = "in proportion to the fitted pj_per_flop of the widest measured format"
band = {max(band, 2.0):.3g}
{ops}
[dram]
gbytes_per_s = {c.gbytes_per_s:.6g}
pj_per_bit = {{ value = {max(c.pj_per_bit, 1e-3):.6g}, band = {band:.3g}, {source} }}

[static]
watts = {{ value = {c.static_w:.6g}, band = {band:.3g}, {source} }}
"""
    )


def _quoted(text: str) -> str:
    """A TOML string; what a terminal would obey is replaced."""
    return json.dumps("".join(c if c.isprintable() else "?" for c in text), ensure_ascii=False)
