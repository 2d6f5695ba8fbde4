"""The precisions that a training can be named by, as tables: which number format each role has. Data, and one reading.

A table gives roles a format and a rounding ("int8/row stochastic"; no rounding means to nearest, no entry fp32), and
`rule`s give the first or last layer ("@first", "@last") others. ebsim trains by these tables, and `record` makes of one
what the hardware model prices, so a name cannot mean two things.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hw_models.precision.record_schema import OPERANDS, UPDATE

_ENDS_FP32 = {"layers": ["@first", "@last"], "weight": "fp32", "activation": "fp32", "error": "fp32"}
_LOGITS_FP32 = {"layers": ["@last"], "output": "fp32"}

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

FORMATS: dict[str, dict[str, Any]] = {  # of these tables, beside what `hw_models.precision.formats` knows by name
    "mxfp8": {"bits": 8, "mac": "fp:4,3", "scale_bits": 8, "block": 32},
    "int8/row": {"bits": 8, "mac": "int:8", "scale_bits": 32, "block": "row"},
}
_ROLES = ("weight", "activation", "error", "output", "gradient", "momentum", "stored")


def record(name: str) -> dict[str, Any]:
    """The precision record of a preset, for any network: its `layers` are "@first" and "@last"."""
    table = PRESETS[name]
    default = _entry(table, _roles(table, ""))
    rounded = _rounded(_roles(table, layer) for layer in ("", "@first", "@last"))
    layers = {}
    for layer in ("@first", "@last"):
        roles = _roles(table, layer)
        entry = {**_entry(table, roles), "quantise": _rounded([roles])}
        if entry != {**default, "quantise": rounded}:
            layers[layer] = entry
    update = {role: _format(table.get(role, "fp32")) for role in UPDATE}
    used = {fmt for entry in (default, *layers.values()) for phase in OPERANDS for fmt in entry[phase].values()}
    formats = {fmt: FORMATS[fmt] for fmt in sorted(used) if fmt in FORMATS}
    return {
        "name": name, "formats": formats, "default": default, "layers": layers, "update": update, "quantise": rounded,
    }  # fmt: skip


def _roles(table: Mapping[str, Any], layer: str) -> dict[str, str]:
    """Role -> what it is set to on one layer; the first rule that names it wins."""
    rules = [rule for rule in table.get("rule", ()) if layer in rule["layers"]]
    return {role: next((source[role] for source in (*rules, table) if role in source), "fp32") for role in _ROLES}


def _entry(table: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, Any]:
    # a weight that is kept in a format is on its grid in every pass
    names = {role: _format(spec) for role, spec in roles.items()}
    names["weight"] = names["stored"] if names["weight"] == "fp32" else names["weight"]
    entry: dict[str, Any] = {phase: {role: names[role] for role in pair} for phase, pair in OPERANDS.items()}
    plain = {names[role] for role in ("weight", "activation", "error")} == {"fp32"}
    entry["accumulator"] = "fp32" if plain else table.get("accumulator", "fp32")
    entry["output"] = names["output"]
    return entry


def _rounded(tables: Any) -> dict[str, str]:
    """Role -> rounding, of the roles that a quantizer works on in any of these."""
    found: dict[str, str] = {}
    for roles in tables:
        for role, spec in roles.items():
            if _format(spec) != "fp32" and found.get(role) != "stochastic":
                found[role] = "stochastic" if spec.endswith(" stochastic") else "nearest"
    return found


def _format(spec: str) -> str:
    return spec.partition(" ")[0]
