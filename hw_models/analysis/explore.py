"""Energy, time and area of thousands of accelerators on one network, and their Pareto fronts.

Variants that share array, registers and formats are priced together by the closed formulas, a block at a time, on the
distinct rows of the network; clock, bandwidths and buffer sizes are arrays there. The result equals pricing each
variant alone (a test compares some).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_models.accelerator.area import area_mm2
from hw_models.accelerator.constant import Number
from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.sram_energy import SRAM_LAWS, sram_pj_per_bit
from hw_models.accelerator.toml_reader import read
from hw_models.analysis.design_space import Space
from hw_models.analysis.design_sweep import price_variants
from hw_models.cost.training_step import training_cost
from hw_models.errors import HardwareError
from hw_models.precision.formats import FORMATS, Precision, parse_precision
from hw_models.units import BITS_PER_KIB
from hw_models.workload.layer import CONTRACTIONS, KINDS, Layer
from hw_models.workload.shapes import Array, Shapes, shapes

OBJECTIVES = {"energy": "J", "latency": "s", "area": "mm2", "edp": "J s", "throughput": "images/s"}
MOST = ("throughput",)  # of these more is better
CAPACITY_POWER = 0.57  # of a memory's energy per bit, where its profile gives no law: that of the four CACTI laws


@dataclass(frozen=True)
class Explored:
    """Every variant of a space with its objectives, arrays [variants]; energies modelled, one training step."""

    space: Space
    network: str
    batch: int
    energy: Array  # J
    latency: Array  # s, as `Cost.seconds`
    area: Array  # mm2

    @property
    def edp(self) -> Array:
        """Energy-delay product of a step, J s."""
        return self.energy * self.latency

    @property
    def throughput(self) -> Array:
        """Images per second at most; of one batch size its front is that of the latency."""
        return self.batch / self.latency

    def objective(self, name: str) -> Array:
        """Raises `HardwareError` for an unknown one."""
        if name not in OBJECTIVES:
            raise HardwareError(f"unknown objective {name!r}; choose among {', '.join(OBJECTIVES)}")
        return np.asarray(getattr(self, name))

    def pareto(self, objectives: Sequence[str] = ("energy", "latency", "area")) -> list[int]:
        """Positions of the variants that no other of their format beats in one objective without losing in another.

        In order of the first objective. Formats differ in accuracy, which is no objective here: each has its own front.
        """
        values = np.stack([self.objective(name) * (-1 if name in MOST else 1) for name in objectives], axis=1)
        formats = self.space.column("format") if "format" in self.space.keys else [""] * len(values)
        best: list[int] = []
        for fmt in dict.fromkeys(formats):
            own = np.flatnonzero([f == fmt for f in formats])
            best += own[front(values[own])].tolist()
        return sorted(best, key=lambda i: tuple(values[i]))

    def row(self, i: int) -> dict[str, Any]:
        """One variant: the varied keys and its objectives."""
        chosen = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in zip(self.space.keys, self.space.variants[i], strict=True)
        }
        return {
            **chosen,
            "energy_j": float(self.energy[i]),
            "latency_s": float(self.latency[i]),
            "area_mm2": float(self.area[i]),
            "images_per_s": self.batch / float(self.latency[i]),
            "edp_js": float(self.edp[i]),
        }


def variant(space: Space, i: int) -> Accelerator:
    """One variant as an accelerator of its own, for `training_cost` by any reuse model."""
    chosen = dict(zip(space.keys, space.variants[i], strict=True))
    sizes = {k: np.array([v]) for k, v in chosen.items() if isinstance(v, float)}
    energies = {**{k: float(v[0]) for k, v in _memory_energies(space.base, sizes).items()}, **chosen}

    def number(key: str, now: Number) -> Number:
        return replace(now, value=float(energies[key])) if key in energies else now

    base = space.base
    memories = tuple(
        replace(
            m,
            bits=chosen.get(f"memory.{m.name}.kib", m.bits / BITS_PER_KIB) * BITS_PER_KIB,
            read=number(f"memory.{m.name}.read", m.read),
            write=number(f"memory.{m.name}.write", m.write),
            bits_per_cycle=chosen.get(f"memory.{m.name}.bits_per_cycle", m.bits_per_cycle),
            leakage=None if m.leakage is None else number(f"memory.{m.name}.leakage", m.leakage),
        )
        for m in base.memories
    )
    registers = {
        n: replace(r, bits=chosen.get(f"registers.{n}.bits", r.bits), pj_per_bit=number(f"registers.{n}", r.pj_per_bit))
        for n, r in base.registers.items()
    }
    return replace(
        base,
        name=f"{base.name}, variant {i}",
        dims=chosen.get("array.dims", base.dims),
        clock_hz=chosen.get("clock_ghz", base.clock_hz / 1e9) * 1e9,
        dram_bits_per_s=chosen.get("dram.gbytes_per_s", base.dram_bits_per_s / 8e9) * 8e9,
        dram=number("dram.pj_per_bit", base.dram),
        mac_points={n: number(f"mac.{n}", point) for n, point in base.mac_points.items()},
        ops={n: number(f"op.{n}", op) for n, op in base.ops.items()},
        network=None if base.network is None else number("network.pj_per_bit", base.network),
        registers=registers,
        memories=memories,
    )


def refined(
    found: Explored, positions: Sequence[int], layers: Sequence[Layer], model: str = "search"
) -> list[dict[str, Any]]:
    """Variants priced again by another reuse model: energy and latency of each of `positions`."""
    out = []
    for i in positions:
        chip = variant(found.space, i)
        named = found.space.column("format")[i] if "format" in found.space.keys else FORMATS[chip.widest]
        cost = training_cost(layers, chip, named, found.batch, model)
        out.append({"energy_j": cost.total, "latency_s": cost.seconds})
    return out


def front(values: Array) -> list[int]:
    """Rows that no other row beats (all columns at most as large, one smaller), in order of the first column.

    Of equal rows the first is kept.
    """
    order = np.lexsort(values.T[::-1])
    kept: list[int] = []
    best = np.empty((0, values.shape[1]))
    for i in order:
        if not (best <= values[i]).all(axis=1).any():
            kept.append(int(i))
            best = np.vstack([best, values[i]])
    return kept


def explore(space: Space, layers: Sequence[Layer], batch: int | None = None, network: str = "") -> Explored:
    """Price one training step of `layers` on every variant of the space.

    Raises `FormatError` for a format that the base does not have.
    """
    batch = space.batch if batch is None else batch
    energy, latency, area = np.zeros((3, len(space.variants)))
    for chip, precision, members in _groups(space):
        table, times = _distinct(shapes(layers), precision)
        values = {
            key: np.array([space.variants[i][j] for i in members], dtype=float)
            for j, key in enumerate(space.keys)
            if key not in ("array.dims", "format") and not key.startswith("registers.")
        }
        values = {**_memory_energies(chip, values), **values}
        energy[members], latency[members] = price_variants(
            table, chip, values, precision, float(batch), times, unused=True
        )
        area[members] = _areas(space, chip, precision, layers, members)
    return Explored(space, network, batch, energy, latency, area)


def _groups(space: Space) -> list[tuple[Accelerator, Precision, NDArray[np.int64]]]:
    """Chips of one array, registers and precision, with the variants that have them."""
    named = [k for k in space.keys if k in ("array.dims", "format") or k.startswith("registers.")]
    found: dict[tuple[Any, ...], list[int]] = {}
    for i, values in enumerate(
        zip(*(space.column(k) for k in named), strict=True) if named else [()] * len(space.variants)
    ):
        found.setdefault(values, []).append(i)
    out = []
    for values, members in found.items():
        chosen = dict(zip(named, values, strict=True))
        chip = space.base
        registers = {n: replace(r, bits=chosen.get(f"registers.{n}.bits", r.bits)) for n, r in chip.registers.items()}
        chip = replace(chip, dims=chosen.get("array.dims", chip.dims), registers=registers)
        out.append((chip, parse_precision(chosen.get("format", FORMATS[chip.widest])), np.array(members)))
    return out


def _distinct(table: Shapes, precision: Precision) -> tuple[Shapes, Array]:
    """The table with equal rows once, and how often each occurs.

    A row's quantizers depend on the widths of its neighbors' outputs; where those differ every row stays.
    """
    handed = {_handed(precision, name, KINDS[kind]) for name, kind in zip(table.names, table.kind, strict=True)}
    if not precision.uniform or len(handed) > 1:
        return table, np.ones(len(table.names))
    _, first, times = np.unique(table.columns, axis=1, return_index=True, return_counts=True)
    order = np.argsort(first)
    first, often = first[order], times[order].astype(np.float64)
    return Shapes(tuple(table.names[i] for i in first), table.kind[first], table.columns[:, first]), often


def _handed(precision: Precision, name: str, kind: str) -> tuple[float, float]:
    """Bits per element of a row's output, and of the gradient of its input."""
    if kind in CONTRACTIONS:
        rule = precision.rule(name, kind)
        return rule.output.bits, rule.activation_gradient.bits
    row = precision.pointwise_row(name, kind)
    return row.forward.bits, row.backward.bits


def _memory_energies(chip: Accelerator, values: dict[str, Array]) -> dict[str, Array]:
    """pJ per bit of the memories whose capacity varies and whose energy is not varied itself."""
    out = {}
    stated = read(chip.path).data.get("memory", {})
    for m in chip.memories:
        if (kib := values.get(f"memory.{m.name}.kib")) is None:
            continue
        law = stated.get(m.name, {}).get("sram_law")
        width = float(stated.get(m.name, {}).get("access_bits", 64))
        own = m.bits / BITS_PER_KIB
        for side, number in (("read", m.read), ("write", m.write)):
            if law in SRAM_LAWS:
                scale = np.array([sram_pj_per_bit(law, k, width) for k in kib]) / sram_pj_per_bit(law, own, width)
            else:
                scale = (kib / own) ** CAPACITY_POWER
            out[f"memory.{m.name}.{side}"] = number.value * scale
        if m.leakage is not None:
            out[f"memory.{m.name}.leakage"] = m.leakage.value * kib / own
    return out


def _areas(
    space: Space, chip: Accelerator, precision: Precision, layers: Sequence[Layer], members: NDArray[np.int64]
) -> Array:
    """mm2 of each variant; its multipliers are those of the formats that are multiplied."""
    rows = [row.name for row in layers if row.macs]
    formats = list({f.name: f for pair in precision.on(rows).multiplied(rows) for f in pair}.values())
    parts = area_mm2(chip, formats)
    total = np.full(len(members), sum(parts.values()))
    for m in chip.memories:
        key = f"memory.{m.name}.kib"
        if key in space.keys:
            kib = np.array([space.variants[i][space.keys.index(key)] for i in members])
            total = total + parts[m.name] * (kib * BITS_PER_KIB / m.bits - 1)
    return total
