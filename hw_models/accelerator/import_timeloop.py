"""Timeloop v4 / Accelergy architecture YAML (version 0.4) -> an accelerator file of this package.

The tree is read from outside in: a container with a mesh is a dimension of the array, a component with a capacity a
store that serves the meshes below it, the last component the multiplier. Energies are not in an architecture file;
Accelergy writes them into an energy reference table (ERT), which may be given beside it. Without one, SRAM follows the
CACTI fit, the multiplier the law, DRAM its type; each such value is marked derived and noted.

Names of the default convolution problem are understood: N C M P Q R S, Inputs, Weights, Outputs. Bandwidths are words
of `datawidth` bits per cycle. Source of the schema: timeloop-accelergy-exercises, workspace/example_designs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hw_models.accelerator.description import OPERANDS, Axis
from hw_models.accelerator.import_machine import ROLE, Machine, Store, profile_text
from hw_models.accelerator.mac_energy import law_pj
from hw_models.accelerator.yaml_text import TAG, read_yaml
from hw_models.errors import ProfileError
from hw_models.precision.formats import FORMATS

OPERAND = {"Inputs": "streaming", "Weights": "held", "Outputs": "sums"}
UNROLLS = {"M": "K", "C": "C", "R": "R", "S": "S", "N": "N", "P": "P", "Q": "Q"}
DRAM_PJ = {"LPDDR4": 10.0, "DDR3": 20.0, "GDDR6": 6.5, "HBM2": 5.5, "HBM3": 4.0}  # per bit, as the shipped profiles
STORED = {
    "depth",
    "width",
    "datawidth",
    "n_banks",
    "block_size",
    "cluster_size",
    "read_bandwidth",
    "write_bandwidth",
    "rw_bandwidth",
    "shared_bandwidth",
    "technology",
    "type",
}
COMPUTED = {"multiplier_width", "adder_width", "datawidth", "technology", "width", "num_bits"}
NODE_KEYS = {TAG, "name", "class", "subclass", "attributes", "constraints", "spatial", "nodes"}
COMPUTE = re.compile(r"mac|mult|compute", re.IGNORECASE)


@dataclass
class _Tree:
    """State of the walk through the nodes: dimensions, stores and notes collected so far."""

    path: str
    attributes: dict[str, Any] = field(default_factory=dict)  # inherited
    dims: list[int] = field(default_factory=list)
    unrolled: list[Axis] = field(default_factory=list)
    stores: list[tuple[dict[str, Any], dict[str, Any], int]] = field(default_factory=list)  # node, attributes, depth
    compute: tuple[dict[str, Any], dict[str, Any]] | None = None
    notes: list[str] = field(default_factory=list)


def looks_like_timeloop(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("architecture"), dict)


def import_timeloop(
    path: str | Path,
    *,
    energies: str | Path | None = None,
    clock_ghz: float | None = None,
    node_nm: float | None = None,
) -> tuple[str, tuple[str, ...]]:
    """The accelerator file (TOML) of a Timeloop architecture, and the notes on what it could not take over.

    `energies`: Accelergy's ERT of that architecture. Raises `ProfileError` for other versions, templates and what has
    no counterpart.
    """
    data = read_yaml(path)
    if not looks_like_timeloop(data):
        raise ProfileError(f"{path}: is no Timeloop architecture: it needs a top-level `architecture`")
    table = _energies(energies) if energies is not None else {}
    return profile_text(machine_of(data, str(path), table, clock_ghz, node_nm))


def machine_of(
    data: dict[str, Any], path: str, table: dict[str, dict[str, float]], clock_ghz: float | None, node_nm: float | None
) -> Machine:
    """The architecture as a `Machine`; `table`: component -> action -> pJ, "instances" -> how many."""
    arch = data["architecture"]
    if str(arch.get("version")) != "0.4" or not isinstance(arch.get("nodes"), list):
        raise ProfileError(
            f"{path}: architecture.version is {arch.get('version')}; only 0.4 (Timeloop v4, `nodes`) is "
            "read; timeloop's own parser converts older files"
        )
    tree = _Tree(path, dict(data.get("variables") or {}))
    _walk(arch["nodes"], tree)
    if tree.compute is None or not tree.stores:
        raise ProfileError(f"{path}: no compute component, or no storage, among the nodes")
    node = node_nm or _technology(tree)
    seconds = data.get("variables", {}).get("global_cycle_seconds") if isinstance(data.get("variables"), dict) else None
    seconds = seconds or next(
        (row["global_cycle_seconds"] for row in table.values() if "global_cycle_seconds" in row), None
    )
    clock = clock_ghz or (1e-9 / float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None)
    if clock is None:
        tree.notes.append("clock: not in the file, 1 GHz taken (--clock-ghz)")
    fmt, pj, origin, by_law = _multiplier(tree, table)
    dims = tree.dims or [1]
    stores = [_store(n, a, depth, len(dims), tree, table) for n, a, depth in reversed(tree.stores)]
    tree.notes += [f"{key}: not used" for key in sorted(map(str, data)) if key not in ("architecture", "variables")]
    leaking = sum(row.get("leak", 0.0) * row["instances"] for row in table.values())
    return Machine(
        Path(path).stem if Path(path).stem not in ("arch", "architecture") else Path(path).parent.name or "imported",
        f"Timeloop architecture {Path(path).name}",
        node,
        clock or 1.0,
        tuple(dims),
        tuple(tree.unrolled or [("K",)]),
        fmt,
        pj,
        origin,
        tuple(stores),
        by_law,
        leaking * 1e-3 * (clock or 1.0),
        tree.notes,
    )


def _walk(nodes: Iterable[Any], tree: _Tree) -> None:
    for node in nodes:
        if not isinstance(node, dict) or TAG not in node:
            raise ProfileError(
                f"{tree.path}: nodes: each must be tagged !Container, !Component, !Parallel or "
                f"!Hierarchical, not {str(node)[:40]!r}"
            )
        tag, name = node[TAG], str(node.get("name", "?"))
        if tag == "Nothing":
            continue
        if tag in ("Parallel", "Hierarchical", "Pipelined"):
            before = len(tree.dims)
            _walk(node.get("nodes") or [], tree)
            if tag != "Hierarchical" and len(tree.dims) != before:
                raise ProfileError(f"{tree.path}: !{tag}: a mesh inside it has no counterpart here")
            if tag == "Pipelined":
                tree.notes.append("!Pipelined: read like !Parallel")
            continue
        tree.notes += [f"{name}.{key}: not used" for key in sorted(map(str, node)) if key not in NODE_KEYS]
        own = {**tree.attributes, **(node.get("attributes") or {})}
        _mesh(node, name, tree)
        if tag == "Container":
            rest = sorted(map(str, node.get("attributes") or {}))
            tree.notes += [f"{name}.{key}: not used" for key in rest if key not in STORED]
            rules = sorted(map(str, node.get("constraints") or {}))
            tree.notes += [f"{name}.constraints.{key}: not used" for key in rules if key != "spatial"]
            tree.attributes = own
        elif tag != "Component":
            raise ProfileError(f"{tree.path}: {name}: tag !{tag} is not known")
        elif ("depth" in own and "width" in own) or "DRAM" in str(node.get("class")):
            tree.stores.append((node, own, len(tree.dims)))
        elif COMPUTE.search(f"{node.get('class')} {node.get('subclass')}"):
            tree.compute = node, own
        else:
            tree.notes.append(f"{name} (class {node.get('class')}): not a storage and no multiplier, left out")


def _mesh(node: dict[str, Any], name: str, tree: _Tree) -> None:
    """The dimensions that a node's mesh adds to the array, and what its constraints say they unroll."""
    spatial = node.get("spatial") or {}
    rules = (node.get("constraints") or {}).get("spatial") or {}
    pinned, fixed = _factors(rules.get("factors") or rules.get("factors_only"))
    order = [str(d) for d in rules.get("permutation") or UNROLLS]
    split = rules.get("split", len(order))
    if not isinstance(split, int):
        raise ProfileError(f"{tree.path}: {name}.constraints.spatial.split: is {split!r}, must be a whole number")
    for axis, some in (("meshX", order[:split]), ("meshY", order[split:] if "split" in rules else order)):
        size = spatial.get(axis, 1)
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 65536:
            raise ProfileError(
                f"{tree.path}: {name}.spatial.{axis}: is {size!r}, must be a whole number; expressions and "
                "templates must be evaluated first"
            )
        if size == 1:
            continue
        if strange := [d for d in some if d not in UNROLLS]:
            raise ProfileError(
                f"{tree.path}: {name}.constraints.spatial: {strange[0]} is no dimension of the convolution "
                f"problem ({' '.join(UNROLLS)})"
            )
        free = [d for d in some if d in fixed] or [d for d in some if d not in pinned]
        loops = [UNROLLS[d] for d in free] or ["K"]
        chosen = tuple(loop for loop in loops if ROLE[loop] == ROLE[loops[0]])
        if len(free) != len(chosen) or not free:
            tree.notes.append(
                f"{name}.{axis}: the mapper may unroll {', '.join(free) or 'nothing'}; {', '.join(chosen)} in turn here"
            )
        tree.dims.append(size)
        tree.unrolled.append(chosen)
    tree.notes += [
        f"{name}.constraints.spatial.{key}: not used"
        for key in sorted(rules)
        if key not in ("factors", "factors_only", "permutation", "split")
    ]


def _factors(rules: Any) -> tuple[set[str], set[str]]:
    """Dimensions pinned to 1, and those with a larger factor of their own, in "N=1 M=4" or ["N=1", "M=4"]."""
    texts = str(rules).split() if isinstance(rules, str) else [str(r) for r in rules or []]
    found = dict(re.findall(r"(\w+)\s*=\s*(\d+)", " ".join(texts)))
    return {d for d, n in found.items() if n == "1"}, {d for d, n in found.items() if int(n) > 1}


def _store(
    node: dict[str, Any], a: dict[str, Any], depth: int, dims: int, tree: _Tree, table: dict[str, dict[str, float]]
) -> Store:
    name = str(node.get("name", "?"))
    rules = node.get("constraints") or {}
    kept = _kept(rules.get("dataspace") or {}, name, tree)
    dram = "DRAM" in str(node.get("class"))
    word = _number(a, "datawidth", name, tree, 8)
    width = _number(a, "width", name, tree, word)
    bits = 8e10 if dram else _number(a, "depth", name, tree, 1) * width
    both, reading, writing = (
        _number(a, key, name, tree, 0) * word for key in ("rw_bandwidth", "read_bandwidth", "write_bandwidth")
    )
    ports = (reading + both, writing + both) if reading and writing else None
    own = table.get(name, {})
    read, write = (own[key] / width if key in own else None for key in ("read", "write"))
    source = (
        f"{Path(tree.path).name}, {name}, with its energy reference table" if own else f"{Path(tree.path).name}, {name}"
    )
    if dram and read is None:
        kind = str(a.get("type", "LPDDR4")).upper()
        read = write = DRAM_PJ.get(kind, 10.0)
        source = f"{source}; {kind} as in the shipped profiles"
        tree.notes.append(f"{name}: no energy in the file; {read:g} pJ/bit for {kind}")
    tree.notes += [f"{name}.{key}: not used" for key in sorted(node.get("attributes") or {}) if key not in STORED]
    tree.notes += [
        f"{name}.constraints.{key}: not used" for key in sorted(rules) if key not in ("dataspace", "spatial")
    ]
    return Store(
        name,
        bits,
        kept,
        frozenset(range(depth, dims)),
        read,
        write,
        source,
        width,
        None if ports else both + reading + writing or None,
        ports,
        sram_law="cacti-22hp" if _technology(tree) < 32 else "cacti-45hp",
    )


def _kept(rules: dict[str, Any], name: str, tree: _Tree) -> tuple[str, ...]:
    """The operands that a component keeps."""
    named = [str(d) for key in ("keep", "keep_only", "bypass") for d in rules.get(key) or []]
    if strange := [d for d in named if d not in OPERAND]:
        raise ProfileError(
            f"{tree.path}: {name}.constraints.dataspace: {strange[0]} is none of {', '.join(OPERAND)} (the "
            "convolution problem)"
        )
    tree.notes += [
        f"{name}.constraints.dataspace.{key}: not used"
        for key in sorted(map(str, rules))
        if key not in ("keep", "keep_only", "bypass")
    ]
    wanted = [*(rules.get("keep") or []), *(rules.get("keep_only") or [])]
    kept = [OPERAND[d] for d in wanted or OPERAND if d not in (rules.get("bypass") or [])]
    if wanted and not rules.get("keep_only") and len({*wanted, *(rules.get("bypass") or [])}) < 3:
        tree.notes.append(f"{name}: the mapper may also keep other operands there; only {', '.join(wanted)} here")
    return tuple(o for o in OPERANDS if o in kept)


def _multiplier(tree: _Tree, table: dict[str, dict[str, float]]) -> tuple[str, float, str, bool]:
    """(format, pJ, source, whether by the law) of one multiply-accumulate."""
    node, a = tree.compute or ({}, {})
    name, kind = str(node.get("name", "?")), f"{node.get('class')} {node.get('subclass')}"
    bits = next(
        (
            int(_number(a, key, name, tree, 8))
            for key in ("multiplier_width", "width", "datawidth", "num_bits")
            if key in a
        ),
        8,
    )
    floats = "fp" in kind.lower() or "float" in kind.lower()
    width = next((w for w in ((16, 32) if floats else (2, 4, 8, 16, 32)) if w >= bits), 32)
    fmt = f"{'fp' if floats else 'int'}{width}"
    tree.notes += [f"{name}.{key}: not used" for key in sorted(node.get("attributes") or {}) if key not in COMPUTED]
    own = table.get(name, {})
    if pj := own.get("compute") or own.get("mac_random") or own.get("multiply"):
        return fmt, pj, f"energy reference table: {name}", False
    tree.notes.append(f"{name}: no energy in the file; the law for {fmt} at 45 nm (give the ERT with --energies)")
    return fmt, law_pj(FORMATS[fmt], FORMATS[fmt]), f"no energy in the file: the law for {fmt} at 45 nm", True


def _energies(path: str | Path) -> dict[str, dict[str, float]]:
    """Component -> action -> pJ, and how many instances there are, of an ERT."""
    data = read_yaml(path)
    tables = (data.get("ERT") or {}).get("tables") if isinstance(data, dict) else None
    if not isinstance(tables, list):
        raise ProfileError(f"{path}: is no energy reference table (ERT.tables)")
    out: dict[str, dict[str, float]] = {}
    for table in tables:
        full, _, count = str(table.get("name", "")).partition("[")
        name, last = full.rpartition(".")[2], re.search(r"(\d+)\]?$", count)
        row = out.setdefault(name, {"instances": float(last[1]) if last else 1.0})
        for action in table.get("actions") or []:
            energy = action.get("energy")
            if isinstance(energy, int | float) and energy >= 0:
                row[str(action.get("name"))] = float(energy)
            seconds = (action.get("arguments") or {}).get("global_cycle_seconds")
            if isinstance(seconds, int | float) and seconds > 0:
                row["global_cycle_seconds"] = float(seconds)
    return out


def _technology(tree: _Tree) -> float:
    found = next(
        (
            re.search(r"(\d+(?:\.\d+)?)\s*nm", str(a.get("technology")))
            for a in [tree.attributes, *(attributes for _, attributes, _ in tree.stores)]
            if a.get("technology")
        ),
        None,
    )
    if found is None:
        note = "process node: not in the file, 45 nm taken (--node-nm)"
        if note not in tree.notes:
            tree.notes.append(note)
        return 45.0
    return float(found[1])


def _number(a: dict[str, Any], key: str, name: str, tree: _Tree, default: float) -> float:
    value = a.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e15:
        raise ProfileError(
            f"{tree.path}: {name}.{key}: is {str(value)[:40]!r}, must be a number; expressions and templates "
            "must be evaluated first"
        )
    return float(value)
