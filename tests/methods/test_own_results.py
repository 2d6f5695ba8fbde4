"""A row reports what its own definition says, whatever other methods and experiments asked of the same trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hw_models
from ebsim.experiment.context import ExperimentContext
from ebsim.methods import METHODS
from ebsim.pipeline import results
from ebsim.training import Trajectory
from tests.methods.toy_context import context

ORDERS = (
    ("dense", "prune-at-epoch", "prune-at-best"),
    ("prune-at-epoch", "prune-at-best", "dense"),
    ("prune-at-best", "prune-at-epoch"),
)


def rows_of(toy: ExperimentContext, *names: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Priced rows by what they are."""
    rows = [row for name in names for row in METHODS[name].results(toy)]
    content = results.results(toy, rows, hw_models.load("horowitz-45nm"))
    return {(row["method"], row["ratio"], row["epoch_drawn"]): _told(row) for row in content["rows"]}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says, without the saving, which needs a dense row to be in the run."""
    energy = {key: value for key, value in row["energy"].items() if key not in ("saving", "baseline")}
    return {**row, "energy": energy, "saving_vs_dense": None}


def test_the_order_of_methods_changes_nothing(tmp_path: Path) -> None:
    settings = {"train": {"eval_every": 3}, "prune": {"ratio": [0.5], "draw_epochs": [1]}}
    found = [rows_of(context(tmp_path / "-".join(order), **settings), *order) for order in ORDERS]
    for key in set().union(*found):
        told = [one[key] for one in found if key in one]
        assert len(told) > 1
        assert all(other == told[0] for other in told), key


def test_what_the_store_holds_changes_nothing(tmp_path: Path) -> None:
    """N = 4 after N = 6 on the same stages, and before: epoch 4 is tested for the one and not for the other."""
    short = {"train": {"eval_every": 3, "epochs": 4}, "prune": {"ratio": [0.5], "draw_epochs": [1]}}
    long = {"train": {"eval_every": 3, "epochs": 6}, "prune": {"ratio": [0.5], "draw_epochs": [1]}}
    names = ("dense", "prune-at-epoch")
    alone, other = rows_of(context(tmp_path / "a", **short), *names), rows_of(context(tmp_path / "b", **long), *names)
    assert rows_of(context(tmp_path / "a", **long), *names) == other
    after = context(tmp_path / "b", **short)
    assert rows_of(after, *names) == alone
    assert all(t.trained == 0 or t.epoch == 6 for t in after.trajectories.values())
    tested = {id: [row["epoch"] for row in t.own_curve() if "test_accuracy" in row]
              for id, t in after.trajectories.items()}  # fmt: skip
    assert set(map(tuple, tested.values())) == {(3, 4)}
    again = context(tmp_path / "b", **short)  # a late test is kept: nothing is trained for it a second time
    assert rows_of(again, *names) == alone
    assert sum(t.trained for t in again.trajectories.values()) == 0


@pytest.mark.parametrize("precision", ["fp32", "bfp8"])
def test_a_late_test_has_the_numbers_of_one_in_time(tmp_path: Path, precision: str) -> None:
    """bfp8 averages its last weights, from an epoch that its backend gives as a fraction of N."""
    settings = {"prune": {"ratio": [0.5], "draw_epochs": [2]}, "precision": {"retrain": precision, "search": precision}}
    intime = rows_of(context(tmp_path / "a", **settings, train={"epochs": 4, "eval_every": 2}), "prune-at-epoch")
    late = context(tmp_path / "b", **settings, train={"epochs": 4, "eval_every": 2})
    real = Trajectory.extend

    def without_tests(self: Trajectory, to: int, until: Any = None) -> int:
        """As if another experiment, with other epochs to test, had trained this stage."""
        reached = real(self, to, until)
        for row in self.curve:
            for key in [key for key in row if key.startswith(("test_", "average_"))]:
                del row[key]
        return reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trajectory, "extend", without_tests)
        assert rows_of(late, "prune-at-epoch") == intime


def test_emergence_at_the_last_epoch_is_told_alike_everywhere(tmp_path: Path) -> None:
    """Threshold 1 and a window of 3: every ticket emerges at epoch 4 = N."""
    toy = context(tmp_path, prune={"ratio": [0.5], "window": 3})
    (row,) = METHODS["eb-train"].results(toy)
    assert (row.epoch_drawn, row.emerged, row.accuracy) == (4, True, None)
    assert "last epoch" in row.notes[0]
    (fresh,) = METHODS["eb-train-reinit"].results(toy)
    assert (fresh.epoch_drawn, fresh.emerged) == (4, True)
    assert fresh.accuracy is not None  # fresh weights train for N epochs, whenever the ticket was drawn
    told = results.masks(toy)[row.trajectory]["ratios"]["0.5"]["emerged"]
    assert told == 4
    content = results.results(toy, [row, fresh], hw_models.load("horowitz-45nm"))
    assert content["rows"][0]["accuracy"] is None

    never = context(tmp_path / "never", prune={"ratio": [0.5], "window": 4})
    (row,) = METHODS["eb-train"].results(never)
    assert (row.epoch_drawn, row.emerged) == (None, False)
    assert results.masks(never)[row.trajectory]["ratios"]["0.5"]["emerged"] is None


def test_random_channels_at_an_epoch_have_the_widths_of_its_mask(tmp_path: Path) -> None:
    toy = context(tmp_path, prune={"ratio": [0.5], "draw_epochs": [2]})
    (drawn,), (control,) = METHODS["prune-at-epoch"].results(toy), METHODS["random-at-epoch"].results(toy)
    ours, other = toy.masks[drawn.network], toy.masks[control.network]
    assert ours.kept() == other.kept()
    assert ours != other
    assert control.label == "Random at 2"
    assert control.curve != drawn.curve
    assert control.trajectory == drawn.trajectory


def test_the_floor_of_single_weights_is_told(tmp_path: Path) -> None:
    (row,) = METHODS["snip"].results(context(tmp_path, prune={"ratio": [0.999]}, train={"epochs": 1, "milestones": []}))
    assert row.kept_floor
    assert all(name.endswith(".weight") for name in row.kept_floor)
    assert "float64" in row.notes[0]


def test_thinet_says_where_its_scoring_dominates(tmp_path: Path) -> None:
    (row,) = METHODS["thinet"].results(context(tmp_path, prune={"ratio": [0.5]}, train={"epochs": 1, "milestones": []}))
    assert "it dominates the energy" in row.notes[0]
