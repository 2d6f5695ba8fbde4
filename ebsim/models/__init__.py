"""Networks by name: PreResNet (9n+2), VGG with BatchNorm, and torchvision's ResNets.

`catalogue` is plain data and imports no torch; everything else is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "FAMILIES": "catalogue",
    "Family": "catalogue",
    "NetworkSpec": "catalogue",
    "resolve": "catalogue",
    "build": "building",
    "initialise": "initialising",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ebsim.models.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ebsim.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
