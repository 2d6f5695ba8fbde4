"""Modelled energy of one training image, layer by layer, from the run's layer tables and its profile.

results.json holds totals only; the split is made again by `hw_models.training_cost` for the networks that a row
ends with (dense, or its ticket), at the precision and batch of that row's last ledger entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ebsim.errors import DamagedError
from ebsim.report.tables import row_labels
from ebsim.runs.load import Run
from ebsim.runs.schema import LedgerEntry

MOST = 4
"""Networks shown: dense and the first tickets of the table."""


@dataclass(frozen=True)
class LayerCost:
    """{component: J per training image} of a convolution or linear layer and the work that follows it."""

    layer: str
    joules: Mapping[str, float]


@dataclass(frozen=True)
class NetworkCost:
    layers: tuple[LayerCost, ...]
    passes: Mapping[str, float]
    """{pass: J per training image}: forward, input gradient, weight gradient, and the share of the update."""

    @property
    def total(self) -> float:
        return sum(self.passes.values())


@lru_cache(maxsize=4)
def per_layer(run: Run) -> Mapping[str, NetworkCost]:
    """Row name -> costs, dense first; empty where the profile's copy is not accepted any more."""
    chosen: dict[tuple[str, str], tuple[str, LedgerEntry]] = {}
    rows = sorted(zip(run.rows, row_labels.short(run.rows), strict=True), key=lambda pair: pair[0] is not run.dense)
    for row, name in rows:
        if row.ledger and (row is run.dense or row.ratio is not None):
            entry = row.ledger[-1]
            chosen.setdefault((entry.network, json.dumps(entry.precision, sort_keys=True)), (name, entry))
    try:
        return {name: _cost(run, entry) for name, entry in list(chosen.values())[:MOST]}
    except ValueError:  # the section on assumptions says why
        return {}


def _cost(run: Run, entry: LedgerEntry) -> NetworkCost:
    import hw_models

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
    contractions = {layer.name for layer in layers if layer.macs}
    out: dict[str, dict[str, float]] = {}
    owner = next(iter(name for name in cost.layers if name in contractions), "")
    for row in cost.rows:
        if row["layer"] in contractions:
            owner = row["layer"]
        parts = out.setdefault(owner, {})
        for component in cost.components:
            if row[component]:
                parts[component] = parts.get(component, 0.0) + row[component] / entry.batch_size
    return NetworkCost(
        tuple(LayerCost(name, parts) for name, parts in out.items()),
        {name: joules / entry.batch_size for name, joules in cost.passes.items()},
    )


def passes(run: Run) -> dict[str, Mapping[str, float]]:
    """Row name -> {pass: J per training image}."""
    return {name: cost.passes for name, cost in per_layer(run).items()}
