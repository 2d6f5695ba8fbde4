"""The roofline of a step: what each layer and pass could reach on an accelerator, and what holds it back.

A pass of a layer makes `macs` products out of `bytes` of DRAM traffic, so no schedule is faster than

    min(products per second of the array in its format, MACs per DRAM byte x bytes per second of DRAM)

(Williams, Waterman and Patterson, 2009). The model's own time of the pass lies at or under that roof: under it where an
array is not filled, a port or a buffer waits, tiles load while nothing runs, or (device) a kernel is launched. The
roofs of a device are those that its profile says are reached, its data sheet's peaks times their efficiency.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.step_cost import STAGES, Cost
from hw_models.cost.training_step import training_cost
from hw_models.precision.formats import FORMATS, Bits, Format, parse_precision
from hw_models.workload.reference_networks import network

NAMED = ("fp32", "tf32", "bf16", "fp16", "e4m3", "e5m2", "int8", "int4", "bfp8")  # roofs shown where a chip has them


@dataclass(frozen=True)
class Roof:
    """The most MACs per second of an array (FLOPs = 2 x MAC), in each of `formats`."""

    formats: tuple[str, ...]
    macs_per_s: float


@dataclass(frozen=True)
class RooflinePoint:
    """One pass of one layer: products, bytes to and from DRAM, modelled seconds and joules of one step.

    `formats`: of its operands, "int8" or "int8*e4m3"; `roof`: MACs per second that the array makes of them.
    """

    layer: str
    phase: str
    formats: str
    macs: float
    bytes: float
    seconds: float
    joules: float
    bound: str
    roof: float

    @property
    def intensity(self) -> float:
        """MACs per DRAM byte; infinite for what never leaves the chip."""
        return self.macs / self.bytes if self.bytes else float("inf")

    @property
    def rate(self) -> float:
        """MACs per modelled second."""
        return self.macs / self.seconds if self.seconds else float("inf")

    def attainable(self, bytes_per_s: float) -> float:
        """MACs per second under the roof: of the array, or of DRAM at this intensity."""
        return min(self.roof, self.intensity * bytes_per_s)


@dataclass(frozen=True)
class Roofline:
    """The points of a step under the roofs of its accelerator; `bytes_per_s`: of DRAM."""

    cost: Cost
    network: str
    points: tuple[RooflinePoint, ...]
    roofs: tuple[Roof, ...]
    bytes_per_s: float


def peak(chip: Accelerator, x: Format, y: Format | None = None) -> float:
    """MACs per second of the whole machine on operands of these formats."""
    rate = chip.rate(x, x if y is None else y)
    return rate if chip.kind == "device" else rate * prod(chip.dims) * chip.clock_hz


def roofs(chip: Accelerator, multiplied: Iterable[tuple[str, float]] = ()) -> tuple[Roof, ...]:
    """A roof for each rate of the chip, the highest first: of the formats that its profile gives a rate, or (where all
    run at one) the common ones that it has; and of those `multiplied`, with their rates."""
    stated = [*chip.peak, *chip.speedup]
    found: dict[float, list[str]] = {}
    for name in (name for name in NAMED if (not stated or name in stated) and chip.supports(FORMATS[name])):
        found.setdefault(peak(chip, FORMATS[name]), []).append(name)
    for name, rate in dict.fromkeys(multiplied):
        x, _, y = name.partition("*")
        own = found.setdefault(rate, [])
        own += [part for part in dict.fromkeys((x, y or x)) if not any(part in names for names in found.values())]
        own += [name] * (not own)
    return tuple(Roof(tuple(formats), rate) for rate, formats in sorted(found.items(), reverse=True))


def points(cost: Cost) -> tuple[RooflinePoint, ...]:
    """Each pass of each layer that multiplies, in the order of the network."""
    multiplied: dict[tuple[str, str], tuple[str, float]] = {}
    for part in cost.parts:
        if part.operands is None:
            continue
        rate = peak(cost.chip, *part.operands)
        for i, layer in enumerate(part.index):
            for stage in part.counts[:, i].nonzero()[0]:
                multiplied[cost.table.names[layer], STAGES[stage]] = part.key.removeprefix("mac."), rate
    return tuple(
        RooflinePoint(
            row["layer"], row["pass"], formats, row["macs"], row["dram_bytes"], row["seconds"], row["joules"],
            row["bound"], roof,
        )
        for row in cost.rows
        if row["macs"] and (found := multiplied.get((row["layer"], row["pass"])))
        for formats, roof in [found]
    )  # fmt: skip


def roofline(
    profile: str | Accelerator,
    name: str,
    bits: Bits = None,
    batch: int = 256,
    model: str = "closed",
    *,
    hypothetical: bool = False,
) -> Roofline:
    """The roofline of one training step of a network (a name or a file); errors as `training_cost` and `network`.

    `bits`: None is the widest format that the accelerator has.
    """
    chip = load(profile)
    precision = parse_precision(FORMATS[chip.widest] if bits is None else bits)
    cost = training_cost(network(name), chip, precision, batch, model, hypothetical=hypothetical)
    found = points(cost)
    return Roofline(cost, name, found, roofs(chip, [(p.formats, p.roof) for p in found]), chip.dram_bits_per_s / 8)


def rows(found: Roofline) -> list[dict[str, Any]]:
    """The points as plain data, in base units."""
    return [
        {
            "accelerator": found.cost.chip.name,
            "network": found.network,
            "precision": found.cost.precision,
            "batch": found.cost.batch,
            "layer": p.layer,
            "pass": p.phase,
            "formats": p.formats,
            "macs": p.macs,
            "dram_bytes": p.bytes,
            "macs_per_byte": p.intensity if p.bytes else None,
            "seconds": p.seconds,
            "macs_per_s": p.rate,
            "roof_macs_per_s": p.roof,
            "attainable_macs_per_s": p.attainable(found.bytes_per_s),
            "bound": p.bound,
            "joules": p.joules,
        }
        for p in found.points
    ]
