"""Published measurements beside the modelled value for a profile of the same device, with the error of each.

The measurements are data (`data/anchors.toml`), each with its source. No profile is fitted to them; a calibrated one is
checked by `hw calibrate` instead.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.inference import forward_cost
from hw_models.cost.step_cost import COMPONENTS, Cost
from hw_models.cost.training_step import training_cost
from hw_models.precision.formats import FORMATS
from hw_models.precision.record_schema import OPERAND_ROLES
from hw_models.workload.layer import CONTRACTIONS
from hw_models.workload.reference_networks import network

DATA = Path(__file__).parents[1] / "data" / "anchors.toml"
QUANTITIES = {  # how it is measured -> unit, and what the model gives for it
    "joules_per_image": "J per image",
    "images_per_second": "images/s",
    "watts": "W",
    "forward_pj_per_mac": "pJ per MAC, forward, without DRAM",
    "pj_per_mac_alone": "pJ per MAC, multipliers alone",
}


@dataclass(frozen=True)
class Anchor:
    """One measured quantity of one case, and the model's value for it."""

    device: str
    network: str
    precision: str
    batch: int
    quantity: str
    measured: float
    modelled: float
    source: str
    note: str

    @property
    def error(self) -> float:
        """modelled / measured - 1."""
        return self.modelled / self.measured - 1

    @property
    def unit(self) -> str:
        return QUANTITIES[self.quantity]

    def row(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "network": self.network,
            "precision": self.precision,
            "batch": self.batch,
            "quantity": self.quantity,
            "unit": self.unit,
            "measured": self.measured,
            "modelled": self.modelled,
            "error": self.error,
            "source": self.source,
            "note": self.note,
        }


def anchors(devices: Sequence[str] = ()) -> list[Anchor]:
    """Every published measurement (of `devices`, if any are named) beside the model's value."""
    found = []
    for case in tomllib.loads(DATA.read_text(encoding="utf-8"))["anchor"]:
        if devices and case["device"] not in devices:
            continue
        chip = load(case["device"])
        if "pj_per_mac_alone" in case:
            fmt = FORMATS[case["precision"]]
            found.append(_anchor(case, "pj_per_mac_alone", chip.mac(fmt, fmt, hypothetical=True).value))
            continue
        cost = _forward(chip, case) if "forward_pj_per_mac" in case else _step(chip, case)
        found += [_anchor(case, name, _value(cost, name)) for name in QUANTITIES if name in case]
    return found


def _anchor(case: dict[str, Any], quantity: str, modelled: float) -> Anchor:
    return Anchor(
        case["device"],
        case["network"],
        case["precision"],
        case["batch"],
        quantity,
        case[quantity],
        modelled,
        case["source"],
        case.get("note", ""),
    )


def _step(chip: Accelerator, case: dict[str, Any]) -> Cost:
    return training_cost(network(case["network"]), chip, case["precision"], case["batch"])


def _forward(chip: Accelerator, case: dict[str, Any]) -> Cost:
    """The convolutions and matrix products of a forward pass, everything in one format, as an inference chip has it."""
    rows = [row for row in network(case["network"]) if row.kind in CONTRACTIONS]
    fmt = case["precision"]
    record = {
        "name": f"{fmt} throughout",
        "default": {
            **{p: dict.fromkeys(roles, fmt) for p, roles in OPERAND_ROLES.items()},
            "accumulator": fmt,
            "output": fmt,
        },
    }
    return forward_cost(rows, chip, record, case["batch"], "search")


def _value(cost: Cost, quantity: str) -> float:
    if quantity == "joules_per_image":
        return cost.total / cost.batch
    if quantity == "images_per_second":
        return cost.batch / cost.seconds
    if quantity == "watts":
        return cost.total / cost.seconds
    on_chip = cost.total - float(cost.joules[COMPONENTS.index("dram")].sum())
    return on_chip / cost.macs * 1e12
