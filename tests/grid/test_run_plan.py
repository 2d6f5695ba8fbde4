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
from ebsim.grid.step_timing import Sample, Span
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


def test_with_the_search_alone_in_the_store_the_energies_are_those_of_the_run(
    finished: tuple[Path, RunPlan, pipeline.Run, RunPlan], tmp_path: Path
) -> None:
    """Scores of the search say which channels are kept, so a plan before any retraining knows each ticket."""
    root, _, run, _ = finished
    [dense] = (root / "runs/stages").glob("dense-*")
    shutil.copytree(dense, tmp_path / "runs/stages" / dense.name)
    plan = plan_run(pipeline.load(root / "tiny.toml"), tmp_path / "runs", probe_steps=0)
    assert plan.state == "new" and [own.trained for own in plan.trainings] == [6, 0, 0]
    for planned, row in zip(plan.rows, run.results["rows"], strict=True):
        assert planned.joules == pytest.approx(row["energy"]["joules"], rel=1e-12)
        assert planned.saving == pytest.approx(row["saving_vs_dense"], abs=1e-12)


def test_without_the_store_all_but_the_shape_of_the_ticket_is_known(
    finished: tuple[Path, RunPlan, pipeline.Run, RunPlan], tmp_path: Path
) -> None:
    """At the epoch of the run's draw: its dense training and its searches to the last bits, its tickets within 5 %."""
    root, _, run, _ = finished
    [epoch] = {row["epoch_drawn"] for row in run.results["rows"] if row["ratio"] is not None}
    plan = plan_run(pipeline.load(root / "tiny.toml"), tmp_path / "runs", probe_steps=0, emergence=epoch)
    for planned, row in zip(plan.rows, run.results["rows"], strict=True):
        (_, count, first), *rest = planned.stages
        stages = row["energy"]["stages"]
        assert count == row["ledger"][0]["epochs"]
        assert first == pytest.approx(stages[0]["joules"], rel=1e-12)
        assert len(rest) == len(stages) - 1
        for (_, count, joules), entry, energy in zip(rest, row["ledger"][1:], stages[1:], strict=True):
            assert count == entry["epochs"]
            assert joules == pytest.approx(energy["joules"], rel=0.05)


def test_the_time_is_the_sum_of_its_parts(finished: tuple[Path, RunPlan, pipeline.Run, RunPlan]) -> None:
    _, before, _, after = finished
    trainings = sum(training.seconds for training in before.trainings)
    assert before.seconds == pytest.approx(trainings + before.setup_seconds + before.report_seconds)
    assert before.setup_seconds > 0 and before.report_seconds > 3
    for training in before.trainings:
        own = (training.last - training.first) * training.epoch_seconds
        assert training.epoch_seconds > 2 * training.step_seconds * (60 / 30) / 2 > 0
        assert training.seconds >= own
    assert after.seconds == 0


def test_time_of_a_disturbed_step_is_what_its_thread_computed() -> None:
    """Preempted and alone: CPU seconds. A wait of its own, several threads or a GPU: wall-clock seconds."""
    assert Span(wall=3.0, cpu=1.0, preempted=9, alone=True).seconds == 1.0
    assert Span(wall=3.0, cpu=1.0, preempted=0, alone=True).seconds == 3.0  # it waited for a disk
    assert Span(wall=1.0, cpu=1.9, preempted=9, alone=False).seconds == 1.0
    assert not Span(wall=1.02, cpu=1.0, preempted=9, alone=True).disturbed


def test_a_sample_has_full_batches_only(finished: tuple[Path, RunPlan, pipeline.Run, RunPlan]) -> None:
    root, *_ = finished
    data = pipeline.load_data(pipeline.load(root / "tiny.toml"))
    sample = Sample(data)
    sample.steps = 7  # an epoch of 60 images has two full batches of 25
    assert [len(labels) for _, labels in sample.train_batches(25, seed=0)] == [25] * 7
    assert [len(labels) for _, labels in sample.train_batches(100, seed=0)] == [60] * 7
    assert sample.train_images == 60 and len(list(sample.test_batches(10))) == 1


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
