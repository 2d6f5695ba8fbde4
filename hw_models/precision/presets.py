"""The named precisions of a training as tables: which number format each tensor role has.

A table gives roles a format and a rounding ("int8/row stochastic"; without a rounding, to nearest; a missing role is
fp32), and `rule`s set others for the first or last layer ("@first", "@last"). ebsim trains by these tables, and
`record` turns one into the precision record that the hardware model prices, so a name cannot mean two things.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hw_models.precision.record_builder import Cell, build
from hw_models.precision.record_schema import ROUNDED, UPDATE_ROLES

_ENDS_FP32 = {"layers": ["@first", "@last"], "weight": "fp32", "activation": "fp32", "error": "fp32"}
_BF16_BETWEEN = {"output": "bf16", "activation_gradient": "bf16", "pointwise": "bf16"}
_LOGITS_FP32 = {"layers": ["@last"], "output": "fp32"}

PRESETS: dict[str, dict[str, Any]] = {
    "fp32": {"about": "the network untouched, bit for bit"},
    "bf16": {
        "about": "every tensor between layers and all MAC operands bfloat16; fp32 sums, statistics and master weights",
        "weight": "bf16", "activation": "bf16", "error": "bf16", **_BF16_BETWEEN,
        "rule": [_LOGITS_FP32],
    },
    "fp8": {
        "about": "hybrid fp8 (Micikevicius et al., 2022): E4M3 forward, E5M2 errors, bf16 outputs, fp32 master weights",
        "weight": "e4m3", "activation": "e4m3", "error": "e5m2", "output": "bf16",
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
    "fp8_bf16": {
        "about": "fp8, and every other tensor between layers bf16, as mixed-precision training keeps them",
        "weight": "e4m3", "activation": "e4m3", "error": "e5m2", **_BF16_BETWEEN,
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
        "output": "bfp8 stochastic", "activation_gradient": "bfp8 stochastic",
        "rule": [_LOGITS_FP32],
        "gradient": "bfp8 stochastic", "momentum": "bfp8 stochastic", "stored": "bfp8 stochastic",
        "swa": {"start": 0.75},
    },
    "bfp8_all": {
        "about": "bfp8, and what normalizations, activations and pools hand on and back as well",
        "weight": "bfp8 stochastic", "activation": "bfp8 stochastic", "error": "bfp8 stochastic",
        "output": "bfp8 stochastic", "activation_gradient": "bfp8 stochastic", "pointwise": "bfp8 stochastic",
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
    "mxfp6": {
        "about": "MX: E3M2 in blocks of 32 along the axis each pass sums over, bf16 between layers",
        "weight": "mxfp6_e3m2", "activation": "mxfp6_e3m2", "error": "mxfp6_e3m2", **_BF16_BETWEEN,
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
    "mxfp4": {
        "about": "MX: E2M1 in blocks of 32 along the axis each pass sums over, stochastic errors, bf16 between layers",
        "weight": "mxfp4", "activation": "mxfp4", "error": "mxfp4 stochastic", **_BF16_BETWEEN,
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
    "mxint8": {
        "about": "MX: INT8 in blocks of 32 along the axis each pass sums over, bf16 between layers",
        "weight": "mxint8", "activation": "mxint8", "error": "mxint8", **_BF16_BETWEEN,
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
    "nvfp4": {
        "about": "NVFP4 as arXiv 2509.25149 trains: 16x16 blocks of weights, Hadamard transform on the operands of the"
        " weight gradient, stochastic errors, bf16 between layers, first and last layer bf16",
        "weight": "nvfp4/16x16", "activation": "nvfp4", "error": "nvfp4 stochastic", **_BF16_BETWEEN,
        "rule": [
            {"layers": ["@first", "@last"], "weight": "bf16", "activation": "bf16", "error": "bf16"},
            _LOGITS_FP32,
            {"layers": ["*"], "phase": "weight_gradient", "activation": "nvfp4 hadamard",
             "error": "nvfp4 hadamard stochastic"},
        ],
    },
    "nvfp4_four_over_six": {
        "about": "nvfp4, the largest number of each block made 6 or 4, whichever errs less (arXiv 2512.02010)",
        "weight": "nvfp4/16x16/four_over_six", "activation": "nvfp4/four_over_six",
        "error": "nvfp4/four_over_six stochastic", **_BF16_BETWEEN,
        "rule": [
            {"layers": ["@first", "@last"], "weight": "bf16", "activation": "bf16", "error": "bf16"},
            _LOGITS_FP32,
            {"layers": ["*"], "phase": "weight_gradient", "activation": "nvfp4/four_over_six hadamard",
             "error": "nvfp4/four_over_six hadamard stochastic"},
        ],
    },
    "fp8_delayed": {
        "about": "fp8_bf16 with scales from the largest absmax of the last 16 steps, whose history checkpoints keep",
        "weight": "e4m3/delayed", "activation": "e4m3/delayed", "error": "e5m2/delayed", **_BF16_BETWEEN,
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
    "fp8_block": {
        "about": "fp8 with real scales per 128x128 tile of weights and 128 neighbours of activations and errors, as"
        " DeepSeek-V3 trains (E4M3 throughout), bf16 between layers",
        "weight": "e4m3/absmax/128x128", "activation": "e4m3/absmax/128", "error": "e4m3/absmax/128", **_BF16_BETWEEN,
        "rule": [_ENDS_FP32, _LOGITS_FP32],
    },
}  # fmt: skip

FORMATS: dict[str, dict[str, Any]] = {  # of these tables, beside what `hw_models.precision.formats` knows by name
    "mxfp8": {"bits": 8, "mac": "fp:4,3", "scale_bits": 8, "block": 32},
    "mxfp6_e3m2": {"bits": 6, "mac": "fp:3,2", "scale_bits": 8, "block": 32},
    "mxfp4": {"bits": 4, "mac": "fp:2,1", "scale_bits": 8, "block": 32},
    "mxint8": {"bits": 8, "mac": "bfp:8", "scale_bits": 8, "block": 32},
    "nvfp4": {"bits": 4, "mac": "fp:2,1", "scale_bits": 8, "block": 16},
    "nvfp4/16x16": {"bits": 4, "mac": "fp:2,1", "scale_bits": 8, "block": 256},
    "nvfp4/four_over_six": {"bits": 4, "mac": "fp:2,1", "scale_bits": 8, "block": 16, "trials": 2},
    "nvfp4/16x16/four_over_six": {"bits": 4, "mac": "fp:2,1", "scale_bits": 8, "block": 256, "trials": 2},
    "e4m3/delayed": {"bits": 8, "mac": "fp:4,3", "scale_bits": 32},
    "e5m2/delayed": {"bits": 8, "mac": "fp:5,2", "scale_bits": 32},
    "e4m3/absmax/128": {"bits": 8, "mac": "fp:4,3", "scale_bits": 32, "block": 128},
    "e4m3/absmax/128x128": {"bits": 8, "mac": "fp:4,3", "scale_bits": 32, "block": 16384},
    "int8/row": {"bits": 8, "mac": "int:8", "scale_bits": 32, "block": "row"},
}
PASSES = {**ROUNDED, "update": UPDATE_ROLES}


def record(name: str) -> dict[str, Any]:
    """The precision record of a preset, for any network: its `layers` are "@first" and "@last"."""
    table = PRESETS[name]
    default = cells(table, "")
    layers = {layer: cells(table, layer) for layer in ("@first", "@last")}
    thin = _cell(table.get("one_dimensional", "fp32"))
    pointwise = {f"@{kind}": _pointwise(table, f"@{kind}") for kind in ("norm", "activation", "pool")}
    used = {cell.format for made in (default, *layers.values(), *pointwise.values()) for cell in made.values()}
    return build(
        name,
        default,
        layers,
        formats={fmt: FORMATS[fmt] for fmt in used if fmt in FORMATS},
        accumulator=table.get("accumulator", "fp32"),
        one_dimensional=thin,
        pointwise={kind: made for kind, made in pointwise.items() if any(cell.rounds for cell in made.values())},
    )


def cells(table: Mapping[str, Any], layer: str) -> dict[tuple[str, str], Cell]:
    """(pass, role) -> cell of one layer; the first rule that is about it and sets the cell wins."""
    rules = [rule for rule in table.get("rule", ()) if layer in rule["layers"] or "*" in rule["layers"]]
    return {(phase, role): _cell(_spec(table, rules, phase, role)) for phase, roles in PASSES.items() for role in roles}


def _pointwise(table: Mapping[str, Any], kind: str) -> dict[tuple[str, str], Cell]:
    rules = [rule for rule in table.get("rule", ()) if kind in rule["layers"] or "*" in rule["layers"]]
    return {
        (phase, "pointwise"): _cell(_spec(table, rules, phase, "pointwise")) for phase in ("forward", "input_gradient")
    }


def _spec(table: Mapping[str, Any], rules: list[Mapping[str, Any]], phase: str, role: str) -> str:
    found = (rule[role] for rule in rules if role in rule and rule.get("phase") in (None, phase))
    return str(next(found, table.get(role, "fp32")))


def _cell(spec: str) -> Cell:
    name, *words = spec.split(" ")
    block = 0 if re.search(r"\dx\d", name) else FORMATS.get(name, {}).get("block", 0)  # a tile serves every pass
    blocked = isinstance(block, int) and block > 0
    return Cell(name, "stochastic" if "stochastic" in words else "nearest", blocked, "hadamard" in words)
