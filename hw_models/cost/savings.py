"""Energies of several ledgers on one accelerator, and the saving of each against a baseline.

A saving is a ratio of two energies that share their constants, so most of what makes an absolute uncertain cancels:
it has its own, much tighter band. `sensitivity` says which constants it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.ledger import EnergyReport, price
from hw_models.cost.uncertainty import ratio, sensitivity

STRONGEST = 6  # constants listed with a saving


def saving(bill: EnergyReport, baseline: EnergyReport) -> dict[str, Any]:
    """1 - energy / baseline's energy with its 90 % band, and the constants that move it most.

    sensitivity: constant -> change of (energy / baseline) in percent when the constant is 1 % larger.
    """
    value, low, high = ratio(bill, baseline)
    moves = sensitivity(bill, baseline)
    strongest = sorted(moves, key=lambda key: -abs(moves[key]))[:STRONGEST]
    return {
        "value": 1 - value,
        "low": 1 - high,
        "high": 1 - low,
        "sensitivity": {key: moves[key] for key in strongest if moves[key]},
    }


def price_all(
    ledgers: Sequence[Sequence[Mapping[str, Any]]],
    networks: Mapping[str, Sequence[Any]],
    chip: Accelerator | str,
    *,
    baseline: int | None = None,
    model: str = "closed",
    hypothetical: bool = False,
) -> list[dict[str, Any]]:
    """Price ledgers side by side: each as a dictionary, with its `saving` against the ledger number `baseline`.

    Without a baseline (and for a baseline of no energy) `saving` is None. Errors as `price`.
    """
    chip = load(chip)
    bills = [price(ledger, networks, chip, model=model, hypothetical=hypothetical) for ledger in ledgers]
    base = bills[baseline] if baseline is not None else None
    return [
        {
            **bill.to_dict(),
            "derived_share": bill.derived_share,
            "saving": saving(bill, base) if base is not None and base.joules else None,
        }
        for bill in bills
    ]
