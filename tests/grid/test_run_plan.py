"""The plan of a run: it writes and trains nothing, and says of time, disk and energy what the run then shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from ebsim import pipeline
from ebsim.files import read_json
from ebsim.grid.run_plan import RunPlan, plan_run
from ebsim.runs.inventory import size_of

TINY = """\
name = "tiny"
methods = ["dense", "eb-train"]
[data]
subset = 60
[model]
depth = 11
[train]
epochs = 6
milestones = []
batch_size = 30
threads = 1
device = "cpu"
[prune]
ratio = [0.3, 0.5]
threshold = 0.9
window = 2
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunPlan, pipeline.Run, RunPlan]:
    """A folder, the plan before its run, the run, and the plan after it."""
    root = tmp_path_factory.mktemp("plan")
    (root / "tiny.toml").write_text(TINY)
    experiment = pipeline.load(root / "tiny.toml")
    before = plan_run(experiment, root / "runs", probe_steps=1)
    assert sorted(path.name for path in root.iterdir()) == ["tiny.toml"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebsim.report.figures.PLOTS", ())
        run = pipeline.run_experiment(experiment, root / "runs")
    return root, before, run, plan_run(experiment, root / "runs", probe_steps=0)


def test_the_plan_before_knows_the_run(finished: tuple[Path, RunPlan, pipeline.Run, RunPlan]) -> None:
    _, before, run, _ = finished
    assert before.state == "new" and before.folder == run.path
    curves = read_json(run.path / "curves.json")
    dense = next(training for training in before.trainings if training.stage.startswith("dense-"))
    assert dense.stage in curves and (dense.first, dense.last, dense.trained) == (0, 6, 0)
    assert len(before.trainings) == len(curves)  # dense, and two tickets
    assert all(training.step_seconds > 0 and training.seconds > 0 for training in before.trainings)
    dense_row = run.results["rows"][0]
    assert before.rows[0].joules == pytest.approx(dense_row["energy"]["joules"], rel=1e-12)
    assert dense.parameters == dense_row["parameters"]
    assert before.memory > 50e6 and before.threads == 1


def test_the_disk_is_about_what_the_run_wrote(finished: tuple[Path, RunPlan, pipeline.Run, RunPlan]) -> None:
    root, before, _, _ = finished
    planned = sum(training.disk for training in before.trainings)
    assert size_of(root / "runs/stages") == pytest.approx(planned, rel=0.3)


def test_the_plan_after_a_run_has_its_very_numbers(finished: tuple[Path, RunPlan, pipeline.Run, RunPlan]) -> None:
    _, _, run, after = finished
    assert after.state == "done" and after.seconds == 0
    assert all(training.trained == training.last - training.first for training in after.trainings)
    assert {training.stage for training in after.trainings} == set(read_json(run.path / "curves.json"))
    for planned, row in zip(after.rows, run.results["rows"], strict=True):
        assert (planned.method, planned.ratio, planned.epoch_drawn) == (row["method"], row["ratio"], row["epoch_drawn"])
        assert planned.joules == pytest.approx(row["energy"]["joules"], rel=1e-12)
        for (stage, epochs, joules), entry, energy in zip(
            planned.stages, row["ledger"], row["energy"]["stages"], strict=True
        ):
            assert (stage, epochs) == (entry["stage"], entry["epochs"])
            assert joules == pytest.approx(energy["joules"], rel=1e-12)


@pytest.mark.parametrize("rule", ["paper", "authors"])
def test_a_given_emergence_is_that_of_the_tickets(tmp_path: Path, rule: str) -> None:
    (tmp_path / "x.toml").write_text(
        TINY.replace("epochs = 6", "epochs = 20").replace("threshold = 0.9", "threshold = 0.1")
    )
    settings = {"prune.rule": rule, "prune.window": 4, "methods": ["eb-train"]}
    experiment = pipeline.load(tmp_path / "x.toml", settings)
    plan = plan_run(experiment, tmp_path / "runs", probe_steps=0, emergence=8)
    assert [row.epoch_drawn for row in plan.rows] == [8, 8]
    assert [[count for _, count, _ in row.stages] for row in plan.rows] == [[8, 12]] * 2
    earliest = plan_run(experiment, tmp_path / "runs", probe_steps=0).rows[0].epoch_drawn
    assert earliest == (5 if rule == "paper" else 4)


def test_the_command_tells_it_and_checks_the_disk(
    finished: tuple[Path, RunPlan, pipeline.Run, RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, *_ = finished
    words = ["plan", str(root / "tiny.toml"), "--probe-steps", "0", "--runs-dir"]
    done = CliRunner().invoke(cli.main, [*words, str(root / "runs"), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["state"] == "done"
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    done = CliRunner().invoke(cli.main, [*words, str(root / "elsewhere")])
    assert done.exit_code == 74 and "MB will be written, 0 MB are free" in done.stderr
    assert "folder    " in done.stdout and "(new)" in done.stdout
