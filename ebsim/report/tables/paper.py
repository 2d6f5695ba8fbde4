"""Tables of the paper's own numbers (data/paper.toml, each with its provenance) beside those of a run.

Like is set beside like: the paper's accuracy is the best epoch on the test set, its FLOPs are in the authors'
convention; its energies were measured on a device, ours are modelled, so of those no difference is formed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ebsim.report.display.table import NONE, Cell, Column, Table
from ebsim.report.display.text import plain
from ebsim.report.display.value import Value, count, fixed
from ebsim.report.tables import row_labels
from ebsim.runs.load import Run
from ebsim.runs.schema import Row

_LABELS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagefolder": "ImageNet"}


@dataclass(frozen=True)
class Published:
    """One cell of the paper: accuracies as fractions, energy in J, training PFLOPs in the authors' convention.

    epoch: the draw, an epoch or "best", in Figure 1 only. tag: where it comes from (see data/paper.toml).
    """

    where: str
    network: str
    depth: int
    dataset: str
    method: str
    ratio: float | None
    tag: str
    epoch: int | str | None = None
    accuracy: float | None = None
    top5: float | None = None
    joules: float | None = None
    pflops: float | None = None


@cache
def source() -> dict[str, Any]:
    """The data file as it is."""
    return tomllib.loads((files("ebsim.report") / "data" / "paper.toml").read_text(encoding="utf-8"))


@cache
def published() -> tuple[Published, ...]:
    """Every cell of the paper's tables and of Figure 1."""
    return (*_tables(), *_figures())


def _tables() -> Iterator[Published]:
    for table in source()["table"]:
        place = (table["name"], table["network"], table["depth"], table["dataset"])
        for method, cells in table["rows"].items():
            for at, ratio in enumerate(cells.get("ratio", table["ratio"]) or [None]):

                def cell(key: str, factor: float, cells: Any = cells, at: int = at) -> float | None:
                    return round(cells[key][at] * factor, 9) if key in cells else None

                yield Published(
                    *place,
                    method,
                    ratio,
                    table["tag"],
                    accuracy=cell("accuracy", 0.01),
                    top5=cell("top5", 0.01),
                    joules=cell("kilojoules", 1000),
                    pflops=cell("flops", table["flops_unit"] / 1e15),
                )


def _figures() -> Iterator[Published]:
    for figure in source()["figure"]:
        place = (figure["name"], figure["network"], figure["depth"], figure["dataset"])
        yield Published(*place, "dense", None, figure["tag"], accuracy=round(figure["dense"] / 100, 9))
        for ratio, curve in figure["accuracy"].items():
            for epoch, percent in zip(figure["epochs"], curve, strict=True):
                yield Published(*place, "prune-at-epoch", float(ratio), figure["tag"], epoch, round(percent / 100, 9))
        for ratio, percent in figure["best"].items():
            yield Published(*place, "prune-at-best", float(ratio), figure["tag"], "best", round(percent / 100, 9))


def find(
    network: str, depth: int, dataset: str, method: str, ratio: float | None, epoch: int | None = None
) -> Published | None:
    """The paper's cell for a result of ours, the printed tables before the figure; None where it has none."""
    method = method.removesuffix("-reinit") if method.startswith("prune-at") else method
    for cell in published():
        same = (cell.network, cell.depth, cell.dataset, cell.method) == (network, depth, dataset, method)
        if same and cell.ratio == ratio and (method != "prune-at-epoch" or cell.epoch == epoch):
            return cell
    return None


def beside(run: Run) -> Table | None:
    """Ours beside theirs, for the rows that the paper has for this network and dataset; None if there are none.

    A run on another dataset (a trial on digits) is set beside the paper's cells for every dataset of that network.
    """
    network, dataset = run.record.network, run.record.dataset
    known = dict.fromkeys(c.dataset for c in published() if (c.network, c.depth) == (network.name, network.depth))
    datasets = [dataset.name] if dataset.name in known else list(known)
    found = [
        (row, name, cell)
        for theirs in datasets
        for row, name in zip(run.rows, row_labels.short(run.rows), strict=True)
        if (cell := find(network.name, network.depth, theirs, row.method, row.ratio, row.epoch_drawn))
    ]
    return _table(run, found) if found else None


def emergence(run: Run) -> Table | None:
    """Epochs at which the mask settled, ours beside the lines of the paper's mask-distance maps; None without any."""
    network, dataset = run.record.network, run.record.dataset
    places = [place for place in source()["map"] if (place["network"], place["depth"]) == (network.name, network.depth)]
    places = [place for place in places if place["dataset"] == dataset.name] or places
    found = [
        (float(ratio), masks.emerged, place["emerged"][ratio], _LABELS[place["dataset"]])
        for place in places
        for masks_of in run.masks.values()
        for ratio, masks in masks_of.ratios.items()
        if ratio in place["emerged"]
    ]
    if not found:
        return None
    columns = (
        Column("p", tuple((Value(ratio, f"{ratio:g}"),) for ratio, *_ in found)),
        Column("Epoch, ours", tuple(("none",) if epoch is None else (count(epoch),) for _, epoch, *_ in found)),
        Column("theirs", tuple((count(epoch),) for _, _, epoch, _ in found)),
        Column("Paper", tuple((f"mask-distance map, {label}",) for *_, label in found), numeric=False),
    )
    note = f'Ours: rule "{run.record.prune.rule}" on {plain(dataset.label)}, {run.record.train.epochs} epochs.'
    return Table("paper_emergence", "Emergence beside the paper", columns, ((note,),))


def comparable(run: Run, cell: Published) -> float | None:
    """The paper's accuracy where it is of the same dataset: a difference to another one says nothing."""
    return cell.accuracy if cell.dataset == run.record.dataset.name else None


def _table(run: Run, found: Sequence[tuple[Row, str, Published]]) -> Table:
    ours, theirs = [row for row, _, _ in found], [cell for _, _, cell in found]
    columns = (
        Column("Row", tuple((name,) for _, name, _ in found), numeric=False),
        Column("Paper", tuple((f"{cell.where}, {_LABELS[cell.dataset]}",) for cell in theirs), numeric=False),
        _percent("Best accuracy, ours (%)", [run.best_on_test(row) for row in ours]),
        _percent("theirs (%)", [cell.accuracy for cell in theirs]),
        _difference([run.best_on_test(row) for row in ours], [comparable(run, cell) for cell in theirs]),
        _number("Training PFLOPs, authors' convention, ours", [row.train_pflops_paper for row in ours]),
        _number("theirs", [cell.pflops for cell in theirs]),
        _number("Energy, ours, modelled (kJ)", [row.energy.joules / 1000 for row in ours]),
        _number("theirs, measured (kJ)", [None if cell.joules is None else cell.joules / 1000 for cell in theirs]),
        Column("Source", tuple((cell.tag,) for cell in theirs), numeric=False),
    )
    notes: list[Cell] = [
        (
            "Theirs: best epoch on the test set, number of seeds unknown; read from the authors' pictures (image), "
            "or digitised from a figure (read-off).",
        ),
    ]
    if any(cell.dataset != run.record.dataset.name for cell in theirs):
        label = plain(run.record.dataset.label)
        notes.insert(0, (f"Ours is on {label}, theirs is not: no difference is formed.",))
    elif run.record.train.epochs != 160 and run.record.dataset.name.startswith("cifar"):
        notes.insert(0, ("Ours trained for ", count(run.record.train.epochs), " epochs, theirs for 160."))
    return Table("paper", "Beside the paper", columns, tuple(notes))


def _percent(heading: str, numbers: Sequence[float | None]) -> Column:
    return Column(
        heading, tuple(_cell(number, None if number is None else f"{100 * number:.2f}") for number in numbers)
    )


def _number(heading: str, numbers: Sequence[float | None]) -> Column:
    return Column(heading, tuple(_cell(number, None if number is None else f"{number:.4g}") for number in numbers))


def _difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Column:
    pairs = zip(ours, theirs, strict=True)
    gaps = [None if a is None or b is None else a - b for a, b in pairs]
    return Column("difference", tuple(_cell(gap, None if gap is None else fixed(100 * gap, 2, "+")) for gap in gaps))


def _cell(number: float | None, text: str | None) -> Cell:
    return (NONE,) if number is None or text is None else (Value(number, text),)
