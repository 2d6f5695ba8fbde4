"""Measured training steps, read from a CSV, each with the FLOPs and traffic that the model counts.

Columns: network, precision, batch, joules, seconds (one row per case; `joules` and `seconds` per step). Lines that
start with # may stand above them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.step_cost import Cost
from hw_models.cost.training_step import training_cost
from hw_models.errors import HardwareError
from hw_models.precision.formats import FORMATS
from hw_models.workload.layer import Layer
from hw_models.workload.reference_networks import network

COLUMNS = ("network", "precision", "batch", "joules", "seconds")
MOST = {"batch": 1e7, "joules": 1e9, "seconds": 1e7}  # of one step; beyond, a unit is wrong


@dataclass(frozen=True)
class MeasuredStep:
    """One measured training step, and what the model counts of it on the profile that is fitted."""

    network: str
    precision: str
    batch: int
    joules: float
    seconds: float
    layers: tuple[Layer, ...]
    cost: Cost


def read_steps(
    path: str | Path, chip: Accelerator | str, networks: Mapping[str, Sequence[Layer]] | None = None
) -> list[MeasuredStep]:
    """Measured steps from a CSV; network names are looked up in `networks`, then among the reference tables.

    Raises `HardwareError` naming line and column of the first thing that is wrong.
    """
    chip = load(chip)
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            lines = file.readlines()
        above = next((i for i, line in enumerate(lines) if not line.startswith("#")), 0)  # comment lines on top
        rows = list(csv.DictReader(lines[above:]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HardwareError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows or set(COLUMNS) - set(rows[0]):
        raise HardwareError(f"{path}:1: needs the columns {', '.join(COLUMNS)} and at least one row")
    return [_step(f"{path}:{line}", row, chip, networks or {}) for line, row in enumerate(rows, above + 2)]


def _step(
    where: str, row: Mapping[str, Any], chip: Accelerator, networks: Mapping[str, Sequence[Layer]]
) -> MeasuredStep:
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
    return MeasuredStep(
        row["network"], row["precision"], int(values["batch"]), values["joules"], values["seconds"], tuple(layers), cost
    )
