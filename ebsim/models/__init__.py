"""Networks by name: PreResNet (9n+2), VGG with BatchNorm, and torchvision's ResNets.

`catalogue` is plain data and imports no torch; everything else is imported on first use.
"""

from __future__ import annotations

from typing import Any

from ebsim.lazy import find

_HOME = {
    "FAMILIES": ".catalogue",
    "Family": ".catalogue",
    "NetworkSpec": ".catalogue",
    "resolve": ".catalogue",
    "build": ".builders",
    "initialize": ".init_weights",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return find(__name__, _HOME, name)


def __dir__() -> list[str]:
    return __all__
