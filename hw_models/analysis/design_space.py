"""A design space of accelerators: a base profile, and the values that some of its keys may take.

    base = "horowitz-45nm"                 # a profile; what is not varied stays as it is
    network = "resnet50"                   # defaults of the command line, all three may be left out
    batch = 64
    sample = 10000                         # at most so many variants, sampled with `seed` if the grid has more
    seed = 0

    [vary]
    "array.dims" = [[16, 16], [32, 32], [64, 64]]
    "memory.buffer.kib" = { from = 64, to = 8192, steps = 8, log = true }
    "dram.gbytes_per_s" = [12.8, 25.6, 51.2]
    format = ["int8", "bf16"]

A memory's energy follows its capacity: by its `sram_law`, else by the power of the capacity that the laws share.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.accelerator.description import OPERANDS, Accelerator
from hw_models.accelerator.loader import load
from hw_models.errors import HardwareError, nearest
from hw_models.precision.formats import Precision, parse_precision
from hw_models.units import BITS_PER_KIB

MOST_VALUES = 1000  # of one axis
MOST_VARIANTS = 1_000_000
LIMITS = {  # key, or its last part -> least, most
    "clock_ghz": (1e-4, 100),
    "dram.gbytes_per_s": (1e-3, 1e6),
    "kib": (1e-3, 1e9),
    "bits_per_cycle": (1, 1e9),
    "bits": (0, 1e9),
}


@dataclass(frozen=True)
class Space:
    """A base accelerator and its variants: `keys`, and a row of values for each variant."""

    path: str
    base: Accelerator
    keys: tuple[str, ...]
    variants: tuple[tuple[Any, ...], ...]
    of: int  # size of the whole grid
    impossible: int  # variants left out: a memory not smaller than the one around it
    network: str
    batch: int

    def column(self, key: str) -> list[Any]:
        """The value of `key` in each variant; raises `ValueError` for a key that does not vary."""
        i = self.keys.index(key)
        return [variant[i] for variant in self.variants]


def read_space(path: str | Path) -> Space:
    """The space of a TOML file; raises `HardwareError` with the file and key of the first thing that is wrong."""
    file = Path(path)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise HardwareError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise HardwareError(f"{file}: not valid TOML: {error}") from error
    known = ("base", "network", "batch", "sample", "seed", "vary")
    for key in data:
        if key not in known:
            raise HardwareError(f"{file}: {key}: is not a known key; known: {', '.join(known)}")
    base = load(_beside(file, _text(file, data, "base", "horowitz-45nm")))
    if base.kind != "array":
        raise HardwareError(f"{file}: base: {base.name} is a device; the search is over arrays")
    vary = data.get("vary")
    if not isinstance(vary, dict) or not vary:
        raise HardwareError(
            f'{file}: vary: must be a table of keys and their values, e.g. "memory.buffer.kib" = [64, 128]'
        )
    axes = {key: _axis(f"{file}: vary.{key}", key, value, base) for key, value in vary.items()}
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_VARIANTS and "sample" not in data:
        raise HardwareError(f"{file}: vary: {count:,} variants; at most {MOST_VARIANTS:,}, or give sample = 10000")
    wanted = _whole(file, data, "sample", MOST_VARIANTS, MOST_VARIANTS)
    variants = _sampled(list(axes.values()), count, wanted, _whole(file, data, "seed", 0, 2**31))
    possible = tuple(v for v in variants if _nested(base, dict(zip(axes, v, strict=True))))
    if not possible:
        raise HardwareError(f"{file}: vary: in every variant a memory is larger than the one around it")
    return Space(
        str(file),
        base,
        tuple(axes),
        possible,
        count,
        len(variants) - len(possible),
        _text(file, data, "network", "resnet50"),
        _whole(file, data, "batch", 64, 10**7),
    )


def _nested(base: Accelerator, chosen: dict[str, Any]) -> bool:
    """Whether each memory of a variant is smaller than the next one around it that keeps an operand of it."""
    sizes = [(chosen.get(f"memory.{m.name}.kib", m.bits / BITS_PER_KIB), set(m.holds)) for m in base.memories]
    return all(a < b or not held & holds for (a, held), (b, holds) in itertools.combinations(sizes, 2))


def _beside(file: Path, base: str) -> str:
    """A base given as a path is relative to the file of the space."""
    beside = file.parent / base
    return str(beside) if base.endswith(".toml") and beside.is_file() else base


def _sampled(axes: Sequence[Sequence[Any]], count: int, wanted: int, seed: int) -> tuple[tuple[Any, ...], ...]:
    """Every variant of the grid, or `wanted` different ones of it."""
    if count <= wanted:
        return tuple(itertools.product(*axes))
    rng = np.random.default_rng(seed)
    numbers = (
        sorted({int(n) for n in rng.integers(0, count, size=wanted, dtype=np.int64)})
        if count > 4 * wanted
        else (sorted(rng.choice(count, size=wanted, replace=False).tolist()))
    )
    sizes = [len(axis) for axis in axes]
    return tuple(tuple(axis[i] for axis, i in zip(axes, np.unravel_index(n, sizes), strict=True)) for n in numbers)


def _axis(where: str, key: str, value: Any, base: Accelerator) -> list[Any]:
    """The values of one key."""
    if key == "array.dims":
        good = (
            isinstance(value, list)
            and value
            and all(
                isinstance(dims, list)
                and len(dims) == len(base.dims)
                and all(isinstance(d, int) and not isinstance(d, bool) and 1 <= d <= 65536 for d in dims)
                for dims in value
            )
        )
        if not good:
            raise HardwareError(
                f"{where}: must be a list of dims like {list(base.dims)}: {len(base.dims)} whole numbers each"
            )
        return _distinct(where, [tuple(dims) for dims in value])
    if key == "format":
        if not isinstance(value, list) or not value:
            raise HardwareError(f'{where}: must be a list of formats or precisions, e.g. ["int8", "bf16"]')
        _ = [_precision(where, name) for name in value]
        return _distinct(where, value)
    allowed = (*_plain_keys(base), *(k for k in base.constants if k != "static.watts"))
    if key not in allowed:
        near = nearest(key, allowed)
        raise HardwareError(
            f"{where}: cannot be varied{f'; did you mean {near}?' if near else ''} (array.dims, format, "
            f"{', '.join(allowed)})"
        )
    low, high = LIMITS.get(key) or LIMITS.get(key.rpartition(".")[2]) or (0.0, 1e4)
    return _distinct(where, [_number(where, v, low, high) for v in _values(where, value)])


def _plain_keys(base: Accelerator) -> list[str]:
    return [
        "clock_ghz",
        "dram.gbytes_per_s",
        *(f"memory.{m.name}.kib" for m in base.memories),
        *(f"memory.{m.name}.bits_per_cycle" for m in base.memories),
        *(f"registers.{r}.bits" for r in OPERANDS),
    ]


def _values(where: str, value: Any) -> list[Any]:
    """A list as it is, or the steps of { from, to, steps, log }."""
    if isinstance(value, list) and value:
        return value
    if isinstance(value, dict) and {"from", "to", "steps"} <= set(value) <= {"from", "to", "steps", "log"}:
        low, high = (_number(f"{where}.{name}", value[name], 1e-9, 1e12) for name in ("from", "to"))
        steps = value["steps"]
        if isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= MOST_VALUES:
            raise HardwareError(f"{where}.steps: must be a whole number from 2 to {MOST_VALUES}")
        return [float(v) for v in (np.geomspace if value.get("log") else np.linspace)(low, high, steps)]
    raise HardwareError(f"{where}: must be a list of numbers, or {{ from = 64, to = 8192, steps = 8, log = true }}")


def _number(where: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise HardwareError(f"{where}: {value!r} is no number from {low:g} to {high:g}")
    return float(value)


def _distinct(where: str, values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values) or len(values) > MOST_VALUES:
        raise HardwareError(f"{where}: must be at most {MOST_VALUES} different values")
    return values


def _precision(where: str, name: Any) -> Precision:
    try:
        return parse_precision(name)
    except HardwareError as error:
        raise HardwareError(f"{where}: {error}") from error


def _text(file: Path, data: dict[str, Any], key: str, default: str) -> str:
    value = data.get(key, default)
    if not isinstance(value, str) or not value:
        raise HardwareError(f"{file}: {key}: must be a text")
    return value


def _whole(file: Path, data: dict[str, Any], key: str, default: int, most: int) -> int:
    value = data.get(key, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or (not (key == "seed" and value == 0) and not 1 <= value <= most)
    ):
        raise HardwareError(f"{file}: {key}: is {value!r}, must be a whole number from 1 to {most:,}")
    return value
