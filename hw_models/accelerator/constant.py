"""`Number`: one physical constant of an accelerator (energy, power, bandwidth) with its band and source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """A constant with its provenance; `band` is the factor x/÷ of its 90 % interval."""

    value: float
    band: float
    source: str
    derived: bool = False
