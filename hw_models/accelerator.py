"""An accelerator described as data.

Two kinds share one description. An `array` counts operations and bits at every memory level and multiplies
by pJ. A `device` (a GPU) is calibrated: pJ per FLOP that include instruction, register and cache cost, pJ
per DRAM bit, and idle power over a roofline time. Energies of the two kinds are never comparable absolutes.

Laws (used where a profile has no explicit value, always drawn through the explicit points it has):
    integer multiply-accumulate   c0 + c1 b + c2 b^2      Bit Fusion synthesis, 45 nm, b = 2, 4, 8, 16
    float multiplier              a m^2 + b (m + e)       Horowitz 45 nm fp16 and fp32; m with the hidden one
    mixed widths                  b^2 -> b_x b_y, b -> mean (an array multiplier is bilinear)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from hw_models.errors import FormatError
from hw_models.formats import FORMATS, PASSES, Format
from hw_models.toml_source import Number, Source, read
from hw_models.units import BITS_PER_KIB

INT_LAW = (0.0121, 0.0111, 0.00161)
FP_LAW = (0.00449, 0.0348)
FP_ADD = 0.9  # pJ, the accumulate that the float law's shape includes (Horowitz fp32 add)
LAW_BAND = 1.25  # a value by the law is that much less sure than the points it goes through

# CACTI 7, 64-bit read in pJ = a KB^b (c + w / 64), fitted on 96 runs (rms 10 to 15 %, at most 37 %)
SRAM_LAWS = {"cacti-45hp": (0.523, 0.588, 2.36), "cacti-45lop": (0.410, 0.563, 1.72),
             "cacti-22hp": (0.209, 0.570, 1.47), "cacti-22lop": (0.157, 0.563, 1.24)}
OPS = ("add", "multiply", "compare", "integer", "random")
UNROLLS = ("K", "C", "pixels")
REGISTERS = ("streaming", "held", "sums")


def sram_pj_per_bit(law: str, kib: float, access_bits: float) -> float:
    """Read energy per bit of an SRAM of `kib` read `access_bits` at a time."""
    a, b, c = SRAM_LAWS[law]
    return a * kib**b * (c + access_bits / 64) / access_bits


@dataclass(frozen=True)
class Register:
    bits: float
    pj_per_bit: Number


@dataclass(frozen=True)
class Memory:
    """One on-chip level; `holds`: which operands it keeps (all by default)."""

    name: str
    bits: float
    read: Number
    write: Number
    bits_per_cycle: float
    holds: tuple[str, ...] = REGISTERS


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
    unroll: dict[str, tuple[str, ...]]
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
        return found | {"dram.pj_per_bit": self.dram, "static.watts": self.static}

    @property
    def widest(self) -> str:
        """The widest format that the hardware has: what it trains in when nothing is said."""
        usable = [f for f in FORMATS.values() if self.supports(f) and f.name in {*self.mac_points, "fp32", "int16"}]
        return max(usable, key=lambda f: (f.bits, not f.integer)).name if usable else "fp32"

    @property
    def supply(self) -> tuple[float, float, float]:
        """pJ per bit of the memory that feeds the array with X and Y and takes its sums."""
        cost = []
        for operand in REGISTERS:
            source = next((m for m in self.memories if operand in m.holds), None)
            cost.append(self.dram.value if source is None
                        else (source.read.value + source.write.value) / 2 if operand == "sums" else source.read.value)
        return cost[0], cost[1], cost[2]

    def mac(self, x: Format, y: Format, hypothetical: bool = False) -> Number:
        """pJ of one multiply-accumulate of these operands; raises `FormatError` where the chip cannot."""
        for fmt in (x, y):
            if not hypothetical and not self.supports(fmt):
                raise FormatError(
                    f"{self.name} has no {fmt.name}; it has {', '.join(self.formats)}. Price it as a what-if "
                    "with hypothetical=True (--hypothetical), or choose another accelerator")
        return _mac(self, x, y)

    def supports(self, fmt: Format) -> bool:
        """Whether the hardware multiplies this format; a class name ("int", "fp") allows all of it."""
        cls = "int" if fmt.integer else "fp"
        return not self.formats or fmt.hardware in self.formats or cls in self.formats

    def rate(self, x: Format, y: Format) -> float:
        """Peak MACs per second relative to fp32's on the whole machine (arrays: relative to one per PE)."""
        if self.kind == "device":
            wide = max((x, y), key=lambda f: f.bits).hardware
            return self.peak.get(wide, self.peak[max(self.peak, key=lambda n: FORMATS[n].bits)]) / 2
        bits = max(x.significand if x.integer else x.bits, y.significand if y.integer else y.bits)
        fits = [v for n, v in self.speedup.items() if FORMATS[n].bits >= bits]
        return max(fits, default=1.0)


def law(x: Format, y: Format) -> float:
    """The shape of the MAC energy, pJ at 45 nm, before it is drawn through a profile's points."""
    if x.integer and y.integer:
        b, product = (x.significand + y.significand) / 2, x.significand * y.significand
        return INT_LAW[0] + INT_LAW[1] * b + INT_LAW[2] * product
    m, e = (x.significand + y.significand) / 2, (x.exponent + y.exponent) / 2
    return FP_LAW[0] * x.significand * y.significand + FP_LAW[1] * (m + e) + FP_ADD


@lru_cache(maxsize=4096)
def _mac_cached(points: tuple[tuple[str, float, float, bool, str], ...], x: Format, y: Format) -> Number:
    integer = x.integer and y.integer
    own = {name: Number(v, b, s, d) for name, v, b, d, s in points}
    if x.hardware == y.hardware and x.hardware in own:
        return own[x.hardware]
    anchors = sorted((law(FORMATS[n], FORMATS[n]), num) for n, num in own.items()
                     if FORMATS[n].integer == integer)
    if not anchors:  # the chip has only the other class: its points, through the other law's ratio
        anchors = sorted((law(FORMATS[n], FORMATS[n]), num) for n, num in own.items())
    at = math.log(law(x, y))
    xs = [math.log(a) for a, _ in anchors]
    ys = [math.log(n.value) for _, n in anchors]
    value = float(np.interp(at, xs, ys)) + (at - xs[-1] if at > xs[-1] else min(0.0, at - xs[0]))
    nearest = anchors[int(np.argmin([abs(at - p) for p in xs]))][1]
    exact = any(abs(at - p) < 1e-12 for p in xs)
    kind = "integer c0 + c1 b + c2 b^2" if integer else "float a m^2 + b (m + e)"
    return Number(math.exp(value), nearest.band if exact else nearest.band * LAW_BAND,
                  f"law ({kind}) through the profile's points", nearest.derived or not exact)


def _mac(chip: Accelerator, x: Format, y: Format) -> Number:
    points = tuple((n, v.value, v.band, v.derived, v.source) for n, v in chip.mac_points.items())
    return _mac_cached(points, x, y)


def load(name_or_path: str | Path | Accelerator) -> Accelerator:
    """A shipped profile by name, or a user's TOML by path; raises `ProfileError` with every problem."""
    if isinstance(name_or_path, Accelerator):
        return name_or_path
    source = read(name_or_path)
    chip = _build(source)
    source.check()
    return chip


def _build(s: Source) -> Accelerator:
    if s.plain("schema", 1, 1) != 1:
        s.problem("schema", "must be 1")
    kind = s.text("kind", choices=("array", "device"))
    name, summary, origin = s.text("name"), s.text("summary"), s.text("source")
    node = s.plain("node_nm", 1, 1000)
    clock = s.plain("clock_ghz", 1e-4, 100) * 1e9
    band = s.plain("absolute_band", 1.0, 100)
    points = _points(s, kind)
    ops = {op: _needed(s, f"op.{op}", 0, 1000) for op in OPS}
    dims: tuple[int, ...] = (1,)
    unroll: dict[str, tuple[str, ...]] = dict.fromkeys(PASSES, ("K",))
    if kind == "array":
        dims, unroll = _array(s)
    registers = {r: _register(s, f"registers.{r}") for r in REGISTERS} if kind == "array" else {}
    network = s.number("network.pj_per_bit", 0, 1000) if kind == "array" else None
    memories = tuple(_memory(s, m) for m in s.keys("memory"))
    if not memories:
        s.problem("memory", "no on-chip level; add [memory.buffer] (a device: its last-level cache)")
    dram = _needed(s, "dram.pj_per_bit", 1e-3, 10_000)
    bandwidth = s.plain("dram.gbytes_per_s", 1e-3, 1e6) * 8e9
    static = s.number("static.watts", 0, 1e5) or Number(0.0, 1.0, "none given")
    eta = s.plain("device.eta_compute", 1e-3, 1.0) if kind == "device" else 1.0
    peak = _peak(s, eta) if kind == "device" else {}
    launch = s.plain("device.launch_us", 0, 1e6, 0.0) * 1e-6 if kind == "device" else 0.0
    formats = _texts(s, "formats")
    fused = _texts(s, "array.fused") if kind == "array" else _texts(s, "device.fused")
    speedup = {f: s.plain(f"speedup.{f}", 1e-3, 1e6) for f in _formats_of(s, "speedup")}
    calibrated = s.text("calibrated_on", required=False)
    rails = s.text("rails", required=False)
    zero_skip = s.flag("array.zero_skip", True) if kind == "array" else True
    for table in ("array", "mac", "pj_per_flop", "op", "registers", "network", "dram", "static", "device", "speedup",
                  *(f"memory.{m.name}" for m in memories)):
        s.seen |= {f"{table}.source", f"{table}.band"}  # any table may say where its numbers come from
    _order(s, points, memories, dram, kind)
    s.refuse_unknown()
    s.check()
    memories = tuple(sorted(memories, key=lambda m: m.bits))  # those side by side: the larger reuses further out
    digest = hashlib.sha256(json.dumps(s.data, sort_keys=True).encode()).hexdigest()
    return Accelerator(name, kind, summary, origin, s.path, digest, node, clock, band, points, ops, dims,
                       unroll, zero_skip, fused, registers, network, memories, dram, bandwidth, static,
                       peak, eta, launch, formats, calibrated, rails, speedup)


def _needed(s: Source, key: str, low: float, high: float) -> Number:
    number = s.number(key, low, high)
    if number is None:
        s.problem(key, "is missing; write { value = ..., source = \"...\" }")
    return number or Number(1.0, 1.0, "")


def _formats_of(s: Source, table: str) -> list[str]:
    """The keys of a table that are number formats; a problem for every other one."""
    names = [n for n in s.keys(table) if n not in ("source", "band")]
    for name in names:
        if name not in FORMATS:
            s.problem(f"{table}.{name}", f"is not a number format; known: {', '.join(FORMATS)}")
            s.seen.add(f"{table}.{name}")
    return [n for n in names if n in FORMATS]


def _points(s: Source, kind: str) -> dict[str, Number]:
    """pJ per MAC by format; a device states pJ per FLOP (2 FLOPs = 1 MAC)."""
    table, scale = ("mac", 1.0) if kind == "array" else ("pj_per_flop", 2.0)
    found = {}
    for fmt in _formats_of(s, table):
        number = s.number(f"{table}.{fmt}", 1e-4, 1000)
        if number:
            found[fmt] = replace(number, value=number.value * scale)
    if not found:
        s.problem(table, "no energy given; at least one format (fp32 or int8) is needed")
        found = {"fp32": Number(1.0, 1.0, "")}
    return found


def _array(s: Source) -> tuple[tuple[int, ...], dict[str, tuple[str, ...]]]:
    dims = s.get("array.dims")
    good = isinstance(dims, list) and 1 <= len(dims) <= 3 and all(
        isinstance(d, int) and not isinstance(d, bool) and 1 <= d <= 65536 for d in dims)
    if not good:
        s.problem("array.dims", "must be 1 to 3 whole numbers from 1 to 65536, e.g. [32, 32]")
        dims = [1, 1]
    unroll = {}
    for p in PASSES:
        names = s.get(f"array.{p}")
        if not (isinstance(names, list) and len(names) == len(dims) and all(n in UNROLLS for n in names)):
            s.problem(f"array.{p}", f"must name one of {', '.join(UNROLLS)} for each of the {len(dims)} dims")
            names = ["K"] * len(dims)
        unroll[p] = tuple(names)
    return tuple(dims), unroll


def _register(s: Source, key: str) -> Register:
    return Register(s.plain(f"{key}.bits", 0, 1e9), _needed(s, f"{key}.pj_per_bit", 0, 1000))


def _memory(s: Source, name: str) -> Memory:
    key = f"memory.{name}"
    kib = s.plain(f"{key}.kib", 1e-3, 1e9)
    width = s.plain(f"{key}.access_bits", 1, 65536, 64.0)
    law_name = s.text(f"{key}.sram_law", choices=tuple(SRAM_LAWS), required=False)
    explicit = s.number(f"{key}.read_pj_per_bit", 0, 1000), s.number(f"{key}.write_pj_per_bit", 0, 1000)
    if law_name and not any(explicit):
        s.data["memory"][name]["_law"] = sram_pj_per_bit(law_name, kib, width)
        number = s.number(f"{key}._law", 0, 1000) or Number(0.0, 1.0, "")
        del s.data["memory"][name]["_law"]
        explicit = number, number
    elif law_name or not all(explicit):
        s.problem(key, "needs either sram_law, or read_pj_per_bit and write_pj_per_bit, and not both")
    holds = _texts(s, f"{key}.holds") or REGISTERS
    for operand in holds:
        if operand not in REGISTERS:
            s.problem(f"{key}.holds", f"{operand!r} is not one of {', '.join(REGISTERS)}")
    rate = s.plain(f"{key}.bits_per_cycle", 1, 1e9, 1e9)
    zero = Number(0.0, 1.0, "")
    return Memory(name, kib * BITS_PER_KIB, explicit[0] or zero, explicit[1] or zero, rate, holds)


def _peak(s: Source, eta: float) -> dict[str, float]:
    """FLOP/s by format that a device reaches: peak x `eta_compute`."""
    peak = {f: s.plain(f"device.peak_tflops.{f}", 1e-6, 1e6) * 1e12 * eta
            for f in _formats_of(s, "device.peak_tflops")}
    if not peak:
        s.problem("device.peak_tflops", "no peak given; at least fp32 = ... is needed")
    return peak or {"fp32": 1e12}


def _texts(s: Source, key: str) -> tuple[str, ...]:
    value = s.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        s.problem(key, "must be a list of names")
        return ()
    return tuple(value)


def _order(s: Source, points: dict[str, Number], memories: tuple[Memory, ...], dram: Number,
           kind: str) -> None:
    """What no real chip does: wider integers cheaper, inner memories dearer, DRAM cheapest."""
    table = "mac" if kind == "array" else "pj_per_flop"
    if "int8" in points and "fp32" in points and points["int8"].value > points["fp32"].value:
        s.problem(f"{table}.int8", f"an int8 MAC ({points['int8'].value:g} pJ) is dearer than fp32 "
                                   f"({points['fp32'].value:g} pJ); swap or correct them")
    levels = [(f"memory.{m.name}", m.read.value, m.bits, set(m.holds)) for m in memories]
    levels.append(("dram", dram.value, math.inf, set(REGISTERS)))
    for (inner, cost, size, held), (outer, more, larger, holds) in itertools.combinations(levels, 2):
        if not held & holds:
            continue  # side by side, each for its own operands
        if cost > more:
            s.problem(inner, f"{cost:.3g} pJ/bit is dearer than the outer {outer} ({more:.3g} pJ/bit); "
                             "list memories innermost first, or correct the energies")
        if size > larger:
            s.problem(inner, f"is larger than the outer {outer}; list memories innermost first")
