"""Validates a precision record: its keys and values; an unknown key is an error that names the nearest known one.

An ignored key would be priced as fp32, so nothing unknown is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hw_models.errors import did_you_mean

OPERAND_ROLES = {  # the roles that play (x, y) in the contraction of each pass, see hw_models.workload.training_passes
    "forward": ("activation", "weight"),
    "input_gradient": ("error", "weight"),
    "weight_gradient": ("activation", "error"),
}
UPDATE_ROLES = ("gradient", "momentum", "stored")
UPDATE = (*UPDATE_ROLES, "one_dimensional")
OPTIMIZERS = ("sgd", "adam", "adamw")  # sgd: with momentum; the other two keep a second moment as well
QUANTISED = ("weight", "activation", "error", "output", *UPDATE)  # in schema 1
ROUNDED = {  # in schema 2: the roles that a quantizer may work on in each pass
    "forward": ("weight", "activation", "output"),
    "input_gradient": ("weight", "error", "activation_gradient"),
    "weight_gradient": ("activation", "error"),
    "update": (*UPDATE, "second_moment"),
}
OUTPUTS = ("output", "activation_gradient")  # what leaves a layer forward and backward
ROUNDINGS = ("nearest", "stochastic")
TOP = (
    "schema", "name", "formats", "default", "layers", "update", "quantise", "covered", "pointwise", "optimizer",
    "partial_sums",
)  # fmt: skip
CLIPPED = ("weight", "activation", "output")  # whose clipped values a layer may remember for the backward pass


def mistakes(record: Mapping[str, Any]) -> Iterator[str]:
    """Everything that is wrong with a record but for the formats it names, a line each."""
    if record.get("schema", 1) not in (1, 2):
        yield f"schema: is {record['schema']!r}, must be 1 or 2"
    for key in record:
        if key in OPERAND_ROLES or key in ("accumulator", *OUTPUTS):
            yield f'{key}: belongs under default: {{"default": {{"{key}": ...}}}}'
        elif key not in TOP:
            yield f"{key}: is not a known key{did_you_mean(str(key), TOP)}"
    if not isinstance(record.get("name", ""), str):
        yield f"name: is {record['name']!r}, must be a text"
    if "default" not in record:
        yield 'default: is missing; it says which format each operand has, {"forward": {"weight": "int8", ...}, ...}'
    yield from _table("formats", record.get("formats", {}))
    yield from _rule("default", record.get("default", {}), ())
    yield from _names("update", record.get("update", {}), ROUNDED["update"])
    if record.get("optimizer", "sgd") not in OPTIMIZERS:
        yield f"optimizer: is {record['optimizer']!r}, must be {', '.join(OPTIMIZERS)}"
    yield from _partial_sums(record.get("partial_sums", {}))
    yield from _roundings("quantise", record.get("quantise", {}))
    yield from _covered(record.get("covered", []))
    yield from _pointwise(record.get("pointwise", {}))
    layers = record.get("layers", {})
    yield from _table("layers", layers)
    for name, entry in layers.items() if isinstance(layers, Mapping) else ():
        key = f"layers.{name}"
        yield from _rule(key, entry, ("update", "quantise"))
        if isinstance(entry, Mapping):
            yield from _names(f"{key}.update", entry.get("update", {}), ROUNDED["update"])
            yield from _roundings(f"{key}.quantise", entry.get("quantise", {}))


def _table(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{key}: is {value!r}, must be a table"


def _rule(key: str, rule: Any, more: tuple[str, ...]) -> Iterator[str]:
    yield from _table(key, rule)
    if not isinstance(rule, Mapping):
        return
    known = (*OPERAND_ROLES, "accumulator", "hadamard", "clipped", *OUTPUTS, *more)
    for name, value in rule.items():
        if name not in known:
            yield f"{key}.{name}: is not a known key{did_you_mean(str(name), known)}"
        elif name in OPERAND_ROLES:
            yield from _names(f"{key}.{name}", value, OPERAND_ROLES[name])
        elif name in ("hadamard", "clipped"):
            roles = ("activation", "error") if name == "hadamard" else CLIPPED
            if not isinstance(value, Sequence) or isinstance(value, str) or set(value) - set(roles):
                yield f"{key}.{name}: is {value!r}, must be a list of {', '.join(roles)}"
        elif name not in more:
            yield from _names(key, {name: value}, (name,))


def _names(key: str, table: Any, known: tuple[str, ...]) -> Iterator[str]:
    """A table whose values are names of formats."""
    yield from _table(key, table)
    for name, value in table.items() if isinstance(table, Mapping) else ():
        if name not in known:
            yield f"{key}.{name}: is not a known key{did_you_mean(str(name), known)}"
        elif not isinstance(value, str):
            yield f"{key}.{name}: is {value!r}, must be the name of a format"


def _covered(names: Any) -> Iterator[str]:
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        yield f"covered: is {names!r}, must be a list of layer names"


def _pointwise(table: Any) -> Iterator[str]:
    yield from _table("pointwise", table)
    for name, entry in table.items() if isinstance(table, Mapping) else ():
        known = ("quantise", "clipped")
        formats = {k: v for k, v in entry.items() if k not in known} if isinstance(entry, Mapping) else entry
        yield from _names(f"pointwise.{name}", formats, ("forward", "backward"))


def _partial_sums(table: Any) -> Iterator[str]:
    yield from _table("partial_sums", table)
    for name, value in table.items() if isinstance(table, Mapping) else ():
        good = {
            "step": isinstance(value, int) and value >= 1,
            "chunk": isinstance(value, int) and value >= 0,
            "rounding": value in ROUNDINGS,
            "total": value in ("fp32", "accumulator"),
        }
        if name not in good:
            yield f"partial_sums.{name}: is not a known key{did_you_mean(str(name), good)}"
        elif not good[name]:
            cure = "step >= 1 and chunk >= 0 products, a rounding, total fp32 or accumulator"
            yield f"partial_sums.{name}: is {value!r}; {cure}"


def _roundings(key: str, table: Any) -> Iterator[str]:
    """Role -> rounding (schema 1), or pass -> role -> rounding."""
    yield from _table(key, table)
    for name, value in table.items() if isinstance(table, Mapping) else ():
        if name in ROUNDED and isinstance(value, Mapping):
            for role, rounding in value.items():
                yield from _rounding(f"{key}.{name}.{role}", role, rounding, ROUNDED[name])
        else:
            yield from _rounding(f"{key}.{name}", name, value, QUANTISED)


def _rounding(key: str, role: Any, value: Any, known: Sequence[str]) -> Iterator[str]:
    if role not in known:
        yield f"{key}: is not a known key{did_you_mean(str(role), known)}"
    elif value not in ROUNDINGS:
        yield f"{key}: is {value!r}, must be {' or '.join(ROUNDINGS)}"
