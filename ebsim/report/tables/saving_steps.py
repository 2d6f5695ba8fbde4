"""Decomposes a saving into steps from the dense row's modelled energy to another row's; the steps sum exactly.

Each step is the difference of two ledgers that differ in one thing, priced by the same model on the same accelerator,
so the steps sum to the difference of the two rows whatever interacts:

    the dense baseline
    - dense training of as many epochs as this method trains the dense network (an Early-Bird search stops at the draw)
    - mask drawing and scoring
    - the other trainings, as if their network were still the dense one
    - the smaller network, by hardware component
    - the selections that a shrunk residual network needs
    - the precisions of search and retraining

Nothing is trained or stored for this: the ledgers in between are made from those of the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ebsim.report.display.table import NONE, Cell, Column, Table, with_unit
from ebsim.report.display.value import Scale, Value, scale
from ebsim.report.tables import row_labels
from ebsim.runs.load import Run

COMPONENTS = {
    "mac": "MACs",
    "register": "registers",
    "interconnect": "on-chip network",
    "buffer": "buffers",
    "dram": "DRAM",
    "vector": "vector operations",
    "quantiser": "quantiser",
    "static": "static power",
}
FEWER, MORE = "fewer dense epochs", "more dense epochs"
MASKS, RETRAINING, SELECTIONS = "mask drawing and scoring", "retraining, were it dense", "selections of channels"
SEARCH_PRECISION, RETRAIN_PRECISION = "precision of the search", "precision of the retraining"
SMALLER = "smaller network: "
ORDER = (
    FEWER,
    MORE,
    MASKS,
    RETRAINING,
    *(SMALLER + name for name in COMPONENTS.values()),
    SELECTIONS,
    SEARCH_PRECISION,
    RETRAIN_PRECISION,
)
NOTE: Cell = (
    "Each line changes one thing in the ledger and prices it again; the lines sum to the difference of the two "
    "energies. Retraining is first priced as if its network were still the dense one, then the smaller network "
    "is credited.",
)
LedgerFacts = Mapping[str, Any]


@dataclass(frozen=True)
class SavingStep:
    """One bar: what changes, and by how many joules (negative: saved)."""

    name: str
    joules: float
    epochs: int | None = None
    """Of the trainings that the step is about."""


@dataclass(frozen=True)
class SavingSteps:
    """From `start` (the dense row) over `steps` to `end` (the row), in joules."""

    row: str
    start: float
    steps: tuple[SavingStep, ...]
    end: float


@lru_cache(maxsize=8)
def saving_steps(run: Run, only: tuple[str, ...] | None = None) -> tuple[SavingSteps, ...]:
    """Of every row but the dense baseline (of those named in `only`), in the order of the table.

    Empty for a run without a baseline, and for one whose energies are not those of today's model on its profile (they
    were priced by an earlier revision): the steps would not sum.
    """
    if run.dense is None:
        return ()
    base, prices, out = run.rows.index(run.dense), _Prices(run), []
    for number, (row, name) in enumerate(zip(run.rows, row_labels.short(run.rows), strict=True)):
        if number == base or (only is not None and name not in only):
            continue
        try:
            steps = tuple(_steps(run, prices, base, number))
        except ValueError:  # a profile that is not accepted any more: the section on assumptions says why
            return ()
        start, end = run.dense.energy.joules, row.energy.joules
        if abs(start + math.fsum(step.joules for step in steps) - end) > 1e-9 * max(start, end):
            return ()
        out.append(SavingSteps(name, start, steps, end))
    return tuple(out)


class _Prices:
    """Joules of single ledger entries by component, each distinct one priced once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.networks: dict[str, Sequence[Mapping[str, Any]]] = dict(run.networks)
        self.known: dict[str, tuple[dict[str, float], float]] = {}

    def price(self, entry: LedgerFacts) -> tuple[dict[str, float], float]:
        """(joules by component without the mask's work, joules of drawing and applying masks)."""
        import hw_models

        key = json.dumps({k: v for k, v in entry.items() if k not in ("stage", "density")}, sort_keys=True)
        if key not in self.known:
            report = hw_models.price(
                [entry],
                {entry["network"]: self.networks[entry["network"]]},
                self.run.chip,
                model=self.run.record.reuse,
                hypothetical=bool(self.run.record.hypothetical),
            )
            self.known[key] = report.components, report.stages[0].work["mask"]
        return self.known[key]

    def total(self, entries: Iterable[LedgerFacts]) -> dict[str, float]:
        out = dict.fromkeys(COMPONENTS, 0.0)
        for entry in entries:
            for name, joules in self.price(entry)[0].items():
                out[name] = out.get(name, 0.0) + joules
        return out

    def without_selections(self, network: str) -> str:
        """Key of the same network without its selections, whose readers read what the selections read."""
        key = f"{network} without selections"
        if key not in self.networks:
            self.networks[key] = _without_selections(self.networks[network])
        return key


def _without_selections(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    behind: dict[str, list[str]] = {}
    out: list[Mapping[str, Any]] = []
    for layer in layers:
        sources = [name for source in layer.get("sources", ()) for name in behind.get(source, [source])]
        if layer["kind"] == "select":
            behind[layer["name"]] = sources
        else:
            out.append({**layer, "sources": list(dict.fromkeys(sources))})
    return out


def _steps(run: Run, prices: _Prices, base: int, number: int) -> Iterator[SavingStep]:
    ledgers = [row["ledger"] for row in run.results["rows"]]
    dense, full = ledgers[base][-1]["network"], ledgers[base][-1]["precision"]
    own: list[LedgerFacts] = [{**entry, "mask_draws": 0, "masked": False} for entry in ledgers[number]]
    scoring = [entry for entry in own if entry["stage"] == "score"]
    trained = [entry for entry in own if entry["stage"] != "score"]
    early = [entry for entry in trained if entry["network"] == dense]
    later = [entry for entry in trained if entry["network"] != dense]

    start = _sum(prices.total(ledgers[base]))
    level = prices.total({**entry, "precision": full} for entry in early)
    yield SavingStep(FEWER if _epochs(early) <= _epochs(ledgers[base]) else MORE, _sum(level) - start, _epochs(early))
    # weight averaging counts as such work too, and stays with its training
    masks = sum(prices.price(e)[1] - prices.price(plain)[1] for e, plain in zip(ledgers[number], own, strict=True))
    yield SavingStep(MASKS, masks + _sum(prices.total(scoring)))
    as_dense = prices.total({**entry, "precision": full, "network": dense} for entry in later)
    yield SavingStep(RETRAINING, _sum(as_dense), _epochs(later))
    bare = prices.total(
        {**entry, "precision": full, "network": prices.without_selections(entry["network"])} for entry in later
    )
    for name in bare:
        yield SavingStep(SMALLER + COMPONENTS.get(name, name), bare[name] - as_dense.get(name, 0.0))
    shrunk = prices.total({**entry, "precision": full} for entry in later)
    yield SavingStep(SELECTIONS, _sum(shrunk) - _sum(bare))
    yield SavingStep(SEARCH_PRECISION, _sum(prices.total(early)) - _sum(level))
    yield SavingStep(RETRAIN_PRECISION, _sum(prices.total(later)) - _sum(shrunk))


def _sum(parts: Mapping[str, float]) -> float:
    return math.fsum(parts.values())


def _epochs(entries: Iterable[LedgerFacts]) -> int:
    return sum(entry["epochs"] for entry in entries)


def in_order(names: Iterable[str]) -> list[str]:
    """Each step once, in the order of the ledger's change."""
    return sorted(set(names), key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def tables(run: Run, only: Sequence[str] | None = None, side_by_side: int = 4) -> list[Table]:
    """One line per step, one column per row of the results (those named in `only`), a few rows to a table."""
    every = saving_steps(run, None if only is None else tuple(only))
    own = scale((one.start for one in every), "J")
    names = [step.name for one in every for step in one.steps if step.joules]
    order = in_order(names)
    out = []
    for first in range(0, len(every), side_by_side):
        shown = every[first : first + side_by_side]
        columns = [Column("Step", tuple((name,) for name in ("dense baseline", *order, "this row")), numeric=False)]
        for one in shown:
            joules = {step.name: step.joules for step in one.steps}
            # A row trains the dense network for fewer epochs than the baseline or for more: it has one of these steps.
            changes = [_signed(joules[name], own) if name in joules else NONE for name in order]
            cells = [own.value(one.start), *changes, own.value(one.end)]
            columns.append(Column(with_unit(one.row, own.unit), tuple((cell,) for cell in cells)))
        out.append(Table("saving_steps", "Where the saving comes from", tuple(columns), (NOTE,)))
    return out


def _signed(joules: float, own: Scale) -> Value:
    value = own.value(joules)
    return Value(joules, value.text if joules <= 0 else f"+{value.text}")


def records(run: Run, only: Sequence[str] | None = None) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Every step of every row in joules, the two ends included; the steps sum to end - start."""
    header = ("row", "place", "step", "epochs", "joules")
    rows: list[tuple[object, ...]] = []
    for one in saving_steps(run, None if only is None else tuple(only)):
        rows.append((one.row, 0, "dense baseline", None, one.start))
        rows += [(one.row, place, step.name, step.epochs, step.joules) for place, step in enumerate(one.steps, 1)]
        rows.append((one.row, len(one.steps) + 1, "this row", None, one.end))
    return header, rows
