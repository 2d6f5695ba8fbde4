"""What a precision record may say; everything else in one is a mistake, named with the key that was perhaps meant.

A record that is silently read as less than it says would be priced as fp32, so nothing unknown passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hw_models.errors import did_you_mean

OPERANDS = {  # the roles that play (x, y) in the contraction of each pass, see hw_models.workload.training_passes
    "forward": ("activation", "weight"),
    "input_gradient": ("error", "weight"),
    "weight_gradient": ("activation", "error"),
}
UPDATE = ("gradient", "momentum", "stored", "one_dimensional")
QUANTISED = ("weight", "activation", "error", "output", *UPDATE)
ROUNDINGS = ("nearest", "stochastic")
TOP = ("schema", "name", "formats", "default", "layers", "update", "quantise")


def mistakes(record: Mapping[str, Any]) -> Iterator[str]:
    """Everything that is wrong with a record but for the formats it names, a line each."""
    if record.get("schema", 1) != 1:
        yield f"schema: is {record['schema']!r}, must be 1"
    for key in record:
        if key in OPERANDS or key in ("accumulator", "output"):
            yield f'{key}: belongs under default: {{"default": {{"{key}": ...}}}}'
        elif key not in TOP:
            yield f"{key}: is not a known key{did_you_mean(str(key), TOP)}"
    if not isinstance(record.get("name", ""), str):
        yield f"name: is {record['name']!r}, must be a text"
    if "default" not in record:
        yield 'default: is missing; it says which format each operand has, {"forward": {"weight": "int8", ...}, ...}'
    yield from _table("formats", record.get("formats", {}))
    yield from _rule("default", record.get("default", {}), ())
    yield from _names("update", record.get("update", {}), UPDATE)
    yield from _roundings("quantise", record.get("quantise", {}))
    layers = record.get("layers", {})
    yield from _table("layers", layers)
    for name, entry in layers.items() if isinstance(layers, Mapping) else ():
        key = f"layers.{name}"
        yield from _rule(key, entry, ("update", "quantise"))
        if isinstance(entry, Mapping):
            yield from _names(f"{key}.update", entry.get("update", {}), UPDATE)
            yield from _roundings(f"{key}.quantise", entry.get("quantise", {}))


def _table(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{key}: is {value!r}, must be a table"


def _rule(key: str, rule: Any, more: tuple[str, ...]) -> Iterator[str]:
    yield from _table(key, rule)
    if not isinstance(rule, Mapping):
        return
    known = (*OPERANDS, "accumulator", "output", *more)
    for name, value in rule.items():
        if name not in known:
            yield f"{key}.{name}: is not a known key{did_you_mean(str(name), known)}"
        elif name in OPERANDS:
            yield from _names(f"{key}.{name}", value, OPERANDS[name])
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


def _roundings(key: str, table: Any) -> Iterator[str]:
    yield from _table(key, table)
    for name, value in table.items() if isinstance(table, Mapping) else ():
        if name not in QUANTISED:
            yield f"{key}.{name}: is not a known key{did_you_mean(str(name), QUANTISED)}"
        elif value not in ROUNDINGS:
            yield f"{key}.{name}: is {value!r}, must be {' or '.join(ROUNDINGS)}"
