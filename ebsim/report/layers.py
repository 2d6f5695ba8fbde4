"""Modelled energy of one training image, layer by layer, from the layer tables of the run and its profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ebsim.report.load import Run


@dataclass(frozen=True)
class LayerCost:
    layer: str
    joules: Mapping[str, float]
    """{component: J per training image}: forward and both backward passes, and the layer's share of the update."""


def per_layer(run: Run) -> dict[str, list[LayerCost]]:
    return {}
