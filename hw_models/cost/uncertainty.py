"""Bands of modelled energies: correlated log-normal samples of the constants of a profile.

Every constant has a band: a factor x/÷ around its value that is its 90 % credible interval (5th to 95th
percentile), so sigma = ln(band) / 1.645. Errors of constants of one kind are correlated (one process, one
library, one measurement campaign): a share RHO of the variance is common to the group. The profile as a whole
has one more common factor, `absolute_band` (process corner, clock, memory generator, what is not modelled),
and the traffic a model term. Energy is a sum of counts x constants, so a sample costs one small product.

A ratio of two energies on one profile uses the *same* samples: what is common cancels, and its band is much
tighter. A residual model term that does not cancel, RATIO_MODEL, is added to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from scipy.special import ndtri

from hw_models.accelerator.constant import Number
from hw_models.accelerator.description import Accelerator
from hw_models.errors import HardwareError
from hw_models.workload.shapes import Array

SAMPLES = 1024
RHO = 0.8  # share of a constant's variance that its group has in common
MODEL = 1.15  # x/÷ of modelled traffic, from the comparison with an independent mapper
RATIO_MODEL = 1.10  # what of it does not cancel between two networks or precisions
Z90 = 1.645


class Priced(Protocol):
    """What has an energy: a step (`Cost`) or a whole ledger (`EnergyReport`)."""

    @property
    def chip(self) -> Accelerator: ...
    @property
    def total(self) -> float: ...
    @property
    def by_constant(self) -> dict[str, float]: ...
    @property
    def numbers(self) -> dict[str, Number]: ...


def _normal(key: str, count: int) -> Array:
    """Standard normal samples of one named factor: the same name always gives the same samples."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    order = np.random.default_rng(seed).permutation(count)  # a Latin hypercube: each factor's quantiles are exact
    return ndtri((order + 0.5) / count)


def _factor(band: float, z: Array) -> Array:
    return np.exp(np.log(band) / Z90 * z)


def group(key: str) -> str:
    """Group of constants with correlated errors: all MACs and operations, all on-chip memory, DRAM, static power."""
    if key.endswith(".leakage"):
        return "static"
    first = key.partition(".")[0]
    return {"mac": "logic", "op": "logic", "registers": "sram", "memory": "sram", "network": "sram"}.get(first, first)


def samples(
    constants: Mapping[str, float], numbers: Mapping[str, Number], absolute_band: float, n: int = SAMPLES
) -> Array:
    """`n` samples of the total of `constants` (J by constant).

    Seeded by the keys of the constants alone: two accelerators of the same constants have the same band, whatever
    they are called, and a constant that changes a little moves the band a little.
    """
    total = np.zeros(n)
    traffic = _factor(MODEL, _normal("model.traffic", n))
    for key, joules in constants.items():
        common, own = _normal(f"group.{group(key)}", n), _normal(key, n)
        factor = _factor(numbers[key].band, np.sqrt(RHO) * common + np.sqrt(1 - RHO) * own)
        total += joules * factor * (traffic if group(key) in ("sram", "dram") else 1.0)
    return total * _factor(absolute_band, _normal("model.absolute", n))


def energy_samples(priced: Priced, n: int = SAMPLES) -> Array:
    """`n` samples of the joules of a `Cost` or `EnergyReport`."""
    return samples(priced.by_constant, priced.numbers, priced.chip.absolute_band, n)


def band(priced: Priced) -> tuple[float, float]:
    """The 90 % band of the joules of a `Cost` or `EnergyReport`."""
    low, high = np.quantile(energy_samples(priced), [0.05, 0.95])
    return min(float(low), priced.total), max(float(high), priced.total)


def derived_share(priced: Priced) -> float:
    """Share of the energy that rests on derived constants (computed from published values)."""
    derived = sum(j for key, j in priced.by_constant.items() if priced.numbers[key].derived)
    return min(derived / priced.total, 1.0) if priced.total else 0.0  # two orders of summing: last bits differ


def ratio(a: Priced, b: Priced) -> tuple[float, float, float]:
    """(value, low, high) of energy a / energy b, two `Cost`s or `EnergyReport`s on the same accelerator.

    Raises `HardwareError` for two accelerators (their absolutes are not comparable that closely) and for b = 0.
    """
    _same_chip(a, b, "a ratio with a band")
    if b.total == 0:
        raise HardwareError("the second energy is zero")
    value = a.total / b.total
    residual = _factor(RATIO_MODEL, _normal("model.ratio", SAMPLES))
    low, high = np.quantile(energy_samples(a) / energy_samples(b) * residual, [0.05, 0.95])
    return value, min(float(low), value), max(float(high), value)


def sensitivity(a: Priced, b: Priced) -> dict[str, float]:
    """d ln(a / b) / d ln(constant) for each constant: by how many % the ratio moves if the constant is 1 % larger.

    Refuses what `ratio` refuses: constants of one name on two accelerators are not the same constant.
    """
    _same_chip(a, b, "a sensitivity")
    if not (a.total and b.total):
        raise HardwareError("one of the two energies is zero")
    keys = sorted({*a.by_constant, *b.by_constant})
    return {k: a.by_constant.get(k, 0.0) / a.total - b.by_constant.get(k, 0.0) / b.total for k in keys}


def _same_chip(a: Priced, b: Priced, what: str) -> None:
    if a.chip.digest != b.chip.digest:
        raise HardwareError(f"{what} needs one accelerator, not {a.chip.name} and {b.chip.name}")
