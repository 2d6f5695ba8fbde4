"""Energy and time of a training step on many variants of an accelerator: constants, buffers, bandwidths, clocks.

Energy is a sum of counts times constants, so another constant needs no new mapping; another buffer size needs the
closed formulas again, for all sizes together. A thousand variants of ResNet-50 take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.training_step import assemble
from hw_models.errors import HardwareError
from hw_models.precision.formats import Bits, Precision, parse_precision
from hw_models.units import BITS_PER_KIB, PJ
from hw_models.workload.layer import Layer
from hw_models.workload.shapes import Array, Shapes, shapes

BLOCK = 64  # variants priced together: their arrays stay in the processor's cache


def geometry_keys(chip: Accelerator) -> set[str]:
    """Keys of `price_variants` that are no constants: sizes, rates and the clock."""
    sizes = {f"memory.{m.name}.{what}" for m in chip.memories for what in ("kib", "bits_per_cycle")}
    return sizes | {"clock_ghz", "dram.gbytes_per_s"}


def price_variants(
    table: Shapes,
    chip: Accelerator,
    values: Mapping[str, Array],
    precision: Precision,
    batch: float,
    times: Array | None = None,
    *,
    unused: bool = False,
) -> tuple[Array, Array]:
    """(J, s) of one training step on each variant, [variants].

    `values`: key of a constant (as in `Cost.by_constant`) or of `geometry_keys` -> one value per variant. `times`: how
    often each row of `table` occurs (default once). Raises `HardwareError` for keys that the step does not use, unless
    they may be `unused`.
    """
    count = max((v.size for v in values.values()), default=1)
    values = {key: np.broadcast_to(v, count) for key, v in values.items()}
    often = np.ones(table.columns.shape[-1]) if times is None else times
    mapped_alike = not values.keys() & geometry_keys(chip)  # only the constants differ: priced once
    blocks = [slice(0, count)] if mapped_alike else [slice(n, n + BLOCK) for n in range(0, count, BLOCK)]
    priced = [
        _block(table, chip, {k: v[block] for k, v in values.items()}, precision, batch, often, unused)
        for block in blocks
    ]
    joules, seconds = (np.concatenate(parts) for parts in zip(*priced, strict=True))
    return joules, seconds


def _block(
    table: Shapes,
    chip: Accelerator,
    values: Mapping[str, Array],
    precision: Precision,
    batch: float,
    often: Array,
    unused: bool,
) -> tuple[Array, Array]:
    """One block of variants; rows of the table in the last axis, variants in the one before."""
    size = len(next(iter(values.values()), np.zeros(1)))

    def column(key: str, unit: float, default: Any) -> Any:
        return values[key][:, None] * unit if key in values else default

    if values.keys() & geometry_keys(chip):
        columns = np.broadcast_to(table.columns[:, None], (len(table.columns), size, table.columns.shape[-1]))
        table = replace(table, columns=columns)
    memories = tuple(
        replace(m, bits_per_cycle=column(f"memory.{m.name}.bits_per_cycle", 1.0, m.bits_per_cycle))
        for m in chip.memories
    )
    variants = replace(
        chip,
        clock_hz=column("clock_ghz", 1e9, chip.clock_hz),
        dram_bits_per_s=column("dram.gbytes_per_s", 8e9, chip.dram_bits_per_s),
        memories=memories,
    )
    capacities = tuple(column(f"memory.{m.name}.kib", BITS_PER_KIB, m.bits) for m in chip.memories)
    cost = assemble(table, variants, precision, batch, "closed", capacities=capacities)
    known = {p.key for p in cost.parts} | geometry_keys(chip)
    for key in values:
        if key not in known and not unused:
            raise HardwareError(f"no constant {key!r} in this cost; known: {', '.join(sorted(known))}")
    joules = np.zeros(size)
    for part in cost.parts:
        uses = part.counts.sum(axis=0) @ (often if part.index is None else often[part.index])
        joules = joules + uses * (values.get(part.key, part.constant.value) * PJ)
    return joules, np.broadcast_to(cost.row_seconds.sum(axis=0) @ often, size)


def sweep(
    layers: Sequence[Layer] | Shapes,
    chip: Accelerator | str,
    changes: Mapping[str, Any],
    bits: Bits = None,
    batch: float = 256,
) -> Array:
    """Joules of one training step for each variant, [variants].

    `changes`: key of `price_variants` -> one value per variant. What is not named stays as in the profile; the energy
    of a resized memory stays too unless its own keys are given. Raises `HardwareError` for unknown keys.
    """
    values = {key: np.atleast_1d(np.asarray(v, dtype=float)) for key, v in changes.items()}
    return price_variants(shapes(layers), load(chip), values, parse_precision(bits), float(batch))[0]


def each(candidates: Shapes, chip: Accelerator | str, bits: Bits = None, batch: float = 256) -> Array:
    """Joules of one training step of each candidate network, [candidates] (from `shrink.candidate_shapes`)."""
    chip, precision = load(chip), parse_precision(bits)
    return np.concatenate(
        [
            assemble(
                replace(candidates, columns=candidates.columns[:, start : start + BLOCK]),
                chip,
                precision,
                float(batch),
                "closed",
            ).each
            for start in range(0, candidates.columns.shape[1], BLOCK)
        ]
    )
