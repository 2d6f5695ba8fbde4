"""Early-Bird tickets: channel masks, the rule that says when to draw one, and the shrinking of a network to it.

`criteria` is a registry that imports no torch; everything else is imported on first use.
"""

from __future__ import annotations

from ebsim.lazy import attach

_HOME = {
    "CRITERIA": ".criteria",
    "Criterion": ".criteria",
    "ScoringInputs": ".scores",
    "ChannelMask": ".mask",
    "apply_mask": ".mask",
    "bn_layers": ".batchnorms",
    "channel_mask": ".ranking",
    "gammas": ".batchnorms",
    "masks_from_gammas": ".ranking",
    "masks_from_scores": ".ranking",
    "EarlyBird": ".early_bird",
    "Emergence": ".early_bird",
    "distance_map": ".early_bird",
    "emergence": ".early_bird",
    "Shrinker": ".compaction",
    "Shrunk": ".compaction",
    "compact": ".compaction",
    "load_ticket": ".ticket",
    "save_ticket": ".ticket",
    "filters": ".connectivity",
    "producers": ".connectivity",
    "reader": ".connectivity",
}

__getattr__, __dir__, __all__ = attach(__name__, _HOME)
