"""The paper's numbers: read right, complete, and set beside the row they belong to."""

from __future__ import annotations

import dataclasses

import pytest

from ebsim.methods import METHODS
from ebsim.report.display.latex_table import to_latex
from ebsim.report.display.table import NONE, Table
from ebsim.report.tables import paper
from ebsim.runs.load import Run


def test_every_cell_is_plausible_and_tagged() -> None:
    cells = paper.published()
    assert len(cells) == 2 * 8 * 3 + 6 + 4 * (1 + 3 * 8 + 3)
    assert {cell.tag for cell in cells} == {"image", "read-off"}
    assert {cell.method for cell in cells} <= set(METHODS)
    for cell in cells:
        assert cell.accuracy is not None
        assert 0.6 < cell.accuracy < 0.95
    # Energy per FLOP of Table 2 lies where the table's own cells put it; 8 bits are about five times cheaper.
    for cell in cells:
        if cell.joules is not None and cell.pflops is not None:
            picojoules = 1e12 * cell.joules / (1e15 * cell.pflops)
            low, high = (3.5, 5.2) if cell.method == "eb-train-ll" else (13, 26)
            assert low < picojoules < high


@pytest.mark.parametrize(
    ("place", "accuracy", "pflops"),
    [
        (("vgg", 16, "cifar100", "eb-train", 0.3), 0.7217, 12.15),
        (("vgg", 16, "cifar10", "eb-train-ll", 0.7), 0.9260, 8.2),
        (("resnet", 18, "imagefolder", "dense", None), 0.6957, 1259.13),
        (("resnet", 18, "imagefolder", "sfp-pretrained", 0.3), 0.6710, 1991.94),
        (("preresnet", 101, "cifar10", "dense", None), 0.9361, None),
        (("preresnet", 101, "cifar100", "prune-at-best", 0.7), 0.688, None),
    ],
)
def test_cells_by_hand(place: tuple, accuracy: float, pflops: float | None) -> None:
    found = paper.find(*place)
    assert found is not None
    assert found.accuracy == pytest.approx(accuracy)
    assert found.pflops == (None if pflops is None else pytest.approx(pflops))


def test_figure_1_is_found_by_its_epoch() -> None:
    place = ("vgg", 16, "cifar100", "prune-at-epoch", 0.5)
    early, late, between = (paper.find(*place, epoch) for epoch in (1, 160, 7))
    assert early is not None and early.accuracy == pytest.approx(0.6826)
    assert late is not None and late.accuracy == pytest.approx(0.701)
    assert between is None
    assert paper.find("vgg", 16, "cifar100", "prune-at-epoch-reinit", 0.5, 1) == early
    assert paper.find("vgg", 16, "cifar100", "snip", 0.7) is None


def with_dataset(run: Run, name: str) -> Run:
    """The synthetic run, said to be on another dataset."""
    dataset = run.record.dataset.model_copy(update={"name": name, "label": name})
    network = run.record.network.model_copy(update={"name": "vgg", "depth": 16})
    return dataclasses.replace(run, record=run.record.model_copy(update={"dataset": dataset, "network": network}))


def texts(table: Table, heading: str) -> list[str]:
    return ["".join(map(str, cell)) for column in table.columns if column.heading == heading for cell in column.cells]


def test_ours_beside_theirs_with_the_difference(run: Run) -> None:
    table = paper.beside(with_dataset(run, "cifar10"))
    assert table is not None
    ours = {(row.method, row.ratio): row for row in run.rows}
    cells = dict(
        zip(texts(table, "Row"), zip(texts(table, "theirs (%)"), texts(table, "difference"), strict=True), strict=True)
    )
    assert any("0.5" in name for name in cells)
    row = ours["eb-train", 0.5]
    shown = next(cell for name, cell in cells.items() if "0.5" in name)
    assert row.best_accuracy is not None
    assert shown == ("93.26", f"{100 * row.best_accuracy - 93.26:+.2f}")
    dense = cells["Dense"]
    assert dense[0] == "93.37"  # the dashed line of Figure 1
    assert "epochs, theirs for 160" in "".join(map(str, table.notes[0]))
    assert "93.26" in to_latex(table)


def test_another_dataset_is_said_to_be_another(run: Run) -> None:
    table = paper.beside(with_dataset(run, "digits"))
    assert table is not None
    assert {"Table 2, CIFAR-10", "Table 2, CIFAR-100"} <= set(texts(table, "Paper"))
    assert "no difference is formed" in str(table.notes[0][0])
    assert set(texts(table, "difference")) == {NONE}


def test_no_table_for_a_network_that_the_paper_does_not_have(run: Run) -> None:
    network = run.record.network.model_copy(update={"name": "vgg", "depth": 11})
    assert paper.beside(dataclasses.replace(run, record=run.record.model_copy(update={"network": network}))) is None


def test_emergence_beside_the_maps(run: Run) -> None:
    (masks,) = run.masks.values()
    moved = masks.model_copy(update={"ratios": {"0.2": next(iter(masks.ratios.values())), "0.5": masks.ratios["0.5"]}})
    other = dataclasses.replace(with_dataset(run, "cifar100"), masks={"dense": moved})
    table = paper.emergence(other)
    assert table is not None
    assert texts(table, "theirs") == ["27"]
    assert texts(table, "p") == ["0.2"]
    assert NONE not in texts(table, "Epoch, ours")
    assert paper.emergence(with_dataset(run, "cifar100")) is None  # none of 0.3, 0.5, 0.7 has a map
