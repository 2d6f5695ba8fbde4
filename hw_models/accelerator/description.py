"""An accelerator described as data.

Two kinds share one description. An `array` counts operations and bits at every memory level and multiplies
by pJ. A `device` (a GPU) is calibrated: pJ per FLOP that include instruction, register and cache cost, pJ
per DRAM bit, and idle power over a roofline time. Energies of the two kinds are never comparable absolutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hw_models.accelerator.constant import Number
from hw_models.accelerator.mac_energy import mac_energy
from hw_models.errors import FormatError
from hw_models.precision.formats import FORMATS, Format

OPS = ("add", "multiply", "compare", "integer", "random")
OPERANDS = ("streaming", "held", "sums")  # X, Y and Z of a contraction, as profiles name them
Axis = str | tuple[str, ...]  # what a dimension of an array unrolls: one index by its short name, or loops


@dataclass(frozen=True)
class Register:
    """What keeps an operand at the elements; one serves all elements along `shared_along` (array dims from 0)."""

    bits: float
    pj_per_bit: Number
    shared_along: tuple[int, ...] = ()


@dataclass(frozen=True)
class Memory:
    """One on-chip level; `holds`: which operands it keeps (all by default).

    `slides`: rows that neighbouring tiles share stay when pixels advance over the same channels (`search`).
    `double_buffer`: True: half of it is loaded while the other half is worked on; False: the array waits while a tile
    is loaded; None: tiles may take all of it and loading never waits, as if they were loaded element by element.
    `leakage`: W, all of the memory. `access_bits`: the fewest bits that one access moves. `bits_per_cycle`: of a port
    that reads and writes, or of the one that reads if `write_bits_per_cycle` says that another one writes.
    """

    name: str
    bits: float
    read: Number
    write: Number
    bits_per_cycle: float
    holds: tuple[str, ...] = OPERANDS
    slides: bool = True
    double_buffer: bool | None = None
    leakage: Number | None = None
    access_bits: float = 1.0
    write_bits_per_cycle: float | None = None

    @property
    def tile_bits(self) -> float:
        """What a tile may take: half of the memory if the next one is loaded meanwhile."""
        return self.bits / 2 if self.double_buffer else self.bits


@dataclass(frozen=True)
class Accelerator:
    """A validated profile. Energies are `Number`s in pJ; capacities in bits; `digest` names the content."""

    name: str
    kind: str
    summary: str
    source: str
    path: str
    digest: str
    node_nm: float
    clock_hz: float
    absolute_band: float
    mac_points: dict[str, Number]
    ops: dict[str, Number]
    dims: tuple[int, ...]
    unroll: dict[str, tuple[Axis, ...]]
    zero_skip: bool
    fused: tuple[str, ...]
    registers: dict[str, Register]
    network: Number | None
    memories: tuple[Memory, ...]
    dram: Number
    dram_bits_per_s: float
    static: Number
    peak: dict[str, float]  # device: FLOP/s by format, `eta_compute` included
    eta_compute: float
    launch_s: float
    formats: tuple[str, ...]  # format names the hardware has; empty = anything the law prices
    calibrated_on: str
    rails: str
    speedup: dict[str, float]
    efficiency: dict[str, float] = field(default_factory=dict)  # device: share of the peak reached, by format
    half_batch: float = 0.0  # device: images at which a step takes twice as long per image as in large batches
    fill_cycles: float = 0.0  # from the first operand in the array to the first result
    dram_writes: Number | None = None  # pJ per bit to DRAM where that differs from `dram`
    burst_bits: float = 1.0  # the fewest that DRAM moves at once
    # by pass and level (a memory, "registers"): the operand that stays there, or all loops, outermost first
    dataflow: dict[str, dict[str, str | tuple[str, ...]]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Accelerator {self.name}: {self.summary}>"

    @property
    def constants(self) -> dict[str, Number]:
        """Every constant with its provenance, by the key that costs, bands and sensitivities use."""
        found = {f"mac.{name}": n for name, n in self.mac_points.items()}
        found |= {f"op.{name}": n for name, n in self.ops.items()}
        found |= {f"registers.{name}": r.pj_per_bit for name, r in self.registers.items() if r.bits}
        if self.network is not None:
            found["network.pj_per_bit"] = self.network
        for m in self.memories:
            found |= {f"memory.{m.name}.read": m.read, f"memory.{m.name}.write": m.write}
            if m.leakage is not None:
                found[f"memory.{m.name}.leakage"] = m.leakage
        return found | dict(self.dram_constants) | {"static.watts": self.static}

    @property
    def dram_constants(self) -> tuple[tuple[str, Number], ...]:
        """Key and pJ per bit of reading from and writing to DRAM; one constant where the profile gives one."""
        if self.dram_writes is None:
            return (("dram.pj_per_bit", self.dram),) * 2
        return ("dram.read", self.dram), ("dram.write", self.dram_writes)

    @property
    def leakage(self) -> tuple[tuple[str, Number], ...]:
        """Key and W of everything that takes power for as long as a step lasts."""
        memories = ((f"memory.{m.name}.leakage", m.leakage) for m in self.memories if m.leakage is not None)
        return (*memories, *((("static.watts", self.static),) if self.static.value else ()))

    @property
    def dram_read(self) -> Number:
        """pJ per bit from DRAM."""
        return self.dram

    @property
    def dram_write(self) -> Number:
        """pJ per bit to DRAM."""
        return self.dram if self.dram_writes is None else self.dram_writes

    @property
    def widest(self) -> str:
        """The widest format that the hardware has: what it trains in when nothing is said."""
        usable = [f for f in FORMATS.values() if self.supports(f) and f.name in {*self.mac_points, "fp32", "int16"}]
        return max(usable, key=lambda f: (f.bits, not f.integer)).name if usable else "fp32"

    @property
    def supply(self) -> tuple[float, float, float]:
        """pJ per bit of the memory that feeds the array with X and Y and takes its sums."""
        cost = []
        for operand in OPERANDS:
            source = next((m for m in self.memories if operand in m.holds), None)
            cost.append(
                self.dram.value
                if source is None
                else (source.read.value + source.write.value) / 2
                if operand == "sums"
                else source.read.value
            )
        return cost[0], cost[1], cost[2]

    def mac(self, x: Format, y: Format, hypothetical: bool = False) -> Number:
        """pJ of one multiply-accumulate of these operands; raises `FormatError` where the chip cannot."""
        for fmt in (x, y):
            if not hypothetical and not self.supports(fmt):
                raise FormatError(
                    f"{self.name} has no {fmt.name}; it has {', '.join(self.formats)}. Price it as a what-if with "
                    "hypothetical=True (--hypothetical), or choose another accelerator, or one format that it has for "
                    "all layers (most trainings keep the first and last layer in fp32)"
                )
        return mac_energy(self.mac_points, x, y)

    def supports(self, fmt: Format) -> bool:
        """Whether the hardware multiplies this format; a class name ("int", "fp", "bfp") allows all of it.

        Integer units have block floats of their width too: those multiply mantissas, and add exponents beside.
        """
        return not self.formats or not {fmt.kind, fmt.hardware, *_integer_unit(fmt)}.isdisjoint(self.formats)

    def rate(self, x: Format, y: Format) -> float:
        """Peak MACs per second relative to fp32's on the whole machine (arrays: relative to one per PE)."""
        if self.kind == "device":
            wide = max((x, y), key=lambda f: f.bits)
            widest = _next_wider(wide, self.peak)
            return self.peak[next((n for n in (wide.hardware, *_integer_unit(wide)) if n in self.peak), widest)] / 2
        bits = max(x.significand if x.integer else x.bits, y.significand if y.integer else y.bits)
        fits = [v for n, v in self.speedup.items() if FORMATS[n].bits >= bits]
        return max(fits, default=1.0)


def _integer_unit(fmt: Format) -> tuple[str, ...]:
    """What integer units that multiply a block float's mantissas are called, as a class and by their width."""
    return ("int", f"int{fmt.significand}") if fmt.kind == "bfp" else ()


def _next_wider(fmt: Format, names: Iterable[str]) -> str:
    """The named format that a device multiplies an unnamed one in: the next wider of its class, else of any, else the
    widest there is."""
    known = [FORMATS[n] for n in names]
    width = fmt.significand if fmt.integer else fmt.bits
    fits = [f for f in known if f.integer == fmt.integer and (f.significand if f.integer else f.bits) >= width]
    fits = fits or [f for f in known if f.bits >= fmt.bits]
    if fits:
        return min(fits, key=lambda f: (f.bits, -f.significand)).name
    return max(known, key=lambda f: f.bits).name
