"""A precision backend: which number format each kind of tensor gets, in which pass of which layer, as plain data.

Roles, and the passes whose arithmetic they enter:

    forward          y = w * a          weight, activation (the operand that enters the MAC), output
    input_gradient   dL/da = w * e      weight, error (dL/dy), activation_gradient (dL/da, as the layer hands it on)
    weight_gradient  dL/dw = a * e      activation, error
    update           the optimizer      gradient (dL/dw), momentum (Adam's first moment), second_moment (Adam's),
                                        stored (the weight kept between steps)

And one of the modules that multiply no matrices (normalizations, activations, pools): `pointwise` is what they hand on
(forward) and the gradient that arrives at them (input_gradient).

A role is set for all its passes at once (`error = "e5m2"`); a rule may set it for some layers and one pass only, and
the first rule that sets a cell wins. Whatever is not named is fp32: also gamma, beta and biases, unless
`one_dimensional` is set (then their gradient, moments and stored value all get it).

An operand or a value handed on forward may be "clipped": where saturation cut its value, its derivative is 0 and not 1.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence

from ebsim.errors import ConfigError, did_you_mean, nearest
from ebsim.precision.formats.accumulators import PartialSums
from ebsim.precision.formats.builtin import FP32
from ebsim.precision.formats.number_format import Operand

PASSES: dict[str, tuple[str, ...]] = {
    "forward": ("weight", "activation", "output"),
    "input_gradient": ("weight", "error", "activation_gradient"),
    "weight_gradient": ("activation", "error"),
    "update": ("gradient", "momentum", "stored", "second_moment"),
}
CELLS = tuple((phase, role) for phase, roles in PASSES.items() for role in roles)
POINTWISE = ("forward", "input_gradient")  # the passes of the role `pointwise`
ROLES = (*dict.fromkeys(role for _, role in CELLS), "pointwise")
KEYS = {*ROLES, "base", "rule", "one_dimensional", "accumulator", "partial_sums", "swa", "about", "allow_stalling"}
FIRST, LAST = "@first", "@last"
NAMED_KINDS = ("@norm", "@activation", "@pool")  # of modules that `pointwise` reaches
UNROUNDED = Operand(FP32, spec="fp32")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Layers (globs on qualified names, "@first", "@last"; "@norm", ... for `pointwise`), a pass, the roles it sets."""

    layers: tuple[str, ...]
    phase: str | None
    roles: Mapping[str, Operand]

    def matches(self, layer: str, names: Sequence[str]) -> bool:
        ends = {FIRST: names[0], LAST: names[-1]}
        return any(fnmatch.fnmatchcase(layer, ends.get(glob, glob)) for glob in self.layers)

    def matches_module(self, name: str, kind: str) -> bool:
        """Whether it is about a pointwise module of this kind ("norm")."""
        return any(glob == f"@{kind}" or fnmatch.fnmatchcase(name, glob) for glob in self.layers)

    def sets(self, phase: str, role: str) -> bool:
        return role in self.roles and self.phase in (None, phase)


@dataclasses.dataclass(frozen=True)
class Backend:
    """A validated backend; see the module docstring. Build one with `ebsim.precision.backend(name or table)`."""

    name: str
    roles: Mapping[str, Operand]
    rules: tuple[Rule, ...] = ()
    one_dimensional: Operand = UNROUNDED
    accumulator: str = "fp32"
    partial_sums: PartialSums | None = None
    swa: Mapping[str, float] | None = None
    about: str = ""
    allow_stalling: bool = False

    def cells(self, layer: str, names: Sequence[str]) -> dict[tuple[str, str], Operand]:
        """(pass, role) -> operand of one layer, `names` being all covered layers in order."""
        matching = [rule for rule in self.rules if rule.matches(layer, names)]

        def chosen(phase: str, role: str) -> Operand:
            return next((rule.roles[role] for rule in matching if rule.sets(phase, role)), self.default(role))

        return {(phase, role): chosen(phase, role) for phase, role in CELLS}

    def default(self, role: str) -> Operand:
        """What a role is where no rule says otherwise."""
        return self.roles.get(role, UNROUNDED)

    def pointwise_cells(self, name: str, kind: str) -> dict[tuple[str, str], Operand]:
        """(pass, "pointwise") -> operand of one module that multiplies no matrices."""
        matching = [rule for rule in self.rules if rule.matches_module(name, kind)]

        def chosen(phase: str) -> Operand:
            found = (rule.roles["pointwise"] for rule in matching if rule.sets(phase, "pointwise"))
            return next(found, self.default("pointwise"))

        return {(phase, "pointwise"): chosen(phase) for phase in POINTWISE}

    def table(self, names: Sequence[str]) -> dict[str, dict[tuple[str, str], Operand]]:
        """`cells` of every layer. Raises ConfigError if a rule's glob matches no layer."""
        if wrong := [problem for _, problem in self.unmatched(names)]:
            raise ConfigError("\n".join(f"precision backend {self.name!r}: {problem}" for problem in wrong))
        return {layer: self.cells(layer, names) for layer in names}

    def unmatched(self, names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """(number of the rule, what is wrong) for every glob that matches none of a network's layers."""
        for number, rule in enumerate(self.rules if names else ()):
            for glob in rule.layers if set(rule.roles) != {"pointwise"} else ():
                if glob not in (FIRST, LAST, *NAMED_KINDS) and not fnmatch.filter(names, glob):
                    yield number, f"a rule matches no layer: {glob!r}{_near_layers(glob, names)}"

    def operands(self) -> list[Operand]:
        """Every operand that it names, each once."""
        inner = [operand for rule in self.rules for operand in rule.roles.values()]
        return list(dict.fromkeys([*self.roles.values(), *inner, self.one_dimensional]))

    @property
    def globs(self) -> list[str]:
        """What its rules name layers by, except "@first" and "@last"."""
        return [glob for rule in self.rules for glob in rule.layers if glob not in (FIRST, LAST, *NAMED_KINDS)]

    def sets(self, role: str) -> bool:
        """Whether it gives a role a format other than fp32 anywhere."""
        given = [self.roles.get(role), *(rule.roles.get(role) for rule in self.rules)]
        return any(operand is not None and not operand.untouched for operand in given)

    @property
    def untouched(self) -> bool:
        """Whether applying it changes nothing."""
        return all(operand.untouched for operand in self.operands())


def _near_layers(glob: str, names: Sequence[str]) -> str:
    """What was perhaps meant: the nearest beginning of the layers' names with ".*", or the nearest name."""
    plain = glob.rstrip("*.")
    starts = {name[: name.index(".")] for name in names if "." in name}
    close = nearest(plain.split(".")[0], starts)
    if glob != plain and close:
        return f"; did you mean '{close}.*'?"
    return did_you_mean(glob, names)
