"""Fitted constants of a device profile, and the accelerator file (TOML) written from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.toml_reader import SHIPPED
from hw_models.accelerator.toml_writer import quoted


@dataclass(frozen=True)
class Constants:
    """The fitted constants of a device profile. `scale`: factor on the energies of the vector unit."""

    eta: dict[str, float]
    gbytes_per_s: float
    launch_us: float
    half_batch: float
    static_w: float
    pj_per_flop: dict[str, float]
    pj_per_bit: float
    scale: float


def constants_text(c: Constants, chip: Accelerator, name: str, measured_on: str, summary: str, band: float) -> str:
    """A TOML that extends `chip` with the fitted constants; loads as a profile of its own, from any folder."""
    path = Path(chip.path).resolve()
    base = path.stem if path.parent == SHIPPED.resolve() else str(path)
    source = f"source = {quoted(f'fitted to {measured_on}')}"
    fastest = max(c.eta.values())
    others = "".join(  # formats that were not measured keep their proportion to the widest one that was
        f"{f} = {{ value = {max(n.value / 2 * c.scale, 1e-3):.6g}, derived = true }}\n"
        for f, n in chip.mac_points.items()
        if f not in c.pj_per_flop
    )
    ops = "".join(f"{op} = {{ value = {n.value * c.scale:.6g}, derived = true }}\n" for op, n in chip.ops.items())
    return (
        f"""extends = {quoted(base)}
name = {quoted(name)}
absolute_band = {band:.3g}
summary = {quoted(summary)}
calibrated_on = {quoted(measured_on)}

[device]
eta_compute = {fastest:.6g}
launch_us = {c.launch_us:.6g}
half_batch = {c.half_batch:.6g}
{source}

[device.eta]
"""
        + "".join(f"{f} = {eta:.6g}\n" for f, eta in c.eta.items())
        + f"""
[pj_per_flop]
{source}
band = {band:.3g}
"""
        + "".join(f"{f} = {max(pj, 1e-3):.6g}\n" for f, pj in c.pj_per_flop.items())
        + others
        + f"""
[op]
source = "in proportion to the fitted pj_per_flop of the widest measured format"
band = {max(band, 2.0):.3g}
{ops}
[dram]
gbytes_per_s = {c.gbytes_per_s:.6g}
pj_per_bit = {{ value = {max(c.pj_per_bit, 1e-3):.6g}, band = {band:.3g}, {source} }}

[static]
watts = {{ value = {c.static_w:.6g}, band = {band:.3g}, {source} }}
"""
    )
