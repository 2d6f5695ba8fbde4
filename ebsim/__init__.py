"""Early-Bird tickets with their training energy modelled beside their accuracy: the public API.

Names are imported on first use, so that `import ebsim` does not cost an import of torch.
"""

from __future__ import annotations

import os

from ebsim.lazy import attach

__version__ = "0.1.0"

# A shrunk network has a width of its own in every layer: more compiled kernels than oneDNN keeps by default (1024).
# Without room for them it compiles anew at every step, which doubles the time of a step.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

_HOME = {
    "channel_mask": "ebsim.tickets",
    "ChannelMask": "ebsim.tickets",
    "EarlyBird": "ebsim.tickets",
    "apply_mask": "ebsim.tickets",
    "compact": "ebsim.tickets",
    "save_ticket": "ebsim.tickets",
    "load_ticket": "ebsim.tickets",
    "run": "ebsim.pipeline",
}
_PACKAGES = ("adapters", "data", "models", "precision", "tickets", "training", "methods", "runs", "report")
_MODULES = {name: f".{name}" for name in _PACKAGES}

__getattr__, __dir__, __all__ = attach(__name__, _HOME, _MODULES)
__all__ += ["__version__"]
