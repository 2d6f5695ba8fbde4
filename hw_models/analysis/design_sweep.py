"""Many accelerators at once: what a chip's energy would be with other constants or buffer sizes.

Energy is a sum of counts times constants, so another constant needs no new mapping; another buffer size needs
the closed formulas again, for all sizes together. A thousand variants of ResNet-50 take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.step_cost import Cost
from hw_models.cost.training_step import assemble
from hw_models.errors import HardwareError
from hw_models.precision.formats import Bits, parse_precision
from hw_models.units import BITS_PER_KIB, PJ
from hw_models.workload.layer import Layer
from hw_models.workload.shapes import Array, Shapes, shapes

BLOCK = 32  # variants worked on together: their arrays stay in the processor's cache


def sweep(
    layers: Sequence[Layer] | Shapes,
    chip: Accelerator | str,
    changes: Mapping[str, Any],
    bits: Bits = None,
    batch: float = 256,
) -> Array:
    """Joules of one training step for each variant, [variants].

    `changes`: key of a constant ("dram.pj_per_bit", "mac.fp32", "memory.buffer.read", as in `Cost.by_constant`)
    or "memory.<name>.kib" -> one value per variant. What is not named stays as in the profile; the energy of a
    resized memory stays too unless its own keys are given. Raises `HardwareError` for unknown keys.
    """
    chip = load(chip)
    values = {key: np.atleast_1d(np.asarray(v, dtype=float)) for key, v in changes.items()}
    count = max((v.size for v in values.values()), default=1)
    values = {key: np.broadcast_to(v, count) for key, v in values.items()}
    sizes = {f"memory.{m.name}.kib": m for m in chip.memories}
    table = shapes(layers)
    if not values.keys() & sizes.keys():  # the same mapping for all: only the constants differ
        return _totals(assemble(table, chip, parse_precision(bits), float(batch), "closed"), values, set(sizes))
    parts = []
    for start in range(0, count, BLOCK):
        block = {key: v[start : start + BLOCK] for key, v in values.items()}
        size = len(next(iter(block.values())))
        columns = np.broadcast_to(table.columns[:, None], (len(table.columns), size, table.columns.shape[-1]))
        capacities = tuple(block[key][:, None] * BITS_PER_KIB if key in block else m.bits for key, m in sizes.items())
        parts.append(
            _totals(
                assemble(
                    replace(table, columns=columns),
                    chip,
                    parse_precision(bits),
                    float(batch),
                    "closed",
                    capacities=capacities,
                ),
                block,
                set(sizes),
            )
        )
    return np.concatenate(parts)


def _totals(cost: Cost, values: Mapping[str, Array], sizes: set[str]) -> Array:
    known = {p.key for p in cost.parts} | sizes
    for key in values:
        if key not in known:
            raise HardwareError(f"no constant {key!r} in this cost; known: {', '.join(sorted(known))}")
    total = np.zeros(len(next(iter(values.values()), np.zeros(1))))
    for part in cost.parts:
        total = total + part.counts.sum(axis=(0, -1)) * values.get(part.key, part.constant.value) * PJ
    return total


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
