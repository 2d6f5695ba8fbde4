"""Number formats and precision backends: what is rounded where, how, and what the hardware model is told about it.

Names are imported on first use: checking a format's or a backend's name does not import torch.
"""

from __future__ import annotations

from ebsim.lazy import attach

_HOME = {
    "quantize": ".quantization.quantizer",
    "NumberFormat": ".formats.number_format",
    "Operand": ".formats.number_format",
    "find_format": ".formats.registry",
    "Backend": ".backends",
    "backend": ".registry",
    "list_formats": ".formats.registry",
    "list_backends": ".registry",
    "apply": ".placement",
    "remove": ".placement",
    "averaged": ".placement",
    "Placement": ".placement",
    "plan": ".layer_plan",
    "record": ".records",
    "fingerprint": ".fingerprints",
    "identity": ".fingerprints",
    "digest_of": ".fingerprints",
    "mask_noise_floor": ".mask_noise",
    "register": ".registry",
}

__getattr__, __dir__, __all__ = attach(__name__, _HOME)
