"""An imported architecture as a tool-neutral `Machine`, and the accelerator file (TOML) written from it.

Shared by the importers of ZigZag and Timeloop files. A `Machine` is an array of multipliers and stores (registers,
buffers) that each serve some of its dimensions; `profile_text` turns it into the TOML that `load` reads:

- the store next to the multipliers that is replicated over the array is the operand's register; elements that it serves
  and that need the same value share it (`shared_along`), elements that need different values get a share of its bits;
- every other store is a memory; of copies over the array those with different data are added up;
- the outermost store is DRAM.

Whatever has no counterpart becomes a note, and the notes open the file: nothing is dropped silently.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hw_models.accelerator.description import OPERANDS, Axis
from hw_models.accelerator.sram_energy import SRAM_LEAKAGE, sram_pj_per_bit
from hw_models.accelerator.toml_writer import quoted
from hw_models.errors import ProfileError

LACKS = {"streaming": "K", "held": "pixels", "sums": "C"}  # the forward index that an operand does not have
# which of K, C, pixels a forward loop belongs to, and what unrolls the same index of X, Y, Z in the backward passes
ROLE = {"K": "K", "C": "C", "R": "C", "S": "C", "N": "pixels", "P": "pixels", "Q": "pixels", "pixels": "pixels"}
BACKWARD: dict[str, dict[str, Axis]] = {
    "input_gradient": {"K": ("C",), "C": ("K",), "pixels": "pixels"},
    "weight_gradient": {"K": ("K",), "C": "pixels", "pixels": "C"},
}
# what unrolls the same loops by name: in an input gradient the taps of a window are one loop, in rows
SAME = {"input_gradient": {"S": "R"}, "weight_gradient": {}}
MOST_DIMS = 4
REGISTER_PJ = 0.009  # per bit, Aladdin reg.csv at 40 nm: no register is cheaper


@dataclass(frozen=True)
class Store:
    """One kind of memory. `served`: array dimensions (from 0) along which one instance serves all multipliers."""

    name: str
    bits: float  # of one instance
    operands: tuple[str, ...]
    served: frozenset[int]
    read_pj_per_bit: float | None  # None: by `sram_law`
    write_pj_per_bit: float | None
    source: str
    access_bits: float = 64
    bits_per_cycle: float | None = None  # of ports that read and write
    ports: tuple[float, float] | None = None  # or of those that only read, and that only write
    double_buffer: bool = False
    least_bits: float = 1.0  # of an access
    sram_law: str = "cacti-45hp"


@dataclass(frozen=True)
class Machine:
    """An array, its stores (innermost first, DRAM last), and the name, clock and process node of the imported file."""

    name: str
    origin: str  # file and tool
    node_nm: float
    clock_ghz: float
    dims: tuple[int, ...]
    unrolled: tuple[Axis, ...]  # by dimension, forward: loops, or `pixels` flattened
    format: str
    mac_pj: float
    mac_source: str
    stores: tuple[Store, ...]
    mac_derived: bool = False
    static_watts: float = 0.0
    notes: list[str] = field(default_factory=list)


def role(axis: Axis) -> str:
    """Which of K, C and pixels a dimension unrolls forward."""
    return ROLE[axis if isinstance(axis, str) else axis[0]]


def choose_unrolling(dims: int, stores: Sequence[Store]) -> tuple[Axis, ...]:
    """What each dimension unrolls where the file does not say: what the sharing of the registers allows.

    Elements that share an operand's register must differ in the index that it lacks; the other dimensions get output
    channels, then input channels, then pixels.
    """
    names: list[str] = []
    for d in range(dims):
        found = [
            LACKS[s.operands[0]] for s in stores if len(s.operands) == 1 and d in s.served and len(s.served) < dims
        ]
        names.append(found[0] if found else "")
    left = [n for n in ("K", "C", "pixels") if n not in names]
    names = [name or (left.pop(0) if left else "pixels") for name in names]
    return tuple(name if name == "pixels" else (name,) for name in names)


def profile_text(machine: Machine) -> tuple[str, tuple[str, ...]]:
    """The accelerator file (TOML) and the notes on what it could not take over."""
    notes = list(machine.notes)
    if not 1 <= len(machine.dims) <= MOST_DIMS:
        raise ProfileError(
            f"{machine.origin}: an array of {len(machine.dims)} dimensions; a profile has 1 to {MOST_DIMS}"
        )
    *inner, dram = machine.stores
    if set(dram.operands) != set(OPERANDS) or dram.read_pj_per_bit is None or dram.write_pj_per_bit is None:
        raise ProfileError(
            f"{machine.origin}: the outermost memory, {dram.name}, must hold all operands and have an "
            "energy per access: it becomes the DRAM"
        )
    everywhere = frozenset(range(len(machine.dims)))
    registers: dict[str, Store] = {}
    memories: list[Store] = []
    for store in inner:
        waiting = [o for o in store.operands if o not in registers and not any(o in m.operands for m in memories)]
        if store.served < everywhere and len(waiting) == len(store.operands):
            if len(waiting) > 1:
                notes.append(
                    f"{store.name}: one scratchpad at the multipliers for {', '.join(waiting)}; each gets an "
                    "equal share of its bits"
                )
            registers |= dict.fromkeys(waiting, store)
        else:
            memories.append(store)
    text = [_head(machine), _array(machine, registers)]
    text += [
        _registers(machine, registers),
        *(_memory(machine, m, everywhere, notes) for m in memories),
        _dram(machine, dram, notes),
        *([_static(machine)] if machine.static_watts else []),
    ]
    if not memories:
        raise ProfileError(f"{machine.origin}: no memory between the multipliers' registers and {dram.name}")
    notes.append(
        "vector operations (BatchNorm, ReLU, optimizer) are not in the file: op.* stand in Horowitz's proportion "
        "to the MAC energy, marked derived"
    )
    return "\n".join([_comment(machine, notes), *text]), tuple(notes)


def _name(text: str) -> str:
    """A key of a TOML table."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text) or "memory"


def _list(values: Sequence[object]) -> str:
    return "[" + ", ".join(json.dumps(v) for v in values) + "]"


def _comment(machine: Machine, notes: Sequence[str]) -> str:
    lines = [f"# {machine.name}, imported from {machine.origin}.", *(f"# - {note}" for note in notes)]
    return "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))


def _head(machine: Machine) -> str:
    return "\n".join(
        [
            "schema = 1",
            f"name = {quoted(machine.name)}",
            'kind = "array"',
            f"summary = {quoted(f'{machine.name}, imported; ' + ' x '.join(map(str, machine.dims)) + ' multipliers')}",
            f"node_nm = {machine.node_nm:g}",
            f"clock_ghz = {machine.clock_ghz:g}",
            "absolute_band = 2.5",
            f"source = {quoted(machine.origin)}",
            f"formats = {_list([machine.format])}",
            "",
        ]
    )


def _array(machine: Machine, registers: dict[str, Store]) -> str:
    """The array and its arithmetic. Where a register is shared, every dimension keeps its index in every pass."""
    tied = any(_shared(machine, operand, store) for operand, store in registers.items())
    lines = ["[array]", f"dims = {_list(machine.dims)}", f"forward = {_list(machine.unrolled)}"]
    for name, turned in BACKWARD.items():
        same = [axis if isinstance(axis, str) else _renamed(axis, SAME[name]) for axis in machine.unrolled]
        lines.append(f"{name} = " + _list([turned[role(a)] for a in machine.unrolled] if tied else same))
    lines += [
        "",
        "[mac]",
        f"source = {quoted(machine.mac_source)}",
        f"{machine.format} = {{ value = {machine.mac_pj:g}"
        + (", derived = true" if machine.mac_derived else "")
        + " }",
        "",
        "[op]",
        f"source = {quoted('in proportion to Horowitz 45 nm, by the 8-bit MAC of 0.3 pJ')}",
        "band = 3",
    ]
    for name, pj in (("add", 0.9), ("multiply", 3.7), ("compare", 0.1), ("integer", 0.03), ("random", 0.5)):
        lines.append(f"{name} = {{ value = {machine.mac_pj * pj / 0.3:.4g}, derived = true }}")
    return "\n".join([*lines, ""])


def _renamed(loops: tuple[str, ...], names: dict[str, str]) -> tuple[str, ...]:
    """The loops under other names, each once."""
    return tuple(dict.fromkeys(names.get(loop, loop) for loop in loops))


def _shared(machine: Machine, operand: str, store: Store) -> list[int]:
    return sorted(d for d in store.served if role(machine.unrolled[d]) == LACKS[operand])


def _registers(machine: Machine, registers: dict[str, Store]) -> str:
    lines = ["[registers]"]
    for operand in OPERANDS:
        if (store := registers.get(operand)) is None:
            lines.append(
                f'{operand} = {{ bits = 0, pj_per_bit = {{ value = 0, source = "no register in the file" }} }}'
            )
            continue
        along = _shared(machine, operand, store)
        others = math.prod(machine.dims[d] for d in store.served if d not in along)
        bits = store.bits / others / len(store.operands)
        lines.append(
            f"{operand} = {{ bits = {bits:g}, pj_per_bit = {_energy(store, operand)}"
            + (f", shared_along = {_list([d + 1 for d in along])}" if along else "")
            + " }"
        )
    return "\n".join([*lines, ""])


def _energy(store: Store, operand: str) -> str:
    if store.read_pj_per_bit is None or store.write_pj_per_bit is None:
        law = sram_pj_per_bit(store.sram_law, store.bits / 8192, store.access_bits)
        source = "no energy in the file: " + (
            "Aladdin reg.csv, 40 nm" if law < REGISTER_PJ else f"{store.sram_law} at {store.bits / 8192:.4g} KiB"
        )
        return f"{{ value = {max(law, REGISTER_PJ):.4g}, band = 2.0, derived = true, source = {quoted(source)} }}"
    mean = (store.read_pj_per_bit + store.write_pj_per_bit) / 2
    value = mean if operand == "sums" else store.read_pj_per_bit
    return f"{{ value = {value:.6g}, source = {quoted(store.source)} }}"


def _memory(machine: Machine, store: Store, everywhere: frozenset[int], notes: list[str]) -> str:
    copies = 1
    for d in sorted(everywhere - store.served):
        if any(LACKS[o] != role(machine.unrolled[d]) for o in store.operands):
            copies *= machine.dims[d]
    if store.served != everywhere:
        notes.append(
            f"{store.name}: one for each part of the array; counted as one memory of {copies} times its size "
            "(copies of the same data once)"
        )
    lines = [
        f"[memory.{_name(store.name)}]",
        f"kib = {store.bits * copies / 8192:.6g}",
        f"holds = {_list([o for o in OPERANDS if o in store.operands])}",
    ]
    if store.read_pj_per_bit is None or store.write_pj_per_bit is None:
        value = sram_pj_per_bit(store.sram_law, store.bits / 8192, store.access_bits)  # of one copy
        lines += [f"read_pj_per_bit = {value:.4g}", f"write_pj_per_bit = {value:.4g}", "band = 2.0", "derived = true"]
        lines.append(f"leakage_w_per_mib = {SRAM_LEAKAGE[store.sram_law]:g}")
        notes.append(
            f"{store.name}: no energy in the file, so {store.sram_law} by its capacity and width, and its leakage"
        )
    else:
        lines += [f"read_pj_per_bit = {store.read_pj_per_bit:.6g}", f"write_pj_per_bit = {store.write_pj_per_bit:.6g}"]
    if store.ports:
        lines += [
            f"{way}_bits_per_cycle = {rate * copies:g}"
            for way, rate in zip(("read", "write"), store.ports, strict=True)
        ]
    elif store.bits_per_cycle:
        lines.append(f"bits_per_cycle = {store.bits_per_cycle * copies:g}")
    if store.double_buffer:
        lines.append("double_buffer = true")
    if store.least_bits > 1:
        lines.append(f"least_access_bits = {store.least_bits:g}")
    return "\n".join([*lines, f"source = {quoted(store.source)}", ""])


def _dram(machine: Machine, dram: Store, notes: list[str]) -> str:
    read, write = dram.read_pj_per_bit or 0.0, dram.write_pj_per_bit or 0.0
    energies = [f"{way}_pj_per_bit = {pj:.6g}" for way, pj in (("read", read), ("write", write))]
    rate = dram.bits_per_cycle or (sum(dram.ports) if dram.ports else None)
    if rate is None:
        rate = dram.access_bits
        notes.append(f"{dram.name}: no bandwidth in the file; one access of {rate:g} bits per cycle is taken")
    return "\n".join(
        [
            "[dram]",
            *(energies if read != write else [f"pj_per_bit = {read:.6g}"]),
            f"source = {quoted(dram.source)}",
            f"gbytes_per_s = {rate * machine.clock_ghz / 8:.6g}",
            "",
        ]
    )


def _static(machine: Machine) -> str:
    return "\n".join(
        [
            "[static]",
            f"watts = {{ value = {machine.static_watts:.4g}, "
            f"source = {quoted(f'leakage of all components in {machine.origin}')} }}",
            "",
        ]
    )
