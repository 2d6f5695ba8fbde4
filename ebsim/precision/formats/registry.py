"""The number formats that can be named, and reading what a role is set to ("int8/row stochastic")."""

from __future__ import annotations

import dataclasses
from typing import Any

from ebsim.errors import ConfigError, did_you_mean
from ebsim.precision.formats.builtin import BUILTIN
from ebsim.precision.formats.number_format import ROUNDINGS, NumberFormat, Operand
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
    found = FORMATS.find(base)
    if found is None:
        raise ConfigError(f"unknown number format {base!r}{did_you_mean(base, FORMATS.origins())}")
    if not isinstance(found, NumberFormat):
        raise ConfigError(f"{base!r} is a {type(found).__name__}, not an ebsim.precision.NumberFormat")
    if BUILTIN.get(found.name, found) != found:
        raise ConfigError(f"{base!r} is called {found.name!r}, which is built in: rename it")
    return _variant(found, variant) if variant else found


def _variant(fmt: NumberFormat, variant: str) -> NumberFormat:
    if variant == "unscaled":
        new: dict[str, Any] = {"scaling": "none", "scale_bits": 0, "block": 0}
    elif variant in ("tensor", "row", "channel") or variant.isdigit():
        block = {"tensor": 0, "row": "row", "channel": "row"}.get(variant)
        new = {"block": int(variant) if block is None else block}
    else:
        raise ConfigError(
            f"unknown variant {fmt.name}/{variant}: use tensor, row (= channel), unscaled or a block length"
        )
    if all(getattr(fmt, k) == v for k, v in new.items()):
        return fmt
    suffix = "row" if variant == "channel" else variant
    return dataclasses.replace(fmt, name=f"{fmt.name}/{suffix}", **new)


def operand(spec: str) -> Operand:
    """Parse "FORMAT[/VARIANT] [nearest|stochastic]"."""
    words = spec.rsplit(" ", 1) if spec.endswith(ROUNDINGS) else [spec]
    if len(words) == 2 and words[1] not in ROUNDINGS:
        words = [spec]
    return Operand(find_format(words[0].strip()), words[-1] == "stochastic", spec)
