"""`run --search-only`: the dense trainings that the cells of a grid share, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebsim import pipeline
from ebsim.config import Companion
from ebsim.pipeline.search import train_dense
from ebsim.runs.store import Stage
from tests.training.test_environment import changed

EXPERIMENT = """\
name = "tiny"
methods = {methods}
[data]
subset = 40
[model]
depth = 11
[train]
epochs = 5
milestones = []
batch_size = 40
threads = 1
[prune]
window = 2
threshold = 0.9
"""


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebsim.report.figures.PLOTS", ())


def load(folder: Path, methods: str, **settings: object) -> pipeline.validation.Experiment:
    (folder / "t.toml").write_text(EXPERIMENT.format(methods=methods))
    return pipeline.load(folder / "t.toml", settings)


def trained(runs: Path) -> dict[str, list[int]]:
    """Stage -> the epochs in its log."""
    return {
        path.name: [event["epoch"] for event in Stage(path.name, path, {}).events() if event["event"] == "epoch"]
        for path in runs.glob("stages/*")
    }


def test_only_the_dense_network_is_trained_and_the_run_finds_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    experiment = load(tmp_path, '["eb-train", "lottery-ticket", "snip"]')
    stages = train_dense(experiment, runs)
    assert list(stages.values()) == [5] and trained(runs) == {next(iter(stages)): [1, 2, 3, 4, 5]}
    assert [path.name for path in runs.iterdir()] == ["stages"]
    assert train_dense(experiment, runs) == stages  # again: nothing to do
    done = pipeline.run_experiment(experiment, runs)
    assert trained(runs)[next(iter(stages))] == [1, 2, 3, 4, 5]
    assert done.results["epochs_reused"] == 5


def test_a_search_goes_on_until_the_tickets_of_the_other_cells_have_emerged(tmp_path: Path) -> None:
    experiment = load(tmp_path, '["eb-train"]')
    other = experiment.prune.model_copy(update={"window": 3})
    foreign = experiment.prune.model_copy(update={"window": 5, "criterion": "l1"})
    companions = tuple(Companion(epochs=5, prune=prune) for prune in (experiment.prune, other, foreign))
    alone = train_dense(experiment, tmp_path / "alone")
    together = train_dense(experiment.model_copy(update={"companions": companions}), tmp_path / "together")
    assert list(alone.values()) == [3] and list(together.values()) == [4]
    (stage,) = (tmp_path / "together/stages").iterdir()
    assert {path.name for path in stage.glob("epoch-*")} == {"epoch-00003.safetensors", "epoch-00004.safetensors"}


def test_what_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    experiment = load(tmp_path, '["dense", "eb-train"]', **{"precision.search": "bf16"})
    names = train_dense(experiment, tmp_path / "names")
    dense, low = names
    held = Stage(dense, tmp_path / "runs/stages" / dense, {})
    with held.locked():
        done = train_dense(experiment, tmp_path / "runs")
    assert done[low] == 3 and low in trained(tmp_path / "runs") and not trained(tmp_path / "runs")[dense]


def test_strict_refuses_what_other_code_has_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ebsim.errors import DamagedError

    experiment = load(tmp_path, '["dense"]')
    train_dense(experiment, tmp_path / "runs")
    changed(monkeypatch, code="another")
    with pytest.raises(DamagedError, match="strict"):
        train_dense(experiment, tmp_path / "runs", strict=True)
