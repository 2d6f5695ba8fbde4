"""Accuracy against draw epoch: the right points, the star apart, the paper's beside them where they belong."""

from __future__ import annotations

import dataclasses

from ebsim.report import figures
from ebsim.report.figures import draw_epoch
from ebsim.runs.load import Run


def figure_1(run: Run, dataset: str) -> Run:
    """The synthetic run with its tickets said to be drawn at epochs 1, 5 and the best, of VGG16."""
    dense, *tickets = run.rows
    rows = [dense]
    for ticket in tickets:
        for epoch, method in ((5, "prune-at-epoch"), (1, "prune-at-epoch"), (7, "prune-at-best")):
            accuracy = None if ticket.accuracy is None else ticket.accuracy - 0.01 * epoch
            rows.append(ticket.model_copy(update={"method": method, "epoch_drawn": epoch, "accuracy": accuracy}))
    record = run.record.model_copy(
        update={
            "rows": tuple(rows),
            "network": run.record.network.model_copy(update={"name": "vgg", "depth": 16}),
            "dataset": run.record.dataset.model_copy(update={"name": dataset}),
        }
    )
    return dataclasses.replace(run, record=record)


def test_no_figure_without_draws(run: Run) -> None:
    plot = next(plot for plot in figures.PLOTS if plot.name == "draws")
    assert not plot.needs(run)
    assert plot.needs(figure_1(run, "digits"))


def test_points_are_the_rows_in_order_of_the_draw(run: Run) -> None:
    told = figure_1(run, "digits")
    for one in draw_epoch.series(told):
        assert [row.epoch_drawn for row in one.drawn] == [1, 5]
        assert one.best is not None
        assert one.best.epoch_drawn == 7
        own = [row for row in told.rows if row.ratio == one.ratio]
        assert {id(row) for row in (*one.drawn, one.best)} == {id(row) for row in own}
        assert draw_epoch.theirs(told, one) == []


def test_theirs_for_the_same_dataset_only(run: Run) -> None:
    told = figure_1(run, "cifar10")
    ratio, half = (one for one in draw_epoch.series(told) if one.ratio in (0.3, 0.5))
    assert draw_epoch.theirs(told, ratio)[0] == (1, 0.921)
    assert draw_epoch.theirs(told, half)[-1][0] == 160
    _, rows = draw_epoch.data(told)
    assert sum(row[-1] == "paper" for row in rows) == 3 * 8
    assert sum(row[-1] == "ours" for row in rows) == 3 * 3
    assert sum(bool(row[3]) for row in rows) == 3


def test_it_is_drawn(run: Run) -> None:
    plot = next(plot for plot in figures.PLOTS if plot.name == "draws")
    made = figures.make(plot, figure_1(run, "cifar10"))
    assert set(made) == {"draws.svg", "draws.png", "draws.csv"}
    assert made == figures.make(plot, figure_1(run, "cifar10"))
