"""Parses the table of a precision backend (a dict, from TOML or Python): the backend, or every problem in it.

One pass; nothing here raises. A problem stands beside the key it was found under, such as ("rule.0.error", "...").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ebsim.errors import ConfigError, did_you_mean
from ebsim.precision.backends import KEYS, NAMED_KINDS, PASSES, POINTWISE, ROLES, Backend, Rule
from ebsim.precision.formats.accumulators import ACCUMULATORS, SIMULATED, TOTALS, PartialSums
from ebsim.precision.formats.number_format import ROUNDINGS, NumberFormat, Operand
from ebsim.precision.formats.registry import operand

Problem = tuple[str, str]
CLIPPED = ("weight", "activation", "output", "pointwise")  # the roles that a gradient flows back through
PARTIAL_SUMS = ("step", "chunk", "rounding", "total")


def parse(name: str, table: Any, find: Callable[[Any], Backend]) -> tuple[Backend | None, list[Problem]]:
    """The backend of a table, or None and all problems. `find` gives the base backend by its name (ConfigError)."""
    reader = _Reader(find)
    made = reader.backend(name, table)
    return (None if reader.problems else made), reader.problems


class _Reader:
    """The problems found so far, and the formats seen by name (two different ones of one name are a problem)."""

    def __init__(self, find: Callable[[Any], Backend]) -> None:
        self.find = find
        self.problems: list[Problem] = []
        self.formats: dict[str, NumberFormat] = {}
        self.stalling: Any = False

    def backend(self, name: str, table: Any) -> Backend | None:
        if not isinstance(table, Mapping):
            self.problem("", f"expected a table, got {table!r}")
            return None
        self.unknown_keys(table, KEYS)
        base = self.base(table.get("base", "fp32"))
        self.stalling = table.get("allow_stalling", base.allow_stalling)
        if not isinstance(self.stalling, bool):
            self.problem("allow_stalling", "true or false")
        specs = {role: table.get(role, base.roles.get(role)) for role in ROLES}
        roles = {role: self.operand(role, role, spec) for role, spec in specs.items() if spec is not None}
        thin = self.operand("one_dimensional", "one_dimensional", table.get("one_dimensional", base.one_dimensional))
        rules = table.get("rule", [])
        if isinstance(rules, Mapping | str) or not isinstance(rules, Sequence):
            self.problem("rule", "rule is a list of tables, [[...rule]] in TOML")
            rules = []
        made = [self.rule(f"rule.{number}", rule) for number, rule in enumerate(rules)]
        accumulator = table.get("accumulator", base.accumulator)
        if accumulator not in ACCUMULATORS:
            near = did_you_mean(str(accumulator), ACCUMULATORS)
            self.problem("accumulator", f"unknown accumulator {accumulator!r}{near}")
        if "swa" in table:
            self.swa(table["swa"])
        sums = table.get("partial_sums", base.partial_sums and base.partial_sums.describe())
        if sums is not None:
            self.partial_sums(sums, accumulator)
        if self.problems:
            return None
        return Backend(
            name=name,
            roles={role: o for role, o in roles.items() if o is not None},
            rules=(*(rule for rule in made if rule is not None), *base.rules),
            one_dimensional=thin or base.one_dimensional,
            accumulator=accumulator,
            partial_sums=None if sums is None else PartialSums.of(accumulator, sums),
            swa=dict(table["swa"]) if "swa" in table else base.swa,
            about=table.get("about", ""),
            allow_stalling=self.stalling,
        )

    def base(self, named: Any) -> Backend:
        try:
            if not isinstance(named, str | Mapping | Backend):
                raise ConfigError('write a backend by its name, such as "fp8"')
            return Backend("fp32", {}) if named == "fp32" else self.find(named)
        except ConfigError as error:
            self.problem("base", str(error))
            return Backend("", {})

    def operand(self, key: str, role: str, spec: Any, phase: Any = None) -> Operand | None:
        """What a role is set to: text, or an operand that the base has read already."""
        if not isinstance(spec, str | Operand):
            self.problem(key, 'write a format as text, such as "e5m2" or "int8/row stochastic"')
            return None
        try:
            parsed = operand(spec) if isinstance(spec, str) else spec
        except ConfigError as error:
            self.problem(key, str(error))
            return None
        fmt = parsed.format
        if self.formats.setdefault(fmt.name, fmt) != fmt:
            self.problem(key, f"two different formats are called {fmt.name!r}: rename one")
        if parsed.clipped and (role not in CLIPPED or phase not in (None, "forward")):
            self.problem(key, f"clipped is about the derivative of rounding: of {', '.join(CLIPPED)}, forward")
        if parsed.clipped and parsed.untouched:
            self.problem(key, "fp32 clips nothing")
        if parsed.hadamard and not (role in ("activation", "error") and phase == "weight_gradient"):
            self.problem(key, 'hadamard is for activation and error in a rule with phase = "weight_gradient"')
        if role in ("stored", "one_dimensional") and fmt.bits <= 8 and not parsed.stochastic and not self.stalling:
            self.problem(
                key,
                f"weights stored in {fmt.bits} bits and rounded to nearest stop moving once an update is below half a "
                f'step; use "{fmt.name} stochastic", or allow_stalling = true for a control',
            )
        return parsed

    def rule(self, key: str, table: Any) -> Rule | None:
        if not isinstance(table, Mapping):
            self.problem(key, f"expected a table, got {table!r}")
            return None
        self.unknown_keys(table, {"layers", "phase", *ROLES}, f"{key}.")
        layers, phase = table.get("layers", ["*"]), table.get("phase")
        layers = [layers] if isinstance(layers, str) else layers
        if not isinstance(layers, Sequence) or not layers or not all(isinstance(glob, str) for glob in layers):
            self.problem(f"{key}.layers", 'layers is a list of names or globs, such as ["layer3.*"]')
            layers = []
        if phase is not None and not (isinstance(phase, str) and phase in PASSES):
            self.problem(f"{key}.phase", f"unknown phase {phase!r}{did_you_mean(str(phase), PASSES)}")
        specs = {role: table[role] for role in ROLES if role in table}
        if not specs:
            self.problem(key, "it sets no role")
        if set(layers) & set(NAMED_KINDS) and set(specs) - {"pointwise"}:
            self.problem(f"{key}.layers", f"{', '.join(NAMED_KINDS)} are modules that have the role pointwise only")
        roles = {}
        for role, spec in specs.items():
            passes = {**PASSES, **{name: (*PASSES[name], "pointwise") for name in POINTWISE}}
            if isinstance(phase, str) and role not in passes.get(phase, ROLES):
                self.problem(f"{key}.{role}", f"{role!r} plays no part in the {phase} pass")
            if (parsed := self.operand(f"{key}.{role}", role, spec, phase)) is not None:
                roles[role] = parsed
        if phase == "weight_gradient" and len({o.hadamard for o in roles.values()}) == 2:
            self.problem(key, "hadamard on one operand of a product alone would change the product")
        return Rule(tuple(layers), phase, roles)

    def partial_sums(self, table: Any, accumulator: Any) -> None:
        if not isinstance(table, Mapping):
            self.problem("partial_sums", f"expected a table, got {table!r}")
            return
        self.unknown_keys(table, PARTIAL_SUMS, "partial_sums.")
        if accumulator not in SIMULATED:
            why = "whose sums are simulated as they are" if accumulator == "fp32" else "which is declared only"
            known = ", ".join(SIMULATED)
            self.problem("partial_sums", f"the accumulator is {accumulator}, {why}; running sums are kept in {known}")
        for name, least in (("step", 1), ("chunk", 0)):
            value = table.get(name, least)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 1 << 20:
                self.problem(f"partial_sums.{name}", f"{name} is a number of products, from {least} on")
        for name, known_words in (("rounding", ROUNDINGS), ("total", TOTALS)):
            value = table.get(name, known_words[0])
            if value not in known_words:
                self.problem(f"partial_sums.{name}", f"{value!r}: use {' or '.join(known_words)}")

    def swa(self, table: Any) -> None:
        if not isinstance(table, Mapping):
            self.problem("swa", f"expected a table, got {table!r}")
            return
        self.unknown_keys(table, {"start", "lr"}, "swa.")
        start, rate = table.get("start"), table.get("lr", 1.0)
        if isinstance(start, bool) or not isinstance(start, int | float) or start < 0:
            self.problem("swa.start", "start is an epoch (an integer) or a fraction of the training (0.75)")
        elif isinstance(start, float) and start > 1:
            self.problem("swa.start", f"start = {start} is neither an epoch (an integer) nor a fraction")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
            self.problem("swa.lr", "lr is a positive learning rate")

    def unknown_keys(self, table: Mapping[Any, Any], known: Iterable[str], prefix: str = "") -> None:
        for key in table:
            if key not in known:
                self.problem(f"{prefix}{key}", f"unknown key {key!r}{did_you_mean(str(key), known)}")

    def problem(self, key: str, text: str) -> None:
        self.problems.append((key, text))
