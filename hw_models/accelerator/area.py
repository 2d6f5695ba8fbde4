"""Silicon area of an array accelerator: multipliers by number format, registers and memories by capacity.

    integer MAC   c0 + c1 b + c2 b^2       Bit Fusion synthesis, 45 nm, 4 x 4 array, b = 2, 4, 8, 16 (fit within 2.2 %)
    float MAC     a m^2 + b (m + e), and an adder (m + e)^1.62    through Horowitz/Dally's 16 and 32 bit, 45 nm
    register      a flip-flop per bit, or a register file's cells where those are smaller
    SRAM          the area of the published 6T cell of the node, divided by the share of the memory that is cells

Logic scales with the square of the node (Intel's published transistor densities from 45 to 10 nm follow it within 1.4).
Not in it: control, vector unit, network, DRAM interface, pads. Bands: logic and SRAM x/÷ 2.

CACTI's own area column is not used: 2 MiB at 45 nm in 2.96 mm2 would be less than its cells (146 F^2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hw_models.accelerator.description import Accelerator
from hw_models.errors import HardwareError
from hw_models.precision.formats import Format

BAND = 2.0  # x/÷, 90 %
LAW_NM = 45.0
# um2 of a processing element at 45 nm: hsharma35/bitfusion, results/systolic_array_synth.csv, one width, 4 x 4 / 16
INT_POINTS = {2: 81.07, 4: 191.6, 8: 510.7, 16: 1679.4}
INT_LAW = (13.81, 23.89, 4.947)
# um2 at 45 nm, Horowitz ISSCC 2014 as extended by Dally (NIPS 2015 tutorial): multiply 1640, 7700; add 1360, 4184
FP_MULTIPLY = (13.23, 2.43)
FP_ADD = (1360.0, 16.0, 1.621)
FLIP_FLOP = 4.52  # um2 per bit, NanGate 45 nm open cell library, DFF_X1
FILE = (600.0, 1.4)  # um2 of a small register file: its periphery, and per bit (four times an SRAM cell)
# um2 of a 6T high-density cell: IEDM and VLSI papers of Intel and TSMC
CELL = {65: 0.525, 45: 0.346, 32: 0.171, 28: 0.127, 22: 0.092, 16: 0.070, 10: 0.042, 7: 0.027, 5: 0.021, 3: 0.0199}
CELLS = 0.5  # share of a memory's area that is cells


def mac_um2(fmt: Format, node_nm: float) -> float:
    """Area of a multiplier and accumulator of a format; a float's accumulator is 32 bits wide."""
    scale = (node_nm / LAW_NM) ** 2
    if fmt.integer:
        b = fmt.significand
        return scale * (INT_LAW[0] + INT_LAW[1] * b + INT_LAW[2] * b * b)
    m, e = fmt.significand, fmt.exponent
    adder = FP_ADD[0] * (max(m + e, 32) / FP_ADD[1]) ** FP_ADD[2]
    return scale * (FP_MULTIPLY[0] * m * m + FP_MULTIPLY[1] * (m + e) + adder)


def register_um2(bits: float, node_nm: float) -> float:
    """Area of a register of `bits` at a multiplier."""
    return float((node_nm / LAW_NM) ** 2 * min(FLIP_FLOP * bits, FILE[0] + FILE[1] * bits)) if bits else 0.0


def cell_um2(node_nm: float) -> float:
    """Area of a 6T cell, between published nodes by the logarithm; beyond them with the square of the node."""
    nodes = sorted(CELL)
    if node_nm > nodes[-1]:
        return CELL[nodes[-1]] * (node_nm / nodes[-1]) ** 2
    if node_nm < nodes[0]:
        return CELL[nodes[0]] * (node_nm / nodes[0]) ** 2
    return float(np.exp(np.interp(math.log(node_nm), np.log(nodes), np.log([CELL[n] for n in nodes]))))


def sram_mm2(bits: float, node_nm: float) -> float:
    """Area of an on-chip memory of `bits`."""
    return bits * cell_um2(node_nm) / CELLS * 1e-6


def area_mm2(chip: Accelerator, formats: Sequence[Format]) -> dict[str, float]:
    """mm2 of an array that multiplies `formats`, by component; integer and float multipliers are separate units.

    Raises `HardwareError` for a device, whose multipliers are not counted.
    """
    if chip.kind != "array":
        raise HardwareError(f"{chip.name} is a device: its area is not that of an array; see its data sheet")
    units: dict[bool, float] = {}
    for fmt in formats:
        units[fmt.integer] = max(units.get(fmt.integer, 0.0), mac_um2(fmt, chip.node_nm))
    count = math.prod(chip.dims)
    registers = 0.0
    for register in chip.registers.values():
        shared = math.prod(chip.dims[d] for d in register.shared_along)
        registers += register_um2(register.bits, chip.node_nm) * count / shared
    return {
        "multipliers": sum(units.values()) * count * 1e-6,
        "registers": registers * 1e-6,
        **{m.name: sram_mm2(m.bits, chip.node_nm) for m in chip.memories},
    }


def total_mm2(parts: Mapping[str, float]) -> float:
    return sum(parts.values())
