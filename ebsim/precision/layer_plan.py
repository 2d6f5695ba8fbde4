"""The table layer x role x pass -> number format of a backend on a network, for display; nothing is applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ebsim.precision.backends import PASSES, Backend
from ebsim.precision.formats.number_format import Operand
from ebsim.precision.registry import backend

Cells = Mapping[tuple[str, str], Operand]


@dataclasses.dataclass(frozen=True)
class PrecisionPlan:
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


def plan(model: Any, which: str | Mapping[str, Any] | Backend) -> PrecisionPlan:
    """The layer x role x pass table of a backend on a network (any device, meta included); nothing is trained."""
    from ebsim.precision.rounded_layers import layers, uncovered

    found = layers(model)
    chosen = backend(which)
    shapes = {name: tuple(module.weight.shape) for name, module in found.items()}
    return PrecisionPlan(chosen, chosen.table(list(found)), shapes, uncovered(model))
