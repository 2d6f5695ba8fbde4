"""Energy of one training step on one accelerator by component, pass and layer, beside the simpler reuse models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.step_cost import COMPONENTS, STAGES, Cost
from hw_models.cost.training_step import training_cost
from hw_models.precision.formats import FORMATS, Bits, parse_precision
from hw_models.units import show_joules
from hw_models.workload.reference_networks import network


@dataclass(frozen=True)
class Breakdown:
    """One training step of a network on an accelerator. Energies in J (modelled), band of 90 %."""

    accelerator: str
    network: str
    precision: str
    outputs: str  # format in which a layer's output is stored
    batch: int
    joules: float
    low: float
    high: float
    seconds: float
    pj_per_mac: float
    macs_only: float
    compulsory: float
    shares: dict[str, float]
    dram_busy: float  # of that time
    bound: str  # what most of that time waits for: compute, buffer, dram
    bound_share: float
    hypothetical: tuple[str, ...]  # formats that the accelerator lacks: the whole is a what-if then
    cost: Cost = field(repr=False)

    def row(self) -> dict[str, Any]:
        return {
            "accelerator": self.accelerator,
            "network": self.network,
            "precision": self.precision,
            "outputs": self.outputs,
            "batch": self.batch,
            "joules": self.joules,
            "low": self.low,
            "high": self.high,
            "joules_macs_only": self.macs_only,
            "joules_compulsory": self.compulsory,
            "seconds": self.seconds,
            "images_per_s": self.cost.images_per_s,
            "energy_delay_js": self.cost.energy_delay,
            "energy_delay_low": self.low * self.seconds,
            "energy_delay_high": self.high * self.seconds,
            "pj_per_mac": self.pj_per_mac,
            "dram_busy": self.dram_busy,
            "bound": self.bound,
            "derived_share": self.cost.derived_share,
            "hypothetical": list(self.hypothetical),
            **self.shares,
        }

    def column(self) -> dict[str, str]:
        """Label -> value with its unit: the accelerator's column of a comparison table."""
        ms = 1e3 * self.seconds
        return {
            "energy [90 % band]": show_joules(self.joules, self.low, self.high),
            "  macs only": show_joules(self.macs_only),
            "  + compulsory traffic": show_joules(self.compulsory),
            "on derived constants, %": f"{100 * self.cost.derived_share:.0f}",
            "all in, pJ per MAC": f"{self.pj_per_mac:.3g}",
            "time at least, ms": f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}",
            "  limited by": f"{100 * self.bound_share:.0f} % {self.bound}",
            "  DRAM busy, %": f"{100 * self.dram_busy:.0f}",
            "images per s at most": f"{self.cost.images_per_s:,.4g}",
            "energy-delay product [90 % band]": show_joules(
                self.cost.energy_delay, self.low * self.seconds, self.high * self.seconds, " s"
            ),
            **{f"{name}, % of energy": f"{100 * share:.1f}" for name, share in self.shares.items()},
        }


def breakdown(
    profile: str | Accelerator,
    name: str = "resnet18",
    bits: Bits = None,
    batch: int = 256,
    model: str = "closed",
    hypothetical: bool = False,
) -> Breakdown:
    """Energy of a training step by component, with the two simpler reuse models as lower brackets."""
    chip = load(profile)
    layers, precision = network(name), parse_precision(FORMATS[chip.widest] if bits is None else bits)

    def cost(which: str) -> Cost:
        return training_cost(layers, chip, precision, batch, which, hypothetical=hypothetical)

    main = cost(model)
    low, high = main.band
    busy = float(main.dram_bits.sum()) / chip.dram_bits_per_s / main.seconds if main.seconds else 0.0
    return Breakdown(
        chip.name,
        name,
        main.precision,
        precision.default.output.name,
        batch,
        main.total,
        low,
        high,
        main.seconds,
        main.total / main.macs * 1e12,
        cost("macs").total,
        cost("compulsory").total,
        {c: main.components[c] / main.total for c in COMPONENTS},
        busy,
        main.bound,
        main.bounds[main.bound] / main.seconds if main.seconds else 0.0,
        main.hypothetical,
        main,
    )


def parts(cost: Cost, by: str, *more: str) -> list[dict[str, Any]]:
    """A step by "pass", by "layer" or by both: joules (whole and by component), seconds and MACs of each; sums to
    the step."""
    if {by, *more} == {"layer", "pass"}:
        keys = ("layer", "pass", "joules", "seconds", "macs", *COMPONENTS)
        return [{key: row[key] for key in keys} for row in cost.rows]
    axis, names = (2, STAGES) if by == "pass" else (1, cost.table.names)
    energy, seconds, macs = cost.joules.sum(axis=axis), cost.row_seconds, cost.row_macs
    return [
        {
            by: name,
            "joules": float(whole.sum()),
            "seconds": float(s),
            "macs": int(m),
            **dict(zip(COMPONENTS, whole.tolist(), strict=True)),
        }
        for name, whole, s, m in zip(names, energy.T, seconds.sum(axis=axis - 1), macs.sum(axis=axis - 1), strict=True)
    ]


def compare(
    profiles: Sequence[str],
    name: str = "resnet50",
    bits: Bits = None,
    batch: int = 256,
    model: str = "closed",
    hypothetical: bool = False,
) -> list[Breakdown]:
    """One network's training step on several accelerators (each in its widest format unless `bits` is given)."""
    return [breakdown(p, name, bits, batch, model, hypothetical) for p in profiles]
