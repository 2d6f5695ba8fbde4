"""Physical units: conversion factors and the display of joules. Inside the model energies are pJ; results are J."""

from __future__ import annotations

PJ = 1e-12  # joules in a picojoule
J_PER_KWH = 3.6e6
BITS_PER_BYTE = 8
BITS_PER_KIB = 8 * 1024

_SCALES = [(1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"), (1e-12, "pJ")]


def kwh(joules: float) -> float:
    """Kilowatt-hours in `joules`."""
    return joules / J_PER_KWH


def show_joules(joules: float, low: float | None = None, high: float | None = None, after: str = "") -> str:
    """`64.4 kJ [29, 140]`: three significant digits, and two of the band (its sampling carries no more), in the unit
    of the value; `after`: what the unit goes on with (" s" for an energy-delay product)."""
    scale, unit = next((s for s in _SCALES if abs(joules) >= s[0]), _SCALES[-1])
    text = f"{joules / scale:.3g} {unit}{after}"
    if low is not None and high is not None:
        text += f" [{float(f'{low / scale:.2g}'):g}, {float(f'{high / scale:.2g}'):g}]"
    return text


def unit(key: str) -> str:
    """The unit of a constant of an accelerator, by its key."""
    if key.endswith(".leakage"):
        return "W"
    first = key.partition(".")[0]
    return {"mac": "pJ per MAC", "op": "pJ per operation", "static": "W"}.get(first, "pJ per bit")
