"""The mapping of one layer and pass, found or given, and what it costs level by level: what stands behind `hw map`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.accelerator.description import OPERANDS, Accelerator
from hw_models.accelerator.loader import UNLIMITED, load
from hw_models.analysis.mapping_checks import check_mapping
from hw_models.analysis.mapping_file import MappingError, MappingFile, indices_of, names_of, read_mapping, text_of
from hw_models.cost.step_cost import COMPONENTS, LIMITS, Cost
from hw_models.cost.time import port_bits
from hw_models.cost.training_step import assemble, contractions
from hw_models.errors import HardwareError, did_you_mean
from hw_models.mapping.array_mapping import WAYS
from hw_models.mapping.nest import of_closed, of_search, only, run
from hw_models.mapping.problems import problems
from hw_models.mapping.spatial import grid
from hw_models.mapping.traffic import Mapped, Widths, steps
from hw_models.precision.formats import PASSES, Precision, parse_precision
from hw_models.precision.record_schema import OPERAND_ROLES
from hw_models.workload.reference_networks import network
from hw_models.workload.shapes import Shapes, shapes
from hw_models.workload.training_passes import Passes


@dataclass(frozen=True)
class Mapping:
    """A priced mapping: its file, and the joules, seconds and levels of that one layer and pass."""

    file: MappingFile
    chip: Accelerator
    precision: str
    groups: float
    macs: float
    joules: float
    seconds: float
    bound: str
    components: dict[str, float]
    array_use: float  # share of the multipliers that work in a step of the array
    levels: tuple[dict[str, Any], ...]  # innermost first; DRAM last

    def row(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "accelerator": self.chip.name, "network": self.file.network, "layer": self.file.layer,
            "pass": self.file.which, "batch": self.file.batch, "precision": self.precision, "model": self.file.model,
            "groups": self.groups, "macs": self.macs, "joules": self.joules, "seconds": self.seconds,
            "cycles": self.seconds * self.chip.clock_hz, "bound": self.bound, "components": self.components,
            "array_utilization": self.array_use, "levels": list(self.levels), "mapping": text_of(self.file),
        }  # fmt: skip


@dataclass(frozen=True)
class _Case:
    """A layer and pass in its network, ready to be mapped and priced."""

    table: Shapes
    chip: Accelerator
    precision: Precision
    batch: float
    stage: int
    layer: int
    place: int
    every: Passes  # all contractions of the network
    p: Passes  # this one alone
    bits: Widths


def _case(chip: Accelerator, name: str, layer: str, which: str, bits: str | None, batch: float) -> _Case:
    table = shapes(network(name))
    stage = PASSES.index(which)
    precision = parse_precision(chip.widest if bits is None else bits)
    p, widths = contractions(table, chip, precision, batch)
    products = [table.names[i] for i in p.index]
    if layer not in products:
        told = f"{name} has no layer {layer!r}{did_you_mean(layer, products)}"
        if layer in table.names:
            told = f"{layer} multiplies nothing; a mapping is of a convolution or matrix product"
        raise HardwareError(told)
    place = products.index(layer)
    if not p.macs[stage, place]:
        raise HardwareError(f"{layer} has no {which}: the gradient of the network's input is not computed")
    return _Case(table, chip, precision, batch, stage, int(p.index[place]), place, p, only(p, stage, place), widths)


def map_layer(
    profile: str | Accelerator,
    name: str,
    layer: str,
    which: str = "forward",
    bits: str | None = None,
    batch: float = 256,
    model: str = "search",
    *,
    hypothetical: bool = False,
) -> Mapping:
    """The mapping that `search` (or `closed`) finds for one layer and pass of a network, priced.

    Raises `HardwareError` for a layer or pass that the network lacks.
    """
    if model not in ("search", "closed"):
        raise HardwareError(f"no mapping by {model!r}; search or closed")
    if which not in PASSES:
        raise HardwareError(f"no pass {which!r}{did_you_mean(which, PASSES)}")
    chip = load(profile)
    case = _case(chip, name, layer, which, bits, float(batch))
    if model == "search":
        nest = of_search(case.every, case.bits, chip, case.stage, case.place)
    else:
        nest = of_closed(case.every, case.bits, chip, case.stage, case.place)
    q, _ = problems(case.p, case.bits, chip)
    sizes = tuple(q.loops[:, 0].tolist())
    names, outer, trips = names_of(which), sizes, []
    for level in nest.levels if model == "search" else ():
        trips.append({names[i]: float(np.ceil(outer[i] / level.tile[i] - 1e-9)) for i in level.order})
        outer = level.tile
    told = profile if isinstance(profile, str) else chip.path
    found = MappingFile(told, name, layer, which, float(batch), bits, model, sizes, nest, tuple(trips))
    return _priced(found, case, hypothetical)


def price_mapping(path: str | Path, profile: str | Accelerator | None = None, *, hypothetical: bool = False) -> Mapping:
    """The mapping in a file, priced on its own accelerator or on `profile`.

    Raises `MappingError` with the file, level and loop of what does not fit.
    """
    given = read_mapping(path)
    chip = load(given.hardware if profile is None else profile)
    if profile is not None:
        given = replace(given, hardware=profile if isinstance(profile, str) else chip.path)
    case = _case(chip, given.network, given.layer, given.which, given.bits, given.batch)
    q, _ = problems(case.p, case.bits, chip)
    try:
        check_mapping(given, q, chip)
    except MappingError as error:
        raise MappingError(f"{path}: {error}") from error
    return _priced(given, case, hypothetical)


def _priced(found: MappingFile, case: _Case, hypothetical: bool) -> Mapping:
    mapped = run(case.p, case.bits, case.chip, found.nest)
    cost = assemble(case.table, case.chip, case.precision, case.batch, found.model, hypothetical, mapped=mapped)
    at = case.stage, case.layer
    energy = cost.joules[:, case.stage, case.layer]
    macs, cycles = float(case.p.macs[case.stage, case.place]), _array_cycles(case, mapped)
    return Mapping(
        found,
        case.chip,
        case.precision.name,
        float(case.p.groups[case.stage, case.place]),
        macs,
        float(energy.sum()),
        float(cost.row_seconds[at]),
        LIMITS[int(cost.row_limits[(slice(None), *at)].argmax())],
        {c: float(e) for c, e in zip(COMPONENTS, energy, strict=True) if e},
        macs / cycles / float(np.prod(case.chip.dims)) if cycles else 0.0,
        (*_memories(found, case, mapped, cost), _dram(case, mapped, cost)),
    )


def _array_cycles(case: _Case, mapped: Mapped) -> float:
    if case.chip.kind == "device":
        return 0.0
    taken = steps(case.p, grid(case.p, case.chip)) if mapped.steps is None else mapped.steps
    return float(taken[case.stage, case.place])


def _memories(found: MappingFile, case: _Case, mapped: Mapped, cost: Cost) -> list[dict[str, Any]]:
    """What each memory holds, moves and costs."""
    rows = []
    j, i = case.stage, case.place
    seconds = float(cost.row_seconds[j, case.layer])
    cycles = seconds * case.chip.clock_hz
    array = case.chip.kind == "array"
    for number, (memory, (reads, writes)) in enumerate(
        zip(case.chip.memories, port_bits(case.p, case.bits, case.chip, mapped), strict=True)
    ):
        read, written = float(reads[j, i]), float(writes[j, i])
        moved = mapped.boundaries[number + 1].only(memory.holds)
        row: dict[str, Any] = {
            "memory": memory.name,
            "capacity_bytes": memory.bits / 8,
            "from_outside_bytes": float(moved.inward[j, i]) / 8,
            "to_outside_bytes": float(moved.outward[j, i]) / 8,
            "read_bytes": read / 8,
            "written_bytes": written / 8,
            "bits_per_cycle": (read + written) / cycles if cycles else 0.0,
            "joules": (read * memory.read.value + written * memory.write.value) * 1e-12 if array else 0.0,
        }
        if memory.write_bits_per_cycle is not None:
            row["ports_bits_per_cycle"] = [memory.bits_per_cycle, memory.write_bits_per_cycle]
            busy = max(read / memory.bits_per_cycle, written / memory.write_bits_per_cycle)
        else:
            row["ports_bits_per_cycle"] = [memory.bits_per_cycle] if memory.bits_per_cycle < UNLIMITED else []
            busy = (read + written) / memory.bits_per_cycle if memory.bits_per_cycle < UNLIMITED else 0.0
        row["port_utilization"] = busy / cycles if cycles else 0.0
        if mapped.tiles:
            tile = {
                o: float(t[j, i]) / 8 for o, t in zip(OPERANDS, mapped.tiles[number], strict=True) if o in memory.holds
            }
            row |= {"tile_bytes": tile, "utilization": 8 * sum(tile.values()) / memory.bits}
        rows.append(row)
    return rows


def _dram(case: _Case, mapped: Mapped, cost: Cost) -> dict[str, Any]:
    j, i = case.stage, case.place
    outside, seconds = mapped.to_dram(case.chip), float(cost.row_seconds[j, case.layer])
    read, written = float(outside.inward[j, i]), float(outside.outward[j, i])
    energy = (read * case.chip.dram_read.value + written * case.chip.dram_write.value) * 1e-12
    return {
        "memory": "dram",
        "read_bytes": read / 8,
        "written_bytes": written / 8,
        "gbytes_per_s": (read + written) / 8e9 / seconds if seconds else 0.0,
        "port_utilization": (read + written) / case.chip.dram_bits_per_s / seconds if seconds else 0.0,
        "joules": energy,
        "besides_joules": float(cost.joules[COMPONENTS.index("dram"), j, case.layer]) - energy,
    }


def picture(m: Mapping) -> list[str]:
    """The loop nest in lines, outermost first; of the closed formulas the blocks that each level works through."""
    file, names, index = m.file, names_of(m.file.which), indices_of(m.file.which)
    called = dict(zip(OPERANDS, (*(f"{role}s" for role in OPERAND_ROLES[file.which]), "sums"), strict=True))
    lines, depth = [], 0
    groups = f", {m.groups:g} groups one after another" if m.groups > 1 else ""
    lines.append(" ".join(f"{n} {v:,.6g}" for n, v in zip(names, file.problem, strict=True)) + groups)
    if file.nest.blocks:
        letters = [index["g1"], index["g2"], index["red"]]
        named = [level.memory for level in reversed(file.nest.levels)]
        where = (["registers"] if len(file.nest.blocks) > len(named) else []) + named
        for name, block in reversed(list(zip(where, file.nest.blocks, strict=True))):
            lines.append(
                f"{name}: blocks of " + ", ".join(f"{n} {v:,.6g}" for n, v in zip(letters, block, strict=True))
            )
        return lines
    for level, trips in zip(file.nest.levels, file.trips, strict=True):
        for name, n in trips.items():
            size = level.tile[names.index(name)]
            lines.append("  " * depth + f"for {name} in {n:,.0f} x {size:,.6g}")
            depth += 1
        told = next(r for r in m.levels if r["memory"] == level.memory)
        kept = ", ".join(f"{called[o]} {b / 1024:,.4g}" for o, b in told.get("tile_bytes", {}).items())
        lines.append("  " * depth + f"[{level.memory}] KiB: {kept} ({100 * told['utilization']:.0f} % full)")
    if file.nest.registers:
        stays, spans, innermost = WAYS[file.nest.way]
        over = ", ".join(f"{index[i]} {n:,.0f}" for i, n in zip(spans, file.nest.steps, strict=True))
        lines.append(
            "  " * depth + f"[registers] {called[stays]} stay over steps of {over}; {index[innermost]} innermost"
        )
        unrolled = m.chip.unroll[file.which]
        shown = ", ".join(
            f"{a if isinstance(a, str) else ' '.join(a)} over {d}" for d, a in zip(m.chip.dims, unrolled, strict=True)
        )
        lines.append("  " * depth + f"[array] {shown} ({100 * m.array_use:.0f} % of the multipliers at work)")
    return lines


def export(m: Mapping, path: str | Path) -> Path:
    """Write the mapping to a new file; raises `HardwareError` if it exists or cannot be written."""
    target = Path(path)
    if target.suffix != ".toml":
        raise HardwareError(f"{target}: a mapping's file ends in .toml")
    title = f"# {m.file.layer} of {m.file.network}, {m.file.which}, batch {m.file.batch:g}, {m.precision}, "
    result = f"on {m.chip.name}: {m.joules:.6g} J (modelled), {m.seconds:.6g} s\n"
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(title + result + text_of(m.file))
    except FileExistsError as error:
        raise HardwareError(f"{target}: exists already; choose another name") from error
    except OSError as error:
        raise HardwareError(f"{target}: cannot be written ({error.strerror})") from error
    return target
