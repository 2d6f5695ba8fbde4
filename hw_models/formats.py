"""Number formats and the precision of a training step, as data.

A format here is what its cost depends on: stored bits, significand (hidden one included) and exponent of
a float, width of an integer, and the size of the block that shares a scale. The class of its multiplier is
read from a record's `mac` entry ("fp:E,M" with M stored mantissa bits, "int:B", "bfp:B"), so a format this
package has never heard of is priced by the law of its class.

A precision record (plain JSON) says which format each operand of each pass has:
    {"formats": {name: {"bits", "mac", "scale_bits", "block"}}, "default": {pass: {role: name}}, ...}
`None` or "fp32" is full precision; an integer B means B-bit integers (32 means fp32); a name means that
format for all operands; "fp8" means e4m3 forward and e5m2 errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hw_models.errors import FormatError

PASSES = ("forward", "input_gradient", "weight_gradient")
OPERANDS = {  # the roles that play (x, y) in the contraction of each pass, see hw_models.passes
    "forward": ("activation", "weight"),
    "input_gradient": ("error", "weight"),
    "weight_gradient": ("activation", "error"),
}
Bits = Mapping[str, Any] | str | int | None


@dataclass(frozen=True)
class Format:
    """A number format: `kind` is "fp", "int" or "bfp"; `significand` counts the hidden one."""

    name: str
    bits: float  # stored bits per element, its share of a block's scale included
    kind: str
    significand: int
    exponent: int
    block: int = 0  # elements that share a scale; 0 = a whole row or tensor

    @property
    def hardware(self) -> str:
        """The name hardware knows it by: that of the known format with the same multiplier, else its own."""
        same = (self.kind, self.significand, self.exponent)
        return next((f.name for f in FORMATS.values() if (f.kind, f.significand, f.exponent) == same), self.name)

    @property
    def integer(self) -> bool:
        """Whether its multiplier is an integer one (a block float multiplies mantissas)."""
        return self.kind != "fp"


def parse_format(name: str, data: Mapping[str, Any]) -> Format:
    """The format of one entry of a record's `formats`; raises `FormatError` naming it."""
    mac = str(data.get("mac", ""))
    kind, _, rest = mac.partition(":")
    try:
        numbers = [int(n) for n in rest.split(",")]
        bits = float(data["bits"])
        scale, block = float(data.get("scale_bits", 0)), data.get("block", 0)
        shared = block if isinstance(block, int) else 0
        if kind == "fp" and len(numbers) == 2:
            exponent, significand = numbers[0], numbers[1] + 1
        elif kind in ("int", "bfp") and len(numbers) == 1:
            exponent, significand = 0, numbers[0]
        else:
            raise ValueError(mac)
        if not (1 <= bits <= 128 and 1 <= significand <= 128 and 0 <= exponent <= 15
                and scale >= 0 and shared >= 0):
            raise ValueError("out of range")
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"format {name!r}: cannot read {dict(data)}; it needs bits (1 to 128) and mac = "
            '"fp:E,M", "int:B" or "bfp:B"') from error
    return Format(name, bits + (scale / shared if shared else 0.0), kind, significand, exponent, shared)


FORMATS = {name: parse_format(name, {"bits": bits, "mac": mac, "scale_bits": scale, "block": "row"})
           for name, bits, mac, scale in [
    ("fp32", 32, "fp:8,23", 0), ("tf32", 32, "fp:8,10", 0), ("bf16", 16, "fp:8,7", 0),
    ("fp16", 16, "fp:5,10", 0), ("e4m3", 8, "fp:4,3", 0), ("e5m2", 8, "fp:5,2", 0),
    ("int32", 32, "int:32", 0), ("int16", 16, "int:16", 0), ("int8", 8, "int:8", 0),
    ("int4", 4, "int:4", 0), ("int2", 2, "int:2", 0), ("bfp8", 8, "bfp:8", 8), ("bfp4", 4, "bfp:4", 8)]}


@dataclass(frozen=True)
class Rule:
    """The formats of one layer: (x, y) of each pass, accumulator, and what leaves the layer."""

    operands: tuple[tuple[Format, Format], ...]
    accumulator: Format
    output: Format


@dataclass(frozen=True)
class Precision:
    """The formats of a whole step: a default rule, the layers that differ, the update, the quantisers."""

    name: str
    default: Rule
    layers: Mapping[str, Rule]
    gradient: Format
    momentum: Format
    stored: Format
    quantised: Mapping[str, str]  # role -> rounding, only roles that really are quantised

    def rule(self, layer: str) -> Rule:
        return self.layers.get(layer, self.default)

    @property
    def used(self) -> list[Format]:
        """Every multiplier operand format in use, for an accelerator to accept or refuse."""
        rules = [self.default, *self.layers.values()]
        return list({f.name: f for r in rules for pair in r.operands for f in pair}.values())


def parse_precision(bits: Bits) -> Precision:
    """Any accepted way to name a precision -> `Precision`; raises `FormatError` naming the entry."""
    if isinstance(bits, Precision):
        return bits
    if isinstance(bits, Mapping):
        return _from_record(bits)
    if bits == "fp8":
        return _from_record(_FP8)
    return _uniform(_named(bits))


def _named(bits: Any) -> Format:
    if bits is None or bits == 32:
        return FORMATS["fp32"]
    if isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 64:
        return parse_format(f"int{bits}", {"bits": bits, "mac": f"int:{bits}"})
    if isinstance(bits, str) and bits in FORMATS:
        return FORMATS[bits]
    raise FormatError(f"unknown precision {bits!r}; known names: {', '.join(FORMATS)}, fp8; "
                      "or an integer width from 1 to 64, or a precision record")


def _uniform(fmt: Format) -> Precision:
    """One format for all operands and for what is stored between layers; 32-bit sums and update."""
    fp32 = FORMATS["fp32"]
    rule = Rule(((fmt, fmt),) * 3, fp32, fmt)
    quantised = {} if fmt.name == "fp32" else dict.fromkeys(("weight", "activation", "error"), "nearest")
    return Precision(fmt.name, rule, {}, fp32, fp32, fp32, quantised)


def _from_record(record: Mapping[str, Any]) -> Precision:
    own = record.get("formats", {})
    if record.get("schema", 1) != 1 or not isinstance(own, Mapping):
        raise FormatError(f"precision record {record.get('name', '')!r}: schema 1 with a table of formats is needed")

    def find(name: Any) -> Format:
        if isinstance(name, str) and name in own:
            return parse_format(name, own[name])
        return _named(name)

    def rule(data: Mapping[str, Any]) -> Rule:
        return Rule(
            tuple((find(data.get(p, {}).get(x, "fp32")), find(data.get(p, {}).get(y, "fp32")))
                  for p, (x, y) in OPERANDS.items()),
            find(data.get("accumulator", "fp32")), find(data.get("output", "fp32")))

    default = record.get("default", {})
    update = record.get("update", {})
    return Precision(
        str(record.get("name", "custom")), rule(default),
        {name: rule({**default, **data}) for name, data in record.get("layers", {}).items()},
        find(update.get("gradient", "fp32")), find(update.get("momentum", "fp32")), find(update.get("stored", "fp32")),
        {role: str(how) for role, how in record.get("quantise", {}).items() if how})


_FP8 = {
    "name": "fp8",
    "default": {
        "forward": {"weight": "e4m3", "activation": "e4m3"},
        "input_gradient": {"weight": "e4m3", "error": "e5m2"},
        "weight_gradient": {"activation": "e4m3", "error": "e5m2"},
        "accumulator": "fp32", "output": "bf16"},
    "quantise": dict.fromkeys(("weight", "activation", "error"), "nearest"),
}
