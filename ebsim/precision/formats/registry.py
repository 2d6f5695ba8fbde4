"""The number formats that can be named, and reading what a role is set to ("int8/row stochastic")."""

from __future__ import annotations

import dataclasses
from typing import Any

from ebsim.errors import ConfigError, did_you_mean
from ebsim.precision.formats.builtin import BUILTIN, float_by_name
from ebsim.precision.formats.number_format import ROUNDINGS, TILE, NumberFormat, Operand
from ebsim.precision.names import NameRegistry

FORMATS = NameRegistry("formats", BUILTIN)


def list_formats() -> dict[str, str]:
    """Name -> origin ("built in", or the plug-in's package and version, or path)."""
    return FORMATS.origins()


def find_format(spec: str | NumberFormat) -> NumberFormat:
    """A format by name, with an optional variant: "int8/row", "e4m3/unscaled", "bfp8/16", "int8/tensor".

    Names come from the built-in table, from installed plug-ins, or "path/to/file.py:NAME".
    """
    if isinstance(spec, NumberFormat):
        return spec
    base, variant = spec, ""
    if ".py:" not in spec:
        name, _, how = spec.partition(" ")
        if how in ROUNDINGS:
            raise ConfigError(f'{spec!r}: a format is named without its rounding here: {name!r}, rounding="{how}"')
        if how:
            raise ConfigError(f"unknown rounding {how!r} in {spec!r}{did_you_mean(how, ROUNDINGS)}")
        base, _, variant = spec.partition("/")
    found = FORMATS.find(base) or float_by_name(base)
    if found is None:
        raise ConfigError(f"unknown number format {base!r}{did_you_mean(base, FORMATS.origins())}")
    if not isinstance(found, NumberFormat):
        raise ConfigError(f"{base!r} is a {type(found).__name__}, not an ebsim.precision.NumberFormat")
    if BUILTIN.get(found.name, found) != found:
        raise ConfigError(f"{base!r} is called {found.name!r}, which is built in: rename it")
    return _variant(found, variant) if variant else found


_SCALES = {  # what a variant calls a scale rule
    "absmax": {"scaling": "absmax", "scale_bits": 32},
    "floor": {"scaling": "pow2_floor", "scale_bits": 8},
    "ceil": {"scaling": "pow2_ceil", "scale_bits": 8},
    "even": {"scaling": "pow2_even", "scale_bits": 8},
    "delayed": {"scaling": "delayed", "scale_bits": 32, "block": 0},
    "four_over_six": {"scaling": "four_over_six", "scale_bits": 8},
    "rceil": {"scaling": "pow2", "scale_bits": 8},
    "unscaled": {"scaling": "none", "scale_bits": 0, "block": 0},
}


def _variant(fmt: NumberFormat, variant: str) -> NumberFormat:
    new: dict[str, Any] = {}
    words = ["row" if word == "channel" else word for word in variant.split("/")]
    for word in words:
        if word in _SCALES:
            new |= _SCALES[word]
        elif word in ("tensor", "row") or word.isdigit() or TILE.fullmatch(word):
            new["block"] = 0 if word == "tensor" else int(word) if word.isdigit() else word
        else:
            raise ConfigError(
                f"unknown variant {fmt.name}/{word}: use tensor, row (= channel), a block length, a tile (16x16), or a "
                f"scale: {', '.join(_SCALES)}"
            )
    if all(getattr(fmt, k) == v for k, v in new.items()):
        return fmt
    return dataclasses.replace(fmt, name="/".join([fmt.name, *words]), **new)


def operand(spec: str) -> Operand:
    """Parse "FORMAT[/VARIANT] [hadamard] [nearest|stochastic] [clipped]"."""
    text, flags = spec, set()
    while (parts := text.rsplit(" ", 1))[-1] in (*ROUNDINGS, "hadamard", "clipped") and len(parts) == 2:
        text = parts[0].strip()
        flags.add(parts[1])
    return Operand(find_format(text.strip()), "stochastic" in flags, "hadamard" in flags, "clipped" in flags, spec)
