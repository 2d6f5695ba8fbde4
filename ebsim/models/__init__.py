"""Networks by name: PreResNet (9n+2), VGG with BatchNorm, and torchvision's ResNets.

`catalogue` is plain data and imports no torch; everything else is imported on first use.
"""

from __future__ import annotations

from ebsim.lazy import attach

_HOME = {
    "FAMILIES": ".catalogue",
    "Family": ".catalogue",
    "NetworkSpec": ".catalogue",
    "resolve": ".catalogue",
    "build": ".builders",
    "initialize": ".init_weights",
}

__getattr__, __dir__, __all__ = attach(__name__, _HOME)
