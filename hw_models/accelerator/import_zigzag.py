"""ZigZag 3.x accelerator YAML -> an accelerator file of this package.

ZigZag's costs are pJ per access of a port's full width (`r_cost` over `bandwidth_max`), sizes are bits, served
dimensions those along which one instance serves all multipliers. Its file has no clock, no process node and, unless a
mapping file is given beside it, no dataflow: clock and node are arguments, the dataflow follows from which registers
are shared. Source of the schema: zigzag-dse 3.9, zigzag/parser/accelerator_validator.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hw_models.accelerator.description import OPERANDS, Axis
from hw_models.accelerator.import_machine import Machine, Store, choose_unrolling, profile_text
from hw_models.accelerator.yaml_text import read_yaml
from hw_models.errors import ProfileError

OPERAND = {"I1": "streaming", "I2": "held", "O": "sums"}
UNROLLS = {"K": "K", "C": "C", "FX": "S", "FY": "R", "OX": "Q", "OY": "P", "B": "N"}
MEMORY_KEYS = {
    "size",
    "r_cost",
    "w_cost",
    "area",
    "latency",
    "mem_type",
    "auto_cost_extraction",
    "operands",
    "ports",
    "served_dimensions",
    "force_double_buffering",
}
PORTS = ("read_write", "read", "write")
MAPPING_KEYS = {"name", "spatial_mapping", "memory_operand_links"}
OPERAND_LINKS = {"O": "O", "W": "I2", "I": "I1"}
ARRAY_KEYS = {
    "dimensions",
    "sizes",
    "unit_energy",
    "unit_area",
    "input_precision",
    "is_imc",
    "imc_type",
    "adc_resolution",
    "bit_serial_precision",
}


def looks_like_zigzag(data: Any) -> bool:
    return isinstance(data, dict) and "operational_array" in data and "memories" in data


def import_zigzag(
    path: str | Path, *, mapping: str | Path | None = None, clock_ghz: float | None = None, node_nm: float | None = None
) -> tuple[str, tuple[str, ...]]:
    """The accelerator file (TOML) of a ZigZag architecture, and the notes on what it could not take over.

    `mapping`: a ZigZag mapping YAML, whose default spatial mapping says what the array unrolls. Raises `ProfileError`
    for files of another kind, in-memory computing, and what has no counterpart.
    """
    data = read_yaml(path)
    if not looks_like_zigzag(data):
        raise ProfileError(f"{path}: is no ZigZag 3 accelerator: it needs `memories` and `operational_array`")
    dataflow, notes = _dataflow(data, mapping)
    machine = machine_of(data, str(path), dataflow, clock_ghz, node_nm)
    machine.notes[:0] = notes
    return profile_text(machine)


def machine_of(
    data: dict[str, Any], path: str, dataflow: dict[str, Any] | None, clock_ghz: float | None, node_nm: float | None
) -> Machine:
    """The architecture as a `Machine`; `dataflow`: dimension -> ["K, 32", ...] or None."""
    notes: list[str] = []
    array = _table(data["operational_array"], f"{path}: operational_array")
    if array.get("is_imc") or array.get("imc_type"):
        raise ProfileError(f"{path}: operational_array.is_imc: in-memory computing has no counterpart here")
    names = [str(d) for d in _list(array, "dimensions", f"{path}: operational_array")]
    sizes = [
        _number(n, f"{path}: operational_array.sizes", 1) for n in _list(array, "sizes", f"{path}: operational_array")
    ]
    if not names or len(names) != len(sizes):
        raise ProfileError(f"{path}: operational_array: dimensions and sizes must be lists of one length")
    dims, unrolled, parts = _dimensions(names, [int(n) for n in sizes], dataflow, path, notes)
    stores = tuple(
        _store(str(name), _table(m, f"{path}: memories.{name}"), parts, path, notes)
        for name, m in _table(data["memories"], f"{path}: memories").items()
    )
    if len(stores) < 2:
        raise ProfileError(f"{path}: memories: needs at least one on-chip memory and, last, the DRAM")
    precision = _list(array, "input_precision", f"{path}: operational_array") or [8, 8]
    bits = max(int(_number(b, f"{path}: operational_array.input_precision", 1)) for b in precision)
    width = next((w for w in (2, 4, 8, 16, 32) if w >= bits), 32)
    notes.append(
        f"unit_energy stands for int{width}"
        + ("" if array.get("input_precision") else " (no input_precision: 8 bits)")
        + ", where ZigZag takes it for every width"
    )
    if clock_ghz is None:
        notes.append("clock: not in the file, 1 GHz taken (--clock-ghz)")
    if node_nm is None:
        notes.append("process node: not in the file, 28 nm taken (--node-nm)")
    notes += [
        f"operational_array.{key}: not used" for key in sorted(array) if key == "unit_area" or key not in ARRAY_KEYS
    ]
    notes += [
        f"{key}: not used"
        for key in sorted(map(str, data))
        if key not in ("name", "memories", "operational_array", "dataflows")
    ]
    return Machine(
        str(data.get("name", Path(path).stem)),
        f"ZigZag accelerator {Path(path).name}",
        28.0 if node_nm is None else node_nm,
        1.0 if clock_ghz is None else clock_ghz,
        dims,
        unrolled or choose_unrolling(len(dims), stores),
        f"int{width}",
        _number(array.get("unit_energy"), f"{path}: operational_array.unit_energy", 0),
        f"operational_array.unit_energy of {Path(path).name}",
        stores,
        notes=notes,
    )


def _dataflow(data: dict[str, Any], mapping: str | Path | None) -> tuple[dict[str, Any] | None, list[str]]:
    """The spatial mapping by array dimension (of the mapping file's default entry, else of the accelerator file), and
    notes on the rest of the mapping file."""
    if mapping is None:
        return data.get("dataflows") or None, []
    entries = read_yaml(mapping)
    entries = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    chosen = next(
        (e for e in entries if e.get("name") == "default" and isinstance(e.get("spatial_mapping"), dict)), None
    )
    if chosen is None:
        raise ProfileError(f"{mapping}: no entry named default with a spatial_mapping")
    links = chosen.get("memory_operand_links") or OPERAND_LINKS
    if links != OPERAND_LINKS:
        raise ProfileError(f"{mapping}: default.memory_operand_links: {links} has no counterpart; only {OPERAND_LINKS}")
    name = Path(mapping).name
    notes = [f"{name}: default.{key}: not used" for key in sorted(map(str, chosen)) if key not in MAPPING_KEYS]
    others = [str(e.get("name")) for e in entries if e is not chosen]
    if others:
        notes.append(f"{name}: the mappings of {', '.join(others)}: not used; every layer has the default one")
    return dict(chosen["spatial_mapping"]), notes


def _dimensions(
    names: list[str], sizes: list[int], dataflow: dict[str, Any] | None, path: str, notes: list[str]
) -> tuple[tuple[int, ...], tuple[Axis, ...], dict[str, list[int]]]:
    """Array dimensions, what they unroll (empty: to be chosen), and those that each of ZigZag's dimensions became."""
    if dataflow is None:
        notes.append(
            "dataflow: not in the file; what the array unrolls follows from the registers' sharing (--mapping "
            "takes ZigZag's mapping file)"
        )
        return tuple(sizes), (), {name: [i] for i, name in enumerate(names)}
    dims: list[int] = []
    unrolled: list[Axis] = []
    parts: dict[str, list[int]] = {}
    for name, size in zip(names, sizes, strict=True):
        loops = [_loop(text, f"{path}: spatial mapping of {name}") for text in dataflow.get(name) or []]
        loops = [loop for loop in loops if loop[1] > 1] or [("C" if ("K",) in unrolled else "K", size)]
        if len(loops) == 1 and loops[0][1] != size:
            notes.append(f"{name}: the mapping unrolls {loops[0][1]} of its {size} elements; all are unrolled here")
            loops = [(loops[0][0], size)]
        parts[name] = list(range(len(dims), len(dims) + len(loops)))
        unrolled += [(index,) for index, _ in loops]
        dims += [n for _, n in loops]
    return tuple(dims), tuple(unrolled), parts


def _loop(text: Any, where: str) -> tuple[str, int]:
    """("K", 32) of the text "K, 32"."""
    index, _, size = str(text).partition(",")
    index = index.strip()
    if index not in UNROLLS or not size.strip().isdigit():
        raise ProfileError(f"{where}: {text!r} has no counterpart; known loops: {', '.join(UNROLLS)}")
    return UNROLLS[index], int(size)


def _store(name: str, m: dict[str, Any], parts: dict[str, list[int]], path: str, notes: list[str]) -> Store:
    where = f"{path}: memories.{name}"
    operands = tuple(OPERAND.get(str(o), "") for o in _list(m, "operands", where))
    if not operands or "" in operands:
        raise ProfileError(f"{where}.operands: must name I1, I2 or O")
    dimensions = _list(m, "served_dimensions", where)
    if strange := [d for d in dimensions if str(d) not in parts]:
        raise ProfileError(f"{where}.served_dimensions: {strange[0]} is no dimension of the array")
    served = frozenset(i for d in dimensions for i in parts[str(d)])
    ports = [_table(p, f"{where}.ports") for p in _list(m, "ports", where)]
    for port in ports:
        _list(port, "allocation", f"{where}.ports")
        _number(port.get("bandwidth_max"), f"{where}.ports.bandwidth_max", 1)
        if port.get("type") not in PORTS:
            raise ProfileError(
                f"{where}.ports.type: is {str(port.get('type'))[:40]!r}, must be one of {', '.join(PORTS)}"
            )
    reading, writing = _width(ports, ("tl", "th"), where), _width(ports, ("fh", "fl"), where)
    costs: list[float | None] = [None, None]
    if not m.get("auto_cost_extraction"):
        costs = [
            _number(m.get("r_cost"), f"{where}.r_cost", 0) / reading,
            _number(m.get("w_cost"), f"{where}.w_cost", 0) / writing,
        ]
    for key in sorted(m):
        if key not in MEMORY_KEYS or (key == "area" and m[key]):
            notes.append(f"memories.{name}.{key}: not used")
    if m.get("latency", 1) != 1:
        notes.append(f"memories.{name}.latency: {m['latency']} cycles, not modelled")
    if len(served) < sum(map(len, parts.values())) and reading not in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        notes.append(
            f"memories.{name}: {reading:g} bits an access, charged by the bit here; ZigZag charges a whole access "
            "for a narrower number"
        )
    least = min((_number(p.get("bandwidth_min", 1), f"{where}.ports.bandwidth_min", 1) for p in ports), default=1.0)
    return Store(
        name,
        _number(m.get("size"), f"{where}.size", 1),
        tuple(o for o in OPERANDS if o in operands),
        served,
        costs[0],
        costs[1],
        f"{Path(path).name}, {name}: {m.get('r_cost')} read per {reading:g} bit, {m.get('w_cost')} written per "
        f"{writing:g}",
        reading,
        *_rates(ports),
        bool(m.get("force_double_buffering")),
        least,
    )


def _directions(port: dict[str, Any]) -> set[str]:
    return {str(a).partition(",")[2].strip() for a in port.get("allocation") or []}


def _width(ports: Iterable[dict[str, Any]], directions: tuple[str, ...], where: str) -> float:
    """Bits of one access of the first port that moves data in one of `directions` (t/f: to/from, h/l: high/low)."""
    for port in ports:
        if _directions(port) & set(directions):
            return _number(port.get("bandwidth_max"), f"{where}.ports.bandwidth_max", 1)
    raise ProfileError(f"{where}.ports: no port for {' or '.join(directions)}")


def _rates(ports: list[dict[str, Any]]) -> tuple[float | None, tuple[float, float] | None]:
    """Bits per cycle of the ports that do both, or of those that read and those that write."""
    rates = {kind: sum(float(p["bandwidth_max"]) for p in ports if p.get("type") == kind) for kind in PORTS}
    both, reading, writing = rates["read_write"], rates["read"], rates["write"]
    return (None, (reading + both, writing + both)) if reading and writing else (both + reading + writing or None, None)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProfileError(f"{where}: must be a mapping, is {str(value)[:40]!r}")
    return value


def _list(table: dict[str, Any], key: str, where: str) -> list[Any]:
    """The list under a key; empty without one."""
    value = table.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ProfileError(f"{where}.{key}: must be a list, is {str(value)[:40]!r}")
    return value


def _number(value: Any, where: str, low: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 1e15:
        raise ProfileError(f"{where}: is {str(value)[:40]!r}, must be a number from {low:g}")
    return float(value)
