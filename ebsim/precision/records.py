"""The precision record (what the hardware model prices) and the plan (the same facts as a table for people).

The record says, per pass, in which format each operand enters the arithmetic; which roles a quantizer really works
on and how; which accumulator is declared. It is made from the table that the layers themselves execute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ebsim.precision.backends import PASSES, Backend, backend
from ebsim.precision.formats.number_format import FP32, Operand, operand

Cells = Mapping[tuple[str, str], Operand]
GEMMS = ("forward", "input_gradient", "weight_gradient")


def operand_names(cells: Cells, phase: str) -> dict[str, str]:
    """Role -> name of the format that enters this pass. A weight kept in a format is on its grid in every pass."""
    found = {}
    for role in PASSES[phase]:
        chosen = cells[phase, role]
        if role == "weight" and chosen.untouched:
            chosen = cells["update", "stored"]
        if role != "output":
            found[role] = chosen.format.name
    return found


def _entry(cells: Cells, accumulator: str) -> dict[str, Any]:
    entry: dict[str, Any] = {phase: operand_names(cells, phase) for phase in GEMMS}
    plain = {name for phase in GEMMS for name in entry[phase].values()} == {"fp32"}
    entry["accumulator"] = "fp32" if plain else accumulator
    entry["output"] = cells["forward", "output"].format.name
    return entry


def _rounded(tables: Iterable[Cells]) -> dict[str, str]:
    """Role -> rounding, of the roles a quantizer works on in any of these tables (stochastic where any is)."""
    found: dict[str, str] = {}
    for cells in tables:
        for (_, role), o in cells.items():
            if not o.untouched and found.get(role) != "stochastic":
                found[role] = o.rounding
    return found


def record(chosen: Backend | str | Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """The record of a backend on a network whose Conv2d and Linear layers are `names`, in order; plain JSON."""
    chosen = backend(chosen)
    default = dataclasses.replace(chosen, rules=()).cells("", [""])
    table = chosen.table(list(names))
    everything = [default, *table.values()]
    update, rounded = operand_names(default, "update"), _rounded(everything)
    layers: dict[str, Any] = {}
    for name, cells in table.items():
        entry = _entry(cells, chosen.accumulator)
        if (own := operand_names(cells, "update")) != update:
            entry["update"] = own
        if (own := _rounded([cells])) != rounded:
            entry["quantise"] = own
        if entry != _entry(default, chosen.accumulator):
            layers[name] = entry
    thin = operand(chosen.one_dimensional)
    operands = [o for cells in everything for o in cells.values()] + [thin]
    used = {o.format.name: o.format for o in operands} | {"fp32": FP32}
    return {
        "schema": 1,
        "name": chosen.name,
        "formats": {name: used[name].describe() for name in sorted(used)},
        "default": _entry(default, chosen.accumulator),
        "layers": layers,
        "update": update | {"one_dimensional": thin.format.name},
        "quantise": rounded,
    }


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a backend would do on a network, layer by layer."""

    backend: Backend
    table: Mapping[str, Cells]
    shapes: Mapping[str, tuple[int, ...]]
    uncovered: Sequence[str]

    def rows(self) -> list[dict[str, str]]:
        """One row per layer: "pass/role" -> operand ("e5m2 stochastic"), fp32 included."""
        return [
            {"layer": name, "weight shape": "x".join(map(str, self.shapes[name]))}
            | {f"{phase}/{role}": str(o) for (phase, role), o in cells.items()}
            for name, cells in self.table.items()
        ]

    def __str__(self) -> str:
        if self.backend.untouched:
            return f"precision {self.backend.name}: nothing is rounded"
        head = ("layer", "weights", "forward w*a", "output", "input grad w*e", "weight grad a*e", "update g,m,w")
        lines = [head]
        for name, cells in self.table.items():
            short = {cell: _short(o) for cell, o in cells.items()}
            lines.append(
                (
                    name,
                    "x".join(map(str, self.shapes[name])),
                    " * ".join(short["forward", r] for r in ("weight", "activation")),
                    short["forward", "output"],
                    " * ".join(short["input_gradient", r] for r in ("weight", "error")),
                    " * ".join(short["weight_gradient", r] for r in ("activation", "error")),
                    ", ".join(short["update", r] for r in PASSES["update"]),
                )
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        used = {o.format.name: o.format for cells in self.table.values() for o in cells.values()}
        bits = ", ".join(f"{name} {fmt.bits}" for name, fmt in sorted(used.items()))
        notes = [
            f"bits: {bits}; ~ rounds stochastically; accumulator declared {self.backend.accumulator}",
            f"gamma, beta, biases: {self.backend.one_dimensional}",
        ]
        if self.uncovered:
            notes.append(f"not covered, stays fp32: {', '.join(self.uncovered)}")
        return "\n".join([f"precision {self.backend.name}", *text, *notes])


def _short(o: Operand) -> str:
    return o.format.name + ("~" if o.stochastic else "")


def plan(model: Any, which: str | Mapping[str, Any] | Backend) -> Plan:
    """The layer x role x pass table of a backend on a network (any device, meta included); nothing is trained."""
    from ebsim.precision.rounded_layers import layers, uncovered

    found = layers(model)
    chosen = backend(which)
    shapes = {name: tuple(module.weight.shape) for name, module in found.items()}
    return Plan(chosen, chosen.table(list(found)), shapes, uncovered(model))
