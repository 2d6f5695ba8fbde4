"""The accelerator's life beside a run: edited, deleted, unable; trained stages are never touched by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cli
import hw_models
from ebsim import grid, pipeline
from ebsim.errors import ConfigError, DamagedError
from ebsim.grid.state import DONE, PENDING
from ebsim.methods import METHODS
from ebsim.report import load_run
from ebsim.runs.run_folder import RunFolder
from ebsim.training import Silent
from hw_models.accelerator.toml_reader import SHIPPED

TINY = """\
name = "tiny"
methods = ["dense", "eb-train"]
[data]
subset = 60
[model]
depth = 11
[train]
epochs = 5
milestones = []
batch_size = 30
threads = 1
[prune]
threshold = 0.9
window = 2
[hardware]
profile = "own.toml"
"""
OWN = 'extends = "horowitz-45nm"\nname = "own"\n[dram]\npj_per_bit = { value = 17.0, source = "a test" }\n'
EDITED = OWN.replace("17.0", "34.0")


class Notes(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Place:
    """A folder with an experiment and its own profile beside it, in exp/."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own = root / "exp/own.toml"
        self.own.parent.mkdir()
        self.own.write_text(OWN)
        (root / "exp/tiny.toml").write_text(TINY)

    def run(self, path: str = "exp/tiny.toml", **settings: Any) -> tuple[pipeline.Run, list[str]]:
        notes = Notes()
        return pipeline.run(path, settings.get("settings"), progress=notes), notes.lines

    def trained(self) -> int:
        return sum(log.read_text().count('"event":"epoch"') for log in self.root.glob("runs/stages/*/events.jsonl"))

    def energy(self, *words: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert cli.main(["energy", *words, "--json"], standalone_mode=False) in (None, 0)
        return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("pricing")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("ebsim.report.figures.PLOTS", ())  # drawing is most of what a tiny run takes
        yield Place(root)


def joules(done: pipeline.Run) -> list[float]:
    return [row["energy"]["joules"] for row in done.results["rows"]]


def test_an_edited_profile_prices_the_run_again_and_trains_nothing(place: Place) -> None:
    place.own.write_text(OWN)
    first, _ = place.run()
    trained, before = place.trained(), joules(first)
    digest = hw_models.load(place.own).digest
    assert first.results["hardware"] == "exp/own.toml" and trained > 0

    place.own.write_text(f"# a comment changes nothing\n{OWN}")
    assert place.run()[0].reused

    place.own.write_text(EDITED)
    again, notes = place.run()
    assert again.path == first.path and not again.reused and place.trained() == trained
    now = hw_models.load(place.own).digest
    said = f"exp/own.toml has changed since this run was priced ({digest[:12]} -> {now[:12]})"
    assert notes == [f"{said}: priced again, nothing trained"]
    RunFolder(again.path).verify()
    assert all(new > old for new, old in zip(joules(again), before, strict=True))
    run = load_run(again.path)
    assert run.chip.dram.value == 34.0 and run.provenance.model_dump()["hardware_digest"] == run.chip.digest
    assert "dram.pj_per_bit,34.0," in (run.path / "tables/assumptions.csv").read_text()
    for key in ("seconds", "epochs_trained", "epochs_reused"):
        assert again.results[key] == first.results[key]
    assert place.run()[0].reused

    place.own.write_text(OWN)
    back, _ = place.run()
    assert back.results == first.results  # to the last bit: priced from the ledger as from the training
    assert place.trained() == trained


def test_another_revision_of_the_model_prices_a_finished_run_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.own.write_text(OWN)
    done, _ = place.run()
    monkeypatch.setattr(hw_models, "REVISION", hw_models.REVISION + 1)
    again, notes = place.run()
    assert again.path == done.path and not again.reused and again.results == done.results
    assert notes == [
        f"the hardware model has changed since this run was priced (now revision {hw_models.REVISION}): "
        "priced again, nothing trained"
    ]
    assert place.run()[0].reused


def test_the_printed_command_gives_the_same_numbers_whatever_became_of_the_profile(place: Place) -> None:
    place.own.write_text(OWN)
    done, _ = place.run()
    trained = place.trained()
    line = next(line for line in (done.path / "report.md").read_text().splitlines() if line.startswith("The same num"))
    words = line.split("`")[1].split()
    assert words[:3] == ["python", "cli.py", "run"]
    setting = words[words.index("--set") + 1].partition("=")
    place.own.write_text(EDITED)
    try:
        same, _ = place.run(words[3], settings={setting[0]: setting[2]})
        assert joules(same) == joules(done) and place.trained() == trained
        place.own.unlink()
        assert joules(place.run(f"{done.path}/experiment.toml")[0]) == joules(done)  # falls back to its copy
    finally:
        place.own.write_text(OWN)


def test_a_run_from_before_copies_is_told_and_cured(place: Place) -> None:
    done, _ = place.run()
    (done.path / "hardware.toml").unlink()
    RunFolder(done.path).finish()
    with pytest.raises(DamagedError, match="Run the same command again"):
        load_run(done.path)
    trained = place.trained()
    cured, notes = place.run()
    assert notes == ["this run kept no copy of exp/own.toml: priced again, nothing trained"]
    assert cured.results == done.results and place.trained() == trained
    assert load_run(cured.path).chip.name == "own"


def test_every_shipped_profile_prices_a_finished_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    done, _ = place.run()
    names = sorted(path.stem for path in SHIPPED.glob("*.toml"))
    words = [word for name in names for word in ("--hw", name)]
    priced = place.energy(str(done.path), *words, "--hypothetical", capsys=capsys)
    assert [item["hardware"] for item in priced] == names
    assert all(row["energy"]["joules"] > 0 for item in priced for row in item["rows"])
    (own,) = place.energy(str(done.path), capsys=capsys)
    assert [row["energy"] for row in own["rows"]] == [row["energy"] for row in done.results["rows"]]


def test_a_grid_sees_cells_that_are_only_to_be_priced_again(place: Place) -> None:
    place.run()
    axes, runs = ["seed=1..2"], place.root / "runs"
    assert grid.open_grid("exp/tiny.toml", axes, runs_dir=runs).states == {1: DONE, 2: PENDING}
    place.own.write_text(EDITED)
    try:
        grid_state = grid.open_grid("exp/tiny.toml", axes, runs_dir=runs)
        plan = grid.draw_up(grid_state, runs, probe_steps=0)
    finally:
        place.own.write_text(OWN)
    assert grid_state.states == {1: PENDING, 2: PENDING} and grid_state.stale == {1}
    assert (plan.to_run, plan.stale, plan.dense) == (2, 1, 1)
    assert "1 of them only priced again, because their accelerator profile has changed" in grid.lines(plan, {}, 1)


@pytest.mark.parametrize("name", ["h100", "eyeriss-like-65nm"])
def test_a_run_can_be_made_on_a_device_or_a_what_if(place: Place, name: str) -> None:
    place.run()
    trained = place.trained()
    done, _ = place.run(settings={"hardware.profile": name, "hardware.hypothetical": True})
    assert place.trained() == trained and load_run(done.path).chip.name == name
    assert done.results["hypothetical"] == ([] if name == "h100" else ["fp32"])


def test_formats_that_the_accelerator_lacks_are_told_before_anything_is_trained(place: Place) -> None:
    trained, before = place.trained(), sorted(place.root.glob("runs/*"))
    for settings, told in [
        ({}, "precision fp32 of dense, eb-train needs fp32"),
        ({"methods": ["eb-train"], "precision.search": "int8"}, "precision int8 of eb-train needs fp32"),  # its ends
        ({"methods": ["eb-train-lf"], "precision.low": "int8"}, "precision fp32 of eb-train-lf needs fp32"),
    ]:
        with pytest.raises(ConfigError) as caught:
            place.run(settings={"hardware.profile": "eyeriss-like-65nm", "seed": 5, **settings})
        assert told in str(caught.value) and "hardware.hypothetical = true" in str(caught.value)
        assert caught.value.exit_code == 2
    assert place.trained() == trained and sorted(place.root.glob("runs/*")) == before


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_says_it_works_in_is_what_it_is_priced_in(tmp_path: Path, method: str) -> None:
    """Walked through without training, in three precisions that can be told apart."""
    import torch

    from ebsim.experiment.context import ExperimentContext
    from ebsim.grid.dry_run import StageNames, StubTrajectory

    (tmp_path / "x.toml").write_text(TINY.replace("own.toml", "h100"))
    settings = {"methods": method, "precision.search": "fp8", "precision.retrain": "int8", "precision.low": "bfp8"}
    experiment = pipeline.load(tmp_path / "x.toml", {**settings, "prune.draw_epochs": [2]})
    make: Any = StubTrajectory
    context = ExperimentContext(
        experiment, pipeline.load_data(experiment), StageNames(tmp_path), torch.device("cpu"), make_trajectory=make
    )
    rows = METHODS[method].results(context)
    used = {entry["precision"]["name"] for row in rows for entry in row.ledger}
    assert used == set(METHODS[method].precisions(context))
