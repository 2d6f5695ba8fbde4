"""Every layer of the networks that are shown, as bars of the page: by component or by pass, absolute or in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebsim.report.display.text import plain
from ebsim.report.display.value import percent, quantity
from ebsim.report.figures.split_bars import COMPONENTS, paint
from ebsim.report.tables.energy import part_names
from ebsim.report.tables.per_layer import LayerCost, per_layer
from ebsim.runs.load import Run

PASSES = {
    "forward": ("#0072B2", ""),
    "input_gradient": ("#D55E00", ""),
    "weight_gradient": ("#009E73", ""),
    "update": ("#999999", ""),
}
NETWORKS = 2
"""Networks that the page lists layer by layer: dense and the first ticket shown; the CSV has the others."""
LEAST = 0.01
"""Parts of a bar that are a smaller share of it are not drawn."""


def keys(run: Run) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(name, color) of the components and of the passes."""
    every = [cost for network in per_layer(run).values() for cost in network.layers]
    components = paint(part_names(cost.components for cost in every), COMPONENTS)
    passes = paint(list(dict.fromkeys(key for cost in every for key in cost.passes)), PASSES)
    return _colors(components), _colors(passes)


def _colors(looks: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    return [(plain(name).replace("_", " "), color) for name, (color, _) in looks.items()]


def networks(run: Run) -> list[dict[str, Any]]:
    """What the template draws of each network."""
    found = dict(list(per_layer(run).items())[:NETWORKS])
    longest = max((cost.total for network in found.values() for cost in network.layers), default=1.0) or 1.0
    return [
        {
            "name": name,
            "total": quantity(network.total, "J"),
            "layers": [_layer(cost, network.total, longest) for cost in network.layers],
        }
        for name, network in found.items()
    ]


def _layer(cost: LayerCost, whole: float, longest: float) -> dict[str, Any]:
    return {
        "name": plain(cost.layer),
        "joules": quantity(cost.total, "J"),
        "share": percent(cost.total / whole if whole else 0.0),
        "width": f"{100 * cost.total / longest:.2f}",
        "bars": [
            ("by-component", _parts(cost.components, paint(part_names([cost.components]), COMPONENTS))),
            ("by-pass", _parts(cost.passes, paint(list(cost.passes), PASSES))),
        ],
    }


def _parts(parts: Mapping[str, float], looks: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    total = sum(parts.values()) or 1.0
    return [
        {
            "flex": f"{parts[key] / total:.3f}",
            "color": looks[key][0],
            "title": f"{plain(key).replace('_', ' ')}: {quantity(parts[key], 'J')} ({100 * parts[key] / total:.0f} %)",
        }
        for key in looks
        if parts[key] >= LEAST * total
    ]
