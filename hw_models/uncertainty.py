"""How sure an energy is: correlated log-normal draws over the constants of a profile.

Every constant has a band: a factor x/÷ around its value that holds 90 % of the belief (5th to 95th
percentile), so sigma = ln(band) / 1.645. Errors of constants of one kind go together (one process, one
library, one measurement campaign): a share RHO of the variance is common to the group. The profile as a whole
has one more common factor, `absolute_band` (process corner, clock, memory generator, what is not modelled),
and the traffic a model term. Energy is a sum of counts x constants, so a draw costs one small product.

A ratio of two energies on one profile uses the *same* draws: what is common cancels, and its band is much
tighter. A residual model term that does not cancel, RATIO_MODEL, is added to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import ndtri

from hw_models.passes import Array
from hw_models.toml_source import Number

DRAWS = 1024
RHO = 0.8  # share of a constant's variance that its group has in common
MODEL = 1.15  # x/÷ of modelled traffic, from the comparison with an independent mapper
RATIO_MODEL = 1.10  # what of it does not cancel between two networks or precisions
Z90 = 1.645


def _normal(key: str, draws: int) -> Array:
    """Standard normal draws of one named factor: the same name gives the same draws, everywhere."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    order = np.random.default_rng(seed).permutation(draws)  # a Latin hypercube: each factor's quantiles are exact
    return ndtri((order + 0.5) / draws)


def _factor(band: float, z: Array) -> Array:
    return np.exp(np.log(band) / Z90 * z)


def group(key: str) -> str:
    """Constants that err together: all MACs and operations, all on-chip memory, DRAM, static power."""
    first = key.partition(".")[0]
    return {"mac": "logic", "op": "logic", "registers": "sram", "memory": "sram",
            "network": "sram"}.get(first, first)


def draws(constants: Mapping[str, float], numbers: Mapping[str, Number], profile: str,
          absolute_band: float, n: int = DRAWS) -> Array:
    """`n` draws of the total of `constants` (J by constant)."""
    total = np.zeros(n)
    traffic = _factor(MODEL, _normal("model.traffic", n))
    for key, joules in constants.items():
        common, own = _normal(f"{profile}/{group(key)}", n), _normal(f"{profile}/{key}", n)
        factor = _factor(numbers[key].band, np.sqrt(RHO) * common + np.sqrt(1 - RHO) * own)
        total += joules * factor * (traffic if group(key) in ("sram", "dram") else 1.0)
    return total * _factor(absolute_band, _normal(f"{profile}/absolute", n))


def bill_draws(bill: Any, n: int = DRAWS) -> Array:
    return draws(bill.constants, bill.numbers, bill.chip.name, bill.chip.absolute_band, n)


def band(bill: Any) -> tuple[float, float]:
    """The 90 % band of a bill's joules."""
    low, high = np.quantile(bill_draws(bill), [0.05, 0.95])
    return min(float(low), bill.joules), max(float(high), bill.joules)


def cost_band(cost: Any) -> tuple[float, float]:
    """The 90 % band of the joules of one training step (`Cost`)."""
    sample = draws(cost.by_constant, cost.constants, cost.chip.name, cost.chip.absolute_band)
    low, high = np.quantile(sample, [0.05, 0.95])
    return min(float(low), cost.total), max(float(high), cost.total)


def ratio(a: Any, b: Any) -> tuple[float, float, float]:
    """(value, low, high) of energy a / energy b of two bills on the same accelerator.

    Raises `ValueError` for two accelerators: their absolutes are not comparable that closely.
    """
    if a.chip.digest != b.chip.digest:
        raise ValueError(f"a ratio with a band needs one accelerator, not {a.chip.name} and {b.chip.name}")
    if b.joules == 0:
        raise ValueError("the second energy is zero")
    value = a.joules / b.joules
    residual = _factor(RATIO_MODEL, _normal("model.ratio", DRAWS))
    low, high = np.quantile(bill_draws(a) / bill_draws(b) * residual, [0.05, 0.95])
    return value, min(float(low), value), max(float(high), value)


def sensitivity(a: Any, b: Any) -> dict[str, float]:
    """d ln(a / b) / d ln(constant) for each constant of two bills: what a 1 % error of it does, in %."""
    keys = sorted({*a.constants, *b.constants})
    return {k: a.constants.get(k, 0.0) / a.joules - b.constants.get(k, 0.0) / b.joules for k in keys}
