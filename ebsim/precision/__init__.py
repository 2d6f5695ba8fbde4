"""Number formats and precision backends: what is rounded where, how, and what the hardware model is told about it.

Names are imported on first use: checking a format's or a backend's name does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "quantize": "quantiser",
    "NumberFormat": "formats",
    "Operand": "formats",
    "find_format": "formats",
    "Backend": "backends",
    "backend": "backends",
    "list_formats": "listing",
    "list_backends": "listing",
    "apply": "placement",
    "remove": "placement",
    "averaged": "placement",
    "Placement": "placement",
    "plan": "plans",
    "record": "plans",
    "mask_noise_floor": "mask_noise",
    "register": "plugins",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ebsim.precision.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ebsim.precision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
