"""Everything that is wrong with a backend's table, each with the key it stands under; none of it raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebsim.errors import ConfigError
from ebsim.precision.backends import ACCUMULATORS, KEYS, PASSES, ROLES, Backend, backend
from ebsim.precision.formats.number_format import NumberFormat, nearest_name, operand


def mistakes(table: Any) -> Iterator[tuple[str, str]]:
    """(key in the table, what is wrong with it) for everything that is wrong with a backend's table."""
    if not isinstance(table, Mapping):
        yield "", f"expected a table, got {table!r}"
        return
    yield from _unknown(table, KEYS)
    base = Backend("", {})
    try:
        named = table.get("base", "fp32")
        if not isinstance(named, str | Mapping | Backend):
            raise ConfigError('write a backend by its name, such as "fp8"')
        base = backend(named)
    except ConfigError as error:
        yield "base", str(error)
    stalling = table.get("allow_stalling", base.allow_stalling)
    if not isinstance(stalling, bool):
        yield "allow_stalling", "true or false"
    seen: dict[str, NumberFormat] = {}
    roles = {**base.roles, "one_dimensional": base.one_dimensional}
    roles |= {key: table[key] for key in (*ROLES, "one_dimensional") if key in table}
    for role, spec in roles.items():
        yield from _of_operand(role, role, spec, stalling, seen)
    rules = table.get("rule", [])
    if isinstance(rules, Mapping | str) or not isinstance(rules, Sequence):
        yield "rule", "rule is a list of tables, [[...rule]] in TOML"
        rules = []
    for number, rule in enumerate(rules):
        yield from _of_rule(f"rule.{number}", rule, stalling, seen)
    accumulator = table.get("accumulator", "fp32")
    if accumulator not in ACCUMULATORS:
        yield "accumulator", f"unknown accumulator {accumulator!r}{nearest_name(str(accumulator), ACCUMULATORS)}"
    if "swa" in table:
        yield from _of_swa(table["swa"])


def _of_operand(
    key: str, role: str, spec: Any, stalling: bool, seen: dict[str, NumberFormat]
) -> Iterator[tuple[str, str]]:
    if not isinstance(spec, str):
        yield key, 'write a format as text, such as "e5m2" or "int8/row stochastic"'
        return
    try:
        parsed = operand(spec)
    except ConfigError as error:
        yield key, str(error)
        return
    fmt = parsed.format
    if seen.setdefault(fmt.name, fmt) != fmt:
        yield key, f"two different formats are called {fmt.name!r}: rename one"
    if role in ("stored", "one_dimensional") and fmt.bits <= 8 and not parsed.stochastic and not stalling:
        yield (
            key,
            (
                f"weights stored in {fmt.bits} bits and rounded to nearest stop moving once an "
                f'update is below half a step; use "{fmt.name} stochastic", or allow_stalling = true for a control'
            ),
        )


def _of_rule(key: str, table: Any, stalling: bool, seen: dict[str, NumberFormat]) -> Iterator[tuple[str, str]]:
    if not isinstance(table, Mapping):
        yield key, f"expected a table, got {table!r}"
        return
    yield from _unknown(table, {"layers", "phase", *ROLES}, f"{key}.")
    layers, phase = table.get("layers", ["*"]), table.get("phase")
    layers = [layers] if isinstance(layers, str) else layers
    if not isinstance(layers, Sequence) or not layers or not all(isinstance(glob, str) for glob in layers):
        yield f"{key}.layers", 'layers is a list of names or globs, such as ["layer3.*"]'
    if phase is not None and phase not in PASSES:
        yield f"{key}.phase", f"unknown phase {phase!r}{nearest_name(str(phase), PASSES)}"
    roles = {role: table[role] for role in ROLES if role in table}
    if not roles:
        yield key, "it sets no role"
    for role, spec in roles.items():
        if phase in PASSES and role not in PASSES[phase]:
            yield f"{key}.{role}", f"{role!r} plays no part in the {phase} pass"
        yield from _of_operand(f"{key}.{role}", role, spec, stalling, seen)


def _of_swa(table: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(table, Mapping):
        yield "swa", f"expected a table, got {table!r}"
        return
    yield from _unknown(table, {"start", "lr"}, "swa.")
    start, rate = table.get("start"), table.get("lr", 1.0)
    if isinstance(start, bool) or not isinstance(start, int | float) or start < 0:
        yield "swa.start", "start is an epoch (an integer) or a fraction of the training (0.75)"
    elif isinstance(start, float) and start > 1:
        yield "swa.start", f"start = {start} is neither an epoch (an integer) nor a fraction"
    if isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
        yield "swa.lr", "lr is a positive learning rate"


def _unknown(table: Mapping[Any, Any], known: set[str], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key in table:
        if key not in known:
            yield f"{prefix}{key}", f"unknown key {key!r}{nearest_name(str(key), known)}"
