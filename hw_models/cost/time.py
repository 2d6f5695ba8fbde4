"""How long a contraction takes: the array, the ports of the memories, DRAM, and what nothing overlaps.

Array, ports and DRAM work at the same time, so the slowest of them sets the pace; a port is busy with what its memory
reads and writes for both sides. What does not overlap is added: all tiles of a memory whose next one cannot be loaded
meanwhile (`double_buffer = false`), and of the other memories the first tiles of X and Y, which the array needs to
start: those of the innermost memory of each, through the slowest link on their way. What lies further out is filled
while the array works, and finished sums leave while it does. Only `search` knows tiles. DRAM works while the array
waits: that part of its traffic is not counted twice.
"""

from __future__ import annotations

import numpy as np

from hw_models.accelerator.description import Accelerator, Memory
from hw_models.mapping.spatial import grid
from hw_models.mapping.traffic import Mapped, Traffic, Widths, steps
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import Passes


def busy(p: Passes, bits: Widths, chip: Accelerator, rate: Array, mapped: Mapped) -> tuple[Array, Array]:
    """Seconds that the array alone would take, and its busiest memory port alone; `rate`: as `Accelerator.rate`."""
    if chip.kind == "device":
        return p.macs / rate, np.zeros_like(p.macs)
    moving = np.max(ports_busy(p, bits, chip, mapped) or [np.zeros_like(p.macs)], axis=0)
    cycles = steps(p, grid(p, chip)) if mapped.steps is None else mapped.steps
    return cycles / rate / chip.clock_hz, moving


def ports_busy(p: Passes, bits: Widths, chip: Accelerator, mapped: Mapped) -> list[Array]:
    """Seconds that the ports of each memory would take alone, innermost first; a device's are in its rate."""
    if chip.kind == "device":
        return []
    found = []
    for memory, (reads, writes) in zip(chip.memories, port_bits(p, bits, chip, mapped), strict=False):
        if memory.write_bits_per_cycle is None:
            cycles = (reads + writes) / memory.bits_per_cycle
        else:
            cycles = np.maximum(reads / memory.bits_per_cycle, writes / memory.write_bits_per_cycle)
        found.append(cycles / chip.clock_hz)
    return found


def port_bits(p: Passes, bits: Widths, chip: Accelerator, mapped: Mapped) -> list[tuple[Array, Array]]:
    """Bits that each memory reads and writes, for the side of the array and for the memory outside it.

    An access moves `access_bits` at least: where the array asks for fewer at a time, the rest is read for nothing.
    """
    if len(mapped.boundaries) <= len(chip.memories):
        return []
    inner, found = mapped.boundaries[0], []
    fed: set[str] = set()  # operands that a memory further in has: their accesses are tiles, not words
    for memory, outer in zip(chip.memories, mapped.boundaries[1:], strict=True):
        inside, outside = inner.only(memory.holds), outer.only(memory.holds)
        inside = _whole_accesses(p, bits, chip, memory, inside, fed)
        found.append((inside.inward + outside.outward, inside.outward + outside.inward))
        fed |= set(memory.holds)
        inner = inner.replaced(outer, memory.holds)
    return found


def _whole_accesses(
    p: Passes, bits: Widths, chip: Accelerator, memory: Memory, moved: Traffic, fed: set[str]
) -> Traffic:
    """What the array moves in whole accesses of the memory: it asks for what its elements need in one step."""
    if memory.access_bits <= 1 or chip.kind == "device":
        return moved
    u = grid(p, chip)

    def whole(operand: str, useful: Array) -> Array | float:
        if operand in fed:
            return 1.0
        return np.ceil(useful / memory.access_bits - 1e-9) * memory.access_bits / useful

    x, y = whole("streaming", u.u1 * u.ur * bits.x), whole("held", u.u2 * u.ur * bits.y)
    z, acc = whole("sums", u.u1 * u.u2 * bits.z), whole("sums", u.u1 * u.u2 * bits.acc)
    return Traffic(moved.x * x, moved.y * y, moved.z * z, moved.spill * acc)


def waiting(p: Passes, chip: Accelerator, mapped: Mapped) -> tuple[Array, Array]:
    """Seconds in which the array waits for loads, and those of them in which DRAM works."""
    out, covered = np.zeros_like(p.macs), np.zeros_like(p.macs)
    if chip.kind == "device" or len(mapped.boundaries) <= len(chip.memories):
        return out, covered
    for i, memory in enumerate(chip.memories):
        if memory.double_buffer is False:
            read, write, dram = _link(chip, i, memory.holds)
            moved = mapped.boundaries[i + 1].only(memory.holds)
            out = out + moved.inward / read + moved.outward / write
            covered = covered + dram * moved.total / chip.dram_bits_per_s
    for operand, place in (("streaming", 0), ("held", 1)) if mapped.tiles else ():
        levels = [i for i, m in enumerate(chip.memories) if operand in m.holds]
        if levels and not any(chip.memories[i].double_buffer is False for i in levels):
            first = mapped.tiles[levels[0]][place]
            out = out + first / min(_link(chip, i, (operand,))[0] for i in levels)
            covered = covered + first / chip.dram_bits_per_s
    return out + chip.fill_cycles / chip.clock_hz * (p.macs > 0), covered


def _link(chip: Accelerator, i: int, operands: tuple[str, ...]) -> tuple[float, float, bool]:
    """Bits per second into memory `i` from what lies outside it for these operands, and back; whether that is DRAM."""
    inner = chip.memories[i]
    own_read = inner.bits_per_cycle * chip.clock_hz
    own_write = (inner.write_bits_per_cycle or inner.bits_per_cycle) * chip.clock_hz
    outside = next((m for m in chip.memories[i + 1 :] if set(m.holds) & set(operands)), None)
    if outside is None:
        return min(chip.dram_bits_per_s, own_write), min(chip.dram_bits_per_s, own_read), True
    read = outside.bits_per_cycle * chip.clock_hz
    write = (outside.write_bits_per_cycle or outside.bits_per_cycle) * chip.clock_hz
    return min(read, own_write), min(write, own_read), False
