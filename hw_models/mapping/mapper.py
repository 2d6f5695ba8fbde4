"""Maps contractions onto an accelerator by the chosen reuse model: bits across every memory boundary.

`closed` works from DRAM inwards: the block that each memory keeps bounds what the next inner one can reuse,
down to the registers of the array. `hw_models.mapping.exhaustive` gives the same answer by enumeration.
"""

from __future__ import annotations

from hw_models.accelerator.description import Accelerator
from hw_models.mapping.closed_form import Capacities, closed
from hw_models.mapping.exhaustive import search
from hw_models.mapping.traffic import Mapped, Widths, compulsory
from hw_models.workload.training_passes import Passes


def map_passes(p: Passes, bits: Widths, chip: Accelerator, model: str, capacities: Capacities = None) -> Mapped:
    """The mapping of every contraction by model `compulsory`, `closed` or `search`."""
    if model == "compulsory" or not p.macs.size:
        return Mapped((compulsory(p, bits),) * (1 if model == "compulsory" else 1 + len(chip.memories)))
    if model == "search":
        return search(p, bits, chip)
    return closed(p, bits, chip, capacities)
