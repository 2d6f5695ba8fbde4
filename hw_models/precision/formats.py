"""Number formats and the precision of a training step, as data.

A format here is what its cost depends on: stored bits, significand (hidden one included) and exponent of
a float, width of an integer, and the size of the block that shares a scale. The class of its multiplier is
read from a record's `mac` entry ("fp:E,M" with M stored mantissa bits, "int:B", "bfp:B"), so a format this
package has never heard of is priced by the law of its class.

A precision record (plain JSON) says which format each operand of each pass has; docs/hardware-model.md shows a whole
one. Wherever a record is accepted there are short forms:
    None                                                full precision
    "fp32", "bf16", "fp8", "int8", "bfp8", "mxfp8", ...   what a training of that name does (`presets`) to convolutions
                                                        and linear layers; what multiplies two activations is fp32
    8, "all int8", "e4m3", a `Format`                   one format for all operands and layer outputs; sums, gradients
                                                        and weights between steps in fp32 (an integer: that width)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hw_models.errors import FormatError, did_you_mean
from hw_models.precision import presets
from hw_models.precision.presets import PRESETS
from hw_models.precision.record_schema import OPERAND_ROLES, mistakes

PASSES = tuple(OPERAND_ROLES)


KEYS = ("bits", "mac", "scale_bits", "block", "trials")  # of a format in a record


@dataclass(frozen=True)
class Format:
    """A number format: `kind` is "fp", "int" or "bfp"; `significand` counts the hidden one."""

    name: str
    bits: float  # stored bits per element, its share of a block's scale included
    kind: str
    significand: int
    exponent: int
    block: int = 0  # elements that share a scale; 0 = a whole row or tensor
    trials: int = 1  # scales that a quantizer tries for each of its blocks, to keep the one with the smallest error

    @property
    def hardware(self) -> str:
        """The format's name on hardware: that of the known format with the same multiplier, else its own."""
        same = (self.kind, self.significand, self.exponent)
        return next((f.name for f in FORMATS.values() if (f.kind, f.significand, f.exponent) == same), self.name)

    @property
    def integer(self) -> bool:
        """Whether its multiplier is an integer one (a block float multiplies mantissas)."""
        return self.kind != "fp"


def parse_format(name: str, data: Mapping[str, Any]) -> Format:
    """The format of one entry of a record's `formats`; raises `FormatError` naming it."""
    if not isinstance(data, Mapping):
        raise FormatError(f"format {name!r}: is {data!r}, must be a table with bits and mac")
    if strange := [key for key in data if key not in KEYS]:
        raise FormatError(f"format {name!r}: {strange[0]}: is not a known key{did_you_mean(str(strange[0]), KEYS)}")
    mac = str(data.get("mac", ""))
    kind, _, rest = mac.partition(":")
    try:
        numbers = [int(n) for n in rest.split(",")]
        bits = float(data["bits"])
        scale, block, trials = float(data.get("scale_bits", 0)), data.get("block", 0), data.get("trials", 1)
        shared = block if isinstance(block, int) else 0
        if kind == "fp" and len(numbers) == 2:
            exponent, significand = numbers[0], numbers[1] + 1
        elif kind in ("int", "bfp") and len(numbers) == 1:
            exponent, significand = 0, numbers[0]
        else:
            raise ValueError(mac)
        if not (1 <= bits <= 128 and 1 <= significand <= 128 and 0 <= exponent <= 15 and scale >= 0 and shared >= 0):
            raise ValueError("out of range")
        if not isinstance(trials, int) or not 1 <= trials <= 16:
            raise ValueError("trials")
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"format {name!r}: cannot read {dict(data)}; it needs bits (1 to 128) and mac = "
            '"fp:E,M", "int:B" or "bfp:B" (and trials, if given, from 1 to 16)'
        ) from error
    return Format(name, bits + (scale / shared if shared else 0.0), kind, significand, exponent, shared, trials)


POINTWISE_KINDS = {  # kind of a row of the layer table -> how a precision calls it
    "bn": "norm", "norm": "norm", "scale": "norm", "relu": "activation", "activation": "activation",
    "maxpool": "pool", "avgpool": "pool",
}  # fmt: skip
FORMATS = {
    name: parse_format(name, {"bits": bits, "mac": mac, "scale_bits": scale, "block": "row"})
    for name, bits, mac, scale in [
        ("fp32", 32, "fp:8,23", 0),
        ("tf32", 32, "fp:8,10", 0),
        ("bf16", 16, "fp:8,7", 0),
        ("fp16", 16, "fp:5,10", 0),
        ("e4m3", 8, "fp:4,3", 0),
        ("e5m2", 8, "fp:5,2", 0),
        ("int32", 32, "int:32", 0),
        ("int16", 16, "int:16", 0),
        ("int8", 8, "int:8", 0),
        ("int4", 4, "int:4", 0),
        ("int2", 2, "int:2", 0),
        ("bfp8", 8, "bfp:8", 8),
        ("bfp4", 4, "bfp:4", 8),
    ]
}


@dataclass(frozen=True)
class LayerFormats:
    """The formats of one layer: (x, y) of each pass, accumulator, output, input gradient, and update.

    `rounded`: (pass, role) -> rounding of every quantizer that works on a tensor of it.
    """

    operands: tuple[tuple[Format, Format], ...]
    accumulator: Format
    output: Format
    activation_gradient: Format
    update: tuple[Format, Format, Format]  # gradient, momentum, stored weight
    rounded: Mapping[tuple[str, str], str] = field(default_factory=dict, hash=False)
    hadamard: tuple[str, ...] = ()  # operands of the weight gradient that a Hadamard transform of 16 samples goes over
    clipped: tuple[str, ...] = ()  # tensors whose clipped elements are remembered, a bit each, for the backward pass
    second_moment: Format | None = None  # of Adam; None: an optimizer without one


@dataclass(frozen=True)
class PointwiseFormats:
    """The formats of a pointwise row's output and of its input gradient, and the roundings of both (None: none)."""

    forward: Format
    backward: Format
    rounded: tuple[str | None, str | None] = (None, None)
    clipped: bool = False


_FP32 = FORMATS["fp32"]
PLAIN = LayerFormats(((_FP32, _FP32),) * 3, _FP32, _FP32, _FP32, (_FP32,) * 3)  # of what no backend reaches
PLAIN_ADAM = replace(PLAIN, second_moment=_FP32)
UNROUNDED = PointwiseFormats(_FP32, _FP32)


@dataclass(frozen=True)
class Precision:
    """The formats of a whole step: a default rule, the layers that differ, vectors, rows without products.

    covered: the only layers that are rounded (None: all with weights; where `products`, those of two activations too)
    pointwise: row name, or "@norm", "@activation", "@pool", or "*" -> formats; fp32 where none is named
    one_dimensional: format of gamma, beta and biases in the update, and its rounding
    """

    name: str
    default: LayerFormats
    layers: Mapping[str, LayerFormats]
    one_dimensional: Format
    one_dimensional_rounding: str | None = None
    covered: frozenset[str] | None = None
    products: bool = True
    pointwise: Mapping[str, PointwiseFormats] = field(default_factory=dict)
    optimizer: str = "sgd"
    partial_sums: Mapping[str, Any] | None = None

    @property
    def gradient(self) -> Format:
        return self.default.update[0]

    @property
    def momentum(self) -> Format:
        return self.default.update[1]

    @property
    def stored(self) -> Format:
        return self.default.update[2]

    @property
    def states(self) -> tuple[Format, ...]:
        """What the optimizer keeps of each weight: momentum, and Adam's second moment."""
        second = self.default.second_moment
        return (self.momentum,) if second is None else (self.momentum, second)

    @property
    def quantized(self) -> Mapping[tuple[str, str], str]:
        """(pass, role) -> rounding, of a layer that no exception is about."""
        return self.default.rounded

    @property
    def uniform(self) -> bool:
        """Whether one rule serves every product."""
        return not self.layers and self.covered is None and self.products

    def rule(self, row: str, kind: str = "") -> LayerFormats:
        """Of a row of the layer table: that of its layer, also where it is the layer's second call ("fc.addmm")."""
        layer = self._layer(row)
        if layer is None or (kind == "matmul" and not self.products):
            return PLAIN if self.optimizer == "sgd" else PLAIN_ADAM
        return self.layers.get(layer, self.default)

    def _layer(self, row: str) -> str | None:
        names = (row, row.rpartition(".")[0])
        if self.covered is None:
            return next((name for name in names if name in self.layers), row)
        return next((name for name in names if name in self.covered), None)

    def pointwise_row(self, row: str, kind: str) -> PointwiseFormats:
        """Of a row that multiplies no matrices."""
        keys = (row, row.rpartition(".")[0], f"@{POINTWISE_KINDS.get(kind, '')}", "*")
        return next((self.pointwise[key] for key in keys if key in self.pointwise), UNROUNDED)

    def multiplied(self, names: Iterable[str]) -> list[tuple[Format, Format]]:
        """The pairs of formats that the convolutions and products called `names` multiply, each once."""
        rules = {id(rule): rule for rule in map(self.rule, names)}.values()
        return list(dict.fromkeys(pair for rule in rules for pair in rule.operands))

    def on(self, names: Sequence[str]) -> Precision:
        """On a network whose convolutions and linear layers are `names`: "@first" and "@last" become theirs."""
        ends = {key: rule for key, rule in self.layers.items() if key in ("@first", "@last")}
        if not ends:
            return self
        named = {key: rule for key, rule in self.layers.items() if key not in ends}
        placed = {names[0 if key == "@first" else -1]: rule for key, rule in sorted(ends.items())} if names else {}
        return replace(self, layers=placed | named)


def mac_key(x: Format, y: Format) -> str:
    """The name that costs and sensitivities have for a multiplication of these operands."""
    return f"mac.{x.name}" if x.name == y.name else f"mac.{x.name}*{y.name}"


Bits = Mapping[str, Any] | Precision | Format | str | int | None


def parse_precision(bits: Bits) -> Precision:
    """Any accepted way to name a precision -> `Precision`; raises `FormatError` naming the entry and the cure."""
    if isinstance(bits, Precision):
        return bits
    if isinstance(bits, Mapping):
        return _from_record(bits)
    if isinstance(bits, str) and bits in PRESETS:
        return _preset(bits)
    return _uniform(_format(bits))


@cache
def _preset(name: str) -> Precision:
    return _from_record(presets.record(name), products=False)


def _format(bits: Any) -> Format:
    """The one format of a uniform precision."""
    if bits is None or bits == 32:
        return FORMATS["fp32"]
    if isinstance(bits, Format):
        return bits
    if isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 64:
        return parse_format(f"int{bits}", {"bits": bits, "mac": f"int:{bits}"})
    if isinstance(bits, str) and bits.removeprefix("all ") in FORMATS:
        return FORMATS[bits.removeprefix("all ")]
    names = dict.fromkeys([*PRESETS, *FORMATS])
    raise FormatError(
        f"unknown precision {bits!r}{did_you_mean(str(bits), names)} (a name, an integer width from 1 to 64, "
        "or a precision record)"
    )


def _uniform(fmt: Format) -> Precision:
    """One format for all operands and for what is stored between layers; 32-bit sums and update."""
    rounded = (
        {}
        if fmt.name == "fp32"
        else dict.fromkeys((("forward", "weight"), ("forward", "activation"), ("input_gradient", "error")), "nearest")
    )
    rule = LayerFormats(((fmt, fmt),) * 3, _FP32, fmt, fmt, (_FP32,) * 3, rounded)
    name = f"all {fmt.name}" if fmt.name in PRESETS and fmt.name != "fp32" else fmt.name
    return Precision(name, rule, {}, _FP32, pointwise={"*": PointwiseFormats(fmt, fmt)})


def _over(default: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """The default with what a layer says differently, role by role."""
    return {**default, **layer, **{p: {**default.get(p, {}), **layer.get(p, {})} for p in OPERAND_ROLES}}


def _from_record(record: Mapping[str, Any], products: bool = True) -> Precision:
    title = f"precision record {record.get('name', '')!r}: "
    if wrong := list(mistakes(record)):
        raise FormatError("\n".join(title + one for one in wrong))
    own = {name: parse_format(name, data) for name, data in record.get("formats", {}).items()}

    def find(name: str) -> Format:
        if name in own or name in FORMATS:
            return own.get(name) or FORMATS[name]
        raise FormatError(
            f"{title}no format {name!r}{did_you_mean(name, {**own, **FORMATS})}; its own stand under formats"
        )

    update, optimizer = record.get("update", {}), record.get("optimizer", "sgd")
    both_ways = record.get("schema", 1) == 1  # then `output` is what leaves a layer in either direction

    def rule(data: Mapping[str, Any]) -> LayerFormats:
        formats = {**update, **data.get("update", {})}
        made = LayerFormats(
            tuple(
                (find(data.get(p, {}).get(x, "fp32")), find(data.get(p, {}).get(y, "fp32")))
                for p, (x, y) in OPERAND_ROLES.items()
            ),
            find(data.get("accumulator", "fp32")),
            find(data.get("output", "fp32")),
            find(data.get("activation_gradient", data.get("output", "fp32") if both_ways else "fp32")),
            (
                find(formats.get("gradient", "fp32")),
                find(formats.get("momentum", "fp32")),
                find(formats.get("stored", "fp32")),
            ),
        )
        made = replace(made, hadamard=tuple(data.get("hadamard", ())), clipped=tuple(data.get("clipped", ())))
        if optimizer != "sgd":
            made = replace(made, second_moment=find(formats.get("second_moment", "fp32")))
        return replace(made, rounded=_roundings(data.get("quantise", record.get("quantise", {})), made))

    def pointwise(data: Mapping[str, Any]) -> PointwiseFormats:
        how = data.get("quantise", {})
        formats = find(data.get("forward", "fp32")), find(data.get("backward", "fp32"))
        return PointwiseFormats(*formats, (how.get("forward"), how.get("backward")), bool(data.get("clipped", False)))

    default = record["default"]
    rows = {name: pointwise(data) for name, data in record.get("pointwise", {}).items()}
    if both_ways and not rows:  # and of what the rows between layers
        handed = find(default.get("output", "fp32"))
        rows = {"*": PointwiseFormats(handed, handed)}
    thin = record.get("quantise", {}).get("update", {})
    return Precision(
        str(record.get("name", "custom")),
        rule(default),
        {name: rule(_over(default, data)) for name, data in record.get("layers", {}).items()},
        find(update.get("one_dimensional", "fp32")),
        thin.get("one_dimensional") if isinstance(thin, Mapping) else None,
        frozenset(record["covered"]) if "covered" in record else None,
        products,
        rows,
        optimizer,
        record.get("partial_sums"),
    )


def _roundings(table: Mapping[str, Any], rule: LayerFormats) -> dict[tuple[str, str], str]:
    """(pass, role) -> rounding. Of a record of schema 1, role -> rounding: what was rounded is what has a format."""
    if not table or all(isinstance(value, Mapping) for value in table.values()):
        found = {(phase, role): how for phase, roles in table.items() for role, how in roles.items()}
        return {key: how for key, how in found.items() if key[1] != "one_dimensional"}
    (forward_x, forward_y), (error, back_y), (late_x, late_error) = rule.operands
    gradient, momentum, stored = rule.update
    tensors = {
        "activation": (("forward", forward_x), ("weight_gradient", late_x)),
        "weight": (("forward", forward_y), ("input_gradient", back_y)),
        "error": (("input_gradient", error), ("weight_gradient", late_error)),
        "output": (("forward", rule.output),),
        "gradient": (("update", gradient),),
        "momentum": (("update", momentum),),
        "stored": (("update", stored),),
    }
    made = {}
    for role, how in table.items():
        (phase, fmt), *second = tensors.get(role, (("update", _FP32),))
        if fmt.hardware != "fp32" or phase == "update":
            made[phase, role] = how
        for later, other in second:
            if other.hardware != "fp32" and (other != fmt or other.block):
                made[later, role] = how
    return made
