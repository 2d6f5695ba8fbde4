"""Sanity checks of a profile: its energies on known networks beside the shipped ones, and suspicious values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load, shipped
from hw_models.accelerator.mac_energy import law_pj
from hw_models.analysis.breakdown import Breakdown, breakdown
from hw_models.precision.formats import FORMATS
from hw_models.units import BITS_PER_KIB

SHARE = (0.005, 0.90)  # a component outside this share of a training step is reported as suspicious
OFF = 5.0  # a factor x/÷ between a MAC's energy and the law's at its node
LAW_NM = 45.0  # the node of the law; shipped profiles are within 1.6 of it after `_scaling`, but for Bit Fusion's 3.5
_SPEED = {"array": "speedup", "device": "device.peak_tflops"}  # where a chip says how fast a format is
WAITING = 0.8  # of the time for an on-chip memory: its bits_per_cycle may be bytes
MOST_GBYTES_PER_S = 10_000.0
WIDE = 10.0  # a factor x/÷; wider is more likely meant as percent
KIB_PER_MULTIPLIER = 32.0


@dataclass(frozen=True)
class Check:
    """A profile that loads, its energies on two networks beside the shipped ones, and warnings."""

    profile: str
    rows: list[Breakdown]
    beside: list[Breakdown]
    warnings: list[str]


def check(profile: str, networks: Sequence[str] = ("resnet18", "vgg16")) -> Check:
    """Validate a profile: energy shares on two networks, the shipped profiles beside it, warnings.

    Raises `ProfileError` with every problem of the file.
    """
    chip = load(profile)
    rows = [breakdown(chip, name) for name in networks]
    beside = [
        breakdown(other, networks[0], FORMATS[chip.widest], hypothetical=True)
        for other in shipped()
        if other.name != chip.name and other.kind == chip.kind
    ]
    found = _macs(chip)
    suspects = bool(found)
    for row in rows:
        found += _shares(row, chip, suspects)
    found += _rates(rows[0], chip) + _suspicious(chip)
    if beside:
        costs = sorted(b.pj_per_mac for b in beside)
        for row in rows[:1]:
            if not costs[0] / 10 <= row.pj_per_mac <= costs[-1] * 10:
                found.append(
                    f"{row.network}: {row.pj_per_mac:.3g} pJ per MAC all in, far from the shipped profiles' "
                    f"{costs[0]:.3g} to {costs[-1]:.3g} in {chip.widest} too"
                )
    return Check(chip.name, rows, beside, found)


def _shares(row: Breakdown, chip: Accelerator, suspects: bool) -> list[str]:
    """Components that take too much; those that take too little only if nothing else explains it."""
    parts = ["mac", "dram"]
    if chip.kind == "array":
        parts += ["buffer", *(["register"] if any(r.bits for r in chip.registers.values()) else [])]
    large = [part for part in parts if row.shares[part] > SHARE[1]]
    small = [part for part in parts if row.shares[part] < SHARE[0]]
    return [
        f"{row.network}: {part} takes {row.shares[part]:.1%} of the energy, outside {SHARE[0]:.1%} to "
        f"{SHARE[1]:.0%}; look at its constants once more"
        for part in large or (() if suspects else small)
    ]


def _scaling(node_nm: float) -> float:
    """Energy of logic relative to 45 nm, roughly: by capacitance and voltage above 45 nm; below it by Jouppi's units,
    2.6 times less at 7 nm."""
    return (node_nm / LAW_NM) ** (2.0 if node_nm > LAW_NM else 0.5)


def _macs(chip: Accelerator) -> list[str]:
    """MAC energies far from the law at the chip's node (a device's contain the whole chip)."""
    found = []
    for name, number in chip.mac_points.items() if chip.kind == "array" else ():
        expected = law_pj(FORMATS[name], FORMATS[name]) * _scaling(chip.node_nm)
        if not expected / OFF <= number.value <= expected * OFF:
            cure = "is it in fJ?" if number.value > expected * OFF**2 else "is it the energy of a whole MAC, in pJ?"
            found.append(
                f"mac.{name}: {number.value:.3g} pJ per MAC; the law at {chip.node_nm:g} nm gives about "
                f"{expected:.2g}: {cure}"
            )
    if chip.widest not in chip.mac_points:
        own = max(chip.mac_points, key=lambda name: FORMATS[name].bits)
        found.append(
            f"with no format said it is priced in {chip.widest}, which has no energy of its own (the law's is "
            f"taken) and runs as fast as the native width unless {_SPEED[chip.kind]}.{chip.widest} says "
            f'otherwise; if {own} is the widest it has, say formats = ["{own}"] at the top'
        )
    return found


def _rates(row: Breakdown, chip: Accelerator) -> list[str]:
    """Bandwidths that no chip has, or that leave the array waiting nearly always."""
    found = []
    gbytes = chip.dram_bits_per_s / 8e9
    if gbytes > MOST_GBYTES_PER_S:
        found.append(f"dram.gbytes_per_s: {gbytes:,.0f} GB/s is more than any chip's DRAM; is it in MB/s or Gbit/s?")
    waiting = row.cost.bounds["buffer"] / row.seconds if row.seconds else 0.0
    if waiting > WAITING:
        found.append(
            f"{row.network}: {waiting:.0%} of the time waits for a memory on the chip; is its bits_per_cycle in bytes?"
        )
    return found


def _suspicious(chip: Accelerator) -> list[str]:
    """Values that are allowed but probably not meant: wide bands, empty sources, capacities in the wrong unit."""
    found = []
    for key, number in chip.constants.items():
        if number.band > WIDE:
            found.append(f"{key}: a band of x/÷ {number.band:g}; a band is a factor, 1.3 for 30 %")
        if re.search(r"(?i)\b(todo|tbd|fixme|xxx)\b|^\W*$", number.source):
            found.append(f"{key}: its source is {number.source!r}")
    kib = sum(m.bits for m in chip.memories) / BITS_PER_KIB / math.prod(chip.dims)
    if chip.kind == "array" and kib > KIB_PER_MULTIPLIER:
        found.append(f"{kib:,.0f} KiB on chip per multiplier; kib counts 1,024 bytes, not bytes")
    points = {FORMATS[name].integer for name in chip.mac_points}
    for integer, some in ((True, "int8"), (False, "fp32")):
        if integer not in points and chip.supports(FORMATS[some]):
            what, other = ("integer", "float") if integer else ("float", "integer")
            only = "fp" if integer else "int"
            found.append(
                f"no {what} MAC energy is given: {some} is priced from the {other} ones by the ratio of two "
                f'laws; give one, or say formats = ["{only}"] at the top if the chip has no {what} units'
            )
    return found
