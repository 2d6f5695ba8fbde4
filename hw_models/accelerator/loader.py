"""Loads an accelerator profile: TOML -> `Accelerator`, every value checked, each problem with file, line, key, cure."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

from hw_models.accelerator.constant import Number
from hw_models.accelerator.dataflow import read_dataflow
from hw_models.accelerator.description import OPERANDS, OPS, Accelerator, Axis, Memory, Register
from hw_models.accelerator.sram_energy import LEAKAGE_BAND, SRAM_LAWS, SRAM_LEAKAGE, sram_pj_per_bit
from hw_models.accelerator.toml_reader import SHIPPED, ProfileSource, read
from hw_models.precision.formats import FORMATS, PASSES
from hw_models.units import BITS_PER_KIB
from hw_models.workload.layer import POINTWISE
from hw_models.workload.training_passes import LOOPS, SHARED_INDEX, index_of, loops_of

UNROLLS = ("K", "C", "pixels")
MOST_DIMS = 4
UNLIMITED = 1e9  # bits per cycle of a memory whose profile gives no bandwidth


def shipped() -> list[Accelerator]:
    """Every profile that comes with the package, by name."""
    return [load(path.stem) for path in sorted(SHIPPED.glob("*.toml"))]


def load(name_or_path: str | Path | Accelerator) -> Accelerator:
    """A shipped profile by name, or a user's TOML by path; raises `ProfileError` with every problem."""
    if isinstance(name_or_path, Accelerator):
        return name_or_path
    return build(read(name_or_path))


def build(s: ProfileSource) -> Accelerator:
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
    unroll: dict[str, tuple[Axis, ...]] = dict.fromkeys(PASSES, ("K",))
    if kind == "array":
        dims, unroll = _array(s)
    registers = {r: _register(s, r, dims, unroll) for r in OPERANDS} if kind == "array" else {}
    network = s.number("network.pj_per_bit", 0, 1000) if kind == "array" else None
    memories = tuple(_memory(s, m) for m in s.keys("memory"))
    if not memories:
        s.problem("memory", "no on-chip level; add [memory.buffer] (a device: its last-level cache)")
    dram, dram_writes = _dram(s)
    bandwidth = s.plain("dram.gbytes_per_s", 1e-3, 1e6) * 8e9
    static = s.number("static.watts", 0, 1e5) or Number(0.0, 1.0, "none given")
    eta = s.plain("device.eta_compute", 1e-3, 1.0) if kind == "device" else 1.0
    efficiency = _efficiency(s, eta) if kind == "device" else {}
    peak = _peak(s, efficiency) if kind == "device" else {}
    launch = s.plain("device.launch_us", 0, 1e6, 0.0) * 1e-6 if kind == "device" else 0.0
    half_batch = s.plain("device.half_batch", 0, 1e6, 0.0) if kind == "device" else 0.0
    formats = _texts(s, "formats", (*FORMATS, *sorted({f.kind for f in FORMATS.values()})))
    fused = _texts(s, "array.fused" if kind == "array" else "device.fused", POINTWISE)
    speedup = {f: s.plain(f"speedup.{f}", 1e-3, 1e6) for f in _formats_of(s, "speedup")}
    calibrated = s.text("calibrated_on", required=False)
    rails = s.text("rails", required=False)
    zero_skip = s.flag("array.zero_skip", True) if kind == "array" else True
    dataflow = read_dataflow(s, kind, {m.name: m.holds for m in memories})
    for table in (
        "array",
        "mac",
        "pj_per_flop",
        "op",
        "registers",
        "network",
        "dram",
        "static",
        "device",
        "speedup",
        *(f"memory.{m.name}" for m in memories),
    ):
        s.seen |= {f"{table}.{name}" for name in ("source", "band", "derived")}  # allowed in any table
    if not s.problems:  # values that stand for refused ones compare wrongly
        _order(s, points, memories, dram, kind)
    s.refuse_unknown()
    s.check()
    memories = tuple(sorted(memories, key=lambda m: m.bits))  # those side by side: the larger reuses further out
    digest = hashlib.sha256(json.dumps(s.data, sort_keys=True).encode()).hexdigest()
    return Accelerator(
        name,
        kind,
        summary,
        origin,
        s.path,
        digest,
        node,
        clock,
        band,
        points,
        ops,
        dims,
        unroll,
        zero_skip,
        fused,
        registers,
        network,
        memories,
        dram,
        bandwidth,
        static,
        peak,
        eta,
        launch,
        formats,
        calibrated,
        rails,
        speedup,
        efficiency,
        half_batch,
        fill_cycles=s.plain("array.fill_cycles", 0, 1e6, 0.0) if kind == "array" else 0.0,
        dram_writes=dram_writes,
        dataflow=dataflow,
        burst_bits=8 * s.plain("dram.burst_bytes", 0.125, 65536, 0.125),
    )


def _needed(s: ProfileSource, key: str, low: float, high: float) -> Number:
    number = s.number(key, low, high)
    if number is None:
        s.problem(key, 'is missing; write { value = ..., source = "..." }')
    return number or Number(1.0, 1.0, "")


def _formats_of(s: ProfileSource, table: str) -> list[str]:
    """The keys of a table that are number formats; a problem for every other one."""
    names = [n for n in s.keys(table) if n not in ("source", "band", "derived")]
    for name in names:
        if name not in FORMATS:
            s.problem(f"{table}.{name}", f"is not a number format; known: {', '.join(FORMATS)}")
            s.seen.add(f"{table}.{name}")
    return [n for n in names if n in FORMATS]


def _points(s: ProfileSource, kind: str) -> dict[str, Number]:
    """pJ per MAC by format; a device states pJ per FLOP (2 FLOPs = 1 MAC)."""
    table, scale = ("mac", 1.0) if kind == "array" else ("pj_per_flop", 2.0)
    found = {}
    for fmt in _formats_of(s, table):
        number = s.number(f"{table}.{fmt}", 1e-4, 1000)
        if number:
            found[fmt] = replace(number, value=number.value * scale)
    if not found:
        s.problem(table, "no energy given; at least one number format is needed, such as int8, int16 or fp32")
        found = {"fp32": Number(1.0, 1.0, "")}
    return found


def _array(s: ProfileSource) -> tuple[tuple[int, ...], dict[str, tuple[Axis, ...]]]:
    dims = s.get("array.dims")
    good = (
        isinstance(dims, list)
        and 1 <= len(dims) <= MOST_DIMS
        and all(isinstance(d, int) and not isinstance(d, bool) and 1 <= d <= 65536 for d in dims)
    )
    if not good:
        s.problem("array.dims", f"must be 1 to {MOST_DIMS} whole numbers from 1 to 65536, e.g. [32, 32]")
        dims = [1, 1]
    return tuple(dims), {p: _axes(s, p, len(dims)) for p in PASSES}


def _axes(s: ProfileSource, which: str, dims: int) -> tuple[Axis, ...]:
    """What each dimension unrolls in a pass: a short name, or a list of loops."""
    key = f"array.{which}"
    given = s.get(key)
    if isinstance(given, list) and len(given) == dims:
        axes = [tuple(axis) if isinstance(axis, list) else axis for axis in given]
        loops = [loop for axis in axes if isinstance(axis, tuple) for loop in axis]
        if all(axis in UNROLLS if isinstance(axis, str) else axis for axis in axes) and all(
            isinstance(loop, str) and loop in LOOPS[which] for loop in loops
        ):
            return tuple(axes)
    s.problem(
        key,
        f"must name one of {', '.join(UNROLLS)}, or a list of loops ({', '.join(LOOPS[which])}), "
        f"for each of the {dims} dims",
    )
    return ("K",) * dims


def _register(s: ProfileSource, operand: str, dims: tuple[int, ...], unroll: dict[str, tuple[Axis, ...]]) -> Register:
    key = f"registers.{operand}"
    return Register(
        s.plain(f"{key}.bits", 0, 1e9),
        _needed(s, f"{key}.pj_per_bit", 0, 1000),
        _shared(s, f"{key}.shared_along", operand, len(dims), unroll),
    )


def _shared(
    s: ProfileSource, key: str, operand: str, dims: int, unroll: dict[str, tuple[Axis, ...]]
) -> tuple[int, ...]:
    """Dimensions (from 0) whose elements read one register: in every pass they must need the same operand."""
    given = s.get(key)
    if given is None:
        return ()
    if not (
        isinstance(given, list)
        and given
        and len(set(map(str, given))) == len(given)
        and all(isinstance(d, int) and not isinstance(d, bool) and 1 <= d <= dims for d in given)
    ):
        s.problem(key, f"must name different dimensions of the array, from 1 to {dims}, e.g. [{dims}]")
        return ()
    for p, names in unroll.items():
        for d in given:
            needs = {index_of(p, group[0]) for group in loops_of(p, names[d - 1])}
            if needs != {SHARED_INDEX[operand]}:
                alike = next(n for n in UNROLLS if index_of(p, loops_of(p, n)[0][0]) == SHARED_INDEX[operand])
                shown = names[d - 1] if isinstance(names[d - 1], str) else " ".join(names[d - 1])
                s.problem(
                    key,
                    f"in the {p} elements along dimension {d} ({shown}) need different values, one "
                    f"register cannot serve them; unroll {alike} there in array.{p}, or leave {d} out",
                )
    return tuple(d - 1 for d in given)


def _memory(s: ProfileSource, name: str) -> Memory:
    key = f"memory.{name}"
    kib = s.plain(f"{key}.kib", 1e-3, 1e9)
    width = s.plain(f"{key}.access_bits", 1, 65536, 64.0)
    law_name = s.text(f"{key}.sram_law", choices=tuple(SRAM_LAWS), required=False)
    explicit = s.number(f"{key}.read_pj_per_bit", 0, 1000), s.number(f"{key}.write_pj_per_bit", 0, 1000)
    if law_name and not any(explicit):
        number = s.constant(f"{key}.sram_law", {"value": sram_pj_per_bit(law_name, kib, width)}, 0, 1000)
        if number:
            at = f"{law_name} at {kib:g} KiB and {width:g} bits per access"
            explicit = (replace(number, source=f"{at}; {number.source}"),) * 2
    elif law_name or not all(explicit):
        s.problem(key, "needs either sram_law, or read_pj_per_bit and write_pj_per_bit, and not both")
    holds = _texts(s, f"{key}.holds", OPERANDS) or OPERANDS
    reads = s.plain(f"{key}.read_bits_per_cycle", 1, UNLIMITED, 0.0)
    writes = s.plain(f"{key}.write_bits_per_cycle", 1, UNLIMITED, 0.0)
    shared = s.plain(f"{key}.bits_per_cycle", 1, UNLIMITED, UNLIMITED)
    if bool(reads) != bool(writes) or (reads and s.get(f"{key}.bits_per_cycle") is not None):
        s.problem(key, "needs either bits_per_cycle of one port, or both read_bits_per_cycle and write_bits_per_cycle")
    zero = Number(0.0, 1.0, "")
    return Memory(
        name,
        kib * BITS_PER_KIB,
        explicit[0] or zero,
        explicit[1] or zero,
        reads or shared,
        holds,
        s.flag(f"{key}.slides", True),
        s.flag(f"{key}.double_buffer", False) if s.get(f"{key}.double_buffer") is not None else None,
        _leakage(s, key, kib / 1024, law_name),
        s.plain(f"{key}.least_access_bits", 1, 65536, width if law_name else 1.0),
        writes or None,
    )


def _leakage(s: ProfileSource, key: str, mib: float, law_name: str) -> Number | None:
    """Leakage of a memory in W: the profile's W per MiB, else that of its SRAM law."""
    stated = s.number(f"{key}.leakage_w_per_mib", 0, 1000)
    if stated is not None:
        return replace(stated, value=stated.value * mib)
    if law_name not in SRAM_LEAKAGE:
        return None
    source = f"{law_name}: {SRAM_LEAKAGE[law_name]:g} W per MiB, sub-threshold and gate, CACTI 7 at 360 K"
    return Number(SRAM_LEAKAGE[law_name] * mib, LEAKAGE_BAND, source, derived=True)


def _dram(s: ProfileSource) -> tuple[Number, Number | None]:
    """pJ per bit from and to DRAM; None where one constant stands for both."""
    both = s.number("dram.read_pj_per_bit", 1e-3, 10_000), s.number("dram.write_pj_per_bit", 1e-3, 10_000)
    if both[0] is None and both[1] is None:
        return _needed(s, "dram.pj_per_bit", 1e-3, 10_000), None
    if both[0] is None or both[1] is None or s.get("dram.pj_per_bit") is not None:
        s.problem("dram", "needs either pj_per_bit, or both read_pj_per_bit and write_pj_per_bit")
    one = Number(1.0, 1.0, "")
    return both[0] or one, both[1] or one


def _efficiency(s: ProfileSource, eta: float) -> dict[str, float]:
    """Share of the peak that is reached, by format: `device.eta.<format>`, else `eta_compute`."""
    formats = _formats_of(s, "device.peak_tflops")
    for name in _formats_of(s, "device.eta"):
        if name not in formats:
            s.problem(f"device.eta.{name}", "has no peak of its own; add it to device.peak_tflops")
            s.seen.add(f"device.eta.{name}")
    return {f: s.plain(f"device.eta.{f}", 1e-3, 1.0, eta) for f in formats}


def _peak(s: ProfileSource, efficiency: dict[str, float]) -> dict[str, float]:
    """FLOP/s by format that a device reaches: peak x efficiency."""
    peak = {f: s.plain(f"device.peak_tflops.{f}", 1e-6, 1e6) * 1e12 * eta for f, eta in efficiency.items()}
    if not peak:
        s.problem("device.peak_tflops", "no peak given; at least fp32 = ... is needed")
    return peak or {"fp32": 1e12}


def _texts(s: ProfileSource, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
    value = s.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        s.problem(key, "must be a list of names")
        return ()
    for name in value:
        if name not in known:
            s.problem(key, f"{name!r} is not one of {', '.join(known)}")
    return tuple(v for v in value if v in known)


def _order(s: ProfileSource, points: dict[str, Number], memories: tuple[Memory, ...], dram: Number, kind: str) -> None:
    """Problems of orders that no chip has: int8 dearer than fp32, inner memories dearer or larger than outer ones."""
    table = "mac" if kind == "array" else "pj_per_flop"
    if "int8" in points and "fp32" in points and points["int8"].value > points["fp32"].value:
        s.problem(
            f"{table}.int8",
            f"an int8 MAC ({points['int8'].value:g} pJ) is dearer than fp32 "
            f"({points['fp32'].value:g} pJ); swap or correct them",
        )
    levels = [(f"memory.{m.name}", m.read.value, m.bits, set(m.holds)) for m in memories]
    levels.append(("dram", dram.value, math.inf, set(OPERANDS)))
    for (inner, cost, size, held), (outer, more, larger, holds) in itertools.combinations(levels, 2):
        if not held & holds:
            continue  # side by side, each for its own operands
        if cost > more:
            s.problem(
                inner,
                f"{cost:.3g} pJ/bit is dearer than the outer {outer} ({more:.3g} pJ/bit); "
                "list memories innermost first, or correct the energies",
            )
        if size > larger:
            s.problem(inner, f"is larger than the outer {outer}; list memories innermost first")
