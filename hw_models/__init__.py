"""Analytical energy and time of training a network, by layer, pass, component and bit width.

    layers = hw_models.trace(model, (3, 32, 32))        # needs torch; everything else is numpy
    chip = hw_models.load("horowitz-45nm")              # or the path of your own TOML
    cost = hw_models.training_cost(layers, chip, bits=8, batch=256)
    cost.total, cost.band                               # joules of one training step, modelled, and their 90 % band

Stands alone: it knows nothing of ebsim. Names are imported on first use; torch only by `trace`.
"""

from __future__ import annotations

from hw_models.lazy import attach

REVISION = 7  # counts up whenever the model gives another number: finished runs are then priced again

REUSE_MODELS = {
    "macs": "arithmetic alone",
    "compulsory": "every tensor crosses the outermost memory once",
    "closed": "a closed-form mapping of the loops",
    "search": "the best mapping that an exhaustive search finds",
}
"""How data reuse is modelled, from the simplest on: name -> what it assumes."""

_NAMES = {  # public name -> module that defines it, imported on first use
    "Layer": ".workload.layer",
    "trace": ".workload.trace",
    "load": ".accelerator.loader",
    "Accelerator": ".accelerator.description",
    "training_cost": ".cost.training_step",
    "Cost": ".cost.step_cost",
    "price": ".cost.ledger",
    "price_all": ".cost.savings",
    "EnergyReport": ".cost.ledger",
    "Bill": ".cost.ledger",  # the name of an `EnergyReport` until 0.1
    "ProfileError": ".errors",
    "FormatError": ".errors",
    "WorkloadError": ".errors",
    "HardwareError": ".errors",
    "LedgerError": ".errors",
    "band": ".cost.uncertainty",
    "ratio": ".cost.uncertainty",
    "sensitivity": ".cost.uncertainty",
}
_MODULES = {  # public module name -> where the module is
    "commands": ".analysis.commands",
    "counts": ".workload.op_counts",
    "evaluation": ".cost.inference",
    "grid": ".cost.carbon",
    "measure": ".sensors",
    "presets": ".precision.presets",
    "reference": ".workload.reference_networks",
    "shrink": ".workload.pruned_shapes",
    "uncertainty": ".cost.uncertainty",
    "variants": ".analysis.design_sweep",
}
__getattr__, __dir__, __all__ = attach(__name__, _NAMES, _MODULES)
__all__ += ["REUSE_MODELS", "REVISION"]
