"""The plan's dry run: every method can be run without training, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebsim import grid, pipeline
from ebsim.grid.dry_run import SharedNetworks, dry_run
from ebsim.methods import METHODS

BASE = """
name = "g"
[data]
subset = 40
[model]
depth = 11
[train]
epochs = 5
batch_size = 20
milestones = [3]
[prune]
threshold = 0.9
window = 2
draw_epochs = [2]
"""


@pytest.fixture(scope="module")
def shared() -> SharedNetworks:
    return SharedNetworks()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_run_dry(tmp_path: Path, shared: SharedNetworks, method: str) -> None:
    (tmp_path / "x.toml").write_text(BASE)
    experiment = pipeline.load(tmp_path / "x.toml", {"methods": method})
    found = dry_run(experiment, pipeline.load_data(experiment), tmp_path / "stages", shared)
    assert (found.steps, found.tests) == (2, 40)
    assert found.asked >= 5 and found.joules > 0 and len(found.trained) >= 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.toml"]


def test_a_method_that_cannot_be_run_dry_stops_no_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("stub scores")

    monkeypatch.setattr("ebsim.grid.dry_run.dry_run", fail)
    (tmp_path / "x.toml").write_text(BASE)
    grid_state = grid.open_grid(tmp_path / "x.toml", ["seed=1..2"], runs_dir=tmp_path / "runs")
    plan = grid.draw_up(grid_state, tmp_path / "runs", probe_steps=0)
    assert (plan.to_run, plan.epochs, len(plan.unknown)) == (2, 0, 2)
    assert "ZeroDivisionError: stub scores" in "\n".join(grid.lines(plan, grid_state.grid.axes, 1))
