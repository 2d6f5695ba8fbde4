"""What a profile gives on known networks beside the shipped ones, and what in it looks odd."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hw_models.accelerator import Accelerator, load
from hw_models.breakdown import Breakdown, breakdown
from hw_models.formats import FORMATS
from hw_models.toml_source import SHIPPED
from hw_models.units import BITS_PER_KIB

SHARE = (0.005, 0.90)  # a component outside this share of a training step deserves a second look
MAC_PJ = (0.01, 1000.0)
WIDE = 10.0  # a factor x/÷; wider is more likely meant as percent
KIB_PER_MULTIPLIER = 32.0


@dataclass(frozen=True)
class Check:
    """A profile that loads, what it gives on two networks beside the shipped ones, and what looks odd."""

    profile: str
    rows: list[Breakdown]
    beside: list[Breakdown]
    warnings: list[str]


def check(profile: str, networks: Sequence[str] = ("resnet18", "vgg16")) -> Check:
    """Validate a profile and look at it: shares on two networks, the shipped profiles beside it, warnings.

    Raises `ProfileError` with every problem of the file.
    """
    chip = load(profile)
    rows = [breakdown(chip, name) for name in networks]
    beside = [breakdown(path.stem, networks[0]) for path in sorted(SHIPPED.glob("*.toml"))
              if path.stem != chip.name and load(path.stem).kind == chip.kind]
    found = []
    for row in rows:
        for part in ("mac", "register", "buffer", "dram") if chip.kind == "array" else ("mac", "dram"):
            share = row.shares[part]
            if not SHARE[0] <= share <= SHARE[1]:
                found.append(f"{row.network}: {part} takes {share:.1%} of the energy, outside "
                             f"{SHARE[0]:.0%} to {SHARE[1]:.0%}; look at its constants once more")
    for key, number in chip.constants.items():
        if key.startswith("mac.") and not MAC_PJ[0] <= number.value <= MAC_PJ[1]:
            found.append(f"{key}: {number.value:g} pJ per MAC, outside {MAC_PJ[0]:g} to {MAC_PJ[1]:g}; is the unit pJ?")
    found += _odd(chip)
    if beside:
        costs = sorted(b.pj_per_mac for b in beside)
        for row in rows[:1]:
            if not costs[0] / 10 <= row.pj_per_mac <= costs[-1] * 10:
                found.append(f"{row.network}: {row.pj_per_mac:.3g} pJ per MAC all in, far from the shipped profiles' "
                             f"{costs[0]:.3g} to {costs[-1]:.3g}")
    return Check(chip.name, rows, beside, found)


def _odd(chip: Accelerator) -> list[str]:
    """What in a profile is allowed and hardly meant."""
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
            found.append(f"no {what} MAC energy is given: {some} is priced from the {other} ones by the ratio of two "
                         f'laws; give one, or say formats = ["{only}"] at the top if the chip has no {what} units')
    return found
