"""`Cost`, the result of pricing a training step: uses of each constant by pass and layer, and the sums over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hw_models.accelerator.constant import Number
from hw_models.accelerator.description import Accelerator
from hw_models.errors import ConservationError
from hw_models.precision.formats import PASSES, Format
from hw_models.units import PJ, show_joules
from hw_models.workload.shapes import Array, Shapes

STAGES = (*PASSES, "update")  # the pass axis of a cost
LIMITS = ("compute", "buffer", "dram")  # what can set the time of a row
COMPONENTS = ("mac", "register", "interconnect", "buffer", "dram", "vector", "quantiser", "static")


@dataclass(frozen=True)
class ConstantUse:
    """How often one constant is used: counts [passes, ..., layers of `index`]. operands: the formats of a product."""

    key: str
    component: str
    constant: Number
    counts: Array
    index: Any  # layer positions of the last axis, or None for all
    operands: tuple[Format, Format] | None = None


@dataclass(frozen=True)
class Cost:
    """The cost of one step. Energies in J (modelled), times in s (a roofline: lower bound), sizes in bytes."""

    chip: Accelerator
    table: Shapes
    precision: str
    batch: float
    model: str
    parts: tuple[ConstantUse, ...]
    dram_bits: Array  # [passes, ..., layers]
    row_limits: Array  # [limits, passes, ..., layers], s that each would take alone (DRAM: beside `row_waits`)
    row_seconds: Array
    row_macs: Array
    hypothetical: tuple[str, ...] = ()  # formats that were multiplied although the accelerator lacks them
    row_waits: Array | None = None  # [passes, ..., layers], s in which the array waits for a load before it goes on
    row_ports: Array | None = None  # [memories, passes, ..., layers], s of each memory's ports alone, innermost first

    def __repr__(self) -> str:
        step = f"{self.precision}, {self.batch:g} images, modelled on {self.chip.name} ({self.model})"
        if self.hypothetical:
            step += f", hypothetical: it has no {', '.join(self.hypothetical)}"
        if self.table.columns.ndim > 2:
            return f"<Cost of {self.each.size} candidates: {step}>"
        return f"<Cost {show_joules(self.total, *self.band)}: {step}>"

    @cached_property
    def uses(self) -> tuple[float, ...]:
        """How often each part's constant is used."""
        return tuple(float(p.counts.sum()) for p in self.parts)

    @cached_property
    def by_constant(self) -> dict[str, float]:
        """Joules by constant of the profile."""
        out: dict[str, float] = {}
        for p, n in zip(self.parts, self.uses, strict=True):
            out[p.key] = out.get(p.key, 0.0) + n * p.constant.value * PJ
        return out

    @cached_property
    def numbers(self) -> dict[str, Number]:
        """The constants in use, with their provenance."""
        return {p.key: p.constant for p in self.parts}

    @cached_property
    def joules(self) -> Array:
        """Joules [component, pass, ..., layer]."""
        out = np.zeros((len(COMPONENTS), *self.row_macs.shape))
        for p in self.parts:
            where = out[COMPONENTS.index(p.component)]
            add = p.counts * (p.constant.value * PJ)
            if p.index is None:
                where[: add.shape[0]] += add
            else:
                where[: add.shape[0], ..., p.index] += add
        return out

    @property
    def total(self) -> float:
        """Joules of one training step."""
        return sum(self.by_constant.values())

    @cached_property
    def band(self) -> tuple[float, float]:
        """The 90 % band of `total`."""
        from hw_models.cost.uncertainty import band

        return band(self)

    @property
    def derived_share(self) -> float:
        """Share of the energy that rests on derived constants (computed from published values)."""
        from hw_models.cost.uncertainty import derived_share

        return derived_share(self)

    @property
    def each(self) -> Array:
        """Joules of every candidate of a batched table, [...]."""
        return sum((p.counts.sum(axis=(0, -1)) * (p.constant.value * PJ) for p in self.parts), np.zeros(()))

    @property
    def components(self) -> dict[str, float]:
        """Joules by component; sums to `total`."""
        out = dict.fromkeys(COMPONENTS, 0.0)
        for p, n in zip(self.parts, self.uses, strict=True):
            out[p.component] += n * p.constant.value * PJ
        return out

    @property
    def passes(self) -> dict[str, float]:
        """Joules by pass; sums to `total`."""
        axes = tuple(i for i in range(self.joules.ndim) if i != 1)
        return dict(zip(STAGES, self.joules.sum(axis=axes).tolist(), strict=True))

    @property
    def layers(self) -> dict[str, float]:
        """Joules by layer; sums to `total`."""
        return dict(zip(self.table.names, self.joules.sum(axis=(0, 1)).tolist(), strict=True))

    @property
    def macs(self) -> float:
        """Multiply-accumulates of the step, all three passes (FLOPs = 2 x)."""
        return float(self.row_macs.sum())

    @property
    def bytes(self) -> float:
        """Bytes to and from DRAM."""
        return float(self.dram_bits.sum()) / 8

    @property
    def seconds(self) -> float:
        """Roofline time of the step: no step can be faster, a real one is slower."""
        return float(self.row_seconds.sum())

    @property
    def images_per_s(self) -> float:
        """The most images per second: the batch over `seconds`."""
        return self.batch / self.seconds if self.seconds else 0.0

    @property
    def energy_delay(self) -> float:
        """Energy-delay product of the step, J s; its band is that of the energy, since times have none."""
        return self.total * self.seconds

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds of the rows that wait for the array, a buffer or DRAM; sums to `seconds`."""
        slowest = self.row_limits.argmax(axis=0)
        return {name: float(self.row_seconds[slowest == i].sum()) for i, name in enumerate(LIMITS)}

    @property
    def bound(self) -> str:
        """What most of the step's time waits for."""
        return max(self.bounds.items(), key=lambda item: item[1])[0]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per layer and pass that does anything; energies in J, `bound` = what limits its time."""
        out = []
        energy, slowest = self.joules, self.row_limits.argmax(axis=0)
        for i, name in enumerate(self.table.names):
            for j, stage in enumerate(STAGES):
                parts = energy[:, j, i]
                if parts.any() or self.row_macs[j, i]:
                    out.append(
                        {
                            "layer": name,
                            "pass": stage,
                            "macs": int(self.row_macs[j, i]),
                            "dram_bytes": float(self.dram_bits[j, i]) / 8,
                            "seconds": float(self.row_seconds[j, i]),
                            "bound": LIMITS[slowest[j, i]],
                            "waits_for": self._waits_for(int(slowest[j, i]), j, i),
                            "joules": float(parts.sum()),
                            **{c: float(e) for c, e in zip(COMPONENTS, parts, strict=True)},
                        }
                    )
        return out

    def _waits_for(self, slowest: int, stage: int, layer: int) -> str:
        """Which level sets the pace of a row: array, a memory by name, dram; loading if most of it is waited for."""
        if self.row_waits is not None and self.row_waits[stage, layer] > self.row_limits[slowest, stage, layer]:
            return "loading"
        if LIMITS[slowest] == "buffer" and self.row_ports is not None:
            return self.chip.memories[int(self.row_ports[:, stage, layer].argmax())].name
        return "array" if LIMITS[slowest] == "compute" else LIMITS[slowest]

    def check(self) -> None:
        """Raise `ConservationError` unless rows, passes, layers and components sum to the total, and the uses of the
        mac.* and dram.* constants are the MACs and DRAM bits that are reported."""
        totals = [
            (name, sum(parts.values()), self.total)
            for name, parts in (("components", self.components), ("passes", self.passes), ("layers", self.layers))
        ]
        totals += [
            (
                name,
                sum(n for p, n in zip(self.parts, self.uses, strict=True) if p.key.startswith(key)),
                float(told.sum()),
            )
            for name, key, told in (
                ("charged MACs", "mac.", self.row_macs),
                ("charged DRAM bits", "dram.", self.dram_bits),
            )
        ]
        for name, found, total in totals:
            if not abs(found - total) <= 1e-9 * abs(total):  # written so that nan is an error too
                raise ConservationError(f"{name} sum to {found}, the total is {total}")
