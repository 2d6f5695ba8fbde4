"""Activation checkpointing of a training step: memory needed and energy of the recomputation, for several plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.analysis.memory import Footprint, footprint, largest_batch
from hw_models.cost.step_cost import Cost
from hw_models.cost.step_memory import StepMemory
from hw_models.cost.training_step import training_cost
from hw_models.precision.formats import FORMATS, Bits, parse_precision
from hw_models.workload.layer import Layer
from hw_models.workload.reference_networks import network


@dataclass(frozen=True)
class CheckpointPlan:
    """A checkpointing plan: where segments begin, the memory it needs, and the energy of a step with recomputation."""

    cuts: tuple[int, ...]
    memory: Footprint
    joules: float  # of the step, recomputed rows included (modelled)
    seconds: float
    again: float  # share of the step's joules that recomputing takes


def plans(cost: Cost, layers: Sequence[Layer], bits: Bits = None) -> list[CheckpointPlan]:
    """Checkpointing plans that trade memory for energy: each needs less memory than those that cost less.

    `cost`: the step without checkpoints (`training_cost` of `layers` in `bits`). A recomputed row costs what its
    forward pass did. Cuts follow Chen's rule, for many budgets: a segment ends when what it
    keeps passes the budget.
    """
    forward = cost.joules[:, 0].sum(axis=0), cost.row_seconds[0]
    where = {name: i for i, name in enumerate(cost.table.names)}
    base = footprint(layers, bits, cost.batch)
    found = [CheckpointPlan((), base, cost.total, cost.seconds, 0.0)]
    for cuts in _cuts(layers, bits, cost.batch, base.activations):
        memory = footprint(layers, bits, cost.batch, cuts)
        rows = [where[name] for name in memory.recomputed]
        extra, later = (float(values[rows].sum()) for values in forward)
        found.append(
            CheckpointPlan(cuts, memory, cost.total + extra, cost.seconds + later, extra / (cost.total + extra))
        )
    best: list[CheckpointPlan] = []
    for plan in sorted(found, key=lambda plan: (plan.joules, plan.memory.peak)):
        if not best or plan.memory.peak < best[-1].memory.peak:
            best.append(plan)
    return best


def _cuts(layers: Sequence[Layer], bits: Bits, batch: float, whole: float) -> list[tuple[int, ...]]:
    """Cuts for budgets from all that is kept down to a sixty-fourth of it, each where the least crosses."""
    step = StepMemory(layers, parse_precision(bits), batch, None)
    count = len(layers)
    crossing = [sum(n for t, n in step.size.items() if step.made[t] < i <= step.read[t]) for i in range(count)]
    out: dict[tuple[int, ...], None] = {}
    for divisor in (1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64):
        cuts = [0]
        held: dict[str, float] = {}
        i = 0
        while i < count:
            held |= step.keeps[i]
            i += 1
            if sum(held.values()) > whole / divisor and i < count:
                least = min(crossing[cuts[-1] + 1 : i + 1])
                i = max(p for p in range(cuts[-1] + 1, i + 1) if crossing[p] <= least)
                cuts.append(i)
                held = {}
        out[tuple(cuts[1:])] = None
    return [cuts for cuts in out if cuts]


def memory_report(
    profile: str | Accelerator,
    name: str,
    bits: Bits = None,
    batch: int = 256,
    *,
    checkpoints: bool = False,
    room: float | None = None,
) -> dict[str, Any]:
    """The memory of a training step of a network (a name or a file), and checkpointing plans, as plain data in bytes.

    `bits`: None is the widest format that the accelerator has. `room`: also the largest batch within so many bytes.
    Raises the errors of `network` and `load`.
    """
    chip, layers = load(profile), network(name)
    precision = parse_precision(FORMATS[chip.widest] if bits is None else bits)
    found = footprint(layers, precision, batch)
    report = {
        "accelerator": chip.name,
        "network": name,
        "precision": precision.name,
        "batch": batch,
        "peak": found.peak,
        "parameters": found.parameters,
        "activations": found.activations,
        "worst_row": found.worst.row,
        "worst_phase": found.worst.phase,
        "kept": dict(sorted(found.kept.items(), key=lambda item: -item[1])),
        "timeline": _moments(found),
    }
    if room is not None:
        report["largest_batch"] = largest_batch(layers, room, precision)
    if checkpoints:
        cost = training_cost(layers, chip, precision, batch, hypothetical=True)
        report["plans"] = [
            {
                "segments": plan.memory.segments,
                "cuts": [layers[i].name for i in plan.cuts],
                "peak": plan.memory.peak,
                "activations": plan.memory.activations,
                "joules": plan.joules,
                "seconds": plan.seconds,
                "again": plan.again,
                "timeline": _moments(plan.memory),
            }
            for plan in plans(cost, layers, precision)
        ]
    return report


def _moments(memory: Footprint) -> list[dict[str, Any]]:
    return [{"row": m.row, "phase": m.phase, "bytes": m.bytes} for m in memory.timeline]
