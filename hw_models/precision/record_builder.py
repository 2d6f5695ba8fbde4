"""Builds a precision record from the cells (pass, role) -> format of each layer.

Used by the presets of this package and by a training that writes its own record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hw_models.precision.record_schema import CLIPPED, OPERAND_ROLES, UPDATE_ROLES


class Cell(NamedTuple):
    """A format by name, the rounding into it, and whether its blocks run along the axis that a pass sums over."""

    format: str = "fp32"
    rounding: str = "nearest"
    blocked: bool = False
    hadamard: bool = False
    clipped: bool = False  # its derivative is 0 where its value was clipped

    @property
    def rounds(self) -> bool:
        return self.format != "fp32"

    @property
    def values(self) -> Cell:
        """What decides its values: all but its derivative."""
        return self._replace(clipped=False)


Cells = Mapping[tuple[str, str], Cell]
SECOND = {  # the pass that may use the rounded copy of another one
    ("input_gradient", "weight"): "forward",
    ("weight_gradient", "activation"): "forward",
    ("weight_gradient", "error"): "input_gradient",
}


def build(
    name: str,
    default: Cells,
    layers: Mapping[str, Cells],
    *,
    formats: Mapping[str, Mapping[str, Any]],
    accumulator: str,
    one_dimensional: Cell,
    frozen: Sequence[str] = (),
    covered: Sequence[str] | None = None,
    pointwise: Mapping[str, Cells] | None = None,
    optimizer: str = "sgd",
    partial_sums: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record, plain JSON.

    default, layers   cells of any layer, and of the layers by name ("@first" and "@last" too)
    formats           data of the formats by name
    frozen            layers whose weights do not change: they are never put on the grid that weights are stored on
    covered           the layers that round at all; other products are fp32. None: all convolutions and linear layers
    optimizer         "sgd", "adam" or "adamw"
    partial_sums      step, chunk, rounding and total of simulated accumulators; None: sums in fp32
    pointwise         module, or "@norm", "@activation", "@pool" -> its cells
    """
    if optimizer == "sgd":  # which has no second moment
        default, layers = _without_second(default), {name: _without_second(cells) for name, cells in layers.items()}
    usual = {**_entry(default, accumulator, trained=True), "update": _update(default)}
    usual_rounding = roundings(default)
    own: dict[str, Any] = {}
    for layer, cells in layers.items():
        trained = layer not in frozen
        entry = {**_entry(cells, accumulator, trained), "update": _update(cells, trained)}
        for key in {"hadamard", "clipped"} & usual.keys():
            entry.setdefault(key, [])
        rounding = roundings(cells, trained)
        if (entry, rounding) != (usual, usual_rounding):
            own[layer] = {**entry, "quantise": rounding}
    thin = {"one_dimensional": one_dimensional.rounding} if one_dimensional.rounds else {}
    top = {phase: dict(roles) for phase, roles in usual_rounding.items()}
    if thin:
        top["update"] = top.get("update", {}) | thin
    made: dict[str, Any] = {
        "schema": 2,
        "name": name,
        "formats": {fmt: dict(data) for fmt, data in sorted(formats.items())},
        "default": {key: value for key, value in usual.items() if key != "update"},
        "layers": own,
        "update": {**_update(default), "one_dimensional": one_dimensional.format},
        "quantise": top,
    }
    if optimizer != "sgd":
        made["optimizer"] = optimizer
    if partial_sums is not None:
        made["partial_sums"] = dict(partial_sums)
    if covered is not None:
        made["covered"] = list(covered)
    if rounded := {key: _pointwise(cells) for key, cells in (pointwise or {}).items()}:
        made["pointwise"] = rounded
    return made


def roundings(cells: Cells, trained: bool = True) -> dict[str, dict[str, str]]:
    """Pass -> role -> rounding of the executed quantizers: a rounded copy that a second pass shares is made once."""
    found: dict[str, dict[str, str]] = {}
    for (phase, role), cell in cells.items():
        if not cell.rounds or (phase in ("weight_gradient", "update") and not trained):
            continue
        first = SECOND.get((phase, role))
        if first is not None and cells[first, role].values == cell.values and not cell.blocked:
            continue
        found.setdefault(phase, {})[role] = cell.rounding
    return found


def _entry(cells: Cells, accumulator: str, trained: bool) -> dict[str, Any]:
    def operand(phase: str, role: str) -> str:
        cell = cells[phase, role]
        if role == "weight" and not cell.rounds and trained:  # a weight kept in a format is on its grid in every pass
            cell = cells["update", "stored"]
        return cell.format

    entry: dict[str, Any] = {
        phase: {role: operand(phase, role) for role in sorted(pair, key=ORDER.index)}
        for phase, pair in OPERAND_ROLES.items()
    }
    plain = {fmt for phase in OPERAND_ROLES for fmt in entry[phase].values()} == {"fp32"}
    if transformed := [role for role in ("activation", "error") if cells["weight_gradient", role].hadamard and trained]:
        entry["hadamard"] = transformed
    clipped = [role for role in CLIPPED if cells["forward", role].clipped and (trained or role != "weight")]
    if clipped:
        entry["clipped"] = clipped
    entry["accumulator"] = "fp32" if plain else accumulator
    entry["output"] = cells["forward", "output"].format
    entry["activation_gradient"] = cells["input_gradient", "activation_gradient"].format
    return entry


ORDER = ("weight", "activation", "error")


SECOND_MOMENT = ("update", "second_moment")


def _update(cells: Cells, trained: bool = True) -> dict[str, str]:
    roles = (*UPDATE_ROLES, *(["second_moment"] if SECOND_MOMENT in cells else []))
    return {role: cells["update", role].format if trained else "fp32" for role in roles}


def _without_second(cells: Cells) -> Cells:
    return {key: cell for key, cell in cells.items() if key != SECOND_MOMENT}


def _pointwise(cells: Cells) -> dict[str, Any]:
    names = {"forward": "forward", "input_gradient": "backward"}
    clipped = {"clipped": True} if cells["forward", "pointwise"].clipped else {}
    return (
        {names[phase]: cell.format for (phase, _), cell in cells.items()}
        | {"quantise": {names[phase]: cell.rounding for (phase, _), cell in cells.items() if cell.rounds}}
        | clipped
    )
