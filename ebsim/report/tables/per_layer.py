"""Modelled energy of one training image layer by layer, from the run's layer tables and its profile.

results.json holds totals only; the split is made again by `hw_models.training_cost` for the networks that a row
ends with (dense, or its ticket), at the precision and batch of that row's last ledger entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ebsim.errors import DamagedError
from ebsim.report.tables.highlights import highlights
from ebsim.report.tables.row_labels import short
from ebsim.runs.load import Run
from ebsim.runs.schema import LedgerEntry

if TYPE_CHECKING:
    from hw_models.analysis.roofline import RooflinePoint
    from hw_models.cost.step_cost import Cost

MOST = 3
"""Networks shown: dense and the best rows' tickets."""


@dataclass(frozen=True)
class LayerCost:
    """J per training image of a convolution or linear layer and the normalization, activation and so on after it."""

    layer: str
    components: Mapping[str, float]
    passes: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.components.values())


@dataclass(frozen=True)
class NetworkCost:
    layers: tuple[LayerCost, ...]
    passes: Mapping[str, float]
    """{pass: J per training image}: forward, input gradient, weight gradient, and the share of the update."""
    points: tuple[RooflinePoint, ...]
    """Of a whole step; rates and intensities do not depend on that."""
    images: int

    @property
    def total(self) -> float:
        return sum(self.passes.values())


@lru_cache(maxsize=4)
def per_layer(run: Run) -> Mapping[str, NetworkCost]:
    """Row name -> costs, dense first; empty where the profile's copy is not accepted any more."""
    chosen: dict[tuple[str, str], tuple[str, LedgerEntry]] = {}
    best = highlights(run)
    rows = sorted(zip(run.rows, short(run.rows), strict=True), key=lambda pair: pair[0] is not run.dense)
    for row, name in rows:
        if row.ledger and (row is run.dense or (row.ratio is not None and name in best)):
            entry = row.ledger[-1]
            chosen.setdefault((entry.network, json.dumps(entry.precision, sort_keys=True)), (name, entry))
    try:
        return {name: _cost(run, entry) for name, entry in list(chosen.values())[: MOST + 1]}
    except ValueError:  # the section on assumptions says why
        return {}


def _cost(run: Run, entry: LedgerEntry) -> NetworkCost:
    import hw_models
    from hw_models.analysis.roofline import points

    try:
        layers = [hw_models.Layer.from_dict(layer) for layer in run.networks[entry.network]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{run.path / 'networks.json'}: {entry.network}: not a layer table ({error}).") from error
    cost = hw_models.training_cost(
        layers,
        run.chip,
        bits=entry.precision,
        batch=entry.batch_size,
        model=run.record.reuse,
        hypothetical=bool(run.record.hypothetical),
    )
    images = entry.batch_size
    contractions = {layer.name for layer in layers if layer.macs}
    passes = {name: joules / images for name, joules in cost.passes.items()}
    return NetworkCost(_by_layer(cost, contractions, images), passes, points(cost), images)


def _by_layer(cost: Cost, contractions: set[str], images: int) -> tuple[LayerCost, ...]:
    """Costs of the convolution and linear layers, each with what follows it up to the next one."""
    components: dict[str, dict[str, float]] = {}
    passes: dict[str, dict[str, float]] = {}
    owner = next(iter(name for name in cost.layers if name in contractions), "")
    for row in cost.rows:
        if row["layer"] in contractions:
            owner = row["layer"]
        own = components.setdefault(owner, {})
        for component in cost.components:
            if row[component]:
                own[component] = own.get(component, 0.0) + row[component] / images
        by_pass = passes.setdefault(owner, {})
        by_pass[row["pass"]] = by_pass.get(row["pass"], 0.0) + row["joules"] / images
    return tuple(LayerCost(name, parts, passes[name]) for name, parts in components.items())


def passes(run: Run) -> dict[str, Mapping[str, float]]:
    """Row name -> {pass: J per training image}."""
    return {name: cost.passes for name, cost in per_layer(run).items()}
