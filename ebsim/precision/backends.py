"""A precision backend: which number format each kind of tensor gets, in which pass of which layer, as plain data.

Roles, and the passes whose arithmetic they enter:

    forward          y = w * a          weight, activation (the operand that enters the MAC), output
    input_gradient   dL/da = w * e      weight, error (dL/dy)
    weight_gradient  dL/dw = a * e      activation, error
    update           the optimizer      gradient (dL/dw), momentum, stored (the weight kept between steps)

A role is set for all its passes at once (`error = "e5m2"`); a rule may set it for some layers and one pass only, and
the first rule that sets a cell wins. Whatever is not named is fp32: also gamma, beta and biases, unless
`one_dimensional` is set (then their gradient, momentum and stored value all get it).
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ebsim.errors import ConfigError
from ebsim.precision.formats.number_format import Operand, nearest_name, operand

PASSES: dict[str, tuple[str, ...]] = {
    "forward": ("weight", "activation", "output"),
    "input_gradient": ("weight", "error"),
    "weight_gradient": ("activation", "error"),
    "update": ("gradient", "momentum", "stored"),
}
CELLS = tuple((phase, role) for phase, roles in PASSES.items() for role in roles)
ROLES = tuple(dict.fromkeys(role for _, role in CELLS))
KEYS = {*ROLES, "base", "rule", "one_dimensional", "accumulator", "swa", "about", "allow_stalling"}
FIRST, LAST = "@first", "@last"
ACCUMULATORS = ("fp32", "tf32", "bf16", "fp16", "int32", "int16", "int8")  # declared only: what a price is known for

_ENDS_FP32 = {"layers": [FIRST, LAST], "weight": "fp32", "activation": "fp32", "error": "fp32"}
_LOGITS_FP32 = {"layers": [LAST], "output": "fp32"}

PRESETS: dict[str, dict[str, Any]] = {
    "fp32": {"about": "the network untouched, bit for bit"},
    "bf16": {
        "about": "all MAC operands and layer outputs bfloat16; a sanity check",
        "weight": "bf16", "activation": "bf16", "error": "bf16", "output": "bf16",
        "rule": [_LOGITS_FP32],
    },
    "fp8": {
        "about": "hybrid fp8 (Micikevicius et al., 2022): E4M3 forward, E5M2 errors, bf16 outputs, fp32 master weights",
        "weight": "e4m3", "activation": "e4m3", "error": "e5m2", "output": "bf16",
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
    "int8": {
        "about": "int8 operands, errors rounded stochastically, bf16 outputs, fp32 master weights",
        "weight": "int8/row", "activation": "int8", "error": "int8 stochastic", "output": "bf16",
        "accumulator": "int32",
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
    "bfp8": {
        "about": "SWALP's 8-bit block floating point for operands, outputs and the update, gamma exempt, with SWA",
        "weight": "bfp8 stochastic", "activation": "bfp8 stochastic", "error": "bfp8 stochastic",
        "output": "bfp8 stochastic",
        "rule": [_LOGITS_FP32],
        "gradient": "bfp8 stochastic", "momentum": "bfp8 stochastic", "stored": "bfp8 stochastic",
        "swa": {"start": 0.75},
    },
    "eb2020": {
        "about": "as the Early-Bird authors' code places it: layer outputs, errors and the update, gamma included;"
        " the activations that enter a MAC stay fp32",
        "output": "bfp8 stochastic", "error": "bfp8 stochastic",
        "gradient": "bfp8 stochastic", "momentum": "bfp8 stochastic", "stored": "bfp8 stochastic",
        "one_dimensional": "bfp8 stochastic",
        "rule": [{**_LOGITS_FP32, "error": "fp32"}],
        "swa": {"start": 0.875},
    },
    "mxfp8": {
        "about": "MX: E4M3 in blocks of 32 along the axis each pass sums over, bf16 outputs",
        "weight": "mxfp8", "activation": "mxfp8", "error": "mxfp8", "output": "bf16",
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rule:
    """Layers (globs on qualified names, "@first", "@last"), an optional pass, and the roles it sets."""

    layers: tuple[str, ...]
    phase: str | None
    roles: Mapping[str, str]

    def matches(self, layer: str, names: Sequence[str]) -> bool:
        ends = {FIRST: names[0], LAST: names[-1]}
        return any(fnmatch.fnmatchcase(layer, ends.get(glob, glob)) for glob in self.layers)


@dataclasses.dataclass(frozen=True)
class Backend:
    """A validated backend; see the module docstring. Build one with `backend(name or dict)`."""

    name: str
    roles: Mapping[str, str]
    rules: tuple[Rule, ...] = ()
    one_dimensional: str = "fp32"
    accumulator: str = "fp32"
    swa: Mapping[str, float] | None = None
    about: str = ""
    allow_stalling: bool = False

    @classmethod
    def from_dict(cls, name: str, table: Mapping[str, Any]) -> Backend:
        """Strictly parse a TOML-like table; `base = "fp8"` starts from another backend.

        Raises ConfigError with all of its mistakes, a line each.
        """
        from ebsim.precision.backend_table import mistakes

        if wrong := list(mistakes(table)):
            told = [f"precision backend {name!r}{key and ', '}{key}: {problem}" for key, problem in wrong]
            raise ConfigError("\n".join(told))
        base = backend(table.get("base", "fp32"))
        return cls(
            name=name,
            roles={**base.roles, **{r: table[r] for r in ROLES if r in table}},
            rules=(*map(_rule, table.get("rule", [])), *base.rules),
            one_dimensional=table.get("one_dimensional", base.one_dimensional),
            accumulator=table.get("accumulator", base.accumulator),
            swa=dict(table["swa"]) if "swa" in table else base.swa,
            about=table.get("about", ""),
            allow_stalling=table.get("allow_stalling", base.allow_stalling),
        )

    def cells(
        self, layer: str, names: Sequence[str], parse: Callable[[str], Operand] = operand
    ) -> dict[tuple[str, str], Operand]:
        """(pass, role) -> operand of one layer, `names` being all covered layers in order."""
        matching = [rule for rule in self.rules if rule.matches(layer, names)]

        def spec(phase: str, role: str) -> str:
            for rule in matching:
                if role in rule.roles and rule.phase in (None, phase):
                    return rule.roles[role]
            return self.roles.get(role, "fp32")

        return {(phase, role): parse(spec(phase, role)) for phase, role in CELLS}

    def table(self, names: Sequence[str]) -> dict[str, dict[tuple[str, str], Operand]]:
        """`cells` of every layer. Raises ConfigError if a rule's glob matches no layer."""
        if wrong := [problem for _, problem in self.unmatched(names)]:
            raise ConfigError("\n".join(f"precision backend {self.name!r}: {problem}" for problem in wrong))
        parse = functools.cache(operand)
        return {layer: self.cells(layer, names, parse) for layer in names}

    def unmatched(self, names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """(number of the rule, what is wrong) for every glob that matches none of a network's layers."""
        for number, rule in enumerate(self.rules if names else ()):
            for glob in rule.layers:
                if glob not in (FIRST, LAST) and not fnmatch.filter(names, glob):
                    yield number, f"a rule matches no layer: {glob!r}{_near_layers(glob, names)}"

    def specs(self) -> list[str]:
        """Every operand that it names, each once."""
        inner = [spec for rule in self.rules for spec in rule.roles.values()]
        return list(dict.fromkeys([*self.roles.values(), *inner, self.one_dimensional]))

    @property
    def globs(self) -> list[str]:
        """What its rules name layers by, except "@first" and "@last"."""
        return [glob for rule in self.rules for glob in rule.layers if glob not in (FIRST, LAST)]

    @property
    def untouched(self) -> bool:
        """Whether applying it changes nothing."""
        return all(operand(spec).untouched for spec in self.specs())


def backend(which: str | Mapping[str, Any] | Backend) -> Backend:
    """A backend by preset or plug-in name, by "file.py:NAME", or from a table. Raises ConfigError."""
    from ebsim.precision import plugins

    if isinstance(which, Backend):
        return which
    if isinstance(which, Mapping):
        table = dict(which)
        return Backend.from_dict(str(table.pop("name", "custom")), table)
    if which == "fp32":
        return Backend("fp32", {}, about=PRESETS["fp32"]["about"])
    found = PRESETS[which] if which in PRESETS else plugins.load("backends", which)
    if found is None:
        known = [*PRESETS, *plugins.origins("backends")]
        raise ConfigError(f"unknown precision {which!r}{nearest_name(str(which), known)}")
    return found if isinstance(found, Backend) else Backend.from_dict(which.rpartition(":")[2], found)


def _rule(table: Mapping[str, Any]) -> Rule:
    layers = table.get("layers", ["*"])
    roles = {role: table[role] for role in ROLES if role in table}
    return Rule((layers,) if isinstance(layers, str) else tuple(layers), table.get("phase"), roles)


def _near_layers(glob: str, names: Sequence[str]) -> str:
    """What was perhaps meant: the nearest beginning of the layers' names with ".*", or the nearest name."""
    plain = glob.rstrip("*.")
    starts = {name[: name.index(".")] for name in names if "." in name}
    close = difflib.get_close_matches(plain.split(".")[0], starts, n=1, cutoff=0.6)
    if glob != plain and close:
        return f"; did you mean '{close[0]}.*'?"
    return nearest_name(glob, names)
