"""What layer fusion saves on a network: a step or a forward pass with and without it (`hw_models.cost.fusion`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.fusion import Stack, fuse
from hw_models.cost.inference import evaluated, forward_cost
from hw_models.cost.step_cost import Cost
from hw_models.cost.training_step import training_cost
from hw_models.precision.formats import FORMATS, Bits, parse_precision
from hw_models.workload.layer import Layer
from hw_models.workload.reference_networks import network

__all__ = ["Fused", "Stack", "fused_cost", "fusion_report"]


@dataclass(frozen=True)
class Fused:
    """A step or a forward pass with fused stacks; `plain` is the same without."""

    cost: Cost
    plain: Cost
    stacks: tuple[Stack, ...]


def fused_cost(
    layers: Sequence[Layer],
    chip: Accelerator | str,
    bits: Bits = None,
    batch: float = 256,
    model: str = "closed",
    *,
    training: bool = True,
    hypothetical: bool = False,
) -> Fused:
    """A training step (or, without `training`, a forward pass in evaluation) fused depth-first, and without fusion.

    Its cost is that of `training_cost(..., fuse=True)` or `forward_cost(..., fuse=True)`, and so are its errors.
    """
    precision = parse_precision(bits)
    price = training_cost if training else forward_cost
    plain = price(layers, chip, precision, batch, model, hypothetical=hypothetical)
    cost, stacks = fuse(plain, layers if training else evaluated(layers), precision, backward=training)
    return Fused(cost, plain, stacks)


def fusion_report(
    profile: str | Accelerator,
    name: str,
    bits: Bits = None,
    batch: int = 256,
    *,
    training: bool = True,
    model: str = "closed",
) -> dict[str, Any]:
    """What fusing a network (a name or a file) saves, as plain data; errors are those of `fused_cost` and `network`."""
    chip = load(profile)
    precision = parse_precision(FORMATS[chip.widest] if bits is None else bits)
    found = fused_cost(network(name), chip, precision, batch, model, training=training)
    totals = {
        "joules": (found.plain.total, found.cost.total),
        "dram_bytes": (found.plain.bytes, found.cost.bytes),
        "seconds": (found.plain.seconds, found.cost.seconds),
        "images_per_s": (found.plain.images_per_s, found.cost.images_per_s),
        "energy_delay_js": (found.plain.energy_delay, found.cost.energy_delay),
    }
    return {
        "accelerator": chip.name,
        "network": name,
        "precision": precision.name,
        "batch": batch,
        **{key: plain for key, (plain, _) in totals.items()},
        **{f"{key}_fused": fused for key, (_, fused) in totals.items()},
        "stacks": [
            {
                "pass": stack.phase,
                "layers": list(stack.layers),
                "on_chip_bytes": stack.bits_on_chip / 8,
                "dram_bytes": stack.dram_before / 8,
                "dram_bytes_fused": stack.dram_after / 8,
            }
            for stack in found.stacks
        ],
    }
