"""The precisions that ebsim trains in, under the same names and as the same records: data only.

`hw_models` knows nothing of `ebsim`, so the records stand here once more; a test holds both equal. In `layers`,
"@first" and "@last" are the first and last convolution or linear layer of whatever network is priced.
"""

from __future__ import annotations

from typing import Any

from hw_models.precision.record_schema import OPERANDS


def _rule(weight: str, activation: str, error: str, output: str, accumulator: str = "fp32") -> dict[str, Any]:
    given = {"weight": weight, "activation": activation, "error": error}
    passes = {name: {role: given[role] for role in roles} for name, roles in OPERANDS.items()}
    return {**passes, "accumulator": accumulator, "output": output}


def _nearest(*roles: str) -> dict[str, str]:
    return dict.fromkeys(roles, "nearest")


def _stochastic(*roles: str) -> dict[str, str]:
    return dict.fromkeys(roles, "stochastic")


_ROLES = ("weight", "activation", "error")
_UPDATE = ("gradient", "momentum", "stored")
_BLOCKS = {**dict.fromkeys(_UPDATE, "bfp8"), "one_dimensional": "fp32"}
_ENDS = {  # operands of the first and last layer in fp32, logits too
    "@first": {**_rule("fp32", "fp32", "fp32", "bf16"), "quantise": _nearest("output")},
    "@last": {**_rule("fp32", "fp32", "fp32", "fp32"), "quantise": {}},
}
_FORMATS = {
    "mxfp8": {"bits": 8, "mac": "fp:4,3", "scale_bits": 8, "block": 32},
    "int8/row": {"bits": 8, "mac": "int:8", "scale_bits": 32, "block": "row"},
}

PRESETS: dict[str, dict[str, Any]] = {
    "fp32": {"default": _rule("fp32", "fp32", "fp32", "fp32")},
    "bf16": {
        "default": _rule("bf16", "bf16", "bf16", "bf16"),
        "layers": {"@last": {**_rule("bf16", "bf16", "bf16", "fp32"), "quantise": _nearest(*_ROLES)}},
        "quantise": _nearest(*_ROLES, "output"),
    },
    "fp8": {
        "default": _rule("e4m3", "e4m3", "e5m2", "bf16"),
        "layers": _ENDS,
        "quantise": _nearest(*_ROLES, "output"),
    },
    "int8": {
        "formats": _FORMATS,
        "default": _rule("int8/row", "int8", "int8", "bf16", "int32"),
        "layers": _ENDS,
        "quantise": {**_nearest("weight", "activation", "output"), "error": "stochastic"},
    },
    "bfp8": {
        "default": _rule("bfp8", "bfp8", "bfp8", "bfp8"),
        "layers": {"@last": {**_rule("bfp8", "bfp8", "bfp8", "fp32"), "quantise": _stochastic(*_ROLES, *_UPDATE)}},
        "update": _BLOCKS,
        "quantise": _stochastic(*_ROLES, "output", *_UPDATE),
    },
    "eb2020": {  # a weight that is stored in a format has it in every pass
        "default": _rule("bfp8", "fp32", "bfp8", "bfp8"),
        "layers": {"@last": {**_rule("bfp8", "fp32", "fp32", "fp32"), "quantise": _stochastic(*_UPDATE)}},
        "update": {**_BLOCKS, "one_dimensional": "bfp8"},
        "quantise": _stochastic("output", "error", *_UPDATE),
    },
    "mxfp8": {
        "formats": _FORMATS,
        "default": _rule("mxfp8", "mxfp8", "mxfp8", "bf16"),
        "layers": _ENDS,
        "quantise": _nearest(*_ROLES, "output"),
    },
}
